//! The outbox in front of a broker that the tests switch on and off: a bus in memory behind a gate.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use proptest::prelude::*;
use tempfile::TempDir;
use tokio::sync::watch;
use uuid::Uuid;

use super::{Broker, Opened, OutboxBus, OutboxOptions};
use crate::{
    bus::{
        BusError, Capabilities, Event, EventBus, EventStream, Held, Lane, LinkStats, Pruned, Publish,
        Published, Query, QueueInfo, QueueSpec, Received, Retention, Selection, SharedBus, Start, Stats,
        Subscription, SystemClock, WorkQueue,
        breaker::Policy,
        local::LocalState,
        memory::{MemoryBus, MemoryOptions},
        testkit::*,
    },
    shutdown::Shutdown,
};

const MAX: usize = 4096;

/// What the broker does at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mood {
    Up,
    /// Nothing gets through.
    Down,
    /// Everything gets through, but nobody hears of it.
    Deaf,
    /// Wrong credentials.
    Denied,
}

/// The broker itself, as all processes see it.
#[derive(Debug)]
struct Fake {
    inner: MemoryBus,
    mood: watch::Sender<Mood>,
    online: watch::Sender<bool>,
    /// Calls that publish, whatever became of them.
    calls: AtomicU64,
    /// It goes down with whoever closes its connection.
    mortal: bool,
    /// Ids in the order in which the broker got them, repetitions included.
    got: Mutex<Vec<Uuid>>,
}

impl Fake {
    fn new(mood: Mood) -> Arc<Self> {
        Arc::new(Self::plain(mood))
    }

    fn plain(mood: Mood) -> Self {
        Self {
            inner: MemoryBus::new(MemoryOptions { max_event_bytes: MAX, ..MemoryOptions::default() }),
            mood: watch::Sender::new(mood),
            online: watch::Sender::new(mood == Mood::Up),
            calls: AtomicU64::new(0),
            mortal: false,
            got: Mutex::default(),
        }
    }

    fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
        self.online.send_replace(mood == Mood::Up);
    }

    fn mood(&self) -> Mood {
        *self.mood.borrow()
    }

    fn away() -> BusError {
        BusError::Unreachable { bus: "fake:".to_owned(), reason: "no answer".to_owned() }
    }

    /// Ids without repetitions.
    fn arrived(&self) -> Vec<Uuid> {
        let mut seen = std::collections::HashSet::new();
        self.got.lock().iter().copied().filter(|id| seen.insert(*id)).collect()
    }
}

/// How one process reaches it.
#[derive(Debug)]
struct Way(Arc<Fake>);

#[derive(Debug)]
struct Gate(Arc<Fake>);

#[async_trait]
impl Broker for Way {
    fn address(&self) -> String {
        "fake:".to_owned()
    }

    fn identity(&self) -> String {
        "fake".to_owned()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.inner.capabilities()
    }

    async fn open(&self) -> Result<Opened, BusError> {
        match self.0.mood() {
            Mood::Denied => {
                Err(BusError::Access { bus: "fake:".to_owned(), reason: "wrong password".to_owned() })
            }
            Mood::Down => Err(Fake::away()),
            Mood::Up | Mood::Deaf => {
                let online = Some(self.0.online.subscribe());
                Ok(Opened { bus: Arc::new(Gate(Arc::clone(&self.0))), online })
            }
        }
    }
}

#[async_trait]
impl EventBus for Gate {
    fn capabilities(&self) -> Capabilities {
        self.0.inner.capabilities()
    }

    async fn publish(&self, events: &[Event], options: Publish) -> Result<Published, BusError> {
        self.0.calls.fetch_add(1, Ordering::Relaxed);
        if self.0.mood() == Mood::Down {
            return Err(Fake::away());
        }
        if let Some(poison) = events.iter().find(|event| event.event_type.as_str() == "poison") {
            let event_type = poison.event_type.to_string();
            return Err(BusError::TooLarge { event_type, size: 2, limit: 1, key: "bus.max_event_bytes" });
        }
        if options.require_route && events.iter().any(|event| event.event_type.as_str() == "nobody") {
            return Err(BusError::Unroutable("nobody".to_owned()));
        }
        self.0.got.lock().extend(events.iter().map(|event| event.event_id));
        let published = self.0.inner.publish(events, options).await?;
        if self.0.mood() == Mood::Deaf { Err(Fake::away()) } else { Ok(published) }
    }

    async fn publish_with_cursor(
        &self,
        events: &[Event],
        name: &str,
        cursor: &str,
    ) -> Result<Published, BusError> {
        self.0.inner.publish_with_cursor(events, name, cursor).await
    }

    async fn cursor(&self, name: &str) -> Result<Option<String>, BusError> {
        self.0.inner.cursor(name).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError> {
        self.0.inner.subscribe(subscription).await
    }

    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
        self.0.inner.page(query).await
    }

    async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
        self.0.inner.queue(spec).await
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        self.0.inner.queues().await
    }

    async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError> {
        self.0.inner.peek(queue, lane, limit).await
    }

    async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError> {
        self.0.inner.requeue(queue, which).await
    }

    async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError> {
        self.0.inner.purge(queue, lane, which).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BusError> {
        self.0.inner.delete_queue(queue).await
    }

    async fn stats(&self) -> Result<Stats, BusError> {
        if self.0.mood() == Mood::Down { Err(Fake::away()) } else { self.0.inner.stats().await }
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, BusError> {
        self.0.inner.prune(retention).await
    }

    async fn close(&self) {
        if self.0.mortal {
            self.0.inner.close().await;
        }
    }
}

/// A machine with a broker and a file.
struct Machine {
    fake: Arc<Fake>,
    folder: TempDir,
    shutdown: Shutdown,
    options: OutboxOptions,
}

impl Machine {
    fn new(mood: Mood) -> Self {
        Self {
            fake: Fake::new(mood),
            folder: tempfile::tempdir().unwrap(),
            shutdown: Shutdown::new(),
            options: OutboxOptions {
                max_events: 100,
                max_bytes: 1 << 20,
                max_event_bytes: MAX,
                retry: Duration::from_millis(40),
                flush: Duration::from_secs(5),
                policy: Policy { cooldown: Duration::from_millis(60), ..Policy::default() },
                source: event("x", 0).source,
                clock: Arc::new(SystemClock),
            },
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("outbox.db")
    }

    /// A process of this machine.
    async fn process(&self) -> OutboxBus {
        open(&self.fake, &self.path(), self.options.clone(), &self.shutdown).await
    }

    /// Locks the outbox, so that nobody drains it.
    async fn hold_up(&self, bus: &OutboxBus) -> std::fs::File {
        let file =
            std::fs::File::options().create(true).truncate(false).write(true).open(&bus.core.lock).unwrap();
        until("the outbox is not locked", async || file.try_lock().is_ok()).await;
        file
    }

    /// Types and numbers of all that the broker has.
    async fn on_broker(&self) -> Vec<(String, Option<u64>)> {
        let mut stream =
            self.fake.inner.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
        let all = rest(&mut *stream).await;
        all.iter()
            .map(|received| {
                let event = parsed(received);
                (event.event_type.to_string(), event.payload.get("n").and_then(serde_json::Value::as_u64))
            })
            .collect()
    }

    /// Numbers of the events of this type that the broker has.
    async fn numbers(&self, event_type: &str) -> Vec<u64> {
        let all = self.on_broker().await;
        all.into_iter().filter(|(name, _)| name == event_type).filter_map(|(_, n)| n).collect()
    }
}

async fn open(fake: &Arc<Fake>, path: &Path, options: OutboxOptions, shutdown: &Shutdown) -> OutboxBus {
    let file = LocalState::open(path, Arc::new(SystemClock), shutdown).await.unwrap();
    OutboxBus::open(Arc::new(Way(Arc::clone(fake))), file, options, shutdown).await.unwrap()
}

async fn link(bus: &OutboxBus) -> LinkStats {
    bus.stats().await.unwrap().link.unwrap()
}

async fn until_empty(bus: &OutboxBus) {
    until("the outbox is empty", async || link(bus).await.outbox == 0).await;
}

/// The whole suite, with two processes in front of one broker that is there.
mod suite {
    use super::*;

    struct Fronted(Machine);

    #[async_trait]
    impl Fixture for Fronted {
        async fn open(&self) -> SharedBus {
            Arc::new(self.0.process().await)
        }

        fn max_event_bytes(&self) -> usize {
            MAX
        }
    }

    fn fronted() -> std::future::Ready<Option<Fronted>> {
        let mortal = Fake { mortal: true, ..Fake::plain(Mood::Up) };
        std::future::ready(Some(Fronted(Machine { fake: Arc::new(mortal), ..Machine::new(Mood::Up) })))
    }

    conformance!(conformance, fronted);
}

#[tokio::test]
async fn what_is_published_while_the_broker_is_away_arrives_once_and_in_order() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    let published = publish(&bus, &numbered("a", 5)).await;
    assert_eq!((published.deferred, published.accepted), (5, 0));
    publish(&bus, &[event("a", 5)]).await;
    assert!(machine.on_broker().await.is_empty());
    assert!(link(&bus).await.outbox >= 6, "what is told of it comes on top");
    machine.fake.set(Mood::Up);
    until_empty(&bus).await;
    let published = publish(&bus, &[event("a", 6)]).await;
    assert_eq!(published.accepted + published.deferred, 1);
    until_empty(&bus).await;
    assert_eq!(machine.numbers("a").await, [0, 1, 2, 3, 4, 5, 6]);
    bus.close().await;
}

#[tokio::test]
async fn later_events_queue_behind_those_that_wait() {
    let machine = Machine::new(Mood::Down);
    let (one, two) = (machine.process().await, machine.process().await);
    let lock = machine.hold_up(&one).await;
    publish(&one, &[event("a", 0)]).await;
    machine.fake.set(Mood::Up);
    // The broker is there again, but order comes first, also for another process.
    assert_eq!(publish(&two, &[event("a", 1)]).await.deferred, 1);
    assert_eq!(publish(&one, &[event("a", 2)]).await.deferred, 1);
    assert!(machine.on_broker().await.is_empty());
    drop(lock);
    until_empty(&one).await;
    assert_eq!(machine.numbers("a").await, [0, 1, 2]);
    assert_eq!(publish(&two, &[event("a", 3)]).await.accepted, 1, "nothing waits, so it goes directly");
    one.close().await;
    two.close().await;
}

#[tokio::test]
async fn a_full_outbox_refuses_counts_and_tells_later() {
    let mut machine = Machine::new(Mood::Down);
    machine.options.max_events = 5;
    let bus = machine.process().await;
    publish(&bus, &numbered("a", 3)).await;
    for _ in 0..2 {
        let refused = bus.publish(&numbered("b", 3), Publish::default()).await;
        match refused {
            Err(BusError::Full { what, reason }) => {
                assert_eq!(what, "the outbox");
                assert!(reason.contains("bus.outbox_max"), "{reason}");
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(link(&bus).await.outbox_refused, 6);
    machine.fake.set(Mood::Up);
    until("it is told", async || {
        machine.on_broker().await.iter().any(|(name, _)| name == "bus.outbox.drained")
    })
    .await;
    assert_eq!(machine.numbers("a").await, [0, 1, 2]);
    assert!(machine.numbers("b").await.is_empty(), "nothing of a refused batch is kept");
    let mut stream = machine
        .fake
        .inner
        .subscribe(subscription(&["bus.outbox.refused"], Start::Beginning, false))
        .await
        .unwrap();
    let told = rest(&mut *stream).await;
    assert_eq!(told.len(), 1);
    assert_eq!(parsed(&told[0]).payload["refused"], 6);
    bus.close().await;
}

#[tokio::test]
async fn bytes_are_capped_too() {
    let mut machine = Machine::new(Mood::Down);
    machine.options.max_bytes = 1000;
    let bus = machine.process().await;
    let mut refused = 0;
    for n in 0..10 {
        refused += u64::from(bus.publish(&[event("a", n)], Publish::default()).await.is_err());
    }
    let stats = link(&bus).await;
    assert!(refused > 0 && stats.outbox_bytes <= 1000 + 1000, "own events come on top: {stats:?}");
    assert_eq!(stats.outbox_refused, refused);
    bus.close().await;
}

#[tokio::test]
async fn the_circuit_opens_is_left_alone_and_closes_again() {
    let mut machine = Machine::new(Mood::Up);
    machine.options.policy.cooldown = Duration::from_secs(300);
    machine.options.retry = Duration::from_secs(300);
    let bus = machine.process().await;
    publish(&bus, &[event("a", 0)]).await;
    machine.fake.set(Mood::Down);
    let other = machine.process().await;
    publish(&bus, &[event("a", 1)]).await;
    // The task tries, too; three failures in all are enough.
    for n in 2..5 {
        publish(&other, &[event("a", n)]).await;
    }
    until("the circuit is open", async || link(&bus).await.circuit == "open").await;
    // One that had begun before may still end.
    for n in 5..8 {
        assert_eq!(publish(&bus, &[event("a", n)]).await.deferred, 1);
    }
    let calls = machine.fake.calls.load(Ordering::Relaxed);
    for n in 8..10 {
        assert_eq!(publish(&bus, &[event("a", n)]).await.deferred, 1);
    }
    assert_eq!(machine.fake.calls.load(Ordering::Relaxed), calls, "nobody tries");
    assert_eq!(link(&other).await.opened, 1, "any process can tell");

    // The connection says that it is back, long before the pause is over.
    machine.fake.set(Mood::Up);
    until("the circuit is closed", async || link(&bus).await.circuit == "closed").await;
    until_empty(&bus).await;
    assert_eq!(machine.numbers("a").await, (0..10).collect::<Vec<_>>());
    let about = async || -> Vec<String> {
        let all = machine.on_broker().await;
        all.into_iter().map(|(name, _)| name).filter(|name| name.starts_with("bus.")).collect()
    };
    // Whoever emptied it says so afterwards.
    until("it is told", async || about().await.iter().any(|name| name == "bus.outbox.drained")).await;
    let about = about().await;
    assert_eq!(about, ["bus.circuit.opened", "bus.circuit.closed", "bus.outbox.drained"], "each told once");
    bus.close().await;
    other.close().await;
    assert_eq!(machine.on_broker().await.len(), 13, "telling of it is not told of");
}

#[tokio::test]
async fn an_event_that_is_never_taken_blocks_nobody() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    publish(&bus, &[event("a", 0), event("poison", 1), event("a", 2)]).await;
    let required = Publish { require_route: true, ..Publish::default() };
    bus.publish(&[event("nobody", 3)], required).await.unwrap();
    bus.publish(&[event("a", 4)], required).await.unwrap();
    publish(&bus, &[event("nobody", 5)]).await;
    machine.fake.set(Mood::Up);
    until_empty(&bus).await;
    assert_eq!(machine.numbers("a").await, [0, 2, 4]);
    assert_eq!(machine.numbers("nobody").await, [5], "only the one that asked for somebody is refused");
    assert_eq!(link(&bus).await.outbox_failed, 2);
    // While the broker is there, whoever publishes is told.
    let told = bus.publish(&[event("nobody", 6)], required).await;
    assert!(matches!(told, Err(BusError::Unroutable(_))), "{told:?}");
    bus.close().await;
}

#[tokio::test]
async fn whoever_keeps_its_events_itself_is_told_that_they_must_wait_and_passes_those_that_do() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    let ours = Publish { never_deferred: true, ..Publish::default() };
    for _ in 0..5 {
        let refused = bus.publish(&[event("ours", 0)], ours).await;
        assert!(matches!(refused, Err(BusError::Unreachable { .. })), "{refused:?}");
    }
    assert_eq!(machine.numbers("ours").await, Vec::<u64>::new());
    publish(&bus, &[event("a", 1)]).await;
    machine.fake.set(Mood::Up);
    // The circuit that has opened is asked, as by everybody.
    until("it is published", async || bus.publish(&[event("ours", 2)], ours).await.is_ok()).await;
    until_empty(&bus).await;
    assert_eq!((machine.numbers("ours").await, machine.numbers("a").await), (vec![2], vec![1]));
    bus.close().await;
}

#[tokio::test]
async fn an_event_that_is_too_large_is_told_also_while_the_broker_is_away() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    let mut large = event("a", 0);
    large.payload = serde_json::json!({ "text": "x".repeat(MAX) });
    let refused = bus.publish(&[event("a", 1), large], Publish::default()).await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })), "{refused:?}");
    assert_eq!(link(&bus).await.outbox, 0);
    bus.close().await;
}

#[tokio::test]
async fn wrong_credentials_are_told_and_nothing_is_kept() {
    let machine = Machine::new(Mood::Denied);
    let bus = machine.process().await;
    for _ in 0..5 {
        let refused = bus.publish(&[event("a", 0)], Publish::default()).await;
        assert!(matches!(refused, Err(BusError::Access { .. })), "{refused:?}");
    }
    bus.close().await;

    // Also while something waits from before.
    machine.fake.set(Mood::Down);
    let bus = machine.process().await;
    publish(&bus, &[event("a", 1)]).await;
    bus.close().await;
    machine.fake.set(Mood::Denied);
    let bus = machine.process().await;
    let refused = bus.publish(&[event("a", 2)], Publish::default()).await;
    assert!(matches!(refused, Err(BusError::Access { .. })), "{refused:?}");
    let refused = bus.subscribe(subscription(&["#"], Start::Now, true)).await.map(drop);
    assert!(matches!(refused, Err(BusError::Access { .. })), "{refused:?}");
    machine.fake.set(Mood::Up);
    until_empty(&bus).await;
    assert_eq!(machine.numbers("a").await, [1]);
    bus.close().await;
}

#[tokio::test]
async fn what_may_have_been_taken_is_sent_again_under_the_same_id() {
    let machine = Machine::new(Mood::Up);
    let bus = machine.process().await;
    publish(&bus, &[event("a", 0)]).await;
    machine.fake.set(Mood::Deaf);
    let unsure = event("a", 1);
    assert_eq!(publish(&bus, std::slice::from_ref(&unsure)).await.deferred, 1);
    publish(&bus, &[event("a", 2)]).await;
    machine.fake.set(Mood::Up);
    until_empty(&bus).await;
    let copies = machine.fake.got.lock().iter().filter(|id| **id == unsure.event_id).count();
    assert!(copies >= 2, "{copies}");
    assert_eq!(machine.numbers("a").await, [0, 1, 2], "in order of the first copies");
    bus.close().await;
}

#[tokio::test]
async fn what_waits_outlives_the_process() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    publish(&bus, &numbered("a", 3)).await;
    bus.close().await;
    let closed = bus.publish(&[event("a", 9)], Publish::default()).await;
    assert!(matches!(closed, Err(BusError::Closed)));
    // Another one dies without a close.
    let bus = machine.process().await;
    publish(&bus, &[event("a", 3)]).await;
    drop(bus);
    machine.fake.set(Mood::Up);
    let bus = machine.process().await;
    until_empty(&bus).await;
    assert_eq!(machine.numbers("a").await, [0, 1, 2, 3]);
    bus.close().await;
}

#[tokio::test]
async fn a_close_sends_what_waits_if_the_broker_is_there() {
    let mut machine = Machine::new(Mood::Up);
    machine.options.retry = Duration::from_secs(300);
    let bus = machine.process().await;
    publish(&bus, &[event("a", 0)]).await;
    let lock = machine.hold_up(&bus).await;
    machine.fake.set(Mood::Deaf);
    publish(&bus, &[event("a", 1)]).await;
    machine.fake.mood.send_replace(Mood::Up);
    drop(lock);
    bus.close().await;
    assert_eq!(machine.numbers("a").await, [0, 1]);
}

#[tokio::test]
async fn a_stop_of_the_program_does_not_lose_its_last_words() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    machine.shutdown.cancel();
    publish(&bus, &[event("a", 0)]).await;
    bus.close().await;
    machine.shutdown.finish(Duration::from_secs(10)).await.unwrap();
    let later = Machine { shutdown: Shutdown::new(), ..machine };
    later.fake.set(Mood::Up);
    let bus = later.process().await;
    until_empty(&bus).await;
    assert_eq!(later.numbers("a").await, [0]);
    bus.close().await;
}

#[tokio::test]
async fn only_publishing_works_without_a_broker_and_figures_tell_why() {
    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    let refused = bus.subscribe(subscription(&["#"], Start::Now, true)).await.map(drop);
    assert!(matches!(refused, Err(BusError::Unreachable { .. })), "{refused:?}");
    let refused = bus.queues().await;
    assert!(matches!(refused, Err(BusError::Unreachable { .. })), "{refused:?}");
    let stats = bus.stats().await.unwrap();
    assert_eq!((stats.bus.as_str(), stats.events), ("fake:", None));
    assert!(stats.link.is_some());
    bus.close().await;
}

#[tokio::test]
async fn each_broker_has_an_outbox_of_its_own() {
    #[derive(Debug)]
    struct Elsewhere(Way);

    #[async_trait]
    impl Broker for Elsewhere {
        fn address(&self) -> String {
            "elsewhere:".to_owned()
        }

        fn identity(&self) -> String {
            "elsewhere".to_owned()
        }

        fn capabilities(&self) -> Capabilities {
            self.0.capabilities()
        }

        async fn open(&self) -> Result<Opened, BusError> {
            self.0.open().await
        }
    }

    let machine = Machine::new(Mood::Down);
    let bus = machine.process().await;
    publish(&bus, &[event("a", 0)]).await;
    bus.close().await;
    machine.fake.set(Mood::Up);
    let elsewhere = Fake::new(Mood::Up);
    let file = LocalState::open(&machine.path(), Arc::new(SystemClock), &machine.shutdown).await.unwrap();
    let way = Arc::new(Elsewhere(Way(Arc::clone(&elsewhere))));
    let other = OutboxBus::open(way, file, machine.options.clone(), &machine.shutdown).await.unwrap();
    assert_eq!(publish(&other, &[event("b", 0)]).await.accepted, 1);
    assert_eq!(link(&other).await.outbox, 0);
    other.close().await;
    assert_eq!(elsewhere.arrived().len(), 1);
    let bus = machine.process().await;
    until_empty(&bus).await;
    assert_eq!(machine.numbers("a").await, [0]);
    bus.close().await;
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    Publish {
        process: bool,
        count: u64,
    },
    Set(Mood),
    /// The process ends, in good order or not, and starts again.
    Restart {
        process: bool,
        orderly: bool,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let mood = prop_oneof![Just(Mood::Up), Just(Mood::Down), Just(Mood::Deaf)];
    let step = prop_oneof![
        4 => (any::<bool>(), 1_u64..4).prop_map(|(process, count)| Step::Publish { process, count }),
        2 => mood.prop_map(Step::Set),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(process, orderly)| Step::Restart { process, orderly }),
    ];
    prop::collection::vec(step, 1..25)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever happens to two processes and their broker: what was published arrives, and, the first copy of each
    /// event taken, in the order in which it was published.
    #[test]
    fn nothing_is_lost_and_the_order_is_kept(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut machine = Machine::new(Mood::Up);
            machine.options.max_events = 1000;
            let mut processes = [machine.process().await, machine.process().await];
            let mut published = Vec::new();
            for step in &steps {
                match step {
                    Step::Publish { process, count } => {
                        let events = numbered("a", *count);
                        publish(&processes[usize::from(*process)], &events).await;
                        published.extend(events.iter().map(|event| event.event_id));
                    }
                    Step::Set(mood) => machine.fake.set(*mood),
                    Step::Restart { process, orderly } => {
                        let process = usize::from(*process);
                        if *orderly {
                            processes[process].close().await;
                        }
                        processes[process] = machine.process().await;
                    }
                }
            }
            machine.fake.set(Mood::Up);
            until_empty(&processes[0]).await;
            for process in &processes {
                process.close().await;
            }
            let ours: std::collections::HashSet<Uuid> = published.iter().copied().collect();
            let arrived: Vec<Uuid> =
                machine.fake.arrived().into_iter().filter(|id| ours.contains(id)).collect();
            assert_eq!(arrived, published);
        });
    }
}
