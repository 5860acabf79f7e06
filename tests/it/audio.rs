//! Audio from files and byte streams: every format that is promised, and every way in which a file can be bad.

use std::{
    f32::consts::TAU,
    io::{Cursor, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use godctl::audio::{
    AudioError, AudioSource, AudioStats, MAX_CHUNK_SAMPLES, decode::Decoder, pipe::byte_pipe,
    sniff::Container,
};
use godctl::shutdown::Shutdown;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn format_fixture(name: &str) -> PathBuf {
    root("tests/fixtures/audio/formats").join(name)
}

pub(crate) struct Decoded {
    pub(crate) samples: Vec<f32>,
    pub(crate) error: Option<AudioError>,
    pub(crate) stats: AudioStats,
}

pub(crate) fn drain(mut source: impl AudioSource) -> Decoded {
    let mut samples = Vec::new();
    let mut error = None;
    loop {
        match source.next_chunk() {
            Ok(Some(chunk)) => {
                assert!(!chunk.is_empty() && chunk.len() <= MAX_CHUNK_SAMPLES);
                assert!(chunk.iter().all(|s| s.is_finite() && s.abs() <= 1.0));
                samples.extend(chunk);
            }
            Ok(None) => {
                assert!(matches!(source.next_chunk(), Ok(None)), "the end stays the end");
                return Decoded { samples, error, stats: source.stats() };
            }
            Err(problem) => assert!(error.replace(problem).is_none(), "an error comes once"),
        }
    }
}

pub(crate) fn decode(path: &Path) -> Decoded {
    drain(Decoder::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

/// Gives one byte, then seven, then one ...: as unhelpful as a socket.
struct Dribble<R>(R, usize);

impl<R: Read> Read for Dribble<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 = 8 - self.1;
        let n = buffer.len().min(self.1);
        self.0.read(&mut buffer[..n])
    }
}

pub(crate) fn decode_stream(bytes: Vec<u8>) -> Result<Decoded, AudioError> {
    Decoder::from_reader("stream", Dribble(Cursor::new(bytes), 1)).map(drain)
}

/// The lag of `got` behind `want` in samples (positive: late), and the correlation there.
pub(crate) fn align(got: &[f32], want: &[f32]) -> (i64, f32) {
    (-100..=1_200)
        .map(|lag| {
            let (mut dot, mut a, mut b) = (0.0_f64, 0.0_f64, 0.0_f64);
            for (i, w) in want.iter().enumerate().step_by(5) {
                if let Some(g) = usize::try_from(i as i64 + lag).ok().and_then(|at| got.get(at)) {
                    dot += f64::from(*g) * f64::from(*w);
                    a += f64::from(*g) * f64::from(*g);
                    b += f64::from(*w) * f64::from(*w);
                }
            }
            (lag, (dot / (a * b).sqrt().max(1e-12)) as f32)
        })
        .max_by(|x, y| x.1.total_cmp(&y.1))
        .unwrap()
}

/// A WAV file around `data`.
fn wav(tag: u16, channels: u16, rate_hz: u32, bits: u16, data: &[u8]) -> Vec<u8> {
    let frame = channels * bits / 8;
    let mut bytes = b"RIFF".to_vec();
    bytes.extend((36 + data.len() as u32).to_le_bytes());
    bytes.extend(b"WAVEfmt ");
    bytes.extend(16_u32.to_le_bytes());
    bytes.extend(tag.to_le_bytes());
    bytes.extend(channels.to_le_bytes());
    bytes.extend(rate_hz.to_le_bytes());
    bytes.extend((rate_hz * u32::from(frame)).to_le_bytes());
    bytes.extend(frame.to_le_bytes());
    bytes.extend(bits.to_le_bytes());
    bytes.extend(b"data");
    bytes.extend((data.len() as u32).to_le_bytes());
    bytes.extend(data);
    bytes
}

fn scratch(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    (dir, path)
}

#[test]
fn every_format_gives_the_recording_at_the_right_time() {
    let want = decode(&root("assets/demo/demo1.wav")).samples;
    for (name, container, least, lag) in [
        ("demo1.flac", Container::Flac, 0.9999, 0),
        ("demo1.ogg", Container::Ogg, 0.85, 1),
        ("demo1-vorbis.ogg", Container::Ogg, 0.95, 1),
        ("demo1.webm", Container::Matroska, 0.85, 1),
        ("demo1.mp3", Container::Mp3, 0.95, 1),
        ("demo1.m4a", Container::Mp4, 0.95, 1),
        // ADTS cannot say how long the encoder's delay is: 1024 samples are left in.
        ("demo1.aac", Container::AdtsAac, 0.95, 1_025),
    ] {
        let path = format_fixture(name);
        let from_file = decode(&path);
        assert!(from_file.error.is_none(), "{name}: {:?}", from_file.error);
        let (late, correlation) = align(&from_file.samples, &want);
        println!("{name:20} {} samples, lag {late}, correlation {correlation:.4}", from_file.samples.len());
        assert!(correlation > least, "{name}: {correlation}");
        assert!(late.abs() <= lag, "{name} is {late} samples late");
        assert!(
            from_file.samples.len().abs_diff(want.len()) < 2_600,
            "{name}: {} samples",
            from_file.samples.len()
        );
        assert_eq!(Decoder::open(&path).unwrap().container(), container);

        let streamed = decode_stream(std::fs::read(&path).unwrap()).unwrap();
        assert!(streamed.error.is_none(), "{name} streamed: {:?}", streamed.error);
        assert_eq!(align(&streamed.samples, &want).0, late, "{name}: streaming moves nothing");
    }
}
