//! The payloads of the event types that godctl itself emits or works off. Plain types; `registry` lists them.
//!
//! What a doc comment says here is what the JSON Schema says.

pub mod agent;
pub mod flow;
pub mod provider;

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

/// The payload of one event type.
pub trait Payload: Serialize + JsonSchema {
    /// The event type.
    const TYPE: &'static str;

    /// One as it may come, for documentation.
    fn example() -> Self;
}

/// One utterance of a speaker, transcribed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct VoiceTranscription {
    /// What was said.
    #[schemars(length(min = 1))]
    pub text: String,
    /// When the utterance ended.
    pub timestamp: Timestamp,
    /// What transcribed it, such as `godctl-asr`.
    #[schemars(length(min = 1))]
    pub source: String,
    /// The stream of audio that it was heard in.
    pub session_id: Uuid,
    /// Whether these words will not change any more; always true for godctl, which publishes whole utterances.
    pub is_final: bool,
    /// Unique within the bus; utterances of a session count up.
    #[schemars(length(min = 1))]
    pub utterance_id: String,
    /// Who shall act on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// About the sound.
    pub audio_metadata: AudioMetadata,
    /// About the surroundings.
    #[serde(default)]
    pub context: VoiceContext,
}

/// About the sound of an utterance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AudioMetadata {
    /// From the first sound of the utterance to its last, in seconds.
    #[schemars(range(min = 0.0))]
    pub duration_seconds: f64,
    /// Samples per second, as they were transcribed.
    #[schemars(range(min = 8000))]
    pub sample_rate: u32,
    /// Channels, as they were transcribed.
    #[schemars(range(min = 1))]
    pub channels: u16,
    /// How the audio was encoded where it was transcribed, such as `pcm`.
    pub format: String,
    /// The language as ISO 639-1, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// The model that transcribed it.
    pub model: String,
    /// How sure the model is, from 0 to 1, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0, max = 1.0))]
    pub confidence: Option<f64>,
    /// Who spoke, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub speaker_id: Option<String>,
}

/// About the surroundings of an utterance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct VoiceContext {
    /// What was spoken to: `desktop`, `mobile` or `browser`.
    pub device_type: String,
    /// Words to filter by.
    #[serde(default)]
    pub tags: Vec<String>,
}

impl Default for VoiceContext {
    fn default() -> Self {
        Self { device_type: "desktop".to_owned(), tags: Vec::new() }
    }
}

/// Work for an agent: a prompt, and how to run it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct AgentPrompt {
    /// Who shall work on it, such as `claude`.
    #[schemars(length(min = 1))]
    pub provider: String,
    /// What is to be done.
    #[schemars(length(min = 1))]
    pub prompt: String,
    /// The session to work in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<String>,
    /// Whether that session exists.
    #[serde(default)]
    pub continuation_mode: Continuation,
    /// What runs before and after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
    /// Passed on as it is.
    #[serde(default)]
    pub metadata: Map<String, Value>,
    /// Ties the answer to the question; one is made if it is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correlation_id: Option<String>,
    /// A prompt with a key that came before is not worked on again; the event's id is one if there is no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The directory to work in, within what the listener allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cwd: Option<String>,
    /// Which model; without it the agent chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// What the agent may do without asking, up to what the listener allows: `plan`, `default`, `edit` or `full`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
    /// Seconds that it may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_s: Option<u64>,
    /// What the session can be found by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
}

/// How a prompt relates to earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Continuation {
    /// A new session.
    #[default]
    New,
    /// The provider's latest session.
    Continue,
    /// The session of `session_id`.
    Resume,
}

/// Something that runs before or after a prompt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Hook {
    /// Which one.
    #[schemars(length(min = 1))]
    pub name: String,
    /// Off without being taken out.
    #[serde(default = "enabled")]
    pub enabled: bool,
    /// Smaller runs earlier.
    #[serde(default = "priority")]
    pub priority: i32,
    /// Settings of the hook.
    #[serde(default)]
    pub config: BTreeMap<String, Value>,
}

const fn enabled() -> bool {
    true
}

const fn priority() -> i32 {
    100
}

/// The circuit breaker in front of a broker opened: publishing goes to the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CircuitOpened {
    /// The broker's address, without a password.
    pub bus: String,
    /// Failures in a row that led to it.
    pub failures: u32,
    /// The last of them.
    pub reason: String,
    /// Seconds until the broker is tried again.
    #[schemars(range(min = 0.0))]
    pub retry_in_s: f64,
    /// Events that wait in the outbox.
    pub waiting: u64,
}

/// The circuit breaker in front of a broker closed: the broker takes events again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CircuitClosed {
    /// The broker's address, without a password.
    pub bus: String,
    /// How long the circuit was open, in seconds.
    #[schemars(range(min = 0.0))]
    pub open_s: f64,
    /// Events that wait in the outbox.
    pub waiting: u64,
}

/// The outbox in front of a broker was full, and events were refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutboxRefused {
    /// The broker's address, without a password.
    pub bus: String,
    /// Events refused since the outbox filled up.
    pub refused: u64,
    /// Events that wait in the outbox.
    pub waiting: u64,
    /// Their bytes.
    pub waiting_bytes: u64,
    /// Which limit was reached, and what to do.
    pub reason: String,
}

/// The outbox in front of a broker is empty again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct OutboxDrained {
    /// The broker's address, without a password.
    pub bus: String,
    /// Events sent since the broker came back.
    pub sent: u64,
    /// Events that the broker will never take; they are kept beside the outbox.
    pub failed: u64,
    /// How long it took, in seconds.
    #[schemars(range(min = 0.0))]
    pub took_s: f64,
}

/// A part under `godctl up` was started.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartStarted {
    /// The part's name.
    pub part: String,
    /// Its process.
    pub pid: u32,
    /// How often it was started again before.
    pub restarts: u32,
}

/// A part under `godctl up` is ready to work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartReady {
    /// The part's name.
    pub part: String,
    /// Its process.
    pub pid: u32,
    /// Seconds since it was started.
    #[schemars(range(min = 0.0))]
    pub after_s: f64,
}

/// A part under `godctl up` ended although nobody stopped it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartExited {
    /// The part's name.
    pub part: String,
    /// Its process.
    pub pid: u32,
    /// Its exit code, unless a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// How often it was started again before.
    pub restarts: u32,
    /// Seconds until it is started again; missing if it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.0))]
    pub restart_in_s: Option<f64>,
    /// How it ended, in words.
    pub reason: String,
}

/// A part under `godctl up` will not be started again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartFailed {
    /// The part's name.
    pub part: String,
    /// Its last exit code, unless a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How often it was started again.
    pub restarts: u32,
    /// Why it was given up.
    pub reason: String,
}

/// A part under `godctl up` ended because it was told to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct PartStopped {
    /// The part's name.
    pub part: String,
    /// Its process.
    pub pid: u32,
    /// Its exit code, unless a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How often it was started again before.
    pub restarts: u32,
    /// Who stopped it, and whether it had to be killed.
    pub reason: String,
}

impl Payload for VoiceTranscription {
    const TYPE: &'static str = "voice.transcription.completed";

    fn example() -> Self {
        Self {
            text: "Turn on the lights in the kitchen.".to_owned(),
            timestamp: Timestamp::from_second(1_795_255_200).unwrap_or_default(),
            source: "godctl-asr".to_owned(),
            session_id: Uuid::from_u128(0x019d_2b61_7c3e_7a51_9b2c_3d4e_5f60_7182),
            is_final: true,
            utterance_id: "019d2b61-7c3e-7a51-9b2c-3d4e5f607182/1".to_owned(),
            target: None,
            audio_metadata: AudioMetadata {
                duration_seconds: 1.9,
                sample_rate: 16_000,
                channels: 1,
                format: "pcm".to_owned(),
                language: Some("en".to_owned()),
                model: "base.en".to_owned(),
                confidence: Some(0.94),
                speaker_id: None,
            },
            context: VoiceContext::default(),
        }
    }
}

impl Payload for AgentPrompt {
    const TYPE: &'static str = "agent.prompt";

    fn example() -> Self {
        Self {
            provider: "claude".to_owned(),
            prompt: "summarise yesterday's meeting".to_owned(),
            session_id: None,
            continuation_mode: Continuation::New,
            hooks: Vec::new(),
            metadata: Map::new(),
            correlation_id: Some("019d2b61-7c3e-7a51-9b2c-3d4e5f607183".to_owned()),
            idempotency_key: None,
            cwd: None,
            model: None,
            access: None,
            timeout_s: None,
            tags: Vec::new(),
        }
    }
}

const BROKER: &str = "amqp://***@broker:5672/";

impl Payload for CircuitOpened {
    const TYPE: &'static str = "bus.circuit.opened";

    fn example() -> Self {
        let reason = "connection refused".to_owned();
        Self { bus: BROKER.to_owned(), failures: 3, reason, retry_in_s: 30.0, waiting: 12 }
    }
}

impl Payload for CircuitClosed {
    const TYPE: &'static str = "bus.circuit.closed";

    fn example() -> Self {
        Self { bus: BROKER.to_owned(), open_s: 61.5, waiting: 12 }
    }
}

impl Payload for OutboxRefused {
    const TYPE: &'static str = "bus.outbox.refused";

    fn example() -> Self {
        let reason = "1000 events wait, and bus.outbox_max allows no more".to_owned();
        Self { bus: BROKER.to_owned(), refused: 3, waiting: 1000, waiting_bytes: 412_311, reason }
    }
}

impl Payload for OutboxDrained {
    const TYPE: &'static str = "bus.outbox.drained";

    fn example() -> Self {
        Self { bus: BROKER.to_owned(), sent: 12, failed: 0, took_s: 0.2 }
    }
}

const PART: &str = "asr-serve";

impl Payload for PartStarted {
    const TYPE: &'static str = "up.part.started";

    fn example() -> Self {
        Self { part: PART.to_owned(), pid: 4711, restarts: 0 }
    }
}

impl Payload for PartReady {
    const TYPE: &'static str = "up.part.ready";

    fn example() -> Self {
        Self { part: PART.to_owned(), pid: 4711, after_s: 0.8 }
    }
}

impl Payload for PartExited {
    const TYPE: &'static str = "up.part.exited";

    fn example() -> Self {
        Self {
            part: PART.to_owned(),
            pid: 4711,
            exit_code: None,
            signal: Some(9),
            restarts: 0,
            restart_in_s: Some(1.0),
            reason: "killed by signal 9".to_owned(),
        }
    }
}

impl Payload for PartFailed {
    const TYPE: &'static str = "up.part.failed";

    fn example() -> Self {
        let reason = "ended 5 times within 60 s".to_owned();
        Self { part: PART.to_owned(), exit_code: Some(78), restarts: 5, reason }
    }
}

impl Payload for PartStopped {
    const TYPE: &'static str = "up.part.stopped";

    fn example() -> Self {
        let reason = "godctl up is stopping".to_owned();
        Self { part: PART.to_owned(), pid: 4711, exit_code: Some(0), restarts: 0, reason }
    }
}
