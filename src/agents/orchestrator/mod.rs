//! Works on turns of sessions: takes the leases, runs the agent, and carries out what the session's state machine asks
//! for. The same code behind `agent start` and `agent listen`.
//!
//! What it promises: two turns of a session never run at the same time, whoever starts them; nor do two agents that may
//! write in one directory, unless they are told to share it. The agent's id of a conversation is stored as soon as it is
//! known. Whoever loses its lease stops its agent and writes nothing. Nothing outlives [`Orchestrator::work`] but what is
//! stored; dropping its future kills the agent.

mod identity;
mod leases;
mod saving;
mod stopping;
#[cfg(test)]
mod tests;
mod work;

use std::{sync::Arc, time::Duration};

use uuid::Uuid;

use super::{
    Failure, Outcome, Turn,
    errand::Workspace,
    hooks::Wish,
    session::{Refusal, Session, SessionId},
    store::{SharedStore, StoreError},
};
use crate::bus::Clock;
pub use identity::{Holder, kill_leftovers};
pub use saving::{Plain, Recorder};
pub use stopping::Hold;
pub use work::Scene;

/// What an agent is told whose turn was broken off, where its conversation goes on.
pub const GO_ON: &str = "You were interrupted. Go on with what you were asked last, from where you were. If it was done \
                         already, say what came of it.";

/// What works on turns. Cheap to share.
#[derive(Debug, Clone)]
pub struct Orchestrator {
    /// Where the sessions are.
    pub store: SharedStore,
    /// The time that is written down.
    pub clock: Arc<dyn Clock>,
    /// How long a lease lasts without being renewed.
    pub lease: Duration,
    /// How long the end of a turn is tried to be stored while the store is away.
    pub patience: Duration,
    /// Who we are.
    pub holder: Holder,
}

/// A turn that is to be worked on.
#[derive(Debug, Clone)]
pub struct Order {
    /// The session, which exists.
    pub session: SessionId,
    /// What is to be done; its thread is the session's affair.
    pub turn: Turn,
    /// The id of the run.
    pub run: Uuid,
    /// Ties it to what caused it, the root first.
    pub correlation_ids: Vec<Uuid>,
    /// How often it was tried, this time included.
    pub attempt: u32,
    /// What tells the same prompt from others: one that the session has answered is not worked on again.
    pub key: Option<String>,
    /// Which hooks are switched on and off for it.
    pub wishes: Vec<Wish>,
    /// Somebody else works on the session or in the directory.
    pub when_busy: WhenBusy,
    /// The agent has lost the conversation.
    pub when_lost: WhenLost,
    /// Others may write in the directory at the same time.
    pub shares_directory: bool,
}

/// What to do when somebody else is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    /// Wait for them.
    Wait,
    /// Say so.
    Fail,
}

/// What to do when an agent does not know its conversation any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
#[value(rename_all = "lowercase")]
pub enum WhenLost {
    /// Begin a new one in the same session.
    New,
    /// Say so.
    #[default]
    Fail,
}

/// What has come of an order.
#[derive(Debug)]
pub struct Done {
    /// The session, as it is now.
    pub session: Session,
    /// What the agent has answered.
    pub outcome: Outcome,
    /// What was done in its worktree, if it had one.
    pub workspace: Option<Workspace>,
    /// Whether that could be stored.
    pub stored: Result<(), StoreError>,
}

/// Why an order was not worked on, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// Somebody else is at work. Try again later.
    #[error("{what} is being worked on{by}; wait for it with --wait, or try again later")]
    Busy {
        /// The session or the directory.
        what: String,
        /// By whom, in words, with a space in front; empty if nobody knows.
        by: String,
    },
    /// It was stopped while it waited.
    #[error("stopped while waiting for {0}")]
    Stopped(String),
    /// The session does not take a turn now.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The session has answered this very prompt before, in the turn of this number.
    #[error("turn {0} of the session has answered it")]
    Answered(u64),
    /// There is no money left for it.
    #[error("{}", .0.message)]
    Budget(Failure),
    /// There is no such session.
    #[error("there is no session {0}; `godctl agent sessions list` shows those that there are")]
    NoSession(SessionId),
    /// Somebody else has taken the session over, or removed it; the agent was stopped, and nothing of it is stored.
    #[error("lost the session while working on it: {0}")]
    Lost(#[source] StoreError),
    /// The store is in trouble. The agent was not started.
    #[error(transparent)]
    Store(#[from] StoreError),
}
