//! `agents`: who works on prompts.

use std::path::PathBuf;

use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use super::{
    HookMap, LimitMap, Usd, Violation, hooks, limits,
    providers::{self, Providers},
};

/// Longer turns are forgotten ones.
const MAX_S: u64 = 7 * 24 * 3600;
/// Whoever has not ended by then will not.
const MAX_GRACE_S: u64 = 600;

/// `agents`: the programs that work on prompts, and how long they may take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Agents {
    /// Claude Code; a bare name is looked for on the search path.
    pub claude_program: PathBuf,
    /// Gemini CLI.
    pub gemini_program: PathBuf,
    /// Codex.
    pub codex_program: PathBuf,
    /// Antigravity CLI.
    pub agy_program: PathBuf,
    /// Agents beside these, by name.
    pub providers: Providers,
    /// What happens before and after a turn, by name.
    pub hooks: HookMap,
    /// Prices of models beside those that are built in, which they come before.
    pub prices: Vec<PriceSettings>,
    /// How much each of them may do, by name, beside what holds for all.
    pub limits: LimitMap,
    /// US dollars that a turn may cost.
    pub turn_usd: Option<Usd>,
    /// US dollars after which a session takes no more turns.
    pub session_usd: Option<Usd>,
    /// US dollars after which no turn begins until the next day (in this machine's time zone).
    pub day_usd: Option<Usd>,
    /// Seconds that a turn may take.
    pub timeout_s: u64,
    /// Seconds without a sign of life after which a turn is given up.
    pub idle_s: u64,
    /// Seconds from asking an agent to stop until it is killed.
    pub grace_s: u64,
}

/// What a model costs from a day on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceSettings {
    /// Its name; stands for its dated versions as well.
    pub model: String,
    /// The first day (UTC) of this price.
    pub from: Date,
    /// For a million tokens that it reads.
    pub input_usd: Usd,
    /// For a million of those that come from a cache; unset means as for the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cached_usd: Option<Usd>,
    /// For a million tokens that it writes.
    pub output_usd: Usd,
}

impl Default for Agents {
    fn default() -> Self {
        Self {
            claude_program: "claude".into(),
            gemini_program: "gemini".into(),
            codex_program: "codex".into(),
            agy_program: "agy".into(),
            providers: Providers::new(),
            hooks: HookMap::new(),
            prices: Vec::new(),
            limits: LimitMap::new(),
            turn_usd: None,
            session_usd: None,
            day_usd: None,
            timeout_s: 1_800,
            idle_s: 600,
            grace_s: 5,
        }
    }
}

impl Agents {
    /// What [`super::Config::validate`] checks about this section.
    pub(super) fn validate(&self) -> Result<(), Violation> {
        for (key, seconds) in [("agents.timeout_s", self.timeout_s), ("agents.idle_s", self.idle_s)] {
            if !(1..=MAX_S).contains(&seconds) {
                return Err(Violation { key, reason: format!("want seconds from 1 to {MAX_S}, a week") });
            }
        }
        if self.grace_s > MAX_GRACE_S {
            let reason = format!("want seconds from 0 to {MAX_GRACE_S}");
            return Err(Violation { key: "agents.grace_s", reason });
        }
        hooks::validate(&self.hooks)?;
        limits::validate(&self.limits)?;
        providers::validate(&self.providers)
    }
}
