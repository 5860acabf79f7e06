//! What the loops of a session share: the transcript, whether a client has seen it, and what its lag is measured by.

use std::sync::Arc;

use axum::extract::ws::Message;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use super::super::{live::Meter, socket::text};
use crate::asr::{
    engine::StreamGauge,
    protocols::native::{
        diff::Tracker,
        request::Mode,
        segment::Layout,
        transcript::{Arrival, Change, Transcript},
    },
    stream::{StreamEvent, seconds},
};

/// A session that is further behind than this, in seconds, is told so even when there are no new words.
const LAG_S: f64 = 0.5;

/// What a client sees of its session.
#[derive(Debug, Clone)]
pub(super) struct View {
    pub(super) mode: Mode,
    pub(super) layout: Layout,
    /// In which language everything is decoded, where that is not detected.
    pub(super) language: Option<String>,
    /// Lines kept.
    pub(super) retention: usize,
}

/// What the loops share: the transcript, and what its lag is measured by.
#[derive(Debug)]
pub(super) struct Board {
    state: Mutex<BoardState>,
    /// There may be something to take.
    pub(super) changed: Notify,
    meter: Arc<Meter>,
    gauge: StreamGauge,
}

#[derive(Debug)]
struct BoardState {
    transcript: Transcript,
    /// What the client was told, in `mode=diff`.
    tracker: Option<Tracker>,
    /// The next state differs from the last one sent.
    dirty: bool,
    first_audio: Option<Instant>,
}

impl Board {
    pub(super) fn new(view: View, meter: Arc<Meter>, gauge: StreamGauge) -> Self {
        let state = Mutex::new(BoardState::new(view, true));
        Self { state, changed: Notify::new(), meter, gauge }
    }

    /// Begins anew for another view; false, and nothing happens, once there was audio. The state is to be sent again
    /// after the message that says so, see [`Board::repeat`].
    pub(super) fn restart(&self, view: View) -> bool {
        let mut state = self.state.lock();
        let fresh = state.first_audio.is_none();
        if fresh {
            *state = BoardState::new(view, false);
        }
        fresh
    }

    /// True once audio has arrived.
    pub(super) fn has_audio(&self) -> bool {
        self.state.lock().first_audio.is_some()
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
        seconds(self.meter.received())
    }

    /// Has the state taken once more, whether or not it changes.
    pub(super) fn repeat(&self) {
        self.state.lock().dirty = true;
    }

    /// The newest state as a message, if it differs from the last one taken.
    pub(super) fn take(&self) -> Option<Message> {
        let mut state = self.state.lock();
        if !std::mem::take(&mut state.dirty) {
            return None;
        }
        let elapsed_s = state.first_audio.map_or(0.0, |first| first.elapsed().as_secs_f64());
        let load = self.gauge.read();
        let arrival = Arrival {
            received_s: self.received_s(),
            waiting_s: load.queued_s,
            elapsed_s,
            hop_s: (load.hop_factor > 1).then_some(load.hop_s),
        };
        let BoardState { transcript, tracker, .. } = &mut *state;
        Some(match tracker {
            None => text(&transcript.update(arrival)),
            Some(tracker) => {
                let (update, running) = transcript.settled(arrival);
                text(&tracker.update(update, running))
            }
        })
    }

    /// True while the engine is so far behind that a client should know.
    pub(super) fn lags(&self) -> bool {
        self.gauge.read().queued_s > LAG_S
    }
}

impl BoardState {
    fn new(view: View, dirty: bool) -> Self {
        let View { mode, layout, language, retention } = view;
        Self {
            transcript: Transcript::new(layout, retention).in_language(language),
            tracker: (mode == Mode::Diff).then(Tracker::default),
            dirty,
            first_audio: None,
        }
    }
}
