//! Chooses a store by its address, and finds its keys.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tracing::warn;

use super::{
    SessionStore, SharedStore, StoreError,
    journal::Journal,
    keys::{KeyError, KeyRing},
    redis::{RedisOptions, RedisStore},
    sqlite::{SqliteOptions, SqliteStore},
    vault::Vault,
};
use crate::{bus::Clock, config::Store};

/// The file of the sessions in the data directory.
pub const FILE: &str = "sessions.db";
/// The file of their keys.
const KEYS_FILE: &str = "session-keys";

/// Keys, and where they are.
#[derive(Debug)]
pub struct Keys {
    /// The keys; `None` if there are none and none are needed.
    pub ring: Option<KeyRing>,
    /// The file that they are in; `None` if they came from the environment.
    pub file: Option<PathBuf>,
    /// They were made just now.
    pub are_new: bool,
}

/// Finds the keys: `store.keys`, else `store.keys_file`, else the file in the data directory, which is made if what is
/// kept shall be encrypted.
///
/// # Errors
/// [`KeyError`].
pub fn find_keys(config: &Store, data_dir: &Path) -> Result<Keys, KeyError> {
    if let Some(keys) = &config.keys {
        let ring = KeyRing::parse(keys.expose(), "store.keys (GODCTL_SESSION_KEYS)")?;
        return Ok(Keys { ring: Some(ring), file: None, are_new: false });
    }
    let path = config.keys_file.clone().unwrap_or_else(|| data_dir.join(KEYS_FILE));
    match KeyRing::read(&path)? {
        Some(ring) => Ok(Keys { ring: Some(ring), file: Some(path), are_new: false }),
        None if config.keys_file.is_some() => {
            Err(KeyError::File { path, source: std::io::ErrorKind::NotFound.into() })
        }
        None if !config.encrypt => Ok(Keys { ring: None, file: Some(path), are_new: false }),
        None => {
            let ring = KeyRing::create(&path)?;
            Ok(Keys { ring: Some(ring), file: Some(path), are_new: true })
        }
    }
}

/// Opens the store of this configuration.
///
/// # Errors
/// [`StoreError`]; nothing is left behind that was not there before.
pub async fn open(config: &Store, data_dir: &Path, clock: Arc<dyn Clock>) -> Result<SharedStore, StoreError> {
    let keys = find_keys(config, data_dir)?;
    let new_file = keys.file.clone().filter(|_| keys.are_new);
    let opened = open_with(config, data_dir, clock, vault(config, keys.ring)).await;
    if let Some(path) = new_file {
        match opened {
            // What is kept needs other keys than these.
            Err(StoreError::NoKey(_)) => drop(std::fs::remove_file(&path)),
            _ => warn!(path = %path.display(), "{NEW_KEY}"),
        }
    }
    opened
}

fn vault(config: &Store, ring: Option<KeyRing>) -> Vault {
    match ring {
        Some(ring) if config.encrypt => Vault::new(ring),
        ring => Vault::open_only(ring),
    }
}

/// Opens the store of this configuration, and the journal of this machine: in the same file, or beside a Redis.
///
/// # Errors
/// [`StoreError`].
pub async fn open_with_journal(
    config: &Store,
    data_dir: &Path,
    clock: Arc<dyn Clock>,
) -> Result<(SharedStore, Journal), StoreError> {
    let keys = find_keys(config, data_dir)?;
    if let (true, Some(path)) = (keys.are_new, &keys.file) {
        warn!(path = %path.display(), "{NEW_KEY}");
    }
    let file = config.url.file().unwrap_or_default();
    let path = if file.is_empty() { data_dir.join(FILE) } else { PathBuf::from(file) };
    let patience = Duration::from_secs(config.timeout_s);
    let options = SqliteOptions { path, patience, clock: Arc::clone(&clock) };
    let file = Arc::new(SqliteStore::open(options, vault(config, keys.ring.clone())).await?);
    if config.url.file().is_some() {
        let store: SharedStore = file.clone();
        return Ok((store, Journal::beside_sessions(file)));
    }
    match open_with(config, data_dir, clock, vault(config, keys.ring)).await {
        Ok(store) => Ok((store, Journal::alone(file))),
        Err(error) => {
            SessionStore::close(&*file).await;
            Err(error)
        }
    }
}

/// What is said about a key that was made just now.
const NEW_KEY: &str =
    "made a key that encrypts what is asked and answered; keep a copy, without it nobody can read that";

/// Opens the store of this configuration with these keys.
///
/// # Errors
/// [`StoreError`].
pub async fn open_with(
    config: &Store,
    data_dir: &Path,
    clock: Arc<dyn Clock>,
    vault: Vault,
) -> Result<SharedStore, StoreError> {
    let patience = Duration::from_secs(config.timeout_s);
    match config.url.file() {
        Some(file) => {
            let path = if file.is_empty() { data_dir.join(FILE) } else { PathBuf::from(file) };
            let store = SqliteStore::open(SqliteOptions { path, patience, clock }, vault).await?;
            Ok(Arc::new(store))
        }
        None => {
            let password = config.read_password().map_err(|error| StoreError::Refused {
                store: config.url.to_string(),
                reason: error.to_string(),
            })?;
            let options =
                RedisOptions { url: config.url.clone(), password, prefix: config.prefix.clone(), patience };
            Ok(Arc::new(RedisStore::open(options, vault).await?))
        }
    }
}
