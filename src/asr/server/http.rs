//! The routes, the request ids, and the one map from errors to HTTP.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{
        Query, Request, State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{any, get},
};
use tracing::{Instrument as _, debug, info, info_span};
use uuid::Uuid;

use super::{
    listen::App,
    session::{self, Refusal, Session},
};
use crate::asr::{
    SttError,
    engine::{EngineState, StreamOptions},
    protocols::native::request::{BadParameter, Request as SessionRequest},
};

/// What a websocket library may buffer for one message: beyond our own limit, so that a client that goes beyond that
/// is told so in an orderly close and not by a broken connection.
const HARD_LIMIT_FACTOR: usize = 4;
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/asr", any(asr))
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "no such page; see / for what there is")
        })
        .layer(middleware::from_fn(identify))
        .with_state(app)
}

/// An error as an HTTP client sees it: `{code, message}`.
#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<Duration>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    fn stopping() -> Self {
        let message = "the server is stopping; connect to another one or try again shortly";
        let retry_after = Some(Duration::from_secs(5));
        Self { retry_after, ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message) }
    }
}

impl From<SttError> for ApiError {
    fn from(error: SttError) -> Self {
        let status = match error {
            SttError::Busy { .. } | SttError::Loading | SttError::Unavailable(_) | SttError::Closed => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            SttError::BadRequest(_) => StatusCode::BAD_REQUEST,
            SttError::Inference(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, code: error.code(), message: error.to_string(), retry_after: error.retry_after() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let body = Json(serde_json::json!({ "code": self.code, "message": self.message }));
        let mut response = (self.status, body).into_response();
        if let Some(wait) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs().max(1)));
        }
        response
    }
}

/// The id of a request, which is also the id of the session that it opens.
#[derive(Debug, Clone)]
struct RequestId(String);

/// Gives each request an id, the caller's own if it is fit for a log, and logs how the request ended. The query may
/// hold a token or a prompt, so it is not logged.
async fn identify(mut request: Request, next: Next) -> Response {
    let id = given_id(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let span = info_span!("request", id, method = %request.method(), path = request.uri().path());
    request.extensions_mut().insert(RequestId(id.clone()));
    async move {
        let mut response = next.run(request).await;
        debug!(status = response.status().as_u16(), "request answered");
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        response
    }
    .instrument(span)
    .await
}

fn given_id(headers: &HeaderMap) -> Option<String> {
    let id = headers.get(REQUEST_ID)?.to_str().ok()?;
    let fit =
        (1..=64).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    fit.then(|| id.to_owned())
}

async fn index() -> &'static str {
    "godctl asr-serve\n\n\
     GET /asr      websocket: 16 kHz mono s16le PCM or a container in, transcript out (WhisperLiveKit's protocol)\n\
     GET /health   is the process alive\n\
     GET /ready    is the model loaded\n"
}

async fn health(State(app): State<Arc<App>>) -> Response {
    let state = app.engine.state().borrow().clone();
    let model = if let EngineState::Ready(info) = &state { Some(info.name.clone()) } else { None };
    let ready = model.is_some() && !app.shutdown.is_cancelled();
    let body = serde_json::json!({
        "status": "ok",
        "backend": "candle",
        "ready": ready,
        "version": env!("CARGO_PKG_VERSION"),
        "model": model,
    });
    Json(body).into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.shutdown.is_cancelled() {
        return ApiError::stopping().into_response();
    }
    let state = app.engine.state().borrow().clone();
    match state {
        EngineState::Ready(model) => {
            Json(serde_json::json!({ "ready": true, "model": *model })).into_response()
        }
        EngineState::Loading => ApiError::from(SttError::Loading).into_response(),
        EngineState::Failed(reason) => ApiError::from(SttError::Unavailable(reason)).into_response(),
    }
}

/// Opens a session.
///
/// What no client could change by asking differently (still loading, broken, stopping) is an HTTP status: whoever
/// routes connections understands it, and there is no session to talk in. What concerns this one session (bad
/// parameters, no free slot) is said after the upgrade, as an error message and a close code: a browser shows its
/// script neither the status nor the body of a refused upgrade.
async fn asr(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let message = format!("/asr is a websocket; connect with ws:// ({rejection})");
            return ApiError::new(StatusCode::UPGRADE_REQUIRED, "websocket_required", message)
                .into_response();
        }
    };
    // Counted before the look at the stop, so that a stop waits for every session that got past it.
    let presence = app.enter();
    if app.shutdown.is_cancelled() {
        return ApiError::stopping().into_response();
    }
    let opened = match open(&app, id, &uri) {
        Err(error @ (SttError::Loading | SttError::Unavailable(_) | SttError::Closed)) => {
            return ApiError::from(error).into_response();
        }
        opened => opened,
    };
    let limit = app.options.max_message_bytes.saturating_mul(HARD_LIMIT_FACTOR);
    let span = tracing::Span::current();
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_failed_upgrade(|error| debug!(%error, "the upgrade to a websocket failed"))
        .on_upgrade(async move |socket| {
            // A task of our own: tracked, and a panic in it is noticed.
            app.shutdown.clone().spawn(
                "asr-session",
                async move {
                    match opened {
                        Ok(session) => session.run(socket).await,
                        Err(error) => {
                            info!(code = error.code(), "session refused");
                            session::refuse(socket, Refusal::from(error)).await;
                        }
                    }
                    drop(presence);
                }
                .instrument(span),
            );
        })
}

/// Takes a slot for the session that a query describes.
fn open(app: &Arc<App>, id: String, uri: &Uri) -> Result<Session, SttError> {
    let bad = |bad: BadParameter| SttError::BadRequest(bad.to_string());
    // Undecodable escapes are taken literally, so only a query that is no query at all fails here.
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri).map_err(|_malformed| {
        SttError::BadRequest("the query is malformed; write name=value&…".to_owned())
    })?;
    let request = SessionRequest::parse(pairs).map_err(bad)?;
    let decode = request.decode(&app.options.decode);
    if let EngineState::Ready(model) = &*app.engine.state().borrow() {
        request.check_model(model).map_err(bad)?;
    }
    let stream = app.engine.open(StreamOptions { decode: decode.clone(), tuning: app.options.tuning })?;
    let config = request.config(id, &stream.model, &decode, app.options.retention_lines);
    Ok(Session { app: Arc::clone(app), stream, config, detail: request.detail })
}
