//! `make bench`: the bus on both backends, beside a plain lapin publisher with confirms on the same broker and beside
//! `redis-benchmark` XADD on the same machine.
//!
//! Broker and Redis are processes of the bench's own, on ports of their own; where one is not installed, its lines are
//! left out with a note. Figures are medians of alternating rounds. Every event has 512 bytes of payload.

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
mod history;
#[path = "../../tests/it/missing.rs"]
mod missing;
mod redis;
mod worker;

use std::{
    io::{BufRead as _, BufReader, Write as _},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use broker::Broker;
use godctl::config::Durability;
use serde::de::DeserializeOwned;
use worker::{Job, What};

const ROUNDS: usize = 3;

/// How long each publisher publishes in each round.
const ROUND: Duration = Duration::from_millis(1_200);

/// What is measured against what.
struct Contender {
    name: &'static str,
    how: How,
}

enum How {
    Ours { url: String, durability: Durability },
    Lapin { url: String },
    Redis(redis::Redis),
}

fn main() {
    // `cargo bench` passes flags that mean nothing here.
    let args: Vec<String> = std::env::args().collect();
    if let [_, role, job] = &args[..]
        && role == "worker"
    {
        return worker::run(job);
    }
    let started = Instant::now();
    let dir = tempfile::Builder::new().prefix("bench-").tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let broker = Broker::start();
    let sqlite = |name: &str| format!("sqlite:{}", dir.path().join(name).display());
    let ours = |name, url, durability| Contender { name, how: How::Ours { url, durability } };
    let mut contenders = vec![
        ours("sqlite, durability full", sqlite("full.db"), Durability::Full),
        ours("sqlite, durability normal", sqlite("normal.db"), Durability::Normal),
    ];
    if let Some(broker) = &broker {
        contenders.push(ours("rabbitmq", broker.url(), Durability::Full));
        contenders.push(Contender { name: LAPIN, how: How::Lapin { url: broker.url() } });
    }
    for (name, fsync) in [(REDIS, true), ("redis XADD, nothing written", false)] {
        if let Some(redis) = redis::Redis::start(&dir.path().join(name), fsync) {
            contenders.push(Contender { name, how: How::Redis(redis) });
        }
    }

    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!(
        "{threads} CPUs, {} bytes of payload, medians of {ROUNDS} alternating rounds\n",
        worker::PAYLOAD
    );
    publishing(&contenders, dir.path());
    latency(&contenders, dir.path());
    idle(&contenders, dir.path());
    drop((contenders, broker));
    history::measure(dir.path());
    println!("\nthe bench of the bus took {:.0} s", started.elapsed().as_secs_f64());
}

const LAPIN: &str = "plain lapin, confirms";
const REDIS: &str = "redis XADD, each written";

fn publishing(contenders: &[Contender], dir: &Path) {
    println!("{:<36}{:>12}{:>10}{:>10}", "events published in a second", "", "x lapin", "x redis");
    for (batch, processes, name) in [
        (1, 1, "one at a time, 1 process"),
        (1, 4, "one at a time, 4 processes"),
        (100, 1, "100 at a time, 1 process"),
        (100, 4, "100 at a time, 4 processes"),
    ] {
        let rounds: Vec<Vec<f64>> = (0..ROUNDS)
            .map(|_| contenders.iter().map(|contender| contender.publish(dir, batch, processes)).collect())
            .collect();
        let rates: Vec<f64> =
            (0..contenders.len()).map(|i| median(rounds.iter().map(|round| round[i]).collect())).collect();
        let of = |name| contenders.iter().position(|contender| contender.name == name).map(|i| rates[i]);
        println!("{name}");
        for (contender, rate) in contenders.iter().zip(&rates) {
            let ratio =
                |other: Option<f64>| other.map_or("-".to_owned(), |other| format!("{:.2}", rate / other));
            println!("  {:<34}{rate:>12.0}{:>10}{:>10}", contender.name, ratio(of(LAPIN)), ratio(of(REDIS)));
        }
    }
}

fn latency(contenders: &[Contender], dir: &Path) {
    println!("\n{:<36}{:>9}{:>9}{:>9}", "from publish to another process, ms", "p50", "p95", "p99");
    let mut all: Vec<(&str, Vec<f64>)> = Vec::new();
    for _ in 0..ROUNDS {
        for contender in contenders {
            let Some(latencies) = contender.latencies(dir) else { continue };
            match all.iter_mut().find(|(name, _)| *name == contender.name) {
                Some((_, known)) => known.extend(latencies),
                None => all.push((contender.name, latencies)),
            }
        }
    }
    for (name, latencies) in &mut all {
        latencies.sort_by(f64::total_cmp);
        let at = |share: f64| latencies[((latencies.len() - 1) as f64 * share) as usize] / 1_000.0;
        println!("  {name:<34}{:>9.2}{:>9.2}{:>9.2}", at(0.5), at(0.95), at(0.99));
    }
    println!("  target for sqlite: p95 below 20 ms");
}

fn idle(contenders: &[Contender], dir: &Path) {
    let span = Duration::from_secs(10);
    let waiting: Vec<_> = contenders
        .iter()
        .filter(|contender| matches!(contender.how, How::Ours { .. }))
        .map(|contender| (contender.name, Worker::spawn(&contender.job(dir, What::Idle).unwrap())))
        .collect();
    // The connection's first second is no idling.
    std::thread::sleep(Duration::from_secs(1));
    let before: Vec<_> = waiting.iter().map(|(_, worker)| worker.cpu_time()).collect();
    std::thread::sleep(span);
    println!("\nCPU of a subscriber to whom nothing happens, % of a core (target below 0.3)");
    for ((name, worker), before) in waiting.into_iter().zip(before) {
        match worker.cpu_time().zip(before) {
            Some((after, before)) => {
                println!("  {name:<34}{:>9.2}", (after - before).as_secs_f64() * 100.0 / span.as_secs_f64());
            }
            None => println!("  {name:<34}{:>9}", "unknown"),
        }
        worker.go();
    }
}

impl Contender {
    fn job(&self, dir: &Path, what: What) -> Option<Job> {
        let (url, durability, plain) = match &self.how {
            How::Ours { url, durability } => (url, *durability, false),
            How::Lapin { url } => (url, Durability::Full, true),
            How::Redis(_) => return None,
        };
        Some(Job { what, url: url.clone(), durability, plain, data_dir: dir.display().to_string() })
    }

    /// Events in a second, over all processes.
    fn publish(&self, dir: &Path, batch: usize, processes: usize) -> f64 {
        let what = What::Publish { batch, for_ms: ROUND.as_millis() as u64 };
        match (&self.how, self.job(dir, what)) {
            (How::Redis(redis), _) => redis.publish(batch, processes, ROUND),
            (_, Some(job)) => {
                if job.url.starts_with("amqp") {
                    worker::sink(&job.url);
                }
                let workers: Vec<_> = (0..processes).map(|_| Worker::spawn(&job)).collect();
                let working: Vec<_> = workers.into_iter().map(Worker::start).collect();
                working.into_iter().map(Worker::finish::<f64>).sum()
            }
            (_, None) => unreachable!("only Redis has no job"),
        }
    }

    /// From before an event is published until another process has it, in microseconds.
    fn latencies(&self, dir: &Path) -> Option<Vec<f64>> {
        let listener = Worker::spawn(&self.job(dir, What::Listen)?).start();
        let publisher = Worker::spawn(&self.job(dir, What::Pace)?);
        publisher.go();
        Some(listener.finish())
    }
}

/// This program once more, with something to do.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    /// Starts it and waits until it is ready.
    fn spawn(job: &Job) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["worker", &serde_json::to_string(job).unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "ready\n", "{job:?}");
        Self { child, stdin, stdout }
    }

    fn start(mut self) -> Self {
        self.stdin.write_all(b"go\n").unwrap();
        self
    }

    fn finish<T: DeserializeOwned>(mut self) -> T {
        let mut line = String::new();
        self.stdout.read_line(&mut line).unwrap();
        assert!(self.child.wait().unwrap().success());
        serde_json::from_str(&line).unwrap()
    }

    /// Lets it work to its end.
    fn go(self) {
        let mut started = self.start();
        assert!(started.child.wait().unwrap().success());
    }

    /// CPU time of all its threads so far, where the system tells it to the nanosecond.
    fn cpu_time(&self) -> Option<Duration> {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id())).ok()?;
        let of = |task: std::io::Result<std::fs::DirEntry>| -> Option<u64> {
            let text = std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
            text.split(' ').next()?.parse().ok()
        };
        tasks.map(of).sum::<Option<u64>>().map(Duration::from_nanos)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
