//! A server over the fake model on a free port: what the tests of every protocol start and stop. Each protocol's file
//! adds how its clients connect.

use std::time::Duration;

use godctl::{
    asr::{
        engine::Engine,
        server::{self, ServerError, ServerOptions},
    },
    shutdown::Shutdown,
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinHandle,
};

use crate::fake::{self, Model};

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Recordings that a server works on or lets wait.
const PLACES: usize = 8;

/// Waits for what must come.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it never came")
}

/// A server with a place of its own for uploads.
pub(crate) struct Server {
    pub(crate) address: String,
    pub(crate) shutdown: Shutdown,
    pub(crate) engine: Engine,
    serving: JoinHandle<Result<(), ServerError>>,
    uploads: tempfile::TempDir,
}

impl Server {
    pub(crate) async fn start(engine: impl FnOnce(&Shutdown) -> Engine, options: ServerOptions) -> Self {
        let (shutdown, uploads) = (Shutdown::new(), tempfile::tempdir().unwrap());
        let engine = engine(&shutdown);
        let options = ServerOptions { upload_dir: Some(uploads.path().to_owned()), ..options };
        let listener = server::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = {
            let (engine, shutdown) = (engine.clone(), shutdown.clone());
            #[allow(clippy::disallowed_methods, reason = "the test waits for it by its handle")]
            tokio::spawn(async move { server::serve(listener, engine, options, &shutdown).await })
        };
        Self { address, shutdown, engine, serving, uploads }
    }

    /// One whose model is loaded.
    pub(crate) async fn ready(max_sessions: usize, model: Model, options: ServerOptions) -> Self {
        let server = Self::start(|shutdown| fake::engine(shutdown, max_sessions, model), options).await;
        server.engine.ready().await.unwrap();
        server
    }

    /// One whose model answers at once, with the options that a server has if it is told nothing.
    pub(crate) async fn willing(max_sessions: usize) -> Self {
        Self::ready(max_sessions, Model::Willing, ServerOptions::default()).await
    }

    /// One HTTP request on a connection of its own: status line and headers in lower case, and the body.
    pub(crate) async fn get(&self, path: &str, headers: &str) -> (String, String) {
        let mut socket = TcpStream::connect(&self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        let Answer { head, body, .. } = Answer::read(socket).await;
        (head.to_lowercase(), body)
    }

    /// Waits until this many slots are taken.
    pub(crate) async fn active(&self, sessions: usize) {
        until(|| self.engine.stats().active == sessions).await;
    }

    /// Files of uploads that lie on disk now.
    pub(crate) fn leftovers(&self) -> usize {
        std::fs::read_dir(self.uploads.path()).unwrap().count()
    }

    /// Waits until every place for recordings is free, and nothing of them is left.
    pub(crate) async fn quiet(&self) {
        let free = || std::iter::from_fn(|| self.engine.place().ok()).collect::<Vec<_>>().len();
        until(|| free() == PLACES && self.leftovers() == 0).await;
    }

    pub(crate) async fn stop(self) -> Result<(), ServerError> {
        self.shutdown.cancel();
        let served = soon(self.serving).await.unwrap();
        drop(self.engine);
        self.shutdown.finish(PATIENCE).await.unwrap();
        served
    }

    /// Stops it in order, once no recording is worked on; nothing is left then.
    pub(crate) async fn done(self) {
        self.quiet().await;
        self.stop().await.unwrap();
    }
}

/// Lets everything else run until this is so.
pub(crate) async fn until(mut so: impl FnMut() -> bool) {
    let waiting = async {
        while !so() {
            tokio::task::yield_now().await;
        }
    };
    soon(waiting).await;
}

/// An answer over HTTP.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the headers.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads a connection to its end.
    pub(crate) async fn read(mut socket: impl AsyncRead + Unpin) -> Self {
        let mut answer = Vec::new();
        soon(socket.read_to_end(&mut answer)).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_owned(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The value of a header, whose name is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let line = self.head.lines().find(|line| line.to_lowercase().starts_with(&format!("{name}:")))?;
        line.split_once(": ").map(|(_, value)| value)
    }
}
