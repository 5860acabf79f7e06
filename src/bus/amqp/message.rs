//! Messages: an event's properties and headers, and what a delivery says about itself. Pure.

use jiff::Timestamp;
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use uuid::Uuid;

use super::{
    super::{Attempt, Body, BusError, Event, MAX_HISTORY, Position, Received, event},
    topology::short,
};

/// When the publisher handed it to the broker, in microseconds since 1970. AMQP's own timestamp has whole seconds.
const AT: &str = "x-godctl-at";
/// What a copy's original was routed by; the copy itself is routed by the name of its queue.
const KEY: &str = "x-godctl-key";
/// Deliveries that are over.
const ATTEMPTS: &str = "x-godctl-attempts";
/// How they ended, as JSON.
const HISTORY: &str = "x-godctl-history";
const FIRST_FAILED_AT: &str = "x-godctl-first-failed-at";
/// From when on it may be delivered again.
const DUE: &str = "x-godctl-due";
const DEAD_AT: &str = "x-godctl-dead-at";
/// Why it is dead, in one word.
const REASON: &str = "x-godctl-reason";
/// Why it is dead, in the consumer's words.
const ERROR: &str = "x-godctl-error";
const ORIGIN_QUEUE: &str = "x-godctl-origin-queue";
/// RabbitMQ's place of a message in a stream.
const STREAM_OFFSET: &str = "x-stream-offset";
/// RabbitMQ's account of what it dead-lettered.
const DEATHS: &str = "x-death";

/// The type of the messages that mark the end of a history; see `stream`.
pub(super) const PROBE: &str = "godctl.probe";

/// Bytes of a consumer's words in [`ERROR`].
const MAX_ERROR: usize = 1024;
/// Bytes of its words and of its name in one entry of [`HISTORY`]: all headers share one frame of 128 KiB, and JSON may
/// take six bytes for one.
const MAX_REASON: usize = 512;
const MAX_CONSUMER: usize = 128;

/// One message that is to be published.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Empty for the exchange that routes by the name of a queue.
    pub(super) exchange: ShortString,
    pub(super) routing_key: ShortString,
    pub(super) properties: BasicProperties,
    pub(super) body: Vec<u8>,
}

impl Message {
    /// An event as it goes to `exchange`.
    ///
    /// # Errors
    /// [`BusError::TooLarge`], [`BusError::Invalid`].
    pub(super) fn of_event(
        event: &Event,
        exchange: &ShortString,
        now: Timestamp,
        limit: usize,
    ) -> Result<Self, BusError> {
        let body = event::check(event, limit)?;
        let key = short("the event's type", event.event_type.as_str())?;
        let mut headers = FieldTable::default();
        headers.insert(AT.into(), AMQPValue::LongLongInt(now.as_microsecond()));
        let properties = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_content_type("application/json".into())
            .with_content_encoding("utf-8".into())
            .with_message_id(event.event_id.to_string().into())
            .with_timestamp(u64::try_from(now.as_second()).unwrap_or_default())
            .with_app_id(short_or_cut(&event.source.app))
            .with_type(key.clone())
            .with_headers(headers);
        Ok(Self { exchange: exchange.clone(), routing_key: key, properties, body })
    }

    /// What it takes of memory, about.
    pub(super) fn size(&self) -> usize {
        self.body.len() + 512
    }
}

/// `delivery_mode`: to disk.
pub(super) const PERSISTENT: u8 = 2;

/// Reads a delivery; `limit` is the size in bytes beyond which it is not looked into.
pub(super) fn received(
    routing_key: &str,
    properties: &BasicProperties,
    data: &[u8],
    limit: usize,
) -> Received {
    let headers = Headers::of(properties);
    let at = headers.at().or_else(|| seconds(properties));
    let routing_key = headers.original_key().unwrap_or(routing_key).to_owned();
    let key = Some(routing_key.as_str()).filter(|key| !key.is_empty());
    // The time only matters for an event that says none, in a message that says none.
    let body = match event::read(data, key, at.unwrap_or_else(Timestamp::now), limit) {
        Ok(event) => Body::Event(event),
        Err(unparsed) => Body::Unparsed(unparsed),
    };
    Received { position: headers.offset(), at, routing_key, body }
}

/// The id of the event, or of the message that could not be read as one.
pub(super) fn id_of(received: &Received, properties: &BasicProperties) -> Option<Uuid> {
    match &received.body {
        Body::Event(event) => Some(event.event_id),
        Body::Unparsed(_) => properties.message_id().as_ref().and_then(|id| id.as_str().parse().ok()),
    }
}

fn seconds(properties: &BasicProperties) -> Option<Timestamp> {
    let seconds = i64::try_from((*properties.timestamp())?).ok()?;
    Timestamp::from_second(seconds).ok()
}

/// The headers of a message, for reading.
#[derive(Debug, Clone, Copy)]
pub(super) struct Headers<'a>(Option<&'a FieldTable>);

impl<'a> Headers<'a> {
    pub(super) fn of(properties: &'a BasicProperties) -> Self {
        Self(properties.headers().as_ref())
    }

    fn get(self, name: &str) -> Option<&'a AMQPValue> {
        self.0?.inner().get(name)
    }

    /// A whole number of any width.
    fn number(self, name: &str) -> Option<i64> {
        match self.get(name)? {
            AMQPValue::ShortShortInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortShortUInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortInt(n) => Some(i64::from(*n)),
            AMQPValue::ShortUInt(n) => Some(i64::from(*n)),
            AMQPValue::LongInt(n) => Some(i64::from(*n)),
            AMQPValue::LongUInt(n) => Some(i64::from(*n)),
            AMQPValue::LongLongInt(n) => Some(*n),
            AMQPValue::Timestamp(n) => i64::try_from(*n).ok(),
            _ => None,
        }
    }

    fn text(self, name: &str) -> Option<&'a str> {
        text(self.get(name)?)
    }

    fn time(self, name: &str) -> Option<Timestamp> {
        self.text(name)?.parse().ok()
    }

    fn at(self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.number(AT)?).ok()
    }

    /// The place in a stream.
    pub(super) fn offset(self) -> Option<Position> {
        self.number(STREAM_OFFSET).and_then(|offset| u64::try_from(offset).ok()).map(Position)
    }

    /// The key of a copy's original, or of a message that the broker dead-lettered.
    fn original_key(self) -> Option<&'a str> {
        self.text(KEY).or_else(|| {
            let AMQPValue::FieldArray(deaths) = self.get(DEATHS)? else { return None };
            // The newest death stands first.
            let AMQPValue::FieldTable(first) = deaths.as_slice().last()? else { return None };
            let AMQPValue::FieldArray(keys) = first.inner().get("routing-keys")? else { return None };
            text(keys.as_slice().first()?)
        })
    }

    /// Deliveries that are over, as far as the message itself knows.
    pub(super) fn attempts(self) -> u32 {
        self.number(ATTEMPTS).and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
    }

    pub(super) fn history(self) -> Vec<Attempt> {
        self.text(HISTORY).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default()
    }

    /// When it died, or from when on it may be delivered.
    pub(super) fn since(self) -> Option<Timestamp> {
        self.time(DEAD_AT).or_else(|| self.time(DUE))
    }

    /// Why it is dead: the consumer's words, or the broker's word.
    pub(super) fn reason(self) -> Option<String> {
        self.text(ERROR).or_else(|| self.text(REASON)).map(str::to_owned).or_else(|| {
            let AMQPValue::FieldArray(deaths) = self.get(DEATHS)? else { return None };
            let AMQPValue::FieldTable(last) = deaths.as_slice().first()? else { return None };
            text(last.inner().get("reason")?).map(|word| format!("the broker dead-lettered it: {word}"))
        })
    }
}

fn text(value: &AMQPValue) -> Option<&str> {
    match value {
        AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
        AMQPValue::ShortString(text) => Some(text.as_str()),
        _ => None,
    }
}

/// What a copy says about the past of its original.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Past {
    /// Deliveries that are over.
    pub(super) attempts: u32,
    pub(super) history: Vec<Attempt>,
    /// When it may be delivered again, if not at once.
    pub(super) due: Option<Timestamp>,
    /// Why it is dead, if it is.
    pub(super) death: Option<Death>,
}

/// Why work is dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Death {
    /// In one word.
    pub(super) class: &'static str,
    /// In the consumer's words.
    pub(super) error: String,
    pub(super) at: Timestamp,
}

/// A copy of a delivery, to be routed to `queue` itself. The broker's own marks don't travel: they would be wrong on
/// the copy, make the broker refuse it (`user_id`), or send it elsewhere as well (`CC`, `BCC`).
pub(super) fn copy(
    queue: &ShortString,
    origin: &str,
    routing_key: &str,
    properties: &BasicProperties,
    body: Vec<u8>,
    past: &Past,
) -> Message {
    let mut headers = FieldTable::default();
    if let Some(old) = properties.headers() {
        for (name, value) in old.inner() {
            let ours = name.as_str().starts_with("x-godctl-") && name.as_str() != AT;
            let brokers =
                name.as_str().starts_with("x-first-death") || name.as_str().starts_with("x-last-death");
            if !ours && !brokers && !matches!(name.as_str(), "CC" | "BCC" | DEATHS | STREAM_OFFSET) {
                headers.insert(name.clone(), value.clone());
            }
        }
    }
    let string = |text: &str| AMQPValue::LongString(text.into());
    headers.insert(KEY.into(), string(routing_key));
    if past.attempts > 0 {
        headers.insert(ATTEMPTS.into(), AMQPValue::LongLongInt(i64::from(past.attempts)));
    }
    if let Some(first) = past.history.first() {
        let first = Headers::of(properties).time(FIRST_FAILED_AT).unwrap_or(first.at);
        headers.insert(FIRST_FAILED_AT.into(), string(&first.to_string()));
        headers.insert(HISTORY.into(), string(&history_json(&past.history)));
    }
    if let Some(due) = past.due {
        headers.insert(DUE.into(), string(&due.to_string()));
    }
    if let Some(death) = &past.death {
        headers.insert(REASON.into(), string(death.class));
        headers.insert(ERROR.into(), string(cut(&death.error, MAX_ERROR)));
        headers.insert(DEAD_AT.into(), string(&death.at.to_string()));
        headers.insert(ORIGIN_QUEUE.into(), string(origin));
    }
    let mut copied = BasicProperties::default().with_delivery_mode(PERSISTENT).with_headers(headers);
    macro_rules! keep {
        ($($field:ident $with:ident),*) => {
            $(if let Some(value) = properties.$field() { copied = copied.$with(value.clone()); })*
        };
    }
    keep!(
        content_type with_content_type,
        content_encoding with_content_encoding,
        priority with_priority,
        correlation_id with_correlation_id,
        reply_to with_reply_to,
        message_id with_message_id,
        timestamp with_timestamp,
        kind with_type,
        app_id with_app_id
    );
    Message { exchange: "".into(), routing_key: queue.clone(), properties: copied, body }
}

/// The last [`MAX_HISTORY`] entries, with their words cut.
fn history_json(history: &[Attempt]) -> String {
    let entries: Vec<Attempt> = history
        .iter()
        .skip(history.len().saturating_sub(MAX_HISTORY))
        .map(|attempt| Attempt {
            at: attempt.at,
            consumer: cut(&attempt.consumer, MAX_CONSUMER).to_owned(),
            reason: cut(&attempt.reason, MAX_REASON).to_owned(),
        })
        .collect();
    serde_json::to_string(&entries).unwrap_or_else(|_| "[]".to_owned())
}

/// At most so many bytes, cut between characters.
pub(super) fn cut(text: &str, bytes: usize) -> &str {
    text.get(..text.floor_char_boundary(bytes)).unwrap_or(text)
}

fn short_or_cut(text: &str) -> ShortString {
    ShortString::try_new(cut(text, 255)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::bus::event::{Source, Stamp};

    fn event() -> Event {
        let source = Source::new("host", "godctl-test", "manual");
        Event::new(Stamp::now(), "a.b".parse().unwrap(), source, json!({ "n": 1 }))
    }

    fn attempt(text: &str) -> Attempt {
        Attempt { at: Timestamp::UNIX_EPOCH, consumer: text.to_owned(), reason: text.to_owned() }
    }

    #[test]
    fn an_event_says_what_it_is_in_its_properties() {
        let (event, now) = (event(), Timestamp::from_microsecond(1_700_000_000_123_456).unwrap());
        let message = Message::of_event(&event, &"x".into(), now, 1000).unwrap();
        let properties = &message.properties;
        assert_eq!(properties.delivery_mode(), &Some(2));
        assert_eq!(properties.content_type(), &Some("application/json".into()));
        assert_eq!(properties.content_encoding(), &Some("utf-8".into()));
        assert_eq!(properties.message_id(), &Some(event.event_id.to_string().as_str().into()));
        assert_eq!(properties.timestamp(), &Some(1_700_000_000));
        assert_eq!(properties.app_id(), &Some("godctl-test".into()));
        assert_eq!(properties.kind(), &Some("a.b".into()));
        assert_eq!(message.routing_key, "a.b".into());
        let back = received("a.b", properties, &message.body, 1000);
        assert_eq!((back.at, back.body), (Some(now), Body::Event(event)));
    }

    #[test]
    fn a_copy_keeps_what_is_the_events_and_nothing_that_is_the_brokers() {
        let mut headers = FieldTable::default();
        let string = |text: &str| AMQPValue::LongString(text.into());
        headers.insert("mine".into(), string("kept"));
        headers.insert(AT.into(), AMQPValue::LongLongInt(5));
        for name in ["CC", "BCC", "x-death", "x-first-death-queue", "x-stream-offset", REASON, ERROR, HISTORY]
        {
            headers.insert(name.into(), string("old"));
        }
        let original = BasicProperties::default()
            .with_headers(headers)
            .with_message_id("id".into())
            .with_priority(3)
            .with_user_id("other".into())
            .with_expiration("5".into());
        let past = Past { attempts: 2, history: vec![attempt("one")], due: None, death: None };
        let copy = copy(&"q".into(), "q", "a.b", &original, b"body".to_vec(), &past);
        assert_eq!((copy.exchange.as_str(), copy.routing_key.as_str()), ("", "q"));
        assert_eq!(copy.properties.message_id(), &Some("id".into()));
        assert_eq!(copy.properties.priority(), &Some(3));
        assert_eq!((copy.properties.user_id(), copy.properties.expiration()), (&None, &None));
        let names: Vec<&str> =
            copy.properties.headers().as_ref().unwrap().inner().keys().map(ShortString::as_str).collect();
        assert_eq!(names, ["mine", AT, ATTEMPTS, FIRST_FAILED_AT, HISTORY, KEY]);
        let headers = Headers::of(&copy.properties);
        assert_eq!((headers.attempts(), headers.history()), (2, past.history));
        assert_eq!(received("q", &copy.properties, b"body", 10).routing_key, "a.b");
    }

    #[test]
    fn the_headers_of_a_dead_letter_fit_into_a_frame() {
        // Control characters take six bytes each in JSON.
        let words = "\u{1}".repeat(100_000);
        let past = Past {
            attempts: u32::MAX,
            history: vec![attempt(&words); MAX_HISTORY * 2],
            due: Some(Timestamp::MAX),
            death: Some(Death { class: "rejected", error: words, at: Timestamp::MAX }),
        };
        let copy =
            copy(&"q.dlq".into(), "q", &"k".repeat(255), &BasicProperties::default(), Vec::new(), &past);
        let headers = copy.properties.headers().as_ref().unwrap();
        let size: usize = headers
            .inner()
            .iter()
            .map(|(name, value)| name.as_str().len() + text(value).map_or(8, str::len) + 8)
            .sum();
        // RabbitMQ's frame_max is 131072 unless it is configured otherwise.
        assert!(size < 110_000, "{size}");
        let headers = Headers::of(&copy.properties);
        assert_eq!(headers.history().len(), MAX_HISTORY);
        assert_eq!(headers.reason().map(|reason| reason.len()), Some(MAX_ERROR));
    }

    #[test]
    fn what_the_broker_dead_lettered_tells_its_first_key_and_the_last_reason() {
        let string = |text: &str| AMQPValue::LongString(text.into());
        let death = |key: &str, reason: &str| {
            let mut death = FieldTable::default();
            death.insert("routing-keys".into(), AMQPValue::FieldArray(vec![string(key)].into()));
            death.insert("reason".into(), string(reason));
            AMQPValue::FieldTable(death)
        };
        let mut headers = FieldTable::default();
        let deaths = vec![death("q", "expired"), death("a.b", "rejected")];
        headers.insert(DEATHS.into(), AMQPValue::FieldArray(deaths.into()));
        let properties = BasicProperties::default().with_headers(headers);
        assert_eq!(received("q.dlq", &properties, b"{}", 10).routing_key, "a.b");
        assert_eq!(
            Headers::of(&properties).reason().as_deref(),
            Some("the broker dead-lettered it: expired")
        );
    }
}
