//! The engine: one OS thread owns the weights and serves many streams.
//!
//! [`Engine::open`] takes one of a fixed number of slots and gives the two ends of a [`Stream`]. On its thread the
//! engine walks the slots, lets each take audio until it needs a window decoded, decodes those windows as one batch,
//! and hands the results back. A full engine refuses; a slow sender is not waited for; a reader that does not read
//! stops its own stream only (its audio then waits in a capped inbox, and pushing into that waits too); a stream whose
//! reader is gone frees its slot. The thread ends when the last [`Engine`] handle is dropped and the last stream is done.

mod handle;
mod shared;
mod slot;
#[cfg(test)]
mod tests;
mod worker;

pub use handle::{Engine, Stream, StreamInput, StreamOutput};

use std::{fmt, sync::Arc};

use super::{DecodeOptions, ModelInfo, stream::Tuning};

/// How many streams, and how they are batched.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Streams served at once; one more is refused.
    pub max_sessions: usize,
    /// Windows decoded together at most.
    pub max_batch: usize,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self { max_sessions: 16, max_batch: 8 }
    }
}

/// Whether the engine can be used.
#[derive(Debug, Clone, PartialEq)]
pub enum EngineState {
    /// The weights are being loaded.
    Loading,
    /// Streams can be opened.
    Ready(Arc<ModelInfo>),
    /// The weights could not be loaded: what was wrong.
    Failed(String),
}

/// What the engine has done since it started.
#[derive(Debug, Clone, Copy, Default, PartialEq, serde::Serialize)]
pub struct EngineStats {
    /// Streams open now.
    pub active: usize,
    /// Streams opened so far.
    pub opened: u64,
    /// Streams refused because every slot was taken.
    pub refused: u64,
    /// Windows decoded.
    pub windows: u64,
    /// Batches those windows came in.
    pub batches: u64,
    /// Windows that failed inside the model.
    pub failed: u64,
    /// Seconds of audio taken in.
    pub audio_s: f64,
    /// Seconds that the model has worked.
    pub inference_s: f64,
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
