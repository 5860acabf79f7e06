//! The order of messages, what ends a session, and what does not.

use std::time::Duration;

use godctl::asr::{
    protocols::deepgram::{ErrorKind, ServerMessage},
    server::ServerOptions,
};
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{Heard, PATIENCE, PCM, Server};
use crate::fake::{Model, pcm, silence, spoken, text_of};

#[tokio::test]
async fn a_session_from_its_first_message_to_its_close() {
    let server = Server::willing(1).await;
    let query =
        "interim_results=true&vad_events=true&utterance_end_ms=1000&model=nova-3&diarize=true&language=en-US";
    let mut session = server.listen(&format!("{PCM}&{query}")).await;
    let request_id = session.request_id.clone();
    assert_eq!(session.ignored, "diarize,model");
    let Ok(ServerMessage::Metadata(first)) = session.next().await else { panic!("no metadata") };
    assert_eq!((first.request_id.as_str(), first.duration, first.sha256.as_str()), (&*request_id, 0.0, ""));
    assert_eq!((first.channels, first.models.as_slice()), (1, ["fake".to_owned()].as_slice()));
    assert_eq!((first.options.language.as_str(), first.ignored.len()), ("en", 2));
    assert!(first.created.ends_with('Z') && first.created.len() == "2024-05-01T12:00:00Z".len());

    let bytes = pcm(&[spoken(&[10, 20, 30]), silence(3.0), spoken(&[40])].concat());
    session.audio(&bytes, 3_200).await;
    let heard = session.finish().await;
    assert_eq!((heard.close, heard.words(0)), (1000, vec!["w10", "w20", "w30", "w40"]));

    // What a client waits for, in order.
    let told: Vec<String> = heard
        .messages
        .iter()
        .filter_map(|message| match message {
            ServerMessage::SpeechStarted { channel, timestamp } => {
                assert_eq!(*channel, [0, 1]);
                Some(format!("started {timestamp}"))
            }
            ServerMessage::UtteranceEnd { last_word_end, .. } => Some(format!("end {last_word_end}")),
            ServerMessage::Results(results) if results.speech_final => {
                Some(format!("final {}", results.channel.alternatives[0].transcript))
            }
            ServerMessage::Metadata(_) => Some("summary".to_owned()),
            _ => None,
        })
        .collect();
    assert_eq!(told, ["started 0", "final w10 w20 w30", "end 0.3", "started 3.8", "final w40", "summary"]);
    for results in heard.results() {
        assert_eq!((results.channel_index, results.metadata.request_id.as_str()), ([0, 1], &*request_id));
        assert_eq!(results.metadata.model_info.name, "fake");
    }
    let first = heard.results().find(|results| results.is_final).unwrap();
    let alternative = &first.channel.alternatives[0];
    assert_eq!((alternative.transcript.as_str(), alternative.confidence), ("w10 w20 w30", 0.9));
    assert_eq!((alternative.words[1].start, alternative.words[1].end), (0.1, 0.2));
    let summary = heard.summary();
    assert_eq!((summary.duration, &*summary.request_id), (4.4, &*request_id));
    assert_eq!(summary.sha256, format!("{:x}", Sha256::digest(&bytes)));
    server.active(0).await;
    server.done().await;
}

/// Without what depends on the moment: how far behind it was, and whether something that changed was still worth saying.
fn lasting(heard: &Heard) -> Vec<String> {
    heard
        .messages
        .iter()
        .filter_map(|message| match message.clone() {
            ServerMessage::Metadata(_) => None,
            ServerMessage::Results(mut results) => {
                results.metadata.request_id.clear();
                results.metadata.lag = 0.0;
                results.is_final.then(|| format!("{results:?}"))
            }
            other => Some(format!("{other:?}")),
        })
        .collect()
}

#[tokio::test]
async fn any_frames_give_the_same_results() {
    let server = Server::willing(4).await;
    let audio = [spoken(&[10, 20, 30, 40, 50, 60]), silence(2.0), spoken(&[70, 15])].concat();
    let mut all = Vec::new();
    for size in [63, 333, 3_201, usize::MAX] {
        let query = format!("{PCM}&vad_events=true&interim_results=true&utterance_end_ms=1000");
        let mut session = server.listen(&query).await;
        session.audio(&pcm(&audio), size).await;
        all.push(lasting(&session.finish().await));
    }
    assert!(all[0].len() > 4);
    assert!(all.iter().all(|said| *said == all[0]), "{all:#?}");
    server.done().await;
}

#[tokio::test]
async fn a_finalize_is_always_answered_and_the_session_goes_on() {
    let server = Server::willing(1).await;
    let mut session = server.listen(PCM).await;
    let finalize = r#"{"type":"Finalize"}"#;
    session.text(finalize).await;
    let answer = session.final_result().await;
    assert!(answer.from_finalize && answer.channel.alternatives[0].words.is_empty());

    // In the middle of speech.
    let speech = spoken(&[10, 20, 30]);
    session.audio(&pcm(&speech[..4_800]), 1_000).await;
    session.text(finalize).await;
    let answer = session.final_result().await;
    assert!(answer.from_finalize && !answer.speech_final);
    assert_eq!(answer.channel.alternatives[0].transcript, text_of(&[10, 20, 30]));
    session.text(finalize).await;
    assert!(session.final_result().await.from_finalize);

    session.text(r#"{"type":"KeepAlive"}"#).await;
    session.audio(&pcm(&[silence(0.5), spoken(&[40])].concat()), 1_000).await;
    let heard = session.finish().await;
    assert_eq!((heard.close, heard.words(0)), (1000, vec!["w40"]));
    server.done().await;
}

#[tokio::test]
async fn text_frames_never_end_a_session() {
    let server = Server::willing(1).await;
    let mut session = server.listen(PCM).await;
    for bad in ["hello", "[]", "{}", r#"{"type":7}"#, r#"{"type":"Finalize","channel":1}"#] {
        session.text(bad).await;
        let error = session.error().await;
        assert_eq!((error.variant, error.message.as_str()), (ErrorKind::SchemaError, bad));
        assert_eq!(error.request_id, session.request_id);
    }
    session.text(r#"{"type":"Dance"}"#).await;
    session.text(r#"{"type":"Configure","keyterms":["godctl"]}"#).await;
    let Ok(ServerMessage::ConfigureFailure { code, .. }) = session.next().await else { panic!("no failure") };
    assert_eq!(code, "CONFIGURE_KEYTERMS_NOT_SUPPORTED");
    session.audio(&pcm(&spoken(&[10])), 1_000).await;
    assert_eq!(session.finish().await.text(0), "w10");
    server.done().await;
}

#[tokio::test]
async fn parameters_that_cannot_be_honoured_are_told_and_close_with_4400() {
    let server = Server::willing(2).await;
    for (query, wanted) in [
        ("encoding=linear16", "sample_rate: raw audio needs one"),
        ("encoding=amr-nb&sample_rate=8000", "encoding: 'amr-nb' is not supported; write linear16,"),
        ("encoding=linear16&sample_rate=4000", "sample_rate: '4000' is not supported"),
        ("encoding=linear16&sample_rate=16000&channels=9", "channels: '9' is not supported"),
        ("utterance_end_ms=1000", "utterance_end_ms: goes with interim_results=true only"),
        ("utterance_end_ms=500&interim_results=true", "utterance_end_ms: '500' is not supported"),
        ("endpointing=soon", "endpointing: 'soon' is not supported"),
        ("language=ja", "does not know the language 'ja'; it knows: en, fr"),
        ("callback=https%3A%2F%2Fexample.org", "callback: this server calls nobody back"),
        ("multichannel=true&encoding=flac", "channels: multichannel=true of a container needs their number"),
    ] {
        let session = server.listen(query).await;
        let request_id = session.request_id.clone();
        let heard = session.rest().await;
        assert_eq!(heard.close, 4400, "{query}");
        assert_eq!(heard.messages.len(), 1, "{query}: {heard:?}");
        let (kind, description) = heard.last_error();
        assert_eq!(kind, ErrorKind::BadParameters);
        assert!(description.contains(wanted), "{query}: {description}");
        assert!(matches!(&heard.messages[0], ServerMessage::Error(error) if error.request_id == request_id));
    }
    server.active(0).await;
    server.done().await;
}

#[tokio::test]
async fn an_empty_frame_is_refused_after_the_words_before_it() {
    let server = Server::willing(1).await;
    let mut session = server.listen(PCM).await;
    session.audio(&pcm(&spoken(&[10, 20])[..3_200]), 1_000).await;
    session.audio_frame(Vec::new()).await;
    let heard = session.rest().await;
    assert_eq!((heard.text(0), heard.close), ("w10 w20".to_owned(), 4400));
    let (kind, description) = heard.last_error();
    assert!(kind == ErrorKind::SchemaError && description.contains("CloseStream"), "{description}");
    server.done().await;
}

#[tokio::test]
async fn who_sends_nothing_gets_the_last_words_and_a_1011() {
    let options = ServerOptions { idle_timeout: Duration::from_millis(400), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.listen(PCM).await;
    session.audio(&pcm(&spoken(&[10, 20])[..3_200]), 1_000).await;
    let heard = session.rest().await;
    assert_eq!((heard.text(0), heard.close), ("w10 w20".to_owned(), 1011));
    let (kind, description) = heard.last_error();
    assert!(kind == ErrorKind::Timeout && description.contains("NET-0001"), "{description}");
    assert!(heard.reason.contains("NET-0001"));
    server.active(0).await;
    server.done().await;
}

#[tokio::test]
async fn a_keep_alive_keeps_a_silent_session() {
    let options = ServerOptions { idle_timeout: Duration::from_secs(1), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.listen(PCM).await;
    let mut ticks = tokio::time::interval(Duration::from_millis(200));
    for _ in 0..8 {
        ticks.tick().await;
        session.text(r#"{"type":"KeepAlive"}"#).await;
    }
    session.audio(&pcm(&spoken(&[10])), 1_000).await;
    let heard = session.finish().await;
    assert_eq!((heard.text(0), heard.close), ("w10".to_owned(), 1000));
    server.done().await;
}

#[tokio::test]
async fn a_full_server_says_so_and_gives_back_what_it_took() {
    let server = Server::willing(1).await;
    let two = format!("{PCM}&channels=2&multichannel=true");
    let heard = server.listen(&two).await.rest().await;
    assert_eq!((heard.close, heard.last_error().0), (1013, ErrorKind::TooManyRequests));
    server.active(0).await;
    let mut first = server.listen(PCM).await;
    let heard = server.listen(PCM).await.rest().await;
    assert_eq!((heard.close, heard.last_error().0), (1013, ErrorKind::TooManyRequests));
    first.audio(&pcm(&spoken(&[10])), 1_000).await;
    assert_eq!(first.finish().await.text(0), "w10");
    server.done().await;
}

#[tokio::test]
async fn a_stop_in_the_middle_of_speech_says_the_last_words() {
    let server = Server::willing(1).await;
    let mut session = server.listen(&format!("{PCM}&interim_results=true")).await;
    session.audio(&pcm(&spoken(&[10, 20, 30, 40, 50, 60])[..9_600]), 1_000).await;
    // Something came back, so the audio has arrived.
    while !matches!(session.next().await, Ok(ServerMessage::Results(_))) {}
    server.shutdown.cancel();
    let heard = session.rest().await;
    assert_eq!((heard.close, heard.summary().duration), (1001, 0.6));
    assert_eq!(heard.text(0), text_of(&[10, 20, 30, 40, 50, 60]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_window_that_fails_is_told_and_the_session_goes_on() {
    let server = Server::willing(1).await;
    let mut session = server.listen(PCM).await;
    session.audio(&pcm(&[spoken(&[10]), spoken(&[99]), spoken(&[20])].concat()), 1_000).await;
    let heard = session.finish().await;
    assert_eq!((heard.text(0), heard.close), ("w10 w20".to_owned(), 1000));
    let errors: Vec<_> = heard
        .messages
        .iter()
        .filter_map(|message| match message {
            ServerMessage::Error(error) => Some(error),
            _ => None,
        })
        .collect();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0].variant, ErrorKind::InferenceError);
    assert!(errors[0].description.contains("may be missing"));
    server.done().await;
}

#[tokio::test]
async fn who_speaks_no_websocket_is_told_to() {
    let server = Server::willing(1).await;
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(b"GET /v1/listen HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(PATIENCE, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert!(answer.starts_with("HTTP/1.1 426") && answer.contains("/v1/listen is a websocket"), "{answer}");
    server.done().await;
}
