//! The doors of the bus in a file. A publisher appends on the runtime's threads for blocking work, within the call.

use std::{
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use jiff::Timestamp;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::{
    append::{self, storage},
    lines::{Line, Lines},
    stream::FileStream,
};
use crate::bus::{
    Body, BusError, Capabilities, Event, EventBus, EventStream, Held, Lane, Pattern, Position, Pruned,
    Publish, Published, Query, QueueInfo, QueueSpec, Received, Retention, Selection, Stats, Subscription,
    Unparsed, WorkQueue, event,
};

/// Bytes that a look backwards begins with, and the most that it reads at once.
const FIRST_WINDOW: u64 = 64 << 10;
const LARGEST_WINDOW: u64 = 4 << 20;

/// What to use for what a file can't do.
const INSTEAD: &str = "a file keeps events and nothing else; use sqlite: or amqp://";

/// A bus in a file of JSON lines.
///
/// A position is the place in the file where the next line starts. A line has no time of its own, so the times of this
/// bus are those in the events.
#[derive(Clone)]
pub struct FileBus {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) path: PathBuf,
    max_event_bytes: usize,
    /// Held by whoever appends, and by a close that waits for them.
    appending: Arc<Mutex<()>>,
    /// Rung after each append of this process, so that its own subscribers need not wait for their next look.
    pub(super) bell: Notify,
    pub(super) closed: CancellationToken,
}

impl fmt::Debug for FileBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileBus").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl FileBus {
    /// A bus in this file, which the first event makes if there is none.
    ///
    /// # Errors
    /// [`BusError::Invalid`] when the path is something else than a file, [`BusError::Storage`] when it can't be one.
    pub fn open(path: &Path, max_event_bytes: usize) -> Result<Self, BusError> {
        match std::fs::metadata(path) {
            Ok(metadata) if metadata.is_file() => {}
            Ok(_) => {
                let path = path.display();
                return Err(BusError::Invalid(format!(
                    "{path} is no plain file; name another one with file:PATH"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
                if parent.is_some_and(|parent| !parent.is_dir()) {
                    let reason = "there is no such directory; make it first".to_owned();
                    return Err(BusError::Storage { doing: format!("open {}", path.display()), reason });
                }
            }
            Err(error) => return Err(storage("open", path, &error)),
        }
        let shared = Shared {
            path: path.to_owned(),
            max_event_bytes,
            appending: Arc::default(),
            bell: Notify::new(),
            closed: CancellationToken::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl Shared {
    fn is_open(&self) -> Result<(), BusError> {
        if self.closed.is_cancelled() { Err(BusError::Closed) } else { Ok(()) }
    }

    fn unsupported<T>(&self, what: &'static str) -> Result<T, BusError> {
        self.is_open()?;
        Err(BusError::Unsupported { what, bus: self.to_string(), instead: INSTEAD.to_owned() })
    }

    pub(super) fn failed(&self, error: &io::Error) -> BusError {
        storage("read", &self.path, error)
    }

    /// A line as an event, or as what it is; `None` for an empty one, which separates what a crash left behind.
    pub(super) fn received(&self, line: Line) -> Option<Received> {
        if line.bytes.trim_ascii().is_empty() {
            return None;
        }
        let position = Some(Position(line.end));
        if line.length > self.max_event_bytes as u64 {
            let reason = format!(
                "{} bytes, and {} are allowed, which is all that is shown; raise bus.max_event_bytes to read it",
                line.length, self.max_event_bytes
            );
            let body = Body::Unparsed(Unparsed { raw: line.bytes, reason });
            return Some(Received { position, at: None, routing_key: String::new(), body });
        }
        // Nothing tells when a line was written, so an event without a time is as old as can be.
        Some(match event::read(&line.bytes, None, Timestamp::UNIX_EPOCH, self.max_event_bytes) {
            Ok(event) => {
                let routing_key = event.event_type.as_str().to_owned();
                Received { position, at: Some(event.timestamp), routing_key, body: Body::Event(event) }
            }
            Err(unparsed) => {
                let body = Body::Unparsed(unparsed);
                Received { position, at: None, routing_key: String::new(), body }
            }
        })
    }

    pub(super) async fn lines(&self, from: u64) -> Result<Option<Lines>, BusError> {
        match Lines::open(&self.path, from, self.max_event_bytes).await {
            Ok(lines) => Ok(Some(lines)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The length of the file while nobody writes; 0 if there is none.
    pub(super) async fn settled_length(&self) -> Result<u64, BusError> {
        let path = self.path.clone();
        let length = blocking(move || append::settled_length(&path)).await?;
        Ok(length.unwrap_or(0))
    }

    /// The newest events before `before` that match.
    async fn page(&self, query: &Query) -> Result<Vec<Received>, BusError> {
        let length = self.settled_length().await?;
        // The position of an event is its end; one that ends earlier ends at least a newline earlier.
        let mut end = query.before.map_or(length, |before| before.0.saturating_sub(1).min(length));
        let mut window = FIRST_WINDOW;
        let mut newest: Vec<Vec<Received>> = Vec::new();
        let mut left = query.limit;
        while end > 0 && left > 0 {
            self.is_open()?;
            let from = end.saturating_sub(window);
            let Some(mut lines) = self.lines(from).await? else { break };
            let mut first = None;
            let mut found = Vec::new();
            while let Some(line) = lines.next_of_whole().await.map_err(|error| self.failed(&error))? {
                if line.end > end {
                    break;
                }
                first.get_or_insert(line.start);
                found.extend(self.received(line).filter(|received| {
                    let since = query.since.is_none_or(|since| received.at.is_some_and(|at| at >= since));
                    since && matches_any(&query.patterns, &received.routing_key)
                }));
            }
            let surplus = found.len().saturating_sub(left);
            found.drain(..surplus);
            left -= found.len();
            newest.push(found);
            // Nothing starts in this window if a line is longer; then it has to be larger.
            end = first.unwrap_or(end);
            if first.is_none() && from == 0 {
                break;
            }
            window = if first.is_none() { window * 2 } else { (window * 2).min(LARGEST_WINDOW) };
        }
        Ok(newest.into_iter().rev().flatten().collect())
    }

    async fn stats(&self) -> Result<Stats, BusError> {
        let end = self.settled_length().await?;
        let mut stats =
            Stats { bus: self.to_string(), bytes: Some(end), events: Some(0), ..Stats::default() };
        let Some(mut lines) = self.lines(0).await? else { return Ok(stats) };
        let mut events = 0;
        while let Some(line) = lines.next_of_whole().await.map_err(|error| self.failed(&error))? {
            self.is_open()?;
            if line.end > end {
                break;
            }
            let Some(received) = self.received(line) else { continue };
            events += 1;
            if let Some(at) = received.at {
                stats.oldest = Some(stats.oldest.map_or(at, |oldest| oldest.min(at)));
                stats.newest = Some(stats.newest.map_or(at, |newest| newest.max(at)));
                *stats.types.entry(received.routing_key).or_default() += 1;
            }
        }
        stats.events = Some(events);
        Ok(stats)
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "file:{}", self.path.display())
    }
}

pub(super) fn matches_any(patterns: &[Pattern], key: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(key))
}

/// Runs short work that blocks.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BusError> + Send + 'static,
) -> Result<T, BusError> {
    #[allow(clippy::disallowed_methods, reason = "one write and one flush, which end by themselves")]
    let done = tokio::task::spawn_blocking(work).await;
    // It can't panic, and is cancelled only when the runtime ends.
    done.unwrap_or(Err(BusError::Closed))
}

#[async_trait]
impl EventBus for FileBus {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            history: true,
            queues: false,
            dedupes: false,
            cursors: false,
            shared: true,
            reports_unrouted: false,
        }
    }

    async fn publish(&self, events: &[Event], _options: Publish) -> Result<Published, BusError> {
        let shared = &self.shared;
        let mut bytes = Vec::new();
        for event in events {
            bytes.append(&mut event::check(event, shared.max_event_bytes)?);
            bytes.push(b'\n');
        }
        let guard = Arc::clone(&shared.appending).lock_owned().await;
        shared.is_open()?;
        if events.is_empty() {
            return Ok(Published::default());
        }
        let path = shared.path.clone();
        // The guard goes along: a call that is cancelled still appends, and a close waits for that.
        let end = blocking(move || {
            let _guard = guard;
            append::append(&path, &bytes)
        })
        .await?;
        shared.bell.notify_waiters();
        Ok(Published { accepted: events.len() as u64, last: Some(Position(end)), ..Published::default() })
    }

    async fn publish_with_cursor(
        &self,
        _events: &[Event],
        _name: &str,
        _cursor: &str,
    ) -> Result<Published, BusError> {
        self.shared.unsupported("remembering a cursor")
    }

    async fn cursor(&self, _name: &str) -> Result<Option<String>, BusError> {
        self.shared.unsupported("remembering a cursor")
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError> {
        self.shared.is_open()?;
        Ok(Box::new(FileStream::open(Arc::clone(&self.shared), subscription).await?))
    }

    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
        self.shared.is_open()?;
        self.shared.page(&query).await
    }

    async fn queue(&self, _spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
        self.shared.unsupported("a work queue")
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        self.shared.unsupported("a work queue")
    }

    async fn peek(&self, _queue: &str, _lane: Lane, _limit: usize) -> Result<Vec<Held>, BusError> {
        self.shared.unsupported("a work queue")
    }

    async fn requeue(&self, _queue: &str, _which: &Selection) -> Result<u64, BusError> {
        self.shared.unsupported("a work queue")
    }

    async fn purge(&self, _queue: &str, _lane: Lane, _which: &Selection) -> Result<u64, BusError> {
        self.shared.unsupported("a work queue")
    }

    async fn delete_queue(&self, _queue: &str) -> Result<(), BusError> {
        self.shared.unsupported("a work queue")
    }

    async fn stats(&self) -> Result<Stats, BusError> {
        self.shared.is_open()?;
        self.shared.stats().await
    }

    async fn prune(&self, _retention: Retention) -> Result<Pruned, BusError> {
        self.shared.is_open()?;
        Err(BusError::Unsupported {
            what: "deleting old events",
            bus: self.shared.to_string(),
            instead: "move the file away, a new one is begun; or use sqlite:".to_owned(),
        })
    }

    async fn close(&self) {
        self.shared.closed.cancel();
        drop(self.shared.appending.lock().await);
    }
}
