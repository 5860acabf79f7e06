//! The engine with a gate and a model whose every answer is known.

use std::sync::mpsc as std_mpsc;

use super::{handle::INBOX, *};
use crate::{
    asr::{
        Hypothesis, SttError, Transcriber, Window, Word,
        stream::{Samples, StreamEvent, Tuning, VoiceGate, join, seconds, testkit::Loud},
    },
    shutdown::Shutdown,
};

/// An utterance ends after 100 ms of silence.
fn gate(_: Tuning) -> Box<dyn VoiceGate> {
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
    let config = EngineConfig { max_sessions, max_batch: 4, ..EngineConfig::default() };
    let mut hold = Some(hold);
    Engine::start(shutdown, config, gate, move || {
        Ok(Box::new(Fake { info: info(), hold: hold.take().flatten() }))
    })
    .unwrap()
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
    assert!(matches!(engine.open(options()), Err(SttError::Busy { limit: 8, lag_s: None })));
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
    let stats = engine.stats();
    assert_eq!((stats.failed, stats.restarts, stats.aborted), (1, 1, 0));
}

#[tokio::test]
async fn a_panic_of_the_model_reloads_it_and_costs_the_other_streams_of_the_batch_nothing() {
    let shutdown = Shutdown::new();
    let (release, hold) = std_mpsc::sync_channel(0);
    let engine = engine(&shutdown, 3, Some(hold));
    engine.ready().await.unwrap();
    let mut states = engine.state();
    states.mark_unchanged();
    let streams: Vec<_> = (0..3).map(|_| engine.open(options()).unwrap()).collect();
    let mut outputs = Vec::new();
    for (i, Stream { input, output, .. }) in streams.into_iter().enumerate() {
        input.push(&vec![[0.1, 1.0, 0.3][i]; 4_000]).await.unwrap();
        input.push(&[0.0; 8_000]).await.unwrap();
        input.end().await.unwrap();
        outputs.push(output);
    }
    drop(release);
    let mut said = Vec::new();
    for output in outputs {
        let events = drain(output).await;
        let failed = events.iter().any(|event| matches!(event, StreamEvent::Failed { .. }));
        said.push((texts(&events).join(" "), failed));
    }
    let expected =
        [("w10", false), ("", true), ("w30", false)].map(|(text, failed)| (text.to_owned(), failed));
    assert_eq!(said, expected);
    assert!(engine.stats().restarts >= 1);
    assert!(states.has_changed().unwrap(), "the restart was to be seen");
    assert!(matches!(&*engine.state().borrow(), EngineState::Ready(_)));
}

#[tokio::test]
async fn a_model_that_panics_again_and_again_is_given_up_and_every_stream_is_told() {
    let shutdown = Shutdown::new();
    let engine = engine(&shutdown, 1, None);
    engine.ready().await.unwrap();
    let Stream { input, output, .. } = engine.open(options()).unwrap();
    // 20 utterances that the model cannot bear.
    for _ in 0..20 {
        if input.push(&[1.0; 4_000]).await.is_err() || input.push(&[0.0; 8_000]).await.is_err() {
            break;
        }
    }
    let events = drain(output).await;
    assert!(
        matches!(events.last(), Some(StreamEvent::Failed { message, .. }) if message.contains("panicked 16 times"))
    );
    assert!(matches!(engine.open(options()), Err(SttError::Unavailable(_))));
    assert_eq!((engine.stats().active, engine.stats().aborted), (0, 1));
    assert!(shutdown.finish(std::time::Duration::from_secs(10)).await.is_err(), "the process ends");
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_again_ends_every_stream_with_an_error() {
    let shutdown = Shutdown::new();
    let mut loads = 0;
    let load = move || {
        loads += 1;
        if loads > 1 { Err(SttError::Unavailable("the disk is gone".to_owned())) } else { Ok(fake()) }
    };
    let engine = Engine::start(&shutdown, EngineConfig::default(), gate, load).unwrap();
    engine.ready().await.unwrap();
    let other = engine.open(options()).unwrap();
    let Stream { input, output, .. } = engine.open(options()).unwrap();
    input.push(&[1.0; 4_000]).await.unwrap();
    input.push(&[0.0; 8_000]).await.unwrap();
    for output in [output, other.output] {
        let events = drain(output).await;
        assert!(
            matches!(events.last(), Some(StreamEvent::Failed { message, .. }) if message.contains("the disk is gone"))
        );
    }
    assert!(matches!(engine.ready().await, Err(SttError::Unavailable(_))));
}

/// A gate whose logic breaks on loud sound.
struct Brittle(Loud);

impl VoiceGate for Brittle {
    fn frame_len(&self) -> usize {
        self.0.frame_len()
    }

    fn frame(&mut self, frame: &[f32]) -> crate::asr::stream::GateFrame {
        assert!(frame.iter().all(|sample| *sample < 0.5), "this gate cannot bear loud sound");
        self.0.frame(frame)
    }
}

#[tokio::test]
async fn a_panic_in_the_logic_of_one_stream_ends_that_stream_alone() {
    let shutdown = Shutdown::new();
    let gate = |_| Box::new(Brittle(Loud::new(0, 10))) as Box<dyn VoiceGate>;
    let engine = Engine::start(&shutdown, EngineConfig::default(), gate, || Ok(fake())).unwrap();
    engine.ready().await.unwrap();
    let (good, bad) = (engine.open(options()).unwrap(), engine.open(options()).unwrap());
    good.input.push(&[0.2; 4_000]).await.unwrap();
    bad.input.push(&[0.7; 4_000]).await.unwrap();
    assert!(matches!(drain(bad.output).await[..], [StreamEvent::Failed { .. }]), "an error, and no end");
    good.input.end().await.unwrap();
    assert_eq!(texts(&drain(good.output).await), ["w20"]);
    assert_eq!((engine.stats().aborted, engine.stats().restarts), (1, 0));
}

#[tokio::test]
async fn a_stream_for_which_nothing_happens_although_audio_waits_is_told_so() {
    let shutdown = Shutdown::new();
    let (release, hold) = std_mpsc::sync_channel(0);
    let stall = std::time::Duration::from_millis(200);
    let mut held = Some(hold);
    let load = move || Ok(Box::new(Fake { info: info(), hold: held.take() }) as Box<dyn Transcriber>);
    let config = EngineConfig { stall, ..EngineConfig::default() };
    let engine = Engine::start(&shutdown, config, gate, load).unwrap();
    engine.ready().await.unwrap();
    let Stream { input, mut output, .. } = engine.open(options()).unwrap();
    let mut idle = engine.open(options()).unwrap();
    input.push(&[0.1; 4_000]).await.unwrap();
    input.push(&[0.0; 8_000]).await.unwrap();
    let failed = loop {
        match output.next().await {
            Some(StreamEvent::Failed { message, .. }) => break message,
            Some(_) => {}
            None => panic!("the stream ended without a word"),
        }
    };
    assert!(failed.contains("has not answered for 0.2 s"), "{failed}");
    assert_eq!(output.next().await, None);
    assert_eq!((engine.stats().stalled, engine.stats().aborted), (1, 1));
    let quiet = tokio::time::timeout(4 * stall, idle.output.next()).await;
    assert!(quiet.is_err(), "a stream without audio may be silent for ever");
    let mut state = engine.state();
    assert!(matches!(&*state.borrow(), EngineState::Failed(reason) if reason.contains("does not answer")));
    drop(release);
    state.wait_for(|state| matches!(state, EngineState::Ready(_))).await.unwrap();
}

/// A clock that moves only when it is told to, in steps of the model's work.
#[derive(Clone, Default)]
struct Hands(std::sync::Arc<parking_lot::Mutex<f64>>);

impl Hands {
    fn now(&self) -> f64 {
        *self.0.lock()
    }

    fn forward(&self, seconds: f64) {
        *self.0.lock() += seconds;
    }
}

/// A model for which every window takes so many seconds; tells which streams it was asked for.
struct Slow {
    inner: Fake,
    hands: Hands,
    window_s: f64,
    asked: std_mpsc::SyncSender<String>,
}

impl Transcriber for Slow {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        self.hands.forward(self.window_s * windows.len() as f64);
        let answers = self.inner.transcribe(windows);
        for answer in answers.iter().flatten() {
            self.asked.send(answer.text.clone()).ok();
        }
        answers
    }
}

fn slow_engine(
    shutdown: &Shutdown,
    window_s: f64,
    max_batch: usize,
) -> (Engine, Hands, std_mpsc::Receiver<String>) {
    let hands = Hands::default();
    let (asked, heard) = std_mpsc::sync_channel(10_000);
    let on_thread = hands.clone();
    let load = move || {
        let inner = Fake { info: info(), hold: None };
        let (hands, asked) = (on_thread.clone(), asked.clone());
        Ok(Box::new(Slow { inner, hands, window_s, asked }) as Box<dyn Transcriber>)
    };
    let config = EngineConfig { max_sessions: 8, max_batch, ..EngineConfig::default() };
    let clock = hands.clone();
    let engine =
        Engine::start_with_clock(shutdown, config, gate, load, Box::new(move || clock.now())).unwrap();
    (engine, hands, heard)
}

/// Speaks for so many seconds at the pace of the clock, half a second at a time, and waits until each was dealt with.
async fn speak(stream: &mut Stream, hands: &Hands, level: f32, seconds: usize) -> usize {
    let mut looks = 0;
    for half in 0..2 * seconds {
        hands.forward(0.5);
        stream.input.push(&[level; 8_000]).await.unwrap();
        let name = format!("{half}");
        stream.input.marker(name.clone()).await.unwrap();
        loop {
            match stream.output.next().await {
                Some(StreamEvent::Marker(found)) if found == name => break,
                Some(StreamEvent::Hypothesis { .. }) => looks += 1,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }
    looks
}

#[tokio::test]
async fn a_machine_that_cannot_keep_up_looks_less_often_and_refuses_others_until_there_is_room() {
    let shutdown = Shutdown::new();
    let (engine, hands, _asked) = slow_engine(&shutdown, 1.2, 4);
    engine.ready().await.unwrap();
    let mut stream = engine.open(options()).unwrap();
    let gauge = stream.output.gauge();
    assert_eq!((gauge.read().hop_factor, gauge.read().hop_s), (1, 0.5));
    let looks = Box::pin(speak(&mut stream, &hands, 0.1, 20)).await;
    let load = gauge.read();
    assert!(looks < 20, "{looks} looks at 20 s of speech, 40 without stretching");
    assert!(load.hop_factor > 1 && load.lag_s > 0.5 && load.hop_s > 0.5, "{load:?}");
    let stats = engine.stats();
    assert_eq!((stats.hop_factor, stats.lag_s > 0.5), (load.hop_factor, true), "{stats:?}");
    assert!(stats.load > 0.3, "{stats:?}");
    let refused = engine.open(options()).unwrap_err();
    assert!(matches!(refused, SttError::Busy { lag_s: Some(_), .. }), "{refused}");
    assert_eq!(engine.stats().refused_late, 1);
    hands.forward(11.0);
    assert!(engine.open(options()).is_ok(), "late results are forgotten after a while");
}

#[tokio::test]
async fn a_fast_machine_keeps_its_hop() {
    let shutdown = Shutdown::new();
    let (engine, hands, _asked) = slow_engine(&shutdown, 0.05, 4);
    engine.ready().await.unwrap();
    let mut stream = engine.open(options()).unwrap();
    let looks = Box::pin(speak(&mut stream, &hands, 0.1, 20)).await;
    assert!(looks >= 36, "{looks}");
    assert_eq!(stream.output.gauge().read().hop_factor, 1);
}

#[tokio::test]
async fn the_oldest_deadline_goes_first_and_a_recording_sent_at_once_keeps_no_speaker_waiting() {
    let shutdown = Shutdown::new();
    let (engine, hands, asked) = slow_engine(&shutdown, 0.1, 1);
    engine.ready().await.unwrap();
    let recording = engine.open(options()).unwrap();
    let mut speaker = engine.open(options()).unwrap();
    // Twenty seconds of speech in utterances of a quarter of a second.
    let utterance = [vec![0.1; 4_000], vec![0.0; 4_000]].concat();
    recording.input.push(&utterance.repeat(40)).await.unwrap();
    recording.input.end().await.unwrap();
    let speaking = async {
        Box::pin(speak(&mut speaker, &hands, 0.2, 5)).await;
        speaker.input.end().await.unwrap();
        texts(&drain(speaker.output).await)
    };
    let (spoken, read) = tokio::join!(speaking, drain(recording.output));
    assert_eq!(spoken, ["w20"]);
    assert_eq!(texts(&read).len(), 40, "and the recording was not starved");
    drop(engine);
    let order: Vec<String> = asked.iter().collect();
    assert!(order.iter().filter(|text| *text == "w20").count() >= 8, "{order:?}");
}

#[tokio::test]
async fn the_number_of_streams_that_the_machine_holds_can_be_measured_at_start() {
    let shutdown = Shutdown::new();
    let config = EngineConfig { measure: true, max_sessions: 64, ..EngineConfig::default() };
    let load = || Ok(Box::new(Measured(Fake { info: info(), hold: None })) as Box<dyn Transcriber>);
    let engine = Engine::start(&shutdown, config, gate, load).unwrap();
    engine.ready().await.unwrap();
    assert_eq!(engine.stats().limit, 3, "0.6 of 0.5 s at 0.1 s a window");
    let _streams: Vec<_> = (0..3).map(|_| engine.open(options()).unwrap()).collect();
    assert!(matches!(engine.open(options()), Err(SttError::Busy { limit: 3, lag_s: None })));
}

/// Says that a window takes a tenth of a second.
struct Measured(Fake);

impl Transcriber for Measured {
    fn info(&self) -> &ModelInfo {
        self.0.info()
    }

    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        self.0.transcribe(windows)
    }

    fn measure(&mut self, _windows: usize) -> Result<std::time::Duration, SttError> {
        Ok(std::time::Duration::from_millis(100))
    }
}

fn fake() -> Box<dyn Transcriber> {
    Box::new(Fake { info: info(), hold: None })
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
