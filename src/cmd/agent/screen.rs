//! Shows a person how an agent works: the answer on standard output, everything else on standard error.

use std::io::{self, Write};

use serde_json::Value;

use super::super::{Stdout, Terminal, text::is_obeyed};
use crate::agents::{Outcome, Output, Usage, errand::Workspace, lines::shortened};

/// How much of a tool's input is shown, in characters.
const MAX_SHOWN: usize = 100;

/// What has been shown so far.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: Terminal,
    /// Text was written and its line has not ended.
    in_line: bool,
    /// A part of the answer was written as it came.
    has_text: bool,
}

impl Screen {
    pub(super) const fn new(terminal: Terminal) -> Self {
        Self { terminal, in_line: false, has_text: false }
    }

    /// Another turn begins.
    pub(super) const fn begin(&mut self) {
        self.has_text = false;
    }

    /// Shows what an agent says. Where nobody looks at standard output, only the whole answer goes there.
    pub(super) fn show(&mut self, output: &Output) -> io::Result<()> {
        match output {
            Output::Text { text } if self.terminal.stdout.is_terminal => {
                let text = visible(text);
                let mut stdout = Stdout::lock();
                stdout.write_all(text.as_bytes())?;
                stdout.flush()?;
                self.in_line = !text.ends_with('\n');
                self.has_text = true;
            }
            Output::ToolInvoked { name, input, .. } => {
                self.aside(&format!("{name}  {}", brief(input)), Tone::Dim)?
            }
            Output::ToolCompleted { name, is_error: true, output, .. } => {
                let first = output.lines().next().unwrap_or_default();
                let name = name.as_deref().unwrap_or("a tool");
                self.aside(&format!("{name} failed: {}", shortened(first, MAX_SHOWN)), Tone::Warning)?;
            }
            Output::Retrying { reason, delay } => {
                let when =
                    delay.map(|delay| format!(", again in {:.1} s", delay.as_secs_f64())).unwrap_or_default();
                self.aside(&format!("{reason}{when}"), Tone::Warning)?;
            }
            Output::RateLimited { is_reached, resets_at } => {
                let what = if *is_reached { "the limit is reached" } else { "the limit is near" };
                let when = resets_at.map(|at| format!("; it resets at {at}")).unwrap_or_default();
                self.aside(&format!("{what}{when}"), Tone::Warning)?;
            }
            Output::Warning { message } => self.aside(message, Tone::Warning)?,
            Output::Started { .. }
            | Output::Text { .. }
            | Output::Thinking { .. }
            | Output::ToolCompleted { .. }
            | Output::Usage(_)
            | Output::Unread { .. } => {}
        }
        Ok(())
    }

    /// Shows the answer, if it was not shown as it came, and what it took.
    pub(super) fn end(&mut self, outcome: &Outcome, seconds: f64) -> io::Result<()> {
        if outcome.verdict.is_ok() && !self.has_text {
            let mut stdout = Stdout::lock();
            let text =
                if self.terminal.stdout.is_terminal { visible(&outcome.text) } else { outcome.text.clone() };
            stdout.write_all(text.as_bytes())?;
            if !text.ends_with('\n') {
                stdout.write_all(b"\n")?;
            }
            stdout.flush()?;
        }
        if let Some(warning) = &outcome.warning {
            self.aside(warning, Tone::Warning)?;
        }
        if self.terminal.stderr.is_terminal {
            self.aside(&summary(outcome.usage, seconds), Tone::Dim)?;
        } else {
            self.end_line()?;
        }
        Ok(())
    }

    /// Tells what was done in a worktree.
    pub(super) fn worked(&mut self, workspace: &Workspace) -> io::Result<()> {
        let Workspace { branch, path, work } = workspace;
        let Some(path) = path else {
            return self.aside("nothing was changed; the worktree is removed", Tone::Dim);
        };
        let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
        let (files, commits) = (count(work.files.len(), "file"), count(work.commits.len(), "commit"));
        let line = format!("{files} changed, {commits} on branch {branch} in {}", path.display());
        self.aside(&line, Tone::Dim)
    }

    /// A line on standard error, on a line of its own.
    fn aside(&mut self, line: &str, tone: Tone) -> io::Result<()> {
        self.end_line()?;
        let line = visible(line);
        let line = line.replace('\n', " ");
        let (on, off) = match (self.terminal.stderr.color, tone) {
            (false, _) => ("", ""),
            (true, Tone::Dim) => ("\x1b[2m", "\x1b[0m"),
            (true, Tone::Warning) => ("\x1b[33m", "\x1b[0m"),
        };
        writeln!(io::stderr(), "{on}{line}{off}")
    }

    fn end_line(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.in_line) {
            let mut stdout = Stdout::lock();
            stdout.write_all(b"\n")?;
            stdout.flush()?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
enum Tone {
    Dim,
    Warning,
}

/// What a terminal would obey is shown and not obeyed: an answer may hold what somebody else wrote.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => c,
            c if is_obeyed(c) => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// What a tool was given: of an object with one field that field, else the JSON.
fn brief(input: &Value) -> String {
    let known = ["command", "file_path", "path", "pattern", "query", "url"];
    let field = known.iter().find_map(|name| input.get(name)?.as_str());
    match (field, input) {
        (Some(field), _) => shortened(field, MAX_SHOWN),
        (None, Value::Null) => String::new(),
        (None, other) => shortened(&other.to_string(), MAX_SHOWN),
    }
}

fn summary(usage: Usage, seconds: f64) -> String {
    let mut parts = vec![format!("{seconds:.1} s")];
    if let (Some(input), Some(output)) = (usage.input_tokens, usage.output_tokens) {
        parts.push(format!("{input} tokens in, {output} out"));
    }
    if let Some(cost) = usage.cost_usd {
        parts.push(format!("${cost:.4}"));
    }
    parts.join(" · ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn escape_sequences_in_an_answer_are_shown_and_not_obeyed() {
        assert_eq!(visible("a\x1b[2Jb\r\tc\n\u{9b}d"), "a\u{fffd}[2Jb\u{fffd}\tc\n\u{fffd}d");
        assert_eq!(visible("a\u{202e}b"), "a\u{fffd}b", "a mark that turns the writing round");
    }

    #[test]
    fn a_tools_input_is_one_short_line() {
        assert_eq!(brief(&json!({"command": "ls", "description": "list"})), "ls");
        assert_eq!(brief(&json!({"a": 1})), r#"{"a":1}"#);
        assert_eq!(brief(&Value::Null), "");
        assert!(brief(&json!({"path": "x".repeat(500)})).chars().count() <= MAX_SHOWN + 1);
    }
}
