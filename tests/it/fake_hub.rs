//! A Hugging Face hub on two free ports of this machine, with switches for everything that goes wrong with real ones.
//!
//! The first port is the hub (listing and `resolve`), the second the host that large files are redirected to, so that
//! a test can see what is sent to whom. Stops with the test's runtime.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, Response, StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use futures_util::{StreamExt, stream};
use godctl::shutdown::Shutdown;
use parking_lot::Mutex;
use sha1::Sha1;
use sha2::{Digest, Sha256};

pub(crate) const REPO: &str = "openai/whisper-tiny";
pub(crate) const COMMIT: &str = "169d4a4341b33bc18d8881c4b69c2e104e1cc0af";
/// Part of every redirect's address; must never be seen in an error.
pub(crate) const SIGNATURE: &str = "marker-signature";
const CHUNK: usize = 8 << 10;

/// What goes wrong. Counters go down with each request that they spoil.
#[derive(Debug, Default, Clone)]
pub(crate) struct Faults {
    /// Bodies of large files that end after so many bytes, one entry each.
    pub(crate) cut: Vec<usize>,
    /// Bodies of large files that stop moving after so many bytes, without ending.
    pub(crate) stall: Option<usize>,
    /// How many bodies have a wrong byte, and in which file.
    pub(crate) corrupt: Option<(&'static str, usize)>,
    /// Bodies are longer than announced in the metadata, with no length of their own.
    pub(crate) overlong: bool,
    /// Bodies (and their length) lack the last byte.
    pub(crate) short: bool,
    /// How many requests for files get 429, and with which `Retry-After`.
    pub(crate) busy: usize,
    pub(crate) retry_after: Option<&'static str>,
    /// The answer to every request: a status and the hub's error code.
    pub(crate) refuse: Option<(u16, &'static str)>,
    /// How many redirected requests get 403, as with an address that ran out.
    pub(crate) expired: usize,
    /// `Range` is ignored.
    pub(crate) no_range: bool,
    /// A 206 starts at the first byte whatever was asked for.
    pub(crate) wrong_range: bool,
    /// Large files are redirected to the other port.
    pub(crate) redirect: bool,
    /// Redirects lead back to the same address.
    pub(crate) redirect_loop: bool,
    /// The listing leaves sizes and checksums out.
    pub(crate) bare: bool,
    /// One more name in the listing.
    pub(crate) extra_name: Option<&'static str>,
}

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) path: String,
    pub(crate) token: bool,
    pub(crate) range: Option<String>,
    /// True on the host that large files are redirected to.
    pub(crate) other_host: bool,
}

#[derive(Debug)]
struct Inner {
    commit: Mutex<String>,
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    faults: Mutex<Faults>,
    seen: Mutex<Vec<Seen>>,
    /// Bytes of bodies handed to the network, by file.
    served: Mutex<BTreeMap<String, usize>>,
    other: SocketAddr,
}

#[derive(Debug, Clone)]
pub(crate) struct FakeHub {
    address: SocketAddr,
    inner: Arc<Inner>,
}

/// Bytes that repeat nowhere, the same in every run.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(length)
    .collect()
}

impl FakeHub {
    /// A hub that has one small model in one file of weights, and the files of other frameworks beside it.
    pub(crate) async fn start() -> Self {
        let files = [
            ("config.json", br#"{"model_type":"whisper"}"#.to_vec()),
            ("tokenizer.json", noise(40_000, 1)),
            ("generation_config.json", b"{}".to_vec()),
            ("preprocessor_config.json", b"{ }".to_vec()),
            ("model.safetensors", noise(300_000, 2)),
            ("pytorch_model.bin", noise(1000, 3)),
            ("onnx/model.onnx", noise(1000, 4)),
        ];
        let hub = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inner = Arc::new(Inner {
            commit: Mutex::new(COMMIT.to_owned()),
            files: Mutex::new(files.into_iter().map(|(name, body)| (name.to_owned(), body)).collect()),
            faults: Mutex::default(),
            seen: Mutex::default(),
            served: Mutex::default(),
            other: other.local_addr().unwrap(),
        });
        let address = hub.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let api = Router::new()
            .route("/api/models/{owner}/{name}/revision/{revision}", get(listing))
            .route("/{owner}/{name}/resolve/{commit}/{*file}", get(resolve))
            .with_state(Arc::clone(&inner));
        let storage = Router::new().route("/storage/{*file}", get(storage)).with_state(Arc::clone(&inner));
        shutdown.spawn("fake hub", async move { axum::serve(hub, api).await.unwrap() });
        shutdown.spawn("fake storage", async move { axum::serve(other, storage).await.unwrap() });
        Self { address, inner }
    }

    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn set(&self, faults: Faults) {
        *self.inner.faults.lock() = faults;
    }

    pub(crate) fn put(&self, name: &str, body: Vec<u8>) {
        self.inner.files.lock().insert(name.to_owned(), body);
    }

    pub(crate) fn take(&self, name: &str) -> Vec<u8> {
        self.inner.files.lock().remove(name).unwrap()
    }

    pub(crate) fn file(&self, name: &str) -> Vec<u8> {
        self.inner.files.lock().get(name).unwrap().clone()
    }

    pub(crate) fn set_commit(&self, commit: &str) {
        commit.clone_into(&mut self.inner.commit.lock());
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.inner.seen.lock().clone()
    }

    /// How often a file's content was asked for, at either host, redirects not counted.
    pub(crate) fn served(&self, name: &str) -> usize {
        self.inner.served.lock().get(name).copied().unwrap_or_default()
    }

    pub(crate) fn forget(&self) {
        self.inner.seen.lock().clear();
        self.inner.served.lock().clear();
    }
}

fn note(inner: &Inner, path: &str, headers: &HeaderMap, other_host: bool) {
    inner.seen.lock().push(Seen {
        path: path.to_owned(),
        token: headers.contains_key(header::AUTHORIZATION),
        range: headers.get(header::RANGE).map(|range| range.to_str().unwrap().to_owned()),
        other_host,
    });
}

fn refusal(inner: &Inner) -> Option<Response<Body>> {
    let (status, code) = inner.faults.lock().refuse?;
    Some(Response::builder().status(status).header("x-error-code", code).body(Body::empty()).unwrap())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn is_large(name: &str) -> bool {
    name.ends_with(".safetensors") || name.ends_with(".bin")
}

async fn listing(
    State(inner): State<Arc<Inner>>,
    Path((owner, name, revision)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    note(&inner, &format!("list {owner}/{name}@{revision}"), &headers, false);
    if let Some(refusal) = refusal(&inner) {
        return refusal;
    }
    let faults = inner.faults.lock().clone();
    let mut siblings: Vec<_> = inner
        .files
        .lock()
        .iter()
        .map(|(name, body)| {
            let blob = hex(&Sha1::new()
                .chain_update(format!("blob {}\0", body.len()))
                .chain_update(body)
                .finalize());
            match (faults.bare, is_large(name)) {
                (true, _) => serde_json::json!({ "rfilename": name }),
                (false, false) => {
                    serde_json::json!({ "rfilename": name, "size": body.len(), "blobId": blob })
                }
                (false, true) => serde_json::json!({
                    "rfilename": name, "size": body.len(), "blobId": "00".repeat(20),
                    "lfs": { "sha256": hex(&Sha256::digest(body)), "size": body.len(), "pointerSize": 134 },
                }),
            }
        })
        .collect();
    siblings.extend(faults.extra_name.map(|name| serde_json::json!({ "rfilename": name, "size": 1 })));
    axum::Json(serde_json::json!({
        "id": format!("{owner}/{name}"), "sha": *inner.commit.lock(), "private": false, "gated": false,
        "cardData": { "license": "apache-2.0" }, "tags": ["whisper"], "siblings": siblings,
    }))
    .into_response()
}

async fn resolve(
    State(inner): State<Arc<Inner>>,
    Path((_, _, commit, file)): Path<(String, String, String, String)>,
    headers: HeaderMap,
) -> Response<Body> {
    note(&inner, &file, &headers, false);
    if let Some(refusal) = refusal(&inner) {
        return refusal;
    }
    assert_eq!(commit, *inner.commit.lock(), "files are asked for at the commit that was listed");
    {
        let mut faults = inner.faults.lock();
        if faults.busy > 0 {
            faults.busy -= 1;
            let response = Response::builder().status(StatusCode::TOO_MANY_REQUESTS);
            let response = match faults.retry_after {
                Some(wait) => response.header(header::RETRY_AFTER, wait),
                None => response,
            };
            return response.body(Body::empty()).unwrap();
        }
        let to = match (faults.redirect_loop, faults.redirect && is_large(&file)) {
            (true, _) => Some(format!("?again={SIGNATURE}")),
            // Another name and another port than the hub's.
            (false, true) => {
                Some(format!("http://localhost:{}/storage/{file}?signature={SIGNATURE}", inner.other.port()))
            }
            (false, false) => None,
        };
        if let Some(to) = to {
            return Response::builder().status(302).header(header::LOCATION, to).body(Body::empty()).unwrap();
        }
    }
    content(&inner, &file, &headers)
}

async fn storage(
    State(inner): State<Arc<Inner>>,
    Path(file): Path<String>,
    headers: HeaderMap,
) -> Response<Body> {
    note(&inner, &file, &headers, true);
    let expired = {
        let mut faults = inner.faults.lock();
        let expired = faults.expired > 0;
        faults.expired = faults.expired.saturating_sub(1);
        expired
    };
    if expired {
        return StatusCode::FORBIDDEN.into_response();
    }
    content(&inner, &file, &headers)
}

fn content(inner: &Arc<Inner>, file: &str, headers: &HeaderMap) -> Response<Body> {
    let Some(mut body) = inner.files.lock().get(file).cloned() else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let size = body.len();
    let mut faults = inner.faults.lock();
    if let Some((name, count)) = &mut faults.corrupt
        && *name == file
        && *count > 0
    {
        *count -= 1;
        body[size / 2] ^= 1;
    }
    if faults.overlong {
        body.push(0);
    }
    if faults.short {
        body.pop();
    }
    let start = headers
        .get(header::RANGE)
        .and_then(|range| range.to_str().unwrap().strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
        .filter(|_| !faults.no_range);
    let mut response = Response::builder();
    if let Some(start) = start {
        let from = if faults.wrong_range { 0 } else { start };
        response =
            response.status(206).header(header::CONTENT_RANGE, format!("bytes {from}-{}/{size}", size - 1));
        body.drain(..start);
    }
    if !faults.overlong {
        response = response.header(header::CONTENT_LENGTH, body.len());
    }
    let cut = if is_large(file) && !faults.cut.is_empty() { Some(faults.cut.remove(0)) } else { None };
    let stall = faults.stall.filter(|_| is_large(file));
    drop(faults);

    let end = cut.or(stall).unwrap_or(body.len()).min(body.len());
    let counter = (Arc::clone(inner), file.to_owned());
    let chunks: Vec<Bytes> = body[..end].chunks(CHUNK).map(Bytes::copy_from_slice).collect();
    let chunks = stream::iter(chunks).map(move |chunk| {
        *counter.0.served.lock().entry(counter.1.clone()).or_default() += chunk.len();
        Ok(chunk)
    });
    // The server hands to the network what it has whenever the body has nothing ready, and throws it away on an error.
    let chunks = chunks.then(|chunk| async {
        tokio::task::yield_now().await;
        chunk
    });
    let ending = stream::once(async move {
        tokio::task::yield_now().await;
        if stall.is_some() {
            std::future::pending::<()>().await;
        }
        Err::<Bytes, _>(std::io::Error::other("cut"))
    });
    let failing = cut.is_some() || stall.is_some();
    response.body(Body::from_stream(chunks.chain(ending.take(usize::from(failing))))).unwrap()
}
