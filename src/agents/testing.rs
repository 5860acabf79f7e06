//! A shell in the place of an agent, for the tests of whatever runs agents. Compiled for tests only.

use std::path::{Path, PathBuf};

use super::{
    Abilities, Failure, Farewell, Input, Launch, Place, Provider, Reader, Spawn, Turn,
    providers::codex::Codex,
};

/// `sh`, read as Codex is.
#[derive(Debug)]
pub(super) struct Shell {
    /// Another one in its place.
    pub(super) program: PathBuf,
    /// How it is asked to end.
    pub(super) farewell: Farewell,
    /// Its arguments and its standard input, for a turn.
    pub(super) asked: fn(&Turn) -> (Vec<String>, Vec<u8>),
}

impl Shell {
    /// A shell that is asked like this, and is terminated.
    pub(super) fn new(asked: fn(&Turn) -> (Vec<String>, Vec<u8>)) -> Self {
        Self { program: "sh".into(), farewell: Farewell::Terminate, asked }
    }
}

impl Provider for Shell {
    fn name(&self) -> &'static str {
        "shell"
    }

    fn abilities(&self) -> Abilities {
        Codex::default().abilities()
    }

    fn place(&self) -> Place<'_> {
        Place::Program(Path::new(&self.program))
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        let (arguments, input) = (self.asked)(turn);
        Ok(Launch::Process(Spawn {
            program: self.program.clone(),
            setting: "agents.shell_program".to_owned(),
            arguments,
            environment: vec![("SET_FOR_IT".to_owned(), "yes".to_owned())],
            passes: vec!["SHELL_*".to_owned()],
            input: Input::Whole(input),
            farewell: self.farewell,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        Codex::default().reader(turn)
    }
}
