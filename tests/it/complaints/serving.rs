//! Complaints about the server.

use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use godctl::asr::{
    SttError,
    engine::FAILING,
    protocols::native::{ServerMessage, Tagged},
    server::ServerOptions,
};

use super::{connect, fixture, ready, transcribe, words};
use crate::{
    browser::serve,
    fake::{self, Model, silence, spoken, text_of},
    operate,
    server::{PATIENCE, Server, Session, say, texts},
    support::{Home, root},
    wav::{self, Encoding},
};

/// Memory that fills until the second connection dies: a session too many is refused in words, and a sender that is
/// faster than the model is made to wait instead of being kept in memory.
#[tokio::test]
async fn complaint_02_memory_is_bounded_and_a_session_too_many_is_refused() {
    let (release, model) = fake::held();
    let server = Server::ready(1, model, ServerOptions::default()).await;
    let mut session = server.connect("").await;
    let (sender, receiver) = server.try_connect("").await.unwrap();
    let (error, code, close) = Session { sender, receiver, config: None }.refusal().await;
    assert_eq!((code.as_str(), close), ("busy", 1013), "{error}");
    // Ten minutes at once. The engine holds 30 s of them, the rest stays with the sender.
    let lots: Vec<f32> = spoken(&[10; 60]).repeat(92);
    let mut sending = Box::pin(say(&mut session.sender, &lots, 16_000));
    let all = tokio::time::timeout(Duration::from_millis(500), &mut sending).await;
    assert!(all.is_err(), "the sender was not held up");
    drop(sending);
    drop(release);
    server.active(1).await;
    drop(session);
    server.active(0).await;
    server.stop().await.unwrap();
}

/// Transcription that stops after a while, with no message and no new session possible.
#[tokio::test]
async fn complaint_03_nothing_freezes_and_errors_are_told() {
    let server = ready(2).await;
    let mut session = server.connect("").await;
    let mut other = server.connect("").await;
    // An error in the model, then ten minutes in which nobody speaks, then speech.
    let audio = [spoken(&[99]), silence(600.0), spoken(&[10, 20])].concat();
    say(&mut session.sender, &audio, 16_000).await;
    session.sender.end().await.unwrap();
    let mut errors = Vec::new();
    let last = loop {
        match session.next().await {
            ServerMessage::State(state) => {
                errors.extend(state.error.clone());
                if state.lines.last().is_some_and(|line| line.last && line.text == "w10 w20") {
                    break state;
                }
            }
            other => panic!("unexpected {other:?}"),
        }
    };
    assert!(errors.len() == 1 && errors[0].contains("0:00:00"), "told once, and where: {errors:?}");
    assert_eq!(last.lines.last().unwrap().start, "0:10:00.60");
    say(&mut other.sender, &spoken(&[30]), 1_600).await;
    assert_eq!(texts(&other.finish().await), ["w30"], "the others do not notice");
    let third = server.connect("").await;
    third.finish().await;
    server.stop().await.unwrap();
}

/// A session that is let in, if not at once: a machine that is busy with other tests may be late, and says so.
async fn admitted(server: &Server) -> Session {
    let tried = async {
        loop {
            let (sender, receiver) = server.try_connect("?words=true").await.unwrap();
            let mut session = Session { sender, receiver, config: None };
            match session.next().await {
                ServerMessage::Tagged(Tagged::Config(_)) => return session,
                ServerMessage::Tagged(Tagged::Error { code, .. }) if code == "busy" => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    };
    tokio::time::timeout(3 * PATIENCE, tried).await.expect("it was never let in")
}

/// Many users on one model: nobody's words suffer, windows are decoded together, and the first one too many is told so.
#[tokio::test]
async fn complaint_07_many_users_share_one_model_and_lose_nothing() {
    let server = ready(8).await;
    let levels: Vec<u8> = (10..90).collect();
    let alone = {
        let mut session = admitted(&server).await;
        say(&mut session.sender, &spoken(&levels), 1_600).await;
        session.finish().await.lines.into_owned()
    };
    let together = (0..8).map(|i| {
        let (server, levels) = (&server, &levels);
        async move {
            let mut session = admitted(server).await;
            say(&mut session.sender, &spoken(levels), 400 + i * 531).await;
            session.finish().await.lines.into_owned()
        }
    });
    for lines in join_all(together).await {
        assert_eq!(lines, alone);
    }
    let stats = server.engine.stats();
    assert!(stats.batches < stats.windows, "{stats:?}");
    server.active(0).await;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        sessions.push(admitted(&server).await);
    }
    let (sender, receiver) = server.try_connect("").await.unwrap();
    let Tagged::Error { retry_after, .. } = (Session { sender, receiver, config: None }).tagged().await
    else {
        panic!("no error")
    };
    assert!(retry_after.is_some_and(|wait| wait > 0));
    drop(sessions);
    server.active(0).await;
    server.stop().await.unwrap();
}

/// One copy of the model for each connection: eight of them speak, and the weights were loaded once.
#[tokio::test]
async fn complaint_07_eight_users_need_one_copy_of_the_model() {
    let (verdict, loads) = std::sync::mpsc::sync_channel(1);
    verdict.send(Ok(())).unwrap();
    // Another load would fail, and the engine with it.
    drop(verdict);
    let server =
        Server::start(|shutdown| fake::loading_engine(shutdown, loads), ServerOptions::default()).await;
    server.engine.ready().await.unwrap();
    let sessions = (1..=8_u8).map(|i| {
        let server = &server;
        async move {
            let mut session = server.connect("").await;
            say(&mut session.sender, &spoken(&[10 * i, 10 * i + 1]), 1_600).await;
            assert_eq!(texts(&session.finish().await), [text_of(&[10 * i, 10 * i + 1])]);
        }
    });
    join_all(sessions).await;
    server.engine.model().unwrap();
    server.stop().await.unwrap();
}

/// "How many users per GPU?": the server measures it with the model that it serves, says so, and lets no more in. What
/// each of them gets under load is what `cargo bench --bench asr -- sessions` prints.
#[tokio::test]
async fn complaint_07_how_many_users_it_holds_is_measured_told_and_kept_to() {
    let home = Home::new();
    let (_server, address) = serve(&home, &["--sessions", "auto"]);
    // Measuring takes a while where nothing is optimised and others work, too.
    let measured = async {
        while operate::get(&address, "/ready", "").await.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(180), measured).await.expect("it was never measured");
    let mut sessions = vec![connect(&address, "").await];
    let metrics = operate::get(&address, "/metrics", "").await.body;
    let limit = metrics.lines().find_map(|line| line.strip_prefix("godctl_asr_streams_limit ")).unwrap();
    let limit: usize = limit.parse().unwrap();
    assert!(limit >= 1, "one is always let in");
    while sessions.len() < limit {
        sessions.push(connect(&address, "").await);
    }
    let mut refused = operate::connect(&address, "/asr", &[]).await.unwrap();
    let error = refused.next().await.unwrap();
    assert_eq!(error["code"], "busy", "{error}");
    assert!(error["error"].as_str().unwrap().contains(&format!("all {limit} ")), "{error}");
    assert!(error["retry_after"].as_u64().is_some_and(|wait| wait > 0), "{error}");
    assert_eq!(refused.closed().await.0, 1013);
    // Whoever leaves makes room.
    sessions.pop().unwrap().finish().await;
    let mut admitted = false;
    for _ in 0..1_000 {
        let mut next = operate::connect(&address, "/asr", &[]).await.unwrap();
        admitted = next.next().await.unwrap()["type"] == "config";
        if admitted {
            break;
        }
    }
    assert!(admitted, "the slot was never given to anybody else");
}

/// A machine that cannot keep up: the backlog has an end, the client is told how far behind it is, and no word is lost.
#[tokio::test]
async fn complaint_08_the_delay_is_told_and_has_an_end() {
    let (release, model) = fake::held();
    let server = Server::ready(1, model, ServerOptions::default()).await;
    let mut session = server.connect("?mode=diff").await;
    let levels: Vec<u8> = (10..90).collect();
    say(&mut session.sender, &spoken(&levels), 1_600).await;
    let told = loop {
        if let ServerMessage::Diff(diff) = session.next().await
            && diff.remaining_time_transcription_processing > 1.0
        {
            break diff.remaining_time_transcription_processing;
        }
    };
    assert!(told < 30.1, "{told} s wait, which is more than an inbox holds");
    drop(release);
    session.sender.end().await.unwrap();
    let mut lines = Vec::new();
    let behind = loop {
        match session.next().await {
            ServerMessage::Diff(diff) => {
                lines.extend(diff.new_lines.iter().map(|line| line.text.clone()));
                if diff.running.is_none() && lines.join(" ") == text_of(&levels) {
                    break diff.remaining_time_transcription_processing;
                }
            }
            other => panic!("unexpected {other:?} after {lines:?}"),
        }
    };
    assert!(behind < 0.1, "{behind}");
    session.sender.close().await.unwrap();
    server.stop().await.unwrap();
}

/// Installation pain: one file that needs no Python, no CUDA libraries, no ffmpeg and no network.
#[test]
#[cfg(target_os = "linux")]
fn complaint_09_one_binary_is_the_installation() {
    let linked = Command::new("ldd").arg(env!("CARGO_BIN_EXE_godctl")).output().unwrap();
    let linked = String::from_utf8(linked.stdout).unwrap();
    let libraries: BTreeSet<&str> = linked
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|path| path.rsplit('/').next().unwrap_or(path))
        .map(|name| name.split(".so").next().unwrap_or(name))
        .collect();
    let expected =
        ["linux-vdso", "libasound", "libgcc_s", "libm", "libc", "libdl", "libpthread", "librt", "libstdc++"];
    for library in &libraries {
        assert!(
            expected.contains(library) || library.starts_with("ld-linux"),
            "{library} is not on every machine: {libraries:?}"
        );
    }
    // Nothing of the surroundings is needed, and what is written down is right.
    let home = Home::new();
    let ran = home
        .command("godctl")
        .env_clear()
        .env("HOME", home.path())
        .args(["transcribe", "assets/demo/demo1.wav", "--model", "command-en"])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8(ran.stdout).unwrap(), "hey tonny start a new claude session\n");
}

/// ffmpeg that times out and dies: containers are read here, also in crumbs, and a broken one hurts only its session.
#[tokio::test(flavor = "multi_thread")]
async fn complaint_10_containers_need_no_ffmpeg() {
    let home = Home::new();
    let (_server, address) = serve(&home, &[]);
    for name in ["demo1.webm", "demo1.ogg", "demo1.flac", "demo1.mp3"] {
        // Each utterance decoded once: this is about containers.
        let mut session = connect(&address, "?hop=10000").await;
        for crumb in fixture(&format!("tests/fixtures/audio/formats/{name}")).chunks(997) {
            session.sender.bytes(crumb.to_vec()).await.unwrap();
        }
        assert_eq!(words(&session.finish().await), "hey tonny start a new claude session", "{name}");
    }
    let mut session = connect(&address, "").await;
    let mut broken = fixture("tests/fixtures/audio/formats/demo1.webm");
    for (i, byte) in broken.iter_mut().enumerate().skip(60) {
        *byte ^= (i % 251) as u8;
    }
    session.sender.bytes(broken).await.unwrap();
    session.sender.end().await.unwrap();
    let mut errors = Vec::new();
    loop {
        match session.next().await {
            ServerMessage::State(state) => errors.extend(state.error.clone()),
            ServerMessage::Tagged(Tagged::ReadyToStop) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(!errors.is_empty(), "the client was told nothing");
}

/// Models of one's own that refuse to load, and settings nobody can see: a directory of safetensors is a model, and
/// what is in force is the first thing that a client is told.
#[tokio::test(flavor = "multi_thread")]
async fn complaint_14_a_model_of_ones_own_loads_and_says_what_it_is() {
    let home = Home::new();
    let model = root().join("tests/fixtures/tiny-whisper");
    let (_server, address) = serve(&home, &["--model", model.to_str().unwrap()]);
    let session = connect(&address, "").await;
    let config = session.config.clone().unwrap();
    assert!(config.model.contains("tiny-whisper"), "{}", config.model);
    let effective = serde_json::to_value(&config).unwrap();
    for key in [
        "model",
        "language",
        "task",
        "policy",
        "hop",
        "segment",
        "words",
        "sample_rate",
        "retention_lines",
        "mode",
    ] {
        assert!(!effective[key].is_null(), "{key} is not told");
    }
    session.finish().await;
}

/// A server that looks healthy while every window fails: the client is told each time, the failures are counted, and a
/// model that cannot be used is not called ready.
#[tokio::test]
async fn complaint_15_what_fails_is_told_and_counted() {
    let server = ready(1).await;
    let mut session = server.connect("").await;
    let mut errors = Vec::new();
    for count in 1..=3_u64 {
        say(&mut session.sender, &spoken(&[99]), 1_600).await;
        loop {
            let state = session.state().await;
            if let Some(error) = state.error {
                errors.push(error);
                break;
            }
        }
        assert!(server.engine.stats().failed >= count);
    }
    assert!(errors.iter().all(|error| error.contains("level 99 is too loud")), "{errors:?}");
    session.finish().await;
    server.stop().await.unwrap();

    let (verdict, loaded) = std::sync::mpsc::sync_channel(1);
    let server =
        Server::start(|shutdown| fake::loading_engine(shutdown, loaded), ServerOptions::default()).await;
    verdict.send(Err(SttError::Unavailable("tensor missing".to_owned()))).unwrap();
    server.engine.ready().await.unwrap_err();
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 503") && body.contains("tensor missing"), "{head} {body}");
    server.stop().await.unwrap();
}

/// The same, as whoever runs the server sees it: after some windows in a row that all failed, whoever they were for, and
/// plain silence that fails as well, `/ready` says so, until a window is heard again.
#[tokio::test]
async fn complaint_15_a_server_on_which_every_window_fails_is_not_ready() {
    let broken = Arc::new(AtomicBool::new(true));
    let server = Server::ready(2, Model::Broken(Arc::clone(&broken)), ServerOptions::default()).await;
    let metric = async |name: &str| metric(&server, name).await;
    let fails = async |session: &mut Session| {
        say(&mut session.sender, &spoken(&[10]), 1_600).await;
        while session.state().await.error.is_none() {}
    };
    // Not all of one client's: half of them come from a recording.
    let recording = wav::wav(&spoken(&[10]), 16_000, 1, Encoding::S16);
    let mut session = server.connect("?hop=10000").await;
    for failed in 1..FAILING {
        if failed % 2 == 0 {
            fails(&mut session).await;
        } else {
            assert_eq!(transcribe(&server, &recording, &[]).await.status, 500);
        }
        assert_eq!(metric("godctl_asr_windows_failed_in_a_row").await, failed);
        let (head, _) = server.get("/ready", "").await;
        assert!(head.starts_with("http/1.1 200"), "{failed} windows may be what was in them: {head}");
    }
    fails(&mut session).await;
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 503"), "{head} {body}");
    let error: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["code"], "failing");
    let message = error["message"].as_str().unwrap();
    assert!(message.contains(&format!("the last {FAILING} windows of audio all failed")), "{message}");
    assert!(message.contains("the device is gone"), "{message}");
    let (head, health) = server.get("/health", "").await;
    assert!(head.starts_with("http/1.1 200") && health.contains("\"ready\":false"), "it lives: {health}");
    assert_eq!(metric("godctl_asr_ready").await, 0);
    assert_eq!(metric("godctl_asr_windows_failed_in_a_row").await, FAILING);
    // Who comes all the same is served, and one good window is all it takes.
    broken.store(false, Ordering::SeqCst);
    let mut other = server.connect("").await;
    say(&mut other.sender, &spoken(&[10]), 1_600).await;
    assert_eq!(texts(&other.finish().await), ["w10"]);
    let (head, _) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 200"), "{head}");
    assert_eq!(
        (metric("godctl_asr_ready").await, metric("godctl_asr_windows_failed_in_a_row").await),
        (1, 0)
    );
    session.finish().await;
    server.stop().await.unwrap();
}

/// And nobody can make a server look broken with audio that the model fails on.
#[tokio::test]
async fn complaint_15_bad_audio_of_one_client_does_not_make_the_server_unready() {
    let server = ready(1).await;
    let recording = wav::wav(&spoken(&[99]), 16_000, 1, Encoding::S16);
    for failed in 1..=2 * FAILING {
        assert_eq!(transcribe(&server, &recording, &[]).await.status, 500);
        assert_eq!(metric(&server, "godctl_asr_windows_failed_in_a_row").await, failed % FAILING);
        let (head, body) = server.get("/ready", "").await;
        assert!(head.starts_with("http/1.1 200"), "after {failed}: {head} {body}");
    }
    server.stop().await.unwrap();
}

/// A figure without labels.
async fn metric(server: &Server, name: &str) -> u64 {
    let (_, body) = server.get("/metrics", "").await;
    let line = body.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.unwrap_or_else(|| panic!("{name}: {body}")).rsplit(' ').next().unwrap().parse().unwrap()
}
