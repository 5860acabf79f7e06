//! The async side: opens streams, hands audio in and events out. Lives on its callers' tasks.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc, watch};

use super::{
    EngineConfig, EngineState, EngineStats, StreamOptions,
    shared::{Doorbell, LastHandle, Shared},
    slot::{Inbox, Input, Slot},
    worker,
};
use crate::{
    asr::{
        DecodeOptions, ModelInfo, SttError, Task, Transcriber,
        stream::{Samples, StreamConfig, StreamEvent, VoiceGate, samples_of_ms},
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
    shared: Arc<Shared>,
    _last: Arc<LastHandle>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("stats", &self.stats()).finish_non_exhaustive()
    }
}

impl Engine {
    /// Starts the engine's thread, which loads the weights with `load` and then serves streams.
    ///
    /// `gate` makes the voice activity detector of a new stream.
    ///
    /// # Errors
    /// When the operating system refuses the thread. A failed `load` shows in [`Engine::state`].
    pub fn start<L, G>(shutdown: &Shutdown, config: EngineConfig, gate: G, load: L) -> std::io::Result<Self>
    where
        L: FnOnce() -> Result<Box<dyn Transcriber>, SttError> + Send + 'static,
        G: Fn() -> Box<dyn VoiceGate> + Send + Sync + 'static,
    {
        let shared = Arc::new(Shared {
            config,
            bell: Doorbell::default(),
            state: watch::Sender::new(EngineState::Loading),
            arrivals: Mutex::default(),
            stats: Mutex::default(),
            closing: Mutex::default(),
            gate: Box::new(gate),
        });
        let last = Arc::new(LastHandle(Arc::clone(&shared)));
        let on_thread = Arc::clone(&shared);
        shutdown.thread("asr-engine", move || worker::run(&on_thread, load))?;
        Ok(Self { shared, _last: last })
    }

    /// Loading, ready or failed; changes are seen through the receiver.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.shared.state.subscribe()
    }

    /// Waits until the weights are loaded.
    ///
    /// # Errors
    /// [`SttError::Unavailable`] when they could not be.
    pub async fn ready(&self) -> Result<Arc<ModelInfo>, SttError> {
        let mut state = self.state();
        let settled = state.wait_for(|state| *state != EngineState::Loading).await;
        match settled.as_deref() {
            Ok(EngineState::Ready(info)) => Ok(Arc::clone(info)),
            Ok(EngineState::Failed(reason)) => Err(SttError::Unavailable(reason.clone())),
            Ok(EngineState::Loading) | Err(_) => Err(SttError::Closed),
        }
    }

    /// What has been done so far.
    #[must_use]
    pub fn stats(&self) -> EngineStats {
        *self.shared.stats.lock()
    }

    /// Takes a slot.
    ///
    /// # Errors
    /// [`SttError::Busy`] when every slot is taken, [`SttError::Loading`] before the weights are there,
    /// [`SttError::Unavailable`] when they will not be, [`SttError::BadRequest`] for a language or a task that the
    /// model does not have.
    pub fn open(&self, options: StreamOptions) -> Result<Stream, SttError> {
        let info = match &*self.shared.state.borrow() {
            EngineState::Ready(info) => Arc::clone(info),
            EngineState::Loading => return Err(SttError::Loading),
            EngineState::Failed(reason) => return Err(SttError::Unavailable(reason.clone())),
        };
        check(&info, &options.decode)?;
        {
            let mut stats = self.shared.stats.lock();
            if stats.active >= self.shared.config.max_sessions {
                stats.refused += 1;
                return Err(SttError::Busy { limit: self.shared.config.max_sessions });
            }
            stats.active += 1;
            stats.opened += 1;
        }
        let stream = StreamConfig::for_window(info.window_s).tuned(options.tuning);
        let (events, receiver) = mpsc::channel(OUTBOX);
        let inbox = Arc::new(Inbox::new(Semaphore::new(usize::try_from(INBOX).unwrap_or(usize::MAX))));
        // Streams commit words, so they need them aligned.
        let decode = DecodeOptions { word_timestamps: true, ..options.decode };
        let slot = Slot::new((self.shared.gate)(), stream, Arc::new(decode), Arc::clone(&inbox), events);
        self.shared.arrivals.lock().push(slot);
        self.shared.bell.ring();
        Ok(Stream {
            input: StreamInput { inbox, shared: Arc::clone(&self.shared) },
            output: StreamOutput { receiver, shared: Arc::clone(&self.shared) },
            model: info,
        })
    }
}

/// Refuses what the model cannot do before a slot is taken.
fn check(info: &ModelInfo, options: &DecodeOptions) -> Result<(), SttError> {
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
    if options.task == Task::Translate && !info.multilingual {
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
            self.put(Input::Audio(piece.to_vec())).await?;
        }
        Ok(())
    }

    /// Makes everything pushed so far final without waiting for a pause.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    pub async fn flush(&self) -> Result<(), SttError> {
        self.put(Input::Flush).await
    }

    /// Asks for [`StreamEvent::Marker`] when everything pushed before has been dealt with.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    pub async fn marker(&self, name: String) -> Result<(), SttError> {
        self.put(Input::Marker(name)).await
    }

    /// Says that no more audio comes; the rest is decoded and [`StreamEvent::Ended`] follows.
    ///
    /// # Errors
    /// [`SttError::Closed`] once the stream has ended.
    pub async fn end(self) -> Result<(), SttError> {
        self.put(Input::End).await
    }

    /// Samples handed over that the engine has not taken yet.
    #[must_use]
    pub fn queued(&self) -> Samples {
        self.inbox.queued()
    }

    async fn put(&self, input: Input) -> Result<(), SttError> {
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

/// The receiving end. Dropping it cancels the stream.
pub struct StreamOutput {
    receiver: mpsc::Receiver<StreamEvent>,
    shared: Arc<Shared>,
}

impl fmt::Debug for StreamOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOutput").field("waiting", &self.receiver.len()).finish_non_exhaustive()
    }
}

impl StreamOutput {
    /// The next event; `None` after [`StreamEvent::Ended`] or when the engine stopped. Cancel safe.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        let event = self.receiver.recv().await;
        // There is room again: the engine may be waiting for it.
        self.shared.bell.ring();
        event
    }
}

impl Drop for StreamOutput {
    fn drop(&mut self) {
        self.receiver.close();
        self.shared.bell.ring();
    }
}
