//! Sessions: a conversation with one agent, over many turns and many runs of this program.
//!
//! This file holds what a session is; [`machine`] says how it changes (pure: an input and a time go in, effects come
//! out), [`ledger`] turns what agents say of their usage into amounts that can be added up. What people wrote and read
//! is kept apart from the rest ([`Words`], [`TurnWords`]), because a store encrypts it.

pub mod ledger;
pub mod machine;
mod make;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Failure, NativeId};
pub use ledger::{Amounts, CostSource, Totals, UsageRow};
pub use machine::{Begin, Effect, Input, Refusal};
pub use make::parse_tag;

/// How much of the last prompt and answer a session shows, in characters. Its turns have all of them.
pub const MAX_PREVIEW: usize = 2_000;
/// Correlation ids that a session remembers: the latest.
pub const MAX_CORRELATIONS: usize = 64;
/// Files that a session remembers: the latest.
pub const MAX_FILES: usize = 1_000;
/// The entry of [`Session::extra`] of a session that has a git worktree of its own, and has had it from its beginning:
/// agents keep their conversations by directory.
pub const WORKTREE: &str = "worktree";
/// The entry of [`Session::extra`] of a session that is a step of a flow: its name.
pub const FLOW_STEP: &str = "flow.step";
/// Tags of a session.
pub const MAX_TAGS: usize = 32;

/// The id of a session: what people write after `--session-id`, and what events say.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(NativeId);

impl SessionId {
    /// By the same rule as the ids of agents, for it may become one.
    ///
    /// # Errors
    /// [`BadRequest`](super::Class::BadRequest) for anything else.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        NativeId::parse(text).map(Self)
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// What an agent that takes the id of a new conversation from us is given: this one, where it is a UUID, as all of
    /// them take; otherwise `fresh`.
    #[must_use]
    pub fn proposal(&self, fresh: Uuid) -> Option<NativeId> {
        if Uuid::try_parse(self.as_str()).is_ok() {
            return Some(self.0.clone());
        }
        NativeId::parse(&fresh.to_string()).ok()
    }
}

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for SessionId {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self, Failure> {
        Self::parse(&text)
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.0.to_string()
    }
}

impl std::str::FromStr for SessionId {
    type Err = Failure;

    fn from_str(text: &str) -> Result<Self, Failure> {
        Self::parse(text)
    }
}

/// Where a session stands.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It waits for a prompt.
    Idle,
    /// A turn is worked on.
    Running,
    /// Its last turn was stopped before its end; it can be gone on with.
    Interrupted,
    /// Its last turn failed; it can be gone on with.
    Failed,
    /// The agent or its service would refuse it for ever.
    Ended,
}

impl State {
    /// As events and tables say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Interrupted => "interrupted",
            Self::Failed => "failed",
            Self::Ended => "ended",
        }
    }
}

/// Who made a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// A person, on the command line.
    Cli,
    /// A message on the bus.
    Bus,
}

impl Source {
    /// As hooks are told.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cli => "cli",
            Self::Bus => "bus",
        }
    }
}

/// The process that leads the group of a turn. The time tells it from another one that got its number later.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Its number, which is that of its group.
    pub pid: i32,
    /// When it started, in ticks since the system did (field 22 of `/proc/PID/stat`).
    pub started_ticks: u64,
    /// Which run of which system the two numbers belong to (`/proc/sys/kernel/random/boot_id`).
    pub boot: String,
}

/// A turn that is worked on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its id.
    pub id: Uuid,
    /// When it began.
    pub began_at: Timestamp,
    /// How often this prompt was tried, this time included.
    pub attempt: u32,
    /// The conversation that it was to go on with.
    pub resumes: Option<NativeId>,
    /// Its process, once it is there.
    pub leader: Option<Leader>,
}

/// A prompt that was answered: coming again, it is not worked on again, on whichever machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// What tells the same prompt from others.
    pub key: String,
    /// The number of the turn.
    pub turn: u64,
}

/// A conversation with an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Ours.
    pub id: SessionId,
    /// The agent, such as `claude`.
    pub provider: String,
    /// Where the agent works. Agents keep their conversations by directory, so it never changes.
    pub directory: String,
    /// Where it stands.
    pub state: State,
    /// When it was made.
    pub created_at: Timestamp,
    /// When something last happened; never earlier than before, whatever the clock does.
    pub updated_at: Timestamp,
    /// The conversation, as the agent knows it, once it has told.
    pub native_id: Option<NativeId>,
    /// The model that answered last.
    pub model: Option<String>,
    /// Words to find it by.
    pub tags: BTreeSet<String>,
    /// Who made it.
    pub source: Source,
    /// The user or program that made it, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Whatever else its maker wants to remember.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, String>,
    /// Ties it to what caused its turns, oldest first.
    pub correlation_ids: Vec<Uuid>,
    /// Prompts that it was given.
    pub prompt_count: u64,
    /// What it has used.
    pub totals: Totals,
    /// What the agent last said that the whole conversation has used, if it counts so.
    pub baseline: Amounts,
    /// Prompts that were answered, by the keys under which they came; latest last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub answered: Vec<Answered>,
    /// The turn that is worked on.
    pub run: Option<Run>,
    /// The class of what went wrong in the last turn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_class: Option<String>,
    /// What was said.
    #[serde(skip)]
    pub words: Words,
}

impl Session {
    /// Whether somebody who asks for the latest session of an agent may mean it: it has not ended, and is no step of a
    /// flow.
    #[must_use]
    pub fn can_be_continued(&self) -> bool {
        self.state != State::Ended && !self.extra.contains_key(FLOW_STEP)
    }
}

/// What was said in a session.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Words {
    /// The beginning of the last prompt.
    pub last_prompt: Option<String>,
    /// The beginning of the last answer.
    pub last_response: Option<String>,
    /// What went wrong in the last turn.
    pub failure: Option<String>,
    /// Files that the agent has written, latest last.
    pub files: Vec<String>,
}

/// One prompt and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TurnRecord {
    /// As in [`Run::id`].
    pub run: Uuid,
    /// The first turn of a session is 1.
    pub number: u64,
    /// When it began.
    pub began_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
    /// The model that answered.
    pub model: Option<String>,
    /// Why it failed, if it did; one of the names of [`Class`](super::Class).
    pub failure_class: Option<String>,
    /// What was said.
    #[serde(skip)]
    pub words: TurnWords,
}

/// What was said in a turn.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct TurnWords {
    /// What was asked.
    pub prompt: String,
    /// What was answered; of a turn that failed, what there was of it.
    pub response: String,
    /// Why it failed.
    pub failure: Option<String>,
}
