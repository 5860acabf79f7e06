//! A parameter of a query or a message that cannot be honoured. Pure.

use crate::asr::SttError;

/// How much of what somebody sent is quoted back, in characters.
const MAX_QUOTE: usize = 40;

/// A parameter that cannot be honoured.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {reason}")]
pub struct BadParameter {
    /// Its name.
    pub parameter: &'static str,
    /// What is wanted instead.
    pub reason: String,
}

impl BadParameter {
    /// Whatever its value.
    pub(super) fn new(parameter: &'static str, reason: impl Into<String>) -> Self {
        Self { parameter, reason: reason.into() }
    }

    /// Because of its value, which is quoted before the reason.
    pub(super) fn value(parameter: &'static str, value: &str, reason: &str) -> Self {
        Self::new(parameter, format!("'{}' {reason}", quote(value)))
    }
}

impl From<BadParameter> for SttError {
    fn from(bad: BadParameter) -> Self {
        Self::BadRequest(bad.to_string())
    }
}

/// The beginning of what somebody sent.
pub(super) fn quote(text: &str) -> String {
    text.chars().take(MAX_QUOTE).collect()
}
