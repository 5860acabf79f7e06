//! Voice activity: which samples are speech. Pure, on the sample clock alone; runs on its caller's thread.
//!
//! [`VoiceDetector`] gives a probability for each frame of 16 ms, [`VoiceActivity`] turns probabilities into
//! speech starts and ends with hysteresis. Both are independent of how the samples were cut into chunks.
//!
//! The network (`earshot`, 75 KiB of weights) is good at speech against quiet noise and takes two other things
//! for speech: anything loud, and anything with harmonics. So it hears the signal at an even level, and three
//! cheap gates stand around it, each for a class of sounds that it was measured to fall for:
//!
//! * level: what is below [`MIN_LEVEL_DBFS`], or hardly above the quietest moment of the last second, is noise;
//! * steadiness: partials that keep their pitch to a hertz while speech would have moved belong to an
//!   instrument or to the mains ([`tonality`]);
//! * purity: all energy in one partial for a third of a second is a whistle, a siren or a beep.

use super::SAMPLE_RATE_HZ;

mod activity;
mod detector;
mod tonality;

pub use activity::{VadConfig, VadEvent, VadOutput, VoiceActivity};
pub use detector::VoiceDetector;

/// Samples in one frame: 16 ms.
pub const FRAME_SAMPLES: usize = 256;

/// Frames in a second.
const FRAMES_PER_SECOND: f32 = SAMPLE_RATE_HZ as f32 / FRAME_SAMPLES as f32;

/// Below this level there is no speech that a recogniser could read.
pub const MIN_LEVEL_DBFS: f32 = -60.0;

/// What is known of one frame.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FrameActivity {
    /// The first sample of the frame.
    pub at_sample: u64,
    /// How likely it is speech, from 0 to 1, after the gates.
    pub probability: f32,
    /// The frame's level (RMS) in dB below full scale; digital silence is -120.
    pub level_dbfs: f32,
}
