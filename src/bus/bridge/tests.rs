//! Bridges between buses in memory, in files and on a RabbitMQ, stopped and started.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::*;
use crate::{
    bus::{
        BusError, Capabilities, Event, EventBus, EventStream, EventType, Publish, Query, QueueSpec, Received,
        Subscription, WorkQueue,
        amqp::{AmqpBus, AmqpOptions, testing::Bench},
        event::{Source, Stamp},
        memory::{MemoryBus, MemoryOptions},
        sqlite::{SqliteBus, SqliteOptions},
        testkit::{parsed, take},
    },
    shutdown::Shutdown,
};

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
        tokio::time::timeout(pause, run(&*from, &*to, &options(true), &progress, &CancellationToken::new()))
            .await
            .ok();
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

/// Runs a bridge for random short times, each time dropped in the middle of whatever it does, as if killed. At least so
/// many times, and until something was copied: on a busy machine the times grow.
async fn run_and_kill(from: &dyn EventBus, to: &dyn EventBus, times: u32) {
    let mut random = fastrand::Rng::with_seed(11);
    let options = options(true);
    let (mut copied, mut longest) = (0, 40_000);
    for round in 0.. {
        if round >= times {
            if copied > 0 {
                break;
            }
            longest *= 2;
        }
        let progress = Progress::default();
        let pause = Duration::from_micros(random.u64(0..longest));
        let stop = CancellationToken::new();
        let running = run(from, to, &options, &progress, &stop);
        drop(tokio::time::timeout(pause, running).await);
        copied += progress.now().copied;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_file_to_a_broker_each_event_arrives_once() {
    const COUNT: u64 = 400;
    let Some(bench) = Bench::new().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let from =
        SqliteBus::open(SqliteOptions::new(dir.path().join("from.db")), &bench.shutdown).await.unwrap();
    let to = bench.open().await;
    let name = format!("{}.work", bench.exchange);
    let spec = QueueSpec { dedupe: false, ..QueueSpec::new(name.clone(), vec![Pattern::all()]) };
    let queue = to.queue(spec).await.unwrap();
    let sent: Vec<Event> = (0..COUNT).map(|n| event("a.b", n.into())).collect();
    from.publish(&sent, Publish::default()).await.unwrap();
    // A cursor on a broker belongs to its exchange, so this name is free.
    run_and_kill(&from, &to, 30).await;
    let rest = copy_all(&from, &to).await;
    assert!(rest.copied < COUNT, "the runs before did nothing");
    to.publish(&[event("end", 0.into())], Publish::default()).await.unwrap();
    let mut got = Vec::new();
    loop {
        let delivery = take(&*queue).await;
        delivery.lease.ack().await.unwrap();
        let event = parsed(&delivery.received);
        if event.event_type.as_str() == "end" {
            break;
        }
        got.push(event.event_id);
    }
    let want: Vec<_> = sent.iter().map(|event| event.event_id).collect();
    assert_eq!(got, want);
    drop(queue);
    to.close().await;
    bench.clean(&[&name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_a_broker_without_history_to_a_file_each_event_arrives_once() {
    const COUNT: u64 = 300;
    let Some(bench) = Bench::new().await else { return };
    let dir = tempfile::tempdir().unwrap();
    let to = SqliteBus::open(SqliteOptions::new(dir.path().join("to.db")), &bench.shutdown).await.unwrap();
    let from = bench.open().await;
    // The queue of a bridge has the bridge's name, and queues are not within an exchange.
    let name = format!("test-{}", bench.exchange);
    let queue_name = format!("godctl.bridge.{name}");
    drop(from.queue(QueueSpec::new(queue_name.clone(), vec!["a.#".parse().unwrap()])).await.unwrap());
    let sent: Vec<Event> = (0..COUNT).map(|n| event("a.b", n.into())).collect();
    from.publish(&sent, Publish::default()).await.unwrap();
    let options = BridgeOptions { name, ..options(true) };
    let mut random = fastrand::Rng::with_seed(13);
    for _ in 0..10 {
        // Killed: its connection goes with it, and what it had in hand is the broker's again.
        let killed = bench.open().await;
        let pause = Duration::from_micros(random.u64(0..60_000));
        let (progress, stop) = (Progress::default(), CancellationToken::new());
        drop(tokio::time::timeout(pause, run(&killed, &to, &options, &progress, &stop)).await);
        killed.close().await;
    }
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let watching = async {
        crate::bus::testkit::until("all is copied", async || all(&to).await.len() as u64 == COUNT).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(run(&from, &to, &options, &progress, &stop), watching);
    ended.unwrap();
    let mut got = all(&to).await;
    let mut want: Vec<_> = sent.iter().map(|event| event.event_id).collect();
    got.sort_unstable();
    want.sort_unstable();
    assert_eq!(got, want);
    from.close().await;
    bench.clean(&[&queue_name]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bridge_waits_for_a_side_that_is_away() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    let from = memory(1 << 20);
    let options_through = AmqpOptions { connect_timeout: Duration::from_secs(1), ..bench.through(&proxy) };
    let to = AmqpBus::open(options_through, &bench.shutdown).await.unwrap();
    let name = format!("{}.work", bench.exchange);
    let queue = to.queue(QueueSpec::new(name.clone(), vec![Pattern::all()])).await.unwrap();
    let (progress, stop) = (Progress::default(), CancellationToken::new());
    let options = options(true);
    let publishing = async {
        for n in 0_u64..60 {
            from.publish(&[event("a.b", n.into())], Publish::default()).await.unwrap();
            if n % 20 == 10 {
                proxy.set_down(true);
                crate::bus::testkit::until("it is noticed", async || progress.now().retries > n / 20).await;
                proxy.set_down(false);
            }
        }
        crate::bus::testkit::until("all is copied", async || progress.now().copied == 60).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(run(&from, &to, &options, &progress, &stop), publishing);
    ended.unwrap();
    let mut got = Vec::new();
    while got.len() < 60 {
        let delivery = take(&*queue).await;
        delivery.lease.ack().await.unwrap();
        got.push(parsed(&delivery.received).payload.as_u64().unwrap());
    }
    assert_eq!(got, (0..60).collect::<Vec<_>>());
    drop(queue);
    to.close().await;
    bench.clean(&[&name]).await;
}
