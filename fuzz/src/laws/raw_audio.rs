//! Raw samples and bare Opus packets as they come off a socket, mixed or split, and resampled.

use std::panic::{AssertUnwindSafe, catch_unwind};

use godctl::audio::{
    opus::{OPUS_RATE_HZ, OpusPackets},
    pcm::{PcmEncoding, PcmFormat, PcmReader},
    split::{ChannelError, Mixing, Splitter},
};

use super::pieces::cut;

const ENCODINGS: [PcmEncoding; 4] =
    [PcmEncoding::Linear16, PcmEncoding::Linear32, PcmEncoding::MuLaw, PcmEncoding::ALaw];
/// The usual ones, and some that nobody records at.
const RATES_HZ: [u32; 12] =
    [0, 999, 1_000, 8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 192_000, u32::MAX];
const MAX_CHANNELS: usize = 8;
/// A packet of Opus lasts 120 ms at most (RFC 6716, 3.2.5).
const MAX_OPUS_FRAMES: usize = OPUS_RATE_HZ as usize * 120 / 1_000;

/// Four bytes say what the rest is.
pub fn hold(bytes: &[u8]) {
    let Some((&[encoding, rate, channels, mixing], audio)) = bytes.split_first_chunk() else { return };
    let pick = |byte: u8, count: usize| usize::from(byte) % count;
    let channels = 1 + pick(channels, MAX_CHANNELS);
    let rate_hz = RATES_HZ[pick(rate, RATES_HZ.len())];
    // One in four is told another number of channels than there are.
    let mixing = match mixing % 4 {
        0 | 1 => Mixing::Mean,
        2 => Mixing::Apart(channels),
        _ => Mixing::Apart(1 + channels % MAX_CHANNELS),
    };
    match ENCODINGS.get(pick(encoding, ENCODINGS.len() + 1)) {
        Some(&encoding) => samples(PcmFormat { encoding, rate_hz, channels }, mixing, audio),
        None => packets(channels, audio),
    }
}

/// Holds: however the bytes are cut, the same samples come, to the last bit, as many as whole frames arrived; and the
/// same streams follow from them.
fn samples(format: PcmFormat, mixing: Mixing, audio: &[u8]) {
    if audio.is_empty() {
        return;
    }
    let whole = PcmReader::new(format).decode(audio);
    let frames = audio.len() / (format.encoding.sample_bytes() * format.channels);
    assert_eq!(whole.len(), frames * format.channels);

    let mut reader = PcmReader::new(format);
    let pieces: Vec<Vec<f32>> = cut(audio).map(|piece| reader.decode(piece)).collect();
    assert_eq!(bits(&pieces.concat()), bits(&whole));

    let at_once = streams(format, mixing, frames, &[whole]);
    assert_eq!(streams(format, mixing, frames, &pieces), at_once);
}

/// What comes out of each stream, in bits; `None` where it is refused. Holds: all streams are as long as the audio.
fn streams(format: PcmFormat, mixing: Mixing, frames: usize, pieces: &[Vec<f32>]) -> Option<Vec<Vec<u32>>> {
    let mut splitter = Splitter::new(mixing);
    let mut out = vec![Vec::new(); splitter.streams()];
    for piece in pieces {
        let given = match splitter.push(format.rate_hz, format.channels, piece) {
            Ok(given) => given,
            Err(ChannelError::Rate(_)) => {
                assert!(!(1_000..=192_000).contains(&format.rate_hz));
                return None;
            }
            Err(ChannelError::Count { .. }) => {
                assert!(mixing != Mixing::Mean && mixing != Mixing::Apart(format.channels));
                return None;
            }
        };
        out.iter_mut().zip(given).for_each(|(out, given)| out.extend(given));
    }
    out.iter_mut().zip(splitter.finish()).for_each(|(out, rest)| out.extend(rest));
    let exact = (frames as f64 * 16_000.0 / f64::from(format.rate_hz)).round() as usize;
    for stream in &out {
        assert!(stream.len() == exact, "{} samples of {exact}", stream.len());
        assert!(stream.iter().all(|sample| sample.abs() <= 1.0), "a sample is beyond 1 or no number");
    }
    Some(out.iter().map(|stream| bits(stream)).collect())
}

/// Holds: a packet is none, or whole frames of no more time than a packet can have, and what comes of it can be heard.
fn packets(channels: usize, audio: &[u8]) {
    let Some(mut packets) = OpusPackets::new(channels) else { return assert!(channels > 2) };
    let mut splitter = Splitter::new(Mixing::Mean);
    for packet in cut(audio) {
        // The server ends the session where this third party's decoder panics.
        let decoded = catch_unwind(AssertUnwindSafe(|| packets.decode(packet).map(<[f32]>::to_vec)));
        let Ok(Some(samples)) = decoded else { return };
        assert!(samples.len() % channels == 0 && samples.len() <= MAX_OPUS_FRAMES * channels);
        let streams = splitter.push(OPUS_RATE_HZ, channels, &samples).unwrap();
        assert!(streams.iter().flatten().all(|sample| sample.abs() <= 1.0));
    }
}

fn bits(samples: &[f32]) -> Vec<u32> {
    samples.iter().map(|sample| sample.to_bits()).collect()
}
