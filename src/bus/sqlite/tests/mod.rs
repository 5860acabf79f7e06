//! Tests of the bus in a file, over real files. Two handles stand for two processes: they share nothing but the file.

mod clock;
mod faults;
mod news;
mod random;
mod reading;
mod retention;

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::{SignedDuration, Timestamp};
use parking_lot::Mutex;
use sqlx::{Connection, sqlite::SqliteConnection};
use uuid::Uuid;

use super::{SqliteBus, SqliteOptions, append::Entry};
use crate::{
    bus::{Clock, SharedBus, testkit::*},
    config::Durability,
    db,
    shutdown::Shutdown,
};

/// A folder with a bus in it.
pub(super) struct Folder {
    folder: tempfile::TempDir,
    shutdown: Shutdown,
    last: Mutex<Option<SqliteBus>>,
}

impl Folder {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { folder, shutdown: Shutdown::new(), last: Mutex::default() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.folder.path().join("bus.db")
    }

    /// Options that don't wait for the disk, as no test pulls the plug.
    pub(super) fn options(&self) -> SqliteOptions {
        SqliteOptions {
            durability: Durability::Normal,
            max_event_bytes: 4096,
            ..SqliteOptions::new(self.path())
        }
    }

    pub(super) async fn with(&self, options: SqliteOptions) -> SqliteBus {
        let bus = SqliteBus::open(options, &self.shutdown).await.unwrap();
        *self.last.lock() = Some(bus.clone());
        bus
    }

    pub(super) async fn bus(&self) -> SqliteBus {
        self.with(self.options()).await
    }
}

impl Folder {
    /// A connection that knows nothing of the bus, to do to the file what no bus would do.
    async fn raw(&self) -> SqliteConnection {
        let options = db::Options {
            path: self.path(),
            sync: false,
            patience: Duration::from_secs(10),
            max_pages: None,
        };
        db::open(&super::schema::FORMAT, &options).await.unwrap()
    }

    /// Carries out some statements in the file.
    async fn alter(&self, sql: &'static str) {
        let mut connection = self.raw().await;
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}

/// A clock that is set by hand.
#[derive(Debug)]
struct Hand(Mutex<Timestamp>);

impl Hand {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new("2026-11-21T12:00:00Z".parse().unwrap())))
    }

    fn turn(&self, by: SignedDuration) {
        *self.0.lock() += by;
    }

    fn forward(&self, by: Duration) {
        self.turn(by.try_into().unwrap());
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

#[async_trait]
impl Fixture for Folder {
    async fn open(&self) -> SharedBus {
        Arc::new(self.bus().await)
    }

    async fn inject(&self, routing_key: &str, raw: &[u8]) -> bool {
        let Some(bus) = self.last.lock().clone() else { return false };
        let entry = Entry { id: Uuid::new_v4(), routing_key: routing_key.to_owned(), body: raw.to_owned() };
        bus.shared.publish(vec![entry]).await.unwrap();
        true
    }

    fn max_event_bytes(&self) -> usize {
        4096
    }
}

#[allow(clippy::unused_async, reason = "other backends look for a server here")]
async fn folder() -> Option<Folder> {
    Some(Folder::new())
}

conformance!(conformance, folder);
