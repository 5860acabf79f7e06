//! `store`: where sessions are kept.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Secret, SecretError, Violation, mask_addresses};

/// Longer ones would let a session lie idle for long after the machine that worked on it has died.
const MAX_LEASE_S: u64 = 3_600;
/// A lease is renewed three times in its life, on machines that are busy.
const MIN_LEASE_S: u64 = 3;
const MAX_TIMEOUT_S: u64 = 600;

/// `store`: where sessions are kept, and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `sqlite:` (a file in the data directory), `sqlite:PATH`, `redis://HOST` or `rediss://HOST` (TLS).
    pub url: StoreUrl,
    /// The password of a Redis whose address has none.
    #[serde(skip_serializing)]
    pub password: Option<Secret>,
    /// A file that holds it.
    pub password_file: Option<PathBuf>,
    /// What the names of all keys in Redis begin with.
    pub prefix: String,
    /// Encrypt what was asked and answered.
    pub encrypt: bool,
    /// The keys: `id:base64,id2:base64`, the active one first.
    #[serde(skip_serializing)]
    pub keys: Option<Secret>,
    /// A file that holds them; unset means `session-keys` in the data directory, which is made if it is not there.
    pub keys_file: Option<PathBuf>,
    /// Days after its last change that a session is kept; 0 means for ever.
    pub keep_days: u32,
    /// Seconds that nobody else may work on a session after its last sign of life.
    pub lease_s: u64,
    /// Seconds to wait for the store.
    pub timeout_s: u64,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            url: StoreUrl::default(),
            password: None,
            password_file: None,
            prefix: "godctl:".to_owned(),
            encrypt: true,
            keys: None,
            keys_file: None,
            keep_days: 90,
            lease_s: 30,
            timeout_s: 5,
        }
    }
}

impl Store {
    /// What [`super::Config::validate`] checks about this section.
    pub(super) fn validate(&self) -> Result<(), Violation> {
        if !(MIN_LEASE_S..=MAX_LEASE_S).contains(&self.lease_s) {
            let reason = format!("want seconds from {MIN_LEASE_S} to {MAX_LEASE_S}");
            return Err(Violation { key: "store.lease_s", reason });
        }
        if !(1..=MAX_TIMEOUT_S).contains(&self.timeout_s) {
            let reason = format!("want seconds from 1 to {MAX_TIMEOUT_S}");
            return Err(Violation { key: "store.timeout_s", reason });
        }
        Ok(())
    }

    /// The password, from `password` or else from `password_file`, which is read now.
    ///
    /// # Errors
    /// When the file can't be read or holds nothing.
    pub fn read_password(&self) -> Result<Option<Secret>, SecretError> {
        match (&self.password, &self.password_file) {
            (Some(password), _) => Ok(Some(password.clone())),
            (None, Some(path)) => Secret::read("store.password_file", path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

/// Which store. It may hold a password, so it shows without; [`StoreUrl::expose`] gives the whole.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct StoreUrl(String);

impl StoreUrl {
    /// As it was written, password included. Call it where the connection is made, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The file of `sqlite:PATH`; empty for `sqlite:`. `None` for a Redis.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        let rest = self.0.strip_prefix("sqlite:")?;
        Some(rest.strip_prefix("//").unwrap_or(rest))
    }
}

impl Default for StoreUrl {
    fn default() -> Self {
        Self("sqlite:".to_owned())
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&mask_addresses(&self.0))
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for StoreUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl TryFrom<String> for StoreUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let host = ["redis://", "rediss://"].iter().find_map(|scheme| text.strip_prefix(scheme));
        match host {
            Some(host) if host.trim_matches('/').is_empty() => {
                Err("a Redis needs a host, such as redis://localhost")
            }
            None if !text.starts_with("sqlite:") => {
                Err("not a store; write sqlite:, sqlite:PATH, redis://HOST or rediss://HOST")
            }
            _ => Ok(Self(text)),
        }
    }
}

impl std::str::FromStr for StoreUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_is_a_file_or_a_redis_and_its_password_never_shows() {
        let url = |text: &str| text.parse::<StoreUrl>();
        assert_eq!(url("sqlite:").unwrap().file(), Some(""));
        assert_eq!(url("sqlite:///data/s.db").unwrap().file(), Some("/data/s.db"));
        let redis = url("redis://u:hunter2@host/1").unwrap();
        assert_eq!((redis.file(), redis.expose()), (None, "redis://u:hunter2@host/1"));
        for shown in [redis.to_string(), format!("{redis:?}"), serde_json::to_string(&redis).unwrap()] {
            assert!(shown.contains("host/1") && !shown.contains("hunter2"), "{shown}");
        }
        for wrong in ["", "redis://", "s.db", "amqp://host"] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }
}
