//! The page at `/`: a client of `/asr` in the browser. Its files are inside the binary, and it loads nothing else.
//!
//! A browser that asks for `/` gets the page, a program that does not ask for HTML gets the list of routes.

use std::sync::Arc;

use axum::{
    Router,
    extract::{Path, Request},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest as _, Sha256};

use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use super::{error::ApiError, listen::App};

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

/// What a page of ours may do: run its own scripts, talk to its own server, and nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Debug, Clone, Copy)]
struct File {
    path: &'static str,
    kind: &'static str,
    text: &'static str,
}

const INDEX: File = File { path: "", kind: HTML, text: include_str!("../../../assets/page/index.html") };

/// What lies below `/page/`. The parts under `lib` belong to the browser extension as well.
const FILES: [File; 11] = [
    File { path: "style.css", kind: CSS, text: include_str!("../../../assets/page/style.css") },
    File { path: "icon.svg", kind: SVG, text: include_str!("../../../assets/page/icon.svg") },
    File { path: "app.js", kind: SCRIPT, text: include_str!("../../../assets/page/app.js") },
    File { path: "export.js", kind: SCRIPT, text: include_str!("../../../assets/page/export.js") },
    File { path: "meters.js", kind: SCRIPT, text: include_str!("../../../assets/page/meters.js") },
    File { path: "view.js", kind: SCRIPT, text: include_str!("../../../assets/page/view.js") },
    File {
        path: "lib/capture.js",
        kind: SCRIPT,
        text: include_str!("../../../assets/extension/lib/capture.js"),
    },
    File {
        path: "lib/capture-worklet.js",
        kind: SCRIPT,
        text: include_str!("../../../assets/extension/lib/capture-worklet.js"),
    },
    File {
        path: "lib/resample.js",
        kind: SCRIPT,
        text: include_str!("../../../assets/extension/lib/resample.js"),
    },
    File {
        path: "lib/session.js",
        kind: SCRIPT,
        text: include_str!("../../../assets/extension/lib/session.js"),
    },
    File {
        path: "lib/transcript.js",
        kind: SCRIPT,
        text: include_str!("../../../assets/extension/lib/transcript.js"),
    },
];

/// The files of the page; `/` itself is the router's, which asks [`page`].
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new().route("/page/{*path}", get(file))
}

/// What lets a browser load the files of the page, and the page itself again, once it has shown a token: the names of
/// its scripts cannot carry one. It opens nothing else, and means nothing to another process.
#[derive(Debug)]
pub(super) struct Pass(String);

impl Default for Pass {
    fn default() -> Self {
        Self(format!("godctl-page={}", Uuid::new_v4().simple()))
    }
}

impl Pass {
    /// Whether this request asks for the page or one of its files, and bears the pass.
    pub(super) fn admits(&self, request: &Request) -> bool {
        let path = request.uri().path();
        let page = (path == "/" && wants_html(request.headers())) || path.starts_with("/page/");
        page && request.method() == Method::GET
            && request.headers().get_all(header::COOKIE).iter().any(|cookies| {
                let cookies = cookies.as_bytes().split(|byte| *byte == b';');
                cookies.map(<[u8]>::trim_ascii).any(|cookie| cookie.ct_eq(self.0.as_bytes()).into())
            })
    }

    fn cookie(&self) -> String {
        format!("{}; Path=/; HttpOnly; SameSite=Strict", self.0)
    }
}

/// The page, where somebody asks for HTML; with a pass for whoever has shown a token.
pub(super) fn page(headers: &HeaderMap, pass: Option<&Pass>) -> Option<Response> {
    wants_html(headers).then(|| {
        let mut response = serve(&INDEX, headers);
        if let Some(cookie) = pass.and_then(|pass| HeaderValue::from_str(&pass.cookie()).ok()) {
            response.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        response
    })
}

fn wants_html(headers: &HeaderMap) -> bool {
    let accepts = headers.get_all(header::ACCEPT);
    accepts
        .iter()
        .filter_map(|accept| accept.to_str().ok())
        .any(|accept| accept.split(',').any(|kind| kind.trim().to_ascii_lowercase().starts_with("text/html")))
}

async fn file(Path(path): Path<String>, headers: HeaderMap) -> Response {
    match FILES.iter().find(|file| file.path == path) {
        Some(file) => serve(file, &headers),
        None => ApiError::new(StatusCode::NOT_FOUND, "not_found", "no such page; see / for what there is")
            .into_response(),
    }
}

fn serve(file: &File, headers: &HeaderMap) -> Response {
    let tag = tag(file);
    let known = headers.get(header::IF_NONE_MATCH).and_then(|tags| tags.to_str().ok());
    let mut response = if known.is_some_and(|known| known.split(',').any(|known| known.trim() == tag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        file.text.into_response()
    };
    let fixed = [
        (header::CONTENT_TYPE, file.kind),
        // A new version of the server is a new page at once, and an unchanged one costs an answer without a body.
        (header::CACHE_CONTROL, "no-cache"),
        (header::VARY, "accept"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in fixed {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// The content, told apart by its hash.
fn tag(file: &File) -> String {
    let hash = Sha256::digest(file.text.as_bytes());
    let short: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("\"{short}\"")
}
