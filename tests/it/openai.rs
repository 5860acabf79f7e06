//! OpenAI's endpoints over real sockets, with a model that needs no weights.

use std::{fmt::Write as _, path::Path, sync::mpsc::SyncSender};

use godctl::asr::{
    client,
    engine::StreamOptions,
    protocols::native::{ServerMessage, Tagged},
    server::ServerOptions,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    fake::{self, Model, silence, spoken, text_of},
    serving::{Answer, PATIENCE, Server},
    support::{files, root},
    wav::{self, Encoding},
};

const BOUNDARY: &str = "----godctl-test";

impl Answer {
    /// The message, type, param and code of an error, after the status.
    fn error(&self) -> String {
        let error = &self.json()["error"];
        assert_eq!(self.json().as_object().unwrap().len(), 1, "{}", self.body);
        let field =
            |name: &str| error.get(name).unwrap_or_else(|| panic!("no {name}: {}", self.body)).clone();
        assert!(field("message").is_string());
        format!(
            "{} {} {} {}: {}",
            self.status,
            field("type"),
            field("param"),
            field("code"),
            field("message")
        )
    }
}

/// A part of a form: name, file name, content.
pub(crate) type Part<'a> = (&'a str, Option<&'a str>, &'a [u8]);

pub(crate) fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, file, content) in parts {
        let file = file.map(|file| format!("; filename=\"{file}\"")).unwrap_or_default();
        body.extend(
            format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n").bytes(),
        );
        body.extend(*content);
        body.extend(b"\r\n");
    }
    body.extend(format!("--{BOUNDARY}--\r\n").bytes());
    body
}

pub(crate) fn recording(samples: &[f32]) -> Vec<u8> {
    wav::wav(samples, 16_000, 1, Encoding::S16)
}

pub(crate) fn multipart() -> String {
    format!("multipart/form-data; boundary={BOUNDARY}")
}

impl Server {
    /// Sends a request on a connection of its own, which HTTP/1.0 keeps free of chunks.
    async fn open(&self, line: &str, content_type: &str, body: &[u8]) -> BufReader<TcpStream> {
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        let head = format!(
            "{line} HTTP/1.0\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(body).await.unwrap();
        BufReader::new(socket)
    }

    pub(crate) async fn request(&self, line: &str, content_type: &str, body: &[u8]) -> Answer {
        Answer::read(self.open(line, content_type, body).await).await
    }

    /// A transcription with these fields before and after the recording.
    async fn transcribe(&self, before: &[(&str, &str)], audio: &[u8], after: &[(&str, &str)]) -> Answer {
        let mut parts: Vec<Part<'_>> =
            before.iter().map(|(name, value)| (*name, None, value.as_bytes())).collect();
        parts.push(("file", Some("speech.wav"), audio));
        parts.extend(after.iter().map(|(name, value)| (*name, None, value.as_bytes())));
        self.request("POST /v1/audio/transcriptions", &multipart(), &form(&parts)).await
    }
}

fn at_most(max_upload_bytes: u64) -> ServerOptions {
    ServerOptions { max_upload_bytes, ..ServerOptions::default() }
}

/// Two utterances.
fn talk() -> Vec<u8> {
    recording(&[silence(0.5), spoken(&[10, 20]), silence(3.0), spoken(&[30])].concat())
}

#[tokio::test]
async fn every_format_is_answered_as_openai_does() {
    let server = Server::willing(2).await;
    let mut all = String::new();
    for format in ["json", "text", "srt", "vtt", "verbose_json", "diarized_json"] {
        let words = ("timestamp_granularities[]", "word");
        let answer = server
            .transcribe(&[("model", "whisper-1")], &talk(), &[("response_format", format), words])
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        assert_eq!(answer.header("x-godctl-model"), Some("fake"));
        let body = if format.ends_with("json") {
            serde_json::to_string_pretty(&answer.json()).unwrap()
        } else {
            answer.body.clone()
        };
        writeln!(all, "== {format}: {}\n{body}\n", answer.header("content-type").unwrap()).unwrap();
    }
    insta::assert_snapshot!("rest_formats", all);
    server.done().await;
}

#[tokio::test]
async fn errors_are_openai_objects_whatever_is_wrong() {
    let server = Server::ready(2, Model::Willing, at_most(300_000)).await;
    let mut told = Vec::new();
    let mut tell = |what: &str, answer: Answer| told.push(format!("{what}\n  {}", answer.error()));
    let audio = talk();
    for (name, value) in [
        ("response_format", "xml"),
        ("temperature", "2"),
        ("language", "klingon"),
        ("languages[]", "xx"),
        ("timestamp_granularities[]", "syllable"),
        ("include[]", "thoughts"),
        ("known_speaker_references[]", "data:audio/wav;base64,AA=="),
        ("stream", "perhaps"),
    ] {
        tell(&format!("{name}={value}"), server.transcribe(&[], &audio, &[(name, value)]).await);
    }
    let both = [("stream", "true"), ("response_format", "vtt")];
    tell("a stream of captions", server.transcribe(&both, &audio, &[]).await);
    let long = "x".repeat(100_000);
    tell("a long prompt", server.transcribe(&[("prompt", &long)], &audio, &[]).await);
    tell("an empty file", server.transcribe(&[], b"", &[]).await);
    tell("a letter", server.transcribe(&[], b"Dear Sir or Madam, this is no recording at all.", &[]).await);
    tell("a header and nothing else", server.transcribe(&[], &audio[..30], &[]).await);
    tell("a large file", server.transcribe(&[], &vec![0; 2_000_000], &[]).await);
    let post = "POST /v1/audio/transcriptions";
    tell("no file", server.request(post, &multipart(), &form(&[("model", None, b"whisper-1")])).await);
    let two = form(&[("file", Some("a.wav"), &audio), ("file", Some("b.wav"), &audio)]);
    tell("two files", server.request(post, &multipart(), &two).await);
    let cut = form(&[("file", Some("a.wav"), &audio)]);
    tell("a form that breaks off", server.request(post, &multipart(), &cut[..cut.len() - 40]).await);
    tell("not a form", server.request(post, "application/json", b"{}").await);
    tell("no boundary", server.request(post, "multipart/form-data", b"").await);
    tell("no such endpoint", server.request("POST /v1/audio/speech", "application/json", b"{}").await);
    tell("no such method", server.request("GET /v1/audio/transcriptions", "text/plain", b"").await);
    tell("no such model", server.request("GET /v1/models/gpt-9", "text/plain", b"").await);
    insta::assert_snapshot!("rest_errors", told.join("\n"));

    let models = server.request("GET /v1/models", "text/plain", b"").await.json();
    let names: Vec<&str> =
        models["data"].as_array().unwrap().iter().map(|m| m["id"].as_str().unwrap()).collect();
    assert_eq!((models["object"].as_str(), names), (Some("list"), vec!["fake", "whisper-1"]));
    let one = server.request("GET /v1/models/whisper-1", "text/plain", b"").await.json();
    assert_eq!((one["object"].as_str(), one["created"].is_i64()), (Some("model"), true));
    // Elsewhere errors have the other shape.
    let elsewhere = server.request("GET /elsewhere", "text/plain", b"").await;
    assert_eq!((elsewhere.status, elsewhere.json()["code"].as_str()), (404, Some("not_found")));
    server.done().await;
}

#[tokio::test]
async fn a_recording_of_minutes_is_transcribed_to_its_end() {
    let server = Server::willing(2).await;
    let levels: Vec<u8> = (0..900_u32).map(|i| (i % 89 + 1) as u8).collect();
    // Without a pause in 90 s, and an hour of the day later by its clock.
    let audio = recording(&[spoken(&levels), silence(40.0), spoken(&[95])].concat());
    let fields = [("response_format", "verbose_json"), ("timestamp_granularities[]", "word")];
    let answer = server.transcribe(&fields, &audio, &[]).await.json();
    let mut words: Vec<&str> =
        answer["words"].as_array().unwrap().iter().map(|w| w["word"].as_str().unwrap()).collect();
    // A cut may fall into a block, whose word is then heard on both sides.
    words.dedup();
    assert_eq!(words.join(" "), format!("{} w95", text_of(&levels)));
    let last = answer["words"].as_array().unwrap().last().unwrap()["start"].as_f64().unwrap();
    assert!((last - 130.5).abs() < 0.02, "{last}");
    assert!((answer["duration"].as_f64().unwrap() - 131.1).abs() < 0.02);
    assert_eq!(answer["usage"], serde_json::json!({ "type": "duration", "seconds": 132 }));
    server.done().await;
}

#[tokio::test]
async fn channels_are_speakers_where_they_are_apart() {
    let server = Server::willing(2).await;
    let left = [spoken(&[10]), silence(2.0), spoken(&[30]), silence(0.3)].concat();
    let right = [silence(1.0), spoken(&[20]), silence(1.3)].concat();
    let call: Vec<f32> =
        left.iter().zip(right.iter().chain(std::iter::repeat(&0.0))).flat_map(|(l, r)| [*l, *r]).collect();
    let call = wav::interleaved(&call, 16_000, 2, Encoding::S16);
    let fields = [("response_format", "diarized_json"), ("known_speaker_names[]", "agent")];
    let answer = server.transcribe(&fields, &call, &[]).await.json();
    assert_eq!(answer["text"], "agent: w10\nB: w20\nagent: w30", "{answer}");
    // The same on both sides is one scene.
    let stereo = wav::wav(&spoken(&[10, 20]), 16_000, 2, Encoding::S16);
    let answer = server.transcribe(&[("response_format", "diarized_json")], &stereo, &[]).await.json();
    assert_eq!(
        (answer["text"].as_str(), answer["segments"].as_array().unwrap().len()),
        (Some("A: w10 w20"), 1)
    );
    server.done().await;
}

#[tokio::test]
async fn events_come_while_the_recording_is_still_worked_on() {
    let (release, model) = fake::held();
    let server = Server::ready(2, model, ServerOptions::default()).await;
    let audio = recording(&(0..12).flat_map(|i| spoken(&[10 + i])).collect::<Vec<f32>>());
    let body = form(&[("file", Some("a.wav"), &audio), ("stream", None, b"true")]);
    let mut events = server.open("POST /v1/audio/transcriptions", &multipart(), &body).await;
    let first = async {
        let mut line = String::new();
        loop {
            line.clear();
            events.read_line(&mut line).await.unwrap();
            if line.starts_with("event:") {
                return line;
            }
        }
    };
    let releasing = async {
        loop {
            release_one(&release);
            tokio::task::yield_now().await;
        }
    };
    let first = tokio::select! { line = first => line, () = releasing => unreachable!() };
    assert_eq!(first, "event: transcript.text.delta\n");
    drop(release);
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, events.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert_eq!(rest.matches("event: transcript.text.delta").count(), 11, "{rest}");
    let done = rest.lines().rfind(|line| line.starts_with("data:")).unwrap();
    let done: Value = serde_json::from_str(done.trim_start_matches("data: ")).unwrap();
    let levels: Vec<u8> = (10..22).collect();
    assert_eq!(
        (done["type"].as_str(), done["text"].as_str()),
        (Some("transcript.text.done"), Some(text_of(&levels).as_str()))
    );
    server.done().await;
}

/// Lets the model answer one batch if it waits for that.
fn release_one(release: &SyncSender<()>) -> bool {
    release.try_send(()).is_ok()
}

#[tokio::test]
async fn the_events_of_every_kind_and_of_a_failure() {
    let server = Server::willing(2).await;
    let mut all = String::new();
    for (what, format, audio) in [
        ("json", "json", talk()),
        ("diarized", "diarized_json", talk()),
        ("a window that fails", "text", recording(&[spoken(&[10]), spoken(&[99])].concat())),
    ] {
        let answer = server.transcribe(&[("stream", "true"), ("response_format", format)], &audio, &[]).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
        writeln!(all, "== {what}\n{}", answer.body).unwrap();
    }
    insta::assert_snapshot!("rest_events", all);
    // Without events a failure is a status.
    let failed = server.transcribe(&[], &recording(&spoken(&[99])), &[]).await;
    assert_eq!((failed.status, failed.json()["error"]["type"].as_str()), (500, Some("server_error")));
    server.done().await;
}

#[tokio::test]
async fn a_file_that_breaks_off_is_transcribed_and_said_to_be_a_part() {
    let server = Server::willing(2).await;
    let whole = recording(&[spoken(&[10, 20]), spoken(&[30])].concat());
    let cut = &whole[..whole.len() - 4_000];
    let answer = server.transcribe(&[], cut, &[]).await;
    assert_eq!((answer.status, answer.json()["text"].as_str()), (200, Some("w10 w20 w30")));
    let warning = answer.json()["warnings"][0].as_str().unwrap().to_owned();
    assert!(warning.contains("the file is truncated"), "{warning}");
    assert_eq!(answer.header("x-godctl-warning"), Some(warning.as_str()));
    let healthy = server.transcribe(&[], &whole, &[]).await;
    assert!(healthy.json().get("warnings").is_none() && healthy.header("x-godctl-warning").is_none());
    server.done().await;
}

#[tokio::test]
async fn a_huge_upload_is_refused_without_being_kept() {
    let server = Server::ready(2, Model::Willing, at_most(1 << 20)).await;
    // A body that does not say how long it is, in chunks.
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    let head = format!(
        "POST /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\ncontent-type: {}\r\n\
         transfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        multipart()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let (read, mut write) = socket.into_split();
    let sending = async {
        let start = form(&[("file", Some("a.wav"), b"RIFF")]);
        let piece = [&start[..start.len() - BOUNDARY.len() - 8], &vec![7; 1 << 18][..]].concat();
        for _ in 0..400 {
            // 100 MB, or as much as the server takes.
            let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), &piece, b"\r\n"].concat();
            if write.write_all(&chunk).await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut answer = String::new();
        BufReader::new(read).read_line(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::select! { answer = reading => answer, () = sending => unreachable!() };
    assert_eq!(answer.trim(), "HTTP/1.1 413 Payload Too Large");
    assert_eq!(server.leftovers(), 0);

    // A field whose head never ends costs no memory either.
    let endless = [
        format!("--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"").as_bytes(),
        &vec![b'a'; 1_900_000],
    ]
    .concat();
    let answer = server.request("POST /v1/audio/transcriptions", &multipart(), &endless).await;
    assert!(answer.error().contains("the head of a field never ends"), "{}", answer.body);
    server.done().await;
}

#[tokio::test]
async fn more_recordings_than_places_are_refused_with_a_time_to_come_back() {
    let (release, model) = fake::held();
    let server = Server::ready(2, model, ServerOptions::default()).await;
    let audio = talk();
    let body = form(&[("file", Some("a.wav"), &audio)]);
    let mut running = Vec::new();
    for _ in 0..8 {
        running.push(server.open("POST /v1/audio/transcriptions", &multipart(), &body).await);
    }
    let full = async {
        while server.engine.place().is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, full).await.unwrap();
    let refused = server.transcribe(&[], &audio, &[]).await;
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
    assert!(refused.error().contains("\"crowded\""), "{}", refused.body);
    drop(release);
    for socket in running {
        assert_eq!(Answer::read(socket).await.json()["text"], "w10 w20 w30");
    }
    server.done().await;
}

#[tokio::test]
async fn a_live_session_is_not_harmed_by_uploads_beside_it() {
    let server = Server::willing(2).await;
    let audio = recording(&(0..60).flat_map(|_| spoken(&[10, 20])).collect::<Vec<f32>>());
    let (mut sender, mut receiver) = client::connect(&format!("ws://{}/asr", server.address)).await.unwrap();
    let speaking = async {
        let levels: Vec<u8> = (1..=60).collect();
        for chunk in spoken(&levels).chunks(1_600) {
            sender.audio(chunk).await.unwrap();
        }
        sender.end().await.unwrap();
        let mut last = Vec::new();
        loop {
            match receiver.next().await.unwrap().unwrap() {
                ServerMessage::State(state) => {
                    last = state.lines.iter().map(|line| line.text.clone()).collect()
                }
                ServerMessage::Tagged(Tagged::ReadyToStop) => return (last.join(" "), text_of(&levels)),
                ServerMessage::Tagged(_) | ServerMessage::Snapshot(_) | ServerMessage::Diff(_) => {}
            }
        }
    };
    let one = server.transcribe(&[], &audio, &[]);
    let other = server.transcribe(&[("response_format", "text")], &audio, &[]);
    let ((heard, expected), one, other) = tokio::join!(speaking, one, other);
    assert_eq!(heard.split(' ').next_back(), expected.split(' ').next_back());
    assert!(heard.split(' ').count() >= 60, "{heard}");
    let text = vec!["w10 w20"; 60].join(" ");
    assert_eq!((one.json()["text"].as_str(), other.body.trim_end()), (Some(text.as_str()), text.as_str()));
    drop(server.engine.open(StreamOptions::default()));
    server.done().await;
}

#[tokio::test]
async fn the_openapi_document_names_every_route_and_no_other() {
    let server = Server::willing(2).await;
    let document = server.request("GET /openapi.json", "text/plain", b"").await;
    assert_eq!(document.header("content-type"), Some("application/json"));
    let document = document.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    // What the sources route.
    let mut routed: Vec<String> = Vec::new();
    for file in files("src/asr/server", ".rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        for rest in text.split(".route(").skip(1) {
            let path = rest.trim_start().strip_prefix('"').and_then(|rest| rest.split('"').next());
            let path = path.unwrap_or_else(|| panic!("{}: a route without a literal path", relative(&file)));
            routed.push(path.replace("{*", "{"));
        }
    }
    routed.sort();
    routed.dedup();
    assert_eq!(
        paths.keys().cloned().collect::<Vec<_>>(),
        routed,
        "openapi.rs describes other routes than there are"
    );
    for (path, item) in paths {
        for method in item.as_object().unwrap().keys() {
            let line = format!(
                "{} {}",
                method.to_uppercase(),
                path.replace("{id}", "whisper-1").replace("{path}", "lib/session.js")
            );
            let status = server.request(&line, "text/plain", b"").await.status;
            assert!(![404, 405].contains(&status), "{line}: {status}");
        }
    }
    // Every reference leads somewhere.
    let text = document.to_string();
    for reference in text.split("\"$ref\":\"#").skip(1) {
        let pointer = reference.split('"').next().unwrap();
        assert!(document.pointer(pointer).is_some(), "{pointer} leads nowhere");
    }
    server.done().await;
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}
