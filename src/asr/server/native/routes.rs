//! Opens sessions.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::Uri,
    response::Response,
    routing::any,
};
use tracing::info;

use super::{
    super::{
        http::{self, RequestId},
        listen::App,
        live::{Caller, Protocol},
        socket,
    },
    session::{self, Refusal, Session},
    wishes::Wishes,
};
use crate::asr::{SttError, protocols::native::request::Request as SessionRequest};

/// The routes of this protocol.
pub(in super::super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/asr", any(asr))
}

/// Opens a session; see [`socket::upgrade`] for what is an HTTP status and what a message.
async fn asr(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let open = |app: &Arc<App>| open(app, id, &caller, &uri);
    socket::upgrade(app, "/asr", upgrade, open, |socket, opened| async move {
        match opened {
            Ok(session) => session.run(socket).await,
            Err(error) => {
                info!(code = error.code(), "session refused");
                session::refuse(socket, Refusal::from(error)).await;
            }
        }
    })
}

/// Takes a slot for the session that a query describes.
fn open(app: &Arc<App>, id: String, caller: &Caller, uri: &Uri) -> Result<Session, SttError> {
    let request = SessionRequest::parse(http::query(uri)?)?;
    if let Ok(model) = app.engine.model() {
        request.check_model(&model)?;
    }
    let wishes = Wishes { id, request };
    let live = app.open(&wishes.id, Protocol::Native, caller, wishes.options(app))?;
    Ok(Session { app: Arc::clone(app), live, wishes })
}
