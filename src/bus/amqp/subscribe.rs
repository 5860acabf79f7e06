//! Live events: a queue of our own that goes with us.
//!
//! No task: whoever reads the stream drives it. The broker sends at most `prefetch` events ahead, and lapin keeps those;
//! a reader that is slow or does not read leaves the rest in the queue on the broker. The queue ends with the stream or
//! with its connection; after a lost connection the stream goes on with a new queue and tells of the gap.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::{
    Channel, Consumer,
    message::Delivery,
    options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, QueueBindOptions, QueueDeclareOptions},
    types::{FieldTable, ShortString},
};
use uuid::Uuid;

use super::{
    super::{BusError, EventStream, Item, Pattern},
    errors,
    link::{Link, Live},
    message,
    topology::short,
};

/// What can't be mended by connecting again is tried again after this, so as not to ask the broker in a tight loop.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// What to listen to.
#[derive(Debug, Clone)]
pub(super) struct Listen {
    pub(super) patterns: Vec<Pattern>,
    pub(super) consumer: &'static str,
    pub(super) prefetch: u16,
    pub(super) max_event_bytes: usize,
}

/// Live events.
#[derive(Debug)]
pub(super) struct LiveStream {
    link: Link,
    listen: Listen,
    open: Option<Tap>,
    /// What to tell before the next event.
    gap: Option<String>,
    ended: bool,
}

impl LiveStream {
    /// Makes the queue. Events published from then on will be seen.
    ///
    /// # Errors
    /// [`BusError::Unreachable`], [`BusError::Access`].
    pub(super) async fn open(link: Link, listen: Listen) -> Result<Self, BusError> {
        let live = link.live()?;
        let tap = listen.tap(&link, &live).await?;
        Ok(Self { link, listen, open: Some(tap), gap: None, ended: false })
    }
}

#[cfg(test)]
impl LiveStream {
    pub(super) fn queue(&self) -> String {
        self.open.as_ref().unwrap().consumer.queue().to_string()
    }
}

impl Listen {
    async fn tap(&self, link: &Link, live: &Live) -> Result<Tap, BusError> {
        let queue = short("the queue's name", &format!("godctl.{}.{}", self.consumer, Uuid::new_v4()))?;
        let what = format!("queue '{queue}'");
        let channel = live.channel().await?;
        let options =
            QueueDeclareOptions { exclusive: true, auto_delete: true, ..QueueDeclareOptions::default() };
        live.answer(&what, channel.queue_declare(queue.clone(), options, FieldTable::default())).await?;
        for pattern in &self.patterns {
            let key = short("the pattern", pattern.as_str())?;
            let exchange = link.topology().exchange.clone();
            let bind = channel.queue_bind(
                queue.clone(),
                exchange,
                key,
                QueueBindOptions::default(),
                FieldTable::default(),
            );
            live.answer(&what, bind).await?;
        }
        Tap::open(live, channel, queue, self.prefetch, FieldTable::default()).await
    }
}

#[async_trait]
impl EventStream for LiveStream {
    async fn next(&mut self) -> Result<Option<Item>, BusError> {
        if self.ended {
            return Ok(None);
        }
        loop {
            if let Some(reason) = self.gap.take_if(|_| self.open.is_some()) {
                return Ok(Some(Item::Gap { missed: None, reason }));
            }
            if let Some(tap) = &mut self.open {
                tokio::select! {
                    () = self.link.closed() => return Ok(None),
                    delivery = tap.next() => match delivery {
                        Ok(delivery) => {
                            let Delivery { routing_key, properties, data, .. } = delivery;
                            let limit = self.listen.max_event_bytes;
                            let received = message::received(routing_key.as_str(), &properties, &data, limit);
                            return Ok(Some(Item::Event(Box::new(received))));
                        }
                        Err(reason) => {
                            self.gap.get_or_insert(reason);
                            self.open = None;
                        }
                    }
                }
            }
            // Each step may be cancelled: a queue that was made in vain goes with its channel.
            let Ok(live) = self.link.up().await else { return Ok(None) };
            match self.listen.tap(&self.link, &live).await {
                Ok(tap) => self.open = Some(tap),
                Err(BusError::Closed) => return Ok(None),
                Err(BusError::Unreachable { .. }) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
    }
}

/// A consumer that acknowledges by itself, many at once: for streams, where acknowledging only makes room for more.
#[derive(Debug)]
pub(super) struct Tap {
    channel: Channel,
    consumer: Consumer,
    /// Acknowledge after so many.
    batch: u64,
    /// The newest that was given out, and how many since the last acknowledgement.
    newest: u64,
    pending: u64,
}

impl Tap {
    /// Begins to consume `queue` on `channel`.
    pub(super) async fn open(
        live: &Live,
        channel: Channel,
        queue: ShortString,
        prefetch: u16,
        arguments: FieldTable,
    ) -> Result<Self, BusError> {
        let prefetch = prefetch.max(1);
        let what = format!("queue '{queue}'");
        live.answer(&what, channel.basic_qos(prefetch, BasicQosOptions::default())).await?;
        let consume = channel.basic_consume(queue, "".into(), BasicConsumeOptions::default(), arguments);
        let consumer = live.answer(&what, consume).await?;
        Ok(Self { channel, consumer, batch: u64::from(prefetch / 2).max(1), newest: 0, pending: 0 })
    }

    /// The next delivery, or why there will be no more. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Delivery, String> {
        // What was given out by the last call may have been looked at by now.
        if self.pending >= self.batch {
            self.acknowledge();
        }
        let ready = self.consumer.next().now_or_never();
        let next = match ready {
            Some(next) => next,
            None => {
                // Nothing more is here, so this is a good time to make room.
                self.acknowledge();
                self.consumer.next().await
            }
        };
        let delivery = match next {
            Some(Ok(delivery)) => delivery,
            Some(Err(error)) => return Err(errors::text(&error)),
            None => return Err("the broker ended the subscription".to_owned()),
        };
        self.newest = delivery.delivery_tag;
        self.pending += 1;
        Ok(delivery)
    }

    /// Says that all that was given out may be forgotten. Does not wait: what goes wrong shows in the next delivery.
    fn acknowledge(&mut self) {
        if std::mem::take(&mut self.pending) > 0 {
            let all = BasicAckOptions { multiple: true };
            // The first poll hands it to lapin; waiting until it is written would make the caller's wait uncancellable.
            drop(self.channel.basic_ack(self.newest, all).now_or_never());
        }
    }
}
