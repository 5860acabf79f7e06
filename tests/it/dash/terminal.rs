//! A real terminal: tmux runs the dashboard, presses keys and reads the screen.

use std::{
    io::{Read as _, Write as _},
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use super::recording;
use crate::{
    broker::find,
    missing::missing,
    support::{Home, Running, until},
};

/// A terminal of this size that runs a shell command.
pub(super) struct Tmux {
    socket: PathBuf,
    program: PathBuf,
}

impl Tmux {
    /// `None`, after a line that says why, where tmux is not installed.
    pub(super) fn start(home: &Home, (width, height): (u16, u16), line: &str) -> Option<Self> {
        let Some(program) = find("tmux", &["/usr/bin/tmux"]) else { return missing("tmux") };
        let tmux = Self { socket: home.path().join(format!("tmux-{width}.socket")), program };
        let (width, height) = (width.to_string(), height.to_string());
        let mut command = home.command(tmux.program.to_str().unwrap());
        let status = command
            .arg("-S")
            .arg(&tmux.socket)
            .args(["-f", "/dev/null", "new-session", "-d", "-x", &width, "-y", &height])
            // The shell stays, so that one can see what is left on the screen.
            .arg(format!(
                "cd '{}'; TZ=UTC {line}; echo \"ended with $?\"; exec sleep 1000",
                home.path().display()
            ))
            .env("TERM", "xterm-256color")
            .status();
        assert!(status.unwrap().success());
        Some(tmux)
    }

    fn run(&self, args: &[&str]) -> String {
        let output = Command::new(&self.program).arg("-S").arg(&self.socket).args(args).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// Keys as tmux names them.
    pub(super) fn keys(&self, keys: &[&str]) {
        self.run(&[&["send-keys"], keys].concat());
    }

    pub(super) fn screen(&self) -> String {
        self.run(&["capture-pane", "-p"])
    }

    /// Waits until the screen shows something.
    pub(super) fn shows(&self, text: &str) -> String {
        let mut last = String::new();
        until(&format!("the screen never shows {text:?}"), || {
            last = self.screen();
            last.contains(text).then(|| last.clone())
        })
    }

    fn resize(&self, width: u16, height: u16) {
        self.run(&["resize-window", "-x", &width.to_string(), "-y", &height.to_string()]);
    }

    fn is_on_another_screen(&self) -> bool {
        self.run(&["display-message", "-p", "#{alternate_on}"]).trim() == "1"
    }
}

impl Drop for Tmux {
    fn drop(&mut self) {
        self.run(&["kill-server"]);
    }
}

fn home(count: u32) -> Home {
    let home = Home::new();
    home.write("day.jsonl", &recording(count));
    home
}

fn godctl() -> &'static str {
    env!("CARGO_BIN_EXE_godctl")
}

#[test]
fn the_screen_at_three_sizes_is_what_a_person_sees() {
    let home = home(60);
    let mut captures = Vec::new();
    for (width, height) in [(60, 16), (100, 30), (200, 60)] {
        let line = format!("'{}' dash --replay day.jsonl --speed max", godctl());
        let Some(tmux) = Tmux::start(&home, (width, height), &line) else { return };
        tmux.shows("end of the");
        for (keys, shown) in [
            (&["Down"][..], "events · 60 ─"),
            (&["2"], "[2 cloud]"),
            (&["3"], "[3 flow]"),
            (&["6"], "[6 timeline]"),
            (&["?"], "╭ keys"),
        ] {
            tmux.keys(keys);
            let screen = tmux.shows(shown);
            // What is drawn in a moment is drawn once the screen stands still.
            let screen = still(&tmux, screen);
            captures.push(format!("{width} x {height} {keys:?}\n{screen}"));
        }
    }
    assert_eq!(captures.len(), 15);
    insta::assert_snapshot!(captures.join("\n"));
}

/// The screen once it is the same twice.
fn still(tmux: &Tmux, mut screen: String) -> String {
    until("the screen never stands still", || {
        let now = tmux.screen();
        let same = now == screen;
        screen = now;
        same.then(|| screen.clone())
    })
}

#[test]
fn the_terminal_is_given_back_however_it_ends() {
    for (how, code) in [("q", "0"), ("C-c", "0"), ("TERM", "")] {
        let home = home(20);
        let line = format!(
            "stty -g > before; '{}' dash --replay day.jsonl --speed max; code=$?; stty -g > after; (exit $code)",
            godctl()
        );
        let Some(tmux) = Tmux::start(&home, (100, 30), &line) else { return };
        tmux.shows("end of the");
        assert!(tmux.is_on_another_screen());
        match how {
            "TERM" => {
                let mut pkill = home.command("pkill");
                let pattern = format!("^{} dash --replay", godctl());
                assert!(pkill.args(["-TERM", "-f", &pattern]).status().unwrap().success());
            }
            key => tmux.keys(&[key]),
        }
        let screen = tmux.shows("ended with");
        assert!(screen.contains(&format!("ended with {code}")), "{how}: {screen}");
        assert!(!tmux.is_on_another_screen() && !screen.contains("godctl dash"), "{how}: {screen}");
        let mode = |name: &str| std::fs::read_to_string(home.path().join(name)).unwrap();
        assert_eq!(mode("before"), mode("after"), "{how}");
        let mouse = tmux.run(&["display-message", "-p", "#{mouse_any_flag}#{cursor_flag}"]);
        assert_eq!(mouse.trim(), "01", "{how}: no mouse, a cursor");
    }
}

#[test]
fn it_is_resized_while_events_stream() {
    let home = home(4);
    let line = format!("'{}' dash", godctl());
    let Some(tmux) = Tmux::start(&home, (100, 30), &line) else { return };
    tmux.shows("there is no file");
    let mut publish = home.command(godctl());
    let mut child = Running(
        publish.args(["bus", "import", "-"]).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap(),
    );
    let mut stdin = child.0.stdin.take().unwrap();
    for (round, (width, height)) in
        [(60, 16), (200, 60), (20, 5), (81, 24), (140, 40)].into_iter().enumerate()
    {
        stdin.write_all(recording_from(round * 200, 200).as_bytes()).unwrap();
        stdin.flush().unwrap();
        tmux.resize(width, height);
    }
    drop(stdin);
    let screen = tmux.shows("total 1,000");
    let screen = still(&tmux, screen);
    assert!(screen.contains("● connected") && screen.lines().count() <= 40, "{screen}");
    assert!(screen.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 140), "{screen}");
    tmux.keys(&["q"]);
    tmux.shows("ended with 0");
}

fn recording_from(first: usize, count: usize) -> String {
    let lines = recording(u32::try_from(first + count).unwrap());
    lines.lines().skip(first).map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_slow_terminal_misses_frames_and_no_events() {
    let Some(script) = find("script", &["/usr/bin/script"]) else { return missing("script").unwrap_or(()) };
    let home = Home::new();
    home.write("many.jsonl", &recording(20_000));
    let dash = format!("'{}' dash --replay many.jsonl --speed max --record copy.jsonl", godctl());
    let line = format!("stty cols 100 rows 30; exec {dash}");
    let mut command = home.command(script.to_str().unwrap());
    command.args(["-q", "-c", &line, "/dev/null"]).current_dir(home.path());
    command.env("TERM", "xterm-256color").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut running = Running(command.spawn().unwrap());
    let mut screen = running.0.stdout.take().unwrap();
    let mut keys = running.0.stdin.take().unwrap();
    // 9600 baud are 960 bytes a second.
    let reader = std::thread::Builder::new().name("modem".to_owned()).spawn(move || {
        let mut part = [0; 96];
        let mut seen = Vec::new();
        while let Ok(count @ 1..) = screen.read(&mut part) {
            seen.extend_from_slice(&part[..count]);
            std::thread::sleep(Duration::from_millis(100));
        }
        seen
    });
    let reader = reader.unwrap();
    until("not all events came", || {
        let copied = std::fs::read_to_string(home.path().join("copy.jsonl")).unwrap_or_default();
        (copied.lines().count() == 20_000).then_some(())
    });
    keys.write_all(b"q").unwrap();
    keys.flush().unwrap();
    until("it never ends", || running.0.try_wait().unwrap().map(drop));
    let seen = reader.join().unwrap();
    assert!(!seen.is_empty() && seen.len() < 200_000, "{} bytes", seen.len());
    let end = String::from_utf8_lossy(&seen[seen.len().saturating_sub(80)..]).into_owned();
    assert!(end.contains("\x1b[?1049l") && end.contains("\x1b[?25h"), "given back: {end:?}");
}
