//! Decides on every request before its route is reached: who sends it, and whether a web page may.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use tracing::{debug, info};

use super::{
    super::{error::ApiError, listen::App},
    Token,
    credentials::{self, Presented},
};

/// The only route that answers everybody: whoever restarts a server that hangs has no token.
const OPEN: &str = "/health";

/// Who sent a request.
#[derive(Debug, Clone, Default)]
pub(in super::super) struct Caller {
    token: Option<Arc<Token>>,
}

impl Caller {
    /// The token that was presented; `None` where nobody is asked for one.
    pub(in super::super) fn token(&self) -> Option<&Arc<Token>> {
        self.token.as_ref()
    }
}

/// Lets a request through with its [`Caller`], or answers it. What it presented as token is taken out of it in any
/// case, also where nobody asks for one: clients send what they are set to.
pub(in super::super) async fn guard(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let presented = credentials::take(&mut request);
    let caller = match admit(&app, &request, &presented) {
        Ok(caller) => caller,
        Err(error) if wants_page(&request) && error.status() == StatusCode::UNAUTHORIZED => {
            return ask_for_token(&presented);
        }
        Err(error) => return challenge(error),
    };
    request.extensions_mut().insert(caller);
    let mut response = next.run(request).await;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS
        && let Some(subprotocol) = presented.subprotocol
    {
        // A route that has chosen one itself knows better.
        response.headers_mut().entry(header::SEC_WEBSOCKET_PROTOCOL).or_insert(subprotocol);
    }
    response
}

fn admit(app: &App, request: &Request, presented: &Presented) -> Result<Caller, ApiError> {
    if request.uri().path() == OPEN {
        return Ok(Caller::default());
    }
    let headers = request.headers();
    if is_upgrade(headers)
        && let Some(origin) = headers.get(header::ORIGIN)
    {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let origin = String::from_utf8_lossy(origin.as_bytes());
        if !app.options.allow_origins.admits(&origin, host) {
            info!(origin = shortened(&origin), "a page of another origin was refused");
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "origin_not_allowed",
                "pages of this origin may not open websockets here; the server's --allow-origin lets them",
            ));
        }
    }
    let tokens = app.options.access.current();
    if tokens.is_empty() {
        return Ok(Caller::default());
    }
    // Whoever was shown the page may load its files again; they are in every copy of this program, and no secret.
    if app.page.admits(request) {
        return Ok(Caller::default());
    }
    if let Some(token) = presented.tokens.iter().find_map(|text| tokens.find(text)) {
        tracing::Span::current().record("token", &token.name);
        return Ok(Caller { token: Some(token) });
    }
    debug!(presented = presented.tokens.len(), "a request without a good token was refused");
    let message = match presented.tokens.as_slice() {
        [] => {
            "a token is needed; send the header Authorization: Bearer TOKEN, ?token=TOKEN, or (on a websocket) the \
             subprotocols token, TOKEN"
        }
        _ => "this token is not known here; ask whoever runs the server for another one",
    };
    Err(ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message))
}

fn is_upgrade(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.eq_ignore_ascii_case("websocket"))
}

fn shortened(origin: &str) -> String {
    origin.chars().filter(|c| !c.is_control()).take(100).collect()
}

fn challenge(error: ApiError) -> Response {
    let unauthorized = error.status() == StatusCode::UNAUTHORIZED;
    let mut response = error.into_response();
    if unauthorized {
        let realm = HeaderValue::from_static("Bearer realm=\"godctl\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
    }
    response
}

/// Whether somebody looks at `/` with a browser: they get a field for the token instead of an object.
fn wants_page(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    request.method() == Method::GET
        && request.uri().path() == "/"
        && accepts.is_some_and(|accepts| accepts.contains("text/html"))
}

const SECURITY: [(HeaderName, &str); 4] = [
    (header::CONTENT_TYPE, "text/html; charset=utf-8"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'",
    ),
    (header::CACHE_CONTROL, "no-store"),
    (header::REFERRER_POLICY, "no-referrer"),
];

fn ask_for_token(presented: &Presented) -> Response {
    let complaint =
        if presented.tokens.is_empty() { "" } else { "<p role=alert>This token is not known here.</p>" };
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>godctl</title><style>:root{{color-scheme:light dark;font-family:system-ui}}\
         form{{max-width:26rem;margin:20vh auto;padding:0 1rem}}input,button{{font:inherit;padding:.4rem}}</style>\
         <form method=get action=/><h1>godctl</h1>{complaint}<p><label>Token \
         <input name=token type=password autocomplete=current-password autofocus required></label> \
         <button>Open</button></p></form></html>\n"
    );
    (StatusCode::UNAUTHORIZED, SECURITY, page).into_response()
}
