//! What this process knows of deliveries that it gave back.
//!
//! RabbitMQ's classic queues tell of a message only whether it was delivered before, not how often, and not whether
//! anybody ever looked at it: what a consumer had fetched ahead, or what somebody peeked at, is marked the same as what
//! a consumer died of. So each process remembers how many attempts there really were; for messages that another process
//! gave back, the mark counts as one attempt. Shared by all buses of the process; forgets the oldest.

use std::collections::{HashMap, VecDeque};

use lapin::message::Delivery;
use parking_lot::Mutex;

use super::message::Headers;

/// Messages remembered: more than consumers of one process fetch ahead.
const MAX: usize = 16_384;

static PAST: Mutex<Option<Past>> = Mutex::new(None);

#[derive(Debug, Default)]
struct Past {
    attempts: HashMap<Key, u32>,
    order: VecDeque<Key>,
}

/// A message in a queue.
type Key = (String, String);

/// Remembers that this message had so many attempts before it goes back.
pub(super) fn remember(queue: &str, message: &str, attempts: u32) {
    let key = (queue.to_owned(), message.to_owned());
    let mut past = PAST.lock();
    let past = past.get_or_insert_default();
    if past.attempts.insert(key.clone(), attempts).is_none() {
        past.order.push_back(key);
        if past.order.len() > MAX
            && let Some(oldest) = past.order.pop_front()
        {
            past.attempts.remove(&oldest);
        }
    }
}

/// The attempts of a message that comes back, if this process knows.
fn recall(queue: &str, message: &str) -> Option<u32> {
    PAST.lock().as_ref()?.attempts.get(&(queue.to_owned(), message.to_owned())).copied()
}

/// Forgets a message that is settled.
pub(super) fn forget(queue: &str, message: &str) {
    if let Some(past) = PAST.lock().as_mut() {
        past.attempts.remove(&(queue.to_owned(), message.to_owned()));
    }
}

/// Attempts before this delivery.
pub(super) fn attempts(queue: &str, delivery: &Delivery) -> u32 {
    let counted = Headers::of(&delivery.properties).attempts();
    if !delivery.redelivered {
        return counted;
    }
    let id = delivery.properties.message_id().as_ref();
    id.and_then(|id| recall(queue, id.as_str())).unwrap_or_else(|| counted.saturating_add(1))
}

/// Remembers a delivery that goes back without having been an attempt.
pub(super) fn uncounted(queue: &str, delivery: &Delivery) {
    if let Some(id) = delivery.properties.message_id() {
        remember(queue, id.as_str(), attempts(queue, delivery));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_remembered() {
        remember("past", "a", 1);
        remember("past", "a", 2);
        assert_eq!((recall("past", "a"), recall("past", "b")), (Some(2), None));
        forget("past", "a");
        assert_eq!(recall("past", "a"), None);
        remember("past", "a", 3);
        for n in 0..=MAX {
            remember("past.more", &n.to_string(), 0);
        }
        assert_eq!(recall("past", "a"), None);
        assert_eq!(recall("past.more", &MAX.to_string()), Some(0));
    }
}
