//! A client of the websocket `/asr`: what `godctl demo` and the tests speak to a server with.
//!
//! [`connect`] gives two halves, so that audio goes out while updates come in; each runs in its caller's task and ends
//! when it is dropped. Only `ws://`: a server on another machine belongs behind a tunnel or a proxy.

use std::time::Duration;

use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{self, Bytes, Message, http},
};

use super::{
    protocols::native::ServerMessage,
    stream::{Samples, seconds},
};

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The end of a session that went well: RFC 6455's normal closure, and no code at all.
const NORMAL: [u16; 2] = [1000, 1005];

/// Why a session could not be had or went wrong.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The server answered the handshake with an HTTP status: wait if it says so, or ask for something else.
    #[error("the server refused the session with HTTP {status}: {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// What it said, such as `loading`; empty when it is not one of ours.
        code: String,
        /// For people.
        message: String,
        /// How long to wait before trying again, if it said so.
        retry_after: Option<Duration>,
    },
    /// The server closed the session with a code that means trouble.
    #[error("the server closed the session with code {code}: {reason}")]
    Closed {
        /// The websocket close code.
        code: u16,
        /// What it said.
        reason: String,
    },
    /// The connection could not be made, or broke.
    #[error("the connection to the server failed")]
    Connection(#[source] Box<tungstenite::Error>),
    /// The server sent what is no message of this protocol.
    #[error("the server sent a message that is not understood; is it an /asr endpoint?")]
    Protocol(#[source] serde_json::Error),
}

impl From<tungstenite::Error> for ClientError {
    fn from(error: tungstenite::Error) -> Self {
        let tungstenite::Error::Http(response) = error else { return Self::Connection(Box::new(error)) };
        let body: serde_json::Value =
            response.body().as_deref().and_then(|body| serde_json::from_slice(body).ok()).unwrap_or_default();
        let text =
            |key: &str| body.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let retry_after = response.headers().get(http::header::RETRY_AFTER);
        Self::Refused {
            status: response.status().as_u16(),
            code: text("code"),
            message: text("message"),
            retry_after: retry_after
                .and_then(|seconds| seconds.to_str().ok()?.parse().ok())
                .map(Duration::from_secs),
        }
    }
}

/// Opens a session at a URL such as `ws://127.0.0.1:8000/asr?words=true`.
///
/// # Errors
/// [`ClientError::Refused`] or [`ClientError::Connection`].
pub async fn connect(url: &str) -> Result<(Sender, Receiver), ClientError> {
    let (socket, _response) = connect_async_with_config(url, None, true).await?;
    let (sink, source) = socket.split();
    Ok((Sender { sink }, Receiver { source }))
}

/// The half that sends.
#[derive(Debug)]
pub struct Sender {
    sink: SplitSink<Socket, Message>,
}

impl Sender {
    /// Sends 16 kHz mono samples in [-1, 1] as raw PCM; waits while the server takes no more. None at all are not
    /// sent: an empty frame would end the session.
    ///
    /// # Errors
    /// When the connection is gone; the receiver tells why.
    pub async fn audio(&mut self, samples: &[f32]) -> Result<(), ClientError> {
        if samples.is_empty() { Ok(()) } else { self.bytes(pcm(samples)).await }
    }

    /// Sends a binary frame as it is: a piece of a container, or PCM bytes. An empty one ends the audio.
    ///
    /// # Errors
    /// When the connection is gone; the receiver tells why.
    pub async fn bytes(&mut self, bytes: impl Into<Bytes>) -> Result<(), ClientError> {
        Ok(self.sink.send(Message::Binary(bytes.into())).await?)
    }

    /// Sends a text frame: a control message.
    ///
    /// # Errors
    /// When the connection is gone; the receiver tells why.
    pub async fn text(&mut self, text: impl Into<String>) -> Result<(), ClientError> {
        Ok(self.sink.send(Message::text(text.into())).await?)
    }

    /// Says that no more audio comes; the server answers with the last words and `ready_to_stop`.
    ///
    /// # Errors
    /// When the connection is gone; the receiver tells why.
    pub async fn end(&mut self) -> Result<(), ClientError> {
        self.bytes(Bytes::new()).await
    }

    /// Closes the session; without [`Sender::end`] before it the server drops what it has not transcribed yet.
    ///
    /// # Errors
    /// When the connection is gone already.
    pub async fn close(mut self) -> Result<(), ClientError> {
        Ok(self.sink.close().await?)
    }
}

fn pcm(samples: &[f32]) -> Vec<u8> {
    #[allow(clippy::cast_possible_truncation, reason = "float to int casts saturate, NaN is 0")]
    let sample = |sample: &f32| ((sample * 32_768.0).round() as i16).to_le_bytes();
    samples.iter().flat_map(sample).collect()
}

/// The half that receives.
#[derive(Debug)]
pub struct Receiver {
    source: SplitStream<Socket>,
}

impl Receiver {
    /// The next message; `None` once the session is closed and all went well. Cancel safe.
    ///
    /// # Errors
    /// [`ClientError::Closed`] when the server closed for a reason, [`ClientError::Connection`] when the connection
    /// broke, [`ClientError::Protocol`] for what is no message.
    pub async fn next(&mut self) -> Result<Option<ServerMessage>, ClientError> {
        loop {
            match self.source.next().await {
                None => return Ok(None),
                Some(Ok(Message::Text(text))) => {
                    return ServerMessage::parse(&text).map(Some).map_err(ClientError::Protocol);
                }
                Some(Ok(Message::Close(Some(frame)))) if !NORMAL.contains(&frame.code.into()) => {
                    return Err(ClientError::Closed {
                        code: frame.code.into(),
                        reason: frame.reason.to_string(),
                    });
                }
                // Pings are answered by the library; after a close comes the end.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error.into()),
            }
        }
    }
}

/// Lets audio go no faster than a microphone would give it. The clock is tokio's.
#[derive(Debug, Clone, Copy)]
pub struct Pacer {
    started: Instant,
}

impl Pacer {
    /// The first sample is heard now.
    #[must_use]
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Waits until the sample at this position has been heard. Cancel safe.
    pub async fn heard(&self, position: Samples) {
        let after = Duration::try_from_secs_f64(seconds(position)).unwrap_or(Duration::MAX);
        if let Some(at) = self.started.checked_add(after) {
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_become_little_endian_and_saturate() {
        assert_eq!(pcm(&[0.0, 0.5, -1.0, 7.0, f32::NAN]), [0, 0, 0, 0x40, 0, 0x80, 0xff, 0x7f, 0, 0]);
    }

    #[tokio::test]
    async fn a_pacer_lets_no_sample_go_before_its_time() {
        let before = Instant::now();
        let pacer = Pacer::start();
        for position in [0, 160, 1_600, 1_600] {
            pacer.heard(position).await;
            assert!(before.elapsed().as_secs_f64() >= seconds(position));
        }
    }

    #[tokio::test]
    async fn a_refused_handshake_tells_why() {
        let body = br#"{"code":"loading","message":"the model is still being loaded"}"#.to_vec();
        let response =
            http::Response::builder().status(503).header("retry-after", "3").body(Some(body)).unwrap();
        let error = ClientError::from(tungstenite::Error::Http(Box::new(response)));
        assert!(matches!(
            error,
            ClientError::Refused { status: 503, code, retry_after: Some(wait), .. }
                if code == "loading" && wait == Duration::from_secs(3)
        ));
    }
}
