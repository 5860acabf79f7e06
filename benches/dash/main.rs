//! `make bench`: the dashboard in a terminal of 200 columns and 60 lines: memory, time for a frame, how many events it
//! takes without losing one and how late they are, what it costs when nothing happens, and how soon there is a frame.
//!
//! The terminal is `script`; RabbitMQ is a process of the bench's own. Where one of them is not installed, its lines are
//! left out with a note. `GODCTL_BENCH_SECONDS` shortens the two streams of 60 s.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::disallowed_methods,
    clippy::disallowed_types,
    clippy::string_slice,
    reason = "a bench reports and may stop"
)]

#[path = "../../tests/it/broker.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod broker;
#[path = "../../tests/it/missing.rs"]
mod missing;

use std::{
    fs,
    io::{Read as _, Write as _},
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use broker::{Broker, find};
use godctl::{
    bus::{
        Event, Publish, SharedBus, connect,
        event::{Source, Stamp},
    },
    config,
    shutdown::Shutdown,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(300);

fn main() {
    if find("script", &["/usr/bin/script"]).is_none() {
        println!("the dashboard: left out, needs script");
        return;
    }
    println!("the dashboard, 200 x 60");
    memory();
    idle();
    first_frame();
    let seconds: u64 =
        std::env::var("GODCTL_BENCH_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(60);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let home = tempfile::tempdir().unwrap();
        let url = format!("sqlite:{}", home.path().join("bus.db").display());
        stream("SQLite", &url, home.path(), 10_000, seconds).await;
        if let Some(broker) = Broker::start() {
            stream("RabbitMQ", &broker.url(), home.path(), 5_000, seconds).await;
        }
    });
}

/// A dashboard in a terminal, and what it has written.
struct Screen {
    child: Child,
    keys: ChildStdin,
    written: Arc<Mutex<Vec<u8>>>,
}

impl Screen {
    fn start(home: &Path, args: &str) -> Self {
        let program = env!("CARGO_BIN_EXE_godctl");
        let line = format!("stty cols 200 rows 60; exec '{program}' dash --stats {args}");
        let mut command = Command::new("script");
        command.args(["-q", "-c", &line, "/dev/null"]).env_clear();
        command.env("HOME", home).env("PATH", "/usr/bin:/bin").env("TERM", "xterm-256color");
        command.env("COLORTERM", "truecolor").env("SHELL", "/bin/sh");
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let keys = child.stdin.take().unwrap();
        let mut out = child.stdout.take().unwrap();
        let written = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&written);
        std::thread::spawn(move || {
            let mut part = vec![0; 1 << 16];
            while let Ok(count @ 1..) = out.read(&mut part) {
                sink.lock().unwrap().extend_from_slice(&part[..count]);
            }
        });
        Self { child, keys, written }
    }

    fn has(&self, text: &str) -> bool {
        let written = self.written.lock().unwrap();
        written.windows(text.len()).any(|window| window == text.as_bytes())
    }

    fn wait_for(&self, text: &str) {
        let began = Instant::now();
        while !self.has(text) {
            assert!(began.elapsed() < PATIENCE, "never: {text}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The dashboard itself, not the terminal around it.
    fn pid(&self) -> u32 {
        let children = format!("/proc/{0}/task/{0}/children", self.child.id());
        let text = fs::read_to_string(children).unwrap();
        text.split_whitespace().next().unwrap().parse().unwrap()
    }

    /// Ends it, and gives the figures that it tells at the end.
    fn quit(mut self) -> Value {
        self.keys.write_all(b"q").unwrap();
        self.keys.flush().unwrap();
        self.wait_for("\"resident_bytes\":");
        self.child.wait().unwrap();
        let written = self.written.lock().unwrap();
        let text = String::from_utf8_lossy(&written).into_owned();
        let start = text.rfind("{\"batches\"").unwrap();
        let end = start + text[start..].find('}').unwrap();
        serde_json::from_str(&text[start..=end]).unwrap()
    }
}

fn event(n: u64, bytes: usize) -> Event {
    let types = [
        "agent.tool.invoked",
        "voice.transcription.completed",
        "github.pr.created",
        "llm.response",
        "agent.error",
    ];
    let event_type = types[usize::try_from(n).unwrap() % types.len()];
    let payload = json!({ "n": n, "session_id": format!("s-{}", n % 50), "text": "x".repeat(bytes.saturating_sub(330)) });
    Event::new(Stamp::now(), event_type.parse().unwrap(), Source::new("desk", "bench", "service"), payload)
}

fn verdict(value: f64, goal: f64) -> &'static str {
    if value <= goal { "ok" } else { "MISSED" }
}

/// Bytes of memory and the time for a frame with so many events of 2 kB.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn memory() {
    for (count, goal) in [(0_u64, 25.0), (10_000, 60.0), (100_000, 300.0)] {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("events.jsonl");
        let mut out = std::io::BufWriter::new(fs::File::create(&file).unwrap());
        for n in 0..count {
            out.write_all(&event(n, 2_000).to_json()).unwrap();
            out.write_all(b"\n").unwrap();
        }
        drop(out);
        let args = format!("--replay {} --speed max --max-events 100000 --max-mb 1000", file.display());
        let screen = Screen::start(home.path(), &args);
        screen.wait_for("end of the recording");
        std::thread::sleep(Duration::from_millis(500));
        let figures = screen.quit();
        let megabytes = figures["resident_bytes"].as_f64().unwrap() / 1e6;
        let draw = figures["draw_p95_us"].as_f64().unwrap() / 1000.0;
        assert_eq!(figures["events"], count);
        println!(
            "  {count:>7} events of 2 kB   {megabytes:>6.1} MB (goal {goal:.0}, {})   draw p95 {draw:.2} ms (goal 5, {})",
            verdict(megabytes, goal),
            verdict(draw, 5.0)
        );
    }
}

/// Processor time when nothing happens.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn idle() {
    let home = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let path = home.path().join("bus.db");
    runtime.block_on(async {
        let bus = open(&format!("sqlite:{}", path.display()), home.path(), &shutdown).await;
        bus.publish(&[event(1, 500)], Publish::default()).await.unwrap();
        bus.close().await;
    });
    let screen = Screen::start(home.path(), &format!("--url sqlite:{}", path.display()));
    screen.wait_for("connected");
    std::thread::sleep(Duration::from_secs(2));
    let pid = screen.pid();
    let ticks = || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let (before, began) = (ticks(), Instant::now());
    std::thread::sleep(Duration::from_secs(20));
    // A hundred ticks are a second.
    let percent = (ticks() - before) as f64 / began.elapsed().as_secs_f64();
    let figures = screen.quit();
    let megabytes = figures["resident_bytes"].as_f64().unwrap() / 1e6;
    println!(
        "  idle on SQLite   {percent:.2} % of a core (goal 0.5, {})   {megabytes:.1} MB (goal 25, {})",
        verdict(percent, 0.5),
        verdict(megabytes, 25.0)
    );
}

async fn open(url: &str, home: &Path, shutdown: &Shutdown) -> SharedBus {
    let config = config::Bus { url: url.parse().unwrap(), ..config::Bus::default() };
    connect::connect(&config, home, shutdown).await.unwrap()
}

/// From the start of the process to a first frame, with a million events in the history.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn first_frame() {
    let home = tempfile::tempdir().unwrap();
    let url = format!("sqlite:{}", home.path().join("bus.db").display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        let bus = open(&url, home.path(), &shutdown).await;
        for chunk in 0..500_u64 {
            let events: Vec<Event> = (0..2_000).map(|n| event(chunk * 2_000 + n, 350)).collect();
            bus.publish(&events, Publish::default()).await.unwrap();
        }
        bus.close().await;
    });
    let mut times = Vec::new();
    for _ in 0..7 {
        let began = Instant::now();
        let screen = Screen::start(home.path(), &format!("--url {url}"));
        screen.wait_for("godctl dash");
        let frame = began.elapsed().as_secs_f64() * 1000.0;
        screen.wait_for("999,999");
        let rows = began.elapsed().as_secs_f64() * 1000.0;
        times.push((frame, rows));
        screen.quit();
    }
    times.sort_by(|one, other| one.0.total_cmp(&other.0));
    let (frame, rows) = times[times.len() / 2];
    println!(
        "  start with 1,000,000 events in the history: first frame {frame:.0} ms (goal 100, {}), newest events {rows:.0} ms",
        verdict(frame, 100.0)
    );
}

/// So many events a second for so long: none lost, and how late they are.
#[allow(clippy::cast_precision_loss, reason = "figures for people")]
async fn stream(name: &str, url: &str, home: &Path, rate: u64, seconds: u64) {
    let shutdown = Shutdown::new();
    let bus = open(url, home, &shutdown).await;
    // What makes the file or the exchange.
    bus.publish(&[event(0, 350)], Publish::default()).await.unwrap();
    let screen = Screen::start(home, &format!("--url '{url}' -n 0"));
    screen.wait_for("connected");
    tokio::time::sleep(Duration::from_millis(500)).await;
    let began = Instant::now();
    let mut sent = 0;
    let step = rate / 100;
    while began.elapsed() < Duration::from_secs(seconds) {
        let due = u64::try_from(began.elapsed().as_millis()).unwrap() * rate / 1000;
        while sent < due {
            let events: Vec<Event> = (0..step).map(|n| event(sent + n + 1, 350)).collect();
            bus.publish(&events, Publish::default()).await.unwrap();
            sent += step;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let took = began.elapsed().as_secs_f64();
    // What is on its way.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let figures = screen.quit();
    let (seen, lag) = (figures["events"].as_u64().unwrap(), figures["lag_p95_ms"].as_f64().unwrap());
    let draw = figures["draw_p95_us"].as_f64().unwrap() / 1000.0;
    println!(
        "  {name}: {:.0} events/s for {took:.0} s   {} of {sent} seen ({})   lag p95 {lag:.0} ms (goal 150, {})   draw p95 {draw:.2} ms",
        sent as f64 / took,
        seen,
        if seen == sent { "ok" } else { "LOST" },
        verdict(lag, 150.0)
    );
    bus.close().await;
}
