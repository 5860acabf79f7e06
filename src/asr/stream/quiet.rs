//! Where speech that fills a window is cut: nobody should be cut off in the middle of a word. Pure.

use super::{Samples, samples_of_ms};

/// A cut is made in the middle of the quietest stretch of this length.
const LENGTH: Samples = samples_of_ms(80);
/// A cut stays this far from the newest sample, which may be the middle of a word.
pub const MARGIN: Samples = samples_of_ms(250);

/// The middle of the stretch with the least energy, as a position in `audio`, looked for in steps of `step` samples.
#[must_use]
pub fn quietest(audio: &[f32], step: usize) -> Samples {
    let energy: Vec<f32> = audio.chunks(step).map(|c| c.iter().map(|s| s * s).sum()).collect();
    let width = usize::try_from(LENGTH).unwrap_or(1).div_ceil(step).min(energy.len().max(1));
    let quietest = energy
        .windows(width)
        .map(|frames| frames.iter().sum::<f32>())
        .enumerate()
        .min_by(|a, b| a.1.total_cmp(&b.1))
        .map_or(0, |(i, _)| i * step + width * step / 2);
    quietest as Samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_quietest_stretch_is_found() {
        let mut audio = vec![0.5; 16_000];
        audio[8_000..9_600].fill(0.1);
        audio[8_480..9_120].fill(0.01);
        let at = quietest(&audio, 160);
        assert!((8_640..=8_960).contains(&at), "{at}");
        assert_eq!(quietest(&[], 160), 0);
        assert!(quietest(&[0.5; 100], 160) <= 160, "shorter than a step");
    }
}
