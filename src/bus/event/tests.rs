//! Shapes from the wire, bad input, and the laws of reading and writing.

use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use uuid::{Uuid, uuid};

use super::{AgentContext, Event, Source, UNKNOWN, Unparsed, VERSION, domain, ids, read::AS_RECEIVED};

const LIMIT: usize = 1 << 20;
const SESSION: &str = "5f4e3d2c-1b0a-4998-8776-655443322110";

/// When the bus of these tests took a message.
fn received() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

fn read(bytes: &[u8], routing_key: Option<&str>) -> Result<Event, Unparsed> {
    super::read(bytes, routing_key, received(), LIMIT)
}

fn read_json(value: &Value) -> Event {
    read(value.to_string().as_bytes(), None).unwrap()
}

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../tests/fixtures/events/", $name, ".json")).as_slice()
    };
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

#[test]
fn a4_an_envelope_with_a_null_app_is_read() {
    let event = read(fixture!("a-envelope-null-app"), None).unwrap();
    assert_eq!(event.event_id, uuid!("6f1d2c1e-8d4b-4a6e-9a54-0b8f0f5d9a01"));
    assert_eq!(event.event_type.as_str(), "github.pr.created");
    assert_eq!(event.timestamp, at("2026-02-20T14:03:11.482913Z"));
    assert_eq!(event.source.app, UNKNOWN);
    assert_eq!((event.source.host.as_str(), event.source.kind.as_str()), ("big-chungus", "webhook"));
    assert_eq!(event.source.extra["meta"], json!({"delivery": "72d3162e"}));
    assert_eq!(event.correlation_ids, [uuid!("4c3f1f0a-9a1e-4a55-8f0e-5b0b9c1d2e3f")]);
    assert_eq!(event.agent_context, None);
    assert_eq!(event.extra, *json!({"priority": 5}).as_object().unwrap());
    assert_eq!(event.domain().label, "GitHub");
}

#[test]
fn an_agents_context_is_read_by_either_set_of_names() {
    let event = read(fixture!("a-agent-context"), None).unwrap();
    let agent = event.agent_context.as_ref().unwrap();
    assert_eq!(agent.agent_name.as_deref(), Some("tonny"));
    assert_eq!(agent.kind.as_deref(), Some("claude-code"));
    assert_eq!(agent.extra["mcp_servers"], json!(["trello"]));
    assert_eq!(event.session_id(), Some("session-7"));
    assert_eq!(event.text(), Some("what is on my calendar"));
}

#[test]
fn a5_a_command_has_its_root_first_and_its_cause_last() {
    let event = read(fixture!("b-command-ack"), None).unwrap();
    let root = uuid!("a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d");
    assert_eq!(event.correlation_ids, [root, ids::normalise("cmd-0042")]);
    assert_eq!(event.version, "1.0");
    assert_eq!(event.extra["correlation_id"], root.to_string());
    assert_eq!(event.extra["causation_id"], "cmd-0042");
    assert_eq!(event.extra["producer"], "service:command-adapter");
    assert_eq!(event.payload["action"], "deploy");
}

#[test]
fn a6_a_keyed_event_has_its_type_from_the_key_and_its_time_from_a_float() {
    let event = read(fixture!("c-tray-backend"), None).unwrap();
    assert_eq!(event.event_type.as_str(), "thread.tonny.prompt");
    assert_eq!(event.timestamp, at("2026-02-20T14:03:11.482913Z"));
    assert_eq!((event.session_id(), event.text()), (Some(SESSION), Some("turn on the lights")));
    assert_eq!(event.extra, *json!({"priority": 5}).as_object().unwrap());
    assert_eq!(event.version, VERSION);
}

#[test]
fn a7_flat_and_raw_speech_is_read_with_its_session_and_text() {
    let flat = read(fixture!("d-flat-voice"), None).unwrap();
    assert_eq!(flat.source.app, "whisperlivekit");
    assert_eq!(flat.timestamp, at("2026-02-20T14:03:11.482913Z"), "without an offset it is UTC");
    assert_eq!((flat.session_id(), flat.text()), (Some(SESSION), Some("Hello, how are you doing?")));
    assert_eq!(flat.extra["target"], "tonny");

    let flat = read(fixture!("d-flat-without-payload"), None).unwrap();
    assert_eq!((flat.session_id(), flat.text()), (Some(SESSION), Some("Hello, how")));
    assert_eq!(flat.payload["segment_id"], "seg-12");
    assert_eq!(flat.extra, Map::new());

    let raw = read(fixture!("f-raw-voice"), None).unwrap();
    assert_eq!(raw.event_type.as_str(), "voice.transcription.completed");
    assert_eq!(raw.source.app, "whisperlivekit");
    assert_eq!(raw.timestamp, at("2026-02-11T08:15:30.123456Z"));
    assert_eq!((raw.session_id(), raw.text()), (Some(SESSION), Some("Hello, how")));
    assert_eq!(raw.payload["audio_metadata"]["model"], "base");
    let routed = read(fixture!("f-raw-voice"), Some("transcription.voice.completed")).unwrap();
    assert_eq!(routed.event_type.as_str(), "transcription.voice.completed");
    assert_eq!(routed.event_id, raw.event_id, "the same bytes are the same event");
}

#[test]
fn an_event_nested_in_a_keyed_one_is_unfolded() {
    let event = read(fixture!("e-letta-bridge"), None).unwrap();
    assert_eq!(event.event_type.as_str(), "thread.letta.prompt");
    assert_eq!(event.event_id, uuid!("2a3b4c5d-6e7f-4081-92a3-b4c5d6e7f809"));
    assert_eq!(event.payload, json!({"text": "remind me at nine", "source": "tonnytray", "device": "desk"}));
    assert_eq!(event.session_id(), Some(SESSION));
    assert_eq!(event.extra["request_id"], "req-77");
    assert_eq!(event.extra["nested"]["event_type"], "transcription");
    assert_eq!(event.extra["nested"]["event_id"], "8f9e0d1c-2b3a-4958-8776-a5b4c3d2e1f0");
}

#[test]
fn a8_a_relays_frame_is_unwrapped() {
    let event = read(fixture!("g-relay-frame"), None).unwrap();
    assert_eq!(event.event_id, uuid!("b0a1c2d3-e4f5-4a6b-8c7d-9e0f1a2b3c4d"));
    assert_eq!(event.event_type.as_str(), "agent.tonny.started");
    assert_eq!(event.source.app, "openclaw");
    assert_eq!(event.extra, Map::new());

    let welcome = read(fixture!("g-relay-welcome"), None).unwrap_err();
    assert_eq!(welcome.reason, "a relay's own message, which carries no event");
    assert_eq!(read(br#"{"type":"pong"}"#, None).unwrap_err().reason, welcome.reason);

    // The key it was routed by is the type of an event without one, and is kept beside another type.
    let frame =
        json!({"type": "event", "routing_key": "a.b", "seq": 7, "envelope": {"payload": {}, "id": "x"}});
    let event = read_json(&frame);
    assert_eq!(event.event_type.as_str(), "a.b");
    assert_eq!(event.extra["seq"], 7);
    let frame =
        json!({"type": "event", "routing_key": "a.b", "envelope": {"event_type": "c.d", "payload": {}}});
    assert_eq!(read_json(&frame).extra["routing_key"], "a.b");
}

#[test]
fn a9_cloud_events_are_mapped() {
    let event = read(fixture!("h-cloudevent"), None).unwrap();
    assert_eq!(event.event_id, uuid!("c1d2e3f4-a5b6-4c7d-8e9f-0a1b2c3d4e5f"));
    assert_eq!(event.timestamp, at("2026-08-21T17:45:12.5Z"));
    assert_eq!((event.domain().key, event.source.app.as_str()), ("conversation", "holocene"));
    assert_eq!((event.source.host.as_str(), event.source.kind.as_str()), (UNKNOWN, "event"));
    assert_eq!(event.source.extra["uri"], "urn:33god:service:holocene");
    assert_eq!(
        event.correlation_ids,
        [uuid!("a1b2c3d4-e5f6-4a7b-8c9d-0e1f2a3b4c5d"), uuid!("d4c3b2a1-f6e5-4b7a-8d9c-5d4c3b2a1f0e")]
    );
    let agent = event.agent_context.as_ref().unwrap();
    assert_eq!(agent.agent_name.as_deref(), Some("tonny"));
    assert_eq!(agent.kind.as_deref(), Some("claude-code"));
    assert_eq!(event.session_id(), Some("thread-12"));
    assert_eq!(event.payload["outcome"], "completed");
    assert_eq!(event.extra["traceparent"], "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");

    let without_service =
        json!({"specversion": "1.0", "type": "a.b", "source": "urn:33god:service:tray", "domain": "llm"});
    let event = read_json(&without_service);
    assert_eq!(event.source.app, "tray");
    assert_eq!((event.timestamp, event.payload.clone()), (received(), json!({})));
    assert_eq!(event.domain(), domain::of("llm"), "where the type says nothing, the event itself does");
}

#[test]
fn a10_garbage_is_kept_with_its_reason() {
    let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let huge = format!(r#"{{"event_type":"x.y","payload":"{}"}}"#, "x".repeat(LIMIT));
    let endless = "x".repeat(300);
    let cases: [(&[u8], &str); 13] = [
        (b"not json", "not JSON: expected ident at line 1 column 2"),
        (b"", "empty"),
        (b" \r\n", "empty"),
        (b"{\"event_type\":\"x.\xff\"}", "not UTF-8 from byte 17 on"),
        (
            b"{\"event_type\":\"x.y\",\"payload\":\"\0\"}",
            "not JSON: control character (\\u0000-\\u001F) found while parsing a string at line 1 column 32",
        ),
        (b"{\"event_type\":\"x.y\"", "not JSON: EOF while parsing an object at line 1 column 19"),
        (b"[1]", "an array and no JSON object"),
        (br#"{"a":1}"#, "no event_type, and no routing key to take it from"),
        (br#"{"event_type":7,"payload":{}}"#, "event_type is a number and no string"),
        (
            br#"{"event_type":"","payload":{}}"#,
            "'' is not an event type; want domain.entity.action, at most 255 bytes",
        ),
        (
            br#"{"event_type":"a\u0000b","payload":{}}"#,
            "'a\\u{0}b' is not an event type; want domain.entity.action, at most 255 bytes",
        ),
        (deep.as_bytes(), "nested deeper than 127 levels"),
        (huge.as_bytes(), "1048609 bytes, and 1048576 are allowed; raise bus.max_event_bytes to read it"),
    ];
    for (bytes, reason) in cases {
        let unparsed = read(bytes, None).unwrap_err();
        assert_eq!(unparsed.reason, reason);
        assert_eq!(unparsed.raw, bytes);
    }
    assert!(read(br#"{"a":1}"#, Some(&endless)).is_err(), "a key that is no type");
}

#[test]
fn a3_ids_that_are_no_uuids_become_some_and_are_kept() {
    let event = read_json(&json!({
        "event_id": "evt-1", "event_type": "x.y", "correlation_ids": ["req-abc123", SESSION, "req-abc123", 5, null],
        "timestamp": "yesterday", "version": 2, "source": {"host": 7, "app": "a"}, "payload": {},
    }));
    assert_eq!(event.event_id, ids::normalise("evt-1"));
    let session: Uuid = SESSION.parse().unwrap();
    assert_eq!(event.correlation_ids, [ids::normalise("req-abc123"), session, ids::normalise("5")]);
    assert_eq!((event.timestamp, event.version.as_str()), (received(), "2"));
    assert_eq!(
        event.extra[AS_RECEIVED],
        json!({
            "event_id": "evt-1", "timestamp": "yesterday", "source.host": 7,
            "correlation_ids": ["req-abc123", SESSION, "req-abc123", 5, null],
        })
    );
}

#[test]
fn what_is_missing_is_the_same_at_each_delivery() {
    let bytes = br#"{"event_type":"x.y","payload":{"a":1}}"#;
    let first = read(bytes, None).unwrap();
    assert_eq!(first.event_id, ids::of_bytes(bytes));
    assert_eq!(first, read(bytes, Some("z")).unwrap());
    let bare = read(br#"{"a":1}"#, Some("x.y")).unwrap();
    assert_eq!((bare.event_type.as_str(), bare.payload), ("x.y", json!({"a": 1})));
}

#[test]
fn times_are_read_in_every_unit_and_without_an_offset() {
    let expected = at("2026-02-20T14:03:11.482Z");
    for time in [
        json!("2026-02-20T14:03:11.482Z"),
        json!("2026-02-20T15:03:11.482+01:00"),
        json!("2026-02-20 14:03:11.482"),
        json!(1_771_596_191.482),
        json!("1771596191.482"),
        json!(1_771_596_191_482_i64),
        json!(1_771_596_191_482_000_i64),
        json!(1_771_596_191_482_000_000_i64),
    ] {
        assert_eq!(read_json(&json!({"event_type": "x", "timestamp": time})).timestamp, expected, "{time}");
    }
    for time in [json!(1e300), json!(-9e13), json!("-009999-01-02T00:00:00Z"), json!({}), json!("")] {
        let event = read_json(&json!({"event_type": "x", "timestamp": time}));
        assert_eq!((event.timestamp, &event.extra[AS_RECEIVED]["timestamp"]), (received(), &time));
    }
}

#[test]
fn fields_with_our_names_in_other_shapes_are_not_written_twice() {
    let event =
        read_json(&json!({"specversion": "1.0", "type": "a.b", "payload": 1, "version": "x", "data": 2}));
    assert_eq!(event.payload, json!(2));
    assert_eq!(event.extra[AS_RECEIVED], json!({"payload": 1, "version": "x"}));
    let frame = json!({"type": "event", "envelope": {"event_type": "a"}, "source": "relay"});
    assert_eq!(read_json(&frame).extra[AS_RECEIVED], json!({"source": "relay"}));
    let twice = json!({"event_type": "a", "timestamp": "x", AS_RECEIVED: {"timestamp": "y"}});
    let kept = json!({"timestamp": "x", AS_RECEIVED: {"timestamp": "y"}});
    assert_eq!(read_json(&twice).extra[AS_RECEIVED], kept);
}

#[test]
fn ids_beside_a_cloud_event_or_in_a_frame_are_the_same_when_it_is_read_again() {
    let again = |event: &Event| read(&event.to_json(), None).unwrap();
    let event = read_json(&json!({
        "specversion": "1.0", "type": "a.b", "correlation_id": "root", "correlationid": SESSION,
        "causationid": "cause", "causation_id": "nearer",
    }));
    let id = ids::normalise;
    assert_eq!(event.correlation_ids, [id("root"), id(SESSION), id("cause"), id("nearer")]);
    assert_eq!(again(&event), event);

    let frame = json!({"type": "event", "envelope": {"event_type": "a"}, "correlation_id": "x"});
    let event = read_json(&frame);
    assert_eq!(
        (event.correlation_ids.len(), &event.extra[AS_RECEIVED]),
        (0, &json!({"correlation_id": "x"}))
    );
    assert_eq!(again(&event), event);
}

/// Any JSON, of a depth that is allowed within an envelope.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(".{0,8}", inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// JSON that looks like an event, in part.
fn event_like() -> impl Strategy<Value = Value> {
    const KEYS: [&str; 32] = [
        "event_id",
        "id",
        "message_id",
        "event_type",
        "type",
        "timestamp",
        "time",
        "version",
        "source",
        "payload",
        "correlation_ids",
        "correlation_id",
        "causation_id",
        "agent_context",
        "routing_key",
        "envelope",
        "specversion",
        "data",
        "service",
        "kind",
        "domain",
        "actor",
        "session_id",
        "text",
        "is_final",
        "host",
        "app",
        "name",
        "agent_name",
        "nested",
        "producer",
        AS_RECEIVED,
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        prop::sample::select(vec!["event", "a.b", "1.0", "", "evt-1", SESSION, "2026-02-20T14:03:11Z", "x"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 10, |inner| {
        let keys = prop::sample::select(KEYS.to_vec()).prop_map(str::to_owned);
        prop_oneof![
            1 => prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            4 => prop::collection::btree_map(keys, inner, 0..10)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Fields that mean nothing to us.
fn unknown_fields() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("x_.{0,8}", any_json(), 0..4).prop_map(|map| map.into_iter().collect())
}

fn any_time() -> impl Strategy<Value = Timestamp> {
    // The years that RFC 3339 can say.
    (super::read::YEAR_0..=253_402_207_199_i64, 0..1_000_000_000_i32)
        .prop_map(|(second, nanosecond)| Timestamp::new(second, nanosecond).unwrap())
}

prop_compose! {
    fn any_event()(
        ids in prop::collection::vec(any::<u128>(), 1..5),
        event_type in "[^\\p{Cc}]{1,60}",
        timestamp in any_time(),
        version in "[0-9]\\.[0-9]",
        words in prop::collection::vec(".{1,12}", 3),
        agent in prop::option::of(prop::collection::vec(prop::option::of(".{0,12}"), 4)),
        payload in any_json(),
        extras in prop::collection::vec(unknown_fields(), 3),
    ) -> Event {
        let [extra, of_source, of_agent] = extras.try_into().unwrap();
        let mut ids: Vec<Uuid> = ids.into_iter().map(Uuid::from_u128).collect();
        ids.dedup();
        let mut source = Source::new(&words[0], &words[1], &words[2]);
        source.extra = of_source;
        let agent_context = agent.map(|mut words| AgentContext {
            kind: words.pop().unwrap(),
            project: words.pop().unwrap(),
            session_id: words.pop().unwrap(),
            agent_name: words.pop().unwrap(),
            extra: of_agent,
        });
        Event {
            event_id: ids[0],
            event_type: event_type.parse().unwrap(),
            timestamp,
            version,
            source,
            correlation_ids: ids.split_off(1),
            agent_context,
            payload,
            extra,
        }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(event in any_event()) {
        prop_assert_eq!(read(&event.to_json(), Some("other.key")).unwrap(), event);
    }

    #[test]
    fn reading_never_panics_and_is_stable(value in prop_oneof![event_like(), any_json()], key in prop::option::of("[a-z.]{0,9}")) {
        let bytes = value.to_string().into_bytes();
        match read(&bytes, key.as_deref()) {
            Ok(event) => {
                let written = event.to_json();
                prop_assert_eq!(read(&written, Some("other.key")).unwrap(), event, "{}", value);
                // No key twice: as many come back as went out.
                let again = serde_json::from_slice::<Value>(&written).unwrap();
                prop_assert_eq!(again.to_string().len(), written.len(), "{}", value);
            }
            Err(unparsed) => {
                prop_assert_eq!(unparsed.raw, bytes);
                prop_assert!(!unparsed.reason.is_empty());
            }
        }
    }

    #[test]
    fn any_bytes_are_an_event_or_kept(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Err(unparsed) = read(&bytes, Some("x.y")) {
            prop_assert_eq!(unparsed.raw, bytes);
        }
    }

    #[test]
    fn unknown_fields_survive(fields in unknown_fields(), event in event_like()) {
        let Value::Object(mut map) = event else { return Ok(()) };
        map.insert("event_type".to_owned(), "a.b".into());
        map.insert("payload".to_owned(), json!({}));
        map.extend(fields.clone());
        let event = read_json(&map.into());
        let written: Value = serde_json::from_slice(&event.to_json()).unwrap();
        for (key, value) in fields {
            prop_assert_eq!(&written[key], &value);
        }
    }
}
