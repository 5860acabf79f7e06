//! Settling work: what one consumer has on its desk, and the ways in which a piece of it ends.
//!
//! AMQP knows no leases: a message belongs to a consumer for as long as its channel lives. So leases are kept here, and
//! the queue's task gives back what was not settled in time. What is to be tried again or is dead is published as a
//! copy, confirmed, and only then is the original acknowledged: a crash in between leaves both, never none.

use std::{
    collections::{HashMap, HashSet, VecDeque, hash_map::Entry},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures_util::FutureExt as _;
use jiff::Timestamp;
use lapin::{
    Acker, BasicProperties, Channel,
    options::{BasicAckOptions, BasicNackOptions, BasicQosOptions},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use uuid::Uuid;

use super::{
    super::{Attempt, BusError, Delivery, Lease, MAX_HISTORY, QueueSpec, Received, SeenIds, Settled},
    link::Link,
    message::{self, Death, Past},
    past,
    publish::Publisher,
    topology::{self, Names},
};

/// Finished work that a consumer remembers by itself, beside [`SeenIds`].
const REMEMBERED: usize = 4096;
/// A lease that would end later than the clock can say ends after this.
const FOREVER: Duration = Duration::from_secs(365 * 24 * 3600);

/// A message of a queue while this consumer has it.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) acker: Acker,
    /// Must live for as long as the message is to be settled.
    pub(super) channel: Channel,
    pub(super) properties: BasicProperties,
    /// What it was first routed by.
    pub(super) routing_key: String,
    pub(super) raw: Vec<u8>,
    pub(super) event: Option<Uuid>,
    /// This delivery's number.
    pub(super) attempt: u32,
    pub(super) history: Vec<Attempt>,
}

impl Work {
    /// What [`past`] knows it by.
    fn id(&self) -> Option<&str> {
        self.properties.message_id().as_ref().map(lapin::types::ShortString::as_str)
    }

    /// Remembers that this delivery was no attempt, because nobody was given it.
    pub(super) fn uncounted(&self, queue: &str) {
        if let Some(id) = self.id() {
            past::remember(queue, id, self.attempt.saturating_sub(1));
        }
    }

    /// Puts it back in its place in the queue.
    pub(super) async fn give_back(&self, link: &Link, queue: &str, attempts: u32) {
        if let Some(id) = self.id() {
            past::remember(queue, id, attempts);
        }
        let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        // If that fails its channel is gone, which has put it back already.
        settled(link, self.acker.nack(requeue)).await;
    }

    /// Acknowledges it; true if that was sent while its channel lived.
    async fn ack(&self, link: &Link) -> bool {
        settled(link, self.acker.ack(BasicAckOptions::default())).await
    }
}

/// Waits for what settles a message; true if it was sent. It may never end by itself when the connection breaks under
/// it, so that counts as a failure, as does an end of the broker's patience.
async fn settled(link: &Link, settling: impl Future<Output = lapin::Result<bool>>) -> bool {
    let mut online = link.online();
    online.mark_unchanged();
    tokio::select! {
        biased;
        sent = settling => matches!(sent, Ok(true)),
        _ = online.changed() => false,
        () = tokio::time::sleep(link.patience()) => false,
    }
}

/// What one consumer of a queue has to do with.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) spec: QueueSpec,
    pub(super) names: Names,
    /// The connection that consumes.
    pub(super) link: Link,
    /// The connection that publishes.
    pub(super) publishing: Link,
    pub(super) publisher: Publisher,
    pub(super) seen: Option<Arc<dyn SeenIds>>,
    pub(super) max_event_bytes: usize,
    state: Mutex<State>,
    /// Tells the task that there is something to do.
    pub(super) changed: Notify,
    /// Tells who waits for work.
    arrived: Notify,
    /// No more work is wanted.
    pub(super) stop: CancellationToken,
    /// What was fetched ahead is given back.
    pub(super) drained: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// Fetched, and not handed out yet.
    ready: VecDeque<(Received, Work)>,
    /// Handed out.
    leases: HashMap<u64, Active>,
    /// Events that are being worked on, and how often.
    events: HashMap<Uuid, u32>,
    done: Done,
    last: u64,
    /// Leases that are being settled.
    settling: usize,
    /// Who waits for work.
    waiting: usize,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Open,
    /// Nothing more is fetched.
    Drained,
    Failed(BusError),
    Closed,
}

#[derive(Debug)]
struct Active {
    work: Arc<Work>,
    until: Instant,
}

/// Events that were acknowledged here, the newest of them.
#[derive(Debug, Default)]
struct Done {
    events: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl Done {
    fn insert(&mut self, event: Uuid) {
        if self.events.insert(event) {
            self.order.push_back(event);
            if self.order.len() > REMEMBERED
                && let Some(oldest) = self.order.pop_front()
            {
                self.events.remove(&oldest);
            }
        }
    }
}

/// What somebody who waits for work gets.
#[derive(Debug)]
enum Next {
    Work(Box<Delivery>),
    /// Tell first whether the work on this event is done.
    LookUp(Uuid),
    Nothing,
    End,
}

/// What the task should see to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Needs {
    /// Somebody waits for work.
    pub(super) wanted: bool,
    /// Messages that are here.
    pub(super) held: usize,
    /// Somebody waits and none of those can be given to them.
    pub(super) starving: bool,
    /// When the first lease ends.
    pub(super) deadline: Option<Instant>,
    /// Something that was handed out is not settled yet.
    pub(super) busy: bool,
}

impl Desk {
    pub(super) fn new(
        spec: QueueSpec,
        names: Names,
        (link, publishing): (Link, Link),
        publisher: Publisher,
        seen: Option<Arc<dyn SeenIds>>,
        max_event_bytes: usize,
    ) -> Self {
        Self {
            spec,
            names,
            link,
            publishing,
            publisher,
            seen,
            max_event_bytes,
            state: Mutex::default(),
            changed: Notify::new(),
            arrived: Notify::new(),
            stop: CancellationToken::new(),
            drained: CancellationToken::new(),
        }
    }

    pub(super) fn queue(&self) -> &str {
        self.names.queue.as_str()
    }

    pub(super) fn needs(&self) -> Needs {
        let state = self.state.lock();
        let wanted = state.waiting > 0 && matches!(state.phase, Phase::Open);
        Needs {
            wanted,
            held: state.ready.len() + state.leases.len(),
            starving: wanted && !state.ready.iter().any(|(_, work)| self.is_free(&state, work)),
            deadline: state.leases.values().map(|active| active.until).min(),
            busy: !state.leases.is_empty() || state.settling > 0,
        }
    }

    /// Whether nobody here works on the same event.
    fn is_free(&self, state: &State, work: &Work) -> bool {
        !self.spec.dedupe || work.event.is_none_or(|event| !state.events.contains_key(&event))
    }

    /// Work that can be handed out now.
    pub(super) fn add(&self, received: Received, work: Work) {
        self.state.lock().ready.push_back((received, work));
        self.arrived.notify_waiters();
    }

    /// What was fetched ahead, to be given back or because its channel is gone.
    pub(super) fn clear(&self) -> VecDeque<(Received, Work)> {
        std::mem::take(&mut self.state.lock().ready)
    }

    pub(super) fn end(&self, failure: Option<BusError>) {
        let mut state = self.state.lock();
        if matches!(state.phase, Phase::Open) {
            state.phase = failure.map_or(Phase::Drained, Phase::Failed);
        }
        drop(state);
        self.arrived.notify_waiters();
    }

    /// Ends all leases: their connection is closed for good.
    pub(super) fn close(&self) {
        let mut state = self.state.lock();
        state.phase = Phase::Closed;
        state.ready.clear();
        state.leases.clear();
        drop(state);
        self.drained.cancel();
        self.arrived.notify_waiters();
    }

    /// Waits for work.
    pub(super) async fn next(self: &Arc<Self>) -> Result<Option<Delivery>, BusError> {
        let _waiting = Waiting::new(self);
        let mut looked_up = None;
        loop {
            let mut arrived = std::pin::pin!(self.arrived.notified());
            arrived.as_mut().enable();
            match self.take_next(looked_up)? {
                Next::Work(delivery) => return Ok(Some(*delivery)),
                Next::End => return Ok(None),
                // Nothing was taken yet, so a call that is cancelled here loses nothing.
                Next::LookUp(event) => looked_up = Some((event, self.is_done(event).await)),
                Next::Nothing => {
                    // By the time that there is something, an earlier answer is too old.
                    looked_up = None;
                    tokio::select! {
                        () = arrived => {}
                        () = self.link.closed() => return Ok(None),
                    }
                }
            }
        }
    }

    /// Whether anybody on this machine has done the work on this event.
    pub(super) async fn is_done(&self, event: Uuid) -> bool {
        let Some(seen) = self.seen.as_ref().filter(|_| self.spec.dedupe) else { return false };
        seen.is_done(self.queue(), event).await.unwrap_or_else(|error| {
            // Done twice is better than not at all.
            warn!(queue = self.queue(), %error, "cannot tell whether work is done");
            false
        })
    }

    /// Takes the next piece of work. It may have waited here while another consumer did the work on another message
    /// about the same event, so whether that is done is looked up at the last moment.
    fn take_next(self: &Arc<Self>, looked_up: Option<(Uuid, bool)>) -> Result<Next, BusError> {
        let mut state = self.state.lock();
        match &state.phase {
            Phase::Open => {}
            Phase::Drained | Phase::Closed => return Ok(Next::End),
            Phase::Failed(error) => return Err(error.clone()),
        }
        let mut at = 0;
        while let Some((_, work)) = state.ready.get(at) {
            let known = |event| state.done.events.contains(&event) || looked_up == Some((event, true));
            let done = self.spec.dedupe && work.event.is_some_and(known);
            if !done && !self.is_free(&state, work) {
                at += 1;
                continue;
            }
            if let Some(event) = work.event
                && self.spec.dedupe
                && self.seen.is_some()
                && !done
                && looked_up != Some((event, false))
            {
                return Ok(Next::LookUp(event));
            }
            let Some((received, work)) = state.ready.remove(at) else { break };
            if done {
                self.skip(&work);
                continue;
            }
            if let Some(event) = work.event {
                *state.events.entry(event).or_default() += 1;
            }
            if let Some(id) = work.id() {
                past::remember(self.queue(), id, work.attempt);
            }
            state.last += 1;
            let (number, work) = (state.last, Arc::new(work));
            let until = ends(self.spec.visibility);
            state.leases.insert(number, Active { work: Arc::clone(&work), until });
            drop(state);
            self.changed.notify_one();
            let (attempt, history) = (work.attempt, work.history.clone());
            let lease = Box::new(AmqpLease { desk: Arc::clone(self), number });
            return Ok(Next::Work(Box::new(Delivery { received, attempt, history, lease })));
        }
        Ok(Next::Nothing)
    }

    /// Acknowledges what was done before.
    pub(super) fn skip(&self, work: &Work) {
        debug!(queue = self.queue(), event = ?work.event, "skipped work that is done");
        self.forget(work);
        // The first poll hands it to lapin. An error means that the channel is gone; then it comes once more.
        drop(work.acker.ack(BasicAckOptions::default()).now_or_never());
    }

    fn forget(&self, work: &Work) {
        if let Some(id) = work.id() {
            past::forget(self.queue(), id);
        }
    }

    /// Takes a lease out, to settle it.
    fn settle(&self, number: u64) -> Result<Settling<'_>, BusError> {
        let mut state = self.state.lock();
        let active = state.leases.remove(&number).ok_or(BusError::LeaseLost)?;
        state.settling += 1;
        Ok(Settling { desk: self, number, work: Arc::clone(&active.work), active: Some(active) })
    }

    /// Gives back what was not settled in time, or dead-letters it.
    pub(super) async fn expire(&self) {
        let now = Instant::now();
        let due: Vec<u64> = {
            let state = self.state.lock();
            state.leases.iter().filter(|(_, active)| active.until <= now).map(|(number, _)| *number).collect()
        };
        for number in due {
            let Ok(settling) = self.settle(number) else { continue };
            let work = Arc::clone(&settling.work);
            let seconds = self.spec.visibility.as_secs_f64();
            let reason = format!("not settled within {seconds} s");
            if !work.acker.usable() {
                // The broker has given it to somebody by now.
            } else if let Err(error) = self.again(&work, Duration::ZERO, &reason).await {
                warn!(queue = self.queue(), %error, "cannot count an attempt; giving the work back uncounted");
                work.give_back(&self.link, self.queue(), work.attempt).await;
            }
            settling.done();
        }
    }

    /// Publishes a copy that comes after `delay`, or that is dead if this was the last attempt; ends the original.
    async fn again(&self, work: &Work, delay: Duration, reason: &str) -> Result<Settled, BusError> {
        if work.attempt >= self.spec.max_attempts.get() {
            self.bury(work, "attempts-exhausted", reason).await?;
            return Ok(Settled::Dead);
        }
        let mut past = self.past(work, reason, None);
        past.due = (!delay.is_zero()).then(|| Timestamp::now().checked_add(delay).ok()).flatten();
        let copied = |queue| {
            message::copy(queue, self.queue(), &work.routing_key, &work.properties, work.raw.clone(), &past)
        };
        let copy = if delay.is_zero() {
            copied(&self.names.queue)
        } else {
            let live = self.publishing.live()?;
            let queue = self.names.declare_retry(&live, topology::bucket(delay)).await?;
            let mut copy = copied(&queue);
            copy.properties =
                copy.properties.with_expiration(topology::millis(delay).to_string().as_str().into());
            copy
        };
        self.replace(work, copy).await?;
        Ok(Settled::Retrying)
    }

    /// Publishes a copy among the dead letters; ends the original.
    pub(super) async fn bury(&self, work: &Work, class: &'static str, reason: &str) -> Result<(), BusError> {
        let death = Death { class, error: reason.to_owned(), at: Timestamp::now() };
        let past = self.past(work, reason, Some(death));
        let (queue, raw) = (&self.names.dead, work.raw.clone());
        let copy = message::copy(queue, self.queue(), &work.routing_key, &work.properties, raw, &past);
        self.replace(work, copy).await
    }

    fn past(&self, work: &Work, reason: &str, death: Option<Death>) -> Past {
        let mut history = work.history.clone();
        history.push(Attempt {
            at: Timestamp::now(),
            consumer: self.spec.consumer.clone(),
            reason: reason.to_owned(),
        });
        history.drain(..history.len().saturating_sub(MAX_HISTORY));
        Past { attempts: work.attempt, history, due: None, death }
    }

    async fn replace(&self, work: &Work, copy: message::Message) -> Result<(), BusError> {
        let confirmed = self.publisher.publish(vec![copy.clone()]).await?;
        if !confirmed.unrouted.is_empty() {
            // Somebody has deleted the queue that it should go to.
            let exchange = &self.publishing.topology().exchange;
            self.names.declare(&*self.publishing.live()?, exchange, &[]).await?;
            if !self.publisher.publish(vec![copy]).await?.unrouted.is_empty() {
                return Err(BusError::NoSuchQueue(self.queue().to_owned()));
            }
        }
        // If its channel is gone the original comes once more beside the copy; both have the same id.
        work.ack(&self.link).await;
        self.forget(work);
        Ok(())
    }

    /// Acknowledges. Whether that reached the broker is only known after it has answered something else.
    async fn acknowledge(&self, work: &Work) -> Result<(), BusError> {
        let remembered = match (&self.seen, work.event) {
            (Some(seen), Some(event)) if self.spec.dedupe => {
                seen.mark_done(self.queue(), event).await?;
                true
            }
            _ => false,
        };
        let acked = work.ack(&self.link).await;
        if !remembered {
            if !acked {
                return Err(BusError::LeaseLost);
            }
            let patience = self.link.patience();
            // Sets the default of consumers that are still to come on this channel, of which there are none.
            let barrier = work.channel.basic_qos(0, BasicQosOptions::default());
            if !matches!(tokio::time::timeout(patience, barrier).await, Ok(Ok(()))) {
                return Err(BusError::LeaseLost);
            }
        }
        // Otherwise, if it comes once more, it is skipped.
        if let Some(event) = work.event {
            self.state.lock().done.insert(event);
        }
        self.forget(work);
        Ok(())
    }
}

/// The end of a lease that begins now.
fn ends(visibility: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(visibility).unwrap_or_else(|| now + FOREVER)
}

/// Somebody who waits for work.
struct Waiting<'a>(&'a Desk);

impl<'a> Waiting<'a> {
    fn new(desk: &'a Desk) -> Self {
        desk.state.lock().waiting += 1;
        desk.changed.notify_one();
        Self(desk)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.state.lock().waiting -= 1;
    }
}

/// A lease that is being settled: it can't end meanwhile, and is back if the settling fails or is cancelled.
struct Settling<'a> {
    desk: &'a Desk,
    number: u64,
    work: Arc<Work>,
    active: Option<Active>,
}

impl Settling<'_> {
    /// The lease is over.
    fn done(mut self) {
        self.active = None;
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        let mut state = self.desk.state.lock();
        state.settling = state.settling.saturating_sub(1);
        match self.active.take() {
            Some(active) if !matches!(state.phase, Phase::Closed) => {
                state.leases.insert(self.number, active);
            }
            _ => {
                if let Some(event) = self.work.event
                    && let Entry::Occupied(mut count) = state.events.entry(event)
                {
                    *count.get_mut() -= 1;
                    if *count.get() == 0 {
                        count.remove();
                    }
                }
            }
        }
        drop(state);
        // What was held back because of the same event may go now.
        self.desk.arrived.notify_waiters();
        self.desk.changed.notify_one();
    }
}

/// The lease on one piece of work.
#[derive(Debug)]
struct AmqpLease {
    desk: Arc<Desk>,
    number: u64,
}

impl AmqpLease {
    /// Takes the lease out, if its channel can still be written to.
    fn settle(&self) -> Result<Settling<'_>, BusError> {
        let settling = self.desk.settle(self.number)?;
        if settling.work.acker.usable() {
            return Ok(settling);
        }
        settling.done();
        Err(BusError::LeaseLost)
    }
}

#[async_trait]
impl Lease for AmqpLease {
    async fn ack(&self) -> Result<(), BusError> {
        // Even without its channel: what is remembered as done is not delivered again.
        let settling = self.desk.settle(self.number)?;
        match self.desk.acknowledge(&settling.work).await {
            Err(error) if !matches!(error, BusError::LeaseLost) => Err(error),
            end => {
                settling.done();
                end
            }
        }
    }

    async fn retry(&self, delay: Duration, reason: &str) -> Result<Settled, BusError> {
        let settling = self.settle()?;
        let settled = self.desk.again(&settling.work, delay, reason).await?;
        settling.done();
        Ok(settled)
    }

    async fn dead(&self, reason: &str) -> Result<(), BusError> {
        let settling = self.settle()?;
        self.desk.bury(&settling.work, "rejected", reason).await?;
        settling.done();
        Ok(())
    }

    async fn release(&self) -> Result<(), BusError> {
        let settling = self.settle()?;
        settling
            .work
            .give_back(&self.desk.link, self.desk.queue(), settling.work.attempt.saturating_sub(1))
            .await;
        settling.done();
        Ok(())
    }

    async fn extend(&self, visibility: Duration) -> Result<(), BusError> {
        let mut settling = self.settle()?;
        if let Some(active) = &mut settling.active {
            active.until = ends(visibility);
        }
        Ok(())
    }
}
