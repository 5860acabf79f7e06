//! `godctl agent run`: several agents on one task. Most of them are shells, whose prompts are what they do.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::Desk;
use crate::support::{Ran, Running, read, until};

/// Three shells whose output is their answer; what they fail at may be tried again.
const SHELLS: &str = "
[agents.providers.red]
kind = 'command'
program = 'sh'
parser = 'text'
[agents.providers.green]
kind = 'command'
program = 'sh'
parser = 'text'
[agents.providers.blue]
kind = 'command'
program = 'sh'
parser = 'text'
";

/// A desk with shells, and a directory for them to work in.
struct Floor {
    desk: Desk,
    work: PathBuf,
}

impl Floor {
    fn new() -> Self {
        let desk = Desk::new();
        desk.home.write(".config/godctl/config.toml", SHELLS);
        let work = desk.home.path().join("work");
        fs::create_dir(&work).unwrap();
        Self { desk, work }
    }

    fn flow(&self, text: &str) -> &Self {
        self.desk.home.write("flow.toml", text);
        self
    }

    fn spawn(&self, args: &[&str]) -> Child {
        let mut command = self.desk.command();
        command.args(["agent", "run"]).arg(self.desk.home.path().join("flow.toml"));
        command.arg("--cwd").arg(&self.work).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.spawn(args).wait_with_output().unwrap().into()
    }

    /// All events of this type on the bus.
    fn told(&self, event_type: &str) -> Vec<Value> {
        let ran = self.desk.home.godctl(&["bus", "export", "--bind", event_type]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn sessions(&self) -> Vec<Value> {
        let ran = self.desk.home.godctl(&["agent", "sessions", "list", "--json"]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn touch(&self, name: &str) {
        fs::write(self.work.join(name), "").unwrap();
    }

    /// Lines of a file that steps write to.
    fn count(&self, name: &str) -> usize {
        fs::read_to_string(self.work.join(name)).unwrap_or_default().lines().count()
    }
}

fn interrupt(child: &Child) {
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
}

#[test]
fn three_agents_answer_at_once_and_one_event_has_all_three_with_the_failure_marked() {
    let floor = Floor::new();
    // Each waits until all of them have begun.
    let step = |name: &str, provider: &str, then: &str| {
        format!(
            "[[step]]\nname = '{name}'\nprovider = '{provider}'\nshared_dir = true\nprompt = '''
            touch at-{name}
            until [ -e at-one ] && [ -e at-two ] && [ -e at-three ]; do sleep 0.02; done
            {then}'''\n"
        )
    };
    floor.flow(
        &[
            "name = 'trio'\n".to_owned(),
            step("one", "red", "echo un"),
            step("two", "green", "echo deux"),
            step("three", "blue", "echo 'out of paper' >&2; exit 3"),
            "[aggregate]\nformat = 'json'\n".to_owned(),
        ]
        .concat(),
    );
    let ran = floor.run(&[]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(ran.stderr.contains("✓ one    red") && ran.stderr.contains("✗ three  blue"), "{}", ran.stderr);
    assert!(
        ran.stderr.contains("error: step three failed: ") && ran.stderr.contains("--resume "),
        "{}",
        ran.stderr
    );
    let result: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&result["failed"], &result["parts"][1]["response"]), (&json!(1), &json!("deux")));

    let aggregates = floor.told("agent.aggregate.completed");
    assert_eq!(aggregates.len(), 1);
    let payload = &aggregates[0]["payload"];
    assert_eq!((&payload["failed"], &payload["success"]), (&json!(1), &json!(false)));
    let parts: Vec<_> = payload["parts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            let field = |name: &str| part[name].as_str().unwrap_or_default();
            (
                field("step"),
                field("provider"),
                part["success"].as_bool().unwrap(),
                field("response"),
                field("class"),
            )
        })
        .collect();
    assert_eq!(
        parts,
        [
            ("one", "red", true, "un", ""),
            ("two", "green", true, "deux", ""),
            ("three", "blue", false, "", "process_failed"),
        ]
    );
    assert!(payload["parts"][2]["error"].as_str().unwrap().contains("out of paper"), "{payload}");

    // Everything goes back to the run.
    let all = floor.told("agent.#");
    let root = payload["run_id"].as_str().unwrap();
    let started = &all[0];
    assert_eq!((&started["event_type"], &started["event_id"]), (&json!("agent.flow.started"), &json!(root)));
    assert!(all[1..].iter().all(|event| event["correlation_ids"][0] == root), "{all:#?}");
    let steps = floor.told("agent.flow.step.completed");
    let ids: Vec<_> = aggregates[0]["correlation_ids"].as_array().unwrap()[1..].to_vec();
    assert!(ids.len() == 3 && steps.iter().all(|step| ids.contains(&step["event_id"])), "{steps:#?}");
    let lines: String = all.iter().map(|event| format!("{event}\n")).collect();
    let file = floor.desk.home.write("events.jsonl", &lines);
    let checked = floor.desk.home.godctl(&["bus", "validate", file.to_str().unwrap()]);
    assert_eq!(checked.code, Some(0), "{checked:?}");

    // A session for each, found by the flow, and one for the run.
    let sessions = floor.sessions();
    assert_eq!(sessions.len(), 4);
    assert!(sessions.iter().all(|session| session["tags"][1] == "flow:trio"), "{sessions:#?}");
    let run = sessions.iter().find(|session| session["provider"] == "flow").unwrap();
    assert_eq!((&run["id"], &run["state"]), (&json!(root), &json!("failed")));
    let ran = floor.desk.home.godctl(&["agent", "sessions", "resume", root, "-p", "x"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("is a run of a flow"), "{}", ran.stderr);
}

#[test]
fn one_job_never_runs_two_steps_and_those_who_may_write_share_no_directory() {
    let floor = Floor::new();
    let steps = |more: &str| -> String {
        (0..4)
            .map(|at| {
                format!(
                    "[[step]]\nname = 's{at}'\nprovider = 'red'\n{more}
            prompt = 'mkdir busy || exit 9; sleep 0.05; rmdir busy; echo {at}'\n"
                )
            })
            .collect()
    };
    let ran = floor.flow(&steps("shared_dir = true")).run(&["--jobs", "1"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "## s0\n\n0\n\n## s1\n\n1\n\n## s2\n\n2\n\n## s3\n\n3\n");
    let ran = floor.flow(&steps("")).run(&["--jobs", "4"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);

    // A stranger at work in the directory is waited for, and it is said.
    let mut command = floor.desk.command();
    command.args(["agent", "start", "red", "--cwd"]).arg(&floor.work);
    command.args(["-p", "echo > begun; until [ -e go ]; do sleep 0.02; done"]).stdout(Stdio::null());
    let mut stranger = Running(command.spawn().unwrap());
    until("the stranger works", || (floor.count("begun") == 1).then_some(()));
    let mut child = floor.spawn(&["--jobs", "1"]);
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let waits =
        |line: &std::io::Result<String>| line.as_ref().unwrap().contains("s0  red  waits: the directory ");
    assert!(lines.any(|line| waits(&line)));
    floor.touch("go");
    assert_eq!(lines.filter(|line| waits(line)).count(), 0, "once is enough");
    assert!(child.wait().unwrap().success() && stranger.0.wait().unwrap().success());
}

/// A turn of Claude Code that waits in its middle.
const CLAUDE: &str = r#"echo '{"type":"system","subtype":"init","session_id":"SESSION","model":"claude-opus"}'
WAIT
echo '{"type":"result","subtype":"success","is_error":false,"result":"three","total_cost_usd":0.5}'"#;

#[test]
fn after_kill_9_it_goes_on_at_the_step_where_it_was() {
    let floor = Floor::new();
    floor.desk.agent("claude", &CLAUDE.replace("WAIT", "while true; do sleep 0.05; done"));
    floor.flow(
        "[defaults]
        provider = 'red'
        [[step]]
        name = 'first'
        prompt = 'echo x >> first; echo one'
        [[step]]
        name = 'side'
        shared_dir = true
        prompt = 'echo x >> side; echo two'
        [[step]]
        name = 'slow'
        provider = 'claude'
        needs = ['first']
        prompt = 'after {{ steps.first.text }}'
        [[step]]
        name = 'last'
        needs = ['slow', 'side']
        prompt = 'echo x >> last; echo {{ steps.first.text }} {{ steps.side.text }} {{ steps.slow.text }}'",
    );
    let mut first = Running(floor.spawn(&[]));
    let session = until("it runs", || {
        let all = floor.sessions();
        let done = |name: &str| {
            all.iter().any(|session| session["extra"]["flow.step"] == name && session["state"] == "idle")
        };
        let slow = all.iter().find(|session| session["extra"]["flow.step"] == "slow")?;
        let is_known = !slow["native_id"].is_null() && !slow["run"]["leader"].is_null();
        (is_known && done("side") && done("first")).then(|| slow.clone())
    });
    assert_eq!(floor.desk.seen("input"), "after one");
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let leader = session["run"]["leader"]["pid"].as_i64().unwrap();
    assert!(Path::new(&format!("/proc/{leader}")).exists(), "its agent was left behind");

    floor.desk.agent("claude", &CLAUDE.replace("WAIT", ""));
    let ran = floor.run(&[]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "one two three\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("2 of 4 steps are done; --new begins anew"), "{}", ran.stderr);
    assert_eq!((floor.count("first"), floor.count("side"), floor.count("last")), (1, 1, 1));
    let native = session["native_id"].as_str().unwrap();
    assert!(floor.desk.seen("arguments").contains(&format!("--resume={native}\n")));
    assert!(floor.desk.seen("input").starts_with("You were interrupted."), "{}", floor.desk.seen("input"));
    let stat = fs::read_to_string(format!("/proc/{leader}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
    let aggregates = floor.told("agent.aggregate.completed");
    assert_eq!((aggregates.len(), &aggregates[0]["payload"]["cost_usd"]), (1, &json!(0.5)));
    let started = floor.told("agent.flow.started");
    let resumed: Vec<_> = started.iter().map(|event| event["payload"]["resumed"].clone()).collect();
    assert_eq!(resumed, [json!(false), json!(true)]);

    // What is finished is begun anew.
    let ran = floor.run(&[]);
    assert_eq!((ran.code, floor.count("first")), (Some(0), 2), "{}", ran.stderr);
}

const WAITING: &str = "
[inputs.who]
default = 'ada'
[[step]]
name = 'before'
provider = 'red'
prompt = 'echo x >> before; echo {{ inputs.who }}'
[[step]]
name = 'wait'
provider = 'red'
needs = ['before']
prompt = 'echo x >> begun; until [ -e go ]; do sleep 0.02; done; echo {{ steps.before.text }}'
";

#[test]
fn ctrl_c_stops_a_run_that_can_be_gone_on_with_unless_the_flow_was_changed() {
    let floor = Floor::new();
    let child = floor.flow(WAITING).spawn(&["--input", "who=bob"]);
    until("it waits", || (floor.count("begun") == 1).then_some(()));
    let busy = floor.run(&["--input", "who=bob"]);
    assert_eq!(busy.code, Some(75), "{}", busy.stderr);
    assert!(busy.stderr.contains("is being worked on by process"), "{}", busy.stderr);
    interrupt(&child);
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(130), ""), "{}", ran.stderr);
    assert!(ran.stderr.contains("error: stopped; go on with: godctl agent run "), "{}", ran.stderr);
    assert!(ran.stderr.contains(&format!("--cwd {} --resume ", floor.work.display())), "{}", ran.stderr);
    assert_eq!(floor.told("agent.aggregate.completed").len(), 0);
    floor.touch("go");

    let changed = WAITING.replace("echo {{ steps.before", "echo changed {{ steps.before");
    for args in [&["--input", "who=bob"][..], &["--resume"]] {
        let ran = floor.flow(&changed).run(args);
        assert_eq!(ran.code, Some(2), "{}", ran.stderr);
        assert!(
            ran.stderr.contains("the flow has changed since") && ran.stderr.contains("--new"),
            "{}",
            ran.stderr
        );
    }
    let ran = floor.run(&["--resume", "--input", "who=cleo"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("with other inputs"), "{}", ran.stderr);
    assert_eq!((floor.count("before"), floor.count("begun")), (1, 1), "nothing was run");
    let ran = floor.run(&["--input", "who=cleo"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "changed cleo\n"), "another task: {}", ran.stderr);
    let ran = floor.run(&["--input", "who=bob", "--new"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "changed bob\n"), "{}", ran.stderr);

    // Put back, it goes on with what it was asked for.
    let ran = floor.flow(&format!("# put back\n{WAITING}")).run(&["--resume"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "bob\n"), "{}", ran.stderr);
    assert_eq!(floor.count("before"), 3, "one for each run");
    let ran = floor.run(&["--resume"]);
    assert!(ran.code == Some(1) && ran.stderr.contains("leave --resume out"), "{}", ran.stderr);
}

#[test]
fn what_failed_is_tried_again_by_resume_and_skipped_steps_follow() {
    let floor = Floor::new();
    floor.flow(
        "[defaults]
        provider = 'red'
        [[step]]
        name = 'good'
        prompt = 'echo x >> good; echo fine'
        [[step]]
        name = 'bad'
        needs = ['good']
        prompt = 'echo x >> bad; [ -e mended ] || exit 4; echo mended'
        [[step]]
        name = 'after'
        needs = ['bad']
        prompt = 'echo {{ steps.good.text }} {{ steps.bad.text }}'",
    );
    let ran = floor.run(&["--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    let events: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let states: Vec<_> = events
        .iter()
        .filter(|event| event["event_type"] == "agent.flow.step.completed")
        .map(|event| {
            (event["payload"]["step"].as_str().unwrap(), event["payload"]["state"].as_str().unwrap())
        })
        .collect();
    assert_eq!(states, [("good", "done"), ("bad", "failed"), ("after", "skipped")]);
    assert!(ran.stderr.contains("- after  red  skipped, as bad failed"), "{}", ran.stderr);
    let run = events[0]["payload"]["run_id"].as_str().unwrap();
    floor.touch("mended");
    let ran = floor.run(&["--resume", run.get(..13).unwrap()]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "fine mended\n"), "{}", ran.stderr);
    assert_eq!((floor.count("good"), floor.count("bad")), (1, 2));
    let ran = floor.run(&["--resume", run]);
    assert!(
        ran.code == Some(1) && ran.stderr.contains("is finished; begin anew with --new"),
        "{}",
        ran.stderr
    );
}

#[test]
fn a_flow_that_makes_no_sense_is_refused_before_anything_is_stored() {
    let floor = Floor::new();
    let bad = "[[step]]\nname = 'a'\nprovider = 'echo'\nprompt = 'x'\n";
    for (text, args, says) in [
        ("[[step]]\nname = 'a'\n", &[][..], "step a has no provider"),
        ("nonsense", &[], "TOML parse error at line 1"),
        (&format!("{bad}needs = ['a']\n"), &[], "in a circle: a -> a"),
        (&format!("{bad}worktree = true\n"), &[], "echo has no tools"),
        (
            "[[step]]\nname = 'a'\nprovider = 'red'\naccess = 'full'\nprompt = 'x'",
            &[],
            "red has no levels of access",
        ),
        (&format!("{bad}cwd = 'no/such'\n"), &[], "no such directory"),
        (&format!("{bad}prompt_file = 'no.md'\n"), &[], "leave one out"),
        (bad, &["--input", "x=1", "--input", "x=2"], "given twice"),
        (bad, &["--input", "x"], "write NAME=VALUE"),
        (bad, &["--resume", "--new"], "cannot be used with"),
    ] {
        let ran = floor.flow(text).run(args);
        assert_eq!(ran.code, Some(2), "{text}: {}", ran.stderr);
        assert!(ran.stderr.contains(says), "{text}: {}", ran.stderr);
    }
    let ran = floor.flow(bad).run(&["--dry-run"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(!floor.desk.home.path().join(".local").exists(), "nothing is stored");
    let ran = floor.run(&["--input", "x=1"]);
    assert!(ran.code == Some(2) && ran.stderr.contains("has no input 'x'"), "{}", ran.stderr);
    let ran = floor.flow(&format!("[inputs.topic]\n{bad}")).run(&[]);
    assert!(ran.code == Some(2) && ran.stderr.contains("--input topic=VALUE"), "{}", ran.stderr);
    assert_eq!(floor.sessions().len(), 0);
}

#[test]
fn the_flow_that_is_shipped_runs_anywhere_and_its_input_may_come_from_a_file() {
    let floor = Floor::new();
    let change = floor.desk.home.write("change.diff", "- {{ inputs.change }}\n+ $(b)");
    floor.flow(&read("assets/flows/review.toml"));
    let input = format!("change=@{}", change.display());
    let ran = floor.run(&["--input", &input]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let asked = "Which bugs does this change bring? - {{ inputs.change }}\n+ $(b)";
    let style = "Is this change easy to read? - {{ inputs.change }}\n+ $(b)";
    let tests = format!("Which tests would find these bugs? {asked}");
    assert_eq!(ran.stdout, format!("Sum up in ten lines:\n{asked}\n{style}\n{tests}\n"));
    let ran = floor.run(&["--dry-run"]);
    assert_eq!(
        ran.stdout,
        "review: three looks at one change, and one answer\n\
         WAVE  STEP       AGENT  ACCESS  NEEDS\n   1  bugs       echo   plan\n   1  style      echo   plan\n\
         \x20  2  tests      echo   plan    bugs\n   3  aggregate  echo   plan    bugs, style, tests\n\
         put together from bugs, style, tests by echo\n"
    );
}

#[test]
fn a_bus_that_is_away_stops_no_flow_and_what_is_said_is_stored_nowhere_in_the_clear() {
    let floor = Floor::new();
    floor.flow(
        "[inputs.secret]\n[[step]]\nname = 'a'\nprovider = 'echo'\nprompt = 'canary-of-a-prompt {{ inputs.secret }}'\n",
    );
    let args = ["--input", "secret=canary-of-an-input"];
    let said = "canary-of-a-prompt canary-of-an-input\n";
    for url in ["sqlite:/proc/nowhere/bus.db", "amqp://127.0.0.1:9/%2f"] {
        let ran = floor.run(&[&args[..], &["--new", "-c", &format!("bus.url={url}")]].concat());
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), said), "{}", ran.stderr);
        assert!(ran.stderr.contains("not all that happened is published"), "{}", ran.stderr);
    }
    let ran = floor.run(&[&args[..], &["--no-publish"]].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), said), "{}", ran.stderr);
    let data = floor.desk.home.path().join(".local/share/godctl");
    for entry in fs::read_dir(data).unwrap() {
        let bytes = fs::read(entry.unwrap().path()).unwrap();
        assert!(!bytes.windows(9).any(|window| window == b"canary-of"));
    }
}
