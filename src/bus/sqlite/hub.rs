//! News: tells the streams and queues of this process that the file has changed.
//!
//! The writer rings for its own commits and the doorbell for those of others. One task looks for commits that nobody
//! rang for: often for a short while after it found one, seldom otherwise, and never while nobody waits. It looks at the
//! time and size of the write-ahead log, which costs next to nothing, and asks SQLite (`PRAGMA data_version`) when they
//! don't tell. It ends with the token it was given.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use sqlx::sqlite::SqliteConnection;
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Time between two looks right after a change that nobody rang for.
const SHORTEST: Duration = Duration::from_millis(3);

/// Time between two looks when nothing happens.
const LONGEST: Duration = Duration::from_millis(100);

/// A file that was written less than this ago may be written again without its time telling; clocks of file systems
/// tick in 1 to 10 ms.
const TICK: Duration = Duration::from_millis(50);

/// SQLite is asked at least this often, should a file system not tell the time of writes.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// How the time between two looks grows, as a ratio.
const GROWTH: (u32, u32) = (5, 4);

/// Where news is told.
#[derive(Debug)]
pub(super) struct Hub {
    count: watch::Sender<u64>,
    joined: Notify,
}

impl Hub {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { count: watch::Sender::new(0), joined: Notify::new() })
    }

    /// Something in the file has changed.
    pub(super) fn ring(&self) {
        self.count.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// A place to wait for news at. News that comes after the call is noticed.
    pub(super) fn listen(&self) -> watch::Receiver<u64> {
        let receiver = self.count.subscribe();
        self.joined.notify_one();
        receiver
    }

    /// How often it was rung.
    fn rings(&self) -> u64 {
        *self.count.borrow()
    }

    /// Waits until somebody listens.
    pub(super) async fn anybody(&self) {
        while self.count.receiver_count() == 0 {
            self.joined.notified().await;
        }
    }
}

/// What the write-ahead log looked like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Log {
    modified: SystemTime,
    bytes: u64,
}

impl Log {
    fn look(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self { modified: found.modified().ok()?, bytes: found.len() })
    }

    /// True if a later write must show: the time is a good deal older than what the system's clock ticks in.
    fn tells(&self) -> bool {
        SystemTime::now().duration_since(self.modified).is_ok_and(|age| age > TICK)
    }
}

/// Looks for changes until the token is cancelled. `connection` must do nothing else; it has this `file` open.
pub(super) async fn poll(
    hub: Arc<Hub>,
    mut connection: SqliteConnection,
    file: PathBuf,
    token: CancellationToken,
) {
    let mut log_path = file.into_os_string();
    log_path.push("-wal");
    let log_path = PathBuf::from(log_path);
    let looking = async {
        let mut pause = LONGEST;
        let (mut version, mut rings) = (None, hub.rings());
        // What the log looked like when SQLite was asked, if that is worth anything.
        let mut known: Option<Log> = None;
        let mut asked = Instant::now();
        loop {
            hub.anybody().await;
            let log = Log::look(&log_path);
            if known.is_some() && known == log && asked.elapsed() < ASK_AGAIN {
                pause = longer(pause);
            } else {
                asked = Instant::now();
                // A write that comes after this look and is not seen by SQLite now will show in the log.
                known = log.filter(Log::tells);
                match sqlx::query_scalar::<_, i64>("PRAGMA data_version").fetch_one(&mut connection).await {
                    Ok(found) if version.is_some_and(|version| version != found) => {
                        // A bell for one change may have been followed by another change without one.
                        pause = if hub.rings() == rings { SHORTEST } else { longer(pause) };
                        version = Some(found);
                        hub.ring();
                    }
                    Ok(found) => {
                        version = Some(found);
                        pause = longer(pause);
                    }
                    Err(error) => {
                        debug!(%error, "cannot look for changes");
                        hub.ring();
                        pause = LONGEST;
                    }
                }
            }
            rings = hub.rings();
            sleep(pause).await;
        }
    };
    // Cancel safe: nothing is remembered but what the next look would find.
    token.run_until_cancelled(looking).await;
    if let Err(error) = sqlx::Connection::close(connection).await {
        debug!(%error, "cannot close the connection that looked for changes");
    }
}

fn longer(pause: Duration) -> Duration {
    (pause * GROWTH.0 / GROWTH.1).min(LONGEST)
}
