//! The writer: one task with the process's only writing connection.
//!
//! Whatever waits in its channel goes into one immediate transaction, which costs one wait for the disk; then everyone
//! is answered. While it waits for another process it tries again after random pauses, and once it has met another
//! writer it leaves pauses itself, so that each gets its turn. The task ends when the bus stops it or everyone who could
//! ask for something is gone; what was accepted by then is still written.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{Connection, sqlite::SqliteConnection};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, mpsc, oneshot},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    append::{Append, TypeIds, append},
    doorbell::Bell,
    errors::failed,
    hub::Hub,
    prune,
    queue::Pile,
    schema::FORMAT,
    work::{self, Claim, LeaseKey, Part, Settlement},
};
use crate::{
    bus::{BusError, Clock, Pattern, Published, Settled},
    db::{self, Fault},
};

/// Requests that wait for the writer; more wait in their callers.
pub(super) const MAX_WAITING: usize = 1024;

/// Limits on one transaction, so that other processes get their turn. One request always fits.
const MAX_GROUP: usize = 512;
const MAX_GROUP_BYTES: usize = 8 << 20;

/// Pauses while another process writes, in microseconds; commits take about 100 µs to 10 ms.
const PAUSES_US: std::ops::Range<u64> = 300..2500;

/// How long after it met another writer this one leaves pauses.
const POLITE_FOR: Duration = Duration::from_millis(200);

/// The write-ahead log is moved into the file by SQLite itself, but it starts again only in a moment without readers.
/// Beyond this size such a moment is looked for, once in so many commits.
const MAX_LOG_BYTES: u64 = 64 << 20;
const LOG_CHECK: u64 = 64;

/// What can be asked of the writer.
#[derive(Debug)]
pub(super) enum Op {
    Append(Append),
    Claim(Claim, Arc<Pile>),
    Ack(LeaseKey, bool),
    Settle(LeaseKey, Settlement),
    Release(Vec<LeaseKey>),
    Sweep(i64),
    OpenQueue { name: String, bindings: Vec<Pattern> },
    DeleteQueue(String),
    Purge(Part),
    Requeue(Part),
    Prune(prune::Step),
}

/// What it answers.
#[derive(Debug)]
pub(super) enum Outcome {
    Published(Published),
    Settled(Settled),
    /// A queue's number, how many rows, or nothing in particular.
    Number(u64),
    Pruned(prune::Progress),
}

/// A question with the way back.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) op: Op,
    pub(super) bytes: usize,
    pub(super) reply: oneshot::Sender<Result<Outcome, BusError>>,
    /// Its share of the memory that waiting requests may take.
    pub(super) _share: Option<OwnedSemaphorePermit>,
}

/// Leases that somebody has to give back who can't wait.
#[derive(Debug, Default)]
pub(super) struct Returns {
    keys: Mutex<Vec<LeaseKey>>,
    wake: Notify,
}

impl Returns {
    pub(super) fn push(&self, keys: impl IntoIterator<Item = LeaseKey>) {
        let mut waiting = self.keys.lock();
        waiting.extend(keys);
        if !waiting.is_empty() {
            self.wake.notify_one();
        }
    }

    fn take(&self) -> Vec<LeaseKey> {
        std::mem::take(&mut *self.keys.lock())
    }
}

/// The task's state.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) options: db::Options,
    /// None after a failure of the disk, until it is opened again.
    pub(super) connection: Option<SqliteConnection>,
    /// What the path led to when it was opened.
    pub(super) inode: Option<(u64, u64)>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) hub: Arc<Hub>,
    pub(super) bell: Option<Bell>,
    pub(super) returns: Arc<Returns>,
    pub(super) types: TypeIds,
    /// Queues whose times were checked since the clock last went back.
    pub(super) mended: HashSet<i64>,
    pub(super) latest: i64,
    /// Another process wrote at this time.
    pub(super) met: Option<Instant>,
    pub(super) commits: u64,
}

/// Why a transaction failed.
enum Failure {
    /// Nobody's request is to blame.
    Bus(BusError),
    /// SQLite refused something.
    Sql(sqlx::Error),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Sql(error)
    }
}

impl Writer {
    pub(super) async fn run(mut self, mut requests: mpsc::Receiver<Request>, stop: CancellationToken) {
        let returns = Arc::clone(&self.returns);
        loop {
            let first = tokio::select! {
                biased;
                () = stop.cancelled(), if !requests.is_closed() => {
                    requests.close();
                    continue;
                }
                request = requests.recv() => match request {
                    Some(request) => Some(request),
                    None => break,
                },
                () = returns.wake.notified() => None,
            };
            let mut bytes = first.as_ref().map_or(0, |request| request.bytes);
            let mut group: Vec<Request> = first.into_iter().collect();
            while group.len() < MAX_GROUP
                && bytes < MAX_GROUP_BYTES
                && let Ok(request) = requests.try_recv()
            {
                bytes += request.bytes;
                group.push(request);
            }
            self.work_off(group).await;
        }
        self.work_off(Vec::new()).await;
        if let Some(connection) = self.connection.take()
            && let Err(error) = connection.close().await
        {
            warn!(%error, path = %self.options.path.display(), "cannot close the bus's file in order");
        }
    }

    /// Carries out a group in one transaction; if it fails because of one of them, one by one.
    async fn work_off(&mut self, group: Vec<Request>) {
        let returned = self.returns.take();
        if group.is_empty() && returned.is_empty() {
            return;
        }
        let ops: Vec<&Op> = group.iter().map(|request| &request.op).collect();
        match self.transact(&ops, &returned).await {
            Ok(outcomes) => answer(group, outcomes),
            Err(Failure::Sql(error)) if group.len() > 1 && db::fault(&error) == Fault::Other => {
                debug!(%error, "a group of requests failed, trying them one by one");
                for (index, request) in group.into_iter().enumerate() {
                    let returned: &[LeaseKey] = if index == 0 { &returned } else { &[] };
                    match self.transact(&[&request.op], returned).await {
                        Ok(outcomes) => answer(vec![request], outcomes),
                        Err(failure) => self.refuse(vec![request], failure),
                    }
                }
            }
            Err(failure) => {
                // They end by themselves when their time is over; until then they can be given back again.
                self.returns.keys.lock().extend(returned);
                self.refuse(group, failure);
            }
        }
    }

    fn refuse(&self, group: Vec<Request>, failure: Failure) {
        let error = match failure {
            Failure::Bus(error) => error,
            Failure::Sql(error) => failed(&self.options.path, "write to", &error),
        };
        for request in group {
            if let Op::Claim(_, pile) = &request.op {
                pile.fail(error.clone());
            }
            // Whoever asked may have gone.
            drop(request.reply.send(Err(error.clone())));
        }
    }

    async fn transact(
        &mut self,
        ops: &[&Op],
        returned: &[LeaseKey],
    ) -> Result<Vec<Result<Outcome, BusError>>, Failure> {
        let floor = self.begin().await?;
        match self.carry_out(ops, returned, floor).await {
            Ok((outcomes, claims, news)) => {
                if self.met.is_some_and(|met| met.elapsed() >= POLITE_FOR) {
                    self.met = None;
                }
                self.commits = self.commits.wrapping_add(1);
                let asked = ops.iter().any(|op| matches!(op, Op::Prune(prune::Step::Checkpoint)));
                if asked || (self.commits.is_multiple_of(LOG_CHECK) && self.log_bytes() > MAX_LOG_BYTES) {
                    self.checkpoint().await;
                }
                // What is claimed can't be worked on before the claim is written.
                for (pile, claimed) in claims {
                    self.returns.push(pile.put(claimed));
                }
                if news {
                    self.hub.ring();
                    if let Some(bell) = &mut self.bell {
                        bell.ring();
                    }
                }
                Ok(outcomes)
            }
            Err(error) => {
                self.roll_back(db::fault(&error)).await;
                Err(error.into())
            }
        }
    }

    /// Begins a transaction that may write. Tells the time of the newest event.
    async fn begin(&mut self) -> Result<i64, Failure> {
        if let Some(met) = self.met
            && met.elapsed() < POLITE_FOR
        {
            sleep(Duration::from_micros(fastrand::u64(PAUSES_US))).await;
        }
        let path = &self.options.path;
        if db::inode_of(path) != self.inode {
            return Err(Failure::Bus(BusError::Storage {
                doing: format!("write to {}", path.display()),
                reason: "the file was removed or replaced while it was open; restart what uses it".to_owned(),
            }));
        }
        if self.connection.is_none() {
            self.connection = Some(reopen(&self.options).await.map_err(Failure::Bus)?);
        }
        let Some(connection) = &mut self.connection else { return Err(Failure::Bus(BusError::Closed)) };
        let started = Instant::now();
        loop {
            let begun = sqlx::query_scalar(
                "BEGIN IMMEDIATE; SELECT coalesce((SELECT at FROM events ORDER BY seq DESC LIMIT 1), 0)",
            )
            .fetch_one(&mut *connection)
            .await;
            match begun {
                Ok(floor) => return Ok(floor),
                Err(error) if db::fault(&error) == Fault::Busy => {
                    self.met = Some(Instant::now());
                    if started.elapsed() >= self.options.patience {
                        let reason = db::busy_reason(path, Some(started.elapsed()));
                        return Err(Failure::Bus(BusError::Unreachable {
                            bus: format!("sqlite:{}", path.display()),
                            reason,
                        }));
                    }
                    sleep(Duration::from_micros(fastrand::u64(PAUSES_US))).await;
                }
                Err(error) => {
                    let fault = db::fault(&error);
                    self.roll_back(fault).await;
                    return Err(error.into());
                }
            }
        }
    }

    fn log_bytes(&self) -> u64 {
        let mut log = self.options.path.as_os_str().to_owned();
        log.push("-wal");
        std::fs::metadata(log).map_or(0, |found| found.len())
    }

    /// Moves the write-ahead log into the file, as far as readers allow.
    async fn checkpoint(&mut self) {
        let Some(connection) = &mut self.connection else { return };
        if let Err(error) = sqlx::query("PRAGMA wal_checkpoint(TRUNCATE)").execute(connection).await {
            debug!(%error, "cannot move the write-ahead log into the file now");
        }
    }

    /// Ends a transaction that failed. After a failure of the disk the connection is not trusted any more.
    async fn roll_back(&mut self, fault: Fault) {
        self.types.clear();
        self.mended.clear();
        let Some(mut connection) = self.connection.take() else { return };
        // SQLite may have rolled back by itself, which makes this an error.
        let rolled_back = sqlx::query("ROLLBACK").execute(&mut connection).await;
        if matches!(fault, Fault::Busy | Fault::Full) || (fault == Fault::Other && rolled_back.is_ok()) {
            self.connection = Some(connection);
        } else if let Err(error) = connection.close().await {
            debug!(%error, "cannot close a failed connection");
        }
    }

    /// Does the work of a transaction, and commits. Tells what to answer, what was claimed for whom, and whether there
    /// is news for others.
    #[allow(clippy::type_complexity, reason = "used once")]
    async fn carry_out(
        &mut self,
        ops: &[&Op],
        returned: &[LeaseKey],
        floor: i64,
    ) -> Result<(Vec<Result<Outcome, BusError>>, Vec<(Arc<Pile>, Vec<work::Claimed>)>, bool), sqlx::Error>
    {
        let now = self.clock.now().as_millisecond();
        if now < self.latest.saturating_sub(work::CLOCK_TOLERANCE_MS) {
            self.mended.clear();
        }
        self.latest = now;
        let Some(connection) = &mut self.connection else { return Err(sqlx::Error::WorkerCrashed) };
        let mut outcomes: Vec<Option<Result<Outcome, BusError>>> = ops.iter().map(|_| None).collect();
        let mut news = false;

        if !returned.is_empty() {
            work::release(connection, now, returned).await?;
            news = true;
        }
        // All of these were asked for at the same time, so their order is ours to choose: new events are there before
        // work is looked for.
        for (op, outcome) in ops.iter().zip(&mut outcomes) {
            let done = match op {
                Op::Append(_) | Op::Ack(..) | Op::Claim(..) => continue,
                Op::Settle(key, how) => {
                    let settled = work::settle(connection, now, *key, how).await?;
                    news |= !matches!(how, Settlement::Dead { .. });
                    settled.map(Outcome::Settled)
                }
                Op::Release(keys) => {
                    news = true;
                    let released = work::release(connection, now, keys).await?;
                    Ok(Outcome::Number(released.iter().filter(|released| **released).count() as u64))
                }
                Op::Sweep(queue) => {
                    news = true;
                    if self.mended.insert(*queue) {
                        work::mend(connection, now, *queue).await?;
                    }
                    work::sweep(connection, now, *queue).await?;
                    Ok(Outcome::Number(0))
                }
                Op::OpenQueue { name, bindings } => {
                    let queue = work::open_queue(connection, name, bindings).await?;
                    if self.mended.insert(queue) {
                        work::mend(connection, now, queue).await?;
                    }
                    Ok(Outcome::Number(queue.unsigned_abs()))
                }
                Op::DeleteQueue(name) => {
                    news = true;
                    let queue = work::delete_queue(connection, name).await?;
                    queue
                        .map(|queue| Outcome::Number(queue.unsigned_abs()))
                        .ok_or_else(|| BusError::NoSuchQueue(name.clone()))
                }
                Op::Purge(part) => Ok(Outcome::Number(work::purge(connection, part).await?)),
                Op::Requeue(part) => {
                    news = true;
                    Ok(Outcome::Number(work::requeue(connection, now, part).await?))
                }
                Op::Prune(step) => Ok(Outcome::Pruned(prune::step(connection, now, step).await?)),
            };
            *outcome = Some(done);
        }

        let appends: Vec<&Append> = ops
            .iter()
            .filter_map(|op| if let Op::Append(append) = op { Some(append) } else { None })
            .collect();
        if !appends.is_empty() {
            let published = append(connection, &mut self.types, now.max(floor), &appends).await?;
            news |= published.iter().any(|published| published.accepted > 0);
            let slots = ops.iter().zip(&mut outcomes).filter(|(op, _)| matches!(op, Op::Append(_)));
            for ((_, outcome), published) in slots.zip(published) {
                *outcome = Some(Ok(Outcome::Published(published)));
            }
        }

        let acks: Vec<(LeaseKey, bool)> = ops
            .iter()
            .filter_map(|op| if let Op::Ack(key, dedupe) = op { Some((*key, *dedupe)) } else { None })
            .collect();
        if !acks.is_empty() {
            let held = work::acknowledge(connection, now, &acks).await?;
            let slots = ops.iter().zip(&mut outcomes).filter(|(op, _)| matches!(op, Op::Ack(..)));
            for ((_, outcome), held) in slots.zip(held) {
                let settled =
                    if held { Ok(Outcome::Settled(Settled::Retrying)) } else { Err(BusError::LeaseLost) };
                *outcome = Some(settled);
            }
        }

        let mut claims = Vec::new();
        for (op, outcome) in ops.iter().zip(&mut outcomes) {
            if let Op::Claim(claim, pile) = op {
                if self.mended.insert(claim.queue) {
                    work::mend(connection, now, claim.queue).await?;
                }
                let claimed = work::claim(connection, now, claim).await?;
                *outcome = Some(Ok(Outcome::Number(claimed.len() as u64)));
                claims.push((Arc::clone(pile), claimed));
            }
        }

        sqlx::query("COMMIT").execute(&mut *connection).await?;
        let outcomes = outcomes.into_iter().map(|outcome| outcome.unwrap_or(Err(BusError::Closed))).collect();
        Ok((outcomes, claims, news))
    }
}

/// Opens the file again after a failure. Where it was removed in the meantime, no new one takes its place.
async fn reopen(options: &db::Options) -> Result<SqliteConnection, BusError> {
    let mut connection = db::open(&FORMAT, options).await?;
    prepare(&mut connection).await.map_err(|error| failed(&options.path, "write to", &error))?;
    Ok(connection)
}

/// Makes a connection of `db::open` the writer's: it waits for others by itself, and keeps 16 MB of pages, as the index
/// on random ids is written all over.
pub(super) async fn prepare(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql("PRAGMA busy_timeout = 0; PRAGMA cache_size = -16000").execute(connection).await.map(drop)
}

fn answer(group: Vec<Request>, outcomes: Vec<Result<Outcome, BusError>>) {
    for (request, outcome) in group.into_iter().zip(outcomes) {
        // Whoever asked may have gone.
        drop(request.reply.send(outcome));
    }
}
