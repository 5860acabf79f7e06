//! Asks for one prompt after another, with somebody at the keyboard.
//!
//! Lines are read on a thread of its own that nobody waits for, as a read from a terminal cannot be ended. Ctrl-C cancels
//! the turn that is worked on; a second time, or with none, it leaves.

use std::{
    io::{self, Write as _},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    super::{Failure, complain},
    conversation::Conversation,
    start::Show,
};
use crate::agents::Turn;

/// Asks until nobody answers any more. A turn that fails is told, and the next one asked for.
pub(super) async fn hold(
    conversation: &mut Conversation<'_>,
    template: &Turn,
    show: &mut (dyn Show + Send),
) -> anyhow::Result<()> {
    let shutdown = &conversation.context.shutdown;
    let (asking, mut lines) = mpsc::channel::<io::Result<String>>(1);
    let (ask, asked) = std::sync::mpsc::sync_channel::<()>(1);
    shutdown.unjoined_thread("agent-prompts", move || {
        // The next line is read when it is asked for: what is typed during a turn waits in the terminal.
        while asked.recv().is_ok() {
            let mut line = String::new();
            let line = match io::stdin().read_line(&mut line) {
                Ok(0) => break,
                Ok(_) => Ok(line),
                Err(error) => Err(error),
            };
            if asking.blocking_send(line).is_err() {
                break;
            }
        }
    })?;
    let at_work: Arc<Mutex<Option<CancellationToken>>> = Arc::default();
    let turn = Arc::clone(&at_work);
    shutdown.intercept_interrupts(move || {
        let token = turn.lock().take();
        token.inspect(CancellationToken::cancel).is_some()
    });
    loop {
        write!(io::stderr(), "{}> ", conversation.provider.name())?;
        io::stderr().flush()?;
        if ask.try_send(()).is_err() {
            // The thread has gone: the input has ended.
            break;
        }
        let line = tokio::select! {
            biased;
            () = conversation.context.shutdown.cancelled() => break,
            line = lines.recv() => line,
        };
        let Some(line) = line else { break };
        let line = line?;
        match line.trim() {
            "" => continue,
            "/exit" | "/quit" => return Ok(()),
            _ => {}
        }
        let stop = conversation.context.shutdown.child_token();
        *at_work.lock() = Some(stop.clone());
        let prompt = line.trim_end_matches(['\n', '\r']).to_owned();
        let result = conversation.turn(Turn { prompt, ..template.clone() }, show, &stop).await;
        at_work.lock().take();
        match result {
            Ok(()) => {}
            Err(_) if conversation.context.shutdown.is_cancelled() => break,
            // What failed was the turn.
            Err(error) if error.is::<Failure>() => complain(&error),
            Err(error) => return Err(error),
        }
    }
    writeln!(io::stderr())?;
    Ok(())
}
