//! Events and buffers for tests.

use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;
use uuid::Uuid;

use super::{
    buffer::{Buffer, Limits},
    row::Draft,
};
use crate::bus::{
    Body, Event, Received,
    event::{Source, Stamp},
};

/// 2026-11-21T12:00:00Z, and so many seconds more.
pub(in crate::cmd::dash) fn at(second: i64) -> Timestamp {
    "2026-11-21T12:00:00Z".parse::<Timestamp>().unwrap() + second.seconds()
}

/// An event of the first second.
pub(in crate::cmd::dash) fn event(event_type: &str, payload: Value) -> Event {
    event_at(0, event_type, payload)
}

pub(in crate::cmd::dash) fn event_at(second: i64, event_type: &str, payload: Value) -> Event {
    let stamp = Stamp { id: Uuid::new_v4(), at: at(second) };
    Event::new(stamp, event_type.parse().unwrap(), Source::new("desk", "godctl-test", "service"), payload)
}

/// The second event, as one that the first one led to.
pub(in crate::cmd::dash) fn after(first: &Event, mut event: Event) -> Event {
    event.correlation_ids = first.correlation_ids.clone();
    event.correlation_ids.push(first.event_id);
    event
}

/// As a bus with a history gives it.
pub(in crate::cmd::dash) fn received(event: Event) -> Received {
    Received {
        position: None,
        at: Some(event.timestamp),
        routing_key: event.event_type.to_string(),
        body: Body::Event(event),
    }
}

pub(in crate::cmd::dash) fn draft(event: Event) -> Draft {
    let now = event.timestamp;
    Draft::of_received(&received(event), now)
}

pub(in crate::cmd::dash) const ROOMY: Limits = Limits { rows: 10_000, bytes: 64 << 20 };

pub(in crate::cmd::dash) fn buffer_of(events: impl IntoIterator<Item = Event>) -> Buffer {
    let mut buffer = Buffer::new(ROOMY);
    for event in events {
        buffer.push(draft(event));
    }
    buffer
}
