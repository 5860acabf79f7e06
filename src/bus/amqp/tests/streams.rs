//! What is on the wire, live events and history.

use std::time::Instant;

use super::{
    super::{AmqpBus, AmqpOptions, errors, testing::Bench},
    *,
};
use crate::bus::{BusError, Query};
use lapin::{
    ExchangeKind,
    options::{
        BasicGetOptions, ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions, QueueDeclareOptions,
    },
    types::{FieldTable, ShortString},
};

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
    let required = Publish { require_route: true, ..Publish::default() };
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
async fn the_exchange_is_durable_and_messages_are_persistent() {
    let Some(bench) = Bench::new().await else { return };
    let bus = bench.open().await;
    let raw = bus.raw_channel().await;
    let x: ShortString = bench.exchange.as_str().into();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    // Declaring it with other properties would be refused.
    raw.exchange_declare(x.clone(), ExchangeKind::Topic, durable, FieldTable::default()).await.unwrap();
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let queue = raw.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
    let name = queue.name().clone();
    raw.queue_bind(name.clone(), x, "#".into(), QueueBindOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let sent = event("a.b", 1);
    publish(&bus, std::slice::from_ref(&sent)).await;
    let got =
        raw.basic_get(name, BasicGetOptions { no_ack: true }).await.unwrap().expect("a message").delivery;
    assert_eq!(got.routing_key.as_str(), "a.b");
    assert_eq!(got.properties.delivery_mode(), &Some(2));
    assert_eq!(got.properties.message_id().as_ref().unwrap().as_str(), sent.event_id.to_string());
    assert_eq!(got.properties.content_type().as_ref().unwrap().as_str(), "application/json");
    assert_eq!(got.data, sent.to_json());
    bus.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn a_live_subscription_has_a_queue_of_its_own_that_goes_with_it() {
    let Some(bench) = Bench::new().await else { return };
    let (bus, other) = (bench.open().await, bench.open().await);
    let stream = bus.live_stream("dash").await;
    let name = stream.queue();
    let uuid = name.strip_prefix("godctl.dash.").and_then(|uuid| uuid.parse::<uuid::Uuid>().ok());
    assert!(uuid.is_some(), "{name}");
    let look = async || {
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let raw = other.raw_channel().await;
        let looked = raw.queue_declare(name.as_str().into(), passive, FieldTable::default()).await;
        looked.map(drop).map_err(|error| errors::code(&error))
    };
    assert_eq!(look().await, Err(Some(405)), "exclusive: nobody else may even look");
    drop(stream);
    until("the queue is gone", async || look().await == Err(Some(404))).await;
    bus.close().await;
    other.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn a_deleted_exchange_is_made_again() {
    let Some(bench) = Bench::new().await else { return };
    let bus = bench.open().await;
    publish(&bus, &[event("a", 0)]).await;
    let raw = bus.raw_channel().await;
    raw.exchange_delete(bench.exchange.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    let error = bus.publish(&[event("a", 1)], Publish::default()).await.unwrap_err();
    assert!(error.is_retryable(), "{error}");
    publish(&bus, &[event("a", 2)]).await;
    bus.close().await;
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
    bus.close().await;
    bench.clean(&[]).await;
}

async fn publish_one(bus: &dyn EventBus, n: u64) {
    publish(bus, &[event("a", n)]).await;
}
