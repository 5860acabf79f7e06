//! Any sample rate to 16 kHz, as a stream: pure, no thread, no I/O.
//!
//! rubato's FFT resampler (windowed sinc, Blackman-Harris squared, linear phase) in blocks of about 32 ms. Its
//! delay is taken off the front, so sample `k` of the output is the moment `k / 16000` s of the input, and the
//! length is exact. The block grid hangs on the first input sample: how the input was cut into pushes changes
//! not one bit of the output.

use rubato::{
    Fft, FixedSync, Indexing, Resampler as _, WindowFunction, audioadapter_buffers::direct::SequentialSlice,
};

use super::SAMPLE_RATE_HZ;

/// The wanted block length in output samples: 32 ms, of which half is delay.
const BLOCK_OUT_SAMPLES: u32 = 512;

/// The lowest rate that is taken; below it there is no intelligible speech and surely a broken header.
pub const MIN_RATE_HZ: u32 = 1_000;
/// The highest rate that is taken: the fastest converters that are sold.
pub const MAX_RATE_HZ: u32 = 768_000;

/// The rate is outside [`MIN_RATE_HZ`] to [`MAX_RATE_HZ`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a sample rate of {rate_hz} Hz is outside {MIN_RATE_HZ} to {MAX_RATE_HZ} Hz")]
pub struct RateOutOfRange {
    /// The rate that was asked for.
    pub rate_hz: u32,
}

/// A mono stream from one rate to [`SAMPLE_RATE_HZ`].
pub struct Resampler {
    rate_hz: u32,
    engine: Option<Engine>,
    taken: u64,
    given: u64,
}

struct Engine {
    fft: Fft<f32>,
    /// Input that does not fill a block yet.
    input: Vec<f32>,
    output: Vec<f32>,
    /// Output samples still to drop: the filter's delay.
    delay: usize,
}

impl std::fmt::Debug for Resampler {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Resampler")
            .field("rate_hz", &self.rate_hz)
            .field("taken", &self.taken)
            .field("given", &self.given)
            .finish_non_exhaustive()
    }
}

impl Resampler {
    /// A resampler from `rate_hz`; at [`SAMPLE_RATE_HZ`] samples pass through untouched.
    ///
    /// # Errors
    /// [`RateOutOfRange`].
    pub fn new(rate_hz: u32) -> Result<Self, RateOutOfRange> {
        if !(MIN_RATE_HZ..=MAX_RATE_HZ).contains(&rate_hz) {
            return Err(RateOutOfRange { rate_hz });
        }
        let engine = if rate_hz == SAMPLE_RATE_HZ {
            None
        } else {
            let fft = Fft::new_custom(
                rate_hz as usize,
                SAMPLE_RATE_HZ as usize,
                block_frames(rate_hz),
                1,
                1,
                WindowFunction::BlackmanHarris2,
                FixedSync::Both,
            )
            .map_err(|_| RateOutOfRange { rate_hz })?;
            let delay = fft.output_delay();
            let output = vec![0.0; fft.output_frames_max()];
            Some(Engine { input: Vec::with_capacity(fft.input_frames_max()), output, delay, fft })
        };
        Ok(Self { rate_hz, engine, taken: 0, given: 0 })
    }

    /// The input rate in Hz.
    #[must_use]
    pub const fn rate_hz(&self) -> u32 {
        self.rate_hz
    }

    /// Takes samples at the input rate and appends what they complete to `out`.
    pub fn push(&mut self, samples: &[f32], out: &mut Vec<f32>) {
        self.taken += samples.len() as u64;
        let before = out.len();
        match &mut self.engine {
            None => out.extend_from_slice(samples),
            Some(engine) => engine.push(samples, out),
        }
        self.given += (out.len() - before) as u64;
    }

    /// Ends the stream: appends the rest, so that all in all `round(n * 16000 / rate)` samples were given.
    /// Afterwards the resampler is as new.
    pub fn finish(&mut self, out: &mut Vec<f32>) {
        let rate = u128::from(self.rate_hz);
        let total = ((u128::from(self.taken) * u128::from(SAMPLE_RATE_HZ) * 2 + rate) / (rate * 2)) as u64;
        if let Some(engine) = &mut self.engine {
            while self.given < total {
                let before = out.len();
                engine.flush_block(out);
                let fresh = (out.len() - before) as u64;
                let keep = fresh.min(total - self.given);
                out.truncate(before + keep as usize);
                self.given += keep;
            }
            engine.reset();
        }
        self.taken = 0;
        self.given = 0;
    }
}

/// Input frames of one block: about [`BLOCK_OUT_SAMPLES`] of output, and an even number of the smallest blocks
/// that fit both rates. With an odd one the filter's centre would fall between two samples, and all times with it.
fn block_frames(rate_hz: u32) -> usize {
    let (mut common, mut rest) = (rate_hz, SAMPLE_RATE_HZ);
    while rest != 0 {
        (common, rest) = (rest, common % rest);
    }
    let units = BLOCK_OUT_SAMPLES.div_ceil(SAMPLE_RATE_HZ / common).next_multiple_of(2);
    (units * (rate_hz / common)) as usize
}

impl Engine {
    fn push(&mut self, mut samples: &[f32], out: &mut Vec<f32>) {
        loop {
            let need = self.fft.input_frames_next();
            let (head, rest) = samples.split_at(samples.len().min(need - self.input.len()));
            self.input.extend_from_slice(head);
            samples = rest;
            if self.input.len() < need {
                return;
            }
            self.process(None, out);
        }
    }

    /// One block of what is left and silence after it.
    fn flush_block(&mut self, out: &mut Vec<f32>) {
        let left = self.input.len();
        self.input.resize(self.fft.input_frames_next(), 0.0);
        self.process(Some(left), out);
    }

    fn process(&mut self, valid: Option<usize>, out: &mut Vec<f32>) {
        let wanted = self.output.len();
        let indexing = valid.map(|frames| Indexing::new().partial_len(frames));
        let written = SequentialSlice::new(&self.input, 1, self.input.len()).ok().and_then(|input| {
            let mut output = SequentialSlice::new_mut(&mut self.output, 1, wanted).ok()?;
            self.fft.process_into_buffer(&input, &mut output, indexing.as_ref()).ok()
        });
        let Some((_, frames)) = written else {
            unreachable!("both buffers have the sizes that the resampler asked for");
        };
        self.input.clear();
        let skip = self.delay.min(frames);
        self.delay -= skip;
        out.extend_from_slice(&self.output[skip..frames]);
    }

    fn reset(&mut self) {
        self.fft.reset();
        self.input.clear();
        self.delay = self.fft.output_delay();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn convert(rate_hz: u32, samples: &[f32]) -> Vec<f32> {
        let mut resampler = Resampler::new(rate_hz).unwrap();
        let mut out = Vec::new();
        resampler.push(samples, &mut out);
        resampler.finish(&mut out);
        out
    }

    fn tone(rate_hz: u32, hertz: f64, seconds: f64) -> Vec<f32> {
        let n = (f64::from(rate_hz) * seconds) as usize;
        (0..n)
            .map(|i| (std::f64::consts::TAU * hertz * i as f64 / f64::from(rate_hz)).sin() as f32 * 0.5)
            .collect()
    }

    #[test]
    fn a_tone_keeps_its_phase_so_times_are_right() {
        for rate_hz in [8_000, 11_025, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 192_000] {
            let got = convert(rate_hz, &tone(rate_hz, 440.0, 1.0));
            let want = tone(SAMPLE_RATE_HZ, 440.0, 1.0);
            assert_eq!(got.len(), want.len(), "{rate_hz}");
            let worst = got[800..15_200]
                .iter()
                .zip(&want[800..15_200])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < 1e-3, "{rate_hz}: {worst}");
        }
    }

    #[test]
    fn what_is_above_8_khz_does_not_fold_back() {
        for (rate_hz, hertz) in [(44_100, 8_600.0), (48_000, 9_000.0), (48_000, 15_600.0), (96_000, 31_000.0)]
        {
            let got = convert(rate_hz, &tone(rate_hz, hertz, 1.0));
            let peak = got[800..15_200].iter().fold(0.0_f32, |m, s| m.max(s.abs()));
            assert!(peak < 0.5 * 1e-4, "{hertz} Hz at {rate_hz}: {peak}");
        }
    }

    #[test]
    fn at_16_khz_nothing_is_touched() {
        let input = tone(16_000, 1_000.0, 0.1);
        assert_eq!(convert(16_000, &input), input);
    }

    #[test]
    fn absurd_rates_are_refused() {
        assert_eq!(Resampler::new(0).unwrap_err(), RateOutOfRange { rate_hz: 0 });
        assert!(Resampler::new(u32::MAX).is_err());
        assert!(Resampler::new(44_101).is_ok(), "a prime rate is unusual, not absurd");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_chunking_gives_the_same_samples_and_the_exact_length(
            rate_hz in prop::sample::select(vec![8_000_u32, 11_025, 16_000, 22_050, 44_100, 48_000, 96_000, 37_800]),
            len in 0_usize..20_000,
            cuts in prop::collection::vec(1_usize..3_000, 1..40),
        ) {
            let input: Vec<f32> = (0..len).map(|i| ((i * 7_919) % 2_003) as f32 / 1_001.5 - 1.0).collect();
            let whole = convert(rate_hz, &input);
            let exact = (len as f64 * 16_000.0 / f64::from(rate_hz)).round() as usize;
            prop_assert_eq!(whole.len(), exact);

            let mut resampler = Resampler::new(rate_hz).unwrap();
            let mut out = Vec::new();
            let mut at = 0;
            for cut in cuts.iter().cycle() {
                let end = (at + cut).min(len);
                resampler.push(&input[at..end], &mut out);
                at = end;
                if at == len { break; }
            }
            resampler.finish(&mut out);
            prop_assert_eq!(&out, &whole);

            // and once more with the same, now reset, resampler
            let mut again = Vec::new();
            resampler.push(&input, &mut again);
            resampler.finish(&mut again);
            prop_assert_eq!(&again, &whole);
        }
    }
}
