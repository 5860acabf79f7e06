//! One consumer of a queue: leases a few jobs ahead, hands them out, gives back what it does not need.
//!
//! Jobs are leased when somebody asks for work and none is left, by asking the writer; what it leased lands in the
//! consumer's [`Pile`], so that a call that is cancelled in between loses nothing. One small task for each consumer gives
//! back what lies there for too long, as long leases of idle work would keep it from others; it ends when the consumer
//! is drained or dropped.

use std::{
    collections::VecDeque,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex as Lock;
use serde::Deserialize;
use tokio::sync::{Mutex, Notify};
use tokio_util::sync::CancellationToken;

use super::{
    bus::Shared,
    reader::{receive, timestamp},
    work::{CLOCK_TOLERANCE_MS, Claim, Claimed, LeaseKey, Settlement},
    writer::{Op, Outcome},
};
use crate::bus::{Attempt, BusError, Delivery, Lease, QueueSpec, Settled, WorkQueue};

/// Jobs that one claim takes at most.
const MAX_CLAIM: u16 = 128;

/// What is leased ahead is given back when it was not handed out for this part of the visibility. Its lease is longer
/// by the same part, so that whoever gets it has all of the time that was promised.
const IDLE_PART: u32 = 4;

/// Waits are cut into parts of this length, as the wall clock may be set while we wait.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// When a claim found nothing although something is there, the next one comes after this, or with news.
const AGAIN: Duration = Duration::from_millis(AGAIN_MS.unsigned_abs());
const AGAIN_MS: i64 = 500;

/// Leases and delays are no longer than this, about 100 years.
const MAX_MS: i64 = 100 * 365 * 24 * 3600 * 1000;

/// Leased jobs that nobody has yet.
#[derive(Debug, Default)]
pub(super) struct Pile {
    state: Lock<PileState>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct PileState {
    jobs: VecDeque<(Claimed, Instant)>,
    /// A claim is on its way.
    claiming: bool,
    /// The last claim found something, so that there may be more.
    more: bool,
    /// The news that the last claim went by, and when it was made.
    claimed_at: Option<(u64, Instant)>,
    error: Option<BusError>,
    shut: bool,
}

impl Pile {
    /// Takes in what a claim brought. Gives the keys of what nobody wants any more.
    pub(super) fn put(&self, claimed: Vec<Claimed>) -> Vec<LeaseKey> {
        let mut state = self.state.lock();
        state.claiming = false;
        state.more = !claimed.is_empty();
        let now = Instant::now();
        let refused = if state.shut {
            claimed.iter().map(|claimed| claimed.key).collect()
        } else {
            state.jobs.extend(claimed.into_iter().map(|claimed| (claimed, now)));
            Vec::new()
        };
        drop(state);
        self.changed.notify_waiters();
        refused
    }

    /// A claim failed.
    pub(super) fn fail(&self, error: BusError) {
        let mut state = self.state.lock();
        state.claiming = false;
        state.error = Some(error);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Takes nothing in from now on. Gives the keys of what is left.
    pub(super) fn shut(&self) -> Vec<LeaseKey> {
        let mut state = self.state.lock();
        state.shut = true;
        let left = state.jobs.drain(..).map(|(claimed, _)| claimed.key).collect();
        drop(state);
        self.changed.notify_waiters();
        left
    }

    fn take(&self) -> Option<Result<Claimed, BusError>> {
        let mut state = self.state.lock();
        match state.jobs.pop_front() {
            Some((claimed, _)) => Some(Ok(claimed)),
            None => state.error.take().map(Err),
        }
    }

    /// Takes what has been here for at least this long.
    fn take_old(&self, age: Duration) -> Vec<LeaseKey> {
        let mut state = self.state.lock();
        let old = state.jobs.iter().take_while(|(_, since)| since.elapsed() >= age).count();
        state.jobs.drain(..old).map(|(claimed, _)| claimed.key).collect()
    }

    /// When the oldest came.
    fn oldest(&self) -> Option<Instant> {
        self.state.lock().jobs.front().map(|(_, since)| *since)
    }
}

/// One consumer.
pub(super) struct SqliteQueue {
    shared: Arc<Shared>,
    id: i64,
    spec: QueueSpec,
    pile: Arc<Pile>,
    /// One worker at a time looks for work.
    turn: Mutex<()>,
    /// Ends the task that gives back.
    ended: CancellationToken,
}

impl SqliteQueue {
    pub(super) fn new(shared: Arc<Shared>, id: i64, spec: QueueSpec) -> Self {
        let pile = Arc::new(Pile::default());
        let ended = shared.over.child_token();
        shared.watch(&pile);
        let age = spec.visibility / IDLE_PART;
        shared
            .start("sqlite-queue", tidy(Arc::clone(&pile), Arc::clone(&shared.returns), age, ended.clone()));
        Self { shared, id, spec, pile, turn: Mutex::new(()), ended }
    }

    /// Asks the writer for jobs; they land in the pile.
    async fn claim(&self, news: u64) -> Result<(), BusError> {
        let slot = self.shared.slot().await?;
        {
            let mut state = self.pile.state.lock();
            if state.shut || std::mem::replace(&mut state.claiming, true) {
                return Ok(());
            }
            state.claimed_at = Some((news, Instant::now()));
        }
        let visibility = milliseconds(self.spec.visibility);
        slot.send(Op::Claim(
            Claim {
                queue: self.id,
                want: self.spec.prefetch.clamp(1, MAX_CLAIM),
                lease_ms: visibility.saturating_add(visibility / i64::from(IDLE_PART)).max(1),
                holder: self.spec.consumer.clone(),
                max_attempts: self.spec.max_attempts.get(),
                dedupe: self.spec.dedupe,
            },
            Arc::clone(&self.pile),
        ));
        Ok(())
    }

    /// Waits until there may be something in the pile.
    async fn look(&self) -> Result<(), BusError> {
        // From here on nothing is missed.
        let mut news = self.shared.hub.listen();
        let changed = self.pile.changed.notified();
        let seen = *news.borrow_and_update();
        let (claiming, more, in_vain) = {
            let state = self.pile.state.lock();
            if !state.jobs.is_empty() || state.error.is_some() || state.shut {
                return Ok(());
            }
            // What is there may not be for us, such as a second message about an event that somebody works on.
            let in_vain = state.claimed_at.is_some_and(|(news, at)| news == seen && at.elapsed() < AGAIN);
            (state.claiming, state.more, in_vain && !state.more)
        };
        let mut due = None;
        if !claiming {
            let mut ready = more;
            if !ready {
                let situation = self.shared.readers.situation(self.id).await?;
                let situation = situation.ok_or_else(|| BusError::NoSuchQueue(self.spec.name.clone()))?;
                let now = self.shared.now_ms();
                let over = situation.due.is_some_and(|due| due <= now);
                ready = (situation.ready || over) && !in_vain;
                due = if in_vain && situation.ready {
                    Some(situation.due.map_or(now + AGAIN_MS, |due| due.clamp(now + 1, now + AGAIN_MS)))
                } else {
                    situation.due
                };
            }
            if ready {
                self.claim(seen).await?;
                due = None;
            }
        }
        // Cancel safe: each of these can be waited for again.
        tokio::select! {
            () = changed => {}
            () = self.ended.cancelled() => {}
            back = self.until(due), if due.is_some() => {
                if back {
                    self.shared.slot().await?.send(Op::Sweep(self.id));
                }
            }
            _ = news.changed() => {}
        }
        Ok(())
    }

    /// Waits until the wall clock shows this time. True if it was put back instead.
    async fn until(&self, due: Option<i64>) -> bool {
        let Some(due) = due else { return false };
        let start = self.shared.now_ms();
        loop {
            let now = self.shared.now_ms();
            if now >= due || now < start - CLOCK_TOLERANCE_MS {
                return now < due;
            }
            let wait = Duration::from_millis((due - now).unsigned_abs());
            tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
        }
    }

    fn deliver(&self, claimed: &Claimed) -> Delivery {
        self.shared.hold(claimed.key);
        Delivery {
            received: receive(claimed.seq, claimed.at, &claimed.routing_key, &claimed.body),
            attempt: u32::try_from(claimed.attempts).unwrap_or(u32::MAX),
            history: attempts(&claimed.history),
            lease: Box::new(SqliteLease {
                shared: Arc::clone(&self.shared),
                key: claimed.key,
                dedupe: self.spec.dedupe,
            }),
        }
    }
}

#[async_trait]
impl WorkQueue for SqliteQueue {
    async fn next(&self) -> Result<Option<Delivery>, BusError> {
        let _turn = self.turn.lock().await;
        loop {
            if self.ended.is_cancelled() {
                return Ok(None);
            }
            // What lay here for too long is not handed out, as its lease may be over soon.
            self.shared.returns.push(self.pile.take_old(self.spec.visibility / IDLE_PART));
            match self.pile.take() {
                Some(Ok(claimed)) => return Ok(Some(self.deliver(&claimed))),
                Some(Err(BusError::Closed)) => return Ok(None),
                Some(Err(error)) => return Err(error),
                None => match self.look().await {
                    Err(BusError::Closed) => return Ok(None),
                    looked => looked?,
                },
            }
        }
    }

    async fn drain(&self) {
        self.ended.cancel();
        let left = self.pile.shut();
        if let Err(error) = self.shared.ask(Op::Release(left.clone())).await
            && !matches!(error, BusError::Closed)
        {
            // The writer tries again with whatever it writes next.
            self.shared.returns.push(left);
        }
    }
}

impl Drop for SqliteQueue {
    fn drop(&mut self) {
        self.ended.cancel();
        self.shared.returns.push(self.pile.shut());
    }
}

impl fmt::Debug for SqliteQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteQueue").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

/// Gives back what lies in a pile for this long, until the consumer ends.
async fn tidy(
    pile: Arc<Pile>,
    returns: Arc<super::writer::Returns>,
    age: Duration,
    ended: CancellationToken,
) {
    let tidying = async {
        loop {
            let changed = pile.changed.notified();
            match pile.oldest() {
                None => changed.await,
                Some(since) => {
                    tokio::time::sleep_until((since + age).into()).await;
                    returns.push(pile.take_old(age));
                }
            }
        }
    };
    // Cancel safe: who ends the consumer gives back the rest.
    ended.run_until_cancelled(tidying).await;
}

/// A lease that was handed out.
struct SqliteLease {
    shared: Arc<Shared>,
    key: LeaseKey,
    dedupe: bool,
}

impl SqliteLease {
    async fn end(&self, op: Op) -> Result<Settled, BusError> {
        let answer = self.shared.ask(op).await;
        if matches!(answer, Ok(_) | Err(BusError::LeaseLost)) {
            self.shared.let_go(self.key);
        }
        match answer? {
            Outcome::Settled(settled) => Ok(settled),
            Outcome::Number(0) => Err(BusError::LeaseLost),
            Outcome::Number(_) | Outcome::Published(_) | Outcome::Pruned(_) => Ok(Settled::Retrying),
        }
    }
}

#[async_trait]
impl Lease for SqliteLease {
    async fn ack(&self) -> Result<(), BusError> {
        self.end(Op::Ack(self.key, self.dedupe)).await.map(drop)
    }

    async fn retry(&self, delay: Duration, reason: &str) -> Result<Settled, BusError> {
        let settlement = Settlement::Retry { delay_ms: milliseconds(delay), reason: reason.to_owned() };
        self.end(Op::Settle(self.key, settlement)).await
    }

    async fn dead(&self, reason: &str) -> Result<(), BusError> {
        self.end(Op::Settle(self.key, Settlement::Dead { reason: reason.to_owned() })).await.map(drop)
    }

    async fn release(&self) -> Result<(), BusError> {
        self.end(Op::Release(vec![self.key])).await.map(drop)
    }

    async fn extend(&self, visibility: Duration) -> Result<(), BusError> {
        let settlement = Settlement::Extend { lease_ms: milliseconds(visibility).max(1) };
        match self.shared.ask(Op::Settle(self.key, settlement)).await {
            Err(BusError::LeaseLost) => {
                self.shared.let_go(self.key);
                Err(BusError::LeaseLost)
            }
            answer => answer.map(drop),
        }
    }
}

impl Drop for SqliteLease {
    fn drop(&mut self) {
        self.shared.let_go(self.key);
    }
}

impl fmt::Debug for SqliteLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteLease").field("key", &self.key).finish_non_exhaustive()
    }
}

/// Whole milliseconds, rounded up so that nothing ends early.
fn milliseconds(time: Duration) -> i64 {
    let ms = time.as_nanos().div_ceil(1_000_000);
    i64::try_from(ms).unwrap_or(MAX_MS).min(MAX_MS)
}

/// A job's history as it is handed out.
pub(super) fn attempts(json: &str) -> Vec<Attempt> {
    #[derive(Deserialize)]
    struct Entry {
        at: i64,
        consumer: String,
        reason: String,
    }
    let entries: Vec<Entry> = serde_json::from_str(json).unwrap_or_default();
    let attempt =
        |entry: Entry| Attempt { at: timestamp(entry.at), consumer: entry.consumer, reason: entry.reason };
    entries.into_iter().map(attempt).collect()
}
