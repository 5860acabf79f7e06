//! Groups of processes: who runs now, signals to all of a group, and whether anybody is left in it.

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use tokio::time::Instant;
use tracing::debug;

/// How often a group that was killed is looked at.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// A group that was killed is gone by then, unless the system cannot kill it.
pub(super) const BURIAL: Duration = Duration::from_secs(5);

/// The groups of all processes that run now, for a program that must end at once.
#[derive(Debug, Clone, Default)]
pub struct Groups(Arc<Mutex<Vec<Pid>>>);

impl Groups {
    /// No process runs now.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.lock().is_empty()
    }

    /// Kills them all, and waits for none.
    pub fn kill_all(&self) {
        for pid in self.0.lock().iter() {
            signal(*pid, Signal::KILL);
        }
    }
}

/// A group of processes. Dropping it kills whoever is left.
#[derive(Debug)]
pub(super) struct Group {
    pid: Pid,
    groups: Groups,
}

fn signal(pid: Pid, signal: Signal) {
    // A group without members is what we want after a KILL, and what a process that just ended looks like.
    if let Err(error) = kill_process_group(pid, signal) {
        debug!(%error, pid = pid.as_raw_nonzero(), ?signal, "cannot signal a process group");
    }
}

impl Group {
    pub(super) fn new(pid: Pid, groups: &Groups) -> Self {
        groups.0.lock().push(pid);
        Self { pid, groups: groups.clone() }
    }

    pub(super) fn signal(&self, what: Signal) {
        signal(self.pid, what);
    }

    /// Kills it until nobody is left.
    pub(super) async fn bury(self) {
        bury(self.pid, Instant::now() + BURIAL).await;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !is_empty(self.pid) {
            self.signal(Signal::KILL);
        }
        self.groups.0.lock().retain(|pid| *pid != self.pid);
    }
}

/// Kills a group until nobody is left, or until the deadline.
pub(super) async fn bury(group: Pid, deadline: Instant) {
    while !is_empty(group) && Instant::now() < deadline {
        signal(group, Signal::KILL);
        tokio::time::sleep(LOOK).await;
    }
}

/// Nobody lives in it any more.
fn is_empty(group: Pid) -> bool {
    test_kill_process_group(group).is_err() || !has_living_member(group)
}

/// Whether a group has a member that is no zombie. Those that their new parent has not noticed yet still count as
/// members for the system, and in some containers nobody ever notices them. Where there is no `/proc`, all count.
fn has_living_member(group: Pid) -> bool {
    let Ok(processes) = std::fs::read_dir("/proc") else { return true };
    let group = group.as_raw_nonzero().to_string();
    processes.filter_map(Result::ok).any(|process| {
        let Ok(stat) = std::fs::read_to_string(process.path().join("stat")) else { return false };
        // After the name in brackets, which may hold anything: state, parent, group.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_ascii_whitespace();
        let state = fields.next();
        fields.nth(1) == Some(group.as_str()) && !matches!(state, Some("Z" | "X"))
    })
}
