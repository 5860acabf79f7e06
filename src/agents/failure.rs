//! Why a turn failed, in classes that say what to do about it.

use std::{fmt, time::Duration};

use serde::Serialize;

/// A kind of failure. The names are what events and `--json` say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Not logged in, or a key that is not taken.
    Auth,
    /// The account has nothing left.
    Quota,
    /// Too many requests for now.
    RateLimited,
    /// The service has too much to do.
    Overloaded,
    /// The service is broken.
    ServerError,
    /// The service cannot be reached.
    Network,
    /// There is no such model.
    ModelNotFound,
    /// The service refuses the request as such.
    InvalidRequest,
    /// The conversation is longer than the model can read.
    ContextOverflow,
    /// The budget is used up.
    Budget,
    /// More rounds than allowed.
    TurnLimit,
    /// It took longer than allowed.
    Timeout,
    /// Nothing was heard for longer than allowed.
    Stalled,
    /// The process failed in a way that says no more.
    ProcessFailed,
    /// The agent is not installed.
    MissingExecutable,
    /// It ended as if all were well, and said nothing of success.
    NoResult,
    /// There is no such conversation.
    SessionNotFound,
    /// It went on in another conversation than it was asked to.
    SessionMismatch,
    /// The conversation is being worked on.
    Busy,
    /// The agent does not trust the directory.
    UntrustedDir,
    /// Something was not permitted.
    Denied,
    /// Somebody stopped it.
    Cancelled,
    /// Whoever started it is gone.
    Orphaned,
    /// What was asked for makes no sense.
    BadRequest,
    /// None of these.
    Unknown,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::Auth,
        Self::Quota,
        Self::RateLimited,
        Self::Overloaded,
        Self::ServerError,
        Self::Network,
        Self::ModelNotFound,
        Self::InvalidRequest,
        Self::ContextOverflow,
        Self::Budget,
        Self::TurnLimit,
        Self::Timeout,
        Self::Stalled,
        Self::ProcessFailed,
        Self::MissingExecutable,
        Self::NoResult,
        Self::SessionNotFound,
        Self::SessionMismatch,
        Self::Busy,
        Self::UntrustedDir,
        Self::Denied,
        Self::Cancelled,
        Self::Orphaned,
        Self::BadRequest,
        Self::Unknown,
    ];

    /// Its name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::Quota => "quota",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::ServerError => "server_error",
            Self::Network => "network",
            Self::ModelNotFound => "model_not_found",
            Self::InvalidRequest => "invalid_request",
            Self::ContextOverflow => "context_overflow",
            Self::Budget => "budget",
            Self::TurnLimit => "turn_limit",
            Self::Timeout => "timeout",
            Self::Stalled => "stalled",
            Self::ProcessFailed => "process_failed",
            Self::MissingExecutable => "missing_executable",
            Self::NoResult => "no_result",
            Self::SessionNotFound => "session_not_found",
            Self::SessionMismatch => "session_mismatch",
            Self::Busy => "busy",
            Self::UntrustedDir => "untrusted_dir",
            Self::Denied => "denied",
            Self::Cancelled => "cancelled",
            Self::Orphaned => "orphaned",
            Self::BadRequest => "bad_request",
            Self::Unknown => "unknown",
        }
    }

    /// Whether the same turn may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Overloaded
                | Self::ServerError
                | Self::Network
                | Self::Stalled
                | Self::ProcessFailed
                | Self::NoResult
                | Self::Busy
        )
    }

    /// Whether it says that the provider, and not this turn, is in trouble.
    #[must_use]
    pub const fn blames_provider(self) -> bool {
        matches!(
            self,
            Self::Overloaded | Self::ServerError | Self::Network | Self::Auth | Self::MissingExecutable
        )
    }

    /// Whether the conversation can be gone on with. One that the service refuses would be refused for ever.
    #[must_use]
    pub const fn keeps_session(self) -> bool {
        !matches!(
            self,
            Self::InvalidRequest | Self::ContextOverflow | Self::SessionNotFound | Self::SessionMismatch
        )
    }

    /// The class of an HTTP status.
    #[must_use]
    pub const fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Auth,
            402 => Self::Quota,
            404 => Self::ModelNotFound,
            408 | 409 | 425 => Self::Network,
            413 => Self::ContextOverflow,
            429 => Self::RateLimited,
            503 | 529 => Self::Overloaded,
            400..=499 => Self::InvalidRequest,
            500..=599 => Self::ServerError,
            _ => Self::Unknown,
        }
    }

    /// The class that a message speaks of, in the words of the services and of the agents; `None` if it says nothing
    /// that is known.
    #[must_use]
    pub fn of_message(message: &str) -> Option<Self> {
        let message = message.to_ascii_lowercase();
        let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
        Some(match () {
            () if says(&["prompt is too long", "context length", "context window", "context_length"]) => {
                Self::ContextOverflow
            }
            () if says(&["rate limit", "rate_limit", "too many requests", "resource_exhausted"]) => {
                Self::RateLimited
            }
            () if says(&["quota", "credit balance", "billing", "usage limit"]) => Self::Quota,
            () if says(&["overloaded", "at capacity", "unavailable"]) => Self::Overloaded,
            () if says(&[
                "not logged in",
                "unauthorized",
                "api key",
                "api_key",
                "authentication",
                "auth method",
                "please run /login",
                "codex login",
            ]) =>
            {
                Self::Auth
            }
            () if says(&[
                "model not found",
                "model_not_found",
                "does not exist or you do not have access",
            ]) =>
            {
                Self::ModelNotFound
            }
            () if says(&[
                "connection refused",
                "could not resolve",
                "network",
                "econnrefused",
                "enotfound",
                "stream disconnected",
                "error sending request",
                "timed out",
            ]) =>
            {
                Self::Network
            }
            () if says(&["internal server error"]) => Self::ServerError,
            () => return None,
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Why a turn failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// Its class.
    pub class: Class,
    /// What happened, and where it helps what to do.
    pub message: String,
    /// When the provider says that it will answer again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// One that says no time.
    #[must_use]
    pub fn new(class: Class, message: impl Into<String>) -> Self {
        Self { class, message: message.into(), retry_after: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_serde_writes() {
        for class in Class::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
        }
    }

    #[test]
    fn what_only_a_person_can_mend_is_not_tried_again() {
        for class in
            [Class::Auth, Class::InvalidRequest, Class::Budget, Class::MissingExecutable, Class::Cancelled]
        {
            assert!(!class.is_retryable(), "{class}");
        }
        for class in [Class::RateLimited, Class::Overloaded, Class::Network] {
            assert!(class.is_retryable(), "{class}");
        }
    }

    #[test]
    fn messages_and_statuses_tell_the_class() {
        let examples = [
            ("Prompt is too long", Class::ContextOverflow),
            ("Not logged in · Please run /login", Class::Auth),
            ("429 Too Many Requests", Class::RateLimited),
            ("Credit balance is too low", Class::Quota),
            ("stream disconnected before completion", Class::Network),
        ];
        for (message, class) in examples {
            assert_eq!(Class::of_message(message), Some(class), "{message}");
        }
        assert_eq!(Class::of_message("the tests fail"), None);
        let statuses = [(400, Class::InvalidRequest), (401, Class::Auth), (429, Class::RateLimited)];
        for (status, class) in
            statuses.into_iter().chain([(500, Class::ServerError), (529, Class::Overloaded)])
        {
            assert_eq!(Class::of_status(status), class);
        }
    }
}
