//! The ids by which agents know their conversations. Pure.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Class, Failure};

/// The id by which an agent knows a conversation. It becomes part of a command line, so not everything is one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct NativeId(String);

/// Longest id of any agent that is known, and some more.
const MAX_NATIVE_ID: usize = 128;

impl NativeId {
    /// Letters, digits, `.`, `_` and `-`, the last not at the front.
    ///
    /// # Errors
    /// [`Class::BadRequest`] for anything else.
    pub fn parse(text: &str) -> Result<Self, Failure> {
        let fit = (1..=MAX_NATIVE_ID).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if fit {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().take(40).collect();
        Err(Failure::new(
            Class::BadRequest,
            format!(
                "'{shown}' is no session id; it has letters, digits, '.', '_' and '-', at most {MAX_NATIVE_ID}, \
                 and does not begin with '-'"
            ),
        ))
    }

    /// As text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Serialize for NativeId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl TryFrom<String> for NativeId {
    type Error = Failure;

    fn try_from(text: String) -> Result<Self, Failure> {
        Self::parse(&text)
    }
}

impl fmt::Display for NativeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_be_a_flag_or_a_path_is_no_id() {
        for id in ["0197a5e0-0000-7000-8000-000000000001", "s_1.2", "a"] {
            assert_eq!(NativeId::parse(id).unwrap().as_str(), id);
        }
        let long = "x".repeat(MAX_NATIVE_ID + 1);
        for id in ["", "--dangerously-skip-permissions", "a b", "../x", "a;b", "ü", &long] {
            assert_eq!(NativeId::parse(id).unwrap_err().class, Class::BadRequest, "{id}");
        }
    }
}
