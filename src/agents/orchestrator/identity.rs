//! Who holds a lease, and which processes belong to a run: so that what the dead left behind is found, and nobody who
//! lives is taken for dead. Where there is no `/proc`, nobody is.

use std::{collections::BTreeSet, fs};

use rustix::process::Pid;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::super::{
    groups,
    process::RUN_VARIABLE,
    session::{Leader, Run},
};

/// A process of ours, as others see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The name of its machine, for people.
    pub host: String,
    /// Its number.
    pub pid: u32,
    /// When it started, in ticks since the system did.
    pub started_ticks: Option<u64>,
    /// Which run of which system that is, and whose numbers: containers share a system and have numbers of their own.
    pub system: String,
}

impl Holder {
    /// This process.
    #[must_use]
    pub fn here() -> Self {
        let pid = std::process::id();
        let host = gethostname::gethostname().to_string_lossy().into_owned();
        Self { host, pid, started_ticks: ticks(pid), system: system() }
    }

    /// As a lease says it.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// Reads what a lease says.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Whether it is certain that it does not live any more: it ran on this very system, and is not there.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        let known = !self.system.is_empty() && self.system == system() && self.started_ticks.is_some();
        known && ticks(self.pid) != self.started_ticks
    }

    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        format!("process {} on {}", self.pid, self.host)
    }
}

impl Leader {
    /// The process of this number, if it lives.
    #[must_use]
    pub fn of(pid: i32) -> Option<Self> {
        let started_ticks = ticks(u32::try_from(pid).ok()?)?;
        Some(Self { pid, started_ticks, boot: system() })
    }
}

/// Which run of which system this is, and in which space of process numbers we are. Empty if nobody knows.
fn system() -> String {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let space = fs::read_link("/proc/self/ns/pid");
    match (boot, space) {
        (Ok(boot), Ok(space)) => format!("{} {}", boot.trim(), space.display()),
        _ => String::new(),
    }
}

/// Field 22 of `/proc/PID/stat`; `None` for a process that is gone, or a zombie.
fn ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // After the name in brackets, which may hold anything: field 3, the state, comes first.
    let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace();
    let state = fields.next()?;
    fields.nth(18).filter(|_| !matches!(state, "Z" | "X"))?.parse().ok()
}

/// Kills what a run has left on this system, and tells how many groups that were.
pub async fn kill_leftovers(run: &Run) -> usize {
    let left = groups_of(run);
    let deadline = Instant::now() + groups::BURIAL;
    for group in left.iter().filter_map(|group| Pid::from_raw(*group)) {
        groups::bury(group, deadline).await;
    }
    left.len()
}

fn groups_of(run: &Run) -> BTreeSet<i32> {
    let mut groups = marked_with(run.id);
    if let Some(leader) = &run.leader {
        let here = Leader::of(leader.pid);
        groups.extend(here.filter(|here| here == leader).map(|here| here.pid));
    }
    // Never our own.
    let ours = rustix::process::getpgrp().as_raw_nonzero().get();
    groups.remove(&ours);
    groups
}

/// The groups of our processes in whose environment the mark of a run is.
fn marked_with(run: Uuid) -> BTreeSet<i32> {
    let mark = format!("{RUN_VARIABLE}={run}");
    let Ok(processes) = fs::read_dir("/proc") else { return BTreeSet::new() };
    let marked = |path: &std::path::Path| {
        let environment = fs::read(path.join("environ")).ok()?;
        let has_mark = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        let stat = fs::read_to_string(path.join("stat")).ok().filter(|_| has_mark)?;
        let group = stat.rsplit(')').next()?.split_ascii_whitespace().nth(2)?;
        group.parse().ok().filter(|group| *group > 1)
    };
    processes.filter_map(|process| marked(&process.ok()?.path())).collect()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::{os::unix::process::CommandExt as _, process::Command};

    use jiff::Timestamp;

    use super::*;

    #[test]
    fn we_live_and_whoever_had_our_number_before_does_not() {
        let here = Holder::here();
        assert!(!here.is_dead());
        assert_eq!(Holder::parse(&here.to_text()), Some(here.clone()));
        assert!(Holder { started_ticks: Some(1), ..here.clone() }.is_dead(), "another one had the number");
        let elsewhere = Holder { system: "another system".to_owned(), started_ticks: Some(1), ..here };
        assert!(!elsewhere.is_dead(), "nobody knows");
    }

    fn run() -> Run {
        Run { id: Uuid::new_v4(), began_at: Timestamp::UNIX_EPOCH, attempt: 1, resumes: None, leader: None }
    }

    #[tokio::test]
    async fn what_a_run_left_is_found_by_its_leader_or_by_its_mark_and_strangers_are_left_alone() {
        let start = |mark: Option<&Run>| {
            let mut command = Command::new("sleep");
            command.arg("600").process_group(0);
            if let Some(run) = mark {
                command.env(RUN_VARIABLE, run.id.to_string());
            }
            command.spawn().unwrap()
        };
        let (by_leader, by_mark) = (run(), run());
        let mut children = [start(None), start(Some(&by_mark)), start(None)];
        let pid = |at: usize| i32::try_from(children[at].id()).unwrap();
        let (led, stranger) = (pid(0), pid(2));
        let leader = Leader::of(led).unwrap();
        let reused =
            Leader { started_ticks: leader.started_ticks + 1_000_000, pid: stranger, ..leader.clone() };
        assert_eq!(kill_leftovers(&Run { leader: Some(leader), ..by_leader }).await, 1);
        assert_eq!(kill_leftovers(&by_mark).await, 1);
        assert_eq!(kill_leftovers(&Run { leader: Some(reused), ..run() }).await, 0);
        assert!(children[2].try_wait().unwrap().is_none(), "the stranger lives");
        children[2].kill().unwrap();
        for child in &mut children {
            assert!(!child.wait().unwrap().success());
        }
    }
}
