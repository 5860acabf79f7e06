//! `listen`: how prompts from the bus are worked on.

use std::{collections::BTreeMap, path::PathBuf};

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
    /// The words that call agents, where utterances are prompts (`agent listen --voice`).
    pub voice_prefix: String,
    /// Who works on spoken prompts that name nobody.
    pub voice_provider: String,
    /// What agents are called when they are spoken of, beside their own names.
    pub voice_names: BTreeMap<String, String>,
    /// What a spoken prompt may be allowed without being confirmed.
    pub voice_access: MaxAccess,
    /// The words at the end of a spoken prompt that allow it more than that, up to `access`.
    pub voice_confirm: String,
    /// Seconds after which an utterance that nobody has heard is not worked on.
    pub voice_max_age_s: u64,
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
            voice_prefix: "computer".to_owned(),
            voice_provider: "claude".to_owned(),
            voice_names: BTreeMap::new(),
            voice_access: MaxAccess::Default,
            voice_confirm: "confirm full access".to_owned(),
            voice_max_age_s: 300,
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
        let says_something = |text: &str| text.chars().any(char::is_alphanumeric);
        rule(
            says_something(&self.voice_confirm),
            "listen.voice_confirm",
            "want words that can be said".to_owned(),
        )?;
        rule(
            self.voice_names.keys().all(|name| says_something(name)),
            "listen.voice_names",
            "want words that can be said".to_owned(),
        )?;
        rule(
            (1..=86_400).contains(&self.voice_max_age_s),
            "listen.voice_max_age_s",
            "want seconds from 1 to 86400, a day".to_owned(),
        )?;
        let is_plain = self.roots.iter().all(|root| root.is_absolute());
        rule(is_plain, "listen.roots", "want absolute directories; ~ is for shells".to_owned())
    }
}
