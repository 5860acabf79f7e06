//! The server over real sockets, with a model that needs no weights.

use std::{sync::mpsc::sync_channel, time::Duration};

use godctl::{
    asr::{
        SttError,
        client::{self, ClientError, Pacer, Receiver, Sender},
        engine::Engine,
        protocols::native::{Config, Line, ServerMessage, StateUpdate, Status, Tagged},
        server::{self, ServerError, ServerOptions},
        tap::Tap,
    },
    shutdown::Shutdown,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::fake::{self, Model, pcm, silence, spoken, text_of};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(20);

/// A server on a free port.
struct Server {
    address: String,
    shutdown: Shutdown,
    engine: Engine,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl Server {
    async fn start(engine: impl FnOnce(&Shutdown) -> Engine, options: ServerOptions) -> Self {
        let shutdown = Shutdown::new();
        let engine = engine(&shutdown);
        let listener = server::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = {
            let (engine, shutdown) = (engine.clone(), shutdown.clone());
            #[allow(clippy::disallowed_methods, reason = "the test waits for it by its handle")]
            tokio::spawn(async move { server::serve(listener, engine, options, &shutdown).await })
        };
        Self { address, shutdown, engine, serving }
    }

    async fn ready(max_sessions: usize, model: Model, options: ServerOptions) -> Self {
        let server = Self::start(|shutdown| fake::engine(shutdown, max_sessions, model), options).await;
        server.engine.ready().await.unwrap();
        server
    }

    async fn connect(&self, query: &str) -> Session {
        let (sender, receiver) = self.try_connect(query).await.unwrap();
        let mut session = Session { sender, receiver, config: None };
        match session.next().await {
            ServerMessage::Tagged(Tagged::Config(config)) => session.config = Some(*config),
            other => panic!("the first message is the config, not {other:?}"),
        }
        session
    }

    async fn try_connect(&self, query: &str) -> Result<(Sender, Receiver), ClientError> {
        client::connect(&format!("ws://{}/asr{query}", self.address)).await
    }

    /// One HTTP request on a connection of its own: status line and headers, and the body.
    async fn get(&self, path: &str, headers: &str) -> (String, String) {
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    /// Waits until this many slots are taken.
    async fn active(&self, sessions: usize) {
        let free = async {
            while self.engine.stats().active != sessions {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, free).await.expect("the slots were never freed");
    }

    async fn stop(self) -> Result<(), ServerError> {
        self.shutdown.cancel();
        let served = tokio::time::timeout(PATIENCE, self.serving).await.unwrap().unwrap();
        drop(self.engine);
        self.shutdown.finish(PATIENCE).await.unwrap();
        served
    }
}

struct Session {
    sender: Sender,
    receiver: Receiver,
    config: Option<Config>,
}

impl Session {
    async fn next(&mut self) -> ServerMessage {
        self.try_next().await.unwrap().expect("the session ended early")
    }

    async fn try_next(&mut self) -> Result<Option<ServerMessage>, ClientError> {
        tokio::time::timeout(PATIENCE, self.receiver.next()).await.expect("no message came")
    }

    async fn state(&mut self) -> StateUpdate<'static> {
        loop {
            if let ServerMessage::State(state) = self.next().await {
                return *state;
            }
        }
    }

    async fn tagged(&mut self) -> Tagged {
        loop {
            if let ServerMessage::Tagged(tagged) = self.next().await {
                return tagged;
            }
        }
    }

    /// The error message, and the close code after it.
    async fn refusal(&mut self) -> (String, String, u16) {
        let Tagged::Error { error, code, .. } = self.tagged().await else { panic!("no error") };
        match self.try_next().await {
            Err(ClientError::Closed { code: close, .. }) => (error, code, close),
            other => panic!("not closed: {other:?}"),
        }
    }

    /// Everything up to the end: the last state, after which comes `ready_to_stop`.
    async fn finish(mut self) -> StateUpdate<'static> {
        self.sender.end().await.unwrap();
        let last = self.until_ready_to_stop().await;
        self.sender.close().await.unwrap();
        last
    }

    async fn until_ready_to_stop(&mut self) -> StateUpdate<'static> {
        let mut last = None;
        loop {
            match self.next().await {
                ServerMessage::State(state) => last = Some(*state),
                ServerMessage::Tagged(Tagged::ReadyToStop) => return last.expect("no state before the end"),
                ServerMessage::Tagged(other) => panic!("unexpected {other:?}"),
            }
        }
    }
}

fn texts(state: &StateUpdate<'_>) -> Vec<String> {
    state.lines.iter().map(|line| line.text.clone()).collect()
}

async fn say(sender: &mut Sender, samples: &[f32], chunk: usize) {
    for chunk in samples.chunks(chunk) {
        sender.audio(chunk).await.unwrap();
    }
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

/// A WAV file of 16 kHz mono s16le.
fn wav(samples: &[f32]) -> Vec<u8> {
    let data = pcm(samples);
    let len = u32::try_from(data.len()).unwrap();
    let mut bytes = [&b"RIFF"[..], &(36 + len).to_le_bytes(), b"WAVEfmt ", &16_u32.to_le_bytes()].concat();
    bytes.extend([1_u16, 1].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([16_000_u32, 32_000].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([2_u16, 16].iter().flat_map(|v| v.to_le_bytes()));
    bytes.extend([&b"data"[..], &len.to_le_bytes(), &data].concat());
    bytes
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
        let bytes = wav(&spoken(&levels));
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
    let whole = wav(&spoken(&[10, 20, 30]));
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
                ServerMessage::Tagged(other) => panic!("unexpected {other:?}"),
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
    let bytes = wav(&spoken(&[10, 20, 30]));
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
        "{\"type\":\"config\"}",
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
            ServerMessage::Tagged(other) => panic!("unexpected {other:?}"),
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

#[tokio::test]
async fn before_the_model_is_there_everything_answers() {
    let (verdict, loaded) = sync_channel(1);
    let engine = |shutdown: &Shutdown| fake::loading_engine(shutdown, loaded);
    let server = Server::start(engine, ServerOptions::default()).await;
    let (head, body) = server.get("/health", "").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("\"ready\":false"), "{head} {body}");
    let (head, body) = server.get("/ready", "x-request-id: abc-1\r\n").await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 1"), "{head}");
    assert!(head.contains("x-request-id: abc-1") && body.contains("\"code\":\"loading\""), "{head} {body}");
    assert!(matches!(
        server.try_connect("").await,
        Err(ClientError::Refused { status: 503, code, retry_after: Some(_), .. }) if code == "loading"
    ));
    verdict.send(Ok(())).unwrap();
    server.engine.ready().await.unwrap();
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("\"name\":\"fake\""), "{head} {body}");
    let (_, body) = server.get("/health", "").await;
    assert!(body.contains("\"ready\":true") && body.contains("\"model\":\"fake\""), "{body}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_told_to_whoever_asks() {
    let (verdict, loaded) = sync_channel(1);
    let engine = |shutdown: &Shutdown| fake::loading_engine(shutdown, loaded);
    let server = Server::start(engine, ServerOptions::default()).await;
    verdict.send(Err(SttError::Unavailable("no such directory".to_owned()))).unwrap();
    server.engine.ready().await.unwrap_err();
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 503") && body.contains("no such directory"), "{head} {body}");
    assert!(!head.contains("retry-after"), "waiting does not help: {head}");
    let refused = server.try_connect("").await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 503, code, .. }) if code == "unavailable"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn http_errors_are_objects_with_a_request_id() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    for (path, status, code) in [("/nowhere", "404", "not_found"), ("/asr", "426", "websocket_required")] {
        // An id that does not fit into a log is replaced.
        let (head, body) = server.get(path, "x-request-id: a b\r\n").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("x-request-id: ") && !head.contains("x-request-id: a b"), "{head}");
        let error: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["code"], code);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    let (head, body) = server.get("/", "").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("/asr"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn parameters_that_cannot_be_honoured_close_with_4400() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    for query in
        ["?language=tlh", "?language=klingon", "?task=sing", "?mode=diff", "?words=maybe", "?model=other"]
    {
        let (sender, receiver) = server.try_connect(query).await.unwrap();
        let (error, code, close) = Session { sender, receiver, config: None }.refusal().await;
        assert_eq!((code.as_str(), close), ("bad_request", 4400), "{query}: {error}");
    }
    // None of them took the only slot; a token is not looked at as long as no tokens are configured.
    server.active(0).await;
    let session = server.connect("?token=x&model=fake&task=translate&language=FR&mode=full").await;
    let config = session.config.clone().unwrap();
    assert_eq!((config.language.as_str(), config.task.to_string().as_str()), ("fr", "translate"));
    session.finish().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_in_an_orderly_way() {
    let options = ServerOptions { max_message_bytes: 64 << 10, ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    for bytes in [(64 << 10) + 1, 200 << 10] {
        let mut session = server.connect("").await;
        session.sender.bytes(vec![0; bytes]).await.unwrap();
        let (_, code, close) = session.refusal().await;
        assert_eq!((code.as_str(), close), ("message_too_large", 1009));
        server.active(0).await;
    }
    let mut session = server.connect("").await;
    session.sender.bytes(pcm(&spoken(&[10]))).await.unwrap();
    assert_eq!(texts(&session.finish().await), ["w10"]);
    server.stop().await.unwrap();
}

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
    while let Ok(spoken) = utterances.try_recv() {
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
            ServerMessage::Tagged(other) => panic!("unexpected {other:?}"),
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
            ServerMessage::Tagged(other) => panic!("unexpected {other:?}"),
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

#[tokio::test]
async fn a_port_in_use_is_said_plainly() {
    let taken = server::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = server::bind(&address).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{address} is already in use; stop the other program or choose another with --listen")
    );
    let error = server::bind("203.0.113.1:80").await.unwrap_err().to_string();
    assert!(error.contains("choose another address"), "{error}");
}

#[tokio::test]
async fn rubbish_on_the_wire_hurts_only_its_own_connection() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let mut healthy = server.connect("").await;
    for rubbish in [
        &b"\x00\xff\x13\x37"[..],
        b"GET /asr HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET /asr HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
          sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        socket.write_all(rubbish).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is an answer, too.
        drop(tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap());
    }
    server.active(1).await;
    healthy.sender.audio(&spoken(&[10])).await.unwrap();
    assert_eq!(texts(&healthy.finish().await), ["w10"]);
    server.stop().await.unwrap();
}
