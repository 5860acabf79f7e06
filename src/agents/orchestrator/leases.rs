//! The leases of a turn: on its session, and on the directory that its agent may write in.

use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        Access, Provider,
        session::SessionId,
        store::{Acquired, Lease, Request, StoreError},
    },
    Holder, Orchestrator, Order, OrderError, WhenBusy,
};

/// How often a lease that somebody has is asked for: at first, and at most.
const ASK: Duration = Duration::from_millis(20);
const MAX_ASK: Duration = Duration::from_millis(500);

/// The leases of a turn.
#[derive(Debug)]
pub(super) struct Leases {
    pub(super) session: Lease,
    directory: Option<Lease>,
    ttl: Duration,
    /// When they were last known to be ours. A lease lasts for `ttl` from before it was asked for.
    since: Instant,
}

impl Leases {
    fn all(&self) -> impl Iterator<Item = &Lease> {
        std::iter::once(&self.session).chain(&self.directory)
    }

    /// How long until they must be renewed again.
    pub(super) fn renewal(&self) -> Duration {
        self.ttl / 3
    }

    /// Their time is nearly over: somebody else may soon work.
    pub(super) fn are_stale(&self) -> bool {
        self.since.elapsed() >= self.ttl * 4 / 5
    }
}

/// The name of the lease on a session.
pub(super) fn name_of(session: &SessionId) -> String {
    format!("session:{session}")
}

/// What an error of a lease that we had means.
fn lost(error: StoreError) -> OrderError {
    match error {
        StoreError::Fenced { .. } => OrderError::Lost(error),
        other => other.into(),
    }
}

impl Orchestrator {
    pub(super) async fn take(
        &self,
        order: &Order,
        provider: &dyn Provider,
        floor: u64,
        stop: &CancellationToken,
    ) -> Result<Leases, OrderError> {
        let since = Instant::now();
        let what = format!("session {}", order.session);
        let name = name_of(&order.session);
        let session = self.take_one((&name, &what), floor, (order.when_busy, stop), None).await?;
        let path = order.turn.directory.display().to_string();
        let writes = provider.abilities().tools && order.turn.access != Access::Plan;
        let directory = if writes && !order.shares_directory {
            let name = format!("directory:{}:{path}", self.holder.host);
            let what = format!("the directory {path}");
            match self.take_one((&name, &what), 0, (order.when_busy, stop), Some(&session)).await {
                Ok(lease) => Some(lease),
                Err(error) => {
                    self.release_one(&session).await;
                    return Err(error);
                }
            }
        } else {
            None
        };
        let mut leases = Leases { session, directory, ttl: self.lease, since };
        if let Err(error) = self.renew(&mut leases).await {
            self.give_back(&leases).await;
            return Err(lost(error));
        }
        Ok(leases)
    }

    /// Takes one lease, waiting for it if need be; `kept` is one that we have already and keep meanwhile.
    pub(in super::super) async fn take_one(
        &self,
        (name, what): (&str, &str),
        floor: u64,
        (when_busy, stop): (WhenBusy, &CancellationToken),
        kept: Option<&Lease>,
    ) -> Result<Lease, OrderError> {
        let holder = self.holder.to_text();
        let mut request = Request {
            name,
            token: Uuid::now_v7(),
            holder: &holder,
            ttl: self.lease,
            floor,
            instead_of: None,
        };
        let mut pause = ASK;
        let mut kept_at = Instant::now();
        loop {
            if let Some(kept) = kept.filter(|_| kept_at.elapsed() >= self.lease / 3) {
                self.store.renew(kept, self.lease).await.map_err(lost)?;
                kept_at = Instant::now();
            }
            let held = match self.store.acquire(&request).await? {
                Acquired::Lease(lease) => return Ok(lease),
                Acquired::Held { holder, token } => (Holder::parse(&holder), token),
            };
            match held {
                (Some(holder), token) if holder.is_dead() && request.instead_of != Some(token) => {
                    request.instead_of = Some(token);
                }
                (holder, _) if when_busy == WhenBusy::Fail => {
                    let by = holder.map(|holder| format!(" by {}", holder.describe())).unwrap_or_default();
                    return Err(OrderError::Busy { what: what.to_owned(), by });
                }
                _ => {
                    tokio::select! {
                        () = stop.cancelled() => return Err(OrderError::Stopped(what.to_owned())),
                        () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_ASK),
                    }
                }
            }
        }
    }

    /// Keeps the leases for another while.
    pub(super) async fn renew(&self, leases: &mut Leases) -> Result<(), StoreError> {
        let asked = Instant::now();
        for lease in leases.all() {
            self.store.renew(lease, self.lease).await?;
        }
        leases.since = asked;
        Ok(())
    }

    /// Takes those leases anew of which the store knows nothing any more. Fails if somebody has one.
    pub(super) async fn retake(&self, leases: &mut Leases) -> Result<(), StoreError> {
        let asked = Instant::now();
        for lease in std::iter::once(&mut leases.session).chain(&mut leases.directory) {
            match self.store.renew(lease, self.lease).await {
                Err(StoreError::Fenced { latest: 0, .. }) => *lease = self.take_anew(lease).await?,
                other => other?,
            }
        }
        leases.since = asked;
        Ok(())
    }

    /// Takes a lease anew of which the store knows nothing any more.
    pub(in super::super) async fn take_anew(&self, lost: &Lease) -> Result<Lease, StoreError> {
        let holder = self.holder.to_text();
        let request = Request {
            name: &lost.name,
            token: Uuid::now_v7(),
            holder: &holder,
            ttl: self.lease,
            floor: lost.fence,
            instead_of: None,
        };
        match self.store.acquire(&request).await? {
            Acquired::Lease(lease) => Ok(lease),
            Acquired::Held { .. } => {
                Err(StoreError::Fenced { name: lost.name.clone(), ours: lost.fence, latest: lost.fence })
            }
        }
    }

    pub(super) async fn give_back(&self, leases: &Leases) {
        for lease in leases.all() {
            self.release_one(lease).await;
        }
    }

    /// Gives one lease back.
    pub(in super::super) async fn release_one(&self, lease: &Lease) {
        if let Err(error) = self.store.release(lease).await {
            tracing::debug!(%error, name = lease.name, "a lease was not given back; it ends by itself");
        }
    }
}
