//! The one map from errors to HTTP, and the shapes in which the clients of each protocol expect them.

use std::time::Duration;

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use crate::asr::{
    SttError,
    protocols::openai::{ErrorBody, ErrorObject},
};

/// An error as an HTTP client sees it. As it is, `{code, message}`; [`ApiError::speak`] puts it into the words of the
/// protocol that a path belongs to.
#[derive(Debug, Clone)]
pub(super) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    /// The field of the request that is wrong, where it is one.
    param: Option<String>,
    retry_after: Option<Duration>,
}

/// The shape of an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// `{code, message}`.
    Native,
    /// `{error: {message, type, param, code}}`: <https://platform.openai.com/docs/guides/error-codes>.
    OpenAi,
    /// `{err_code, err_msg, request_id}`: <https://developers.deepgram.com/docs/errors>.
    Deepgram,
}

impl Dialect {
    /// What clients of this path understand.
    pub(super) fn of(path: &str) -> Self {
        let below = |prefix: &str| {
            path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        if below("/v1/listen") {
            Self::Deepgram
        } else if below("/v1") {
            Self::OpenAi
        } else {
            Self::Native
        }
    }
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), param: None, retry_after: None }
    }

    /// The client's mistake.
    pub(super) fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The same, about one field of the request.
    pub(super) fn about(self, param: &str) -> Self {
        Self { param: Some(param.to_owned()), ..self }
    }

    pub(super) fn stopping() -> Self {
        let message = "the server is stopping; connect to another one or try again shortly";
        let retry_after = Some(Duration::from_secs(5));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message) }
    }

    pub(super) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(super) const fn code(&self) -> &'static str {
        self.code
    }

    /// The body in a dialect.
    pub(super) fn body(&self, dialect: Dialect, request_id: &str) -> Value {
        let Self { status, code, message, param, retry_after: _ } = self;
        match dialect {
            Dialect::Native => json!({ "code": code, "message": message }),
            Dialect::OpenAi => {
                let (kind, code) = match status.as_u16() {
                    401 => ("invalid_request_error", "invalid_api_key"),
                    403 => ("permission_error", *code),
                    429 => ("rate_limit_error", *code),
                    500.. => ("server_error", *code),
                    _ => ("invalid_request_error", *code),
                };
                let (message, kind, param) = (message.clone(), kind.to_owned(), param.clone());
                let error = ErrorObject { message, kind, param, code: Some(code.to_owned()) };
                json!(ErrorBody { error })
            }
            Dialect::Deepgram => {
                let code = match status.as_u16() {
                    401 => "INVALID_AUTH".to_owned(),
                    403 => "INSUFFICIENT_PERMISSIONS".to_owned(),
                    _ => code.to_ascii_uppercase(),
                };
                json!({ "err_code": code, "err_msg": message, "request_id": request_id })
            }
        }
    }

    /// Replaces the body of a response that is an [`ApiError`] by the same in a dialect.
    pub(super) fn speak(response: Response, dialect: Dialect, request_id: &str) -> Response {
        let Some(error) = response.extensions().get::<Self>().cloned() else { return response };
        if dialect == Dialect::Native {
            return response;
        }
        let (mut parts, _native) = response.into_parts();
        parts.headers.remove(header::CONTENT_LENGTH);
        let body = error.body(dialect, request_id).to_string();
        Response::from_parts(parts, body.into())
    }
}

/// The HTTP status of an engine's error.
const fn status_of(error: &SttError) -> StatusCode {
    match error {
        SttError::Busy { .. }
        | SttError::TokenBusy { .. }
        | SttError::Crowded { .. }
        | SttError::Loading
        | SttError::Restarting
        | SttError::Unavailable(_)
        | SttError::Closed => StatusCode::SERVICE_UNAVAILABLE,
        SttError::BadRequest(_) => StatusCode::BAD_REQUEST,
        SttError::Inference(_) => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<SttError> for ApiError {
    fn from(error: SttError) -> Self {
        let status = status_of(&error);
        Self { retry_after: error.retry_after(), ..Self::new(status, error.code(), error.to_string()) }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body(Dialect::Native, ""))).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_says_which_clients_use_it() {
        let cases = [
            ("/asr", Dialect::Native),
            ("/metrics", Dialect::Native),
            ("/v1/listen", Dialect::Deepgram),
            ("/v1/listening", Dialect::OpenAi),
            ("/v1/audio/transcriptions", Dialect::OpenAi),
            ("/v1/models", Dialect::OpenAi),
            ("/v11", Dialect::Native),
        ];
        for (path, dialect) in cases {
            assert_eq!(Dialect::of(path), dialect, "{path}");
        }
    }

    #[test]
    fn each_dialect_has_its_own_shape() {
        let error = ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", "a token is needed");
        let bodies =
            [Dialect::Native, Dialect::OpenAi, Dialect::Deepgram].map(|d| error.body(d, "r1").to_string());
        insta::assert_snapshot!(bodies.join("\n"), @r#"
        {"code":"unauthorized","message":"a token is needed"}
        {"error":{"code":"invalid_api_key","message":"a token is needed","param":null,"type":"invalid_request_error"}}
        {"err_code":"INVALID_AUTH","err_msg":"a token is needed","request_id":"r1"}
        "#);
    }
}
