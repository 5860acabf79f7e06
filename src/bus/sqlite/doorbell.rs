//! The doorbell: Unix datagram sockets in a folder beside the file, one for each process that waits for news.
//!
//! Whoever has committed sends an empty datagram to each of them, without waiting. A bell that is not heard costs one
//! look of `hub::poll`, so every failure here is passed over. A socket whose process is gone refuses, and is removed by
//! whoever notices. One task receives; it ends with the token it was given, and takes its socket with it.

use std::path::{Path, PathBuf};

/// The folder with the sockets of a file.
pub(super) fn folder_of(path: &Path) -> PathBuf {
    let mut folder = path.as_os_str().to_owned();
    folder.push("-bell");
    folder.into()
}

#[cfg(unix)]
pub(super) use unix::{Bell, listen};

#[cfg(unix)]
mod unix {
    use std::{
        fs, io,
        os::unix::{fs::DirBuilderExt, net},
        path::{Path, PathBuf},
        sync::Arc,
        time::{Duration, SystemTime},
    };

    use tokio::net::UnixDatagram;
    use tokio_util::sync::CancellationToken;
    use tracing::debug;

    use crate::bus::sqlite::hub::Hub;

    /// The longest path that a socket address takes on every Unix (`sun_path` has 104 bytes on some, 108 on Linux).
    const MAX_PATH: usize = 100;

    /// A folder that changed less than this ago may change again without its time telling.
    const TICK: Duration = Duration::from_millis(100);

    /// The sending side.
    #[derive(Debug)]
    pub(crate) struct Bell {
        folder: Folder,
        socket: net::UnixDatagram,
        /// Ours, which needs no bell.
        own: String,
        peers: Vec<String>,
        /// The folder's time when `peers` was read, if that tells whether they are still the same.
        read_at: Option<SystemTime>,
    }

    /// The folder under a name that is short enough.
    #[derive(Debug)]
    struct Folder {
        path: PathBuf,
        short: PathBuf,
        _open: Option<fs::File>,
    }

    impl Folder {
        fn open(path: &Path) -> io::Result<Self> {
            let room = MAX_PATH - NAME_BYTES - 1;
            if path.as_os_str().len() <= room {
                return Ok(Self { path: path.to_owned(), short: path.to_owned(), _open: None });
            }
            // Linux leads to an open folder by a short path, however long its own is.
            use std::os::fd::AsRawFd;
            let open = fs::File::open(path)?;
            let short = PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()));
            fs::metadata(&short)?;
            Ok(Self { path: path.to_owned(), short, _open: Some(open) })
        }
    }

    /// Bytes of a socket's name.
    const NAME_BYTES: usize = 32;

    /// A new name for this process's socket.
    fn name() -> String {
        uuid::Uuid::new_v4().simple().to_string()
    }

    impl Bell {
        /// A bell for the sockets in this folder, and the name that this process's own socket is to have.
        pub(crate) fn new(path: &Path) -> io::Result<(Self, String)> {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
            let socket = net::UnixDatagram::unbound()?;
            socket.set_nonblocking(true)?;
            let own = name();
            let bell = Self {
                folder: Folder::open(path)?,
                socket,
                own: own.clone(),
                peers: Vec::new(),
                read_at: None,
            };
            Ok((bell, own))
        }

        /// Rings at every process that waits.
        pub(crate) fn ring(&mut self) {
            if let Err(error) = self.read_peers() {
                debug!(%error, "cannot read the doorbell's folder");
                return;
            }
            let (socket, folder) = (&self.socket, &self.folder);
            self.peers.retain(|peer| match socket.send_to(&[], folder.short.join(peer)) {
                Ok(_) => true,
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    // Its process is gone. Somebody else may have removed it already.
                    drop(fs::remove_file(folder.path.join(peer)));
                    false
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => false,
                // Mostly full: it was rung often enough.
                Err(_) => true,
            });
        }

        fn read_peers(&mut self) -> io::Result<()> {
            let changed = fs::metadata(&self.folder.path)?.modified()?;
            if self.read_at == Some(changed) {
                return Ok(());
            }
            self.peers.clear();
            for entry in fs::read_dir(&self.folder.path)? {
                if let Ok(name) = entry?.file_name().into_string()
                    && name != self.own
                {
                    self.peers.push(name);
                }
            }
            let old = SystemTime::now().duration_since(changed).is_ok_and(|age| age > TICK);
            self.read_at = old.then_some(changed);
            Ok(())
        }
    }

    /// Receives under this name, and rings the hub, until the token is cancelled.
    pub(crate) async fn listen(hub: Arc<Hub>, folder: PathBuf, name: String, token: CancellationToken) {
        let receiving = async {
            hub.anybody().await;
            let folder = Folder::open(&folder)?;
            let socket = UnixDatagram::bind(folder.short.join(&name))?;
            // What was committed before there was a socket.
            hub.ring();
            let mut nothing = [0; 1];
            loop {
                socket.recv(&mut nothing).await?;
                // Many rings are one.
                while socket.try_recv(&mut nothing).is_ok() {}
                hub.ring();
            }
        };
        // Cancel safe: a ring that is lost here has nobody left to hear it.
        let ended: Option<io::Result<()>> = token.run_until_cancelled(receiving).await;
        if let Some(Err(error)) = ended {
            debug!(%error, "no doorbell, looking for changes instead");
        }
        drop(fs::remove_file(folder.join(name)));
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        async fn heard(listening: &mut tokio::sync::watch::Receiver<u64>) {
            tokio::time::timeout(Duration::from_secs(10), listening.changed()).await.unwrap().unwrap();
        }

        async fn rings_through(folder: &Path) {
            let shutdown = crate::shutdown::Shutdown::new();
            let hub = Hub::new();
            let (_, own) = Bell::new(folder).unwrap();
            let mut listening = hub.listen();
            shutdown.spawn(
                "bell",
                listen(Arc::clone(&hub), folder.to_owned(), own.clone(), shutdown.child_token()),
            );
            // Once when it is there.
            heard(&mut listening).await;
            listening.borrow_and_update();
            let (mut bell, _) = Bell::new(folder).unwrap();
            // Somebody who is gone, and something that is no socket.
            let stale = net::UnixDatagram::bind(Folder::open(folder).unwrap().short.join(name())).unwrap();
            drop(stale);
            for _ in 0..1000 {
                bell.ring();
            }
            heard(&mut listening).await;
            let left: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(left, [own.as_str()], "the stale socket is removed");
            shutdown.finish(Duration::from_secs(10)).await.unwrap();
            assert_eq!(fs::read_dir(folder).unwrap().count(), 0, "the own socket too");
            bell.ring();
        }

        #[tokio::test]
        async fn a_bell_is_heard_and_stale_sockets_go() {
            let folder = tempfile::tempdir().unwrap();
            rings_through(&folder.path().join("x-bell")).await;
        }

        #[tokio::test]
        #[cfg(target_os = "linux")]
        async fn a_long_path_is_no_obstacle() {
            let folder = tempfile::tempdir().unwrap();
            rings_through(&folder.path().join("long".repeat(40)).join("x-bell")).await;
        }
    }
}

/// Where there are no such sockets, everybody looks for changes.
#[cfg(not(unix))]
#[derive(Debug)]
pub(super) struct Bell;

#[cfg(not(unix))]
impl Bell {
    pub(super) fn ring(&mut self) {}
}
