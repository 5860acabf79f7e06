//! New sessions, and how the next turn of one is threaded. Pure.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use uuid::Uuid;

use super::{
    super::{Abilities, NativeId, Thread},
    Amounts, Session, SessionId, Source, State, Totals, Words,
};

impl Session {
    /// One that has seen no prompt yet.
    #[must_use]
    pub fn new(id: SessionId, provider: &str, directory: &str, now: Timestamp) -> Self {
        Self {
            id,
            provider: provider.to_owned(),
            directory: directory.to_owned(),
            state: State::Idle,
            created_at: now,
            updated_at: now,
            native_id: None,
            model: None,
            tags: BTreeSet::new(),
            source: Source::Cli,
            created_by: None,
            extra: BTreeMap::new(),
            correlation_ids: Vec::new(),
            prompt_count: 0,
            totals: Totals::default(),
            baseline: Amounts::default(),
            answered: Vec::new(),
            run: None,
            failure_class: None,
            words: Words::default(),
        }
    }

    /// The conversation that the next turn goes on with. `fresh` becomes the id of a new one, where the agent takes one
    /// and the session's own does not do.
    #[must_use]
    pub fn thread(&self, abilities: Abilities, fresh: Uuid) -> Thread {
        match &self.native_id {
            Some(id) if abilities.resume => Thread::Resume(id.clone()),
            // The id that an agent once took is taken: a conversation that it lost needs another one.
            _ if abilities.chooses_id && self.prompt_count == 0 => Thread::New(self.id.proposal(fresh)),
            _ if abilities.chooses_id => Thread::New(NativeId::parse(&fresh.to_string()).ok()),
            _ => Thread::New(None),
        }
    }
}

/// A tag: letters, digits, `.`, `_`, `-`, `:` and `/`, at most 64 of them.
///
/// # Errors
/// What is wrong with it.
pub fn parse_tag(text: &str) -> Result<String, String> {
    const MAX_TAG: usize = 64;
    let fit = |c: char| c.is_alphanumeric() || "._-:/".contains(c);
    if !text.is_empty() && text.chars().count() <= MAX_TAG && text.chars().all(fit) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "'{}' is no tag; it has letters, digits, '.', '_', '-', ':' and '/', at most {MAX_TAG}",
        text.escape_default()
    ))
}
