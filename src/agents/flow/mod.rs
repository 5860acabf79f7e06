//! Flows: several agents on one task, as a file says. `godctl agent run`.
//!
//! ```text
//! FLOW.toml -> file -> plan (pure) -> machine (pure) -> run: a session for each step, through the orchestrator
//!                                         ^                 |
//!                              book: what is done already   +-> news -> tell: events; the screen
//! ```
//!
//! A run of a flow is a session itself, of the agent [`AGENT`]: its id is the run's, its state says whether it is
//! finished, its lease keeps a second process from working on it. Each step has a session of its own, whose id follows
//! from the run's and the step's name, and in which the end of the turn that settled the step is marked in the same
//! change that stores the turn ([`SETTLED`]). So what is done is known after any crash, in whatever store, and a step is
//! never settled twice. What was asked and answered is where that of all sessions is, encrypted, and nowhere else.

mod book;
mod combine;
mod file;
mod machine;
mod news;
mod plan;
mod run;
mod step;
mod tell;
mod template;
#[cfg(test)]
mod tests;

pub use book::{Book, Run, RunError, Wish};
pub use combine::{Combined, combine};
pub use file::MAX_FILE;
pub use machine::{Effect, Input as Happening, Machine, State};
pub use news::{End, News, Settled};
pub use plan::{Ending, Format, Input, Plan, PlanError, Step, WhenFailed};
pub use run::{Crew, FlowError, Report, Verdict};
pub use tell::Teller;

/// The agent of sessions that are runs of flows. It takes no prompts.
pub const AGENT: &str = "flow";
/// The entry of a session's `extra` with the run that it belongs to, or is.
pub const RUN: &str = "flow.run";
/// The step whose session it is.
pub use super::session::FLOW_STEP as STEP;
/// The turn that settled the step.
pub const SETTLED: &str = "flow.settled";
/// The file of the flow of a run.
pub const FILE: &str = "flow.file";
/// What the flow said when the run began, as a hash.
pub const HASH: &str = "flow.hash";
/// The name of a step that puts the results together by an agent.
pub const AGGREGATE: &str = "aggregate";
