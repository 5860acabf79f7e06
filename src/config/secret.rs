//! A value that never prints: tokens and passwords.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Asr, Models};

/// A token or password. It shows as `***` wherever it is formatted and can't be serialised; only [`Secret::expose`]
/// gives the text, at the place that sends it.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// Why a secret's file gave no secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The file can't be read.
    #[error("cannot read {}, which {key} names", path.display())]
    Read {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file holds nothing.
    #[error("{} is empty, but {key} says that it holds a secret", path.display())]
    Empty {
        /// The key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
}

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself. Call it where the secret is sent, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Reads a secret from the file that `key` names, without the white space around it. Warns when other users of
    /// the machine can read the file too.
    ///
    /// # Errors
    /// When the file can't be read or holds nothing.
    pub fn read(key: &'static str, path: &Path) -> Result<Self, SecretError> {
        let text = std::fs::read_to_string(path).map_err(|source| SecretError::Read {
            key,
            path: path.to_owned(),
            source,
        })?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let others_read = std::fs::metadata(path).is_ok_and(|m| m.permissions().mode() & 0o077 != 0);
            if others_read {
                tracing::warn!(path = %path.display(), key, "other users can read this secret; chmod 600 it");
            }
        }
        match text.trim() {
            "" => Err(SecretError::Empty { key, path: path.to_owned() }),
            text => Ok(Self(text.to_owned())),
        }
    }
}

impl Models {
    /// The access token, from `token` or else from `token_file`, which is read now.
    ///
    /// # Errors
    /// When the file can't be read or holds nothing.
    pub fn read_token(&self) -> Result<Option<Secret>, SecretError> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(path)) => Secret::read("models.token_file", path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl Asr {
    /// The token that stands in the configuration, from `token` or else from `token_file`, which is read now.
    ///
    /// # Errors
    /// When the file can't be read or holds nothing.
    pub fn read_token(&self) -> Result<Option<Secret>, SecretError> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(path)) => Secret::read("asr.token_file", path).map(Some),
            (None, None) => Ok(None),
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints() {
        let secret = Secret::new("marker-7f3a".to_owned());
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "marker-7f3a");
    }

    #[test]
    fn a_file_is_trimmed_and_an_empty_one_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "  marker-7f3a\n").unwrap();
        assert_eq!(Secret::read("models.token_file", &path).unwrap().expose(), "marker-7f3a");
        std::fs::write(&path, "\n").unwrap();
        let error = Secret::read("models.token_file", &path).unwrap_err();
        assert!(matches!(error, SecretError::Empty { .. }), "{error}");
        let error = Secret::read("models.token_file", &dir.path().join("none")).unwrap_err();
        assert!(error.to_string().contains("models.token_file"), "{error}");
    }
}
