//! Makes WAV files of every kind for the tests, and reads the plain ones of the fixtures.

use std::path::Path;

/// How samples are stored.
#[derive(Clone, Copy)]
pub(crate) enum Encoding {
    U8,
    S16,
    S24,
    F32,
}

impl Encoding {
    const fn bytes(self) -> u16 {
        match self {
            Self::U8 => 1,
            Self::S16 => 2,
            Self::S24 => 3,
            Self::F32 => 4,
        }
    }

    fn put(self, out: &mut Vec<u8>, sample: f32) {
        let scaled = |max: f32| (sample.clamp(-1.0, 1.0) * max).round();
        match self {
            Self::U8 => out.push((scaled(127.0) + 128.0) as u8),
            Self::S16 => out.extend((scaled(32_767.0) as i16).to_le_bytes()),
            Self::S24 => out.extend(&(scaled(8_388_607.0) as i32).to_le_bytes()[..3]),
            Self::F32 => out.extend(sample.to_le_bytes()),
        }
    }
}

/// The header of a WAV file whose data has `data_len` bytes.
pub(crate) fn header(rate: u32, channels: u16, encoding: Encoding, data_len: u32) -> Vec<u8> {
    let format: u16 = if matches!(encoding, Encoding::F32) { 3 } else { 1 };
    let frame = channels * encoding.bytes();
    let mut out = b"RIFF".to_vec();
    out.extend(data_len.saturating_add(36).to_le_bytes());
    out.extend(b"WAVEfmt \x10\0\0\0");
    out.extend(format.to_le_bytes());
    out.extend(channels.to_le_bytes());
    out.extend(rate.to_le_bytes());
    out.extend((rate * u32::from(frame)).to_le_bytes());
    out.extend(frame.to_le_bytes());
    out.extend((encoding.bytes() * 8).to_le_bytes());
    out.extend(b"data");
    out.extend(data_len.to_le_bytes());
    out
}

/// The same sound on every channel.
pub(crate) fn wav(samples: &[f32], rate: u32, channels: u16, encoding: Encoding) -> Vec<u8> {
    let frames: Vec<f32> =
        samples.iter().flat_map(|sample| std::iter::repeat_n(*sample, usize::from(channels))).collect();
    interleaved(&frames, rate, channels, encoding)
}

/// Channels of their own, sample by sample in turn.
pub(crate) fn interleaved(frames: &[f32], rate: u32, channels: u16, encoding: Encoding) -> Vec<u8> {
    let mut data = Vec::new();
    for sample in frames {
        encoding.put(&mut data, *sample);
    }
    let mut out = header(rate, channels, encoding, data.len() as u32);
    out.extend(data);
    out
}

/// The samples of a 16-bit mono WAV file and its rate.
pub(crate) fn read(path: &Path) -> (Vec<f32>, u32) {
    let bytes = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(&bytes[..4], b"RIFF", "{}", path.display());
    let (mut at, mut rate) = (12, 0);
    loop {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let body = &bytes[at + 8..(at + 8 + len).min(bytes.len())];
        match &bytes[at..at + 4] {
            b"fmt " => {
                assert_eq!(body[..4], [1, 0, 1, 0], "PCM, mono");
                rate = u32::from_le_bytes(body[4..8].try_into().unwrap());
            }
            b"data" => {
                let samples =
                    body.chunks_exact(2).map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32_768.0);
                return (samples.collect(), rate);
            }
            _ => {}
        }
        at += 8 + len + len % 2;
    }
}

/// Each sample `times` times: a crude change of rate that is good enough for speech.
pub(crate) fn repeat(samples: &[f32], times: usize) -> Vec<f32> {
    samples.iter().flat_map(|sample| std::iter::repeat_n(*sample, times)).collect()
}
