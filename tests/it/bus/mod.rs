//! `godctl bus` from outside: the real binary, on a bus of each test's own.

#[cfg(unix)]
mod broker;
mod commands;
#[cfg(target_os = "linux")]
mod disk;
mod history;
mod work;

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{ChildStdin, ExitStatus, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::support::{Home, Ran, Running};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A user with a bus.
pub(super) struct Desk {
    home: Home,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self { home: Home::new() }
    }

    /// Runs `godctl bus …` to its end.
    pub(super) fn bus(&self, args: &[&str]) -> Ran {
        self.bus_with(args, b"")
    }

    /// The same with something on standard input.
    pub(super) fn bus_with(&self, args: &[&str], input: &[u8]) -> Ran {
        let mut command = self.home.command("godctl");
        command.arg("bus").args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        std::thread::scope(|scope| {
            // A program that does not read its input to the end may be what is tested.
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap().into()
        })
    }

    /// Runs it and expects it to work.
    pub(super) fn ok(&self, args: &[&str]) -> String {
        let ran = self.bus(args);
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.stdout
    }

    /// Publishes an event and gives its id.
    pub(super) fn publish(&self, event_type: &str, payload: &str) -> String {
        let line = self.ok(&["publish", event_type, payload]);
        line.split_whitespace().last().unwrap().to_owned()
    }

    /// What a command prints as JSON lines.
    pub(super) fn json(&self, args: &[&str]) -> Vec<Value> {
        self.ok(args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The one queue of this name as `queues --json` shows it.
    pub(super) fn queue(&self, name: &str) -> Value {
        let queues: Value = serde_json::from_str(&self.ok(&["queues", "--json"])).unwrap();
        let queue = queues.as_array().unwrap().iter().find(|queue| queue["name"] == name).cloned();
        queue.unwrap_or_else(|| panic!("no queue {name} in {queues}"))
    }

    /// Makes a queue, so that it keeps what is published from now on.
    pub(super) fn make_queue(&self, name: &str, pattern: &str) {
        self.ok(&["work", name, "--bind", pattern, "--lines"]);
    }

    /// Starts it, to talk with it.
    pub(super) fn start(&self, args: &[&str]) -> Talk {
        let mut command = self.home.command("godctl");
        command.arg("bus").args(args);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take();
        let (sender, lines) = sync_channel(10_000);
        let stdout = BufReader::new(child.stdout.take().unwrap());
        #[allow(clippy::disallowed_methods, reason = "it ends with the child, which ends with the test")]
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Talk { child: Running(child), stdin, lines }
    }
}

/// A running command.
pub(super) struct Talk {
    child: Running,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Talk {
    pub(super) fn say(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().unwrap();
        stdin.write_all(format!("{line}\n").as_bytes()).unwrap();
    }

    /// Ends its standard input.
    pub(super) fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// The next line of its standard output.
    pub(super) fn hear(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("it says nothing")
    }

    /// The next line, as JSON.
    pub(super) fn hear_json(&self) -> Value {
        let line = self.hear();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"))
    }

    #[cfg(unix)]
    pub(super) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child.0);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end; gives the status, and what it said on standard error.
    pub(super) fn end(mut self) -> (ExitStatus, String) {
        self.stdin = None;
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut stderr = String::new();
        self.child.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (status, stderr)
    }
}

/// Waits until it is so.
pub(super) fn until(what: &str, mut so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !so() {
        assert!(Instant::now() < deadline, "still not: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
