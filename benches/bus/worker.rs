//! The processes of the bench: each publishes or listens through godctl's library or plain lapin, says `ready`, waits
//! for a line, works, and prints what it measured as one line of JSON.

use std::{
    io::BufRead as _,
    path::Path,
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt as _;
use godctl::{
    bus::{Body, Event, Item, Publish, SharedBus, Start, Subscription, connect, event::Source, event::Stamp},
    config,
    shutdown::Shutdown,
};
use lapin::{
    BasicProperties, Channel, Connection, ConnectionProperties, ExchangeKind,
    options::{
        BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
        QueueBindOptions, QueueDeclareOptions, QueuePurgeOptions,
    },
    types::FieldTable,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::broker::on_a_channel;

/// The exchange that both publish to.
const EXCHANGE: &str = "bloodbank.events.v1";

/// What every event carries beside its envelope, in bytes.
pub(crate) const PAYLOAD: usize = 512;

/// Events of a latency run; sent every 5 ms on average, so that each finds an idle listener.
const PACED: u64 = 400;

/// What one process does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) what: What,
    /// With user and password, unlike the address in a configuration that was written out.
    pub(crate) url: String,
    pub(crate) durability: config::Durability,
    /// Plain lapin instead of godctl.
    pub(crate) plain: bool,
    pub(crate) data_dir: String,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) enum What {
    /// Publish for so long, so many with each call; prints events for each second.
    Publish { batch: usize, for_ms: u64 },
    /// Publish [`PACED`] events with pauses; prints nothing of interest.
    Pace,
    /// Print each paced event's latency in microseconds, after the last one.
    Listen,
    /// Subscribe, and wait for the parent to have seen enough.
    Idle,
}

pub(crate) fn run(job: &str) {
    let job: Job = serde_json::from_str(job).unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async { if job.plain { plain(&job).await } else { ours(&job).await } });
}

/// Says that everything is connected, and waits for the parent.
fn ready() {
    println!("ready");
    std::io::stdin().lock().read_line(&mut String::new()).unwrap();
}

fn report(value: &impl Serialize) {
    println!("{}", serde_json::to_string(value).unwrap());
}

/// An event of the usual size that says when it was made.
fn event() -> Event {
    let kind = "bench.event.made".parse().unwrap();
    let source = Source {
        host: "bench".into(),
        app: "bench".into(),
        kind: "service".into(),
        extra: serde_json::Map::new(),
    };
    Event::new(Stamp::now(), kind, source, json!({ "filler": "x".repeat(PAYLOAD), "sent_ns": now_ns() }))
}

fn now_ns() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64
}

fn latency_us(payload: &serde_json::Value) -> f64 {
    now_ns().saturating_sub(payload["sent_ns"].as_u64().unwrap()) as f64 / 1_000.0
}

async fn ours(job: &Job) {
    let life = Shutdown::new();
    let config =
        config::Bus { url: job.url.parse().unwrap(), durability: job.durability, ..config::Bus::default() };
    let bus = connect::connect(&config, Path::new(&job.data_dir), &life).await.unwrap();
    match job.what {
        What::Publish { batch, for_ms } => {
            // What the first call sets up is not what is measured.
            bus.publish(&[event()], Publish::default()).await.unwrap();
            ready();
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < Duration::from_millis(for_ms) {
                let events: Vec<_> = (0..batch).map(|_| event()).collect();
                let published = bus.publish(&events, Publish::default()).await.unwrap();
                assert_eq!(published.accepted as usize, batch, "{published:?}");
                count += batch;
            }
            report(&(count as f64 / started.elapsed().as_secs_f64()));
        }
        What::Pace => {
            bus.publish(&[event()], Publish::default()).await.unwrap();
            ready();
            for _ in 0..PACED {
                rest().await;
                bus.publish(&[event()], Publish::default()).await.unwrap();
            }
            report(&());
        }
        What::Listen => report(&listen(&bus).await),
        What::Idle => {
            let _stream = subscribe(&bus).await;
            ready();
        }
    }
    bus.close().await;
    life.finish(Duration::from_secs(5)).await.unwrap();
}

async fn subscribe(bus: &SharedBus) -> Box<dyn godctl::bus::EventStream> {
    let subscription = Subscription {
        patterns: vec!["bench.#".parse().unwrap()],
        start: Start::Now,
        follow: true,
        consumer: "bench",
    };
    bus.subscribe(subscription).await.unwrap()
}

async fn listen(bus: &SharedBus) -> Vec<f64> {
    let mut stream = subscribe(bus).await;
    ready();
    let mut latencies = Vec::new();
    // The first event is the publisher's warming up.
    while latencies.len() < PACED as usize + 1 {
        if let Some(Item::Event(received)) = stream.next().await.unwrap()
            && let Body::Event(event) = &received.body
        {
            latencies.push(latency_us(&event.payload));
        }
    }
    latencies.split_off(1)
}

/// 2.5 to 7.5 ms.
async fn rest() {
    tokio::time::sleep(Duration::from_micros(fastrand::u64(2_500..7_500))).await;
}

async fn plain(job: &Job) {
    let connection = Connection::connect(&job.url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    declare_exchange(&channel).await;
    match job.what {
        What::Publish { batch, for_ms } => {
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            publish_plainly(&channel, 1).await;
            ready();
            let (started, mut count) = (Instant::now(), 0);
            while started.elapsed() < Duration::from_millis(for_ms) {
                publish_plainly(&channel, batch).await;
                count += batch;
            }
            report(&(count as f64 / started.elapsed().as_secs_f64()));
        }
        What::Pace => {
            channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
            publish_plainly(&channel, 1).await;
            ready();
            for _ in 0..PACED {
                rest().await;
                publish_plainly(&channel, 1).await;
            }
            report(&());
        }
        What::Listen => {
            let options = QueueDeclareOptions { exclusive: true, auto_delete: true, ..Default::default() };
            let queue = channel.queue_declare("".into(), options, FieldTable::default()).await.unwrap();
            bind(&channel, queue.name().as_str()).await;
            let options = BasicConsumeOptions { no_ack: true, ..Default::default() };
            let mut consumer = channel
                .basic_consume(queue.name().clone(), "".into(), options, FieldTable::default())
                .await
                .unwrap();
            ready();
            let mut latencies = Vec::new();
            while latencies.len() < PACED as usize + 1 {
                let delivery = consumer.next().await.unwrap().unwrap();
                let event: serde_json::Value = serde_json::from_slice(&delivery.data).unwrap();
                latencies.push(latency_us(&event["payload"]));
            }
            report(&latencies.split_off(1));
        }
        What::Idle => unreachable!("nobody asks how idle plain lapin is"),
    }
    connection.close(200, "done".into()).await.unwrap();
}

/// The same bytes, properties and promises as godctl's: persistent, mandatory, confirmed.
async fn publish_plainly(channel: &Channel, batch: usize) {
    let mut confirms = Vec::with_capacity(batch);
    for _ in 0..batch {
        let event = event();
        let properties = BasicProperties::default()
            .with_delivery_mode(2)
            .with_content_type("application/json".into())
            .with_message_id(event.event_id.to_string().into());
        let options = BasicPublishOptions { mandatory: true, ..Default::default() };
        let body = serde_json::to_vec(&event).unwrap();
        let key = event.event_type.as_str().into();
        confirms.push(channel.basic_publish(EXCHANGE.into(), key, options, &body, properties).await.unwrap());
    }
    for confirm in confirms {
        assert!(confirm.await.unwrap().is_ack());
    }
}

async fn declare_exchange(channel: &Channel) {
    let options = ExchangeDeclareOptions { durable: true, ..Default::default() };
    channel
        .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, options, FieldTable::default())
        .await
        .unwrap();
}

async fn bind(channel: &Channel, queue: &str) {
    let options = QueueBindOptions::default();
    channel
        .queue_bind(queue.into(), EXCHANGE.into(), "bench.#".into(), options, FieldTable::default())
        .await
        .unwrap();
}

/// A durable queue that takes what is published, so that the broker has to write it; emptied each time.
pub(crate) fn sink(url: &str) {
    on_a_channel(url, async |channel| {
        declare_exchange(&channel).await;
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("bench.sink".into(), options, FieldTable::default()).await.unwrap();
        bind(&channel, "bench.sink").await;
        channel.queue_purge("bench.sink".into(), QueuePurgeOptions::default()).await.unwrap();
    });
}
