//! `godctl bus work QUEUE -- CMD`: runs a command for each delivery and settles it by the exit code.
//!
//! All workers share the command's task; each has at most one child process, in a process group of its own, so that
//! Ctrl-C reaches godctl alone. The first signal stops taking work and lets children finish; what still runs when the
//! drain's time is over gets SIGTERM, then SIGKILL, and its work is given back uncounted.

use std::{
    cell::RefCell,
    io::{self, Write as _},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::{OptionFuture, join_all};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStderr, Command},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    connection::{drain_deadline, with_bus},
    work::Args,
};
use crate::{
    bus::{Body, BusError, Delivery, Event, Settled, WorkQueue},
    cmd::{Context, Threads, notify::Notifier},
};

/// `EX_DATAERR` of `sysexits.h`: the input is wrong and always will be.
const DATA_ERROR: i32 = 65;

/// No attempt waits longer for its turn.
const LONGEST_BACKOFF: Duration = Duration::from_secs(300);

/// What a child may take between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(5);

/// Signs of life are no closer than this.
const SHORTEST_SIGN: Duration = Duration::from_millis(50);

/// The end of what a child wrote to stderr, in bytes, that becomes a reason.
const REASON_BYTES: usize = 500;

/// How long to wait for the end of a stderr that a grandchild may hold open.
const STDERR_PATIENCE: Duration = Duration::from_millis(500);

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let notifier = Notifier::new(context);
    context.block_on(Threads::PerCore, async {
        with_bus(context, async |bus| {
            let queue = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return Ok(()),
                queue = bus.queue(args.spec()) => queue?,
            };
            notifier.ready(&format!("working off {}", args.spec().name));
            let crew = Crew {
                queue: &*queue,
                args,
                // Cancelled by a signal, and by the first worker that can't go on.
                stop: context.shutdown.child_token(),
                drain: drain_deadline(context),
            };
            let workers = (0..args.workers).map(|_| crew.worker());
            // All of them: one that fails stops the others, whose commands may still end well.
            let results = join_all(workers).await;
            queue.drain().await;
            results.into_iter().collect()
        })
        .await
    })
}

struct Crew<'a> {
    queue: &'a dyn WorkQueue,
    args: &'a Args,
    stop: CancellationToken,
    drain: Duration,
}

/// How a command came to its end.
enum Ended {
    Exited {
        status: ExitStatus,
        stderr: String,
    },
    /// The drain's time was over.
    Interrupted,
    /// Somebody else may have the work.
    LeaseLost,
    /// It ran longer than `--timeout`.
    TookTooLong,
}

impl Crew<'_> {
    async fn worker(&self) -> anyhow::Result<()> {
        loop {
            let idle = self.args.idle.map(tokio::time::sleep);
            let delivery = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(()),
                delivery = self.queue.next() => delivery?,
                Some(()) = OptionFuture::from(idle) => return Ok(()),
            };
            let Some(delivery) = delivery else { return Ok(()) };
            if let Err(error) = self.handle(&delivery).await {
                self.stop.cancel();
                return Err(error);
            }
        }
    }

    async fn handle(&self, delivery: &Delivery) -> anyhow::Result<()> {
        let lease = &delivery.lease;
        let event = match &delivery.received.body {
            Body::Event(event) => event,
            Body::Unparsed(unparsed) => {
                warn!(reason = unparsed.reason, "a message that is no event goes to the dead letters");
                settled(lease.dead(&format!("not an event: {}", unparsed.reason)).await);
                return Ok(());
            }
        };
        let (id, event_type) = (event.event_id, event.event_type.as_str());
        let child = match self.spawn(event, delivery.attempt) {
            Ok(child) => child,
            Err(error) => {
                // It will fail for all of them, so this is no attempt.
                settled(lease.release().await);
                let program = self.args.command.first().map(|program| program.to_string_lossy().into_owned());
                return Err(error).with_context(|| format!("cannot run {}", program.unwrap_or_default()));
            }
        };
        match self.watch(child, event, delivery).await? {
            Ended::Exited { status, .. } if status.success() => settled(lease.ack().await),
            Ended::Exited { status, stderr } if status.code() == Some(DATA_ERROR) => {
                let reason = reason(status, &stderr);
                warn!(%id, event_type, reason, "dead");
                settled(lease.dead(&reason).await);
            }
            Ended::Exited { status, stderr } => self.retry(delivery, event, &reason(status, &stderr)).await,
            Ended::TookTooLong => {
                let limit = self.args.timeout.unwrap_or_default();
                self.retry(delivery, event, &format!("took longer than {} s", limit.as_secs_f32())).await;
            }
            Ended::Interrupted => {
                info!(%id, event_type, "given back");
                settled(lease.release().await);
            }
            Ended::LeaseLost => warn!(%id, event_type, "{}", BusError::LeaseLost),
        }
        Ok(())
    }

    async fn retry(&self, delivery: &Delivery, event: &Event, reason: &str) {
        let delay = backoff(self.args.backoff, delivery.attempt);
        let (id, event_type, attempt) = (event.event_id, event.event_type.as_str(), delivery.attempt);
        match delivery.lease.retry(delay, reason).await {
            Ok(Settled::Retrying) => warn!(%id, event_type, attempt, reason, ?delay, "failed, again later"),
            Ok(Settled::Dead) => warn!(%id, event_type, attempt, reason, "failed for the last time, dead"),
            Err(error) => settled(Err(error)),
        }
    }

    fn spawn(&self, event: &Event, attempt: u32) -> io::Result<Child> {
        let (program, arguments) =
            self.args.command.split_first().ok_or(io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .env("GODCTL_EVENT_TYPE", event.event_type.as_str())
            .env("GODCTL_EVENT_ID", event.event_id.to_string())
            .env("GODCTL_EVENT_ATTEMPT", attempt.to_string())
            .env("GODCTL_QUEUE", self.args.spec().name)
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        #[cfg(unix)]
        command.process_group(0);
        command.spawn()
    }

    /// Feeds the child, keeps its lease alive and waits for its end.
    async fn watch(&self, mut child: Child, event: &Event, delivery: &Delivery) -> anyhow::Result<Ended> {
        let mut input = event.to_json();
        input.push(b'\n');
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let tail = RefCell::new(Vec::new());
        let feed = async {
            if let Some(mut stdin) = stdin {
                // A command need not read its input.
                drop(stdin.write_all(&input).await);
            }
        };
        let listen = async {
            if let Some(stderr) = stderr {
                pass_on(stderr, &tail).await;
            }
        };
        let talk = futures_util::future::join(feed, listen);
        let limits = self.limits(delivery);
        tokio::pin!(talk, limits);

        let mut talking = true;
        let status = loop {
            tokio::select! {
                status = child.wait() => break status.context("cannot wait for the command")?,
                _ = &mut talk, if talking => talking = false,
                ended = &mut limits => {
                    let stopped = stop(&mut child);
                    tokio::pin!(stopped);
                    loop {
                        tokio::select! {
                            () = &mut stopped => return Ok(ended),
                            _ = &mut talk, if talking => talking = false,
                        }
                    }
                }
            }
        };
        if talking {
            // What it left running may hold its stderr open.
            drop(tokio::time::timeout(STDERR_PATIENCE, talk).await);
        }
        let stderr = String::from_utf8_lossy(&tail.borrow()).into_owned();
        Ok(Ended::Exited { status, stderr })
    }

    /// Ends when the child may not go on.
    async fn limits(&self, delivery: &Delivery) -> Ended {
        let too_long = OptionFuture::from(self.args.timeout.map(tokio::time::sleep));
        let interrupted = async {
            self.stop.cancelled().await;
            tokio::time::sleep(self.drain).await;
        };
        tokio::select! {
            Some(()) = too_long => Ended::TookTooLong,
            () = interrupted => Ended::Interrupted,
            () = keep(delivery, self.args.spec().visibility) => Ended::LeaseLost,
        }
    }
}

/// Extends the lease until it is lost.
async fn keep(delivery: &Delivery, visibility: Duration) {
    loop {
        // Two of three may fail before somebody else gets the work.
        tokio::time::sleep((visibility / 3).max(SHORTEST_SIGN)).await;
        match delivery.lease.extend(visibility).await {
            Ok(()) => {}
            Err(BusError::LeaseLost) => return,
            Err(error) => warn!(%error, "cannot extend the lease"),
        }
    }
}

/// Copies a child's stderr to ours, and keeps the end of it.
async fn pass_on(mut stderr: ChildStderr, tail: &RefCell<Vec<u8>>) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = stderr.read(&mut buffer).await {
        let bytes = buffer.get(..read).unwrap_or_default();
        // The child's words are worth more than our ability to show them.
        drop(io::stderr().write_all(bytes));
        let mut tail = tail.borrow_mut();
        tail.extend_from_slice(bytes);
        let surplus = tail.len().saturating_sub(REASON_BYTES);
        tail.drain(..surplus);
    }
}

/// Asks the child and whatever it started to end, then makes them.
async fn stop(child: &mut Child) {
    signal(child, End::Asked);
    if tokio::time::timeout(GRACE, child.wait()).await.is_err() {
        signal(child, End::Forced);
        drop(child.kill().await);
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Asked,
    Forced,
}

#[cfg(unix)]
fn signal(child: &Child, end: End) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let signal = match end {
        End::Asked => Signal::TERM,
        End::Forced => Signal::KILL,
    };
    if let Some(group) = group
        && let Err(error) = kill_process_group(group, signal)
    {
        warn!(%error, "cannot signal the command");
    }
}

#[cfg(not(unix))]
fn signal(_child: &Child, _end: End) {
    // There is no way to ask; the caller kills it when its time is over.
}

/// Tells of a settlement that failed; the work then comes again when its lease ends.
fn settled(result: Result<(), BusError>) {
    if let Err(error) = result {
        warn!(%error, "cannot settle; the work comes again");
    }
}

/// The wait before attempt `attempt + 1`.
fn backoff(first: Duration, attempt: u32) -> Duration {
    let doubled = 1_u32.checked_shl(attempt.saturating_sub(1)).unwrap_or(u32::MAX);
    first.saturating_mul(doubled).min(LONGEST_BACKOFF.max(first))
}

/// How it ended, and the last that it said.
fn reason(status: ExitStatus, stderr: &str) -> String {
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    match lines.as_slice() {
        [] => status.to_string(),
        lines => format!("{status}: {}", lines.join(" | ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_its_limit() {
        let second = Duration::from_secs(1);
        let waits: Vec<u64> = [1, 2, 3, 9, 10, 40, u32::MAX].map(|n| backoff(second, n).as_secs()).into();
        assert_eq!(waits, [1, 2, 4, 256, 300, 300, 300]);
        assert_eq!(backoff(Duration::ZERO, 7), Duration::ZERO);
        assert_eq!(backoff(Duration::from_secs(900), 2), Duration::from_secs(900), "what the user asked for");
    }

    #[cfg(unix)]
    #[test]
    fn a_reason_is_the_status_and_the_last_words() {
        use std::os::unix::process::ExitStatusExt as _;
        let exit = |raw| ExitStatus::from_raw(raw);
        assert_eq!(reason(exit(3 << 8), "a\n\n b \n"), "exit status: 3: a | b");
        assert_eq!(reason(exit(9), ""), "signal: 9 (SIGKILL)");
    }
}
