//! Work queues: one task for each consumer fetches messages, counts attempts, skips what is done, and ends leases.
//!
//! Fetching begins when somebody first waits for work. At most `prefetch` messages are here beyond what is being worked
//! on; the limit on the broker follows when more workers wait than it allows for. RabbitMQ itself takes work away from a
//! consumer that has not settled it for half an hour (`consumer_timeout`, 30 minutes unless the broker is configured
//! otherwise), however often its lease is extended. The task is started through
//! `Shutdown`; it ends when the queue was drained or dropped and all that was handed out is settled (leases end by
//! themselves), or when the bus is closed.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::StreamExt as _;
use lapin::{
    Channel, Consumer,
    message::Delivery as Message,
    options::{
        BasicCancelOptions, BasicConsumeOptions, BasicNackOptions, BasicQosOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use tracing::{debug, warn};

use super::{
    super::{BusError, Delivery, WorkQueue},
    errors,
    lease::{Desk, Needs, Work},
    link::Live,
    message::{self, Headers},
    past,
    subscribe::PAUSE,
};
use crate::shutdown::Shutdown;

/// One consumer of a queue.
#[derive(Debug)]
pub(super) struct AmqpQueue {
    desk: Arc<Desk>,
}

impl AmqpQueue {
    /// Declares the queue and joins its consumers.
    ///
    /// # Errors
    /// [`BusError::Conflict`], [`BusError::Access`], [`BusError::Unreachable`].
    pub(super) async fn open(desk: Desk, shutdown: &Shutdown) -> Result<Self, BusError> {
        let live = desk.link.live()?;
        desk.names.declare(&live, &desk.link.topology().exchange, &desk.spec.bindings).await?;
        let desk = Arc::new(desk);
        shutdown.spawn("amqp-queue", run(Arc::clone(&desk)));
        Ok(Self { desk })
    }
}

impl Drop for AmqpQueue {
    fn drop(&mut self) {
        self.desk.stop.cancel();
    }
}

#[async_trait]
impl WorkQueue for AmqpQueue {
    async fn next(&self) -> Result<Option<Delivery>, BusError> {
        self.desk.next().await
    }

    async fn drain(&self) {
        self.desk.stop.cancel();
        self.desk.drained.cancelled().await;
    }
}

/// A consumer on the broker.
struct Intake {
    live: Arc<Live>,
    channel: Channel,
    consumer: Consumer,
    /// Unacknowledged messages that the broker allows.
    limit: u16,
}

async fn run(desk: Arc<Desk>) {
    let mut intake: Option<Intake> = None;
    loop {
        let needs = desk.needs();
        let stopped = desk.stop.is_cancelled();
        if stopped {
            desk.end(None);
            put_back(&desk, intake.take()).await;
            desk.drained.cancel();
            if !needs.busy {
                return;
            }
        } else if intake.is_none() && needs.wanted {
            tokio::select! {
                () = desk.link.closed() => {}
                () = desk.stop.cancelled() => {}
                opened = open(&desk) => match opened {
                    Ok(opened) => intake = Some(opened),
                    Err(BusError::Closed) => {}
                    Err(error) => desk.end(Some(error)),
                }
            }
        } else if let Some(intake) = &mut intake {
            intake.allow(&desk, needs).await;
        }
        tokio::select! {
            () = desk.link.closed() => {
                desk.close();
                return;
            }
            () = desk.stop.cancelled(), if !stopped => {}
            () = desk.changed.notified() => {}
            () = until(needs.deadline) => desk.expire().await,
            next = next(&mut intake) => match next {
                Ok(message) => {
                    if let Some(intake) = &intake {
                        take_in(&desk, intake, message).await;
                    }
                }
                Err(reason) => {
                    debug!(queue = desk.queue(), reason, "lost the consumer");
                    intake = None;
                    // The broker has put back what was fetched through it.
                    for (_, work) in desk.clear() {
                        work.uncounted(desk.queue());
                    }
                }
            }
        }
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The next message, or why there will be none; waits forever without a consumer.
async fn next(intake: &mut Option<Intake>) -> Result<Message, String> {
    let Some(intake) = intake else { return std::future::pending().await };
    match intake.consumer.next().await {
        Some(Ok(message)) => Ok(message),
        Some(Err(error)) => Err(errors::text(&error)),
        None => Err("the broker ended the consumer".to_owned()),
    }
}

/// Begins to consume, as soon as there is a connection. Makes the queue again if it is gone.
///
/// # Errors
/// What waiting does not mend.
async fn open(desk: &Desk) -> Result<Intake, BusError> {
    loop {
        let live = desk.link.up().await?;
        match consume(desk, &live).await {
            Ok((channel, consumer, limit)) => return Ok(Intake { live, channel, consumer, limit }),
            Err(BusError::Unreachable { reason, .. }) => {
                debug!(queue = desk.queue(), reason, "cannot consume yet");
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

async fn consume(desk: &Desk, live: &Live) -> Result<(Channel, Consumer, u16), BusError> {
    let what = desk.names.what();
    desk.names.declare(live, &desk.link.topology().exchange, &desk.spec.bindings).await?;
    let channel = live.channel().await?;
    let limit = desk.spec.prefetch.max(1);
    live.answer(&what, channel.basic_qos(limit, BasicQosOptions { global: true })).await?;
    let consumer = channel.basic_consume(
        desk.names.queue.clone(),
        "".into(),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let consumer = live.answer(&what, consumer).await?;
    Ok((channel, consumer, limit))
}

impl Intake {
    /// Raises the broker's limit when somebody waits although it is reached, and lowers it when it is far too high.
    async fn allow(&mut self, desk: &Desk, needs: Needs) {
        let held = u16::try_from(needs.held).unwrap_or(u16::MAX);
        let wanted = held.saturating_add(desk.spec.prefetch.max(1));
        let reached = needs.starving && held >= self.limit;
        if reached || wanted < self.limit / 2 {
            let raise = self.channel.basic_qos(wanted, BasicQosOptions { global: true });
            match self.live.answer(&desk.names.what(), raise).await {
                Ok(()) => self.limit = wanted,
                // The consumer ends as well then.
                Err(error) => debug!(queue = desk.queue(), %error, "cannot change the prefetch"),
            }
        }
    }
}

/// Makes a message ready to be handed out, unless it had its attempts.
async fn take_in(desk: &Desk, intake: &Intake, message: Message) {
    let attempt = past::attempts(desk.queue(), &message).saturating_add(1);
    let Message { routing_key, properties, data, acker, .. } = message;
    let received = message::received(routing_key.as_str(), &properties, &data, desk.max_event_bytes);
    let history = Headers::of(&properties).history();
    let work = Work {
        acker,
        channel: intake.channel.clone(),
        event: received.body.event().map(|event| event.event_id),
        routing_key: received.routing_key.clone(),
        properties,
        raw: data,
        attempt,
        history,
    };
    if attempt > desk.spec.max_attempts.get() {
        if let Some(event) = work.event
            && desk.is_done(event).await
        {
            return desk.skip(&work);
        }
        let reason = "its consumers ended without settling it";
        if let Err(error) = desk.bury(&work, "attempts-exhausted", reason).await {
            warn!(queue = desk.queue(), %error, "cannot dead-letter; giving the work back");
            work.give_back(&desk.link, desk.queue(), attempt.saturating_sub(1)).await;
        }
        return;
    }
    desk.add(received, work);
}

/// Stops consuming and puts back, uncounted, what was not handed out. Waits until the broker has it.
async fn put_back(desk: &Desk, intake: Option<Intake>) {
    let Some(mut intake) = intake else { return };
    let cancel = intake.channel.basic_cancel(intake.consumer.tag(), BasicCancelOptions::default());
    let cancelled = intake.live.answer(&desk.names.what(), cancel).await;
    for (_, work) in desk.clear() {
        work.give_back(&desk.link, desk.queue(), work.attempt.saturating_sub(1)).await;
    }
    if cancelled.is_err() {
        return;
    }
    // What lapin still holds; it ends with the cancellation.
    while let Ok(Some(Ok(message))) =
        tokio::time::timeout(intake.live.patience(), intake.consumer.next()).await
    {
        past::uncounted(desk.queue(), &message);
        let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
        drop(intake.live.raw_answer(message.acker.nack(requeue)).await);
    }
    // The queue answers after it has taken them back.
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let sync = intake.channel.queue_declare(desk.names.queue.clone(), passive, FieldTable::default());
    if let Err(error) = intake.live.answer(&desk.names.what(), sync).await {
        debug!(queue = desk.queue(), %error, "the queue does not answer");
    }
}
