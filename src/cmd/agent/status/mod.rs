//! `godctl agent status`: one look at everything that agents do, once or again and again.
//!
//! `command.rs` holds the flags, `look.rs` gathers it from the store and the journal, `screen.rs` makes lines of it (pure), `watch.rs` shows it anew
//! every second. This file holds what passes between them, which is also what `--json` prints.

mod command;
mod look;
mod screen;
mod watch;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::super::{Context, terminal_width};
use crate::agents::store::journal::OpenCounts;
pub(super) use command::{Args, run};
pub(super) use look::{Desk, with_desk};

/// Everything that agents do.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status {
    /// When it was looked.
    at: Timestamp,
    /// Where the sessions are.
    store: String,
    /// Where events go.
    bus: String,
    /// The queue that a listener takes prompts from.
    queue: String,
    /// Turns that run, the newest first.
    running: Vec<Running>,
    /// Sessions whose turn has ended, the latest first.
    ended: Vec<Ended>,
    /// What may be spent on a day, and what of it is spent; first for all agents together.
    budgets: Vec<DayBudget>,
    journal: Journal,
    /// Processes that take prompts into this machine's journal, or were working on some when they ended.
    listeners: Vec<Listener>,
}

/// A turn that runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Running {
    session: String,
    provider: String,
    /// `running`, or `left_open` where whoever worked on it is gone.
    state: &'static str,
    since: Timestamp,
    turn: u64,
    attempt: u32,
    model: Option<String>,
    /// `cli` or `bus`.
    source: &'static str,
    /// Who works on it, as far as that is known.
    holder: Option<Process>,
    directory: String,
    /// The beginning of what was asked.
    prompt: String,
    /// What the session has cost before this turn, as far as it is known.
    cost_micro_usd: Option<u64>,
}

/// A session whose last turn has ended.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Ended {
    session: String,
    provider: String,
    state: &'static str,
    /// The class of what went wrong.
    class: Option<String>,
    at: Timestamp,
    turn: u64,
    directory: String,
    prompt: String,
    cost_micro_usd: Option<u64>,
}

/// The money of a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct DayBudget {
    /// The agent; `None` means all of them together.
    provider: Option<String>,
    spent_micro_usd: u64,
    limit_micro_usd: u64,
    /// Turns of today whose cost nobody knows.
    unknown_turns: u64,
}

/// A process.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Process {
    host: String,
    pid: u32,
    /// It is certain that it lives no more.
    is_gone: bool,
}

/// What `agent listen` has taken on this machine.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
struct Journal {
    /// Could be worked on now.
    ready: u64,
    running: u64,
    /// Wait for their time.
    waiting: u64,
    /// When the first of those is due.
    next_at: Option<Timestamp>,
    /// Answered in the last days.
    done: u64,
    /// Given up in the last days.
    dead: u64,
    /// Events that are not published yet.
    unsent: u64,
    /// Agents of which prompts are open, or that may not begin another turn.
    providers: BTreeMap<String, Agent>,
    /// Prompts that wait, oldest first.
    prompts: Vec<Prompt>,
}

/// One agent on this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
struct Agent {
    #[serde(flatten)]
    open: OpenCounts,
    /// `closed`, `open` or `half-open`.
    circuit: &'static str,
    /// Its service answers no more until then.
    paused_until: Option<Timestamp>,
}

/// A prompt that waits.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Prompt {
    key: String,
    session: String,
    provider: String,
    /// Attempts that were made.
    attempts: u32,
    /// It waits until then.
    until: Option<Timestamp>,
    /// Why its last attempt failed.
    class: Option<String>,
    prompt: String,
}

/// A process that takes prompts.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Listener {
    #[serde(flatten)]
    process: Process,
    /// The queue that it takes them from, if it has said so.
    queue: Option<String>,
    /// Turns that it works on at once.
    workers: Option<u64>,
    /// When it began.
    since: Option<Timestamp>,
    /// Prompts that it works on.
    running: u64,
}

/// What a screen can show.
#[derive(Debug, Clone)]
struct Look {
    /// In columns.
    width: usize,
    color: bool,
}

impl Look {
    fn of(context: &Context) -> Self {
        // Whoever reads a file or a pipe has no margin.
        let width = if context.terminal.stdout.is_terminal { terminal_width() } else { 160 };
        Self { width, color: context.terminal.stdout.color }
    }
}
