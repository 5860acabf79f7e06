//! Shell scripts in the place of agents.

use std::time::Instant as Clock;

use super::*;
use crate::agents::{Groups, Outcome, Turn, driver::run, testing::Shell};

/// A shell that is told what to do by the name of the model, with the prompt on standard input.
fn shell(farewell: Farewell) -> Shell {
    let asked = |turn: &Turn| {
        let script = turn.model.clone().unwrap_or_default();
        (vec!["-c".to_owned(), script], turn.prompt.clone().into_bytes())
    };
    Shell { farewell, ..Shell::new(asked) }
}

const DONE: &str = r#"echo '{"type":"item.completed","item":{"type":"agent_message","text":"done"}}'; echo '{"type":"turn.completed","usage":{}}'"#;

fn variables() -> BTreeMap<String, String> {
    let all = [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("SHELL_TOKEN", "marker-secret"),
        ("CLAUDECODE", "1"),
        ("OTHER", "x"),
    ];
    all.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

fn quick() -> Limits {
    Limits {
        start: Duration::from_secs(20),
        idle: Duration::from_secs(20),
        total: Duration::from_secs(20),
        grace: Duration::from_millis(300),
        after_answer: Duration::from_millis(300),
    }
}

/// Runs a script; gives what became of it and what was said.
async fn play(
    script: &str,
    prompt: &str,
    limits: Limits,
    farewell: Farewell,
    stop: &CancellationToken,
) -> (Outcome, Vec<Output>) {
    let turn = Turn { model: Some(script.to_owned()), ..Turn::new(prompt, std::env::temp_dir()) };
    let (variables, groups) = (variables(), Groups::default());
    let around = Surroundings { groups: &groups, variables: &variables, limits, mark: None };
    let mut said = Vec::new();
    let outcome = run(&shell(farewell), &turn, around, stop, |output| said.push(output)).await;
    assert!(groups.is_empty());
    (outcome, said)
}

async fn just(script: &str, prompt: &str) -> (Outcome, Vec<Output>) {
    play(script, prompt, quick(), Farewell::Terminate, &CancellationToken::new()).await
}

fn class(outcome: &Outcome) -> Class {
    outcome.verdict.as_ref().unwrap_err().class
}

/// The process whose id the script wrote into its answer.
fn pid_in(outcome: &Outcome) -> Pid {
    Pid::from_raw(outcome.text.trim().parse().unwrap()).unwrap()
}

/// Whether it runs; a zombie does not.
fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
}

#[tokio::test]
async fn a_prompt_goes_in_while_output_comes_out() {
    // More than a pipe holds, both ways, and the output first.
    let script = format!("head -c 200000 /dev/zero | tr '\\0' x; echo; wc -c >&2; {DONE}");
    let (outcome, said) = just(&script, &"y".repeat(1_000_000)).await;
    assert_eq!((outcome.verdict, outcome.text.as_str()), (Ok(()), "done"));
    assert!(matches!(&said[0], Output::Unread { line } if line.chars().count() <= 201), "{said:?}");
}

#[tokio::test]
async fn it_gets_the_variables_that_it_may_have_and_no_others() {
    let script = format!("env >&2; exit 3; {DONE}");
    let (outcome, _) = just(&script, "").await;
    assert_eq!(class(&outcome), Class::ProcessFailed);
    let script = r#"printf '{"type":"item.completed","item":{"type":"agent_message","text":"%s"}}\n' "$(env | cut -d= -f1 | sort | tr '\n' ' ')""#;
    let (outcome, _) = just(script, "").await;
    let names: Vec<_> =
        outcome.text.split(' ').filter(|name| !["", "PWD", "_", "SHLVL", "OLDPWD"].contains(name)).collect();
    assert_eq!(names, ["NO_COLOR", "PATH", "SET_FOR_IT", "SHELL_TOKEN", "TERM"]);
}

#[tokio::test]
async fn a_secret_that_it_prints_is_not_passed_on() {
    let (outcome, _) = just("echo \"bad key $SHELL_TOKEN\" >&2; exit 1", "").await;
    assert_eq!(outcome.verdict.unwrap_err().message, "the agent ended with exit code 1: bad key [secret]");
}

#[tokio::test]
async fn what_takes_too_long_is_stopped_with_all_that_it_started() {
    let script = r#"trap '' TERM; sleep 60 & printf '{"type":"item.completed","item":{"type":"agent_message","text":"%s"}}\n' $!; while :; do sleep 1; done"#;
    let limits = Limits { total: Duration::from_millis(400), ..quick() };
    let started = Clock::now();
    let (outcome, _) = play(script, "", limits, Farewell::Interrupt, &CancellationToken::new()).await;
    assert_eq!(class(&outcome), Class::Timeout);
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(!lives(pid_in(&outcome)));
}

#[tokio::test]
async fn silence_is_told_from_a_turn_that_takes_long() {
    let silent = Limits { start: Duration::from_millis(200), ..quick() };
    let (outcome, _) = play("sleep 60", "", silent, Farewell::Terminate, &CancellationToken::new()).await;
    assert_eq!(class(&outcome), Class::Stalled);
    // All of them take longer than the limit, but each line comes soon after the one before.
    let script = format!("for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo '{{}}'; sleep 0.25; done; {DONE}");
    let chatty = Limits { start: Duration::from_secs(5), idle: Duration::from_secs(2), ..quick() };
    let (outcome, _) = play(&script, "", chatty, Farewell::Terminate, &CancellationToken::new()).await;
    assert_eq!(outcome.verdict, Ok(()));
}

#[tokio::test]
async fn cancelling_asks_first_and_is_told() {
    let stop = CancellationToken::new();
    let script =
        "trap 'echo asked >&2; exit 1' INT; echo '{\"type\":\"turn.started\"}'; while :; do sleep 0.05; done";
    let turn = Turn { model: Some(script.to_owned()), ..Turn::new("", std::env::temp_dir()) };
    let (variables, groups) = (variables(), Groups::default());
    let around = Surroundings { groups: &groups, variables: &variables, limits: quick(), mark: None };
    let cancel = async {
        // It has begun once it is written down.
        while groups.is_empty() {
            tokio::task::yield_now().await;
        }
        stop.cancel();
    };
    let shell = shell(Farewell::Interrupt);
    let (outcome, ()) = tokio::join!(run(&shell, &turn, around, &stop, |_| {}), cancel);
    assert_eq!(class(&outcome), Class::Cancelled);
}

#[tokio::test]
async fn an_answer_stands_although_a_grandchild_keeps_the_pipe_open() {
    let script = format!("sleep 60 & {DONE}");
    let started = Clock::now();
    let (outcome, _) = just(&script, "").await;
    assert_eq!(outcome.verdict, Ok(()));
    assert!(started.elapsed() < Duration::from_secs(15));
    let lingers = format!("{DONE}; sleep 60");
    let (outcome, _) = just(&lingers, "").await;
    assert_eq!(outcome.verdict, Ok(()), "what it does after its answer does not matter");
}

#[tokio::test]
async fn dropping_the_run_kills_the_group() {
    let directory = tempfile::tempdir().unwrap();
    let script =
        format!("sleep 60 & echo $! > {0}/new; mv {0}/new {0}/pid; wait", directory.path().display());
    let stop = CancellationToken::new();
    let written = async {
        loop {
            if let Ok(text) = std::fs::read_to_string(directory.path().join("pid")) {
                return Pid::from_raw(text.trim().parse().unwrap()).unwrap();
            }
            tokio::task::yield_now().await;
        }
    };
    let pid = tokio::select! {
        _ = play(&script, "", quick(), Farewell::Terminate, &stop) => panic!("it must go on"),
        pid = written => pid,
    };
    // The kill has been sent; who was killed is gone as soon as its new parent has noticed.
    while lives(pid) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_cannot_be_started_says_why() {
    let turn = Turn::new("", "/nowhere/at/all");
    let (variables, groups) = (variables(), Groups::default());
    let around = Surroundings { groups: &groups, variables: &variables, limits: quick(), mark: None };
    let stop = CancellationToken::new();
    let outcome = run(&shell(Farewell::Terminate), &turn, around, &stop, |_| {}).await;
    assert_eq!(class(&outcome), Class::BadRequest);
    let missing = Shell { program: "no-such-agent".into(), ..shell(Farewell::Terminate) };
    let turn = Turn::new("", std::env::temp_dir());
    let outcome = run(&missing, &turn, around, &stop, |_| {}).await;
    assert_eq!(class(&outcome), Class::MissingExecutable);
    assert!(outcome.verdict.unwrap_err().message.contains("agents.shell_program"), "what to do is said");
}

#[test]
fn the_tail_keeps_the_end() {
    let mut tail = Tail::default();
    tail.push(&vec![b'a'; MAX_STDERR]);
    tail.push(b"end");
    let text = tail.text();
    assert_eq!(text.len(), MAX_STDERR);
    assert!(text.ends_with("end"));
}
