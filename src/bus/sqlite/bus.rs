//! What all parts of an open bus share, and the bus's methods. Each method runs where it is called; it reads the file
//! by itself and asks the writer for everything else.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use sqlx::Row;
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    SqliteBus,
    append::{Append, Entry},
    hub::Hub,
    prune,
    queue::{Pile, SqliteQueue, attempts},
    reader::{Filter, Readers, receive, timestamp},
    schema::state,
    stream::SqliteStream,
    work::{LeaseKey, Part, STEP_ROWS},
    writer::{Op, Outcome, Request, Returns},
};
use crate::{
    bus::{
        BusError, Capabilities, Clock, Event, EventBus, EventStream, Held, Lane, Pruned, Publish, Published,
        Query, QueueInfo, QueueSpec, Received, Retention, Selection, Stats, Subscription, WorkQueue, event,
    },
    shutdown::Shutdown,
};

/// Bytes of events that may wait for the writer; more wait in their callers.
pub(super) const MAX_WAITING_BYTES: usize = 64 << 20;

/// One call of `publish` without a cursor is written in parts of this size, so that others get their turn.
const PART_EVENTS: usize = 1000;
const PART_BYTES: usize = 4 << 20;

/// What the bus, its streams, its queues and their leases share. When the last of them goes, all ends.
pub(super) struct Shared {
    pub(super) path: PathBuf,
    pub(super) max_event_bytes: usize,
    pub(super) retention: Retention,
    pub(super) seen_window: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Arc<Hub>,
    pub(super) readers: Readers,
    pub(super) returns: Arc<Returns>,
    /// Cancelled when the bus is closed.
    pub(super) over: CancellationToken,
    /// Tells the writer to end when it has done what waits.
    pub(super) stop: CancellationToken,
    pub(super) requests: mpsc::Sender<Request>,
    pub(super) room: Arc<Semaphore>,
    pub(super) shutdown: Shutdown,
    /// All tasks but the writer.
    pub(super) tasks: TaskTracker,
    pub(super) writing: TaskTracker,
    /// Leases that were handed out, by job.
    pub(super) held: Mutex<HashMap<i64, LeaseKey>>,
    pub(super) piles: Mutex<Vec<Weak<Pile>>>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.over.cancel();
        self.stop.cancel();
    }
}

/// A place in the writer's channel.
pub(super) struct Slot<'a>(mpsc::Permit<'a, Request>);

impl Slot<'_> {
    /// Asks without waiting for an answer.
    pub(super) fn send(self, op: Op) {
        let (reply, _) = oneshot::channel();
        self.0.send(Request { op, bytes: 0, reply, _share: None });
    }
}

impl Shared {
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    /// Starts a task that ends with the bus.
    pub(super) fn start(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        self.shutdown.spawn(name, self.tasks.track_future(task));
    }

    /// Waits for a place in the writer's channel. Cancel safe.
    pub(super) async fn slot(&self) -> Result<Slot<'_>, BusError> {
        self.requests.reserve().await.map(Slot).map_err(|_| BusError::Closed)
    }

    /// Asks the writer, and waits for its answer.
    pub(super) async fn ask(&self, op: Op) -> Result<Outcome, BusError> {
        let (reply, answer) = oneshot::channel();
        let bytes = match &op {
            Op::Append(append) => append.entries.iter().map(|entry| entry.body.len()).sum(),
            _ => 0,
        };
        let share = if bytes == 0 {
            None
        } else {
            let share = u32::try_from(bytes.min(MAX_WAITING_BYTES)).unwrap_or(u32::MAX);
            let room = Arc::clone(&self.room);
            Some(room.acquire_many_owned(share).await.map_err(|_| BusError::Closed)?)
        };
        let request = Request { op, bytes, reply, _share: share };
        self.requests.send(request).await.map_err(|_| BusError::Closed)?;
        answer.await.map_err(|_| BusError::Closed)?
    }

    async fn number(&self, op: Op) -> Result<u64, BusError> {
        match self.ask(op).await? {
            Outcome::Number(number) => Ok(number),
            Outcome::Published(_) | Outcome::Settled(_) | Outcome::Pruned(_) => Ok(0),
        }
    }

    async fn append(
        &self,
        entries: Vec<Entry>,
        cursor: Option<(String, String)>,
    ) -> Result<Published, BusError> {
        match self.ask(Op::Append(Append { entries, cursor })).await? {
            Outcome::Published(published) => Ok(published),
            Outcome::Number(_) | Outcome::Settled(_) | Outcome::Pruned(_) => Ok(Published::default()),
        }
    }

    /// Remembers a lease that was handed out.
    pub(super) fn hold(&self, key: LeaseKey) {
        self.held.lock().insert(key.job, key);
    }

    /// Forgets it.
    pub(super) fn let_go(&self, key: LeaseKey) {
        let mut held = self.held.lock();
        if held.get(&key.job) == Some(&key) {
            held.remove(&key.job);
        }
    }

    /// Empties this pile when the bus is closed.
    pub(super) fn watch(&self, pile: &Arc<Pile>) {
        let mut piles = self.piles.lock();
        piles.retain(|pile| pile.strong_count() > 0);
        piles.push(Arc::downgrade(pile));
    }

    fn check_open(&self) -> Result<(), BusError> {
        if self.over.is_cancelled() { Err(BusError::Closed) } else { Ok(()) }
    }

    fn entries(&self, events: &[Event]) -> Result<Vec<Entry>, BusError> {
        events
            .iter()
            .map(|event| {
                let body = event::check(event, self.max_event_bytes)?;
                Ok(Entry { id: event.event_id, routing_key: event.event_type.as_str().to_owned(), body })
            })
            .collect()
    }

    /// Publishes in parts.
    pub(super) async fn publish(&self, entries: Vec<Entry>) -> Result<Published, BusError> {
        let mut total = Published::default();
        let (mut part, mut bytes) = (Vec::new(), 0);
        for entry in entries {
            bytes += entry.body.len();
            part.push(entry);
            if part.len() >= PART_EVENTS || bytes >= PART_BYTES {
                bytes = 0;
                add(&mut total, self.append(std::mem::take(&mut part), None).await?);
            }
        }
        if !part.is_empty() {
            add(&mut total, self.append(part, None).await?);
        }
        Ok(total)
    }

    /// A queue's number. Leases and delays whose time is over are ended first, so that all see things as they are.
    async fn queue_id(&self, name: &str) -> Result<i64, BusError> {
        self.check_open()?;
        let found: Option<i64> = self
            .readers
            .read(async |connection| {
                sqlx::query_scalar("SELECT id FROM queues WHERE name = ?")
                    .bind(name)
                    .fetch_optional(connection)
                    .await
            })
            .await?;
        let id = found.ok_or_else(|| BusError::NoSuchQueue(name.to_owned()))?;
        self.sweep(id).await?;
        Ok(id)
    }

    async fn sweep(&self, queue: i64) -> Result<(), BusError> {
        let situation = self.readers.situation(queue).await?;
        if situation.and_then(|situation| situation.due).is_some_and(|due| due <= self.now_ms()) {
            self.ask(Op::Sweep(queue)).await?;
        }
        Ok(())
    }

    /// Repeats a step until it has reached all jobs that are there now.
    async fn in_steps(
        &self,
        queue: i64,
        lane: Option<Lane>,
        which: &Selection,
        op: impl Fn(Part) -> Op,
    ) -> Result<u64, BusError> {
        let last = self
            .readers
            .read(async |connection| {
                sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM jobs").fetch_one(connection).await
            })
            .await?;
        let mut total = 0;
        loop {
            let part = Part { queue, lane, which: which.clone(), last };
            let rows = self.number(op(part)).await?;
            total += rows;
            if rows < STEP_ROWS.unsigned_abs() {
                return Ok(total);
            }
        }
    }
}

fn add(total: &mut Published, part: Published) {
    total.accepted += part.accepted;
    total.duplicates += part.duplicates;
    total.last = part.last.or(total.last);
}

fn count(row: &sqlx::sqlite::SqliteRow, column: usize) -> Result<u64, sqlx::Error> {
    row.try_get::<i64, _>(column).map(i64::unsigned_abs)
}

#[async_trait]
impl EventBus for SqliteBus {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: true,
            history: true,
            queues: true,
            dedupes: true,
            cursors: true,
            shared: true,
            reports_unrouted: false,
        }
    }

    async fn publish(&self, events: &[Event], _options: Publish) -> Result<Published, BusError> {
        self.shared.check_open()?;
        let entries = self.shared.entries(events)?;
        self.shared.publish(entries).await
    }

    async fn publish_with_cursor(
        &self,
        events: &[Event],
        name: &str,
        cursor: &str,
    ) -> Result<Published, BusError> {
        self.shared.check_open()?;
        let entries = self.shared.entries(events)?;
        self.shared.append(entries, Some((name.to_owned(), cursor.to_owned()))).await
    }

    async fn cursor(&self, name: &str) -> Result<Option<String>, BusError> {
        self.shared.check_open()?;
        self.shared
            .readers
            .read(async |connection| {
                let query = sqlx::query_scalar("SELECT value FROM cursors WHERE name = ?").bind(name);
                query.fetch_optional(connection).await
            })
            .await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError> {
        self.shared.check_open()?;
        Ok(Box::new(SqliteStream::new(Arc::clone(&self.shared), subscription).await?))
    }

    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
        self.shared.check_open()?;
        let readers = &self.shared.readers;
        let edge = readers.edge().await?.last;
        let first = match query.since {
            Some(since) => readers.first_at(since).await?,
            None => 1,
        };
        let before = query.before.map_or(i64::MAX, |before| i64::try_from(before.0).unwrap_or(i64::MAX));
        let mut cursor = before.min(edge + 1);
        let mut filter = Filter::new(query.patterns);
        let mut found: Vec<Received> = Vec::new();
        while found.len() < query.limit && cursor > first {
            let page = readers.backward(&mut filter, cursor, first, query.limit - found.len()).await?;
            cursor = page.cursor;
            found.extend(page.events);
            if page.end {
                break;
            }
        }
        found.reverse();
        Ok(found)
    }

    async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
        self.shared.check_open()?;
        let op = Op::OpenQueue { name: spec.name.clone(), bindings: spec.bindings.clone() };
        let id = self.shared.number(op).await?.cast_signed();
        Ok(Box::new(SqliteQueue::new(Arc::clone(&self.shared), id, spec)))
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        self.shared.check_open()?;
        let readers = &self.shared.readers;
        let ids: Vec<i64> = readers
            .read(async |connection| sqlx::query_scalar("SELECT id FROM queues").fetch_all(connection).await)
            .await?;
        for id in ids {
            self.shared.sweep(id).await?;
        }
        readers
            .read(async |connection| {
                let rows = sqlx::query(
                    "SELECT q.name, (SELECT json_group_array(pattern) FROM bindings b WHERE b.queue_id = q.id),
                        (SELECT count(*) FROM jobs j WHERE j.queue_id = q.id AND j.state = 0),
                        (SELECT count(*) FROM jobs j WHERE j.queue_id = q.id AND j.state = 1),
                        (SELECT count(*) FROM jobs j WHERE j.queue_id = q.id AND j.state = 2),
                        (SELECT count(*) FROM jobs j WHERE j.queue_id = q.id AND j.state = 3)
                     FROM queues q ORDER BY q.name",
                )
                .fetch_all(connection)
                .await?;
                rows.iter()
                    .map(|row| {
                        Ok(QueueInfo {
                            name: row.try_get(0)?,
                            bindings: serde_json::from_str(row.try_get(1)?).ok(),
                            ready: count(row, 2)?,
                            leased: Some(count(row, 3)?),
                            dead: count(row, 4)?,
                            delayed: count(row, 5)?,
                            consumers: None,
                        })
                    })
                    .collect()
            })
            .await
    }

    async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError> {
        let id = self.shared.queue_id(queue).await?;
        let states = match lane {
            Lane::Ready => [state::READY, state::DELAYED],
            Lane::Dead => [state::DEAD, state::DEAD],
        };
        self.shared
            .readers
            .read(async |connection| {
                let rows = sqlx::query(
                    "SELECT j.seq, j.at, (SELECT name FROM types t WHERE t.id = j.type_id),
                        coalesce(j.body, (SELECT e.body FROM events e WHERE e.seq = j.seq)),
                        j.attempts, j.reason, j.since, j.hold_ms, j.state, j.history
                     FROM jobs j WHERE j.id IN (
                        SELECT * FROM (SELECT id FROM jobs WHERE queue_id = ?1 AND state = ?2 ORDER BY id LIMIT ?4)
                        UNION
                        SELECT * FROM (SELECT id FROM jobs WHERE queue_id = ?1 AND state = ?3 ORDER BY id LIMIT ?4)
                     ) ORDER BY j.id LIMIT ?4",
                )
                .bind(id)
                .bind(states[0])
                .bind(states[1])
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(connection)
                .await?;
                rows.iter().map(held).collect()
            })
            .await
    }

    async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError> {
        let id = self.shared.queue_id(queue).await?;
        self.shared.in_steps(id, Some(Lane::Dead), which, Op::Requeue).await
    }

    async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError> {
        let id = self.shared.queue_id(queue).await?;
        self.shared.in_steps(id, Some(lane), which, Op::Purge).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BusError> {
        self.shared.check_open()?;
        let id = self.shared.number(Op::DeleteQueue(queue.to_owned())).await?.cast_signed();
        self.shared.in_steps(id, None, &Selection::All, Op::Purge).await.map(drop)
    }

    async fn stats(&self) -> Result<Stats, BusError> {
        self.shared.check_open()?;
        let path = &self.shared.path;
        let (types, oldest, newest) = self
            .shared
            .readers
            .read(async |connection| {
                let types: Vec<(String, i64)> =
                    sqlx::query_as("SELECT name, events FROM types WHERE events > 0")
                        .fetch_all(&mut *connection)
                        .await?;
                let (oldest, newest): (Option<i64>, Option<i64>) = sqlx::query_as(
                    "SELECT (SELECT at FROM events ORDER BY seq LIMIT 1),
                        (SELECT at FROM events ORDER BY seq DESC LIMIT 1)",
                )
                .fetch_one(connection)
                .await?;
                Ok((types, oldest, newest))
            })
            .await?;
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let size = |path: &std::path::Path| std::fs::metadata(path).map_or(0, |found| found.len());
        Ok(Stats {
            bus: format!("sqlite:{}", path.display()),
            events: Some(types.iter().map(|(_, events)| events.unsigned_abs()).sum()),
            oldest: oldest.map(timestamp),
            newest: newest.map(timestamp),
            bytes: Some(size(path) + size(log.as_ref())),
            types: types.into_iter().map(|(name, events)| (name, events.unsigned_abs())).collect(),
            link: None,
        })
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, BusError> {
        self.shared.check_open()?;
        prune::prune(&self.shared, retention).await
    }

    async fn close(&self) {
        let shared = &self.shared;
        shared.over.cancel();
        // What nobody will settle any more goes back at once, so that others need not wait for its time to end.
        let piles: Vec<Arc<Pile>> = shared.piles.lock().iter().filter_map(Weak::upgrade).collect();
        for pile in piles {
            shared.returns.push(pile.shut());
        }
        shared.returns.push(std::mem::take(&mut *shared.held.lock()).into_values());
        // The writer's connection is to be the last one, as that one tidies up the write-ahead log.
        shared.readers.close().await;
        shared.tasks.close();
        shared.tasks.wait().await;
        shared.stop.cancel();
        shared.writing.close();
        shared.writing.wait().await;
    }
}

fn held(row: &sqlx::sqlite::SqliteRow) -> Result<Held, sqlx::Error> {
    let name: Option<&str> = row.try_get(2)?;
    let (since, hold_ms, in_state): (i64, i64, i64) = (row.try_get(6)?, row.try_get(7)?, row.try_get(8)?);
    Ok(Held {
        received: receive(row.try_get(0)?, row.try_get(1)?, name.unwrap_or_default(), row.try_get(3)?),
        attempts: u32::try_from(row.try_get::<i64, _>(4)?).unwrap_or(u32::MAX),
        reason: if in_state == state::DEAD { row.try_get(5)? } else { None },
        since: match in_state {
            state::DEAD => Some(timestamp(since)),
            state::DELAYED => Some(timestamp(since.saturating_add(hold_ms))),
            _ => None,
        },
        history: attempts(row.try_get(9)?),
    })
}
