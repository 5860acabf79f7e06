//! `echo`: no agent at all. It gives the prompt back, through a real child process, so that the way from a prompt to its
//! answer can be shown and tested where no agent is installed. It is never chosen unless it is named.

use std::path::Path;

use super::{
    super::{Abilities, Failure, Farewell, Input, Launch, Place, Provider, Reader, Spawn, Turn},
    plain,
};

/// Gives prompts back.
#[derive(Debug, Clone, Copy)]
pub struct Echo;

/// Writes what it reads.
const PROGRAM: &str = "cat";

impl Provider for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn abilities(&self) -> Abilities {
        Abilities { deltas: true, ..Abilities::default() }
    }

    fn place(&self) -> Place<'_> {
        Place::Program(Path::new(PROGRAM))
    }

    fn launch(&self, turn: &Turn) -> Result<Launch, Failure> {
        Ok(Launch::Process(Spawn {
            program: PROGRAM.into(),
            setting: "PATH".to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            passes: Vec::new(),
            input: Input::Whole(turn.prompt.clone().into_bytes()),
            farewell: Farewell::Terminate,
        }))
    }

    fn reader(&self, turn: &Turn) -> Box<dyn Reader> {
        plain::reader(turn)
    }
}
