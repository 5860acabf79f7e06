//! Chooses and opens the bus that the configuration names. Runs where it is called; what a backend starts in the
//! background ends with `Shutdown`, or with the bus.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use super::{
    BusError, Retention, SharedBus,
    amqp::{AmqpBus, AmqpOptions},
    file::FileBus,
    memory::{MemoryBus, MemoryOptions},
    sqlite::{SqliteBus, SqliteOptions},
};
use crate::{config, shutdown::Shutdown};

/// The file of the bus in the data directory, where the address names none.
const DEFAULT_FILE: &str = "bus.db";

/// The file of a bus in SQLite.
#[must_use]
pub fn sqlite_file(config: &config::Bus, data_dir: &Path) -> PathBuf {
    match config.url.path() {
        "" => data_dir.join(DEFAULT_FILE),
        path => path.into(),
    }
}

/// Opens the bus at `config.url`. Files without a path of their own go to `data_dir`.
///
/// A broker that is away is no error here: publishing then fills the outbox, everything else says that it can't be
/// reached.
///
/// # Errors
/// What the backend says when it is opened: a file that is damaged or not ours, wrong credentials, no room.
pub async fn connect(
    config: &config::Bus,
    data_dir: &Path,
    shutdown: &Shutdown,
) -> Result<SharedBus, BusError> {
    match config.url.scheme() {
        "mem" => Ok(Arc::new(MemoryBus::new(MemoryOptions {
            max_event_bytes: config.max_event_bytes as usize,
            ..MemoryOptions::default()
        }))),
        "sqlite" => {
            let path = sqlite_file(config, data_dir);
            let days = days(config.retention_days);
            let bytes = megabytes(config.retention_mb);
            let options = SqliteOptions {
                durability: config.durability,
                max_event_bytes: config.max_event_bytes as usize,
                retention: Retention {
                    max_age: (!days.is_zero()).then_some(days),
                    max_bytes: (bytes > 0).then_some(bytes),
                    dry_run: false,
                },
                ..SqliteOptions::new(path)
            };
            Ok(Arc::new(SqliteBus::open(options, shutdown).await?))
        }
        "file" => Ok(Arc::new(FileBus::open(Path::new(config.url.path()), config.max_event_bytes as usize)?)),
        "amqp" | "amqps" => {
            let password = config
                .read_password()
                .map_err(|error| BusError::Invalid(format!("cannot read the broker's password: {error}")))?;
            let options = AmqpOptions {
                username: config.username.clone(),
                password,
                ca_file: config.ca_file.clone(),
                exchange: config.exchange.clone(),
                history: config.history,
                history_max_age: (config.retention_days > 0).then_some(days(config.retention_days)),
                history_max_bytes: (config.retention_mb > 0).then_some(megabytes(config.retention_mb)),
                prefetch: config.prefetch,
                connect_timeout: config.connect_timeout(),
                publish_timeout: config.publish_timeout(),
                heartbeat: config.heartbeat_s,
                max_event_bytes: config.max_event_bytes as usize,
                ..AmqpOptions::new(config.url.clone())
            };
            Ok(Arc::new(AmqpBus::open(options, shutdown).await?))
        }
        _ => Err(BusError::Unsupported {
            what: "opening a bus",
            bus: config.url.to_string(),
            instead: "this version has no backend for this kind of address".to_owned(),
        }),
    }
}

const fn days(days: u32) -> Duration {
    Duration::from_secs(days as u64 * 24 * 3600)
}

const fn megabytes(megabytes: u32) -> u64 {
    megabytes as u64 * 1_000_000
}
