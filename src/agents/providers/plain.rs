//! Programs whose whole output is the answer. Their exit code is all that they say of success.

use super::{
    super::{Exit, Outcome, Output, Reader, Step, Turn},
    draft::Draft,
};

/// Reads such a program.
pub(super) fn reader(turn: &Turn) -> Box<dyn Reader> {
    let mut draft = Draft::new(turn);
    draft.wanted = None;
    Box::new(PlainReader { draft, lines: 0 })
}

#[derive(Debug)]
struct PlainReader {
    draft: Draft,
    lines: usize,
}

impl Reader for PlainReader {
    fn line(&mut self, line: &[u8]) -> Step {
        let mut step = Step::default();
        let line = String::from_utf8_lossy(line);
        let text = if self.lines == 0 { line.into_owned() } else { format!("\n{line}") };
        self.lines += 1;
        self.draft.add_text(&text);
        step.outputs.push(Output::Text { text });
        step
    }

    fn end(&mut self, exit: &Exit) -> Outcome {
        if exit.code == Some(0) && exit.stopped.is_none() {
            self.draft.said = Some(Ok(()));
        }
        self.draft.outcome(exit, |_| None)
    }
}
