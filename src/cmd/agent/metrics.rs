//! `godctl agent metrics`: figures about agents, in the text format of Prometheus.
//!
//! They are read from the store of the sessions and the journal of this machine, so they are the same whoever asks, and
//! outlive every process.

use std::{collections::BTreeMap, io::Write as _};

use jiff::Timestamp;

use super::{
    super::{Context, Stdout, Threads},
    status::{Desk, with_desk},
};
use crate::{
    agents::{
        figures::{Figures, Times},
        session::UsageRow,
        store::{
            Filter, StoreError,
            journal::{Passage, Presence},
        },
    },
    bus::{Clock as _, SystemClock},
};

/// Flags of `godctl agent metrics`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Sessions, turns and what they cost are counted wherever the store of the sessions is seen
from; prompts, retries, circuits and listeners are those of this machine. Prompts that are
over are counted for a week.

Examples:
  godctl agent metrics
  godctl agent metrics > /var/lib/node_exporter/agents.prom.new \\
    && mv /var/lib/node_exporter/agents.prom.new /var/lib/node_exporter/agents.prom")]
pub(super) struct Args {}

pub(super) fn run(_: &Args, context: &Context) -> anyhow::Result<()> {
    context.block_on(Threads::Current, async {
        with_desk(context, async |desk| {
            let text = gather(desk, SystemClock.now()).await?.text();
            Stdout::lock().write_all(text.as_bytes())?;
            Ok(())
        })
        .await
    })
}

/// What is counted.
#[derive(Debug, Default)]
struct Counted {
    /// By agent and state.
    sessions: BTreeMap<(String, &'static str), u64>,
    usage: Vec<UsageRow>,
    passages: Vec<Passage>,
    /// Prompts by agent and where they stand.
    prompts: BTreeMap<(String, &'static str), u64>,
    unsent: u64,
    /// By agent, and until when it is paused.
    circuits: BTreeMap<String, (&'static str, Option<Timestamp>)>,
    listeners: Vec<Presence>,
}

async fn gather(desk: &Desk, now: Timestamp) -> Result<Counted, StoreError> {
    let journal = desk.journal();
    let mut counted = Counted {
        usage: desk.sessions().usage(None).await?,
        passages: journal.passages().await?,
        unsent: journal.counts().await?.unsent,
        listeners: journal.listeners().await?,
        ..Counted::default()
    };
    for stored in desk.sessions().list(&Filter::default()).await? {
        let key = (stored.session.provider, stored.session.state.name());
        *counted.sessions.entry(key).or_default() += 1;
    }
    for (provider, open) in journal.census().await?.providers {
        for (state, count) in [("ready", open.ready), ("running", open.running), ("waiting", open.waiting)] {
            counted.prompts.insert((provider.clone(), state), count);
        }
    }
    for (provider, gate) in journal.gates().await? {
        counted.circuits.insert(provider, (gate.circuit(), gate.pause(now)));
    }
    Ok(counted)
}

impl Counted {
    fn text(&self) -> String {
        let mut figures = Figures::default();
        let name = "godctl_agent_sessions";
        figures.family(name, "gauge", "Sessions, by agent and state.");
        for ((provider, state), count) in &self.sessions {
            figures.figure(name, &[("provider", provider), ("state", state)], count);
        }
        self.turns(&mut figures);
        self.prompts(&mut figures);
        let name = "godctl_agent_events_unsent";
        figures.family(name, "gauge", "Events that are kept here until the bus has them.");
        figures.figure(name, &[], self.unsent);
        let name = "godctl_agent_circuit_open";
        figures.family(
            name,
            "gauge",
            "1 while an agent gets no prompts because it kept failing, 0.5 while one is tried.",
        );
        for (provider, (circuit, _)) in &self.circuits {
            let value = match *circuit {
                "closed" => "0",
                "open" => "1",
                _ => "0.5",
            };
            figures.figure(name, &[("provider", provider)], value);
        }
        let name = "godctl_agent_paused_until_seconds";
        figures.family(name, "gauge", "When an agent's service answers again, in seconds since 1970.");
        for (provider, (_, until)) in &self.circuits {
            if let Some(until) = until {
                figures.figure(name, &[("provider", provider)], until.as_second());
            }
        }
        let name = "godctl_agent_listeners";
        figures.family(name, "gauge", "Processes that take prompts on this machine.");
        figures.figure(name, &[], self.listeners.len());
        figures.into_text()
    }

    fn turns(&self, figures: &mut Figures) {
        let (mut turns, mut times, mut costs) =
            (BTreeMap::<_, u64>::new(), BTreeMap::<&str, Times>::new(), BTreeMap::<&str, u64>::new());
        for row in &self.usage {
            let provider = row.provider.as_str();
            *turns.entry((provider, row.failure_class.as_deref().unwrap_or("ok"))).or_default() += 1;
            if let Some(ms) = row.took_ms {
                times.entry(provider).or_default().add(ms);
            }
            if let Some(cost) = row.amounts.cost_micro_usd {
                *costs.entry(provider).or_default() += cost;
            }
        }
        let name = "godctl_agent_turns_total";
        figures.family(name, "counter", "Turns, by agent and how they ended.");
        for ((provider, outcome), count) in turns {
            figures.figure(name, &[("provider", provider), ("outcome", outcome)], count);
        }
        let name = "godctl_agent_turn_seconds";
        figures.family(name, "histogram", "How long agents work on a turn.");
        for (provider, times) in times {
            times.write(figures, name, ("provider", provider));
        }
        let name = "godctl_agent_cost_usd_total";
        figures.family(name, "counter", "What turns have cost, as far as that is known.");
        for (provider, micro) in costs {
            let dollars = format_args!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
            figures.figure(name, &[("provider", provider)], dollars);
        }
    }

    fn prompts(&self, figures: &mut Figures) {
        let name = "godctl_agent_prompts";
        figures.family(
            name,
            "gauge",
            "Prompts from the bus that are not over, by agent and where they stand.",
        );
        for ((provider, state), count) in &self.prompts {
            figures.figure(name, &[("provider", provider), ("state", state)], count);
        }
        let (mut over, mut times, mut retries) =
            (BTreeMap::<_, u64>::new(), BTreeMap::<&str, Times>::new(), BTreeMap::<&str, u64>::new());
        for passage in &self.passages {
            let provider = passage.provider.as_str();
            *retries.entry(provider).or_default() += u64::from(passage.attempts.saturating_sub(1));
            if let Some(is_answered) = passage.is_answered {
                *over.entry((provider, if is_answered { "answered" } else { "given_up" })).or_default() += 1;
            }
            if let Some(took) = passage.took {
                times.entry(provider).or_default().add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
            }
        }
        let name = "godctl_agent_prompts_over";
        figures.family(name, "gauge", "Prompts from the bus that were over in the last week.");
        for ((provider, how), count) in over {
            figures.figure(name, &[("provider", provider), ("outcome", how)], count);
        }
        let name = "godctl_agent_prompt_retries";
        figures.family(name, "gauge", "Attempts at these prompts after the first.");
        for (provider, count) in retries {
            figures.figure(name, &[("provider", provider)], count);
        }
        let name = "godctl_agent_prompt_seconds";
        figures.family(name, "histogram", "From when such a prompt was accepted until it was over.");
        for (provider, times) in times {
            times.write(figures, name, ("provider", provider));
        }
    }
}
