//! What the readers of all agents have in common. Pure.

use std::collections::VecDeque;

use serde_json::Value;

use super::super::{
    Class, Exit, Failure, NativeId, Outcome, Output, Step, Then, Thread, Turn, Usage, lines::shortened,
};

/// How much of a line that nobody understands is passed on, in characters.
const MAX_UNREAD: usize = 200;
/// How much of a tool's output is passed on, in characters.
const MAX_TOOL_OUTPUT: usize = 4_000;
/// Tools that are remembered by their id until they are done.
const MAX_TOOLS: usize = 1_024;
/// How much of an answer is kept; longer ones are cut, and it is said.
const MAX_ANSWER: usize = 8 * 1024 * 1024;

/// What all readers keep of a turn.
#[derive(Debug, Default)]
pub(super) struct Draft {
    /// The conversation that was asked for.
    pub(super) wanted: Option<NativeId>,
    pub(super) native_id: Option<NativeId>,
    pub(super) text: String,
    is_cut: bool,
    pub(super) usage: Usage,
    /// What the agent itself said of the end.
    pub(super) said: Option<Result<(), Failure>>,
    /// The last thing that went wrong, which may have been mended since.
    pub(super) trouble: Option<Failure>,
    /// Tools that are at work, oldest first.
    pub(super) tools: VecDeque<(String, String)>,
}

/// The directory of a turn, for an agent to whom it is told as text.
///
/// # Errors
/// [`Class::BadRequest`] for a name that is not UTF-8.
pub(super) fn directory<'a>(turn: &'a Turn, agent: &str) -> Result<&'a str, Failure> {
    turn.directory.to_str().ok_or_else(|| {
        Failure::new(Class::BadRequest, format!("{agent} takes only directories whose names are UTF-8"))
    })
}

impl Draft {
    pub(super) fn new(turn: &Turn) -> Self {
        let wanted = match &turn.thread {
            Thread::New(id) => id.clone(),
            Thread::Resume(id) => Some(id.clone()),
        };
        Self { wanted, ..Self::default() }
    }

    /// Of an agent that chooses the ids of new conversations itself, whatever it was told.
    pub(super) fn of_its_choice(turn: &Turn) -> Self {
        match turn.thread {
            Thread::New(_) => Self::default(),
            Thread::Resume(_) => Self::new(turn),
        }
    }

    /// The agent has told its id. Going on in another conversation than was asked for ends the turn: what it does there
    /// is not what anybody wanted.
    pub(super) fn started(
        &mut self,
        id: &str,
        model: Option<String>,
        version: Option<String>,
        step: &mut Step,
    ) {
        let Ok(native_id) = NativeId::parse(id) else {
            return step.warn("the agent told an id that is none".to_owned());
        };
        if self.native_id.as_ref() == Some(&native_id) {
            return;
        }
        if let Some(wanted) = &self.wanted
            && *wanted != native_id
        {
            let message =
                format!("asked for session {wanted}, the agent went on in {native_id}; it was stopped");
            self.said = Some(Err(Failure::new(Class::SessionMismatch, message)));
            step.then = Then::Stop;
            return;
        }
        self.native_id = Some(native_id.clone());
        step.outputs.push(Output::Started { native_id, model, version });
    }

    pub(super) fn add_text(&mut self, text: &str) {
        let room = MAX_ANSWER.saturating_sub(self.text.len());
        if text.len() <= room {
            self.text.push_str(text);
        } else {
            let fits =
                text.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= room).last();
            self.text.push_str(text.get(..fits.unwrap_or(0)).unwrap_or_default());
            self.is_cut = true;
        }
    }

    pub(super) fn set_text(&mut self, text: &str) {
        self.text.clear();
        self.is_cut = false;
        self.add_text(text);
    }

    pub(super) fn tool_invoked(&mut self, id: &str, name: &str, input: Value, step: &mut Step) {
        if self.tools.len() == MAX_TOOLS {
            self.tools.pop_front();
        }
        self.tools.push_back((id.to_owned(), name.to_owned()));
        step.outputs.push(Output::ToolInvoked { id: id.to_owned(), name: name.to_owned(), input });
    }

    pub(super) fn tool_completed(&mut self, id: &str, is_error: bool, output: &str, step: &mut Step) {
        let at = self.tools.iter().position(|(known, _)| known == id);
        let name = at.and_then(|at| self.tools.remove(at)).map(|(_, name)| name);
        let output = shortened(output, MAX_TOOL_OUTPUT);
        step.outputs.push(Output::ToolCompleted { id: id.to_owned(), name, is_error, output });
    }

    /// The agent has said how it ended. Only the first time counts.
    pub(super) fn end(&mut self, verdict: Result<(), Failure>, step: &mut Step) {
        if self.said.is_none() {
            self.said = Some(verdict);
            step.then = Then::Answered;
        }
    }

    /// What became of the turn. `guess` tells the class and the message of an end about which the agent itself said
    /// nothing.
    pub(super) fn outcome(&mut self, exit: &Exit, guess: impl FnOnce(&Exit) -> Option<Failure>) -> Outcome {
        let mut warning = self.is_cut.then(|| "the answer was too long and is cut".to_owned());
        let verdict = match self.said.take() {
            Some(Ok(())) => {
                let is_odd = exit.signal.is_some() || exit.code.is_some_and(|code| code != 0);
                if exit.stopped.is_none() && is_odd {
                    warning = Some(format!("the agent answered, and then ended with {}", exit.describe()));
                }
                Ok(())
            }
            Some(Err(failure)) => Err(failure),
            None => Err(self.silent(exit, guess)),
        };
        Outcome {
            native_id: self.native_id.take(),
            text: std::mem::take(&mut self.text),
            usage: self.usage,
            verdict,
            warning,
        }
    }

    /// Why the agent never said how it ended.
    fn silent(&mut self, exit: &Exit, guess: impl FnOnce(&Exit) -> Option<Failure>) -> Failure {
        if let Some(class) = exit.stopped {
            let message = match class {
                Class::Timeout => "the agent took longer than it may (--timeout) and was stopped",
                Class::Stalled => "the agent said nothing for too long and was stopped",
                Class::Cancelled => "the turn was cancelled",
                _ => "the agent was stopped",
            };
            return Failure::new(class, message);
        }
        if let Some(refusal) = &exit.refusal {
            return refusal.clone();
        }
        if let Some(failure) = guess(exit) {
            return failure;
        }
        if let Some(failure) = self.trouble.take() {
            return failure;
        }
        let said = last_line(&exit.stderr);
        let class = Class::of_message(&exit.stderr);
        match (exit.code, said) {
            (_, Some(said)) if class.is_some() => {
                Failure::new(class.unwrap_or(Class::Unknown), format!("the agent failed: {said}"))
            }
            (Some(0), _) => Failure::new(Class::NoResult, "the agent ended without an answer"),
            (_, Some(said)) => Failure::new(
                Class::ProcessFailed,
                format!("the agent ended with {}: {said}", exit.describe()),
            ),
            (_, None) => {
                Failure::new(Class::ProcessFailed, format!("the agent ended with {}", exit.describe()))
            }
        }
    }
}

impl Step {
    pub(super) fn warn(&mut self, message: String) {
        self.outputs.push(Output::Warning { message });
    }

    pub(super) fn unread(line: &[u8]) -> Self {
        let line = shortened(&String::from_utf8_lossy(line), MAX_UNREAD);
        Self { outputs: vec![Output::Unread { line }], ..Self::default() }
    }
}

/// A line of JSON that is an object.
pub(super) fn object(line: &[u8]) -> Option<Value> {
    // Agents print banners and the noise of their tools on the same pipe.
    line.trim_ascii_start().first().filter(|first| **first == b'{')?;
    serde_json::from_str(&String::from_utf8_lossy(line)).ok().filter(Value::is_object)
}

/// The text at a place, or nothing.
pub(super) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub(super) fn count(value: &Value, pointer: &str) -> Option<u64> {
    value.pointer(pointer).and_then(Value::as_u64)
}

/// Owned, for fields that a configuration may fill as well.
pub(super) fn strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

pub(super) fn last_line(stderr: &str) -> Option<String> {
    let line = stderr.lines().rev().map(str::trim).find(|line| !line.is_empty())?;
    Some(shortened(line, MAX_UNREAD))
}
