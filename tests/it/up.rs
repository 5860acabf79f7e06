//! `godctl up` with real processes: order, restarts, giving up, stopping, and nothing left behind.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader, Read},
    os::unix::net::UnixDatagram,
    process::{Child, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::Value;

use crate::support::{Home, Running};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);
/// A part that is ready in a moment, on a port of its own.
const PART: &str = "asr-serve --listen 127.0.0.1:0";

/// A supervisor whose parts end with the test, also when it fails.
struct Up {
    running: Running,
    lines: Receiver<Value>,
    /// The last process of each part that may still run.
    parts: BTreeMap<String, Pid>,
    /// Everything that was logged or printed so far.
    seen: Vec<Value>,
}

impl Up {
    fn start(home: &Home, settings: &[&str], parts: &[&str]) -> Self {
        Self::start_with(home, settings, parts, |_| {})
    }

    fn start_with(
        home: &Home,
        settings: &[&str],
        parts: &[&str],
        adapt: impl FnOnce(&mut std::process::Command),
    ) -> Self {
        let mut command = home.command("godctl");
        for setting in settings {
            command.args(["-c", setting]);
        }
        let parts = format!("up.parts={}", toml::Value::from(parts.to_vec()));
        command.args(["-c", &parts, "--log-format", "json", "up"]);
        // Sockets have short paths, and what is left of them is seen.
        let tmp = home.path().join("t");
        std::fs::create_dir_all(&tmp).unwrap();
        command.env("TMPDIR", &tmp).stdout(Stdio::piped()).stderr(Stdio::piped());
        adapt(&mut command);
        let mut child = command.spawn().unwrap();
        let (sender, lines) = sync_channel(10_000);
        if let Some(stdout) = child.stdout.take() {
            read(stdout, sender.clone());
        }
        read(child.stderr.take().unwrap(), sender);
        Self { running: Running(child), lines, parts: BTreeMap::new(), seen: Vec::new() }
    }

    fn child(&mut self) -> &mut Child {
        &mut self.running.0
    }

    fn take(&mut self, line: Value) {
        let part = line["part"].as_str().map(str::to_owned);
        match (line["message"].as_str(), part) {
            (Some("a part was started"), Some(part)) => {
                let pid = i32::try_from(line["pid"].as_u64().unwrap()).unwrap();
                self.parts.insert(part, Pid::from_raw(pid).unwrap());
            }
            (
                Some("a part failed and starts again" | "a part is broken, stopping" | "a part has stopped"),
                Some(part),
            ) => {
                self.parts.remove(&part);
            }
            _ => {}
        }
        self.seen.push(line);
    }

    /// Waits for a line of the log with this message about this part.
    fn expect(&mut self, message: &str, part: &str) -> Value {
        let until = Instant::now() + PATIENCE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.lines.recv_timeout(left) else {
                panic!("no '{message}' about {part} in {:#?}", self.seen);
            };
            self.take(line.clone());
            if line["message"] == message && (part.is_empty() || line["part"] == part) {
                return line;
            }
        }
    }

    /// Waits until a part is ready, and tells its process.
    fn ready(&mut self, part: &str) -> Pid {
        self.expect("a part is ready", part);
        self.parts[part]
    }

    fn signal(&mut self, signal: Signal) {
        let pid = i32::try_from(self.child().id()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), signal).unwrap();
    }

    /// Waits for its end; gives its exit code, and what was said that is no log.
    fn end(&mut self) -> (Option<i32>, String) {
        let until = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.take(line);
        }
        assert!(Instant::now() < until, "it does not end: {:#?}", self.seen);
        let code = self.child().wait().unwrap().code();
        let said = self.seen.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\n");
        (code, said)
    }

    /// Which parts each message of the log was about, in order.
    fn about(&self, message: &str) -> Vec<&str> {
        let lines = self.seen.iter().filter(|line| line["message"] == message);
        lines.filter_map(|line| line["part"].as_str()).collect()
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.child().kill().ok();
        while let Ok(line) = self.lines.try_recv() {
            self.take(line);
        }
        for pid in self.parts.values() {
            kill_process_group(*pid, Signal::KILL).ok();
        }
    }
}

/// Hands over each line: JSON as it is, anything else as a text.
fn read(pipe: impl Read + Send + 'static, lines: SyncSender<Value>) {
    #[allow(clippy::disallowed_methods, reason = "ends with the program whose pipe it reads")]
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
            if lines.send(line).is_err() {
                break;
            }
        }
    });
}

/// Whether a process has ended, reaped or not: who reaps orphans is not ours to say.
fn has_ended(pid: Pid) -> bool {
    match std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) {
        // pid (name) state …
        Ok(stat) => stat.rsplit(") ").next().is_none_or(|rest| rest.starts_with(['Z', 'X'])),
        Err(_) => kill_process_group(pid, Signal::CONT).is_err(),
    }
}

fn await_end(pid: Pid) {
    let until = Instant::now() + PATIENCE;
    while !has_ended(pid) {
        assert!(Instant::now() < until, "process {pid:?} still runs");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The names and parts of the events on the bus, in order.
fn events(home: &Home) -> Vec<String> {
    let ran = home.godctl(&["bus", "tail", "--since", "1h", "--no-follow", "--json"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        format!("{} {}", text(&event["event_type"]), text(&event["payload"]["part"]))
    };
    ran.stdout.lines().map(event).collect()
}

#[test]
fn parts_start_in_order_and_stop_in_reverse_and_nothing_is_left() {
    let home = Home::new();
    let mut up = Up::start(&home, &[], &[PART, "bus tail --no-such", PART]);
    let (code, said) = up.end();
    assert_eq!(code, Some(78), "{said}");
    assert!(said.contains("command line 2 (bus tail --no-such): unexpected argument"), "{said}");

    let copy = home.path().join("copy.db");
    let bridge = format!("bus bridge --to 'sqlite:{}'", copy.display());
    let mut up = Up::start(&home, &[], &[PART, "bus tail", &bridge, PART]);
    let all = ["asr-serve", "bus-tail", "bus-bridge", "asr-serve-2"];
    let pids = all.map(|part| up.ready(part));
    up.expect("all parts are ready", "");
    up.signal(Signal::TERM);
    let (code, said) = up.end();
    assert_eq!((code, said.as_str()), (Some(0), ""));
    assert_eq!(up.about("a part was started"), all);
    assert_eq!(up.about("a part is ready"), all);
    assert_eq!(up.about("a part has stopped"), ["asr-serve-2", "bus-bridge", "bus-tail", "asr-serve"]);
    // The next part starts when the one before is ready.
    let started_or_ready = |line: &&Value| {
        ["a part was started", "a part is ready"].contains(&line["message"].as_str().unwrap_or_default())
    };
    let order: Vec<&str> =
        up.seen.iter().filter(started_or_ready).filter_map(|line| line["part"].as_str()).collect();
    assert_eq!(order, all.map(|part| [part; 2]).concat());
    assert!(pids.into_iter().all(has_ended));
    assert_eq!(std::fs::read_dir(home.path().join("t")).unwrap().count(), 0, "sockets are left");
    // What they write comes behind their names.
    let line =
        up.seen.iter().find(|line| line["stream"] == "stdout" && line["part"] == "asr-serve-2").unwrap();
    assert!(line["line"].as_str().unwrap().starts_with("listening on http://127.0.0.1:"), "{line}");

    let started =
        all.map(|part| [format!("up.part.started {part}"), format!("up.part.ready {part}")]).concat();
    let stopped =
        ["asr-serve-2", "bus-bridge", "bus-tail", "asr-serve"].map(|part| format!("up.part.stopped {part}"));
    assert_eq!(events(&home), [started, stopped.to_vec()].concat());
}

#[test]
fn a_part_that_fails_too_often_stops_everything_with_its_last_words() {
    let home = Home::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let part = format!("asr-serve --listen {}", taken.local_addr().unwrap());
    let mut up = Up::start(&home, &["up.max_restarts=1"], &[PART, &part]);
    let survivor = up.ready("asr-serve");
    let failed = up.expect("a part failed and starts again", "asr-serve-2");
    assert_eq!(failed["reason"], "ended with exit code 1");
    assert!((750..=1000).contains(&failed["retry_in_ms"].as_u64().unwrap()), "{failed}");
    assert!(!has_ended(survivor), "the others keep running");
    let (code, said) = up.end();
    assert_eq!(code, Some(1));
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap_or_default();
    let expected = "error: asr-serve-2 is broken: it ended with exit code 1, after 1 restart; the last it wrote to stderr:";
    assert_eq!(error, expected);
    assert!(said.contains("  error: ") && said.contains("already in use"), "{said}");
    assert_eq!(up.about("a part has stopped"), ["asr-serve"]);
    assert!(has_ended(survivor));
    let events = events(&home);
    let count = |name: &str| events.iter().filter(|event| *event == name).count();
    assert_eq!(count("up.part.exited asr-serve-2"), 2, "{events:?}");
    assert_eq!(count("up.part.failed asr-serve-2"), 1, "{events:?}");
}

#[test]
fn a_part_that_hangs_is_killed_and_starts_again_while_the_others_run() {
    let home = Home::new();
    let mut up = Up::start(&home, &["up.watchdog_s=3"], &[PART, PART]);
    let (hung, other) = (up.ready("asr-serve"), up.ready("asr-serve-2"));
    kill_process(hung, Signal::STOP).unwrap();
    let failed = up.expect("a part failed and starts again", "asr-serve");
    assert_eq!(failed["reason"], "said nothing for 3 s and was killed");
    assert!(has_ended(hung));
    assert_ne!(up.ready("asr-serve"), hung);
    assert!(!has_ended(other));
    up.signal(Signal::INT);
    assert_eq!(up.end().0, Some(0));
    assert_eq!(up.about("a part has stopped"), ["asr-serve-2", "asr-serve"]);
}

#[test]
fn a_part_that_does_not_end_is_killed_in_its_turn() {
    let home = Home::new();
    let mut up = Up::start(&home, &["up.stop_s=1"], &[PART, PART]);
    let (first, hung) = (up.ready("asr-serve"), up.ready("asr-serve-2"));
    kill_process(hung, Signal::STOP).unwrap();
    up.signal(Signal::TERM);
    let stopped = up.expect("a part has stopped", "asr-serve-2");
    assert_eq!(stopped["reason"], "did not end within 1 s and was killed");
    let stopped = up.expect("a part has stopped", "asr-serve");
    assert_eq!(stopped["reason"], "was asked to stop");
    assert_eq!(up.end().0, Some(0));
    assert!(has_ended(first) && has_ended(hung));
}

#[test]
fn a_second_signal_kills_everything_at_once() {
    let home = Home::new();
    let mut up = Up::start(&home, &[], &[PART, PART]);
    let pids = [up.ready("asr-serve"), up.ready("asr-serve-2")];
    kill_process(pids[1], Signal::STOP).unwrap();
    up.signal(Signal::INT);
    up.expect("stopping; a second signal ends the process at once", "");
    up.signal(Signal::INT);
    assert_eq!(up.end().0, Some(130));
    pids.into_iter().for_each(await_end);
}

#[cfg(target_os = "linux")]
#[test]
fn parts_end_when_their_supervisor_is_killed() {
    let home = Home::new();
    let mut up = Up::start(&home, &[], &[PART, "bus tail"]);
    let pids = [up.ready("asr-serve"), up.ready("bus-tail")];
    up.child().kill().unwrap();
    pids.into_iter().for_each(await_end);
}

#[test]
fn a_part_that_somebody_else_stops_stays_down() {
    let home = Home::new();
    let mut up = Up::start(&home, &[], &[PART, PART]);
    let (first, second) = (up.ready("asr-serve"), up.ready("asr-serve-2"));
    kill_process(first, Signal::TERM).unwrap();
    assert_eq!(up.expect("a part has stopped", "asr-serve")["reason"], "was stopped by somebody else");
    assert!(!has_ended(second));
    kill_process(second, Signal::TERM).unwrap();
    assert_eq!(up.end().0, Some(0), "nothing is left to be done");
    assert_eq!(up.about("a part was started").len(), 2);
}

#[test]
fn parts_stop_in_order_when_nobody_reads_their_output() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut up = Up::start_with(&home, &[], &[PART], |command| {
        command.stdout(writer);
    });
    assert_eq!(up.end().0, Some(0));
    assert_eq!(up.about("a part has stopped"), ["asr-serve"]);
}

#[test]
fn the_parts_can_be_listed_and_chosen() {
    let home = Home::new();
    let parts = r#"up.parts=["asr-serve", "bus work jobs --bind 'job.#' -- ./run me.sh", "asr-serve -q"]"#;
    let run = |args: &[&str]| home.godctl(&[&["-c", parts, "up"], args].concat());
    let ran = run(&["--dry-run"]);
    assert_eq!(
        ran.stdout,
        "asr-serve    godctl asr-serve\n\
         bus-work     godctl bus work jobs --bind 'job.#' -- ./run me.sh\n\
         asr-serve-2  godctl asr-serve -q\n"
    );
    let ran = run(&["--dry-run", "--parts", "asr-serve-2,asr-serve"]);
    assert_eq!(ran.stdout, "asr-serve    godctl asr-serve\nasr-serve-2  godctl asr-serve -q\n");
    let ran = run(&["--parts", "asr"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(2), ""));
    assert!(ran.stderr.contains("there are: asr-serve, bus-work, asr-serve-2"), "{ran:?}");
    assert_eq!(home.leftovers(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn mistakes_in_the_parts_are_told_before_anything_runs() {
    let home = Home::new();
    let cases = [
        (r#"["asr-serv"]"#, "a similar subcommand exists: 'asr-serve'"),
        (r#"["asr-serve", "doctor"]"#, "command line 2 (doctor): is no service that could be kept running"),
        (r#"["up"]"#, "is no service"),
        (r#"["asr-serve 'x"]"#, "has a quote that is not closed"),
        ("[]", "there is nothing to run"),
        (r#"["bus tail --bus amqp://u:marker-7d@h"]"#, "set bus.password_file"),
    ];
    for (parts, words) in cases {
        let ran = home.godctl(&["-c", &format!("up.parts={parts}"), "up"]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");
        assert!(ran.stderr.contains(words) && !ran.stderr.contains("marker-7d"), "{ran:?}");
    }
}

#[test]
fn units_are_printed_or_written() {
    let home = Home::new();
    let config = home.write("my config.toml", "[up]\nparts = [\"asr-serve\", \"bus tail\"]\n");
    let config = config.to_str().unwrap();
    let ran = home.godctl(&["--config", config, "up", "--print-units"]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let program = env!("CARGO_BIN_EXE_godctl");
    assert!(
        ran.stdout.contains(&format!("\nExecStart={program} --config \"{config}\" bus tail\n")),
        "{}",
        ran.stdout
    );

    let dir = home.path().join("units/user");
    home.write("units/user/godctl-bus-bridge.service", "");
    let written = home.godctl(&["--config", config, "up", "--print-units", "--write", dir.to_str().unwrap()]);
    assert_eq!(written.code, Some(0), "{written:?}");
    assert!(written.stdout.contains("godctl-bus-bridge.service belongs to no part any more"), "{written:?}");
    let mut together = Vec::new();
    for name in ["godctl.target", "godctl-asr-serve.service", "godctl-bus-tail.service"] {
        let text = std::fs::read_to_string(dir.join(name)).unwrap();
        together.push(format!("# {name}\n{text}"));
    }
    assert_eq!(together.join("\n"), ran.stdout);

    let secret = home.godctl(&["-c", "bus.password=marker-7d", "up", "--print-units"]);
    assert_eq!((secret.code, secret.stdout.as_str()), (Some(1), ""));
    assert!(secret.stderr.contains("password_file") && !secret.stderr.contains("marker-7d"), "{secret:?}");
}

#[test]
fn a_service_tells_any_manager_that_it_is_ready_alive_and_stopping() {
    let home = Home::new();
    let path = home.path().join("notify");
    let mut addresses = vec![(UnixDatagram::bind(&path).unwrap(), path.to_str().unwrap().to_owned())];
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("godctl-test-{}", uuid::Uuid::new_v4());
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
        addresses.push((UnixDatagram::bind_addr(&address).unwrap(), format!("@{name}")));
    }
    for (socket, address) in addresses {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut service = home.command("godctl");
        service.args(["asr-serve", "--listen", "127.0.0.1:0"]).stdout(Stdio::null()).stderr(Stdio::null());
        service.env("NOTIFY_SOCKET", address).env("WATCHDOG_USEC", "200000");
        let service = Running(service.spawn().unwrap());
        let next = || {
            let mut buffer = [0; 4096];
            let length = socket.recv(&mut buffer).unwrap();
            String::from_utf8(buffer[..length].to_vec()).unwrap()
        };
        assert_eq!(next(), "STATUS=loading the model\n");
        let ready = next();
        let (status, ready) = ready.split_once('\n').unwrap();
        assert!(status.starts_with("STATUS=listening on http://127.0.0.1:"), "{status}");
        assert_eq!(ready, "READY=1\n");
        assert_eq!((next().as_str(), next().as_str()), ("WATCHDOG=1\n", "WATCHDOG=1\n"));
        let pid = Pid::from_raw(i32::try_from(service.0.id()).unwrap()).unwrap();
        kill_process(pid, Signal::TERM).unwrap();
        while next() != "STOPPING=1\n" {}
    }
}
