//! What a machine remembers about a broker: one SQLite file beside the bus. This part opens it, writes to it, and keeps
//! the ids of finished work; the outbox keeps its tables in the same file.
//!
//! One task owns the connection that writes. It takes whatever waits, writes it in one transaction, and answers when
//! the disk has it, so that many callers share one wait. The task ends with [`LocalState::close`], or when nobody
//! holds the state any more. A stop of the program alone does not end it, because running work must still be settled.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::{Connection as _, SqliteConnection};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use super::{BusError, Clock, SeenIds};
use crate::{
    db::{self, Format, Options},
    shutdown::Shutdown,
};

/// Writes that wait for the task; more wait outside.
const WAITING: usize = 1024;
/// Writes that one transaction takes.
const GROUP: usize = 256;
/// How long to wait for other processes.
const PATIENCE: Duration = Duration::from_secs(10);
/// Finished work that is remembered.
const DONE_KEPT: i64 = 200_000;
/// Finished work is forgotten after this time (in milliseconds); redeliveries come within minutes.
const DONE_FOR_MS: i64 = 7 * 24 * 3600 * 1000;
/// Old entries are looked for after so many new ones.
const DONE_SWEEP: i64 = 1000;

const FORMAT: Format =
    Format { name: "godctl outbox", application_id: 0x676f_6462, migrations: &[VERSION_1] };

const VERSION_1: &str = "
    -- The brokers that this machine has published to.
    CREATE TABLE broker(
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        -- What waits for it in `outbox`.
        waiting INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        -- Events that found no room: ever, and since the outbox was last empty (JSON).
        refused INTEGER NOT NULL DEFAULT 0,
        refusals TEXT,
        -- The circuit breaker (JSON).
        breaker TEXT
    ) STRICT;
    -- Events to publish, in this order.
    CREATE TABLE outbox(
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        broker INTEGER NOT NULL,
        event BLOB NOT NULL,
        require_route INTEGER NOT NULL,
        -- Tells of the outbox itself.
        own INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX outbox_by_broker ON outbox(broker, seq);
    -- Events that the broker will never take.
    CREATE TABLE failed(
        seq INTEGER PRIMARY KEY,
        broker INTEGER NOT NULL,
        event BLOB NOT NULL,
        reason TEXT NOT NULL,
        at INTEGER NOT NULL
    ) STRICT;
    -- Events whose work is done, by queue. Times are milliseconds since 1970.
    CREATE TABLE done(
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        queue TEXT NOT NULL,
        event BLOB NOT NULL,
        at INTEGER NOT NULL,
        UNIQUE (queue, event)
    ) STRICT;
";

/// The file, open. Cheap to share.
pub struct LocalState {
    path: PathBuf,
    clock: Arc<dyn Clock>,
    jobs: Mutex<Option<mpsc::Sender<Box<dyn AnyJob>>>>,
    reader: tokio::sync::Mutex<Option<SqliteConnection>>,
    ended: CancellationToken,
}

impl fmt::Debug for LocalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalState").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Something to write. It is applied again if the transaction that it was in had to be taken back.
#[async_trait]
pub(super) trait Write: Send + 'static {
    type Answer: Send;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<Self::Answer>;
}

/// A [`Write`] of any kind, and who waits for it.
#[async_trait]
trait AnyJob: Send {
    async fn apply(&mut self, file: &mut SqliteConnection) -> sqlx::Result<()>;

    fn answer(self: Box<Self>, outcome: Result<(), BusError>);
}

struct Job<W: Write> {
    work: W,
    answer: Option<W::Answer>,
    reply: oneshot::Sender<Result<W::Answer, BusError>>,
}

#[async_trait]
impl<W: Write + Sync> AnyJob for Job<W>
where
    W::Answer: Sync,
{
    async fn apply(&mut self, file: &mut SqliteConnection) -> sqlx::Result<()> {
        self.answer = Some(self.work.apply(file).await?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), BusError>) {
        let Self { answer, reply, .. } = *self;
        // Nobody waits for the answer of a cancelled call.
        drop(reply.send(outcome.and_then(|()| answer.ok_or(BusError::Closed))));
    }
}

impl LocalState {
    /// Opens the file, and makes it first if there is none.
    ///
    /// # Errors
    /// A file that is damaged, not ours, or can't be written.
    pub async fn open(
        path: &Path,
        clock: Arc<dyn Clock>,
        shutdown: &Shutdown,
    ) -> Result<Arc<Self>, BusError> {
        let options = Options { path: path.to_owned(), sync: true, patience: PATIENCE, max_pages: None };
        let writer = db::open(&FORMAT, &options).await?;
        let reader = db::open_reader(path, PATIENCE).await?;
        let (jobs, waiting) = mpsc::channel(WAITING);
        let ended = CancellationToken::new();
        shutdown.spawn("outbox-writer", write_all(writer, waiting, path.to_owned(), ended.clone()));
        Ok(Arc::new(Self {
            path: path.to_owned(),
            clock,
            jobs: Mutex::new(Some(jobs)),
            reader: tokio::sync::Mutex::new(Some(reader)),
            ended,
        }))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes; durable when it returns. A cancelled call writes all the same.
    pub(super) async fn write<W>(&self, work: W) -> Result<W::Answer, BusError>
    where
        W: Write + Sync,
        W::Answer: Sync,
    {
        let jobs = self.jobs.lock().clone().ok_or(BusError::Closed)?;
        let (reply, answer) = oneshot::channel();
        jobs.send(Box::new(Job { work, answer: None, reply })).await.map_err(|_| BusError::Closed)?;
        answer.await.map_err(|_| BusError::Closed)?
    }

    /// Reads what was written before the call. `doing` completes "cannot …".
    pub(super) async fn read<T>(
        &self,
        doing: &str,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> sqlx::Result<T>,
    ) -> Result<T, BusError> {
        let mut reader = self.reader.lock().await;
        let file = reader.as_mut().ok_or(BusError::Closed)?;
        read(file).await.map_err(|error| failed(&self.path, doing, &error))
    }

    /// Writes what waits and closes the file. Later calls give [`BusError::Closed`].
    pub async fn close(&self) {
        drop(self.jobs.lock().take());
        if let Some(reader) = self.reader.lock().await.take()
            && let Err(error) = reader.close().await
        {
            warn!(path = %self.path.display(), %error, "cannot close the file in good order");
        }
        self.ended.cancelled().await;
    }
}

fn failed(path: &Path, doing: &str, error: &sqlx::Error) -> BusError {
    db::explain(path, &format!("{doing} {}", path.display()), error).into()
}

/// The task that writes.
async fn write_all(
    mut file: SqliteConnection,
    mut waiting: mpsc::Receiver<Box<dyn AnyJob>>,
    path: PathBuf,
    ended: CancellationToken,
) {
    // However this ends, nobody waits for it in vain.
    let _ended = ended.drop_guard();
    let mut group = Vec::new();
    while waiting.recv_many(&mut group, GROUP).await > 0 {
        let outcome = commit(&mut file, &mut group).await;
        // One of several may be at fault; each gets its own answer.
        if outcome.is_err() && group.len() > 1 {
            for mut job in group.drain(..) {
                let outcome = commit(&mut file, std::slice::from_mut(&mut job)).await;
                job.answer(outcome.map_err(|error| failed(&path, "write", &error)));
            }
        }
        for job in group.drain(..) {
            job.answer(outcome.as_ref().copied().map_err(|error| failed(&path, "write", error)));
        }
    }
    if let Err(error) = file.close().await {
        warn!(path = %path.display(), %error, "cannot close the file in good order");
    }
}

async fn commit(file: &mut SqliteConnection, jobs: &mut [Box<dyn AnyJob>]) -> sqlx::Result<()> {
    let mut transaction = file.begin_with("BEGIN IMMEDIATE").await?;
    for job in jobs {
        job.apply(&mut transaction).await?;
    }
    transaction.commit().await
}

struct MarkDone {
    queue: String,
    event: Uuid,
    at: i64,
}

#[async_trait]
impl Write for MarkDone {
    type Answer = ();

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<()> {
        let added = sqlx::query("INSERT INTO done(queue, event, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING")
            .bind(&self.queue)
            .bind(self.event.as_bytes().as_slice())
            .bind(self.at)
            .execute(&mut *file)
            .await?;
        let id = added.last_insert_rowid();
        if added.rows_affected() > 0 && id % DONE_SWEEP == 0 {
            // Ids increase with time, so the oldest have the lowest. A clock that was set far ahead by mistake must
            // not keep entries for ever, hence the second bound.
            sqlx::query("DELETE FROM done WHERE id <= ? OR at < ? OR at > ?")
                .bind(id - DONE_KEPT)
                .bind(self.at - DONE_FOR_MS)
                .bind(self.at + DONE_FOR_MS)
                .execute(file)
                .await?;
        }
        Ok(())
    }
}

#[async_trait]
impl SeenIds for LocalState {
    async fn is_done(&self, queue: &str, event: Uuid) -> Result<bool, BusError> {
        let since = self.clock.now().as_millisecond() - DONE_FOR_MS;
        self.read("look up finished work in", async |file| {
            sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM done WHERE queue = ? AND event = ? AND at >= ?)")
                .bind(queue)
                .bind(event.as_bytes().as_slice())
                .bind(since)
                .fetch_one(file)
                .await
        })
        .await
    }

    async fn mark_done(&self, queue: &str, event: Uuid) -> Result<(), BusError> {
        let at = self.clock.now().as_millisecond();
        self.write(MarkDone { queue: queue.to_owned(), event, at }).await
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;
    use jiff::{SignedDuration, Timestamp};
    use tempfile::TempDir;

    use super::*;
    use crate::bus::SystemClock;

    /// A clock that the tests set.
    #[derive(Debug)]
    struct Manual(Mutex<Timestamp>);

    impl Clock for Manual {
        fn now(&self) -> Timestamp {
            *self.0.lock()
        }
    }

    async fn open(folder: &TempDir, clock: Arc<dyn Clock>) -> Arc<LocalState> {
        LocalState::open(&folder.path().join("outbox.db"), clock, &Shutdown::new()).await.unwrap()
    }

    struct Fail;

    #[async_trait]
    impl Write for Fail {
        type Answer = ();

        async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<()> {
            sqlx::query("INSERT INTO done(queue) VALUES (NULL)").execute(file).await.map(drop)
        }
    }

    #[tokio::test]
    async fn finished_work_is_known_to_all_processes_and_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) =
            (open(&folder, Arc::new(SystemClock)).await, open(&folder, Arc::new(SystemClock)).await);
        let event = Uuid::now_v7();
        assert!(!one.is_done("work", event).await.unwrap());
        one.mark_done("work", event).await.unwrap();
        one.mark_done("work", event).await.unwrap();
        assert!(two.is_done("work", event).await.unwrap());
        assert!(!two.is_done("other", event).await.unwrap(), "each queue has its own");
        one.close().await;
        two.close().await;
        assert!(matches!(one.mark_done("work", event).await, Err(BusError::Closed)));
        assert!(matches!(one.is_done("work", event).await, Err(BusError::Closed)));
        assert!(open(&folder, Arc::new(SystemClock)).await.is_done("work", event).await.unwrap());
    }

    #[tokio::test]
    async fn many_share_one_wait_for_the_disk() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(&folder, Arc::new(SystemClock)).await;
        let events: Vec<Uuid> = (0..1000).map(|_| Uuid::now_v7()).collect();
        let marked = join_all(events.iter().map(|event| state.mark_done("work", *event))).await;
        assert!(marked.iter().all(Result::is_ok));
        // The log grows by a few pages for each commit; a thousand of them would be more than this.
        let log = std::fs::metadata(folder.path().join("outbox.db-wal")).unwrap().len();
        assert!(log < 2 << 20, "{log}");
        for event in events {
            assert!(state.is_done("work", event).await.unwrap());
        }
        state.close().await;
    }

    #[tokio::test]
    async fn a_write_that_fails_fails_alone() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(&folder, Arc::new(SystemClock)).await;
        let events: Vec<Uuid> = (0..20).map(|_| Uuid::now_v7()).collect();
        let marked = join_all(events.iter().map(|event| state.mark_done("work", *event)));
        let (marked, failed) = tokio::join!(marked, state.write(Fail));
        assert!(marked.iter().all(Result::is_ok));
        assert!(matches!(failed, Err(BusError::Storage { .. })), "{failed:?}");
        for event in events {
            assert!(state.is_done("work", event).await.unwrap());
        }
        state.close().await;
    }

    #[tokio::test]
    async fn a_cancelled_write_is_written_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let state = open(&folder, Arc::new(SystemClock)).await;
        let event = Uuid::now_v7();
        {
            let marking = state.mark_done("work", event);
            tokio::pin!(marking);
            // Polled once, which hands it over.
            assert!(futures_util::poll!(marking.as_mut()).is_pending());
        }
        state.close().await;
        assert!(open(&folder, Arc::new(SystemClock)).await.is_done("work", event).await.unwrap());
    }

    #[tokio::test]
    async fn finished_work_is_forgotten_after_a_week() {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(Manual(Mutex::new(Timestamp::now())));
        let state = open(&folder, Arc::clone(&clock) as Arc<dyn Clock>).await;
        let count = async || {
            state
                .read("count", async |file| {
                    sqlx::query_scalar::<_, i64>("SELECT count(*) FROM done").fetch_one(file).await
                })
                .await
                .unwrap()
        };
        let mark = async |times: i64| {
            let marked = join_all((0..times).map(|_| state.mark_done("work", Uuid::now_v7()))).await;
            assert!(marked.iter().all(Result::is_ok));
        };
        let old = Uuid::now_v7();
        state.mark_done("work", old).await.unwrap();
        mark(DONE_SWEEP - 1).await;
        assert_eq!(count().await, DONE_SWEEP, "all of one week");
        *clock.0.lock() += SignedDuration::from_hours(8 * 24);
        assert!(!state.is_done("work", old).await.unwrap());
        mark(DONE_SWEEP).await;
        assert_eq!(count().await, DONE_SWEEP, "those of the week before are gone");
        state.close().await;
    }

    #[tokio::test]
    async fn a_file_of_somebody_else_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("outbox.db");
        std::fs::write(&path, "these are notes\n").unwrap();
        let refused = LocalState::open(&path, Arc::new(SystemClock), &Shutdown::new()).await;
        assert!(matches!(refused, Err(BusError::Foreign { .. })), "{refused:?}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "these are notes\n");
    }
}
