//! What the loops of a session share: the transcript, whether a client has seen it, and what its lag is measured by.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::extract::ws::Message;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::{sync::Notify, time::Instant};

use crate::asr::{
    protocols::native::transcript::{Arrival, Change, Detail, Transcript},
    stream::{StreamEvent, seconds},
};

/// What the loops share: the transcript, and what its lag is measured by.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<BoardState>,
    /// There may be something to take.
    pub(super) changed: Notify,
    /// Samples handed to the engine.
    pub(super) received: Arc<AtomicU64>,
}

#[derive(Debug)]
struct BoardState {
    transcript: Transcript,
    /// The next state differs from the last one sent.
    dirty: bool,
    first_audio: Option<Instant>,
}

impl Board {
    pub(super) fn new(detail: Detail, retention: usize) -> Self {
        let transcript = Transcript::new(detail, retention);
        let state = BoardState { transcript, dirty: true, first_audio: None };
        Self { state: Mutex::new(state), changed: Notify::new(), received: Arc::default() }
    }

    pub(super) fn apply(&self, event: &StreamEvent) {
        let mut state = self.state.lock();
        if state.transcript.apply(event) == Change::Visible {
            state.dirty = true;
            self.changed.notify_one();
        }
    }

    pub(super) fn fail(&self, message: String) {
        let mut state = self.state.lock();
        state.transcript.fail(message);
        state.dirty = true;
        self.changed.notify_one();
    }

    /// Starts the clock that `remaining_time_transcription` is measured by.
    pub(super) fn audio_arrived(&self) {
        self.state.lock().first_audio.get_or_insert_with(Instant::now);
    }

    pub(super) fn received_s(&self) -> f64 {
        seconds(self.received.load(Ordering::Relaxed))
    }

    /// Has the state taken once more, whether or not it changes.
    pub(super) fn repeat(&self) {
        self.state.lock().dirty = true;
    }

    /// Lines so far.
    pub(super) fn line_count(&self) -> u64 {
        self.state.lock().transcript.line_count()
    }

    /// The newest state as a message, if it differs from the last one taken.
    pub(super) fn take(&self) -> Option<Message> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.dirty) {
            return None;
        }
        let elapsed_s = state.first_audio.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let arrival = Arrival { received_s: self.received_s(), elapsed_s };
        Some(text(&state.transcript.update(arrival)))
    }
}

pub(super) fn text(message: &impl Serialize) -> Message {
    match serde_json::to_string(message) {
        Ok(json) => Message::text(json),
        // Strings, numbers and lists: there is nothing in our messages that JSON lacks.
        Err(error) => unreachable!("a message is always JSON: {error}"),
    }
}
