//! One stream's place in the engine: its inbox, its session, its way out. Runs on the engine's thread.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use super::{StreamLoad, pace::Pace};
use crate::asr::{
    DecodeOptions, Hypothesis, SttError, Window,
    stream::{
        Samples, StreamConfig, StreamEvent, VoiceGate, seconds,
        session::{Decode, Session},
    },
};

/// Events that one step may bring at most, with a good margin: the slot rests while there is less room.
const ROOM: usize = 32;
/// Audio taken in one turn when nothing needs decoding, so that one stream's silence does not hold up the others.
const TURN: usize = 80_000;

/// What a client sends into its stream.
pub(super) enum Input {
    /// Samples, and when they arrived on the engine's clock.
    Audio(Vec<f32>, f64),
    Flush,
    Marker(String),
    /// Other options for a stream that has heard nothing yet.
    Configure(Box<Configure>),
    End,
}

/// What a stream is opened with.
pub(super) struct Configure {
    pub(super) gate: Box<dyn VoiceGate>,
    pub(super) config: StreamConfig,
    pub(super) options: DecodeOptions,
}

impl Input {
    /// Places it takes in the inbox.
    pub(super) fn cost(&self) -> u32 {
        match self {
            Self::Audio(samples, _) => u32::try_from(samples.len()).unwrap_or(u32::MAX),
            // Markers carry text from the client: 3,000 of them fill an inbox.
            Self::Marker(_) => 160,
            // A prompt and a voice gate: 30 of them fill an inbox.
            Self::Configure(_) => 16_000,
            Self::Flush | Self::End => 1,
        }
    }
}

/// What waits to be taken by the engine, and what the engine tells of its stream meanwhile.
pub(super) struct Inbox {
    pub(super) queue: Mutex<VecDeque<Input>>,
    /// One permit a sample; closed when the slot is freed.
    pub(super) room: Semaphore,
    /// The sending end was dropped.
    pub(super) abandoned: Mutex<bool>,
    /// Changes whenever something happens for the stream.
    progress: AtomicU64,
    /// The engine has something in hand that it has not dealt with.
    busy: AtomicBool,
    load: Mutex<StreamLoad>,
}

impl Inbox {
    pub(super) fn new(room: Semaphore) -> Self {
        Self {
            queue: Mutex::default(),
            room,
            abandoned: Mutex::default(),
            progress: AtomicU64::new(0),
            busy: AtomicBool::new(false),
            load: Mutex::default(),
        }
    }

    pub(super) fn queued(&self) -> Samples {
        self.queue.lock().iter().map(|input| Samples::from(input.cost())).sum()
    }

    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// True when there is something that the engine should be doing.
    pub(super) fn waits(&self) -> bool {
        self.busy.load(Ordering::Relaxed) || !self.queue.lock().is_empty()
    }

    fn advanced(&self) {
        self.progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// How a stream keeps up, to be read at any time from anywhere.
#[derive(Clone)]
pub struct StreamGauge(pub(super) Arc<Inbox>);

impl StreamGauge {
    /// How it keeps up now.
    #[must_use]
    pub fn read(&self) -> StreamLoad {
        let queued_s = seconds(self.0.queued());
        StreamLoad { queued_s, ..*self.0.load.lock() }
    }
}

impl fmt::Debug for StreamGauge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("StreamGauge").field(&self.read()).finish()
    }
}

/// A window that waits to be decoded.
struct Pending {
    window: Window,
    /// When it was due, on the engine's clock.
    due: f64,
    is_last: bool,
}

/// One stream on the engine's thread.
pub(super) struct Slot {
    session: Session<Box<dyn VoiceGate>>,
    /// For utterances that have ended.
    options: Arc<DecodeOptions>,
    /// For looks at the running one.
    interim: Arc<DecodeOptions>,
    inbox: Arc<Inbox>,
    events: mpsc::Sender<StreamEvent>,
    /// The rest of a piece of audio that the session did not take because it needs a window decoded first.
    rest: Vec<f32>,
    /// Samples taken since this was last asked for.
    taken: usize,
    /// End of the newest piece of audio taken out of the inbox.
    end: Samples,
    pace: Pace,
    hop_s: f64,
    pending: Option<Pending>,
    /// Due time of the window being decoded.
    decoding: f64,
    broken: bool,
}

/// What follows from the options of a stream.
struct Setup {
    session: Session<Box<dyn VoiceGate>>,
    options: Arc<DecodeOptions>,
    interim: Arc<DecodeOptions>,
    pace: Pace,
    hop_s: f64,
}

impl Setup {
    fn new(gate: Box<dyn VoiceGate>, config: StreamConfig, options: DecodeOptions, inbox: &Inbox) -> Self {
        // A hop as long as the window is one look an utterance: its last.
        let most = if config.hop == 0 { 1 } else { config.window.div_ceil(config.hop) };
        let hop_s = seconds(config.hop);
        *inbox.load.lock() = StreamLoad { hop_s, hop_factor: 1, ..StreamLoad::default() };
        // An interim hypothesis that is no good is replaced by the next one, not tried again at another temperature.
        let first = options.temperatures.first().copied();
        let interim = DecodeOptions { temperatures: first.into_iter().collect(), ..options.clone() };
        Self {
            session: Session::new(gate, config),
            options: Arc::new(options),
            interim: Arc::new(interim),
            pace: Pace::new(u32::try_from(most).unwrap_or(u32::MAX)),
            hop_s,
        }
    }
}

impl Slot {
    pub(super) fn new(
        gate: Box<dyn VoiceGate>,
        config: StreamConfig,
        options: DecodeOptions,
        inbox: Arc<Inbox>,
        events: mpsc::Sender<StreamEvent>,
    ) -> Self {
        let Setup { session, options, interim, pace, hop_s } = Setup::new(gate, config, options, &inbox);
        Self {
            session,
            options,
            interim,
            inbox,
            events,
            rest: Vec::new(),
            taken: 0,
            end: 0,
            pace,
            hop_s,
            pending: None,
            decoding: 0.0,
            broken: false,
        }
    }

    /// Begins anew with other options.
    fn configure(&mut self, configure: Configure) {
        let Configure { gate, config, options } = configure;
        let Setup { session, options, interim, pace, hop_s } = Setup::new(gate, config, options, &self.inbox);
        (self.session, self.options, self.interim) = (session, options, interim);
        (self.pace, self.hop_s) = (pace, hop_s);
    }

    /// True when the slot can be given to somebody else.
    pub(super) fn is_done(&self) -> bool {
        self.broken || self.events.is_closed() || self.session.is_finished()
    }

    /// Takes input until a window must be decoded or nothing is left.
    pub(super) fn advance(&mut self) {
        let mut turn = 0;
        while turn < TURN && self.pending.is_none() && self.events.capacity() >= ROOM && !self.is_done() {
            if let Some(decode) = self.session.next_job() {
                self.pending = Some(self.window(decode));
            } else if !self.rest.is_empty() {
                let took = self.session.push(&self.rest);
                self.rest.drain(..took);
                self.taken += took;
                turn += took;
            } else if let Some(input) = self.pop() {
                self.take(input);
            } else {
                break;
            }
            self.inbox.advanced();
            self.speak();
        }
        self.inbox.busy.store(self.pending.is_some() || !self.rest.is_empty(), Ordering::Relaxed);
    }

    fn window(&self, decode: Decode) -> Pending {
        let Decode { samples, end, is_last, prefix, language } = decode;
        let options = match (is_last, &prefix, &language) {
            (true, _, _) => Arc::clone(&self.options),
            (false, None, None) => Arc::clone(&self.interim),
            (false, _, _) => Arc::new(DecodeOptions {
                language: self.interim.language.clone().or(language),
                prefix,
                ..(*self.interim).clone()
            }),
        };
        Pending { window: Window { samples, options }, due: self.pace.due(end), is_last }
    }

    /// When the window that waits is due; `None` when none does.
    pub(super) fn due(&self) -> Option<f64> {
        self.pending.as_ref().map(|pending| pending.due)
    }

    /// Hands out the window that waits, and whether it is the last of its utterance; its result must come back through
    /// [`Slot::absorb`].
    pub(super) fn window_due(&mut self) -> Option<(Window, bool)> {
        let pending = self.pending.take()?;
        self.decoding = pending.due;
        Some((pending.window, pending.is_last))
    }

    /// True when another turn would find something to do.
    pub(super) fn has_work(&self) -> bool {
        self.pending.is_some()
            || self.events.capacity() >= ROOM
                && (!self.rest.is_empty()
                    || !self.inbox.queue.lock().is_empty()
                    || !self.session.wants_audio())
    }

    /// Takes the hypothesis of the window that [`Slot::window_due`] gave, at a time on the engine's clock.
    pub(super) fn absorb(&mut self, result: Result<Hypothesis, SttError>, now: f64) {
        self.pace.decoded(now - self.decoding, self.hop_s);
        self.session.stretch_hop(self.pace.factor());
        {
            let mut load = self.inbox.load.lock();
            load.lag_s = self.pace.lag_s();
            load.hop_factor = self.pace.factor();
            load.hop_s = seconds(self.session.hop());
        }
        self.session.absorb(result.map_err(|error| error.to_string()));
        self.inbox.advanced();
        self.speak();
    }

    /// How late the newest result was in seconds, and how many times the hop is stretched.
    pub(super) const fn lateness(&self) -> (f64, u32) {
        (self.pace.lag_s(), self.pace.factor())
    }

    /// Ends the stream with an error.
    pub(super) fn fail(&mut self, message: &str) {
        if self.is_done() {
            return;
        }
        let at = seconds(self.session.heard());
        // No room means a reader that does not read: it will see that the stream has ended.
        self.events.try_send(StreamEvent::Failed { message: message.to_owned(), start: at, end: at }).ok();
        self.broken = true;
    }

    /// Samples taken since the last call.
    pub(super) fn taken(&mut self) -> usize {
        std::mem::take(&mut self.taken)
    }

    fn pop(&self) -> Option<Input> {
        let input = self.inbox.queue.lock().pop_front();
        match input {
            Some(input) => {
                self.inbox.room.add_permits(input.cost() as usize);
                Some(input)
            }
            // A sender that went away without a word has nothing more to say.
            None => {
                (*self.inbox.abandoned.lock() && self.inbox.queue.lock().is_empty()).then_some(Input::End)
            }
        }
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Audio(samples, at) => {
                self.end += samples.len() as Samples;
                self.pace.arrived(at, self.end);
                self.rest = samples;
            }
            Input::Flush => self.session.flush(),
            Input::Marker(name) => self.session.marker(name),
            // Whoever sends this knows whether it has sent audio before; what was heard is never thrown away.
            Input::Configure(configure) if self.session.heard() == 0 => self.configure(*configure),
            Input::Configure(_) => {}
            Input::End => {
                self.inbox.room.close();
                self.session.finish();
            }
        }
    }

    fn speak(&mut self) {
        while let Some(event) = self.session.pop_event() {
            if self.events.try_send(event).is_err() {
                // The reader is gone (there is room: see ROOM); the slot is freed on the next turn.
                return;
            }
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.inbox.room.close();
    }
}
