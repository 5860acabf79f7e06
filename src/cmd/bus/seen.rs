//! A window of event ids, to tell an event that comes twice. Pure.

use std::collections::{HashSet, VecDeque};

use uuid::Uuid;

/// Ids remembered; the oldest is forgotten for one more. A second copy comes soon after the first, if at all: an
/// alias right behind it, a redelivery after a reconnect.
const WINDOW: usize = 100_000;

/// Ids that were seen lately.
#[derive(Debug, Default)]
pub(super) struct Seen {
    ids: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl Seen {
    /// Remembers the id; false if it was there already.
    pub(super) fn insert(&mut self, id: Uuid) -> bool {
        if !self.ids.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > WINDOW
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_new_once_and_again_when_it_was_forgotten() {
        let mut seen = Seen::default();
        let id = |n: usize| Uuid::from_u128(n as u128);
        assert!(seen.insert(id(0)) && !seen.insert(id(0)));
        for n in 1..WINDOW {
            assert!(seen.insert(id(n)));
        }
        assert!(!seen.insert(id(0)), "still in the window");
        assert!(seen.insert(id(WINDOW)) && seen.insert(id(0)));
        assert_eq!((seen.ids.len(), seen.order.len()), (WINDOW, WINDOW));
    }
}
