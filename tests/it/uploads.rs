//! Recordings that are uploaded, the same for OpenAI's clients and Deepgram's: what becomes of those that do not end
//! well, and what others hear of those that do.

use std::time::Duration;

use godctl::asr::{
    server::ServerOptions,
    tap::{Tap, Tapped},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::{
    fake::{self, Model, silence, spoken},
    openai::{form, multipart, recording},
    serving::{Answer, Server, until},
    wav::{self, Encoding},
};

/// Where recordings go in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    OpenAi,
    /// With `stream=true`.
    OpenAiEvents,
    Deepgram,
}

impl Door {
    pub(crate) const ALL: [Self; 3] = [Self::OpenAi, Self::OpenAiEvents, Self::Deepgram];

    fn body(self, audio: &[u8]) -> Vec<u8> {
        let file = ("file", Some("speech.wav"), audio);
        match self {
            Self::OpenAi => form(&[file]),
            Self::OpenAiEvents => form(&[("stream", None, b"true"), file]),
            Self::Deepgram => audio.to_vec(),
        }
    }

    /// Posts a recording on a connection of its own, as much of it as `sent` says. HTTP/1.0 keeps the answer free of
    /// chunks.
    pub(crate) async fn post(self, address: &str, query: &str, audio: &[u8], sent: f64) -> TcpStream {
        let (path, content_type) = match self {
            Self::OpenAi | Self::OpenAiEvents => ("/v1/audio/transcriptions", multipart()),
            Self::Deepgram => ("/v1/listen", "audio/wav".to_owned()),
        };
        let body = self.body(audio);
        let mut socket = TcpStream::connect(address).await.unwrap();
        let head = format!(
            "POST {path}{query} HTTP/1.0\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        socket.write_all(head.as_bytes()).await.unwrap();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of the body")]
        let sent = (body.len() as f64 * sent) as usize;
        // A server that refuses early need not take everything.
        socket.write_all(&body[..sent]).await.ok();
        socket
    }

    pub(crate) async fn answer(self, address: &str, audio: &[u8]) -> Answer {
        Answer::read(self.post(address, "", audio, 1.0).await).await
    }

    /// The text of an answer.
    pub(crate) fn text(self, answer: &Answer) -> String {
        assert_eq!(answer.status, 200, "{answer:?}");
        let text = match self {
            Self::OpenAi => answer.json()["text"].clone(),
            Self::OpenAiEvents => {
                let done = answer.body.lines().rfind(|line| line.starts_with("data:")).unwrap();
                let done: serde_json::Value =
                    serde_json::from_str(done.trim_start_matches("data: ")).unwrap();
                assert_eq!(done["type"], "transcript.text.done");
                done["text"].clone()
            }
            Self::Deepgram => {
                answer.json()["results"]["channels"][0]["alternatives"][0]["transcript"].clone()
            }
        };
        text.as_str().unwrap().to_owned()
    }

    /// The code of an error in the shape that the clients of this door read.
    pub(crate) fn error(self, answer: &Answer) -> String {
        let body = answer.json();
        let (code, message) = match self {
            Self::OpenAi | Self::OpenAiEvents => {
                assert!(body["error"]["type"].is_string(), "{answer:?}");
                (&body["error"]["code"], &body["error"]["message"])
            }
            Self::Deepgram => {
                assert!(body["request_id"].is_string(), "{answer:?}");
                (&body["err_code"], &body["err_msg"])
            }
        };
        assert!(message.as_str().is_some_and(|message| !message.is_empty()), "{answer:?}");
        code.as_str().unwrap_or_else(|| panic!("no code: {answer:?}")).to_owned()
    }
}

/// Two utterances.
fn talk() -> Vec<u8> {
    recording(&[silence(0.5), spoken(&[10, 20]), silence(3.0), spoken(&[30])].concat())
}

/// 400 words in more than two minutes, four megabytes.
fn long() -> Vec<u8> {
    recording(&(0..200).flat_map(|_| spoken(&[10, 20])).collect::<Vec<f32>>())
}

#[tokio::test]
async fn an_upload_that_stalls_is_answered_and_leaves_nothing() {
    let options = ServerOptions { body_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    for (door, code) in [(Door::OpenAi, "upload_stalled"), (Door::Deepgram, "SLOW_UPLOAD")] {
        let socket = door.post(&server.address, "", &long(), 0.5).await;
        until(|| server.leftovers() == 1).await;
        let answer = Answer::read(socket).await;
        assert_eq!((answer.status, door.error(&answer).as_str()), (408, code));
        server.quiet().await;
        assert_eq!(door.text(&door.answer(&server.address, &talk()).await), "w10 w20 w30");
    }
    server.done().await;
}

#[tokio::test]
async fn a_client_that_goes_away_in_the_middle_of_its_upload_leaves_nothing() {
    let server = Server::willing(1).await;
    for door in Door::ALL {
        let socket = door.post(&server.address, "", &long(), 0.5).await;
        until(|| server.leftovers() == 1).await;
        drop(socket);
        server.quiet().await;
    }
    assert_eq!(server.engine.stats().windows, 0, "nothing was decoded for nobody");
    server.done().await;
}

#[tokio::test]
async fn a_client_that_goes_away_takes_its_work_with_it() {
    let (release, model) = fake::held();
    let (tap, mut tapped) = Tap::new(9);
    let server = Server::ready(2, model, ServerOptions { tap: Some(tap), ..ServerOptions::default() }).await;
    for door in Door::ALL {
        let mut socket = BufReader::new(door.post(&server.address, "", &long(), 1.0).await);
        // The model has the first windows: the upload is over and the job runs.
        until(|| release.try_send(()).is_ok()).await;
        if door == Door::OpenAiEvents {
            let (mut line, mut releasing) = (String::new(), true);
            while !line.starts_with("event: transcript.text.delta") {
                line.clear();
                tokio::select! {
                    read = socket.read_line(&mut line) => assert!(read.unwrap() > 0, "no events"),
                    () = until(|| release.try_send(()).is_ok()), if releasing => releasing = false,
                }
            }
        }
        drop(socket);
        server.quiet().await;
    }
    drop(release);
    let windows = server.engine.stats().windows;
    assert!(windows <= 40, "{windows} windows for nobody");
    server.done().await;
    assert!(tapped.try_recv().is_none(), "what nobody waited for is no transcription");
}

/// What came out so far: who said what, and in which session.
fn heard(tapped: &mut Tapped) -> Vec<(Option<String>, String, String)> {
    std::iter::from_fn(|| tapped.try_recv())
        .map(|spoken| (spoken.speaker, spoken.utterance.text, spoken.session))
        .collect()
}

#[tokio::test]
async fn a_tap_gets_the_utterances_of_uploads_that_ended_well_and_of_no_others() {
    let (tap, mut tapped) = Tap::new(1);
    let options = ServerOptions { tap: Some(tap.clone()), ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    for door in Door::ALL {
        let answer = door.answer(&server.address, &talk()).await;
        assert_eq!(door.text(&answer), "w10 w20 w30");
        let request = answer.header("x-request-id").unwrap().to_owned();
        let of = |text: &str| (None, text.to_owned(), request.clone());
        assert_eq!(heard(&mut tapped), [of("w10 w20"), of("w30")], "{door:?}");

        // The first window is heard before the second one fails.
        let fails = recording(&[spoken(&[10]), spoken(&[99])].concat());
        let answer = door.answer(&server.address, &fails).await;
        let told = answer.body.contains("level 99 is too loud");
        assert_eq!((answer.status == 500, told), (door != Door::OpenAiEvents, true), "{answer:?}");
        assert_eq!(
            door.answer(&server.address, b"Dear Sir or Madam, no recording this is.").await.status,
            400
        );
        assert_eq!(heard(&mut tapped), [], "{door:?}");
    }

    let call: Vec<f32> = [spoken(&[10]), silence(0.6)]
        .concat()
        .into_iter()
        .zip([silence(0.6), spoken(&[20])].concat())
        .flat_map(|(left, right)| [left, right])
        .collect();
    let call = wav::interleaved(&call, 16_000, 2, Encoding::S16);
    let query = "?multichannel=true";
    assert_eq!(Answer::read(Door::Deepgram.post(&server.address, query, &call, 1.0).await).await.status, 200);
    let who: Vec<_> =
        heard(&mut tapped).into_iter().map(|(speaker, text, _)| (speaker.unwrap(), text)).collect();
    let said = |who: &str, text: &str| (who.to_owned(), text.to_owned());
    assert_eq!(who, [said("channel 0", "w10"), said("channel 1", "w20")]);
    let fields = form(&[
        ("response_format", None, b"diarized_json"),
        ("known_speaker_names[]", None, b"agent"),
        ("file", Some("call.wav"), &call),
    ]);
    let answer = server.request("POST /v1/audio/transcriptions", &multipart(), &fields).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let who: Vec<_> =
        heard(&mut tapped).into_iter().map(|(speaker, text, _)| (speaker.unwrap(), text)).collect();
    assert_eq!(who, [said("agent", "w10"), said("B", "w20")]);

    // Nobody takes them any more: that is counted, and the client has its answer.
    drop(tapped);
    let lost = tap.lost();
    let answer = Door::OpenAi.answer(&server.address, &talk()).await;
    assert_eq!((answer.status, tap.lost() - lost), (200, 2));
    server.done().await;
}

#[cfg(unix)]
mod full {
    //! A disk that is really full: a file system of a megabyte of the test's own (see `bus::disk`).

    use std::{
        io::{BufRead as _, BufReader, Lines},
        process::{ChildStdout, Stdio},
    };

    use super::Door;
    use crate::support::{Home, Ran, Running, root};

    /// Serves with the uploads on a file system of one megabyte, and says at its end what is left on that.
    const SCRIPT: &str = r#"
mount -t tmpfs -o size=1m tmpfs "$DISK" || exit 90
TMPDIR="$DISK" godctl -q asr-serve --listen 127.0.0.1:0 --model command-en --no-publish &
# Until the test has seen enough.
read -r _
kill -TERM $!
wait $!
echo "code $? left $(ls -A "$DISK" | wc -l)"
"#;

    fn line(lines: &mut Lines<BufReader<ChildStdout>>, mark: &str) -> String {
        let line = lines.next().expect("the script ended early").unwrap();
        let (_, rest) = line.split_once(mark).unwrap_or_else(|| panic!("no '{mark}': {line}"));
        rest.to_owned()
    }

    #[tokio::test]
    async fn an_upload_that_fills_the_disk_is_told_so_and_makes_room_again() {
        let home = Home::new();
        let disk = home.path().join("disk");
        std::fs::create_dir_all(&disk).unwrap();
        let unshared = |script: &str| {
            let mut command = home.command("unshare");
            // With a namespace for processes too, nothing outlives the test.
            command.args([
                "--mount",
                "--pid",
                "--fork",
                "--kill-child",
                "--map-root-user",
                "sh",
                "-c",
                script,
            ]);
            command.env("DISK", &disk);
            command
        };
        let able = match unshared("mount -t tmpfs -o size=1m tmpfs \"$DISK\"").output() {
            Ok(output) => output.into(),
            Err(error) => Ran { code: None, stdout: String::new(), stderr: error.to_string() },
        };
        if able.code != Some(0) {
            println!(
                "ignored, needs leave to mount a file system in a namespace of its own: {}",
                able.stderr
            );
            return;
        }
        let mut script =
            Running(unshared(SCRIPT).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut lines = BufReader::new(script.0.stdout.take().unwrap()).lines();
        let address = line(&mut lines, "listening on http://");
        let address = address.split(' ').next().unwrap();

        let small = std::fs::read(root().join("assets/demo/demo1.wav")).unwrap();
        let large = [small.clone(), vec![0; 3 << 20]].concat();
        let codes = [(Door::OpenAi, "storage_full"), (Door::Deepgram, "INSUFFICIENT_STORAGE")];
        for (door, code) in codes {
            let mut answer = door.answer(address, &large).await;
            // Until the model is loaded.
            while answer.status == 503 {
                answer = door.answer(address, &large).await;
            }
            assert_eq!((answer.status, door.error(&answer).as_str()), (507, code), "{answer:?}");
            // What the refused one had is free again.
            let answer = door.answer(address, &small).await;
            assert_eq!(door.text(&answer), "hey tonny start a new claude session");
        }
        drop(script.0.stdin.take());
        assert_eq!(line(&mut lines, "code "), "0 left 0");
        assert!(script.0.wait().unwrap().success());
    }
}
