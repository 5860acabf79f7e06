//! `godctl agent`, with programs in the place of the agents that note what they are given and print what the real ones
//! print.

mod acp;
mod around;
mod chat;
mod extremes;
mod flow;
mod installed;
mod leases;
mod template;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Home, Ran};

/// Whatever a busy machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A home with agents of our own making in it.
pub(crate) struct Desk {
    pub(crate) home: Home,
}

/// What a run of Claude Code prints, with one tool.
const CLAUDE: &str = r#"
cat <<'END'
a line of the sandbox
{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus","claude_code_version":"2.1.329"}
{"type":"assistant","message":{"id":"m1","content":[{"type":"thinking","thinking":"Two files."}]},"parent_tool_use_id":null}
{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}}]},"parent_tool_use_id":null}
{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":"a b","is_error":false}]},"parent_tool_use_id":null}
{"type":"assistant","message":{"id":"m2","content":[{"type":"text","text":"There are two."}]},"parent_tool_use_id":null}
{"type":"result","subtype":"success","is_error":false,"result":"There are two.","total_cost_usd":0.25,"usage":{"input_tokens":10,"output_tokens":4}}
END
"#;

impl Desk {
    pub(crate) fn new() -> Self {
        Self { home: Home::new() }
    }

    /// Puts a program on the desk that notes its arguments, its input and the names of its variables, and then does
    /// `body`. `SESSION` in what it prints becomes the id that it was given.
    pub(crate) fn agent(&self, name: &str, body: &str) -> &Self {
        let seen = self.home.path().join("seen");
        fs::create_dir_all(&seen).unwrap();
        let seen = seen.display();
        let script = format!(
            "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '1.2.3 (fake)'; exit; fi\n\
             for word in \"$@\"; do printf '%s\\n' \"$word\"; done > {seen}/arguments\n\
             env | sed 's/=.*//' | sort > {seen}/variables\npwd > {seen}/directory\ncat > {seen}/input\n\
             session=$(printf '%s\\n' \"$@\" | sed -n 's/^--session-id=//p; s/^--resume=//p')\nrun() {{ {body}\n}}\n\
             run | sed -u \"s/SESSION/$session/\"\n"
        );
        let path = self.home.write(&format!("bin/{name}"), &script);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self
    }

    pub(crate) fn seen(&self, what: &str) -> String {
        fs::read_to_string(self.home.path().join("seen").join(what)).unwrap()
    }

    pub(crate) fn start(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut child = self.spawn(args);
        // A command line that is refused reads nothing.
        drop(child.stdin.take().unwrap().write_all(input));
        let output: Output = child.wait_with_output().unwrap();
        output.into()
    }

    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.command();
        command.args(["agent", "start"]).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// `godctl`, where the agents of this desk are found, and no others.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.home.command("godctl");
        let bin = self.home.path().join("bin");
        let mut path = vec![bin];
        path.extend(["/usr/local/bin", "/usr/bin", "/bin"].map(PathBuf::from));
        command
            .env("PATH", std::env::join_paths(path).unwrap())
            .env("CLAUDECODE", "1")
            .env("CLAUDE_CODE_ENTRYPOINT", "cli")
            .env("ANTHROPIC_API_KEY", "marker-of-a-secret")
            .env("OPENAI_API_KEY", "another-marker");
        command
    }
}

#[test]
fn claude_gets_the_prompt_and_its_answer_comes_out() {
    let desk = Desk::new();
    desk.agent("claude", CLAUDE);
    let ran = desk.start(&["claude", "-p", "/count -the @files", "--access", "edit"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "There are two.\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("Bash  ls"), "{}", ran.stderr);
    assert_eq!(desk.seen("input"), "/count -the @files");
    let arguments = desk.seen("arguments");
    let expected = "-p\n--output-format\nstream-json\n--verbose\n--include-partial-messages\n--permission-mode\nacceptEdits\n";
    assert!(arguments.starts_with(expected) && !arguments.contains("count"), "{arguments}");
    let variables = desk.seen("variables");
    let has = |name: &str| variables.lines().any(|line| line == name);
    assert!(has("ANTHROPIC_API_KEY") && has("PATH") && has("HOME"));
    assert!(!has("OPENAI_API_KEY") && !has("CLAUDECODE") && !has("CLAUDE_CODE_ENTRYPOINT"), "{variables}");
}

#[test]
fn json_is_a_line_for_each_event_and_each_is_valid() {
    let desk = Desk::new();
    desk.agent("claude", CLAUDE);
    let ran = desk.start(&["claude", "--json"], b"count the files");
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let types: Vec<_> = events.iter().map(|event| event["event_type"].as_str().unwrap()).collect();
    assert_eq!(
        types,
        [
            "agent.session.started",
            "agent.thinking",
            "agent.tool.invoked",
            "agent.tool.completed",
            "agent.response.completed",
            "agent.session.ended"
        ]
    );
    let file = desk.home.write("events.jsonl", &ran.stdout);
    let checked = desk.home.godctl(&["bus", "validate", file.to_str().unwrap()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");
    let response = &events[4]["payload"];
    assert_eq!(response["response"], "There are two.");
    assert_eq!((&response["tokens_used"], &response["cost_usd"]), (&Value::from(14), &Value::from(0.25)));
    assert!(events.iter().all(|event| event["correlation_ids"] == events[0]["correlation_ids"]));
    assert_eq!(
        events[0]["payload"]["session_key"], events[0]["payload"]["session_id"],
        "claude takes our id"
    );
}

#[test]
fn gemini_and_codex_are_spoken_to_in_their_own_ways() {
    let desk = Desk::new();
    desk.agent(
        "gemini",
        r#"echo '{"type":"init","session_id":"SESSION","model":"m"}'
           echo '{"type":"message","role":"user","content":"count"}'
           echo '{"type":"message","role":"assistant","content":"Two.","delta":true}'
           echo '{"type":"result","status":"success","stats":{}}'"#,
    );
    let ran = desk.start(&["gemini", "-p", "count"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Two.\n"), "{}", ran.stderr);
    assert!(desk.seen("arguments").contains("-o\nstream-json\n--approval-mode\ndefault\n--skip-trust\n"));

    desk.agent(
        "codex",
        r#"echo '{"type":"thread.started","thread_id":"0199-a"}'
           echo '{"type":"item.completed","item":{"id":"i1","type":"agent_message","text":"Let me see."}}'
           echo '{"type":"error","message":"Reconnecting... 1/5"}'
           echo '{"type":"item.completed","item":{"id":"i2","type":"agent_message","text":"Two."}}'
           echo '{"type":"turn.completed","usage":{"input_tokens":1,"output_tokens":1}}'"#,
    );
    let directory = desk.home.path().join("work");
    fs::create_dir(&directory).unwrap();
    let ran = desk.start(&["codex", "-p", "count", "--cwd", directory.to_str().unwrap()], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "Two.\n"), "{}", ran.stderr);
    let directory = directory.canonicalize().unwrap();
    let directory = directory.to_str().unwrap();
    assert!(
        desk.seen("arguments")
            .contains(&format!("--skip-git-repo-check\n-C\n{directory}\n-s\nread-only\n-\n"))
    );
    assert_eq!(desk.seen("directory").trim_end(), directory);
}

#[test]
fn a_huge_prompt_arrives_byte_for_byte() {
    let desk = Desk::new();
    desk.agent("claude", CLAUDE);
    let prompt: String = (0..700_000).map(|n| format!("{n:06} ü")).collect();
    let ran = desk.start(&["claude", "-p", "-"], prompt.as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(desk.seen("input") == prompt);
}

#[test]
fn echo_gives_the_prompt_back_without_an_agent() {
    let desk = Desk::new();
    let ran = desk.start(&["echo"], b"one\n\ntwo");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "one\n\ntwo\n"), "{}", ran.stderr);
}

#[test]
fn failures_have_their_exit_codes_and_say_what_to_do() {
    let desk = Desk::new();
    let ran = desk.start(&["claude", "-p", "x"], b"");
    assert_eq!(ran.code, Some(69));
    assert!(ran.stderr.contains("agents.claude_program"), "{}", ran.stderr);

    desk.agent("gemini", "").agent("claude", "");
    let failing = desk.home.path().join("bin/gemini");
    fs::write(&failing, "#!/bin/sh\necho too many requests >&2\nexit 173\n").unwrap();
    let ran = desk.start(&["gemini", "-p", "x"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(75), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("too many requests"), "{}", ran.stderr);

    fs::write(&failing, "#!/bin/sh\necho \"bad key $ANTHROPIC_API_KEY\" >&2\nexit 1\n").unwrap();
    let failing_claude = desk.home.path().join("bin/claude");
    fs::copy(&failing, &failing_claude).unwrap();
    let ran = desk.start(&["claude", "-p", "x", "--json"], b"");
    assert_eq!(ran.code, Some(1));
    assert!(!format!("{ran:?}").contains("marker-of-a-secret"), "{ran:?}");
    assert!(ran.stdout.contains("\"agent.error\""), "{}", ran.stdout);

    for (args, says) in [
        (&["siri", "-p", "x"][..], "claude, gemini, codex, agy, echo, ollama, openai, vllm, xai"),
        (&["claude", "-p", " "], "the prompt is empty"),
        (&["codex", "-p", "x", "--budget-usd", "1"], "codex has no budget"),
        (&["claude", "-p", "x", "--budget-usd", "nan"], "more than 0"),
        (&["claude", "-p", "x", "--file", "y"], "cannot be used with"),
    ] {
        let ran = desk.start(args, b"");
        assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{args:?}: {}", ran.stderr);
    }
    let ran = desk.start(&["claude", "-p", "x", "--cwd", "/no/such/place"], b"");
    assert!(ran.code == Some(1) && ran.stderr.contains("--cwd /no/such/place"), "{}", ran.stderr);
}

#[test]
fn an_interrupt_stops_the_agent_and_all_that_it_started() {
    let desk = Desk::new();
    desk.agent(
        "claude",
        r#"sleep 600 & echo $! > seen/new; mv seen/new seen/pid
           echo '{"type":"system","subtype":"init","session_id":"SESSION"}'; wait"#,
    );
    let child = desk.spawn(&["claude", "-p", "x", "--cwd", desk.home.path().to_str().unwrap()]);
    let started = desk.home.path().join("seen/pid");
    let pid = loop {
        if let Ok(text) = fs::read_to_string(&started) {
            break text.trim().to_owned();
        }
        std::thread::yield_now();
    };
    let godctl = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(godctl, Signal::INT).unwrap();
    drop(child.wait_with_output().map(|output| {
        assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    }));
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
}

#[test]
fn providers_tell_what_is_installed() {
    let desk = Desk::new();
    desk.agent("codex", "");
    let program = format!("agents.codex_program={}", desk.home.path().join("bin/codex").display());
    let ran = desk.home.godctl(&[
        "-c",
        &program,
        "-c",
        "agents.claude_program=no-such",
        "agent",
        "providers",
        "--json",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&found[0]["name"], &found[0]["program"]), (&Value::from("claude"), &Value::Null));
    assert_eq!(
        (&found[2]["name"], &found[2]["version"]),
        (&Value::from("codex"), &Value::from("1.2.3 (fake)"))
    );
    assert_eq!(found[2]["abilities"]["resume"], true);
    let ran =
        desk.home.godctl(&["-c", &program, "-c", "agents.claude_program=no-such", "agent", "providers"]);
    assert!(ran.stdout.contains("claude   -                          not installed"), "{}", ran.stdout);
}
