//! `godctl agent status`, `cancel`, `start --detach` and `dlq`: what a person does about agents that work somewhere else.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    agent::Desk,
    missing::missing,
    support::{Ran, Running, until},
};

impl Desk {
    fn ask(&self, args: &[&str]) -> Ran {
        self.command().args(["agent"]).args(args).output().unwrap().into()
    }

    /// The same, and it goes well.
    fn told(&self, args: &[&str]) -> String {
        let ran = self.ask(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        ran.stdout
    }

    fn told_json(&self, args: &[&str]) -> Value {
        let told = self.told(args);
        serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"))
    }

    fn session(&self, id: &str) -> Value {
        self.told_json(&["sessions", "show", id, "--json"])
    }

    /// A session whose agent is at work.
    fn at_work(&self, id: &str) -> Value {
        until("its agent works", || {
            let ran = self.ask(&["sessions", "show", id, "--json"]);
            let session: Value = serde_json::from_str(&ran.stdout).ok()?;
            let is_known = !session["native_id"].is_null() && !session["run"]["leader"].is_null();
            is_known.then_some(session)
        })
    }

    fn bus(&self, args: &[&str]) -> Vec<Value> {
        let ran: Ran = self.command().args(["bus"]).args(args).output().unwrap().into();
        assert_eq!(ran.code, Some(0), "{args:?}: {}", ran.stderr);
        ran.stdout.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn publish(&self, payload: &Value) {
        self.bus(&["publish", "agent.prompt", &payload.to_string()]);
    }

    /// A listener of this desk; its queue is there before it is.
    fn listen(&self, args: &[&str]) -> Running {
        self.bus(&[
            "work",
            "agent.prompt",
            "--lines",
            "--bind",
            "agent.prompt",
            "--bind",
            "agent.prompt.failed",
        ]);
        let mut command = self.command();
        command.args(["agent", "listen", "--root", self.home.path().to_str().unwrap()]).args(args);
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    fn dead(&self) -> Vec<Value> {
        let told = self.told(&["dlq", "list", "--json"]);
        told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn go(&self) {
        fs::write(self.home.path().join("go"), "").unwrap();
    }
}

fn lives(pid: &Value) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    !stat.is_empty() && !stat.contains(") Z")
}

fn leader(session: &Value) -> Value {
    session["run"]["leader"]["pid"].clone()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap(), signal).unwrap();
}

/// A claude that tells its conversation, does `wait`, and answers.
fn claude(wait: &str) -> String {
    format!(
        r#"echo '{{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus"}}'
{wait}
echo '{{"type":"result","subtype":"success","is_error":false,"result":"canary-of-an-answer","total_cost_usd":0.5}}'"#
    )
}

/// One that answers once the file `go` is there.
fn waiting(desk: &Desk) -> String {
    claude(&format!("while [ ! -e {}/go ]; do sleep 0.05; done", desk.home.path().display()))
}

#[test]
fn a_turn_in_another_terminal_is_cancelled_and_its_session_goes_on() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let child = desk.spawn(&["claude", "--session-id", "mine", "-p", "count"]);
    let session = desk.at_work("mine");
    let told = desk.told_json(&["cancel", "mi", "--wait", "--json"]);
    assert_eq!((&told["cancelled"], &told["state"]), (&json!("turn"), &json!("cancelled")), "{told}");
    assert_eq!((&told["run"], &told["turn"]), (&session["run"]["id"], &json!(1)));
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("the turn was cancelled with `godctl agent cancel`"), "{stderr}");
    assert!(!lives(&leader(&session)));
    let session = desk.session("mine");
    assert_eq!((&session["state"], &session["failure_class"]), (&json!("interrupted"), &json!("cancelled")));
    assert_eq!(session["turns"][0]["failure_class"], "cancelled");

    let ran = desk.ask(&["cancel", "mine"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stdout);
    assert!(ran.stderr.contains("is not being worked on (interrupted)"), "{}", ran.stderr);
    let ran = desk.ask(&["cancel", "nobody"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("there is no session nobody"), "{}", ran.stderr);
    desk.go();
    let ran = desk.start(&["claude", "--session-id", "mine", "-p", "go on"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "canary-of-an-answer\n"), "{}", ran.stderr);
    assert!(desk.seen("arguments").contains("--resume="), "{}", desk.seen("arguments"));
}

#[test]
fn an_agent_that_does_not_listen_is_killed_and_codex_that_ends_without_a_word_is_cancelled() {
    let desk = Desk::new();
    // It asks to be killed: it and what it has started ignore TERM, and hold its output.
    desk.agent(
        "claude",
        &claude("trap '' TERM INT; (trap '' TERM INT; while true; do sleep 0.05; done) & wait"),
    );
    let mut stubborn = desk.command();
    let settings = ["-c", "agents.grace_s=1"];
    stubborn.args(settings).args(["agent", "start", "claude", "--session-id", "stubborn", "-p", "x"]);
    let mut stubborn = Running(stubborn.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
    let session = desk.at_work("stubborn");
    let told = desk.told(&["cancel", "stubborn", "--wait"]);
    assert_eq!(told, "turn 1 of stubborn was cancelled\n");
    assert_eq!(stubborn.0.wait().unwrap().code(), Some(130));
    assert!(!lives(&leader(&session)));

    // As the real one: it obeys, and says nothing of how the turn ended.
    desk.agent(
        "codex",
        r#"echo '{"type":"thread.started","thread_id":"t-1"}'; trap 'exit 1' INT TERM; while true; do sleep 0.05; done"#,
    );
    let mut quiet = Running(desk.spawn(&["codex", "--session-id", "quiet", "-p", "x"]));
    drop(quiet.0.stdin.take());
    desk.at_work("quiet");
    let told = desk.told(&["cancel", "quiet"]);
    assert_eq!(told, "asked codex to stop working on turn 1 of quiet\n");
    assert_eq!(quiet.0.wait().unwrap().code(), Some(130));
    assert_eq!(desk.session("quiet")["failure_class"], "cancelled");
}

#[test]
fn a_turn_that_somebody_dead_left_open_is_closed_by_a_cancel() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let mut first = Running(desk.spawn(&["claude", "--session-id", "mine", "-p", "count"]));
    let session = desk.at_work("mine");
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let status = desk.told_json(&["status", "--json"]);
    assert_eq!(
        (&status["running"][0]["state"], &status["running"][0]["holder"]["is_gone"]),
        (&json!("left_open"), &json!(true))
    );
    let told = desk.told(&["cancel", "mine"]);
    assert!(
        told.starts_with("turn 1 of mine was left open by process ") && told.contains("it is closed now"),
        "{told}"
    );
    assert!(!lives(&leader(&session)), "and what it left running is killed");
    assert_eq!(desk.session("mine")["state"], "interrupted");
    assert_eq!(desk.told_json(&["status", "--json"])["running"], json!([]));
}

#[test]
fn a_prompt_of_a_listener_is_cancelled_given_up_and_put_back_with_its_correlation() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let listener = desk.listen(&["--workers", "2"]);
    let correlation = "0199f0a2-0000-7000-8000-00000000000c";
    for (key, prompt) in [("first", "count the files"), ("second", "count\tthe \u{1b}[2Jlines")] {
        desk.publish(&json!({
            "provider": "claude", "prompt": prompt, "session_id": "mine", "idempotency_key": key,
            "correlation_id": correlation,
        }));
    }
    let session = desk.at_work("mine");
    let status = until("the second one waits", || {
        let status = desk.told_json(&["status", "--json"]);
        (status["journal"]["ready"] == 1).then_some(status)
    });
    assert_eq!(status["journal"]["running"], 1);
    let claude = &status["journal"]["providers"]["claude"];
    assert_eq!(
        (&claude["ready"], &claude["running"], &claude["circuit"]),
        (&json!(1), &json!(1), &json!("closed"))
    );
    assert_eq!(status["journal"]["prompts"][0]["key"], "key:second");
    let listening = listener.0.id();
    assert_eq!(
        (&status["listeners"][0]["queue"], &status["listeners"][0]["workers"]),
        (&json!("agent.prompt"), &json!(2))
    );
    assert_eq!(
        (&status["listeners"][0]["pid"], &status["listeners"][0]["running"]),
        (&json!(listening), &json!(1))
    );
    assert_eq!(status["running"][0]["holder"]["pid"], listening);
    let screen = desk.told(&["status"]);
    assert!(screen.contains("key:second") && screen.contains("count the \u{fffd}[2Jlines"), "{screen}");
    assert!(!screen.contains('\x1b'), "{screen}");

    // The one that waits, by its key; then the one that runs, by its session.
    let told = desk.told_json(&["cancel", "second", "--json"]);
    assert_eq!((&told["cancelled"], &told["session"]), (&json!("prompt"), &json!("mine")), "{told}");
    let told = desk.told_json(&["cancel", "mine", "--wait", "--json"]);
    assert_eq!((&told["cancelled"], &told["state"]), (&json!("turn"), &json!("cancelled")), "{told}");
    assert!(!lives(&leader(&session)));
    let dead = until("both are dead letters", || Some(desk.dead()).filter(|dead| dead.len() == 2));
    for letter in &dead {
        assert_eq!(letter["class"], "cancelled", "{letter}");
        assert_eq!((&letter["session_id"], &letter["correlation_id"]), (&json!("mine"), &json!(correlation)));
    }
    let first = dead.iter().find(|letter| letter["key"] == "key:first").unwrap();
    assert_eq!((&first["prompt"], &first["attempts"]), (&json!("count the files"), &json!(1)));
    assert_eq!(desk.bus(&["export", "--bind", "agent.error"]).len(), 2, "each is told once");
    let listed = desk.told(&["dlq", "list"]);
    assert!(listed.contains("count\\tthe \\u{1b}[2Jlines") && !listed.contains('\x1b'), "{listed}");

    let id = first["event_id"].as_str().unwrap();
    let shown = desk.told(&["dlq", "show", id]);
    assert!(shown.contains("agent        claude\n") && shown.contains("\n> count the files\n"), "{shown}");
    assert_eq!(desk.told_json(&["dlq", "show", id, "--json"])["history"][0]["class"], "cancelled");
    desk.go();
    assert_eq!(desk.told(&["dlq", "replay", id]), "put back 1\n");
    let answers = until("it is answered", || {
        Some(desk.bus(&["export", "--bind", "agent.response.completed"]))
            .filter(|answers| !answers.is_empty())
    });
    assert_eq!(answers[0]["correlation_ids"][0], correlation);
    assert_eq!(answers[0]["payload"]["prompt"], "count the files");

    let ran = desk.ask(&["dlq", "purge", "--all"]);
    assert_eq!(ran.code, Some(2), "nobody is there to be asked: {}", ran.stdout);
    assert!(ran.stderr.contains("add --yes"), "{}", ran.stderr);
    assert_eq!(desk.ask(&["dlq", "replay", "nothing"]).code, Some(1));
    assert_eq!(desk.dead().len(), 1);
    assert_eq!(desk.told(&["dlq", "purge", "--all", "--yes"]), "deleted 1\n");
    assert_eq!(desk.told(&["dlq", "list"]), "no prompt was given up in agent.prompt\n");
    signal(&listener.0, Signal::TERM);
    let mut listener = listener;
    assert_eq!(listener.0.wait().unwrap().code(), Some(0));
    assert_eq!(
        desk.bus(&["export", "--bind", "agent.response.completed"]).len(),
        1,
        "the other one was not run"
    );
}

#[test]
fn prompts_that_wait_are_cancelled_with_their_session_if_that_is_asked_for() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let _listener = desk.listen(&[]);
    for prompt in ["one", "two", "three"] {
        desk.publish(&json!({"provider": "claude", "prompt": prompt, "session_id": "mine"}));
    }
    desk.at_work("mine");
    until("two wait", || (desk.told_json(&["status", "--json"])["journal"]["ready"] == 2).then_some(()));
    let told = desk.told(&["cancel", "mine", "--all", "--json"]);
    let told: Vec<Value> = told.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let what: Vec<_> = told.iter().map(|told| told["cancelled"].as_str().unwrap()).collect();
    assert_eq!(what, ["turn", "prompt", "prompt"]);
    until("all are dead letters", || (desk.dead().len() == 3).then_some(()));
    assert!(desk.dead().iter().all(|letter| letter["class"] == "cancelled"));
}

/// Field of `/proc/PID/stat` after the name in brackets; the state is 3.
fn stat(pid: u64, field: usize) -> i64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().split_whitespace().nth(field - 3).unwrap().parse().unwrap()
}

#[test]
fn a_detached_turn_goes_on_by_itself_and_tells_nobody_its_prompt() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let settings = ["-c", "store.password=canary-of-a-secret", "-c", "agents.grace_s=7"];
    let mut command = desk.command();
    command.args(settings).args(["agent", "start", "claude", "--session-id", "mine", "--detach", "--json"]);
    command.args(["--tag", "night", "--prompt", "canary-of-a-prompt"]);
    let ran: Ran = command.output().unwrap().into();
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(ran.stderr.contains("made a key"), "what it warns of is said here: {}", ran.stderr);
    let begun: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(
        (&begun["session"], &begun["turn"], &begun["provider"]),
        (&json!("mine"), &json!(1), &json!("claude"))
    );
    let pid = begun["pid"].as_u64().unwrap();
    let number = i64::try_from(pid).unwrap();
    assert_eq!((stat(pid, 6), stat(pid, 7)), (number, 0), "it leads a session that has no terminal");
    let line = String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap()).replace('\0', " ");
    assert!(line.contains("agent start") && !line.contains("canary"), "{line}");
    let log = begun["log"].as_str().unwrap().to_owned();
    let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&log).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);

    let session = desk.at_work("mine");
    assert_eq!((&session["run"]["id"], &session["tags"]), (&begun["run"], &json!(["night"])));
    assert_eq!(desk.seen("input"), "canary-of-a-prompt");
    let status = desk.told_json(&["status", "--json"]);
    assert_eq!(status["running"][0]["holder"]["pid"], pid);
    assert_eq!(status["running"][0]["prompt"], "canary-of-a-prompt");
    desk.go();
    until("it is answered", || (desk.session("mine")["state"] == "idle").then_some(()));
    assert_eq!(desk.session("mine")["turns"][0]["words"]["response"], "canary-of-an-answer");
    until("it is gone", || (!lives(&json!(pid))).then_some(()));
    assert!(fs::read_to_string(&log).unwrap().contains("made a key"));
    let begun = desk.told_json(&["start", "echo", "--detach", "--json", "-p", "x"]);
    let log = begun["log"].as_str().unwrap();
    until("nothing was to be complained of", || (!Path::new(log).exists()).then_some(()));

    // Without --json it is the id, for scripts; the prompt may be as long as it likes.
    fs::remove_file(desk.home.path().join("go")).unwrap();
    let prompt: String = (0..200_000).map(|n| format!("{n:06} ü")).collect();
    let ran = desk.start(&["claude", "--continue", "--detach"], prompt.as_bytes());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "mine\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("godctl agent cancel mine"), "{}", ran.stderr);
    desk.at_work("mine");
    assert!(desk.seen("input") == prompt);
    assert_eq!(desk.told(&["cancel", "mine", "--wait"]), "turn 2 of mine was cancelled\n");
}

#[test]
fn a_detached_turn_that_cannot_begin_says_why_and_leaves_nothing() {
    let desk = Desk::new();
    let ran = desk.start(&["claude", "--detach", "-p", "x"], b"");
    assert!(ran.code == Some(69) && ran.stderr.contains("not installed"), "{}", ran.stderr);
    desk.agent("claude", &waiting(&desk));
    let _first = Running(desk.spawn(&["claude", "--session-id", "mine", "-p", "one"]));
    desk.at_work("mine");
    let ran = desk.start(&["claude", "--session-id", "mine", "--detach", "-p", "two"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(75), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("session mine is being worked on by process"), "{}", ran.stderr);
    assert_eq!(fs::read_dir(desk.home.path().join(".local/share/godctl/detached")).unwrap().count(), 0);
    for args in [
        &["claude", "--detach", "--no-session", "-p", "x"][..],
        &["claude", "--detach", "-p", " "],
        &["siri", "--detach", "-p", "x"],
        &["codex", "--session-id", "mine", "--detach", "--max-turns", "3", "-p", "x"],
    ] {
        let ran = desk.start(args, b"");
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""), "{args:?}: {}", ran.stderr);
    }
}

/// A terminal for `godctl agent …`, and what it shows. `None` where there is no `script`.
fn terminal(desk: &Desk, line: &str) -> Option<Child> {
    if Command::new("script").arg("--version").output().is_err() {
        return missing("script (util-linux)");
    }
    let line = format!("{} agent {line}", env!("CARGO_BIN_EXE_godctl"));
    let mut command = desk.home.command("script");
    command.args(["-qec", &line, "/dev/null"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    Some(command.spawn().unwrap())
}

#[test]
fn status_is_watched_on_a_screen_of_its_own_until_q() {
    let desk = Desk::new();
    desk.told(&["status"]);
    let Some(child) = terminal(&desk, "status --watch") else { return };
    let mut child = Running(child);
    let mut keyboard = child.0.stdin.take().unwrap();
    let mut shown = child.0.stdout.take().unwrap();
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&seen).contains("no turn runs") {
        let count = shown.read(&mut piece).unwrap();
        assert!(count > 0, "{}", String::from_utf8_lossy(&seen));
        seen.extend_from_slice(&piece[..count]);
    }
    keyboard.write_all(b"q").unwrap();
    shown.read_to_end(&mut seen).unwrap();
    assert!(child.0.wait().unwrap().success());
    let seen = String::from_utf8_lossy(&seen);
    let (enter, leave) = (seen.find("\x1b[?1049h").unwrap(), seen.rfind("\x1b[?1049l").unwrap());
    assert!(enter < leave && seen.len() - leave < 30, "{seen:?}");
}

#[test]
fn status_is_watched_as_a_line_for_each_change() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let mut command = desk.command();
    command.args(["agent", "status", "--watch", "--json"]);
    let mut watching = Running(command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    let mut next = || -> Value { serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap() };
    assert_eq!(next()["running"], json!([]));
    let first = Running(desk.spawn(&["claude", "--session-id", "mine", "-p", "one"]));
    let mut status = next();
    while status["running"][0]["model"].is_null() {
        status = next();
    }
    let running = &status["running"][0];
    assert_eq!(
        (&running["session"], &running["turn"], &running["source"]),
        (&json!("mine"), &json!(1), &json!("cli"))
    );
    assert_eq!(running["holder"]["pid"], first.0.id());
    desk.go();
    while status["ended"] == json!([]) {
        status = next();
    }
    let ended = &status["ended"][0];
    assert_eq!(
        (&ended["session"], &ended["state"], &ended["cost_micro_usd"]),
        (&json!("mine"), &json!("idle"), &json!(500_000))
    );
    assert!(Path::new(status["store"].as_str().unwrap().trim_start_matches("sqlite:")).exists());
    signal(&watching.0, Signal::INT);
    assert_eq!(watching.0.wait().unwrap().code(), Some(0));
}
