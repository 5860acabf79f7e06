//! What a session says and hears, from its first message to its end.

use godctl::asr::{
    client::Pacer,
    protocols::native::{Line, ServerMessage, Status, Tagged},
    server::ServerOptions,
};

use super::{Server, Session, say, texts};
use crate::{
    fake::{Model, pcm, silence, spoken, text_of},
    wav::{self, Encoding},
};

fn wave(samples: &[f32]) -> Vec<u8> {
    wav::wav(samples, 16_000, 1, Encoding::S16)
}

#[tokio::test]
async fn a_session_in_the_order_that_old_clients_know() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let mut session = server.connect("?language=en&words=true&target_language=de").await;
    let config = session.config.clone().unwrap();
    assert!(config.use_audio_worklet && config.words);
    assert_eq!(
        (config.mode.as_ref(), config.model.as_str(), config.language.as_str()),
        ("full", "fake", "en")
    );
    assert_eq!(config.ignored, ["target_language"]);

    let first = session.state().await;
    assert_eq!((first.status, first.lines.len()), (Status::NoAudioDetected, 0));

    say(&mut session.sender, &[spoken(&[10, 20, 30]), silence(6.0), spoken(&[40])].concat(), 1_600).await;
    let last = session.finish().await;
    assert_eq!(last.status, Status::ActiveTranscription);
    assert_eq!(texts(&last), ["w10 w20 w30", "", "w40"]);
    assert_eq!(last.lines.iter().map(|line| line.speaker).collect::<Vec<_>>(), [1, -2, 1]);
    assert_eq!(last.buffer_transcription, "");
    let Line { start, end, detected_language, words, .. } = &last.lines[0];
    assert_eq!((start.as_str(), end.as_str()), ("0:00:00.00", "0:00:00.30"));
    assert_eq!(detected_language.as_deref(), Some("en"));
    assert_eq!(words.iter().map(|word| word.word.as_str()).collect::<Vec<_>>(), ["w10", "w20", "w30"]);
    server.active(0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn any_frames_and_any_pace_give_the_same_text() {
    let server = Server::ready(4, Model::Willing, ServerOptions::default()).await;
    let audio = [spoken(&[10, 20, 30, 40, 50, 60]), spoken(&[70, 15])].concat();
    let mut results = Vec::new();
    for size in [1, 333, 3_201, pcm(&audio).len()] {
        let mut session = server.connect("?words=true").await;
        for bytes in pcm(&audio).chunks(size.max(63)) {
            session.sender.bytes(bytes.to_vec()).await.unwrap();
        }
        results.push(session.finish().await.lines.into_owned());
    }
    // At real time.
    let mut session = server.connect("?words=true").await;
    let pacer = Pacer::start();
    let mut position = 0;
    for chunk in audio.chunks(800) {
        position += chunk.len() as u64;
        pacer.heard(position).await;
        session.sender.audio(chunk).await.unwrap();
    }
    results.push(session.finish().await.lines.into_owned());
    assert_eq!(results[0].len(), 2);
    assert!(results.iter().all(|lines| *lines == results[0]), "{results:?}");
    server.stop().await.unwrap();
}

fn file(path: &str) -> Vec<u8> {
    std::fs::read(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

#[tokio::test]
async fn containers_are_recognised_by_their_first_bytes() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let levels = [10, 20, 30];
    for size in [1, 777, 1 << 20] {
        let mut session = server.connect("").await;
        let bytes = wave(&spoken(&levels));
        let (head, rest) = bytes.split_at(64);
        for chunk in head.chunks(size).chain(rest.chunks(size.max(500))) {
            session.sender.bytes(chunk.to_vec()).await.unwrap();
        }
        assert_eq!(texts(&session.finish().await), [text_of(&levels)]);
        server.active(0).await;
    }
    // Lossless coding changes nothing; the others only have to be heard.
    let mut heard = Vec::new();
    for path in ["assets/demo/demo1.wav", "tests/fixtures/audio/formats/demo1.flac"] {
        let mut session = server.connect("").await;
        session.sender.bytes(file(path)).await.unwrap();
        heard.push(texts(&session.finish().await));
        server.active(0).await;
    }
    assert_eq!(heard[0], heard[1]);
    for format in ["mp3", "ogg", "webm", "aac"] {
        let mut session = server.connect("").await;
        for chunk in file(&format!("tests/fixtures/audio/formats/demo1.{format}")).chunks(1_000) {
            session.sender.bytes(chunk.to_vec()).await.unwrap();
        }
        let last = session.finish().await;
        assert_eq!((last.status, last.lines.is_empty()), (Status::ActiveTranscription, false), "{format}");
        server.active(0).await;
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_damaged_container_is_told_and_what_came_before_is_kept() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let mut healthy = server.connect("").await;
    let whole = wave(&spoken(&[10, 20, 30]));
    let rubbish = [b"fLaC".to_vec(), vec![0x5a; 20_000]].concat();
    for (bytes, kept) in [(whole[..44 + 9_600].to_vec(), vec!["w10 w20 w30".to_owned()]), (rubbish, vec![])] {
        let mut session = server.connect("").await;
        session.sender.bytes(bytes).await.unwrap();
        session.sender.end().await.unwrap();
        let (mut error, mut last) = (None, Vec::new());
        loop {
            match session.next().await {
                ServerMessage::State(state) => {
                    error = state.error.clone().or(error);
                    last = texts(&state);
                }
                ServerMessage::Tagged(Tagged::ReadyToStop) => break,
                other => panic!("unexpected {other:?}"),
            }
        }
        assert!(error.is_some_and(|error| error.contains("the audio of this session")));
        assert_eq!(last, kept);
        session.sender.close().await.unwrap();
        server.active(1).await;
    }
    healthy.sender.audio(&spoken(&[40])).await.unwrap();
    assert_eq!(texts(&healthy.finish().await), ["w40"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_inside_a_container_frees_its_slot_and_its_thread() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let bytes = wave(&spoken(&[10, 20, 30]));
    for _ in 0..3 {
        let mut session = server.connect("").await;
        session.sender.bytes(bytes[..5_000].to_vec()).await.unwrap();
        drop(session);
        server.active(0).await;
    }
    // Waits for the decoders' threads.
    server.stop().await.unwrap();
}

#[tokio::test]
async fn text_frames_control_a_session_and_never_end_it() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    for bad in [
        "",
        "hello",
        "{",
        "[1]",
        "{\"type\":\"sing\"}",
        "{\"type\":\"config\",\"hop\":{}}",
        "{\"type\":\"marker\"}",
        "\0",
    ] {
        session.sender.text(bad).await.unwrap();
        assert!(
            matches!(session.tagged().await, Tagged::Error { code, .. } if code == "bad_message"),
            "{bad}"
        );
    }
    session.sender.text("{\"type\":\"keepalive\"}").await.unwrap();
    // Speech without a pause after it becomes final by a flush, and is told before the marker.
    session.sender.audio(&spoken(&[10, 20])[..3_200]).await.unwrap();
    session.sender.text("{\"type\":\"flush\"}").await.unwrap();
    session.sender.text("{\"type\":\"marker\",\"name\":\"m1\"}").await.unwrap();
    let mut last = None;
    loop {
        match session.next().await {
            ServerMessage::State(state) => last = Some(*state),
            ServerMessage::Tagged(Tagged::Marker { name }) => {
                assert_eq!(name, "m1");
                break;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(texts(&last.unwrap()), ["w10 w20"]);
    session.sender.text("{\"type\":\"eos\"}").await.unwrap();
    assert_eq!(texts(&session.until_ready_to_stop().await), ["w10 w20"]);
    // After the end, audio is ignored and what comes too late is said so.
    session.sender.audio(&spoken(&[30])).await.unwrap();
    session.sender.text("{\"type\":\"flush\"}").await.unwrap();
    session.sender.close().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn an_end_without_audio_is_answered_too() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let last = server.connect("").await.finish().await;
    assert_eq!(last.status, Status::NoAudioDetected);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_vanishes_frees_its_slot() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    for _ in 0..3 {
        let mut session = server.connect("").await;
        session.sender.audio(&spoken(&[10, 20])).await.unwrap();
        // No end, no close frame: the socket is simply gone.
        drop(session);
        server.active(0).await;
    }
    let session = server.connect("").await;
    session.sender.close().await.unwrap();
    server.active(0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_full_server_says_so_in_a_way_that_browsers_see() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let first = server.connect("").await;
    let (sender, receiver) = server.try_connect("").await.unwrap();
    let (error, code, close) = Session { sender, receiver, config: None }.refusal().await;
    assert_eq!((code.as_str(), close), ("busy", 1013));
    assert!(error.contains("all 1 transcription slots"));
    first.finish().await;
    server.active(0).await;
    server.connect("").await.finish().await;
    server.stop().await.unwrap();
}
