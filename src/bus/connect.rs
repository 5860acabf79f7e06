//! Chooses and opens the bus that the configuration names. Runs where it is called; what a backend starts in the
//! background ends with `Shutdown`, or with the bus.

use std::{path::Path, sync::Arc};

use super::{
    BusError, SharedBus,
    memory::{MemoryBus, MemoryOptions},
};
use crate::{config, shutdown::Shutdown};

/// Opens the bus at `config.url`. Files without a path of their own go to `data_dir`.
///
/// A broker that is away is no error here: publishing then fills the outbox, everything else says that it can't be
/// reached.
///
/// # Errors
/// What the backend says when it is opened: a file that is damaged or not ours, wrong credentials, no room.
#[allow(clippy::unused_async, reason = "every backend but the one in memory opens something")]
pub async fn connect(
    config: &config::Bus,
    _data_dir: &Path,
    _shutdown: &Shutdown,
) -> Result<SharedBus, BusError> {
    match config.url.scheme() {
        "mem" => Ok(Arc::new(MemoryBus::new(MemoryOptions {
            max_event_bytes: config.max_event_bytes as usize,
            ..MemoryOptions::default()
        }))),
        _ => Err(BusError::Unsupported {
            what: "opening a bus",
            bus: config.url.to_string(),
            instead: "this version has no backend for this kind of address".to_owned(),
        }),
    }
}
