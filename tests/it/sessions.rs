//! Sessions of `godctl agent`, from the command line: kept, gone on with, protected, found, deleted, added up.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::{
    agent::Desk,
    missing::missing,
    support::{Ran, Running, until},
};

/// A turn of Claude Code that answers with its prompt's length.
const CLAUDE: &str = r#"
echo '{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus"}'
echo '{"type":"result","subtype":"success","is_error":false,"result":"canary-of-an-answer","total_cost_usd":COST}'
"#;

fn claude(cost: &str) -> String {
    CLAUDE.replace("COST", cost)
}

impl Desk {
    fn sessions(&self, args: &[&str]) -> Ran {
        self.home.godctl(&[&["agent", "sessions"], args].concat())
    }

    /// All that there are, latest first.
    fn all(&self) -> Vec<Value> {
        let ran = self.sessions(&["list", "--json"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn data(&self) -> std::path::PathBuf {
        self.home.path().join(".local/share/godctl")
    }
}

fn ok(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_session_is_begun_with_an_id_gone_on_with_and_continued() {
    let desk = Desk::new();
    let id = "0199f0a2-0000-7000-8000-000000000001";
    desk.agent("claude", &claude("0.10"));
    ok(&desk.start(&["claude", "--session-id", id, "--tag", "release", "-p", "one"], b""));
    assert!(desk.seen("arguments").contains(&format!("--session-id={id}\n")));

    desk.agent("claude", &claude("0.25"));
    ok(&desk.start(&["claude", "--session-id", "0199f0a2", "-p", "two"], b""));
    assert!(desk.seen("arguments").contains(&format!("--resume={id}\n")), "the beginning of an id is enough");
    ok(&desk.start(&["claude", "--continue", "-p", "three"], b""));
    assert!(desk.seen("arguments").contains(&format!("--resume={id}\n")), "by its id, never 'the latest'");
    let all = desk.all();
    assert_eq!(all.len(), 1);
    let session = &all[0];
    assert_eq!((&session["prompt_count"], &session["state"]), (&Value::from(3), &Value::from("idle")));
    assert_eq!(session["words"]["last_prompt"], "three");
    assert_eq!((&session["native_id"], &session["model"]), (&Value::from(id), &Value::from("claude-opus")));
    assert_eq!(session["tags"], serde_json::json!(["release"]));
    assert_eq!(session["totals"]["cost_micro_usd"], 250_000, "0.10, then 0.15, then nothing");

    // Another directory has sessions of its own.
    let elsewhere = desk.home.path().to_str().unwrap();
    let ran = desk.start(&["claude", "--continue", "--cwd", elsewhere, "-p", "x"], b"");
    ok(&ran);
    assert!(ran.stderr.contains("no session to continue"), "{}", ran.stderr);
    assert_eq!(desk.all().len(), 2);
    let ran = desk.start(&["claude", "--session-id", id, "--cwd", elsewhere, "-p", "x"], b"");
    assert_eq!(ran.code, Some(2));
    assert!(ran.stderr.contains("leave --cwd out"), "{}", ran.stderr);
    let ran = desk.start(&["codex", "--session-id", id, "-p", "x"], b"");
    assert!(ran.code == Some(2) && ran.stderr.contains("one of claude"), "{}", ran.stderr);
}

#[test]
fn ids_that_could_be_flags_are_refused_before_anything_runs() {
    let desk = Desk::new();
    desk.agent("claude", &claude("0"));
    for id in ["--dangerously-skip-permissions", "../x", "a b", ""] {
        let ran = desk.start(&["claude", &format!("--session-id={id}"), "-p", "x"], b"");
        assert_eq!(ran.code, Some(2), "{id}: {}", ran.stderr);
    }
    let ran = desk.start(&["claude", "--session-id", "a", "--continue", "-p", "x"], b"");
    assert_eq!(ran.code, Some(2));
    assert!(!desk.home.path().join("seen/arguments").exists());
    assert!(!desk.data().exists(), "and nothing is stored");
}

#[test]
fn another_conversation_than_the_one_asked_for_is_a_failure_and_changes_nothing() {
    let desk = Desk::new();
    desk.agent("claude", &claude("0.10"));
    ok(&desk.start(&["claude", "--session-id", "mine", "-p", "one"], b""));
    let native = desk.all()[0]["native_id"].clone();
    desk.agent("claude", &claude("9").replace("SESSION", "somebody-elses"));
    let ran = desk.start(&["claude", "--session-id", "mine", "-p", "two"], b"");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("somebody-elses"), "{}", ran.stderr);
    let session = &desk.all()[0];
    assert_eq!(
        (&session["native_id"], &session["failure_class"]),
        (&native, &Value::from("session_mismatch"))
    );

    let lost = "echo 'No conversation found with session ID: x' >&2; exit 1";
    desk.agent(
        "claude",
        &format!(
            "if grep -q resume {}/seen/arguments; then {lost}; fi; {}",
            desk.home.path().display(),
            claude("1")
        ),
    );
    let ran = desk.start(&["claude", "--session-id", "mine", "-p", "three"], b"");
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert_eq!(desk.all()[0]["native_id"], native);
    let ran = desk.start(&["claude", "--session-id", "mine", "--on-missing", "new", "-p", "four"], b"");
    ok(&ran);
    assert!(ran.stderr.contains("begins a new one"), "{}", ran.stderr);
    assert_ne!(desk.all()[0]["native_id"], native);
}

/// A claude that tells its id and then waits for the file `go`.
fn waiting(desk: &Desk) -> String {
    let go = desk.home.path().join("go");
    let lines = claude("0.5");
    let (init, rest) = lines.trim_start().split_once('\n').unwrap();
    format!("{init}; while [ ! -e {} ]; do sleep 0.05; done\n{rest}", go.display())
}

fn running(desk: &Desk) -> Value {
    until("it runs", || {
        let session = desk.all().into_iter().next()?;
        let is_known = !session["native_id"].is_null() && !session["run"]["leader"].is_null();
        is_known.then_some(session)
    })
}

#[test]
fn the_agents_id_survives_kill_9_and_the_next_start_cleans_up_and_goes_on() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let mut first = Running(desk.spawn(&["claude", "--session-id", "mine", "-p", "one"]));
    let session = running(&desk);
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert_eq!(desk.all()[0]["native_id"], session["native_id"]);
    let leader = session["run"]["leader"]["pid"].as_i64().unwrap();
    assert!(Path::new(&format!("/proc/{leader}")).exists(), "its agent was left behind");

    fs::write(desk.home.path().join("go"), "").unwrap();
    desk.agent("claude", &claude("0.5"));
    ok(&desk.start(&["claude", "--session-id", "mine", "-p", "two"], b""));
    let native = session["native_id"].as_str().unwrap();
    assert!(desk.seen("arguments").contains(&format!("--resume={native}\n")));
    let stat = fs::read_to_string(format!("/proc/{leader}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    assert_eq!(desk.all()[0]["state"], "idle");
}

#[test]
fn one_turn_of_a_session_at_a_time_and_one_agent_in_a_directory() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let first = Running(desk.spawn(&["claude", "--session-id", "mine", "-p", "one"]));
    running(&desk);
    for args in [
        &["claude", "--session-id", "mine", "-p", "two"][..],
        &["claude", "--session-id", "other", "-p", "x"],
    ] {
        let ran = desk.start(args, b"");
        assert_eq!(ran.code, Some(75), "{}", ran.stderr);
        assert!(ran.stderr.contains("is being worked on by process"), "{}", ran.stderr);
    }
    let ran = desk.sessions(&["rm", "mine", "--yes"]);
    assert_eq!(ran.code, Some(75), "{}", ran.stderr);
    let waiting = Running(desk.spawn(&["claude", "--session-id", "mine", "--wait", "-p", "two"]));
    fs::write(desk.home.path().join("go"), "").unwrap();
    for mut run in [first, waiting] {
        assert!(run.0.wait().unwrap().success());
    }
    let session = desk.all().into_iter().find(|session| session["id"] == "mine").unwrap();
    assert_eq!((&session["prompt_count"], &session["state"]), (&Value::from(2), &Value::from("idle")));
}

#[test]
fn an_interrupted_turn_is_stored_as_such_and_its_session_is_free() {
    let desk = Desk::new();
    desk.agent("claude", &waiting(&desk));
    let child = desk.spawn(&["claude", "--session-id", "mine", "-p", "one"]);
    running(&desk);
    let godctl = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(godctl, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(desk.all()[0]["state"], "interrupted");
    desk.agent("claude", &claude("1"));
    ok(&desk.start(&["claude", "--session-id", "mine", "-p", "two"], b""));
}

#[test]
fn a_missing_agent_leaves_no_session_running() {
    let desk = Desk::new();
    let ran = desk.start(&["claude", "-p", "x"], b"");
    assert_eq!(ran.code, Some(69), "{}", ran.stderr);
    let session = &desk.all()[0];
    assert_eq!(
        (&session["state"], &session["failure_class"]),
        (&Value::from("failed"), &Value::from("missing_executable"))
    );
}

#[test]
fn sessions_are_listed_shown_searched_exported_and_deleted() {
    let desk = Desk::new();
    desk.agent("claude", &claude("0.125"));
    ok(&desk.start(&["claude", "--session-id", "one", "--tag", "a", "-p", "the PARSER fails"], b""));
    ok(&desk.start(&["echo", "--session-id", "two"], b"hello\n\x1b[2Jthere"));
    let ran =
        desk.sessions(&["list", "--provider", "claude", "--tag", "a", "--state", "idle", "--since", "1h"]);
    ok(&ran);
    let line = ran.stdout.lines().nth(1).unwrap();
    let words: Vec<_> = line.split_whitespace().collect();
    assert_eq!(words[..5], ["one", "claude", "idle", "1", "$0.1250"], "{line}");
    assert!(line.ends_with("the PARSER fails") && ran.stdout.lines().count() == 2, "{}", ran.stdout);
    let ran = desk.sessions(&["show", "tw"]);
    ok(&ran);
    assert!(
        ran.stdout.contains("> hello\n> \u{fffd}[2Jthere") && !ran.stdout.contains('\x1b'),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("cost       ?"), "unknown is not 0: {}", ran.stdout);
    let ran = desk.sessions(&["search", "parser"]);
    ok(&ran);
    assert_eq!(ran.stdout, "one  claude  turn 1: the PARSER fails\n");
    assert_eq!(desk.sessions(&["search", "nothing of it"]).code, Some(1));
    let ran = desk.sessions(&["export", "one"]);
    let exported: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(exported["turns"][0]["words"]["response"], "canary-of-an-answer");

    let ran = desk.sessions(&["resume", "one", "-p", "again"]);
    assert_eq!(ran.code, Some(69), "no claude on this search path: {}", ran.stderr);
    let ran = desk.home.godctl(&["agent", "cost", "--by", "provider,day", "--json"]);
    ok(&ran);
    let costs: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&costs[0]["provider"], &costs[0]["cost_usd"]), (&Value::from("claude"), &Value::from(0.125)));
    assert_eq!((&costs[1]["provider"], &costs[1]["cost_usd"]), (&Value::from("echo"), &Value::Null));

    assert_eq!(desk.sessions(&["rm", "one"]).code, Some(2), "nobody is there to be asked");
    assert_eq!(desk.sessions(&["rm", "one", "nobody", "--yes"]).code, Some(1));
    assert_eq!(desk.all().len(), 2, "all or none");
    ok(&desk.sessions(&["rm", "one", "--yes"]));
    let ran = desk.sessions(&["prune", "--older-than", "0s", "--dry-run"]);
    assert_eq!(ran.stdout, "two\nwould delete 1\n");
    ok(&desk.sessions(&["prune", "--older-than", "0s", "--yes"]));
    assert_eq!(desk.all().len(), 0);
    let ran = desk.home.godctl(&["agent", "cost"]);
    assert!(ran.stdout.contains("echo") && !ran.stdout.contains("claude"), "{}", ran.stdout);
}

#[test]
fn a_session_tells_all_that_is_known_of_it_and_one_that_is_not_there_is_said() {
    let desk = Desk::new();
    desk.agent(
        "gemini",
        r#"echo '{"type":"init","session_id":"SESSION","model":"m"}'
           echo '{"type":"message","role":"assistant","content":"Two.","delta":true}'
           echo '{"type":"result","status":"success","stats":{}}'"#,
    );
    let id = "0199f0a2-0000-7000-8000-000000000001";
    for prompt in ["count", "again"] {
        ok(&desk.start(&["gemini", "--session-id", id, "--tag", "release", "-p", prompt], b""));
        let flag = if prompt == "count" { "--session-id" } else { "--resume" };
        assert!(desk.seen("arguments").contains(&format!("{flag}={id}\n")), "{}", desk.seen("arguments"));
    }
    desk.agent(
        "codex",
        r#"echo '{"type":"thread.started","thread_id":"t-77"}'
           echo '{"type":"item.completed","item":{"id":"i","type":"agent_message","text":"Two."}}'
           echo '{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":1}}'"#,
    );
    ok(&desk.start(&["codex", "--session-id", "mine", "-p", "count"], b""));
    ok(&desk.start(&["codex", "--session-id", "mine", "-p", "again"], b""));
    assert!(desk.seen("arguments").ends_with("resume\nt-77\n-\n"), "{}", desk.seen("arguments"));

    let ran = desk.sessions(&["show", id, "--json"]);
    ok(&ran);
    let session: Value = serde_json::from_str(&ran.stdout).unwrap();
    for (key, value) in [
        ("id", Value::from(id)),
        ("provider", "gemini".into()),
        ("state", "idle".into()),
        ("source", "cli".into()),
        ("native_id", id.into()),
        ("prompt_count", 2.into()),
        ("tags", serde_json::json!(["release"])),
    ] {
        assert_eq!(session[key], value, "{key}");
    }
    let time = |name: &str| session[name].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(time("created_at") <= time("updated_at"));
    assert_eq!(session["correlation_ids"].as_array().unwrap().len(), 2, "one for each prompt");
    let words = &session["words"];
    assert_eq!(
        (&words["last_prompt"], &words["last_response"]),
        (&Value::from("again"), &Value::from("Two."))
    );

    let listed = |args: &[&str]| desk.sessions(&[&["list", "--json"], args].concat()).stdout.lines().count();
    assert_eq!((listed(&[]), listed(&["--limit", "1"]), listed(&["--since", "7d"])), (2, 1, 2));
    let found = desk.sessions(&["search", "AGAIN", "--since", "7d", "--json"]);
    assert_eq!(found.stdout.lines().count(), 2, "of all agents: {found:?}");
    let ran = desk.sessions(&["resume", "nobody", "-p", "x"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("there is no session nobody"), "{}", ran.stderr);
}

#[test]
fn what_was_said_is_encrypted_and_its_key_is_needed_and_can_be_rotated() {
    let desk = Desk::new();
    desk.agent("claude", &claude("0.10"));
    let ran = desk.start(&["claude", "--session-id", "mine", "-p", "canary-of-a-prompt"], b"");
    ok(&ran);
    assert!(ran.stderr.contains("made a key"), "{}", ran.stderr);
    for entry in fs::read_dir(desk.data()).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(9).any(|window| window == b"canary-of"));
    }
    let keys = desk.data().join("session-keys");
    let ran = desk.home.godctl(&["agent", "keys", "rotate", "--forget-old"]);
    ok(&ran);
    assert!(ran.stdout.starts_with("encrypted 2 anew with key k"), "{}", ran.stdout);
    assert_eq!(desk.all()[0]["words"]["last_prompt"], "canary-of-a-prompt");
    let listed = desk.home.godctl(&["agent", "keys", "list"]);
    assert_eq!(listed.stdout.lines().count(), 1);

    let kept = desk.home.path().join("kept");
    fs::rename(&keys, &kept).unwrap();
    let ran = desk.sessions(&["list"]);
    assert_eq!(ran.code, Some(78), "{}", ran.stderr);
    assert!(ran.stderr.contains("GODCTL_SESSION_KEYS"), "{}", ran.stderr);
    assert!(!keys.exists(), "no new key is left behind");
    let key = fs::read_to_string(&kept).unwrap().lines().last().unwrap().to_owned();
    let given = desk
        .home
        .command("godctl")
        .env("GODCTL_SESSION_KEYS", &key)
        .args(["agent", "sessions", "list"])
        .output()
        .unwrap();
    assert!(given.status.success() && !String::from_utf8_lossy(&given.stderr).contains(&key));
    fs::rename(&kept, &keys).unwrap();
    let mut open = fs::metadata(&keys).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut open, 0o644);
    fs::set_permissions(&keys, open).unwrap();
    let ran = desk.sessions(&["list"]);
    assert!(ran.code == Some(78) && ran.stderr.contains("chmod 600"), "{}", ran.stderr);
}

#[test]
fn somebody_at_the_keyboard_is_asked_for_one_prompt_after_another() {
    let desk = Desk::new();
    // `script` gives the program a terminal; what it reads goes there.
    if Command::new("script").arg("--version").output().is_err() {
        return missing("script (util-linux)").unwrap_or_default();
    }
    let godctl = env!("CARGO_BIN_EXE_godctl");
    let mut command = desk.home.command("script");
    let line = format!("{godctl} agent start echo --session-id mine");
    let mut child = Running(
        command
            .args(["-qec", &line, "/dev/null"])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap(),
    );
    use std::io::Write as _;
    let mut keyboard = child.0.stdin.take().unwrap();
    for (number, prompt) in ["one", "two"].into_iter().enumerate() {
        writeln!(keyboard, "{prompt}").unwrap();
        until("the turn is over", || {
            let session = desk.all().into_iter().next()?;
            (session["totals"]["turns"] == number + 1).then_some(())
        });
    }
    writeln!(keyboard, "/exit").unwrap();
    assert!(child.0.wait().unwrap().success());
    let session = &desk.all()[0];
    assert_eq!(
        (&session["prompt_count"], &session["words"]["last_prompt"]),
        (&Value::from(2), &Value::from("two"))
    );
}
