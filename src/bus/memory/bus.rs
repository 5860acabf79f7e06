//! The bus in memory: one lock over the history and the queues, streams that read the ring, consumers that claim.
//! Nothing runs in the background; whoever waits wakes up by a bell or for the end of a lease.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use super::{
    history::History,
    queue::{Now, Queue, Terms, Ticket},
};
use crate::bus::{
    BusError, Capabilities, Clock, Delivery, Event, EventBus, EventStream, Held, Item, Lane, Lease, Pattern,
    Position, Pruned, Publish, Published, Query, QueueInfo, QueueSpec, Received, Retention, Selection,
    Settled, Start, Stats, Subscription, SystemClock, WorkQueue, event,
};

/// Names under which cursors are kept; one more is refused.
const MAX_CURSORS: usize = 1024;

/// Events that a stream looks at before it lets go of the lock.
const STRIDE: u64 = 512;

/// How much a bus in memory holds.
#[derive(Debug, Clone)]
pub struct MemoryOptions {
    /// The largest event in bytes of JSON.
    pub max_event_bytes: usize,
    /// Events of history; older ones are forgotten.
    pub history_events: usize,
    /// Their bytes of JSON.
    pub history_bytes: usize,
    /// What each queue may hold, dead letters included; publishing more is refused.
    pub queue_items: usize,
    /// Their bytes of JSON.
    pub queue_bytes: usize,
    /// The clock for [`Received::at`](crate::bus::Received) and retention.
    pub clock: Arc<dyn Clock>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            max_event_bytes: 1 << 20,
            history_events: 100_000,
            history_bytes: 64 << 20,
            queue_items: 100_000,
            queue_bytes: 256 << 20,
            clock: Arc::new(SystemClock),
        }
    }
}

/// A bus that lives and dies with this process. A clone is another handle on the same bus.
#[derive(Clone)]
pub struct MemoryBus {
    shared: Arc<Shared>,
}

struct Shared {
    options: MemoryOptions,
    state: Mutex<State>,
    /// Rung after each publish, and at the end.
    bell: Notify,
}

struct State {
    history: History,
    queues: BTreeMap<String, Queue>,
    cursors: BTreeMap<String, String>,
    generation: u64,
    closed: bool,
}

impl fmt::Debug for MemoryBus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBus").finish_non_exhaustive()
    }
}

impl MemoryBus {
    /// An empty bus.
    #[must_use]
    pub fn new(options: MemoryOptions) -> Self {
        let state = State {
            history: History::new(options.history_events.max(1), options.history_bytes),
            queues: BTreeMap::new(),
            cursors: BTreeMap::new(),
            generation: 0,
            closed: false,
        };
        Self { shared: Arc::new(Shared { options, state: Mutex::new(state), bell: Notify::new() }) }
    }
}

impl Shared {
    fn now(&self) -> Now {
        Now { tick: Instant::now(), at: self.options.clock.now() }
    }

    fn open<T>(&self, f: impl FnOnce(&mut State) -> Result<T, BusError>) -> Result<T, BusError> {
        let mut state = self.state.lock();
        if state.closed { Err(BusError::Closed) } else { f(&mut state) }
    }

    fn with_queue<T>(&self, name: &str, f: impl FnOnce(&mut Queue) -> T) -> Result<T, BusError> {
        let now = self.now();
        self.open(|state| {
            let queue = state.queues.get_mut(name).ok_or_else(|| BusError::NoSuchQueue(name.to_owned()))?;
            queue.pass(now);
            Ok(f(queue))
        })
    }

    fn publish(&self, events: &[Event], cursor: Option<(&str, &str)>) -> Result<Published, BusError> {
        let size = |event| Ok(event::check(event, self.options.max_event_bytes)?.len());
        let sizes = events.iter().map(size).collect::<Result<Vec<_>, BusError>>()?;
        let now = self.now();
        let published = self.open(|state| state.publish(events, &sizes, cursor, &self.options, now))?;
        self.bell.notify_waiters();
        Ok(published)
    }
}

impl State {
    fn publish(
        &mut self,
        events: &[Event],
        sizes: &[usize],
        cursor: Option<(&str, &str)>,
        options: &MemoryOptions,
        now: Now,
    ) -> Result<Published, BusError> {
        let mut batch = HashSet::new();
        let mut fresh = Vec::new();
        for (event, size) in events.iter().zip(sizes) {
            let key = (event.event_id, event.event_type.clone());
            if !self.history.seen(&key) && batch.insert(key) {
                fresh.push((event, *size));
            }
        }
        // Everything that can refuse comes before the first change.
        for (name, queue) in &self.queues {
            let caught = fresh.iter().filter(|(event, _)| catches(queue, event));
            let (items, bytes) =
                caught.fold(queue.load(), |(items, bytes), (_, size)| (items + 1, bytes + size));
            if items > options.queue_items || bytes > options.queue_bytes {
                return Err(BusError::Full {
                    what: format!("queue '{name}'"),
                    reason: format!("it holds {} items; consume or purge some", queue.load().0),
                });
            }
        }
        if let Some((name, cursor)) = cursor {
            if self.cursors.len() >= MAX_CURSORS && !self.cursors.contains_key(name) {
                let reason = format!("{MAX_CURSORS} names are in use");
                return Err(BusError::Full { what: "the table of cursors".to_owned(), reason });
            }
            self.cursors.insert(name.to_owned(), cursor.to_owned());
        }
        let mut published = Published {
            accepted: fresh.len() as u64,
            duplicates: (events.len() - fresh.len()) as u64,
            ..Published::default()
        };
        for (event, size) in fresh {
            let stored = self.history.push(event.clone(), size, now.at);
            for queue in self.queues.values_mut().filter(|queue| catches(queue, event)) {
                queue.push(Arc::clone(&stored));
            }
            published.last = Some(Position(stored.position));
        }
        Ok(published)
    }
}

fn catches(queue: &Queue, event: &Event) -> bool {
    super::history::matches_any(&queue.bindings, event.event_type.as_str())
}

#[async_trait]
impl EventBus for MemoryBus {
    fn capabilities(&self) -> Capabilities {
        Capabilities {
            durable: false,
            history: true,
            queues: true,
            dedupes: true,
            cursors: true,
            shared: false,
            reports_unrouted: false,
        }
    }

    async fn publish(&self, events: &[Event], _options: Publish) -> Result<Published, BusError> {
        self.shared.publish(events, None)
    }

    async fn publish_with_cursor(
        &self,
        events: &[Event],
        name: &str,
        cursor: &str,
    ) -> Result<Published, BusError> {
        self.shared.publish(events, Some((name, cursor)))
    }

    async fn cursor(&self, name: &str) -> Result<Option<String>, BusError> {
        self.shared.open(|state| Ok(state.cursors.get(name).cloned()))
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError> {
        let (next, end) = self.shared.open(|state| {
            let history = &state.history;
            let end = history.last() + 1;
            let next = match subscription.start {
                Start::Now => end,
                Start::Beginning => history.oldest(),
                Start::Time(time) => history.at_or_after(time),
                Start::After(position) => position.0.saturating_add(1).min(end),
            };
            Ok((next, end))
        })?;
        let Subscription { patterns, follow, .. } = subscription;
        let shared = Arc::clone(&self.shared);
        Ok(Box::new(MemoryStream { shared, patterns, follow, next, end, caught_up: false }))
    }

    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
        let page = self.shared.open(|state| Ok(state.history.page(&query)))?;
        Ok(page.iter().map(|stored| stored.received()).collect())
    }

    async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
        let (generation, bell) = self.shared.open(|state| {
            state.generation += 1;
            let generation = state.generation;
            let queue = state.queues.entry(spec.name.clone()).or_insert_with(|| Queue::new(generation));
            for binding in spec.bindings {
                if !queue.bindings.contains(&binding) {
                    queue.bindings.push(binding);
                }
            }
            queue.consumers += 1;
            Ok((queue.generation, Arc::clone(&queue.bell)))
        })?;
        Ok(Box::new(MemoryQueue {
            shared: Arc::clone(&self.shared),
            name: spec.name,
            generation,
            bell,
            terms: Arc::new(Terms {
                consumer: spec.consumer,
                visibility: spec.visibility,
                max_attempts: spec.max_attempts.get(),
                dedupe: spec.dedupe,
            }),
            drained: AtomicBool::new(false),
        }))
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        let now = self.shared.now();
        self.shared.open(|state| {
            state.queues.values_mut().for_each(|queue| queue.pass(now));
            Ok(state.queues.iter().map(|(name, queue)| queue.info(name)).collect())
        })
    }

    async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError> {
        self.shared.with_queue(queue, |queue| queue.peek(lane, limit))
    }

    async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError> {
        self.shared.with_queue(queue, |queue| queue.requeue(which))
    }

    async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError> {
        self.shared.with_queue(queue, |queue| queue.purge(lane, which))
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BusError> {
        self.shared.open(|state| match state.queues.remove(queue) {
            Some(deleted) => {
                deleted.bell.notify_waiters();
                Ok(())
            }
            None => Err(BusError::NoSuchQueue(queue.to_owned())),
        })
    }

    async fn stats(&self) -> Result<Stats, BusError> {
        self.shared.open(|state| {
            let (oldest, newest) = state.history.span();
            Ok(Stats {
                bus: "mem:".to_owned(),
                events: Some(state.history.len() as u64),
                oldest,
                newest,
                bytes: None,
                types: state.history.types(),
                link: None,
            })
        })
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, BusError> {
        let now = self.shared.options.clock.now();
        self.shared.open(|state| Ok(state.history.prune(retention, now)))
    }

    async fn close(&self) {
        let mut state = self.shared.state.lock();
        state.closed = true;
        // Streams still give what was published before; nothing else can be reached any more.
        for queue in std::mem::take(&mut state.queues).into_values() {
            queue.bell.notify_waiters();
        }
        drop(state);
        self.shared.bell.notify_waiters();
    }
}

/// A subscription: a place in the ring.
struct MemoryStream {
    shared: Arc<Shared>,
    patterns: Vec<Pattern>,
    follow: bool,
    /// The position to look at next.
    next: u64,
    /// The first position after the history.
    end: u64,
    caught_up: bool,
}

/// What a stream found under the lock.
enum Found {
    Item(Item),
    /// Nothing yet, but there is more to look at.
    More,
    /// Nothing until the bell rings.
    Wait,
    End,
}

impl MemoryStream {
    fn look(&mut self, state: &State) -> Found {
        let oldest = state.history.oldest();
        if self.next < oldest {
            let missed = oldest - self.next;
            self.next = oldest;
            let all = self.patterns.iter().any(|pattern| pattern.as_str() == "#");
            return Found::Item(Item::Gap {
                missed: all.then_some(missed),
                reason: format!("this reader was too slow: {missed} events have left the memory"),
            });
        }
        for _ in 0..STRIDE {
            if self.next >= self.end && !self.follow {
                return Found::End;
            }
            if self.next >= self.end && !self.caught_up {
                self.caught_up = true;
                return Found::Item(Item::CaughtUp);
            }
            let Some(stored) = state.history.get(self.next) else {
                return if state.closed { Found::End } else { Found::Wait };
            };
            self.next += 1;
            if stored.matches(&self.patterns) {
                return Found::Item(Item::Event(Box::new(stored.received())));
            }
        }
        Found::More
    }
}

#[async_trait]
impl EventStream for MemoryStream {
    async fn next(&mut self) -> Result<Option<Item>, BusError> {
        let shared = Arc::clone(&self.shared);
        loop {
            let rung = shared.bell.notified();
            tokio::pin!(rung);
            // Before looking, so that nothing that comes in between is missed.
            rung.as_mut().enable();
            let found = self.look(&shared.state.lock());
            match found {
                Found::Item(item) => return Ok(Some(item)),
                Found::More => tokio::task::yield_now().await,
                Found::Wait => rung.await,
                Found::End => return Ok(None),
            }
        }
    }
}

/// A consumer. It fetches nothing ahead, so there is nothing to give back.
struct MemoryQueue {
    shared: Arc<Shared>,
    name: String,
    generation: u64,
    bell: Arc<Notify>,
    terms: Arc<Terms>,
    drained: AtomicBool,
}

impl MemoryQueue {
    fn claim(&self) -> Result<Result<Delivery, Option<Instant>>, BusError> {
        let now = self.shared.now();
        self.shared.open(|state| {
            let queue = state.queues.get_mut(&self.name).filter(|queue| queue.generation == self.generation);
            let queue = queue.ok_or_else(|| BusError::NoSuchQueue(self.name.clone()))?;
            let Some(claimed) = queue.claim(&self.terms, now) else { return Ok(Err(queue.next_change())) };
            Ok(Ok(Delivery {
                received: claimed.stored.received(),
                attempt: claimed.attempt,
                history: claimed.history,
                lease: Box::new(MemoryLease {
                    shared: Arc::clone(&self.shared),
                    name: self.name.clone(),
                    generation: self.generation,
                    ticket: claimed.ticket,
                }),
            }))
        })
    }
}

#[async_trait]
impl WorkQueue for MemoryQueue {
    async fn next(&self) -> Result<Option<Delivery>, BusError> {
        loop {
            let rung = self.bell.notified();
            tokio::pin!(rung);
            // Before looking, so that nothing that comes in between is missed.
            rung.as_mut().enable();
            if self.drained.load(Ordering::Acquire) {
                return Ok(None);
            }
            let change = match self.claim() {
                Ok(Ok(delivery)) => return Ok(Some(delivery)),
                Ok(Err(change)) => change,
                Err(BusError::Closed) => return Ok(None),
                Err(error) => return Err(error),
            };
            match change {
                Some(change) => {
                    tokio::select! {
                        () = rung => {}
                        () = sleep_until(change) => {}
                    }
                }
                None => rung.await,
            }
        }
    }

    async fn drain(&self) {
        self.drained.store(true, Ordering::Release);
        self.bell.notify_waiters();
    }
}

impl Drop for MemoryQueue {
    fn drop(&mut self) {
        if let Some(queue) = self.shared.state.lock().queues.get_mut(&self.name)
            && queue.generation == self.generation
        {
            queue.consumers = queue.consumers.saturating_sub(1);
        }
    }
}

struct MemoryLease {
    shared: Arc<Shared>,
    name: String,
    generation: u64,
    ticket: Ticket,
}

impl fmt::Debug for MemoryLease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLease").field("queue", &self.name).field("ticket", &self.ticket).finish()
    }
}

impl MemoryLease {
    fn settle<T>(&self, f: impl FnOnce(&mut Queue, Now) -> Result<T, BusError>) -> Result<T, BusError> {
        let now = self.shared.now();
        self.shared.open(|state| {
            let queue = state.queues.get_mut(&self.name).filter(|queue| queue.generation == self.generation);
            f(queue.ok_or(BusError::LeaseLost)?, now)
        })
    }
}

#[async_trait]
impl Lease for MemoryLease {
    async fn ack(&self) -> Result<(), BusError> {
        self.settle(|queue, now| queue.ack(self.ticket, now))
    }

    async fn retry(&self, delay: Duration, reason: &str) -> Result<Settled, BusError> {
        self.settle(|queue, now| queue.retry(self.ticket, delay, reason, now))
    }

    async fn dead(&self, reason: &str) -> Result<(), BusError> {
        self.settle(|queue, now| queue.dead(self.ticket, reason, now))
    }

    async fn release(&self) -> Result<(), BusError> {
        self.settle(|queue, now| queue.release(self.ticket, now))
    }

    async fn extend(&self, visibility: Duration) -> Result<(), BusError> {
        self.settle(|queue, now| queue.extend(self.ticket, visibility, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{SharedBus, testkit::*};

    const MAX: usize = 4096;

    struct Memory(MemoryBus);

    #[async_trait]
    impl Fixture for Memory {
        async fn open(&self) -> SharedBus {
            Arc::new(self.0.clone())
        }

        fn max_event_bytes(&self) -> usize {
            MAX
        }
    }

    fn memory() -> std::future::Ready<Option<Memory>> {
        let bus = MemoryBus::new(MemoryOptions { max_event_bytes: MAX, ..MemoryOptions::default() });
        std::future::ready(Some(Memory(bus)))
    }

    conformance!(conformance, memory);

    #[tokio::test]
    async fn a_slow_reader_is_told_what_it_missed() {
        let bus = MemoryBus::new(MemoryOptions { history_events: 5, ..MemoryOptions::default() });
        let mut all = follow(&bus, &["#"], Start::Now).await;
        let mut some = follow(&bus, &["a"], Start::Now).await;
        publish(&bus, &numbered("a", 12)).await;
        for (stream, known) in [(&mut all, Some(7)), (&mut some, None)] {
            match next(&mut **stream).await {
                Item::Gap { missed, .. } => assert_eq!(missed, known),
                other => panic!("{other:?}"),
            }
            assert_eq!(numbers(&events(&mut **stream, 5).await), [7, 8, 9, 10, 11]);
        }
    }

    #[tokio::test]
    async fn a_position_that_has_left_is_a_gap_and_the_beginning_is_none() {
        let bus = MemoryBus::new(MemoryOptions { history_events: 3, ..MemoryOptions::default() });
        publish(&bus, &numbered("a", 10)).await;
        let mut stream = bus.subscribe(subscription(&["#"], Start::After(Position(2)), false)).await.unwrap();
        assert!(matches!(next(&mut *stream).await, Item::Gap { missed: Some(5), .. }));
        assert_eq!(rest(&mut *stream).await.len(), 3);
        let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
        assert_eq!(rest(&mut *stream).await.len(), 3);
    }

    #[tokio::test]
    async fn a_full_queue_refuses_the_whole_batch_until_there_is_room() {
        let bus = MemoryBus::new(MemoryOptions { queue_items: 3, ..MemoryOptions::default() });
        let queue = bus.queue(QueueSpec::new("work", vec![pattern("a")])).await.unwrap();
        publish(&bus, &numbered("a", 2)).await;
        let refused = bus.publish(&numbered("a", 2), Publish::default()).await;
        assert!(matches!(refused, Err(BusError::Full { .. })), "{refused:?}");
        assert_eq!(bus.stats().await.unwrap().events, Some(2));
        publish(&bus, &numbered("b", 5)).await;
        work_off(&*queue, 1).await;
        publish(&bus, &numbered("a", 2)).await;
    }

    #[tokio::test]
    async fn a_deleted_queue_ends_its_consumers_and_leases() {
        let bus = MemoryBus::new(MemoryOptions::default());
        let spec = QueueSpec::new("work", vec![pattern("a")]);
        let old = bus.queue(spec.clone()).await.unwrap();
        publish(&bus, &numbered("a", 1)).await;
        let delivery = take(&*old).await;
        let (ended, ()) = tokio::join!(old.next(), async { bus.delete_queue("work").await.unwrap() });
        assert!(matches!(ended, Err(BusError::NoSuchQueue(_))));
        bus.queue(spec).await.unwrap();
        assert!(matches!(delivery.lease.ack().await, Err(BusError::LeaseLost)));
        assert!(matches!(old.next().await, Err(BusError::NoSuchQueue(_))));
    }

    #[tokio::test]
    async fn two_messages_about_one_event_are_not_worked_on_at_once() {
        let bus = MemoryBus::new(MemoryOptions::default());
        let queue = bus.queue(QueueSpec::new("work", vec![pattern("#")])).await.unwrap();
        let first = event("a", 0);
        let mut alias = first.clone();
        alias.event_type = "b".parse().unwrap();
        publish(&bus, &[first, alias, event("c", 1)]).await;
        let held = take(&*queue).await;
        let other = take(&*queue).await;
        assert_eq!(other.received.routing_key, "c", "the alias waits");
        held.lease.release().await.unwrap();
        assert_eq!(take(&*queue).await.received.routing_key, "a", "and keeps waiting for its turn");
    }
}
