//! `/v1/audio/transcriptions` and `/v1/audio/translations`. Each request is worked on by its own handler, or by the
//! stream of its events; dropping either ends the job.

use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    extract::{DefaultBodyLimit, Path, Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::{get, post},
};
use futures_util::stream;
use tempfile::NamedTempFile;
use tokio::{sync::oneshot, time::Instant};
use tracing::{Instrument as _, Span, info, warn};

use super::{
    super::{
        access::{Caller, Quota},
        error::Dialect,
        listen::Presence,
        overheard::Overheard,
    },
    ApiError, App, RequestId, models, problem,
    upload::{self, Upload},
};
use crate::{
    asr::{
        ModelInfo, SttError, Task,
        offline::{Job, JobOptions, OfflineError, Source},
        protocols::openai::{
            Event,
            request::{Format, Request as Wishes},
            transcript::{Answer, Transcript},
        },
    },
    audio::{AudioError, decode::Decoder, scene},
};

/// What error messages call the recording: where it lies is nobody's business.
const NAME: &str = "the file";
/// A comment goes to who listens for events when nothing else did for this long.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Says what [`Transcript::warnings`] say, for the formats that have no place for it.
pub(in super::super) const WARNING: HeaderName = HeaderName::from_static("x-godctl-warning");
/// The model that answered, whichever was asked for.
pub(in super::super) const MODEL: HeaderName = HeaderName::from_static("x-godctl-model");

/// The routes of this protocol.
pub(in super::super) fn routes() -> Router<Arc<App>> {
    let created = jiff::Timestamp::now().as_second();
    Router::new()
        .route("/v1/audio/transcriptions", post(transcriptions))
        .route("/v1/audio/translations", post(translations))
        // Uploads have a limit of their own, that does not hold them in memory.
        .layer(DefaultBodyLimit::disable())
        .route("/v1/models", get(async move |app: State<Arc<App>>| models::list(app, created)))
        .route(
            "/v1/models/{*id}",
            get(async move |app: State<Arc<App>>, id: Path<String>| models::one(app, id, created)),
        )
        .layer(middleware::from_fn(problem::word))
}

async fn transcriptions(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    run(app, id, Task::Transcribe, request).await
}

async fn translations(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Result<Response, ApiError> {
    run(app, id, Task::Translate, request).await
}

async fn run(
    app: Arc<App>,
    RequestId(id): RequestId,
    task: Task,
    request: Request,
) -> Result<Response, ApiError> {
    if app.shutdown.is_cancelled() {
        return Err(ApiError::stopping());
    }
    let presence = app.enter();
    let mut summary = Summary::new(id);
    let work = Box::pin(async {
        let (work, wishes) = Work::start(&app, &summary.id, presence, task, request).await?;
        summary.started(&wishes, work.job.duration_hint());
        if wishes.stream {
            summary.streams = true;
            return Ok(events(Arc::clone(&app), work, summary));
        }
        let answered = work.answer().await;
        summary.ended(&answered);
        answered
    });
    tokio::select! {
        biased;
        () = app.cut.cancelled() => Err(ApiError::stopping()),
        answered = work => answered,
    }
}

/// A recording that is being transcribed for a client.
struct Work {
    job: Job,
    transcript: Transcript,
    overheard: Overheard,
    model: Arc<ModelInfo>,
    _file: Option<NamedTempFile>,
    /// For a stop that waits for it, and for the limits of the client's token.
    _presence: (Presence, Option<Quota>),
}

impl Work {
    async fn start(
        app: &App,
        id: &str,
        presence: Presence,
        task: Task,
        request: Request,
    ) -> Result<(Self, Wishes), ApiError> {
        // Before anything is taken in: a client that is refused now has lost nothing.
        let caller = request.extensions().get::<Caller>().cloned().unwrap_or_default();
        let share = app.share(&caller)?;
        let place = app.engine.place()?;
        let Upload { file, wishes } = upload::receive(app, request).await?;
        let mut decode = wishes.decode(&app.options.decode, task);
        let mut transcript = Transcript::new(wishes.clone(), task);
        let model = app.engine.check(&crate::asr::DecodeOptions::default())?;
        if !model.prompts && (decode.prompt.is_some() || decode.hotwords.is_some()) {
            // Clients send prompts by habit; one that would only do harm is no reason to give them nothing.
            (decode.prompt, decode.hotwords) = (None, None);
            transcript
                .warnings
                .push(format!("the prompt was left out: the model '{}' takes none", model.name));
        }
        app.engine.check(&decode).map_err(|error| about(error, &wishes, &model, task))?;
        let source = Source { path: file.path().to_owned(), name: NAME.to_owned() };
        let channels = if wishes.format == Format::DiarizedJson {
            apart(app, source.clone()).await?
        } else {
            Vec::new()
        };
        let options = JobOptions { decode, tuning: app.options.tuning, channels };
        let job = Job::start(&app.engine, &app.shutdown, place, source, options).await?;
        // The decoder has it open. Where open files can be deleted, not even a crash leaves it behind from here on.
        let file = if cfg!(unix) { None } else { Some(file) };
        let overheard = app.overhear(id, &model);
        let _presence = (presence, share);
        Ok((Self { job, transcript, overheard, model, _file: file, _presence }, wishes))
    }

    /// The next events for a client that listens; `None` at the end of the recording.
    async fn next(&mut self) -> Result<Option<Vec<Event>>, ApiError> {
        let Some(passage) = self.job.next().await? else { return Ok(None) };
        let speaker = passage.channel.map(|channel| self.transcript.speaker(channel));
        self.overheard.take(&passage, speaker.as_deref());
        Ok(Some(self.transcript.add(passage)))
    }

    async fn answer(mut self) -> Result<Response, ApiError> {
        while self.next().await?.is_some() {}
        let Self { job, mut transcript, overheard, model, _file, _presence } = self;
        overheard.tell();
        let heard = job.heard();
        transcript.warnings.extend(heard.damage.as_ref().map(damaged));
        let warnings = transcript.warnings.join("; ");
        let mut response = match transcript.answer(heard.duration) {
            Answer::Text { content_type, body } => {
                ([(header::CONTENT_TYPE, HeaderValue::from_static(content_type))], body).into_response()
            }
            json => Json(json).into_response(),
        };
        if !warnings.is_empty() {
            insert(&mut response, WARNING, &warnings);
        }
        insert(&mut response, MODEL, &model.name);
        Ok(response)
    }
}

/// Sets a header, as far as its text can be one.
fn insert(response: &mut Response, name: HeaderName, text: &str) {
    if let Ok(value) = HeaderValue::from_str(text) {
        response.headers_mut().insert(name, value);
    }
}

fn damaged(error: &AudioError) -> String {
    format!("the transcript covers only a part: {error}")
}

/// Which field to change, where one is to blame.
fn about(error: SttError, wishes: &Wishes, model: &ModelInfo, task: Task) -> ApiError {
    let is_bad = matches!(error, SttError::BadRequest(_));
    let problem = ApiError::from(error);
    let known = |language: &String| model.languages.contains(language);
    if !is_bad {
        problem
    } else if !wishes.language.iter().all(known) {
        problem.about("language")
    } else if !wishes.languages.iter().all(known) {
        problem.about("languages")
    } else if task == Task::Translate {
        problem.about("model")
    } else {
        problem
    }
}

/// The channels that are speakers of their own. Reads the recording once, on a thread.
async fn apart(app: &App, source: Source) -> Result<Vec<usize>, OfflineError> {
    let (tell, told) = oneshot::channel();
    let body = move || {
        let looked =
            std::panic::catch_unwind(|| scene::apart(Decoder::open_as(&source.path, source.name.clone())?));
        let looked = looked.map_err(|_panic| OfflineError::Decoder).and_then(|found| Ok(found?));
        // The client may be gone.
        tell.send(looked).ok();
    };
    app.shutdown.thread("asr-channels", body).map_err(AudioError::Thread)?;
    told.await.unwrap_or(Err(OfflineError::Decoder))
}

/// What is told piece by piece, and how far that is.
struct Telling {
    app: Arc<App>,
    work: Option<Box<Work>>,
    ready: VecDeque<sse::Event>,
    summary: Summary,
}

fn events(app: Arc<App>, work: Work, summary: Summary) -> Response {
    let model = work.model.name.clone();
    let telling = Telling { app, work: Some(Box::new(work)), ready: VecDeque::new(), summary };
    let span = Span::current();
    let events = stream::unfold(telling, move |mut telling| {
        async move {
            loop {
                if let Some(event) = telling.ready.pop_front() {
                    return Some((Ok::<_, Infallible>(event), telling));
                }
                telling.advance().await?;
            }
        }
        .instrument(span.clone())
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response();
    insert(&mut response, MODEL, &model);
    response
}

impl Telling {
    /// Works until there is something to tell; `None` when everything has been told.
    async fn advance(&mut self) -> Option<()> {
        let work = self.work.as_mut()?;
        let next = tokio::select! {
            biased;
            () = self.app.cut.cancelled() => Err(ApiError::stopping()),
            next = work.next() => next,
        };
        match next {
            Ok(Some(events)) => self.ready.extend(events.iter().map(event)),
            Ok(None) => {
                let Work { job, mut transcript, overheard, .. } = *self.work.take()?;
                overheard.tell();
                let heard = job.heard();
                transcript.warnings.extend(heard.damage.as_ref().map(damaged));
                self.ready.push_back(event(&transcript.done()));
                self.summary.ended(&Ok(()));
            }
            Err(problem) => {
                self.work = None;
                self.ready.push_back(json_event("error", &problem.body(Dialect::OpenAi, &self.summary.id)));
                self.summary.ended::<()>(&Err(problem));
            }
        }
        Some(())
    }
}

fn event(event: &Event) -> sse::Event {
    json_event(event.name(), event)
}

fn json_event(name: &str, data: &impl serde::Serialize) -> sse::Event {
    // Nothing in these types fails to be written; an event without data says at least that something happened.
    sse::Event::default().event(name).json_data(data).unwrap_or_default()
}

/// One line in the log for each request, also for those whose client went away.
struct Summary {
    id: String,
    started: Instant,
    format: Option<Format>,
    duration: Option<f64>,
    streams: bool,
    told: bool,
}

impl Summary {
    fn new(id: String) -> Self {
        Self { id, started: Instant::now(), format: None, duration: None, streams: false, told: false }
    }

    fn started(&mut self, wishes: &Wishes, duration: Option<f64>) {
        (self.format, self.duration) = (Some(wishes.format), duration);
    }

    fn ended<T>(&mut self, result: &Result<T, ApiError>) {
        self.told = true;
        let Self { id, format, duration, streams, .. } = self;
        let took_ms = self.started.elapsed().as_millis();
        let format = format.map(tracing::field::display);
        match result {
            Ok(_) => {
                info!(session = id, format, audio_s = duration, took_ms, streams, "recording transcribed")
            }
            Err(problem) if problem.status().is_server_error() => {
                warn!(session = id, took_ms, ?problem, "a recording could not be transcribed");
            }
            Err(problem) => info!(session = id, took_ms, ?problem, "a recording was refused"),
        }
    }
}

impl Drop for Summary {
    fn drop(&mut self) {
        if !self.told {
            let took_ms = self.started.elapsed().as_millis();
            info!(session = self.id, took_ms, "a recording was given up or refused early");
        }
    }
}
