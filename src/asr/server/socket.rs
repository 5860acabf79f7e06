//! What the websocket of every protocol has in common: the upgrade with its admission, the way out with a limit on how
//! long a peer may refuse to take anything, and the close. Each session is one tracked task.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures_util::{
    Sink, SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde::Serialize;
use tokio::time::timeout;
use tracing::{Instrument as _, debug};

use super::{error::ApiError, listen::App};
use crate::asr::SttError;

/// Everything was said.
pub(super) const CLOSE_NORMAL: u16 = 1000;
/// The server is stopping.
pub(super) const CLOSE_GOING_AWAY: u16 = 1001;
/// The session has lasted as long as it may, or its token is not good any more.
pub(super) const CLOSE_POLICY: u16 = 1008;
/// A message was larger than the server takes.
pub(super) const CLOSE_TOO_LARGE: u16 = 1009;
/// The engine failed.
pub(super) const CLOSE_INTERNAL: u16 = 1011;
/// Every slot is taken.
pub(super) const CLOSE_TRY_AGAIN: u16 = 1013;

/// What a websocket library may buffer for one message: beyond our own limit, so that a client that goes beyond that
/// is told so in an orderly close and not by a broken connection.
const HARD_LIMIT_FACTOR: usize = 4;
/// How long the peer may take to answer a close.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

pub(super) type WsSink = SplitSink<WebSocket, Message>;
pub(super) type WsSource = SplitStream<WebSocket>;

/// Opens a session of `path`.
///
/// What no client could change by asking differently (still loading, broken, stopping) is an HTTP status: whoever
/// routes connections understands it, and there is no session to talk in. What concerns this one session (bad
/// parameters, no free slot) is said after the upgrade by `run`, as an error message and a close code: a browser shows
/// its script neither the status nor the body of a refused upgrade.
pub(super) fn upgrade<S, O, R, F>(
    app: Arc<App>,
    path: &'static str,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    open: O,
    run: R,
) -> Response
where
    S: Send + 'static,
    O: FnOnce(&Arc<App>) -> Result<S, SttError>,
    R: FnOnce(WebSocket, Result<S, SttError>) -> F + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => {
            let message = format!("{path} is a websocket; connect with ws:// ({rejection})");
            return ApiError::new(StatusCode::UPGRADE_REQUIRED, "websocket_required", message)
                .into_response();
        }
    };
    // Counted before the look at the stop, so that a stop waits for every session that got past it.
    let presence = app.enter();
    if app.shutdown.is_cancelled() {
        return ApiError::stopping().into_response();
    }
    let opened = match open(&app) {
        Err(
            error @ (SttError::Loading | SttError::Restarting | SttError::Unavailable(_) | SttError::Closed),
        ) => {
            return ApiError::from(error).into_response();
        }
        opened => opened,
    };
    let limit = app.options.max_message_bytes.saturating_mul(HARD_LIMIT_FACTOR);
    let span = tracing::Span::current();
    upgrade
        .max_message_size(limit)
        .max_frame_size(limit)
        .on_failed_upgrade(|error| debug!(%error, "the upgrade to a websocket failed"))
        .on_upgrade(async move |socket| {
            // A task of our own: tracked, and a panic in it is noticed.
            app.shutdown.clone().spawn(
                "asr-session",
                async move {
                    run(socket, opened).await;
                    drop(presence);
                }
                .instrument(span),
            );
        })
}

/// How a session ends.
#[derive(Debug)]
pub(super) enum Over {
    /// The client closed, or vanished.
    PeerGone(&'static str),
    /// The server closes, after a last message.
    Closing { last: Option<Message>, code: u16, reason: &'static str },
}

impl Over {
    pub(super) const fn going_away() -> Self {
        Self::Closing { last: None, code: CLOSE_GOING_AWAY, reason: "the server is stopping" }
    }

    /// The reason, for a log.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::PeerGone(reason) | Self::Closing { reason, .. } => reason,
        }
    }

    /// A connection that gave an error; `too_large` is the last message of one whose peer sent far too much at once.
    pub(super) fn broken(error: &axum::Error, too_large: impl FnOnce() -> Message) -> Self {
        use tokio_tungstenite::tungstenite::Error;
        debug!(%error, "the connection broke");
        match std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>()) {
            Some(Error::Capacity(_)) => {
                Self::Closing { last: Some(too_large()), code: CLOSE_TOO_LARGE, reason: "message too large" }
            }
            _ => Self::PeerGone("the connection broke"),
        }
    }
}

/// A message as a text frame.
pub(super) fn text(message: &impl Serialize) -> Message {
    match serde_json::to_string(message) {
        Ok(json) => Message::text(json),
        // Strings, numbers and lists: there is nothing in our messages that JSON lacks.
        Err(error) => unreachable!("a message is always JSON: {error}"),
    }
}

/// The way out, with a limit on how long a peer may refuse to take anything.
pub(super) struct Out<'a, S> {
    pub(super) sink: &'a mut S,
    pub(super) send_timeout: Duration,
}

impl<S: Sink<Message> + Unpin> Out<'_, S> {
    pub(super) async fn send(&mut self, message: Message) -> Result<(), Over> {
        match timeout(self.send_timeout, self.sink.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(Over::PeerGone("the connection broke")),
            Err(_elapsed) => Err(Over::PeerGone("the peer reads nothing")),
        }
    }
}

/// Says goodbye and waits a moment for the answer: a socket that is closed with unread data in it is reset, and the
/// peer would lose the reason.
pub(super) async fn close(sink: &mut WsSink, source: &mut WsSource, over: Over) {
    let goodbye = async {
        match over {
            Over::PeerGone(_) => drop(sink.close().await),
            Over::Closing { last, code, reason } => {
                if let Some(last) = last {
                    sink.feed(last).await?;
                }
                sink.send(Message::Close(Some(CloseFrame { code, reason: reason.into() }))).await?;
                while let Some(Ok(message)) = source.next().await {
                    if matches!(message, Message::Close(_)) {
                        break;
                    }
                }
            }
        }
        Ok::<_, axum::Error>(())
    };
    if !matches!(timeout(CLOSE_WAIT, goodbye).await, Ok(Ok(()))) {
        debug!("the peer did not take part in the close");
    }
}
