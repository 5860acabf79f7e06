//! What is heard becomes events: `transcribe --publish`, `demo` and `asr-serve`, each with a bus of its own.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use godctl::{
    asr::{
        client::{self, ClientError, Receiver, Sender},
        protocols::native::{ServerMessage, Tagged},
    },
    bus::event::registry,
};
use serde_json::Value;

use crate::{
    support::{Home, Running, root},
    uploads::Door,
};

const PATIENCE: Duration = Duration::from_secs(60);

const NAMES: [&str; 2] = ["voice.transcription.completed", "transcription.voice.completed"];

/// The events in a file, each checked as strictly as it can be.
fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .map(|line| {
            assert_eq!(registry::validate(line.as_bytes()), [], "{line}");
            serde_json::from_str(line).unwrap()
        })
        .collect()
}

/// The texts of the events with the first name; each must be followed by the same under the second one.
fn texts(events: &[Value]) -> Vec<String> {
    events
        .chunks(2)
        .map(|pair| {
            let [event, alias] = pair else { panic!("one without its alias: {pair:?}") };
            assert_eq!([&event["event_type"], &alias["event_type"]], NAMES);
            assert_eq!(event["event_id"], alias["event_id"]);
            assert_eq!(event["payload"], alias["payload"]);
            event["payload"]["text"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn to_file(path: &Path) -> String {
    format!("bus.url=file:{}", path.display())
}

fn transcribe(home: &Home, flags: &[&str]) -> crate::support::Ran {
    let recording = root().join("assets/demo/demo1.wav");
    let mut command = home.command("godctl");
    command.args(["transcribe", "--publish", "--model", "command-en"]).arg(recording).args(flags);
    command.output().unwrap().into()
}

#[test]
fn a_transcribed_utterance_is_one_event_with_two_names() {
    let home = Home::new();
    let path = home.path().join("bus.jsonl");
    let ran = transcribe(&home, &["-c", &to_file(&path)]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert_eq!(ran.stdout, "hey tonny start a new claude session\n");
    let events = events(&path);
    assert_eq!(texts(&events), ["hey tonny start a new claude session"]);
    let (event, payload) = (&events[0], &events[0]["payload"]);
    assert_eq!([&event["source"]["app"], &event["source"]["type"]], ["godctl-asr", "manual"]);
    assert_eq!(payload["is_final"], true);
    let session = payload["session_id"].as_str().unwrap();
    assert_eq!(payload["utterance_id"], format!("{session}/1"));
    let audio = &payload["audio_metadata"];
    assert_eq!([&audio["model"], &audio["language"], &audio["format"]], ["command-en", "en", "pcm"]);
    assert_eq!((audio["sample_rate"].as_u64(), audio["channels"].as_u64()), (Some(16_000), Some(1)));
    assert!(
        audio["duration_seconds"].as_f64().is_some_and(|seconds| (2.0..4.0).contains(&seconds)),
        "{audio}"
    );
    assert!(audio["confidence"].as_f64().is_some_and(|sure| (0.5..=1.0).contains(&sure)), "{audio}");

    let alone = home.path().join("alone.jsonl");
    let ran = transcribe(&home, &["-c", &to_file(&alone), "-c", "bus.voice_alias=\"\""]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events = self::events(&alone);
    assert_eq!(events.len(), 1);
    assert_eq!(events[0]["event_type"], NAMES[0]);
}

#[test]
fn a_transcript_that_can_not_be_published_is_a_failure() {
    let home = Home::new();
    let ran = transcribe(&home, &["-c", &to_file(&home.path().join("no/bus.jsonl"))]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "nothing is transcribed in vain");
    assert!(ran.stderr.contains("there is no such directory; make it first"), "{}", ran.stderr);
    // Refused at the end only: the transcript is there, and the exit code tells.
    let ran =
        transcribe(&home, &["-c", &to_file(&home.path().join("b.jsonl")), "-c", "bus.max_event_bytes=1024"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let locked = home.write("locked/bus.jsonl", "");
        std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o400)).unwrap();
        let ran = transcribe(&home, &["-c", &to_file(&locked)]);
        // Root may write everywhere.
        if std::fs::OpenOptions::new().append(true).open(&locked).is_err() {
            assert_eq!(ran.code, Some(1), "{ran:?}");
            assert_eq!(ran.stdout, "hey tonny start a new claude session\n");
            assert!(ran.stderr.contains("1 of 1 utterances were not published"), "{}", ran.stderr);
        }
    }
}

#[test]
fn a_transcript_waits_in_the_outbox_for_a_broker_that_is_away() {
    let home = Home::new();
    // Nobody listens where nothing was ever bound.
    let away = "bus.url=amqp://guest:marker-7@127.0.0.1:1";
    let ran = transcribe(&home, &["-c", away]);
    assert_eq!(ran.code, Some(0), "what waits is not lost: {ran:?}");
    assert_eq!(ran.stdout, "hey tonny start a new claude session\n");
    assert!(ran.stderr.contains("outbox") && !ran.stderr.contains("marker-7"), "{}", ran.stderr);
    let stats = home.godctl(&["bus", "stats", "--json", "-c", away]);
    let stats: Value =
        serde_json::from_str(&stats.stdout).unwrap_or_else(|error| panic!("{error}: {stats:?}"));
    assert!(stats["link"]["outbox"].as_u64() >= Some(2), "the event and its other name: {stats}");
}

#[test]
fn the_demo_leaves_its_events_on_the_bus_and_shows_them() {
    let home = Home::new();
    let ran = home.godctl(&["demo", "--fast", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    let left = &summary["events"];
    let published = left["published"].as_u64().unwrap();
    assert!(published >= 8, "{left}");
    assert_eq!((&left["error"], left["read_back"].as_u64()), (&Value::Null, Some(published)), "{left}");
    let shown: Vec<&str> = ran.stdout.lines().filter(|line| line.contains(NAMES[0])).collect();
    assert_eq!(shown.len() as u64, published, "{}", ran.stdout);
    assert!(
        shown[0].ends_with("  voice.transcription.completed  \"hey tonny start a new claude session\""),
        "{shown:?}"
    );
    assert!(ran.stdout.contains("\nthe same again: godctl bus tail --since 5m\n"), "{}", ran.stdout);

    let exported = home.path().join("all.jsonl");
    let said = ["--bind", "voice.#", "--bind", "transcription.#"];
    let ran = home.godctl(&[&["bus", "export", exported.to_str().unwrap()], &said[..]].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events = events(&exported);
    assert_eq!(texts(&events).len() as u64, published);
    assert!(events.iter().all(|event| event["payload"]["context"]["tags"][0] == "demo"), "{events:?}");
}

#[test]
fn a_demo_without_a_bus_says_so_and_succeeds() {
    let home = Home::new();
    let broken = to_file(&home.path().join("no/bus.jsonl"));
    let ran = home.godctl(&["demo", "--fast", "--json", "-c", &broken]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    let error = summary["events"]["error"].as_str().unwrap();
    assert!(error.contains("no such directory"), "{error}");
    assert!(ran.stdout.contains("\nevents            0 on the bus, file:"), "{}", ran.stdout);

    let ran = home.godctl(&["demo", "--fast", "--json", "-c", "asr.publish=false"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let summary: Value = serde_json::from_str(ran.stdout.lines().last().unwrap()).unwrap();
    assert_eq!(summary["events"], Value::Null);
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());
}

/// `asr-serve` as a process.
struct Server {
    process: Running,
    url: String,
    logs: std::thread::JoinHandle<String>,
}

impl Server {
    fn start(home: &Home, flags: &[&str]) -> Self {
        let mut command = home.command("godctl");
        command.args(["asr-serve", "--listen", "127.0.0.1:0", "--model", "command-en"]).args(flags);
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url =
            line.split("websocket: ").nth(1).and_then(|url| url.trim().strip_suffix(')')).unwrap().to_owned();
        let mut stderr = process.0.stderr.take().unwrap();
        #[allow(clippy::disallowed_methods, reason = "ends with the server's stderr, and is joined by stop")]
        let logs = std::thread::spawn(move || {
            let mut logs = String::new();
            stderr.read_to_string(&mut logs).unwrap();
            logs
        });
        Self { process, url, logs }
    }

    /// A session, once the model is loaded.
    async fn connect(&self) -> (Sender, Receiver) {
        loop {
            match client::connect(&self.url).await {
                Err(ClientError::Refused { status: 503, .. }) => {}
                session => break session.unwrap(),
            }
        }
    }

    /// Says the sentence of the first recording, and waits for the answer to it.
    async fn hear(&self) {
        let (mut sender, mut receiver) = self.connect().await;
        sender.bytes(include_bytes!("../../assets/demo/demo1.wav").to_vec()).await.unwrap();
        sender.end().await.unwrap();
        while receiver.next().await.unwrap().is_some_and(|message| !is_over(&message)) {}
        sender.close().await.unwrap();
    }

    /// Uploads the first recording; gives the request's id.
    async fn transcribe(&self, door: Door) -> String {
        let address = self.url.strip_prefix("ws://").and_then(|url| url.strip_suffix("/asr")).unwrap();
        loop {
            let answer = door.answer(address, include_bytes!("../../assets/demo/demo1.wav")).await;
            // The model may still be loading.
            if answer.status != 503 {
                assert_eq!(door.text(&answer), "hey tonny start a new claude session");
                return answer.header("x-request-id").unwrap().to_owned();
            }
        }
    }

    fn terminate(&self) {
        let told = Command::new("kill").args(["-TERM", &self.process.0.id().to_string()]).status().unwrap();
        assert!(told.success());
    }

    /// Stops it in order; gives its logs.
    fn stop(mut self) -> String {
        self.terminate();
        assert_eq!(self.process.0.wait().unwrap().code(), Some(0));
        self.logs.join().unwrap()
    }
}

fn is_over(message: &ServerMessage) -> bool {
    matches!(message, ServerMessage::Tagged(Tagged::ReadyToStop))
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_server_publishes_each_utterance_at_once_and_the_last_one_before_it_ends() {
    let home = Home::new();
    let path = home.path().join("bus.jsonl");
    let server = Server::start(&home, &["-c", &to_file(&path)]);
    server.hear().await;
    until("the utterance is published", || texts(&events(&path)).len() == 1).await;
    assert_eq!(events(&path)[0]["source"]["type"], "service");

    // Told to stop in the middle of a sentence, it publishes what it heard.
    let (mut sender, mut receiver) = server.connect().await;
    let wav = include_bytes!("../../assets/demo/demo1.wav");
    sender.bytes(wav[44..80_044].to_vec()).await.unwrap();
    sender.text(r#"{"type":"marker","name":"sent"}"#).await.unwrap();
    let is_marker = |message: &ServerMessage| matches!(message, ServerMessage::Tagged(Tagged::Marker { .. }));
    while receiver.next().await.unwrap().is_some_and(|message| !is_marker(&message)) {}
    let logs = server.stop();
    let texts = texts(&events(&path));
    assert_eq!(texts.len(), 2, "{logs}");
    assert!(texts[1].starts_with("hey tonny start a new"), "{texts:?}");
    assert!(logs.contains("everything that was heard is published"), "{logs}");
    assert!(!logs.contains("tonny"), "{logs}");
}

#[tokio::test]
async fn a_server_whose_bus_is_away_goes_on_and_publishes_when_it_is_back() {
    let home = Home::new();
    let path = home.path().join("later/bus.jsonl");
    let server = Server::start(&home, &["-c", &to_file(&path)]);
    server.hear().await;
    server.transcribe(Door::OpenAi).await;
    std::fs::create_dir(path.parent().unwrap()).unwrap();
    until("both are published", || texts(&events(&path)).len() == 2).await;
    let logs = server.stop();
    let told = logs.matches("cannot publish what is heard; trying again").count();
    assert_eq!(told, 1, "once in an outage: {logs}");
    assert!(logs.contains("there is no such directory"), "{logs}");
}

#[tokio::test]
async fn a_server_that_shall_not_publish_leaves_the_bus_alone() {
    let home = Home::new();
    let server = Server::start(&home, &["--no-publish"]);
    server.hear().await;
    server.stop();
    assert!(home.leftovers().is_empty(), "{:?}", home.leftovers());

    // A bus that never comes back: what was lost is counted at the end.
    let server = Server::start(&home, &["-c", &to_file(&home.path().join("no/bus.jsonl"))]);
    server.hear().await;
    let logs = server.stop();
    assert!(logs.contains("not everything that was heard is published") && logs.contains("lost=1"), "{logs}");
}

#[tokio::test]
async fn a_server_publishes_what_was_uploaded_like_what_was_said_live() {
    let home = Home::new();
    let bus = format!("bus.url=sqlite:{}", home.path().join("bus.sqlite3").display());
    let server = Server::start(&home, &["-c", &bus]);
    let mut sessions = Vec::new();
    for door in Door::ALL {
        sessions.push(server.transcribe(door).await);
    }
    let address = server.url.strip_prefix("ws://").unwrap().strip_suffix("/asr").unwrap();
    let refused = Door::OpenAi.answer(address, b"this is no recording, but text that somebody sent").await;
    assert_eq!(refused.status, 400, "{refused:?}");
    server.hear().await;
    let logs = server.stop();
    assert!(logs.contains("everything that was heard is published"), "{logs}");

    let exported = home.path().join("all.jsonl");
    let ran = home.godctl(&["bus", "export", exported.to_str().unwrap(), "-c", &bus]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let events = events(&exported);
    assert_eq!(texts(&events), vec!["hey tonny start a new claude session"; 4], "three uploads, one session");
    let payloads: Vec<&Value> = events.iter().step_by(2).map(|event| &event["payload"]).collect();
    for session in sessions {
        let of_session = |payload: &&&Value| payload["session_id"] == session.as_str();
        let [payload] = payloads.iter().filter(of_session).collect::<Vec<_>>()[..] else {
            panic!("not one event of {session}: {payloads:?}")
        };
        assert_eq!(payload["utterance_id"], format!("{session}/1"));
    }
    // Nothing but the session and the clock tells them from what was said live.
    let alike = |payload: &Value| {
        let mut payload = payload.clone();
        for key in ["session_id", "utterance_id", "timestamp"] {
            assert!(payload.as_object_mut().unwrap().remove(key).is_some());
        }
        for key in ["duration_seconds", "confidence"] {
            assert!(payload["audio_metadata"].as_object_mut().unwrap().remove(key).unwrap().is_f64());
        }
        payload
    };
    assert!(payloads.iter().all(|payload| alike(payload) == alike(payloads[0])), "{payloads:?}");
}
