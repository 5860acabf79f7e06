//! Audio: frames and formats, files and containers, resampling, voice activity, the microphone.
//!
//! Inside godctl audio is mono `f32` in [-1, 1] at [`SAMPLE_RATE_HZ`]; everything else is converted at the edge.

/// The rate of all audio inside godctl, in Hz: what Whisper was trained on.
pub const SAMPLE_RATE_HZ: u32 = 16_000;
