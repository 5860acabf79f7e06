//! RIFF/WAVE and RF64 with uncompressed samples, from a plain `Read`: runs on the decoder's thread.
//!
//! Ours rather than the demuxer crate's, because WAV is what recorders and sockets send and its headers lie: a
//! length of zero or of all ones from a program that could not seek back, a length past the end of a file that
//! was cut. Whole frames up to the last byte are decoded in all of these cases.

use std::io::{self, Read};

/// Bytes that one call of [`WavReader::read_frames`] decodes at most, or one frame. A header can claim frames of 64 KB, so
/// a number of frames would be no limit.
const READ_BYTES: usize = 32 * 1_024;
/// Chunks before the sound (pictures, notes) may not be longer than this in all.
const MAX_HEADER_BYTES: u64 = 64 * 1024 * 1024;
const MAX_FORMAT_BYTES: u64 = 1_024;

const TAG_PCM: u16 = 1;
const TAG_FLOAT: u16 = 3;
const TAG_A_LAW: u16 = 6;
const TAG_MU_LAW: u16 = 7;
const TAG_EXTENSIBLE: u16 = 0xfffe;

/// Lengths that programs write when they cannot know the length: all ones, and the largest signed number.
const LENGTH_UNKNOWN: [u32; 2] = [u32::MAX, 0x7fff_ffff];

/// Why a header cannot be used.
#[derive(Debug)]
pub(super) enum WavError {
    Io(io::Error),
    /// The file ends inside the header.
    Truncated,
    Malformed(&'static str),
    /// Compressed samples under this format tag.
    OtherCodec(u16),
}

impl From<io::Error> for WavError {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::Truncated } else { Self::Io(error) }
    }
}

/// How one sample is stored; integers are left-justified in their bytes, whatever their number of valid bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    U8,
    S16,
    S24,
    S32,
    F32,
    F64,
    ALaw,
    MuLaw,
}

/// How a stretch of samples ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WavRead {
    /// Frames were appended.
    Frames,
    /// All that the header promised was read.
    End,
    /// The bytes ended before the header's length.
    Truncated,
}

/// A WAV file whose header has been read.
pub(super) struct WavReader {
    input: Box<dyn Read + Send + Sync>,
    encoding: Encoding,
    /// Samples per frame.
    pub(super) channels: usize,
    pub(super) rate_hz: u32,
    frame_bytes: usize,
    /// Bytes of sound still to come, when the header knows.
    left: Option<u64>,
    buffer: Vec<u8>,
}

impl WavReader {
    /// Reads the header up to the first sample.
    pub(super) fn open(mut input: Box<dyn Read + Send + Sync>) -> Result<Self, WavError> {
        let [magic, riff_len, form] = read_words(&mut input)?;
        if !matches!(&magic, b"RIFF" | b"RF64") || &form != b"WAVE" {
            return Err(WavError::Malformed("no RIFF/WAVE header"));
        }
        let riff_len = u32::from_le_bytes(riff_len);
        let mut position: u64 = 12;
        let mut format: Option<Format> = None;
        let mut long_data_len: Option<u64> = None;
        loop {
            let [id, len] = read_words(&mut input)?;
            let len = u32::from_le_bytes(len);
            position += 8;
            match &id {
                b"data" => {
                    let Some(format) = format else {
                        return Err(WavError::Malformed("the sound comes before its format"));
                    };
                    let unfinished = len == 0 && u64::from(riff_len) + 8 <= position;
                    let left = match long_data_len {
                        Some(long) if len == u32::MAX => Some(long),
                        _ if LENGTH_UNKNOWN.contains(&len) || unfinished => None,
                        _ => Some(u64::from(len)),
                    };
                    return Ok(Self {
                        input,
                        encoding: format.encoding,
                        channels: format.channels,
                        rate_hz: format.rate_hz,
                        frame_bytes: format.frame_bytes,
                        left,
                        buffer: Vec::new(),
                    });
                }
                b"fmt " => {
                    let body = read_chunk(&mut input, u64::from(len).min(MAX_FORMAT_BYTES))?;
                    skip(&mut input, u64::from(len).saturating_sub(MAX_FORMAT_BYTES))?;
                    format = Some(Format::parse(&body)?);
                }
                b"ds64" => {
                    let body = read_chunk(&mut input, u64::from(len).min(MAX_FORMAT_BYTES))?;
                    skip(&mut input, u64::from(len).saturating_sub(MAX_FORMAT_BYTES))?;
                    long_data_len = body.get(8..16).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
                }
                _ => skip(&mut input, u64::from(len))?,
            }
            position += u64::from(len);
            if len % 2 == 1 {
                skip(&mut input, 1)?;
                position += 1;
            }
            if position > MAX_HEADER_BYTES {
                return Err(WavError::Malformed("no sound in the first 64 MiB"));
            }
        }
    }

    /// Frames that the header promises and that have not been read.
    pub(super) fn frames_left(&self) -> Option<u64> {
        self.left.map(|bytes| bytes / self.frame_bytes as u64)
    }

    /// Appends the next frames to `out`, interleaved.
    pub(super) fn read_frames(&mut self, out: &mut Vec<f32>) -> io::Result<WavRead> {
        let most = READ_BYTES.max(self.frame_bytes) as u64;
        let wanted = self.left.unwrap_or(most).min(most) as usize / self.frame_bytes * self.frame_bytes;
        if wanted == 0 {
            return Ok(WavRead::End);
        }
        // One read, so that a live stream gives what has arrived, and then only to the end of a begun frame.
        if self.buffer.len() < wanted {
            self.buffer.resize(wanted, 0);
        }
        let mut filled = 0;
        while filled == 0 || filled % self.frame_bytes != 0 {
            match self.input.read(&mut self.buffer[filled..wanted]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let whole = filled / self.frame_bytes * self.frame_bytes;
        if whole == 0 {
            return Ok(if self.left.is_some() { WavRead::Truncated } else { WavRead::End });
        }
        if let Some(left) = &mut self.left {
            *left -= whole as u64;
        }
        self.encoding.decode(&self.buffer[..whole], out);
        Ok(WavRead::Frames)
    }
}

struct Format {
    encoding: Encoding,
    channels: usize,
    rate_hz: u32,
    frame_bytes: usize,
}

impl Format {
    fn parse(body: &[u8]) -> Result<Self, WavError> {
        let word = |at: usize| Some(u16::from_le_bytes([*body.get(at)?, *body.get(at + 1)?]));
        let fields = (word(0), word(2), word(4), word(6), word(12));
        let (Some(mut tag), Some(channels), Some(rate_low), Some(rate_high), Some(frame_bytes)) = fields
        else {
            return Err(WavError::Truncated);
        };
        if tag == TAG_EXTENSIBLE {
            tag = word(24).ok_or(WavError::Malformed("an extensible format without its extension"))?;
        }
        let (channels, frame_bytes) = (usize::from(channels), usize::from(frame_bytes));
        if !matches!(tag, TAG_PCM | TAG_FLOAT | TAG_A_LAW | TAG_MU_LAW) {
            return Err(WavError::OtherCodec(tag));
        }
        if channels == 0 || frame_bytes % channels != 0 {
            return Err(WavError::Malformed("a frame is no whole number of samples"));
        }
        let encoding = match (tag, frame_bytes / channels) {
            (TAG_PCM, 1) => Encoding::U8,
            (TAG_PCM, 2) => Encoding::S16,
            (TAG_PCM, 3) => Encoding::S24,
            (TAG_PCM, 4) => Encoding::S32,
            (TAG_FLOAT, 4) => Encoding::F32,
            (TAG_FLOAT, 8) => Encoding::F64,
            (TAG_A_LAW, 1) => Encoding::ALaw,
            (TAG_MU_LAW, 1) => Encoding::MuLaw,
            _ => return Err(WavError::Malformed("a sample has an impossible number of bytes")),
        };
        let rate_hz = u32::from(rate_low) | u32::from(rate_high) << 16;
        Ok(Self { encoding, channels, rate_hz, frame_bytes })
    }
}

impl Encoding {
    /// Appends the samples of `bytes`, which hold a whole number of them.
    pub(super) fn decode(self, bytes: &[u8], out: &mut Vec<f32>) {
        match self {
            Self::U8 => out.extend(bytes.iter().map(|b| (f32::from(*b) - 128.0) / 128.0)),
            Self::S16 => {
                out.extend(bytes.as_chunks().0.iter().map(|b| f32::from(i16::from_le_bytes(*b)) / 32_768.0));
            }
            Self::S24 => out.extend(
                bytes
                    .as_chunks::<3>()
                    .0
                    .iter()
                    .map(|b| (i32::from_le_bytes([0, b[0], b[1], b[2]]) as f64 / 2_147_483_648.0) as f32),
            ),
            Self::S32 => out.extend(
                bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| (f64::from(i32::from_le_bytes(*b)) / 2_147_483_648.0) as f32),
            ),
            Self::F32 => out.extend(bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b))),
            Self::F64 => out.extend(bytes.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b) as f32)),
            Self::ALaw => out.extend(bytes.iter().map(|b| a_law(*b))),
            Self::MuLaw => out.extend(bytes.iter().map(|b| mu_law(*b))),
        }
    }
}

/// ITU-T G.711 A-law.
fn a_law(byte: u8) -> f32 {
    let code = byte ^ 0x55;
    let (exponent, mantissa) = ((code >> 4) & 7, i32::from(code & 15));
    let magnitude =
        if exponent == 0 { (mantissa << 4) + 8 } else { ((mantissa << 4) + 0x108) << (exponent - 1) };
    (if code & 0x80 == 0 { -magnitude } else { magnitude }) as f32 / 32_768.0
}

/// ITU-T G.711 mu-law.
fn mu_law(byte: u8) -> f32 {
    let code = !byte;
    let magnitude = (((i32::from(code & 15) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84;
    (if code & 0x80 == 0 { magnitude } else { -magnitude }) as f32 / 32_768.0
}

fn read_words<const N: usize>(input: &mut dyn Read) -> io::Result<[[u8; 4]; N]> {
    let mut words = [[0; 4]; N];
    for word in &mut words {
        input.read_exact(word)?;
    }
    Ok(words)
}

fn read_chunk(input: &mut dyn Read, len: u64) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    input.take(len).read_to_end(&mut body)?;
    if (body.len() as u64) < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(body) }
}

fn skip(input: &mut dyn Read, len: u64) -> io::Result<()> {
    let skipped = io::copy(&mut input.take(len), &mut io::sink())?;
    if skipped < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Header {
        tag: u16,
        channels: u16,
        sample_bytes: u16,
        riff_len: u32,
        data_len: u32,
    }

    fn wav(header: &Header, data: &[u8]) -> Vec<u8> {
        let frame = header.channels * header.sample_bytes;
        let mut bytes = Vec::new();
        bytes.extend(b"RIFF");
        bytes.extend(header.riff_len.to_le_bytes());
        bytes.extend(b"WAVEfmt ");
        bytes.extend(16_u32.to_le_bytes());
        bytes.extend(header.tag.to_le_bytes());
        bytes.extend(header.channels.to_le_bytes());
        bytes.extend(8_000_u32.to_le_bytes());
        bytes.extend((8_000 * u32::from(frame)).to_le_bytes());
        bytes.extend(frame.to_le_bytes());
        bytes.extend((header.sample_bytes * 8).to_le_bytes());
        bytes.extend(b"data");
        bytes.extend(header.data_len.to_le_bytes());
        bytes.extend(data);
        bytes
    }

    fn decode(bytes: Vec<u8>) -> (Vec<f32>, WavRead) {
        let mut reader = WavReader::open(Box::new(io::Cursor::new(bytes))).unwrap();
        let mut out = Vec::new();
        loop {
            match reader.read_frames(&mut out).unwrap() {
                WavRead::Frames => {}
                end => return (out, end),
            }
        }
    }

    fn header(tag: u16, sample_bytes: u16, data_len: u32) -> Header {
        Header { tag, channels: 1, sample_bytes, riff_len: 36 + data_len, data_len }
    }

    #[test]
    fn every_encoding_maps_full_scale_to_one() {
        let cases: [(u16, &[&[u8]]); 6] = [
            (TAG_PCM, &[&[0], &[128], &[192]]),
            (TAG_PCM, &[&[0, 0x80], &[0, 0], &[0, 0x40]]),
            (TAG_PCM, &[&[0, 0, 0x80], &[0, 0, 0], &[0, 0, 0x40]]),
            (TAG_PCM, &[&[0, 0, 0, 0x80], &[0, 0, 0, 0], &[0, 0, 0, 0x40]]),
            (TAG_FLOAT, &[&(-1.0_f32).to_le_bytes(), &[0; 4], &0.5_f32.to_le_bytes()]),
            (TAG_FLOAT, &[&(-1.0_f64).to_le_bytes(), &[0; 8], &0.5_f64.to_le_bytes()]),
        ];
        for (tag, samples) in cases {
            let data = samples.concat();
            let got = decode(wav(&header(tag, samples[0].len() as u16, data.len() as u32), &data));
            assert_eq!(got, (vec![-1.0, 0.0, 0.5], WavRead::End), "tag {tag}, {} bytes", samples[0].len());
        }
    }

    #[test]
    fn telephone_codes_follow_g711() {
        assert_eq!(
            (mu_law(0x00), mu_law(0x80), mu_law(0xff)),
            (-32_124.0 / 32_768.0, 32_124.0 / 32_768.0, 0.0)
        );
        assert_eq!(
            (a_law(0x2a), a_law(0xaa), a_law(0xd5)),
            (-32_256.0 / 32_768.0, 32_256.0 / 32_768.0, 8.0 / 32_768.0)
        );
    }

    #[test]
    fn a_cut_file_gives_every_whole_frame() {
        let data: Vec<u8> = (0..20_001).map(|i| i as u8).collect();
        let (samples, end) = decode(wav(&header(TAG_PCM, 2, 40_000), &data));
        assert_eq!((samples.len(), end), (10_000, WavRead::Truncated));
    }

    #[test]
    fn a_header_of_wide_frames_asks_for_no_more_than_one_of_them() {
        let header = Header {
            tag: TAG_PCM,
            channels: 32_767,
            sample_bytes: 2,
            riff_len: u32::MAX,
            data_len: u32::MAX,
        };
        let mut reader = WavReader::open(Box::new(io::Cursor::new(wav(&header, &[0; 70_000])))).unwrap();
        let mut out = Vec::new();
        assert_eq!(reader.read_frames(&mut out).unwrap(), WavRead::Frames);
        assert_eq!((out.len(), reader.buffer.len()), (32_767, 65_534));
        assert_eq!(reader.read_frames(&mut out).unwrap(), WavRead::End);
    }

    #[test]
    fn unknown_and_unfinished_lengths_mean_up_to_the_end() {
        for (riff_len, data_len) in [(u32::MAX, u32::MAX), (0x7fff_ffff, 0x7fff_ffff), (0, 0), (36, 0)] {
            let bytes =
                wav(&Header { tag: TAG_PCM, channels: 1, sample_bytes: 2, riff_len, data_len }, &[0; 2_000]);
            assert_eq!(decode(bytes).0.len(), 1_000, "{riff_len:x} {data_len:x}");
        }
        let with_trailer =
            wav(&Header { tag: TAG_PCM, channels: 1, sample_bytes: 2, riff_len: 100, data_len: 0 }, &[0; 64]);
        assert_eq!(
            decode(with_trailer),
            (vec![], WavRead::End),
            "a truly empty file has no sound in its trailer"
        );
    }

    #[test]
    fn broken_headers_are_refused() {
        let open = |bytes: Vec<u8>| WavReader::open(Box::new(io::Cursor::new(bytes))).err().unwrap();
        assert!(matches!(open(wav(&header(0x55, 1, 0), &[])), WavError::OtherCodec(0x55)));
        assert!(matches!(open(wav(&header(TAG_PCM, 5, 0), &[])), WavError::Malformed(_)));
        assert!(matches!(open(b"RIFF\0\0\0\0WAVEfmt ".to_vec()), WavError::Truncated));
        assert!(matches!(open(b"RIFF\0\0\0\0WAVEdata\0\0\0\0".to_vec()), WavError::Malformed(_)));
    }
}
