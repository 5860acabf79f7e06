//! What goes wrong with the file, as the bus tells it. Pure.

use std::path::Path;

use crate::{
    bus::BusError,
    db::{self, DbError},
};

impl From<DbError> for BusError {
    fn from(error: DbError) -> Self {
        match error {
            DbError::Foreign { path, reason, .. } => Self::Foreign { path, reason },
            DbError::Newer { path, found, known } => Self::Unsupported {
                what: "opening the bus",
                bus: format!("sqlite:{path}"),
                instead: format!(
                    "a newer godctl wrote it (version {found} of its tables, this one knows {known}); update godctl"
                ),
            },
            DbError::Damaged { path, reason } => Self::Corrupt { path, reason },
            DbError::Full { path, reason } => Self::Full { what: path, reason },
            DbError::Busy { path, reason } => Self::Unreachable { bus: format!("sqlite:{path}"), reason },
            DbError::Library(_) => {
                Self::Storage { doing: "use the built-in database".to_owned(), reason: error.to_string() }
            }
            DbError::Failed { doing, reason } => Self::Storage { doing, reason },
        }
    }
}

/// What a failure of SQLite means for this bus. `doing` completes "cannot … PATH".
pub(super) fn failed(path: &Path, doing: &str, error: &sqlx::Error) -> BusError {
    db::explain(path, &format!("{doing} {}", path.display()), error).into()
}
