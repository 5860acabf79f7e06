//! From the binary frames of a session to the samples of its stream.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use crate::{
    asr::{SttError, engine::StreamInput},
    shutdown::Shutdown,
};

/// Why audio could not be taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum IntakeError {
    /// The engine ended the stream.
    #[error(transparent)]
    Stream(#[from] SttError),
}

/// The way in of one session.
#[derive(Debug)]
pub(super) struct Intake {
    input: StreamInput,
    received: Arc<AtomicU64>,
    pcm: Pcm,
}

impl Intake {
    /// Counts the samples it hands over in `received`.
    pub(super) fn new(input: StreamInput, received: Arc<AtomicU64>, _shutdown: Shutdown) -> Self {
        Self { input, received, pcm: Pcm::default() }
    }

    pub(super) async fn push(&mut self, bytes: &[u8]) -> Result<(), IntakeError> {
        let samples = self.pcm.decode(bytes);
        self.received.fetch_add(samples.len() as u64, Ordering::Relaxed);
        Ok(self.input.push(&samples).await?)
    }

    pub(super) async fn flush(&self) -> Result<(), SttError> {
        self.input.flush().await
    }

    pub(super) async fn marker(&self, name: String) -> Result<(), SttError> {
        self.input.marker(name).await
    }

    pub(super) async fn end(self) -> Result<(), IntakeError> {
        Ok(self.input.end().await?)
    }
}

/// Raw PCM: s16le, mono. A sample may straddle two frames, so the half of one is carried over.
#[derive(Debug, Default)]
pub(super) struct Pcm {
    half: Option<u8>,
}

impl Pcm {
    /// The whole samples that `bytes` complete, in [-1, 1].
    pub(super) fn decode(&mut self, bytes: &[u8]) -> Vec<f32> {
        let mut samples = Vec::with_capacity(bytes.len() / 2 + 1);
        let mut rest = bytes;
        if let (Some(low), Some((high, after))) = (self.half, bytes.split_first()) {
            samples.push(sample(low, *high));
            self.half = None;
            rest = after;
        }
        let (pairs, odd) = rest.as_chunks::<2>();
        samples.extend(pairs.iter().map(|[low, high]| sample(*low, *high)));
        if let [low] = odd {
            self.half = Some(*low);
        }
        samples
    }
}

fn sample(low: u8, high: u8) -> f32 {
    f32::from(i16::from_le_bytes([low, high])) / 32_768.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn samples_are_little_endian_and_inside_one() {
        let mut pcm = Pcm::default();
        assert_eq!(pcm.decode(&[0x00, 0x80, 0xff, 0x7f, 0x00]), [-1.0, 32_767.0 / 32_768.0]);
        assert_eq!(pcm.decode(&[]), Vec::<f32>::new());
        assert_eq!(pcm.decode(&[0x40]), [0.5]);
    }

    proptest! {
        #[test]
        fn the_sizes_of_frames_do_not_matter(
            bytes in prop::collection::vec(any::<u8>(), 0..400),
            cuts in prop::collection::vec(0_usize..400, 0..20),
        ) {
            let whole = Pcm::default().decode(&bytes);
            let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
            cuts.extend([0, bytes.len()]);
            cuts.sort_unstable();
            let mut pcm = Pcm::default();
            let pieces: Vec<f32> = cuts.windows(2).flat_map(|cut| pcm.decode(&bytes[cut[0]..cut[1]])).collect();
            prop_assert_eq!(pieces, whole);
        }
    }
}
