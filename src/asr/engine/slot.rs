//! One stream's place in the engine: its inbox, its session, its way out. Runs on the engine's thread.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};

use crate::asr::{
    DecodeOptions, Hypothesis, SttError, Window,
    stream::{Samples, StreamConfig, StreamEvent, VoiceGate, session::Session},
};

/// Events that one step may bring at most, with a good margin: the slot rests while there is less room.
const ROOM: usize = 32;
/// Audio taken in one turn when nothing needs decoding, so that one stream's silence does not hold up the others.
const TURN: usize = 80_000;

/// What a client sends into its stream.
pub(super) enum Input {
    Audio(Vec<f32>),
    Flush,
    Marker(String),
    End,
}

impl Input {
    /// Places it takes in the inbox.
    pub(super) fn cost(&self) -> u32 {
        match self {
            Self::Audio(samples) => u32::try_from(samples.len()).unwrap_or(u32::MAX),
            // Markers carry text from the client: 3,000 of them fill an inbox.
            Self::Marker(_) => 160,
            Self::Flush | Self::End => 1,
        }
    }
}

/// What waits to be taken by the engine.
pub(super) struct Inbox {
    pub(super) queue: Mutex<VecDeque<Input>>,
    /// One permit a sample; closed when the slot is freed.
    pub(super) room: Semaphore,
    /// The sending end was dropped.
    pub(super) abandoned: Mutex<bool>,
}

impl Inbox {
    pub(super) fn new(room: Semaphore) -> Self {
        Self { queue: Mutex::default(), room, abandoned: Mutex::default() }
    }

    pub(super) fn queued(&self) -> Samples {
        self.queue.lock().iter().map(|input| Samples::from(input.cost())).sum()
    }
}

/// One stream on the engine's thread.
pub(super) struct Slot {
    session: Session<Box<dyn VoiceGate>>,
    options: Arc<DecodeOptions>,
    inbox: Arc<Inbox>,
    events: mpsc::Sender<StreamEvent>,
    /// The rest of a piece of audio that the session did not take because it needs a window decoded first.
    rest: Vec<f32>,
    /// Samples taken since this was last asked for.
    taken: usize,
}

impl Slot {
    pub(super) fn new(
        gate: Box<dyn VoiceGate>,
        config: StreamConfig,
        options: Arc<DecodeOptions>,
        inbox: Arc<Inbox>,
        events: mpsc::Sender<StreamEvent>,
    ) -> Self {
        let session = Session::new(gate, config);
        Self { session, options, inbox, events, rest: Vec::new(), taken: 0 }
    }

    /// True when the slot can be given to somebody else.
    pub(super) fn is_done(&self) -> bool {
        self.events.is_closed() || self.session.is_finished()
    }

    /// Takes input until a window must be decoded; gives that window.
    pub(super) fn advance(&mut self) -> Option<Window> {
        let mut turn = 0;
        while turn < TURN && self.events.capacity() >= ROOM && !self.is_done() {
            if let Some(samples) = self.session.next_job() {
                return Some(Window { samples, options: Arc::clone(&self.options) });
            }
            if !self.rest.is_empty() {
                let took = self.session.push(&self.rest);
                self.rest.drain(..took);
                self.taken += took;
                turn += took;
            } else if let Some(input) = self.pop() {
                self.take(input);
            } else {
                break;
            }
            self.speak();
        }
        None
    }

    /// True when another turn would find something to do.
    pub(super) fn has_work(&self) -> bool {
        self.events.capacity() >= ROOM
            && (!self.rest.is_empty() || !self.inbox.queue.lock().is_empty() || !self.session.wants_audio())
    }

    /// Takes the hypothesis of the window that [`Slot::advance`] gave.
    pub(super) fn absorb(&mut self, result: Result<Hypothesis, SttError>) {
        self.session.absorb(result.map_err(|error| error.to_string()));
        self.speak();
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
            Input::Audio(samples) => self.rest = samples,
            Input::Flush => self.session.flush(),
            Input::Marker(name) => self.session.marker(name),
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
