//! Streaming: one speaker's audio in, utterances with committed words out. Pure: no threads, no clock but the samples.
//!
//! - [`session::Session`] cuts the audio into utterances and says when which stretch must be decoded;
//! - [`agreement::LocalAgreement`] or [`alignatt::AlignAtt`] decides which words of a running utterance are final;
//! - [`gate::ActivityGate`] says whether somebody speaks.
//!
//! Every decision falls at a fixed place on the clock of the samples, so the same audio gives the same transcript
//! whatever the size of the chunks and however late they arrive.
//!
//! There are two promises, and a client chooses which one it builds on:
//!
//! - *Words that are committed* ([`StreamEvent::Hypothesis`]) come early and are never taken back. All `committed`
//!   lists of an utterance, one after the other, are what was promised of it; the last of them comes just before
//!   [`StreamEvent::UtteranceEnded`] and adds what the last decode heard after the words promised before.
//! - *The transcript* ([`Utterance`]) is the decode of the whole utterance once it has ended, as good as that of a
//!   recording. Where an utterance begins and ends depends on the audio alone (its pauses, and a cut at the quietest
//!   place where it fills the model's window), and so do its words: the policy, the hop, the size of the chunks and the
//!   load of the machine change when words are committed, and never the transcript.
//!
//! Where the two differ, the context that followed has changed the model's mind, and [`Utterance::revised`] says so. A
//! protocol that can rewrite a line shows the transcript; one that cannot sends what was committed, and loses nothing
//! after it. Only a decode that fails leaves the words committed before it, and their tail, in its place.

pub mod agreement;
pub mod alignatt;
pub mod gate;
pub mod quiet;
pub mod session;
#[cfg(test)]
pub(crate) mod testkit;
pub mod words;

use super::{Hypothesis, Word};
use crate::audio::SAMPLE_RATE_HZ;

/// A position or a length on the clock of the samples, at [`SAMPLE_RATE_HZ`].
pub type Samples = u64;

/// Samples as seconds.
#[must_use]
#[allow(clippy::cast_precision_loss, reason = "exact up to 2^53 samples, 17,000 years")]
pub fn seconds(samples: Samples) -> f64 {
    samples as f64 / f64::from(SAMPLE_RATE_HZ)
}

/// Seconds as samples; 0 for what is negative or no number.
#[must_use]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float to int casts saturate, NaN is 0"
)]
pub fn samples_of_seconds(seconds: f64) -> Samples {
    (seconds * f64::from(SAMPLE_RATE_HZ)).round() as Samples
}

/// Milliseconds as samples.
#[must_use]
pub const fn samples_of_ms(ms: u64) -> Samples {
    ms * (SAMPLE_RATE_HZ as u64) / 1000
}

/// Whether somebody speaks, frame by frame: the stream's view of voice activity detection.
pub trait VoiceGate: Send {
    /// Length of the frames that [`VoiceGate::frame`] takes, in samples.
    fn frame_len(&self) -> usize;

    /// Takes the next frame and gives what changed at its end. Positions are on the clock of the samples given so far.
    fn frame(&mut self, frame: &[f32]) -> GateFrame;
}

impl<G: VoiceGate + ?Sized> VoiceGate for Box<G> {
    fn frame_len(&self) -> usize {
        (**self).frame_len()
    }

    fn frame(&mut self, frame: &[f32]) -> GateFrame {
        (**self).frame(frame)
    }
}

/// What one frame changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GateFrame {
    /// Speech began at this sample (in the past: pre-roll included).
    pub started: Option<Samples>,
    /// Speech ended at this sample.
    pub ended: Option<Samples>,
}

/// When a stream decodes and commits. Lengths are on the clock of the samples.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamConfig {
    /// The model's window: no utterance is longer.
    pub window: Samples,
    /// Which rule makes words of the running utterance final.
    pub policy: Policy,
    /// An interim decode of the running utterance every so often; 0 decodes each utterance once, when it has ended.
    pub hop: Samples,
    /// Successive hypotheses that must agree on a word before it is final; 2 is LocalAgreement-2.
    pub agreement: usize,
    /// Words that end closer than this to the newest sample are not committed by LocalAgreement: the next sound may
    /// change them.
    pub holdback: Samples,
    /// Words that the decoder looked for closer than this to the newest sample are not committed by AlignAtt.
    pub attention_margin: Samples,
    /// Silence kept after the end of an utterance, so that the last word is whole.
    pub post_roll: Samples,
    /// Utterances shorter than this are clicks, not speech.
    pub min_utterance: Samples,
    /// A hypothesis with a higher no-speech probability is no words, however sure the model is of them.
    ///
    /// Whisper's own rule also asks for a low log-probability; what is final in a stream cannot be taken back.
    pub max_no_speech_prob: f32,
    /// A hypothesis with a lower mean log-probability is a guess and no words.
    pub min_avg_logprob: f32,
}

/// Which rule says that a word is final before its utterance has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Policy {
    /// Successive hypotheses agree on it: LocalAgreement-n (Macháček et al. 2023).
    #[default]
    LocalAgreement,
    /// The decoder attends to audio far enough from the newest: AlignAtt (Papi et al. 2023).
    AlignAtt,
}

/// What of a [`StreamConfig`] can be set from outside; the rest follows from the model's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tuning {
    /// Which rule makes words final.
    pub policy: Option<Policy>,
    /// Replaces [`StreamConfig::hop`].
    pub hop: Option<Samples>,
    /// Replaces [`StreamConfig::agreement`].
    pub agreement: Option<usize>,
    /// Silence after which an utterance has ended, instead of what the voice activity detector was set to.
    pub endpointing: Option<Samples>,
}

impl StreamConfig {
    /// Whether the words of a hypothesis are to be believed: see the two limits.
    #[must_use]
    pub fn believes(&self, hypothesis: &Hypothesis) -> bool {
        hypothesis.no_speech_prob <= self.max_no_speech_prob && hypothesis.avg_logprob >= self.min_avg_logprob
    }

    /// The same with what `tuning` sets.
    #[must_use]
    pub fn tuned(self, tuning: Tuning) -> Self {
        let Tuning { policy, hop, agreement, endpointing: _ } = tuning;
        Self {
            policy: policy.unwrap_or(self.policy),
            hop: hop.unwrap_or(self.hop),
            agreement: agreement.unwrap_or(self.agreement),
            ..self
        }
    }

    /// The defaults for a model with a window of `window_s` seconds.
    ///
    /// A short window is cheap to decode: look twice a second, and let three hypotheses agree. On the shipped
    /// recordings that gives the built-in model's full accuracy (7.4 % word error rate) with 59 % of the words final
    /// before the pause; two hypotheses half a second apart cost 1.9 points. Whisper's 30 s get LocalAgreement-2 at
    /// one second, as in its paper.
    ///
    /// The built-in model gives at most 0.002 for no speech where somebody speaks, and 0.7 and more in noise. Its mean
    /// log-probability is above -0.88 in about 99 of 100 hypotheses of short commands, clean and in noise down to 5 dB;
    /// a quarter to two thirds of what it makes of music is below, so this floor helps the gate and does not replace it.
    /// Whisper's own floor is -1.
    #[must_use]
    pub fn for_window(window_s: f64) -> Self {
        let (hop, agreement, min_avg_logprob) =
            if window_s <= 15.0 { (500, 3, -0.88) } else { (1_000, 2, -1.0) };
        Self {
            window: samples_of_seconds(window_s.max(0.5)),
            policy: Policy::default(),
            hop: samples_of_ms(hop),
            agreement,
            holdback: samples_of_ms(300),
            // 25 positions of 20 ms, as in SimulStreaming.
            attention_margin: samples_of_ms(500),
            post_roll: samples_of_ms(200),
            min_utterance: samples_of_ms(100),
            max_no_speech_prob: 0.6,
            min_avg_logprob,
        }
    }
}

/// Why an utterance ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// A pause.
    Endpoint,
    /// It filled the model's window and was cut at its quietest place; the next utterance goes on from there.
    WindowFull,
    /// The client asked for everything so far.
    Flush,
    /// The audio ended.
    EndOfStream,
}

/// One finished utterance. All times are seconds on the stream's clock.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Utterance {
    /// 0 for the first of the stream.
    pub index: u64,
    /// Where it starts, pre-roll included.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
    /// Its text: the words, joined. Empty when the model heard no speech in it.
    pub text: String,
    /// The words of the decode of the whole utterance, which depend on the audio alone.
    pub words: Vec<Word>,
    /// The text differs from the words that were committed on the way: more context has changed the model's mind.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub revised: bool,
    /// ISO code decoded in.
    pub language: Option<String>,
    /// Probability of that language, 1 when it was given.
    pub language_probability: f32,
    /// Mean log-probability of the last decode.
    pub avg_logprob: f32,
    /// No-speech probability of the last decode.
    pub no_speech_prob: f32,
    /// Why it ended.
    pub reason: EndReason,
}

/// What a stream says, in order.
#[derive(Debug, Clone, PartialEq)]
pub enum StreamEvent {
    /// Somebody started to speak at this second.
    SpeechStarted {
        /// Seconds, pre-roll included.
        at: f64,
    },
    /// The running utterance has a new hypothesis.
    Hypothesis {
        /// Words that are now final; they are never taken back.
        committed: Vec<Word>,
        /// Words after them that may still change; replaces the tail given before.
        tail: Vec<Word>,
        /// Audio heard so far, in seconds.
        heard: f64,
    },
    /// The running utterance ended: its transcript. What was committed of it is complete with the `committed` words of
    /// the [`StreamEvent::Hypothesis`] before.
    UtteranceEnded(Utterance),
    /// Everything pushed before the marker of this name has been dealt with.
    Marker(String),
    /// A window could not be decoded; the stream goes on and the words of that window may be missing. Where no event
    /// follows, not even [`StreamEvent::Ended`], it was the stream itself that failed.
    Failed {
        /// What went wrong, for the client.
        message: String,
        /// From where, in seconds.
        start: f64,
        /// To where, in seconds.
        end: f64,
    },
    /// The audio ended and everything has been said.
    Ended {
        /// Seconds of audio heard.
        heard: f64,
    },
}

/// Joins words as the model wrote them.
#[must_use]
pub fn join(words: &[Word]) -> String {
    let text: String = words.iter().map(|word| word.text.as_str()).collect();
    text.trim().to_owned()
}
