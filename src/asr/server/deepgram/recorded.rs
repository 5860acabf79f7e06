//! `POST /v1/listen`: a recording in, its transcription out. The body goes to a temporary file under a size limit and
//! is decoded in windows, after the live streams; see [`crate::asr::offline`].

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use axum::{
    Extension, Json,
    body::{BodyDataStream, Bytes},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use futures_util::StreamExt as _;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::sync::oneshot;
use tracing::info;

use super::{
    super::{
        guarded::is_late,
        http::RequestId,
        listen::App,
        live::{Caller, channel_name},
        spool::{Spool, SpoolError, declared_bytes, discard},
    },
    routes::{DG_IGNORED, DG_REQUEST_ID, parse},
};
use crate::{
    asr::{
        SttError,
        offline::{Job, JobOptions, OfflineError, Source},
        protocols::deepgram::{
            options::{Audio, Encoding, MAX_CHANNELS, Options},
            recorded::{About, Recording, Warning},
        },
    },
    audio::{
        AudioError,
        decode::Decoder,
        pcm::{PcmEncoding, PcmFormat},
        sniff::{Container, Sniffed, sniff},
    },
    shutdown::Shutdown,
};

/// How error messages call a recording.
const NAME: &str = "the recording";
/// Bytes that tell a WAV file from raw samples.
const WAV_MARK: usize = 12;

/// Why there is no transcription, as Deepgram's clients read it.
#[derive(Debug)]
struct Refused {
    status: StatusCode,
    code: &'static str,
    message: String,
    retry_after: Option<u64>,
}

impl Refused {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "INVALID_QUERY_PARAMETER", message)
    }

    fn stopping() -> Self {
        let message = "the server is stopping; send the recording to another one or try again shortly";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message)
    }
}

impl From<SttError> for Refused {
    fn from(error: SttError) -> Self {
        let message = error.to_string();
        let retry_after = error.retry_after().map(|wait| wait.as_secs().max(1));
        let refused = match error {
            SttError::BadRequest(_) => Self::bad(message),
            SttError::Inference(_) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR", message)
            }
            _ => Self::new(StatusCode::SERVICE_UNAVAILABLE, "SERVICE_UNAVAILABLE", message),
        };
        Self { retry_after, ..refused }
    }
}

impl From<OfflineError> for Refused {
    fn from(error: OfflineError) -> Self {
        match error {
            OfflineError::Engine(error) | OfflineError::Window { error, .. } => error.into(),
            OfflineError::Audio(AudioError::Thread(_)) => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR", error.to_string())
            }
            OfflineError::Audio(_) => Self::new(StatusCode::BAD_REQUEST, "Bad Request", error.to_string()),
            OfflineError::Decoder => {
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "INTERNAL_SERVER_ERROR", error.to_string())
            }
        }
    }
}

impl From<SpoolError> for Refused {
    fn from(error: SpoolError) -> Self {
        let code = match error {
            SpoolError::TooLarge { .. } => "PAYLOAD_TOO_LARGE",
            SpoolError::Stalled { .. } => "SLOW_UPLOAD",
            SpoolError::Full => "INSUFFICIENT_STORAGE",
            SpoolError::Broken => "INTERNAL_SERVER_ERROR",
        };
        Self::new(error.status(), code, error.to_string())
    }
}

impl Refused {
    fn respond(self, request_id: &str) -> Response {
        let Self { status, code, message, retry_after } = self;
        let body = serde_json::json!({ "err_code": code, "err_msg": message, "request_id": request_id });
        let mut response = (status, Json(body)).into_response();
        if let Some(wait) = retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait));
        }
        response
    }
}

/// Takes a recording and answers with its transcription.
pub(super) async fn recorded(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    uri: Uri,
    request: Request,
) -> Response {
    // Counted before the look at the stop, so that a stop waits for every recording that got past it.
    let presence = app.enter();
    let answered = if app.shutdown.is_cancelled() {
        Err(Refused::stopping())
    } else {
        tokio::select! {
            biased;
            () = app.cut.cancelled() => Err(Refused::stopping()),
            answered = Box::pin(transcribe(&app, &id, &uri, request)) => answered,
        }
    };
    drop(presence);
    let mut response = answered.unwrap_or_else(|refused| {
        info!(code = refused.code, status = refused.status.as_u16(), "recording refused");
        refused.respond(&id)
    });
    response.headers_mut().extend(HeaderValue::from_str(&id).ok().map(|id| (DG_REQUEST_ID, id)));
    response
}

async fn transcribe(app: &App, id: &str, uri: &Uri, request: Request) -> Result<Response, Refused> {
    let created = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let options = parse(uri)?;
    let model = app.engine.model()?;
    let decode = options.decode(&app.options.decode, &model);
    app.engine.check(&decode)?;
    let json = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.to_ascii_lowercase().starts_with("application/json"));
    if json {
        return Err(Refused::new(
            StatusCode::BAD_REQUEST,
            "REMOTE_CONTENT_ERROR",
            "this server fetches nothing from a url; send the recording itself as the body, with its content type",
        ));
    }
    let limit = app.options.max_upload_bytes;
    if declared_bytes(request.headers()).is_some_and(|bytes| bytes > limit) {
        return Err(SpoolError::TooLarge { limit }.into());
    }
    // Before anything is taken in: a client that is refused now has lost nothing.
    let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
    let _share = app.share(&caller)?;
    let place = app.engine.place()?;
    let mut body = request.into_body().into_data_stream();
    let received = receive(app, &options, &mut body).await;
    if received.is_err() {
        discard(body, &app.options, &app.shutdown);
    }
    let Upload { file, sha256 } = received?;
    let source = Source { path: file.path().to_owned(), name: NAME.to_owned() };
    let channels = if options.multichannel { count_channels(&app.shutdown, &source).await? } else { 1 };
    if channels > MAX_CHANNELS {
        let message =
            format!("multichannel: {channels} channels; send {MAX_CHANNELS} at most, or multichannel=false");
        return Err(Refused::bad(message));
    }
    let apart = if options.multichannel { (0..channels).collect() } else { Vec::new() };
    let job_options = JobOptions { decode, tuning: options.tuning(app.options.tuning), channels: apart };
    let mut job = Job::start(&app.engine, &app.shutdown, place, source, job_options).await?;
    let mut recording = Recording::new(&options, channels);
    let mut overheard = app.overhear(id, &model);
    while let Some(passage) = job.next().await? {
        let speaker = passage.channel.map(channel_name);
        overheard.take(&passage, speaker.as_deref());
        recording.add(passage);
    }
    overheard.tell();
    let heard = job.heard();
    drop(file);
    let ignored = options.ignored(&model, Audio::Recorded);
    let mut warnings: Vec<Warning> = ignored
        .iter()
        .map(|name| Warning {
            parameter: name.clone(),
            r#type: "unsupported_parameter".to_owned(),
            message: match name.as_str() {
                "model" => format!("this server runs '{}'", model.name),
                _ => "this server does nothing about it".to_owned(),
            },
        })
        .collect();
    warnings.extend(heard.damage.as_ref().map(|damage| Warning {
        parameter: String::new(),
        r#type: "incomplete_audio".to_owned(),
        message: format!("the transcript covers only a part: {damage}"),
    }));
    info!(audio_s = heard.duration, channels, "recording transcribed");
    let about = About { request_id: id.to_owned(), created, sha256, duration: heard.duration, warnings };
    let mut response = Json(recording.answer(about, &model)).into_response();
    if !ignored.is_empty() {
        let names = HeaderValue::from_str(&ignored.join(",")).ok();
        response.headers_mut().extend(names.map(|names| (DG_IGNORED, names)));
    }
    Ok(response)
}

/// A recording on disk.
struct Upload {
    file: NamedTempFile,
    sha256: String,
}

/// Writes the body to a file; raw samples get a header that says what they are.
async fn receive(app: &App, options: &Options, body: &mut BodyDataStream) -> Result<Upload, Refused> {
    let mut next = async || -> Result<Option<Bytes>, Refused> {
        match body.next().await {
            None => Ok(None),
            Some(Ok(piece)) => Ok(Some(piece)),
            Some(Err(error)) if !is_late(&error) => {
                let message = format!("the body cannot be read: {error}");
                Err(Refused::new(StatusCode::BAD_REQUEST, "Bad Request", message))
            }
            Some(Err(_late)) => Err(SpoolError::Stalled { patience: app.options.body_timeout }.into()),
        }
    };
    let mut head = Vec::new();
    while head.len() < WAV_MARK
        && let Some(piece) = next().await?
    {
        head.extend_from_slice(&piece);
    }
    if head.is_empty() {
        let message = "the body is empty: it holds no audio; check how it was made";
        return Err(Refused::new(StatusCode::BAD_REQUEST, "Bad Request", message));
    }
    let mut hash = Sha256::new();
    let mut spool = Spool::create(&app.options, "", &header_for(options, &head))?;
    let mut piece = Bytes::from(head);
    loop {
        hash.update(&piece);
        spool.write(&piece).await?;
        match next().await? {
            Some(next) => piece = next,
            None => break,
        }
    }
    let (file, _bytes) = spool.finish().await?;
    Ok(Upload { file, sha256: format!("{:x}", hash.finalize()) })
}

/// The header of a WAV file for raw samples; nothing where the recording has a container.
fn header_for(options: &Options, head: &[u8]) -> Vec<u8> {
    let container = match sniff(head) {
        Sniffed::Container(Container::Wav) => true,
        // Where samples were announced, nothing else begins like a container by chance but noise does.
        Sniffed::Container(_) => !matches!(options.encoding, Encoding::Pcm(_)),
        Sniffed::NeedMore | Sniffed::RawPcm => !matches!(options.encoding, Encoding::Pcm(_)),
    };
    match options.pcm() {
        Some(format) if !container => wav_header(format),
        _ => Vec::new(),
    }
}

/// A header that leaves the length open.
fn wav_header(format: PcmFormat) -> Vec<u8> {
    let tag: u16 = match format.encoding {
        PcmEncoding::Linear16 => 1,
        PcmEncoding::Linear32 => 3,
        PcmEncoding::ALaw => 6,
        PcmEncoding::MuLaw => 7,
    };
    let sample_bytes = u16::try_from(format.encoding.sample_bytes()).unwrap_or(u16::MAX);
    let channels = u16::try_from(format.channels).unwrap_or(u16::MAX);
    let frame = sample_bytes.saturating_mul(channels);
    let mut header = [&b"RIFF"[..], &[0xff; 4], b"WAVEfmt ", &16_u32.to_le_bytes()].concat();
    header.extend(tag.to_le_bytes());
    header.extend(channels.to_le_bytes());
    header.extend(format.rate_hz.to_le_bytes());
    header.extend(format.rate_hz.saturating_mul(u32::from(frame)).to_le_bytes());
    header.extend(frame.to_le_bytes());
    header.extend((sample_bytes * 8).to_le_bytes());
    header.extend([&b"data"[..], &[0xff; 4]].concat());
    header
}

/// How many channels a recording has. Reads its beginning on a thread.
async fn count_channels(shutdown: &Shutdown, source: &Source) -> Result<usize, OfflineError> {
    let (tell, told) = oneshot::channel();
    let source = source.clone();
    let body = move || {
        let count = || -> Result<usize, AudioError> {
            let mut decoder = Decoder::open_as(&source.path, source.name.clone())?;
            Ok(decoder.next_frames()?.map_or(1, |(_, _, channels)| channels))
        };
        // A third party's parser over hostile bytes: its panic is this recording's trouble only.
        let counted = catch_unwind(AssertUnwindSafe(count)).map_err(|_panic| OfflineError::Decoder);
        // The client may be gone, and then nobody wants to know.
        drop(tell.send(counted.and_then(|counted| Ok(counted?))));
    };
    shutdown.thread("asr-channels", body).map_err(AudioError::Thread)?;
    told.await.unwrap_or(Err(OfflineError::Decoder))
}
