//! Raw samples as they come off a socket, in pieces of any size: pure, no thread, no I/O.

use super::wav::Encoding;

/// How raw samples are written. The names are those that speech services use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PcmEncoding {
    /// 16-bit signed little-endian integers.
    Linear16,
    /// 32-bit little-endian floats.
    Linear32,
    /// ITU-T G.711 mu-law, 8 bit.
    MuLaw,
    /// ITU-T G.711 A-law, 8 bit.
    ALaw,
}

impl PcmEncoding {
    /// Bytes of one sample.
    #[must_use]
    pub const fn sample_bytes(self) -> usize {
        match self {
            Self::Linear16 => 2,
            Self::Linear32 => 4,
            Self::MuLaw | Self::ALaw => 1,
        }
    }
}

/// What raw samples are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PcmFormat {
    /// How a sample is written.
    pub encoding: PcmEncoding,
    /// Frames per second.
    pub rate_hz: u32,
    /// Samples per frame, interleaved; at least one.
    pub channels: usize,
}

/// Bytes to interleaved samples. A frame may straddle two pieces, so the beginning of one is carried over.
#[derive(Debug)]
pub struct PcmReader {
    format: PcmFormat,
    /// Bytes of a frame that is not whole yet.
    begun: Vec<u8>,
}

impl PcmReader {
    /// A reader at the start of a frame.
    #[must_use]
    pub fn new(format: PcmFormat) -> Self {
        Self { format: PcmFormat { channels: format.channels.max(1), ..format }, begun: Vec::new() }
    }

    /// What it reads.
    #[must_use]
    pub const fn format(&self) -> PcmFormat {
        self.format
    }

    /// The samples of the frames that `bytes` complete, interleaved; integers are in [-1, 1].
    #[must_use]
    pub fn decode(&mut self, bytes: &[u8]) -> Vec<f32> {
        let frame = self.format.encoding.sample_bytes() * self.format.channels;
        let mut rest = bytes;
        let mut samples = Vec::with_capacity((bytes.len() / frame + 1) * self.format.channels);
        if !self.begun.is_empty() {
            let (head, after) = bytes.split_at(bytes.len().min(frame - self.begun.len()));
            self.begun.extend_from_slice(head);
            rest = after;
            if self.begun.len() < frame {
                return samples;
            }
            self.sound().decode(&self.begun, &mut samples);
            self.begun.clear();
        }
        let (whole, begun) = rest.split_at(rest.len() / frame * frame);
        self.sound().decode(whole, &mut samples);
        self.begun.extend_from_slice(begun);
        samples
    }

    const fn sound(&self) -> Encoding {
        match self.format.encoding {
            PcmEncoding::Linear16 => Encoding::S16,
            PcmEncoding::Linear32 => Encoding::F32,
            PcmEncoding::MuLaw => Encoding::MuLaw,
            PcmEncoding::ALaw => Encoding::ALaw,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reader(encoding: PcmEncoding, channels: usize) -> PcmReader {
        PcmReader::new(PcmFormat { encoding, rate_hz: 16_000, channels })
    }

    #[test]
    fn samples_are_little_endian_and_inside_one() {
        let mut pcm = reader(PcmEncoding::Linear16, 1);
        assert_eq!(pcm.decode(&[0x00, 0x80, 0xff, 0x7f, 0x00]), [-1.0, 32_767.0 / 32_768.0]);
        assert_eq!(pcm.decode(&[]), Vec::<f32>::new());
        assert_eq!(pcm.decode(&[0x40]), [0.5]);
        assert_eq!(reader(PcmEncoding::Linear32, 1).decode(&0.25_f32.to_le_bytes()), [0.25]);
        assert_eq!(reader(PcmEncoding::MuLaw, 2).decode(&[0xff, 0xff, 0x00]), [0.0, 0.0]);
        assert_eq!(reader(PcmEncoding::ALaw, 1).decode(&[0xd5]), [8.0 / 32_768.0]);
    }

    proptest! {
        #[test]
        fn the_sizes_of_frames_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(0_usize..400, 0..20),
            encoding in prop::sample::select(vec![PcmEncoding::Linear16, PcmEncoding::MuLaw, PcmEncoding::ALaw]),
            channels in 1_usize..9,
        ) {
            let whole = reader(encoding, channels).decode(&bytes);
            prop_assert_eq!(whole.len(), bytes.len() / (encoding.sample_bytes() * channels) * channels);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut pcm = reader(encoding, channels);
            let pieces: Vec<f32> = cuts.windows(2).flat_map(|cut| pcm.decode(&bytes[cut[0]..cut[1]])).collect();
            prop_assert_eq!(pieces, whole);
        }
    }
}
