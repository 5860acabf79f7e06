//! Asks the gates of agents, tells them how turns went, and tells the bus of what changes.

use std::collections::BTreeMap;

use jiff::{Timestamp, Zoned};
use tracing::{info, warn};

use super::{Listener, worker::stamp};
use crate::{
    agents::{
        Failure,
        budgets::Today,
        limits::{
            Gate, Shut,
            gate::{Bounds, News},
        },
        store::{StoreError, journal::Doorkeeper},
    },
    bus::{
        Event,
        event::{
            payload::provider::{ProviderCircuitClosed, ProviderCircuitOpened, ProviderPaused},
            registry,
        },
    },
    config::LimitMap,
};

/// What each agent is allowed, by name.
#[must_use]
pub fn bounds(limits: &LimitMap) -> BTreeMap<String, Bounds> {
    limits.iter().map(|(name, settings)| (name.clone(), Bounds::new(settings))).collect()
}

/// Knows what must be known to let a turn begin.
pub(super) struct Keeper<'a> {
    listener: &'a Listener,
    today: Today,
    now: Zoned,
}

impl<'a> Keeper<'a> {
    /// Looks up what was spent today, where that matters.
    pub(super) async fn new(listener: &'a Listener) -> Result<Self, StoreError> {
        let (today, now) = listener.orchestrator.today(&listener.customs.budgets).await?;
        Ok(Self { listener, today, now })
    }
}

impl Doorkeeper for Keeper<'_> {
    fn ask(&self, provider: &str, gate: &mut Gate, running: usize) -> (Result<(), Shut>, Option<Event>) {
        let bounds = self.listener.settings.bounds.get(provider).copied().unwrap_or_default();
        let budget = self.listener.customs.budgets.admit_today(provider, &self.today, &self.now);
        let (answer, news) = gate.ask(bounds, running, budget.as_ref().copied(), &self.now);
        (answer, news.map(|news| event(self.listener, provider, news)))
    }
}

/// Tells an agent's gate how a turn went that it let through.
pub(super) async fn tell(listener: &Listener, provider: &str, verdict: Result<(), &Failure>) {
    let now = listener.orchestrator.clock.now();
    change(listener, provider, &|gate| match verdict {
        Ok(()) if gate.is_calm() => Vec::new(),
        verdict => gate.tell(verdict, now),
    })
    .await;
}

/// Tells an agent's gate that its service answers no more until a time.
pub(super) async fn limited(listener: &Listener, provider: &str, until: Timestamp) {
    let now = listener.orchestrator.clock.now();
    let message = "its service said that the limit of the account is reached";
    change(listener, provider, &|gate| gate.limited(until, message, now).into_iter().collect()).await;
}

async fn change(listener: &Listener, provider: &str, change: &(dyn Fn(&mut Gate) -> Vec<News> + Sync)) {
    let change = |gate: &mut Gate| -> Vec<Event> {
        change(gate).into_iter().map(|news| event(listener, provider, news)).collect()
    };
    // What is lost here is learnt again from the next turn.
    if let Err(error) = listener.journal.change_gate(provider, &change).await {
        warn!(%error, provider, "how a turn went could not be noted for the agent's limits");
    }
}

fn event(listener: &Listener, provider: &str, news: News) -> Event {
    let provider = provider.to_owned();
    let source = listener.source.clone();
    match news {
        News::Opened { until, class, error } => {
            warn!(provider, %class, error, %until, "an agent keeps failing; it gets no prompts for a while");
            let class = class.name().to_owned();
            let payload = ProviderCircuitOpened { provider, until, class, error };
            registry::event(stamp(listener), source, &payload)
        }
        News::Closed { since } => {
            info!(provider, %since, "an agent works again");
            registry::event(stamp(listener), source, &ProviderCircuitClosed { provider, since })
        }
        News::Paused { why, until, message } => {
            warn!(provider, reason = why.name(), %until, message, "prompts for an agent wait");
            let reason = why.name().to_owned();
            let payload = ProviderPaused { provider, reason, until, message };
            registry::event(stamp(listener), source, &payload)
        }
    }
}
