//! Whole recordings through the engine, with a model that needs no weights.

use std::{fs, path::PathBuf, task::Poll};

use godctl::{
    asr::{
        DecodeOptions, SttError, Task,
        engine::{Engine, Stream, StreamOptions},
        offline::{Heard, Job, JobOptions, OfflineError, Passage, Source},
        stream::{StreamEvent, Tuning},
    },
    audio::AudioError,
    shutdown::Shutdown,
};

use crate::{
    fake::{self, Model, silence, spoken, text_of},
    support::Home,
    wav::{self, Encoding},
};

/// A file with these channels, all of one length.
fn recording(home: &Home, channels: &[&[f32]]) -> Source {
    let length = channels.iter().map(|channel| channel.len()).max().unwrap();
    let sample = |channel: &[f32], i: usize| channel.get(i).copied().unwrap_or(0.0);
    let frames: Vec<f32> =
        (0..length).flat_map(|i| channels.iter().map(move |channel| sample(channel, i))).collect();
    source(home, &wav::interleaved(&frames, 16_000, channels.len() as u16, Encoding::F32))
}

fn source(home: &Home, bytes: &[u8]) -> Source {
    let path: PathBuf = home.path().join("recording.wav");
    fs::write(&path, bytes).unwrap();
    Source { path, name: "the recording".to_owned() }
}

async fn start(
    engine: &Engine,
    shutdown: &Shutdown,
    file: Source,
    channels: &[usize],
) -> Result<Job, OfflineError> {
    let options = JobOptions { channels: channels.to_vec(), ..JobOptions::default() };
    Job::start(engine, shutdown, engine.place()?, file, options).await
}

async fn all(mut job: Job) -> (Vec<Passage>, Heard) {
    let mut passages = Vec::new();
    while let Some(passage) = job.next().await.unwrap() {
        passages.push(passage);
    }
    (passages, job.heard())
}

fn texts(passages: &[Passage]) -> Vec<&str> {
    passages.iter().map(|passage| passage.hypothesis.text.as_str()).collect()
}

async fn engine(shutdown: &Shutdown, model: Model) -> Engine {
    let engine = fake::engine(shutdown, 2, model);
    engine.ready().await.unwrap();
    engine
}

#[tokio::test]
async fn a_recording_becomes_passages_on_its_own_clock() {
    let (home, shutdown) = (Home::new(), Shutdown::new());
    let engine = engine(&shutdown, Model::Willing).await;
    let audio = [silence(1.0), spoken(&[10, 20]), silence(30.0), spoken(&[30])].concat();
    let job = start(&engine, &shutdown, recording(&home, &[&audio]), &[]).await.unwrap();
    assert!((job.duration_hint().unwrap() - 32.3).abs() < 0.01);
    let (passages, heard) = all(job).await;
    assert_eq!(texts(&passages), ["w10 w20", "w30"]);
    assert!((heard.duration - 32.3).abs() < 0.01 && heard.damage.is_none());
    let second = &passages[1];
    assert!((second.start - 31.7).abs() < 0.02 && second.end <= heard.duration, "{second:?}");
    let word = &second.hypothesis.words[0];
    assert!((word.start - 31.7).abs() < 0.02 && word.end > word.start && word.end <= second.end);
    assert_eq!(second.hypothesis.segments.len(), 1);
    assert!((second.hypothesis.segments[0].start - word.start).abs() < 1e-9);
}

#[tokio::test]
async fn speech_that_never_pauses_is_never_truncated() {
    let (home, shutdown) = (Home::new(), Shutdown::new());
    let engine = engine(&shutdown, Model::Willing).await;
    // 100 s without a pause, in a model that hears 10 s at once.
    let levels: Vec<u8> = (0..1_000_u32).map(|i| (i % 90 + 1) as u8).collect();
    let (passages, heard) =
        all(start(&engine, &shutdown, recording(&home, &[&spoken(&levels)]), &[]).await.unwrap()).await;
    assert!(passages.len() >= 10 && passages.iter().all(|passage| passage.end - passage.start <= 10.0));
    let said: Vec<&str> = passages.iter().flat_map(|p| p.hypothesis.text.split(' ')).collect();
    // A cut may fall into a block, whose word is then heard on both sides.
    let mut words = said.clone();
    words.dedup();
    assert_eq!(words.join(" "), text_of(&levels));
    assert!((heard.duration - 100.5).abs() < 0.01);
}

#[tokio::test]
async fn the_channels_of_a_call_are_heard_apart_and_told_in_order() {
    let (home, shutdown) = (Home::new(), Shutdown::new());
    let engine = engine(&shutdown, Model::Willing).await;
    let left = [spoken(&[10]), silence(2.0), spoken(&[30])].concat();
    let right = [silence(1.0), spoken(&[20]), silence(2.0), spoken(&[40])].concat();
    let file = recording(&home, &[&left, &right]);
    let (passages, _) = all(start(&engine, &shutdown, file, &[0, 1]).await.unwrap()).await;
    assert_eq!(texts(&passages), ["w10", "w20", "w30", "w40"]);
    let channels: Vec<_> = passages.iter().map(|passage| passage.channel).collect();
    assert_eq!(channels, [Some(0), Some(1), Some(0), Some(1)]);
}

#[tokio::test]
async fn live_speech_comes_before_recordings_and_both_are_served() {
    let (home, shutdown) = (Home::new(), Shutdown::new());
    let (release, model) = fake::held();
    let engine = engine(&shutdown, model).await;
    let audio: Vec<f32> = (0..40).flat_map(|_| spoken(&[10, 20])).collect();
    let mut job = start(&engine, &shutdown, recording(&home, &[&audio]), &[]).await.unwrap();
    // The first windows are at the model, which holds them up.
    {
        let first = job.next();
        tokio::pin!(first);
        while engine.stats().batches == 0 && !release_one(&release) {
            assert!(futures_util::poll!(first.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(texts(&[first.await.unwrap().unwrap()]), ["w10 w20"]);
    }
    let Stream { input, mut output, .. } = engine.open(StreamOptions::default()).unwrap();
    input.push(&spoken(&[50])).await.unwrap();
    input.end().await.unwrap();
    let told = async {
        while let Some(event) = output.next().await {
            if let StreamEvent::UtteranceEnded(utterance) = event {
                return utterance.text;
            }
        }
        String::new()
    };
    let rest = async {
        let mut passages = 1;
        while job.next().await.unwrap().is_some() {
            passages += 1;
        }
        passages
    };
    tokio::pin!(told, rest);
    let mut batches = 0;
    let text = loop {
        if let Poll::Ready(text) = futures_util::poll!(told.as_mut()) {
            break text;
        }
        assert!(futures_util::poll!(rest.as_mut()).is_pending(), "the recording was done before the stream");
        batches += u32::from(release_one(&release));
        tokio::task::yield_now().await;
    };
    assert_eq!(text, "w50");
    assert!(batches <= 5, "the stream waited for {batches} batches");
    drop(release);
    assert_eq!(rest.await, 40);
}

/// Lets the model answer one batch if it waits for that.
fn release_one(release: &std::sync::mpsc::SyncSender<()>) -> bool {
    release.try_send(()).is_ok()
}

#[tokio::test]
async fn a_job_that_is_dropped_takes_its_windows_with_it_and_gives_its_place_back() {
    let (home, shutdown) = (Home::new(), Shutdown::new());
    let engine = engine(&shutdown, Model::Willing).await;
    let places: Vec<_> = std::iter::from_fn(|| engine.place().ok()).collect();
    assert!(matches!(engine.place(), Err(SttError::Crowded { limit }) if limit == places.len()));
    drop(places);
    let audio: Vec<f32> = (0..80).flat_map(|_| spoken(&[10, 20])).collect();
    let file = recording(&home, &[&audio]);
    for _ in 0..5 {
        let mut job = start(&engine, &shutdown, file.clone(), &[]).await.unwrap();
        assert!(job.next().await.unwrap().is_some());
    }
    assert!(engine.stats().windows < 5 * 40, "{:?}", engine.stats());
    drop(engine);
    // Waits for the threads of the decoders.
    shutdown.finish(std::time::Duration::from_secs(10)).await.unwrap();
}

#[tokio::test]
async fn bad_files_and_impossible_wishes_are_told_apart() {
    let (home, shutdown) = (Home::new(), Shutdown::new());
    let engine = engine(&shutdown, Model::Willing).await;
    let refused = start(&engine, &shutdown, source(&home, b"this is a letter, not a recording"), &[]).await;
    assert!(
        matches!(refused, Err(OfflineError::Audio(AudioError::UnknownFormat { name, .. })) if name == "the recording")
    );
    let refused = start(&engine, &shutdown, source(&home, b""), &[]).await;
    assert!(matches!(refused, Err(OfflineError::Audio(AudioError::Empty { .. }))));

    let whole = wav::wav(&spoken(&[10, 20, 30]), 16_000, 1, Encoding::S16);
    let cut = source(&home, &whole[..whole.len() - 20_000]);
    let (passages, heard) = all(start(&engine, &shutdown, cut, &[]).await.unwrap()).await;
    assert_eq!(passages.len(), 1);
    assert!(matches!(heard.damage, Some(AudioError::Truncated { .. })));

    let file = source(&home, &whole);
    let decode =
        DecodeOptions { language: Some("xx".to_owned()), task: Task::Translate, ..DecodeOptions::default() };
    let options = JobOptions { decode, tuning: Tuning::default(), channels: Vec::new() };
    let refused = Job::start(&engine, &shutdown, engine.place().unwrap(), file, options).await;
    assert!(matches!(refused, Err(OfflineError::Engine(SttError::BadRequest(_)))));

    // A window that fails is told where it is, and who wants the others gets them.
    let loud = recording(&home, &[&[spoken(&[10]), spoken(&[99]), spoken(&[30])].concat()]);
    let mut job = start(&engine, &shutdown, loud, &[]).await.unwrap();
    assert_eq!(job.next().await.unwrap().unwrap().hypothesis.text, "w10");
    let failed = job.next().await.unwrap_err();
    assert!(matches!(failed, OfflineError::Window { error: SttError::Inference(_), .. }), "{failed:?}");
    assert!(failed.to_string().starts_with("0.6 s to 0."), "{failed}");
    assert_eq!(job.next().await.unwrap().unwrap().hypothesis.text, "w30");
    assert!(job.next().await.unwrap().is_none());
}
