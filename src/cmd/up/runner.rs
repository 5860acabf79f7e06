//! Carries out what the state machine decides: starts and ends processes, tells what happened.
//!
//! Everything runs on the main thread's runtime: this loop, which never waits for anything but the next input, and one
//! task for each process. The loop ends when the last process has ended; a stop that was asked for makes that happen.

use std::{
    collections::VecDeque,
    ffi::OsString,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::{
    Policy,
    lines::Tail,
    output::{Output, Style},
    parts::Part,
    process::{Groups, Launch, Process, Report},
    report::Reporter,
    supervise::{Change, Effect, Ending, Input, Supervisor, Verdict},
};
use crate::{
    cmd::{Context, notify::Notifier},
    config::LogFormat,
};

/// Reports that wait for the loop.
const WAITING: usize = 64;
/// What the last lines may take to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What to run, and how.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) parts: Vec<Part>,
    pub(super) program: PathBuf,
    pub(super) passed_on: Vec<OsString>,
    pub(super) policy: Policy,
}

/// What is known about a part beside its state.
#[derive(Debug, Default)]
struct Known {
    /// Of its last process.
    pid: Option<u32>,
    restarts: u32,
    tail: Arc<Mutex<Tail>>,
}

/// Runs the parts until they have all ended.
///
/// # Errors
/// When a part is broken, with its last words; when there is no room for a socket or a thread.
pub(super) async fn run(plan: Plan, context: &Context, notifier: Notifier) -> anyhow::Result<()> {
    let Context { config, shutdown, terminal, .. } = context;
    let sockets = tempfile::Builder::new().prefix("godctl-up-").tempdir();
    let sockets = sockets.context("cannot make a directory for the parts' sockets")?;
    let style = Style {
        names: plan.parts.iter().map(|part| part.name.clone()).collect(),
        json: config.log.format == LogFormat::Json,
        terminal: *terminal,
    };
    let (output, written) = Output::start(style, shutdown).context("cannot start the thread that writes")?;
    let groups = Groups::default();
    let last = groups.clone();
    shutdown.before_exit(move || last.kill_all());
    let reporter = Reporter::start(context);
    let (reports, heard) = mpsc::channel(WAITING);

    let mut runner = Runner {
        context,
        known: plan.parts.iter().map(|_| Known::default()).collect(),
        plan,
        sockets: sockets.path().to_owned(),
        groups,
        output,
        reports,
        reporter,
        pending: VecDeque::new(),
        started: Instant::now(),
    };
    let verdict = runner.run(heard, notifier).await;
    let Runner { output, reporter, plan, known, .. } = runner;
    reporter.finish().await;
    let dropped = output.untold();
    drop(output);
    if tokio::time::timeout(LAST_LINES, written).await.is_err() {
        warn!(dropped, "the last lines were not written, because nobody reads them");
    }
    match verdict {
        Verdict::Asked | Verdict::AllEnded => Ok(()),
        Verdict::Broken { part, reason } => Err(broken(&plan, &known, part, &reason)),
    }
}

struct Runner<'a> {
    context: &'a Context,
    plan: Plan,
    known: Vec<Known>,
    sockets: PathBuf,
    groups: Groups,
    output: Output,
    reports: mpsc::Sender<Report>,
    reporter: Reporter,
    /// Inputs that came out of carrying out effects.
    pending: VecDeque<Input>,
    started: Instant,
}

impl Runner<'_> {
    async fn run(&mut self, mut heard: mpsc::Receiver<Report>, notifier: Notifier) -> Verdict {
        let seed = fastrand::u64(..);
        let mut supervisor = Supervisor::new(self.plan.parts.len(), self.plan.policy, seed);
        let mut notifier = Some(notifier);
        let mut input = Input::Tick;
        loop {
            for effect in supervisor.step(input, self.started.elapsed()) {
                match effect {
                    Effect::Spawn(part) => self.spawn(part),
                    Effect::Terminate(part) => self.groups.signal(part, Signal::TERM),
                    Effect::Kill(part) => self.groups.signal(part, Signal::KILL),
                    Effect::Tell(part, change) => self.tell(part, change),
                    Effect::Finish(verdict) => return verdict,
                }
            }
            if supervisor.is_up()
                && let Some(notifier) = notifier.take()
            {
                info!(parts = self.plan.parts.len(), "all parts are ready");
                notifier.ready(&format!("{} parts are ready", self.plan.parts.len()));
            }
            input = match self.pending.pop_front() {
                Some(input) => input,
                None => self.next(&supervisor, &mut heard).await,
            };
        }
    }

    async fn next(&self, supervisor: &Supervisor, heard: &mut mpsc::Receiver<Report>) -> Input {
        let until = async {
            match supervisor.deadline() {
                Some(deadline) => tokio::time::sleep_until((self.started + deadline).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(until);
        loop {
            // What parts said comes before what time says about them. All of these are cancel safe.
            tokio::select! {
                biased;
                () = self.context.shutdown.cancelled(), if !supervisor.is_stopping() => return Input::Stop,
                // The sender lives in `self`, so there is always a report or a wait.
                Some(report) = heard.recv() => match report {
                    Report::Input(input) => return input,
                    // Some count aloud.
                    Report::Status { part, status } => debug!(part = self.name(part), status, "a part said"),
                },
                () = &mut until => return Input::Tick,
            }
        }
    }

    fn name(&self, part: usize) -> &str {
        self.plan.parts.get(part).map_or("?", |part| part.name.as_str())
    }

    fn spawn(&mut self, at: usize) {
        let (Some(part), Some(known)) = (self.plan.parts.get(at), self.known.get_mut(at)) else { return };
        let terminal = self.context.terminal;
        // The parts write into pipes, but where their lines end up colours may be welcome.
        let color = if terminal.stdout.color && terminal.stderr.color { "always" } else { "never" };
        let flags = self.plan.passed_on.iter().cloned().chain(["--color".into(), color.into()]);
        let launch = Launch {
            part: at,
            program: self.plan.program.clone(),
            args: flags.chain(part.words.iter().map(OsString::from)).collect(),
            sockets: self.sockets.clone(),
            watchdog: self.plan.policy.watchdog,
        };
        known.pid = None;
        known.tail = Arc::default();
        match Process::start(launch, &self.groups) {
            Ok(process) => {
                known.pid = Some(process.id());
                let (groups, output) = (self.groups.clone(), self.output.clone());
                let (tail, reports) = (Arc::clone(&known.tail), self.reports.clone());
                self.context.shutdown.spawn("part", process.look_after(groups, output, tail, reports));
            }
            Err(error) => {
                let ending = Ending::Unstartable(error.to_string());
                self.pending.push_back(Input::Ended { part: at, ending });
            }
        }
    }

    fn tell(&mut self, at: usize, change: Change) {
        let Some(known) = self.known.get_mut(at) else { return };
        if let Change::Started { restarts } = &change {
            known.restarts = *restarts;
        }
        let (pid, restarts) = (known.pid, known.restarts);
        let part = self.plan.parts.get(at).map_or("?", |part| part.name.as_str());
        match &change {
            // What could not be started is told as an end.
            Change::Started { .. } if pid.is_none() => return,
            Change::Started { .. } => info!(part, pid, restarts, "a part was started"),
            Change::Ready { after } => info!(part, pid, after_ms = millis(*after), "a part is ready"),
            Change::Exited { reason, retry_in: Some(wait), .. } => {
                warn!(part, reason, retry_in_ms = millis(*wait), "a part failed and starts again");
            }
            Change::Exited { .. } => {}
            Change::Failed { reason, .. } => error!(part, reason, restarts, "a part is broken, stopping"),
            Change::Stopped { reason, .. } => info!(part, reason, "a part has stopped"),
        }
        self.reporter.tell(part, pid, restarts, change);
    }
}

/// The error that ends `godctl up`, with what the part said last.
fn broken(plan: &Plan, known: &[Known], at: usize, reason: &str) -> anyhow::Error {
    let name = plan.parts.get(at).map_or("?", |part| part.name.as_str());
    let mut message = format!("{name} is broken: it {reason}");
    let Some(known) = known.get(at) else { return anyhow!(message) };
    match known.restarts {
        0 => {}
        1 => message.push_str(", after 1 restart"),
        restarts => message.push_str(&format!(", after {restarts} restarts")),
    }
    for (index, line) in known.tail.lock().lines().enumerate() {
        message.push_str(if index == 0 { "; the last it wrote to stderr:\n  " } else { "\n  " });
        message.push_str(line);
    }
    anyhow!(message)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
