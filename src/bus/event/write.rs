//! Events as bytes: keys in the order of the contract, UTC in RFC 3339, nothing that a reader would refuse. Pure.

use serde_json::Value;

use super::{Event, MAX_DEPTH};
use crate::bus::BusError;

/// The key of the configuration that limits the size of an event.
const SIZE_KEY: &str = "bus.max_event_bytes";

impl Event {
    /// The envelope as JSON, on one line.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_else(|error| {
            unreachable!("an event has only string keys and finite numbers, which JSON can say: {error}")
        })
    }
}

/// The envelope as JSON, if every reader will take it.
///
/// # Errors
/// [`BusError::TooLarge`] beyond `limit` bytes, [`BusError::Invalid`] where it is nested too deep or too far from now.
pub fn check(event: &Event, limit: usize) -> Result<Vec<u8>, BusError> {
    let event_type = || event.event_type.to_string();
    if nested_too_deep(event) {
        return Err(BusError::Invalid(format!(
            "event {} is nested deeper than {MAX_DEPTH} levels; flatten it, or send the inner part as a string",
            event_type()
        )));
    }
    if event.timestamp.as_second() < super::read::YEAR_0 {
        return Err(BusError::Invalid(format!(
            "event {} has a timestamp before the year 0, which RFC 3339 can't say; correct it",
            event_type()
        )));
    }
    let bytes = event.to_json();
    if bytes.len() > limit {
        let (event_type, size) = (event_type(), bytes.len());
        return Err(BusError::TooLarge { event_type, size, limit, key: SIZE_KEY });
    }
    Ok(bytes)
}

fn nested_too_deep(event: &Event) -> bool {
    // The envelope is one level; an object in it another one.
    let agent = event.agent_context.iter().flat_map(|agent| agent.extra.values());
    deeper(&event.payload, MAX_DEPTH - 1)
        || event.extra.values().any(|value| deeper(value, MAX_DEPTH - 1))
        || event.source.extra.values().chain(agent).any(|value| deeper(value, MAX_DEPTH - 2))
}

/// Whether there are more than so many arrays and objects in one another. Looks no deeper than that.
fn deeper(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper(item, levels - 1)),
        Value::Object(map) => levels == 0 || map.values().any(|item| deeper(item, levels - 1)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use uuid::uuid;

    use super::*;
    use crate::bus::event::{AgentContext, Source, Stamp, read};

    fn event(payload: Value) -> Event {
        let stamp = Stamp {
            id: uuid!("0193b1f2-7d7a-7c3e-9a51-1b2c3d4e5f60"),
            at: "2026-11-21T10:00:00.5+01:00".parse().unwrap(),
        };
        Event::new(stamp, "x.y".parse().unwrap(), Source::new("desk", "godctl", "manual"), payload)
    }

    #[test]
    fn a1_the_envelope_is_written_in_order_in_utc_and_whole() {
        let text = String::from_utf8(event(json!({"a": 1})).to_json()).unwrap();
        assert_eq!(
            text,
            r#"{"event_id":"0193b1f2-7d7a-7c3e-9a51-1b2c3d4e5f60","event_type":"x.y","timestamp":"2026-11-21T09:00:00.5Z","version":"1.0.0","source":{"host":"desk","app":"godctl","type":"manual"},"correlation_ids":[],"payload":{"a":1}}"#
        );
    }

    #[test]
    fn a2_an_agents_context_has_what_every_reader_asks_for() {
        let mut event = event(json!({}));
        event.agent_context = Some(AgentContext::new("claude-code", "tonny", "s-1", "godctl"));
        let written: Value = serde_json::from_slice(&event.to_json()).unwrap();
        assert_eq!(
            written["agent_context"],
            json!({
                "agent_name": "tonny", "session_id": "s-1", "project": "godctl",
                "type": "claude-code", "name": "tonny", "instance_id": "s-1",
            })
        );
        assert_eq!(read(&event.to_json(), None, Timestamp::UNIX_EPOCH, 1 << 20).unwrap(), event);
    }

    #[test]
    fn a_large_event_is_refused_with_its_size_and_the_key_that_allows_it() {
        let event = event(json!("x".repeat(1000)));
        let size = event.to_json().len();
        assert_eq!(check(&event, size).unwrap().len(), size);
        let error = check(&event, size - 1).unwrap_err();
        insta::assert_snapshot!(error, @"event x.y has 1215 bytes and 1214 are allowed; send a reference instead of the data, or raise bus.max_event_bytes");
    }

    #[test]
    fn what_is_nested_too_deep_to_be_read_is_not_written() {
        let nest = |levels| (0..levels).fold(json!(1), |inner, _| json!([inner]));
        let good = event(nest(MAX_DEPTH - 1));
        let bytes = check(&good, 1 << 20).unwrap();
        assert_eq!(read(&bytes, None, Timestamp::UNIX_EPOCH, 1 << 20).unwrap(), good);

        let bad = event(nest(MAX_DEPTH));
        assert!(read(&bad.to_json(), None, Timestamp::UNIX_EPOCH, 1 << 20).is_err());
        insta::assert_snapshot!(check(&bad, 1 << 20).unwrap_err(), @"event x.y is nested deeper than 127 levels; flatten it, or send the inner part as a string");
        let mut bad = event(json!(1));
        bad.source.extra.insert("deep".to_owned(), nest(MAX_DEPTH - 1));
        assert!(check(&bad, 1 << 20).is_err());
    }
}
