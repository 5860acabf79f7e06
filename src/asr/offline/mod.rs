//! Whole recordings into text: cut where nobody speaks, decoded window by window, with times on the recording's clock.
//!
//! - [`cut::Cutter`] finds the windows: stretches of speech, or several of them where the model's window has room;
//! - [`job::Job`] reads a file on a thread of its own and has its windows decoded, some at a time, through
//!   [`super::engine::Engine::decode`];
//! - [`utterances::Utterances`] makes of its passages what a live stream would have told.
//!
//! Nothing holds the whole recording, and no audio is left out because of its length: speech that fills the window is
//! cut at its quietest place and goes on in the next one. As in other decoders that batch the windows of a file, each
//! window is decoded with the caller's prompt and not with the text of the window before it, so that one window that
//! goes wrong spoils no other.

pub mod cut;
pub mod job;
pub mod utterances;

pub use job::{Heard, Job, JobOptions, Source};
pub use utterances::Utterances;

use super::{Hypothesis, SttError, stream::StreamConfig};
use crate::audio::AudioError;

/// A window up to this many seconds is short: such models write no timestamps and want one utterance at a time.
pub const SHORT_WINDOW_S: f64 = 15.0;

/// One decoded window.
#[derive(Debug, Clone, PartialEq)]
pub struct Passage {
    /// Which channel of the recording was heard; `None` for the mean of all.
    pub channel: Option<usize>,
    /// Where the window starts, in seconds of the recording.
    pub start: f64,
    /// Where it ends.
    pub end: f64,
    /// What the model heard; the times of its words and segments are seconds of the recording. Without text where the
    /// model heard no speech.
    pub hypothesis: Hypothesis,
}

/// Why a recording could not be transcribed.
#[derive(Debug, thiserror::Error)]
pub enum OfflineError {
    /// The file is not the audio that it should be: send another.
    #[error(transparent)]
    Audio(#[from] AudioError),
    /// The engine refused or failed; see there.
    #[error(transparent)]
    Engine(#[from] SttError),
    /// The model failed on a window; see there. The job goes on: the next passage is the one after it.
    #[error("{start:.1} s to {end:.1} s: {error}")]
    Window {
        /// Where the window starts, in seconds of the recording.
        start: f64,
        /// Where it ends.
        end: f64,
        /// Why.
        error: SttError,
    },
    /// The decoder gave up in a way that it should not: a bug of ours.
    #[error("the audio decoder failed; convert the recording, for example to WAV, and try again")]
    Decoder,
}

/// Whether the text of a hypothesis is to be believed. A short-window model has no other guard against noise; for the
/// others Whisper's own rule has spoken already.
#[must_use]
pub fn believes(window_s: f64, hypothesis: &Hypothesis) -> bool {
    window_s > SHORT_WINDOW_S || StreamConfig::for_window(window_s).believes(hypothesis)
}

/// The language of the most speech, from each stretch's language and length in seconds.
pub fn majority<'a>(stretches: impl IntoIterator<Item = (Option<&'a str>, f64)>) -> Option<&'a str> {
    let mut totals: Vec<(&str, f64)> = Vec::new();
    for (language, length) in stretches {
        let Some(language) = language else { continue };
        match totals.iter_mut().find(|(known, _)| *known == language) {
            Some((_, total)) => *total += length,
            None => totals.push((language, length)),
        }
    }
    totals.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(language, _)| language)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_language_of_the_most_speech_wins() {
        let said = [(Some("en"), 4.0), (None, 60.0), (Some("fr"), 5.0), (Some("en"), 3.0)];
        assert_eq!(majority(said), Some("en"));
        assert_eq!(majority([(None, 1.0)]), None);
    }
}
