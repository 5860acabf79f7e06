//! The engine with a gate and a model whose every answer is known.

use std::sync::mpsc as std_mpsc;

use super::{handle::INBOX, *};
use crate::{
    asr::{
        Hypothesis, SttError, Transcriber, Window, Word,
        stream::{Samples, StreamEvent, VoiceGate, join, seconds, testkit::Loud},
    },
    shutdown::Shutdown,
};

/// An utterance ends after 100 ms of silence.
fn gate() -> Box<dyn VoiceGate> {
    Box::new(Loud::new(0, 10))
}

/// Hears one word a window, named after the loudest sample; can be held up and can panic.
struct Fake {
    info: ModelInfo,
    /// A batch waits for one message before it answers, if this is there.
    hold: Option<std_mpsc::Receiver<()>>,
}

impl Transcriber for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        if let Some(hold) = &self.hold {
            hold.recv().ok();
        }
        windows
            .iter()
            .map(|window| {
                let loudest = window.samples.iter().fold(0.0f32, |a, b| a.max(*b));
                assert!(loudest < 0.9, "this fake cannot bear loud sound");
                let word = Word {
                    text: format!(" w{}", (loudest * 100.0).round()),
                    start: 0.0,
                    end: seconds(window.samples.len() as Samples),
                    probability: 1.0,
                };
                Ok(Hypothesis {
                    text: join(std::slice::from_ref(&word)),
                    words: vec![word],
                    ..Default::default()
                })
            })
            .collect()
    }
}

fn info() -> ModelInfo {
    ModelInfo {
        name: "fake".to_owned(),
        window_s: 10.0,
        multilingual: false,
        languages: vec!["en".to_owned()],
        prompts: false,
        parameters: 0,
        device: "none".to_owned(),
    }
}

fn engine(shutdown: &Shutdown, max_sessions: usize, hold: Option<std_mpsc::Receiver<()>>) -> Engine {
    let config = EngineConfig { max_sessions, max_batch: 4 };
    Engine::start(shutdown, config, gate, move || Ok(Box::new(Fake { info: info(), hold }))).unwrap()
}

fn options() -> StreamOptions {
    StreamOptions::default()
}

async fn drain(mut output: StreamOutput) -> Vec<StreamEvent> {
    let mut events = Vec::new();
    while let Some(event) = output.next().await {
        events.push(event);
    }
    events
}

fn texts(events: &[StreamEvent]) -> Vec<String> {
    events
        .iter()
        .filter_map(|e| if let StreamEvent::UtteranceEnded(u) = e { Some(u.text.clone()) } else { None })
        .collect()
}

#[tokio::test]
async fn many_streams_at_once_each_get_their_own_words_and_free_their_slots() {
    let shutdown = Shutdown::new();
    let engine = engine(&shutdown, 8, None);
    engine.ready().await.unwrap();
    let streams: Vec<_> = (1..=8).map(|_| engine.open(options()).unwrap()).collect();
    assert!(matches!(engine.open(options()), Err(SttError::Busy { limit: 8 })));
    let running = streams.into_iter().enumerate().map(|(i, stream)| async move {
        let Stream { input, output, .. } = stream;
        let level = (i + 1) as f32 / 100.0;
        for _ in 0..3 {
            input.push(&vec![level; 4_000]).await.unwrap();
            input.push(&vec![0.0; 8_000]).await.unwrap();
        }
        input.end().await.unwrap();
        (i, drain(output).await)
    });
    for (i, events) in futures_util::future::join_all(running).await {
        assert_eq!(texts(&events), vec![format!("w{}", i + 1); 3], "stream {i}");
        assert!(matches!(events.last(), Some(StreamEvent::Ended { .. })));
    }
    let stream = engine.open(options()).unwrap();
    assert_eq!(engine.stats().refused, 1);
    drop((stream, engine));
    shutdown.finish(std::time::Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn a_dropped_client_frees_its_slot() {
    let shutdown = Shutdown::new();
    let engine = engine(&shutdown, 1, None);
    engine.ready().await.unwrap();
    let first = engine.open(options()).unwrap();
    first.input.push(&[0.1; 4_000]).await.unwrap();
    drop(first);
    // The slot is freed on the engine's own time; a refusal tells us to try again.
    let second = loop {
        match engine.open(options()) {
            Ok(stream) => break stream,
            Err(error) => assert!(error.is_retryable()),
        }
        tokio::task::yield_now().await;
    };
    second.input.push(&[0.2; 4_000]).await.unwrap();
    second.input.end().await.unwrap();
    assert_eq!(texts(&drain(second.output).await), ["w20"]);
}

#[tokio::test]
async fn a_busy_engine_makes_the_sender_wait_and_loses_nothing() {
    let shutdown = Shutdown::new();
    let (release, hold) = std_mpsc::sync_channel(0);
    let engine = engine(&shutdown, 1, Some(hold));
    engine.ready().await.unwrap();
    let Stream { input, output, .. } = engine.open(options()).unwrap();
    let minute: Vec<f32> = (0..60).flat_map(|_| [vec![0.1; 8_000], vec![0.0; 8_000]].concat()).collect();
    let pushing = tokio::time::timeout(std::time::Duration::from_millis(300), input.push(&minute)).await;
    assert!(pushing.is_err(), "a minute does not fit while the model is held up");
    assert!(input.queued() <= INBOX);
    drop(release);
    input.end().await.unwrap();
    let said = texts(&drain(output).await).len();
    assert!(said >= 20, "what was accepted was decoded: {said}");
}

#[tokio::test]
async fn a_panic_in_the_model_is_an_error_of_that_window_only() {
    let shutdown = Shutdown::new();
    let engine = engine(&shutdown, 2, None);
    engine.ready().await.unwrap();
    let Stream { input, output, .. } = engine.open(options()).unwrap();
    input.push(&[1.0; 4_000]).await.unwrap();
    input.push(&[0.0; 8_000]).await.unwrap();
    input.push(&[0.3; 4_000]).await.unwrap();
    input.end().await.unwrap();
    let events = drain(output).await;
    assert!(events.iter().any(|e| matches!(e, StreamEvent::Failed { .. })));
    assert_eq!(texts(&events), ["", "w30"]);
    assert_eq!(engine.stats().failed, 1);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_said_to_everyone_who_asks() {
    let shutdown = Shutdown::new();
    let engine = Engine::start(&shutdown, EngineConfig::default(), gate, || {
        Err(SttError::Unavailable("no such file".to_owned()))
    })
    .unwrap();
    assert!(
        matches!(engine.ready().await, Err(SttError::Unavailable(reason)) if reason.contains("no such file"))
    );
    assert!(matches!(engine.open(options()), Err(SttError::Unavailable(_))));
}

#[tokio::test]
async fn what_the_model_cannot_do_is_refused_before_a_slot_is_taken() {
    let shutdown = Shutdown::new();
    let engine = engine(&shutdown, 1, None);
    engine.ready().await.unwrap();
    let french = DecodeOptions { language: Some("fr".to_owned()), ..DecodeOptions::default() };
    let refused = engine.open(StreamOptions { decode: french, ..StreamOptions::default() });
    assert!(matches!(refused, Err(SttError::BadRequest(message)) if message.contains("it knows: en")));
    let prompted = DecodeOptions { prompt: Some("hello".to_owned()), ..DecodeOptions::default() };
    let refused = engine.open(StreamOptions { decode: prompted, ..StreamOptions::default() });
    assert!(matches!(refused, Err(SttError::BadRequest(message)) if message.contains("neither a prompt")));
    assert_eq!(engine.stats().active, 0);
}
