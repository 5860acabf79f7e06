//! The conformance suite, with and without a history.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    super::{
        AmqpBus, AmqpOptions,
        testing::{Bench, Seen},
    },
    *,
};
use crate::bus::{
    SharedBus,
    testkit::{Fixture, conformance},
};

/// A fresh exchange on the broker.
struct OnBroker {
    bench: Bench,
    history: bool,
    seen: Arc<Seen>,
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
    Some(OnBroker { bench: Bench::new().await?, history, seen: Arc::default() })
}

#[async_trait]
impl Fixture for OnBroker {
    async fn open(&self) -> SharedBus {
        Arc::new(AmqpBus::open(self.options(), &self.bench.shutdown).await.unwrap())
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
