//! Who may work on a session that is in Redis: whoever keeps its lease alive, and nobody who has slept.

use std::{fs, process::Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::Desk;
use crate::{
    redis_node::RedisNode,
    support::{Ran, Running, until},
};

/// A claude that answers with what it was asked, the first time only once the file `go` is there.
const CLAUDE: &str = r#"
echo '{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus"}'
prompt=$(cat HOME/seen/input); echo "$prompt" >> HOME/runs
if [ "$prompt" = one ]; then while [ ! -e HOME/go ]; do sleep 0.05; done; fi
echo '{"type":"result","subtype":"success","is_error":false,"result":"answer to '$prompt'"}'
"#;

#[test]
fn whoever_slept_past_its_lease_has_lost_the_session_and_writes_nothing_to_it() {
    let Some(redis) = RedisNode::start() else { return };
    let desk = Desk::new();
    desk.agent("claude", &CLAUDE.replace("HOME", desk.home.path().to_str().unwrap()));
    let store = format!("store.url={}", redis.url());
    let command = |args: &[&str]| {
        let mut command = desk.command();
        command.args(["-c", &store, "-c", "store.lease_s=3", "agent"]).args(args).stdin(Stdio::null());
        command
    };
    let show = || -> Option<Value> {
        let ran: Ran = command(&["sessions", "show", "mine", "--json"]).output().unwrap().into();
        serde_json::from_str(&ran.stdout).ok()
    };
    let mut first = command(&["start", "claude", "--session-id", "mine", "-p", "one"]);
    let mut first = Running(first.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap());
    let session = until("it runs", || show().filter(|session| !session["run"]["leader"].is_null()));
    let left = || -> i64 {
        let answer = redis.ask(&["PTTL", "godctl:lock:session:mine"]);
        answer.trim().trim_start_matches(':').parse().unwrap_or_else(|error| panic!("{error}: {answer}"))
    };
    // The time that is left goes down, and up again, for longer than a lease lasts.
    let (mut before, mut renewals) = (left(), 0);
    until("it was renewed", || {
        let now = left();
        assert!(now > 0, "the lease is kept: {now}");
        renewals += u32::from(now > before);
        before = now;
        (renewals >= 4).then_some(())
    });

    let pid = Pid::from_child(&first.0);
    kill_process(pid, Signal::STOP).unwrap();
    let second: Ran =
        command(&["start", "claude", "--session-id", "mine", "--wait", "-p", "two"]).output().unwrap().into();
    assert_eq!((second.code, second.stdout.as_str()), (Some(0), "answer to two\n"), "{}", second.stderr);
    let at_the_takeover = show().unwrap();
    fs::write(desk.home.path().join("go"), "").unwrap();
    kill_process(pid, Signal::CONT).unwrap();
    let ended = first.0.wait().unwrap();
    let mut told = String::new();
    std::io::Read::read_to_string(first.0.stderr.as_mut().unwrap(), &mut told).unwrap();
    assert_eq!(ended.code(), Some(1), "{told}");
    assert!(told.contains("lost the session while working on it"), "{told}");
    let mut stdout = String::new();
    std::io::Read::read_to_string(first.0.stdout.as_mut().unwrap(), &mut stdout).unwrap();
    assert_eq!(stdout, "", "there is no answer");
    assert_eq!(show().unwrap(), at_the_takeover, "nothing was written");
    assert_eq!(
        (&at_the_takeover["state"], &at_the_takeover["words"]["last_response"]),
        (&json!("idle"), &json!("answer to two"))
    );
    let leader = session["run"]["leader"]["pid"].to_string();
    let stat = fs::read_to_string(format!("/proc/{leader}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "its agent is gone: {stat}");
    assert_eq!(fs::read_to_string(desk.home.path().join("runs")).unwrap(), "one\ntwo\n");
}

#[test]
fn a_redis_that_is_away_is_said_and_a_turn_without_a_session_needs_none() {
    let desk = Desk::new();
    let away = ["-c", "store.url=redis://127.0.0.1:9", "-c", "store.timeout_s=1", "agent"];
    let run = |args: &[&str]| -> Ran {
        desk.command().args(away).args(args).stdin(Stdio::null()).output().unwrap().into()
    };
    for args in [&["start", "echo", "-p", "x"][..], &["sessions", "list"], &["listen", "--idle", "0s"]] {
        let ran = run(args);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(69), ""), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains("redis://127.0.0.1:9"), "{}", ran.stderr);
    }
    let ran = run(&["start", "echo", "--no-session", "-p", "x"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "x\n"), "{}", ran.stderr);
}
