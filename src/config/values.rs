//! Where a value came from, and the whole configuration as a list that is fit to print.

use std::{fmt, path::PathBuf};

use super::{
    Config,
    schema::{SCHEMA, SECRET_KEYS},
};

/// The layer that gave a key its value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Origin {
    /// Built in.
    #[default]
    Default,
    /// A configuration file.
    File {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable, by name.
    Env(String),
    /// A flag, as written on the command line.
    Flag(String),
}

impl Origin {
    /// The layer's name: `default`, `file`, `env` or `flag`.
    #[must_use]
    pub const fn layer(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::File { .. } => "file",
            Self::Env(_) => "env",
            Self::Flag(_) => "flag",
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

/// A value that is fit to print.
#[derive(Debug, Clone, PartialEq)]
pub enum Shown {
    /// As it is.
    Value(toml::Value),
    /// A secret that is set.
    Masked,
    /// Nothing, which means what the key's description says.
    Unset,
}

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => write!(f, "{value}"),
            Self::Masked => f.write_str("\"***\""),
            Self::Unset => f.write_str("(unset)"),
        }
    }
}

/// One key of the configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Dotted, such as `asr.listen`.
    pub key: String,
    /// Its value, masked where it is a secret.
    pub value: Shown,
    /// The layer that gave it.
    pub origin: Origin,
}

impl Config {
    /// Every key with its value, secrets masked, in the order of the sections.
    #[must_use]
    pub(super) fn shown(&self) -> Vec<(String, Shown)> {
        let table = toml::Table::try_from(self).unwrap_or_default();
        let find = |key: &str| {
            let mut parts = key.split('.');
            let first = table.get(parts.next()?)?;
            parts.try_fold(first, |value, part| value.get(part)).cloned()
        };
        let show = |key: &str| match find(key) {
            Some(value) => Shown::Value(value),
            None if SECRET_KEYS.contains(&key) && self.has_secret(key) => Shown::Masked,
            None => Shown::Unset,
        };
        SCHEMA.keys().map(|key| (key.to_owned(), show(key))).collect()
    }

    /// True when a secret key is set; its value is never serialised, so this is all that can be told.
    fn has_secret(&self, key: &str) -> bool {
        match key {
            "models.token" => self.models.token.is_some(),
            "bus.password" => self.bus.password.is_some(),
            "asr.token" => self.asr.token.is_some(),
            _ => false,
        }
    }
}
