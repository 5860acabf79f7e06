//! The event bus: publish, subscribe with history, work off queues; the same promises on every backend.
//!
//! This file holds the doors ([`EventBus`], [`EventStream`], [`WorkQueue`]) and what passes through them. The backends
//! are `memory`, `sqlite` (default), `amqp` (RabbitMQ) and `file` (JSON lines); `testkit` holds the conformance suite
//! that all of them pass. `connect` chooses one by its address. Whatever a backend runs in the background is started
//! through `Shutdown` and ends with it, or with [`EventBus::close`].

pub mod amqp;
pub mod backoff;
pub mod breaker;
pub mod bridge;
pub mod connect;
pub mod event;
pub mod file;
pub mod local;
pub mod memory;
pub mod outbox;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod testkit;

use std::{collections::BTreeMap, fmt, num::NonZeroU32, sync::Arc, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use event::{
    Event, EventType, Unparsed,
    topic::{Pattern, PatternError},
};

/// A bus. Cheap to share; all methods may be called at the same time from many tasks.
#[async_trait]
pub trait EventBus: fmt::Debug + Send + Sync {
    /// What this backend can do beyond publishing and subscribing from now on.
    fn capabilities(&self) -> Capabilities;

    /// Publishes the events in this order. When it returns, they are durable as far as
    /// [`Capabilities::durable`] says: no death of this process, and no restart of a broker, loses them.
    ///
    /// An event whose id and type were published before is not published again where
    /// [`Capabilities::dedupes`] says so; it counts in [`Published::duplicates`].
    ///
    /// # Errors
    /// [`BusError::TooLarge`] before anything is published; [`BusError::Unroutable`] if [`Publish::require_route`] is
    /// set and nobody takes one of them; otherwise an error means that some or all of them may or may not be published
    /// (publish them again: the ids stay the same).
    ///
    /// # Cancel safety
    /// A cancelled call may or may not have published.
    async fn publish(&self, events: &[Event], options: Publish) -> Result<Published, BusError>;

    /// Publishes the events and remembers `cursor` under `name` in the same step: both happen or neither does.
    /// The way to copy from one bus to another without loss or duplicates; see [`EventBus::cursor`].
    ///
    /// # Errors
    /// As [`EventBus::publish`]; [`BusError::Unsupported`] without [`Capabilities::cursors`].
    async fn publish_with_cursor(
        &self,
        events: &[Event],
        name: &str,
        cursor: &str,
    ) -> Result<Published, BusError>;

    /// The cursor that was last remembered under this name.
    ///
    /// # Errors
    /// [`BusError::Unsupported`] without [`Capabilities::cursors`]; a broken backend.
    async fn cursor(&self, name: &str) -> Result<Option<String>, BusError>;

    /// Events that match any of the patterns, in the order they were published: history first, then live, with no gap
    /// and no duplicate between the two.
    ///
    /// When it returns, events published from then on will be seen.
    ///
    /// # Errors
    /// [`BusError::Unsupported`] where the start needs history and [`Capabilities::history`] is false.
    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError>;

    /// The newest `limit` events before `before` (or of all) that match, oldest first.
    ///
    /// # Errors
    /// [`BusError::Unsupported`] without [`Capabilities::history`].
    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError>;

    /// Opens a work queue as one of its consumers; makes the queue, and adds the bindings, if need be.
    /// Events published from then on that match a binding land in it, whoever is there to consume them.
    ///
    /// # Errors
    /// [`BusError::Conflict`] if a queue of this name exists with other arguments; [`BusError::Unsupported`] without
    /// [`Capabilities::queues`].
    async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError>;

    /// All queues that this backend knows.
    ///
    /// # Errors
    /// [`BusError::Unsupported`] without [`Capabilities::queues`].
    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError>;

    /// Looks at what waits in a queue, oldest first, without taking it.
    ///
    /// # Errors
    /// [`BusError::NoSuchQueue`].
    async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError>;

    /// Moves dead letters back into the queue that they died in, with a fresh count of attempts. Tells how many.
    ///
    /// # Errors
    /// [`BusError::NoSuchQueue`].
    async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError>;

    /// Deletes what waits in a queue. Tells how many.
    ///
    /// # Errors
    /// [`BusError::NoSuchQueue`].
    async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError>;

    /// Deletes a queue, its bindings and all that waits in it.
    ///
    /// # Errors
    /// [`BusError::NoSuchQueue`].
    async fn delete_queue(&self, queue: &str) -> Result<(), BusError>;

    /// Figures about the bus.
    ///
    /// # Errors
    /// A broken or unreachable backend.
    async fn stats(&self) -> Result<Stats, BusError>;

    /// Deletes events by age and size.
    ///
    /// # Errors
    /// [`BusError::Unsupported`] where the backend keeps its own retention.
    async fn prune(&self, retention: Retention) -> Result<Pruned, BusError>;

    /// Waits for what was accepted, gives back what is leased, and ends what runs in the background. Later calls give
    /// [`BusError::Closed`].
    async fn close(&self);
}

/// The receiving end of a subscription. Dropping it ends the subscription.
#[async_trait]
pub trait EventStream: Send {
    /// The next item; `None` at the end of the history where [`Subscription::follow`] is false, and after a close.
    ///
    /// Cancel safe: an item is either given or still to come.
    ///
    /// # Errors
    /// What the backend can't mend by itself. After an error the stream is at its end.
    async fn next(&mut self) -> Result<Option<Item>, BusError>;
}

/// One consumer of a work queue. Dropping it gives back what it has not been handed out yet.
#[async_trait]
pub trait WorkQueue: Send + Sync {
    /// Waits for work and leases it; `None` after a close. May be called by several workers at once.
    ///
    /// Cancel safe: work that was leased for a cancelled call goes to the next one.
    ///
    /// # Errors
    /// What the backend can't mend by itself; a lost connection is mended.
    async fn next(&self) -> Result<Option<Delivery>, BusError>;

    /// Stops taking work and gives back, uncounted, what was fetched but not handed out. What was handed out can
    /// still be settled.
    async fn drain(&self);
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "a list of independent abilities")]
pub struct Capabilities {
    /// What was published survives the end of this process.
    pub durable: bool,
    /// Subscriptions may start in the past.
    pub history: bool,
    /// Work queues exist.
    pub queues: bool,
    /// Publishing the same id and type twice is noticed.
    pub dedupes: bool,
    /// [`EventBus::publish_with_cursor`] works.
    pub cursors: bool,
    /// Other processes see the same bus.
    pub shared: bool,
    /// Someone must be bound for an event to be kept, and publishing tells if nobody was.
    pub reports_unrouted: bool,
}

/// How to publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Publish {
    /// An event that nobody is bound to is an error instead of a count.
    pub require_route: bool,
    /// What cannot be published now is an error, and not kept in an outbox: whoever publishes keeps it until then.
    pub never_deferred: bool,
}

/// What became of the events of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Published {
    /// Now on the bus.
    pub accepted: u64,
    /// Had been on the bus already.
    pub duplicates: u64,
    /// On the bus, where nobody was bound to take them.
    pub unrouted: u64,
    /// Kept in the outbox until the broker is back.
    pub deferred: u64,
    /// The position of the last one, where the backend has positions.
    pub last: Option<Position>,
}

/// A place in a backend's history; later events have larger ones. Only comparable within one bus.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Start {
    /// With what is published after the call.
    #[default]
    Now,
    /// With the oldest event there is.
    Beginning,
    /// With the first event that the bus took at this time or later (by the clock of the bus, not the event's own).
    Time(Timestamp),
    /// With the event after this one.
    After(Position),
}

/// What to subscribe to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Any of these must match the event's type.
    pub patterns: Vec<Pattern>,
    /// Where to start.
    pub start: Start,
    /// Go on with live events after the history.
    pub follow: bool,
    /// Who subscribes, such as `dash` or `tail`; part of a broker's queue name.
    pub consumer: &'static str,
}

/// What to look up in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Any of these must match the event's type.
    pub patterns: Vec<Pattern>,
    /// Only events before this one.
    pub before: Option<Position>,
    /// Only events that the bus took at this time or later.
    pub since: Option<Timestamp>,
    /// At most so many.
    pub limit: usize,
}

/// What a subscription gives.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// An event.
    Event(Box<Received>),
    /// Events may be missing here, and why: the connection was lost on a bus without history, or this reader was too
    /// slow for a buffer with a cap.
    Gap {
        /// How many are missing, if known.
        missed: Option<u64>,
        /// Why, in words for the user.
        reason: String,
    },
    /// The history is over; what follows is live.
    CaughtUp,
}

/// An event as it came from the bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// Its place in the history, where the backend has one.
    pub position: Option<Position>,
    /// When the bus took it, where the backend knows.
    pub at: Option<Timestamp>,
    /// What it was routed by; mostly the event's type.
    pub routing_key: String,
    /// The event, or what could not be read as one.
    pub body: Body,
}

/// An event, or what could not be read as one.
#[derive(Debug, Clone, PartialEq)]
#[allow(
    clippy::large_enum_variant,
    reason = "nearly all are events, and a received event is boxed as a whole"
)]
pub enum Body {
    /// Read, whatever shape it came in.
    Event(Event),
    /// Kept as it came.
    Unparsed(Unparsed),
}

impl Body {
    /// The event, if it is one.
    #[must_use]
    pub const fn event(&self) -> Option<&Event> {
        match self {
            Self::Event(event) => Some(event),
            Self::Unparsed(_) => None,
        }
    }
}

/// How a queue is made and consumed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueSpec {
    /// Its name, such as `agent.prompt`.
    pub name: String,
    /// What lands in it.
    pub bindings: Vec<Pattern>,
    /// How long a consumer may keep a delivery without settling or extending it; then another one gets it.
    pub visibility: Duration,
    /// Deliveries after which work is dead, unless it is acknowledged.
    pub max_attempts: NonZeroU32,
    /// Deliveries that this consumer fetches ahead.
    pub prefetch: u16,
    /// Work whose event id this queue has seen acknowledged is not delivered again (within a window).
    pub dedupe: bool,
    /// Who consumes, for the histories of dead letters, such as `host:1234`.
    pub consumer: String,
}

impl QueueSpec {
    /// A queue of this name bound to these patterns, with the usual figures: 60 s, 5 attempts, 16 fetched ahead.
    #[must_use]
    pub fn new(name: impl Into<String>, bindings: Vec<Pattern>) -> Self {
        Self {
            name: name.into(),
            bindings,
            visibility: Duration::from_secs(60),
            max_attempts: NonZeroU32::MIN.saturating_add(4),
            prefetch: 16,
            dedupe: true,
            consumer: String::new(),
        }
    }
}

/// One piece of work, leased to whoever holds this. Dropping it unsettled gives it back when its lease ends.
#[derive(Debug)]
pub struct Delivery {
    /// What is to be done.
    pub received: Received,
    /// 1 for the first delivery.
    pub attempt: u32,
    /// What happened to earlier ones, oldest first; the last [`MAX_HISTORY`].
    pub history: Vec<Attempt>,
    /// The backend's side of the lease.
    pub lease: Box<dyn Lease>,
}

/// Entries kept in [`Delivery::history`].
pub const MAX_HISTORY: usize = 20;

/// The backend's side of a delivery. Each method that settles it can be called once.
#[async_trait]
pub trait Lease: fmt::Debug + Send + Sync {
    /// Done: never deliver it again. Durable when it returns.
    ///
    /// # Errors
    /// [`BusError::LeaseLost`] when the lease had ended (somebody else may have got it); broken backends.
    async fn ack(&self) -> Result<(), BusError>;

    /// Not now: deliver it again after `delay`, or dead-letter it if this was its last attempt.
    ///
    /// # Errors
    /// As [`Lease::ack`].
    async fn retry(&self, delay: Duration, reason: &str) -> Result<Settled, BusError>;

    /// Never: put it among the dead letters.
    ///
    /// # Errors
    /// As [`Lease::ack`].
    async fn dead(&self, reason: &str) -> Result<(), BusError>;

    /// Give it back at once, as if it had not been delivered.
    ///
    /// # Errors
    /// As [`Lease::ack`].
    async fn release(&self) -> Result<(), BusError>;

    /// Keep it for another `visibility` from now.
    ///
    /// # Errors
    /// As [`Lease::ack`].
    async fn extend(&self, visibility: Duration) -> Result<(), BusError>;
}

/// What became of work that was to be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// It will be delivered again.
    Retrying,
    /// That was its last attempt.
    Dead,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When.
    pub at: Timestamp,
    /// Who had it.
    pub consumer: String,
    /// Why it was not acknowledged.
    pub reason: String,
}

/// Which part of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Lane {
    /// Waiting for a consumer, delayed work included.
    Ready,
    /// Dead letters.
    Dead,
}

/// Which items of a lane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All.
    All,
    /// Those of these events.
    Events(Vec<Uuid>),
}

/// Work that waits, as [`EventBus::peek`] shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// What it is.
    pub received: Received,
    /// Deliveries so far.
    pub attempts: u32,
    /// Why it is dead.
    pub reason: Option<String>,
    /// When it died, or from when on it may be delivered.
    pub since: Option<Timestamp>,
    /// What happened to its attempts.
    pub history: Vec<Attempt>,
}

/// Figures of one queue.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct QueueInfo {
    /// Its name.
    pub name: String,
    /// What lands in it, where the backend can tell.
    pub bindings: Option<Vec<String>>,
    /// Waiting for a consumer.
    pub ready: u64,
    /// Leased, where the backend can tell.
    pub leased: Option<u64>,
    /// Waiting for their time.
    pub delayed: u64,
    /// Dead letters.
    pub dead: u64,
    /// Consumers, where the backend can tell.
    pub consumers: Option<u64>,
}

/// Figures of a bus.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Stats {
    /// Where it is, without a password.
    pub bus: String,
    /// Events kept.
    pub events: Option<u64>,
    /// When the bus took the oldest of them.
    pub oldest: Option<Timestamp>,
    /// When it took the newest.
    pub newest: Option<Timestamp>,
    /// Bytes on disk.
    pub bytes: Option<u64>,
    /// Events of each type.
    pub types: BTreeMap<String, u64>,
    /// The way to a broker: what waits in the outbox, and the circuit breaker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub link: Option<LinkStats>,
}

/// The way to a broker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct LinkStats {
    /// Events in the outbox.
    pub outbox: u64,
    /// Their bytes.
    pub outbox_bytes: u64,
    /// Events refused because it was full.
    pub outbox_refused: u64,
    /// Events that the broker will never take; they are kept beside the outbox.
    pub outbox_failed: u64,
    /// `closed`, `open` or `half-open`.
    pub circuit: String,
    /// How often it opened.
    pub opened: u64,
}

/// What to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Retention {
    /// Delete events that the bus took longer ago than this.
    pub max_age: Option<Duration>,
    /// Delete the oldest events until the file is no larger than this.
    pub max_bytes: Option<u64>,
    /// Only tell what would be deleted.
    pub dry_run: bool,
}

/// What was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Pruned {
    /// Events.
    pub events: u64,
    /// Bytes given back to the disk.
    pub bytes: u64,
}

/// What can go wrong on a bus; each variant is something else to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BusError {
    /// The broker can't be reached, went away, or did not answer in time. Try again later.
    #[error("cannot reach {bus}: {reason}")]
    Unreachable {
        /// Its address, without a password.
        bus: String,
        /// What the system or the broker said.
        reason: String,
    },
    /// The broker does not let us in. Change user, password or permissions.
    #[error("{bus} refused access: {reason}")]
    Access {
        /// Its address, without a password.
        bus: String,
        /// What the broker said.
        reason: String,
    },
    /// The event is larger than allowed. Make it smaller, or raise the limit.
    #[error(
        "event {event_type} has {size} bytes and {limit} are allowed; send a reference instead of the data, or raise {key}"
    )]
    TooLarge {
        /// Its type.
        event_type: String,
        /// Bytes of JSON.
        size: usize,
        /// The limit.
        limit: usize,
        /// The key of the configuration that sets it.
        key: &'static str,
    },
    /// What was asked for makes no sense. Correct it.
    #[error("{0}")]
    Invalid(String),
    /// This backend can't do that. Use another one, or configure it.
    #[error("{what} is not possible on {bus}: {instead}")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
        /// The backend's address.
        bus: String,
        /// Why, and what to do instead.
        instead: String,
    },
    /// Something of that name exists with other properties. Rename it, or delete the other one.
    #[error("{what} exists with other arguments: {reason}")]
    Conflict {
        /// The queue or exchange.
        what: String,
        /// What the broker said.
        reason: String,
    },
    /// No queue of that name.
    #[error("there is no queue '{0}'; `godctl bus queues` lists them")]
    NoSuchQueue(String),
    /// Nobody is bound to take this event, and the caller asked for somebody.
    #[error("no queue is bound to take {0}")]
    Unroutable(String),
    /// There is no room: a disk, an outbox or a queue is full. Make room, or wait.
    #[error("{what} is full: {reason}")]
    Full {
        /// What is full.
        what: String,
        /// Details, and what to do.
        reason: String,
    },
    /// The file is damaged. It is left as it is.
    #[error("{path} is damaged: {reason}")]
    Corrupt {
        /// The file.
        path: String,
        /// What the database said.
        reason: String,
    },
    /// The file is not ours. It is left as it is.
    #[error("{path} is not a godctl bus: {reason}")]
    Foreign {
        /// The file.
        path: String,
        /// How we know.
        reason: String,
    },
    /// The lease on this work had ended; somebody else may do it.
    #[error("the lease on this delivery has ended; another consumer may have it")]
    LeaseLost,
    /// The bus was closed.
    #[error("the bus is closed")]
    Closed,
    /// The disk or the database failed in some other way.
    #[error("cannot {doing}: {reason}")]
    Storage {
        /// What was being done.
        doing: String,
        /// What the system said.
        reason: String,
    },
}

impl BusError {
    /// True if the same call can succeed later, with nothing changed by the caller.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Full { .. })
    }

    /// True if the event is at fault: it will never be taken, however often it is published, but others will.
    #[must_use]
    pub const fn is_about_the_event(&self) -> bool {
        matches!(self, Self::TooLarge { .. } | Self::Invalid(_) | Self::Unroutable(_))
    }
}

/// A bus that can be handed around.
pub type SharedBus = Arc<dyn EventBus>;

/// The time, so that tests can say it. It may go back, as clocks do; whoever compares times must expect that.
pub trait Clock: fmt::Debug + Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// The window of event ids whose work is done, for backends whose broker does not remember them.
#[async_trait]
pub trait SeenIds: fmt::Debug + Send + Sync {
    /// Whether this queue's work on this event is done.
    ///
    /// # Errors
    /// When the memory can't be read.
    async fn is_done(&self, queue: &str, event: Uuid) -> Result<bool, BusError>;

    /// Remembers that it is done. Durable when it returns.
    ///
    /// # Errors
    /// When the memory can't be written.
    async fn mark_done(&self, queue: &str, event: Uuid) -> Result<(), BusError>;
}
