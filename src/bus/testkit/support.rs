//! What the laws are written with: a bus with two handles, events with numbers, waiting with a deadline.

use std::{str::FromStr as _, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use super::{Fixture, Timing};
use crate::bus::{
    Body, BusError, Capabilities, Delivery, Event, EventBus, EventStream, EventType, Item, Pattern, Publish,
    Published, QueueInfo, QueueSpec, Received, SharedBus, Start, Subscription, WorkQueue,
    event::{Source, Stamp},
};

/// How long a law waits for what must happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A fresh bus with two handles on it.
pub(crate) struct World {
    pub(crate) fixture: Box<dyn Fixture>,
    /// One handle.
    pub(crate) bus: SharedBus,
    /// Another one; as good as another process where the backend is shared.
    pub(crate) other: SharedBus,
    pub(crate) can: Capabilities,
    pub(crate) timing: Timing,
    tag: String,
    queues: Mutex<Vec<String>>,
}

/// Runs one law, and removes what it left behind if it holds.
pub(crate) async fn check<F: Fixture + 'static>(fixture: F, law: impl AsyncFnOnce(&World)) {
    let (bus, other) = (fixture.open().await, fixture.open().await);
    let world = World {
        can: bus.capabilities(),
        timing: fixture.timing(),
        fixture: Box::new(fixture),
        bus,
        other,
        tag: Uuid::new_v4().simple().to_string(),
        queues: Mutex::default(),
    };
    timeout(Duration::from_secs(200), law(&world)).await.expect("the law takes too long");
    let queues = std::mem::take(&mut *world.queues.lock());
    if !queues.is_empty() && world.can.queues {
        let last = world.fixture.open().await;
        for queue in queues {
            match last.delete_queue(&queue).await {
                Ok(()) | Err(BusError::NoSuchQueue(_) | BusError::Closed) => {}
                Err(error) => panic!("cannot delete {queue}: {error}"),
            }
        }
        last.close().await;
    }
    world.bus.close().await;
    world.other.close().await;
    world.fixture.remove().await;
}

impl World {
    /// A queue that no other test uses, bound to these patterns: the fixture's visibility, 3 attempts, 8 ahead.
    pub(crate) fn queue(&self, name: &str, patterns: &[&str]) -> QueueSpec {
        let name = format!("test.{}.{name}", self.tag);
        if !self.queues.lock().contains(&name) {
            self.queues.lock().push(name.clone());
        }
        QueueSpec {
            visibility: self.timing.visibility,
            max_attempts: 3.try_into().unwrap(),
            prefetch: 8,
            consumer: "one".to_owned(),
            ..QueueSpec::new(name, patterns.iter().copied().map(pattern).collect())
        }
    }

    /// As [`World::queue`], with a lease that no test outlasts.
    pub(crate) fn patient_queue(&self, name: &str, patterns: &[&str]) -> QueueSpec {
        QueueSpec { visibility: Duration::from_secs(300), ..self.queue(name, patterns) }
    }
}

/// Checks that the backend says that it can't do this.
#[track_caller]
pub(crate) fn assert_unsupported<T>(result: Result<T, BusError>) {
    match result {
        Err(BusError::Unsupported { instead, .. }) => assert!(!instead.is_empty(), "say what to do instead"),
        Err(error) => panic!("want Unsupported, got {error:?}"),
        Ok(_) => panic!("this worked although the capabilities say that it can't"),
    }
}

pub(crate) fn pattern(text: &str) -> Pattern {
    Pattern::from_str(text).unwrap()
}

/// An event of this type with a number in it.
pub(crate) fn event(event_type: &str, number: u64) -> Event {
    let source = Source {
        host: "test".to_owned(),
        app: "testkit".to_owned(),
        kind: "manual".to_owned(),
        extra: Map::new(),
    };
    let event_type = EventType::from_str(event_type).unwrap();
    // Backends may keep micro- or milliseconds only; whole seconds come back as they went.
    let at = Timestamp::from_second(1_700_000_000).unwrap();
    Event::new(Stamp { id: Uuid::now_v7(), at }, event_type, source, json!({ "n": number }))
}

/// Events of this type with numbers from 0.
pub(crate) fn numbered(event_type: &str, count: u64) -> Vec<Event> {
    (0..count).map(|n| event(event_type, n)).collect()
}

/// The numbers in these events.
pub(crate) fn numbers<'a>(events: impl IntoIterator<Item = &'a Event>) -> Vec<u64> {
    events.into_iter().map(|event| event.payload.get("n").and_then(Value::as_u64).unwrap()).collect()
}

/// The event in a body that must be one.
#[track_caller]
pub(crate) fn parsed(received: &Received) -> &Event {
    match &received.body {
        Body::Event(event) => event,
        Body::Unparsed(unparsed) => panic!("unparsed: {}", unparsed.reason),
    }
}

/// Publishes, and checks that every event is accounted for.
pub(crate) async fn publish(bus: &dyn EventBus, events: &[Event]) -> Published {
    let published = bus.publish(events, Publish::default()).await.unwrap();
    let told = published.accepted + published.duplicates + published.unrouted + published.deferred;
    assert!(told >= events.len() as u64, "{published:?} of {}", events.len());
    published
}

pub(crate) fn subscription(patterns: &[&str], start: Start, follow: bool) -> Subscription {
    let patterns = patterns.iter().copied().map(pattern).collect();
    Subscription { patterns, start, follow, consumer: "test" }
}

/// Subscribes and follows.
pub(crate) async fn follow(bus: &dyn EventBus, patterns: &[&str], start: Start) -> Box<dyn EventStream> {
    bus.subscribe(subscription(patterns, start, true)).await.unwrap()
}

/// The next item, which must come.
pub(crate) async fn next(stream: &mut dyn EventStream) -> Item {
    let item = timeout(PATIENCE, stream.next()).await.expect("nothing comes").unwrap();
    item.expect("the stream ended early")
}

/// The next so many as they came; the mark between history and live is passed over, a gap is a failure.
pub(crate) async fn received(stream: &mut dyn EventStream, count: usize) -> Vec<Received> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(stream).await {
            Item::Event(received) => all.push(*received),
            Item::CaughtUp => {}
            Item::Gap { missed, reason } => panic!("a gap of {missed:?}: {reason}"),
        }
    }
    all
}

/// The next so many events.
pub(crate) async fn events(stream: &mut dyn EventStream, count: usize) -> Vec<Event> {
    received(stream, count).await.iter().map(|received| parsed(received).clone()).collect()
}

/// All that a stream without follow gives.
pub(crate) async fn rest(stream: &mut dyn EventStream) -> Vec<Received> {
    let mut all = Vec::new();
    while let Some(item) = timeout(PATIENCE, stream.next()).await.expect("the stream does not end").unwrap() {
        match item {
            Item::Event(received) => all.push(*received),
            Item::CaughtUp => {}
            Item::Gap { missed, reason } => panic!("a gap of {missed:?}: {reason}"),
        }
    }
    all
}

/// The next piece of work, which must come.
pub(crate) async fn take(queue: &dyn WorkQueue) -> Delivery {
    let delivery = timeout(PATIENCE, queue.next()).await.expect("no work comes").unwrap();
    delivery.expect("the queue ended early")
}

/// Takes and acknowledges so many, in the order in which they came.
pub(crate) async fn work_off(queue: &dyn WorkQueue, count: usize) -> Vec<Event> {
    let mut done = Vec::new();
    while done.len() < count {
        let delivery = take(queue).await;
        delivery.lease.ack().await.unwrap();
        done.push(parsed(&delivery.received).clone());
    }
    done
}

/// Checks that no work comes for this long.
pub(crate) async fn assert_idle(queue: &dyn WorkQueue, time: Duration) {
    if let Ok(result) = timeout(time, queue.next()).await {
        panic!("no work was to come, but got {result:?}");
    }
}

/// Waits until the condition holds; some brokers tell their figures late.
pub(crate) async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "still not: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// This queue's figures, if it is listed.
pub(crate) async fn figures(bus: &dyn EventBus, name: &str) -> Option<QueueInfo> {
    bus.queues().await.unwrap().into_iter().find(|queue| queue.name == name)
}
