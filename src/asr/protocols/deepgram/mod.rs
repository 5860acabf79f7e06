//! The protocol of Deepgram (`/v1/listen`): its messages. Pure: no sockets, no threads, no clock.
//!
//! - [`options`]: what a client asks for in the query;
//! - [`control`]: what it says in text frames;
//! - [`emitter`]: which results follow from what the engine says, each word final exactly once;
//! - [`letterhead`]: what the messages of a session have in common;
//! - [`recorded`]: the answer to a recording;
//! - [`words`]: words as they stand in a result.
//!
//! Reference: Deepgram's public API reference, and the types of its SDKs (deepgram-sdk 7 for Python, @deepgram/sdk 5
//! for JavaScript). Keys that are not theirs stand only where those accept any: in `Metadata` and in a result's
//! `metadata`.

pub mod control;
pub mod emitter;
pub mod letterhead;
pub mod options;
pub mod recorded;
pub mod words;

use serde::{Deserialize, Serialize};

use self::{options::Effective, words::Alternative};

/// Closes a session whose parameters cannot be honoured, or that broke the protocol.
pub const CLOSE_BAD_REQUEST: u16 = 4400;
/// Nobody has such a key any more, and everybody sends it.
const TRANSACTION_KEY: &str = "deprecated";

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type")]
pub enum ServerMessage {
    /// What the session is, right after it opened; and what it was, right before it closes.
    Metadata(Box<Metadata>),
    /// What was heard in a stretch of audio.
    Results(Box<Results>),
    /// Somebody began to speak.
    SpeechStarted {
        /// Which channel of how many.
        channel: [usize; 2],
        /// Seconds.
        timestamp: f64,
    },
    /// No word followed the last one for the time that was asked for.
    UtteranceEnd {
        /// Which channel of how many.
        channel: [usize; 2],
        /// Seconds.
        last_word_end: f64,
    },
    /// Something is wrong; whether the session goes on is told by the socket.
    Error(ErrorMessage),
    /// A `Configure` could not be honoured; nothing has changed.
    ConfigureFailure {
        /// The session.
        request_id: String,
        /// For programs.
        code: String,
        /// For people.
        description: String,
    },
}

/// What is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorMessage {
    /// The kind, for programs.
    pub variant: ErrorKind,
    /// For people.
    pub description: String,
    /// What the client sent, where that was the trouble; the same as the description otherwise.
    pub message: String,
    /// The session.
    pub request_id: String,
}

/// Kinds of errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ErrorKind {
    /// A parameter in the query cannot be honoured.
    BadParameters,
    /// A text frame is no message of this protocol.
    SchemaError,
    /// A binary frame is no audio as announced.
    BadAudio,
    /// Nothing came for too long.
    Timeout,
    /// The token is not good any more.
    Unauthorized,
    /// Every slot is taken.
    TooManyRequests,
    /// A stretch of audio could not be decoded: its words may be missing.
    InferenceError,
    /// The server is broken.
    InternalError,
}

/// What a session is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metadata {
    /// Always `deprecated`.
    pub transaction_key: String,
    /// The session's id, in the server's log as well.
    pub request_id: String,
    /// SHA-256 of the bytes received, in hexadecimal; empty in the first message.
    pub sha256: String,
    /// When the session opened: UTC, in seconds.
    pub created: String,
    /// Seconds of audio received.
    pub duration: f64,
    /// Channels that have results of their own.
    pub channels: usize,
    /// The models that listen.
    pub models: Vec<String>,
    /// What is in force: not of Deepgram.
    pub options: Effective,
    /// Parameters that this server knows nothing to do about: not of Deepgram.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ignored: Vec<String>,
}

/// What was heard in a stretch of audio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Which channel of how many.
    pub channel_index: [usize; 2],
    /// Seconds.
    pub duration: f64,
    /// Seconds.
    pub start: f64,
    /// These words are said once and never changed.
    pub is_final: bool,
    /// A pause ended the utterance.
    pub speech_final: bool,
    /// The answer to a `Finalize`.
    pub from_finalize: bool,
    /// The words.
    pub channel: Channel,
    /// Who heard them.
    pub metadata: ResultMetadata,
}

/// The words of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Channel {
    /// Always one.
    pub alternatives: Vec<Alternative>,
}

/// Who heard a result.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResultMetadata {
    /// The session.
    pub request_id: String,
    /// The model.
    pub model_info: ModelCard,
    /// The same for the same model everywhere.
    pub model_uuid: String,
    /// Seconds of audio received that were not heard yet: not of Deepgram.
    #[serde(default)]
    pub lag: f64,
}

/// The model of a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelCard {
    /// Its name in godctl.
    pub name: String,
    /// The version of godctl that runs it.
    pub version: String,
    /// The kind of network.
    pub arch: String,
}

#[cfg(test)]
mod tests;
