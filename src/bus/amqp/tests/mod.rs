//! Tests on a real RabbitMQ, beside the laws that all backends share; see `testing` for what they need.

mod connections;
mod laws;
mod queues;
mod streams;

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::time::timeout;

use super::testing::Bench;
use crate::bus::{
    Delivery, Event, EventBus, EventStream, Item, Pattern, Publish, QueueSpec, Start, Subscription,
    WorkQueue,
    event::{Source, Stamp},
};

const PATIENCE: Duration = Duration::from_secs(60);

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

fn queue_spec(bench: &Bench, name: &str, patterns: &[&str]) -> QueueSpec {
    let bindings = patterns.iter().map(|text| text.parse().unwrap()).collect();
    let name = format!("{}.{name}", bench.exchange);
    QueueSpec { visibility: Duration::from_secs(60), ..QueueSpec::new(name, bindings) }
}

async fn take(queue: &dyn WorkQueue) -> Delivery {
    timeout(PATIENCE, queue.next()).await.expect("no work comes").unwrap().expect("the queue ended")
}

fn number_of(delivery: &Delivery) -> u64 {
    number(delivery.received.body.event().expect("an event"))
}

async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition().await {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
