//! Plays the lines of an agent through its reader.

use super::super::{Exit, Launch, Outcome, Output, Provider, Spawn, Then, Turn};

/// Everything that a provider makes of these lines.
pub(super) fn read(
    provider: &dyn Provider,
    turn: &Turn,
    lines: &str,
    exit: &Exit,
) -> (Vec<Output>, Outcome, Vec<Then>) {
    let mut reader = provider.reader(turn);
    let (mut outputs, mut thens) = (Vec::new(), Vec::new());
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let step = reader.line(line.as_bytes());
        outputs.extend(step.outputs);
        if step.then != Then::GoOn {
            thens.push(step.then);
        }
    }
    (outputs, reader.end(exit), thens)
}

/// For snapshots.
pub(super) fn json(outputs: &[Output]) -> String {
    serde_json::to_string_pretty(outputs).unwrap()
}

pub(super) fn code(code: i32) -> Exit {
    Exit { code: Some(code), ..Exit::default() }
}

pub(super) fn said(code: i32, stderr: &str) -> Exit {
    Exit { code: Some(code), stderr: stderr.to_owned(), ..Exit::default() }
}

/// The process that a provider starts for a turn.
pub(super) fn process(provider: &dyn Provider, turn: &Turn) -> Spawn {
    match provider.launch(turn).unwrap() {
        Launch::Process(spawn) => spawn,
        Launch::Request(request) => panic!("{request:?}"),
    }
}
