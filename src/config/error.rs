//! What can be wrong with a configuration; each message names key, layer and value, and says what to do.

use std::path::PathBuf;

use super::Origin;

/// Why there is no configuration. The process exits with 78.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file that somebody named, or that exists, can't be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file isn't TOML. The line itself is not quoted: it may hold a secret.
    #[error("{}:{line}:{column}: not valid TOML: {reason}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// Counted from 1.
        column: usize,
        /// What the parser expected.
        reason: String,
    },
    /// A `-c` without a key or a value.
    #[error("{flag}: want section.key=value, such as -c asr.max_sessions=4")]
    Assignment {
        /// The flag, as far as it can be shown.
        flag: String,
    },
    /// No such key.
    #[error("{origin}: unknown key {key} (value {value}); {advice}")]
    UnknownKey {
        /// Dotted.
        key: String,
        /// Where it was set.
        origin: Origin,
        /// As TOML, or `***` where it may be a secret.
        value: String,
        /// The key that was probably meant, or where to find them all.
        advice: String,
    },
    /// A value of the wrong type, or none that the key knows.
    #[error("{origin}: {key} cannot be {value}: {reason}")]
    BadValue {
        /// Dotted.
        key: String,
        /// Where it was set.
        origin: Origin,
        /// As TOML, or `***` for a secret.
        value: String,
        /// What is wanted.
        reason: String,
    },
    /// An environment variable that isn't text.
    #[error("environment variable {0} is not valid UTF-8; set it again or unset it")]
    NotText(String),
    /// No home directory, so no place for user data.
    #[error("cannot tell where your home directory is; set HOME, or data_dir with -c data_dir=PATH")]
    NoHome,
    /// The merged layers don't parse although each of their keys does.
    #[error("the configuration does not parse: {0}")]
    Merged(String),
}

/// A rule of [`super::Config::validate`] that is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {reason}")]
pub struct Violation {
    /// The key that breaks it, dotted.
    pub key: &'static str,
    /// What is wanted instead.
    pub reason: String,
}
