//! SIGHUP: tokens and certificate are read again while sessions run. One task, which ends with `Shutdown`.

use std::io::IsTerminal as _;

use tracing::{error, info, warn};

use super::{super::notify::Notifier, doors};
use crate::{
    asr::server::{Access, Tls},
    config::Asr,
    shutdown::Shutdown,
};

/// What can be replaced.
#[derive(Debug, Clone)]
pub(super) struct Reload {
    pub(super) asr: Asr,
    pub(super) access: Access,
    pub(super) tls: Option<Tls>,
}

impl Reload {
    /// Reads both again; what can't be used is told and the old one stays. Sessions go on, but for those whose token is
    /// gone ([`Access::replace`]). True when all was well.
    fn now(&self) -> bool {
        let tokens = match doors::tokens_again(&self.asr) {
            Ok(tokens) => {
                info!(tokens = tokens.count(), "tokens were read again");
                self.access.replace(tokens);
                true
            }
            Err(error) => {
                error!(error = format!("{error:#}"), "tokens were not read again, the old ones stay");
                false
            }
        };
        let certificate = match self.tls.as_ref().map(Tls::reload) {
            None => true,
            Some(Ok(())) => {
                info!("the certificate was read again");
                true
            }
            Some(Err(error)) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                error!(error, "the certificate was not read again, the old one stays");
                false
            }
        };
        tokens && certificate
    }

    /// From now on, SIGHUP reads both again. Without this it would end the process.
    #[cfg(unix)]
    pub(super) fn on_hangup(self, shutdown: &Shutdown, notifier: &Notifier) {
        use tokio::signal::unix::{SignalKind, signal};
        let mut hangup = match signal(SignalKind::hangup()) {
            Ok(hangup) => hangup,
            Err(error) => {
                warn!(%error, "cannot listen for SIGHUP");
                return;
            }
        };
        let on_terminal = std::io::stderr().is_terminal();
        let (stop, notifier) = (shutdown.clone(), notifier.clone());
        shutdown.spawn("asr-reload", async move {
            loop {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return,
                    next = hangup.recv() => if next.is_none() { return },
                }
                // The signal also says that the terminal was closed.
                if on_terminal && !std::io::stderr().is_terminal() {
                    stop.cancel();
                    return;
                }
                notifier.reloading();
                let status =
                    if self.now() { "settings were read again" } else { "old settings stay; see the log" };
                notifier.reloaded(status);
            }
        });
    }

    #[cfg(not(unix))]
    pub(super) fn on_hangup(self, _: &Shutdown, _: &Notifier) {}
}
