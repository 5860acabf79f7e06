//! The probability of speech in one frame: the network at an even level, and the gates around it.

use std::collections::VecDeque;

use super::{
    FRAME_SAMPLES, FRAMES_PER_SECOND, MIN_LEVEL_DBFS,
    tonality::{Resolution, TonalityMeter},
};

/// The level at which the network hears the loudest of the recent frames. It fires on any noise above -20 dBFS
/// and on none below -30, while speech is found from -12 down to -44.
const HEARD_AT_DBFS: f32 = -34.0;
/// How fast the loudness follows upwards: slow enough that a click does not count, fast enough for a first word.
const LOUDNESS_RISE_DB: f32 = 2.0;
/// How fast it falls: 3 dB a second, so that pauses do not make it forget the speaker.
const LOUDNESS_FALL_DB: f32 = 3.0 / FRAMES_PER_SECOND;
const LOUDNESS_START_DBFS: f32 = -40.0;
/// A silent room is not amplified into a loud one.
const MAX_GAIN_DB: f32 = 12.0;

/// The noise floor is the quietest moment of this many frames (1.2 s): speech always takes a breath or a stop
/// consonant in that time, a fan does not.
const FLOOR_FRAMES: usize = 75;
/// What is less than this above the floor is the floor.
const ABOVE_FLOOR_DB: f32 = 5.0;

/// A floor of noise under everything the network hears. Its features are logarithms: digital silence is a place
/// where it was never trained, and after which any noise sounds like a voice.
const DITHER: f32 = 6e-4;
/// The noise of the quiet room that the network has been in before the first sample.
const WARM_UP_NOISE: f32 = 2e-3;
/// The network is in the state of a quiet room before the first sample (measured: settled after 0.4 s).
const WARM_UP_FRAMES: usize = 50;

const MAX_STEADY: f32 = 0.30;
const MAX_PURE: f32 = 0.85;

const SILENCE_DBFS: f32 = -120.0;

/// The probability of speech per frame of one stream.
pub struct VoiceDetector {
    network: Box<earshot::Detector>,
    notes: TonalityMeter,
    chords: TonalityMeter,
    loudness_dbfs: f32,
    recent_levels: VecDeque<f32>,
    smooth_level: f32,
    dither: u32,
    clean: Vec<f32>,
    scaled: Vec<f32>,
}

impl std::fmt::Debug for VoiceDetector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VoiceDetector").field("loudness_dbfs", &self.loudness_dbfs).finish_non_exhaustive()
    }
}

impl Default for VoiceDetector {
    fn default() -> Self {
        Self::new()
    }
}

impl VoiceDetector {
    /// A detector that has heard nothing.
    #[must_use]
    pub fn new() -> Self {
        let mut detector = Self {
            network: Box::default(),
            notes: TonalityMeter::new(Resolution::NOTE),
            chords: TonalityMeter::new(Resolution::CHORD),
            loudness_dbfs: LOUDNESS_START_DBFS,
            recent_levels: VecDeque::with_capacity(FLOOR_FRAMES),
            smooth_level: SILENCE_DBFS,
            dither: 1,
            clean: vec![0.0; FRAME_SAMPLES],
            scaled: vec![0.0; FRAME_SAMPLES],
        };
        for _ in 0..WARM_UP_FRAMES {
            detector.listen(WARM_UP_NOISE);
        }
        detector
    }

    /// The probability and the level in dBFS of the next frame. A frame shorter than [`FRAME_SAMPLES`] is
    /// filled with silence; what is beyond is left out.
    pub fn push_frame(&mut self, frame: &[f32]) -> (f32, f32) {
        self.clean.fill(0.0);
        for (clean, sample) in self.clean.iter_mut().zip(frame) {
            *clean = if sample.is_finite() { sample.clamp(-1.0, 1.0) } else { 0.0 };
        }
        let level = level_dbfs(&self.clean);
        let floor = self.track(level);
        let notes = self.notes.push(&self.clean);
        let chords = self.chords.push(&self.clean);
        let heard = self.listen(DITHER);
        let gated = level < MIN_LEVEL_DBFS
            || self.smooth_level < floor + ABOVE_FLOOR_DB
            || notes.steady.max(chords.steady) > MAX_STEADY
            || notes.pure > MAX_PURE;
        (if gated { 0.0 } else { heard }, level)
    }

    /// Follows the loudness and the noise floor; gives the floor.
    fn track(&mut self, level: f32) -> f32 {
        let above = level - self.loudness_dbfs;
        self.loudness_dbfs +=
            if above > 0.0 { above.min(LOUDNESS_RISE_DB) } else { above.max(-LOUDNESS_FALL_DB) };
        self.loudness_dbfs = self.loudness_dbfs.max(HEARD_AT_DBFS - MAX_GAIN_DB);
        // Two thirds old: single frames of noise scatter by a decibel or two.
        let step = if self.recent_levels.is_empty() { 1.0 } else { 1.0 / 3.0 };
        self.smooth_level += (level - self.smooth_level) * step;
        // Before anything was heard the room counts as silent, or a stream that starts with a word would lose it.
        let floor = if self.recent_levels.len() < FLOOR_FRAMES {
            SILENCE_DBFS
        } else {
            self.recent_levels.pop_front();
            self.recent_levels.iter().copied().fold(f32::INFINITY, f32::min)
        };
        self.recent_levels.push_back(self.smooth_level);
        floor
    }

    fn listen(&mut self, dither: f32) -> f32 {
        let gain = 10_f32.powf((HEARD_AT_DBFS - self.loudness_dbfs) / 20.0);
        for (scaled, sample) in self.scaled.iter_mut().zip(&self.clean) {
            // Numerical Recipes' generator: good enough for noise, the same in every run.
            self.dither = self.dither.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let noise = (self.dither >> 8) as f32 / 8_388_608.0 - 1.0;
            *scaled = (sample * gain + noise * dither).clamp(-1.0, 1.0);
        }
        self.network.predict_f32(&self.scaled).clamp(0.0, 1.0)
    }
}

fn level_dbfs(frame: &[f32]) -> f32 {
    let power = frame.iter().map(|sample| sample * sample).sum::<f32>() / frame.len().max(1) as f32;
    (10.0 * power.max(1e-12).log10()).max(SILENCE_DBFS)
}
