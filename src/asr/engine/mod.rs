//! The engine: one OS thread owns the weights and serves many streams.
//!
//! [`Engine::open`] takes one of a limited number of slots and gives the two ends of a [`Stream`]. On its thread the
//! engine walks the slots, lets each take audio until it needs a window decoded, decodes the windows that are due first
//! as one batch, and hands the results back. A full engine refuses; a slow sender is not waited for; a reader that does
//! not read stops its own stream only (its audio then waits in a capped inbox, and pushing into that waits too); a
//! stream whose reader is gone frees its slot. Windows of whole recordings ([`Engine::decode`]) are decoded when no
//! stream needs the model. The thread ends when the last [`Engine`] handle is dropped and the last stream is done.
//!
//! *Deadlines.* A window is due when its last sample was: at the moment it arrived, or would have arrived had it been
//! sent at the pace of speech ([`pace`]). The oldest deadline goes first, so no stream starves, and a recording sent
//! faster than that never keeps a speaker waiting. A stream whose results come late looks at its audio less often: its
//! hop doubles, up to one look an utterance, and halves again when there is room. Its transcript stays the same. While
//! streams are late, new ones are refused ([`SttError::Busy`]); what waits is never more than the inboxes hold.
//!
//! *Faults.* A panic of the model costs nobody the stream: the weights are loaded again ([`EngineState::Restarting`]),
//! the windows of that batch are decoded one by one, and only those that make the model panic again are errors of
//! their streams. A model that fails on whatever it is given says so ([`Engine::failing`]), and goes on trying. A panic
//! in a stream's own logic ends that stream. A stream for which nothing happens although audio waits says so and ends
//! ([`EngineConfig::stall`]).
//!
//! [`SttError::Busy`]: crate::asr::SttError::Busy

mod admission;
mod handle;
mod health;
mod model;
mod offline;
mod output;
pub mod pace;
mod shared;
mod slot;
#[cfg(test)]
mod tests;
mod worker;

pub use handle::{Engine, Stream, StreamInput};
pub use health::{FAILING, FAILING_S, Failing};
pub use offline::Place;
pub use output::StreamOutput;
pub use slot::StreamGauge;

use std::{fmt, sync::Arc, time::Duration};

use super::{DecodeOptions, ModelInfo, stream::Tuning};

/// How many streams, and how they are batched.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Streams served at once; one more is refused.
    pub max_sessions: usize,
    /// Measure at start how many streams this machine holds in real time, and refuse more than that. At most
    /// `max_sessions` all the same.
    pub measure: bool,
    /// Windows decoded together at most.
    pub max_batch: usize,
    /// A stream for which nothing happens for this long, although audio waits, is ended with an error.
    pub stall: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_sessions: 16, measure: false, max_batch: 8, stall: Duration::from_secs(30) }
    }
}

/// Whether the engine can be used.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineState {
    /// The weights are being loaded.
    Loading,
    /// Streams can be opened.
    Ready(Arc<ModelInfo>),
    /// The model panicked and is being loaded again: what happened. Streams that are open go on afterwards.
    Restarting(String),
    /// The weights could not be loaded, or the model fails again and again: what was wrong.
    Failed(String),
}

/// What the engine has done since it started, and how it is doing.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct EngineStats {
    /// Streams open now.
    pub active: usize,
    /// Streams that can be open at once: configured, or measured at start.
    pub limit: usize,
    /// Streams opened so far.
    pub opened: u64,
    /// Streams refused because every slot was taken.
    pub refused: u64,
    /// Streams refused because the machine was behind with those that it had.
    pub refused_late: u64,
    /// Windows decoded.
    pub windows: u64,
    /// Windows decoded of utterances that had ended; the others were interim looks.
    pub last_windows: u64,
    /// Batches those windows came in.
    pub batches: u64,
    /// Windows of the last batch.
    pub batch: usize,
    /// Those batches by how many windows they had.
    pub batch_sizes: BatchSizes,
    /// Windows that failed inside the model.
    pub failed: u64,
    /// Windows that have failed since the last one that did not.
    pub failed_in_a_row: u64,
    /// Times that the model was loaded again after a panic.
    pub restarts: u64,
    /// Streams that were ended with an error: stalled, broken, or left without a model.
    pub aborted: u64,
    /// Of those, streams for which nothing happened although audio waited.
    pub stalled: u64,
    /// Seconds of audio taken in.
    pub audio_s: f64,
    /// Seconds of audio that waits now, of all streams together.
    pub queued_s: f64,
    /// Seconds that the model has worked.
    pub inference_s: f64,
    /// Share of the last seconds that the model worked, 0 to 1.
    pub load: f64,
    /// How late the newest result of the stream that is furthest behind was, in seconds after it was due.
    pub lag_s: f64,
    /// The largest factor by which a stream's hop is stretched now; 1 when the machine keeps up.
    pub hop_factor: u32,
    /// Seconds that loading the weights took, the last time.
    pub load_time_s: f64,
}

/// The most windows of a batch that is counted in each place of [`BatchSizes`]; larger ones are counted in one more,
/// which [`EngineConfig::max_batch`] rarely allows.
const SIZES: [usize; 7] = [1, 2, 3, 4, 6, 8, 16];

/// Batches, counted by how many windows they had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct BatchSizes([u64; SIZES.len() + 1]);

impl BatchSizes {
    /// Counts a batch of so many windows.
    fn add(&mut self, windows: usize) {
        let place = SIZES.iter().position(|most| windows <= *most).unwrap_or(SIZES.len());
        if let Some(count) = self.0.get_mut(place) {
            *count += 1;
        }
    }

    /// For each place the most windows of its batches, nothing for the last, and how many there were.
    pub fn counts(&self) -> impl Iterator<Item = (Option<usize>, u64)> {
        SIZES.map(Some).into_iter().chain([None]).zip(self.0)
    }
}

impl EngineStats {
    /// Seconds of work for each second of audio; 0 before the first.
    #[must_use]
    pub fn real_time_factor(&self) -> f64 {
        if self.audio_s > 0.0 { self.inference_s / self.audio_s } else { 0.0 }
    }
}

/// How one stream keeps up, for its client.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct StreamLoad {
    /// How many seconds after it was due the newest result came.
    pub lag_s: f64,
    /// Seconds of audio that wait to be taken.
    pub queued_s: f64,
    /// Seconds between two looks at the running utterance, as it is now; 0 for none.
    pub hop_s: f64,
    /// How many times that is what was asked for; more than 1 while the machine can't keep up.
    pub hop_factor: u32,
}

/// How one stream is decoded.
#[derive(Clone, Default)]
pub struct StreamOptions {
    /// Language, task, prompt, search.
    pub decode: DecodeOptions,
    /// When to decode and commit, where that is not the default for the model's window.
    pub tuning: Tuning,
}

impl fmt::Debug for StreamOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The prompt is the user's text; it has no place in a log.
        f.debug_struct("StreamOptions")
            .field("language", &self.decode.language)
            .field("task", &self.decode.task)
            .field("tuning", &self.tuning)
            .finish_non_exhaustive()
    }
}
