//! One process of one part: starts it, hears what it says, drains its output, reaps it.
//!
//! Each process is looked after by one task on the supervisor's runtime, which ends when the process has ended. Signals
//! go through [`Groups`], from which a process is gone before its id could be given to another one.

use std::{
    ffi::OsString,
    io,
    os::unix::process::ExitStatusExt as _,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    net::UnixDatagram,
    process::{Child, Command},
    sync::mpsc,
};
use tracing::{debug, warn};

use super::{
    lines::{Lines, Tail},
    output::{Output, Stream},
    supervise::{Ending, Input, Notice},
};
use crate::cmd::notify;

/// What may still come out of a pipe that somebody else holds open after the process has ended.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// More than any notification has.
const MAX_NOTICE_BYTES: usize = 4096;

/// How a part's process is started.
#[derive(Debug, Clone)]
pub(super) struct Launch {
    /// The part's place in the order.
    pub(super) part: usize,
    pub(super) program: PathBuf,
    pub(super) args: Vec<OsString>,
    /// Where its notify socket is made; nobody else can read it.
    pub(super) sockets: PathBuf,
    pub(super) watchdog: Duration,
}

/// What a process's task tells.
#[derive(Debug)]
pub(super) enum Report {
    /// For the state machine.
    Input(Input),
    /// What the part says it is doing.
    Status { part: usize, status: String },
}

/// The process groups that run, one for each part at most.
#[derive(Debug, Clone, Default)]
pub(super) struct Groups(Arc<Mutex<Vec<(usize, Pid)>>>);

impl Groups {
    /// Sends a signal to a part's process and whatever it started in its group.
    pub(super) fn signal(&self, part: usize, signal: Signal) {
        for (_, pid) in self.0.lock().iter().filter(|(owner, _)| *owner == part) {
            send(*pid, signal);
        }
    }

    /// Ends everything at once.
    pub(super) fn kill_all(&self) {
        for (_, pid) in self.0.lock().iter() {
            send(*pid, Signal::KILL);
        }
    }

    fn add(&self, part: usize, pid: Pid) {
        self.0.lock().push((part, pid));
    }

    /// Ends what a process left behind in its group, and forgets it. Called in the same breath as the process is
    /// reaped: while its group has members the system gives its id to nobody else.
    fn bury(&self, part: usize, pid: Pid) {
        self.0.lock().retain(|(owner, _)| *owner != part);
        send(pid, Signal::KILL);
    }
}

fn send(pid: Pid, signal: Signal) {
    // A group without members is what we want after a KILL, and what a process that just ended looks like.
    if let Err(error) = kill_process_group(pid, signal) {
        debug!(%error, pid = pid.as_raw_nonzero(), ?signal, "cannot signal a process group");
    }
}

/// A process that runs, and its task to be.
#[derive(Debug)]
pub(super) struct Process {
    launch: Launch,
    child: Child,
    pid: Pid,
    socket: UnixDatagram,
    path: PathBuf,
}

impl Process {
    /// Starts it. Must be called on the main thread: Linux takes the end of the thread that started a process for the
    /// end of its parent.
    ///
    /// # Errors
    /// When there is no room for a socket or a process.
    pub(super) fn start(launch: Launch, groups: &Groups) -> io::Result<Self> {
        let path = launch.sockets.join(launch.part.to_string());
        let socket = bind(&path)?;
        // The environment is passed on as it is: the child is the same program for the same user.
        let mut child = Command::new(&launch.program)
            .args(&launch.args)
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", launch.watchdog.as_micros().to_string())
            // Ours, if we are watched ourselves.
            .env_remove("WATCHDOG_PID")
            .env(notify::SUPERVISOR, std::process::id().to_string())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A group of its own: Ctrl-C on the terminal is for the supervisor, which stops its parts in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        let Some(pid) = pid else {
            // It was started a moment ago and nobody has waited for it.
            drop(child.start_kill());
            return Err(io::Error::other("the process has no id"));
        };
        groups.add(launch.part, pid);
        Ok(Self { launch, child, pid, socket, path })
    }

    /// Its id.
    pub(super) fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Looks after it until it has ended and its output is drained; the last report is [`Input::Ended`].
    pub(super) async fn look_after(
        mut self,
        groups: Groups,
        output: Output,
        tail: Arc<Mutex<Tail>>,
        reports: mpsc::Sender<Report>,
    ) {
        let part = self.launch.part;
        let stdout = self.child.stdout.take();
        let stderr = self.child.stderr.take();
        let mut drains = Box::pin(async {
            tokio::join!(
                drain(part, stdout, Stream::Stdout, &output, None),
                drain(part, stderr, Stream::Stderr, &output, Some(&tail)),
            )
        });
        let mut drained = false;
        let mut buffer = vec![0; MAX_NOTICE_BYTES];
        let status = loop {
            // All of these are cancel safe: waiting for the child and for a datagram by contract, the drains because
            // they are one future that is only polled here.
            tokio::select! {
                status = self.child.wait() => break status,
                received = self.socket.recv(&mut buffer) => match received {
                    Ok(length) => tell(part, buffer.get(..length).unwrap_or_default(), &reports).await,
                    Err(error) => {
                        warn!(%error, "cannot hear a part any more");
                        break self.child.wait().await;
                    }
                },
                _ = &mut drains, if !drained => drained = true,
            }
        };
        groups.bury(part, self.pid);
        // What it said before it ended comes before its end.
        while let Ok(length) = self.socket.try_recv(&mut buffer) {
            tell(part, buffer.get(..length).unwrap_or_default(), &reports).await;
        }
        drop(std::fs::remove_file(&self.path));
        if !drained && tokio::time::timeout(LAST_WORDS, drains).await.is_err() {
            debug!(part, "somebody holds the output of a part open that has ended");
        }
        // Nobody is left to tell only if the supervisor itself is gone.
        drop(reports.send(Report::Input(Input::Ended { part, ending: ending(status) })).await);
    }
}

fn bind(path: &Path) -> io::Result<UnixDatagram> {
    // Left behind by a process of this part that was never started.
    drop(std::fs::remove_file(path));
    UnixDatagram::bind(path).map_err(|error| {
        let hint = if path.as_os_str().len() > 100 {
            "; its path is too long, set TMPDIR to a shorter one"
        } else {
            ""
        };
        io::Error::new(error.kind(), format!("cannot make the socket {}: {error}{hint}", path.display()))
    })
}

fn ending(status: io::Result<ExitStatus>) -> Ending {
    match status {
        Ok(status) => match (status.code(), status.signal()) {
            (Some(code), _) => Ending::Code(code),
            (None, signal) => Ending::Signal(signal.unwrap_or_default()),
        },
        Err(error) => Ending::Unstartable(format!("cannot wait for it: {error}")),
    }
}

/// Passes on what one datagram says.
async fn tell(part: usize, datagram: &[u8], reports: &mpsc::Sender<Report>) {
    for report in understand(part, &String::from_utf8_lossy(datagram)) {
        // Nobody is left to tell only if the supervisor itself is gone.
        drop(reports.send(report).await);
    }
}

/// Assignments, one a line (see `sd_notify(3)`). What is not for us is left alone.
fn understand(part: usize, message: &str) -> Vec<Report> {
    let notice = |notice| Some(Report::Input(Input::Said { part, notice }));
    let reports = message.lines().filter_map(|line| match line.split_once('=')? {
        ("READY", "1") => notice(Notice::Ready),
        ("WATCHDOG", "1") => notice(Notice::Alive),
        ("STOPPING", "1") => notice(Notice::Stopping),
        ("STATUS", status) => Some(Report::Status { part, status: status.to_owned() }),
        _ => None,
    });
    reports.collect()
}

/// Reads a pipe to its end, line by line. Never stops reading: what nobody takes is dropped in [`Output::line`].
async fn drain(
    part: usize,
    pipe: Option<impl AsyncRead + Unpin>,
    stream: Stream,
    output: &Output,
    tail: Option<&Mutex<Tail>>,
) {
    let Some(mut pipe) = pipe else { return };
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let (complete, is_over) = match pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => (lines.finish().into_iter().collect(), true),
            Ok(length) => (lines.push(buffer.get(..length).unwrap_or_default()), false),
        };
        for line in complete {
            if let Some(tail) = tail {
                tail.lock().push(&line);
            }
            output.line(part, stream, line).await;
        }
        if is_over {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_lines_of_assignments() {
        let said =
            understand(3, "READY=1\nSTATUS=listening on x=1\nMAINPID=7\nWATCHDOG=1\nnonsense\nREADY=0\n");
        let shown: Vec<String> = said.iter().map(|report| format!("{report:?}")).collect();
        assert_eq!(
            shown,
            [
                "Input(Said { part: 3, notice: Ready })",
                "Status { part: 3, status: \"listening on x=1\" }",
                "Input(Said { part: 3, notice: Alive })",
            ]
        );
    }

    #[test]
    fn a_path_that_is_too_long_for_a_socket_has_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let error = bind(&dir.path().join("x".repeat(120))).unwrap_err().to_string();
        assert!(error.contains("TMPDIR"), "{error}");
    }
}
