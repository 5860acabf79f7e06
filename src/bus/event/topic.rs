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
#[error(
    "'{0}' is not a topic pattern; want words of at most 255 bytes between dots, * for one word, # for any number"
)]
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
    ///
    /// As in RabbitMQ: a word may be empty, so `a..b` has three and `a.` has two, but an empty key has none.
    #[must_use]
    pub fn matches(&self, key: &str) -> bool {
        let mut pattern = Some(self.0.as_str());
        let mut rest = if key.is_empty() { None } else { Some(key) };
        // The pattern behind the last `#`, and what is left of the key if that `#` takes one word more. An earlier `#`
        // need not be tried again: whatever it could leave out, the last one can take.
        let mut retry: Option<(Option<&str>, &str)> = None;
        loop {
            let advanced = match (pattern.map(cut), rest.map(cut)) {
                (None, None) => return true,
                (Some(("#", behind)), _) => {
                    pattern = behind;
                    retry = rest.map(|rest| (behind, rest));
                    // `#` takes nothing at first.
                    true
                }
                (Some((word, behind)), Some((first, others))) if word == "*" || word == first => {
                    (pattern, rest) = (behind, others);
                    true
                }
                _ => false,
            };
            if !advanced {
                let Some((behind, left)) = retry else { return false };
                (pattern, rest) = (behind, cut(left).1);
                retry = rest.map(|rest| (behind, rest));
            }
        }
    }
}

/// The first word, and what follows its dot.
fn cut(text: &str) -> (&str, Option<&str>) {
    match text.split_once('.') {
        Some((word, rest)) => (word, Some(rest)),
        None => (text, None),
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The definition, without regard for speed.
    fn reference(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern, key) {
            ([], []) => true,
            (["#", others @ ..], _) => (0..=key.len()).any(|taken| reference(others, &key[taken..])),
            ([word, others @ ..], [first, rest @ ..]) => {
                (*word == "*" || word == first) && reference(others, rest)
            }
            _ => false,
        }
    }

    fn words(text: &str) -> Vec<&str> {
        if text.is_empty() { Vec::new() } else { text.split('.').collect() }
    }

    fn matches(pattern: &str, key: &str) -> bool {
        pattern.parse::<Pattern>().unwrap().matches(key)
    }

    #[test]
    fn a11_topics_match_as_in_rabbitmq() {
        for (pattern, key, expected) in [
            ("agent.*.started", "agent.session.started", true),
            ("agent.*", "agent.session.started", false),
            ("#", "agent.session.started", true),
            ("#", "", true),
            ("*", "", false),
            ("*", "a", true),
            ("*.*", "a", false),
            ("agent.#", "agent", true),
            ("agent.#", "agents", false),
            ("#.started", "agent.session.started", true),
            ("#.started", "started", true),
            ("a.#.z", "a.z", true),
            ("a.#.z", "a.b.z.c.z", true),
            ("#.b.#.b", "b.a.b", true),
            ("#.b.#.b", "a.b", false),
            ("#.#", "", true),
            ("#.*", "", false),
            ("*.#.*", "a.b", true),
            // A wildcard is a whole word.
            ("ag*.x", "agent.x", false),
            // Empty words are words.
            ("a.*.b", "a..b", true),
            ("a.b", "a.b.", false),
            ("a.b.*", "a.b.", true),
            (".", ".", true),
            ("*.*", ".", true),
            ("a", "A", false),
        ] {
            assert_eq!(matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn a_pattern_has_1_to_255_bytes_and_no_control_characters() {
        for bad in ["", "a\nb", "\0"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
        assert!("a".repeat(255).parse::<Pattern>().is_ok());
        let error = "a".repeat(256).parse::<Pattern>().unwrap_err();
        assert!(error.to_string().len() < 250, "{error}");
    }

    proptest! {
        #[test]
        fn matching_agrees_with_its_definition(
            pattern in prop::collection::vec(prop::sample::select(vec!["#", "*", "a", "b", ""]), 1..7),
            key in prop::collection::vec(prop::sample::select(vec!["a", "b", ""]), 0..9),
        ) {
            let (pattern, key) = (pattern.join("."), key.join("."));
            prop_assume!(!pattern.is_empty());
            prop_assert_eq!(matches(&pattern, &key), reference(&words(&pattern), &words(&key)), "{} {}", pattern, key);
        }
    }
}
