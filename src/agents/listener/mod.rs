//! Works on prompts from the bus: `godctl agent listen`.
//!
//! ```text
//! queue -> request (pure) -> journal -> ack        publisher: journal -> bus, in order, again until it is confirmed
//!                              |                         ^
//!                              v                         |
//!                  worker: claim -> orchestrator -> session, job and events in one transaction
//! ```
//!
//! A prompt is acknowledged as soon as this machine's disk has it, because an agent may work for longer than a broker
//! waits; from then on it is this machine's to lose. A prompt is worked on once for each key, as far as that can be said
//! of what has effects in the world: an attempt that was broken off is gone on with, begun again or given up, as
//! [`OnOrphan`] says. Turns of a session run one after another in the order in which their prompts came.
//!
//! Everything here ends when its token is cancelled: intake at once, work after [`Settings::drain`].

mod gates;
mod intake;
mod pending;
mod publisher;
mod request;
mod retry;
mod run;
#[cfg(test)]
mod tests;
mod voice;
mod withdraw;
mod worker;

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Groups, Limits, errand::Customs, limits::Bounds, orchestrator::Orchestrator, providers::Roster,
    store::journal::Journal,
};
use crate::bus::{SharedBus, event::Source};
pub use gates::bounds;
pub use request::{Request, Rules, TELEMETRY, Wanted};
pub use retry::Backoff;
pub use run::{ListenError, Queues, listen};
pub use voice::VoiceRules;
pub use withdraw::withdraw;

/// What a listener works with.
#[derive(Debug)]
pub struct Listener {
    /// Where events go.
    pub bus: SharedBus,
    /// What is kept on this machine.
    pub journal: Journal,
    /// Works on turns.
    pub orchestrator: Orchestrator,
    /// The agents.
    pub agents: Roster,
    /// What surrounds turns.
    pub customs: Customs,
    /// Our own variables.
    pub variables: BTreeMap<String, String>,
    /// Processes that must not outlive us.
    pub groups: Groups,
    /// How long things may take.
    pub limits: Limits,
    /// Who says what we say.
    pub source: Source,
    /// Figures and rules.
    pub settings: Settings,
}

/// Figures and rules of a listener.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The queue that prompts come from.
    pub queue: String,
    /// What a message may ask for.
    pub rules: Rules,
    /// Turns that are worked on at once.
    pub workers: usize,
    /// How utterances are read, where they are prompts.
    pub voice: Option<VoiceRules>,
    /// What each agent is allowed, by name.
    pub bounds: BTreeMap<String, Bounds>,
    /// Attempts at a prompt, the first included.
    pub attempts: NonZeroU32,
    /// How long to wait between them.
    pub backoff: Backoff,
    /// What to do with an attempt that was broken off.
    pub on_orphan: OnOrphan,
    /// How long turns may go on once a stop was asked for.
    pub drain: Duration,
    /// Agents may write in one directory at the same time.
    pub shares_directory: bool,
    /// End when nothing was to be done for so long.
    pub idle: Option<Duration>,
}

impl Settings {
    /// The queue of what was said, beside that of what was written: who does not listen to voices does not get them.
    #[must_use]
    pub fn voice_queue(&self) -> String {
        format!("{}.voice", self.queue)
    }
}

/// What to do with a prompt whose attempt was broken off by the death of whoever worked on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum OnOrphan {
    /// Let the agent go on where it was, if it told its conversation; begin again otherwise.
    #[default]
    Resume,
    /// Begin again.
    Rerun,
    /// Give it up.
    Fail,
}
