//! `godctl bus bench`: how fast the bus is on this machine.
//!
//! Runs publishers and a subscriber as processes of their own (`bench_worker.rs`), because that is how a bus is used,
//! and measures from outside. It works on a bus of its own beside the configured one, and removes it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use uuid::Uuid;

use super::{
    bench_worker::{Job, Latency, Role},
    connection::{Place, drain_deadline, with_bus_at},
    progress,
    table::{Side, table},
};
use crate::{
    bus::{BusError, Pattern, QueueSpec, connect},
    cmd::{Context, Exit, Failure, Stdout, Threads},
    config::{self, BusUrl},
    shutdown::Shutdown,
};

/// Flags of `godctl bus bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus bench
  godctl bus bench --processes 8 --payload 2000 -c bus.durability=normal
  godctl bus bench --bus amqp://broker.example --json

It measures publishes for each second, one by one and in batches, by one process and by many at
once, and the time from publishing in one process to seeing the event in another one. A publish
counts when it is durable. Without --here it works on a bus of its own, which it removes: a file
beside the one of the bus, on the same disk, or another exchange on the same broker.")]
pub(super) struct Args {
    /// Publishers in the runs with many
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: u16,
    /// Events that each publisher publishes one by one; in batches it publishes ten times as many
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: u32,
    /// Events of a batch
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// Bytes of text in each event
    #[arg(long, value_name = "BYTES", default_value_t = 200)]
    payload: u32,
    /// Use the bus itself; the events stay on it, under types that begin with godctl.bench
    #[arg(long)]
    here: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// One of the processes that do the work
    #[arg(long, hide = true)]
    pub(super) worker: bool,
}

/// Batches hold so much of the time that they need more events for a figure.
const TIMES_IN_BATCHES: u32 = 10;

/// Events whose way is timed.
const TIMED: u32 = 500;

/// What a process may take to open the bus, or to end when it has nothing to do.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(Debug, Serialize)]
struct Report {
    bus: String,
    payload_bytes: u32,
    publish: Vec<Rate>,
    latency: Latency,
}

#[derive(Debug, Serialize)]
struct Rate {
    processes: u16,
    batch: u16,
    events: u64,
    seconds: f64,
    per_second: f64,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    if args.worker {
        return super::bench_worker::run(context);
    }
    let report = context.block_on(Threads::PerCore, async {
        let ground = Ground::prepare(args, context).await?;
        let measured = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => Err(anyhow::anyhow!("interrupted")),
            measured = measure(args, context, &ground) => measured,
        };
        let cleared = ground.clear(context).await;
        let report = measured?;
        cleared.context("cannot remove what the bench made")?;
        Ok(report)
    })?;
    let mut out = Stdout::lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&report)?)?,
        false => write!(out, "{}", text(&report))?,
    }
    Ok(())
}

/// The bus that is measured, and what has to be removed behind it.
struct Ground {
    config: config::Bus,
    data_dir: PathBuf,
    /// Goes when this does.
    dir: Option<tempfile::TempDir>,
    /// Keeps what is published to a broker, which drops what nobody is bound to take.
    queue: Option<String>,
    /// The exchange was made for the bench.
    own_exchange: bool,
    types: String,
}

impl Ground {
    async fn prepare(args: &Args, context: &Context) -> anyhow::Result<Self> {
        let name = format!("godctl.bench.{}", Uuid::now_v7().simple());
        let mut ground = Self {
            config: context.config.bus.clone(),
            data_dir: context.paths.data_dir.clone(),
            dir: None,
            queue: None,
            own_exchange: false,
            types: name.clone(),
        };
        let config = &mut ground.config;
        match config.url.scheme() {
            "mem" => {
                let error = BusError::Unsupported {
                    what: "a bench with processes",
                    bus: config.url.to_string(),
                    instead: "it lives in one process; use sqlite: or a broker".to_owned(),
                };
                return Err(error.into());
            }
            _ if args.here => {}
            "sqlite" => {
                // On the disk of the real one, which decides how long a commit takes.
                let file = connect::sqlite_file(config, &context.paths.data_dir);
                let (dir, path) = beside(&file)?;
                config.url = address("sqlite", &path.join("bench.db"))?;
                ground.dir = Some(dir);
            }
            "file" => {
                let (dir, path) = beside(Path::new(config.url.path()))?;
                config.url = address("file", &path.join("bench.jsonl"))?;
                ground.dir = Some(dir);
            }
            _ => {
                // With an outbox of its own, for a broker that goes away meanwhile.
                let (dir, path) = beside(&connect::outbox_file(&context.paths.data_dir))?;
                ground.data_dir = path;
                ground.dir = Some(dir);
                config.exchange.clone_from(&name);
                ground.own_exchange = true;
            }
        }
        if ground.config.url.is_broker() {
            with_bus_at(context, ground.place(), async |bus| {
                let spec = QueueSpec { prefetch: 1, ..QueueSpec::new(name.clone(), vec![ground.pattern()?]) };
                let queue = bus.queue(spec).await?;
                queue.drain().await;
                Ok(())
            })
            .await?;
            ground.queue = Some(name);
        }
        Ok(ground)
    }

    fn place(&self) -> Place<'_> {
        Place { config: &self.config, data_dir: &self.data_dir }
    }

    fn pattern(&self) -> anyhow::Result<Pattern> {
        Ok(format!("{}.#", self.types).parse()?)
    }

    async fn clear(self, context: &Context) -> anyhow::Result<()> {
        if let Some(queue) = &self.queue {
            with_bus_at(context, self.place(), async |bus| Ok(bus.delete_queue(queue).await?)).await?;
        }
        if self.own_exchange {
            let life = Shutdown::new();
            connect::remove_exchange(&self.config, &life).await?;
            life.finish(drain_deadline(context)).await?;
        }
        if let Some(dir) = self.dir {
            dir.close()?;
        }
        Ok(())
    }

    fn job(&self, role: Role, args: &Args, count: u32, batch: u16) -> Job {
        Job {
            url: self.config.url.expose().to_owned(),
            exchange: self.config.exchange.clone(),
            data_dir: self.data_dir.clone(),
            role,
            types: self.types.clone(),
            count,
            batch,
            payload: args.payload,
        }
    }
}

/// A directory beside a file, and its absolute path.
fn beside(file: &Path) -> anyhow::Result<(tempfile::TempDir, PathBuf)> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The bus itself would make it too.
    std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    let dir = tempfile::Builder::new().prefix(".bench-").tempdir_in(parent);
    let dir = dir.with_context(|| format!("cannot write to {}", parent.display()))?;
    let path = std::path::absolute(dir.path())?;
    Ok((dir, path))
}

fn address(scheme: &str, path: &Path) -> anyhow::Result<BusUrl> {
    let text = path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?;
    format!("{scheme}:{text}").parse().map_err(|reason: &str| anyhow::anyhow!("{reason}"))
}

async fn measure(args: &Args, context: &Context, ground: &Ground) -> anyhow::Result<Report> {
    let spinner = progress::count(context);
    let mut publish = Vec::new();
    let mut crowds = vec![1, args.processes];
    crowds.dedup();
    for processes in crowds {
        for batch in [1, args.batch] {
            spinner.set_message(format!("{processes} publishers, {batch} at once"));
            let count = if batch == 1 { args.count } else { args.count.saturating_mul(TIMES_IN_BATCHES) };
            publish.push(rate(ground, args, processes, count, batch).await?);
            spinner.inc(u64::from(count) * u64::from(processes));
        }
    }
    spinner.set_message("from one process to another");
    let latency = latency(ground, args).await?;
    spinner.finish_and_clear();
    Ok(Report { bus: context.config.bus.url.to_string(), payload_bytes: args.payload, publish, latency })
}

async fn rate(ground: &Ground, args: &Args, processes: u16, count: u32, batch: u16) -> anyhow::Result<Rate> {
    let mut workers = Vec::new();
    for _ in 0..processes {
        workers.push(Worker::start(&ground.job(Role::Publish, args, count, batch)).await?);
    }
    for worker in &mut workers {
        worker.hear("ready").await?;
    }
    let started = Instant::now();
    for worker in &mut workers {
        worker.say("go").await?;
    }
    for worker in &mut workers {
        worker.hear("done").await?;
    }
    let seconds = started.elapsed().as_secs_f64();
    for worker in workers {
        worker.end().await?;
    }
    let events = u64::from(count) * u64::from(processes);
    #[allow(clippy::cast_precision_loss, reason = "a rate has three digits that matter")]
    let per_second = events as f64 / seconds;
    Ok(Rate { processes, batch, events, seconds, per_second })
}

async fn latency(ground: &Ground, args: &Args) -> anyhow::Result<Latency> {
    let count = args.count.min(TIMED);
    let mut listener = Worker::start(&ground.job(Role::Listen, args, count, 1)).await?;
    listener.hear("ready").await?;
    let mut publisher = Worker::start(&ground.job(Role::Pace, args, count, 1)).await?;
    publisher.hear("ready").await?;
    publisher.say("go").await?;
    publisher.hear("done").await?;
    publisher.end().await?;
    let line = listener.next().await?;
    let latency = serde_json::from_str(&line).with_context(|| format!("the listener said {line}"))?;
    listener.end().await?;
    Ok(latency)
}

/// A process that works for the bench.
struct Worker {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    async fn start(job: &Job) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program")?;
        // The same configuration, so the same arguments; what differs goes through the pipe, because an address may
        // hold a password.
        let mut child = Command::new(program)
            .args(std::env::args_os().skip(1))
            .arg("--worker")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("cannot start a process of the bench")?;
        let (Some(stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
            unreachable!("both were asked for");
        };
        let mut worker = Self { child, stdin, stdout: BufReader::new(stdout).lines() };
        worker.say(&serde_json::to_string(job)?).await?;
        Ok(worker)
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let line = format!("{line}\n");
        self.stdin.write_all(line.as_bytes()).await.context("a process of the bench ended early")
    }

    async fn next(&mut self) -> anyhow::Result<String> {
        match self.stdout.next_line().await? {
            Some(line) => Ok(line),
            // It has said why.
            None => Err(Failure::reported(Exit::Failed).into()),
        }
    }

    async fn hear(&mut self, word: &str) -> anyhow::Result<()> {
        let line = self.next().await?;
        if line != word {
            bail!("a process of the bench said {line:?} instead of {word:?}");
        }
        Ok(())
    }

    async fn end(self) -> anyhow::Result<()> {
        let Self { mut child, stdin, .. } = self;
        drop(stdin);
        tokio::time::timeout(PATIENCE, child.wait())
            .await
            .context("a process of the bench does not end")??;
        Ok(())
    }
}

fn text(report: &Report) -> String {
    let rows: Vec<Vec<String>> = report
        .publish
        .iter()
        .map(|rate| {
            vec![
                rate.processes.to_string(),
                rate.batch.to_string(),
                format!("{:.0}", rate.per_second),
                rate.events.to_string(),
                format!("{:.2}", rate.seconds),
            ]
        })
        .collect();
    let right = |heading| (heading, Side::Right);
    let columns = ["PUBLISHERS", "AT ONCE", "EVENTS/S", "EVENTS", "SECONDS"].map(right);
    let Latency { events, p50_ms, p95_ms, p99_ms, max_ms } = &report.latency;
    format!(
        "{}, {} bytes of payload\n\n{}\nfrom one process to another: p50 {p50_ms:.2} ms, p95 {p95_ms:.2} ms, p99 {p99_ms:.2} ms, at most {max_ms:.2} ms ({events} events)\n",
        report.bus,
        report.payload_bytes,
        table(&columns, &rows),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_reads_well() {
        let rate = |processes, batch, events: u64, seconds| Rate {
            processes,
            batch,
            events,
            seconds,
            per_second: 1000.0,
        };
        let report = Report {
            bus: "amqp://***@host".to_owned(),
            payload_bytes: 200,
            publish: vec![rate(1, 1, 500, 0.5), rate(4, 100, 20_000, 20.0)],
            latency: Latency { events: 500, p50_ms: 0.9, p95_ms: 2.0, p99_ms: 3.25, max_ms: 10.0 },
        };
        insta::assert_snapshot!(text(&report), @"
        amqp://***@host, 200 bytes of payload

        PUBLISHERS  AT ONCE  EVENTS/S  EVENTS  SECONDS
                 1        1      1000     500     0.50
                 4      100      1000   20000    20.00

        from one process to another: p50 0.90 ms, p95 2.00 ms, p99 3.25 ms, at most 10.00 ms (500 events)
        ");
    }
}
