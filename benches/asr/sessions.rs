//! How many streams this machine holds in real time: they speak at the pace of speech, more and more of them, until the
//! engine refuses one.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use godctl::{
    asr::{
        DecodeOptions, Transcriber,
        engine::{Engine, EngineConfig, Stream, StreamOptions},
        stream::{StreamEvent, VoiceGate, gate::ActivityGate},
        weights::ModelSource,
        whisper::{LoadOptions, WhisperTranscriber},
    },
    audio::vad::VadConfig,
    shutdown::Shutdown,
};
use parking_lot::Mutex;

use crate::sound::{self, quantile};

/// Samples in a piece of audio as a client sends them: 100 ms.
const PIECE: usize = 1_600;

/// What is measured while a number of streams speak.
#[derive(Default)]
struct Figures {
    /// Seconds from the end of a word to the moment that it was committed.
    commits: Vec<f64>,
    /// Seconds from when a result was due to when it came.
    lags: Vec<f64>,
    /// Seconds from the start of the first word of an utterance to the moment that it was shown.
    first: Vec<f64>,
}

/// Measures with this model for so many seconds at each number of streams.
pub(crate) fn run(name: &str, source: &ModelSource, decode: &DecodeOptions, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        let gate = |_| Box::new(ActivityGate::new(VadConfig::default())) as Box<dyn VoiceGate>;
        let source = source.clone();
        let load = move || {
            Ok(Box::new(WhisperTranscriber::load(&source, LoadOptions::default())?) as Box<dyn Transcriber>)
        };
        let config = EngineConfig { max_sessions: 256, measure: true, ..EngineConfig::default() };
        let engine = Engine::start(&shutdown, config, gate, load.clone()).unwrap();
        engine.ready().await.unwrap();
        let measured = engine.stats().limit;
        drop(engine);
        let config = EngineConfig { max_sessions: 256, ..EngineConfig::default() };
        let engine = Engine::start(&shutdown, config, gate, load).unwrap();
        engine.ready().await.unwrap();
        println!("\nstreams in real time: {name}; --sessions auto says {measured}");
        println!(
            "{:>8}{:>12}{:>12}{:>12}{:>12}{:>8}{:>8}{:>10}",
            "streams", "commit p50", "commit p95", "lag p50", "lag p95", "hop x", "load", "RTF"
        );
        let figures = Arc::new(Mutex::new(Figures::default()));
        let speech = Arc::new(sound::long());
        let mut speakers = tokio::task::JoinSet::new();
        for target in [1, 2, 4, 8, 16, 32, 64, 128, 256] {
            let mut refused = None;
            while speakers.len() < target && refused.is_none() {
                let options = StreamOptions { decode: decode.clone(), ..StreamOptions::default() };
                match engine.open(options) {
                    Ok(stream) => {
                        let from = speakers.len() * 37_000 % speech.len();
                        speakers.spawn(speak(stream, Arc::clone(&speech), from, Arc::clone(&figures)));
                    }
                    Err(error) => refused = Some(error),
                }
                tokio::time::sleep(Duration::from_millis(400)).await;
            }
            *figures.lock() = Figures::default();
            let before = engine.stats();
            tokio::time::sleep(Duration::from_secs(seconds)).await;
            let after = engine.stats();
            let mut figures = std::mem::take(&mut *figures.lock());
            for values in [&mut figures.commits, &mut figures.lags, &mut figures.first] {
                values.sort_by(f64::total_cmp);
            }
            println!(
                "{:>8}{:>12}{:>12}{:>12}{:>12}{:>8}{:>8.2}{:>10.3}",
                speakers.len(),
                seconds_at(&figures.commits, 0.5),
                seconds_at(&figures.commits, 0.95),
                seconds_at(&figures.lags, 0.5),
                seconds_at(&figures.lags, 0.95),
                after.hop_factor,
                after.load,
                (after.inference_s - before.inference_s) / (after.audio_s - before.audio_s).max(1e-9),
            );
            if target == 1 {
                println!("         first word shown after {} (p50)", seconds_at(&figures.first, 0.5));
            }
            if let Some(error) = refused {
                println!("         another is refused: {error}");
                break;
            }
        }
        speakers.shutdown().await;
    });
}

/// Speaks for ever.
async fn speak(stream: Stream, speech: Arc<Vec<f32>>, from: usize, figures: Arc<Mutex<Figures>>) {
    let Stream { input, mut output, .. } = stream;
    let started = Instant::now();
    let sending = async {
        let mut at = from;
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            let piece: Vec<f32> = (at..at + PIECE).map(|i| speech[i % speech.len()]).collect();
            at += PIECE;
            // Sent when its last sample has been spoken.
            tick.tick().await;
            if input.push(&piece).await.is_err() {
                return;
            }
        }
    };
    let listening = async {
        let mut shown = false;
        let gauge = output.gauge();
        while let Some(event) = output.next().await {
            let now = started.elapsed().as_secs_f64();
            let mut figures = figures.lock();
            match event {
                StreamEvent::Hypothesis { committed, tail, .. } => {
                    figures.lags.push(gauge.read().lag_s);
                    figures.commits.extend(committed.iter().map(|word| now - word.end));
                    if let (false, Some(word)) = (shown, committed.first().or(tail.first())) {
                        figures.first.push(now - word.start);
                        shown = true;
                    }
                }
                StreamEvent::SpeechStarted { .. } => shown = false,
                _ => {}
            }
        }
    };
    tokio::join!(sending, listening);
}

/// A quantile of sorted seconds; a dash where there are none, because random weights agree on no word.
fn seconds_at(sorted: &[f64], q: f64) -> String {
    if sorted.is_empty() { "-".to_owned() } else { format!("{:.2} s", quantile(sorted, q)) }
}
