//! What turns are worked on with: limits, our own variables, and the list of what runs. Data only.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::watch;
use uuid::Uuid;

use super::groups::Groups;
use crate::config::Agents;

/// How long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Until a process has printed something. Services have a limit of their own for this.
    pub start: Duration,
    /// Without a byte of output.
    pub idle: Duration,
    /// The whole turn.
    pub total: Duration,
    /// From asking a process to end until its group is made to.
    pub grace: Duration,
    /// From the answer to the end of the process, which may have to save what it knows, or of the stream.
    pub after_answer: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(60),
            idle: Duration::from_secs(600),
            total: Duration::from_secs(1_800),
            grace: Duration::from_secs(5),
            after_answer: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &Agents) -> Self {
        Self {
            idle: Duration::from_secs(config.idle_s),
            total: Duration::from_secs(config.timeout_s),
            grace: Duration::from_secs(config.grace_s),
            ..Self::default()
        }
    }
}

/// What turns are worked on with.
#[derive(Debug, Clone, Copy)]
pub struct Surroundings<'a> {
    /// Where the groups of processes are written down while they run.
    pub groups: &'a Groups,
    /// Our own variables, of which a process gets those that it may have, and a service its key.
    pub variables: &'a BTreeMap<String, String>,
    /// How long things may take.
    pub limits: Limits,
    /// The run that a process belongs to, if anybody will look for it later.
    pub mark: Option<Mark<'a>>,
}

/// Ties a process to the run that it belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Mark<'a> {
    /// The run; see [`RUN_VARIABLE`](super::process::RUN_VARIABLE).
    pub run: Uuid,
    /// Is told the number of the process as soon as it is there.
    pub leader: &'a watch::Sender<Option<i32>>,
}
