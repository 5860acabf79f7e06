//! A durable queue on the broker that nobody consumes until the end: the order in which events reached the broker, and
//! how often each did. Plain lapin.

use std::time::Duration;

use lapin::{
    ExchangeKind,
    options::{
        BasicAckOptions, BasicConsumeOptions, BasicQosOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::Value;

use futures_util::StreamExt as _;

use super::{actors::event, ledger::Name};
use crate::broker::on_a_channel;

const EXCHANGE: &str = "bloodbank.events.v1";
const QUEUE: &str = "kill.audit";

pub(super) fn begin(url: &str) {
    on_a_channel(url, async |channel| {
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let none = FieldTable::default;
        channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, none()).await.unwrap();
        let durable = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare(QUEUE.into(), durable, none()).await.unwrap();
        let bind = QueueBindOptions::default();
        channel.queue_bind(QUEUE.into(), EXCHANGE.into(), "kill.#".into(), bind, none()).await.unwrap();
    });
}

/// Everything that reached the broker, in order, each compared with what was sent.
pub(super) fn end(url: &str, seed: u64) -> Vec<Name> {
    on_a_channel(url, async |channel| {
        channel.basic_qos(1_000, BasicQosOptions::default()).await.unwrap();
        let options = BasicConsumeOptions::default();
        let mut consumer = channel
            .basic_consume(QUEUE.into(), "audit".into(), options, FieldTable::default())
            .await
            .unwrap();
        let (mut names, mut last) = (Vec::new(), None);
        // The broker doesn't say that a queue is empty; two seconds are a thousand times what it takes to go on.
        while let Ok(delivery) = tokio::time::timeout(Duration::from_secs(2), consumer.next()).await {
            let delivery = delivery.unwrap().unwrap();
            let got: Value = serde_json::from_slice(&delivery.data).unwrap();
            let name = Name::of(got["event_id"].as_str().unwrap().parse().unwrap(), seed).unwrap();
            assert_eq!(got["payload"], event(name, seed)["payload"], "{name:?}");
            names.push(name);
            if names.len() % 500 == 0 {
                delivery.ack(BasicAckOptions { multiple: true }).await.unwrap();
            }
            last = Some(delivery);
        }
        if let Some(delivery) = last.filter(|_| names.len() % 500 != 0) {
            delivery.ack(BasicAckOptions { multiple: true }).await.unwrap();
        }
        names
    })
}
