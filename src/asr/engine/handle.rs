//! The async side: opens streams, hands audio in and events out. Lives on its callers' tasks.

use std::{fmt, sync::Arc, time::Instant};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    EngineConfig, EngineState, EngineStats, StreamGauge, StreamOptions,
    admission::{Admission, Refusal},
    health::{Failing, Health},
    output::StreamOutput,
    shared::{Clock, Doorbell, LastHandle, Shared},
    slot::{Configure, Inbox, Input, Slot},
    worker,
};
use crate::{
    asr::{
        DecodeOptions, ModelInfo, SttError, Task, Transcriber,
        stream::{Samples, StreamConfig, Tuning, VoiceGate, samples_of_ms},
    },
    shutdown::Shutdown,
};

/// Audio that a stream may hold before pushing waits.
pub(super) const INBOX: Samples = samples_of_ms(30_000);
/// Audio goes into the inbox in pieces of at most this, so that a large push does not need the whole inbox free.
const PIECE: usize = 8_000;
/// Events that a stream may hold before the engine stops working for it.
const OUTBOX: usize = 256;

/// The async handle: cheap to clone.
#[derive(Clone)]
pub struct Engine {
    pub(super) shared: Arc<Shared>,
    _last: Arc<LastHandle>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the engine's thread, which loads the weights with `load` and then serves streams. `load` is called again
    /// when the model has panicked.
    ///
    /// `gate` makes the voice activity detector of a new stream, with the endpointing that its options ask for.
    ///
    /// # Errors
    /// When the operating system refuses the thread. A failed `load` shows in [`Engine::state`].
    pub fn start<L, G>(shutdown: &Shutdown, config: EngineConfig, gate: G, load: L) -> std::io::Result<Self>
    where
        L: FnMut() -> Result<Box<dyn Transcriber>, SttError> + Send + 'static,
        G: Fn(Tuning) -> Box<dyn VoiceGate> + Send + Sync + 'static,
    {
        let epoch = Instant::now();
        Self::start_with_clock(shutdown, config, gate, load, Box::new(move || epoch.elapsed().as_secs_f64()))
    }

    /// The same with a clock of the caller's, in seconds.
    pub(super) fn start_with_clock<L, G>(
        shutdown: &Shutdown,
        config: EngineConfig,
        gate: G,
        load: L,
        clock: Clock,
    ) -> std::io::Result<Self>
    where
        L: FnMut() -> Result<Box<dyn Transcriber>, SttError> + Send + 'static,
        G: Fn(Tuning) -> Box<dyn VoiceGate> + Send + Sync + 'static,
    {
        let shared = Arc::new(Shared {
            admission: Mutex::new(Admission::new(config.max_sessions)),
            config,
            clock,
            bell: Doorbell::default(),
            state: watch::Sender::new(EngineState::Loading),
            arrivals: Mutex::default(),
            inboxes: Mutex::default(),
            decoding: Mutex::default(),
            health: Mutex::new(Health::default()),
            stats: Mutex::new(EngineStats { hop_factor: 1, ..EngineStats::default() }),
            offline: super::offline::Queue::default(),
            closing: Mutex::default(),
            gate: Box::new(gate),
        });
        let last = Arc::new(LastHandle(Arc::clone(&shared)));
        let on_thread = Arc::clone(&shared);
        let stop = shutdown.clone();
        shutdown.thread("asr-engine", move || {
            if !worker::run(&on_thread, load) {
                stop.fail("asr-engine", "the model fails again and again".to_owned());
            }
        })?;
        Ok(Self { shared, _last: last })
    }

    /// Loading, ready or failed; changes are seen through the receiver.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.shared.state.subscribe()
    }

    /// Waits until the weights are loaded, or loaded again.
    ///
    /// # Errors
    /// [`SttError::Unavailable`] when they could not be.
    pub async fn ready(&self) -> Result<Arc<ModelInfo>, SttError> {
        let mut state = self.state();
        let settled =
            state.wait_for(|state| matches!(state, EngineState::Ready(_) | EngineState::Failed(_))).await;
        match settled.as_deref() {
            Ok(EngineState::Ready(info)) => Ok(Arc::clone(info)),
            Ok(EngineState::Failed(reason)) => Err(SttError::Unavailable(reason.clone())),
            Ok(EngineState::Loading | EngineState::Restarting(_)) | Err(_) => Err(SttError::Closed),
        }
    }

    /// The model, if it can be used now.
    ///
    /// # Errors
    /// [`SttError::Loading`] before the weights are there, [`SttError::Restarting`] while they are loaded again, and
    /// [`SttError::Unavailable`] when they will not be.
    pub fn model(&self) -> Result<Arc<ModelInfo>, SttError> {
        match &*self.shared.state.borrow() {
            EngineState::Ready(info) => Ok(Arc::clone(info)),
            EngineState::Loading => Err(SttError::Loading),
            EngineState::Restarting(_) => Err(SttError::Restarting),
            EngineState::Failed(reason) => Err(SttError::Unavailable(reason.clone())),
        }
    }

    /// What is wrong with a model that is loaded and has failed on each of its last [`super::FAILING`] windows or
    /// more, and on plain silence. Streams are served all the same: the next good window ends it, and so does a while without any
    /// ([`super::FAILING_S`]).
    #[must_use]
    pub fn failing(&self) -> Option<Failing> {
        self.shared.health.lock().failing(self.shared.now())
    }

    /// What has been done so far, and how it is going.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        self.shared.stats()
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// As [`Engine::model`]; [`SttError::Busy`] when every slot is taken or the machine is behind with the streams that
    /// it has, [`SttError::BadRequest`] for a language or a task that the model does not have.
    pub fn open(&self, options: StreamOptions) -> Result<Stream, SttError> {
        let info = self.model()?;
        check(&info, &options.decode)?;
        {
            let mut stats = self.shared.stats.lock();
            let admission = self.shared.admission.lock();
            if let Err(refusal) = admission.check(stats.active, self.shared.now()) {
                let lag_s = match refusal {
                    Refusal::Full => {
                        stats.refused += 1;
                        None
                    }
                    Refusal::Late(lag_s) => {
                        stats.refused_late += 1;
                        Some(lag_s)
                    }
                };
                return Err(SttError::Busy { limit: admission.limit(), lag_s });
            }
            stats.active += 1;
            stats.opened += 1;
        }
        let stream = StreamConfig::for_window(info.window_s).tuned(options.tuning);
        let (events, receiver) = mpsc::channel(OUTBOX);
        let inbox = Arc::new(Inbox::new(Semaphore::new(usize::try_from(INBOX).unwrap_or(usize::MAX))));
        self.shared.enlist(&inbox);
        // Streams commit words, so they need them aligned.
        let decode = DecodeOptions { word_timestamps: true, ..options.decode };
        let slot = Slot::new((self.shared.gate)(options.tuning), stream, decode, Arc::clone(&inbox), events);
        self.shared.arrivals.lock().push(slot);
        self.shared.bell.ring();
        Ok(Stream {
            input: StreamInput { inbox: Arc::clone(&inbox), shared: Arc::clone(&self.shared) },
            output: StreamOutput::new(receiver, inbox, Arc::clone(&self.shared)),
            model: info,
        })
    }
}

/// Refuses what the model cannot do before a slot is taken.
pub(super) fn check(info: &ModelInfo, options: &DecodeOptions) -> Result<(), SttError> {
    let wanted = options.language.iter().chain(&options.allowed_languages);
    for language in wanted {
        if !info.languages.contains(language) {
            return Err(SttError::BadRequest(format!(
                "model '{}' does not know the language '{language}'; it knows: {}",
                info.name,
                info.languages.join(", ")
            )));
        }
    }
    if !info.prompts && (options.prompt.is_some() || options.hotwords.is_some()) {
        return Err(SttError::BadRequest(format!(
            "model '{}' takes neither a prompt nor hotwords and would lose words; leave them out or use a Whisper model",
            info.name
        )));
    }
    // A model may have a token for translating and know nothing but English all the same.
    let english_only = !info.multilingual || info.languages.iter().all(|language| language == "en");
    if options.task == Task::Translate && english_only {
        return Err(SttError::BadRequest(format!(
            "model '{}' is English-only and cannot translate; use a multilingual model",
            info.name
        )));
    }
    Ok(())
}

/// An open stream: its slot is free again when both ends are dropped or the audio has ended.
#[derive(Debug)]
pub struct Stream {
    /// Where audio goes in.
    pub input: StreamInput,
    /// Where events come out.
    pub output: StreamOutput,
    /// The model that decodes it.
    pub model: Arc<ModelInfo>,
}

/// The sending end. Dropping it without [`StreamInput::end`] ends the stream all the same.
pub struct StreamInput {
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
}

impl fmt::Debug for StreamInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamInput").field("queued", &self.queued()).finish_non_exhaustive()
    }
}

impl StreamInput {
    /// Hands over 16 kHz mono samples in [-1, 1]; waits while the stream holds 30 s that are not yet processed.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    ///
    /// # Cancel safety
    /// Not cancel safe: when dropped half-way, some of the samples have been handed over.
    pub async fn push(&self, samples: &[f32]) -> Result<(), SttError> {
        for piece in samples.chunks(PIECE) {
            self.put(|now| Input::Audio(piece.to_vec(), now)).await?;
        }
        Ok(())
    }

    /// Makes everything pushed so far final without waiting for a pause.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    pub async fn flush(&self) -> Result<(), SttError> {
        self.put(|_| Input::Flush).await
    }

    /// Asks for [`StreamEvent::Marker`](crate::asr::stream::StreamEvent::Marker) when everything pushed before has been dealt with.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    pub async fn marker(&self, name: String) -> Result<(), SttError> {
        self.put(|_| Input::Marker(name)).await
    }

    /// Changes how a stream that was given no audio yet is decoded. Once it has heard something this does nothing.
    ///
    /// # Errors
    /// [`SttError::BadRequest`] as [`Engine::open`], and then nothing has changed; [`SttError::Closed`] once the stream
    /// has ended.
    pub async fn configure(&self, options: StreamOptions) -> Result<(), SttError> {
        let info = match &*self.shared.state.borrow() {
            EngineState::Ready(info) => Arc::clone(info),
            EngineState::Restarting(_) => return Err(SttError::Restarting),
            EngineState::Loading | EngineState::Failed(_) => return Err(SttError::Closed),
        };
        check(&info, &options.decode)?;
        let configure = Configure {
            gate: (self.shared.gate)(options.tuning),
            config: StreamConfig::for_window(info.window_s).tuned(options.tuning),
            options: DecodeOptions { word_timestamps: true, ..options.decode },
        };
        self.put(|_| Input::Configure(Box::new(configure))).await
    }

    /// Says that no more audio comes; the rest is decoded and [`StreamEvent::Ended`](crate::asr::stream::StreamEvent::Ended) follows.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    pub async fn end(self) -> Result<(), SttError> {
        self.put(|_| Input::End).await
    }

    /// Samples handed over that the engine has not taken yet.
    #[must_use]
    pub fn queued(&self) -> Samples {
        self.inbox.queued()
    }

    /// How the stream keeps up, for others to read.
    #[must_use]
    pub fn gauge(&self) -> StreamGauge {
        StreamGauge(Arc::clone(&self.inbox))
    }

    /// Puts in what `input` makes of the time on the engine's clock: when it came, however long it must wait.
    async fn put(&self, input: impl FnOnce(f64) -> Input) -> Result<(), SttError> {
        let input = input(self.shared.now());
        let permit = self.inbox.room.acquire_many(input.cost()).await.map_err(|_closed| SttError::Closed)?;
        permit.forget();
        self.inbox.queue.lock().push_back(input);
        self.shared.bell.ring();
        Ok(())
    }
}

impl Drop for StreamInput {
    fn drop(&mut self) {
        *self.inbox.abandoned.lock() = true;
        self.shared.bell.ring();
    }
}
