//! Reads events in every shape that was found on the wire. Pure: the time and the routing key are arguments.
//!
//! | shape | told by | what becomes of it |
//! |---|---|---|
//! | envelope, commands | `event_type` | as it is; `correlation_id` and `causation_id` join `correlation_ids` |
//! | keyed | `routing_key` and `payload` | the key is the type; an event nested in the payload is unfolded |
//! | flat | `event_type` or `event_id`, no `payload` | the fields that are not the envelope's are the payload |
//! | relay frame | `envelope` | what is inside |
//! | CloudEvents 1.0 | `specversion` | mapped to the envelope |
//! | raw | none of these | the whole is the payload; the type is the routing key, or speech is told by its `text` |
//!
//! What is missing is filled in: an id from the bytes, a time from the caller, `unknown` for a host or an app. What
//! can't be used as it came (an id that is no UUID, a time that is none) is kept under [`AS_RECEIVED`]; unknown fields
//! stay where they are, and both are written again. Reading what was written gives the same event.

use jiff::{SignedDuration, Timestamp, civil, tz::TimeZone};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{AgentContext, Event, EventType, MAX_DEPTH, Source, UNKNOWN, Unparsed, VERSION, ids};

/// Where what can't be used as it came is kept, by the name of its field.
pub const AS_RECEIVED: &str = "as_received";

/// The type of speech that comes without one.
const SPEECH: &str = "voice.transcription.completed";

/// 0000-01-01T00:00:00Z, the first time that RFC 3339 can say.
pub(super) const YEAR_0: i64 = -62_167_219_200;

/// The names of the envelope's own fields.
const FIELDS: [&str; 8] = [
    "event_id",
    "event_type",
    "timestamp",
    "version",
    "source",
    "correlation_ids",
    "agent_context",
    "payload",
];

/// Fields of an envelope that are never part of a payload, even where the payload is flat.
const BESIDE: [&str; 5] = ["correlation_id", "causation_id", "producer", "routing_key", AS_RECEIVED];

/// Reads an event.
///
/// `routing_key` is what the transport says, where it says something; it is the type of an event without one.
/// `received` is the time of an event without one: when the bus took the message, not when it is read, so that each
/// reading gives the same. `max_bytes` is the size beyond which a message is not looked into.
///
/// # Errors
/// [`Unparsed`] with the bytes and the reason.
pub fn read(
    bytes: &[u8],
    routing_key: Option<&str>,
    received: Timestamp,
    max_bytes: usize,
) -> Result<Event, Unparsed> {
    let arrival = Arrival { routing_key, received, id: || ids::of_bytes(bytes) };
    parse(bytes, max_bytes)
        .and_then(|value| match value {
            Value::Object(map) => arrival.object(map),
            other => Err(format!("{} and no JSON object", name(&other))),
        })
        .map_err(|reason| Unparsed { raw: bytes.to_vec(), reason })
}

/// A JSON text, or why it is none.
pub(super) fn parse(bytes: &[u8], max_bytes: usize) -> Result<Value, String> {
    if bytes.len() > max_bytes {
        return Err(format!(
            "{} bytes, and {max_bytes} are allowed; raise bus.max_event_bytes to read it",
            bytes.len()
        ));
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|error| format!("not UTF-8 from byte {} on", error.valid_up_to()))?;
    // Some producers on Windows begin with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if text.trim().is_empty() {
        return Err("empty".to_owned());
    }
    serde_json::from_str(text).map_err(|error| {
        let error = error.to_string();
        if error.starts_with("recursion limit exceeded") {
            return format!("nested deeper than {MAX_DEPTH} levels");
        }
        format!("not JSON: {error}")
    })
}

/// The kind of a JSON value, with its article.
pub(super) fn name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// What is known about a message beside its content.
#[derive(Clone, Copy)]
struct Arrival<'a, Id> {
    routing_key: Option<&'a str>,
    received: Timestamp,
    /// The id that it gets if it has none.
    id: Id,
}

impl<Id: Fn() -> Uuid + Copy> Arrival<'_, Id> {
    fn object(self, map: Map<String, Value>) -> Result<Event, String> {
        let has = |key: &str| map.get(key).is_some_and(|value| !value.is_null());
        let is = |key: &str, word: &str| map.get(key).is_some_and(|value| value == word);
        if !has("event_type") {
            if map.get("envelope").is_some_and(Value::is_object)
                && (is("type", "event") || has("routing_key"))
            {
                return self.frame(map);
            }
            if is("type", "welcome") && has("exchange")
                || map.len() == 1 && (is("type", "ping") || is("type", "pong"))
            {
                return Err("a relay's own message, which carries no event".to_owned());
            }
            if map.get("specversion").is_some_and(Value::is_string) && !has("event_id") {
                return self.cloud_event(map);
            }
        }
        let keyed =
            map.contains_key("payload") && ["routing_key", "timestamp", "source", "id"].into_iter().any(has);
        if has("event_type") || has("event_id") || keyed { self.envelope(map) } else { self.raw(map) }
    }

    /// What a websocket relay sends: the event, and the key it was routed by.
    fn frame(self, mut map: Map<String, Value>) -> Result<Event, String> {
        let key = take_text(&mut map, "routing_key");
        map.remove("type");
        let Some(Value::Object(inner)) = map.remove("envelope") else {
            return Err("a relay's frame without an event".to_owned());
        };
        let mut event = Arrival { routing_key: key.as_deref().or(self.routing_key), ..self }.object(inner)?;
        if let Some(key) = key.filter(|key| key != event.event_type.as_str()) {
            map.insert("routing_key".to_owned(), key.into());
        }
        let mut leftover = Map::new();
        for (field, value) in map {
            // Ids of the frame are not those of the event, which they would join when it is read again.
            let is_id = ["correlation_id", "causation_id"].contains(&field.as_str());
            if is_id || FIELDS.contains(&field.as_str()) || event.extra.contains_key(&field) {
                leftover.insert(field, value);
            } else {
                event.extra.insert(field, value);
            }
        }
        keep(&mut event.extra, leftover);
        Ok(event)
    }

    /// The envelope, in all its variants.
    fn envelope(self, mut map: Map<String, Value>) -> Result<Event, String> {
        map.retain(|key, value| !value.is_null() || key == "payload" || !FIELDS.contains(&key.as_str()));
        let mut odd = Map::new();
        let event_type = match map.remove("event_type") {
            Some(Value::String(text)) => event_type(&text)?,
            Some(other) => return Err(format!("event_type is {} and no string", name(&other))),
            None => {
                let key = take_text(&mut map, "routing_key");
                unfold(&mut map);
                let key = key.as_deref().or(self.routing_key);
                event_type(key.ok_or("no event_type, and no routing key to take it from")?)?
            }
        };
        let id = ["event_id", "id", "message_id"].into_iter().find_map(|key| map.remove(key));
        let event_id = id.and_then(|id| uuid("event_id", id, &mut odd)).unwrap_or_else(self.id);
        let timestamp = time("timestamp", map.remove("timestamp"), &mut odd).unwrap_or(self.received);
        let version = match map.remove("version") {
            None => VERSION.to_owned(),
            Some(Value::String(text)) => text,
            Some(Value::Number(number)) => number.to_string(),
            Some(other) => {
                odd.insert("version".to_owned(), other);
                VERSION.to_owned()
            }
        };
        let source = source(map.remove("source"), &mut odd);
        let correlation_ids = correlations(&mut map, &mut odd);
        let agent_context = agent(map.remove("agent_context"), &mut odd);
        let (payload, extra) = match map.remove("payload") {
            Some(payload) => (payload, map),
            None => {
                let (extra, payload): (Map<_, _>, Map<_, _>) =
                    map.into_iter().partition(|(key, _)| BESIDE.contains(&key.as_str()));
                (payload.into(), extra)
            }
        };
        let mut event = Event {
            event_id,
            event_type,
            timestamp,
            version,
            source,
            correlation_ids,
            agent_context,
            payload,
            extra,
        };
        keep(&mut event.extra, odd);
        Ok(event)
    }

    /// CloudEvents 1.0 as Bloodbank writes it since its move to NATS.
    fn cloud_event(self, mut map: Map<String, Value>) -> Result<Event, String> {
        let mut odd = Map::new();
        let event_type = match map.remove("type") {
            Some(Value::String(text)) => event_type(&text)?,
            Some(other) => return Err(format!("type is {} and no string", name(&other))),
            None => return Err("a CloudEvent without a type".to_owned()),
        };
        let event_id = map.remove("id").and_then(|id| uuid("id", id, &mut odd)).unwrap_or_else(self.id);
        let timestamp = time("time", map.remove("time"), &mut odd).unwrap_or(self.received);
        let text = |key: &str| map.get(key).and_then(Value::as_str);
        let uri = text("source");
        let segment = || uri?.rsplit([':', '/']).find(|segment| !segment.is_empty());
        let mut source = Source::new(
            UNKNOWN,
            text("service").or_else(segment).unwrap_or(UNKNOWN),
            text("kind").unwrap_or(UNKNOWN),
        );
        source.extra.extend(uri.map(|uri| ("uri".to_owned(), Value::from(uri))));
        if let Some(other) = map.remove("source").filter(|other| !other.is_string()) {
            odd.insert("source".to_owned(), other);
        }
        let mut correlation_ids = Vec::new();
        // The names of the envelope may stand there too, and count when it is read again.
        for key in ["correlation_id", "correlationid", "causationid", "causation_id"] {
            if let Some(id) = map.get(key).and_then(|id| uuid(key, id.clone(), &mut Map::new())) {
                add(&mut correlation_ids, id);
            }
        }
        let payload = map.remove("data").unwrap_or_else(|| Map::new().into());
        let actor = |keys: [&str; 2]| {
            let actor = map.get("actor")?;
            Some(keys.into_iter().find_map(|key| actor.get(key)?.as_str())?.to_owned())
        };
        let session = ["session_id", "thread_id"].into_iter().find_map(|key| payload.get(key)?.as_str());
        let context = AgentContext {
            agent_name: actor(["agent_id", "agent_id"]),
            session_id: session.map(str::to_owned),
            project: None,
            kind: actor(["cli", "type"]),
            extra: Map::new(),
        };
        let agent_context = (context != AgentContext::default()).then_some(context);
        // Extensions that bear the names of our own fields.
        for field in FIELDS {
            odd.extend(map.remove(field).map(|value| (field.to_owned(), value)));
        }
        let version = VERSION.to_owned();
        let mut event = Event {
            event_id,
            event_type,
            timestamp,
            version,
            source,
            correlation_ids,
            agent_context,
            payload,
            extra: map,
        };
        keep(&mut event.extra, odd);
        Ok(event)
    }

    /// A payload without an envelope.
    fn raw(self, map: Map<String, Value>) -> Result<Event, String> {
        let speech = map.get("text").is_some_and(Value::is_string)
            && ["session_id", "audio_metadata", "is_final"].into_iter().any(|key| map.contains_key(key));
        let event_type = match self.routing_key {
            Some(key) => event_type(key)?,
            None if speech => event_type(SPEECH)?,
            None => return Err("no event_type, and no routing key to take it from".to_owned()),
        };
        // They stay in the payload too, which is passed on as it came.
        let timestamp = map.get("timestamp").and_then(parse_time).unwrap_or(self.received);
        let app = map.get("source").and_then(Value::as_str).unwrap_or(UNKNOWN);
        Ok(Event {
            event_id: (self.id)(),
            event_type,
            timestamp,
            version: VERSION.to_owned(),
            source: Source::new(UNKNOWN, app, UNKNOWN),
            correlation_ids: Vec::new(),
            agent_context: None,
            payload: map.into(),
            extra: Map::new(),
        })
    }
}

/// Some producers wrap an event of another shape into the payload of a keyed one. Its payload becomes the payload, its
/// fields join the outer ones, and where both have one, the outer one counts and the inner one stays in `nested`.
fn unfold(map: &mut Map<String, Value>) {
    let is_event = map.get("payload").is_some_and(|payload| {
        payload.get("event_type").is_some_and(Value::is_string)
            && payload.get("payload").is_some_and(Value::is_object)
    });
    let Some(Value::Object(mut inner)) = is_event.then(|| map.remove("payload")).flatten() else { return };
    map.extend(inner.remove("payload").map(|payload| ("payload".to_owned(), payload)));
    let mut nested = Map::new();
    for (key, value) in inner {
        if key == "event_type" || map.contains_key(&key) {
            nested.insert(key, value);
        } else {
            map.insert(key, value);
        }
    }
    if let Some(other) = map.insert("nested".to_owned(), nested.into()) {
        keep(map, Map::from_iter([("nested".to_owned(), other)]));
    }
}

/// Puts what could not be used as it came where it is found again.
fn keep(extra: &mut Map<String, Value>, mut odd: Map<String, Value>) {
    if odd.is_empty() {
        return;
    }
    // From an earlier reader: it stays, further down.
    odd.extend(extra.remove(AS_RECEIVED).map(|earlier| (AS_RECEIVED.to_owned(), earlier)));
    extra.insert(AS_RECEIVED.to_owned(), odd.into());
}

fn event_type(text: &str) -> Result<EventType, String> {
    EventType::try_from(text.to_owned()).map_err(|error| error.to_string())
}

/// Takes a field if it is text; leaves it where it is otherwise.
fn take_text(map: &mut Map<String, Value>, key: &str) -> Option<String> {
    match map.remove(key)? {
        Value::String(text) => Some(text),
        Value::Null => None,
        other => {
            map.insert(key.to_owned(), other);
            None
        }
    }
}

/// An id as a UUID. One that is none goes to `odd`, and stands for a UUID if it is text or a number.
fn uuid(field: &str, id: Value, odd: &mut Map<String, Value>) -> Option<Uuid> {
    let text = match &id {
        Value::Null => return None,
        Value::String(text) if text.is_empty() => return None,
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(_) | Value::Array(_) | Value::Object(_) => {
            odd.insert(field.to_owned(), id);
            return None;
        }
    };
    if Uuid::parse_str(&text).is_err() {
        odd.insert(field.to_owned(), id);
    }
    Some(ids::normalise(&text))
}

fn time(field: &str, value: Option<Value>, odd: &mut Map<String, Value>) -> Option<Timestamp> {
    let value = value.filter(|value| !value.is_null())?;
    let time = parse_time(&value);
    if time.is_none() {
        odd.insert(field.to_owned(), value);
    }
    time
}

/// RFC 3339, with UTC where the offset is missing, or seconds (milli-, micro-, nanoseconds) since 1970.
fn parse_time(value: &Value) -> Option<Timestamp> {
    let time = match value {
        Value::String(text) => {
            let text = text.trim();
            let utc = || text.parse::<civil::DateTime>().ok()?.to_zoned(TimeZone::UTC).ok();
            let parsed = text.parse().ok().or_else(|| utc().map(|zoned| zoned.timestamp()));
            parsed.or_else(|| epoch(text.parse().ok()?))
        }
        Value::Number(number) => match number.as_i64() {
            // Nanoseconds since 1970 have more digits than a float.
            Some(nanos) if nanos.unsigned_abs() >= 100_000_000_000_000_000 => {
                Timestamp::from_nanosecond(nanos.into()).ok()
            }
            _ => epoch(number.as_f64()?),
        },
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    time.filter(|time| time.as_second() >= YEAR_0)
}

/// The unit is told by the size: each boundary is the year 5138 in one unit and 1973 in the next.
fn epoch(number: f64) -> Option<Timestamp> {
    let seconds = match number.abs() {
        size if size < 1e11 => number,
        size if size < 1e14 => number / 1e3,
        size if size < 1e17 => number / 1e6,
        _ => number / 1e9,
    };
    // A float of today's seconds is exact to a quarter of a microsecond; the digits behind that are noise.
    let micros = (seconds * 1e6).round();
    #[allow(clippy::cast_possible_truncation, reason = "the cast saturates, and such times are refused")]
    let since = SignedDuration::from_micros(micros as i64);
    if micros.is_finite() { Timestamp::from_duration(since).ok() } else { None }
}

fn source(value: Option<Value>, odd: &mut Map<String, Value>) -> Source {
    match value {
        Some(Value::Object(mut map)) => {
            let mut field = |key: &str, others: [&str; 2]| {
                let own = take_text(&mut map, key);
                if let Some(other) = map.remove(key) {
                    odd.insert(format!("source.{key}"), other);
                }
                let other = || others.into_iter().find_map(|key| Some(map.get(key)?.as_str()?.to_owned()));
                own.or_else(other).unwrap_or_else(|| UNKNOWN.to_owned())
            };
            let host = field("host", ["host_id", "hostname"]);
            let app = field("app", ["component", "service"]);
            let kind = field("type", ["trigger_type", "kind"]);
            Source { host, app, kind, extra: map }
        }
        Some(Value::String(app)) => Source::new(UNKNOWN, app, UNKNOWN),
        other => {
            odd.extend(other.map(|other| ("source".to_owned(), other)));
            Source::new(UNKNOWN, UNKNOWN, UNKNOWN)
        }
    }
}

fn agent(value: Option<Value>, odd: &mut Map<String, Value>) -> Option<AgentContext> {
    match value? {
        Value::Object(mut map) => {
            let mut field = |key: &str, others: [&str; 2]| {
                let own = take_text(&mut map, key);
                let other = || others.into_iter().find_map(|key| Some(map.get(key)?.as_str()?.to_owned()));
                // A field that is no text stays where it was, so it must not be written a second time.
                own.or_else(|| if map.contains_key(key) { None } else { other() })
            };
            Some(AgentContext {
                agent_name: field("agent_name", ["name", "agent_id"]),
                session_id: field("session_id", ["instance_id", "agent_instance_id"]),
                project: take_text(&mut map, "project"),
                kind: take_text(&mut map, "type"),
                extra: map,
            })
        }
        Value::String(name) => Some(AgentContext { agent_name: Some(name), ..AgentContext::default() }),
        other => {
            odd.insert("agent_context".to_owned(), other);
            None
        }
    }
}

/// The root of the chain first, the direct cause last, each once.
fn correlations(map: &mut Map<String, Value>, odd: &mut Map<String, Value>) -> Vec<Uuid> {
    let list = match map.remove("correlation_ids") {
        Some(Value::Array(list)) => list,
        other => other.into_iter().collect(),
    };
    let mut ids = Vec::new();
    let mut ignored = Map::new();
    let root = map.get("correlation_id").cloned();
    root.and_then(|id| uuid("correlation_id", id, &mut ignored)).into_iter().for_each(|id| add(&mut ids, id));
    let mut all_are_uuids = true;
    for id in &list {
        let mut not_a_uuid = Map::new();
        uuid("", id.clone(), &mut not_a_uuid).into_iter().for_each(|id| add(&mut ids, id));
        all_are_uuids &= not_a_uuid.is_empty();
    }
    if !all_are_uuids {
        odd.insert("correlation_ids".to_owned(), list.into());
    }
    let cause = map.get("causation_id").cloned();
    cause.and_then(|id| uuid("causation_id", id, &mut ignored)).into_iter().for_each(|id| add(&mut ids, id));
    ids
}

fn add(ids: &mut Vec<Uuid>, id: Uuid) {
    if !ids.contains(&id) {
        ids.push(id);
    }
}
