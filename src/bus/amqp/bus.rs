//! The bus: joins publishing, subscribing and queues over two connections. Runs in the tasks that call it; what it
//! starts in the background ends with [`AmqpBus::close`], or when nobody holds the bus any more.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use lapin::options::{ExchangeDeleteOptions, QueueDeleteOptions};
use tokio::sync::{OnceCell, watch};

use super::{
    super::{
        BusError, Capabilities, Event, EventBus, EventStream, Held, Item, Lane, Pruned, Publish, Published,
        Query, QueueInfo, QueueSpec, Received, Retention, Selection, Start, Stats, Subscription, WorkQueue,
    },
    AmqpOptions,
    admin::{Admin, Registry},
    connect::Dial,
    cursor::{Cursors, Outcome},
    lease::Desk,
    link::{Link, Live},
    message::Message,
    publish::{Publisher, refuse_on_alarm},
    queue::AmqpQueue,
    stream::{History, HistoryStream},
    subscribe::{Listen, LiveStream},
    topology::{self, Names, Topology, short},
    uri::{self, Address},
};
use crate::shutdown::Shutdown;

/// A RabbitMQ.
#[derive(Debug)]
pub struct AmqpBus {
    options: AmqpOptions,
    shutdown: Shutdown,
    dial: Dial,
    topology: Topology,
    /// The connection that publishes.
    link: Link,
    publisher: Publisher,
    /// The connection that consumes; made when it is first needed.
    consuming: OnceCell<Link>,
    cursors: Cursors,
    registry: Registry,
}

impl AmqpBus {
    /// Connects, logs in and declares the exchange, within [`AmqpOptions::connect_timeout`]. From then on a lost
    /// connection is made again in the background.
    ///
    /// # Errors
    /// [`BusError::Unreachable`]; [`BusError::Access`] for wrong credentials and for a virtual host that is not there;
    /// [`BusError::Invalid`] for an address or certificates that can't be used; [`BusError::Conflict`] if the exchange
    /// is there with another type.
    pub async fn open(options: AmqpOptions, shutdown: &Shutdown) -> Result<Self, BusError> {
        Self::begin(options, shutdown, false).await
    }

    /// As [`AmqpBus::open`], but a broker that can't be reached is no error: it is looked for in the background, and
    /// until it is there each call gives [`BusError::Unreachable`] at once.
    ///
    /// # Errors
    /// As [`AmqpBus::open`], without [`BusError::Unreachable`].
    pub async fn open_or_wait(options: AmqpOptions, shutdown: &Shutdown) -> Result<Self, BusError> {
        Self::begin(options, shutdown, true).await
    }

    /// What a bus of these options can do, as far as one can tell without a connection.
    #[must_use]
    pub const fn capabilities_of(options: &AmqpOptions) -> Capabilities {
        capabilities(options.history)
    }

    /// Whether the connection that publishes is there, from now on.
    #[must_use]
    pub fn online(&self) -> watch::Receiver<bool> {
        self.link.online()
    }

    /// What tells the broker and exchange of these options from others, without user and password.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for an address that can't be used.
    pub fn identity(options: &AmqpOptions) -> Result<String, BusError> {
        let address = uri::parse(&options.url, options.username.as_deref(), options.password.as_ref())?;
        let Address { host, port, vhost, .. } = address;
        Ok(format!("{host}:{port} {vhost} {}", options.exchange))
    }

    /// Deletes the exchange, its history and the list of its queues; for whoever made them for a while. The queues
    /// themselves go with [`EventBus::delete_queue`].
    ///
    /// # Errors
    /// [`BusError::Unreachable`]; [`BusError::Access`].
    pub async fn dismantle(&self) -> Result<(), BusError> {
        let live = self.link.live()?;
        let channel = live.channel().await?;
        let exchange = self.topology.exchange.clone();
        let list = short("bus.exchange", &format!("{exchange}.queues"))?;
        // RabbitMQ takes it for a success if what is to be deleted is not there.
        for queue in [self.topology.history_queue()?, list] {
            let what = format!("queue '{queue}'");
            live.answer(&what, channel.queue_delete(queue, QueueDeleteOptions::default())).await?;
        }
        let what = format!("exchange '{exchange}'");
        live.answer(&what, channel.exchange_delete(exchange, ExchangeDeleteOptions::default())).await
    }

    async fn begin(options: AmqpOptions, shutdown: &Shutdown, wait: bool) -> Result<Self, BusError> {
        let address = uri::parse(&options.url, options.username.as_deref(), options.password.as_ref())?;
        let topology = Topology {
            exchange: short("bus.exchange", &options.exchange)?,
            history: options.history,
            passive: options.passive,
            history_max_age: options.history_max_age,
            history_max_bytes: options.history_max_bytes,
            has_lost_history: Arc::default(),
        };
        topology.history_queue()?;
        let dial = Dial {
            address,
            ca_file: options.ca_file.clone(),
            timeout: options.connect_timeout,
            heartbeat: options.heartbeat,
            name: options.name.clone(),
        };
        let link =
            Link::open(dial.clone(), topology.clone(), options.publish_timeout, shutdown, wait).await?;
        let publisher = Publisher::start(link.clone(), shutdown);
        Ok(Self {
            registry: Registry::new(&options.exchange, &options.known_queues)?,
            options,
            shutdown: shutdown.clone(),
            dial,
            topology,
            link,
            publisher,
            consuming: OnceCell::new(),
            cursors: Cursors::default(),
        })
    }

    /// The connection that consumes.
    async fn consuming(&self) -> Result<&Link, BusError> {
        let connect = async || {
            // Not before the other one is there, so that a broker that is away is said at once.
            self.link.live()?;
            let dial = Dial { name: format!("{} (consumer)", self.dial.name), ..self.dial.clone() };
            Link::open(dial, self.topology.clone(), self.options.publish_timeout, &self.shutdown, false).await
        };
        let link = self.consuming.get_or_try_init(connect).await?;
        link.live()?;
        Ok(link)
    }

    async fn history(&self, what: &'static str) -> Result<History, BusError> {
        let link = self.consuming().await?;
        let live = link.live()?;
        let queue = self.topology.history_queue()?;
        // Somebody may have made it since we connected.
        if !live.standing.history && topology::count(&live, &queue).await?.is_none() {
            if self.topology.has_lost_history() {
                let reason = "its history cannot be reached; bring its node back, or delete that queue";
                return Err(live.unreachable(reason.to_owned()));
            }
            return Err(
                self.unsupported(what, "this RabbitMQ keeps no history; set bus.history = true to let it")
            );
        }
        let (link, publisher) = (link.clone(), self.publisher.clone());
        Ok(History { link, publisher, queue, max_event_bytes: self.options.max_event_bytes })
    }

    fn unsupported(&self, what: &'static str, instead: &str) -> BusError {
        BusError::Unsupported { what, bus: self.link.bus(), instead: instead.to_owned() }
    }

    fn keeps_history(&self) -> bool {
        self.options.history || self.link.live().is_ok_and(|live| live.standing.history)
    }

    fn admin<'a>(&'a self, live: &'a Live) -> Admin<'a> {
        let max_event_bytes = self.options.max_event_bytes;
        Admin { live, registry: &self.registry, publisher: &self.publisher, max_event_bytes }
    }

    fn messages(&self, events: &[Event]) -> Result<Vec<Message>, BusError> {
        let now = Timestamp::now();
        let limit = self.options.max_event_bytes;
        events.iter().map(|event| Message::of_event(event, &self.topology.exchange, now, limit)).collect()
    }
}

const fn capabilities(history: bool) -> Capabilities {
    Capabilities {
        durable: true,
        history,
        queues: true,
        dedupes: false,
        cursors: true,
        shared: true,
        // The history takes everything.
        reports_unrouted: !history,
    }
}

/// A subscription to nothing that is still to come.
#[derive(Debug)]
struct Nothing;

#[async_trait]
impl EventStream for Nothing {
    async fn next(&mut self) -> Result<Option<Item>, BusError> {
        Ok(None)
    }
}

#[async_trait]
impl EventBus for AmqpBus {
    fn capabilities(&self) -> Capabilities {
        capabilities(self.keeps_history())
    }

    async fn publish(&self, events: &[Event], options: Publish) -> Result<Published, BusError> {
        let messages = self.messages(events)?;
        let confirmed = self.publisher.publish(messages).await?;
        if options.require_route
            && let Some(event) = confirmed.unrouted.iter().min().and_then(|index| events.get(*index))
        {
            return Err(BusError::Unroutable(event.event_type.to_string()));
        }
        Ok(Published {
            accepted: u64::try_from(events.len()).unwrap_or(u64::MAX),
            unrouted: u64::try_from(confirmed.unrouted.len()).unwrap_or(u64::MAX),
            ..Published::default()
        })
    }

    async fn publish_with_cursor(
        &self,
        events: &[Event],
        name: &str,
        cursor: &str,
    ) -> Result<Published, BusError> {
        let messages = self.messages(events)?;
        let live = self.link.live()?;
        refuse_on_alarm(&live)?;
        let exchange = self.topology.exchange.as_str();
        let outcome = self.cursors.publish(&live, exchange, (name, cursor), messages).await?;
        let count = u64::try_from(events.len()).unwrap_or(u64::MAX);
        Ok(match outcome {
            Outcome::Committed { unrouted } => {
                Published { accepted: count, unrouted, ..Published::default() }
            }
            Outcome::WasDone => Published { duplicates: count, ..Published::default() },
        })
    }

    async fn cursor(&self, name: &str) -> Result<Option<String>, BusError> {
        self.cursors.read(&*self.link.live()?, self.topology.exchange.as_str(), name).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError> {
        let Subscription { patterns, start, follow, consumer } = subscription;
        let prefetch = self.options.prefetch;
        if start != Start::Now {
            let history = self.history("starting in the past").await?;
            return Ok(Box::new(HistoryStream::open(history, patterns, start, follow, prefetch).await?));
        }
        if !follow {
            self.link.live()?;
            return Ok(Box::new(Nothing));
        }
        let link = self.consuming().await?.clone();
        let listen = Listen { patterns, consumer, prefetch, max_event_bytes: self.options.max_event_bytes };
        Ok(Box::new(LiveStream::open(link, listen).await?))
    }

    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
        self.history("looking back").await?.page(&query).await
    }

    async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
        let names = Names::of(&spec.name)?;
        let link = self.consuming().await?.clone();
        let (bindings, name) = (spec.bindings.clone(), spec.name.clone());
        let desk = Desk::new(
            spec,
            names,
            (link, self.link.clone()),
            self.publisher.clone(),
            self.options.seen.clone(),
            self.options.max_event_bytes,
        );
        let queue = AmqpQueue::open(desk, &self.shutdown).await?;
        self.registry.enter(&*self.link.live()?, &name, &bindings).await;
        Ok(Box::new(queue))
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        self.admin(&*self.consuming().await?.live()?).queues().await
    }

    async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError> {
        self.admin(&*self.consuming().await?.live()?).peek(queue, lane, limit).await
    }

    async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError> {
        self.admin(&*self.consuming().await?.live()?).requeue(queue, which).await
    }

    async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError> {
        self.admin(&*self.consuming().await?.live()?).purge(queue, lane, which).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BusError> {
        self.admin(&*self.consuming().await?.live()?).delete(queue).await
    }

    async fn stats(&self) -> Result<Stats, BusError> {
        self.link.live()?;
        let mut stats = Stats { bus: self.link.bus(), ..Stats::default() };
        if self.keeps_history() {
            let extent = self.history("figures").await?.extent().await?;
            stats.oldest = extent.and_then(|extent| extent.oldest);
            stats.newest = extent.and_then(|extent| extent.newest);
        }
        Ok(stats)
    }

    async fn prune(&self, _retention: Retention) -> Result<Pruned, BusError> {
        Err(self.unsupported(
            "deleting old events",
            "RabbitMQ keeps its own retention; set max-age or max-length-bytes for the history with a policy",
        ))
    }

    async fn close(&self) {
        self.publisher.close().await;
        if let Some(consuming) = self.consuming.get() {
            consuming.close().await;
        }
        self.link.close().await;
    }
}

#[cfg(test)]
impl AmqpBus {
    pub(super) async fn raw_channel(&self) -> lapin::Channel {
        self.link.live().unwrap().channel().await.unwrap()
    }

    pub(super) async fn live_stream(&self, consumer: &'static str) -> LiveStream {
        let patterns = vec![super::super::Pattern::all()];
        let listen = Listen { patterns, consumer, prefetch: 1, max_event_bytes: 1000 };
        LiveStream::open(self.consuming().await.unwrap().clone(), listen).await.unwrap()
    }

    /// Publishes bytes that nobody has checked, without any property.
    pub(super) async fn publish_raw(&self, routing_key: &str, raw: &[u8]) {
        let message = Message {
            exchange: self.topology.exchange.clone(),
            routing_key: routing_key.into(),
            properties: lapin::BasicProperties::default(),
            body: raw.to_vec(),
        };
        self.publisher.publish(vec![message]).await.unwrap();
    }

    /// Deletes what tests leave on the broker.
    pub(super) async fn remove_exchange(&self) {
        let live = self.link.live().unwrap();
        let channel = live.channel().await.unwrap();
        for cursor in ["copy", "another"] {
            let queue = format!("{}.bridge.{cursor}", self.topology.exchange);
            channel.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
        }
        let history = self.topology.history_queue().unwrap();
        channel.queue_delete(history, lapin::options::QueueDeleteOptions::default()).await.unwrap();
        let exchange = self.topology.exchange.clone();
        channel.exchange_delete(exchange, lapin::options::ExchangeDeleteOptions::default()).await.unwrap();
        self.registry.delete(&live).await;
    }
}
