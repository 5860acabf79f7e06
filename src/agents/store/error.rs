//! What goes wrong with a store; each variant is something else to do.

use crate::db::DbError;

use super::{super::session::SessionId, Version, keys::KeyError, vault::VaultError};

/// Why a store did not do what it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Choose another id, or go on with the session that has it.
    #[error("there is a session {0} already")]
    Exists(SessionId),
    /// Somebody removed it, or the store has lost it. Whoever still has it can create it again.
    #[error("session {0} is gone from the store")]
    Gone(SessionId),
    /// Read it again, and change that.
    #[error("session {id} was changed by somebody else (version {found:?} instead of {expected:?})")]
    Conflict {
        /// The session.
        id: SessionId,
        /// What the caller thought.
        expected: Version,
        /// What it is.
        found: Version,
    },
    /// Stop working on it: somebody else does.
    #[error("the lease on {name} was taken over: number {ours} is ours, {latest} the latest")]
    Fenced {
        /// What the lease is on.
        name: String,
        /// The number of ours.
        ours: u64,
        /// The number of the latest; 0 if the store knows of none any more.
        latest: u64,
    },
    /// Try again later: it is away, slow or busy.
    #[error("cannot reach {store}: {reason}")]
    Unreachable {
        /// Where it is, without a password.
        store: String,
        /// What the system said.
        reason: String,
    },
    /// It is there and does not do it, and will not until somebody mends it.
    #[error("{store} refuses: {reason}")]
    Refused {
        /// Where it is, without a password.
        store: String,
        /// What it said.
        reason: String,
    },
    /// There is no room.
    #[error("no room in {store}: {reason}")]
    Full {
        /// Where it is, without a password.
        store: String,
        /// What it said.
        reason: String,
    },
    /// What is stored was encrypted with a key that is not here. Give it.
    #[error(transparent)]
    NoKey(VaultError),
    /// What is stored is not what was written. Restore a backup, or remove it.
    #[error("{0}")]
    Damaged(String),
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Something else failed.
    #[error("cannot {doing}: {reason}")]
    Failed {
        /// What was being done.
        doing: String,
        /// What the system said.
        reason: String,
    },
}

impl StoreError {
    /// True if the same call can succeed later with nothing changed.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Full { .. })
    }
}

impl From<VaultError> for StoreError {
    fn from(error: VaultError) -> Self {
        match error {
            VaultError::NoKey(_) => Self::NoKey(error),
            VaultError::Damaged(_) => Self::Damaged(error.to_string()),
            VaultError::NoRandomness => {
                Self::Failed { doing: "encrypt".to_owned(), reason: error.to_string() }
            }
        }
    }
}

impl From<DbError> for StoreError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Busy { path, reason } => Self::Unreachable { store: format!("sqlite:{path}"), reason },
            DbError::Full { path, reason } => Self::Full { store: format!("sqlite:{path}"), reason },
            DbError::Damaged { .. } => Self::Damaged(error.to_string()),
            DbError::Foreign { path, reason, .. } => {
                Self::Refused { store: format!("sqlite:{path}"), reason }
            }
            DbError::Newer { ref path, .. } => {
                Self::Refused { store: format!("sqlite:{path}"), reason: error.to_string() }
            }
            DbError::Library(_) => {
                Self::Failed { doing: "use the built-in database".to_owned(), reason: error.to_string() }
            }
            DbError::Failed { doing, reason } => Self::Failed { doing, reason },
        }
    }
}
