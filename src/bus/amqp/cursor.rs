//! Cursors of bridges: publishing and remembering how far the source was read, in one transaction.
//!
//! A cursor is the one record of the queue `<exchange>.bridge.<name>`. It moves only from where this process last saw
//! it: if another bridge of the same name has moved it meanwhile, publishing is refused, because the caller would
//! publish again what the other one has published. If the connection is lost before the broker has answered, the next
//! call finds out whether the transaction was committed.
//!
//! A client that dies at any time leaves all of a call or nothing. A broker that dies in the middle of a commit may have
//! applied a part of it; the events are then published again, with the same ids.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::{super::BusError, link::Live, message::Message, records::Records};

/// What this process knows of cursors.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    known: Mutex<HashMap<String, Known>>,
    /// The lock on the broker tells connections apart, not the callers of one.
    turn: tokio::sync::Mutex<()>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    /// Read or written.
    At(Option<String>),
    /// A transaction from one to the other has no answer.
    InDoubt { from: Option<String>, to: String },
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Committed; so many messages were taken by nobody.
    Committed { unrouted: u64 },
    /// An earlier call, whose answer was lost, had done it.
    WasDone,
}

fn records(exchange: &str, name: &str) -> Result<Records, BusError> {
    Records::new(&format!("{exchange}.bridge.{name}"), true)
}

impl Cursors {
    /// # Errors
    /// [`BusError::Conflict`] while another process works with it for too long; [`BusError::Unreachable`].
    pub(super) async fn read(
        &self,
        live: &Live,
        exchange: &str,
        name: &str,
    ) -> Result<Option<String>, BusError> {
        let _turn = self.turn.lock().await;
        let records = records(exchange, name)?;
        let open = records.open(live, false).await?;
        let found = open.texts().pop();
        open.close().await;
        self.known.lock().insert(name.to_owned(), Known::At(found.clone()));
        Ok(found)
    }

    /// Publishes the messages and moves the cursor, or neither.
    ///
    /// # Errors
    /// [`BusError::Conflict`] if another process has moved the cursor; [`BusError::Unreachable`]: it may have happened,
    /// and the same call again finds out.
    pub(super) async fn publish(
        &self,
        live: &Live,
        exchange: &str,
        (name, cursor): (&str, &str),
        messages: Vec<Message>,
    ) -> Result<Outcome, BusError> {
        let _turn = self.turn.lock().await;
        let records = records(exchange, name)?;
        let open = records.open(live, true).await?;
        let mut texts = open.texts();
        let all: Vec<usize> = (0..texts.len()).collect();
        let found = texts.pop();
        let known = self.known.lock().get(name).cloned();
        let moved = match known {
            None => false,
            Some(Known::InDoubt { to, .. }) if found.as_deref() == Some(&to) && to == cursor => {
                open.close().await;
                self.known.lock().insert(name.to_owned(), Known::At(found));
                return Ok(Outcome::WasDone);
            }
            Some(Known::InDoubt { from, to }) => found != from && found.as_deref() != Some(&to),
            Some(Known::At(known)) => found != known,
        };
        if moved {
            open.close().await;
            return Err(BusError::Conflict {
                what: format!("bridge '{name}'"),
                reason:
                    "another process has moved its cursor; run one bridge of a name, or start this one again"
                        .to_owned(),
            });
        }
        let doubt = Known::InDoubt { from: found, to: cursor.to_owned() };
        self.known.lock().insert(name.to_owned(), doubt);
        let unrouted = open.commit(messages, &all, Some(cursor)).await?;
        self.known.lock().insert(name.to_owned(), Known::At(Some(cursor.to_owned())));
        Ok(Outcome::Committed { unrouted })
    }
}
