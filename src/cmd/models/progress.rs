//! How a pull shows that it moves: a bar where a person watches, lines elsewhere. Called on the pulling task.

use std::io::Write;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};

use super::numbers::size;
use crate::asr::weights::{PullEvent, PullProgress};

/// How a pull shows that it moves; always on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullDisplay {
    /// A bar with rate and time left.
    Bar,
    /// A line for every tenth.
    Lines,
    /// Nothing.
    Silent,
}

/// Draws the events of a pull.
pub(super) struct Display {
    style: PullDisplay,
    pub(super) bar: ProgressBar,
    lines: Box<dyn Write + Send>,
    total: u64,
    /// Bytes on disk so far.
    pub(super) done: u64,
    tenths: u64,
}

impl Display {
    pub(super) fn new(style: PullDisplay, lines: Box<dyn Write + Send>) -> Self {
        let target = match style {
            PullDisplay::Bar => ProgressDrawTarget::stderr(),
            PullDisplay::Lines | PullDisplay::Silent => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        // A template that cannot be read would be a typing error here; the default bar serves as well.
        if let Ok(style) = BarStyle::with_template(
            "{msg:24!} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { style, bar, lines, total: 0, done: 0, tenths: 0 }
    }

    fn say(&mut self, text: &str) {
        match self.style {
            PullDisplay::Bar => self.bar.println(text),
            // Nobody is left to be told that stderr is closed.
            PullDisplay::Lines => drop(writeln!(self.lines, "{text}")),
            PullDisplay::Silent => {}
        }
    }
}

impl PullProgress for Display {
    fn on(&mut self, event: PullEvent) {
        match event {
            PullEvent::Waiting => self.say("another process is installing this model; waiting for it"),
            PullEvent::Planned { files, total } => {
                self.total = total;
                self.bar.set_length(total);
                if self.style == PullDisplay::Lines {
                    self.say(&format!("downloading {files} files, {}", size(total)));
                }
            }
            PullEvent::Checking { name } => self.bar.set_message(format!("checking {name}")),
            PullEvent::File { name, resumed, size: bytes } => {
                self.bar.set_message(name.clone());
                if resumed > 0 && self.total > 0 {
                    // Bytes that were here already say nothing about the speed of the network.
                    self.bar.set_position(self.done + resumed);
                    self.bar.reset_eta();
                    if resumed < bytes {
                        self.say(&format!("{name}: going on at {} of {}", size(resumed), size(bytes)));
                    }
                }
            }
            PullEvent::Progress { done } => {
                self.done = done;
                self.bar.set_position(done);
                let tenths = (done * 10).checked_div(self.total).unwrap_or_default().min(10);
                if tenths > self.tenths && self.style == PullDisplay::Lines {
                    self.say(&format!("{:3} % of {}", tenths * 10, size(self.total)));
                }
                self.tenths = tenths;
            }
            PullEvent::Retrying { reason, wait } => {
                self.say(&format!("{reason}; trying again in {:.1} s", wait.as_secs_f32()));
            }
            PullEvent::Restarted { name, reason } => {
                self.say(&format!("{name} starts again from its beginning: {reason}"));
            }
            PullEvent::Installing => self.bar.set_message("installing"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_for_every_tenth() {
        let sink = Sink::default();
        let mut display = Display::new(PullDisplay::Lines, Box::new(sink.clone()));
        display.on(PullEvent::Planned { files: 2, total: 1_000_000 });
        display.on(PullEvent::File { name: "w".into(), size: 1_000_000, resumed: 0 });
        for done in (0..=1_000_000).step_by(1000) {
            display.on(PullEvent::Progress { done });
        }
        let text = String::from_utf8(sink.0.lock().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 11, "{text}");
        assert_eq!(
            (lines[0], lines[1], lines[10]),
            ("downloading 2 files, 1.00 MB", " 10 % of 1.00 MB", "100 % of 1.00 MB")
        );
    }
}
