//! Streams beside each other, those that are slow or silent, and what becomes of them when the server stops.

use std::time::Duration;

use godctl::asr::{
    client::ClientError,
    protocols::native::{ServerMessage, Status, Tagged},
    server::{ServerError, ServerOptions},
    tap::Tap,
};
use tokio::net::TcpStream;

use super::{Server, say, texts};
use crate::fake::{self, Model, pcm, silence, spoken, text_of};

#[tokio::test]
async fn a_tap_gets_the_utterances_of_all_sessions_and_holds_none_up() {
    let (tap, mut utterances) = Tap::new(3);
    let options = ServerOptions { tap: Some(tap.clone()), ..ServerOptions::default() };
    let server = Server::ready(2, Model::Willing, options).await;
    let mut ids = Vec::new();
    for levels in [&[10, 20], &[30, 40]] {
        let mut session = server.connect("").await;
        ids.push(session.config.as_ref().unwrap().session.clone());
        for level in levels {
            say(&mut session.sender, &spoken(&[*level]), 1_600).await;
        }
        session.finish().await;
    }
    let mut heard = Vec::new();
    while let Some(spoken) = utterances.try_recv() {
        heard.push((spoken.session, spoken.utterance.index, spoken.utterance.text));
    }
    let expected = |session: usize, index, text: &str| (ids[session].clone(), index, text.to_owned());
    assert_eq!(heard, [expected(0, 0, "w10"), expected(0, 1, "w20"), expected(1, 0, "w30")]);
    assert_eq!(tap.lost(), 1, "the fourth found it full");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_failed_window_is_told_and_the_session_goes_on() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    say(&mut session.sender, &[spoken(&[99]), spoken(&[10])].concat(), 1_600).await;
    session.sender.end().await.unwrap();
    let (mut errors, mut last) = (Vec::new(), None);
    loop {
        match session.next().await {
            ServerMessage::State(state) => {
                assert_eq!(state.status == Status::Error, state.error.is_some());
                errors.extend(state.error.clone());
                last = Some(state);
            }
            ServerMessage::Tagged(Tagged::ReadyToStop) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert_eq!(texts(&last.unwrap()), ["w10"]);
    assert!(errors.len() == 1 && errors[0].contains("level 99 is too loud"), "{errors:?}");
    session.sender.close().await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn sessions_side_by_side_hear_only_themselves() {
    let server = Server::ready(8, Model::Willing, ServerOptions::default()).await;
    let sessions = (1..=8_u8).map(|i| {
        let server = &server;
        async move {
            let levels = [i, i + 20, i + 40];
            let mut session = server.connect("").await;
            for _ in 0..3 {
                say(&mut session.sender, &spoken(&levels), 700).await;
            }
            assert_eq!(texts(&session.finish().await), vec![text_of(&levels); 3]);
        }
    });
    futures_util::future::join_all(sessions).await;
    assert_eq!(server.engine.stats().failed, 0);
    server.active(0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_nothing_hurts_nobody_and_skips_states() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let mut slow = server.connect("?words=true").await;
    let mut other = server.connect("").await;
    // Minutes of speech, whose states are far more than any socket holds, and not one of them read meanwhile.
    let minutes: Vec<f32> = (0..400).flat_map(|i| spoken(&[10 + (i % 80) as u8, 95, 11, 93])).collect();
    let seconds = minutes.len() / 16_000;
    say(&mut slow.sender, &minutes, 16_000).await;
    say(&mut other.sender, &spoken(&[10, 20]), 1_600).await;
    assert_eq!(texts(&other.finish().await), ["w10 w20"]);

    slow.sender.end().await.unwrap();
    let mut states = 0;
    let last = loop {
        match slow.next().await {
            ServerMessage::State(state) => {
                states += 1;
                if state.lines.len() == 400 {
                    break state;
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    };
    assert_eq!(last.lines[399].text, text_of(&[10 + (399 % 80) as u8, 95, 11, 93]));
    assert!(states < seconds, "{states} states for {seconds} s of audio");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_sender_that_is_faster_than_the_model_waits_and_loses_nothing() {
    let (release, model) = fake::held();
    let server = Server::ready(1, model, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    // More than the engine's inbox holds: the sender's own socket has to fill up or not, but nothing may be dropped.
    let audio: Vec<f32> = (0..60).flat_map(|i| [spoken(&[i + 1]), silence(0.6)].concat()).collect();
    let bytes = pcm(&audio);
    for chunk in bytes.chunks(32_000) {
        session.sender.bytes(chunk.to_vec()).await.unwrap();
    }
    drop(release);
    let expected: Vec<String> = (0..60).map(|i| format!("w{}", i + 1)).collect();
    assert_eq!(texts(&session.finish().await), expected);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn old_lines_are_dropped_and_counted() {
    let options = ServerOptions { retention_lines: 2, ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.connect("").await;
    assert_eq!(session.config.as_ref().unwrap().retention_lines, 2);
    say(&mut session.sender, &[spoken(&[10]), spoken(&[20]), spoken(&[30])].concat(), 1_600).await;
    let last = session.finish().await;
    assert_eq!((last.lines_pruned, texts(&last)), (1, vec!["w20".to_owned(), "w30".to_owned()]));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_silent_client_is_closed_and_a_keepalive_counts() {
    let options = ServerOptions { idle_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.connect("").await;
    session.sender.text("{\"type\":\"keepalive\"}").await.unwrap();
    let (error, code, close) = session.refusal().await;
    assert_eq!((code.as_str(), close), ("idle", 4408));
    assert!(error.contains("keepalive"));
    server.active(0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_answers_no_ping_is_dropped() {
    let options = ServerOptions { ping_interval: Duration::from_millis(40), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    // A session that is never read from answers no ping: the library does that while reading.
    let session = server.connect("").await;
    server.active(1).await;
    server.active(0).await;
    drop(session);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn after_everything_was_said_the_server_closes_a_client_that_does_not() {
    let options = ServerOptions { linger: Duration::from_millis(50), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    let mut session = server.connect("").await;
    session.sender.end().await.unwrap();
    session.until_ready_to_stop().await;
    assert!(matches!(session.try_next().await, Ok(None)));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_stop_lets_sessions_say_what_they_heard() {
    let (release, model) = fake::held();
    let server = Server::ready(2, model, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    session.sender.audio(&spoken(&[10, 20, 30])[..4_800]).await.unwrap();
    session.sender.text("{\"type\":\"marker\",\"name\":\"sent\"}").await.unwrap();
    // The marker's answer tells that the audio has arrived; nothing is decoded yet, so no window holds it up.
    assert!(matches!(session.tagged().await, Tagged::Marker { name } if name == "sent"));
    server.shutdown.cancel();
    // While it drains, the port still answers: not ready, and no new sessions.
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 503") && body.contains("\"code\":\"stopping\""), "{head} {body}");
    assert!(matches!(
        server.try_connect("").await,
        Err(ClientError::Refused { status: 503, code, .. }) if code == "stopping"
    ));
    drop(release);
    let last = session.until_ready_to_stop().await;
    assert_eq!(texts(&last), ["w10 w20 w30"]);
    assert!(matches!(session.try_next().await, Err(ClientError::Closed { code: 1001, .. })));
    let address = server.address.clone();
    server.stop().await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "the port is closed");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_ever() {
    let (release, model) = fake::held();
    let options = ServerOptions { drain: Duration::from_millis(100), ..ServerOptions::default() };
    let server = Server::ready(1, model, options).await;
    let mut session = server.connect("").await;
    session.sender.audio(&spoken(&[10])).await.unwrap();
    session.sender.text("{\"type\":\"marker\",\"name\":\"m\"}").await.unwrap();
    session.state().await;
    server.shutdown.cancel();
    let closed = loop {
        match session.try_next().await {
            Ok(Some(_)) => {}
            other => break other,
        }
    };
    assert!(matches!(closed, Err(ClientError::Closed { code: 1001, .. })), "{closed:?}");
    drop(release);
    assert!(matches!(server.stop().await, Err(ServerError::CutOff { sessions: 1 })));
}
