//! `godctl up`: runs the configured parts under one supervisor, or writes systemd units that do the same.
//!
//! `command` holds the flags, `parts` turns the configuration into command lines, `supervise` decides (pure), `runner`
//! carries out, `process` owns one child, `lines` and `output` print what it writes, `report` tells the bus, `units`
//! writes systemd units.

mod command;
#[cfg(unix)]
mod lines;
#[cfg(unix)]
mod output;
mod parts;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod report;
#[cfg(unix)]
mod runner;
#[cfg(unix)]
mod supervise;
mod units;

use std::time::Duration;

pub(super) use command::{Args, run};

/// How parts are treated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Policy {
    /// A part must say within this time that it is ready.
    ready: Duration,
    /// A part must end within this time when it is asked to.
    stop: Duration,
    /// A part that is ready must say something at least so often.
    watchdog: Duration,
    /// Restarts within `window` after which a part is broken.
    max_restarts: usize,
    /// A part that was ready for so long starts again with the shortest wait.
    window: Duration,
}
