//! Envelopes from the command line: events that it makes, and lines that it is given.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::bus::{
    Event, EventType,
    event::{AgentContext, Source, Stamp, read},
};

/// This machine as the source of an event.
pub(super) fn source(app: &str, kind: &str) -> Source {
    Source::here(app, kind)
}

/// The program, where nobody says which.
pub(super) const APP: &str = "godctl";

/// What set it off, where nobody says what.
pub(super) const KIND: &str = "manual";

/// What people write by hand instead of an envelope.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    event_type: EventType,
    payload: Value,
}

/// The place in a history that `tail --json` adds to an envelope; it means nothing on another bus.
pub(super) const POSITION: &str = "position";

/// Reads a line: `{"event_type", "payload"}`, which becomes a new event of ours, or an envelope of any shape.
///
/// # Errors
/// Why it is neither.
pub(super) fn of_line(text: &[u8], now: Timestamp, max_bytes: usize) -> Result<Event, String> {
    if let Ok(Draft { event_type, payload }) = serde_json::from_slice(text) {
        return Ok(Event::new(Stamp::now(), event_type, source(APP, KIND), payload));
    }
    let mut event = read(text, None, now, max_bytes).map_err(|unparsed| unparsed.reason)?;
    if event.extra.get(POSITION).is_some_and(Value::is_u64) {
        event.extra.remove(POSITION);
    }
    Ok(event)
}

/// What is known of the agent that was at work, for all readers of this envelope: some know an agent by `agent_name`
/// and `session_id`, others by `name` and `instance_id`.
pub(super) fn agent_context(
    kind: &str,
    name: Option<&str>,
    session: Option<&str>,
    project: Option<&str>,
) -> AgentContext {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let twins = [("name", name), ("instance_id", session)];
    let extra: Map<String, Value> =
        twins.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into()))).collect();
    AgentContext {
        agent_name: owned(name),
        session_id: owned(session),
        project: owned(project),
        kind: Some(kind.to_owned()),
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Event, String> {
        of_line(text.as_bytes(), Timestamp::UNIX_EPOCH, 1 << 20)
    }

    #[test]
    fn a_draft_becomes_a_new_event_each_time() {
        let draft = r#"{"event_type": "x.y", "payload": [1]}"#;
        let (first, second) = (read(draft).unwrap(), read(draft).unwrap());
        assert_ne!(first.event_id, second.event_id);
        assert_eq!((first.source.app.as_str(), first.payload), ("godctl", serde_json::json!([1])));
    }

    #[test]
    fn an_envelope_keeps_what_it_says_but_its_place_on_another_bus() {
        let event = read(r#"{"event_type":"x.y","id":"a","payload":{},"position":7,"more":1}"#).unwrap();
        assert_eq!(event.event_id, crate::bus::event::ids::normalise("a"));
        assert_eq!(event.extra.get("more"), Some(&1.into()));
        assert!(!event.extra.contains_key(POSITION));
        assert!(read("not json").unwrap_err().contains("not JSON"));
    }

    #[test]
    fn an_agent_is_known_by_both_names() {
        let context = agent_context("custom", Some("tonny"), None, Some("godctl"));
        let written = serde_json::to_value(&context).unwrap();
        let expected = serde_json::json!({"agent_name": "tonny", "project": "godctl", "type": "custom", "name": "tonny"});
        assert_eq!(written, expected);
    }
}
