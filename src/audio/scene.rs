//! Whether the channels of a recording are speakers of their own, as in a recorded call, or one scene, as in stereo.
//! Runs on its caller's thread and reads the whole recording; holds sums, not sound.

use super::{AudioError, decode::Decoder};

/// More channels than this are a surround mix, not speakers.
const MAX_CHANNELS: usize = 8;
/// Loudness is compared in stretches of this length.
const STRETCH_SECONDS: f64 = 0.05;
/// Channels whose loudness goes together more than this hear the same scene: 1 is the same sound, the two sides of a
/// call are near 0 or below because one waits for the other.
const SAME_SCENE: f64 = 0.5;
/// A channel that is nowhere louder than this has nobody on it: -50 dB below full scale.
const SILENT_RMS: f64 = 0.003;

/// Loudness of each channel over the stretches so far, as sums.
#[derive(Debug, Default)]
struct Loudness {
    stretches: f64,
    sum: Vec<f64>,
    loudest: Vec<f64>,
    /// Sums of products of each pair.
    product: Vec<Vec<f64>>,
    /// Energy of the stretch that is not full yet.
    energy: Vec<f64>,
    frames: usize,
}

impl Loudness {
    fn push(&mut self, interleaved: &[f32], channels: usize, stretch: usize) {
        if self.energy.len() != channels {
            *self = Self {
                sum: vec![0.0; channels],
                loudest: vec![0.0; channels],
                product: vec![vec![0.0; channels]; channels],
                energy: vec![0.0; channels],
                ..Self::default()
            };
        }
        for frame in interleaved.chunks_exact(channels) {
            for (energy, sample) in self.energy.iter_mut().zip(frame) {
                let sample = if sample.is_finite() { f64::from(sample.clamp(-1.0, 1.0)) } else { 0.0 };
                *energy += sample * sample;
            }
            self.frames += 1;
            if self.frames >= stretch {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        let frames = std::mem::take(&mut self.frames).max(1) as f64;
        let rms: Vec<f64> =
            self.energy.iter_mut().map(|energy| (std::mem::take(energy) / frames).sqrt()).collect();
        self.stretches += 1.0;
        for (i, a) in rms.iter().enumerate() {
            self.sum[i] += a;
            self.loudest[i] = self.loudest[i].max(*a);
            for (j, b) in rms.iter().enumerate() {
                self.product[i][j] += a * b;
            }
        }
    }

    /// Pearson's coefficient of two channels' loudness; 1 where one of them never changes.
    fn together(&self, i: usize, j: usize) -> f64 {
        let n = self.stretches.max(1.0);
        let covariance = |i: usize, j: usize| self.product[i][j] / n - self.sum[i] / n * (self.sum[j] / n);
        let spread = (covariance(i, i) * covariance(j, j)).sqrt();
        if spread > f64::EPSILON { covariance(i, j) / spread } else { 1.0 }
    }

    /// The channels that somebody is on, if they are of their own; none if they are one scene, or only one.
    fn apart(&self) -> Vec<usize> {
        let used: Vec<usize> = (0..self.sum.len()).filter(|i| self.loudest[*i] > SILENT_RMS).collect();
        let pairs =
            |i: &usize| used.iter().filter(move |j| *j > i).map(move |j| (*i, *j)).collect::<Vec<_>>();
        let alike = used.iter().flat_map(pairs).any(|(i, j)| self.together(i, j) > SAME_SCENE);
        if used.len() < 2 || used.len() > MAX_CHANNELS || alike { Vec::new() } else { used }
    }
}

/// The channels that are speakers of their own; empty for a recording of one scene.
///
/// # Errors
/// As for reading the recording; one that breaks off is judged by what there is.
pub fn apart(mut decoder: Decoder) -> Result<Vec<usize>, AudioError> {
    let mut loudness = Loudness::default();
    loop {
        match decoder.next_frames() {
            Ok(Some((frames, rate_hz, channels))) if channels > 1 => {
                #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is small")]
                let stretch = (f64::from(rate_hz) * STRETCH_SECONDS) as usize;
                loudness.push(frames, channels, stretch.max(1));
            }
            // One channel is one speaker, as far as channels can tell.
            Ok(Some(_)) => return Ok(Vec::new()),
            Ok(None) => break,
            Err(error) if error.is_partial() => break,
            Err(error) => return Err(error),
        }
    }
    Ok(loudness.apart())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loudness of each channel in stretches of ten frames.
    fn apart_of(channels: &[&[f32]]) -> Vec<usize> {
        let mut loudness = Loudness::default();
        for stretch in 0..channels[0].len() {
            for frame in 0..10 {
                let sign = if frame % 2 == 0 { 1.0 } else { -1.0 };
                let frame: Vec<f32> = channels.iter().map(|channel| channel[stretch] * sign).collect();
                loudness.push(&frame, channels.len(), 10);
            }
        }
        loudness.apart()
    }

    #[test]
    fn who_waits_for_the_other_is_apart_and_who_hears_the_same_is_not() {
        let one = [0.5, 0.5, 0.0, 0.0, 0.4, 0.0];
        let other = [0.0, 0.0, 0.3, 0.6, 0.0, 0.2];
        let softer = one.map(|level| level * 0.3);
        let nobody = [0.001; 6];
        assert_eq!(apart_of(&[&one, &other]), [0, 1]);
        assert_eq!(apart_of(&[&one, &softer]), Vec::<usize>::new());
        assert_eq!(apart_of(&[&one, &nobody]), Vec::<usize>::new());
        assert_eq!(apart_of(&[&one, &nobody, &other]), [0, 2]);
        assert_eq!(apart_of(&[&one, &other, &softer]), Vec::<usize>::new(), "two of three are alike");
    }
}
