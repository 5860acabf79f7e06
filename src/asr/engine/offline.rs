//! Windows of recordings: decoded when no live stream needs the model, and not starved by those that do.
//!
//! [`Engine::decode`] runs on its callers' tasks and waits in a bounded queue; [`Turns`] runs on the engine's thread,
//! after each round over the live streams. A caller that goes away takes its window with it.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::debug;

use super::{Engine, handle::check, shared::Shared};
use crate::asr::{
    DecodeOptions, Hypothesis, ModelInfo, SttError, Window,
    stream::{Tuning, VoiceGate, seconds},
};

/// Windows that wait at most; who has more waits before handing them over. 16 windows of 30 s are 31 MB.
const WAITING: usize = 16;
/// Windows decoded together while no live stream is open. A stream that opens meanwhile waits for one such batch.
const ALONE: usize = 4;
/// Live streams that keep the model busy get at most so many times the time that recordings get.
const LIVE_SHARE: u32 = 9;
/// Recordings that are worked on at once, and as many more that wait for their turn.
const RECORDINGS: usize = 4;

/// A window, and who waits for it.
struct Waiting {
    window: Window,
    answer: oneshot::Sender<Result<Hypothesis, SttError>>,
    _room: OwnedSemaphorePermit,
}

/// What waits for the model besides the live streams.
pub(super) struct Queue {
    waiting: Mutex<VecDeque<Waiting>>,
    room: Arc<Semaphore>,
    /// Recordings that were let in.
    places: Arc<Semaphore>,
    /// Recordings that are worked on.
    running: Arc<Semaphore>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            waiting: Mutex::default(),
            room: Arc::new(Semaphore::new(WAITING)),
            places: Arc::new(Semaphore::new(2 * RECORDINGS)),
            running: Arc::new(Semaphore::new(RECORDINGS)),
        }
    }
}

impl Queue {
    /// Nobody will decode any more: whoever waits is told that the engine is closed.
    pub(super) fn close(&self) {
        self.room.close();
        self.running.close();
        self.waiting.lock().clear();
    }

    /// True while a window waits.
    pub(super) fn has_work(&self) -> bool {
        !self.waiting.lock().is_empty()
    }

    /// The oldest windows that somebody still waits for.
    fn take(&self, most: usize) -> Vec<Waiting> {
        let mut waiting = self.waiting.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(next) = waiting.pop_front()
        {
            if !next.answer.is_closed() {
                taken.push(next);
            }
        }
        taken
    }
}

/// A recording that was let in; it keeps its place until this is dropped.
#[derive(Debug)]
pub struct Place {
    _place: OwnedSemaphorePermit,
    running: Arc<Semaphore>,
}

impl Place {
    /// Waits until the recording may be worked on, first come first served.
    ///
    /// # Errors
    /// [`SttError::Closed`] when the engine ended meanwhile.
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, SttError> {
        Arc::clone(&self.running).acquire_owned().await.map_err(|_closed| SttError::Closed)
    }
}

impl Engine {
    /// Takes a place for a whole recording; there are few, because each may be long.
    ///
    /// # Errors
    /// [`SttError::Crowded`] when every place is taken, [`SttError::Loading`] and [`SttError::Unavailable`] as for
    /// [`Engine::open`].
    pub fn place(&self) -> Result<Place, SttError> {
        self.model()?;
        let queue = &self.shared.offline;
        let place = Arc::clone(&queue.places).try_acquire_owned();
        let place = place.map_err(|_full| SttError::Crowded { limit: 2 * RECORDINGS })?;
        Ok(Place { _place: place, running: Arc::clone(&queue.running) })
    }

    /// Decodes one window of a recording, when no live stream needs the model. Dropping the future takes the window
    /// back, unless the model is already at it.
    ///
    /// # Errors
    /// As for [`Engine::open`]; [`SttError::Inference`] when the model failed on this window, and
    /// [`SttError::Closed`] when the engine ended.
    pub async fn decode(&self, window: Window) -> Result<Hypothesis, SttError> {
        self.check(&window.options)?;
        let queue = &self.shared.offline;
        let room = Arc::clone(&queue.room).acquire_owned().await.map_err(|_closed| SttError::Closed)?;
        let (answer, answered) = oneshot::channel();
        queue.waiting.lock().push_back(Waiting { window, answer, _room: room });
        if queue.room.is_closed() {
            // The thread may have ended between the two.
            queue.close();
        }
        self.shared.bell.ring();
        answered.await.unwrap_or(Err(SttError::Closed))
    }

    /// A voice activity detector as live streams have it.
    #[must_use]
    pub fn gate(&self, tuning: Tuning) -> Box<dyn VoiceGate> {
        (self.shared.gate)(tuning)
    }

    /// What the model cannot do is refused, as when a stream is opened.
    ///
    /// # Errors
    /// As for [`Engine::open`], but a full engine is not asked.
    pub fn check(&self, options: &DecodeOptions) -> Result<Arc<ModelInfo>, SttError> {
        let info = self.model()?;
        check(&info, options)?;
        Ok(info)
    }
}

/// Whose turn it is: live streams first, recordings when those need nothing, and now and then all the same.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// What live streams have had since the last window of a recording.
    live: Duration,
    /// What that window took.
    last: Duration,
}

impl Turns {
    /// How many windows of recordings may be decoded now.
    fn allowed(&self, live_worked: bool, streams: usize) -> usize {
        match (live_worked, streams) {
            (false, 0) => ALONE,
            (false, _) => 1,
            (true, _) if self.live > Duration::ZERO && self.live >= self.last * LIVE_SHARE => 1,
            (true, _) => 0,
        }
    }

    /// Decodes windows of recordings if it is their turn; true when it did.
    ///
    /// `live` is how long the round over the live streams decoded, nothing if they needed nothing; `streams` is how
    /// many of them there are.
    pub(super) fn take(
        &mut self,
        shared: &Shared,
        decode: impl FnOnce(&[Window]) -> Vec<Result<Hypothesis, SttError>>,
        live: Option<Duration>,
        streams: usize,
    ) -> bool {
        if !shared.offline.has_work() {
            // Time is only owed to who waits.
            self.live = Duration::ZERO;
            return false;
        }
        self.live += live.unwrap_or_default();
        let taken =
            shared.offline.take(self.allowed(live.is_some(), streams).min(shared.config.max_batch.max(1)));
        if taken.is_empty() {
            return false;
        }
        let (windows, answers): (Vec<Window>, Vec<_>) =
            taken.into_iter().map(|waiting| (waiting.window, waiting.answer)).unzip();
        let started = Instant::now();
        let results = decode(&windows);
        let took = started.elapsed();
        debug!(windows = windows.len(), took_ms = took.as_millis(), "windows of recordings decoded");
        (self.live, self.last) = (Duration::ZERO, took);
        shared.decoded(&results, took.as_secs_f64());
        shared.stats.lock().audio_s +=
            windows.iter().map(|window| seconds(window.samples.len() as u64)).sum::<f64>();
        for (answer, result) in answers.into_iter().zip(results) {
            // Whoever is gone wants no answer.
            answer.send(result).ok();
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_streams_come_first_and_recordings_are_not_starved() {
        let ms = Duration::from_millis;
        let mut turns = Turns::default();
        assert_eq!(turns.allowed(false, 0), ALONE, "nobody else is there");
        assert_eq!(turns.allowed(false, 3), 1, "a stream may need the model any moment");
        turns.last = ms(100);
        for live in [0, 100, 899] {
            turns.live = ms(live);
            assert_eq!(turns.allowed(true, 3), 0, "{live} ms");
        }
        turns.live = ms(900);
        assert_eq!(turns.allowed(true, 3), 1, "a tenth of the time");
    }
}
