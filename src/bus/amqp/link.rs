//! A supervised connection: one task watches it, and when it is lost, drops everything, waits and connects again.
//!
//! Nothing is recovered behind the users' backs. A channel ends with its connection; whoever consumes or publishes
//! sees that, asks for the next connection ([`Link::up`]) and sets up its part again.
//!
//! The task is started through `Shutdown` and ends with [`Link::close`], or when nobody holds the link any more. A stop
//! of the program alone does not cut the connection, because running work must still be acknowledged; it only ends the
//! attempts to connect again.

use std::{
    future::Future,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use lapin::{Channel, Event as Notice};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    super::{BusError, backoff::Backoff},
    connect::{Dial, Wire},
    errors,
    topology::{Standing, Topology},
};
use crate::shutdown::Shutdown;

/// Pauses between attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A connection that lived this long was a good one: the next loss starts from the first pause again.
const STABLE: Duration = Duration::from_secs(30);
/// lapin tells of most losses at once; this is for those that it does not tell of.
const CHECK: Duration = Duration::from_secs(1);

/// A connection that comes back.
#[derive(Debug, Clone)]
pub(super) struct Link(Arc<Handle>);

/// What the users of a link share; the task holds only what is inside.
#[derive(Debug)]
struct Handle(Arc<Inner>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.stop.cancel();
    }
}

#[derive(Debug)]
struct Inner {
    dial: Dial,
    topology: Topology,
    /// How long the broker may take to answer.
    patience: Duration,
    state: watch::Sender<State>,
    /// The state as others need to know it.
    online: watch::Sender<bool>,
    /// Nobody needs it any more.
    stop: CancellationToken,
    /// The program ends.
    program: CancellationToken,
    /// The task has ended.
    ended: CancellationToken,
}

#[derive(Debug, Clone)]
enum State {
    Up(Arc<Live>),
    /// Why.
    Down(String),
    Closed,
}

/// A connection while it lasts.
#[derive(Debug)]
pub(super) struct Live {
    wire: Wire,
    bus: String,
    patience: Duration,
    /// Why the broker takes no publishes at the moment.
    alarm: watch::Sender<Option<String>>,
    /// What was found when it came about.
    pub(super) standing: Standing,
}

impl Live {
    /// A new channel.
    ///
    /// # Errors
    /// [`BusError::Unreachable`].
    pub(super) async fn channel(&self) -> Result<Channel, BusError> {
        self.answer("a channel", self.wire.connection.create_channel()).await
    }

    /// Waits for the broker's answer. `what` names the queue or exchange, for conflicts.
    ///
    /// # Errors
    /// As [`errors::of`]; [`BusError::Unreachable`] when it takes too long.
    pub(super) async fn answer<T>(
        &self,
        what: &str,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<T, BusError> {
        match self.raw_answer(asked).await? {
            Ok(answer) => Ok(answer),
            Err(error) => Err(errors::of(&self.bus, what, &error)),
        }
    }

    /// As [`Live::answer`], with lapin's error as it is.
    ///
    /// # Errors
    /// [`BusError::Unreachable`] when it takes too long.
    pub(super) async fn raw_answer<T>(
        &self,
        asked: impl Future<Output = lapin::Result<T>>,
    ) -> Result<lapin::Result<T>, BusError> {
        tokio::time::timeout(self.patience, asked).await.map_err(|_| {
            let alarm = self.alarm().map(|alarm| format!(": {alarm}")).unwrap_or_default();
            self.unreachable(format!("no answer within {:.0?}{alarm}", self.patience))
        })
    }

    /// Why the broker takes no publishes at the moment (its words, such as `low on memory`).
    pub(super) fn alarm(&self) -> Option<String> {
        self.alarm.borrow().clone()
    }

    /// Told of each change of [`Live::alarm`].
    pub(super) fn alarms(&self) -> watch::Receiver<Option<String>> {
        self.alarm.subscribe()
    }

    /// True until the connection is lost.
    pub(super) fn is_up(&self) -> bool {
        self.wire.connection.status().connected()
    }

    pub(super) const fn patience(&self) -> Duration {
        self.patience
    }

    /// The broker's address as it may be shown.
    pub(super) fn bus(&self) -> &str {
        &self.bus
    }

    pub(super) fn unreachable(&self, reason: String) -> BusError {
        BusError::Unreachable { bus: self.bus.clone(), reason }
    }

    /// Ends it at once: it is of no use any more. The link makes another one.
    pub(super) fn give_up(&self) {
        self.wire.cut();
    }

    /// Ends it in good order, if the broker answers in time.
    async fn goodbye(&self) {
        if self.is_up() {
            let close = self.wire.connection.close(200, "OK".into());
            // What goes wrong here ends the connection as well.
            drop(tokio::time::timeout(self.patience, close).await);
        }
        self.wire.cut();
    }

    /// Waits until it is lost, and tells why; `None` when it was told to stop.
    async fn watch(&self, stop: &CancellationToken) -> Option<String> {
        let mut notices = std::pin::pin!(self.wire.connection.events_listener());
        let mut check = tokio::time::interval(CHECK);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = None;
        loop {
            // Errors of single channels are told here as well, so only the state decides.
            if !self.is_up() {
                return Some(said.unwrap_or_else(|| "the connection was lost".to_owned()));
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                notice = notices.next() => match notice {
                    Some(Notice::ConnectionBlocked(reason)) => {
                        warn!(bus = %self.bus, reason, "the broker takes no more publishes");
                        self.alarm.send_replace(Some(reason));
                    }
                    Some(Notice::ConnectionUnblocked) => {
                        info!(bus = %self.bus, "the broker takes publishes again");
                        self.alarm.send_replace(None);
                    }
                    Some(Notice::Error(error)) => said = Some(errors::text(&error)),
                    Some(_) => {}
                    None => return Some(said.unwrap_or_else(|| "the connection was lost".to_owned())),
                },
                _ = check.tick() => {}
            }
        }
    }
}

impl Inner {
    async fn connect(&self) -> Result<Arc<Live>, BusError> {
        let wire = self.dial.connect().await?;
        let mut live = Live {
            wire,
            bus: self.dial.address.to_string(),
            patience: self.patience,
            alarm: watch::Sender::new(None),
            standing: Standing::default(),
        };
        live.standing = self.topology.declare(&live).await?;
        Ok(Arc::new(live))
    }
}

impl Link {
    /// Connects and declares. With `wait`, a broker that can't be reached is no error: it is looked for in the
    /// background.
    ///
    /// # Errors
    /// As [`Dial::connect`] and [`Topology::declare`].
    pub(super) async fn open(
        dial: Dial,
        topology: Topology,
        patience: Duration,
        shutdown: &Shutdown,
        wait: bool,
    ) -> Result<Self, BusError> {
        let inner = Inner {
            dial,
            topology,
            patience,
            state: watch::Sender::new(State::Down("not connected yet".to_owned())),
            online: watch::Sender::new(false),
            stop: CancellationToken::new(),
            program: shutdown.child_token(),
            ended: CancellationToken::new(),
        };
        let first = match inner.connect().await {
            Ok(live) => {
                inner.set(State::Up(Arc::clone(&live)));
                Some(live)
            }
            Err(BusError::Unreachable { reason, .. }) if wait => {
                inner.set(State::Down(reason));
                None
            }
            Err(error) => return Err(error),
        };
        let inner = Arc::new(inner);
        shutdown.spawn("amqp-link", supervise(Arc::clone(&inner), first));
        Ok(Self(Arc::new(Handle(inner))))
    }

    /// The connection, if there is one now.
    ///
    /// # Errors
    /// [`BusError::Unreachable`] with the reason, [`BusError::Closed`].
    pub(super) fn live(&self) -> Result<Arc<Live>, BusError> {
        match &*self.0.0.state.borrow() {
            State::Up(live) if live.is_up() => Ok(Arc::clone(live)),
            State::Up(live) => Err(live.unreachable("the connection was lost".to_owned())),
            State::Down(reason) => {
                Err(BusError::Unreachable { bus: self.0.0.dial.address.to_string(), reason: reason.clone() })
            }
            State::Closed => Err(BusError::Closed),
        }
    }

    /// Waits for a connection, for as long as it takes. Cancel safe.
    ///
    /// # Errors
    /// [`BusError::Closed`].
    pub(super) async fn up(&self) -> Result<Arc<Live>, BusError> {
        let mut states = self.0.0.state.subscribe();
        let state = states.wait_for(|state| match state {
            State::Up(live) => live.is_up(),
            State::Down(_) => false,
            State::Closed => true,
        });
        match state.await.as_deref() {
            Ok(State::Up(live)) => Ok(Arc::clone(live)),
            _ => Err(BusError::Closed),
        }
    }

    /// Waits until it is closed. Cancel safe.
    pub(super) async fn closed(&self) {
        // An error says that the other end is gone, which it can't be while we hold it.
        drop(self.0.0.state.subscribe().wait_for(|state| matches!(state, State::Closed)).await);
    }

    /// Whether there is a connection, from now on.
    pub(super) fn online(&self) -> watch::Receiver<bool> {
        self.0.0.online.subscribe()
    }

    /// The broker's address as it may be shown.
    pub(super) fn bus(&self) -> String {
        self.0.0.dial.address.to_string()
    }

    /// How long the broker may take to answer.
    pub(super) fn patience(&self) -> Duration {
        self.0.0.patience
    }

    pub(super) fn topology(&self) -> &Topology {
        &self.0.0.topology
    }

    /// Says goodbye to the broker, within its patience, and ends the task.
    pub(super) async fn close(&self) {
        self.0.0.state.send_replace(State::Closed);
        self.0.0.stop.cancel();
        self.0.0.ended.cancelled().await;
    }
}

/// Keeps a connection until it is told to stop.
async fn supervise(inner: Arc<Inner>, first: Option<Arc<Live>>) {
    let mut pauses = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    let mut told = first.is_none();
    let mut next = first;
    loop {
        let live = match next.take() {
            Some(live) => live,
            None => match reconnect(&inner, &mut pauses, &mut told).await {
                Some(live) => live,
                None => break,
            },
        };
        let since = Instant::now();
        if !inner.set(State::Up(Arc::clone(&live))) {
            live.goodbye().await;
            break;
        }
        let Some(reason) = live.watch(&inner.stop).await else {
            live.goodbye().await;
            break;
        };
        warn!(bus = live.bus(), reason, "lost the broker; connecting again");
        told = true;
        live.wire.cut();
        inner.set(State::Down(reason));
        if since.elapsed() >= STABLE {
            pauses.reset();
        }
    }
    inner.state.send_replace(State::Closed);
    inner.ended.cancel();
}

/// Tries until it works; `None` when it was told to stop.
async fn reconnect(inner: &Inner, pauses: &mut Backoff, told: &mut bool) -> Option<Arc<Live>> {
    loop {
        let attempt = async {
            tokio::time::sleep(pauses.pause(&mut fastrand::Rng::new())).await;
            inner.connect().await
        };
        let connected = tokio::select! {
            () = inner.stop.cancelled() => return None,
            () = inner.program.cancelled() => return None,
            connected = attempt => connected,
        };
        let error = match connected {
            Ok(live) => {
                info!(bus = live.bus(), "connected");
                return Some(live);
            }
            Err(error) => error,
        };
        // Whatever it is, a broker that starts or is reconfigured may say it for a while.
        let bus = inner.dial.address.to_string();
        if std::mem::replace(told, true) {
            debug!(bus, %error, "cannot connect yet");
        } else {
            warn!(bus, %error, "cannot connect; trying again until it works");
        }
        inner.set(State::Down(match error {
            BusError::Unreachable { reason, .. } => reason,
            other => other.to_string(),
        }));
    }
}

impl Inner {
    /// False if it was closed meanwhile.
    fn set(&self, next: State) -> bool {
        let up = matches!(next, State::Up(_));
        let open = self.state.send_if_modified(|state| {
            let open = !matches!(state, State::Closed);
            if open {
                *state = next;
            }
            open
        });
        self.online.send_replace(open && up);
        open
    }
}
