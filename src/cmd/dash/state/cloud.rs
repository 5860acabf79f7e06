//! Domains as circles that light up when something happens: what is counted for it. Pure.
//!
//! Each event counts, those of a batch too, and what was counted stays when the buffer forgets the event.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::{Name, tallies::Seen};
use crate::bus::event::domain;

/// Domains that are told apart. Anybody may publish any type; a person looks at no more than this.
const DOMAINS: usize = 64;

/// Types within a domain that are told apart, for the same reason.
const TYPES: usize = 200;

/// How long something stays bright.
const FADE: SignedDuration = SignedDuration::from_secs(3);

/// The brightest shade; with the darkest one, 0, there are eight.
pub(in crate::cmd::dash) const BRIGHTEST: u8 = 7;

/// The diameter of the largest circle, by the scale of [`diameter`].
pub(in crate::cmd::dash) const LARGEST: f64 = 140.0;

/// How large the circle of so many events is: it grows with their magnitude, up to 99 of them.
#[allow(clippy::cast_precision_loss, reason = "only the magnitude counts")]
pub(in crate::cmd::dash) fn diameter(events: u64) -> f64 {
    match events {
        0 => 60.0,
        events => LARGEST.min(35.0_f64.mul_add((events as f64 + 1.0).log10(), 70.0)),
    }
}

/// How bright something is that was touched at this time: it fades evenly, and is dark after three seconds.
fn shade(at: Timestamp, now: Timestamp) -> u8 {
    // A clock that was set back must not leave anything bright for an hour.
    let age = now.duration_since(at).abs().as_millis();
    let whole = FADE.as_millis();
    let left = (whole - age).max(0) * i128::from(BRIGHTEST);
    // Any light that is left counts as the darkest light.
    u8::try_from((left + whole - 1) / whole).unwrap_or(0)
}

/// A type within a domain.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Child {
    /// The whole type.
    pub(in crate::cmd::dash) event_type: Name,
    pub(in crate::cmd::dash) count: u64,
    at: Timestamp,
}

impl Child {
    pub(in crate::cmd::dash) fn shade(&self, now: Timestamp) -> u8 {
        shade(self.at, now)
    }

    /// What the type says besides its domain, `tool.invoked`; all of it where it says no more than that.
    pub(in crate::cmd::dash) fn label(&self, domain: &str) -> &str {
        let whole = &*self.event_type;
        let word = domain::key(whole);
        let behind = whole.split_once(&format!("{word}.")).map_or("", |(_, behind)| behind);
        if word == domain && !behind.is_empty() { behind } else { whole }
    }
}

/// A domain.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Bubble {
    /// The word in the types.
    pub(in crate::cmd::dash) key: Name,
    pub(in crate::cmd::dash) count: u64,
    at: Timestamp,
    /// In the order in which they came first, so that none changes its place.
    pub(in crate::cmd::dash) children: Vec<Child>,
    /// Events of types that were too many to be told apart.
    pub(in crate::cmd::dash) rest: u64,
}

impl Bubble {
    pub(in crate::cmd::dash) fn shade(&self, now: Timestamp) -> u8 {
        shade(self.at, now)
    }

    /// Its name for people; the word itself where the domain is not known.
    pub(in crate::cmd::dash) fn label(&self) -> &str {
        match domain::of(&self.key) {
            domain::UNKNOWN => &self.key,
            known => known.label,
        }
    }

    pub(in crate::cmd::dash) fn colour(&self) -> [u8; 3] {
        domain::of(&self.key).colour
    }
}

/// Counts for the view `cloud`.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Cloud {
    /// In the order in which they came first.
    pub(in crate::cmd::dash) domains: Vec<Bubble>,
    /// Events.
    pub(in crate::cmd::dash) total: u64,
    /// Of them, those of domains that were too many to be told apart.
    pub(in crate::cmd::dash) rest: u64,
}

impl Cloud {
    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        self.total += 1;
        // What comes from the history has shone when it happened.
        let at = if seen.is_live { seen.now } else { seen.row.taken.min(seen.now) };
        let row = seen.row;
        if self.find(&row.domain).is_none() && self.domains.len() < DOMAINS {
            let key = Arc::clone(&row.domain);
            self.domains.push(Bubble { key, count: 0, at, children: Vec::new(), rest: 0 });
        }
        let Some(bubble) = self.domains.iter_mut().find(|bubble| bubble.key == row.domain) else {
            self.rest += 1;
            return;
        };
        bubble.count += 1;
        bubble.at = at;
        let has_room = bubble.children.len() < TYPES;
        match bubble.children.iter_mut().find(|child| child.event_type == row.event_type) {
            Some(child) => {
                child.count += 1;
                child.at = at;
            }
            None if has_room => {
                bubble.children.push(Child { event_type: Arc::clone(&row.event_type), count: 1, at });
            }
            None => bubble.rest += 1,
        }
    }

    pub(in crate::cmd::dash) fn find(&self, key: &str) -> Option<&Bubble> {
        self.domains.iter().find(|bubble| &*bubble.key == key)
    }

    /// All shades together: it changes when any of them does.
    pub(in crate::cmd::dash) fn light(&self, now: Timestamp) -> u64 {
        let of_bubble = |bubble: &Bubble| {
            let children: u64 = bubble.children.iter().map(|child| u64::from(child.shade(now))).sum();
            u64::from(bubble.shade(now)) + children
        };
        self.domains.iter().map(of_bubble).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd::dash::state::testing::at;

    #[test]
    fn a_circle_grows_with_the_magnitude() {
        let round = |events| format!("{:.1}", diameter(events));
        assert_eq!([0, 1, 9, 99, 1_000_000].map(round), ["60.0", "80.5", "105.0", "140.0", "140.0"]);
    }

    #[test]
    fn light_fades_evenly_in_eight_shades_and_is_gone_after_three_seconds() {
        let shades = |step: i64| {
            let after = |n: i64| at(0) + SignedDuration::from_millis(n * step);
            (0..).map(after).take_while(|now| *now <= at(4)).map(|now| shade(at(0), now)).collect::<Vec<_>>()
        };
        assert_eq!(shades(500), [7, 6, 5, 4, 3, 2, 0, 0, 0]);
        let mut fine = shades(10);
        fine.dedup();
        assert_eq!(fine, [7, 6, 5, 4, 3, 2, 1, 0]);
        assert_eq!(shade(at(3600), at(0)), 0, "a clock that was set back");
    }

    #[test]
    fn a_sub_event_is_what_the_type_says_besides_the_domain() {
        for (event_type, domain, label) in [
            ("agent.tool.invoked", "agent", "tool.invoked"),
            ("bloodbank.v1.audio.file.received", "audio", "file.received"),
            ("agent", "agent", "agent"),
            ("agent.agent.x", "agent", "agent.x"),
            ("something.else", "audio", "something.else"),
        ] {
            let child = Child { event_type: event_type.into(), count: 1, at: at(0) };
            assert_eq!(child.label(domain), label, "{event_type}");
        }
    }
}
