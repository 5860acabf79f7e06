//! The event types that godctl itself emits or works off, their JSON Schemas, and a validator. Pure.
//!
//! The schemas are generated from the types by the tests of this file, kept in `assets/schemas` and built in. After a
//! change of a type: `UPDATE_SCHEMAS=1 cargo nextest run -E 'test(schemas)'`.

use std::{collections::BTreeMap, sync::LazyLock};

use jsonschema::{ValidationError, Validator, error::ValidationErrorKind};
use serde_json::Value;

use super::{
    Event, EventType, Source, Stamp,
    payload::{
        AgentPrompt, CircuitClosed, CircuitOpened, OutboxDrained, OutboxRefused, PartExited, PartFailed,
        PartReady, PartStarted, PartStopped, Payload, VoiceTranscription,
        agent::{
            AgentError, AgentPromptFailed, AgentResponse, AgentSessionEnded, AgentSessionStarted,
            AgentThinking, AgentToolCompleted, AgentToolInvoked, VoiceRefused,
        },
        flow::{AgentAggregateCompleted, AgentFlowStarted, AgentFlowStepCompleted},
        provider::{ProviderCircuitClosed, ProviderCircuitOpened, ProviderPaused},
    },
    read,
};

/// The name of transcriptions.
pub const VOICE: &str = VoiceTranscription::TYPE;

/// Their second name, which Bloodbank's other producers and consumers use.
pub const VOICE_ALIAS: &str = "transcription.voice.completed";

/// The JSON Schema of the envelope.
pub const ENVELOPE_SCHEMA: &str = include_str!("../../../assets/schemas/envelope.json");

/// One event type.
#[derive(Debug, Clone, Copy)]
pub struct TypeInfo {
    /// The event type.
    pub name: &'static str,
    /// What it tells, in a few words.
    pub title: &'static str,
    /// The JSON Schema of its payload (draft 2020-12), as text.
    pub schema: &'static str,
    /// A payload as it may come.
    pub example: fn() -> Value,
}

macro_rules! info {
    ($payload:ty, $name:literal, $title:literal) => {
        TypeInfo {
            name: <$payload>::TYPE,
            title: $title,
            schema: include_str!(concat!("../../../assets/schemas/", $name, ".json")),
            example: || to_value(&<$payload>::example()),
        }
    };
}

const VOICE_INFO: TypeInfo =
    info!(VoiceTranscription, "voice.transcription.completed", "An utterance was transcribed");

static KNOWN: [TypeInfo; 27] = [
    VOICE_INFO,
    TypeInfo { name: VOICE_ALIAS, ..VOICE_INFO },
    info!(AgentPrompt, "agent.prompt", "Work for an agent"),
    info!(AgentPromptFailed, "agent.prompt.failed", "A prompt was given up"),
    info!(AgentSessionStarted, "agent.session.started", "An agent began to work on a prompt"),
    info!(AgentThinking, "agent.thinking", "What an agent thinks"),
    info!(AgentToolInvoked, "agent.tool.invoked", "An agent uses a tool"),
    info!(AgentToolCompleted, "agent.tool.completed", "A tool of an agent is done"),
    info!(AgentResponse, "agent.response.completed", "An agent has answered a prompt"),
    info!(AgentError, "agent.error", "An agent has failed to answer a prompt"),
    info!(AgentSessionEnded, "agent.session.ended", "An agent has ended its work on a prompt"),
    info!(
        ProviderCircuitOpened,
        "agent.provider.circuit.opened", "An agent keeps failing, and gets no turns"
    ),
    info!(VoiceRefused, "agent.voice.refused", "Something was said to agents that is not worked on"),
    info!(ProviderCircuitClosed, "agent.provider.circuit.closed", "An agent gets turns again"),
    info!(ProviderPaused, "agent.provider.paused", "An agent gets no turns until a time"),
    info!(AgentFlowStarted, "agent.flow.started", "A run of a flow of agents began, or goes on"),
    info!(AgentFlowStepCompleted, "agent.flow.step.completed", "A step of a flow is over, well or not"),
    info!(
        AgentAggregateCompleted,
        "agent.aggregate.completed", "The answers of several agents, put together"
    ),
    info!(CircuitOpened, "bus.circuit.opened", "A broker is away; events go to the outbox"),
    info!(CircuitClosed, "bus.circuit.closed", "A broker is back"),
    info!(OutboxRefused, "bus.outbox.refused", "The outbox is full; events were refused"),
    info!(OutboxDrained, "bus.outbox.drained", "The outbox is empty again"),
    info!(PartStarted, "up.part.started", "A part was started"),
    info!(PartReady, "up.part.ready", "A part is ready"),
    info!(PartExited, "up.part.exited", "A part ended by itself"),
    info!(PartFailed, "up.part.failed", "A part was given up"),
    info!(PartStopped, "up.part.stopped", "A part was stopped"),
];

/// All of them.
#[must_use]
pub fn known() -> &'static [TypeInfo] {
    &KNOWN
}

/// The one of this name.
#[must_use]
pub fn find(event_type: &str) -> Option<&'static TypeInfo> {
    KNOWN.iter().find(|info| info.name == event_type)
}

/// An event with a payload of ours.
#[must_use]
pub fn event<P: Payload>(stamp: Stamp, source: Source, payload: &P) -> Event {
    Event::new(stamp, EventType(P::TYPE.to_owned()), source, to_value(payload))
}

fn to_value<P: Payload>(payload: &P) -> Value {
    serde_json::to_value(payload)
        .unwrap_or_else(|error| unreachable!("payloads are plain data with string keys: {error}"))
}

/// What is wrong with an event, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where, as a JSON pointer (RFC 6901); empty for the whole.
    pub path: String,
    /// What, and what to do.
    pub message: String,
}

/// Everything that keeps these bytes from being an event as godctl writes them; empty if they are one.
///
/// Stricter than [`read()`]: what that one reads but another reader of the bus refuses is a problem here. Payloads are
/// checked for the types in [`known`].
#[must_use]
pub fn validate(bytes: &[u8]) -> Vec<Problem> {
    let value = match read::parse(bytes, usize::MAX) {
        Ok(value) => value,
        Err(reason) => return vec![Problem { path: String::new(), message: reason }],
    };
    let mut problems = check(&ENVELOPE, "", &value);
    let payload = value.get("event_type").and_then(Value::as_str).and_then(|name| PAYLOADS.get(name));
    if let (Some(validator), Some(payload)) = (payload, value.get("payload")) {
        problems.extend(check(validator, "/payload", payload));
    }
    problems
}

/// Everything that keeps a payload from being one of this event type; `None` for a type that is not in [`known`].
#[must_use]
pub fn validate_payload(event_type: &str, payload: &Value) -> Option<Vec<Problem>> {
    Some(check(PAYLOADS.get(event_type)?, "/payload", payload))
}

static ENVELOPE: LazyLock<Validator> = LazyLock::new(|| compile(ENVELOPE_SCHEMA));

static PAYLOADS: LazyLock<BTreeMap<&str, Validator>> =
    LazyLock::new(|| KNOWN.iter().map(|info| (info.name, compile(info.schema))).collect());

fn compile(schema: &str) -> Validator {
    let schema: Value = serde_json::from_str(schema)
        .unwrap_or_else(|error| unreachable!("the schemas are built in and tested: {error}"));
    jsonschema::draft202012::options()
        .should_validate_formats(true)
        .build(&schema)
        .unwrap_or_else(|error| unreachable!("the schemas are built in and tested: {error}"))
}

fn check(validator: &Validator, below: &str, value: &Value) -> Vec<Problem> {
    validator.iter_errors(value).map(|error| problem(below, &error)).collect()
}

fn problem(below: &str, error: &ValidationError<'_>) -> Problem {
    // An optional value: what is wrong with it if it is there.
    if let ValidationErrorKind::AnyOf { context } = error.kind()
        && let Some(inner) = context.iter().flatten().find(|inner| !wants_null(inner))
    {
        return problem(below, inner);
    }
    let is = shortened(error.instance());
    let message = match error.kind() {
        ValidationErrorKind::Required { property } => {
            let name = property.as_str().unwrap_or_default();
            // The hints are about the envelope; a payload may mean something else by the same name.
            match hint(name).filter(|_| below.is_empty()) {
                Some(hint) => format!("lacks {name}; add {hint}"),
                None => format!("lacks {name}; add it"),
            }
        }
        ValidationErrorKind::Type { kind } => {
            let want = match kind {
                jsonschema::error::TypeKind::Single(kind) => kind.to_string(),
                jsonschema::error::TypeKind::Multiple(kinds) => {
                    kinds.iter().map(|kind| kind.to_string()).collect::<Vec<_>>().join(" or ")
                }
            };
            format!("is {}; make it of type {want}", read::name(error.instance()))
        }
        ValidationErrorKind::Format { format } if format == "date-time" => {
            format!("is {is}; write a time as in 2026-11-21T10:00:00Z")
        }
        ValidationErrorKind::Format { format } => format!("is {is}; write a {}", format.to_uppercase()),
        ValidationErrorKind::MinLength { .. } => "is empty; say something".to_owned(),
        ValidationErrorKind::MaxLength { limit } => format!("is longer than {limit} characters; shorten it"),
        ValidationErrorKind::Minimum { limit } => format!("is {is}; make it {limit} or more"),
        ValidationErrorKind::Maximum { limit } => format!("is {is}; make it {limit} or less"),
        ValidationErrorKind::Enum { options } => format!("is {is}; use one of {options}"),
        ValidationErrorKind::Pattern { pattern } => {
            let path = error.instance_path().to_string();
            match path.rsplit('/').next().and_then(hint).filter(|_| below.is_empty()) {
                Some(hint) => format!("is {is}; write {hint}"),
                None => format!("is {is}; write something that matches {pattern}"),
            }
        }
        _ => format!("is wrong: {}", error.masked()),
    };
    Problem { path: format!("{below}{}", error.instance_path()), message }
}

fn wants_null(error: &ValidationError<'_>) -> bool {
    matches!(error.kind(), ValidationErrorKind::Type { kind: jsonschema::error::TypeKind::Single(kind) } if kind.to_string() == "null")
}

/// A value that was found, short enough for a line.
fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}

/// What to put into a field of the envelope.
fn hint(field: &str) -> Option<&'static str> {
    Some(match field {
        "event_id" => "a new UUID",
        "event_type" => "domain.entity.action",
        "timestamp" => "the time as in 2026-11-21T10:00:00Z",
        "version" => r#""1.0.0""#,
        "source" => r#"{"host": …, "app": …, "type": …}"#,
        "correlation_ids" => "[], or the ids of the events that led to this one",
        "payload" => "{}, or the facts",
        "type" => "one, such as service, agent, manual, claude-code or custom",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, path::PathBuf};

    use schemars::{JsonSchema, Schema};
    use serde_json::json;

    use super::*;
    use crate::bus::event::AgentContext;

    fn directory() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("assets/schemas")
    }

    fn generate<T: JsonSchema>() -> Schema {
        schemars::generate::SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>()
    }

    /// The schema of a payload, with the title and the example of its entry.
    fn payload<P: Payload>() -> (String, Schema) {
        let info = find(P::TYPE).unwrap();
        let mut schema = generate::<P>();
        schema.insert("title".to_owned(), info.title.into());
        schema.insert("examples".to_owned(), json!([(info.example)()]));
        (P::TYPE.to_owned(), schema)
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "how a developer says that the change is meant")]
    fn schemas_are_those_of_the_types() {
        let schemas = [
            ("envelope".to_owned(), generate::<Event>()),
            payload::<VoiceTranscription>(),
            payload::<AgentPrompt>(),
            payload::<AgentPromptFailed>(),
            payload::<CircuitOpened>(),
            payload::<CircuitClosed>(),
            payload::<OutboxRefused>(),
            payload::<OutboxDrained>(),
            payload::<PartStarted>(),
            payload::<PartReady>(),
            payload::<PartExited>(),
            payload::<PartFailed>(),
            payload::<PartStopped>(),
            payload::<AgentSessionStarted>(),
            payload::<AgentSessionEnded>(),
            payload::<AgentThinking>(),
            payload::<AgentToolInvoked>(),
            payload::<AgentToolCompleted>(),
            payload::<AgentResponse>(),
            payload::<AgentError>(),
            payload::<ProviderCircuitOpened>(),
            payload::<ProviderCircuitClosed>(),
            payload::<ProviderPaused>(),
            payload::<VoiceRefused>(),
            payload::<AgentFlowStarted>(),
            payload::<AgentFlowStepCompleted>(),
            payload::<AgentAggregateCompleted>(),
        ];
        let update = std::env::var_os("UPDATE_SCHEMAS").is_some();
        let mut expected = BTreeSet::new();
        for (name, schema) in schemas {
            let path = directory().join(format!("{name}.json"));
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if update {
                std::fs::write(&path, &text).unwrap();
            }
            let kept = std::fs::read_to_string(&path).unwrap();
            assert_eq!(
                kept, text,
                "{name} has changed; if that is meant, run the tests with UPDATE_SCHEMAS=1"
            );
            expected.insert(path);
        }
        let found: BTreeSet<PathBuf> =
            std::fs::read_dir(directory()).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(found, expected, "each file belongs to a type, and each type has one");
        assert_eq!(expected.len(), KNOWN.len(), "the envelope is not in the list, and the alias has no file");
    }

    #[test]
    fn every_example_is_valid_and_what_we_emit_is_too() {
        for info in known() {
            assert_eq!(validate_payload(info.name, &(info.example)()), Some(Vec::new()), "{}", info.name);
        }
        let source = Source::new("desk", "godctl-asr", "manual");
        let mut event = event(Stamp::now(), source, &VoiceTranscription::example());
        assert_eq!(validate(&event.to_json()), []);
        event.agent_context = Some(AgentContext::new("custom", "codex", "s-1", "godctl"));
        event.correlation_ids = vec![event.event_id];
        assert_eq!(validate(&event.to_json()), []);
        event.event_type = VOICE_ALIAS.parse().unwrap();
        assert_eq!(validate(&event.to_json()), []);
    }

    #[test]
    fn problems_say_where_they_are_and_what_to_do() {
        let event = json!({
            "event_id": "evt-1", "event_type": VoiceTranscription::TYPE, "timestamp": "yesterday", "version": "one",
            "source": {"host": "desk", "app": null}, "correlation_ids": ["req-1"], "agent_context": {"name": "tonny"},
            "payload": {
                "text": "", "timestamp": "2026-11-21T10:00:00Z", "session_id": 5, "is_final": true,
                "utterance_id": "1",
                "audio_metadata": {"duration_seconds": -1, "sample_rate": 4000, "channels": 1, "format": "pcm", "model": "tiny", "confidence": 1.5},
            },
        });
        let problems = validate(event.to_string().as_bytes());
        let lines: Vec<String> =
            problems.iter().map(|problem| format!("{} {}", problem.path, problem.message)).collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        /agent_context lacks type; add one, such as service, agent, manual, claude-code or custom
        /correlation_ids/0 is "req-1"; write a UUID
        /event_id is "evt-1"; write a UUID
        /source lacks type; add one, such as service, agent, manual, claude-code or custom
        /source/app is null; make it of type string
        /timestamp is "yesterday"; write a time as in 2026-11-21T10:00:00Z
        /version is "one"; write "1.0.0"
        /payload lacks source; add it
        /payload/audio_metadata/confidence is 1.5; make it 1.0 or less
        /payload/audio_metadata/duration_seconds is -1; make it 0.0 or more
        /payload/audio_metadata/sample_rate is 4000; make it 8000 or more
        /payload/session_id is a number; make it of type string
        /payload/text is empty; say something
        "#);
        let whole = validate(b"{}");
        assert!(whole.iter().all(|problem| problem.path.is_empty()), "{whole:?}");
        assert_eq!(whole.len(), 7, "{whole:?}");
        assert_eq!(validate(b"not json")[0].message, "not JSON: expected ident at line 1 column 2");
        assert_eq!(validate(b"[]")[0].message, "is an array; make it of type object");
    }

    #[test]
    fn an_unknown_type_may_carry_anything() {
        let mut event = event(Stamp::now(), Source::new("a", "b", "service"), &PartReady::example());
        event.event_type = "my.own.type".parse().unwrap();
        event.payload = json!({"anything": [1]});
        assert_eq!(validate(&event.to_json()), []);
        assert_eq!(validate_payload("my.own.type", &json!(1)), None);
        assert!(find("my.own.type").is_none());
    }

    #[test]
    fn a_prompt_needs_no_more_than_who_and_what() {
        let prompt: AgentPrompt =
            serde_json::from_value(json!({"provider": "claude", "prompt": "hi"})).unwrap();
        assert_eq!(prompt.continuation_mode, super::super::payload::Continuation::New);
        let full = json!({"provider": "claude", "prompt": "hi", "continuation_mode": "resume", "session_id": "s",
            "hooks": [{"name": "log"}], "metadata": {"a": 1}, "correlation_id": "req-abc123"});
        assert_eq!(validate_payload("agent.prompt", &full), Some(Vec::new()));
        let prompt: AgentPrompt = serde_json::from_value(full).unwrap();
        assert_eq!((prompt.hooks[0].enabled, prompt.hooks[0].priority), (true, 100));
    }
}
