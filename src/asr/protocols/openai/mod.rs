//! OpenAI's audio endpoints: what they take and what they answer, as their official clients read it.
//!
//! - [`request`] reads the fields of the form;
//! - [`transcript`] turns passages of a recording into these answers;
//! - [`language`] knows languages by name, which is how they are answered.
//!
//! `warnings` and the header of the same meaning are additions of godctl's; they appear only where there is something
//! to say.

pub mod language;
pub mod request;
pub mod transcript;

use serde::Serialize;
use utoipa::ToSchema;

/// Every error, whatever went wrong.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
}

/// What went wrong, and who can do something about it.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ErrorObject {
    /// For a person: what is wrong and what to do.
    pub message: String,
    /// `invalid_request_error`, `rate_limit_error` or `server_error`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The field that is wrong, where it is one.
    pub param: Option<String>,
    /// A short name for programs.
    pub code: Option<String>,
}

/// What was used: godctl counts seconds of audio.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Usage {
    /// By the length of the recording.
    Duration {
        /// Whole seconds, rounded up.
        seconds: u64,
    },
}

/// `response_format=json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Transcription {
    /// What was said.
    pub text: String,
    /// How sure the model is of each word, with `include[]=logprobs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Vec<Logprob>>,
    /// What was used.
    pub usage: Usage,
    /// What the answer lacks or covers only in part, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How sure the model is of a piece of text; godctl gives whole words.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Logprob {
    /// The word, with the space before it.
    pub token: String,
    /// Natural logarithm of the mean probability of the word's tokens.
    pub logprob: f32,
    /// The word in UTF-8.
    pub bytes: Vec<u8>,
}

/// `response_format=verbose_json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Verbose {
    /// `transcribe` or `translate`.
    pub task: String,
    /// The language spoken, by its English name in lower case: asked for, or that of the most speech.
    pub language: String,
    /// Seconds of audio.
    pub duration: f64,
    /// What was said.
    pub text: String,
    /// With `timestamp_granularities[]=word`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub words: Option<Vec<Word>>,
    /// The text in pieces.
    pub segments: Vec<Segment>,
    /// What was used.
    pub usage: Usage,
    /// What the answer lacks or covers only in part, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// One word.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Word {
    /// Without spaces around it.
    pub word: String,
    /// Seconds of the recording.
    pub start: f64,
    /// Seconds of the recording.
    pub end: f64,
}

/// A piece of the text. The figures about the decoding are those of the window that it lies in.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Segment {
    /// From 0 on.
    pub id: u64,
    /// Where its window starts, in hundredths of a second.
    pub seek: u64,
    /// Seconds of the recording.
    pub start: f64,
    /// Seconds of the recording.
    pub end: f64,
    /// The text.
    pub text: String,
    /// The model's tokens, timestamps included.
    pub tokens: Vec<u32>,
    /// The temperature that gave this result.
    pub temperature: f32,
    /// Mean log-probability of the tokens; below -1 it is a guess.
    pub avg_logprob: f32,
    /// Above 2.4 the text repeats itself.
    pub compression_ratio: f32,
    /// How likely it is that nobody spoke.
    pub no_speech_prob: f32,
}

/// `response_format=diarized_json`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Diarized {
    /// Always `transcribe`, also where it was translated: clients know no other.
    pub task: String,
    /// Seconds of audio.
    pub duration: f64,
    /// A line for each turn, with who speaks before it.
    pub text: String,
    /// The pieces in the order in which they start.
    pub segments: Vec<DiarizedSegment>,
    /// What was used.
    pub usage: Usage,
    /// What the answer lacks or covers only in part, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// A piece of the text and who said it.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct DiarizedSegment {
    /// Always `transcript.text.segment`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `seg_001` and so on.
    pub id: String,
    /// Seconds of the recording.
    pub start: f64,
    /// Seconds of the recording.
    pub end: f64,
    /// The text.
    pub text: String,
    /// `A`, `B` and so on, or a name of the request.
    pub speaker: String,
}

/// One server-sent event of `stream=true`.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[serde(tag = "type")]
pub enum Event {
    /// More text.
    #[serde(rename = "transcript.text.delta")]
    Delta {
        /// The text, with the space before it.
        delta: String,
        /// With `include[]=logprobs`.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        /// The segment that it belongs to, with `diarized_json`.
        #[serde(skip_serializing_if = "Option::is_none")]
        segment_id: Option<String>,
    },
    /// A piece of the text and who said it, with `diarized_json`.
    #[serde(rename = "transcript.text.segment")]
    Segment {
        /// `seg_001` and so on.
        id: String,
        /// Seconds of the recording.
        start: f64,
        /// Seconds of the recording.
        end: f64,
        /// The text.
        text: String,
        /// Who said it.
        speaker: String,
    },
    /// The last event: all of the text.
    #[serde(rename = "transcript.text.done")]
    Done {
        /// All deltas joined.
        text: String,
        /// With `include[]=logprobs`.
        #[serde(skip_serializing_if = "Option::is_none")]
        logprobs: Option<Vec<Logprob>>,
        /// What the answer lacks or covers only in part, and why.
        #[serde(skip_serializing_if = "Vec::is_empty")]
        warnings: Vec<String>,
    },
}

impl Event {
    /// The name of the event, which is its type too.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Delta { .. } => "transcript.text.delta",
            Self::Segment { .. } => "transcript.text.segment",
            Self::Done { .. } => "transcript.text.done",
        }
    }
}

/// A model that can be asked for.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct Model {
    /// Its name.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// When it was loaded, in seconds since 1970.
    pub created: i64,
    /// Always `godctl`.
    pub owned_by: String,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The loaded model, and the names that mean it.
    pub data: Vec<Model>,
}
