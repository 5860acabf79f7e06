//! Laws of the bus on a real RabbitMQ, beside those that all backends share.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::json;
use tokio::time::timeout;

use super::{AmqpBus, AmqpOptions, testing::*};
use crate::bus::{
    Body, BusError, Event, EventBus, EventStream, Item, Pattern, Publish, Query, SharedBus, Start,
    Subscription,
    event::{Source, Stamp},
    testkit::{Fixture, conformance},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn event(event_type: &str, n: u64) -> Event {
    let source = Source {
        host: "test".to_owned(),
        app: "godctl-test".to_owned(),
        kind: "manual".to_owned(),
        extra: serde_json::Map::new(),
    };
    Event::new(Stamp::now(), event_type.parse().unwrap(), source, json!({ "n": n }))
}

fn events(event_type: &str, count: u64) -> Vec<Event> {
    (0..count).map(|n| event(event_type, n)).collect()
}

fn number(event: &Event) -> u64 {
    event.payload["n"].as_u64().unwrap()
}

fn subscription(patterns: &[&str], start: Start, follow: bool) -> Subscription {
    let patterns = patterns.iter().map(|text| text.parse::<Pattern>().unwrap()).collect();
    Subscription { patterns, start, follow, consumer: "test" }
}

async fn next(stream: &mut dyn EventStream) -> Item {
    timeout(PATIENCE, stream.next()).await.expect("nothing comes").unwrap().expect("the stream ended")
}

async fn numbers(stream: &mut dyn EventStream, count: usize) -> Vec<u64> {
    let mut all = Vec::new();
    while all.len() < count {
        match next(stream).await {
            Item::Event(received) => all.push(number(received.body.event().expect("an event"))),
            Item::CaughtUp => {}
            gap @ Item::Gap { .. } => panic!("{gap:?}"),
        }
    }
    all
}

async fn publish(bus: &dyn EventBus, events: &[Event]) {
    bus.publish(events, Publish::default()).await.unwrap();
}

#[tokio::test]
async fn what_is_published_is_seen_in_order() {
    let Some(bench) = Bench::new().await else { return };
    let (bus, other) = (bench.open().await, bench.open().await);
    let mut all = other.subscribe(subscription(&["#"], Start::Now, true)).await.unwrap();
    let mut some = other.subscribe(subscription(&["a.*", "a.b"], Start::Now, true)).await.unwrap();
    publish(&bus, &events("a.b", 2000)).await;
    publish(&bus, &[event("b.c", 7)]).await;
    publish(&bus, &[event("a.c", 8)]).await;
    assert_eq!(numbers(&mut *all, 2002).await, (0..2000).chain([7, 8]).collect::<Vec<_>>());
    assert_eq!(numbers(&mut *some, 2001).await, (0..2000).chain([8]).collect::<Vec<_>>());
    bus.close().await;
    other.close().await;
    assert_eq!(all.next().await.unwrap(), None);
    bench.clean(&[]).await;
}

#[tokio::test]
async fn what_nobody_takes_is_counted_and_told_if_asked() {
    let Some(bench) = Bench::new().await else { return };
    let bus = bench.open().await;
    let _stream = bus.subscribe(subscription(&["some.body"], Start::Now, true)).await.unwrap();
    let mixed: Vec<Event> =
        (0..500).map(|n| event(if n % 5 == 0 { "no.body" } else { "some.body" }, n)).collect();
    let published = bus.publish(&mixed, Publish::default()).await.unwrap();
    assert_eq!((published.accepted, published.unrouted), (500, 100));
    let required = Publish { require_route: true };
    let refused = bus.publish(&mixed, required).await.unwrap_err();
    assert!(matches!(&refused, BusError::Unroutable(name) if name == "no.body"), "{refused:?}");
    // At the same time, nobody gets somebody else's returned messages.
    let calls = (0..100).map(|n| {
        let bus = &bus;
        async move {
            let key = if n % 3 == 0 { "no.body" } else { "some.body" };
            (n % 3 == 0, bus.publish(&[event(key, n)], Publish::default()).await.unwrap().unrouted)
        }
    });
    for (nobody, unrouted) in futures_util::future::join_all(calls).await {
        assert_eq!(unrouted, u64::from(nobody));
    }
    bus.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn history_is_read_before_what_is_live() {
    let Some(bench) = Bench::new().await else { return };
    let bus = AmqpBus::open(AmqpOptions { history: true, ..bench.options() }, &bench.shutdown).await.unwrap();
    publish(&bus, &events("a", 100)).await;
    let mut stream = bus.subscribe(subscription(&["a"], Start::Beginning, true)).await.unwrap();
    assert_eq!(numbers(&mut *stream, 100).await, (0..100).collect::<Vec<_>>());
    assert_eq!(next(&mut *stream).await, Item::CaughtUp);
    publish(&bus, &[event("b", 1), event("a", 100)]).await;
    assert_eq!(numbers(&mut *stream, 1).await, [100]);
    let query = Query { patterns: vec![Pattern::all()], before: None, since: None, limit: 3 };
    let page: Vec<u64> =
        bus.page(query).await.unwrap().iter().map(|r| number(r.body.event().unwrap())).collect();
    assert_eq!(page, [99, 1, 100]);
    let stats = bus.stats().await.unwrap();
    assert!(stats.oldest.is_some() && stats.oldest < stats.newest, "{stats:?}");
    bus.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn without_history_the_past_says_how_to_get_one() {
    let Some(bench) = Bench::new().await else { return };
    let bus = bench.open().await;
    let error = bus.subscribe(subscription(&["#"], Start::Beginning, true)).await.err().unwrap();
    assert!(
        matches!(&error, BusError::Unsupported { instead, .. } if instead.contains("bus.history = true")),
        "{error}"
    );
    bus.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn a_lost_connection_is_a_gap_for_live_events_and_none_for_history() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    let options = AmqpOptions { history: true, ..bench.through(&proxy) };
    let far = AmqpBus::open(options, &bench.shutdown).await.unwrap();
    let near = bench.open().await;
    let mut live = far.subscribe(subscription(&["a"], Start::Now, true)).await.unwrap();
    let mut past = far.subscribe(subscription(&["a"], Start::Beginning, true)).await.unwrap();
    publish(&near, &[event("a", 0)]).await;
    assert_eq!(numbers(&mut *live, 1).await, [0]);
    assert_eq!(numbers(&mut *past, 1).await, [0]);
    proxy.set_down(true);
    publish(&near, &[event("a", 1)]).await;
    let away = Instant::now();
    let error = loop {
        match far.publish(&[event("a", 9)], Publish::default()).await {
            Err(error) => break error,
            Ok(_) => assert!(away.elapsed() < PATIENCE, "the loss is not noticed"),
        }
    };
    assert!(matches!(error, BusError::Unreachable { .. }) && error.is_retryable(), "{error:?}");
    proxy.set_down(false);
    let gap = next(&mut *live).await;
    assert!(matches!(&gap, Item::Gap { missed: None, reason } if !reason.is_empty()), "{gap:?}");
    publish(&near, &[event("a", 2)]).await;
    assert_eq!(numbers(&mut *live, 1).await, [2]);
    let mut seen = numbers(&mut *past, 2).await;
    seen.retain(|n| *n != 9);
    assert_eq!(seen, [1, 2]);
    far.close().await;
    near.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn opening_tells_what_is_wrong_and_never_the_password() {
    let Some(bench) = Bench::new().await else { return };
    let address = super::uri::parse(&bench.url, None, None).unwrap();
    let host = format!("{}:{}", address.host, address.port);
    let try_open = async |url: &str| {
        let url = url.to_owned().try_into().unwrap();
        let options = AmqpOptions { url, connect_timeout: Duration::from_secs(3), ..bench.options() };
        AmqpBus::open(options, &bench.shutdown).await.unwrap_err()
    };
    let wrong = try_open(&format!("amqp://guest:hunter2-marker@{host}")).await;
    assert!(matches!(wrong, BusError::Access { .. }), "{wrong:?}");
    let vhost = try_open(&format!("amqp://{host}/nothing-here")).await;
    assert!(matches!(vhost, BusError::Access { .. }), "{vhost:?}");
    let refused = try_open("amqp://u:hunter2-marker@127.0.0.1:1").await;
    assert!(matches!(refused, BusError::Unreachable { .. }), "{refused:?}");
    let unknown = try_open("amqp://u:hunter2-marker@no-such-host.invalid").await;
    assert!(matches!(unknown, BusError::Unreachable { .. }), "{unknown:?}");
    // A host that takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started = Instant::now();
    let mute = try_open(&format!("amqp://u:hunter2-marker@{}", silent.local_addr().unwrap())).await;
    assert!(
        matches!(mute, BusError::Unreachable { .. }) && started.elapsed() < Duration::from_secs(5),
        "{mute:?}"
    );
    for error in [wrong, vhost, refused, unknown, mute] {
        println!("{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    bench.clean(&[]).await;
}

#[tokio::test]
#[ignore = "measures; run it with --ignored --nocapture"]
async fn measure() {
    let Some(bench) = Bench::new().await else { return };
    let bus = bench.open().await;
    let mut stream = bus.subscribe(subscription(&["#"], Start::Now, true)).await.unwrap();
    let started = Instant::now();
    for n in 0..2000 {
        publish(&bus, &[event("a", n)]).await;
    }
    println!("single: {:.0}/s", 2000.0 / started.elapsed().as_secs_f64());
    let started = Instant::now();
    publish(&bus, &events("a", 50_000)).await;
    println!("batched: {:.0}/s", 50_000.0 / started.elapsed().as_secs_f64());
    let started = Instant::now();
    numbers(&mut *stream, 52_000).await;
    println!("read: {:.0}/s", 52_000.0 / started.elapsed().as_secs_f64());
    let mut took = Vec::new();
    for n in 0..1000 {
        let started = Instant::now();
        let (_, got) = tokio::join!(publish_one(&bus, n), next(&mut *stream));
        assert!(matches!(got, Item::Event(_)));
        took.push(started.elapsed());
    }
    took.sort();
    println!("latency: p50 {:?} p95 {:?} p99 {:?}", took[500], took[950], took[990]);
    let _ = (Timestamp::now(), Body::event);
    bus.close().await;
    bench.clean(&[]).await;
}

async fn publish_one(bus: &dyn EventBus, n: u64) {
    publish(bus, &[event("a", n)]).await;
}

/// A fresh exchange on the broker.
struct OnBroker {
    bench: Bench,
    history: bool,
    seen: std::sync::Arc<Seen>,
}

impl OnBroker {
    fn options(&self) -> AmqpOptions {
        AmqpOptions {
            history: self.history,
            max_event_bytes: 100_000,
            seen: Some(self.seen.clone()),
            ..self.bench.options()
        }
    }
}

async fn on_broker(history: bool) -> Option<OnBroker> {
    Some(OnBroker { bench: Bench::new().await?, history, seen: std::sync::Arc::default() })
}

#[async_trait::async_trait]
impl Fixture for OnBroker {
    async fn open(&self) -> SharedBus {
        std::sync::Arc::new(AmqpBus::open(self.options(), &self.bench.shutdown).await.unwrap())
    }

    async fn inject(&self, routing_key: &str, raw: &[u8]) -> bool {
        let bus = AmqpBus::open(self.options(), &self.bench.shutdown).await.unwrap();
        bus.publish_raw(routing_key, raw).await;
        bus.close().await;
        true
    }

    fn max_event_bytes(&self) -> usize {
        100_000
    }

    async fn remove(&self) {
        let bus = self.bench.open().await;
        bus.remove_exchange().await;
        bus.close().await;
        self.bench.shutdown.finish(Duration::from_secs(5)).await.unwrap();
    }
}

async fn without_history() -> Option<OnBroker> {
    on_broker(false).await
}

async fn with_history() -> Option<OnBroker> {
    on_broker(true).await
}

conformance!(laws, without_history);
conformance!(laws_with_history, with_history);
