//! Shows a run: who is at work, what came of it, and the result; or its events as JSON.

use std::{
    collections::BTreeMap,
    io::{self, Write as _},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use jiff::{Timestamp, tz::TimeZone};
use uuid::Uuid;

use super::super::{
    super::{Stdout, Terminal},
    screen::visible,
};
use crate::{
    agents::{
        Output,
        flow::{News, Plan, Report, Settled, Verdict},
        lines::shortened,
    },
    bus::Event,
};

/// How often a line of who is at work moves.
const TICK: Duration = Duration::from_millis(120);
/// How much of a message is shown, in characters.
const MAX_SHOWN: usize = 300;

/// What shows a run.
pub(super) struct Show<'a> {
    plan: &'a Plan,
    terminal: Terminal,
    json: bool,
    /// The longest name of a step, in characters.
    width: usize,
    /// Lines of those at work, where somebody looks.
    lines: Option<MultiProgress>,
    at_work: BTreeMap<usize, ProgressBar>,
}

#[derive(Debug, Clone, Copy)]
enum Tone {
    Good,
    Bad,
    Dim,
}

impl<'a> Show<'a> {
    pub(super) fn new(plan: &'a Plan, terminal: Terminal, json: bool) -> Self {
        Self {
            plan,
            terminal,
            json,
            width: plan.steps.iter().map(|step| step.name.chars().count()).max().unwrap_or_default(),
            lines: terminal.stderr.is_terminal.then(MultiProgress::new),
            at_work: BTreeMap::new(),
        }
    }

    /// Events, where they are asked for.
    pub(super) fn events(&self, events: &[Event]) -> anyhow::Result<()> {
        if !self.json {
            return Ok(());
        }
        let mut stdout = Stdout::lock();
        for event in events {
            stdout.write_all(&event.to_json())?;
            stdout.write_all(b"\n")?;
        }
        Ok(stdout.flush()?)
    }

    /// A run that was begun earlier is taken up.
    pub(super) fn goes_on(
        &self,
        (run, began_at): (Uuid, Timestamp),
        (done, all): (usize, usize),
    ) -> anyhow::Result<()> {
        let at = began_at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M");
        self.say(&format!(
            "going on with run {run} of {at}, {done} of {all} steps are done; --new begins anew"
        ))
    }

    pub(super) fn hear(&mut self, news: &News<'_>) -> anyhow::Result<()> {
        match news {
            News::Started { step, subject, goes_on } => {
                let how = if *goes_on { "goes on" } else { "works" };
                let how = if subject.attempt > 1 {
                    format!("{how}, attempt {}", subject.attempt)
                } else {
                    how.to_owned()
                };
                match &self.lines {
                    Some(lines) => {
                        let bar = lines.add(ProgressBar::new_spinner());
                        // A template that cannot be read would be a typing error here; the default serves as well.
                        if let Ok(style) =
                            ProgressStyle::with_template("{spinner} {prefix}  {elapsed}  {wide_msg}")
                        {
                            bar.set_style(style);
                        }
                        bar.set_prefix(self.who(*step));
                        bar.set_message(how);
                        bar.enable_steady_tick(TICK);
                        if let Some(old) = self.at_work.insert(*step, bar) {
                            old.finish_and_clear();
                        }
                        Ok(())
                    }
                    None => self.line(*step, "·", Tone::Dim, &how),
                }
            }
            News::Waiting { step, what } => self.line(*step, "·", Tone::Dim, &format!("waits: {what}")),
            News::Said { step, output } => self.said(*step, output),
            News::Ended { .. } => Ok(()),
            News::Retrying { step, failure, wait } => {
                let message = format!("{failure}; again in {:.1} s", wait.as_secs_f64());
                self.line(*step, "!", Tone::Bad, &message)
            }
            News::Settled { step, settled } => {
                self.rests(*step);
                match &settled.answer {
                    Ok(_) => self.line(*step, "✓", Tone::Good, &summary(settled)),
                    Err(failure) => {
                        let message = format!("{}: {failure} · {}", failure.class, summary(settled));
                        self.line(*step, "✗", Tone::Bad, &message)
                    }
                }
            }
            News::Skipped { step, because } => {
                let message = format!("skipped, as {} failed", self.plan.name_of(*because));
                self.line(*step, "-", Tone::Dim, &message)
            }
            News::Interrupted { step } => {
                self.rests(*step);
                self.line(*step, "-", Tone::Dim, "stopped")
            }
        }
    }

    fn said(&self, step: usize, output: &Output) -> anyhow::Result<()> {
        match output {
            Output::Warning { message } => self.line(step, "!", Tone::Bad, message),
            Output::ToolInvoked { name, .. } => {
                if let Some(bar) = self.at_work.get(&step) {
                    bar.set_message(shortened(&one_line(name), MAX_SHOWN));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn rests(&mut self, step: usize) {
        if let Some(bar) = self.at_work.remove(&step) {
            bar.finish_and_clear();
        }
    }

    /// Nothing moves any more.
    pub(super) fn close(&mut self) {
        while let Some((_, bar)) = self.at_work.pop_first() {
            bar.finish_and_clear();
        }
    }

    /// The result, and what it took.
    pub(super) fn end(&self, report: &Report, took: Duration) -> anyhow::Result<()> {
        let text =
            report.combined.text.as_ref().filter(|_| report.verdict != Verdict::Interrupted && !self.json);
        if let Some(text) = text {
            let text = if self.terminal.stdout.is_terminal { visible(text) } else { text.clone() };
            let mut stdout = Stdout::lock();
            stdout.write_all(text.as_bytes())?;
            if !text.ends_with('\n') {
                stdout.write_all(b"\n")?;
            }
            stdout.flush()?;
        }
        if self.lines.is_some() {
            let costs: Vec<u64> = report
                .ends
                .iter()
                .filter_map(|end| end.settled().and_then(|settled| settled.cost_micro_usd))
                .collect();
            let cost = (!costs.is_empty()).then(|| costs.iter().sum());
            self.say(&spent(took, cost))?;
        }
        Ok(())
    }

    fn who(&self, step: usize) -> String {
        let provider = self.plan.step(step).map_or("", |step| step.provider.as_str());
        format!("{:width$}  {provider}", self.plan.name_of(step), width = self.width)
    }

    fn line(&self, step: usize, mark: &str, tone: Tone, message: &str) -> anyhow::Result<()> {
        let mark = match (self.terminal.stderr.color, tone) {
            (false, _) => mark.to_owned(),
            (true, Tone::Good) => format!("\x1b[32m{mark}\x1b[0m"),
            (true, Tone::Bad) => format!("\x1b[31m{mark}\x1b[0m"),
            (true, Tone::Dim) => format!("\x1b[2m{mark}\x1b[0m"),
        };
        self.say(&format!("{mark} {}  {}", self.who(step), shortened(&one_line(message), MAX_SHOWN)))
    }

    fn say(&self, line: &str) -> anyhow::Result<()> {
        let write = || writeln!(io::stderr(), "{line}");
        // With a real end: what follows may go past the lines that move.
        Ok(self.lines.as_ref().map_or_else(write, |lines| lines.suspend(write))?)
    }
}

/// What a terminal would obey is shown and not obeyed.
fn one_line(text: &str) -> String {
    visible(text).replace(['\n', '\t'], " ")
}

fn summary(settled: &Settled) -> String {
    spent(settled.took, settled.cost_micro_usd)
}

#[allow(clippy::cast_precision_loss, reason = "nobody has spent that much")]
fn spent(took: Duration, cost_micro_usd: Option<u64>) -> String {
    let cost = cost_micro_usd.map(|micro| format!(" · ${:.4}", micro as f64 / 1e6)).unwrap_or_default();
    format!("{:.1} s{cost}", took.as_secs_f64())
}
