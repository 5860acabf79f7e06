//! The routes that every server has, and the request ids. Each protocol brings its own routes.

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{Query, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tracing::{Instrument as _, debug, info_span};
use uuid::Uuid;

use super::{
    access::{Caller, Origins, guard},
    connections::Peer,
    deepgram,
    error::{ApiError, Dialect},
    guarded::Patient,
    listen::App,
    metrics, native, openai, openapi, page,
};
use crate::asr::SttError;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What scripts of other origins may read of an answer, besides what browsers always show them.
const EXPOSED: [HeaderName; 6] = [
    header::RETRY_AFTER,
    REQUEST_ID,
    deepgram::DG_REQUEST_ID,
    deepgram::DG_IGNORED,
    openai::MODEL,
    openai::WARNING,
];

/// All routes, behind what holds for each of them. From outside in: the id, the log and the shape of errors; what
/// other pages' scripts may read; how long a body may take; who may come in.
pub(super) fn router(app: Arc<App>) -> Router {
    let patience = app.options.body_timeout;
    let patient = middleware::map_request(move |request: Request| async move {
        request.map(|body| Body::new(Patient::new(body, patience)))
    });
    Router::new()
        .route("/", get(index))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics::metrics))
        .merge(native::routes())
        .merge(deepgram::routes())
        .merge(openai::routes())
        .merge(openapi::routes())
        .merge(page::routes())
        .fallback(|| async {
            ApiError::new(StatusCode::NOT_FOUND, "not_found", "no such page; see / for what there is")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&app), guard))
        .layer(patient)
        .layer(cors(&app.options.cors_origins))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), identify))
        .with_state(app)
}

/// Lets the scripts of these origins read answers. They say who they are by their token, never by a cookie.
fn cors(origins: &Origins) -> CorsLayer {
    if origins.is_empty() {
        return CorsLayer::new();
    }
    let origins = origins.clone();
    let listed = move |origin: &HeaderValue, _: &_| origin.to_str().is_ok_and(|origin| origins.lists(origin));
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(listed))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, REQUEST_ID])
        .expose_headers(EXPOSED)
        .max_age(Duration::from_secs(600))
}

/// The id of a request, which is also the id of the session that it opens.
#[derive(Debug, Clone)]
pub(super) struct RequestId(pub(super) String);

/// Gives each request an id, the caller's own if it is fit for a log, logs and counts how the request ended, and puts
/// errors into the shape that clients of its path know. The query may hold a token or a prompt, so it is not logged.
async fn identify(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let id = given_id(request.headers()).unwrap_or_else(|| Uuid::now_v7().to_string());
    let path = request.uri().path().to_owned();
    let peer = request.extensions().get::<Peer>().map(|Peer(address)| address.to_string());
    let span =
        info_span!("request", id, method = %request.method(), path, peer, token = tracing::field::Empty);
    request.extensions_mut().insert(RequestId(id.clone()));
    async move {
        let mut response = next.run(request).await;
        debug!(status = response.status().as_u16(), "request answered");
        app.metrics.answered(&path, &response);
        response = ApiError::speak(response, Dialect::of(&path), &id);
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

/// The decoded pairs of a query.
pub(super) fn query(uri: &Uri) -> Result<Vec<(String, String)>, SttError> {
    // Undecodable escapes are taken literally, so only a query that is no query at all fails here.
    let malformed = |_| SttError::BadRequest("the query is malformed; write name=value&…".to_owned());
    Query::try_from_uri(uri).map(|Query(pairs)| pairs).map_err(malformed)
}

/// The page for browsers, the routes for everybody else.
async fn index(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
) -> Response {
    let pass = caller.token().is_some().then_some(&app.page);
    page::page(&headers, pass).unwrap_or_else(|| ([(header::VARY, "accept")], ROUTES).into_response())
}

const ROUTES: &str = "godctl asr-serve\n\n\
     GET  /                          this list; in a browser, a page that transcribes the microphone or a recording\n\
     GET  /asr                       websocket: 16 kHz mono s16le PCM or a container in, transcript out (WhisperLiveKit's protocol)\n\
     GET  /v1/listen                 websocket: audio in, results out (Deepgram's protocol); POST a recording there\n\
     POST /v1/audio/transcriptions   a recording in, transcript out (OpenAI's protocol); translations beside it\n\
     GET  /v1/models                 what is loaded\n\
     GET  /openapi.json              all of this for programs\n\
     GET  /metrics                   what Prometheus reads\n\
     GET  /health                    is the process alive\n\
     GET  /ready                     is the model loaded, and does it work\n";

async fn health(State(app): State<Arc<App>>) -> Response {
    let model = app.engine.model().ok().map(|model| model.name.clone());
    let ready = model.is_some() && app.engine.failing().is_none() && !app.shutdown.is_cancelled();
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
    let model = match app.engine.model() {
        Ok(model) => model,
        Err(error) => return ApiError::from(error).into_response(),
    };
    if let Some(failing) = app.engine.failing() {
        // Loaded, and of no use: whoever routes clients should send them elsewhere.
        return ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "failing", failing.to_string())
            .into_response();
    }
    Json(serde_json::json!({ "ready": true, "model": *model })).into_response()
}
