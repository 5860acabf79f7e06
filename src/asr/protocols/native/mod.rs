//! The websocket `/asr`: WhisperLiveKit's wire format, and what godctl adds to it. Pure.
//!
//! In order the server sends one [`Tagged::Config`], then [`StateUpdate`]s (the only messages without a `type`), and
//! after the end of the audio [`Tagged::ReadyToStop`]. Each update carries everything said so far and replaces the one
//! before, so a client may skip any of them; with `mode=diff` the updates are those of [`diff`]. The client sends audio
//! as binary frames, an empty one for the end, and [`control`] messages as text.
//!
//! What differs from WhisperLiveKit, all of it visible to old clients as nothing worse than a new key:
//! - One line for each utterance, sentence or so many characters, as the client likes ([`segment`]). There a line ends
//!   only at a pause of 5 s, and its users complain of one paragraph that grows for ever and mutates; here each line
//!   has an `id`, says when it is `final`, and never changes after that. The committed words of the line that still
//!   grows are the last line, and only its tail is in `buffer_transcription`.
//! - `words=true` puts the words with their times, in seconds, into every line and next to the buffer.
//! - Old lines are dropped beyond a cap and counted in `lines_pruned`; there the history grows without limit.
//! - The config message says what is in force: model, language, task, prompt, policy, hop, what was ignored; a client
//!   may send one of its own before its first audio and gets the server's again.

pub mod control;
pub mod diff;
pub mod request;
pub mod segment;
pub mod transcript;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use self::segment::Segment;
use crate::asr::{Task, Word, stream::Policy};

/// The speaker of every spoken line as long as nobody tells speakers apart.
pub const SPEAKER: i32 = 1;
/// The speaker of a line that stands for a pause.
pub const SILENCE: i32 = -2;
/// Closes a session whose parameters the server cannot honour.
pub const CLOSE_BAD_PARAMETERS: u16 = 4400;
/// What a client is told with [`CLOSE_BAD_PARAMETERS`].
pub const BAD_PARAMETERS: &str = "invalid session parameters";

/// A message with a `type`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Tagged {
    /// The first message: what is in force.
    Config(Box<Config>),
    /// Something the client sent was refused; whether the session goes on is told by the socket.
    Error {
        /// For people.
        error: String,
        /// For programs, such as `busy` or `bad_request`.
        code: String,
        /// Seconds after which the same may succeed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        retry_after: Option<u64>,
    },
    /// Everything sent before the marker of this name has been dealt with, and its words were in an update before.
    Marker {
        /// As the client gave it.
        name: String,
    },
    /// Everything has been said; the client may close.
    ReadyToStop,
}

/// What is in force in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Tells a browser to send raw PCM. Always true: it saves an encoder's delay, and encoded audio is recognised anyway.
    #[serde(rename = "useAudioWorklet")]
    pub use_audio_worklet: bool,
    /// `full`: every update carries all lines; `diff`: only what is new.
    pub mode: Cow<'static, str>,
    /// The session's id in the server's log.
    pub session: String,
    /// The model that listens.
    pub model: String,
    /// An ISO code, or `auto` for detection.
    pub language: String,
    /// Where the language is detected, only these are considered; empty for all that the model knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub languages: Vec<String>,
    /// Transcribe or translate.
    pub task: Task,
    /// The context given to the decoder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<String>,
    /// The words to favour.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hotwords: Option<String>,
    /// Which rule makes words final before their utterance has ended.
    pub policy: Policy,
    /// The running utterance is decoded so often, in milliseconds.
    pub hop: u64,
    /// Silence that ends an utterance, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpointing: Option<u64>,
    /// What ends a line.
    pub segment: Segment,
    /// Characters of a line, where that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_length: Option<usize>,
    /// Lines carry their words.
    pub words: bool,
    /// The rate that raw PCM is taken to have, in Hz.
    pub sample_rate: u32,
    /// Lines kept; older ones are dropped and counted.
    pub retention_lines: usize,
    /// Names of parameters that this server does not know and did nothing about.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// There are words.
    ActiveTranscription,
    /// There are no words yet.
    NoAudioDetected,
    /// Something failed: see `error`. The session goes on.
    Error,
}

/// Everything said so far.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateUpdate<'a> {
    /// What the session is doing.
    pub status: Status,
    /// What is final.
    pub lines: Cow<'a, [Line]>,
    /// Lines that were dropped from the front so far.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lines_pruned: u64,
    /// What may still change. It begins with a space where the language wants one after the last line.
    pub buffer_transcription: Cow<'a, str>,
    /// The words of the buffer, if asked for.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub buffer_words: Cow<'a, [TimedWord]>,
    /// Text that waits for its speaker: always empty.
    pub buffer_diarization: Cow<'a, str>,
    /// Translated text that may still change: always empty.
    pub buffer_translation: Cow<'a, str>,
    /// Time since the first audio minus the audio that was taken in, in seconds. Means something only at real time.
    pub remaining_time_transcription: f64,
    /// Audio received minus audio taken in, in seconds: how far the model is behind.
    pub remaining_time_transcription_processing: f64,
    /// Audio taken in minus audio committed, in seconds: what the policy holds back.
    pub remaining_time_transcription_policy: f64,
    /// Always 0.
    pub remaining_time_diarization: f64,
    /// Milliseconds between two looks at the running utterance, while that is more than the config message says: the
    /// machine cannot keep up with what it has to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<u64>,
    /// What failed, with status `error`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn is_empty<T>(list: &[T]) -> bool {
    list.is_empty()
}

/// An utterance or a part of one, or a pause between two.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Which line of the session it is, from 0; pauses count.
    #[serde(default)]
    pub id: u64,
    /// Nothing of it will ever change.
    #[serde(default, rename = "final")]
    pub last: bool,
    /// [`SPEAKER`] or [`SILENCE`].
    pub speaker: i32,
    /// Empty for a pause.
    pub text: String,
    /// `H:MM:SS.cc` on the clock of the audio.
    pub start: String,
    /// `H:MM:SS.cc`.
    pub end: String,
    /// ISO code, where it is known when the line ends: it was given, or the utterance has ended with the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_language: Option<String>,
    /// The words, if asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub words: Vec<TimedWord>,
}

/// One word with its place on the clock of the audio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TimedWord {
    /// Without the space around it.
    pub word: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// 0 to 1.
    pub probability: f64,
}

impl From<&Word> for TimedWord {
    fn from(word: &Word) -> Self {
        Self {
            word: word.text.trim().to_owned(),
            start: round(word.start, 1e3),
            end: round(word.end, 1e3),
            probability: round(f64::from(word.probability), 1e3),
        }
    }
}

/// A message of the server, as a client reads it.
#[derive(Debug, Clone, PartialEq)]
pub enum ServerMessage {
    /// One with a `type`.
    Tagged(Tagged),
    /// A state update.
    State(Box<StateUpdate<'static>>),
    /// The first update of `mode=diff`.
    Snapshot(Box<diff::Snapshot<'static>>),
    /// A later update of `mode=diff`.
    Diff(Box<diff::Diff<'static>>),
}

impl ServerMessage {
    /// Reads a text frame.
    ///
    /// # Errors
    /// When it is not JSON, has a `type` that nobody knows, or lacks a key.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        match value.get("type").map(serde_json::Value::as_str) {
            None => serde_json::from_value(value).map(Self::State),
            Some(Some("snapshot")) => serde_json::from_value(value).map(Self::Snapshot),
            Some(Some("diff")) => serde_json::from_value(value).map(Self::Diff),
            Some(_) => serde_json::from_value(value).map(Self::Tagged),
        }
    }
}

/// Seconds as `H:MM:SS.cc`; what is negative or no number is 0.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float to int casts saturate, NaN is 0"
)]
pub fn clock(seconds: f64) -> String {
    let centis = (seconds * 100.0).round() as u64;
    let (whole, cc) = (centis / 100, centis % 100);
    format!("{}:{:02}:{:02}.{cc:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// The seconds of an `H:MM:SS.cc`, or of the `H:MM:SS` that some servers send.
#[must_use]
pub fn parse_clock(text: &str) -> Option<f64> {
    let mut parts = text.split(':');
    let hours: u32 = parts.next()?.parse().ok()?;
    let minutes: u8 = parts.next()?.parse().ok().filter(|minutes| *minutes < 60)?;
    let seconds: f64 = parts.next()?.parse().ok().filter(|seconds| (0.0..60.0).contains(seconds))?;
    parts.next().is_none().then(|| f64::from(hours) * 3600.0 + f64::from(minutes) * 60.0 + seconds)
}

/// Rounds to a fraction of a second that people and diffs can bear: `per_unit` is 10 for tenths.
fn round(value: f64, per_unit: f64) -> f64 {
    // `+ 0.0` makes -0.0 into 0.0, which prints without a sign.
    (value * per_unit).round() / per_unit + 0.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_clock_has_centiseconds_and_no_padded_hours() {
        let examples =
            [(0.0, "0:00:00.00"), (1.234, "0:00:01.23"), (59.999, "0:01:00.00"), (3_725.5, "1:02:05.50")];
        for (seconds, text) in examples {
            assert_eq!(clock(seconds), text);
        }
        assert_eq!(clock(360_000.0), "100:00:00.00");
        assert_eq!((clock(-1.0), clock(f64::NAN)), ("0:00:00.00".to_owned(), "0:00:00.00".to_owned()));
    }

    #[test]
    fn what_is_no_clock_is_not_read() {
        for text in ["", "1", "1:2", "0:60:00.00", "0:00:60.00", "0:00:-1", "0:0:NaN", "0:0:0:0", "a:b:c"] {
            assert_eq!(parse_clock(text), None, "{text}");
        }
        assert_eq!(parse_clock("0:01:02"), Some(62.0));
    }

    proptest! {
        #[test]
        fn the_clock_survives_the_wire(seconds in 0.0..400_000.0_f64) {
            let back = parse_clock(&clock(seconds)).unwrap();
            prop_assert!((back - seconds).abs() <= 0.005 + 1e-6);
        }

        #[test]
        fn the_clock_never_runs_backwards(a in 0.0..100_000.0_f64, b in 0.0..100_000.0_f64) {
            let (early, late) = if a <= b { (a, b) } else { (b, a) };
            prop_assert!(parse_clock(&clock(early)) <= parse_clock(&clock(late)));
        }
    }

    fn json(message: &impl Serialize) -> String {
        serde_json::to_string_pretty(message).unwrap()
    }

    #[test]
    fn messages_with_a_type() {
        let config = Config {
            use_audio_worklet: true,
            mode: "full".into(),
            session: "0190".to_owned(),
            model: "command-en".to_owned(),
            language: "en".to_owned(),
            languages: Vec::new(),
            task: Task::Transcribe,
            prompt: Some("Meeting notes.".to_owned()),
            hotwords: None,
            policy: Policy::LocalAgreement,
            hop: 500,
            endpointing: None,
            segment: Segment::Pause,
            max_length: None,
            words: true,
            sample_rate: 16_000,
            retention_lines: 10_000,
            ignored: vec!["target_language".to_owned()],
        };
        let messages = [
            Tagged::Config(Box::new(config)),
            Tagged::Error {
                error: "task: 'sing' is not a task".to_owned(),
                code: "bad_request".to_owned(),
                retry_after: None,
            },
            Tagged::Error {
                error: "all slots are taken".to_owned(),
                code: "busy".to_owned(),
                retry_after: Some(5),
            },
            Tagged::Marker { name: "m1".to_owned() },
            Tagged::ReadyToStop,
        ];
        insta::assert_snapshot!(messages.each_ref().map(json).join("\n"));
        for message in messages {
            let read = ServerMessage::parse(&serde_json::to_string(&message).unwrap()).unwrap();
            assert_eq!(read, ServerMessage::Tagged(message));
        }
    }

    #[test]
    fn a_message_that_nobody_knows_is_an_error() {
        for text in ["", "{", "[]", "{}", r#"{"type":"song"}"#, r#"{"type":7}"#, r#"{"lines":[]}"#] {
            assert!(ServerMessage::parse(text).is_err(), "{text}");
        }
    }
}
