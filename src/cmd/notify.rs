//! Tells whoever started this process that it is ready, alive and stopping: the systemd notify protocol (see
//! `sd_notify(3)`), which `godctl up` speaks as well.
//!
//! A command that runs until it is told to stop makes a [`Notifier`] first of all and calls [`Notifier::ready`] when
//! it does its work. Everything here does nothing where nobody listens. One small task on the command's runtime says
//! that it is alive, which is only true while the runtime is not stuck, and says at the stop that it was asked for; it
//! ends with `Shutdown`. Nothing here waits: what the listener has no room for is left out.

use std::time::Duration;

use tracing::{debug, warn};

use super::Context;
use crate::shutdown::Shutdown;

/// The variable in which `godctl up` gives its parts its own process id.
pub(super) const SUPERVISOR: &str = "GODCTL_UP_PID";

/// The way to whoever started this process.
#[derive(Debug, Clone)]
pub(super) struct Notifier {
    /// `NOTIFY_SOCKET`: a path, or `@` and an abstract name.
    socket: Option<String>,
    watchdog: Option<Duration>,
    /// `godctl up` listens, so nobody listening means that it is dead.
    supervised: bool,
    shutdown: Shutdown,
}

impl Notifier {
    /// Looks who listens. Under `godctl up`, makes the kernel ask this process to stop when `godctl up` dies (Linux
    /// only; elsewhere the task of [`Notifier::ready`] notices it). Call it on the main thread.
    pub(super) fn new(context: &Context) -> Self {
        let Context { environment, shutdown, .. } = context;
        // Set for another process that inherited the variable to us.
        let is_ours = environment.get("WATCHDOG_PID").is_none_or(|pid| pid == std::process::id().to_string());
        let watchdog =
            environment.get("WATCHDOG_USEC").filter(|_| is_ours).and_then(|text| text.parse().ok());
        let supervisor = environment.get(SUPERVISOR).and_then(|text| text.parse().ok());
        if let Some(supervisor) = supervisor {
            follow(supervisor, shutdown);
        }
        Self {
            socket: environment.get("NOTIFY_SOCKET").map(str::to_owned),
            watchdog: watchdog.filter(|usec| *usec > 0).map(Duration::from_micros),
            supervised: supervisor.is_some(),
            shutdown: shutdown.clone(),
        }
    }

    /// Says in one line what this process is doing.
    pub(super) fn status(&self, status: &str) {
        self.send(&format!("STATUS={}\n", one_line(status)));
    }

    /// Says that this process does its work, and from now on, that it is alive. Must be called on a runtime.
    pub(super) fn ready(self, status: &str) {
        let Some(_) = self.socket else { return };
        self.send(&format!("STATUS={}\nREADY=1\n", one_line(status)));
        let shutdown = self.shutdown.clone();
        shutdown.spawn("notify", async move {
            // Half of it is what sd_watchdog_enabled(3) asks for. Where only a dead supervisor is to be noticed, as
            // often as is cheap.
            let period = self.watchdog.map_or(Duration::from_secs(5), |watchdog| watchdog / 2);
            loop {
                let stopped = tokio::time::timeout(period, self.shutdown.cancelled()).await.is_ok();
                if stopped {
                    self.send("STOPPING=1\n");
                    return;
                }
                if self.watchdog.is_some() || self.supervised {
                    self.send("WATCHDOG=1\n");
                }
            }
        });
    }

    /// Says that the settings are being read again, until [`Notifier::reloaded`].
    pub(super) fn reloading(&self) {
        self.send("RELOADING=1\n");
    }

    /// Says that this process works with what it has read, or still with what it had.
    pub(super) fn reloaded(&self, status: &str) {
        self.send(&format!("STATUS={}\nREADY=1\n", one_line(status)));
    }

    fn send(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        let Err(error) = send(socket, message.as_bytes()) else { return };
        let nobody_there =
            matches!(error.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound);
        if self.supervised && nobody_there && !self.shutdown.is_cancelled() {
            warn!("the supervisor is gone, stopping");
            self.shutdown.cancel();
        } else {
            debug!(%error, socket, "cannot notify whoever started this process");
        }
    }
}

/// A status is one line of a message whose lines are assignments.
fn one_line(text: &str) -> String {
    text.replace(char::is_control, " ")
}

/// One datagram, without waiting: a supervisor that is itself stopped must not stop its parts.
#[cfg(unix)]
fn send(address: &str, message: &[u8]) -> std::io::Result<()> {
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    let abstract_name = |name: &str| -> std::io::Result<SocketAddr> {
        #[cfg(target_os = "linux")]
        return <SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(name);
        #[cfg(not(target_os = "linux"))]
        return Err(std::io::Error::new(
            std::io::ErrorKind::Unsupported,
            format!("no abstract sockets: {name}"),
        ));
    };
    let address = match address.strip_prefix('@') {
        Some(name) => abstract_name(name)?,
        None => SocketAddr::from_pathname(address)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message, &address).map(drop)
}

#[cfg(not(unix))]
fn send(_: &str, _: &[u8]) -> std::io::Result<()> {
    Err(std::io::Error::new(std::io::ErrorKind::Unsupported, "no Unix sockets on this system"))
}

/// Ties this process to its parent, if that is the supervisor: a process that it starts in turn inherits the variable
/// but is none of its parts.
#[cfg(target_os = "linux")]
fn follow(supervisor: u32, shutdown: &Shutdown) {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let is_parent =
        || getppid().is_some_and(|parent| parent.as_raw_nonzero().get().unsigned_abs() == supervisor);
    if !is_parent() {
        return;
    }
    if let Err(error) = set_parent_process_death_signal(Some(Signal::TERM)) {
        debug!(%error, "the death of the supervisor will be noticed later");
    }
    // It may have died between the question and the call.
    if !is_parent() {
        warn!("the supervisor is gone, stopping");
        shutdown.cancel();
    }
}

#[cfg(not(target_os = "linux"))]
fn follow(_: u32, _: &Shutdown) {}
