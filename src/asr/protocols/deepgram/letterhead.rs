//! What the messages of a session have in common. Pure.

use uuid::Uuid;

use super::{
    Channel, ErrorKind, ErrorMessage, Metadata, ModelCard, ResultMetadata, Results, ServerMessage,
    TRANSACTION_KEY, emitter::Said, options::Effective, words::to_millisecond,
};
use crate::asr::ModelInfo;

impl ModelCard {
    /// How a model introduces itself.
    #[must_use]
    pub fn of(model: &ModelInfo) -> Self {
        Self {
            name: model.name.clone(),
            version: concat!("godctl ", env!("CARGO_PKG_VERSION")).to_owned(),
            arch: "whisper".to_owned(),
        }
    }
}

/// The id of a model: made from its name, so that it is the same everywhere.
#[must_use]
pub fn model_uuid(model: &ModelInfo) -> String {
    Uuid::new_v5(&Uuid::NAMESPACE_URL, format!("godctl:model:{}", model.name).as_bytes()).to_string()
}

/// What the messages of a session have in common.
#[derive(Debug, Clone)]
pub struct Letterhead {
    request_id: String,
    created: String,
    model_info: ModelCard,
    model_uuid: String,
    channels: usize,
    options: Effective,
    ignored: Vec<String>,
}

impl Letterhead {
    /// For a session with so many channels, opened at `created` (`2024-05-01T12:00:00Z`).
    #[must_use]
    pub fn new(
        request_id: String,
        created: String,
        model: &ModelInfo,
        channels: usize,
        options: Effective,
        ignored: Vec<String>,
    ) -> Self {
        let (model_info, model_uuid) = (ModelCard::of(model), model_uuid(model));
        Self { request_id, created, model_info, model_uuid, channels, options, ignored }
    }

    /// The session's id.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// What the session is after so many seconds of audio.
    #[must_use]
    pub fn metadata(&self, duration: f64, sha256: String) -> ServerMessage {
        ServerMessage::Metadata(Box::new(Metadata {
            transaction_key: TRANSACTION_KEY.to_owned(),
            request_id: self.request_id.clone(),
            sha256,
            created: self.created.clone(),
            duration: to_millisecond(duration),
            channels: self.channels,
            models: vec![self.model_info.name.clone()],
            options: self.options.clone(),
            ignored: self.ignored.clone(),
        }))
    }

    /// An error of this session.
    #[must_use]
    pub fn error(&self, variant: ErrorKind, description: impl Into<String>) -> ServerMessage {
        error(&self.request_id, variant, description)
    }

    /// What was said on a channel, `lag` seconds behind the audio received.
    #[must_use]
    pub fn message(&self, channel: usize, lag: f64, said: Said) -> ServerMessage {
        let channel = [channel, self.channels];
        match said {
            Said::Results(heard) => ServerMessage::Results(Box::new(Results {
                channel_index: channel,
                start: to_millisecond(heard.start),
                duration: to_millisecond(to_millisecond(heard.end) - to_millisecond(heard.start)),
                is_final: heard.is_final,
                speech_final: heard.speech_final,
                from_finalize: heard.from_finalize,
                channel: Channel { alternatives: vec![heard.alternative] },
                metadata: ResultMetadata {
                    request_id: self.request_id.clone(),
                    model_info: self.model_info.clone(),
                    model_uuid: self.model_uuid.clone(),
                    lag: to_millisecond(lag),
                },
            })),
            Said::SpeechStarted { at } => {
                ServerMessage::SpeechStarted { channel, timestamp: to_millisecond(at) }
            }
            Said::UtteranceEnd { last_word_end } => {
                ServerMessage::UtteranceEnd { channel, last_word_end: to_millisecond(last_word_end) }
            }
            Said::Failed { message, start, end } => {
                let lost = format!("{message}; words between {start:.3} s and {end:.3} s may be missing");
                self.error(ErrorKind::InferenceError, lost)
            }
        }
    }
}

/// An error of a session that may never have opened.
#[must_use]
pub fn error(request_id: &str, variant: ErrorKind, description: impl Into<String>) -> ServerMessage {
    let description = description.into();
    let (message, request_id) = (description.clone(), request_id.to_owned());
    ServerMessage::Error(ErrorMessage { variant, description, message, request_id })
}
