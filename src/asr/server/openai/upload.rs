//! A multipart form into a request and a file on disk, whatever the order of its fields.
//!
//! Nothing is held but the piece that has just arrived: the file goes to a temporary one that is deleted when the
//! [`Upload`] is dropped. What the form's reader keeps back is bounded too, so that a form that never says where a field
//! begins costs no memory.

use std::{
    io,
    path::Path,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::{Body, BodyDataStream, Bytes},
    extract::{
        FromRequest as _, Multipart, Request,
        multipart::{Field, MultipartError},
    },
    http::{StatusCode, header},
};
use futures_util::{Stream, StreamExt as _};
use parking_lot::Mutex;
use tempfile::NamedTempFile;

use super::{
    super::{
        guarded::is_late,
        spool::{Spool, SpoolError, declared_bytes, discard},
    },
    ApiError, App,
};
use crate::asr::protocols::openai::request::Request as Wishes;

/// Bytes of one field that is not the file.
const MAX_FIELD_BYTES: usize = 64 << 10;
/// Fields of one form.
const MAX_FIELDS: usize = 256;
/// Bytes that the form's reader may keep back: the heads of fields, a piece of the file.
const MAX_KEPT_BYTES: u64 = 1 << 20;
/// Extensions that matter to the decoder.
const EXTENSIONS: [&str; 3] = ["mp3", "aac", "adts"];

/// What was sent.
#[derive(Debug)]
pub(super) struct Upload {
    pub(super) file: NamedTempFile,
    pub(super) wishes: Wishes,
}

/// What has gone through the body so far.
#[derive(Debug, Default)]
struct Flow {
    received: AtomicU64,
    /// Of these, handed on by the form's reader.
    handed_on: AtomicU64,
    /// The next piece did not come in time.
    late: AtomicBool,
}

type SharedBody = Arc<Mutex<Option<BodyDataStream>>>;

/// The body of a request on its way to the form's reader, which would otherwise take all that there is.
struct Metered {
    body: SharedBody,
    flow: Arc<Flow>,
    limit: u64,
    /// A piece was just given: the reader shall work on it before it gets the next.
    rest: bool,
}

impl Stream for Metered {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.rest) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let next = match self.body.lock().as_mut() {
            Some(body) => body.poll_next_unpin(context),
            None => Poll::Ready(None),
        };
        let Poll::Ready(next) = next else { return Poll::Pending };
        let Some(piece) = next else { return Poll::Ready(None) };
        let piece = piece.map_err(|error| {
            self.flow.late.store(is_late(&error), Ordering::Relaxed);
            io::Error::other(error)
        })?;
        self.rest = true;
        let received =
            self.flow.received.fetch_add(piece.len() as u64, Ordering::Relaxed) + piece.len() as u64;
        let kept = received.saturating_sub(self.flow.handed_on.load(Ordering::Relaxed));
        if received > self.limit || kept > MAX_KEPT_BYTES + piece.len() as u64 {
            return Poll::Ready(Some(Err(io::ErrorKind::QuotaExceeded.into())));
        }
        Poll::Ready(Some(Ok(piece)))
    }
}

/// Takes the form of a request.
pub(super) async fn receive(app: &App, request: Request) -> Result<Upload, ApiError> {
    let limit = app.options.max_upload_bytes;
    let (parts, body) = request.into_parts();
    let body: SharedBody = Arc::new(Mutex::new(Some(body.into_data_stream())));
    let content_type = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let is_form =
        content_type.is_some_and(|value| value.to_ascii_lowercase().starts_with("multipart/form-data"));
    let declared = declared_bytes(&parts.headers);
    let received = if !is_form {
        let message = "send the recording as multipart/form-data with the field 'file'";
        Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "multipart_required", message))
    } else if declared.is_some_and(|declared| declared > limit.saturating_add(MAX_KEPT_BYTES)) {
        Err(SpoolError::TooLarge { limit }.into())
    } else {
        let flow = Arc::new(Flow::default());
        let metered = Metered {
            body: Arc::clone(&body),
            flow: Arc::clone(&flow),
            limit: limit.saturating_add(MAX_KEPT_BYTES),
            rest: false,
        };
        let request = Request::from_parts(parts, Body::from_stream(metered));
        match Multipart::from_request(request, &()).await {
            Ok(form) => Form { app, flow: &flow, limit }.read(form).await,
            Err(rejection) => Err(ApiError::bad_request("bad_form", rejection.body_text())),
        }
    };
    if received.is_err()
        && let Some(rest) = body.lock().take()
    {
        discard(rest, &app.options, &app.shutdown);
    }
    received
}

/// How a form is read.
struct Form<'a> {
    app: &'a App,
    flow: &'a Flow,
    limit: u64,
}

impl Form<'_> {
    async fn read(&self, mut form: Multipart) -> Result<Upload, ApiError> {
        let mut wishes = Wishes::default();
        let mut file = None;
        for count in 0.. {
            let Some(mut field) = self.next(form.next_field()).await? else { break };
            if count == MAX_FIELDS {
                let message = format!("a form of more than {MAX_FIELDS} fields");
                return Err(ApiError::bad_request("bad_form", message));
            }
            let name = field.name().unwrap_or_default().to_owned();
            if name == "file" && file.is_some() {
                let message = "one recording at a time; the form has several fields called 'file'";
                return Err(ApiError::bad_request("bad_form", message).about("file"));
            } else if name == "file" {
                file = Some(self.file(&mut field).await?);
            } else {
                let value = self.text(&name, &mut field).await?;
                wishes.set(&name, &value)?;
            }
        }
        let Some(file) = file else {
            let message = "the form has no field 'file'; send the recording in it";
            return Err(ApiError::bad_request("missing_file", message).about("file"));
        };
        wishes.check()?;
        Ok(Upload { file, wishes })
    }

    /// A field that is text.
    async fn text(&self, name: &str, field: &mut Field<'_>) -> Result<String, ApiError> {
        let mut value = Vec::new();
        while let Some(piece) = self.next(field.chunk()).await? {
            self.hand_on(&piece);
            value.extend_from_slice(&piece);
            if value.len() > MAX_FIELD_BYTES {
                let message = format!("the field '{name}' is longer than {MAX_FIELD_BYTES} bytes");
                return Err(ApiError::bad_request("field_too_long", message).about(name));
            }
        }
        let not_text = |_| {
            ApiError::bad_request("invalid_value", format!("the field '{name}' is not UTF-8")).about(name)
        };
        String::from_utf8(value).map_err(not_text)
    }

    /// The recording, into a temporary file.
    async fn file(&self, field: &mut Field<'_>) -> Result<NamedTempFile, ApiError> {
        let extension =
            field.file_name().and_then(|name| Path::new(name).extension()?.to_str().map(str::to_lowercase));
        let extension = extension.filter(|extension| EXTENSIONS.contains(&extension.as_str()));
        let suffix = extension.map(|extension| format!(".{extension}")).unwrap_or_default();
        let mut spool = Spool::create(&self.app.options, &suffix, &[])?;
        while let Some(piece) = self.next(field.chunk()).await? {
            self.hand_on(&piece);
            spool.write(&piece).await?;
        }
        let (file, bytes) = spool.finish().await?;
        if bytes == 0 {
            let message = "the file is empty: it holds no audio; check how it was made";
            return Err(ApiError::bad_request("empty_file", message).about("file"));
        }
        Ok(file)
    }

    fn hand_on(&self, piece: &Bytes) {
        self.flow.handed_on.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }

    /// Waits for the next piece; for how long is a matter of the body.
    async fn next<T>(&self, next: impl Future<Output = Result<T, MultipartError>>) -> Result<T, ApiError> {
        next.await.map_err(|error| self.broken(&error))
    }

    fn broken(&self, error: &MultipartError) -> ApiError {
        if self.flow.late.load(Ordering::Relaxed) {
            return SpoolError::Stalled { patience: self.app.options.body_timeout }.into();
        }
        let received = self.flow.received.load(Ordering::Relaxed);
        if received.saturating_sub(self.flow.handed_on.load(Ordering::Relaxed)) > MAX_KEPT_BYTES {
            return ApiError::bad_request("bad_form", "the head of a field never ends");
        }
        if received > self.limit {
            return SpoolError::TooLarge { limit: self.limit }.into();
        }
        ApiError::bad_request("bad_form", format!("the form cannot be read: {}", error.body_text()))
    }
}

impl From<SpoolError> for ApiError {
    fn from(error: SpoolError) -> Self {
        let code = match error {
            SpoolError::TooLarge { .. } => "file_too_large",
            SpoolError::Stalled { .. } => "upload_stalled",
            SpoolError::Full => "storage_full",
            SpoolError::Broken => "storage_failed",
        };
        let problem = Self::new(error.status(), code, error.to_string());
        if matches!(error, SpoolError::TooLarge { .. }) { problem.about("file") } else { problem }
    }
}
