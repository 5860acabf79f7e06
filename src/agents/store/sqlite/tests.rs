//! The conformance suite over a file, and what goes wrong with files.

use std::{fs, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::SignedDuration;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{SqliteOptions, SqliteStore, schema::FORMAT};
use crate::{
    agents::{
        session::SessionId,
        store::{
            Acquired, SessionStore as _, SharedStore, StoreError,
            testkit::{self, Fixture, Hand},
            vault::Vault,
        },
    },
    db,
};

struct Folder {
    folder: tempfile::TempDir,
    clock: Hand,
}

impl Folder {
    fn new() -> Self {
        let clock = Hand::at(1_000);
        Self { folder: tempfile::tempdir().unwrap(), clock }
    }

    fn some() -> Option<Self> {
        Some(Self::new())
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("sessions.db")
    }

    fn options(&self, patience: Duration) -> SqliteOptions {
        SqliteOptions { path: self.path(), patience, clock: Arc::new(self.clock.clone()) }
    }

    async fn raw(&self) -> SqliteConnection {
        let options = db::Options {
            path: self.path(),
            sync: false,
            patience: Duration::from_secs(60),
            max_pages: None,
        };
        db::open(&FORMAT, &options).await.unwrap()
    }
}

#[async_trait]
impl Fixture for Folder {
    async fn open_with(&self, vault: Vault) -> Result<SharedStore, StoreError> {
        Ok(Arc::new(SqliteStore::open(self.options(Duration::from_secs(60)), vault).await?))
    }

    async fn lapse(&self, _: &str) {
        let mut now = self.clock.0.lock();
        *now = now.saturating_add(SignedDuration::from_hours(2)).unwrap();
    }

    async fn everything(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in fs::read_dir(self.folder.path()).unwrap() {
            bytes.extend(fs::read(entry.unwrap().path()).unwrap());
        }
        bytes
    }

    async fn words(&self, id: &SessionId) -> Vec<u8> {
        let words = sqlx::query_scalar("SELECT sealed FROM sessions WHERE id = ?").bind(id.as_str());
        words.fetch_one(&mut self.raw().await).await.unwrap()
    }

    async fn set_words(&self, id: &SessionId, words: Vec<u8>) {
        let set = sqlx::query("UPDATE sessions SET sealed = ? WHERE id = ?").bind(words).bind(id.as_str());
        set.execute(&mut self.raw().await).await.unwrap();
    }
}

testkit::conformance!(conformance, super::Folder::some());

#[tokio::test]
async fn a_file_that_another_process_keeps_locked_is_named_with_it_and_nothing_is_lost() {
    let folder = Folder::new();
    let ring = testkit::ring();
    let impatient =
        SqliteStore::open(folder.options(Duration::from_millis(1)), Vault::new(ring)).await.unwrap();
    impatient.create(&testkit::session("s-1")).await.unwrap();
    let mut other = folder.raw().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
    for error in [
        impatient.create(&testkit::session("s-2")).await.err().unwrap(),
        impatient.acquire(&testkit::request("x", Uuid::new_v4())).await.err().unwrap(),
    ] {
        assert!(error.is_retryable(), "{error}");
        let told = error.to_string();
        assert!(told.contains("sessions.db") && told.contains("is writing to it"), "{told}");
    }
    assert!(impatient.get(&testkit::id("s-1")).await.unwrap().is_some(), "reading goes on");
    sqlx::query("ROLLBACK").execute(&mut other).await.unwrap();
    impatient.create(&testkit::session("s-2")).await.unwrap();
    assert!(matches!(
        impatient.acquire(&testkit::request("x", Uuid::new_v4())).await.unwrap(),
        Acquired::Lease(_)
    ));
}

#[tokio::test]
async fn a_file_of_another_program_is_refused_and_left_as_it_is() {
    let folder = Folder::new();
    fs::write(folder.path(), "just notes\n").unwrap();
    let error = folder.open_with(Vault::new(testkit::ring())).await.err().unwrap();
    assert!(matches!(error, StoreError::Refused { .. }), "{error}");
    assert_eq!(fs::read_to_string(folder.path()).unwrap(), "just notes\n");
}

#[tokio::test]
async fn a_change_whose_caller_went_away_leaves_no_half_of_itself() {
    let folder = Folder::new();
    let store = folder.open().await;
    for number in 0..20_u32 {
        let made = testkit::session(&format!("s-{number}"));
        let create = store.create(&made);
        futures_util::pin_mut!(create);
        // Polled once or a few times, then dropped in the middle.
        for _ in 0..number {
            if futures_util::poll!(&mut create).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let whole = testkit::session("whole");
    store.create(&whole).await.unwrap();
    for stored in store.list(&crate::agents::store::Filter::default()).await.unwrap() {
        assert_eq!(stored.session.directory, "/w");
    }
    assert!(store.get(&whole.id).await.unwrap().is_some());
}
