//! Opening: the file, the writer's connection, and the tasks of the background.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::debug;

use super::{
    SqliteBus, SqliteOptions, bus,
    bus::Shared,
    doorbell,
    errors::failed,
    hub::{self, Hub},
    prune,
    reader::Readers,
    schema::FORMAT,
    writer::{self, MAX_WAITING, Writer},
};
use crate::{bus::BusError, config::Durability, db, shutdown::Shutdown};

impl SqliteBus {
    /// Opens the bus in this file, and makes the file if there is none.
    ///
    /// # Errors
    /// [`BusError::Foreign`] and [`BusError::Corrupt`] for a file that is not a bus, or damaged; it is left as it is.
    /// [`BusError::Unsupported`] for the file of a newer version, [`BusError::Full`] without room,
    /// [`BusError::Unreachable`] while another process keeps it locked, otherwise [`BusError::Storage`].
    pub async fn open(options: SqliteOptions, shutdown: &Shutdown) -> Result<Self, BusError> {
        let given = std::path::absolute(&options.path).map_err(|error| BusError::Storage {
            doing: format!("find {}", options.path.display()),
            reason: error.to_string(),
        })?;
        let file = db::Options {
            path: given.clone(),
            sync: options.durability == Durability::Full,
            patience: options.patience,
            max_pages: options.max_pages,
        };
        let mut connection = db::open(&FORMAT, &file).await?;
        writer::prepare(&mut connection).await.map_err(|error| failed(&given, "open", &error))?;
        // All processes must agree on the name that the doorbell's folder is derived from.
        let path = std::fs::canonicalize(&given).unwrap_or(given);
        let watching = db::open_reader(&path, options.patience).await?;

        let hub = Hub::new();
        let returns = Arc::default();
        let (requests, waiting) = mpsc::channel(MAX_WAITING);
        let shared = Arc::new(Shared {
            path: path.clone(),
            max_event_bytes: options.max_event_bytes,
            retention: options.retention,
            seen_window: options.seen_window,
            clock: Arc::clone(&options.clock),
            hub: Arc::clone(&hub),
            readers: Readers::new(path.clone(), options.patience),
            returns: Arc::clone(&returns),
            over: CancellationToken::new(),
            stop: CancellationToken::new(),
            requests,
            room: Arc::new(Semaphore::new(bus::MAX_WAITING_BYTES)),
            shutdown: shutdown.clone(),
            tasks: TaskTracker::new(),
            writing: TaskTracker::new(),
            held: Mutex::new(HashMap::new()),
            piles: Mutex::default(),
        });
        let bell = if options.doorbell { install_bell(&shared) } else { None };
        let writer = Writer {
            inode: db::inode_of(&path),
            options: db::Options { path, ..file },
            connection: Some(connection),
            clock: options.clock,
            hub: Arc::clone(&hub),
            bell,
            returns,
            types: HashMap::new(),
            mended: HashSet::new(),
            latest: i64::MIN,
            met: None,
            commits: 0,
        };
        let writing = writer.run(waiting, shared.stop.clone());
        shutdown.spawn("sqlite-writer", shared.writing.track_future(writing));
        shared
            .start("sqlite-watch", hub::poll(hub, watching, shared.path.clone(), shared.over.child_token()));
        shared.start("sqlite-tidy", prune::keep_tidy(Arc::downgrade(&shared), shared.over.child_token()));
        Ok(Self { shared })
    }
}

/// Hangs up the doorbell. Without one, changes are found by looking for them.
fn install_bell(shared: &Arc<Shared>) -> Option<doorbell::Bell> {
    #[cfg(unix)]
    {
        let folder = doorbell::folder_of(&shared.path);
        match doorbell::Bell::new(&folder) {
            Ok((bell, own)) => {
                let listening =
                    doorbell::listen(Arc::clone(&shared.hub), folder, own, shared.over.child_token());
                shared.start("sqlite-bell", listening);
                Some(bell)
            }
            Err(error) => {
                debug!(%error, folder = %folder.display(), "no doorbell, looking for changes instead");
                None
            }
        }
    }
    #[cfg(not(unix))]
    {
        debug!(path = %shared.path.display(), "no doorbell on this system, looking for changes instead");
        None
    }
}
