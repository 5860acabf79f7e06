//! A broker with an outbox in front: publishing goes on while the broker is away.
//!
//! `bus` is the `EventBus` that publishes directly while the circuit is closed and nothing waits, and else keeps events
//! in the outbox; `drain` sends them when the broker is back; `table` holds both in the file of
//! [`LocalState`](super::local::LocalState), which all processes of the machine share. One task for each bus drains;
//! a lock on a file lets one process at a time do so. The task ends with `Shutdown` or with the bus.
//!
//! The order is that of the file: while anything waits there, whatever is published queues behind it. So events of one
//! correlation, session or source reach the broker in the order in which they were published, across processes.

mod bus;
mod drain;
mod table;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;

pub use bus::OutboxBus;

use super::{BusError, Capabilities, Clock, SharedBus, breaker::Policy, event::Source};

/// The way to a broker.
#[async_trait]
pub trait Broker: fmt::Debug + Send + Sync {
    /// Its address as it may be shown.
    fn address(&self) -> String;

    /// What tells this broker from others for which events may wait in the same file: host, virtual host and
    /// exchange, but neither user nor password.
    fn identity(&self) -> String;

    /// What it can do, as far as one can tell without a connection.
    fn capabilities(&self) -> Capabilities;

    /// Connects, in bounded time. Called again after an error, and not again after a success: the bus mends its own
    /// connection, and its calls end in bounded time too.
    ///
    /// # Errors
    /// [`BusError::Unreachable`] when it is away; all else is given to whoever publishes.
    async fn open(&self) -> Result<Opened, BusError>;
}

/// A bus on a broker.
#[derive(Debug, Clone)]
pub struct Opened {
    /// The bus.
    pub bus: SharedBus,
    /// Whether it is connected, if it can tell; what waits is sent as soon as this becomes true.
    pub online: Option<watch::Receiver<bool>>,
}

impl Opened {
    /// False if it is known not to be connected.
    pub(super) fn is_online(&self) -> bool {
        self.online.as_ref().is_none_or(|online| *online.borrow())
    }
}

/// How to keep and send what waits.
#[derive(Debug, Clone)]
pub struct OutboxOptions {
    /// Events that may wait; one more is refused.
    pub max_events: u64,
    /// Bytes of JSON that they may have.
    pub max_bytes: u64,
    /// The largest event, in bytes of JSON.
    pub max_event_bytes: usize,
    /// The longest pause between two attempts to send what waits.
    pub retry: Duration,
    /// How long a close may take to send what waits, if the broker is there.
    pub flush: Duration,
    /// When to leave the broker alone.
    pub policy: Policy,
    /// Who says so, in events about the outbox.
    pub source: Source,
    /// The time.
    pub clock: Arc<dyn Clock>,
}
