//! The engine with the built-in model and the real gate: many speakers at once, each heard as if alone.

use std::time::Duration;

use godctl::{
    asr::{
        DecodeOptions, Transcriber,
        engine::{Engine, EngineConfig, Stream, StreamOptions},
        stream::{Policy, StreamEvent, Tuning, Utterance, VoiceGate, gate::ActivityGate, samples_of_ms},
        weights::{BUILTIN, ModelFiles, ModelSource},
        whisper::{LoadOptions, WhisperTranscriber},
    },
    audio::vad::VadConfig,
    shutdown::Shutdown,
};

use crate::{support::root, wav};

pub(crate) fn engine(shutdown: &Shutdown, config: EngineConfig) -> Engine {
    let load = || {
        let source = ModelSource { name: "command-en".to_owned(), files: ModelFiles::Embedded(BUILTIN) };
        Ok(Box::new(WhisperTranscriber::load(&source, LoadOptions::default())?) as Box<dyn Transcriber>)
    };
    let gate = |_| Box::new(ActivityGate::new(VadConfig::default())) as Box<dyn VoiceGate>;
    Engine::start(shutdown, config, gate, load).unwrap()
}

/// Eight recordings, each said once and, after a pause, cut off in the middle of a word.
fn recordings() -> Vec<Vec<f32>> {
    (1..=8)
        .map(|i| {
            let (speech, _) = wav::read(&root().join(format!("assets/demo/demo{i}.wav")));
            let pause = vec![0.0; 12_000 + 1_600 * i];
            [&pause, &speech[..], &pause, &speech[..16_000 + 2_000 * i]].concat()
        })
        .collect()
}

/// What was said in a stream: its transcript, and the words promised on the way.
async fn transcript(
    engine: &Engine,
    audio: &[f32],
    sizes: &[usize],
    options: StreamOptions,
) -> (Vec<Utterance>, String) {
    let Stream { input, mut output, .. } = engine.open(options).unwrap();
    let sending = async {
        let mut rest = audio;
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            input.push(piece).await.unwrap();
            rest = after;
            if rest.is_empty() {
                break;
            }
            tokio::task::yield_now().await;
        }
        input.end().await.unwrap();
    };
    let listening = async {
        let (mut utterances, mut promised) = (Vec::new(), String::new());
        while let Some(event) = output.next().await {
            match event {
                StreamEvent::UtteranceEnded(utterance) => {
                    utterances.push(Utterance { revised: false, ..utterance });
                }
                StreamEvent::Hypothesis { committed, .. } => {
                    promised.extend(committed.iter().map(|word| word.text.as_str()));
                }
                StreamEvent::Failed { message, .. } => panic!("{message}"),
                _ => {}
            }
        }
        (utterances, promised)
    };
    tokio::join!(sending, listening).1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_speakers_at_once_are_each_heard_as_if_alone() {
    let shutdown = Shutdown::new();
    let engine = engine(&shutdown, EngineConfig::default());
    engine.ready().await.unwrap();
    let recordings = recordings();
    let tuned = |tuning: Tuning| StreamOptions { decode: DecodeOptions::default(), tuning };
    let mut alone = Vec::new();
    for audio in &recordings {
        // Each utterance decoded once, nothing else going on.
        let options = tuned(Tuning { hop: Some(0), ..Tuning::default() });
        alone.push(transcript(&engine, audio, &[audio.len()], options).await);
    }
    let heard: usize = alone.iter().flat_map(|(utterances, _)| utterances).map(|u| u.words.len()).sum();
    assert!(heard > 60, "{heard} words");
    let together = recordings.iter().enumerate().map(|(i, audio)| {
        let tuning = Tuning {
            policy: Some(if i % 2 == 0 { Policy::LocalAgreement } else { Policy::AlignAtt }),
            hop: Some(samples_of_ms([300, 500, 800, 1_300][i % 4])),
            ..Tuning::default()
        };
        let sizes = [160 + 977 * i, 8_000, 33 + i, 24_000];
        let engine = &engine;
        async move { transcript(engine, audio, &sizes, tuned(tuning)).await }
    });
    let together = futures_util::future::join_all(together).await;
    for (i, (many, one)) in together.iter().zip(&alone).enumerate() {
        assert_eq!(many.0, one.0, "recording {}", i + 1);
        assert!(!many.1.trim().is_empty(), "recording {}: nothing was said on the way", i + 1);
    }
    let stats = engine.stats();
    assert!(stats.windows > stats.batches, "windows of several streams went together: {stats:?}");
    drop(engine);
    shutdown.finish(Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn the_machine_is_measured_with_the_model_that_it_will_run() {
    let shutdown = Shutdown::new();
    let config = EngineConfig { measure: true, max_sessions: 256, ..EngineConfig::default() };
    let engine = engine(&shutdown, config);
    engine.ready().await.unwrap();
    let limit = engine.stats().limit;
    assert!((1..=256).contains(&limit), "{limit}");
}
