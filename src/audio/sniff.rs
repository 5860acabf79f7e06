//! What a stream of bytes is, from its first bytes: a container, raw PCM, or too short to tell. Pure.
//!
//! Raw PCM has no mark of its own, so it is what is left when nothing else fits. The marks of containers are
//! long enough that speech does not hit them by chance; the two frame formats without a mark (MP3 and ADTS) are
//! believed only when a second, matching frame header stands exactly where the first one says it must.

use std::fmt;

/// A file format that wraps encoded audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Container {
    /// RIFF/WAVE or RF64.
    Wav,
    /// AIFF or AIFF-C.
    Aiff,
    /// Native FLAC.
    Flac,
    /// MPEG layer III, with or without ID3.
    Mp3,
    /// Ogg.
    Ogg,
    /// Matroska or WebM.
    Matroska,
    /// MP4, M4A, MOV.
    Mp4,
    /// Apple's Core Audio Format.
    Caf,
    /// AAC in ADTS frames.
    AdtsAac,
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wav => "WAV",
            Self::Aiff => "AIFF",
            Self::Flac => "FLAC",
            Self::Mp3 => "MP3",
            Self::Ogg => "Ogg",
            Self::Matroska => "WebM/Matroska",
            Self::Mp4 => "MP4",
            Self::Caf => "CAF",
            Self::AdtsAac => "AAC",
        })
    }
}

/// The verdict on the first bytes of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// This may still become a container: ask again with more bytes. When no more come, it is raw PCM.
    NeedMore,
    /// A container.
    Container(Container),
    /// Nothing that has a mark: raw samples, or rubbish.
    RawPcm,
}

/// The most bytes that [`sniff`] ever needs: two of the longest frames (ADTS: 8191 bytes) and a header.
pub const MAX_SNIFF_BYTES: usize = 8_191 + ADTS_HEADER_BYTES;

const ADTS_HEADER_BYTES: usize = 7;
const MP3_HEADER_BYTES: usize = 4;

/// One mark: bytes that must stand at fixed places. `None` matches any byte.
struct Mark {
    container: Container,
    pattern: &'static [Option<u8>],
}

macro_rules! mark {
    ($container:ident, $($byte:tt)+) => {
        Mark { container: Container::$container, pattern: &[$(mark!(@ $byte)),+] }
    };
    (@ _) => { None };
    (@ $byte:literal) => { Some($byte) };
}

const MARKS: &[Mark] = &[
    mark!(Wav, b'R' b'I' b'F' b'F' _ _ _ _ b'W' b'A' b'V' b'E'),
    mark!(Wav, b'R' b'F' b'6' b'4' _ _ _ _ b'W' b'A' b'V' b'E'),
    mark!(Aiff, b'F' b'O' b'R' b'M' _ _ _ _ b'A' b'I' b'F' b'F'),
    mark!(Aiff, b'F' b'O' b'R' b'M' _ _ _ _ b'A' b'I' b'F' b'C'),
    mark!(Flac, b'f' b'L' b'a' b'C'),
    mark!(Ogg, b'O' b'g' b'g' b'S' 0),
    mark!(Matroska, 0x1a 0x45 0xdf 0xa3),
    mark!(Mp4, _ _ _ _ b'f' b't' b'y' b'p'),
    mark!(Caf, b'c' b'a' b'f' b'f' 0 1),
    mark!(Mp3, b'I' b'D' b'3' 2),
    mark!(Mp3, b'I' b'D' b'3' 3),
    mark!(Mp3, b'I' b'D' b'3' 4),
];

/// Judges the first bytes of a stream. With more bytes `NeedMore` may become anything; the other verdicts stay.
#[must_use]
pub fn sniff(head: &[u8]) -> Sniffed {
    if head.is_empty() {
        return Sniffed::NeedMore;
    }
    let mut undecided = false;
    for mark in MARKS {
        let fits = head.iter().zip(mark.pattern).all(|(byte, want)| want.is_none_or(|want| want == *byte));
        if fits && head.len() >= mark.pattern.len() {
            return Sniffed::Container(mark.container);
        }
        undecided |= fits;
    }
    for verdict in [sniff_mp3(head), sniff_adts(head)] {
        match verdict {
            Sniffed::Container(_) => return verdict,
            Sniffed::NeedMore => undecided = true,
            Sniffed::RawPcm => {}
        }
    }
    if undecided { Sniffed::NeedMore } else { Sniffed::RawPcm }
}

/// What unreadable bytes look like to a person, for an error message.
#[must_use]
pub fn describe(head: &[u8]) -> &'static str {
    const KNOWN: &[(&[u8], &str)] = &[
        (b"%PDF", "this is a PDF document"),
        (b"PK\x03\x04", "this is a ZIP archive or an office document"),
        (b"\x89PNG", "this is a PNG picture"),
        (b"\xff\xd8\xff", "this is a JPEG picture"),
        (b"GIF8", "this is a GIF picture"),
        (b"\x1f\x8b", "this is gzip-compressed data; unpack it first"),
        (b"\x7fELF", "this is a program"),
        (b"SQLite format 3", "this is a SQLite database"),
        (b"#!AMR", "this is AMR speech"),
        (b"wvpk", "this is WavPack"),
        (b"MAC ", "this is Monkey's Audio"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "this is Windows Media"),
        (b"MThd", "this is MIDI: notes, not sound"),
    ];
    if let Some((_, words)) = KNOWN.iter().find(|(mark, _)| head.starts_with(mark)) {
        return words;
    }
    let text = match std::str::from_utf8(head) {
        Ok(text) => Some(text),
        // A multi-byte character may be cut at the end of what was read.
        Err(error) if error.valid_up_to() + 4 > head.len() => {
            head.get(..error.valid_up_to()).and_then(|valid| std::str::from_utf8(valid).ok())
        }
        Err(_) => None,
    };
    match text {
        Some(text) if text.trim_start().starts_with(['<']) => "this is HTML or XML text, not audio",
        Some(text) if text.chars().all(|c| !c.is_control() || c.is_whitespace()) => "this is text, not audio",
        _ if head.iter().all(|byte| *byte == 0) => "it holds only zero bytes",
        _ => "its content has no known mark (raw samples need a header, for example WAV)",
    }
}

/// The header of one MPEG layer III frame.
#[derive(PartialEq, Eq)]
struct Mp3Frame {
    /// Version and rate: the same in all frames of a stream.
    kind: (u8, u8),
    bytes: usize,
}

fn mp3_frame(header: &[u8]) -> Option<Mp3Frame> {
    const KBIT_V1: [usize; 15] = [0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320];
    const KBIT_V2: [usize; 15] = [0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160];
    const RATES_V1: [usize; 3] = [44_100, 48_000, 32_000];
    let [sync, kind, rates, ..] = *header else { return None };
    let (version, layer) = ((kind >> 3) & 3, (kind >> 1) & 3);
    if sync != 0xff || kind & 0xe0 != 0xe0 || version == 1 || layer != 1 {
        return None;
    }
    let (bitrate, rate, padding) =
        (usize::from(rates >> 4), usize::from((rates >> 2) & 3), usize::from((rates >> 1) & 1));
    // Free format (0) is not decoded by anybody who streams; 15 is invalid.
    if bitrate == 0 || bitrate == 15 || rate == 3 {
        return None;
    }
    let (kbit, divisor, samples) = match version {
        3 => (KBIT_V1[bitrate], 1, 144),
        2 => (KBIT_V2[bitrate], 2, 72),
        _ => (KBIT_V2[bitrate], 4, 72),
    };
    let rate_hz = RATES_V1[rate] / divisor;
    Some(Mp3Frame { kind: (version, rates & 0x0c), bytes: samples * kbit * 1_000 / rate_hz + padding })
}

fn sniff_mp3(head: &[u8]) -> Sniffed {
    if head.len() < MP3_HEADER_BYTES {
        let possible = head[0] == 0xff && head.get(1).is_none_or(|kind| kind & 0xe6 == 0xe2);
        return if possible { Sniffed::NeedMore } else { Sniffed::RawPcm };
    }
    let Some(first) = mp3_frame(head) else { return Sniffed::RawPcm };
    match head.get(first.bytes..first.bytes + MP3_HEADER_BYTES).map(mp3_frame) {
        None => Sniffed::NeedMore,
        Some(Some(second)) if second.kind == first.kind => Sniffed::Container(Container::Mp3),
        Some(_) => Sniffed::RawPcm,
    }
}

/// The fixed part of an ADTS header, and the frame's length.
fn adts_frame(header: &[u8]) -> Option<([u8; 3], usize)> {
    let [sync, kind, rate, channels, length, low, ..] = *header else { return None };
    let rate_index = (rate >> 2) & 15;
    if sync != 0xff || kind & 0xf6 != 0xf0 || rate_index > 12 {
        return None;
    }
    let bytes = usize::from(channels & 3) << 11 | usize::from(length) << 3 | usize::from(low >> 5);
    (bytes > ADTS_HEADER_BYTES).then_some(([kind, rate, channels & 0xf0], bytes))
}

fn sniff_adts(head: &[u8]) -> Sniffed {
    if head.len() < ADTS_HEADER_BYTES {
        let possible = head[0] == 0xff && head.get(1).is_none_or(|kind| kind & 0xf6 == 0xf0);
        return if possible { Sniffed::NeedMore } else { Sniffed::RawPcm };
    }
    let Some((first, bytes)) = adts_frame(head) else { return Sniffed::RawPcm };
    match head.get(bytes..bytes + ADTS_HEADER_BYTES).map(adts_frame) {
        None => Sniffed::NeedMore,
        Some(Some((second, _))) if second == first => Sniffed::Container(Container::AdtsAac),
        Some(_) => Sniffed::RawPcm,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds growing prefixes, as a socket does, and checks that a verdict never changes.
    fn stream(bytes: &[u8]) -> Sniffed {
        let mut verdict = Sniffed::NeedMore;
        for len in 1..=bytes.len().min(MAX_SNIFF_BYTES) {
            let next = sniff(&bytes[..len]);
            assert!(verdict == Sniffed::NeedMore || verdict == next, "{verdict:?} became {next:?} at {len}");
            verdict = next;
        }
        verdict
    }

    fn fixture(name: &str) -> Vec<u8> {
        std::fs::read(format!("{}/tests/fixtures/audio/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn every_format_is_known_from_a_stream_of_single_bytes() {
        for (name, want) in [
            ("jfk.wav", Container::Wav),
            ("jfk.mp3", Container::Mp3),
            ("librispeech-6930-75918-0000.flac", Container::Flac),
            ("formats/demo1.mp3", Container::Mp3),
            ("formats/demo1.ogg", Container::Ogg),
            ("formats/demo1.webm", Container::Matroska),
            ("formats/demo1.m4a", Container::Mp4),
            ("formats/demo1.aac", Container::AdtsAac),
        ] {
            assert_eq!(stream(&fixture(name)), Sniffed::Container(want), "{name}");
        }
    }

    #[test]
    fn an_mp3_without_tags_is_known_by_its_second_frame() {
        let tagged = fixture("jfk.mp3");
        let start =
            (0..tagged.len()).find(|at| matches!(sniff_mp3(&tagged[*at..]), Sniffed::Container(_))).unwrap();
        assert_eq!(stream(&tagged[start..]), Sniffed::Container(Container::Mp3));
        assert_eq!(sniff(&tagged[start..start + 100]), Sniffed::NeedMore);
    }

    #[test]
    fn silence_and_constant_levels_are_raw() {
        for level in (i16::MIN..=i16::MAX).step_by(61).chain(-1_100..=0) {
            let bytes: Vec<u8> = std::iter::repeat_n(level.to_le_bytes(), 4_200).flatten().collect();
            assert_eq!(sniff(&bytes), Sniffed::RawPcm, "{level}");
        }
        assert_eq!(sniff(&[]), Sniffed::NeedMore);
    }

    #[test]
    fn speech_is_raw_at_every_offset() {
        let wav = fixture("jfk.wav");
        for at in (44..wav.len() - MAX_SNIFF_BYTES).step_by(6) {
            assert_eq!(sniff(&wav[at..at + MAX_SNIFF_BYTES]), Sniffed::RawPcm, "at {at}");
        }
    }

    #[test]
    fn people_are_told_what_they_gave() {
        assert_eq!(describe(b"hello there,\nthis is a note\n"), "this is text, not audio");
        assert_eq!(describe("naïve caf\u{e9}".as_bytes().split_last().unwrap().1), "this is text, not audio");
        assert_eq!(describe(b"<!doctype html>"), "this is HTML or XML text, not audio");
        assert_eq!(describe(b"%PDF-1.7"), "this is a PDF document");
        assert_eq!(describe(&[0; 64]), "it holds only zero bytes");
        assert!(describe(&[0x12, 0x00, 0xfe, 0xff, 0x80]).contains("no known mark"));
    }

    proptest! {
        #[test]
        fn noise_is_never_a_container(samples in prop::collection::vec(any::<i16>(), 4_200), quiet in 0_u32..12) {
            let bytes: Vec<u8> = samples.iter().flat_map(|s| (s >> quiet).to_le_bytes()).collect();
            prop_assert_eq!(sniff(&bytes), Sniffed::RawPcm);
        }

        #[test]
        fn a_verdict_needs_no_more_than_the_limit(mut bytes in prop::collection::vec(any::<u8>(), MAX_SNIFF_BYTES), second in any::<u8>()) {
            bytes[0] = 0xff;
            bytes[1] = second | 0xe0;
            prop_assert_ne!(sniff(&bytes), Sniffed::NeedMore);
            stream(&bytes);
        }
    }
}
