//! Speech to text: the types that every part of this room shares, and its two doors.
//!
//! - [`Transcriber`] is the blocking half: a batch of windows in, a hypothesis each out. It lives on the engine's
//!   thread and owns the weights.
//! - [`engine::Engine`] is the async half: open a stream, push audio, receive partial and committed words; or give it
//!   a whole recording, through [`offline`].
//!
//! Times are seconds on the clock of the samples, never of arrival.

pub mod align;
pub mod captions;
pub mod client;
pub mod decode;
pub mod engine;
pub mod kernels;
pub mod mel;
pub mod model;
pub mod offline;
pub mod protocols;
pub mod server;
pub mod stream;
pub mod tap;
pub mod tokenizer;
pub mod weights;
pub mod wer;
pub mod whisper;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

/// What to do with speech in another language.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// Write it down in the language spoken.
    #[default]
    Transcribe,
    /// Write it down in English.
    Translate,
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Transcribe => "transcribe",
            Self::Translate => "translate",
        })
    }
}

/// One word of a hypothesis.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Word {
    /// As decoded, with the space before it where the language has one; punctuation stays attached.
    pub text: String,
    /// Seconds from the start of the window (in a [`Hypothesis`]) or of the stream (everywhere else).
    pub start: f64,
    /// Seconds, at least `start`.
    pub end: f64,
    /// Mean probability of the word's tokens, 0 to 1.
    pub probability: f32,
}

/// A stretch of a hypothesis between two timestamp tokens (or the whole of it without them).
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Segment {
    /// Seconds, as for [`Word::start`].
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// The text, trimmed.
    pub text: String,
    /// Its tokens, with the timestamps around it in timestamp mode.
    pub tokens: Vec<u32>,
}

/// How one window is decoded. The defaults are Whisper's own (`transcribe.py` of openai/whisper).
#[derive(Debug, Clone, PartialEq)]
pub struct DecodeOptions {
    /// ISO code such as `en`; `None` detects it from the audio.
    pub language: Option<String>,
    /// When detecting, only these are considered (empty: all that the model knows).
    pub allowed_languages: Vec<String>,
    /// Transcribe or translate.
    pub task: Task,
    /// Text that came before, given to the decoder as context (`<|startofprev|>`).
    pub prompt: Option<String>,
    /// Words to favour, put before the prompt in the same place.
    pub hotwords: Option<String>,
    /// Beams kept by beam search; 1 is greedy.
    pub beam_size: usize,
    /// Exponent of the length that a beam's log-probability is divided by.
    pub length_penalty: f32,
    /// Temperatures tried in turn until a result passes the thresholds; the first is normally 0 (greedy or beam).
    pub temperatures: Vec<f32>,
    /// A result whose text compresses better than this is a loop; try the next temperature.
    pub compression_ratio_threshold: Option<f32>,
    /// A result whose mean log-probability is below this is a guess; try the next temperature.
    pub log_prob_threshold: Option<f32>,
    /// Above this no-speech probability (and below the log-probability threshold) the window is silence.
    pub no_speech_threshold: Option<f32>,
    /// Decode with timestamp tokens, which gives segments.
    pub timestamps: bool,
    /// Align words to audio frames by dynamic time warping over the alignment heads.
    pub word_timestamps: bool,
    /// Text that the window is known to begin with: the hypothesis starts with it and goes on after it.
    pub prefix: Option<String>,
    /// Upper bound on new tokens; the model's own limit applies as well.
    pub max_tokens: Option<usize>,
    /// Seed of the sampler used at temperatures above 0.
    pub seed: u64,
}

impl Default for DecodeOptions {
    fn default() -> Self {
        Self {
            language: None,
            allowed_languages: Vec::new(),
            task: Task::Transcribe,
            prompt: None,
            hotwords: None,
            beam_size: 1,
            length_penalty: 1.0,
            temperatures: vec![0.0, 0.2, 0.4, 0.6, 0.8, 1.0],
            compression_ratio_threshold: Some(2.4),
            log_prob_threshold: Some(-1.0),
            no_speech_threshold: Some(0.6),
            timestamps: false,
            word_timestamps: true,
            prefix: None,
            max_tokens: None,
            seed: 0,
        }
    }
}

/// What the model heard in one window.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Hypothesis {
    /// The text, trimmed; empty for silence.
    pub text: String,
    /// ISO code of the language decoded in.
    pub language: Option<String>,
    /// Probability of that language when it was detected, 1 when it was given.
    pub language_probability: f32,
    /// The words with times in seconds from the start of the window; empty unless asked for.
    pub words: Vec<Word>,
    /// For each word the latest place in the audio (seconds from the start of the window) that the decoder looked at
    /// while it wrote the word; empty where that is not known.
    pub attended: Vec<f64>,
    /// The segments, at least one where there is text.
    pub segments: Vec<Segment>,
    /// The text tokens (and timestamp tokens in timestamp mode), without prompt and end.
    pub tokens: Vec<u32>,
    /// Mean log-probability of the tokens, the end token included.
    pub avg_logprob: f32,
    /// Probability of `<|nospeech|>` right after `<|startoftranscript|>`.
    pub no_speech_prob: f32,
    /// Bytes of text over bytes of its zlib form.
    pub compression_ratio: f32,
    /// The temperature that gave this result.
    pub temperature: f32,
}

/// One window to decode: at most the model's window length of 16 kHz mono audio, and how.
#[derive(Debug, Clone)]
pub struct Window {
    /// Samples, not padded.
    pub samples: Vec<f32>,
    /// How to decode it.
    pub options: Arc<DecodeOptions>,
}

/// What a loaded model is, for users and for the engine's planning.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ModelInfo {
    /// The name it was asked for by.
    pub name: String,
    /// Seconds of audio in one window (30 for Whisper).
    pub window_s: f64,
    /// False for English-only models.
    pub multilingual: bool,
    /// ISO codes it can be told to decode.
    pub languages: Vec<String>,
    /// False for models that were never trained to read a prompt or hotwords, and lose words with one.
    pub prompts: bool,
    /// Number of weights.
    pub parameters: u64,
    /// Where it runs, e.g. `cpu`.
    pub device: String,
}

/// Why speech could not be turned into text. Each variant is a different thing for the caller to do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SttError {
    /// Every slot is taken: try again later.
    #[error("{}", busy(*.limit, *.lag_s))]
    Busy {
        /// How many streams can run at once.
        limit: usize,
        /// Slots are free, but the machine is this many seconds behind with the streams that it has.
        lag_s: Option<f64>,
    },
    /// The caller's token has as many streams open as it may: end one, or try again later.
    #[error(
        "this token has {limit} transcriptions running, which is all it may have; end one or try again shortly"
    )]
    TokenBusy {
        /// How many streams it can have at once.
        limit: usize,
    },
    /// Every place for whole recordings is taken: try again later.
    #[error("{limit} recordings are being transcribed or wait for it; try again shortly")]
    Crowded {
        /// How many places there are.
        limit: usize,
    },
    /// The model is still being loaded: try again shortly.
    #[error("the model is still being loaded; try again shortly")]
    Loading,
    /// The model is being loaded again after a fault: try again shortly.
    #[error("the speech engine is restarting after a fault; try again shortly")]
    Restarting,
    /// The model could not be loaded, or its thread died: an operator must act.
    #[error("the speech engine is not available: {0}")]
    Unavailable(String),
    /// The caller asked for something that this model or server cannot do: change the request.
    #[error("{0}")]
    BadRequest(String),
    /// One window failed inside the model; the stream goes on.
    #[error("inference failed: {0}")]
    Inference(String),
    /// The stream was closed or the program is stopping.
    #[error("the stream is closed")]
    Closed,
}

fn busy(limit: usize, lag_s: Option<f64>) -> String {
    match lag_s {
        None => {
            format!("all {limit} transcription slots are taken; try again shortly or raise asr.max_sessions")
        }
        Some(lag) => format!(
            "this machine is {lag:.1} s behind with the streams that it has; try again shortly or use a smaller model"
        ),
    }
}

impl SttError {
    /// True when the same request may succeed later.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::TokenBusy { .. }
                | Self::Crowded { .. }
                | Self::Loading
                | Self::Restarting
        )
    }

    /// How long to wait before trying again, where that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { .. } | Self::TokenBusy { .. } | Self::Crowded { .. } => Some(Duration::from_secs(5)),
            Self::Loading | Self::Restarting => Some(Duration::from_secs(1)),
            _ => None,
        }
    }

    /// A short name for clients and logs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "busy",
            Self::TokenBusy { .. } => "token_busy",
            Self::Crowded { .. } => "crowded",
            Self::Loading => "loading",
            Self::Restarting => "restarting",
            Self::Unavailable(_) => "unavailable",
            Self::BadRequest(_) => "bad_request",
            Self::Inference(_) => "inference_failed",
            Self::Closed => "closed",
        }
    }
}

/// The blocking half of speech to text. One thread owns it; no method is called concurrently.
pub trait Transcriber: Send {
    /// What is loaded.
    fn info(&self) -> &ModelInfo;

    /// Decodes a batch of windows; the result has one entry for each, in order.
    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>>;

    /// Time that one window of ordinary speech takes in a batch of `windows`. What is heard does not matter, so models
    /// whose time depends on the words write as many as speech has.
    ///
    /// # Errors
    /// The model does not work on this machine.
    fn measure(&mut self, windows: usize) -> Result<Duration, SttError> {
        let samples = vec![0.0; (self.info().window_s * 8_000.0) as usize];
        let window = Window { samples, options: Arc::default() };
        let batch = vec![window; windows.max(1)];
        let started = Instant::now();
        self.transcribe(&batch).into_iter().collect::<Result<Vec<_>, _>>()?;
        Ok(started.elapsed() / u32::try_from(batch.len()).unwrap_or(u32::MAX))
    }
}
