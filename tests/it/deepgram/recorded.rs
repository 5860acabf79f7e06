//! `POST /v1/listen`.

use std::time::Duration;

use godctl::asr::{protocols::deepgram::recorded::Transcription, server::ServerOptions};
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::audio::{interleaved, wav};
use crate::{
    fake::{Model, pcm, silence, spoken},
    serving::{Answer, Server},
};

impl Server {
    /// Posts a body on a connection of its own; what is cut off by `sent` never comes.
    async fn post(&self, query: &str, headers: &str, body: &[u8], sent: usize) -> Answer {
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        let request = format!(
            "POST /v1/listen?{query} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
            body.len()
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        // A server that refuses early need not read everything.
        socket.write_all(&body[..sent.min(body.len())]).await.ok();
        Answer::read(socket).await
    }

    async fn transcribed(&self, query: &str, body: &[u8]) -> Transcription {
        let answer = self.post(query, "content-type: audio/wav\r\n", body, usize::MAX).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let read: Transcription = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.header("dg-request-id"), Some(read.metadata.request_id.as_str()));
        read
    }

    async fn refused(&self, query: &str, headers: &str, body: &[u8], sent: usize) -> (u16, String) {
        let answer = self.post(query, headers, body, sent).await;
        let read: Value = serde_json::from_str(&answer.body).unwrap();
        assert!(read["err_code"].is_string() && read["request_id"].is_string(), "{}", answer.body);
        (answer.status, read["err_msg"].as_str().unwrap().to_owned())
    }
}

fn texts(transcription: &Transcription) -> Vec<&str> {
    let channels = transcription.results.channels.iter();
    channels.map(|channel| channel.alternatives[0].heard.transcript.as_str()).collect()
}

#[tokio::test]
async fn a_recording_is_transcribed_whole() {
    let server = Server::willing(1).await;
    let file = wav(&[spoken(&[10, 20, 30]), silence(3.0), spoken(&[40])].concat(), 1);
    let read = server
        .transcribed("utterances=true&paragraphs=true&vad_events=true&detect_language=true", &file)
        .await;
    assert_eq!(texts(&read), ["w10 w20 w30 w40"]);
    assert_eq!((read.metadata.duration, read.metadata.channels), (4.4, 1));
    assert_eq!(read.metadata.sha256, format!("{:x}", Sha256::digest(&file)));
    assert_eq!(read.metadata.warnings[0].parameter, "vad_events");
    assert_eq!(read.results.channels[0].detected_language.as_deref(), Some("en"));
    let utterances = read.results.utterances.unwrap();
    let said: Vec<_> = utterances.iter().map(|said| (said.transcript.as_str(), said.start)).collect();
    assert_eq!(said, [("w10 w20 w30", 0.0), ("w40", 3.8)]);
    assert_eq!(read.results.channels[0].alternatives[0].paragraphs.as_ref().unwrap().paragraphs.len(), 2);
    // No live slot was taken, and nothing is left behind.
    assert_eq!(server.engine.stats().opened, 0);
    server.done().await;
}

#[tokio::test]
async fn raw_samples_and_channels() {
    let server = Server::willing(1).await;
    let (left, right) = (spoken(&[10, 20]), spoken(&[30, 40]));
    let both = interleaved(&[&left, &right]);
    let query = "encoding=linear16&sample_rate=16000&channels=2&multichannel=true";
    assert_eq!(texts(&server.transcribed(query, &pcm(&both)).await), ["w10 w20", "w30 w40"]);
    // The container knows how many channels it has.
    let read = server.transcribed("multichannel=true&utterances=true", &wav(&both, 2)).await;
    assert_eq!(texts(&read), ["w10 w20", "w30 w40"]);
    assert_eq!(read.results.utterances.unwrap().len(), 2);
    assert_eq!(texts(&server.transcribed("", &wav(&both, 2)).await), ["w20 w30"]);
    // A WAV file says itself what it is.
    let query = "encoding=linear16&sample_rate=48000";
    assert_eq!(texts(&server.transcribed(query, &wav(&left, 1)).await), ["w10 w20"]);
    server.done().await;
}

#[tokio::test]
async fn a_recording_that_breaks_off_is_told() {
    let server = Server::willing(1).await;
    let file = wav(&spoken(&[10, 20, 30]), 1);
    let read = server.transcribed("", &file[..44 + 9_600]).await;
    assert_eq!(texts(&read), ["w10 w20 w30"]);
    assert_eq!(read.metadata.warnings[0].r#type, "incomplete_audio");
    server.done().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_in_deepgrams_words() {
    let options = ServerOptions {
        max_upload_bytes: 100_000,
        body_timeout: Duration::from_millis(300),
        ..ServerOptions::default()
    };
    let server = Server::ready(1, Model::Willing, options).await;
    let file = wav(&spoken(&[10]), 1);
    let json = "content-type: application/json\r\n";
    let link = br#"{"url":"https://example.org/a.wav"}"#;
    let all = usize::MAX;
    for (query, headers, body, sent, status, wanted) in [
        ("", json, &link[..], all, 400, "fetches nothing from a url"),
        ("sample_rate=1", "", &file[..], all, 400, "sample_rate: '1' is not supported"),
        ("language=ja", "", &file[..], all, 400, "does not know the language 'ja'"),
        ("", "", &b""[..], all, 400, "the body is empty"),
        ("", "", &b"this is no audio, but text that somebody sent"[..], all, 400, "the recording"),
        ("", "", &file[..], 1_000, 408, "nothing arrived for"),
        ("", "", &vec![0; 100_001][..], all, 413, "larger than 100000 bytes"),
    ] {
        let (got, message) = server.refused(query, headers, body, sent).await;
        assert_eq!(got, status, "{message}");
        assert!(message.contains(wanted), "{message}");
    }
    assert_eq!(texts(&server.transcribed("", &file).await), ["w10"]);
    server.done().await;
}
