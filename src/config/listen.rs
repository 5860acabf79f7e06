//! `listen`: how prompts from the bus are worked on.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Violation;

/// More would not fit into any machine: an agent takes hundreds of megabytes.
const MAX_WORKERS: usize = 256;

/// `listen`: how `agent listen` works on prompts, and what they may ask for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentListen {
    /// The queue that prompts come from.
    pub queue: String,
    /// Turns that are worked on at once.
    pub workers: usize,
    /// Directories that agents may work in, and all below them; empty means where the listener was started.
    pub roots: Vec<PathBuf>,
    /// What a message may ask an agent to be allowed, at most.
    pub access: MaxAccess,
    /// Attempts at a prompt, the first included.
    pub attempts: u32,
    /// Seconds that turns may go on once a stop was asked for.
    pub drain_s: u64,
}

/// `listen.access`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum MaxAccess {
    /// Read and plan; change nothing.
    Plan,
    /// What the agent's own settings allow.
    Default,
    /// Change files in its directory as well.
    #[default]
    Edit,
    /// Anything, without a sandbox.
    Full,
}

impl Default for AgentListen {
    fn default() -> Self {
        Self {
            queue: "agent.prompt".to_owned(),
            workers: 5,
            roots: Vec::new(),
            access: MaxAccess::Edit,
            attempts: 3,
            drain_s: 30,
        }
    }
}

impl AgentListen {
    /// What [`super::Config::validate`] checks about this section.
    pub(super) fn validate(&self) -> Result<(), Violation> {
        let rule = |ok: bool, key: &'static str, reason: String| {
            if ok { Ok(()) } else { Err(Violation { key, reason }) }
        };
        rule(!self.queue.is_empty(), "listen.queue", "a queue has a name".to_owned())?;
        rule(
            (1..=MAX_WORKERS).contains(&self.workers),
            "listen.workers",
            format!("want 1 to {MAX_WORKERS}"),
        )?;
        rule((1..=100).contains(&self.attempts), "listen.attempts", "want 1 to 100".to_owned())?;
        rule(self.drain_s <= 86_400, "listen.drain_s", "want seconds from 0 to 86400, a day".to_owned())?;
        let is_plain = self.roots.iter().all(|root| root.is_absolute());
        rule(is_plain, "listen.roots", "want absolute directories; ~ is for shells".to_owned())
    }
}
