//! What happens in a run, for those who watch it; and what has come of a step. Data only.

use std::time::Duration;

use uuid::Uuid;

use super::super::{Failure, Outcome, Output, errand::Workspace, narrator::Subject, session::SessionId};
use crate::bus::event::{
    ids,
    payload::{Payload as _, flow::AgentFlowStepCompleted},
};

/// What happens in a run. Steps are told by their numbers in the plan.
#[derive(Debug)]
pub enum News<'a> {
    /// A turn of a step begins.
    Started {
        /// Which.
        step: usize,
        /// What its turn is about.
        subject: Subject,
        /// Its agent goes on where it was broken off.
        goes_on: bool,
    },
    /// Somebody else works in its directory, and it waits for them.
    Waiting {
        /// Which.
        step: usize,
        /// For what, and who it is.
        what: String,
    },
    /// Its agent says something.
    Said {
        /// Which.
        step: usize,
        /// What.
        output: &'a Output,
    },
    /// Its turn is over.
    Ended {
        /// Which.
        step: usize,
        /// What came of it.
        outcome: &'a Outcome,
        /// What was done in its worktree, if it had one.
        workspace: Option<&'a Workspace>,
        /// How long it took.
        took: Duration,
    },
    /// Its turn has failed, and is tried again.
    Retrying {
        /// Which.
        step: usize,
        /// Why.
        failure: &'a Failure,
        /// After how long.
        wait: Duration,
    },
    /// It is over; what came of it stands.
    Settled {
        /// Which.
        step: usize,
        /// What came of it.
        settled: &'a Settled,
    },
    /// Something that it needs has failed.
    Skipped {
        /// Which.
        step: usize,
        /// What.
        because: usize,
    },
    /// It was stopped.
    Interrupted {
        /// Which.
        step: usize,
    },
}

/// What has come of a step that was worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Settled {
    /// Its session.
    pub session: SessionId,
    /// The turn that settled it.
    pub turn: Uuid,
    /// The answer, or why there is none.
    pub answer: Result<String, Failure>,
    /// How long that turn took.
    pub took: Duration,
    /// What the session has cost, in millionths of a dollar, if that is known.
    pub cost_micro_usd: Option<u64>,
    /// Turns that it took.
    pub attempts: u64,
}

impl Settled {
    /// The id of the event that tells of it: the same in every process, so that it is told once.
    #[must_use]
    pub fn event_id(&self) -> Uuid {
        ids::deterministic(AgentFlowStepCompleted::TYPE, &format!("{}/{}", self.session, self.turn))
    }

    /// Whether it answered.
    #[must_use]
    pub const fn is_done(&self) -> bool {
        self.answer.is_ok()
    }
}

/// What has come of a step at the end of a run.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// It was worked on to its end.
    Settled(Settled),
    /// The step that failed, of those that it needs.
    Skipped(usize),
    /// It was stopped, or never started.
    Open,
}

impl End {
    /// What came of it, if it was worked on to its end.
    #[must_use]
    pub const fn settled(&self) -> Option<&Settled> {
        match self {
            Self::Settled(settled) => Some(settled),
            Self::Skipped(_) | Self::Open => None,
        }
    }
}
