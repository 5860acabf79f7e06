//! One typed configuration: defaults < file < environment < flags.
//!
//! This file holds the sections and their defaults, which exist nowhere else. [`Loader`] collects the layers, merges
//! them and parses the result once; [`Loaded`] remembers which layer gave each key. Loading makes no directory, reads
//! no secret file and sets no global. Everything here runs on the caller's thread and holds nothing open.
//!
//! A part of the program gets its own section by value and reads neither the environment nor this module's other
//! sections. To add a key: a field here with its default, a line in `assets/config.example.toml` (a test compares the
//! two), and a rule in [`Config::validate`] if some values make no sense. To add a section: also a line in `schema.rs`.

mod agents;
mod bus;
mod error;
mod hooks;
mod limits;
mod listen;
mod load;
mod mask;
mod paths;
mod providers;
mod schema;
mod secret;
mod serving;
mod sessions;
mod store;
mod template;
mod up;
mod usd;
mod values;

use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

pub use self::{
    agents::{Agents, PriceSettings},
    bus::{Bus, BusUrl, Durability},
    error::{ConfigError, Violation},
    hooks::{HookKind, HookMap, HookSettings, When},
    limits::{LimitMap, LimitSettings},
    listen::{AgentListen, MaxAccess},
    load::{Loaded, Loader, Overrides},
    mask::{holds_password, mask_addresses},
    paths::{Environment, Paths},
    providers::{Endpoint, Preset, ProviderSettings, Providers},
    secret::{Secret, SecretError},
    sessions::Sessions,
    store::{Store, StoreUrl},
    template::{AcpSettings, Argument, CommandSettings, Hole, Parser, Piece, StopSignal, pieces},
    up::{CommandLine, Up},
    usd::Usd,
    values::{Entry, Origin, Shown},
};

/// Everything that can be set, with its default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Where godctl keeps downloaded models and its database; unset means the platform's place for user data.
    pub data_dir: Option<PathBuf>,
    /// What is logged, where and how.
    pub log: Log,
    /// Where sound comes from.
    pub audio: Audio,
    /// When somebody is speaking.
    pub vad: Vad,
    /// Speech to text.
    pub asr: Asr,
    /// Where weights come from.
    pub models: Models,
    /// Where events go.
    pub bus: Bus,
    /// Who works on prompts.
    pub agents: Agents,
    /// How prompts from the bus are worked on.
    pub listen: AgentListen,
    /// Where sessions are kept.
    pub store: Store,
    /// What `godctl up` runs.
    pub up: Up,
    /// How the program ends.
    pub shutdown: Stop,
}

/// `log`: what is logged, where and how.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or filter directives such as `warn,godctl::asr=debug`.
    /// Unset means `info` for servers and `warn` for everything else.
    pub level: Option<String>,
    /// Lines for people or objects for machines.
    pub format: LogFormat,
    /// Append to this file instead of writing to stderr; made readable by its owner only.
    pub file: Option<PathBuf>,
    /// When output carries colour codes.
    pub color: Color,
}

/// `log.format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// `log.color`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Color {
    /// Only on a terminal, and not where `NO_COLOR` is set.
    #[default]
    Auto,
    /// Even into a pipe.
    Always,
    /// Not at all.
    Never,
}

/// `audio`: where sound comes from.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Audio {
    /// A microphone's name, or `file:PATH` to play a recording at the pace of the clock; unset means the system's
    /// default microphone.
    pub input: Option<String>,
}

/// `vad`: when somebody is speaking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Vad {
    /// Speech probability (0 to 1) at which speech begins.
    pub threshold: f64,
    /// Speech probability (0 to `threshold`) below which speech ends.
    pub release: f64,
    /// Speech shorter than this is a click, not a word.
    pub min_speech_ms: u32,
    /// Silence of this length ends an utterance.
    pub min_silence_ms: u32,
    /// Audio kept from before speech was noticed, so that first consonants survive.
    pub pre_roll_ms: u32,
}

impl Default for Vad {
    fn default() -> Self {
        Self { threshold: 0.5, release: 0.35, min_speech_ms: 144, min_silence_ms: 600, pre_roll_ms: 300 }
    }
}

/// `asr`: speech to text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Asr {
    /// Where `asr-serve` listens.
    pub listen: Listen,
    /// A model of the catalogue, `owner/name[@revision]`, or a directory; unset means the best one installed, else
    /// the built-in one.
    pub model: Option<String>,
    /// Where inference runs.
    pub device: Device,
    /// Threads for inference; unset means one for each physical core.
    pub threads: Option<u32>,
    /// ISO code such as `en`; unset or `auto` means to detect it.
    pub language: Option<String>,
    /// Write down the language spoken, or its translation into English.
    pub task: Task,
    /// Streams transcribed at once; one more is refused. `auto` measures at start how many this machine holds.
    pub max_sessions: Sessions,
    /// Which rule makes words final before their utterance has ended.
    pub policy: Policy,
    /// New audio between two looks at a stream; unset means 500 for models with short windows, 1000 for the others.
    pub hop_ms: Option<u32>,
    /// Successive hypotheses that must agree on a word before it is final; unset means 3 for models with short
    /// windows, 2 for the others.
    pub agreement: Option<u32>,
    /// Beams kept by beam search; 1 is greedy.
    pub beam_size: u32,
    /// A stream for which nothing happens for so long, although audio waits, is ended with an error.
    pub watchdog_s: u32,
    /// Publish what `asr-serve` and `demo` hear on the bus.
    pub publish: bool,
    /// A token that clients of `asr-serve` must send; its name in logs is `default`.
    #[serde(skip_serializing)]
    pub token: Option<Secret>,
    /// A file that holds that token; read at the start and on SIGHUP, and only if `token` is unset.
    pub token_file: Option<PathBuf>,
    /// A file with any number of tokens, hashed, each with a name and limits; read at the start and on SIGHUP.
    pub tokens_file: Option<PathBuf>,
    /// Listen where other machines can connect although no token is asked for.
    pub insecure: bool,
    /// Certificate chain (PEM) that makes `asr-serve` speak TLS; read at the start and on SIGHUP.
    pub tls_cert: Option<PathBuf>,
    /// The private key (PEM) of `tls_cert`.
    pub tls_key: Option<PathBuf>,
    /// Origins of web pages that may open websockets, besides the server's own, this machine and browser extensions.
    pub allow_origins: Vec<String>,
    /// Origins of web pages whose scripts may read answers over HTTP (CORS).
    pub cors_origins: Vec<String>,
    /// Streams that one token may have at once where the tokens file says nothing else; unset means no limit of its
    /// own.
    pub max_sessions_per_token: Option<u32>,
    /// Seconds that a session may last; unset means no limit.
    pub max_session_s: Option<u32>,
    /// A session whose client sends nothing for so many seconds is closed.
    pub idle_timeout_s: u32,
    /// A peer that takes nothing of what it is sent for so many seconds is dropped.
    pub send_timeout_s: u32,
    /// Seconds until the head of a request must have arrived, TLS included.
    pub header_timeout_s: u32,
    /// Seconds until the next piece of an upload must have arrived.
    pub body_timeout_s: u32,
    /// Connections at once; one more is refused.
    pub max_connections: u32,
    /// The largest websocket message, in KB.
    pub max_message_kb: u32,
    /// The largest upload, in MB.
    pub max_upload_mb: u32,
}

impl Default for Asr {
    fn default() -> Self {
        Self {
            listen: Listen::default(),
            model: None,
            device: Device::Auto,
            threads: None,
            language: None,
            task: Task::Transcribe,
            max_sessions: Sessions::AtMost(DEFAULT_SESSIONS),
            policy: Policy::LocalAgreement,
            hop_ms: None,
            agreement: None,
            beam_size: 1,
            watchdog_s: 120,
            publish: true,
            token: None,
            token_file: None,
            tokens_file: None,
            insecure: false,
            tls_cert: None,
            tls_key: None,
            allow_origins: Vec::new(),
            cors_origins: Vec::new(),
            max_sessions_per_token: None,
            max_session_s: None,
            idle_timeout_s: 300,
            send_timeout_s: 30,
            header_timeout_s: 10,
            body_timeout_s: 30,
            max_connections: 512,
            max_message_kb: 4096,
            max_upload_mb: 512,
        }
    }
}

/// The default of `asr.max_sessions`.
const DEFAULT_SESSIONS: NonZeroU32 = NonZeroU32::MIN.saturating_add(15);

/// `asr.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub enum Policy {
    /// Successive hypotheses agree on a word.
    #[default]
    LocalAgreement,
    /// The model looked for a word in audio that lies far enough back.
    AlignAtt,
}

/// `asr.device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Device {
    /// A GPU that this build can use, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// An NVIDIA GPU (a build with the `cuda` feature).
    Cuda,
    /// An Apple GPU (a build with the `metal` feature).
    Metal,
}

/// `asr.task`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Write down the language spoken.
    #[default]
    Transcribe,
    /// Write it down in English.
    Translate,
}

/// `models`: where weights come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Models {
    /// Where models are installed; unset means `models` in the data directory.
    pub dir: Option<PathBuf>,
    /// The hub that models are pulled from.
    pub endpoint: String,
    /// An access token for gated or private models.
    #[serde(skip_serializing)]
    pub token: Option<Secret>,
    /// A file that holds the token; read when it is needed, and only if `token` is unset.
    pub token_file: Option<PathBuf>,
    /// Never use the network.
    pub offline: bool,
}

impl Default for Models {
    fn default() -> Self {
        Self {
            dir: None,
            endpoint: "https://huggingface.co".to_owned(),
            token: None,
            token_file: None,
            offline: false,
        }
    }
}

/// `shutdown`: how the program ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Stop {
    /// Seconds that everything together may take to stop in order.
    pub deadline_s: u32,
}

impl Default for Stop {
    fn default() -> Self {
        Self { deadline_s: 15 }
    }
}

impl Stop {
    /// How long everything together may take to stop.
    #[must_use]
    pub const fn deadline(&self) -> Duration {
        Duration::from_secs(self.deadline_s as u64)
    }
}

/// A `host:port` to listen on; port 0 takes a free one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Listen(String);

impl Listen {
    /// As it was written, ready for the resolver.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Listen {
    fn default() -> Self {
        Self("127.0.0.1:8000".to_owned())
    }
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Listen> for String {
    fn from(listen: Listen) -> Self {
        listen.0
    }
}

impl TryFrom<String> for Listen {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        const SHAPE: &str =
            "not an address to listen on; write host:port, such as 127.0.0.1:8000 or [::1]:8000";
        let (host, port) = text.rsplit_once(':').ok_or(SHAPE)?;
        let bracketed = host.starts_with('[') && host.ends_with(']');
        let host_is_plain = !host.is_empty() && !host.contains(|c: char| c.is_whitespace() || c == '/');
        // A bare IPv6 address would be cut at its last group and become another address.
        if !host_is_plain || (host.contains(':') && !bracketed) || port.parse::<u16>().is_err() {
            return Err(SHAPE);
        }
        Ok(Self(text))
    }
}

impl std::str::FromStr for Listen {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

impl Config {
    /// Checks what types can't: ranges, and keys that contradict each other. [`Loader::load`] calls it.
    ///
    /// # Errors
    /// The first rule broken.
    pub fn validate(&self) -> Result<(), Violation> {
        let Self { data_dir, log, audio, vad, asr, models, bus, agents, listen, store, up, shutdown } = self;

        let rule = |holds: bool, key: &'static str, reason: &str| {
            if holds { Ok(()) } else { Err(Violation { key, reason: reason.to_owned() }) }
        };
        let no_tilde = |path: &Option<PathBuf>, key: &'static str| {
            let plain = path.as_ref().is_none_or(|path| !path.starts_with("~"));
            rule(plain, key, "only a shell expands ~; write the directory out")
        };

        no_tilde(data_dir, "data_dir")?;
        no_tilde(&log.file, "log.file")?;
        if let Some(level) = &log.level {
            rule(
                is_filter(level),
                "log.level",
                "want off, error, warn, info, debug, trace or target=level,…",
            )?;
        }

        let given = |text: &Option<String>, key: &'static str| {
            let given = text.as_ref().is_none_or(|text| !text.trim().is_empty());
            rule(given, key, "an empty text names nothing; leave it out for the default")
        };
        given(&audio.input, "audio.input")?;
        given(&asr.model, "asr.model")?;

        let probability = 0.0..=1.0;
        rule(probability.contains(&vad.threshold), "vad.threshold", "a probability lies between 0 and 1")?;
        rule(probability.contains(&vad.release), "vad.release", "a probability lies between 0 and 1")?;
        rule(
            vad.release <= vad.threshold,
            "vad.release",
            "must not be above vad.threshold, or speech never ends",
        )?;
        rule(
            vad.min_silence_ms > 0,
            "vad.min_silence_ms",
            "without silence no utterance would ever end; want 1 or more",
        )?;
        rule(
            vad.pre_roll_ms <= 5_000,
            "vad.pre_roll_ms",
            "more than 5000 ms is speech from before, not a pre-roll",
        )?;

        rule(
            asr.threads != Some(0),
            "asr.threads",
            "want 1 or more; leave it out for one per physical core",
        )?;
        rule((1..=86_400).contains(&asr.watchdog_s), "asr.watchdog_s", "want 1 to 86400")?;
        let within = |value: Option<u32>, range: std::ops::RangeInclusive<u32>| {
            value.is_none_or(|v| range.contains(&v))
        };
        rule(within(asr.hop_ms, 100..=10_000), "asr.hop_ms", "want 100 to 10000")?;
        rule(within(asr.agreement, 1..=8), "asr.agreement", "want 1 (commit at once) to 8")?;
        rule((1..=16).contains(&asr.beam_size), "asr.beam_size", "want 1 (greedy) to 16")?;
        if let Some(language) = &asr.language {
            let code = language == AUTO
                || (2..=3).contains(&language.len()) && language.bytes().all(|b| b.is_ascii_lowercase());
            rule(code, "asr.language", "want an ISO code such as en, or auto to detect the language")?;
        }
        asr.validate_serving()?;

        let http = models.endpoint.starts_with("http://") || models.endpoint.starts_with("https://");
        rule(http, "models.endpoint", "want a URL that starts with https:// (or http://)")?;
        no_tilde(&models.dir, "models.dir")?;
        no_tilde(&models.token_file, "models.token_file")?;

        no_tilde(&bus.password_file, "bus.password_file")?;
        no_tilde(&bus.ca_file, "bus.ca_file")?;
        rule(
            !bus.url.path().starts_with('~'),
            "bus.url",
            "only a shell expands ~; write the directory out, or leave the path away for the data directory",
        )?;
        rule(
            (1..=127).contains(&bus.exchange.len()),
            "bus.exchange",
            "an exchange has a name of 1 to 127 bytes",
        )?;
        rule(bus.prefetch > 0, "bus.prefetch", "want 1 or more; 0 would mean no limit")?;
        rule((1..=300).contains(&bus.connect_timeout_s), "bus.connect_timeout_s", "want 1 to 300")?;
        rule((1..=300).contains(&bus.publish_timeout_s), "bus.publish_timeout_s", "want 1 to 300")?;
        rule((5..=600).contains(&bus.heartbeat_s), "bus.heartbeat_s", "want 5 to 600")?;
        rule(
            (1024..=64 << 20).contains(&bus.max_event_bytes),
            "bus.max_event_bytes",
            "want 1024 to 67108864 (64 MiB)",
        )?;
        rule(bus.outbox_max > 0, "bus.outbox_max", "want 1 or more; a broker is always away at some time")?;
        rule(bus.outbox_max_mb > 0, "bus.outbox_max_mb", "want 1 or more")?;
        rule(
            bus.voice_alias.len() <= 255 && !bus.voice_alias.contains(char::is_control),
            "bus.voice_alias",
            "an event type has at most 255 bytes and no control characters; \"\" means none",
        )?;

        agents.validate()?;
        listen.validate()?;
        store.validate()?;
        no_tilde(&store.password_file, "store.password_file")?;
        no_tilde(&store.keys_file, "store.keys_file")?;
        up.validate()?;

        rule((1..=600).contains(&shutdown.deadline_s), "shutdown.deadline_s", "want 1 to 600")
    }
}

/// The value of `asr.language` that means the same as none: detect it.
pub const AUTO: &str = "auto";

/// The names of the levels, quietest first.
pub const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A level by name, or `target=level` directives. The subscriber's own parser takes any word for a target, so that
/// a mistyped level would switch everything off without a word.
fn is_filter(text: &str) -> bool {
    !text.trim().is_empty()
        && text.split(',').all(|directive| {
            let level = directive.rsplit_once('=').map_or(directive, |(_, level)| level);
            LEVELS.contains(&level.trim().to_ascii_lowercase().as_str())
        })
        && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}
