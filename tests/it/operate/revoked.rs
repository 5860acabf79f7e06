//! A token that is taken away while it is in use.

use rustix::process::Signal;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    Socket, connect, get,
    process::{Serving, recording},
    soon,
};
use crate::{fake::pcm, support::Home};

const LISTEN: &str = "/v1/listen?encoding=linear16&sample_rate=16000";

/// The words of Deepgram's final results, the error after them, the close code and its reason.
async fn rest(mut socket: Socket) -> (String, Option<Value>, u16, String) {
    let (mut words, mut error) = (Vec::new(), None);
    loop {
        match socket.next_or_close().await {
            Ok(message) if message["is_final"] == true => {
                let said = message["channel"]["alternatives"][0]["transcript"].as_str().unwrap().to_owned();
                words.extend((!said.is_empty()).then_some(said));
            }
            Ok(message) => error = (message["type"] == "Error").then_some(message),
            Err((code, reason)) => return (words.join(" "), error, code, reason),
        }
    }
}

/// Reads these sockets while something else is waited for: a server gives up a peer that answers no ping.
async fn beside<T>(what: impl Future<Output = T>, sockets: [&mut Socket; 2]) -> T {
    async fn read(socket: &mut Socket) {
        while socket.next().await.is_ok() {}
    }
    let [first, second] = sockets;
    tokio::select! {
        done = what => done,
        () = read(first) => panic!("a session that should go on has ended"),
        () = read(second) => panic!("a session that should go on has ended"),
    }
}

/// Seconds of audio that have arrived.
async fn arrived(serving: &Serving, token: &str, protocol: &str) -> f64 {
    let metrics = get(&serving.address, "/metrics", &format!("authorization: Bearer {token}\r\n")).await;
    assert_eq!(metrics.status, 200, "{metrics:?}");
    let name = format!("godctl_asr_audio_received_seconds_total{{protocol=\"{protocol}\"}} ");
    let line = metrics.body.lines().find_map(|line| line.strip_prefix(&name));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn sessions_of_a_revoked_token_say_their_last_words_and_close_and_others_go_on() {
    let home = Home::new();
    let path = home.path().join("tokens.toml");
    let file = path.to_str().unwrap();
    let made = |name: &str| {
        let ran = home.godctl(&["asr-serve", "token", name, "--tokens-file", file]);
        ran.stdout.trim().to_owned()
    };
    let (kept, revoked) = (made("kept"), made("revoked"));
    // One look an utterance: unoptimised and beside other tests, more would take long.
    let serving = Serving::start(&home, &["--tokens-file", file, "-c", "asr.hop_ms=10000"])
        .ready_for(&format!("authorization: Bearer {kept}\r\n"))
        .await;
    let address = &serving.address;
    let speech = recording();
    // All of the words, and not yet the pause that would make them final.
    let end = speech.iter().rposition(|sample| sample.abs() > 0.02).unwrap();
    let (spoken, length) = (&speech[..end], end as f64 / 16_000.0);
    let (mut native, mut deepgram) = (Vec::new(), Vec::new());
    for token in [&kept, &revoked] {
        let mut socket = connect(address, &format!("/asr?token={token}"), &[]).await.unwrap();
        socket.audio(spoken).await;
        native.push(socket);
        let mut socket = connect(address, &format!("{LISTEN}&token={token}"), &[]).await.unwrap();
        socket.audio(spoken).await;
        deepgram.push(socket);
    }
    // A recording of which only a part has come.
    let body = pcm(&speech);
    let (first, second) = body.split_at(body.len() / 2);
    let mut upload = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST {LISTEN} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Token {revoked}\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    upload.write_all(&[head.as_bytes(), first].concat()).await.unwrap();
    for protocol in ["asr", "listen"] {
        while arrived(&serving, &kept, protocol).await < 2.0 * length - 0.1 {
            tokio::task::yield_now().await;
        }
    }
    let tokens = std::fs::read_to_string(&path).unwrap();
    let without = tokens.split_once("[tokens.revoked]").unwrap().0;
    assert!(without.contains("[tokens.kept]"));
    std::fs::write(&path, without).unwrap();
    serving.signal(Signal::HUP);
    serving.logged("tokens were read again").await;

    let words = "open the dashboard in a new tab";
    let (mut gone, gone_too) = (native.pop().unwrap(), deepgram.pop().unwrap());
    let (mut stays, mut stays_too) = (native.pop().unwrap(), deepgram.pop().unwrap());
    let last = async { (gone.words().await, gone.closed().await) };
    let both = async { tokio::join!(last, rest(gone_too)) };
    let (last, (said, error, code, reason)) = beside(both, [&mut stays, &mut stays_too]).await;
    assert_eq!(last, (words.to_owned(), (1008, Some("token_revoked".to_owned()))));
    assert_eq!((said.as_str(), code, reason.as_str()), (words, 1008, "the token was revoked"));
    let error = error.expect("an error before the close");
    assert_eq!(error["variant"], "Unauthorized");
    assert!(error["description"].as_str().unwrap().contains("not good any more"), "{error}");
    assert_eq!(connect(address, &format!("/asr?token={revoked}"), &[]).await.unwrap_err().status, 401);
    // What was let in before is worked off.
    upload.write_all(second).await.unwrap();
    let mut answer = String::new();
    beside(soon(upload.read_to_string(&mut answer)), [&mut stays, &mut stays_too]).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(words), "{answer}");

    // The others have not noticed.
    for socket in [&mut stays, &mut stays_too] {
        socket.audio(&speech[end..]).await;
    }
    stays_too.send("{\"type\":\"CloseStream\"}").await;
    let (last, (said, error, code, _)) = tokio::join!(stays.finish(), rest(stays_too));
    assert_eq!((last.as_str(), said.as_str(), error, code), (words, words, None, 1000));
    drop(stays);
    serving.logged_times("session closed", 4).await;
    serving.signal(Signal::TERM);
    let (code, logs) = serving.end().await;
    assert_eq!(code, Some(0), "{logs}");
    let lines = logs.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let ended: Vec<Value> = lines
        .filter(|line| line["message"] == "session closed" && line["token"] == "revoked")
        .map(|line| line["ended"].clone())
        .collect();
    assert_eq!(ended, ["the token was revoked"; 2], "{logs}");
}
