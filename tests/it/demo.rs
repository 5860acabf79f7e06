//! `godctl demo` and `godctl asr-serve` as processes.

use std::net::TcpListener;

use crate::support::Home;

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
