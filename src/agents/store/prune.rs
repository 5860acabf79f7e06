//! Deletes sessions that nobody has touched for long. What they cost is kept.

use jiff::Timestamp;

use super::{Filter, Remove, SessionStore, StoreError};
use crate::agents::session::{SessionId, State};

/// Deletes sessions that were last changed before a time and are not being worked on, oldest last, at most `limit`;
/// tells which. With `dry_run` it only tells.
///
/// # Errors
/// As [`SessionStore::list`] and [`SessionStore::remove`].
pub async fn prune(
    store: &dyn SessionStore,
    before: Timestamp,
    limit: Option<usize>,
    dry_run: bool,
) -> Result<Vec<SessionId>, StoreError> {
    let filter = Filter { before: Some(before), limit, ..Filter::default() };
    let mut gone = Vec::new();
    for stored in store.list(&filter).await? {
        let session = stored.session;
        if session.state == State::Running {
            continue;
        }
        if dry_run || store.remove(&session.id, Remove::Words).await? {
            gone.push(session.id);
        }
    }
    Ok(gone)
}
