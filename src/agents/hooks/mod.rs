//! Hooks: what happens before and after a turn. They come from the local configuration and from nowhere else; a message
//! may switch those on and off that are there for it, and brings none of its own.
//!
//! Before a turn hooks run one after the other, by priority; each sees the prompt as the one before left it, and any may
//! stop the turn with a reason. After it they are told what became of it, and change nothing any more.

mod builtin;
mod chain;
mod external;
mod metrics;
mod webhook;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub use chain::Hooks;
pub use metrics::Metrics;

use super::{Access, Groups};

/// A turn, as hooks see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Occasion {
    /// The conversation, as godctl knows it.
    pub session_id: String,
    /// The agent, such as `claude`.
    pub provider: String,
    /// What is asked.
    pub prompt: String,
    /// The directory that the agent works in.
    pub directory: String,
    /// The model, if one is named.
    pub model: Option<String>,
    /// What it may do.
    pub access: Access,
    /// Where the prompt came from: `cli` or `bus`.
    pub source: &'static str,
    /// Ties it to what caused it: the root first.
    pub correlation_ids: Vec<Uuid>,
    /// How often the turn was tried, this time included.
    pub attempt: u32,
}

/// What became of a turn, as hooks see it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The agent has answered.
    pub success: bool,
    /// The answer, or what there was of one.
    pub output: String,
    /// Why there is none.
    pub error: Option<String>,
    /// The class of that; see [`Class::name`](super::Class::name).
    pub class: Option<&'static str>,
    /// How long it took.
    pub execution_time_ms: u64,
    /// Tokens read.
    pub input_tokens: Option<u64>,
    /// Tokens written.
    pub output_tokens: Option<u64>,
    /// US dollars.
    pub cost_usd: Option<f64>,
}

/// What hooks run with.
#[derive(Debug, Clone, Copy)]
pub struct Around<'a> {
    /// Our own variables, of which a program gets those that it may have.
    pub variables: &'a BTreeMap<String, String>,
    /// Where the groups of programs are written down while they run.
    pub groups: &'a Groups,
    /// There is something that the provider can log in with.
    pub has_credentials: bool,
    /// Stops whatever runs.
    pub stop: &'a CancellationToken,
    /// What time it is.
    pub now: fn() -> Timestamp,
}

/// A wish about a hook that came with a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// The hook's name.
    pub name: String,
    /// On or off.
    pub enabled: bool,
}

/// What a hook says before a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    /// It may begin.
    Go,
    /// It may begin with this prompt.
    Rewrite(String),
    /// It may not, for this reason.
    Stop(String),
}
