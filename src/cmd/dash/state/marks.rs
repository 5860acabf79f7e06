//! What a person has marked: events with a note, and filters with a name. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Events that can be marked; the one that was marked first goes for one more.
const MAX_MARKS: usize = 1_000;

/// Filters that can be kept: one for each of the keys 1 to 9.
pub(in crate::cmd::dash) const MAX_PRESETS: usize = 9;

/// Events that were marked, by their ids, with a note or without.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(in crate::cmd::dash) struct Marks(BTreeMap<Uuid, Mark>);

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
struct Mark {
    note: String,
    /// The first mark has the smallest.
    number: u64,
}

impl Marks {
    pub(in crate::cmd::dash) fn has(&self, id: &Uuid) -> bool {
        self.0.contains_key(id)
    }

    pub(in crate::cmd::dash) fn note(&self, id: &Uuid) -> Option<&str> {
        self.0.get(id).map(|mark| mark.note.as_str()).filter(|note| !note.is_empty())
    }

    /// Marks an event, or unmarks it. Tells whether it is marked now.
    pub(in crate::cmd::dash) fn toggle(&mut self, id: Uuid) -> bool {
        if self.0.remove(&id).is_some() {
            return false;
        }
        self.write(id, String::new());
        true
    }

    /// Marks an event with a note.
    pub(in crate::cmd::dash) fn write(&mut self, id: Uuid, note: String) {
        let number = self.0.values().map(|mark| mark.number).max().map_or(0, |number| number + 1);
        self.0.insert(id, Mark { note, number });
        if self.0.len() > MAX_MARKS
            && let Some(first) = self.0.iter().min_by_key(|(_, mark)| mark.number).map(|(id, _)| *id)
        {
            self.0.remove(&first);
        }
    }
}

/// A filter with a name.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::cmd::dash) struct Preset {
    pub(in crate::cmd::dash) name: String,
    /// Field by field, as the panel of filters has them.
    pub(in crate::cmd::dash) fields: BTreeMap<String, String>,
}
