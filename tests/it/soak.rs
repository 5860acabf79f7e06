//! Hours of sound in which nobody speaks, and the same speech cut up in many ways, through the real gate and model.

use std::f32::consts::TAU;

use godctl::{
    asr::{
        DecodeOptions, Transcriber as _, Window, Word,
        stream::{StreamConfig, StreamEvent, gate::ActivityGate, join, session::Session},
        weights::{BUILTIN, ModelFiles, ModelSource},
        whisper::{LoadOptions, WhisperTranscriber},
    },
    audio::vad::VadConfig,
};

use crate::{support::root, wav};

const SECOND: usize = 16_000;

/// The built-in model behind one stream, driven by hand.
struct Pipeline {
    model: WhisperTranscriber,
    session: Session<ActivityGate>,
    committed: Vec<Word>,
    /// Windows that the gate let through to the model.
    decoded: usize,
}

impl Pipeline {
    fn new() -> Self {
        let source = ModelSource { name: "command-en".to_owned(), files: ModelFiles::Embedded(BUILTIN) };
        let model = WhisperTranscriber::load(&source, LoadOptions::default()).unwrap();
        let config = StreamConfig::for_window(model.info().window_s);
        let session = Session::new(ActivityGate::new(VadConfig::default()), config);
        Self { model, session, committed: Vec::new(), decoded: 0 }
    }

    fn push(&mut self, mut samples: &[f32]) {
        while !samples.is_empty() {
            let taken = self.session.push(samples);
            samples = &samples[taken..];
            self.settle();
        }
    }

    fn finish(mut self) -> (Vec<Word>, usize) {
        self.session.finish();
        self.settle();
        assert!(self.session.is_finished());
        (self.committed, self.decoded)
    }

    fn settle(&mut self) {
        while let Some(job) = self.session.next_job() {
            let window = Window { samples: job.samples, options: DecodeOptions::default().into() };
            let hypothesis = self.model.transcribe(&[window]).remove(0);
            self.decoded += 1;
            self.session.absorb(hypothesis.map_err(|error| error.to_string()));
        }
        while let Some(event) = self.session.pop_event() {
            match event {
                StreamEvent::Hypothesis { committed, .. } => self.committed.extend(committed),
                StreamEvent::Failed { message, .. } => panic!("{message}"),
                _ => {}
            }
        }
    }
}

/// Resident memory of this process.
#[cfg(target_os = "linux")]
pub(crate) fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn resident_kb() -> u64 {
    0
}

/// Set for the process that a test starts for itself.
const ALONE: &str = "GODCTL_TEST_ALONE";

/// Runs a test's body in a process of its own, because memory can only be measured where nothing else runs.
pub(crate) fn alone(test: &str, body: impl FnOnce()) {
    #[allow(clippy::disallowed_methods, reason = "how the test tells itself from its child")]
    if std::env::var_os(ALONE).is_some() {
        return body();
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{printed}{}", String::from_utf8_lossy(&child.stderr));
    assert!(printed.contains("1 passed"), "{test} is not the name of a test: {printed}");
}

/// Thirty minutes of a sound, ten seconds at a time: no word may be committed and memory may not grow.
fn nobody_speaks(name: &str, mut sound: impl FnMut(usize) -> f32) {
    let mut pipeline = Pipeline::new();
    let mut settled = 0;
    for part in 0..180 {
        let samples: Vec<f32> = (part * 10 * SECOND..(part + 1) * 10 * SECOND).map(&mut sound).collect();
        pipeline.push(&samples);
        assert_eq!(join(&pipeline.committed), "", "{name}: after {} s", (part + 1) * 10);
        if part == 30 {
            settled = resident_kb();
        }
    }
    let grown = resident_kb().saturating_sub(settled);
    assert!(grown < 4_096, "{name}: memory grew by {grown} kB between minute 5 and minute 30");
    let (committed, decoded) = pipeline.finish();
    assert!(committed.is_empty(), "{name}: {committed:?}");
    // The gate spares the model nearly everything: a minute of speech would be 120 windows.
    assert!(decoded < 300, "{name}: {decoded} windows were decoded in 30 minutes");
}

/// Reproducible noise in [-1, 1].
pub(crate) struct Noise(u64);

impl Noise {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }
}

#[test]
fn half_an_hour_of_silence_says_nothing() {
    alone("soak::half_an_hour_of_silence_says_nothing", || nobody_speaks("silence", |_| 0.0));
}

#[test]
fn half_an_hour_of_white_noise_says_nothing() {
    alone("soak::half_an_hour_of_white_noise_says_nothing", || {
        let mut noise = Noise(0x5EED);
        // From a whisper (-50 dB) to a waterfall (-10 dB), a new level each minute.
        nobody_speaks("white noise", |i| {
            let level = 10f32.powf(-50.0 / 20.0 + (i / (60 * SECOND) % 5) as f32 * 0.5);
            noise.next() * level
        });
    });
}

#[test]
fn half_an_hour_of_tones_like_music_says_nothing() {
    const SCALE: [f32; 8] = [261.6, 293.7, 329.6, 349.2, 392.0, 440.0, 493.9, 523.3];
    // Chords of two notes with four partials each that ring and fade, three a second, now loud and now soft.
    let music = |i: usize| {
        let note = i / (SECOND / 3);
        let t = (i % (SECOND / 3)) as f32 / SECOND as f32;
        let envelope = (-6.0 * t).exp() * (t * 200.0).min(1.0);
        let voice = |f: f32| (1..=4).map(|k| (TAU * f * k as f32 * t).sin() / k as f32).sum::<f32>();
        let (low, high) = (SCALE[note * 5 % 8], SCALE[(note * 3 + 2) % 8]);
        let loudness = [0.2, 0.1, 0.05][note / 90 % 3];
        (voice(low) + voice(high)) * envelope * loudness
    };
    alone("soak::half_an_hour_of_tones_like_music_says_nothing", || nobody_speaks("tones", music));
}

#[test]
fn however_a_recording_is_cut_up_its_words_are_the_same() {
    let (long, rate) = wav::read(&root().join("tests/fixtures/audio/command-en/long.wav"));
    assert_eq!(rate as usize, SECOND);
    // Three utterances with their pauses; the law itself is tested on 200 random cuts with a fake model.
    let speech = &long[..11 * SECOND];
    let words = |sizes: &[usize]| {
        let mut pipeline = Pipeline::new();
        let mut rest = speech;
        for size in sizes.iter().cycle() {
            let (chunk, after) = rest.split_at((*size).min(rest.len()));
            pipeline.push(chunk);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        pipeline.finish().0
    };
    let whole = words(&[speech.len()]);
    assert!(join(&whole).contains("list all active agents in the session"), "{}", join(&whole));
    assert!(whole.windows(2).all(|pair| pair[0].end <= pair[1].start), "times never go back: {whole:?}");
    let mut random = Noise(7);
    for round in 0..4 {
        // 10 ms to 5 s.
        let sizes: Vec<usize> =
            (0..9).map(|_| 160 + (random.next().abs().powi(2) * 79_840.0) as usize).collect();
        assert_eq!(words(&sizes), whole, "round {round}: {sizes:?}");
    }
}
