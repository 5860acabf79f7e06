//! Copies events from one bus to another, through crashes of either and of itself.
//!
//! From a bus with history the bridge reads behind a cursor that lives at the destination and moves in the same step as
//! the events ([`EventBus::publish_with_cursor`]), so whatever kills it, each event arrives once. From a bus without
//! history it works off a queue of its own and acknowledges what the destination has; there an event arrives twice if
//! the bridge dies in between, unless the destination notices ids it has seen ([`Capabilities::dedupes`]).
//!
//! Runs where it is called, until the token is cancelled.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    Body, BusError, Capabilities, Delivery, Event, EventBus, EventStream, Item, Pattern, Position, Publish,
    Published, Query, QueueSpec, Received, Start, Subscription, WorkQueue, backoff::Backoff,
};

/// The most bytes that one step copies; one event always fits.
const MAX_STEP_BYTES: usize = 4 << 20;

/// Work that the bridge has in hand comes back after this if the bridge hangs.
const VISIBILITY: Duration = Duration::from_secs(300);

/// How long to wait for more once something is in hand.
const GATHER: Duration = Duration::from_millis(2);

/// Pauses while either side is away.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));

/// What to copy.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// Names the cursor, or the queue; two bridges between the same buses need two names.
    pub name: String,
    /// Any of these must match.
    pub patterns: Vec<Pattern>,
    /// Where to begin the first time, on a bus with history.
    pub start: Start,
    /// Events copied in one step.
    pub batch: usize,
    /// Go on with live events after the history.
    pub follow: bool,
}

/// What has been done so far; may be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    copied: AtomicU64,
    duplicates: AtomicU64,
    skipped: AtomicU64,
    gaps: AtomicU64,
    retries: AtomicU64,
    position: AtomicU64,
    /// Milliseconds since 1970; 0 for never.
    at: AtomicI64,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Copied {
    /// Events that the destination took.
    pub copied: u64,
    /// Events that it had already.
    pub duplicates: u64,
    /// Messages that no bus would take: unreadable, or too large for the destination.
    pub skipped: u64,
    /// Places where the source lost events before they could be read.
    pub gaps: u64,
    /// Times that a side was away.
    pub retries: u64,
    /// The source's position up to which all is copied.
    pub position: u64,
    /// When the source had taken the last event that was copied, to the millisecond; tells how far behind this is.
    pub at: Option<Timestamp>,
}

impl Progress {
    /// The figures now.
    #[must_use]
    pub fn now(&self) -> Copied {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Copied {
            copied: of(&self.copied),
            duplicates: of(&self.duplicates),
            skipped: of(&self.skipped),
            gaps: of(&self.gaps),
            retries: of(&self.retries),
            position: of(&self.position),
            at: match self.at.load(Ordering::Relaxed) {
                0 => None,
                at => Timestamp::from_millisecond(at).ok(),
            },
        }
    }

    fn add(count: &AtomicU64, n: u64) {
        count.fetch_add(n, Ordering::Relaxed);
    }

    fn reached(&self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.at.store(at.as_millisecond(), Ordering::Relaxed);
        }
    }

    fn published(&self, published: &Published) {
        // What waits in the destination's outbox is on its way.
        Self::add(&self.copied, published.accepted + published.deferred);
        Self::add(&self.duplicates, published.duplicates);
    }
}

/// How sure it is that each event arrives once, in words for the user.
#[must_use]
pub const fn promise(from: &Capabilities, to: &Capabilities) -> &'static str {
    match (from.history && to.cursors, to.dedupes) {
        (true, _) => "each event arrives once, also if this bridge is killed",
        (false, true) => "each event arrives once, because the destination knows the ids it has",
        (false, false) => {
            "each event arrives at least once; if this bridge is killed some arrive twice, with the same id"
        }
    }
}

/// What is kept as the cursor: which bus the position belongs to, and the position.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    from: String,
    after: u64,
}

/// Copies until the token is cancelled, or to the end of the history if [`BridgeOptions::follow`] is false.
///
/// # Errors
/// What can't be mended by waiting: a bus that refuses access, a damaged file, a cursor that belongs to another source,
/// [`BusError::Unsupported`] where the two can't be bridged.
pub async fn run(
    from: &dyn EventBus,
    to: &dyn EventBus,
    options: &BridgeOptions,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    let mut backoff = BACKOFF;
    let mut random = fastrand::Rng::new();
    loop {
        let before = progress.now();
        // Each time anew: what a broker can do is known for sure when it is there.
        let (source, destination) = (from.capabilities(), to.capabilities());
        let ended = match (source.history && destination.cursors, source.queues && options.follow) {
            // Cancel safe: nothing is remembered but the cursor.
            (true, _) => match stop.run_until_cancelled(by_cursor(from, to, options, progress)).await {
                Some(ended) => ended,
                None => return Ok(()),
            },
            (false, true) => by_queue(from, to, options, progress, stop).await,
            (false, false) => Err(BusError::Unsupported {
                what: "bridging these two",
                bus: name_of(from).await?,
                instead: "it needs a history here and a cursor there (sqlite, RabbitMQ), or a queue here; to write a \
                          file use `godctl bus export`"
                    .to_owned(),
            }),
        };
        let error = match ended {
            Ok(()) => return Ok(()),
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(error),
        };
        let after = progress.now();
        if (after.copied, after.duplicates) != (before.copied, before.duplicates) {
            backoff.reset();
        }
        Progress::add(&progress.retries, 1);
        let pause = backoff.pause(&mut random);
        warn!(%error, ?pause, bridge = options.name, "a side of the bridge is away");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}

async fn name_of(bus: &dyn EventBus) -> Result<String, BusError> {
    Ok(bus.stats().await?.bus)
}

async fn by_cursor(
    from: &dyn EventBus,
    to: &dyn EventBus,
    options: &BridgeOptions,
    progress: &Progress,
) -> Result<(), BusError> {
    let source = name_of(from).await?;
    let start = match to.cursor(&options.name).await? {
        None => options.start,
        Some(text) => {
            let after = continue_after(from, &source, &text, &options.name).await?;
            progress.position.store(after, Ordering::Relaxed);
            Start::After(Position(after))
        }
    };
    let subscription = Subscription {
        patterns: options.patterns.clone(),
        start,
        follow: options.follow,
        consumer: "bridge",
    };
    let mut stream = from.subscribe(subscription).await?;
    let keep = async |events: &[Event], after: u64| {
        let cursor = serde_json::to_string(&Cursor { from: source.clone(), after }).unwrap_or_default();
        let published = to.publish_with_cursor(events, &options.name, &cursor).await?;
        progress.published(&published);
        progress.position.store(after, Ordering::Relaxed);
        Ok(())
    };
    while let Some(Step { events, positions, end, at }) = step(&mut *stream, options.batch, progress).await? {
        match keep(&events, end).await {
            Ok(()) => {}
            // One of them is at fault, so each goes alone.
            Err(BusError::TooLarge { .. } | BusError::Invalid(_) | BusError::Unroutable(_)) => {
                for (event, position) in events.iter().zip(positions) {
                    match keep(std::slice::from_ref(event), position).await {
                        Err(error) if error.is_about_the_event() => {
                            Progress::add(&progress.skipped, 1);
                            warn!(id = %event.event_id, %error, "the destination does not take an event; skipped");
                        }
                        kept => kept?,
                    }
                }
                keep(&[], end).await?;
            }
            Err(error) => return Err(error),
        }
        progress.reached(at);
    }
    Ok(())
}

/// The position that a cursor tells, if it can be the one of this source.
async fn continue_after(from: &dyn EventBus, source: &str, text: &str, name: &str) -> Result<u64, BusError> {
    let conflict = |reason| BusError::Conflict { what: format!("bridge '{name}'"), reason };
    let cursor: Cursor = serde_json::from_str(text)
        .map_err(|error| conflict(format!("its cursor is unreadable ({error}); use another name")))?;
    if cursor.from != source {
        return Err(conflict(format!("it copies from {}, not from {source}; use another name", cursor.from)));
    }
    let newest = Query { patterns: vec![Pattern::all()], before: None, since: None, limit: 1 };
    let newest = from.page(newest).await?.last().and_then(|newest| newest.position);
    match newest {
        // Positions never go down, so this is not the history that was copied.
        Some(newest) if newest.0 < cursor.after => Err(conflict(format!(
            "it has copied up to position {} of {source}, whose newest is {newest}; the source was replaced, so use \
             another name",
            cursor.after
        ))),
        _ => Ok(cursor.after),
    }
}

/// What is copied at once.
struct Step {
    events: Vec<Event>,
    /// The place of each.
    positions: Vec<u64>,
    /// The place of the last message, which need not be an event.
    end: u64,
    /// When the source took it.
    at: Option<Timestamp>,
}

/// What is there now, at least one message, at most `batch`; `None` at the end of the history.
async fn step(
    stream: &mut dyn EventStream,
    batch: usize,
    progress: &Progress,
) -> Result<Option<Step>, BusError> {
    let (mut events, mut positions, mut bytes) = (Vec::new(), Vec::new(), 0);
    let (mut end, mut at) = (None, None);
    while events.len() < batch.max(1) && bytes < MAX_STEP_BYTES {
        let next = match end {
            None => stream.next().await?,
            // Something is in hand: take what comes at once, and leave the rest for the next step.
            Some(_) => match tokio::time::timeout(GATHER, stream.next()).await {
                Ok(next) => next?,
                Err(_) => break,
            },
        };
        match next {
            Some(Item::Event(received)) => {
                let position = received.position.map(|position| position.0).or(end).unwrap_or_default();
                end = Some(position);
                at = received.at.or(at);
                match received.body {
                    Body::Event(event) => {
                        bytes += event.to_json().len();
                        events.push(event);
                        positions.push(position);
                    }
                    Body::Unparsed(unparsed) => skip(progress, &unparsed.reason),
                }
            }
            Some(Item::Gap { missed, reason }) => {
                Progress::add(&progress.gaps, 1);
                warn!(?missed, reason, "events are missing at the source");
            }
            Some(Item::CaughtUp) => debug!("the history is copied"),
            None if end.is_none() => return Ok(None),
            None => break,
        }
    }
    Ok(end.map(|end| Step { events, positions, end, at }))
}

fn skip(progress: &Progress, reason: &str) {
    Progress::add(&progress.skipped, 1);
    warn!(reason, "a message is no event and is not copied");
}

async fn by_queue(
    from: &dyn EventBus,
    to: &dyn EventBus,
    options: &BridgeOptions,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    let queue = from
        .queue(QueueSpec {
            visibility: VISIBILITY,
            max_attempts: NonZeroU32::MAX,
            prefetch: u16::try_from(options.batch).unwrap_or(u16::MAX).max(1),
            // An event under two names is two messages, and both are copied.
            dedupe: false,
            consumer: format!("bridge {}", options.name),
            ..QueueSpec::new(format!("godctl.bridge.{}", options.name), options.patterns.clone())
        })
        .await?;
    let copied = work_off(&*queue, to, options.batch, progress, stop).await;
    queue.drain().await;
    copied
}

async fn work_off(
    queue: &dyn WorkQueue,
    to: &dyn EventBus,
    batch: usize,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    loop {
        let mut taken: Vec<Delivery> = Vec::new();
        while taken.len() < batch.max(1) {
            let wait = (!taken.is_empty()).then_some(GATHER);
            let next = async {
                match wait {
                    None => queue.next().await,
                    Some(wait) => tokio::time::timeout(wait, queue.next()).await.unwrap_or(Ok(None)),
                }
            };
            // Cancel safe: what a cancelled call leased goes to the next one, or back when the queue is drained.
            match stop.run_until_cancelled(next).await {
                Some(Ok(Some(delivery))) => taken.push(delivery),
                Some(Ok(None)) => break,
                Some(Err(error)) => return give_back(taken, error).await,
                None => break,
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        if let Err((rest, error)) = copy(taken, to, progress).await {
            return give_back(rest, error).await;
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// Publishes and acknowledges. Gives back what is left when the destination fails.
async fn copy(
    taken: Vec<Delivery>,
    to: &dyn EventBus,
    progress: &Progress,
) -> Result<(), (Vec<Delivery>, BusError)> {
    let (mut good, mut events) = (Vec::new(), Vec::new());
    for delivery in taken {
        match &delivery.received {
            Received { body: Body::Event(event), .. } => {
                events.push(event.clone());
                good.push(delivery);
            }
            Received { body: Body::Unparsed(unparsed), .. } => {
                skip(progress, &unparsed.reason);
                let reason = unparsed.reason.clone();
                lost(delivery.lease.dead(&reason).await);
            }
        }
    }
    let at = good.iter().filter_map(|delivery| delivery.received.at).max();
    match to.publish(&events, Publish::default()).await {
        Ok(published) => progress.published(&published),
        Err(error) if error.is_about_the_event() && good.len() == 1 => {
            Progress::add(&progress.skipped, 1);
            warn!(%error, "the destination does not take an event; it is among the dead letters");
            for delivery in good {
                lost(delivery.lease.dead(&error.to_string()).await);
            }
            return Ok(());
        }
        Err(error) if error.is_about_the_event() => {
            // One by one, so that only what is at fault is left behind.
            let mut left = good.into_iter();
            while let Some(delivery) = left.next() {
                if let Err((mut rest, error)) = Box::pin(copy(vec![delivery], to, progress)).await {
                    rest.extend(left);
                    return Err((rest, error));
                }
            }
            return Ok(());
        }
        Err(error) => return Err((good, error)),
    }
    progress.reached(at);
    for delivery in good {
        lost(delivery.lease.ack().await);
    }
    Ok(())
}

/// A lease that could not be settled comes back by itself; the destination knows the event then.
fn lost(settled: Result<(), BusError>) {
    if let Err(error) = settled {
        debug!(%error, "a message will come again");
    }
}

async fn give_back(taken: Vec<Delivery>, error: BusError) -> Result<(), BusError> {
    for delivery in taken {
        lost(delivery.lease.release().await);
    }
    Err(error)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::bus::{
        EventType,
        event::{Source, Stamp},
        memory::{MemoryBus, MemoryOptions},
        sqlite::{SqliteBus, SqliteOptions},
    };
    use crate::shutdown::Shutdown;

    fn options(follow: bool) -> BridgeOptions {
        BridgeOptions {
            name: "test".to_owned(),
            patterns: vec!["a.#".parse().unwrap()],
            start: Start::Beginning,
            batch: 7,
            follow,
        }
    }

    fn event(event_type: &str, payload: serde_json::Value) -> Event {
        let event_type: EventType = event_type.parse().unwrap();
        Event::new(Stamp::now(), event_type, Source::new("host", "test", "service"), payload)
    }

    fn memory(max_event_bytes: usize) -> MemoryBus {
        MemoryBus::new(MemoryOptions { max_event_bytes, ..MemoryOptions::default() })
    }

    async fn all(bus: &dyn EventBus) -> Vec<uuid::Uuid> {
        let query = Query { patterns: vec![Pattern::all()], before: None, since: None, limit: 10_000 };
        let page = bus.page(query).await.unwrap();
        page.iter().map(|received| received.body.event().unwrap().event_id).collect()
    }

    async fn copy_all(from: &dyn EventBus, to: &dyn EventBus) -> Copied {
        let progress = Progress::default();
        run(from, to, &options(false), &progress, &CancellationToken::new()).await.unwrap();
        progress.now()
    }

    #[tokio::test]
    async fn what_matches_arrives_once_in_order_however_often_it_is_run() {
        let (from, to) = (memory(1 << 20), memory(1 << 20));
        let mut sent = Vec::new();
        for round in 0..3 {
            for n in 0..20 {
                let matching = event("a.b.c", serde_json::json!({ "n": n, "round": round }));
                sent.push(matching.event_id);
                from.publish(&[matching, event("b.c.d", n.into())], Publish::default()).await.unwrap();
            }
            let copied = copy_all(&from, &to).await;
            assert_eq!((copied.copied, copied.duplicates), (20, 0));
            assert_eq!(all(&to).await, sent);
        }
        assert_eq!(copy_all(&from, &to).await.copied, 0);
    }

    #[tokio::test]
    async fn what_the_destination_cannot_take_is_counted_and_does_not_hold_up_the_rest() {
        let (from, to) = (memory(1 << 20), memory(1000));
        let events: Vec<Event> = (0..5)
            .map(|n| event("a.b", serde_json::json!({ "text": "x".repeat(if n == 2 { 2000 } else { 1 }) })))
            .collect();
        from.publish(&events, Publish::default()).await.unwrap();
        let copied = copy_all(&from, &to).await;
        assert_eq!((copied.copied, copied.skipped), (4, 1));
        assert_eq!(all(&to).await.len(), 4);
    }

    #[tokio::test]
    async fn a_cursor_of_another_source_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let open = async |name: &str| {
            SqliteBus::open(SqliteOptions::new(dir.path().join(name)), &shutdown).await.unwrap()
        };
        let (one, two, to) = (open("one.db").await, open("two.db").await, open("to.db").await);
        one.publish(&[event("a.b", 1.into())], Publish::default()).await.unwrap();
        assert_eq!(copy_all(&one, &to).await.copied, 1);
        let progress = Progress::default();
        let error = run(&two, &to, &options(false), &progress, &CancellationToken::new()).await.unwrap_err();
        assert!(matches!(error, BusError::Conflict { .. }), "{error}");
        assert!(error.to_string().contains("one.db"), "{error}");
    }

    #[tokio::test]
    async fn a_source_that_was_replaced_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let open = async |name: &str| {
            SqliteBus::open(SqliteOptions::new(dir.path().join(name)), &shutdown).await.unwrap()
        };
        let (from, to) = (open("from.db").await, open("to.db").await);
        let events: Vec<Event> = (0..5).map(|n| event("a.b", n.into())).collect();
        from.publish(&events, Publish::default()).await.unwrap();
        assert_eq!(copy_all(&from, &to).await.copied, 5);
        from.close().await;
        for file in ["from.db", "from.db-wal", "from.db-shm"] {
            drop(std::fs::remove_file(dir.path().join(file)));
        }
        let from = open("from.db").await;
        from.publish(&[event("a.b", 9.into())], Publish::default()).await.unwrap();
        let progress = Progress::default();
        let error = run(&from, &to, &options(false), &progress, &CancellationToken::new()).await.unwrap_err();
        assert!(error.to_string().contains("replaced"), "{error}");
    }

    #[tokio::test]
    async fn a_bridge_that_is_stopped_at_any_moment_goes_on_where_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let open = async |name: &str| {
            Arc::new(SqliteBus::open(SqliteOptions::new(dir.path().join(name)), &shutdown).await.unwrap())
        };
        let (from, to) = (open("from.db").await, open("to.db").await);
        let events: Vec<Event> = (0..500).map(|n| event("a.b", n.into())).collect();
        from.publish(&events, Publish::default()).await.unwrap();
        let mut random = fastrand::Rng::with_seed(7);
        let mut duplicates = 0;
        for _ in 0..40 {
            let progress = Progress::default();
            let pause = Duration::from_micros(random.u64(0..6_000));
            // Dropped in the middle of whatever it does, as if killed.
            let _ = tokio::time::timeout(
                pause,
                run(&*from, &*to, &options(true), &progress, &CancellationToken::new()),
            )
            .await;
            duplicates += progress.now().duplicates;
        }
        copy_all(&*from, &*to).await;
        let sent: Vec<_> = events.iter().map(|event| event.event_id).collect();
        assert_eq!(all(&*to).await, sent);
        assert_eq!(duplicates, 0, "the cursor moves with the events");
    }

    /// A bus whose history is hidden, as a RabbitMQ without a stream.
    #[derive(Debug)]
    struct NoHistory(MemoryBus);

    #[async_trait::async_trait]
    impl EventBus for NoHistory {
        fn capabilities(&self) -> Capabilities {
            Capabilities { history: false, ..self.0.capabilities() }
        }
        async fn publish(&self, events: &[Event], options: Publish) -> Result<Published, BusError> {
            EventBus::publish(&self.0, events, options).await
        }
        async fn publish_with_cursor(&self, e: &[Event], n: &str, c: &str) -> Result<Published, BusError> {
            self.0.publish_with_cursor(e, n, c).await
        }
        async fn cursor(&self, name: &str) -> Result<Option<String>, BusError> {
            self.0.cursor(name).await
        }
        async fn subscribe(&self, s: Subscription) -> Result<Box<dyn EventStream>, BusError> {
            self.0.subscribe(s).await
        }
        async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
            self.0.page(query).await
        }
        async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
            self.0.queue(spec).await
        }
        async fn queues(&self) -> Result<Vec<crate::bus::QueueInfo>, BusError> {
            self.0.queues().await
        }
        async fn peek(
            &self,
            queue: &str,
            lane: crate::bus::Lane,
            limit: usize,
        ) -> Result<Vec<crate::bus::Held>, BusError> {
            self.0.peek(queue, lane, limit).await
        }
        async fn requeue(&self, queue: &str, which: &crate::bus::Selection) -> Result<u64, BusError> {
            self.0.requeue(queue, which).await
        }
        async fn purge(
            &self,
            queue: &str,
            lane: crate::bus::Lane,
            which: &crate::bus::Selection,
        ) -> Result<u64, BusError> {
            self.0.purge(queue, lane, which).await
        }
        async fn delete_queue(&self, queue: &str) -> Result<(), BusError> {
            self.0.delete_queue(queue).await
        }
        async fn stats(&self) -> Result<crate::bus::Stats, BusError> {
            self.0.stats().await
        }
        async fn prune(&self, retention: crate::bus::Retention) -> Result<crate::bus::Pruned, BusError> {
            self.0.prune(retention).await
        }
        async fn close(&self) {
            self.0.close().await;
        }
    }

    #[tokio::test]
    async fn without_history_a_queue_is_worked_off_and_emptied() {
        let (from, to) = (NoHistory(memory(1 << 20)), memory(1000));
        let stop = CancellationToken::new();
        let progress = Progress::default();
        // The queue exists before anything is published.
        drop(from.queue(QueueSpec::new("godctl.bridge.test", vec!["a.#".parse().unwrap()])).await.unwrap());
        let events: Vec<Event> = (0..20)
            .map(|n| event("a.b", serde_json::json!({ "text": "x".repeat(if n == 9 { 2000 } else { 1 }) })))
            .collect();
        EventBus::publish(&from, &events, Publish::default()).await.unwrap();
        let alias = Event { event_type: "a.alias".parse().unwrap(), ..events[0].clone() };
        EventBus::publish(&from, &[alias], Publish::default()).await.unwrap();
        let options = options(true);
        let (ran, ()) = tokio::join!(run(&from, &to, &options, &progress, &stop), async {
            while progress.now().copied + progress.now().skipped < 21 {
                tokio::task::yield_now().await;
            }
            stop.cancel();
        });
        ran.unwrap();
        assert_eq!((progress.now().copied, progress.now().skipped), (20, 1));
        assert_eq!(all(&to).await.len(), 20);
        let queue = &from.queues().await.unwrap()[0];
        assert_eq!((queue.ready, queue.leased, queue.dead), (0, Some(0), 1));
    }
}
