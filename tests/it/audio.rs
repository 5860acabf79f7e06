//! Audio from files and byte streams: every format that is promised, and every way in which a file can be bad.

#![allow(clippy::unwrap_used, clippy::panic, reason = "test helpers fail the test by panicking")]

use std::{
    f32::consts::TAU,
    io::{Cursor, Read},
    path::{Path, PathBuf},
    time::Duration,
};

use godctl::audio::{
    AudioError, AudioSource, AudioStats, MAX_CHUNK_SAMPLES,
    decode::Decoder,
    pipe::byte_pipe,
    sniff::Container,
    vad::{VadConfig, VadEvent, VadOutput, VoiceActivity},
};
use godctl::shutdown::Shutdown;

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn format_fixture(name: &str) -> PathBuf {
    root("tests/fixtures/audio/formats").join(name)
}

struct Decoded {
    samples: Vec<f32>,
    error: Option<AudioError>,
    stats: AudioStats,
}

fn drain(mut source: impl AudioSource) -> Decoded {
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

fn decode(path: &Path) -> Decoded {
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

fn decode_stream(bytes: Vec<u8>) -> Result<Decoded, AudioError> {
    Decoder::from_reader("stream", Dribble(Cursor::new(bytes), 1)).map(drain)
}

/// The lag of `got` behind `want` in samples (positive: late), and the correlation there.
fn align(got: &[f32], want: &[f32]) -> (i64, f32) {
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

#[test]
fn any_sample_format_rate_and_channel_count_becomes_the_same_audio() {
    let seconds = 0.5;
    let tone = |rate: u32| {
        (0..(f64::from(rate) * seconds) as usize)
            .map(move |i| (TAU * 500.0 * i as f32 / rate as f32).sin() * 0.5)
    };
    let want: Vec<f32> = tone(16_000).collect();
    type Encode = fn(f32) -> Vec<u8>;
    let formats: [(u16, u16, f32, Encode); 6] = [
        (1, 8, 0.015, |s| vec![(s * 127.0 + 128.0) as u8]),
        (1, 16, 1e-3, |s| ((s * 32_767.0) as i16).to_le_bytes().to_vec()),
        (1, 24, 1e-3, |s| ((s * 8_388_607.0) as i32).to_le_bytes()[..3].to_vec()),
        (1, 32, 1e-3, |s| ((f64::from(s) * 2_147_483_647.0) as i32).to_le_bytes().to_vec()),
        (3, 32, 1e-3, |s| s.to_le_bytes().to_vec()),
        (3, 64, 1e-3, |s| f64::from(s).to_le_bytes().to_vec()),
    ];
    for (tag, bits, tolerance, encode) in formats {
        for (rate, channels) in [(8_000, 1), (16_000, 2), (22_050, 1), (44_100, 2), (96_000, 6), (192_000, 1)]
        {
            let data: Vec<u8> = tone(rate)
                .flat_map(|s| std::iter::repeat_n(encode(s), usize::from(channels)).flatten())
                .collect();
            let got = decode_stream(wav(tag, channels, rate, bits, &data)).unwrap();
            assert!(got.error.is_none());
            assert_eq!(got.samples.len(), want.len(), "{bits} bits, {rate} Hz, {channels} channels");
            let worst = got.samples[600..7_400]
                .iter()
                .zip(&want[600..7_400])
                .map(|(a, b)| (a - b).abs())
                .fold(0.0, f32::max);
            assert!(worst < tolerance, "{bits} bits, {rate} Hz, {channels} channels: {worst}");
        }
    }
}

#[test]
fn the_channels_are_averaged_and_bad_samples_are_counted() {
    let frames: [[f32; 2]; 4] = [[0.5, 0.1], [f32::NAN, 0.4], [f32::INFINITY, f32::NEG_INFINITY], [3.0, 2.0]];
    let data: Vec<u8> = frames.iter().flatten().flat_map(|s| s.to_le_bytes()).collect();
    let got = decode_stream(wav(3, 2, 16_000, 32, &data)).unwrap();
    assert_eq!(got.samples, [0.3, 0.2, 0.0, 1.0]);
    assert_eq!(got.stats, AudioStats { nan_samples: 3, clipped_samples: 1, damaged_packets: 0, samples: 4 });
}

#[test]
fn a_truncated_wav_gives_what_is_there_and_says_where_it_ends() {
    let mut bytes = wav(1, 1, 16_000, 16, &vec![0x11; 64_000]);
    bytes.truncate(44 + 32_000 + 1);
    let (_dir, path) = scratch("cut.wav", &bytes);
    let mut decoder = Decoder::open(&path).unwrap();
    assert_eq!(decoder.duration_hint(), Some(Duration::from_secs(2)), "what the header says");
    assert!(decoder.next_chunk().unwrap().is_some());
    let got = decode(&path);
    assert_eq!(got.samples.len(), 16_000);
    let error = got.error.unwrap();
    assert!(error.is_partial());
    assert!(
        matches!(error, AudioError::Truncated { at_seconds, .. } if (at_seconds - 1.0).abs() < 1e-9),
        "{error}"
    );
}

#[test]
fn truncated_containers_keep_their_beginning() {
    for name in
        ["demo1.flac", "demo1.ogg", "demo1.mp3", "demo1.m4a", "demo1-vorbis.ogg", "demo1.aac", "demo1.webm"]
    {
        let mut bytes = std::fs::read(format_fixture(name)).unwrap();
        bytes.truncate(bytes.len() / 2);
        let (_dir, path) = scratch(name, &bytes);
        let got = decode(&path);
        assert!(got.samples.len() > 12_000, "{name}: {} samples, {:?}", got.samples.len(), got.error);
        // A live stream, bare frames, and pages without a final mark end where they end.
        if !matches!(name, "demo1.webm" | "demo1.aac" | "demo1.ogg" | "demo1-vorbis.ogg") {
            assert!(got.error.is_some_and(|error| error.is_partial()), "{name} says that it is cut");
        }
    }
}

#[test]
fn bad_files_say_what_is_wrong_with_them() {
    let open = |path: &Path| Decoder::open(path).map(|_| ()).unwrap_err();
    let (dir, empty) = scratch("empty.wav", b"");
    assert!(matches!(open(&empty), AudioError::Empty { .. }));
    let error = open(dir.path());
    assert!(
        matches!(&error, AudioError::Read { .. }) && error.to_string().contains("is a directory"),
        "{error}"
    );
    let error = open(&dir.path().join("absent.mp3"));
    assert!(error.to_string().ends_with("there is no such file; check the path"), "{error}");

    let (_dir, text) = scratch("notes.mp3", b"this was never a song, whatever it is called\n");
    let error = open(&text);
    assert!(matches!(&error, AudioError::UnknownFormat { found: "this is text, not audio", .. }), "{error}");
    assert!(error.to_string().contains("it reads WAV"), "{error}");
    let noise: Vec<u8> = (0..20_000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let (_dir, noise) = scratch("noise.mp3", &noise);
    assert!(matches!(open(&noise), AudioError::UnknownFormat { .. }));

    let (_dir, mp3_in_wav) = scratch("mp3.wav", &wav(0x55, 1, 16_000, 8, &[0; 100]));
    let error = open(&mp3_in_wav);
    assert!(
        matches!(&error, AudioError::UnsupportedCodec { codec, .. } if codec.contains("MPEG")),
        "{error}"
    );
    let (_dir, header) = scratch("header.wav", b"RIFF\x24\0\0\0WAVEfmt ");
    assert!(matches!(open(&header), AudioError::Truncated { .. }));
    let (_dir, header) = scratch("header.flac", b"fLaC\0\0");
    let error = open(&header);
    assert!(error.is_partial(), "{error}");
}

#[cfg(unix)]
#[test]
fn a_forbidden_file_says_so() {
    use std::os::unix::fs::PermissionsExt;
    let (_dir, path) = scratch("secret.wav", &wav(1, 1, 16_000, 16, &[0; 64]));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o000)).unwrap();
    // The superuser may read it all the same.
    if let Err(error) = Decoder::open(&path) {
        assert!(error.to_string().contains("permission denied"), "{error}");
    }
}

#[test]
fn damaged_bytes_end_in_an_error_or_in_repaired_audio_but_never_in_a_panic() {
    let mut seed = 7_u32;
    for name in
        ["demo1.flac", "demo1.ogg", "demo1.mp3", "demo1.m4a", "demo1-vorbis.ogg", "demo1.aac", "demo1.webm"]
    {
        let good = std::fs::read(format_fixture(name)).unwrap();
        for _ in 0..6 {
            let mut bytes = good.clone();
            for _ in 0..20 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let at = seed as usize % bytes.len();
                bytes[at] ^= (seed >> 24) as u8;
            }
            let (_dir, path) = scratch(name, &bytes);
            if let Ok(decoder) = Decoder::open(&path) {
                assert!(drain(decoder).samples.len() < 16_000 * 60, "{name}");
            }
        }
    }
}

/// An endless WAV stream, counted: what a two-hour file is to the decoder.
struct LongWav {
    header: Cursor<Vec<u8>>,
    left: u64,
}

impl Read for LongWav {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.header.read(buffer)?;
        if n > 0 {
            return Ok(n);
        }
        let n = (buffer.len() as u64).min(self.left) as usize;
        buffer[..n].fill(0x22);
        self.left -= n as u64;
        Ok(n)
    }
}

#[test]
fn a_two_hour_file_is_decoded_in_small_pieces() {
    const SECONDS: u64 = 2 * 3_600;
    let mut header = wav(1, 1, 16_000, 16, &[]);
    let data_len = (SECONDS * 32_000) as u32;
    header[40..44].copy_from_slice(&data_len.to_le_bytes());
    header[4..8].copy_from_slice(&(data_len + 36).to_le_bytes());
    let source = LongWav { header: Cursor::new(header), left: u64::from(data_len) };
    let mut decoder = Decoder::from_reader("two hours", source).unwrap();
    assert_eq!(decoder.duration_hint(), Some(Duration::from_secs(SECONDS)));
    let mut samples = 0;
    while let Some(chunk) = decoder.next_chunk().unwrap() {
        assert!(chunk.len() <= MAX_CHUNK_SAMPLES);
        samples += chunk.len() as u64;
    }
    assert_eq!(samples, SECONDS * 16_000);
}

#[tokio::test]
async fn a_socket_feeds_a_decoder_through_the_pipe() {
    let shutdown = Shutdown::new();
    for (cut_off, name) in [(false, "demo1.webm"), (true, "demo1.webm"), (false, "demo1.ogg")] {
        let (mut writer, reader) = byte_pipe(4_096);
        let (tx, rx) = tokio::sync::oneshot::channel();
        shutdown
            .thread("decoder", move || {
                let decoded = Decoder::from_reader("session", reader).map(drain).unwrap();
                assert!(tx.send(decoded).is_ok());
            })
            .unwrap();
        let bytes = std::fs::read(format_fixture(name)).unwrap();
        for frame in bytes[..if cut_off { 8_000 } else { bytes.len() }].chunks(500) {
            writer.write_all(frame).await.unwrap();
        }
        if cut_off {
            drop(writer);
        } else {
            writer.finish();
        }
        let decoded = rx.await.unwrap();
        if cut_off {
            assert!(matches!(decoded.error, Some(AudioError::Aborted { .. })), "{:?}", decoded.error);
            assert!(decoded.samples.len() > 16_000);
        } else {
            assert!(decoded.error.is_none(), "{:?}", decoded.error);
            assert!(decoded.samples.len().abs_diff(53_440) < 500);
        }
    }
    shutdown.finish(Duration::from_secs(5)).await.unwrap();
}

/// The utterances that the voice detector finds, in seconds.
fn utterances(samples: &[f32]) -> Vec<(f64, f64)> {
    let (mut activity, mut out) = (VoiceActivity::new(VadConfig::default()), VadOutput::default());
    activity.push(samples, &mut out);
    activity.finish(&mut out);
    let seconds = |event: &VadEvent| match event {
        VadEvent::SpeechStart { at_sample } | VadEvent::SpeechEnd { at_sample } => {
            *at_sample as f64 / 16_000.0
        }
    };
    out.events.chunks(2).map(|pair| (seconds(&pair[0]), seconds(&pair[1]))).collect()
}

#[test]
fn every_recording_is_found_whole() {
    for n in 1..=8 {
        let found = utterances(&decode(&root(&format!("assets/demo/demo{n}.wav"))).samples);
        assert_eq!(found.len(), 1, "demo{n}: {found:?}");
    }
    for n in 1..=20 {
        let name = format!("tests/fixtures/audio/command-en/digits{n:02}.wav");
        let found = utterances(&decode(&root(&name)).samples);
        // In digits09 and digits12 there is more than 0.6 s between two of the words.
        assert!((1..=2).contains(&found.len()), "{name}: {found:?}");
    }
    for name in ["jfk.wav", "librispeech-6930-75918-0000.flac", "librispeech-7902-96591-0000.flac"] {
        let samples = decode(&root("tests/fixtures/audio").join(name)).samples;
        let found = utterances(&samples);
        // The first moment within 20 dB of the loudest is speech already.
        let levels: Vec<f32> = samples.chunks(160).map(|c| c.iter().map(|s| s * s).sum::<f32>()).collect();
        let loudest = levels.iter().copied().fold(0.0, f32::max);
        let onset = levels.iter().position(|level| *level > loudest * 0.01).unwrap() as f64 * 0.01;
        assert!(found[0].0 <= onset, "{name}: {found:?}, onset {onset}");
    }
}

#[test]
fn the_long_recording_falls_into_its_twelve_utterances() {
    let found = utterances(&decode(&root("tests/fixtures/audio/command-en/long.wav")).samples);
    let table = std::fs::read_to_string(root("tests/fixtures/audio/command-en/long.tsv")).unwrap();
    let truth: Vec<(f64, f64)> = table
        .lines()
        .skip(1)
        .map(|line| {
            let mut fields = line.split('\t').map(|field| field.parse().unwrap_or(f64::NAN));
            (fields.next().unwrap(), fields.next().unwrap())
        })
        .collect();
    assert_eq!(found.len(), truth.len(), "{found:?}");
    for ((start, end), (true_start, true_end)) in found.iter().zip(&truth) {
        assert!((true_start - 0.35..=*true_start).contains(start), "start {start} for {true_start}");
        assert!((true_end - 0.3..true_end + 0.6).contains(end), "end {end} for {true_end}");
    }
}

/// Noise with the same numbers in every run.
fn noise(seconds: f32, dbfs: f32) -> Vec<f32> {
    let mut state = 12_345_u32;
    let mut uniform = move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    let scale = 10_f32.powf(dbfs / 20.0) * 3_f32.sqrt() / 2.0;
    (0..(seconds * 16_000.0) as usize).map(|_| (0..4).map(|_| uniform()).sum::<f32>() * scale).collect()
}

fn tones(seconds: f32, hertz: &[f32]) -> Vec<f32> {
    let scale = 0.25 / hertz.len() as f32;
    (0..(seconds * 16_000.0) as usize)
        .map(|i| hertz.iter().map(|f| (TAU * f * i as f32 / 16_000.0).sin()).sum::<f32>() * scale)
        .collect()
}

/// Plucked notes, one every quarter of a second.
fn arpeggio(seconds: f32) -> Vec<f32> {
    const NOTES_HZ: [f32; 6] = [220.0, 277.2, 329.6, 440.0, 329.6, 277.2];
    (0..(seconds * 16_000.0) as usize)
        .map(|i| {
            let (note, t) = (i / 4_000, (i % 4_000) as f32 / 16_000.0);
            let hertz = NOTES_HZ[note % NOTES_HZ.len()];
            (1..=6)
                .map(|h| (TAU * hertz * h as f32 * t).sin() / h as f32 * (-t * h as f32 * 3.0).exp())
                .sum::<f32>()
                * 0.3
        })
        .collect()
}

#[test]
fn what_is_not_speech_is_not_found() {
    let mut cases = vec![
        ("digital silence".to_owned(), vec![0.0; 320_000]),
        ("a constant level".to_owned(), vec![0.5; 320_000]),
        ("the noise fixture".to_owned(), decode(&root("tests/fixtures/audio/command-en/noise.wav")).samples),
        (
            "the silence fixture".to_owned(),
            decode(&root("tests/fixtures/audio/command-en/silence.wav")).samples,
        ),
        ("mains hum".to_owned(), tones(20.0, &[50.0, 100.0, 150.0, 250.0, 350.0])),
        ("a chord".to_owned(), tones(20.0, &[261.6, 329.6, 392.0])),
        ("an arpeggio".to_owned(), arpeggio(20.0)),
    ];
    for dbfs in [-60.0, -40.0, -30.0, -20.0, -12.0, -6.0] {
        cases.push((format!("noise at {dbfs} dBFS"), noise(20.0, dbfs)));
    }
    for hertz in [120.0, 220.0, 440.0, 1_000.0, 4_000.0] {
        cases.push((format!("a tone of {hertz} Hz"), tones(20.0, &[hertz])));
    }
    for (name, samples) in cases {
        let found = utterances(&samples);
        assert!(found.is_empty(), "{name}: {found:?}");
    }
}
