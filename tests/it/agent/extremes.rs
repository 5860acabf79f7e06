//! Agents that print too much or in pieces, ignore what they are told, or take too long.

use std::{
    fs,
    io::Read as _,
    time::{Duration, Instant},
};

use super::{CLAUDE, Desk};
use crate::support::{Running, until};

/// The first line and the last of a turn of Claude Code.
const FIRST: &str =
    r#"echo '{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus"}'"#;
const LAST: &str =
    r#"echo '{"type":"result","subtype":"success","is_error":false,"result":"two","total_cost_usd":0.5}'"#;

/// Lets what a claude prints come to us as it prints it, for the session that is given back.
fn direct(desk: &Desk) -> String {
    let session = "0199f0a2-0000-7000-8000-000000000001";
    let script = desk.home.path().join("bin/claude");
    let filtered = fs::read_to_string(&script).unwrap();
    let (body, _) = filtered.split_once("run | sed").unwrap();
    fs::write(&script, format!("{body}run\n").replace("SESSION", session)).unwrap();
    session.to_owned()
}

/// A line that is read whole, and one that is longer than any is read.
#[test]
fn a_long_line_is_read_and_a_longer_one_is_skipped_without_taking_memory_for_it() {
    let desk = Desk::new();
    let line = |megabytes: u32, text: &str| {
        format!(
            "printf '%s' '{{\"type\":\"assistant\",\"message\":{{\"id\":\"m\",\"content\":[{{\"type\":\"tool_use\",\"id\":\"{text}\",\"name\":\"{text}\",\"input\":{{\"command\":\"'
             head -c {megabytes}000000 /dev/zero | tr '\\0' x
             printf '%s\\n' '\"}}}}]}},\"parent_tool_use_id\":null}}'"
        )
    };
    let home = desk.home.path().display();
    desk.agent(
        "claude",
        &format!(
            "{FIRST}\n{}\n{}\ntouch {home}/printed; while [ ! -e {home}/go ]; do sleep 0.05; done\n{LAST}",
            line(12, "Whole"),
            line(40, "Skipped")
        ),
    );
    let session = direct(&desk);
    let mut child = Running(desk.spawn(&["claude", "-p", "x", "--session-id", &session]));
    drop(child.0.stdin.take());
    until("it has printed", || desk.home.path().join("printed").exists().then_some(()));
    let status = fs::read_to_string(format!("/proc/{}/status", child.0.id())).unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let peak: u64 = peak.split_whitespace().nth(1).unwrap().parse().unwrap();
    assert!(peak < 150 * 1024, "{peak} KB");
    fs::write(desk.home.path().join("go"), "").unwrap();
    let (mut stdout, mut stderr) = (String::new(), String::new());
    child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    child.0.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
    assert_eq!((child.0.wait().unwrap().code(), stdout.as_str()), (Some(0), "two\n"), "{stderr}");
    assert!(stderr.contains("Whole") && !stderr.contains("Skipped"), "{stderr}");
    assert!(stderr.contains("a line of 40"), "{stderr}");
}

#[test]
fn letters_that_come_in_two_pieces_are_whole() {
    let desk = Desk::new();
    let cut = r#"printf '{"type":"result","subtype":"success","is_error":false,"result":"M\303'; sleep 0.2; printf '\274glitz \360\237'; sleep 0.2; printf '\246\200"}\n'"#;
    desk.agent("claude", &format!("{FIRST}\n{cut}"));
    let session = direct(&desk);
    let ran = desk.start(&["claude", "-p", "x", "--session-id", &session], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Müglitz 🦀\n"), "{}", ran.stderr);
}

#[test]
fn a_turn_that_takes_too_long_is_stopped_and_its_session_can_go_on() {
    let desk = Desk::new();
    desk.agent("claude", &format!("{FIRST}\ntrap '' TERM INT; while true; do sleep 0.05; done"));
    let began = Instant::now();
    let mut command = desk.command();
    command.args(["-c", "agents.grace_s=1", "agent", "start", "claude", "--session-id", "mine", "-p", "x"]);
    let ran: crate::support::Ran = command.args(["--timeout", "1s", "--json"]).output().unwrap().into();
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stdout.contains("\"class\":\"timeout\""), "{}", ran.stdout);
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    desk.agent("claude", CLAUDE);
    let ran = desk.start(&["claude", "--session-id", "mine", "-p", "go on"], b"");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(desk.seen("arguments").contains("--resume="), "{}", desk.seen("arguments"));
}

/// Gemini CLI is a process that ignores signals around another one, which ends well when it is told to end.
#[test]
fn a_parent_that_ignores_signals_ends_with_its_child_and_that_is_no_success() {
    let desk = Desk::new();
    let home = desk.home.path().display();
    desk.agent(
        "gemini",
        &format!(
            "trap '' INT TERM HUP
             echo '{{\"type\":\"init\",\"session_id\":\"SESSION\",\"model\":\"m\"}}'
             sh -c \"trap 'exit 0' TERM; echo \\$\\$ > {home}/new; mv {home}/new {home}/child; while true; do sleep 0.05; done\" &
             wait; wait; wait"
        ),
    );
    let mut child = Running(desk.spawn(&["gemini", "-p", "x", "--json", "--timeout", "2s"]));
    drop(child.0.stdin.take());
    let pid = until("its child runs", || fs::read_to_string(desk.home.path().join("child")).ok());
    assert_eq!(child.0.wait().unwrap().code(), Some(1));
    let mut told = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    assert!(told.contains("\"class\":\"timeout\""), "{told}");
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[test]
fn a_prompt_is_the_same_from_a_flag_a_file_and_a_pipe() {
    let desk = Desk::new();
    desk.agent(
        "codex",
        r#"echo '{"type":"thread.started","thread_id":"t-1"}'; echo '{"type":"turn.completed","usage":{}}'"#,
    );
    let prompt = "-count @all /the ü files\n";
    let file = desk.home.write("prompt.md", prompt);
    let file = file.to_str().unwrap();
    let written = format!("--prompt={prompt}");
    let mut seen = Vec::new();
    for (args, input) in [
        (&["codex", written.as_str()][..], ""),
        (&["codex", "--prompt-file", file], ""),
        (&["codex", "--file", file], ""),
        (&["codex", "--prompt", "-"], prompt),
        (&["codex"], prompt),
    ] {
        let ran = desk.start(&[args, &["--no-session"]].concat(), input.as_bytes());
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        assert_eq!(desk.seen("input"), prompt, "{args:?}");
        seen.push(desk.seen("arguments"));
    }
    seen.dedup();
    assert_eq!(seen.len(), 1, "{seen:?}");
}

#[test]
fn what_we_add_to_an_agent_that_answers_at_once_is_hardly_felt() {
    let desk = Desk::new();
    let took = (0..5).map(|_| {
        let began = Instant::now();
        assert_eq!(desk.start(&["echo", "-p", "x"], b"").code, Some(0));
        began.elapsed()
    });
    let best = took.min().unwrap();
    assert!(best < Duration::from_millis(500), "{best:?}");
}
