//! Sessions and turns as backends keep them: a part that can be read, and one that is sealed. Pure but for the vault.

use serde::{Serialize, de::DeserializeOwned};

use super::{
    super::session::{Session, SessionId, TurnRecord, TurnWords, UsageRow, Words},
    StoreError,
    vault::{Place, Vault},
};

/// What lies under a name that every store has, so that a wrong key is noticed before anything is written with it.
pub(super) const CANARY: Place<'static> = Place { table: "meta", column: "canary", row: "1" };
/// Its text.
pub(super) const CANARY_TEXT: &[u8] = b"godctl sessions";

/// A session or a turn in two parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Encoded {
    /// JSON.
    pub(super) plain: String,
    /// A blob.
    pub(super) sealed: Vec<u8>,
}

pub(super) const fn session_place(id: &str) -> Place<'_> {
    Place { table: "sessions", column: "words", row: id }
}

pub(super) fn turn_row(id: &SessionId, number: u64) -> String {
    format!("{id}/{number}")
}

pub(super) const fn turn_place(row: &str) -> Place<'_> {
    Place { table: "turns", column: "words", row }
}

pub(super) fn encode_session(vault: &Vault, session: &Session) -> Result<Encoded, StoreError> {
    let sealed = vault.seal(session_place(session.id.as_str()), to_json(&session.words)?.as_bytes())?;
    Ok(Encoded { plain: to_json(session)?, sealed })
}

pub(super) fn decode_session(
    vault: &Vault,
    id: &str,
    plain: &str,
    sealed: &[u8],
) -> Result<Session, StoreError> {
    let mut session: Session = from_json(plain.as_bytes(), &format!("session {id}"))?;
    session.words =
        from_json::<Words>(&vault.open(session_place(id), sealed)?, &format!("the words of session {id}"))?;
    Ok(session)
}

pub(super) fn encode_turn(vault: &Vault, id: &SessionId, turn: &TurnRecord) -> Result<Encoded, StoreError> {
    let row = turn_row(id, turn.number);
    let sealed = vault.seal(turn_place(&row), to_json(&turn.words)?.as_bytes())?;
    Ok(Encoded { plain: to_json(turn)?, sealed })
}

pub(super) fn decode_turn(
    vault: &Vault,
    id: &SessionId,
    number: u64,
    (plain, sealed): (&str, &[u8]),
) -> Result<TurnRecord, StoreError> {
    let row = turn_row(id, number);
    let mut turn: TurnRecord = from_json(plain.as_bytes(), &format!("turn {row}"))?;
    turn.words =
        from_json::<TurnWords>(&vault.open(turn_place(&row), sealed)?, &format!("the words of turn {row}"))?;
    Ok(turn)
}

pub(super) fn encode_usage(usage: &UsageRow) -> Result<String, StoreError> {
    to_json(usage)
}

pub(super) fn decode_usage(text: &str) -> Result<UsageRow, StoreError> {
    from_json(text.as_bytes(), "a row of usage")
}

fn to_json(value: &impl Serialize) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|error| StoreError::Failed {
        doing: "write a session as JSON".to_owned(),
        reason: error.to_string(),
    })
}

fn from_json<T: DeserializeOwned>(text: &[u8], what: &str) -> Result<T, StoreError> {
    // The parser's message may hold a piece of the text.
    serde_json::from_slice(text).map_err(|error| {
        StoreError::Damaged(format!(
            "{what} cannot be read (column {}); restore a backup, or remove it",
            error.column()
        ))
    })
}
