//! Names and arguments of what we declare on the broker, and the declaration itself. Runs in the calling task.

use std::time::Duration;

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::{AMQPValue, FieldTable, ShortString},
};

use tracing::debug;

use super::{super::BusError, errors, link::Live};

/// What stands on the broker for as long as the bus is used.
#[derive(Debug, Clone)]
pub(super) struct Topology {
    pub(super) exchange: ShortString,
    /// Make the history if it is not there.
    pub(super) history: bool,
    pub(super) history_max_age: Option<Duration>,
    pub(super) history_max_bytes: Option<u64>,
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
    /// # Errors
    /// [`BusError::Conflict`] where something else has these names, [`BusError::Access`], [`BusError::Unreachable`].
    pub(super) async fn declare(&self, live: &Live) -> Result<Standing, BusError> {
        self.declare_exchange(live).await?;
        let history =
            if self.history { self.declare_history(live).await? } else { self.find_history(live).await? };
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
        let refused = match declare(durable).await? {
            Ok(()) => return Ok(()),
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
        let channel = live.channel().await?;
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        let what = format!("queue '{queue}'");
        let declared = channel.queue_declare(queue.clone(), options, self.history_arguments());
        let channel = match live.raw_answer(declared).await? {
            Ok(_) => channel,
            // A history that was made with another retention is still a history; what it keeps is the broker's matter.
            Err(error)
                if errors::code(&error) == Some(errors::PRECONDITION_FAILED)
                    && !errors::text(&error).contains("x-queue-type") =>
            {
                debug!(queue = %queue, reason = errors::text(&error), "the history keeps its own retention");
                live.channel().await?
            }
            Err(error) => return Err(errors::of(live.bus(), &what, &error)),
        };
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

/// What a passive declaration tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) messages: u64,
    pub(super) consumers: u64,
}
