//! Works on turns: the one entry for all agents, whatever their providers start.

use tokio_util::sync::CancellationToken;

use super::{Launch, Outcome, Output, Provider, Turn, http, process, surroundings::Surroundings};

/// Works on a turn until the agent has ended. What it says is given to `say` as it comes.
///
/// Cancelling `stop` stops it politely, and the outcome is [`Class::Cancelled`](super::Class::Cancelled).
///
/// # Cancel safety
/// Dropping the future kills the process and its group, or drops the connection.
pub async fn run(
    provider: &dyn Provider,
    turn: &Turn,
    surroundings: Surroundings<'_>,
    stop: &CancellationToken,
    mut say: impl FnMut(Output),
) -> Outcome {
    let mut reader = provider.reader(turn);
    let ended = match provider.launch(turn) {
        Ok(Launch::Process(spawn)) => {
            process::run(&spawn, &turn.directory, surroundings, stop, reader.as_mut(), &mut say).await
        }
        Ok(Launch::Request(request)) => {
            http::run(&request, surroundings, stop, reader.as_mut(), &mut say).await
        }
        Err(failure) => Err(failure),
    };
    match ended {
        Ok(exit) => reader.end(&exit),
        Err(failure) => Outcome::refused(failure),
    }
}
