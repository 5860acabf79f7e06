//! The ring of events that a bus in memory keeps, and the ids that it has seen. Plain data behind the bus's lock.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashSet, VecDeque},
    hash::Hash,
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use uuid::Uuid;

use crate::bus::{Body, Event, EventType, Pattern, Position, Pruned, Query, Received, Retention};

/// Ids (with types) that are remembered to notice duplicates.
const SEEN: usize = 1 << 16;

/// One event with what the bus knows about it.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) position: u64,
    pub(super) at: Timestamp,
    pub(super) bytes: usize,
    pub(super) event: Event,
}

impl Stored {
    pub(super) fn received(&self) -> Received {
        Received {
            position: Some(Position(self.position)),
            at: Some(self.at),
            routing_key: self.event.event_type.as_str().to_owned(),
            body: Body::Event(self.event.clone()),
        }
    }

    pub(super) fn matches(&self, patterns: &[Pattern]) -> bool {
        matches_any(patterns, self.event.event_type.as_str())
    }
}

pub(super) fn matches_any(patterns: &[Pattern], key: &str) -> bool {
    patterns.iter().any(|pattern| pattern.matches(key))
}

/// A set that forgets the oldest of more than so many.
#[derive(Debug)]
pub(super) struct Window<K> {
    set: HashSet<K>,
    order: VecDeque<K>,
    cap: usize,
}

impl<K: Hash + Eq + Clone> Window<K> {
    pub(super) fn new(cap: usize) -> Self {
        Self { set: HashSet::new(), order: VecDeque::new(), cap }
    }

    pub(super) fn contains<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.set.contains(key)
    }

    pub(super) fn insert(&mut self, key: K) {
        if self.set.insert(key.clone()) {
            self.order.push_back(key);
            if self.order.len() > self.cap
                && let Some(oldest) = self.order.pop_front()
            {
                self.set.remove(&oldest);
            }
        }
    }
}

/// The newest events, bounded by count and bytes; positions are consecutive from 1.
#[derive(Debug)]
pub(super) struct History {
    ring: VecDeque<Arc<Stored>>,
    bytes: usize,
    last: u64,
    seen: Window<(Uuid, EventType)>,
    max_events: usize,
    max_bytes: usize,
}

impl History {
    pub(super) fn new(max_events: usize, max_bytes: usize) -> Self {
        Self { ring: VecDeque::new(), bytes: 0, last: 0, seen: Window::new(SEEN), max_events, max_bytes }
    }

    pub(super) fn seen(&self, key: &(Uuid, EventType)) -> bool {
        self.seen.contains(key)
    }

    /// Takes an event; the oldest ones go if there is no room.
    pub(super) fn push(&mut self, event: Event, bytes: usize, at: Timestamp) -> Arc<Stored> {
        self.last += 1;
        self.seen.insert((event.event_id, event.event_type.clone()));
        let stored = Arc::new(Stored { position: self.last, at, bytes, event });
        self.ring.push_back(Arc::clone(&stored));
        self.bytes += bytes;
        while self.ring.len() > self.max_events || self.bytes > self.max_bytes {
            self.forget_oldest();
        }
        stored
    }

    fn forget_oldest(&mut self) {
        if let Some(stored) = self.ring.pop_front() {
            self.bytes -= stored.bytes;
        }
    }

    /// The position of the newest event that was ever here; 0 before the first.
    pub(super) const fn last(&self) -> u64 {
        self.last
    }

    /// The position of the oldest event that is still here, or the one that the next event will get.
    pub(super) fn oldest(&self) -> u64 {
        self.ring.front().map_or(self.last + 1, |stored| stored.position)
    }

    pub(super) fn get(&self, position: u64) -> Option<&Arc<Stored>> {
        self.ring.get(usize::try_from(position.checked_sub(self.oldest())?).ok()?)
    }

    /// The position of the first event that came at this time or later.
    pub(super) fn at_or_after(&self, time: Timestamp) -> u64 {
        // Not a binary search: the clock may have gone back between two events.
        self.ring.iter().find(|stored| stored.at >= time).map_or(self.last + 1, |stored| stored.position)
    }

    pub(super) fn page(&self, query: &Query) -> Vec<Arc<Stored>> {
        let first = query.since.map_or(0, |since| self.at_or_after(since));
        let wanted = |stored: &&Arc<Stored>| {
            query.before.is_none_or(|before| stored.position < before.0) && stored.matches(&query.patterns)
        };
        let newest = self.ring.iter().rev().take_while(|stored| stored.position >= first).filter(wanted);
        let mut page: Vec<Arc<Stored>> = newest.take(query.limit).cloned().collect();
        page.reverse();
        page
    }

    pub(super) fn prune(&mut self, retention: Retention, now: Timestamp) -> Pruned {
        let max_age = retention.max_age.and_then(|age| SignedDuration::try_from(age).ok());
        let oldest = max_age.and_then(|age| now.checked_sub(age).ok());
        let max_bytes =
            retention.max_bytes.map_or(usize::MAX, |max| usize::try_from(max).unwrap_or(usize::MAX));
        let (mut events, mut bytes) = (0, 0);
        // From the old end only, so that positions stay consecutive whatever the clock did.
        for stored in &self.ring {
            let too_old = oldest.is_some_and(|oldest| stored.at < oldest);
            if !too_old && self.bytes - bytes <= max_bytes {
                break;
            }
            events += 1;
            bytes += stored.bytes;
        }
        if !retention.dry_run {
            for _ in 0..events {
                self.forget_oldest();
            }
        }
        Pruned { events, bytes: bytes as u64 }
    }

    pub(super) fn len(&self) -> usize {
        self.ring.len()
    }

    /// When the oldest and the newest came.
    pub(super) fn span(&self) -> (Option<Timestamp>, Option<Timestamp>) {
        (self.ring.front().map(|stored| stored.at), self.ring.back().map(|stored| stored.at))
    }

    pub(super) fn types(&self) -> BTreeMap<String, u64> {
        let mut types = BTreeMap::new();
        for stored in &self.ring {
            match types.get_mut(stored.event.event_type.as_str()) {
                Some(count) => *count += 1,
                None => {
                    types.insert(stored.event.event_type.as_str().to_owned(), 1);
                }
            }
        }
        types
    }
}

/// How long a delay may be; also keeps arithmetic on times from overflowing.
pub(super) const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bus::testkit::event;

    proptest! {
        #[test]
        fn the_ring_never_outgrows_its_bounds_and_stays_consecutive(sizes in prop::collection::vec(1_usize..50, 1..80)) {
            let mut history = History::new(10, 120);
            for (size, n) in sizes.iter().zip(1..) {
                history.push(event("a", n), *size, Timestamp::UNIX_EPOCH);
                prop_assert!(history.len() <= 10 && history.bytes <= 120);
                prop_assert_eq!(history.last(), n);
                for position in history.oldest()..=n {
                    prop_assert_eq!(history.get(position).unwrap().position, position);
                }
                prop_assert!(history.get(n + 1).is_none());
                prop_assert!(history.get(history.oldest() - 1).is_none());
            }
        }

        #[test]
        fn a_window_holds_the_newest(keys in prop::collection::vec(0_u8..40, 0..200)) {
            let mut window = Window::new(8);
            let mut model: Vec<u8> = Vec::new();
            for key in keys {
                if !model.contains(&key) {
                    model.push(key);
                    if model.len() > 8 {
                        model.remove(0);
                    }
                }
                window.insert(key);
                for key in 0..40 {
                    prop_assert_eq!(window.contains(&key), model.contains(&key));
                }
            }
        }
    }

    #[test]
    fn a_clock_that_goes_back_hides_nothing() {
        let mut history = History::new(100, 1 << 20);
        for (second, n) in [100, 200, 150, 300].into_iter().zip(0..) {
            history.push(event("a", n), 1, Timestamp::from_second(second).unwrap());
        }
        let from = |second| history.at_or_after(Timestamp::from_second(second).unwrap());
        assert_eq!([from(50), from(100), from(101), from(200), from(250), from(301)], [1, 1, 2, 2, 4, 5]);
    }
}
