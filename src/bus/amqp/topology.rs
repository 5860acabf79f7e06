//! Names and arguments of what we declare on the broker, and the declaration itself. Runs in the calling task.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use tracing::{debug, info, warn};

use super::{
    super::{BusError, Pattern},
    errors,
    link::Live,
};

/// What stands on the broker for as long as the bus is used.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    pub(super) exchange: ShortString,
    /// Make the history if it is not there.
    pub(super) history: bool,
    /// Make nothing at all.
    pub(super) passive: bool,
    pub(super) history_max_age: Option<Duration>,
    pub(super) history_max_bytes: Option<u64>,
    /// The history is there and cannot be reached: it is said once, not at each connection.
    pub(super) has_lost_history: Arc<AtomicBool>,
}

/// A short string of AMQP: at most 255 bytes. `what` says whose name it is.
pub(super) fn short(what: &str, text: &str) -> Result<ShortString, BusError> {
    ShortString::try_new(text).map_err(|_| {
        BusError::Invalid(format!("{what} has {} bytes, and AMQP allows 255: '{:.60}…'", text.len(), text))
    })
}

/// What was found or made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Standing {
    /// There is a history.
    pub(super) history: bool,
}

impl Topology {
    /// The stream queue with the history.
    pub(super) fn history_queue(&self) -> Result<ShortString, BusError> {
        short("bus.exchange with .history", &format!("{}.history", self.exchange))
    }

    /// Declares the exchange, and the history if it is wanted; otherwise looks whether there is one.
    ///
    /// A history that has lost its node is none for now: publishing and work do not need it, so they go on, and it is
    /// looked for again at each connection.
    ///
    /// # Errors
    /// [`BusError::Conflict`] where something else has these names, [`BusError::Access`], [`BusError::Unreachable`].
    pub(super) async fn declare(&self, live: &Live) -> Result<Standing, BusError> {
        self.declare_exchange(live).await?;
        let makes = self.history && !self.passive;
        let history = if makes { self.declare_history(live).await? } else { self.find_history(live).await? };
        Ok(Standing { history })
    }

    async fn declare_exchange(&self, live: &Live) -> Result<(), BusError> {
        let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        let passive = ExchangeDeclareOptions { passive: true, ..durable };
        let what = format!("exchange '{}'", self.exchange);
        let declare = async |options| {
            let channel = live.channel().await?;
            let declared = channel.exchange_declare(
                self.exchange.clone(),
                ExchangeKind::Topic,
                options,
                FieldTable::default(),
            );
            live.raw_answer(declared).await
        };
        let refused = match declare(if self.passive { passive } else { durable }).await? {
            Ok(()) => return Ok(()),
            // Whoever publishes first makes it, so this may be mended by waiting.
            Err(refused) if self.passive && errors::code(&refused) == Some(errors::NOT_FOUND) => {
                let reason = format!("there is no {what} yet; it is made when something is published");
                return Err(live.unreachable(reason));
            }
            Err(refused) => refused,
        };
        // Users who may not configure can still use an exchange that somebody else has declared.
        if errors::code(&refused) == Some(errors::ACCESS_REFUSED) && declare(passive).await?.is_ok() {
            return Ok(());
        }
        Err(errors::of(live.bus(), &what, &refused))
    }

    async fn declare_history(&self, live: &Live) -> Result<bool, BusError> {
        let queue = self.history_queue()?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let what = format!("queue '{queue}'");
        let asked = Instant::now();
        let channel = loop {
            let channel = live.channel().await?;
            let declared = channel.queue_declare(queue.clone(), options, self.history_arguments());
            match live.raw_answer(declared).await? {
                Ok(_) => break channel,
                // A history that was made with another retention is still a history; what it keeps is the broker's matter.
                Err(error)
                    if errors::code(&error) == Some(errors::PRECONDITION_FAILED)
                        && !errors::text(&error).contains("x-queue-type") =>
                {
                    debug!(queue = %queue, reason = errors::text(&error), "the history keeps its own retention");
                    break live.channel().await?;
                }
                // A node that has just started says so of all its streams for a moment.
                Err(error) if is_homeless(&error) && !self.has_lost_history() && asked.elapsed() < HOMING => {
                    tokio::time::sleep(HOMING / 10).await;
                }
                Err(error) if is_homeless(&error) => {
                    let reason = errors::text(&error);
                    if !self.has_lost_history.swap(true, Ordering::Relaxed) {
                        warn!(
                            bus = live.bus(),
                            reason,
                            "the history cannot be reached, everything else goes on; bring its node back, or delete \
                             that queue to begin a new history"
                        );
                    }
                    return Ok(false);
                }
                Err(error) => return Err(errors::of(live.bus(), &what, &error)),
            }
        };
        if self.has_lost_history.swap(false, Ordering::Relaxed) {
            info!(bus = live.bus(), "the history is there again");
        }
        let bound = channel.queue_bind(
            queue,
            self.exchange.clone(),
            "#".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        );
        live.answer(&what, bound).await?;
        Ok(true)
    }

    /// Whether the history is there and could not be reached when somebody connected last.
    pub(super) fn has_lost_history(&self) -> bool {
        self.has_lost_history.load(Ordering::Relaxed)
    }

    async fn find_history(&self, live: &Live) -> Result<bool, BusError> {
        Ok(count(live, &self.history_queue()?).await?.is_some())
    }

    fn history_arguments(&self) -> FieldTable {
        let mut arguments = FieldTable::default();
        arguments.insert("x-queue-type".into(), AMQPValue::LongString("stream".into()));
        if let Some(age) = self.history_max_age {
            arguments.insert(
                "x-max-age".into(),
                AMQPValue::LongString(format!("{}s", age.as_secs().max(1)).into()),
            );
        }
        if let Some(bytes) = self.history_max_bytes {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(bytes));
        }
        arguments
    }
}

/// How long a history may be without its node before that is taken for more than a start.
const HOMING: Duration = Duration::from_secs(3);

/// The broker knows the queue, and the node that holds it is away or has lost it (`rabbit_amqqueue` says so of a queue
/// that is to be declared; one that does not exist is no error there).
fn is_homeless(error: &lapin::Error) -> bool {
    errors::code(error) == Some(errors::NOT_FOUND)
}

/// Messages and consumers of a queue, by a passive declaration; `None` where there is no such queue.
///
/// # Errors
/// [`BusError::Access`], [`BusError::Unreachable`].
pub(super) async fn count(live: &Live, queue: &ShortString) -> Result<Option<Counts>, BusError> {
    // A refusal closes the channel, so this takes one of its own.
    let channel = live.channel().await?;
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    match live.raw_answer(channel.queue_declare(queue.clone(), passive, FieldTable::default())).await? {
        Ok(found) => Ok(Some(Counts {
            messages: u64::from(found.message_count()),
            consumers: u64::from(found.consumer_count()),
        })),
        Err(error) if errors::code(&error) == Some(errors::NOT_FOUND) => Ok(None),
        Err(error) => Err(errors::of(live.bus(), &format!("queue '{queue}'"), &error)),
    }
}

/// The names of a work queue and of those beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) queue: ShortString,
    /// Its dead letters.
    pub(super) dead: ShortString,
}

impl Names {
    /// # Errors
    /// [`BusError::Invalid`] for a name that RabbitMQ would refuse.
    pub(super) fn of(queue: &str) -> Result<Self, BusError> {
        if queue.is_empty() || queue.len() > MAX_QUEUE || queue.starts_with("amq.") {
            return Err(BusError::Invalid(format!(
                "'{}' is no name for a queue; want 1 to {MAX_QUEUE} bytes that don't begin with amq.",
                queue.escape_default().take(80).collect::<String>()
            )));
        }
        Ok(Self {
            queue: short("the queue's name", queue)?,
            dead: short("the queue's name", &format!("{queue}.dlq"))?,
        })
    }

    /// Where work waits out a delay of this bucket.
    pub(super) fn retry(&self, bucket: u64) -> ShortString {
        // Short enough, since the name of the queue is.
        ShortString::try_new(format!("{}.retry.{bucket}", self.queue)).unwrap_or_default()
    }

    /// How it is called in errors.
    pub(super) fn what(&self) -> String {
        format!("queue '{}'", self.queue)
    }

    /// Declares the queue and its dead letters, and binds it.
    ///
    /// Dead letters go to `<queue>.dlq` through the default exchange, as other users of this bus have it. We publish
    /// them there ourselves, with a reason; the queue's own arguments are for what the broker or others reject.
    ///
    /// # Errors
    /// [`BusError::Conflict`] where a queue of one of these names has other properties; [`BusError::Access`];
    /// [`BusError::Unreachable`].
    pub(super) async fn declare(
        &self,
        live: &Live,
        exchange: &ShortString,
        bindings: &[Pattern],
    ) -> Result<(), BusError> {
        let channel = live.channel().await?;
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let dead = channel.queue_declare(self.dead.clone(), durable, FieldTable::default());
        live.answer(&format!("queue '{}'", self.dead), dead).await?;
        let queue = channel.queue_declare(self.queue.clone(), durable, dead_letter_to(&self.dead));
        live.answer(&self.what(), queue).await?;
        for pattern in bindings {
            let key = short("the pattern", pattern.as_str())?;
            let (queue, exchange) = (self.queue.clone(), exchange.clone());
            let bind =
                channel.queue_bind(queue, exchange, key, QueueBindOptions::default(), FieldTable::default());
            live.answer(&self.what(), bind).await?;
        }
        Ok(())
    }

    /// Declares the queue of a bucket, from which messages go back to the queue when their time has come.
    ///
    /// # Errors
    /// As [`Names::declare`].
    pub(super) async fn declare_retry(&self, live: &Live, bucket: u64) -> Result<ShortString, BusError> {
        let name = self.retry(bucket);
        let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let mut arguments = dead_letter_to(&self.queue);
        let expires = i64::try_from(bucket_expires(bucket)).unwrap_or(i64::MAX);
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(expires));
        let channel = live.channel().await?;
        live.answer(&format!("queue '{name}'"), channel.queue_declare(name.clone(), durable, arguments))
            .await?;
        Ok(name)
    }
}

/// Bytes of a queue's name: those of its dead letters and retries are longer, and AMQP allows 255.
const MAX_QUEUE: usize = 200;

fn dead_letter_to(queue: &ShortString) -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-dead-letter-exchange".into(), AMQPValue::LongString("".into()));
    arguments.insert("x-dead-letter-routing-key".into(), AMQPValue::LongString(queue.as_str().into()));
    arguments
}

/// Messages that wait out a delay share a queue with those of about the same delay. Such a queue expires messages from
/// its front only, so one of them may come late by as much as the delays within a queue differ: at most by half.
///
/// Gives the bucket for a delay: the next power of two in milliseconds.
pub(super) fn bucket(delay: Duration) -> u64 {
    millis(delay).next_power_of_two().clamp(BUCKETS[0], BUCKETS[BUCKETS.len() - 1])
}

/// A delay in whole milliseconds, rounded up, and cut to what fits into the largest bucket (about 24 days).
pub(super) fn millis(delay: Duration) -> u64 {
    u64::try_from(delay.as_nanos().div_ceil(1_000_000))
        .unwrap_or(u64::MAX)
        .clamp(1, BUCKETS[BUCKETS.len() - 1])
}

/// All buckets: 64 ms to 2³¹ ms. RabbitMQ allows times to live and to expire below 2³² ms.
pub(super) const BUCKETS: [u64; 26] = {
    let mut buckets = [0; 26];
    let mut at = 0;
    while at < 26 {
        buckets[at] = 1 << (at + 6);
        at += 1;
    }
    buckets
};

/// How long a queue of a bucket outlives its last use. It is declared anew with each message, so it outlives all
/// messages that are in it, with a minute to spare.
pub(super) const fn bucket_expires(bucket: u64) -> u64 {
    bucket + bucket / 2 + 60_000
}

/// What a passive declaration tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) messages: u64,
    pub(super) consumers: u64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_leave_room_for_those_beside_them() {
        let names = Names::of(&"q".repeat(MAX_QUEUE)).unwrap();
        for bucket in BUCKETS {
            assert!(names.retry(bucket).as_str().ends_with(&format!("q.retry.{bucket}")));
        }
        for wrong in ["", "amq.gen-1", &"q".repeat(MAX_QUEUE + 1)] {
            assert!(matches!(Names::of(wrong), Err(BusError::Invalid(_))), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn a_bucket_is_at_most_twice_the_delay_and_its_queue_outlives_it(nanos in 0..=u64::MAX) {
            let delay = Duration::from_nanos(nanos);
            let (bucket, millis) = (bucket(delay), millis(delay));
            prop_assert!(BUCKETS.contains(&bucket));
            prop_assert!(bucket >= millis && (bucket < 2 * millis || bucket == BUCKETS[0]));
            prop_assert!(bucket_expires(bucket) < 1 << 32);
            // One that was declared with the last message, and waits behind one that was declared just before it.
            prop_assert!(bucket_expires(bucket) > millis + bucket / 2);
        }
    }
}
