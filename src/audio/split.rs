//! Interleaved frames at any rate to one or several streams of mono at 16 kHz: pure, no thread, no I/O.

use super::{
    AudioStats,
    decode::mix_to_mono,
    resample::{RateOutOfRange, Resampler},
};

/// What becomes of several channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mixing {
    /// One stream: their mean.
    Mean,
    /// Each of so many channels is a stream by itself.
    Apart(usize),
}

/// Why frames cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Nobody records at this rate.
    #[error(transparent)]
    Rate(#[from] RateOutOfRange),
    /// The streams were promised other channels.
    #[error("the audio has {found} channels, but {expected} were announced; say how many it has")]
    Count {
        /// Channels of the audio.
        found: usize,
        /// Streams that wait for one each.
        expected: usize,
    },
}

/// Mixes or splits channels and resamples each stream.
#[derive(Debug)]
pub struct Splitter {
    mixing: Mixing,
    resamplers: Vec<Resampler>,
    stats: AudioStats,
    channel: Vec<f32>,
}

impl Splitter {
    /// A splitter that has seen nothing.
    #[must_use]
    pub fn new(mixing: Mixing) -> Self {
        Self { mixing, resamplers: Vec::new(), stats: AudioStats::default(), channel: Vec::new() }
    }

    /// Streams that come out.
    #[must_use]
    pub const fn streams(&self) -> usize {
        match self.mixing {
            Mixing::Mean => 1,
            Mixing::Apart(channels) => channels,
        }
    }

    /// Takes whole frames; gives what they complete of each stream: mono at 16 kHz in [-1, 1].
    ///
    /// # Errors
    /// [`ChannelError`]; nothing was taken then.
    pub fn push(
        &mut self,
        rate_hz: u32,
        channels: usize,
        frames: &[f32],
    ) -> Result<Vec<Vec<f32>>, ChannelError> {
        let streams = self.streams();
        if self.mixing != Mixing::Mean && channels != streams {
            return Err(ChannelError::Count { found: channels, expected: streams });
        }
        let mut out = vec![Vec::new(); streams];
        if self.resamplers.first().is_none_or(|resampler| resampler.rate_hz() != rate_hz) {
            let fresh = (0..streams).map(|_| Resampler::new(rate_hz)).collect::<Result<_, _>>()?;
            self.drain(&mut out);
            self.resamplers = fresh;
        }
        for (stream, (resampler, out)) in self.resamplers.iter_mut().zip(&mut out).enumerate() {
            self.channel.clear();
            if self.mixing == Mixing::Mean {
                mix_to_mono(frames, channels, &mut self.stats, &mut self.channel);
            } else {
                let channel = frames.iter().skip(stream).step_by(channels.max(1));
                // A float that is no number is silence, as it is when channels are mixed.
                self.channel.extend(channel.map(|s| if s.is_finite() { s.clamp(-1.0, 1.0) } else { 0.0 }));
            }
            resampler.push(&self.channel, out);
            out.iter_mut().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
        }
        Ok(out)
    }

    /// What the filters still hold of everything taken so far; goes on as new.
    #[must_use]
    pub fn finish(&mut self) -> Vec<Vec<f32>> {
        let mut out = vec![Vec::new(); self.streams()];
        self.drain(&mut out);
        out
    }

    fn drain(&mut self, out: &mut [Vec<f32>]) {
        for (resampler, out) in self.resamplers.iter_mut().zip(out) {
            resampler.finish(out);
            out.iter_mut().for_each(|sample| *sample = sample.clamp(-1.0, 1.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn channels_are_mixed_or_kept_apart() {
        let frames = [0.5, -0.5, 1.0, 0.0];
        assert_eq!(Splitter::new(Mixing::Mean).push(16_000, 2, &frames).unwrap(), [[0.0, 0.5]]);
        let mut apart = Splitter::new(Mixing::Apart(2));
        assert_eq!(apart.push(16_000, 2, &frames).unwrap(), [[0.5, 1.0], [-0.5, 0.0]]);
        assert_eq!(apart.push(16_000, 2, &[f32::NAN, 7.0]).unwrap(), [[0.0], [1.0]]);
        let wrong = apart.push(16_000, 1, &[0.0]).unwrap_err();
        assert_eq!(wrong, ChannelError::Count { found: 1, expected: 2 });
        assert!(apart.push(0, 2, &frames).is_err());
    }

    #[test]
    fn a_change_of_rate_loses_nothing() {
        let mut splitter = Splitter::new(Mixing::Mean);
        let mut samples = 0;
        for rate_hz in [8_000_u32, 48_000, 44_100, 16_000] {
            samples += splitter.push(rate_hz, 1, &vec![0.1; rate_hz as usize]).unwrap()[0].len();
        }
        samples += splitter.finish()[0].len();
        assert_eq!(samples, 4 * 16_000);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn every_stream_has_the_length_of_the_audio(
            rate_hz in prop::sample::select(vec![8_000_u32, 16_000, 44_100, 48_000, 192_000]),
            channels in 1_usize..9,
            frames in 0_usize..3_000,
            apart in any::<bool>(),
        ) {
            let mut splitter = Splitter::new(if apart { Mixing::Apart(channels) } else { Mixing::Mean });
            let mut lengths = vec![0; splitter.streams()];
            let audio = vec![0.25; frames * channels];
            for piece in audio.chunks(777 * channels) {
                for (length, out) in lengths.iter_mut().zip(splitter.push(rate_hz, channels, piece).unwrap()) {
                    *length += out.len();
                }
            }
            for (length, out) in lengths.iter_mut().zip(splitter.finish()) {
                *length += out.len();
            }
            let exact = (frames as f64 * 16_000.0 / f64::from(rate_hz)).round() as usize;
            prop_assert!(lengths.iter().all(|length| *length == exact), "{lengths:?} {exact}");
        }
    }
}
