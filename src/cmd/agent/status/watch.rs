//! Shows anew, every second, what agents do: on a screen of its own where there is one, else whenever something changed.
//!
//! A terminal is left as it was found, also after an error; keys are read on a thread that nobody waits for, because a
//! read from a terminal cannot be ended.

use std::{
    io::{self, IsTerminal as _, Read as _, Write as _},
    time::Duration,
};

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};

use super::{
    super::super::{Context, Stdout},
    Look, Status,
    look::Desk,
    screen,
};
use crate::bus::{Clock as _, SystemClock};

/// How often it is looked.
const EVERY: Duration = Duration::from_secs(1);
/// A screen of our own without a cursor, and back again.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
const LEAVE: &str = "\x1b[?25h\x1b[?1049l";
/// To the upper left corner; the rest of a line; all below.
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

/// Until somebody has seen enough.
pub(super) async fn watch(context: &Context, desk: &Desk, json: bool) -> anyhow::Result<()> {
    let is_screen = context.terminal.stdout.is_terminal && !json;
    let _window = is_screen.then(|| Window::open(context)).transpose()?;
    let mut last = None;
    loop {
        let seen = desk.look(SystemClock.now()).await.map_err(|error| error.to_string());
        match (is_screen, json) {
            (true, _) => draw(&seen, desk, &Look::of(context))?,
            (false, _) if !has_changed(last.as_ref(), &seen) => {}
            (false, true) => {
                let line = match &seen {
                    Ok(status) => serde_json::to_string(status)?,
                    Err(error) => serde_json::json!({ "error": error }).to_string(),
                };
                let mut stdout = Stdout::lock();
                writeln!(stdout, "{line}")?;
                stdout.flush()?;
            }
            (false, false) => {
                let mut stdout = Stdout::lock();
                for line in frame(&seen, desk, &Look::of(context)) {
                    writeln!(stdout, "{line}")?;
                }
                writeln!(stdout)?;
                stdout.flush()?;
            }
        }
        last = Some(seen);
        tokio::select! {
            biased;
            () = context.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}

type Seen = Result<Status, String>;

/// Whether something else than the time is different.
fn has_changed(before: Option<&Seen>, now: &Seen) -> bool {
    match (before, now) {
        (Some(Ok(before)), Ok(now)) => Status { at: before.at, ..now.clone() } != *before,
        (Some(Err(before)), Err(now)) => before != now,
        _ => true,
    }
}

fn frame(seen: &Seen, desk: &Desk, look: &Look) -> Vec<String> {
    match seen {
        Ok(status) => screen::lines(status, look),
        Err(error) => screen::trouble(&desk.store(), error, look),
    }
}

fn draw(seen: &Seen, desk: &Desk, look: &Look) -> io::Result<()> {
    let height = terminal_size::terminal_size().map_or(24, |(_, height)| usize::from(height.0));
    let mut stdout = Stdout::lock();
    write!(stdout, "{HOME}")?;
    let lines = screen::fitted(frame(seen, desk, look), height, look);
    for (number, line) in lines.iter().enumerate() {
        // No line end at the bottom, which would move everything up.
        let end = if number + 1 == lines.len() { "" } else { "\r\n" };
        write!(stdout, "{line}{CLEAR_LINE}{end}")?;
    }
    write!(stdout, "{CLEAR_BELOW}")?;
    stdout.flush()
}

/// A screen of our own, and keys that come at once. Dropping it gives the terminal back.
struct Window {
    before: Option<Termios>,
}

impl Window {
    fn open(context: &Context) -> anyhow::Result<Self> {
        let before = if io::stdin().is_terminal() { keys(context)? } else { None };
        let last = before.clone();
        context.shutdown.before_exit(move || restore(last.as_ref()));
        let window = Self { before };
        let mut stdout = Stdout::lock();
        write!(stdout, "{ENTER}")?;
        stdout.flush()?;
        Ok(window)
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        restore(self.before.as_ref());
    }
}

fn restore(before: Option<&Termios>) {
    // There is nowhere left to say that it did not work.
    drop(io::stdout().write_all(LEAVE.as_bytes()));
    drop(io::stdout().flush());
    if let Some(before) = before {
        tcsetattr(io::stdin(), OptionalActions::Now, before).ok();
    }
}

/// Lets keys come as they are pressed, and q be the end; tells how the terminal was before.
fn keys(context: &Context) -> anyhow::Result<Option<Termios>> {
    let Ok(before) = tcgetattr(io::stdin()) else { return Ok(None) };
    let mut now = before.clone();
    // Ctrl-C stays a signal.
    now.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
    now.special_codes[SpecialCodeIndex::VMIN] = 1;
    now.special_codes[SpecialCodeIndex::VTIME] = 0;
    if tcsetattr(io::stdin(), OptionalActions::Now, &now).is_err() {
        return Ok(None);
    }
    let shutdown = context.shutdown.clone();
    context.shutdown.unjoined_thread("agent-status-keys", move || {
        let mut key = [0];
        while matches!(io::stdin().lock().read(&mut key), Ok(1)) {
            if matches!(key, [b'q' | b'Q']) {
                shutdown.cancel();
                return;
            }
        }
    })?;
    Ok(Some(before))
}
