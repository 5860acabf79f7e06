//! `make bench`: `agent listen` on both backends, from an event to the start of an agent, and how many prompts it works
//! off; its memory; and how fast what agents print is read.
//!
//! The agent is this program: started with the flags of Claude Code it notes the time, answers and ends. RabbitMQ is a
//! process of the bench's own; where it is not installed, its lines are left out with a note.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a bench reports and may stop"
)]

#[path = "../../tests/it/broker.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod broker;
#[path = "../../tests/it/missing.rs"]
mod missing;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant, SystemTime},
};

use broker::Broker;
use godctl::{
    agents::{
        Provider, Turn,
        providers::{claude::Claude, codex::Codex, gemini::Gemini},
    },
    bus::{
        Event, Publish, SharedBus, connect,
        event::{Source, Stamp},
    },
    config,
    shutdown::Shutdown,
};
use serde_json::json;

/// Prompts whose way is timed, one after another, so that each finds an idle listener.
const PACED: usize = 200;
const PAUSE: Duration = Duration::from_millis(40);
/// Prompts that are worked off together.
const MANY: usize = 1_000;
const WORKERS: usize = 8;
/// Of what agents print, read for each.
const RECORDED: usize = 100 << 20;
const PATIENCE: Duration = Duration::from_secs(300);

/// Where agents note that they were started; in the directory that they work in.
const NOTES: &str = "started";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.iter().any(|arg| arg == "--output-format") {
        return agent();
    }
    let started = Instant::now();
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broker = Broker::start();
    let mut places = vec![("sqlite", format!("sqlite:{}", dir.path().join("bus.db").display()))];
    places.extend(broker.as_ref().map(|broker| ("rabbitmq", broker.url())));
    println!("{:<30}{:>8}{:>8}{:>8}", "from an event to its agent, ms", "p50", "p95", "max");
    let mut rest = Vec::new();
    for (name, url) in &places {
        let stage = Stage::new(dir.path(), name, url);
        let memory = stage.memory_mb();
        let mut took = stage.paced();
        took.sort_by(f64::total_cmp);
        let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
        println!("  {name:<28}{:>8.1}{:>8.1}{:>8.1}", at(0.5), at(0.95), at(1.0));
        let seconds = stage.many();
        rest.push((name, memory, seconds, stage.memory_mb()));
    }
    println!(
        "  targets: p95 below 15 ms (sqlite), 10 ms (rabbitmq); the start of the agent's process is in it\n"
    );
    println!("{:<30}{:>12}{:>12}{:>12}", "listener", "idle MB", "a minute", "MB after");
    for (name, idle, seconds, after) in rest {
        let rate = MANY as f64 / seconds * 60.0;
        println!("  {name:<28}{idle:>12.1}{rate:>12.0}{after:>12.1}");
    }
    println!("  a minute: {MANY} short prompts, {WORKERS} workers; target for idle memory: below 30 MB\n");
    parsers();
    println!("\nthe bench of the agents took {:.0} s", started.elapsed().as_secs_f64());
}

fn nanos() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos()
}

/// What this program is when a listener starts it.
fn agent() {
    let now = nanos();
    let mut prompt = String::new();
    std::io::stdin().read_to_string(&mut prompt).unwrap();
    let mut notes = fs::File::options().create(true).append(true).open(NOTES).unwrap();
    // One write, so that agents side by side do not mix their lines.
    notes.write_all(format!("{} {now}\n", prompt.trim()).as_bytes()).unwrap();
    let id = std::env::args().find_map(|arg| arg.strip_prefix("--session-id=").map(str::to_owned));
    println!("{}", json!({"type": "system", "subtype": "init", "session_id": id, "model": "claude-opus"}));
    println!("{}", json!({"type": "result", "subtype": "success", "is_error": false, "result": "done"}));
}

/// A listener and the bus that it listens to.
struct Stage {
    dir: PathBuf,
    listener: Child,
    runtime: tokio::runtime::Runtime,
    bus: SharedBus,
    _life: Shutdown,
}

impl Stage {
    fn new(dir: &Path, name: &str, url: &str) -> Self {
        let dir = dir.join(name);
        fs::create_dir_all(&dir).unwrap();
        let settings = [
            format!("bus.url={url}"),
            format!("agents.claude_program={}", std::env::current_exe().unwrap().display()),
        ];
        let listener = Command::new(env!("CARGO_BIN_EXE_godctl"))
            .env_clear()
            .env("HOME", &dir)
            .env("PATH", "/usr/bin:/bin")
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .args(["-q", "agent", "listen", "--workers", &WORKERS.to_string(), "--root"])
            .arg(&dir)
            .current_dir(&dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let config = config::Bus { url: url.parse().unwrap(), ..config::Bus::default() };
        let (bus, life) = runtime.block_on(async {
            let life = Shutdown::new();
            (connect::connect(&config, &dir, &life).await.unwrap(), life)
        });
        let stage = Self { dir, listener, runtime, bus, _life: life };
        // Once its queue is there, nothing is lost.
        stage.wait("the listener's queue", || {
            let queues = stage.runtime.block_on(stage.bus.queues()).unwrap_or_default();
            queues.iter().any(|queue| queue.name == "agent.prompt").then_some(())
        });
        stage
    }

    fn wait<T>(&self, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let started = Instant::now();
        loop {
            if let Some(found) = look() {
                return found;
            }
            let log = || fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            assert!(started.elapsed() < PATIENCE, "{what}\n{}", log());
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn event(name: &str) -> Event {
        let payload = json!({"provider": "claude", "prompt": name, "access": "plan"});
        Event::new(
            Stamp::now(),
            "agent.prompt".parse().unwrap(),
            Source::new("h", "bench", "service"),
            payload,
        )
    }

    /// When each prompt's agent began, in nanoseconds.
    fn notes(&self) -> BTreeMap<String, u128> {
        let text = fs::read_to_string(self.dir.join(NOTES)).unwrap_or_default();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        lines.map(|(name, at)| (name.to_owned(), at.parse().unwrap())).collect()
    }

    /// From before an event is published until its agent runs, in milliseconds.
    fn paced(&self) -> Vec<f64> {
        let mut said = Vec::new();
        for number in 0..PACED {
            let name = format!("paced-{number}");
            let event = Self::event(&name);
            said.push((name, nanos()));
            self.runtime.block_on(self.bus.publish(&[event], Publish::default())).unwrap();
            std::thread::sleep(PAUSE);
        }
        let notes = self.wait("all began", || Some(self.notes()).filter(|notes| notes.len() >= PACED));
        said.iter().map(|(name, at)| notes[name].saturating_sub(*at) as f64 / 1e6).collect()
    }

    /// How long it takes to work off many, in seconds.
    fn many(&self) -> f64 {
        let events: Vec<_> = (0..MANY).map(|number| Self::event(&format!("many-{number}"))).collect();
        let began = Instant::now();
        for batch in events.chunks(100) {
            self.runtime.block_on(self.bus.publish(batch, Publish::default())).unwrap();
        }
        self.wait("all began", || (self.notes().len() >= PACED + MANY).then_some(()));
        began.elapsed().as_secs_f64()
    }

    fn memory_mb(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.listener.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0 kB");
        line.trim().trim_end_matches(" kB").trim().parse::<f64>().unwrap_or(f64::NAN) * 1_024.0 / 1e6
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.listener.kill().ok();
        self.listener.wait().ok();
    }
}

/// How fast the readers are, on what a long turn prints.
fn parsers() {
    let text = "All tests pass now. ".repeat(20);
    let claude = [
        json!({"type": "stream_event", "event": {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "All tests "}}}),
        json!({"type": "assistant", "message": {"id": "m1", "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "cargo test"}}]}}),
        json!({"type": "user", "message": {"content": [{"type": "tool_result", "tool_use_id": "t1", "content": text, "is_error": false}]}}),
        json!({"type": "assistant", "message": {"id": "m2", "content": [{"type": "text", "text": text}]}}),
    ];
    let codex = [
        json!({"type": "item.started", "item": {"id": "i1", "type": "command_execution", "command": "cargo test", "status": "in_progress"}}),
        json!({"type": "item.completed", "item": {"id": "i1", "type": "command_execution", "command": "cargo test", "aggregated_output": text, "exit_code": 0, "status": "completed"}}),
        json!({"type": "item.completed", "item": {"id": "i2", "type": "agent_message", "text": text}}),
    ];
    let gemini = [
        json!({"type": "message", "role": "assistant", "content": "All tests ", "delta": true}),
        json!({"type": "tool_use", "tool_id": "t1", "tool_name": "shell", "parameters": {"command": "cargo test"}}),
        json!({"type": "tool_result", "tool_id": "t1", "status": "success", "output": text}),
    ];
    println!("{:<30}{:>12}{:>12}", "what agents print, read", "MB/s", "lines/s");
    let providers: [(&dyn Provider, &[serde_json::Value]); 3] =
        [(&Claude::default(), &claude), (&Codex::default(), &codex), (&Gemini::default(), &gemini)];
    for (provider, events) in providers {
        let lines: Vec<Vec<u8>> = events.iter().map(|event| event.to_string().into_bytes()).collect();
        let turn = Turn::new("x", "/");
        let mut reader = provider.reader(&turn);
        let (mut bytes, mut count, mut outputs) = (0, 0_u64, 0);
        let began = Instant::now();
        for line in lines.iter().cycle() {
            outputs += reader.line(line).outputs.len();
            bytes += line.len() + 1;
            count += 1;
            if bytes >= RECORDED {
                break;
            }
        }
        let seconds = began.elapsed().as_secs_f64();
        assert!(outputs > 0, "{} was not understood", provider.name());
        let rate = bytes as f64 / 1e6 / seconds;
        println!("  {:<28}{rate:>12.0}{:>12.0}", provider.name(), count as f64 / seconds);
    }
}
