//! The bus in one SQLite file, for any number of processes on one machine: the default.
//!
//! The file is the truth and there is no server. Each process has one task (`writer`) that owns its only writing
//! connection and puts all that waits into one transaction, and a few reading connections (`reader`). Others are told
//! of news by a doorbell, and find them by polling when the bell is lost (`hub`, `doorbell`). Old events are deleted in
//! small steps (`prune`). All of it ends with [`EventBus::close`](super::EventBus::close), or when the last of the bus,
//! its streams and its queues is dropped; stopping the program alone does not end it, so that what is still at work can
//! publish its last words.

mod append;
mod bus;
mod doorbell;
mod errors;
mod hub;
mod inspect;
mod open;
mod prune;
mod queue;
mod reader;
mod schema;
mod stream;
#[cfg(test)]
mod tests;
mod work;
mod writer;

use std::{path::PathBuf, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{Clock, Retention, SystemClock};
use crate::config::Durability;

/// How to open the file.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The file. It is made, with its folder, if it does not exist; for the owner only.
    pub path: PathBuf,
    /// What a commit survives.
    pub durability: Durability,
    /// The largest event, in bytes of JSON.
    pub max_event_bytes: usize,
    /// What is kept when the bus tidies up by itself, about once an hour.
    pub retention: Retention,
    /// How long ids of acknowledged work are remembered.
    pub seen_window: Duration,
    /// How long to wait for another process that is writing.
    pub patience: Duration,
    /// Writing fails, as on a full disk, when the file would have more pages of 4096 bytes than this.
    pub max_pages: Option<u32>,
    /// Tell other processes of news through Unix sockets beside the file. Without, they find news by polling.
    pub doorbell: bool,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl SqliteOptions {
    /// The usual figures; nothing is deleted.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            durability: Durability::Full,
            max_event_bytes: 1 << 20,
            retention: Retention::default(),
            seen_window: Duration::from_secs(7 * 24 * 3600),
            patience: Duration::from_secs(15),
            max_pages: None,
            doorbell: true,
            clock: Arc::new(SystemClock),
        }
    }
}

/// The bus in one SQLite file.
#[derive(Debug, Clone)]
pub struct SqliteBus {
    shared: Arc<bus::Shared>,
}

/// What a look at the file shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The file.
    pub path: String,
    /// The SQLite library that is built in.
    pub sqlite_version: String,
    /// The version of the file's tables.
    pub schema_version: i64,
    /// The version that this program writes.
    pub newest_schema_version: i64,
    /// `wal`, unless something else changed it.
    pub journal_mode: String,
    /// Bytes of a page.
    pub page_size: u64,
    /// Pages of the file.
    pub pages: u64,
    /// Pages that wait to be used again, or to be given back by `prune`.
    pub free_pages: u64,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of the write-ahead log.
    pub wal_bytes: u64,
    /// Events kept.
    pub events: u64,
    /// Queues.
    pub queues: u64,
    /// What is wrong with the file; empty if nothing is.
    pub problems: Vec<String>,
    /// When retention last ran to its end.
    pub pruned_at: Option<Timestamp>,
}
