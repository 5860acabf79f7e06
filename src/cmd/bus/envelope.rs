//! Envelopes from the command line: events that it makes, and lines that it is given.

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

use crate::bus::{
    Event, EventType,
    event::{self, AgentContext, Source, Stamp},
};

/// This program as the source of an event.
pub(super) fn source(app: &str, kind: &str) -> Source {
    Source {
        host: gethostname::gethostname().to_string_lossy().into_owned(),
        app: app.to_owned(),
        kind: kind.to_owned(),
        extra: serde_json::Map::new(),
    }
}

/// What people write by hand instead of an envelope.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Draft {
    event_type: EventType,
    payload: Value,
}

/// Reads a line: `{"event_type", "payload"}`, which becomes a new event of ours, or an envelope of any shape.
///
/// # Errors
/// Why it is neither.
pub(super) fn read(text: &[u8]) -> Result<Event, String> {
    if let Ok(Draft { event_type, payload }) = serde_json::from_slice(text) {
        return Ok(Event::new(Stamp::now(), event_type, source("godctl", "manual"), payload));
    }
    event::read(text, None, Timestamp::now(), usize::MAX).map_err(|unparsed| unparsed.reason)
}

/// An id of another event: a UUID as it is, anything else as the UUID that always stands for it.
pub(super) fn correlation_id(text: &str) -> Uuid {
    text.parse().unwrap_or_else(|_| Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()))
}

/// What an event says of the agent that was at work: all that the readers of this envelope look for.
pub(super) fn agent_context(
    kind: &str,
    name: Option<&str>,
    session: Option<&str>,
    project: Option<&str>,
) -> AgentContext {
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let mut extra = serde_json::Map::new();
    if let Some(name) = name {
        extra.insert("name".to_owned(), name.into());
    }
    if let Some(session) = session {
        extra.insert("instance_id".to_owned(), session.into());
    }
    AgentContext {
        agent_name: owned(name),
        session_id: owned(session),
        project: owned(project),
        kind: Some(kind.to_owned()),
        extra,
    }
}

/// The session that an event belongs to, where it names one.
pub(super) fn session(event: &Event) -> Option<&str> {
    let context = event.agent_context.as_ref().and_then(|context| context.session_id.as_deref());
    context.or_else(|| event.payload.get("session_id")?.as_str())
}

/// The colour of an event's domain, in the palette of 256 colours.
pub(super) fn color_of(_event: &Event) -> u8 {
    12
}
