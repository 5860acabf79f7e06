//! RabbitMQ over AMQP 0.9.1: one topic exchange, confirmed publishing, history in a stream queue, work queues.
//!
//! A bus has two connections, each watched by one task that connects again when it is lost: `link`. One publishes and
//! one consumes, because a broker that is short of memory or disk stops reading from connections that publish, and
//! acknowledgements must still get through. Both tasks, the publisher's and each queue's task are started through
//! `Shutdown` and end with it or with the bus.
//!
//! | part | what it owns |
//! |---|---|
//! | `uri`, `errors`, `message` | addresses, what errors mean, messages and their headers; pure |
//! | `connect`, `link` | one connection with TLS and a deadline; a supervised one |
//! | `topology` | names and arguments of exchanges and queues, and their declaration |
//! | `publish`, `cursor` | confirmed publishing; publishing and remembering a cursor in one transaction |
//! | `subscribe`, `stream` | live events; history and then live events |
//! | `queue`, `lease`, `past` | work queues: consuming; settling, delays and dead letters; counting attempts |
//! | `admin`, `records` | looking at queues, moving and deleting what is in them; what the broker keeps for us |
//! | `bus` | joins these into an `EventBus` |

mod admin;
mod bus;
mod connect;
mod cursor;
mod errors;
mod lease;
mod link;
mod message;
mod past;
mod publish;
mod queue;
mod records;
mod stream;
mod subscribe;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
mod topology;
pub mod uri;

use std::{path::PathBuf, sync::Arc, time::Duration};

pub use self::bus::AmqpBus;
use super::SeenIds;
use crate::config::{self, BusUrl, Secret};

/// Where the broker is and how to use it.
#[derive(Debug, Clone)]
pub struct AmqpOptions {
    /// `amqp://…` or `amqps://…`; a user and a password in it win over the two below.
    pub url: BusUrl,
    /// User for an address that names none; `guest` otherwise.
    pub username: Option<String>,
    /// Their password.
    pub password: Option<Secret>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// The topic exchange.
    pub exchange: String,
    /// Makes the stream queue that keeps the history, if there is none.
    pub history: bool,
    /// Declares nothing that outlives the connection: the exchange must be there, and a history is not made.
    pub passive: bool,
    /// How long a history that is made now keeps events; `None` keeps them.
    pub history_max_age: Option<Duration>,
    /// How many bytes a history that is made now keeps; `None` sets no limit.
    pub history_max_bytes: Option<u64>,
    /// Deliveries that a subscription may hold unacknowledged.
    pub prefetch: u16,
    /// How long a connection may take to come about.
    pub connect_timeout: Duration,
    /// How long the broker may take to answer or to confirm.
    pub publish_timeout: Duration,
    /// Seconds between heartbeats; 0 leaves it to the broker.
    pub heartbeat: u16,
    /// The largest event, in bytes of JSON.
    pub max_event_bytes: usize,
    /// Work that is done; without it, work may be delivered again after a lost connection.
    pub seen: Option<Arc<dyn SeenIds>>,
    /// What the broker shows as the connection's name.
    pub name: String,
    /// Queues that [`super::EventBus::queues`] shows even if this process has not opened them; AMQP has no way to list
    /// queues.
    pub known_queues: Vec<String>,
}

impl AmqpOptions {
    /// The usual figures, which are the defaults of `bus` in the configuration.
    #[must_use]
    pub fn new(url: BusUrl) -> Self {
        Self {
            url,
            username: None,
            password: None,
            ca_file: None,
            exchange: "bloodbank.events.v1".to_owned(),
            history: false,
            passive: false,
            history_max_age: None,
            history_max_bytes: None,
            prefetch: 32,
            connect_timeout: Duration::from_secs(10),
            publish_timeout: Duration::from_secs(5),
            heartbeat: 30,
            max_event_bytes: 1 << 20,
            seen: None,
            name: "godctl".to_owned(),
            known_queues: Vec::new(),
        }
    }

    /// What the configuration says. The password is read by the caller, since that may read a file.
    #[must_use]
    pub fn from_config(config: &config::Bus, password: Option<Secret>) -> Self {
        let days = u64::from(config.retention_days);
        let bytes = u64::from(config.retention_mb) * 1_000_000;
        Self {
            username: config.username.clone(),
            password,
            ca_file: config.ca_file.clone(),
            exchange: config.exchange.clone(),
            history: config.history,
            history_max_age: (days > 0).then(|| Duration::from_secs(days * 24 * 3600)),
            history_max_bytes: (bytes > 0).then_some(bytes),
            prefetch: config.prefetch,
            connect_timeout: config.connect_timeout(),
            publish_timeout: config.publish_timeout(),
            heartbeat: config.heartbeat_s,
            max_event_bytes: config.max_event_bytes as usize,
            ..Self::new(config.url.clone())
        }
    }
}
