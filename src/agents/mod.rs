//! Coding agents: a turn goes in, events come out.
//!
//! This file holds the door ([`Provider`]) and what passes through it. A provider is pure: it says what is to be started
//! for a [`Turn`] ([`Launch`]: a process, or a request over HTTP) and reads what comes back, line by line, into one
//! vocabulary ([`Output`]); what becomes of the turn is an [`Outcome`]. `providers` has one module for each agent,
//! [`driver`] runs any of them.
//!
//! The rule for all of them: a turn has succeeded only if the agent said so in its own words. The exit status and what
//! was written to standard error never make a success; they tell apart failures.

pub mod budgets;
mod credentials;
pub mod driver;
mod environment;
pub mod errand;
pub mod failure;
pub mod figures;
pub mod flow;
mod groups;
pub mod hooks;
mod http;
mod launch;
pub mod limits;
pub mod lines;
pub mod listener;
pub mod narrator;
mod native_id;
pub mod orchestrator;
pub mod prices;
pub mod process;
pub mod providers;
mod refusal;
pub mod session;
mod sse;
pub mod store;
mod surroundings;
#[cfg(test)]
mod testing;
pub mod worktree;

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use credentials::{Credentials, Login};
pub use failure::{Class, Failure};
pub use groups::Groups;
pub use launch::{Farewell, Input, Key, Launch, Patience, Request, Spawn};
pub use native_id::NativeId;
pub use surroundings::{Limits, Mark, Surroundings};

/// An agent that godctl can drive.
pub trait Provider: fmt::Debug + Send + Sync {
    /// Its name in commands and events, such as `claude`.
    fn name(&self) -> &str;

    /// What readers of the bus call agents of its kind, such as `claude-code`.
    fn kind(&self) -> &'static str {
        "custom"
    }

    /// What it can do.
    fn abilities(&self) -> Abilities;

    /// What it logs in with; `None` if it need not.
    fn credentials(&self) -> Option<Credentials> {
        None
    }

    /// Where it is found.
    fn place(&self) -> Place<'_>;

    /// What works on a turn.
    ///
    /// # Errors
    /// [`Class::BadRequest`] for a turn that this agent cannot be given.
    fn launch(&self, turn: &Turn) -> Result<Launch, Failure>;

    /// Reads what comes back.
    fn reader(&self, turn: &Turn) -> Box<dyn Reader>;
}

/// Where an agent is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place<'a> {
    /// A program; a bare name is looked for on the search path.
    Program(&'a Path),
    /// The address of a service.
    Address(&'a str),
}

/// What an agent can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a yes or no of its own, and they are printed as such"
)]
pub struct Abilities {
    /// Goes on with an earlier session.
    pub resume: bool,
    /// Takes the id of a new session from us; otherwise it makes up its own.
    pub chooses_id: bool,
    /// Gives its answer piece by piece.
    pub deltas: bool,
    /// Tells what it thinks.
    pub thinking: bool,
    /// Tells what a turn cost.
    pub cost: bool,
    /// Keeps to a budget by itself.
    pub budget: bool,
    /// Uses tools, so it can change files.
    pub tools: bool,
    /// Remembers nothing itself: it must be given what was said before ([`Turn::history`]).
    pub needs_history: bool,
}

/// One prompt for an agent, and the frame in which it works on it.
#[derive(Clone, PartialEq)]
pub struct Turn {
    /// What is to be done.
    pub prompt: String,
    /// Where the conversation goes on.
    pub thread: Thread,
    /// What was said in it before, oldest first, for who remembers nothing itself; others do not read it.
    pub history: Vec<Message>,
    /// The directory it works in.
    pub directory: PathBuf,
    /// Which model; `None` is the agent's own choice.
    pub model: Option<String>,
    /// What it may do.
    pub access: Access,
    /// No more rounds of model and tools than this.
    pub max_turns: Option<u32>,
    /// No more than this, in US dollars.
    pub budget_usd: Option<f64>,
    /// The agent keeps no transcript of its own, where it can be told so.
    pub ephemeral: bool,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The prompt is the user's text; it has no place in a log.
        f.debug_struct("Turn")
            .field("prompt", &format_args!("{} bytes", self.prompt.len()))
            .field("thread", &self.thread)
            .field("history", &format_args!("{} messages", self.history.len()))
            .field("directory", &self.directory)
            .field("model", &self.model)
            .field("access", &self.access)
            .finish_non_exhaustive()
    }
}

impl Turn {
    /// A turn with nothing but a prompt and a directory.
    #[must_use]
    pub fn new(prompt: impl Into<String>, directory: impl Into<PathBuf>) -> Self {
        Self {
            prompt: prompt.into(),
            thread: Thread::New(None),
            history: Vec::new(),
            directory: directory.into(),
            model: None,
            access: Access::default(),
            max_turns: None,
            budget_usd: None,
            ephemeral: false,
        }
    }
}

/// Something that was said in a conversation.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What.
    pub text: String,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {} bytes", self.role, self.text.len())
    }
}

/// Who says something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Whoever asks.
    User,
    /// Whoever answers.
    Assistant,
}

/// The agent's own record of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thread {
    /// A new one; with this id, where the agent takes one.
    New(Option<NativeId>),
    /// The one of this id.
    Resume(NativeId),
}

/// What an agent may do without asking. Nobody is there to be asked: what it would ask for is denied.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// Read and plan; change nothing.
    Plan,
    /// What the agent's own settings allow.
    #[default]
    Default,
    /// Change files in its directory as well.
    Edit,
    /// Anything, without a sandbox.
    Full,
}

impl Access {
    /// As messages, flags and the configuration say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plan => "plan",
            Self::Default => "default",
            Self::Edit => "edit",
            Self::Full => "full",
        }
    }
}

/// Reads what one process or one service says about one turn.
pub trait Reader: fmt::Debug + Send {
    /// Takes a line of standard output without its end, or the data of one event of a stream over HTTP.
    fn line(&mut self, line: &[u8]) -> Step;

    /// What a process is told so that it stops by itself; `None` if there is nothing to tell it. Signals follow if it does
    /// not.
    fn farewell(&mut self) -> Option<Vec<u8>> {
        None
    }

    /// Says what became of the turn, once the process or the stream has ended.
    fn end(&mut self, exit: &Exit) -> Outcome;
}

/// What follows from a line.
#[derive(Debug, Default, PartialEq)]
pub struct Step {
    /// What the agent said.
    pub outputs: Vec<Output>,
    /// What the process is told, in a conversation ([`Input::Dialogue`]).
    pub send: Vec<u8>,
    /// What must happen to the process or the stream.
    pub then: Then,
}

/// What must happen to a process or a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Then {
    /// It goes on.
    #[default]
    GoOn,
    /// It has answered: what it still does, it may do for a short time.
    Answered,
    /// It is stopped: it does what it must not, or has nothing more to say.
    Stop,
}

/// How a process or a stream ended.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Exit {
    /// The exit code of a process.
    pub code: Option<i32>,
    /// The signal that killed it.
    pub signal: Option<i32>,
    /// The end of what it wrote to standard error, secrets taken out.
    pub stderr: String,
    /// Why a service refused, or how the way to it broke.
    pub refusal: Option<Failure>,
    /// Why we stopped it, if we did.
    pub stopped: Option<Class>,
}

impl Exit {
    /// In words.
    #[must_use]
    pub fn describe(&self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit status".to_owned(),
        }
    }
}

/// What an agent says while it works: the same words for all of them.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Output {
    /// It has begun, and this is how it knows the conversation.
    Started {
        /// Its id.
        native_id: NativeId,
        /// The model that answers, if it tells.
        model: Option<String>,
        /// The version of the agent, if it tells.
        version: Option<String>,
    },
    /// A piece of its answer.
    Text {
        /// As it comes; pieces are put together without anything between them.
        text: String,
    },
    /// A piece of what it thinks.
    Thinking {
        /// As for the answer.
        text: String,
    },
    /// It uses a tool.
    ToolInvoked {
        /// Ties this to its end.
        id: String,
        /// Such as `Bash`.
        name: String,
        /// What the tool was given.
        input: Value,
    },
    /// A tool is done.
    ToolCompleted {
        /// As in [`Output::ToolInvoked`].
        id: String,
        /// The same name, if its beginning was seen.
        name: Option<String>,
        /// It failed.
        is_error: bool,
        /// What came out, shortened if it is long.
        output: String,
    },
    /// Something failed and is tried again.
    Retrying {
        /// What failed.
        reason: String,
        /// When it is tried again.
        delay: Option<Duration>,
    },
    /// The account's limit is near or reached.
    RateLimited {
        /// True if nothing more is answered until `resets_at`.
        is_reached: bool,
        /// When it ends.
        resets_at: Option<Timestamp>,
    },
    /// What the turn has used, as far as it is known.
    Usage(Usage),
    /// Something that a user should know.
    Warning {
        /// What.
        message: String,
    },
    /// A line that is not in the agent's language, shortened if it is long.
    Unread {
        /// The line.
        line: String,
    },
}

/// Tokens and money. What an agent does not tell is `None`, which is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens read, those from a cache included.
    pub input_tokens: Option<u64>,
    /// Tokens of those that came from a cache.
    pub cached_tokens: Option<u64>,
    /// Tokens written, thoughts included.
    pub output_tokens: Option<u64>,
    /// US dollars, as the agent reckons, or by our prices where it does not (see [`errand`]).
    pub cost_usd: Option<f64>,
    /// The numbers count from the beginning of the conversation and not of the turn.
    pub is_cumulative: bool,
}

/// What became of a turn.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// The conversation, if it was told.
    pub native_id: Option<NativeId>,
    /// The answer; of a turn that failed, what there was of one.
    pub text: String,
    /// What it used.
    pub usage: Usage,
    /// Success, or why not.
    pub verdict: Result<(), Failure>,
    /// What is odd about it all the same.
    pub warning: Option<String>,
}

impl Outcome {
    /// Of a turn that never began.
    #[must_use]
    pub fn refused(failure: Failure) -> Self {
        Self {
            native_id: None,
            text: String::new(),
            usage: Usage::default(),
            verdict: Err(failure),
            warning: None,
        }
    }
}
