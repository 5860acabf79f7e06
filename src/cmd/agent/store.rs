//! The store of sessions for one command: opened, used, tidied and closed, with an exit code for each error.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::anyhow;
use jiff::SignedDuration;

use super::super::{Context, Exit, Failure};
use crate::{
    agents::{
        orchestrator::{Holder, Orchestrator, OrderError},
        session::SessionId,
        store::{Filter, SessionStore, SharedStore, StoreError, Stored, open, prune},
    },
    bus::{Clock as _, SystemClock},
    config::Config,
};

/// Old sessions that one command deletes on its way.
const TIDIED: usize = 20;

/// Opens the configured store, hands it to `work`, and closes it.
pub(super) async fn with_store<T>(
    context: &Context,
    work: impl AsyncFnOnce(SharedStore) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let store = open::open(&context.config.store, &context.paths.data_dir, Arc::new(SystemClock))
        .await
        .map_err(|error| with_exit_code(error.into()))?;
    let result = work(Arc::clone(&store)).await;
    store.close().await;
    result.map_err(with_exit_code)
}

/// What works on turns, with the configured figures.
pub(super) fn orchestrator(config: &Config, store: SharedStore) -> Orchestrator {
    Orchestrator {
        store,
        clock: Arc::new(SystemClock),
        lease: Duration::from_secs(config.store.lease_s),
        patience: Duration::from_secs(60),
        holder: Holder::here(),
    }
}

/// Deletes a few sessions that nobody has touched for `store.keep_days`.
pub(super) async fn tidy(config: &Config, store: &dyn SessionStore) {
    let days = i64::from(config.store.keep_days);
    let before = SystemClock.now().checked_sub(SignedDuration::from_hours(24 * days));
    let (1.., Ok(before)) = (days, before) else { return };
    match prune(store, before, Some(TIDIED), false).await {
        Ok(gone) if gone.is_empty() => {}
        Ok(gone) => {
            tracing::info!(sessions = gone.len(), days, "deleted sessions that were not used for so long")
        }
        Err(error) => tracing::warn!(%error, "cannot delete old sessions"),
    }
}

/// The session of this id, or the only one whose id begins so.
pub(super) async fn resolve(store: &dyn SessionStore, text: &str) -> anyhow::Result<Stored> {
    let id = SessionId::parse(text).map_err(|failure| Failure::new(Exit::Usage, failure))?;
    if let Some(stored) = store.get(&id).await? {
        return Ok(stored);
    }
    let filter = Filter { id_prefix: Some(text.to_owned()), limit: Some(2), ..Filter::default() };
    let mut found = store.list(&filter).await?;
    match (found.pop(), found.is_empty()) {
        (Some(stored), true) => Ok(stored),
        (Some(_), false) => Err(anyhow!("more than one session begins with {text}; write more of its id")),
        (None, _) => Err(OrderError::NoSession(id).into()),
    }
}

/// Whether an error of [`resolve`] says that there is no such session.
pub(super) fn is_no_session(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref::<OrderError>(), Some(OrderError::NoSession(_)))
}

/// Gives an error its exit code.
pub(super) fn with_exit_code(error: anyhow::Error) -> anyhow::Error {
    if error.chain().any(|cause| cause.is::<Failure>()) {
        return error;
    }
    let exit = error.chain().find_map(|cause| {
        let of_store = |error: &StoreError| match error {
            StoreError::Unreachable { .. } | StoreError::Full { .. } => Some(Exit::Unavailable),
            StoreError::NoKey(_) | StoreError::Keys(_) | StoreError::Refused { .. } => Some(Exit::Config),
            _ => None,
        };
        match cause.downcast_ref::<OrderError>() {
            Some(OrderError::Busy { .. }) => Some(Exit::TryLater),
            Some(OrderError::Stopped(_)) => Some(Exit::Interrupted),
            Some(OrderError::Budget(failure)) => failure.retry_after.map(|_| Exit::TryLater),
            Some(OrderError::Store(error)) => of_store(error),
            _ => cause.downcast_ref::<StoreError>().and_then(of_store),
        }
    });
    match exit {
        Some(exit) => Failure::new(exit, error).into(),
        None => error,
    }
}

/// A directory as sessions know it.
pub(super) fn directory_name(directory: &Path) -> String {
    directory.display().to_string()
}
