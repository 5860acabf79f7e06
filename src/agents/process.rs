//! Runs the process of one turn, whichever agent it is, and never leaves one behind.
//!
//! The process leads a group of its own. Its prompt goes in and its two outputs come out at the same time, because an
//! agent may fill one pipe before it reads the other. Whoever stops it first asks in the way that the agent knows, then
//! terminates the group, then kills it, until nobody is left in it. Dropping the future of `run` kills the group too.

use std::{
    collections::{BTreeMap, VecDeque},
    io::ErrorKind,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, ChildStdin, Command},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    Class, Exit, Failure, Farewell, Input, Output, Reader, Spawn, Then,
    environment::{environment, redacted},
    groups::{Group, LOOK},
    lines::{Line, Lines},
    surroundings::{Limits, Surroundings},
};

/// Longest line that is read; a longer one is skipped. Agents put whole files into one line.
const MAX_LINE: usize = 32 * 1024 * 1024;
/// How much may wait to be read by an agent that asks and asks, and does not read the answers.
const MAX_UNSAID: usize = 128 * 1024 * 1024;
/// How much of standard error is kept: the end of it.
const MAX_STDERR: usize = 8 * 1024;
/// Read at once.
const CHUNK: usize = 64 * 1024;
/// How long what is left in the pipes is read once the process has ended: something that it started may hold them open.
const DRAIN: Duration = Duration::from_secs(2);

/// The variable by which all processes of a run can be found, whatever becomes of us.
pub const RUN_VARIABLE: &str = "GODCTL_RUN";

/// Runs a process until it has ended. What it prints goes through `reader`, and what that makes of it to `say`.
///
/// # Errors
/// Why it could not be started.
///
/// # Cancel safety
/// Dropping the future kills the process and its group.
pub(super) async fn run(
    spawn: &Spawn,
    directory: &Path,
    surroundings: Surroundings<'_>,
    stop: &CancellationToken,
    reader: &mut dyn Reader,
    say: &mut impl FnMut(Output),
) -> Result<Exit, Failure> {
    let mut environment = environment(&spawn.passes, &spawn.environment, surroundings.variables);
    if let Some(mark) = surroundings.mark {
        environment.insert(RUN_VARIABLE.to_owned(), mark.run.to_string());
    }
    let running = Running::start(spawn, directory, surroundings, &environment)?;
    let mut exit = running.look_after(stop, reader, say).await;
    exit.stderr = redacted(&exit.stderr, &environment);
    Ok(exit)
}

struct Running {
    child: Child,
    group: Group,
    input: Input,
    farewell: Farewell,
    limits: Limits,
}

impl Running {
    fn start(
        spawn: &Spawn,
        directory: &Path,
        surroundings: Surroundings<'_>,
        environment: &BTreeMap<String, String>,
    ) -> Result<Self, Failure> {
        if !directory.is_dir() {
            return Err(Failure::new(
                Class::BadRequest,
                format!("{} is no directory that the agent could work in", directory.display()),
            ));
        }
        let program = find(&spawn.program, environment).ok_or_else(|| missing(spawn))?;
        let child = Command::new(&program)
            .args(&spawn.arguments)
            .env_clear()
            .envs(environment)
            .current_dir(directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| match error.kind() {
                ErrorKind::NotFound => missing(spawn),
                _ => {
                    Failure::new(Class::ProcessFailed, format!("cannot start {}: {error}", program.display()))
                }
            })?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        if let (Some(mark), Some(pid)) = (surroundings.mark, pid) {
            mark.leader.send_replace(Some(pid.as_raw_nonzero().get()));
        }
        let group = pid
            .map(|pid| Group::new(pid, surroundings.groups))
            .ok_or_else(|| Failure::new(Class::ProcessFailed, "the process has no id"))?;
        Ok(Self {
            child,
            group,
            input: spawn.input.clone(),
            farewell: spawn.farewell,
            limits: surroundings.limits,
        })
    }

    /// Feeds it, reads it, keeps it within its limits, and waits for its end.
    async fn look_after(
        self,
        stop: &CancellationToken,
        reader: &mut dyn Reader,
        say: &mut impl FnMut(Output),
    ) -> Exit {
        let Self { mut child, group, input, farewell, limits } = self;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(mut stdout), Some(mut stderr)) = (stdout, stderr) else { return Exit::default() };
        let (mut out, mut err) = (vec![0; CHUNK], vec![0; CHUNK]);
        let mut lines = Lines::new(MAX_LINE);
        let mut tail = Tail::default();
        let (mut out_open, mut err_open) = (true, true);
        let mut status: Option<ExitStatus> = None;
        let mut ladder = Ladder::new(farewell, limits, Instant::now());
        let mut peer = Peer { reader, mouth: Mouth::new(stdin, input), group };

        while status.is_none() || ((out_open || err_open) && !ladder.is_drained()) {
            // All of these are cancel safe: reads, the write and the wait by contract.
            tokio::select! {
                () = stop.cancelled(), if !ladder.is_stopping() => ladder.stop(Some(Class::Cancelled), &mut peer),
                () = sleep_until(ladder.deadline()) => ladder.step(&mut peer),
                () = peer.mouth.speak(), if peer.mouth.is_busy() => {}
                ended = child.wait(), if status.is_none() => {
                    status = Some(ended.unwrap_or_default());
                    ladder.ended();
                }
                read = stdout.read(&mut out), if out_open => {
                    let bytes = out.get(..read.unwrap_or(0)).unwrap_or_default();
                    out_open = !bytes.is_empty();
                    ladder.heard();
                    for line in lines.push(bytes) {
                        peer.take(line, say, &mut ladder);
                    }
                }
                read = stderr.read(&mut err), if err_open => {
                    let bytes = err.get(..read.unwrap_or(0)).unwrap_or_default();
                    err_open = !bytes.is_empty();
                    tail.push(bytes);
                }
            }
        }
        if let Some(line) = lines.finish() {
            peer.take(line, say, &mut ladder);
        }
        peer.group.bury().await;
        let status = status.unwrap_or_default();
        Exit {
            code: status.code(),
            signal: status.signal(),
            stderr: tail.text(),
            refusal: None,
            stopped: ladder.reason,
        }
    }
}

/// The process as somebody to talk with: who understands what it says, the way to tell it something, and its group.
struct Peer<'a> {
    reader: &'a mut dyn Reader,
    mouth: Mouth,
    group: Group,
}

impl Peer<'_> {
    /// Hands a line to the reader, and does what follows from it.
    fn take(&mut self, line: Line, say: &mut impl FnMut(Output), ladder: &mut Ladder) {
        let step = match line {
            Line::Whole(line) => self.reader.line(&line),
            Line::TooLong { bytes } => {
                let message = format!("a line of {bytes} bytes was skipped; {MAX_LINE} is the most");
                return say(Output::Warning { message });
            }
        };
        for output in step.outputs {
            say(output);
        }
        if !self.mouth.say(&step.send) {
            let message =
                format!("the agent does not read what it is told ({MAX_UNSAID} bytes); it was stopped");
            say(Output::Warning { message });
            ladder.stop(Some(Class::Stalled), self);
        }
        match step.then {
            Then::GoOn => {}
            Then::Answered => {
                self.mouth.close();
                ladder.answered();
            }
            Then::Stop => ladder.stop(None, self),
        }
    }
}

/// The way into a process: the pipe, and what still has to go into it.
struct Mouth {
    /// `None` once it is closed, by us or by the process, which need not read to the end.
    pipe: Option<ChildStdin>,
    unsaid: Vec<u8>,
    /// How much of that is said already.
    said: usize,
    /// More may follow.
    stays_open: bool,
}

impl Mouth {
    fn new(pipe: Option<ChildStdin>, input: Input) -> Self {
        let (unsaid, stays_open) = match input {
            Input::Whole(bytes) => (bytes, false),
            Input::Dialogue(bytes) => (bytes, true),
        };
        Self { pipe, unsaid, said: 0, stays_open }
    }

    /// There is something to write, or a pipe to close.
    fn is_busy(&self) -> bool {
        self.pipe.is_some() && (self.said < self.unsaid.len() || !self.stays_open)
    }

    /// Writes a piece, or closes the pipe if nothing is left and nothing follows.
    ///
    /// # Cancel safety
    /// What was not written is still there.
    async fn speak(&mut self) {
        let rest = self.unsaid.get(self.said..).unwrap_or_default();
        let Some(pipe) = self.pipe.as_mut().filter(|_| !rest.is_empty()) else {
            self.pipe = None;
            return;
        };
        match pipe.write(rest).await {
            Ok(written) if written > 0 => self.said += written,
            ended => {
                debug!(?ended, "the agent does not read to the end");
                self.pipe = None;
            }
        }
        if self.said == self.unsaid.len() {
            self.unsaid = Vec::new();
            self.said = 0;
        }
    }

    /// Puts something behind what is there; false if that would be too much. A closed pipe takes anything.
    fn say(&mut self, bytes: &[u8]) -> bool {
        if bytes.is_empty() || self.pipe.is_none() {
            return true;
        }
        let waits = self.unsaid.len() - self.said;
        if waits > MAX_UNSAID {
            return false;
        }
        self.unsaid.extend_from_slice(bytes);
        true
    }

    /// Nothing more follows.
    const fn close(&mut self) {
        self.stays_open = false;
    }
}

/// When a process must have done what, and what is done to it otherwise.
#[derive(Debug)]
struct Ladder {
    farewell: Farewell,
    limits: Limits,
    rung: Rung,
    /// When the whole turn must be over.
    end: Instant,
    /// When something must have been heard.
    idle: Instant,
    /// Why it was stopped, if that was not its own doing.
    reason: Option<Class>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rung {
    /// It works.
    Working,
    /// It has answered, and may end until then.
    Answered(Instant),
    /// It was asked to end in its own way.
    Asked(Instant),
    /// Its group was told to end.
    Told(Instant),
    /// Its group is killed, every now and then.
    Killed(Instant),
    /// It has ended; what is left in its pipes is read until then.
    Ended(Instant),
    /// And that is over.
    Drained,
}

impl Ladder {
    fn new(farewell: Farewell, limits: Limits, now: Instant) -> Self {
        Self {
            farewell,
            limits,
            rung: Rung::Working,
            end: now + limits.total,
            idle: now + limits.start.min(limits.idle),
            reason: None,
        }
    }

    fn deadline(&self) -> Instant {
        match self.rung {
            Rung::Working => self.end.min(self.idle),
            Rung::Answered(at) | Rung::Asked(at) | Rung::Told(at) | Rung::Killed(at) | Rung::Ended(at) => at,
            // Nobody waits for it any more.
            Rung::Drained => self.end.max(self.idle),
        }
    }

    fn is_stopping(&self) -> bool {
        !matches!(self.rung, Rung::Working | Rung::Answered(_))
    }

    fn is_drained(&self) -> bool {
        self.rung == Rung::Drained
    }

    /// There was a sign of life.
    fn heard(&mut self) {
        self.idle = Instant::now() + self.limits.idle;
    }

    fn answered(&mut self) {
        if self.rung == Rung::Working {
            self.rung = Rung::Answered(Instant::now() + self.limits.after_answer);
        }
    }

    fn ended(&mut self) {
        self.rung = Rung::Ended(Instant::now() + DRAIN);
    }

    /// Asks the process to end.
    fn stop(&mut self, reason: Option<Class>, peer: &mut Peer<'_>) {
        if self.is_stopping() {
            return;
        }
        // What comes after the answer does not change it.
        let is_working = self.rung == Rung::Working;
        self.reason = reason.filter(|_| is_working);
        let until = Instant::now() + self.limits.grace;
        if is_working && let Some(words) = peer.reader.farewell() {
            peer.mouth.say(&words);
            self.rung = Rung::Asked(until);
            return;
        }
        let group = &peer.group;
        match self.farewell {
            Farewell::Interrupt => {
                group.signal(Signal::INT);
                self.rung = Rung::Asked(until);
            }
            Farewell::Terminate => {
                group.signal(Signal::TERM);
                self.rung = Rung::Told(until);
            }
        }
    }

    /// The time of this rung is over.
    fn step(&mut self, peer: &mut Peer<'_>) {
        let now = Instant::now();
        match self.rung {
            Rung::Working if now >= self.end => self.stop(Some(Class::Timeout), peer),
            Rung::Working => self.stop(Some(Class::Stalled), peer),
            Rung::Answered(_) => self.stop(None, peer),
            Rung::Asked(_) => {
                peer.group.signal(Signal::TERM);
                self.rung = Rung::Told(now + self.limits.grace);
            }
            Rung::Told(_) | Rung::Killed(_) => {
                peer.group.signal(Signal::KILL);
                self.rung = Rung::Killed(now + LOOK);
            }
            Rung::Ended(_) | Rung::Drained => self.rung = Rung::Drained,
        }
    }
}

/// The end of a text.
#[derive(Debug, Default)]
struct Tail(VecDeque<u8>);

impl Tail {
    fn push(&mut self, bytes: &[u8]) {
        self.0.extend(bytes);
        let surplus = self.0.len().saturating_sub(MAX_STDERR);
        self.0.drain(..surplus);
    }

    fn text(mut self) -> String {
        String::from_utf8_lossy(self.0.make_contiguous()).into_owned()
    }
}

/// The program that would be started: a path as it is, a bare name from the search path.
#[must_use]
pub fn find(program: &Path, environment: &BTreeMap<String, String>) -> Option<PathBuf> {
    if program.components().count() > 1 {
        return program.is_file().then(|| program.to_owned());
    }
    let path = environment.get("PATH")?;
    std::env::split_paths(path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

fn missing(spawn: &Spawn) -> Failure {
    Failure::new(
        Class::MissingExecutable,
        format!(
            "'{}' is not installed or not on the search path; install it, or say where it is: {}",
            spawn.program.display(),
            spawn.setting
        ),
    )
}

#[cfg(test)]
mod tests;
