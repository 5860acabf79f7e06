//! Binds the port, serves it, and stops in order.

use std::{io, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    ServerError, ServerOptions,
    access::Quotas,
    connections::{self, Closing},
    http,
    metrics::Metrics,
    page::Pass,
};
use crate::{asr::engine::Engine, shutdown::Shutdown};

/// What sessions that were cut off may still take to say goodbye.
const GOODBYE: Duration = Duration::from_secs(1);
/// What answers on their way may take once the port is closed.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// What the routes and the sessions share.
#[derive(Debug)]
pub(super) struct App {
    pub(super) engine: Engine,
    pub(super) options: ServerOptions,
    pub(super) shutdown: Shutdown,
    /// Cancelled when sessions that still drain must end at once.
    pub(super) cut: CancellationToken,
    pub(super) metrics: Metrics,
    /// What each token uses.
    pub(super) quotas: Quotas,
    pub(super) page: Pass,
    sessions: watch::Sender<usize>,
}

impl App {
    /// Counts a session until the guard is dropped, so that a stop can wait for it.
    pub(super) fn enter(self: &Arc<Self>) -> Presence {
        self.sessions.send_modify(|sessions| *sessions += 1);
        Presence(Arc::clone(self))
    }

    async fn empty(&self) {
        // The sender lives in `self`, so this cannot fail.
        drop(self.sessions.subscribe().wait_for(|sessions| *sessions == 0).await);
    }
}

/// A session that a stop waits for.
#[derive(Debug)]
pub(super) struct Presence(Arc<App>);

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.sessions.send_modify(|sessions| *sessions -= 1);
    }
}

/// Takes an address to listen on, such as `127.0.0.1:8000`; port 0 takes a free one.
///
/// # Errors
/// [`ServerError::InUse`] or [`ServerError::Bind`].
pub async fn bind(address: &str) -> Result<TcpListener, ServerError> {
    TcpListener::bind(address).await.map_err(|source| match source.kind() {
        io::ErrorKind::AddrInUse => ServerError::InUse { address: address.to_owned() },
        _ => ServerError::Bind { address: address.to_owned(), source },
    })
}

/// Takes over a socket that listens already, such as one that systemd opened for us.
///
/// # Errors
/// [`ServerError::Listener`] when it cannot be used.
pub fn adopt(listener: std::net::TcpListener) -> Result<TcpListener, ServerError> {
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(ServerError::Listener)
}

/// Serves until `shutdown` is cancelled, then stops in order: `/ready` answers 503 and new sessions are refused;
/// running sessions decode what they have received, say it and close; what is left after `options.drain` is cut off;
/// the port closes.
///
/// # Errors
/// [`ServerError::Listener`] when the port stops working, [`ServerError::CutOff`] when sessions lost their last words.
pub async fn serve(
    listener: TcpListener,
    engine: Engine,
    options: ServerOptions,
    shutdown: &Shutdown,
) -> Result<(), ServerError> {
    let drain = options.drain;
    let metrics = Metrics::new(&engine);
    let app = Arc::new(App {
        engine,
        options,
        shutdown: shutdown.clone(),
        cut: CancellationToken::new(),
        metrics,
        quotas: Quotas::default(),
        page: Pass::default(),
        sessions: watch::Sender::new(0),
    });
    let closing = Closing::default();
    let router = http::router(Arc::clone(&app));
    let accepting = connections::accept(listener, Arc::clone(&app), router, closing.clone());
    let mut accepting = std::pin::pin!(accepting);

    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        ended = &mut accepting => {
            closing.now.cancel();
            return ended.map_err(ServerError::Listener);
        }
    }
    let stop = async {
        info!(sessions = *app.sessions.borrow(), "draining");
        let drained = tokio::time::timeout(drain, app.empty()).await;
        let sessions = *app.sessions.borrow();
        if drained.is_err() {
            app.cut.cancel();
            if tokio::time::timeout(GOODBYE, app.empty()).await.is_err() {
                warn!("sessions did not end although they were cut off");
            }
        }
        closing.port.cancel();
        if drained.is_err() && sessions > 0 { Err(ServerError::CutOff { sessions }) } else { Ok(()) }
    };
    // The port is served on, so that probes see why nothing is taken any more.
    let (stopped, accepted) = tokio::join!(stop, accepting);
    closing.open.close();
    // Those that are still open then are dropped.
    drop(tokio::time::timeout(LAST_ANSWERS, closing.open.wait()).await);
    closing.now.cancel();
    accepted.map_err(ServerError::Listener).and(stopped)
}
