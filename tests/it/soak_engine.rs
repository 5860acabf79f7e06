//! Eight streams at once for a long time: memory must not grow. The sound arrives as fast as it is taken.
//!
//! Minutes for each stream come from `GODCTL_SOAK_MINUTES` (8 by default, 60 for an hour each); the model of the
//! speech test hears a word for every 0.4 s of a window and needs no weights, unless `GODCTL_SOAK_MODEL=builtin`.

use std::{sync::Arc, time::Duration};

use godctl::{
    asr::{
        Hypothesis, ModelInfo, SttError, Transcriber, Window, Word,
        engine::{Engine, EngineConfig, Stream, StreamInput, StreamOptions},
        stream::{Policy, StreamEvent, Tuning, VoiceGate, gate::ActivityGate, join},
    },
    audio::vad::VadConfig,
    shutdown::Shutdown,
};
use tokio::{sync::Barrier, task::JoinSet};

use crate::{
    fake,
    soak::{Noise, alone, resident_kb},
    support::root,
    wav,
};

const SECOND: usize = 16_000;
const STREAMS: usize = 8;

#[allow(clippy::disallowed_methods, reason = "how long a test runs is the tester's to say")]
fn setting(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn minutes() -> usize {
    setting("GODCTL_SOAK_MINUTES").and_then(|minutes| minutes.parse().ok()).unwrap_or(8)
}

/// A word for every 0.4 s; never the same twice in a row.
struct Chatty(ModelInfo);

impl Transcriber for Chatty {
    fn info(&self) -> &ModelInfo {
        &self.0
    }

    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        let hear = |window: &Window| {
            let blocks = window.samples.chunks(SECOND * 2 / 5).enumerate();
            let words: Vec<Word> = blocks
                .map(|(i, block)| {
                    let start = i as f64 * 0.4;
                    let end = start + block.len() as f64 / SECOND as f64;
                    let loud = block.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                    Word { text: format!(" w{i}x{loud:.2}"), start, end, probability: 0.9 }
                })
                .collect();
            let attended = words.iter().map(|word| f64::midpoint(word.start, word.end)).collect();
            Ok(Hypothesis { text: join(&words), words, attended, ..Hypothesis::default() })
        };
        windows.iter().map(hear).collect()
    }
}

fn chatty(shutdown: &Shutdown) -> Engine {
    if setting("GODCTL_SOAK_MODEL").as_deref() == Some("builtin") {
        return crate::engine::engine(shutdown, EngineConfig::default());
    }
    let gate = |_| Box::new(ActivityGate::new(VadConfig::default())) as Box<dyn VoiceGate>;
    let load = || Ok(Box::new(Chatty(fake::info())) as Box<dyn Transcriber>);
    Engine::start(shutdown, EngineConfig::default(), gate, load).unwrap()
}

/// Sends one minute, ten seconds at a time.
async fn send_minute(input: &StreamInput, minute: usize, sound: &mut impl FnMut(usize) -> f32) {
    for part in 0..6 {
        let from = (minute * 60 + part * 10) * SECOND;
        let samples: Vec<f32> = (from..from + 10 * SECOND).map(&mut *sound).collect();
        input.push(&samples).await.unwrap();
    }
    // Everything sent so far has been dealt with before memory is looked at.
    input.marker(String::new()).await.unwrap();
}

/// How much more memory is needed in the last quarter than in the second: the least of the one less the most of the
/// other. What the allocator keeps for later goes up and down by some megabytes; what is never given back only goes up.
fn growth(resident: &[u64]) -> u64 {
    let quarter = resident.len() / 4;
    let second = resident[quarter..2 * quarter].iter().max().unwrap();
    let last = resident[resident.len() - quarter..].iter().min().unwrap();
    last.saturating_sub(*second)
}

/// Has eight streams hear `sound(stream, sample)` and gives the words of all of them together, and how much memory grew
/// in kB.
fn hear<S>(engine: impl Fn(&Shutdown) -> Engine, sound: impl Fn(usize) -> S) -> (usize, u64)
where
    S: FnMut(usize) -> f32 + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        let engine = engine(&shutdown);
        engine.ready().await.unwrap();
        let barrier = Arc::new(Barrier::new(STREAMS + 1));
        let mut streams = JoinSet::new();
        for i in 0..STREAMS {
            let policy = if i % 2 == 0 { Policy::LocalAgreement } else { Policy::AlignAtt };
            let tuning = Tuning { policy: Some(policy), ..Tuning::default() };
            let Stream { input, mut output, .. } =
                engine.open(StreamOptions { tuning, ..StreamOptions::default() }).unwrap();
            let (mut sound, barrier) = (sound(i), Arc::clone(&barrier));
            streams.spawn(async move {
                let mut words = 0;
                for minute in 0..minutes() {
                    let listen = async {
                        loop {
                            match output.next().await.unwrap() {
                                StreamEvent::Marker(_) => break,
                                StreamEvent::Hypothesis { committed, .. } => words += committed.len(),
                                StreamEvent::Failed { message, .. } => panic!("{message}"),
                                _ => {}
                            }
                        }
                    };
                    tokio::join!(send_minute(&input, minute, &mut sound), listen);
                    barrier.wait().await;
                }
                words
            });
        }
        let mut resident = Vec::new();
        for _ in 0..minutes() {
            barrier.wait().await;
            resident.push(resident_kb());
        }
        let grown = growth(&resident);
        let words: usize = streams.join_all().await.into_iter().sum();
        let stats = engine.stats();
        println!("{} min x {STREAMS}: {words} words, {resident:?} kB, grown {grown}, {stats:?}", minutes());
        drop(engine);
        shutdown.finish(Duration::from_secs(20)).await.unwrap();
        (words, grown)
    })
}

/// Not growing. A tenth of a second's audio kept by mistake each minute would be 1.5 MB in the 30 minutes between the
/// quarters of an hour.
const SLACK_KB: u64 = 1_024;

#[test]
fn growth_is_told_from_noise() {
    let noisy: Vec<u64> = (0..60).map(|i| 100_000 + i * 7_919 % 6_000).collect();
    assert_eq!(growth(&noisy), 0);
    let leak: Vec<u64> = noisy.iter().zip(0..).map(|(kb, i)| kb + 600 * i).collect();
    assert!(growth(&leak) > SLACK_KB, "{}", growth(&leak));
}

#[test]
fn eight_streams_of_continuous_speech_do_not_grow() {
    alone("soak_engine::eight_streams_of_continuous_speech_do_not_grow", || {
        let (speech, _) = wav::read(&root().join("tests/fixtures/audio/command-en/long.wav"));
        let speech = Arc::new(speech);
        let (words, grown) = hear(chatty, |stream| {
            let speech = Arc::clone(&speech);
            move |i| speech[(i + stream * 3 * SECOND) % speech.len()]
        });
        assert!(words > minutes() * STREAMS * 30, "{words}");
        assert!(grown < SLACK_KB, "{grown} kB");
    });
}

#[test]
fn eight_streams_of_noise_do_not_grow() {
    alone("soak_engine::eight_streams_of_noise_do_not_grow", || {
        let builtin = |shutdown: &Shutdown| crate::engine::engine(shutdown, EngineConfig::default());
        let (words, grown) = hear(builtin, |stream| {
            let mut noise = Noise::new(0x5EED + stream as u64);
            move |i| noise.next() * 10f32.powf(-50.0 / 20.0 + (i / (60 * SECOND) % 5) as f32 * 0.5)
        });
        assert_eq!(words, 0);
        assert!(grown < SLACK_KB, "{grown} kB");
    });
}

#[test]
fn eight_streams_of_silence_do_not_grow() {
    alone("soak_engine::eight_streams_of_silence_do_not_grow", || {
        let builtin = |shutdown: &Shutdown| crate::engine::engine(shutdown, EngineConfig::default());
        let (words, grown) = hear(builtin, |_| |_| 0.0);
        assert_eq!(words, 0);
        assert!(grown < SLACK_KB, "{grown} kB");
    });
}
