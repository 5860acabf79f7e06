//! `/openapi.json`: the HTTP interface for programs, generated from the types that are answered.
//!
//! The functions here are never called: they carry the description of the routes, which the routes' own files would
//! drown in. A test holds them against the routes that there are.

use std::sync::{Arc, LazyLock};

use axum::{
    Router,
    http::{HeaderValue, header},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Serialize;
use utoipa::{
    Modify, OpenApi, ToSchema,
    openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme},
};

use super::listen::App;
use crate::asr::protocols::openai::{Diarized, ErrorBody, Event, Model, ModelList, Transcription, Verbose};

/// The route of this page.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/openapi.json", get(document))
}

async fn document() -> Response {
    static DOCUMENT: LazyLock<String> =
        LazyLock::new(|| serde_json::to_string_pretty(&Document::openapi()).unwrap_or_default());
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], DOCUMENT.as_str())
        .into_response()
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "godctl asr-serve",
        description = "Speech to text: live over websockets, whole recordings over HTTP.",
        license(name = "MIT OR Apache-2.0")
    ),
    paths(
        index,
        page,
        asr,
        listen,
        listen_recorded,
        health,
        ready,
        metrics,
        openapi,
        transcriptions,
        translations,
        models,
        model
    ),
    components(schemas(Transcription, Verbose, Diarized, Event)),
    modifiers(&Token)
)]
struct Document;

/// Every route but `/health` asks for a token once the server has one.
struct Token;

impl Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", bearer);
        let none = SecurityRequirement::default();
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new()), none]);
    }
}

/// The form of `/v1/audio/transcriptions`. The fields may come in any order; names with and without `[]` are the same,
/// and unknown ones are passed over.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its description is used")]
struct TranscriptionForm {
    /// The recording: WAV, AIFF, CAF, FLAC, MP3, AAC, M4A/MP4, Ogg (Opus, Vorbis, FLAC) or WebM/Matroska.
    #[schema(content_media_type = "application/octet-stream")]
    file: Vec<u8>,
    /// Any name; the loaded model answers, and the header `x-godctl-model` says which that is.
    model: Option<String>,
    /// The language spoken, as an ISO code; detected where it is not given.
    language: Option<String>,
    /// Languages that may be spoken.
    #[schema(rename = "languages[]")]
    languages: Option<Vec<String>>,
    /// Text that came before, or that shows the style. It is given to the model with every window of the recording.
    prompt: Option<String>,
    /// Words to expect.
    #[schema(rename = "keywords[]")]
    keywords: Option<Vec<String>>,
    /// `json`, `text`, `srt`, `vtt`, `verbose_json` or `diarized_json`.
    #[schema(default = "json")]
    response_format: Option<String>,
    /// `word` and `segment`; read with `verbose_json`.
    #[schema(rename = "timestamp_granularities[]")]
    timestamp_granularities: Option<Vec<String>>,
    /// Where decoding starts, 0 to 1; it is raised while a result is a loop or a guess.
    temperature: Option<f32>,
    /// Server-sent events, with `json`, `text` and `diarized_json`.
    stream: Option<bool>,
    /// `logprobs`.
    #[schema(rename = "include[]")]
    include: Option<Vec<String>>,
    /// Names for the speakers of the channels, in their order, with `diarized_json`.
    #[schema(rename = "known_speaker_names[]")]
    known_speaker_names: Option<Vec<String>>,
}

/// What is known of the server's state.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "only its description is used")]
struct Health {
    /// Always `ok`.
    status: String,
    /// Always `candle`.
    backend: String,
    /// The model is loaded and the server takes work.
    ready: bool,
    /// Of godctl.
    version: String,
    /// The loaded model.
    model: Option<String>,
}

/// An error of a route that is not OpenAI's.
#[derive(Serialize, ToSchema)]
#[allow(dead_code, reason = "only its description is used")]
struct PlainError {
    /// A short name for programs.
    code: String,
    /// For a person.
    message: String,
}

#[utoipa::path(get, path = "/", responses((status = 200, description = "what there is here")))]
#[allow(dead_code, reason = "only its description is used")]
fn index() {}

#[utoipa::path(
    get,
    path = "/page/{path}",
    params(("path" = String, Path, description = "a file of the page")),
    responses((status = 200, description = "that file"), (status = 404, description = "there is no such file", body = PlainError))
)]
#[allow(dead_code, reason = "only its description is used")]
fn page() {}

#[utoipa::path(
    get,
    path = "/asr",
    params(
        ("language" = Option<String>, Query, description = "the language spoken, or auto"),
        ("task" = Option<String>, Query, description = "transcribe or translate"),
        ("mode" = Option<String>, Query, description = "full or diff"),
        ("prompt" = Option<String>, Query, description = "text that came before"),
        ("hotwords" = Option<String>, Query, description = "words to expect"),
        ("words" = Option<bool>, Query, description = "times of words")
    ),
    responses(
        (status = 101, description = "a websocket: audio in, WhisperLiveKit's messages out"),
        (status = 426, description = "not a websocket", body = PlainError),
        (status = 503, description = "loading, stopping or broken", body = PlainError)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn asr() {}

#[utoipa::path(
    get,
    path = "/v1/listen",
    params(
        ("encoding" = Option<String>, Query, description = "linear16, linear32, mulaw, alaw, opus, ogg-opus or flac; none for a container"),
        ("sample_rate" = Option<u32>, Query, description = "of raw audio, 8000 to 192000 Hz"),
        ("channels" = Option<usize>, Query, description = "1 to 8"),
        ("multichannel" = Option<bool>, Query, description = "each channel has results of its own"),
        ("language" = Option<String>, Query, description = "the language spoken, or multi"),
        ("interim_results" = Option<bool>, Query, description = "words that may still change"),
        ("vad_events" = Option<bool>, Query, description = "beginnings of speech"),
        ("endpointing" = Option<String>, Query, description = "false, true, or milliseconds of silence that end an utterance"),
        ("utterance_end_ms" = Option<u32>, Query, description = "1000 to 5000; goes with interim_results=true"),
        ("keyterm" = Option<Vec<String>>, Query, description = "words to expect")
    ),
    responses(
        (status = 101, description = "a websocket: audio in, Deepgram's messages out"),
        (status = 426, description = "not a websocket", body = PlainError),
        (status = 503, description = "loading, stopping or broken", body = PlainError)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn listen() {}

#[utoipa::path(
    post,
    path = "/v1/listen",
    params(
        ("language" = Option<String>, Query, description = "the language spoken, or multi"),
        ("detect_language" = Option<bool>, Query, description = "detect it and say it"),
        ("multichannel" = Option<bool>, Query, description = "each channel has results of its own"),
        ("utterances" = Option<bool>, Query, description = "a list of utterances"),
        ("utt_split" = Option<f64>, Query, description = "seconds of silence between them"),
        ("paragraphs" = Option<bool>, Query, description = "the text in paragraphs")
    ),
    request_body(content_type = "application/octet-stream", description = "a recording"),
    responses(
        (status = 200, description = "Deepgram's transcription of a recording"),
        (status = 400, description = "no recording, or a parameter that cannot be honoured"),
        (status = 408, description = "the upload stalled"),
        (status = 413, description = "the recording is too large"),
        (status = 503, description = "loading, stopping, or too many recordings at once")
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn listen_recorded() {}

#[utoipa::path(get, path = "/metrics", responses((status = 200, description = "what Prometheus reads")))]
#[allow(dead_code, reason = "only its description is used")]
fn metrics() {}

#[utoipa::path(get, path = "/health", security(()), responses((status = 200, description = "the process lives", body = Health)))]
#[allow(dead_code, reason = "only its description is used")]
fn health() {}

#[utoipa::path(
    get,
    path = "/ready",
    responses(
        (status = 200, description = "the model is loaded and works"),
        (status = 503, description = "loading, stopping, broken, or failing on every window", body = PlainError)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn ready() {}

#[utoipa::path(get, path = "/openapi.json", responses((status = 200, description = "this document")))]
#[allow(dead_code, reason = "only its description is used")]
fn openapi() {}

#[utoipa::path(
    post,
    path = "/v1/audio/transcriptions",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "what was said, in the format asked for", content(
            (Transcription = "application/json"),
            (Verbose = "application/json; format=verbose_json"),
            (Diarized = "application/json; format=diarized_json"),
            (String = "text/plain"),
            (String = "application/x-subrip"),
            (String = "text/vtt"),
            (Event = "text/event-stream")
        )),
        (status = 400, description = "not audio, or a field that makes no sense", body = ErrorBody),
        (status = 401, description = "no token, or a wrong one", body = ErrorBody),
        (status = 408, description = "the upload stalled", body = ErrorBody),
        (status = 413, description = "the recording is too large", body = ErrorBody),
        (status = 415, description = "not multipart/form-data", body = ErrorBody),
        (status = 503, description = "loading, stopping, or too much to do; see Retry-After", body = ErrorBody),
        (status = 507, description = "no room on the server's disk", body = ErrorBody)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn transcriptions() {}

#[utoipa::path(
    post,
    path = "/v1/audio/translations",
    request_body(content = TranscriptionForm, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "what was said, in English, in the format asked for", body = Transcription),
        (status = 400, description = "as for transcriptions, or an English-only model", body = ErrorBody)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn translations() {}

#[utoipa::path(
    get,
    path = "/v1/models",
    responses(
        (status = 200, description = "the loaded model and the names that mean it", body = ModelList),
        (status = 503, description = "still loading", body = ErrorBody)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn models() {}

#[utoipa::path(
    get,
    path = "/v1/models/{id}",
    params(("id" = String, Path, description = "its name, which may hold a slash")),
    responses(
        (status = 200, description = "that model", body = Model),
        (status = 404, description = "there is no such model", body = ErrorBody)
    )
)]
#[allow(dead_code, reason = "only its description is used")]
fn model() {}
