//! Operating the server: who may come in, what is limited, what is told, and what it survives. With the fake model
//! where the protocol matters, and with the real program where the process does.

mod access;
#[cfg(unix)]
mod check;
mod limits;
mod metrics;
#[cfg(unix)]
mod process;
#[cfg(unix)]
mod revoked;
mod tls;

use std::{ops::Deref, path::Path, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use godctl::asr::server::{Access, NewToken, ServerError, ServerOptions, Tokens};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest as _, http},
};

use crate::{
    fake::{self, Model},
    serving,
};

/// No test waits longer for anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for what must come.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it never came")
}

/// A server over the fake model, with clients that show what they were answered.
struct Server(serving::Server);

impl Deref for Server {
    type Target = serving::Server;

    fn deref(&self) -> &serving::Server {
        &self.0
    }
}

impl Server {
    async fn start(max_sessions: usize, options: ServerOptions) -> Self {
        Self::with(max_sessions, Model::Willing, options).await
    }

    async fn with(max_sessions: usize, model: Model, options: ServerOptions) -> Self {
        Self(serving::Server::ready(max_sessions, model, options).await)
    }

    async fn get(&self, path: &str, headers: &str) -> Answer {
        get(&self.address, path, headers).await
    }

    async fn connect(&self, path: &str, headers: &[(&str, &str)]) -> Result<Socket, Refused> {
        connect(&self.address, path, headers).await
    }

    /// The value of a line of `/metrics` that starts so; 0 where there is none.
    async fn metric(&self, start: &str) -> f64 {
        let answer = self.get("/metrics", "").await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let line = answer.body.lines().find(|line| line.starts_with(start));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0.0)
    }

    async fn stop(self) -> Result<(), ServerError> {
        self.0.stop().await
    }
}

/// An answer to a request.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// The status line and the headers, in lower case.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: &str, path: &str, headers: &str) -> Answer {
    let socket = TcpStream::connect(address).await.unwrap();
    request(socket, format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{headers}\r\n"))
        .await
}

/// One request on this connection, whose end is the end of the answer.
pub(crate) async fn request<S: AsyncRead + AsyncWrite + Unpin>(
    mut socket: S,
    request: impl AsRef<[u8]>,
) -> Answer {
    socket.write_all(request.as_ref()).await.unwrap();
    let mut answer = Vec::new();
    soon(socket.read_to_end(&mut answer)).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// A websocket.
#[derive(Debug)]
pub(crate) struct Socket<S = TcpStream> {
    stream: WebSocketStream<S>,
    /// The answer to the upgrade.
    upgraded: http::response::Parts,
}

/// An upgrade that was answered with a status.
#[derive(Debug)]
pub(crate) struct Refused {
    status: u16,
    headers: http::HeaderMap,
    body: Value,
}

pub(crate) async fn connect(address: &str, path: &str, headers: &[(&str, &str)]) -> Result<Socket, Refused> {
    let stream = TcpStream::connect(address).await.unwrap();
    upgrade(stream, &format!("ws://{address}{path}"), headers).await
}

async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<Socket<S>, Refused> {
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        let name: http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    match soon(client_async(request, stream)).await {
        Ok((stream, response)) => Ok(Socket { stream, upgraded: response.into_parts().0 }),
        Err(tungstenite::Error::Http(response)) => {
            let (parts, body) = response.into_parts();
            let body = serde_json::from_slice(&body.unwrap_or_default()).unwrap_or_default();
            Err(Refused { status: parts.status.as_u16(), headers: parts.headers, body })
        }
        Err(error) => panic!("{error}"),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket<S> {
    pub(crate) async fn send(&mut self, message: impl Into<Message>) {
        self.stream.send(message.into()).await.unwrap();
    }

    pub(crate) async fn audio(&mut self, samples: &[f32]) {
        self.send(fake::pcm(samples)).await;
    }

    /// The next text message; `Err` with the code when the server closes.
    pub(crate) async fn next(&mut self) -> Result<Value, u16> {
        self.next_or_close().await.map_err(|(code, _)| code)
    }

    /// The same with the reason for the close.
    async fn next_or_close(&mut self) -> Result<Value, (u16, String)> {
        loop {
            match soon(self.stream.next()).await {
                Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    let said = frame.map(|frame| (frame.code.into(), frame.reason.to_string()));
                    return Err(said.unwrap_or((1005, String::new())));
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return Err((1006, String::new())),
            }
        }
    }

    /// The code that the server closes with, and the last error that it told before.
    pub(crate) async fn closed(&mut self) -> (u16, Option<String>) {
        let mut error = None;
        loop {
            match self.next().await {
                Ok(message) if message["type"] == "error" => {
                    error = message["code"].as_str().map(str::to_owned)
                }
                Ok(_) => {}
                Err(code) => return (code, error),
            }
        }
    }

    /// Ends the audio; gives the words of the last state.
    async fn finish(&mut self) -> String {
        self.send(Vec::new()).await;
        self.words().await
    }

    /// The words of the last state before everything was said.
    async fn words(&mut self) -> String {
        let mut words = String::new();
        loop {
            let message = self.next().await.expect("the session ended early");
            if message["type"] == "ready_to_stop" {
                return words;
            }
            if let Some(lines) = message["lines"].as_array() {
                let texts =
                    lines.iter().filter_map(|line| line["text"].as_str()).filter(|text| !text.is_empty());
                words = texts.collect::<Vec<_>>().join(" ");
            }
        }
    }
}

/// Two tokens: one without limits, one with `max_sessions = 1`.
struct Keys {
    free: NewToken,
    narrow: NewToken,
}

impl Keys {
    fn new() -> Self {
        Self { free: NewToken::generate().unwrap(), narrow: NewToken::generate().unwrap() }
    }

    fn file(&self) -> String {
        let entries = [
            self.free.entry("free", None, None).unwrap(),
            self.narrow.entry("narrow", Some(1), None).unwrap(),
        ];
        entries.join("\n")
    }

    fn access(&self) -> Access {
        Access::new(Tokens::parse(&self.file()).unwrap())
    }
}

/// A certificate for `localhost` and its key, as PEM files in this directory. Gives the certificate.
fn certificate(dir: &Path) -> rcgen::Certificate {
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    params.not_after = rcgen::date_time_ymd(2099, 1, 1);
    certificate_of(&params, dir)
}

fn certificate_of(params: &rcgen::CertificateParams, dir: &Path) -> rcgen::Certificate {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    std::fs::write(dir.join("cert.pem"), certificate.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
    certificate
}
