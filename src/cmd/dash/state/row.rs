//! One row of the dashboard: what is shown of an event without looking into its payload again. Pure.

use std::ops::Range;

use jiff::Timestamp;
use uuid::Uuid;

use super::Name;
use crate::{
    bus::{Body, Event, Item, Position, Received, event::domain},
    cmd::text::{gist, printable},
};

/// Characters of a payload's gist that are kept with a row.
const SUMMARY: usize = 120;

/// Letters of a name, such as a program's, that are kept.
const NAME: usize = 200;

/// What a row stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Kind {
    Event,
    /// Bytes that could not be read as an event.
    Unparsed,
    /// Events may be missing here.
    Gap,
}

/// What a type tells about the moment in the life of a thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Status {
    Error,
    Done,
    Started,
    Other,
}

impl Status {
    /// The rule of the dashboard that this one replaces: by words in the type.
    pub(in crate::cmd::dash) fn of(event_type: &str) -> Self {
        let has = |words: &[&str]| words.iter().any(|word| event_type.contains(word));
        if has(&["error", "failed"]) {
            Self::Error
        } else if has(&["ready", "completed"]) {
            Self::Done
        } else if has(&["prompt", "request", "started"]) {
            Self::Started
        } else {
            Self::Other
        }
    }
}

/// A row of the buffer.
#[derive(Debug, Clone)]
pub(in crate::cmd::dash) struct Row {
    /// Its number among all rows that ever were in the buffer; later ones have larger ones.
    pub(in crate::cmd::dash) seq: u64,
    pub(in crate::cmd::dash) kind: Kind,
    /// Nil where there is no event.
    pub(in crate::cmd::dash) id: Uuid,
    /// The routing key of what could not be read.
    pub(in crate::cmd::dash) event_type: Name,
    /// The word of the type that says the domain.
    pub(in crate::cmd::dash) domain: Name,
    pub(in crate::cmd::dash) app: Name,
    pub(in crate::cmd::dash) host: Name,
    /// The agent at work; empty without one.
    pub(in crate::cmd::dash) agent: Name,
    /// Empty without one.
    pub(in crate::cmd::dash) session: Name,
    pub(in crate::cmd::dash) correlations: Box<[Uuid]>,
    /// What its producer's clock said.
    pub(in crate::cmd::dash) at: Timestamp,
    /// When the bus took it; when it came here, where the bus doesn't tell.
    pub(in crate::cmd::dash) taken: Timestamp,
    pub(in crate::cmd::dash) position: Option<Position>,
    /// What it is about, fit for a terminal.
    pub(in crate::cmd::dash) summary: Box<str>,
    /// Its type says that something went wrong.
    pub(in crate::cmd::dash) is_error: bool,
    /// Its payload says so.
    pub(in crate::cmd::dash) has_failed: bool,
    /// Where its bytes are.
    pub(super) body: super::bodies::Span,
    /// The payload within them.
    pub(super) payload: Range<u32>,
}

impl Row {
    pub(in crate::cmd::dash) fn status(&self) -> Status {
        match self.kind {
            Kind::Event if self.is_error => Status::Error,
            Kind::Event => Status::of(&self.event_type),
            Kind::Unparsed | Kind::Gap => Status::Other,
        }
    }

    /// The colour of its domain.
    pub(in crate::cmd::dash) fn colour(&self) -> [u8; 3] {
        domain::of(&self.domain).colour
    }

    /// What an event counts as going to: the agent at work, or the system.
    pub(in crate::cmd::dash) fn target(&self) -> &str {
        if self.agent.is_empty() { "system" } else { &self.agent }
    }
}

/// A row before it has a place in the buffer.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Draft {
    pub(in crate::cmd::dash) kind: Kind,
    pub(super) id: Uuid,
    pub(super) event_type: String,
    pub(super) domain: String,
    pub(super) app: String,
    pub(super) host: String,
    pub(super) agent: String,
    pub(super) session: String,
    pub(super) correlations: Box<[Uuid]>,
    pub(super) at: Timestamp,
    pub(in crate::cmd::dash) taken: Timestamp,
    pub(super) position: Option<Position>,
    pub(super) summary: Box<str>,
    pub(in crate::cmd::dash) is_error: bool,
    pub(super) has_failed: bool,
    pub(super) body: Vec<u8>,
    pub(super) payload: Range<u32>,
}

impl Draft {
    /// What to show of something that a subscription gave; `now` is when it came. `None` for what is no row.
    pub(in crate::cmd::dash) fn of(item: &Item, now: Timestamp) -> Option<Self> {
        match item {
            Item::Event(received) => Some(Self::of_received(received, now)),
            Item::Gap { missed, reason } => {
                let count = missed.map_or_else(
                    || "events may be missing".to_owned(),
                    |missed| format!("{missed} events are missing"),
                );
                Some(Self::bare(Kind::Gap, String::new(), &format!("{count}: {reason}"), now))
            }
            Item::CaughtUp => None,
        }
    }

    /// The same for what a bus gave from its history.
    pub(in crate::cmd::dash) fn of_received(received: &Received, now: Timestamp) -> Self {
        let taken = received.at.unwrap_or(now);
        let mut draft = match &received.body {
            Body::Event(event) => Self::of_event(event, taken),
            Body::Unparsed(unparsed) => {
                let raw = String::from_utf8_lossy(&unparsed.raw);
                let text = format!("{}: {raw}", unparsed.reason);
                let mut draft = Self::bare(Kind::Unparsed, received.routing_key.clone(), &text, taken);
                draft.body.clone_from(&unparsed.raw);
                draft.payload = 0..u32::try_from(unparsed.raw.len()).unwrap_or(u32::MAX);
                draft
            }
        };
        draft.position = received.position;
        draft
    }

    fn bare(kind: Kind, event_type: String, text: &str, taken: Timestamp) -> Self {
        Self {
            kind,
            id: Uuid::nil(),
            event_type,
            domain: String::new(),
            app: String::new(),
            host: String::new(),
            agent: String::new(),
            session: String::new(),
            correlations: Box::default(),
            at: taken,
            taken,
            position: None,
            summary: printable(text, SUMMARY).into_boxed_str(),
            is_error: false,
            has_failed: false,
            body: Vec::new(),
            payload: 0..0,
        }
    }

    fn of_event(event: &Event, taken: Timestamp) -> Self {
        let short = |text: &str| text.chars().take(NAME).collect::<String>();
        let body = event.to_json();
        let payload = payload_of(&body, event);
        let domain = match event.domain() {
            domain::UNKNOWN => domain::key(event.event_type.as_str()).to_owned(),
            known => known.key.to_owned(),
        };
        Self {
            kind: Kind::Event,
            id: event.event_id,
            event_type: event.event_type.as_str().to_owned(),
            domain,
            app: short(&event.source.app),
            host: short(&event.source.host),
            agent: agent_of(event).map(short).unwrap_or_default(),
            session: session_of(event).map(short).unwrap_or_default(),
            correlations: event.correlation_ids.clone().into_boxed_slice(),
            at: event.timestamp,
            taken,
            position: None,
            summary: gist(&event.payload, SUMMARY).into_boxed_str(),
            is_error: event.is_error(),
            has_failed: has_failed(event),
            body,
            payload,
        }
    }
}

fn agent_of(event: &Event) -> Option<&str> {
    let agent = event.agent_context.as_ref()?;
    agent.agent_name.as_deref().or_else(|| agent.extra.get("name")?.as_str())
}

/// The session of an event, in the agent's context, the payload or beside them.
fn session_of(event: &Event) -> Option<&str> {
    let instance = |map: &serde_json::Map<String, serde_json::Value>| map.contains_key("instance_id");
    event.session_id().or_else(|| {
        let agent = event.agent_context.as_ref().map(|agent| &agent.extra).filter(|extra| instance(extra));
        agent
            .and_then(|extra| extra.get("instance_id"))
            .or_else(|| event.payload.get("instance_id"))
            .and_then(serde_json::Value::as_str)
    })
}

/// The payload says that something went wrong, whatever the type says.
fn has_failed(event: &Event) -> bool {
    event.payload.get("success").and_then(serde_json::Value::as_bool) == Some(false)
        || event.payload.get("status").and_then(serde_json::Value::as_str) == Some("error")
}

/// Where the payload is in the envelope's bytes. Should the same bytes stand elsewhere too, they are found there: they
/// are the same.
fn payload_of(body: &[u8], event: &Event) -> Range<u32> {
    let payload = serde_json::to_vec(&event.payload).unwrap_or_default();
    let start = memchr::memmem::find(body, &payload).unwrap_or(0);
    let end = start + payload.len();
    let as_u32 = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    as_u32(start)..as_u32(end)
}
