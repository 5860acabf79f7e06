//! What can go wrong with a recording, as HTTP.

use axum::{
    extract::Request,
    http::StatusCode,
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::super::error::ApiError;
use crate::{
    asr::{offline::OfflineError, protocols::openai::request::BadField},
    audio::AudioError,
};

impl From<BadField> for ApiError {
    fn from(field: BadField) -> Self {
        Self::bad_request("invalid_value", field.message).about(&field.param)
    }
}

impl From<OfflineError> for ApiError {
    fn from(error: OfflineError) -> Self {
        match error {
            OfflineError::Engine(error) | OfflineError::Window { error, .. } => error.into(),
            OfflineError::Audio(error) => error.into(),
            OfflineError::Decoder => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "decoder_failed", error.to_string())
            }
        }
    }
}

impl From<AudioError> for ApiError {
    fn from(error: AudioError) -> Self {
        let message = error.to_string();
        match error {
            AudioError::Read { .. } | AudioError::Thread(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "cannot_read", message)
            }
            AudioError::Empty { .. } => Self::bad_request("empty_file", message).about("file"),
            AudioError::UnknownFormat { .. }
            | AudioError::UnsupportedCodec { .. }
            | AudioError::NoAudioTrack { .. }
            | AudioError::NotStreamable { .. } => {
                Self::bad_request("unsupported_format", message).about("file")
            }
            AudioError::Truncated { .. }
            | AudioError::Corrupt { .. }
            | AudioError::Aborted { .. }
            | AudioError::NoDevice { .. }
            | AudioError::DeviceBusy { .. }
            | AudioError::DeviceDenied { .. }
            | AudioError::DeviceLost { .. }
            | AudioError::Device { .. } => Self::bad_request("damaged_file", message).about("file"),
        }
    }
}

/// Makes an error of every refusal that has no words yet, such as that of a method that a route does not have.
pub(super) async fn word(request: Request, next: Next) -> Response {
    let line = format!("{} {}", request.method(), request.uri().path());
    let response = next.run(request).await;
    let status = response.status();
    let refused = status.is_client_error() || status.is_server_error();
    if !refused || response.extensions().get::<ApiError>().is_some() {
        return response;
    }
    let code = if status == StatusCode::METHOD_NOT_ALLOWED { "method_not_allowed" } else { "refused" };
    let message = format!("{line} is not possible; see /openapi.json for what is");
    let (allow, worded) = (response.headers().clone(), ApiError::new(status, code, message).into_response());
    let (mut parts, body) = worded.into_parts();
    parts
        .headers
        .extend(allow.into_iter().filter(|(name, _)| name.as_ref() == Some(&axum::http::header::ALLOW)));
    Response::from_parts(parts, body)
}
