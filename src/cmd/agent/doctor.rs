//! Whether the store of sessions can be used, for `godctl doctor`. Leaves nothing behind.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::super::findings::{Finding, Status};
use crate::{
    agents::store::{StoreError, open},
    bus::SystemClock,
    config::Store,
};

/// Opens the store as a command would, and closes it again.
pub(in crate::cmd) fn quick(config: &Store, data_dir: &Path, patience: Duration) -> Finding {
    let place = config.url.to_string();
    if let Some(path) = config.url.file() {
        let path = if path.is_empty() { data_dir.join(open::FILE) } else { PathBuf::from(path) };
        if !path.exists() {
            return Finding::ok(format!("{} is made with the first session", path.display()));
        }
    }
    // No key is made for this; those that there are must fit what is kept.
    let config = Store { encrypt: false, ..config.clone() };
    let look = async {
        let opening = open::open(&config, data_dir, Arc::new(SystemClock));
        let store = tokio::time::timeout(patience, opening).await.map_err(|_elapsed| None)?.map_err(Some)?;
        store.close().await;
        Ok(())
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        return Finding::new(Status::Failed, "cannot start an async runtime", "free some memory");
    };
    match runtime.block_on(look) {
        Ok(()) => Finding::ok(place),
        Err(None) => Finding::new(
            Status::Failed,
            format!("{place} gave no answer within {} s", patience.as_secs()),
            "see whether it is there, or change store.url",
        ),
        Err(Some(error)) => {
            let fix = match error {
                StoreError::NoKey(_) | StoreError::Keys(_) => {
                    "bring the key back: store.keys, store.keys_file"
                }
                StoreError::Unreachable { .. } => "start it, or change store.url",
                _ => "see the message, or choose another place with store.url",
            };
            Finding::new(Status::Failed, error.to_string(), fix)
        }
    }
}
