//! The Bloodbank envelope: written strictly, read tolerantly. Pure; nothing here runs in the background.
//!
//! [`Event`] is the one shape that the rest of the program sees. `read` turns each shape found on the wire into it and
//! `write` turns it into bytes, `view` finds in it what readers look for, `payload` and `registry` hold the types
//! that godctl itself emits, `topic` the patterns, `ids` the ids, `domain` the names and colours of domains.

pub mod domain;
pub mod ids;
pub mod payload;
pub mod read;
pub mod registry;
#[cfg(test)]
mod tests;
pub mod topic;
mod view;
mod write;

pub use read::read;
pub use write::check;

use std::{borrow::Borrow, fmt};

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// What `version` says in every envelope that we write.
pub const VERSION: &str = "1.0.0";

/// What a required word says where the producer said nothing.
pub const UNKNOWN: &str = "unknown";

/// The largest depth of a JSON text, its outermost object counted, that is read and written; what serde_json allows.
pub const MAX_DEPTH: usize = 127;

/// One event.
///
/// There is no `Deserialize`, because there is one way to read an event: [`read()`].
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[schemars(
    title = "Event envelope",
    description = "An event as godctl writes it; other fields are passed on."
)]
pub struct Event {
    /// Unique; the same event published again has the same one.
    pub event_id: Uuid,
    /// What happened, and the routing key.
    #[schemars(length(min = 1, max = 255))]
    pub event_type: EventType,
    /// When, by the clock of who saw it. UTC.
    pub timestamp: Timestamp,
    /// Of the envelope.
    #[schemars(regex(pattern = r"^[0-9]+\.[0-9]+(\.[0-9]+)?$"))]
    pub version: String,
    /// Who says so.
    pub source: Source,
    /// Ids of the events that led to this one; the root of the chain first.
    pub correlation_ids: Vec<Uuid>,
    /// The agent that was at work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_context: Option<AgentContext>,
    /// The facts: an object, since some readers of this bus refuse anything else.
    #[schemars(with = "Map<String, Value>")]
    pub payload: Value,
    /// What else was in the envelope; passed on as it came.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A name such as `voice.transcription.completed`: 1 to 255 bytes without control characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(try_from = "String", into = "String")]
#[schemars(inline)]
pub struct EventType(String);

/// Who says so.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct Source {
    /// The machine.
    pub host: String,
    /// The program, or the part of it, such as `godctl-asr`.
    pub app: String,
    /// What set it off: `manual`, `agent`, `scheduled`, `service`, `webhook` or something else.
    #[serde(rename = "type")]
    pub kind: String,
    /// What else was said about the source.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The agent that was at work: the union of what the readers of this envelope look for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, JsonSchema)]
pub struct AgentContext {
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_name: Option<String>,
    /// The session it worked in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// What it worked on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// `claude-code`, `gemini-cli`, `custom`, …; some readers refuse a context without it.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    #[schemars(required)]
    pub kind: Option<String>,
    /// What else was said; `name` and `instance_id` repeat two of the above for other readers.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What could not be read as an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unparsed {
    /// As it came.
    pub raw: Vec<u8>,
    /// Why.
    pub reason: String,
}

/// Who and when, so that tests can say both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The event's id.
    pub id: Uuid,
    /// Its time.
    pub at: Timestamp,
}

impl Stamp {
    /// A new id that sorts by time (UUIDv7, RFC 9562), and the system's clock.
    #[must_use]
    pub fn now() -> Self {
        Self { id: Uuid::now_v7(), at: Timestamp::now() }
    }
}

impl Event {
    /// A new event of our own making.
    #[must_use]
    pub fn new(stamp: Stamp, event_type: EventType, source: Source, payload: Value) -> Self {
        Self {
            event_id: stamp.id,
            event_type,
            timestamp: stamp.at,
            version: VERSION.to_owned(),
            source,
            correlation_ids: Vec::new(),
            agent_context: None,
            payload,
            extra: Map::new(),
        }
    }
}

impl Source {
    /// A source on a machine.
    #[must_use]
    pub fn new(host: impl Into<String>, app: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { host: host.into(), app: app.into(), kind: kind.into(), extra: Map::new() }
    }

    /// A source on this machine.
    #[must_use]
    pub fn here(app: impl Into<String>, kind: impl Into<String>) -> Self {
        Self::new(host(), app, kind)
    }
}

/// The name of this machine.
#[must_use]
pub fn host() -> String {
    gethostname::gethostname().to_string_lossy().into_owned()
}

impl AgentContext {
    /// All that any reader asks for: some know an agent by `agent_name` and `session_id`, others by `name` and
    /// `instance_id`, so both are written. `kind` is `claude-code`, `gemini-cli`, `custom`, ….
    #[must_use]
    pub fn new(kind: &str, name: &str, session: &str, project: &str) -> Self {
        let extra = [("name", name), ("instance_id", session)];
        Self {
            agent_name: Some(name.to_owned()),
            session_id: Some(session.to_owned()),
            project: Some(project.to_owned()),
            kind: Some(kind.to_owned()),
            extra: extra.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect(),
        }
    }
}

impl EventType {
    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether every pattern means by it what it says: words between dots, without blanks and without the `*` and `#`
    /// of patterns. What others publish is read all the same.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        let fits = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '*' | '#');
        self.0.split('.').all(|word| !word.is_empty() && word.chars().all(fits))
    }
}

impl fmt::Display for EventType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for EventType {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<EventType> for String {
    fn from(event_type: EventType) -> Self {
        event_type.0
    }
}

impl TryFrom<String> for EventType {
    type Error = EventTypeError;

    fn try_from(text: String) -> Result<Self, EventTypeError> {
        if text.is_empty() || text.len() > topic::MAX_TOPIC_BYTES || text.chars().any(char::is_control) {
            return Err(EventTypeError(text.escape_default().take(80).collect()));
        }
        Ok(Self(text))
    }
}

impl std::str::FromStr for EventType {
    type Err = EventTypeError;

    fn from_str(text: &str) -> Result<Self, EventTypeError> {
        Self::try_from(text.to_owned())
    }
}

/// Why a text is no event type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not an event type; want domain.entity.action, at most 255 bytes")]
pub struct EventTypeError(String);
