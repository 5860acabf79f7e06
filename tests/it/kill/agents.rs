//! Pattern 2: listeners on three machines (as far as they know) take prompts from one queue, and they, the broker and
//! Redis are killed at random. Every prompt is answered exactly once, as its key says, no session has two turns at once,
//! and no agent is left behind.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    agent::Desk,
    broker::Broker,
    redis_node::RedisNode,
    support::{Ran, Running},
};

const SESSIONS: u32 = 20;
/// Until everything is answered, once the killing is over.
const PATIENCE: Duration = Duration::from_secs(180);
const KEYS: &str = "k1:MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";

/// Claude Code, as far as it matters here: notes each turn, and whether another one of its session runs.
const CLAUDE: &str = r#"#!/bin/sh
if [ "$1" = --version ]; then echo '2.1.329 (fake)'; exit; fi
for word in "$@"; do case $word in --session-id=*|--resume=*) session=${word#*=};; esac; done
cat > /dev/null
exec 9> "SHARED/lock-$session"
flock -n 9 || echo "$session" >> SHARED/overlap
echo "$session" >> SHARED/ran
echo '{"type":"system","subtype":"init","session_id":"'$session'","model":"claude-opus"}'
sleep 0.2
echo '{"type":"result","subtype":"success","is_error":false,"result":"done","total_cost_usd":0.001}'
"#;

/// Who is killed with SIGKILL, and started again.
#[derive(Debug, Clone, Copy)]
enum Victim {
    Listener,
    Redis,
    Broker,
}

struct Fleet {
    desks: Vec<Desk>,
    at: Vec<String>,
    shared: PathBuf,
    listeners: Vec<Running>,
}

impl Fleet {
    fn new(machines: usize, at: &[String], shared: &Path) -> Self {
        let desks = (0..machines).map(|_| Desk::new()).collect::<Vec<_>>();
        for desk in &desks {
            let script = CLAUDE.replace("SHARED", shared.to_str().unwrap());
            let path = desk.home.write("bin/claude", &script);
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let at = at.iter().flat_map(|setting| ["-c".to_owned(), setting.clone()]).collect();
        Self { desks, at, shared: shared.to_owned(), listeners: Vec::new() }
    }

    fn command(&self, machine: usize) -> std::process::Command {
        let mut command = self.desks[machine].command();
        command.args(&self.at).env("GODCTL_SESSION_KEYS", KEYS);
        command
    }

    fn listener(&self, machine: usize) -> Running {
        let mut command = self.command(machine);
        // The same directory, as on a file system that machines share: a session stays where it began.
        command.args(["agent", "listen", "--workers", "3", "--root"]).arg(&self.shared);
        let log = self.desks[machine].home.path().join("log");
        let log = fs::File::options().create(true).append(true).open(log).unwrap();
        Running(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }

    /// Starts those that are not there.
    fn supervise(&mut self) {
        for machine in 0..self.desks.len() {
            match self.listeners.get_mut(machine).map(|listener| listener.0.try_wait().unwrap()) {
                Some(None) => {}
                Some(Some(_)) => self.listeners[machine] = self.listener(machine),
                None => self.listeners.push(self.listener(machine)),
            }
        }
    }

    /// The ids of the answers to each prompt, as far as they have come: taken from a queue of their own, which a broker
    /// that is killed keeps. (The history is a stream, and RabbitMQ 3.10 loses one for good that is young when the node
    /// is killed.)
    fn answers(&self) -> BTreeMap<String, BTreeSet<String>> {
        let file = self.shared.join("answers");
        let note = format!("line=$(cat); printf '%s\\n' \"$line\" >> {}", file.display());
        let taking = ["bus", "work", "answers", "--idle", "1s", "--workers", "4", "--", "sh", "-c", &note];
        self.command(0).args(taking).output().unwrap();
        let mut answers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for line in fs::read_to_string(file).unwrap_or_default().lines() {
            let event: Value = serde_json::from_str(line).unwrap();
            let text = |value: &Value| value.as_str().unwrap().to_owned();
            answers.entry(text(&event["payload"]["prompt"])).or_default().insert(text(&event["event_id"]));
        }
        answers
    }

    /// What the queue holds, for a test that fails.
    fn queues(&self) -> String {
        let ask = |args: &[&str]| -> Ran { self.command(0).args(args).output().unwrap().into() };
        let (queues, dead) = (ask(&["bus", "queues"]), ask(&["bus", "dead", "list", "agent.prompt"]));
        format!("{}{}\n{}{}", queues.stdout, queues.stderr, dead.stdout, dead.stderr)
    }

    fn logs(&self) -> String {
        let logs = self
            .desks
            .iter()
            .map(|desk| fs::read_to_string(desk.home.path().join("log")).unwrap_or_default());
        let last = |log: String| log.lines().rev().take(30).collect::<Vec<_>>().join("\n");
        logs.map(last).collect::<Vec<_>>().join("\n----\n")
    }

    /// Processes that were started for one of our agents.
    fn left_behind(&self) -> Vec<String> {
        let ours = |line: &String| {
            self.desks.iter().any(|desk| line.contains(desk.home.path().join("bin/claude").to_str().unwrap()))
        };
        let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
        let lines = processes.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
        lines.map(|line| String::from_utf8_lossy(&line).into_owned()).filter(ours).collect()
    }
}

#[test]
fn two_hundred_prompts_are_answered_once_each_while_listeners_broker_and_redis_are_killed() {
    let _turn = super::turn();
    let (Some(mut broker), Some(mut redis)) = (Broker::start(), RedisNode::start()) else { return };
    let seed = super::seed();
    println!("GODCTL_KILL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let prompts = super::events(200);
    let shared = tempfile::tempdir().unwrap();
    let at = [
        format!("bus.url={}", broker.url()),
        format!("store.url={}", redis.url()),
        "store.lease_s=6".to_owned(),
    ];
    let mut fleet = Fleet::new(3, &at, shared.path());
    let prompt = ["agent.prompt", "agent.prompt.failed"];
    for (queue, patterns) in [("agent.prompt", &prompt[..]), ("answers", &["agent.response.completed"])] {
        let bound = patterns.iter().flat_map(|pattern| ["--bind", *pattern]);
        let mut command = fleet.command(0);
        let made: Ran = command.args(["bus", "work", queue, "--lines"]).args(bound).output().unwrap().into();
        assert_eq!(made.code, Some(0), "{}", made.stderr);
    }
    let lines: Vec<String> = (0..prompts)
        .map(|number| {
            let payload = json!({
                "provider": "claude", "prompt": format!("prompt {number}"), "access": "plan",
                "session_id": uuid::Uuid::from_u128(u128::from(number % SESSIONS) + 1).to_string(),
                "idempotency_key": format!("k-{number}"),
            });
            json!({"event_id": uuid::Uuid::new_v4(), "event_type": "agent.prompt", "timestamp": "2026-11-21T10:00:00Z",
                   "version": "1.0.0", "source": {"host": "h", "type": "manual", "app": "test"}, "correlation_ids": [],
                   "payload": payload}).to_string()
        })
        .collect();
    let file = fleet.desks[0].home.write("prompts.jsonl", &lines.join("\n"));
    let published: Ran =
        fleet.command(0).args(["bus", "import", file.to_str().unwrap()]).output().unwrap().into();
    assert_eq!(published.code, Some(0), "{}", published.stderr);

    let began = Instant::now();
    let mut victims = [[Victim::Listener; 8].as_slice(), &[Victim::Redis; 3], &[Victim::Broker; 2]].concat();
    random.shuffle(&mut victims);
    for victim in victims {
        fleet.supervise();
        // When somebody is killed is random: that is what is tested.
        std::thread::sleep(Duration::from_millis(random.u64(300..2_000)));
        match victim {
            Victim::Broker => {
                broker.kill();
                broker.restart();
            }
            Victim::Redis => {
                redis.kill();
                std::thread::sleep(Duration::from_millis(random.u64(0..500)));
                redis.restart();
            }
            Victim::Listener => {
                let victim = random.usize(..fleet.listeners.len());
                fleet.listeners[victim].0.kill().unwrap();
                fleet.listeners[victim].0.wait().unwrap();
            }
        }
    }
    let calm = Instant::now();
    loop {
        fleet.supervise();
        let answers = fleet.answers();
        if answers.len() == prompts as usize {
            break;
        }
        assert!(
            calm.elapsed() < PATIENCE,
            "{} of {prompts} answered\n{}\n{}",
            answers.len(),
            fleet.queues(),
            fleet.logs()
        );
    }
    for listener in &mut fleet.listeners {
        kill_process(Pid::from_child(&listener.0), Signal::TERM).unwrap();
    }
    for listener in &mut fleet.listeners {
        assert_eq!(listener.0.wait().unwrap().code(), Some(0), "{}", "a listener did not end in order");
    }
    let answers = fleet.answers();
    let ran = fs::read_to_string(shared.path().join("ran")).unwrap().lines().count();
    println!("{prompts} prompts, {ran} turns, {:.0} s", began.elapsed().as_secs_f64());
    for (prompt, ids) in &answers {
        assert_eq!(ids.len(), 1, "{prompt} was answered {} times", ids.len());
    }
    let overlap = fs::read_to_string(shared.path().join("overlap")).unwrap_or_default();
    assert_eq!(overlap, "", "sessions with two turns at once");
    assert_eq!(fleet.left_behind(), Vec::<String>::new());
}
