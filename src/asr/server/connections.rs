//! From the listener to requests: how many connections, how long a peer may keep one waiting, TLS, and their end.
//!
//! Each connection is one tracked task. It ends with its peer, with a time-out, in order when the port closes, or at
//! once when that takes too long.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use axum::{Router, extract::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service as _, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument as _, debug, debug_span, warn};

use super::{guarded::Guarded, listen::App};

/// The longest head of a request: a prompt in the query fits several times.
const HEAD_BYTES: usize = 64 << 10;
/// What a peer that is one too many gets, if it speaks HTTP in the clear.
const FULL: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\nconnection: close\r\n\
    content-type: application/json\r\ncontent-length: 83\r\n\r\n\
    {\"code\":\"too_many_connections\",\"message\":\"too many connections; try again shortly\"}";
/// How long to wait when the system has no more sockets.
const EXHAUSTED: Duration = Duration::from_millis(200);

/// A peer's address, for logs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

/// How connections end.
#[derive(Debug, Clone, Default)]
pub(super) struct Closing {
    /// Take no more, and let those that are open answer what they were asked.
    pub(super) port: CancellationToken,
    /// Drop those that still have not ended.
    pub(super) now: CancellationToken,
    /// All that are open.
    pub(super) open: TaskTracker,
}

/// Takes connections until the port closes.
///
/// # Errors
/// When the listener itself broke.
pub(super) async fn accept(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    closing: Closing,
) -> io::Result<()> {
    let places = Arc::new(Semaphore::new(app.options.max_connections));
    let mut exhausted = false;
    loop {
        // Cancel safe.
        let accepted = tokio::select! {
            biased;
            () = closing.port.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        let (socket, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) if is_of_one_peer(&error) => continue,
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return Err(error),
            Err(error) => {
                if !exhausted {
                    warn!(%error, "cannot take connections; raise the limit of open files, or lower asr.max_connections");
                }
                exhausted = true;
                tokio::time::sleep(EXHAUSTED).await;
                continue;
            }
        };
        exhausted = false;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            debug!(%peer, "one connection too many");
            app.metrics.connection_refused();
            turn_away(socket);
            continue;
        };
        if let Err(error) = socket.set_nodelay(true) {
            debug!(%error, "cannot switch off Nagle's algorithm");
        }
        let held = (place, app.metrics.connection());
        // Twice what a session allows, so that the session can say why first.
        let patience = app.options.send_timeout.saturating_mul(2);
        let socket = Guarded::new(socket, patience, held);
        let (app, router, closing) = (Arc::clone(&app), router.clone(), closing.clone());
        let span = debug_span!("connection", %peer);
        let token = closing.open.token();
        app.shutdown.clone().spawn(
            "connection",
            async move {
                let now = closing.now.clone();
                tokio::select! {
                    biased;
                    () = now.cancelled() => {}
                    () = secure(socket, peer, &app, router, closing) => {}
                }
                drop(token);
            }
            .instrument(span),
        );
    }
}

/// Whether taking a connection failed because of whoever made it.
fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionRefused | ConnectionAborted | ConnectionReset | Interrupted)
}

/// Says so without waiting; what does not fit into the socket's buffer at once is not said.
fn turn_away(socket: TcpStream) {
    if let Ok(mut socket) = socket.into_std() {
        drop(socket.write(FULL));
        drop(socket.shutdown(std::net::Shutdown::Write));
    }
}

async fn secure<S>(socket: S, peer: SocketAddr, app: &App, router: Router, closing: Closing)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(tls) = &app.options.tls else { return serve(socket, peer, app, router, closing).await };
    match timeout(app.options.header_timeout, tls.acceptor().accept(socket)).await {
        Ok(Ok(socket)) => Box::pin(serve(socket, peer, app, router, closing)).await,
        Ok(Err(error)) => debug!(%error, "the TLS handshake failed"),
        Err(_elapsed) => debug!("the TLS handshake took too long"),
    }
}

async fn serve<S>(socket: S, peer: SocketAddr, app: &App, router: Router, closing: Closing)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Peer(peer));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(app.options.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = closing.port.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection ended early");
    }
}
