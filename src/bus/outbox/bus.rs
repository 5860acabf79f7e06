//! The bus in front of a broker: publishes directly while it can, and keeps events while it can't. Everything but
//! publishing goes straight to the broker. Runs where it is called, beside one task that drains.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell, RwLock, RwLockReadGuard};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    super::{
        BusError, Capabilities, Event, EventBus, EventStream, Held, Lane, LinkStats, Pruned, Publish,
        Published, Query, QueueInfo, QueueSpec, Received, Retention, Selection, SharedBus, Stats,
        Subscription, WorkQueue,
        breaker::{Breaker, Change, Outcome, Permit},
        event::{
            self, Stamp,
            payload::{CircuitClosed, CircuitOpened, Payload},
            registry,
        },
        local::LocalState,
    },
    Broker, Opened, OutboxOptions,
    drain::{self, Tally},
    table::{Caps, Entry, Table, View},
};
use crate::shutdown::Shutdown;

/// A broker with an outbox in front.
#[derive(Debug)]
pub struct OutboxBus {
    pub(super) core: Arc<Core>,
}

/// What the bus and its task share.
#[derive(Debug)]
pub(super) struct Core {
    pub(super) broker: Arc<dyn Broker>,
    pub(super) options: OutboxOptions,
    pub(super) table: Table,
    /// Locked by the process that drains.
    pub(super) lock: PathBuf,
    /// What was sent since the outbox was last empty.
    pub(super) tally: Mutex<Tally>,
    /// Rung when something waits.
    pub(super) bell: Notify,
    /// The broker did not take something just now, so that to try again at once would be of no use.
    pub(super) failed: AtomicBool,
    pub(super) opened: OnceCell<Opened>,
    /// The last attempt to connect that failed, for those who waited for it.
    refused: Mutex<Option<(Instant, BusError)>>,
    closed: AtomicBool,
    /// Held for reading while something is published, and for writing to wait for the end of that.
    gate: RwLock<()>,
    pub(super) stop: CancellationToken,
    pub(super) ended: CancellationToken,
}

/// True for an error after which the event goes to the outbox: the broker is away, or may have taken it, or not.
pub(super) const fn is_away(error: &BusError) -> bool {
    matches!(error, BusError::Unreachable { .. } | BusError::Full { .. } | BusError::Closed)
}

impl OutboxBus {
    /// A bus in front of this broker, with its outbox in this file, which is closed with the bus. Does not connect yet:
    /// the first call that needs the broker does, or the task if anything waits.
    ///
    /// # Errors
    /// When the file can't be read or written.
    pub async fn open(
        broker: Arc<dyn Broker>,
        file: Arc<LocalState>,
        options: OutboxOptions,
        shutdown: &Shutdown,
    ) -> Result<Self, BusError> {
        let table = Table::open(file, &broker.identity(), options.policy).await?;
        for (name, waiting) in table.others().await? {
            warn!(
                broker = name,
                waiting, "events wait for another broker; they are sent when bus.url names it again"
            );
        }
        let lock = table.file().path().with_extension(format!("{}.lock", table.broker()));
        let core = Arc::new(Core {
            broker,
            options,
            table,
            lock,
            tally: Mutex::default(),
            bell: Notify::new(),
            failed: AtomicBool::new(false),
            opened: OnceCell::new(),
            refused: Mutex::new(None),
            closed: AtomicBool::new(false),
            gate: RwLock::new(()),
            stop: shutdown.child_token(),
            ended: CancellationToken::new(),
        });
        shutdown.spawn("outbox-drain", drain::run(Arc::clone(&core)));
        Ok(Self { core })
    }

    /// The broker's bus, for what can't wait in an outbox.
    async fn reach(&self) -> Result<&SharedBus, BusError> {
        if self.core.closed.load(Ordering::Acquire) {
            return Err(BusError::Closed);
        }
        Ok(&self.core.link().await?.bus)
    }
}

impl Drop for OutboxBus {
    fn drop(&mut self) {
        self.core.stop.cancel();
    }
}

impl Core {
    /// The connection, which is made if there is none.
    pub(super) async fn link(&self) -> Result<&Opened, BusError> {
        let asked = Instant::now();
        let connect = async || {
            // Whoever waited for an attempt that failed does not make the next caller wait for another one.
            if let Some((at, error)) = &*self.refused.lock()
                && *at > asked
            {
                return Err(error.clone());
            }
            let opened = self.broker.open().await;
            match &opened {
                Ok(opened) if opened.is_online() => self.tell_if_news(Outcome::Success, "").await,
                Ok(_) => {}
                Err(error) => {
                    *self.refused.lock() = Some((Instant::now(), error.clone()));
                    let outcome = if is_away(error) { Outcome::Failure } else { Outcome::Unknown };
                    self.tell(outcome, &error.to_string()).await;
                }
            }
            opened
        };
        self.opened.get_or_try_init(connect).await
    }

    async fn enter(&self) -> Result<RwLockReadGuard<'_, ()>, BusError> {
        let guard = self.gate.read().await;
        if self.closed.load(Ordering::Acquire) { Err(BusError::Closed) } else { Ok(guard) }
    }

    async fn publish(&self, events: &[Event], options: Publish) -> Result<Published, BusError> {
        let _inside = self.enter().await?;
        if events.is_empty() {
            return Ok(Published::default());
        }
        let view = self.table.view().await?;
        if options.never_deferred {
            return self.publish_now(&view, events, options).await;
        }
        let mut reason = "others wait before it".to_owned();
        if self.may_try(&view).await? {
            match self.try_directly(&view, events, options).await {
                Ok(Some(published)) => return Ok(published),
                Ok(None) => {}
                Err(error) if is_away(&error) => {
                    self.failed.store(true, Ordering::Release);
                    reason = error.to_string();
                }
                Err(error) => return Err(error),
            }
        }
        self.defer(events, options, &reason).await
    }

    /// Publishes past what waits, or not at all.
    async fn publish_now(
        &self,
        view: &View,
        events: &[Event],
        options: Publish,
    ) -> Result<Published, BusError> {
        if let Some(wait) = self.must_wait().await? {
            let reason = format!("it was away just now; it is tried again in {:.1} s", wait.as_secs_f64());
            return Err(BusError::Unreachable { bus: self.broker.address(), reason });
        }
        let published = self.link().await?.bus.publish(events, options).await;
        self.learn(view, &published).await;
        published
    }

    /// Tells the circuit breaker how a call went.
    async fn learn(&self, view: &View, published: &Result<Published, BusError>) {
        match published {
            Ok(_) if view.breaker.is_calm() => {}
            Ok(_) => self.tell(Outcome::Success, "").await,
            Err(error) if is_away(error) => self.tell(Outcome::Failure, &error.to_string()).await,
            Err(_) => self.tell_if_news(Outcome::Unknown, "").await,
        }
    }

    /// Whether the circuit lets a call through. While others wait, a call would not be told of how it went, so it is
    /// only looked at.
    async fn may_try(&self, view: &View) -> Result<bool, BusError> {
        let now = self.options.clock.now();
        let permit = if view.breaker.is_calm() {
            Permit::Go
        } else if view.waiting > 0 {
            view.breaker.look(self.table.policy(), now)
        } else {
            self.table.ask(now).await?
        };
        Ok(permit == Permit::Go)
    }

    /// How long the circuit lets nothing of what waits through, if it doesn't.
    pub(super) async fn must_wait(&self) -> Result<Option<Duration>, BusError> {
        // To ask means to write, and of a calm circuit nothing needs to be asked.
        if self.table.view().await?.breaker.is_calm() {
            return Ok(None);
        }
        Ok(match self.table.ask(self.options.clock.now()).await? {
            Permit::Go => None,
            Permit::Wait(left) => Some(left),
        })
    }

    /// Publishes, unless others wait; but connects in any case, so that wrong credentials are told at once.
    async fn try_directly(
        &self,
        view: &View,
        events: &[Event],
        options: Publish,
    ) -> Result<Option<Published>, BusError> {
        let bus = &self.link().await?.bus;
        if view.waiting > 0 {
            return Ok(None);
        }
        let published = bus.publish(events, options).await;
        self.learn(view, &published).await;
        published.map(Some)
    }

    /// Puts the events into the outbox.
    async fn defer(&self, events: &[Event], options: Publish, reason: &str) -> Result<Published, BusError> {
        let limit = self.options.max_event_bytes;
        let entry = |event| {
            let json = event::check(event, limit)?;
            Ok(Entry { json, require_route: options.require_route, own: false })
        };
        let entries = events.iter().map(entry).collect::<Result<Vec<_>, BusError>>()?;
        let caps = Caps { events: self.options.max_events, bytes: self.options.max_bytes };
        match self.table.append(entries, Some(caps)).await? {
            Ok(()) => {
                debug!(events = events.len(), reason, "kept in the outbox");
                self.bell.notify_one();
                Ok(Published { deferred: events.len() as u64, ..Published::default() })
            }
            Err(refusals) => {
                let bus = self.broker.address();
                warn!(bus, refused = refusals.events, reason = refusals.reason, "the outbox is full");
                let reason = format!("{} ({reason}); bring {bus} back, or raise the limit", refusals.reason);
                Err(BusError::Full { what: "the outbox".to_owned(), reason })
            }
        }
    }

    /// Tells the circuit breaker, if it is not closed and calm.
    pub(super) async fn tell_if_news(&self, outcome: Outcome, reason: &str) {
        match self.table.view().await {
            Ok(view) if view.breaker.is_calm() => {}
            _ => self.tell(outcome, reason).await,
        }
    }

    /// Tells the circuit breaker, and everybody if that changes it.
    pub(super) async fn tell(&self, outcome: Outcome, reason: &str) {
        let now = self.options.clock.now();
        let change = match self.table.tell(outcome, now).await {
            Ok(Some(change)) => change,
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "cannot keep the state of the circuit breaker");
                return;
            }
        };
        let view = self.table.view().await.unwrap_or_default();
        let (bus, waiting, policy) = (self.broker.address(), view.waiting, self.table.policy());
        match change {
            Change::Opened => {
                warn!(bus, reason, waiting, "the broker is away; events go to the outbox");
                let payload = CircuitOpened {
                    bus,
                    failures: policy.failures,
                    reason: reason.to_owned(),
                    retry_in_s: policy.cooldown.as_secs_f64(),
                    waiting,
                };
                self.announce(&payload).await;
            }
            Change::Closed { since } => {
                info!(bus, waiting, "the broker is back");
                let open_s = now.duration_since(since).as_secs_f64().max(0.0);
                self.announce(&CircuitClosed { bus, open_s, waiting }).await;
            }
        }
    }

    /// Puts an event about the outbox into it, whether or not there is room: there are few of them, and each stands for
    /// a change that took its time.
    pub(super) async fn announce<P: Payload>(&self, payload: &P) {
        let stamp = Stamp { at: self.options.clock.now(), ..Stamp::now() };
        let event = registry::event(stamp, self.options.source.clone(), payload);
        let entry = Entry { json: event.to_json(), require_route: false, own: true };
        match self.table.append(vec![entry], None).await {
            Ok(_) => self.bell.notify_one(),
            Err(error) => warn!(event_type = P::TYPE, %error, "cannot keep an event"),
        }
    }
}

fn link_stats(view: &View) -> LinkStats {
    let breaker: &Breaker = &view.breaker;
    LinkStats {
        outbox: view.waiting,
        outbox_bytes: view.bytes,
        outbox_refused: view.refused,
        outbox_failed: view.failed,
        circuit: breaker.circuit().name().to_owned(),
        opened: breaker.opened(),
    }
}

#[async_trait]
impl EventBus for OutboxBus {
    fn capabilities(&self) -> Capabilities {
        let opened = self.core.opened.get();
        opened.map_or_else(|| self.core.broker.capabilities(), |opened| opened.bus.capabilities())
    }

    async fn publish(&self, events: &[Event], options: Publish) -> Result<Published, BusError> {
        self.core.publish(events, options).await
    }

    /// Never kept in the outbox: the cursor belongs to the broker.
    async fn publish_with_cursor(
        &self,
        events: &[Event],
        name: &str,
        cursor: &str,
    ) -> Result<Published, BusError> {
        let _inside = self.core.enter().await?;
        self.reach().await?.publish_with_cursor(events, name, cursor).await
    }

    async fn cursor(&self, name: &str) -> Result<Option<String>, BusError> {
        self.reach().await?.cursor(name).await
    }

    async fn subscribe(&self, subscription: Subscription) -> Result<Box<dyn EventStream>, BusError> {
        self.reach().await?.subscribe(subscription).await
    }

    async fn page(&self, query: Query) -> Result<Vec<Received>, BusError> {
        self.reach().await?.page(query).await
    }

    async fn queue(&self, spec: QueueSpec) -> Result<Box<dyn WorkQueue>, BusError> {
        self.reach().await?.queue(spec).await
    }

    async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        self.reach().await?.queues().await
    }

    async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError> {
        self.reach().await?.peek(queue, lane, limit).await
    }

    async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError> {
        self.reach().await?.requeue(queue, which).await
    }

    async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError> {
        self.reach().await?.purge(queue, lane, which).await
    }

    async fn delete_queue(&self, queue: &str) -> Result<(), BusError> {
        self.reach().await?.delete_queue(queue).await
    }

    /// Tells of the outbox even if the broker is away.
    async fn stats(&self) -> Result<Stats, BusError> {
        let mut stats = match self.reach().await {
            Ok(bus) => bus.stats().await,
            Err(error) => Err(error),
        };
        if let Err(BusError::Unreachable { .. }) = stats {
            stats = Ok(Stats { bus: self.core.broker.address(), ..Stats::default() });
        }
        let view = self.core.table.view().await?;
        stats.map(|stats| Stats { link: Some(link_stats(&view)), ..stats })
    }

    async fn prune(&self, retention: Retention) -> Result<Pruned, BusError> {
        self.reach().await?.prune(retention).await
    }

    async fn close(&self) {
        self.core.closed.store(true, Ordering::Release);
        // What is being published now ends in bounded time.
        drop(self.core.gate.write().await);
        self.core.stop.cancel();
        self.core.ended.cancelled().await;
        drain::flush(&self.core).await;
        if let Some(opened) = self.core.opened.get() {
            opened.bus.close().await;
        }
        self.core.table.file().close().await;
    }
}
