//! Opens sessions.

use std::sync::Arc;

use axum::{
    Extension, Router,
    extract::{
        State,
        ws::{WebSocketUpgrade, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderName, HeaderValue, Uri},
    response::Response,
    routing::get,
};
use jiff::Timestamp;
use tracing::info;

use super::{
    super::{
        http::{self, RequestId},
        listen::App,
        live::{Caller, Protocol},
        socket,
    },
    recorded,
    session::{self, Session},
};
use crate::asr::{
    SttError,
    engine::StreamOptions,
    protocols::deepgram::{
        letterhead::Letterhead,
        options::{Audio, Encoding, Options},
    },
};

/// Where Deepgram's clients look for the id of their request.
pub(in super::super) const DG_REQUEST_ID: HeaderName = HeaderName::from_static("dg-request-id");
/// Names of parameters that have no effect here.
pub(in super::super) const DG_IGNORED: HeaderName = HeaderName::from_static("dg-ignored-parameters");

/// The routes of this protocol.
pub(in super::super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/v1/listen", get(live).post(recorded::recorded))
}

/// Opens a session; see [`socket::upgrade`] for what is an HTTP status and what a message.
async fn live(
    State(app): State<Arc<App>>,
    Extension(RequestId(id)): Extension<RequestId>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let mut ignored = Vec::new();
    let open = |app: &Arc<App>| {
        let (session, names) = open(app, id.clone(), &caller, &uri)?;
        ignored = names;
        Ok(session)
    };
    let request_id = id.clone();
    let mut response = socket::upgrade(app, "/v1/listen", upgrade, open, |socket, opened| async move {
        match opened {
            Ok(session) => session.run(socket).await,
            Err(error) => {
                info!(code = error.code(), "session refused");
                session::refuse(socket, &request_id, &error).await;
            }
        }
    });
    let headers = response.headers_mut();
    headers.extend(HeaderValue::from_str(&id).ok().map(|id| (DG_REQUEST_ID, id)));
    if !ignored.is_empty() {
        headers.extend(HeaderValue::from_str(&ignored.join(",")).ok().map(|names| (DG_IGNORED, names)));
    }
    response
}

/// Takes a slot for each stream of the session that a query describes; gives the names of what has no effect too.
fn open(app: &Arc<App>, id: String, caller: &Caller, uri: &Uri) -> Result<(Session, Vec<String>), SttError> {
    let options = parse(uri)?;
    if options.multichannel && options.channels.is_none() && options.encoding == Encoding::Container {
        return Err(SttError::BadRequest(
            "channels: multichannel=true of a container needs their number, such as channels=2".to_owned(),
        ));
    }
    let model = app.engine.model()?;
    let decode = options.decode(&app.options.decode, &model);
    let stream = StreamOptions { decode: decode.clone(), tuning: options.tuning(app.options.tuning) };
    let lives = app.open_all(&id, Protocol::Deepgram, caller, &stream, options.streams())?;
    let ignored = options.ignored(&model, Audio::Live);
    let created = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let told = options.effective(&decode, &model);
    let head = Letterhead::new(id, created, &model, lives.len(), told, ignored.clone());
    Ok((Session { app: Arc::clone(app), lives, options, head }, ignored))
}

/// The options of a query.
pub(super) fn parse(uri: &Uri) -> Result<Options, SttError> {
    Ok(Options::parse(http::query(uri)?)?)
}
