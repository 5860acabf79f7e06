//! AMQP topic patterns: words between dots, `*` for one word, `#` for any number of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The longest pattern or event type in bytes; the limit of a short string in AMQP 0.9.1.
pub const MAX_TOPIC_BYTES: usize = 255;

/// A topic pattern such as `agent.*.started` or `voice.#`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a topic pattern; want words of at most 255 bytes between dots, * for one word, # for any number")]
pub struct PatternError(String);

impl Pattern {
    /// Matches everything.
    #[must_use]
    pub fn all() -> Self {
        Self("#".to_owned())
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// True if a queue bound with this pattern gets messages with this routing key.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        // Two rows of the usual table: `reach[i]` says whether the pattern so far takes the first `i` words.
        let words: Vec<&str> = if key.is_empty() { Vec::new() } else { key.split('.').collect() };
        let mut reach = vec![false; words.len() + 1];
        reach[0] = true;
        for token in self.0.split('.').filter(|_| !self.0.is_empty()) {
            let mut next = vec![false; words.len() + 1];
            match token {
                "#" => {
                    let mut open = false;
                    for (before, after) in reach.iter().zip(next.iter_mut()) {
                        open |= before;
                        *after = open;
                    }
                }
                token => {
                    for (i, word) in words.iter().enumerate() {
                        next[i + 1] = reach[i] && (token == "*" || token == *word);
                    }
                }
            }
            reach = next;
        }
        reach.last().copied().unwrap_or(false)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl TryFrom<String> for Pattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        let control = text.chars().any(char::is_control);
        if text.is_empty() || text.len() > MAX_TOPIC_BYTES || control {
            return Err(PatternError(text.escape_default().take(80).collect()));
        }
        Ok(Self(text))
    }
}

impl std::str::FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        Self::try_from(text.to_owned())
    }
}
