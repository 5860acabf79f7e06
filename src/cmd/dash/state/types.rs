//! The types that were seen, as a tree of prefixes, and what is to be done with each: list it, ring for it, be silent.
//! Pure.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};

use super::Name;

/// Types that are remembered; what makes up more has no system that a tree could show.
const MAX_TYPES: usize = 5_000;

/// Yes or no for prefixes of types. The longest prefix that says something decides.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::cmd::dash) struct Prefixes(BTreeMap<String, bool>);

/// Whether a type is a prefix or lies below it.
fn is_under(event_type: &str, prefix: &str) -> bool {
    prefix.is_empty()
        || event_type.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

impl Prefixes {
    pub(in crate::cmd::dash) fn set(&mut self, prefix: &str, value: bool) {
        // What it covers is said by it from now on.
        self.0.retain(|below, _| !is_under(below, prefix));
        self.0.insert(prefix.to_owned(), value);
    }

    /// What is said about a type, if anything is.
    pub(in crate::cmd::dash) fn says(&self, event_type: &str) -> Option<bool> {
        let about = self.0.iter().filter(|(prefix, _)| is_under(event_type, prefix));
        about.max_by_key(|(prefix, _)| prefix.len()).map(|(_, value)| *value)
    }

    pub(in crate::cmd::dash) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is to be done with which types.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cmd::dash) struct Flags {
    /// Shown in the list, unless it says no.
    pub(in crate::cmd::dash) listed: Prefixes,
    /// The terminal's bell rings, if it says yes.
    pub(in crate::cmd::dash) bell: Prefixes,
    /// It does not, all the same.
    pub(in crate::cmd::dash) muted: Prefixes,
}

/// Which flag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Flag {
    Listed,
    Bell,
    Muted,
}

impl Flag {
    pub(in crate::cmd::dash) const EACH: [Self; 3] = [Self::Listed, Self::Bell, Self::Muted];

    pub(in crate::cmd::dash) const fn letter(self) -> char {
        match self {
            Self::Listed => 'L',
            Self::Bell => 'B',
            Self::Muted => 'M',
        }
    }
}

impl Flags {
    pub(in crate::cmd::dash) fn is(&self, flag: Flag, event_type: &str) -> bool {
        match flag {
            Flag::Listed => self.listed.says(event_type).unwrap_or(true),
            Flag::Bell => self.bell.says(event_type).unwrap_or(false),
            Flag::Muted => self.muted.says(event_type).unwrap_or(false),
        }
    }

    pub(in crate::cmd::dash) fn set(&mut self, flag: Flag, prefix: &str, value: bool) {
        match flag {
            Flag::Listed => &mut self.listed,
            Flag::Bell => &mut self.bell,
            Flag::Muted => &mut self.muted,
        }
        .set(prefix, value);
    }
}

/// Types, and how many events of each there were.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Types {
    counts: BTreeMap<Name, u64>,
    /// Events of types for which there was no room.
    others: u64,
    /// Events that were not listed, and those that would have rung.
    pub(in crate::cmd::dash) unlisted: u64,
    pub(in crate::cmd::dash) silenced: u64,
}

/// A line of the tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Node {
    /// From the first word to this one.
    pub(in crate::cmd::dash) prefix: String,
    pub(in crate::cmd::dash) depth: usize,
    /// Events of this type and of those below it.
    pub(in crate::cmd::dash) count: u64,
}

impl Types {
    /// Types that may come, from schemas.
    pub(in crate::cmd::dash) fn expect(&mut self, event_types: impl IntoIterator<Item = String>) {
        for event_type in event_types.into_iter().take(MAX_TYPES) {
            self.counts.entry(event_type.into()).or_default();
        }
    }

    /// An event has come. True if the bell should ring.
    pub(in crate::cmd::dash) fn take(&mut self, event_type: &Name, flags: &Flags) -> bool {
        if let Some(count) = self.counts.get_mut(event_type) {
            *count += 1;
        } else if self.counts.len() < MAX_TYPES {
            self.counts.insert(Arc::clone(event_type), 1);
        } else {
            self.others += 1;
        }
        self.unlisted += u64::from(!flags.is(Flag::Listed, event_type));
        let rings = flags.is(Flag::Bell, event_type);
        let is_muted = rings && flags.is(Flag::Muted, event_type);
        self.silenced += u64::from(is_muted);
        rings && !is_muted
    }

    /// All types that are known.
    pub(in crate::cmd::dash) fn names(&self) -> impl Iterator<Item = &Name> {
        self.counts.keys()
    }

    pub(in crate::cmd::dash) const fn others(&self) -> u64 {
        self.others
    }

    /// The tree, a line for each prefix.
    pub(in crate::cmd::dash) fn tree(&self) -> Vec<Node> {
        let mut counts: BTreeMap<Vec<&str>, u64> = BTreeMap::new();
        for (event_type, count) in &self.counts {
            let words: Vec<&str> = event_type.split('.').collect();
            for end in 1..=words.len() {
                let prefix = words.get(..end).unwrap_or_default();
                *counts.entry(prefix.to_vec()).or_default() += count;
            }
        }
        counts
            .into_iter()
            .map(|(words, count)| Node { prefix: words.join("."), depth: words.len() - 1, count })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_prefix_decides_and_a_new_word_covers_what_is_below() {
        let mut flags = Flags::default();
        assert!(flags.is(Flag::Listed, "agent.tool.invoked") && !flags.is(Flag::Bell, "agent"));
        flags.set(Flag::Listed, "agent", false);
        flags.set(Flag::Listed, "agent.error", true);
        for (event_type, is_listed) in [
            ("agent", false),
            ("agent.tool.invoked", false),
            ("agent.error", true),
            ("agent.error.x", true),
            ("agents.x", true),
        ] {
            assert_eq!(flags.is(Flag::Listed, event_type), is_listed, "{event_type}");
        }
        flags.set(Flag::Listed, "agent", true);
        assert!(flags.is(Flag::Listed, "agent.tool"));
        flags.set(Flag::Listed, "", false);
        assert!(!flags.is(Flag::Listed, "anything") && !flags.is(Flag::Listed, "agent.tool"));
    }

    #[test]
    fn bells_ring_for_what_is_not_muted_and_all_is_counted() {
        let mut flags = Flags::default();
        flags.set(Flag::Bell, "agent", true);
        flags.set(Flag::Muted, "agent.heartbeat", true);
        let mut types = Types::default();
        types.expect(["voice.x.y".to_owned()]);
        let rings: Vec<bool> = ["agent.error", "agent.heartbeat", "voice.x.y"]
            .map(|name| types.take(&name.into(), &flags))
            .into();
        assert_eq!((rings, types.silenced, types.unlisted), (vec![true, false, false], 1, 0));
        let tree: Vec<(String, usize, u64)> =
            types.tree().into_iter().map(|node| (node.prefix, node.depth, node.count)).collect();
        let expected = [
            ("agent", 0, 2),
            ("agent.error", 1, 1),
            ("agent.heartbeat", 1, 1),
            ("voice", 0, 1),
            ("voice.x", 1, 1),
            ("voice.x.y", 2, 1),
        ];
        assert_eq!(tree, expected.map(|(prefix, depth, count)| (prefix.to_owned(), depth, count)));
    }
}
