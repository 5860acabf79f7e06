//! What the parts write, line by line, each behind its part's name: their stdout to ours, their stderr to ours.
//!
//! One OS thread writes, because a terminal or a pipe may stand still and supervision must not. Lines wait in a bounded
//! channel; while it is full a part's pipe is read more slowly, and after a second of that its lines are dropped and
//! counted, so that no part ever blocks on its own output. The thread ends when the last [`Output`] is dropped.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::{
    cmd::{Stdout, Terminal},
    shutdown::Shutdown,
};

/// Lines that wait; at most 64 KiB each.
const WAITING: usize = 256;
/// A full channel may hold up a part for so long.
const PATIENCE: Duration = Duration::from_secs(1);
/// Colours of the parts' names, in turn: cyan, yellow, green, blue, magenta.
const COLORS: [u8; 5] = [36, 33, 32, 34, 35];

/// Where a line was written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Stream {
    Stdout,
    Stderr,
}

/// How lines look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Style {
    /// The parts' names, in their order.
    pub(super) names: Vec<String>,
    /// One JSON object a line, all of them to stdout.
    pub(super) json: bool,
    /// What each stream can show.
    pub(super) terminal: Terminal,
}

#[derive(Debug)]
struct Line {
    part: usize,
    stream: Stream,
    text: String,
}

/// The way to the thread that writes.
#[derive(Debug, Clone)]
pub(super) struct Output {
    lines: mpsc::Sender<Line>,
    dropped: Arc<AtomicU64>,
    /// The last line had no room, so the next one does not wait.
    is_stuck: Arc<AtomicBool>,
    patience: Duration,
}

impl Output {
    /// Starts the thread. The receiver resolves when everything that was handed over has been written, which can only
    /// be after the last [`Output`] was dropped. When nobody reads stdout any more, everything is asked to stop.
    ///
    /// # Errors
    /// When the system refuses another thread.
    pub(super) fn start(style: Style, shutdown: &Shutdown) -> io::Result<(Self, oneshot::Receiver<()>)> {
        let (lines, mut waiting) = mpsc::channel::<Line>(WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let (done, written) = oneshot::channel();
        let (counter, stop) = (Arc::clone(&dropped), shutdown.clone());
        // Not joined: a write to a terminal that stands still can't be ended.
        shutdown.unjoined_thread("up-output", move || {
            while let Some(line) = waiting.blocking_recv() {
                let lost = counter.swap(0, Ordering::Relaxed);
                if write(&style, &line, lost, &mut Stdout::lock(), &mut io::stderr()).is_err() {
                    // Somebody who leaves ends any other command too. Until everything has stopped, lines go nowhere.
                    stop.cancel();
                }
            }
            // Its end is the message.
            drop::<oneshot::Sender<()>>(done);
        })?;
        Ok((Self { lines, dropped, is_stuck: Arc::default(), patience: PATIENCE }, written))
    }

    /// Lines dropped so far that nobody was told about.
    pub(super) fn untold(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Hands over a line; waits a little while there is no room, then drops it and counts it.
    pub(super) async fn line(&self, part: usize, stream: Stream, text: String) {
        let line = Line { part, stream, text };
        let Err(mpsc::error::TrySendError::Full(line)) = self.lines.try_send(line) else {
            self.is_stuck.store(false, Ordering::Relaxed);
            return;
        };
        let waited = !self.is_stuck.load(Ordering::Relaxed)
            && tokio::time::timeout(self.patience, self.lines.send(line)).await.is_ok();
        if !waited {
            self.is_stuck.store(true, Ordering::Relaxed);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Writes a line, and before it how many were lost. Only stdout's reader matters; nobody can be told that stderr is
/// closed.
fn write(
    style: &Style,
    line: &Line,
    lost: u64,
    stdout: &mut impl Write,
    stderr: &mut impl Write,
) -> io::Result<()> {
    if lost > 0 {
        drop(writeln!(stderr, "godctl up: {lost} lines were dropped, because nobody read them in time"));
    }
    let text = format(style, line);
    if style.json || line.stream == Stream::Stdout {
        return writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    }
    drop(writeln!(stderr, "{text}"));
    Ok(())
}

fn format(style: &Style, line: &Line) -> String {
    #[derive(Serialize)]
    struct Object<'a> {
        part: &'a str,
        stream: Stream,
        line: &'a str,
    }
    let Line { part, stream, text } = line;
    let name = style.names.get(*part).map_or("?", String::as_str);
    if style.json {
        return serde_json::to_string(&Object { part: name, stream: *stream, line: text })
            .unwrap_or_default();
    }
    let width = style.names.iter().map(String::len).max().unwrap_or_default();
    let is_colored = match stream {
        Stream::Stdout => style.terminal.stdout.color,
        Stream::Stderr => style.terminal.stderr.color,
    };
    let color = COLORS.get(part % COLORS.len()).filter(|_| is_colored);
    match color {
        Some(color) => format!("\x1b[{color}m{name:width$} |\x1b[0m {text}"),
        None => format!("{name:width$} | {text}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cmd;

    fn style(json: bool, color: bool) -> Style {
        let stream = cmd::Stream { is_terminal: color, color };
        let names = vec!["asr-serve".to_owned(), "bus-work".to_owned()];
        Style { names, json, terminal: Terminal { stdout: stream, stderr: stream } }
    }

    fn line(part: usize, stream: Stream) -> Line {
        Line { part, stream, text: "hello".to_owned() }
    }

    #[test]
    fn a_line_says_whose_it_is() {
        assert_eq!(format(&style(false, false), &line(0, Stream::Stdout)), "asr-serve | hello");
        assert_eq!(format(&style(false, false), &line(1, Stream::Stderr)), "bus-work  | hello");
        assert_eq!(format(&style(false, true), &line(1, Stream::Stderr)), "\x1b[33mbus-work  |\x1b[0m hello");
        assert_eq!(
            format(&style(true, true), &line(1, Stream::Stderr)),
            r#"{"part":"bus-work","stream":"stderr","line":"hello"}"#
        );
    }

    #[test]
    fn streams_stay_apart_and_losses_are_told() {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        write(&style(false, false), &line(0, Stream::Stdout), 0, &mut stdout, &mut stderr).unwrap();
        write(&style(false, false), &line(0, Stream::Stderr), 3, &mut stdout, &mut stderr).unwrap();
        assert_eq!(String::from_utf8(stdout).unwrap(), "asr-serve | hello\n");
        assert_eq!(
            String::from_utf8(stderr).unwrap(),
            "godctl up: 3 lines were dropped, because nobody read them in time\nasr-serve | hello\n"
        );
    }

    #[tokio::test]
    async fn nobody_waits_for_a_reader_for_ever() {
        let (lines, mut waiting) = mpsc::channel(2);
        let patience = Duration::from_millis(1);
        let output = Output { lines, dropped: Arc::default(), is_stuck: Arc::default(), patience };
        for _ in 0..100 {
            output.line(0, Stream::Stdout, String::new()).await;
        }
        assert_eq!(output.dropped.load(Ordering::Relaxed), 98);
        waiting.recv().await.unwrap();
        output.line(0, Stream::Stdout, "back".to_owned()).await;
        assert_eq!(output.dropped.load(Ordering::Relaxed), 98, "there is room again");
    }
}
