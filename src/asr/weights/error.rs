//! Why weights could not be found, fetched, checked, installed or removed.

use std::{error::Error, io, path::PathBuf, time::Duration};

/// What went wrong with a model's files. Each variant is a different thing for the caller or the user to do.
///
/// No variant holds a token, nor a signed download address. Hints stand before the cause, which `{:#}` adds.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// No model has that name: correct it.
    #[error("there is no model called '{name}'{}", did_you_mean(suggestion.as_deref()))]
    UnknownName {
        /// As given.
        name: String,
        /// The nearest name in the catalogue.
        suggestion: Option<String>,
    },
    /// The name cannot be a model's name at all, or not here: correct it.
    #[error("'{name}' {reason}")]
    BadName {
        /// As given.
        name: String,
        /// What is wrong with it, read after the name.
        reason: String,
    },
    /// The model exists but is not on this machine: pull it.
    #[error("model '{name}' is not installed; run: godctl models pull {name}")]
    NotInstalled {
        /// The name to pull.
        name: String,
    },
    /// An installed model lost a file: pull it again.
    #[error("model '{name}' is damaged ({reason}); run: godctl models pull {name}")]
    Damaged {
        /// The name to pull.
        name: String,
        /// Which file, and how.
        reason: String,
    },
    /// A directory does not hold a Whisper model in Hugging Face layout: give another.
    #[error("{} is not a Whisper model directory: {reason}", path.display())]
    NotAModel {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// The built-in model has no directory and cannot be removed.
    #[error("'{name}' is inside the godctl binary: it has no directory, and cannot be removed")]
    BuiltIn {
        /// Its name.
        name: String,
    },
    /// Only what godctl installed is removed by godctl.
    #[error("{} is not a model that godctl installed in {}; remove it yourself", path.display(), dir.display())]
    NotOurs {
        /// What was to be removed.
        path: PathBuf,
        /// Where godctl's models are.
        dir: PathBuf,
    },
    /// The network would be needed, and may not be used.
    #[error(
        "model '{name}' is not installed and offline mode is on; unset HF_HUB_OFFLINE or set models.offline = false"
    )]
    Offline {
        /// The model.
        name: String,
    },
    /// The hub refuses access: log in, or accept the model's terms.
    #[error("{}", access_denied(repo, page, *token_sent))]
    AccessDenied {
        /// `owner/name`.
        repo: String,
        /// The model's page, where terms are accepted.
        page: String,
        /// Whether a token was sent.
        token_sent: bool,
    },
    /// The hub has no such repository, revision or file: correct the name.
    #[error("{what} does not exist on {endpoint}; check the name (private models need HF_TOKEN)")]
    NotFound {
        /// What was asked for.
        what: String,
        /// Which hub.
        endpoint: String,
    },
    /// The hub asks for patience: try again after a while.
    #[error("{endpoint} is busy or limits requests (HTTP {status}){}", try_after(*retry_after))]
    Busy {
        /// Which hub.
        endpoint: String,
        /// 429 or 503.
        status: u16,
        /// How long it asked to wait.
        retry_after: Option<Duration>,
    },
    /// The connection failed or was cut: try again; what was received is kept.
    #[error("{doing} failed (check the network; the same command goes on where this one stopped)")]
    Unreachable {
        /// What was being done.
        doing: String,
        /// The transport's own words, without addresses.
        #[source]
        source: Box<dyn Error + Send + Sync>,
    },
    /// The hub answered what a Hugging Face hub never answers: check the endpoint.
    #[error("{endpoint} does not answer like a model hub: {reason}; check HF_ENDPOINT")]
    Protocol {
        /// Which hub.
        endpoint: String,
        /// What was wrong.
        reason: String,
    },
    /// The repository holds nothing that godctl can load: choose another.
    #[error("{repo} cannot be used: {reason}")]
    Unsupported {
        /// `owner/name`.
        repo: String,
        /// What is missing.
        reason: String,
    },
    /// What was received is not what the hub's metadata promises, twice: nothing was installed.
    #[error(
        "{file} arrived damaged: {reason}; nothing was installed, try again later or another HF_ENDPOINT"
    )]
    Corrupt {
        /// The file.
        file: String,
        /// The two checksums or sizes.
        reason: String,
    },
    /// The endpoint or the token cannot be used as they are: correct the configuration.
    #[error("{0}")]
    Settings(String),
    /// The disk refused.
    #[error("cannot {doing} {}{}", path.display(), disk_hint(source))]
    Disk {
        /// The verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: io::Error,
    },
}

impl WeightsError {
    /// True when the same request may succeed later without anybody doing anything.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Busy { .. } | Self::Unreachable { .. })
    }

    /// How long the hub asked to wait, where it did.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Wraps a failed file operation.
    pub(super) fn disk(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Disk { doing, path, source }
    }
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(
        || {
            "; see: godctl models list (or give owner/name of a Hugging Face model, or a directory)"
                .to_owned()
        },
        |name| format!("; did you mean '{name}'? see: godctl models list"),
    )
}

fn access_denied(repo: &str, page: &str, token_sent: bool) -> String {
    if token_sent {
        format!("the hub refuses access to {repo}: accept its licence at {page} with the account of HF_TOKEN")
    } else {
        format!("the hub wants to know who asks for {repo}: set HF_TOKEN and accept its licence at {page}")
    }
}

fn try_after(retry_after: Option<Duration>) -> String {
    retry_after.map_or_else(
        || "; try again later".to_owned(),
        |wait| format!("; try again in {} s", wait.as_secs().max(1)),
    )
}

fn disk_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            " (make room or set models.dir to another disk; what came so far is kept for the next pull)"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            " (set models.dir to a directory that you may write to)"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_and_a_closed_one_say_what_to_do() {
        let full = WeightsError::disk("write", "/m/x.part")(io::Error::from(io::ErrorKind::StorageFull));
        assert!(full.to_string().contains("make room"), "{full}");
        let closed = WeightsError::disk("create", "/m")(io::Error::from(io::ErrorKind::PermissionDenied));
        assert_eq!(
            closed.to_string(),
            "cannot create /m (set models.dir to a directory that you may write to)"
        );
        assert!(!closed.is_retryable());
    }

    #[test]
    fn only_a_busy_or_unreachable_hub_is_worth_another_try() {
        let busy = WeightsError::Busy {
            endpoint: "https://hub".to_owned(),
            status: 429,
            retry_after: Some(Duration::from_secs(7)),
        };
        assert!(busy.is_retryable());
        assert_eq!(busy.retry_after(), Some(Duration::from_secs(7)));
        assert!(busy.to_string().ends_with("try again in 7 s"));
        assert!(!WeightsError::Settings("x".to_owned()).is_retryable());
    }
}
