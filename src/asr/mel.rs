//! Whisper's front end: 16 kHz samples in, log-mel energies out.
//!
//! Pure arithmetic on the caller's thread; one [`FrontEnd`] holds the FFT plan and the filter bank of a model and is
//! shared between windows. It is the reference's front end to the letter: periodic Hann window of 400, hop 160,
//! frames centred with reflected edges, power spectrum, Slaney filters with area normalisation, and a window padded
//! with zeros that count as audio. Everything is f64 until the last step, because the logarithm magnifies rounding
//! in the quiet bands.

use std::{f64::consts::PI, fmt, sync::Arc};

use realfft::{RealFftPlanner, RealToComplex, num_complex::Complex};

use crate::audio::SAMPLE_RATE_HZ;

/// Samples in one analysis frame (25 ms).
pub const FFT_SIZE: usize = 400;
/// Samples between frames (10 ms).
pub const HOP: usize = 160;
/// Frequencies of a [`FFT_SIZE`] real spectrum.
const SPECTRUM: usize = FFT_SIZE / 2 + 1;
/// Power below this is silence (the reference's clamp before the logarithm).
const FLOOR: f64 = 1e-10;
/// Range kept below the loudest value of a window, in powers of ten.
const RANGE: f64 = 8.0;

/// One triangular filter: where it starts in the spectrum, and its weights.
#[derive(Debug)]
struct Band {
    first: usize,
    weights: Vec<f64>,
}

/// The plan and tables for one number of mel bins.
pub struct FrontEnd {
    fft: Arc<dyn RealToComplex<f64>>,
    hann: Vec<f64>,
    bands: Vec<Band>,
}

impl fmt::Debug for FrontEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrontEnd").field("bins", &self.bands.len()).finish_non_exhaustive()
    }
}

/// Buffers of one transform, reused between frames.
struct Scratch {
    frame: Vec<f64>,
    spectrum: Vec<Complex<f64>>,
    fft: Vec<Complex<f64>>,
    power: Vec<f64>,
}

impl FrontEnd {
    /// Plans the transform and computes the filters for `bins` mel bands (80, or 128 for large-v3).
    #[must_use]
    pub fn new(bins: usize) -> Self {
        let fft = RealFftPlanner::new().plan_fft_forward(FFT_SIZE);
        let hann =
            (0..FFT_SIZE).map(|i| 0.5 * (1.0 - (2.0 * PI * i as f64 / FFT_SIZE as f64).cos())).collect();
        Self { fft, hann, bands: slaney_bands(bins) }
    }

    /// Number of mel bands.
    #[must_use]
    pub fn bins(&self) -> usize {
        self.bands.len()
    }

    /// The log-mel energies of a window of `frames` frames, row by row: `[frames, bins]`.
    ///
    /// `samples` is padded with zeros, or cut, to `frames * HOP`. A sample that is not a number counts as zero.
    #[must_use]
    pub fn window(&self, samples: &[f32], frames: usize) -> Vec<f32> {
        let bins = self.bins();
        let mut scratch = self.scratch();
        let mut logs = vec![FLOOR.log10(); frames * bins];
        let samples = samples.get(..frames * HOP).unwrap_or(samples);
        // Frames whose 400 samples lie wholly in the padding keep the floor; the last ones see the padding's
        // reflection, which is zeros too unless the audio reaches into it.
        let reach = if samples.len() + FFT_SIZE / 2 >= frames * HOP {
            frames
        } else {
            frames.min((samples.len() + FFT_SIZE / 2).div_ceil(HOP))
        };
        for (frame, row) in logs.chunks_exact_mut(bins).enumerate().take(reach) {
            self.energies(samples, frames * HOP, frame, &mut scratch);
            for (out, band) in row.iter_mut().zip(&self.bands) {
                let power = scratch.power.get(band.first..).unwrap_or_default();
                *out = power.iter().zip(&band.weights).map(|(p, w)| p * w).sum::<f64>().max(FLOOR).log10();
            }
        }
        let loudest = logs.iter().copied().fold(FLOOR.log10(), f64::max);
        logs.iter().map(|&v| ((v.max(loudest - RANGE) + 4.0) / 4.0) as f32).collect()
    }

    fn scratch(&self) -> Scratch {
        Scratch {
            frame: self.fft.make_input_vec(),
            spectrum: self.fft.make_output_vec(),
            fft: self.fft.make_scratch_vec(),
            power: vec![0.0; SPECTRUM],
        }
    }

    /// Power spectrum of the frame centred on sample `frame * HOP` of a signal of `total` samples.
    fn energies(&self, samples: &[f32], total: usize, frame: usize, scratch: &mut Scratch) {
        let finite = |sample: f32| if sample.is_finite() { f64::from(sample) } else { 0.0 };
        let first = (frame * HOP).checked_sub(FFT_SIZE / 2);
        if let Some(inside) = first.and_then(|first| samples.get(first..first + FFT_SIZE)) {
            for ((out, hann), sample) in scratch.frame.iter_mut().zip(&self.hann).zip(inside) {
                *out = finite(*sample) * hann;
            }
        } else {
            let start = (frame * HOP) as isize - (FFT_SIZE / 2) as isize;
            for (i, (out, hann)) in scratch.frame.iter_mut().zip(&self.hann).enumerate() {
                let at = reflect(start + i as isize, total);
                *out = finite(samples.get(at).copied().unwrap_or(0.0)) * hann;
            }
        }
        // Fails only for buffers of a wrong length, and these come from the plan itself.
        if self.fft.process_with_scratch(&mut scratch.frame, &mut scratch.spectrum, &mut scratch.fft).is_err()
        {
            scratch.power.fill(0.0);
            return;
        }
        for (power, value) in scratch.power.iter_mut().zip(&scratch.spectrum) {
            *power = value.norm_sqr();
        }
    }
}

/// Mirrors an index at the ends of `0..total` without repeating the edge.
fn reflect(index: isize, total: usize) -> usize {
    let index = index.unsigned_abs();
    if index < total { index } else { (2 * total).saturating_sub(index + 2) }
}

/// Hertz to mel on Slaney's scale: linear below 1 kHz, logarithmic above.
fn hertz_to_mel(hertz: f64) -> f64 {
    if hertz < 1000.0 { 3.0 * hertz / 200.0 } else { 15.0 + (hertz / 1000.0).ln() * 27.0 / 6.4f64.ln() }
}

fn mel_to_hertz(mel: f64) -> f64 {
    if mel < 15.0 { 200.0 * mel / 3.0 } else { 1000.0 * ((mel - 15.0) * 6.4f64.ln() / 27.0).exp() }
}

/// Triangles between neighbouring points of an even division of the mel scale, each of area one.
fn slaney_bands(bins: usize) -> Vec<Band> {
    let nyquist = f64::from(SAMPLE_RATE_HZ) / 2.0;
    let top = hertz_to_mel(nyquist);
    let edges: Vec<f64> = (0..bins + 2).map(|i| mel_to_hertz(top * i as f64 / (bins + 1) as f64)).collect();
    let weight = |low: f64, centre: f64, high: f64, k: usize| {
        let hertz = nyquist * k as f64 / (SPECTRUM - 1) as f64;
        let slope = ((hertz - low) / (centre - low)).min((high - hertz) / (high - centre));
        slope.max(0.0) * 2.0 / (high - low)
    };
    edges
        .windows(3)
        .map(|e| {
            let row: Vec<f64> = (0..SPECTRUM).map(|k| weight(e[0], e[1], e[2], k)).collect();
            let first = row.iter().position(|&w| w > 0.0).unwrap_or(0);
            let end = row.iter().rposition(|&w| w > 0.0).map_or(first, |last| last + 1);
            Band { first, weights: row.get(first..end).unwrap_or_default().to_vec() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_the_floor_everywhere() {
        let mel = FrontEnd::new(80).window(&[], 100);
        assert_eq!(mel.len(), 8000);
        // log10(1e-10) = -10; nothing is clamped against itself; (-10 + 4) / 4
        assert!(mel.iter().all(|&v| (v + 1.5).abs() < 1e-6));
    }

    #[test]
    fn padding_is_the_same_as_zeros() {
        let front = FrontEnd::new(80);
        let tone: Vec<f32> = (0..4000).map(|i| (i as f32 * 0.3).sin() * 0.5).collect();
        let mut padded = tone.clone();
        padded.resize(16_000, 0.0);
        assert_eq!(front.window(&tone, 100), front.window(&padded, 100));
    }

    #[test]
    fn audio_up_to_the_edge_is_reflected() {
        let front = FrontEnd::new(80);
        let tone: Vec<f32> = (0..16_000).map(|i| (i as f32 * 0.3).sin() * 0.5).collect();
        let mel = front.window(&tone, 100);
        let loudest =
            |frame: usize| mel[frame * 80..(frame + 1) * 80].iter().copied().fold(f32::MIN, f32::max);
        // A frame at the edge hears the mirrored tone at full length.
        assert!((loudest(0) - loudest(50)).abs() < 0.1, "{} {}", loudest(0), loudest(50));
        assert!((loudest(99) - loudest(50)).abs() < 0.1);
    }

    #[test]
    fn samples_that_are_no_numbers_count_as_zero() {
        let front = FrontEnd::new(80);
        let mut bad = vec![0.25f32; 3200];
        let mut good = bad.clone();
        bad[100] = f32::NAN;
        bad[200] = f32::INFINITY;
        good[100] = 0.0;
        good[200] = 0.0;
        assert_eq!(front.window(&bad, 20), front.window(&good, 20));
    }

    #[test]
    fn a_longer_signal_is_cut() {
        let front = FrontEnd::new(128);
        let tone: Vec<f32> = (0..32_000).map(|i| (i as f32 * 0.2).sin()).collect();
        assert_eq!(front.window(&tone, 100), front.window(&tone[..16_000], 100));
    }

    #[test]
    fn the_scale_and_its_inverse_agree() {
        for hertz in [0.0, 10.0, 999.0, 1000.0, 1001.0, 4321.0, 8000.0] {
            assert!((mel_to_hertz(hertz_to_mel(hertz)) - hertz).abs() < 1e-6);
        }
    }

    #[test]
    fn indices_are_mirrored_without_the_edge() {
        let mirrored: Vec<usize> = (-3..8).map(|i| reflect(i, 5)).collect();
        assert_eq!(mirrored, [3, 2, 1, 0, 1, 2, 3, 4, 3, 2, 1]);
    }
}
