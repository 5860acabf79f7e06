//! Who sends what to whom: what is counted for it. Pure.
//!
//! A path is a program, a type and a target; what was counted stays when the buffer forgets the event.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Name, tallies::Seen};

/// Paths that are told apart. Anybody may publish under any name; a person looks at the first few.
const PATHS: usize = 2_000;

/// Seconds of a path that are remembered.
pub(in crate::cmd::dash) const SECONDS: usize = 60;

/// Where something stands on its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Stage {
    Source,
    Event,
    Target,
}

impl Stage {
    pub(in crate::cmd::dash) const EACH: [Self; 3] = [Self::Source, Self::Event, Self::Target];

    pub(in crate::cmd::dash) const fn title(self) -> &'static str {
        match self {
            Self::Source => "Sources",
            Self::Event => "Events",
            Self::Target => "Targets",
        }
    }

    pub(in crate::cmd::dash) const fn index(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Event => 1,
            Self::Target => 2,
        }
    }
}

/// The program, the type, the target.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::cmd::dash) struct Path(pub(in crate::cmd::dash) [Name; 3]);

impl Path {
    pub(in crate::cmd::dash) fn at(&self, stage: Stage) -> &Name {
        let Self([source, event, target]) = self;
        match stage {
            Stage::Source => source,
            Stage::Event => event,
            Stage::Target => target,
        }
    }
}

/// How often a path was taken.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Traffic {
    pub(in crate::cmd::dash) count: u64,
    /// By the clock of this program, when live events came; the newest second, and what lies before it.
    newest: i64,
    seconds: [u32; SECONDS],
}

impl Traffic {
    const fn new() -> Self {
        Self { count: 0, newest: i64::MIN, seconds: [0; SECONDS] }
    }

    fn place(second: i64) -> usize {
        usize::try_from(second.rem_euclid(SECONDS as i64)).unwrap_or(0)
    }

    fn add(&mut self, second: i64) {
        let passed = second.saturating_sub(self.newest);
        // A clock that was set back begins anew.
        if passed.unsigned_abs() >= SECONDS as u64 {
            self.seconds = [0; SECONDS];
            self.newest = second;
        }
        for newer in self.newest.saturating_add(1)..=second {
            if let Some(count) = self.seconds.get_mut(Self::place(newer)) {
                *count = 0;
            }
            self.newest = newer;
        }
        if let Some(count) = self.seconds.get_mut(Self::place(second)) {
            *count = count.saturating_add(1);
        }
    }

    /// Events of each of the last 60 seconds, the oldest first.
    pub(in crate::cmd::dash) fn spark(&self, now: i64) -> [u64; SECONDS] {
        let mut spark = [0; SECONDS];
        for (count, ago) in spark.iter_mut().rev().zip(0_i64..) {
            let second = now.saturating_sub(ago);
            let behind = self.newest.saturating_sub(second);
            if (0..SECONDS as i64).contains(&behind) {
                *count = self.seconds.get(Self::place(second)).copied().unwrap_or(0).into();
            }
        }
        spark
    }
}

/// Counts for the view `flow`.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Flow {
    paths: HashMap<Path, Traffic>,
    /// Events of each source, type and target.
    stages: [HashMap<Name, u64>; 3],
    /// Events.
    pub(in crate::cmd::dash) total: u64,
    /// Of them, those of paths that were too many to be told apart.
    pub(in crate::cmd::dash) rest: u64,
}

impl Flow {
    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        self.total += 1;
        let row = seen.row;
        let target = if row.agent.is_empty() { row.target().into() } else { Arc::clone(&row.agent) };
        let path = Path([Arc::clone(&row.app), Arc::clone(&row.event_type), target]);
        if self.paths.len() >= PATHS && !self.paths.contains_key(&path) {
            self.rest += 1;
            return;
        }
        for (counts, name) in self.stages.iter_mut().zip(&path.0) {
            *counts.entry(Arc::clone(name)).or_default() += 1;
        }
        let traffic = self.paths.entry(path).or_insert_with(Traffic::new);
        traffic.count += 1;
        if seen.is_live {
            traffic.add(seen.now.as_second());
        }
    }

    /// How many paths there are.
    pub(in crate::cmd::dash) fn len(&self) -> usize {
        self.paths.len()
    }

    /// All sources, types or targets, the most frequent first.
    pub(in crate::cmd::dash) fn ranked(&self, stage: Stage) -> Vec<(&Name, u64)> {
        let counts = self.stages.get(stage.index());
        let mut ranked: Vec<_> = counts.into_iter().flatten().map(|(name, count)| (name, *count)).collect();
        ranked.sort_unstable_by(|a, b| b.1.cmp(&a.1).then_with(|| a.0.cmp(b.0)));
        ranked
    }

    /// The most frequent paths, the first one first.
    pub(in crate::cmd::dash) fn top(&self, most: usize) -> Vec<(&Path, &Traffic)> {
        let mut top: Vec<_> = self.paths.iter().collect();
        top.sort_unstable_by(|a, b| b.1.count.cmp(&a.1.count).then_with(|| a.0.cmp(b.0)));
        top.truncate(most);
        top
    }

    /// What lies on a path with this one, and how many events went there.
    pub(in crate::cmd::dash) fn linked(&self, stage: Stage, name: &Name) -> [BTreeMap<&Name, u64>; 3] {
        let mut linked = [const { BTreeMap::new() }; 3];
        for (path, traffic) in self.paths.iter().filter(|(path, _)| path.at(stage) == name) {
            for (counts, name) in linked.iter_mut().zip(&path.0) {
                *counts.entry(name).or_default() += traffic.count;
            }
        }
        linked
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sums(traffic: &Traffic, now: i64) -> (u64, u64) {
        let spark = traffic.spark(now);
        (spark.iter().sum(), spark[SECONDS - 1])
    }

    #[test]
    fn a_path_remembers_a_minute() {
        let mut traffic = Traffic::new();
        for second in [1000, 1000, 1001, 1030] {
            traffic.add(second);
        }
        assert_eq!(traffic.spark(1030)[SECONDS - 31..], {
            let mut expected = [0; 31];
            (expected[0], expected[1], expected[30]) = (2, 1, 1);
            expected
        });
        assert_eq!((sums(&traffic, 1030), sums(&traffic, 1060)), ((4, 1), (2, 0)));
        assert_eq!((sums(&traffic, 1089), sums(&traffic, 1090)), ((1, 0), (0, 0)));
        traffic.add(1061);
        assert_eq!(sums(&traffic, 1061), (2, 1), "1001 has gone, 1030 is still there");
        traffic.add(1055);
        assert_eq!(sums(&traffic, 1061), (3, 1), "a little late");
        traffic.add(10);
        assert_eq!(sums(&traffic, 10), (1, 1), "a clock that was set back");
        assert_eq!(sums(&Traffic::new(), i64::MAX), (0, 0));
    }
}
