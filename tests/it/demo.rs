//! `godctl demo` and `godctl asr-serve` as processes.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::TcpListener,
    process::{Command, Stdio},
};

use godctl::asr::{
    client::{self, ClientError},
    protocols::native::{ServerMessage, Tagged},
};

use crate::support::{Home, Running};

/// Word error rate that the model card tells for these recordings, and what the demo may be worse by.
const CARD_WER: f64 = 0.136;
const MARGIN: f64 = 0.05;

#[test]
fn the_demo_transcribes_its_recordings_and_ends_with_its_figures() {
    let home = Home::new();
    let ran = home.godctl(&["demo", "--fast", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let last = ran.stdout.lines().last().unwrap();
    let summary: serde_json::Value = serde_json::from_str(last).unwrap();
    let wer = summary["wer"].as_f64().unwrap();
    assert!((0.0..=CARD_WER + MARGIN).contains(&wer), "{last}");
    assert!(summary["words"].as_u64().is_some_and(|words| words > 50), "{last}");
    assert!(summary["rtf"].as_f64().is_some_and(|rtf| rtf > 0.0), "{last}");
    assert_eq!(summary["model"], "command-en");
    for latency in ["commit_ms_p50", "commit_ms_p95", "first_word_ms_p50"] {
        assert!(summary.get(latency).is_some_and(serde_json::Value::is_null), "{latency}: {last}");
    }
    if cfg!(target_os = "linux") {
        assert!(summary["rss_mb"].as_u64().is_some_and(|memory| memory > 0), "{last}");
    }
    // The command has reached an agent, which repeats it.
    let answer = &summary["events"]["answer"];
    assert_eq!(answer["provider"], "echo", "{last}");
    let asked = answer["response"].as_str().unwrap();
    assert!(ran.stdout.contains(&format!("\"computer {asked}\"")), "{}", ran.stdout);
    let told = home.godctl(&["bus", "export", "--bind", "agent.response.completed"]).stdout;
    let event: serde_json::Value = serde_json::from_str(told.lines().next().unwrap()).unwrap();
    let correlation = &event["correlation_ids"][0];
    assert_eq!(
        (&event["payload"]["response"], correlation),
        (&answer["response"], &answer["correlation_id"])
    );
    let said = home.godctl(&["bus", "export", "--bind", "voice.transcription.completed"]).stdout;
    assert!(said.contains(correlation.as_str().unwrap()), "{said}");
    let queues = home.godctl(&["bus", "queues", "--json"]).stdout;
    assert!(!queues.contains("godctl.demo"), "left behind: {queues}");
    // Plain lines, because nobody looks at a pipe.
    let captions: Vec<_> = ran.stdout.lines().filter(|line| line.starts_with("demo1  ")).collect();
    assert!(captions.first().is_some_and(|line| line.contains("claude session")), "{}", ran.stdout);
    assert!(!ran.stdout.contains('\x1b'), "{}", ran.stdout);
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let home = Home::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = home.godctl(&["asr-serve", "--listen", &address]);
    let wanted = format!(
        "error: {address} is already in use; stop the other program or choose another with --listen\n"
    );
    assert_eq!((ran.code, ran.stderr), (Some(1), wanted));

    let broken = home.write("broken/config.json", "{}");
    let model = broken.parent().unwrap().to_str().unwrap();
    let ran = home.godctl(&["asr-serve", "--listen", "127.0.0.1:0", "--model", model]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stderr.contains("error: asr-engine stopped: the speech engine is not available"), "{ran:?}");

    for (flag, value, code) in
        [("--model", "base", 1), ("--listen", "nowhere", 2), ("--max-sessions", "0", 2)]
    {
        let ran = home.godctl(&["asr-serve", flag, value]);
        assert_eq!(ran.code, Some(code), "{flag} {value}: {ran:?}");
    }
}

/// The real server, stopped in the middle of a session: what was heard is said, and no log tells it.
#[cfg(unix)]
#[tokio::test]
async fn a_server_that_is_told_to_stop_lets_its_session_finish_and_logs_no_speech() {
    let home = Home::new();
    let mut command = home.command("godctl");
    command.args(["asr-serve", "--listen", "127.0.0.1:0", "-vvv"]);
    let mut server = Running(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let mut stdout = BufReader::new(server.0.stdout.take().unwrap());
    let mut stderr = server.0.stderr.take().unwrap();
    #[allow(clippy::disallowed_methods, reason = "ends with the server's stderr, and is joined below")]
    let logs = std::thread::spawn(move || {
        let mut logs = String::new();
        stderr.read_to_string(&mut logs).map(|_| logs)
    });
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let url = line.split("websocket: ").nth(1).and_then(|url| url.trim().strip_suffix(')')).unwrap();

    // The port answers while the model loads.
    let (mut sender, mut receiver) = loop {
        match client::connect(&format!("{url}?token=marker-token")).await {
            Err(ClientError::Refused { status: 503, code, .. }) => assert_eq!(code, "loading"),
            session => break session.unwrap(),
        }
    };
    // The built-in model was not trained with a prompt, and says so.
    let (_sender, mut refused) = client::connect(&format!("{url}?prompt=marker-prompt")).await.unwrap();
    let refusal = loop {
        match refused.next().await {
            Ok(Some(_)) => {}
            closed => break closed,
        }
    };
    assert!(matches!(refusal, Err(ClientError::Closed { code: 4400, .. })), "{refusal:?}");
    // Raw PCM that breaks off in the middle of the sentence, so that nothing but the stop can end it.
    let wav = include_bytes!("../../assets/demo/demo1.wav");
    sender.bytes(wav[44..80_044].to_vec()).await.unwrap();
    sender.text(r#"{"type":"marker","name":"sent"}"#).await.unwrap();
    let (mut last, mut stopped) = (String::new(), false);
    let closed = loop {
        match receiver.next().await {
            Ok(Some(ServerMessage::State(state))) => {
                last = state.lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join(" ");
            }
            Ok(Some(ServerMessage::Tagged(Tagged::Marker { .. }))) => {
                let told = Command::new("kill").args(["-TERM", &server.0.id().to_string()]).status().unwrap();
                assert!(told.success());
            }
            Ok(Some(ServerMessage::Tagged(Tagged::ReadyToStop))) => stopped = true,
            Ok(Some(ServerMessage::Tagged(Tagged::Config(_) | Tagged::Error { .. }))) => {}
            closed => break closed,
        }
    };
    assert!(stopped && matches!(closed, Err(ClientError::Closed { code: 1001, .. })), "{closed:?}");
    assert!(last.contains("claude"), "{last}");
    assert_eq!(server.0.wait().unwrap().code(), Some(0));
    let logs = logs.join().unwrap().unwrap();
    assert!(logs.contains("session opened") && logs.contains("session closed"), "{logs}");
    for secret in ["claude", "marker-"] {
        assert!(!logs.contains(secret), "{secret} in {logs}");
    }
}
