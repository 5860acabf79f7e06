//! Gathers what agents do: from the store of the sessions, and from the journal of this machine.

use std::{collections::BTreeMap, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{
    super::{
        super::Context,
        store::{orchestrator, with_exit_code},
    },
    Agent, DayBudget, Ended, Journal, Listener, Process, Prompt, Running, Status,
};
use crate::{
    agents::{
        budgets::{Budgets, Spent},
        limits::Gate,
        lines::shortened,
        orchestrator::{Hold, Holder, Orchestrator},
        session::{Session, State},
        store::{Filter, SessionStore, SharedStore, StoreError, journal, open},
    },
    bus::SystemClock,
    config::Usd,
};

/// Turns that run and are shown, and sessions that have ended.
const MAX_RUNNING: usize = 500;
const MAX_ENDED: usize = 8;
/// Prompts that wait and are shown.
const MAX_WAITING: usize = 20;
/// A listener says that it lives every ten seconds; one that has not for so long is gone.
const SILENCE: SignedDuration = SignedDuration::from_secs(60);
/// Characters of a prompt.
const MAX_PROMPT: usize = 200;

/// What it looks at.
#[derive(Debug)]
pub(in crate::cmd::agent) struct Desk {
    works: Orchestrator,
    journal: journal::Journal,
    budgets: Budgets,
    bus: String,
    queue: String,
}

/// Opens the store and the journal for `work`, and closes them.
pub(in crate::cmd::agent) async fn with_desk(
    context: &Context,
    work: impl AsyncFnOnce(&Desk) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let (store, journal): (SharedStore, _) =
        open::open_with_journal(&context.config.store, &context.paths.data_dir, clock)
            .await
            .map_err(|error| with_exit_code(error.into()))?;
    let desk = Desk {
        works: orchestrator(&context.config, store.clone()),
        journal: journal.clone(),
        budgets: Budgets::new(&context.config.agents),
        bus: context.config.bus.url.to_string(),
        queue: context.config.listen.queue.clone(),
    };
    let result = work(&desk).await;
    journal.close().await;
    store.close().await;
    result.map_err(with_exit_code)
}

impl Desk {
    /// Where the sessions are.
    pub(super) fn store(&self) -> String {
        self.works.store.address()
    }

    /// The sessions.
    pub(in crate::cmd::agent) fn sessions(&self) -> &dyn SessionStore {
        &*self.works.store
    }

    /// The journal of this machine.
    pub(in crate::cmd::agent) const fn journal(&self) -> &journal::Journal {
        &self.journal
    }

    /// Everything as it is now.
    pub(in crate::cmd::agent) async fn look(&self, now: Timestamp) -> Result<Status, StoreError> {
        let store = &self.works.store;
        let filter = Filter { state: Some(State::Running), limit: Some(MAX_RUNNING), ..Filter::default() };
        let mut running = Vec::new();
        for stored in store.list(&filter).await? {
            let hold = self.works.hold_on(&stored.session.id).await?;
            running.extend(running_of(&stored.session, hold));
        }
        running.sort_by_key(|running| std::cmp::Reverse(running.since));
        let filter = Filter { limit: Some(running.len() + MAX_ENDED), ..Filter::default() };
        let latest = store.list(&filter).await?;
        let ended = latest.iter().map(|stored| &stored.session);
        let ended = ended.filter(|session| session.run.is_none() && session.prompt_count > 0);
        let ended = ended.take(MAX_ENDED).map(ended_of).collect();
        let (today, _) = self.works.today(&self.budgets).await?;
        let budgets = self.budgets.days(&today).map(budget_of).collect();
        let counts = self.journal.counts().await?;
        let census = self.journal.census().await?;
        let queued = self.journal.queued(MAX_WAITING).await?;
        let gates = self.journal.gates().await?;
        let present = self.journal.listeners().await?;
        Ok(Status {
            at: now,
            store: store.address(),
            bus: self.bus.clone(),
            queue: self.queue.clone(),
            running,
            ended,
            budgets,
            listeners: listeners_of(&census, &present, now),
            journal: journal_of(counts, &census, (queued, gates), now),
        })
    }
}

fn running_of(session: &Session, hold: Hold) -> Option<Running> {
    let run = session.run.as_ref()?;
    let process = |holder: Holder, is_gone| Process { host: holder.host, pid: holder.pid, is_gone };
    let state = if hold.is_over() { "left_open" } else { "running" };
    let holder = match hold {
        Hold::By(holder) => Some(process(holder, false)),
        Hold::Dead(holder) => Some(process(holder, true)),
        Hold::Free | Hold::Unknown => None,
    };
    Some(Running {
        session: session.id.to_string(),
        provider: session.provider.clone(),
        state,
        since: run.began_at,
        turn: session.prompt_count,
        attempt: run.attempt,
        model: session.model.clone(),
        source: session.source.name(),
        holder,
        directory: session.directory.clone(),
        prompt: asked(session),
        cost_micro_usd: session.totals.known_cost_micro_usd(),
    })
}

fn ended_of(session: &Session) -> Ended {
    Ended {
        session: session.id.to_string(),
        provider: session.provider.clone(),
        state: session.state.name(),
        class: session.failure_class.clone(),
        at: session.updated_at,
        turn: session.prompt_count,
        directory: session.directory.clone(),
        prompt: asked(session),
        cost_micro_usd: session.totals.known_cost_micro_usd(),
    }
}

fn budget_of((provider, spent, limit): (Option<&str>, Spent, Usd)) -> DayBudget {
    DayBudget {
        provider: provider.map(str::to_owned),
        spent_micro_usd: spent.known.micro(),
        limit_micro_usd: limit.micro(),
        unknown_turns: spent.unknown_turns,
    }
}

fn asked(session: &Session) -> String {
    shortened(session.words.last_prompt.as_deref().unwrap_or_default(), MAX_PROMPT)
}

fn journal_of(
    counts: journal::Counts,
    census: &journal::Census,
    (queued, gates): (Vec<journal::Queued>, BTreeMap<String, Gate>),
    now: Timestamp,
) -> Journal {
    let mut providers: BTreeMap<String, Agent> = BTreeMap::new();
    let fresh = || Agent { circuit: "closed", ..Agent::default() };
    for (name, open) in &census.providers {
        providers.entry(name.clone()).or_insert_with(fresh).open = *open;
    }
    for (name, gate) in gates {
        let (circuit, paused_until) = (gate.circuit(), gate.pause(now));
        if circuit != "closed" || paused_until.is_some() || providers.contains_key(&name) {
            let agent = providers.entry(name).or_insert_with(fresh);
            (agent.circuit, agent.paused_until) = (circuit, paused_until);
        }
    }
    let waiting = census.providers.values().map(|open| open.waiting).sum();
    let prompt = |queued: journal::Queued| Prompt {
        key: queued.key,
        session: queued.session,
        provider: queued.provider,
        attempts: queued.attempts,
        until: Some(queued.not_before).filter(|until| *until > now),
        class: queued.last_class,
        prompt: shortened(&queued.prompt, MAX_PROMPT),
    };
    Journal {
        ready: counts.ready.saturating_sub(waiting),
        running: counts.running,
        waiting,
        next_at: census.next_at,
        done: counts.done,
        dead: counts.dead,
        unsent: counts.unsent,
        providers,
        prompts: queued.into_iter().map(prompt).collect(),
    }
}

fn listeners_of(census: &journal::Census, present: &[journal::Presence], now: Timestamp) -> Vec<Listener> {
    let mut listeners: BTreeMap<String, Listener> = BTreeMap::new();
    let fresh = |text: &str| {
        let holder = Holder::parse(text)?;
        let is_gone = holder.is_dead();
        let process = Process { host: holder.host, pid: holder.pid, is_gone };
        Some(Listener { process, queue: None, workers: None, since: None, running: 0 })
    };
    for one in present {
        let Some(listener) = fresh(&one.holder) else { continue };
        let is_silent = now.duration_since(one.seen) > SILENCE;
        // Of one that is gone only what it was working on is of interest.
        if is_silent || listener.process.is_gone {
            continue;
        }
        let said = Listener {
            queue: Some(one.queue.clone()),
            workers: Some(one.workers),
            since: Some(one.began),
            ..listener
        };
        listeners.insert(one.holder.clone(), said);
    }
    for (holder, running) in &census.holders {
        if !listeners.contains_key(holder)
            && let Some(listener) = fresh(holder)
        {
            listeners.insert(holder.clone(), listener);
        }
        if let Some(listener) = listeners.get_mut(holder) {
            listener.running = *running;
        }
    }
    let mut listeners: Vec<_> = listeners.into_values().collect();
    listeners.sort_by(|one, other| (one.since, &one.process).cmp(&(other.since, &other.process)));
    listeners
}
