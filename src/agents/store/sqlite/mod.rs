//! Sessions in one SQLite file, shared by every godctl process of the user. No server, nothing in the background.
//!
//! A connection for each process, used by one call at a time: what an agent needs in an hour SQLite does in a second.
//! Every change is an immediate transaction that the disk has before the call returns.

mod desk;
mod gates;
mod journal;
mod leases;
mod schema;
mod sessions;
mod stops;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc, time::Duration};

use sqlx::SqliteConnection;
use tokio::sync::Mutex;

use super::vault::Vault;
use crate::bus::Clock;

/// How to open the file.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The file; made, with its folder, if there is none.
    pub path: PathBuf,
    /// How long to wait for other processes.
    pub patience: Duration,
    /// What leases go by.
    pub clock: Arc<dyn Clock>,
}

/// The store. See the module.
#[derive(Debug)]
pub struct SqliteStore {
    path: PathBuf,
    vault: Vault,
    clock: Arc<dyn Clock>,
    /// `None` once it is closed.
    connection: Mutex<Option<SqliteConnection>>,
}
