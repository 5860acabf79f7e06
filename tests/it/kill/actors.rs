//! The processes of a run, each with a thread that feeds it, reads it, and starts it again when it was killed; and the
//! thread that kills them. All end when the run is over.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, ExitStatus, Stdio},
    sync::{
        atomic::{AtomicBool, AtomicU32, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    ledger::{Handed, Ledger, Life, Name},
    now,
};
use crate::support::Home;

/// Events that a producer has sent and that are not yet reported durable.
const WINDOW: u32 = 256;

/// How long the work may go on after the last kill.
const PATIENCE: Duration = Duration::from_secs(120);

/// A run: who takes part, and what became of it.
pub(crate) struct Run<'a> {
    pub(crate) home: &'a Home,
    /// What every process is given, such as `-c` and a setting.
    pub(crate) settings: Vec<String>,
    pub(crate) queue: &'a str,
    /// How long a consumer may keep a delivery.
    pub(crate) visibility: Duration,
    pub(crate) seed: u64,
    /// How long processes are killed; the events are spread over the first 85 % of it.
    pub(crate) duration: Duration,
    /// Of each producer.
    pub(crate) events: u32,
    pub(crate) ledger: Mutex<Ledger>,
    producers: Vec<Role>,
    consumers: Vec<Role>,
    started: Instant,
    /// All that was sent has been acknowledged, or time is up.
    over: AtomicBool,
    may_lack_a_broker: bool,
}

/// A part that one process after another plays.
#[derive(Default)]
struct Role {
    process: Mutex<Option<Process>>,
    lives: AtomicU32,
    kills: AtomicU32,
}

struct Process {
    child: Child,
    number: u32,
    killed: bool,
}

/// What `bus publish --lines` prints for an event that is durable.
#[derive(Deserialize)]
struct Reported {
    event_id: Uuid,
    outcome: String,
}

/// What `bus work --lines` prints.
#[derive(Deserialize)]
#[serde(untagged)]
enum Worked {
    Acked { acked: Uuid },
    Handed { event_id: Uuid, event: Value, attempt: u32, at_ms: u64 },
    Refused { event_id: Uuid, error: String },
}

/// Whoever kills more than godctl's processes; called every now and then while processes are killed.
pub(crate) type Extra<'a> = &'a mut (dyn FnMut(&Run<'_>, Duration) + Send);

impl<'a> Run<'a> {
    pub(crate) fn new(home: &'a Home, settings: Vec<String>, seed: u64) -> Self {
        Self {
            home,
            settings,
            queue: "kill.work",
            visibility: Duration::from_secs(10),
            seed,
            duration: super::duration(120),
            events: 0,
            ledger: Mutex::default(),
            producers: Vec::new(),
            consumers: Vec::new(),
            started: Instant::now(),
            over: AtomicBool::new(false),
            may_lack_a_broker: false,
        }
    }

    /// So many of each, and so many events over all producers.
    pub(crate) fn with(mut self, producers: u8, consumers: u8, events: u32) -> Self {
        self.producers = (0..producers).map(|_| Role::default()).collect();
        self.consumers = (0..consumers).map(|_| Role::default()).collect();
        self.events = events / u32::from(producers);
        self
    }

    /// Processes may fail to start, because the broker is killed too.
    pub(crate) fn may_lack_a_broker(mut self) -> Self {
        self.may_lack_a_broker = true;
        self
    }

    /// Plays it, and gives back what happened. `extra` may kill a broker meanwhile.
    pub(crate) fn play(mut self, extra: Extra<'_>) -> Played {
        println!("seed {} (GODCTL_KILL_SEED), {:?}", self.seed, self.duration);
        self.prepare();
        self.started = Instant::now();
        let run = &self;
        std::thread::scope(|scope| {
            for number in 0..run.producers.len() as u8 {
                scope.spawn(move || run.produce(number));
            }
            for number in 0..run.consumers.len() as u8 {
                scope.spawn(move || run.consume(number));
            }
            scope.spawn(move || run.kill_at_random());
            while run.started.elapsed() < run.duration && !run.is_over() {
                extra(run, run.started.elapsed());
                pause(50);
            }
            extra(run, Duration::MAX);
            run.wait_for_the_rest();
            run.over.store(true, Ordering::Relaxed);
            for consumer in &run.consumers {
                consumer.kill(|_| {});
            }
        });
        let kills =
            |roles: &[Role]| -> u32 { roles.iter().map(|role| role.kills.load(Ordering::Relaxed)).sum() };
        let played = Played {
            took: self.started.elapsed(),
            kills: (kills(&self.producers), kills(&self.consumers)),
            ledger: self.ledger.into_inner(),
        };
        played.tell();
        played
    }

    /// Makes the queue before anything is published: a broker keeps nothing for a queue that is not there.
    fn prepare(&self) {
        let mut args = self.work();
        args.extend(["--idle", "1s"].map(str::to_owned));
        let mut child = self.spawn("prepare.log", &args);
        let stdin = child.stdin.take();
        let status = child.wait().unwrap();
        assert!(status.success(), "{status}: {}", self.said("prepare.log"));
        drop(stdin);
    }

    /// The arguments of a consumer.
    fn work(&self) -> Vec<String> {
        let visibility = format!("{}ms", self.visibility.as_millis());
        [
            "bus",
            "work",
            self.queue,
            "--lines",
            "--bind",
            "kill.#",
            "--visibility",
            &visibility,
            "--max-attempts",
            "100",
        ]
        .map(str::to_owned)
        .to_vec()
    }

    fn wait_for_the_rest(&self) {
        let deadline = Instant::now() + PATIENCE;
        let produced = self.events as usize * self.producers.len();
        let rest = || {
            let ledger = self.ledger.lock();
            produced - ledger.reported.keys().filter(|name| ledger.is_settled(**name)).count()
        };
        while rest() > 0 && Instant::now() < deadline && !self.is_over() {
            pause(200);
        }
        if rest() > 0 {
            self.wrong(format!("{} of {produced} events are not through in time", rest()));
        } else {
            // Leases that nobody settled end now; what was acknowledged must not come again.
            pause(u64::try_from(self.visibility.as_millis()).unwrap() + 1_000);
        }
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    pub(crate) fn wrong(&self, what: String) {
        self.ledger.lock().wrong.push(what);
    }

    fn spawn(&self, role: &str, args: &[String]) -> Child {
        let log = File::options().create(true).append(true).open(self.home.path().join(role)).unwrap();
        let mut command = self.home.command("godctl");
        command.args(&self.settings).args(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(log).spawn().unwrap()
    }

    /// The end of what the processes of a role wrote to standard error.
    fn said(&self, role: &str) -> String {
        let text = std::fs::read_to_string(self.home.path().join(role)).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// One producer: sends its events in order, and after a death goes on with the first that was not reported.
    fn produce(&self, producer: u8) {
        let role = &self.producers[usize::from(producer)];
        let log = format!("producer-{producer}.log");
        let mut confirmed = 0;
        while confirmed < self.events && !self.is_over() {
            let (_, stdin, stdout) =
                role.begin(self.spawn(&log, &["bus", "publish", "--lines"].map(str::to_owned)));
            let reported = AtomicU32::new(confirmed);
            let gone = AtomicBool::new(false);
            std::thread::scope(|scope| {
                scope.spawn(|| self.feed(producer, stdin, &reported, &gone));
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    self.note_report(producer, &line);
                    let ledger = self.ledger.lock();
                    while confirmed < self.events
                        && ledger.reported.contains_key(&Name { producer, n: confirmed })
                    {
                        confirmed += 1;
                    }
                    drop(ledger);
                    reported.store(confirmed, Ordering::Relaxed);
                }
                gone.store(true, Ordering::Relaxed);
            });
            let (killed, status) = role.end();
            let finished = confirmed == self.events && status.success();
            if !killed && !finished && !self.could_not_start(status) {
                self.wrong(format!("producer {producer} ended by itself with {status}: {}", self.said(&log)));
                self.over.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Writes the events to a producer process, not faster than planned and not further ahead than the window.
    fn feed(&self, producer: u8, mut stdin: ChildStdin, reported: &AtomicU32, gone: &AtomicBool) {
        let from = reported.load(Ordering::Relaxed);
        for n in from..self.events {
            let due = self.started + self.duration.mul_f64(0.85 * f64::from(n) / f64::from(self.events));
            while Instant::now() < due || n >= reported.load(Ordering::Relaxed) + WINDOW {
                if gone.load(Ordering::Relaxed) || self.is_over() {
                    return;
                }
                pause(2);
            }
            let name = Name { producer, n };
            let mut line = event(name, self.seed).to_string();
            line.push('\n');
            self.ledger.lock().sent.entry(name).or_default().push(now());
            if stdin.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
        // Dropping the pipe says that this was all.
    }

    fn note_report(&self, producer: u8, line: &str) {
        let Ok(reported) = serde_json::from_str::<Reported>(line) else {
            // A process that is killed while it writes leaves half a line.
            let torn = !line.ends_with('}');
            if !torn {
                self.wrong(format!("producer {producer} said {line}"));
            }
            return;
        };
        let Some(name) = Name::of(reported.event_id, self.seed).filter(|name| name.producer == producer)
        else {
            return self.wrong(format!("producer {producer} reported an unknown event: {line}"));
        };
        let mut ledger = self.ledger.lock();
        if !matches!(reported.outcome.as_str(), "published" | "duplicate" | "deferred") {
            ledger.wrong.push(format!("{name:?}: {line}"));
        }
        if reported.outcome == "deferred" {
            ledger.deferred.insert(name);
        }
        *ledger.outcomes.entry(reported.outcome).or_default() += 1;
        ledger.reported.entry(name).or_insert_with(now);
    }

    /// One consumer: takes deliveries and acknowledges them in small batches.
    fn consume(&self, consumer: u8) {
        let role = &self.consumers[usize::from(consumer)];
        let log = format!("consumer-{consumer}.log");
        while !self.is_over() {
            let (number, stdin, stdout) = role.begin(self.spawn(&log, &self.work()));
            let life = Life { consumer, number };
            let (done, to_ack) = sync_channel(10_000);
            let mut worked = 0;
            std::thread::scope(|scope| {
                scope.spawn(move || self.acknowledge(life, stdin, &to_ack));
                for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                    worked += 1;
                    if let Some(id) = self.note_work(life, &line) {
                        done.send(id).ok();
                    }
                }
                drop(done);
            });
            let (killed, status) = role.end();
            self.ledger.lock().deaths.entry(life).or_insert_with(now);
            if !killed && !self.is_over() && (worked > 0 || !self.could_not_start(status)) {
                self.wrong(format!("consumer {consumer} ended by itself with {status}: {}", self.said(&log)));
                self.over.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Notes a line of a consumer; gives back what is to be acknowledged.
    fn note_work(&self, life: Life, line: &str) -> Option<Uuid> {
        let at = now();
        let worked = match serde_json::from_str::<Worked>(line) {
            Ok(worked) => worked,
            Err(_) if !line.ends_with('}') => return None,
            Err(error) => {
                self.wrong(format!("{life:?} said {line}: {error}"));
                return None;
            }
        };
        let (Worked::Acked { acked: id }
        | Worked::Handed { event_id: id, .. }
        | Worked::Refused { event_id: id, .. }) = &worked;
        let Some(name) = Name::of(*id, self.seed) else {
            self.wrong(format!("{life:?} got an unknown event: {line}"));
            return None;
        };
        let mut ledger = self.ledger.lock();
        match worked {
            Worked::Acked { .. } => {
                ledger.acked.entry(name).or_insert(at);
                None
            }
            Worked::Handed { event_id, event: got, attempt, at_ms } => {
                if got["payload"] != event(name, self.seed)["payload"] {
                    ledger.wrong.push(format!("{name:?} came out changed: {got}"));
                }
                ledger.handed.entry(name).or_default().push(Handed { at: at_ms, life, attempt });
                Some(event_id)
            }
            // The lease had ended; whoever has the event now acknowledges it.
            Worked::Refused { error, .. } => {
                *ledger.refusals.entry(error).or_default() += 1;
                None
            }
        }
    }

    /// Acknowledges what was done in batches, a few milliseconds after it was handed out, as a busy consumer would.
    fn acknowledge(&self, life: Life, mut stdin: ChildStdin, done: &Receiver<Uuid>) {
        let mut rng =
            fastrand::Rng::with_seed(self.seed ^ u64::from(life.number) << 8 ^ u64::from(life.consumer));
        while let Ok(first) = done.recv() {
            pause(rng.u64(0..8));
            let batch: Vec<Uuid> = std::iter::once(first).chain(done.try_iter()).collect();
            let mut ledger = self.ledger.lock();
            for name in batch.iter().filter_map(|id| Name::of(*id, self.seed)) {
                ledger.ack_sent.entry(name).or_default().push(life);
            }
            drop(ledger);
            let lines: String = batch.iter().map(|id| format!("{}\n", json!({ "ack": id }))).collect();
            if stdin.write_all(lines.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// Whether a process may have ended so because it found no broker.
    fn could_not_start(&self, status: ExitStatus) -> bool {
        let away = self.may_lack_a_broker && status.code() == Some(69);
        if away {
            pause(200);
        }
        away
    }

    fn kill_at_random(&self) {
        let mut rng = fastrand::Rng::with_seed(self.seed);
        while self.started.elapsed() < self.duration && !self.is_over() {
            pause(rng.u64(200..1_200));
            let producer = rng.bool();
            let roles = if producer { &self.producers } else { &self.consumers };
            let Some(victim) = rng.choice(0..roles.len()) else { continue };
            roles[victim].kill(|number| {
                if !producer {
                    let life = Life { consumer: victim as u8, number };
                    self.ledger.lock().deaths.insert(life, now());
                }
            });
        }
    }
}

impl Role {
    fn begin(&self, mut child: Child) -> (u32, ChildStdin, ChildStdout) {
        let pipes = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let number = self.lives.fetch_add(1, Ordering::Relaxed);
        *self.process.lock() = Some(Process { child, number, killed: false });
        (number, pipes.0, pipes.1)
    }

    /// Kills the process of the moment, if there is one; `before` learns its number first.
    fn kill(&self, before: impl FnOnce(u32)) {
        if let Some(process) = self.process.lock().as_mut().filter(|process| !process.killed) {
            before(process.number);
            process.killed = true;
            process.child.kill().unwrap();
            self.kills.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether it was killed, and how it ended.
    fn end(&self) -> (bool, ExitStatus) {
        let mut process = self.process.lock().take().unwrap();
        (process.killed, process.child.wait().unwrap())
    }
}

/// The event of this name; always the same.
pub(crate) fn event(name: Name, seed: u64) -> Value {
    let size = (u64::from(name.n) * 7_919 + u64::from(name.producer)) % 600;
    json!({
        "event_id": name.id(seed),
        "event_type": format!("kill.p{}.made", name.producer),
        "timestamp": "2026-01-01T00:00:00Z",
        "version": "1.0.0",
        "source": { "host": "test", "app": "kill", "type": "service" },
        "correlation_ids": [],
        "payload": { "producer": name.producer, "n": name.n, "filler": "x".repeat(size as usize) },
    })
}

pub(crate) fn pause(ms: u64) {
    std::thread::sleep(Duration::from_millis(ms));
}

/// A run that is over.
pub(crate) struct Played {
    pub(crate) ledger: Ledger,
    took: Duration,
    /// Of producers and consumers.
    kills: (u32, u32),
}

impl Played {
    fn tell(&self) {
        let ledger = &self.ledger;
        let handed: usize = ledger.handed.values().map(Vec::len).sum();
        println!(
            "{:?}: killed {} producers, {} consumers, {} brokers; {} events reported ({:?}), {handed} deliveries \
             ({} repeats), {} acknowledged, {} perhaps, refused {:?}",
            self.took,
            self.kills.0,
            self.kills.1,
            ledger.outages.len(),
            ledger.reported.len(),
            ledger.outcomes,
            ledger.repeats(),
            ledger.acked.len(),
            ledger.in_doubt(),
            ledger.refusals,
        );
    }
}
