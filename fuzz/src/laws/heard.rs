//! What a decoder made of its bytes, small enough to compare whatever the length of the audio.

use std::hash::{DefaultHasher, Hasher as _};

use godctl::audio::{AudioError, AudioSource, AudioStats, MAX_CHUNK_SAMPLES, decode::Decoder};

/// Samples that one byte can stand for at most: a FLAC frame of silence has 65 535 in ten bytes, and those of 1 kHz become
/// sixteen each.
const MAX_SAMPLES_PER_BYTE: u64 = 16 * 65_535;

/// What was heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heard {
    /// How many samples.
    pub samples: u64,
    /// Of all samples to the last bit.
    pub digest: u64,
    /// What was repaired.
    pub stats: AudioStats,
    /// The error, in its words.
    pub ending: Option<String>,
}

/// Listens to the end. Holds: chunks have 1 to [`MAX_CHUNK_SAMPLES`] samples from -1 to 1, the count is right, an error
/// comes once, the end stays the end, and there is no more audio than the bytes can hold.
///
/// # Errors
/// The beginning could not be read as audio.
pub fn listen(decoder: Result<Decoder, AudioError>, bytes: usize) -> Result<Heard, AudioError> {
    let mut decoder = decoder?;
    let mut digest = DefaultHasher::new();
    let mut samples = 0;
    let ending = loop {
        match decoder.next_chunk() {
            Ok(Some(chunk)) => {
                assert!((1..=MAX_CHUNK_SAMPLES).contains(&chunk.len()), "{} samples", chunk.len());
                assert!(chunk.iter().all(|sample| sample.abs() <= 1.0), "a sample is beyond 1 or no number");
                samples += chunk.len() as u64;
                chunk.iter().for_each(|sample| digest.write_u32(sample.to_bits()));
            }
            Ok(None) => break None,
            Err(error) => {
                assert!(!error.to_string().is_empty());
                break Some(error.to_string());
            }
        }
    };
    assert!(matches!(decoder.next_chunk(), Ok(None)), "the end does not stay the end");
    let stats = decoder.stats();
    assert_eq!(stats.samples, samples);
    assert!(samples <= bytes as u64 * MAX_SAMPLES_PER_BYTE, "{samples} samples in {bytes} bytes");
    Ok(Heard { samples, digest: digest.finish(), stats, ending })
}
