//! Where sessions are kept: the door [`SessionStore`] and what passes through it.
//!
//! Two backends: `sqlite` (default, one file, no server) and `redis` (for several machines); one conformance suite holds
//! both to the same promises. What people wrote and read is encrypted before it reaches a backend ([`vault`], [`keys`]);
//! what is looked for by value is not: ids, states, directories, tags, times, counts.
//!
//! A session is changed by compare-and-set on its version. Whoever works on one holds a [`Lease`] on it, and says so with
//! each change: a lease has a number that only grows, and a change under a lease that somebody else has taken over since
//! is refused, however long its holder slept.

mod codec;
mod error;
pub mod journal;
pub mod keys;
pub mod open;
mod prune;
pub mod redis;
pub mod search;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod testkit;
pub mod vault;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::session::{Session, SessionId, State, TurnRecord, UsageRow};
pub use error::StoreError;
pub use prune::prune;

/// A place where sessions are kept. Cheap to share; all methods may be called at the same time from many tasks and
/// processes.
#[async_trait]
pub trait SessionStore: fmt::Debug + Send + Sync {
    /// Where it is, without a password.
    fn address(&self) -> String;

    /// Keeps a new session. Durable when it returns, as far as the backend is.
    ///
    /// # Errors
    /// [`StoreError::Exists`]; a broken backend.
    async fn create(&self, session: &Session) -> Result<Version, StoreError>;

    /// The session of this id.
    ///
    /// # Errors
    /// [`StoreError::NoKey`] and [`StoreError::Damaged`] if it does not open; a broken backend.
    async fn get(&self, id: &SessionId) -> Result<Option<Stored>, StoreError>;

    /// Replaces a session, and adds its turn and what that used, all or nothing. The same change again (by its id) is
    /// taken as done, so that one whose fate is not known can be repeated.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if there is no such session, [`StoreError::Conflict`] if it has another version than the
    /// change expects, [`StoreError::Fenced`] if the lease was taken over; a broken backend.
    async fn update(&self, change: &Change<'_>) -> Result<Version, StoreError>;

    /// Sessions that fit, latest first.
    ///
    /// # Errors
    /// As [`SessionStore::get`].
    async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, StoreError>;

    /// The turns of a session, oldest first, beginning with the one of this number.
    ///
    /// # Errors
    /// As [`SessionStore::get`].
    async fn turns(&self, id: &SessionId, from: u64, limit: usize) -> Result<Vec<TurnRecord>, StoreError>;

    /// What turns that ended at `since` or later have used, oldest first.
    ///
    /// # Errors
    /// A broken backend.
    async fn usage(&self, since: Option<Timestamp>) -> Result<Vec<UsageRow>, StoreError>;

    /// Deletes a session with its turns; what it cost too, if nothing of it is to be left. False if there was none.
    ///
    /// # Errors
    /// A broken backend.
    async fn remove(&self, id: &SessionId, what: Remove) -> Result<bool, StoreError>;

    /// Takes a lease, unless somebody holds it. With the token of a lease that is held already, gives that one again.
    ///
    /// # Errors
    /// A broken backend.
    async fn acquire(&self, request: &Request<'_>) -> Result<Acquired, StoreError>;

    /// Keeps a lease for `ttl` from now, also one whose time is over if nobody has taken it since.
    ///
    /// # Errors
    /// [`StoreError::Fenced`]; a broken backend.
    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError>;

    /// Gives a lease back. One that was lost is none of ours any more, which is no error.
    ///
    /// # Errors
    /// A broken backend.
    async fn release(&self, lease: &Lease) -> Result<(), StoreError>;

    /// Who has a lease, as its [`Request::holder`] said; `None` if nobody has it.
    ///
    /// # Errors
    /// A broken backend.
    async fn holder_of(&self, name: &str) -> Result<Option<String>, StoreError>;

    /// Asks whoever works on this run of a session to stop it; they look for that while they work. Asking again changes
    /// nothing, and neither does asking for a run that is over: what is asked is gone with the end of its turn.
    ///
    /// # Errors
    /// [`StoreError::Gone`] if there is no such session; a broken backend.
    async fn ask_to_stop(&self, id: &SessionId, run: Uuid) -> Result<(), StoreError>;

    /// Whether somebody has asked this very run to stop. It is one look at an index, for it is done all the time.
    ///
    /// # Errors
    /// A broken backend.
    async fn is_asked_to_stop(&self, id: &SessionId, run: Uuid) -> Result<bool, StoreError>;

    /// Encrypts all blobs anew that are not as they would be written today, `batch` of them at a time. What was done
    /// stays done if it is interrupted, and doing it again changes nothing.
    ///
    /// # Errors
    /// As [`SessionStore::get`].
    async fn reseal(&self, batch: usize) -> Result<Resealed, StoreError>;

    /// Waits for what is under way and lets go of files and connections.
    async fn close(&self);
}

/// A store that can be handed around.
pub type SharedStore = Arc<dyn SessionStore>;

/// Counts the changes of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Version(pub u64);

/// A session as it is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Stored {
    /// The session.
    pub session: Session,
    /// Its version.
    pub version: Version,
    /// The largest number of a lease under which it was changed.
    pub fence: u64,
}

/// A change of a session.
#[derive(Debug)]
pub struct Change<'a> {
    /// Its own id.
    pub id: Uuid,
    /// What the session becomes.
    pub session: &'a Session,
    /// What version it has now.
    pub expected: Version,
    /// Under which lease; `None` for changes that nobody who works on the session would miss, such as tags.
    pub lease: Option<&'a Lease>,
    /// What has come of a turn.
    pub turn: Option<(&'a TurnRecord, &'a UsageRow)>,
}

/// Which sessions. What is not said does not matter.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter {
    /// Of this agent.
    pub provider: Option<String>,
    /// In this state.
    pub state: Option<State>,
    /// In this directory.
    pub directory: Option<String>,
    /// With all of these tags.
    pub tags: Vec<String>,
    /// Whose id begins so.
    pub id_prefix: Option<String>,
    /// Changed at this time or later.
    pub since: Option<Timestamp>,
    /// Changed before this time.
    pub before: Option<Timestamp>,
    /// At most so many; `None` is all.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether a session fits, its number aside.
    #[must_use]
    pub fn fits(&self, session: &Session) -> bool {
        self.provider.as_ref().is_none_or(|provider| *provider == session.provider)
            && self.state.is_none_or(|state| state == session.state)
            && self.directory.as_ref().is_none_or(|directory| *directory == session.directory)
            && self.tags.iter().all(|tag| session.tags.contains(tag))
            && self.id_prefix.as_ref().is_none_or(|prefix| session.id.as_str().starts_with(prefix.as_str()))
            && self.since.is_none_or(|since| session.updated_at >= since)
            && self.before.is_none_or(|before| session.updated_at < before)
    }
}

/// What is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remove {
    /// What was said; what it cost stays.
    Words,
    /// All of it.
    Everything,
}

/// The right to work on something, for a while.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// On what, such as `session:s-1`.
    pub name: String,
    /// Tells this lease from all others.
    pub token: Uuid,
    /// Its number: larger than those of all leases of this name before it.
    pub fence: u64,
}

/// Asks for a lease.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// On what.
    pub name: &'a str,
    /// The new lease's token.
    pub token: Uuid,
    /// Who asks, in words that another process can make sense of.
    pub holder: &'a str,
    /// For how long.
    pub ttl: Duration,
    /// The largest number of a lease of this name that the caller knows of. The new one's is larger, also if the backend
    /// has lost all that it knew.
    pub floor: u64,
    /// Take it from the lease of this token, whose holder is known to be dead.
    pub instead_of: Option<Uuid>,
}

/// What came of asking for a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acquired {
    /// Here it is.
    Lease(Lease),
    /// Somebody has it.
    Held {
        /// As its [`Request::holder`] said.
        holder: String,
        /// Its token.
        token: Uuid,
    },
}

/// What came of encrypting anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Resealed {
    /// Blobs that were changed.
    pub changed: u64,
    /// Blobs that are not as they should be and were left, because somebody else changed them meanwhile.
    pub left: u64,
}
