//! Copies events from one bus to another, through crashes of either and of itself.
//!
//! From a bus with history the bridge reads behind a cursor that lives at the destination and moves in the same step as
//! the events ([`EventBus::publish_with_cursor`](super::EventBus::publish_with_cursor)), so whatever kills it, each event arrives once. From a bus without
//! history it works off a queue of its own and acknowledges what the destination has; there an event arrives twice if
//! the bridge dies in between, unless the destination notices ids it has seen ([`Capabilities::dedupes`]).
//!
//! Runs where it is called, until the token is cancelled.

mod run;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use jiff::Timestamp;
use serde::Serialize;

pub use run::run;

use super::{Capabilities, Pattern, Published, Start};

/// What to copy.
#[derive(Debug, Clone)]
pub struct BridgeOptions {
    /// Names the cursor, or the queue; two bridges between the same buses need two names.
    pub name: String,
    /// Any of these must match.
    pub patterns: Vec<Pattern>,
    /// Where to begin the first time, on a bus with history.
    pub start: Start,
    /// Events copied in one step.
    pub batch: usize,
    /// Go on with live events after the history.
    pub follow: bool,
}

/// What has been done so far; may be read at any time.
#[derive(Debug, Default)]
pub struct Progress {
    copied: AtomicU64,
    duplicates: AtomicU64,
    skipped: AtomicU64,
    gaps: AtomicU64,
    retries: AtomicU64,
    position: AtomicU64,
    /// Milliseconds since 1970; 0 for never.
    at: AtomicI64,
}

/// [`Progress`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Copied {
    /// Events that the destination took.
    pub copied: u64,
    /// Events that it had already.
    pub duplicates: u64,
    /// Messages that no bus would take: unreadable, or too large for the destination.
    pub skipped: u64,
    /// Places where the source lost events before they could be read.
    pub gaps: u64,
    /// Times that a side was away.
    pub retries: u64,
    /// The source's position up to which all is copied.
    pub position: u64,
    /// When the source had taken the last event that was copied, to the millisecond; tells how far behind this is.
    pub at: Option<Timestamp>,
}

impl Progress {
    /// The figures now.
    #[must_use]
    pub fn now(&self) -> Copied {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Copied {
            copied: of(&self.copied),
            duplicates: of(&self.duplicates),
            skipped: of(&self.skipped),
            gaps: of(&self.gaps),
            retries: of(&self.retries),
            position: of(&self.position),
            at: match self.at.load(Ordering::Relaxed) {
                0 => None,
                at => Timestamp::from_millisecond(at).ok(),
            },
        }
    }

    fn add(count: &AtomicU64, n: u64) {
        count.fetch_add(n, Ordering::Relaxed);
    }

    fn reached(&self, at: Option<Timestamp>) {
        if let Some(at) = at {
            self.at.store(at.as_millisecond(), Ordering::Relaxed);
        }
    }

    fn published(&self, published: &Published) {
        // What waits in the destination's outbox is on its way.
        Self::add(&self.copied, published.accepted + published.deferred);
        Self::add(&self.duplicates, published.duplicates);
    }
}

/// How sure it is that each event arrives once, in words for the user.
#[must_use]
pub const fn promise(from: &Capabilities, to: &Capabilities) -> &'static str {
    match (from.history && to.cursors, to.dedupes) {
        (true, _) => "each event arrives once, also if this bridge is killed",
        (false, true) => "each event arrives once, because the destination knows the ids it has",
        (false, false) => {
            "each event arrives at least once; if this bridge is killed some arrive twice, with the same id"
        }
    }
}
