//! Deepgram's protocol over real sockets: with a model that needs no weights, and with Deepgram's own clients.

mod audio;
mod recorded;
mod sdk;
mod session;

use futures_util::{SinkExt as _, StreamExt as _};
use godctl::asr::protocols::deepgram::{ErrorKind, ErrorMessage, Metadata, Results, ServerMessage};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{Message, protocol::frame::coding::CloseCode},
};

use crate::serving::{PATIENCE, Server};

/// Raw audio as the fake model's tests make it.
const PCM: &str = "encoding=linear16&sample_rate=16000";

impl Server {
    async fn listen(&self, query: &str) -> Session {
        let url = format!("ws://{}/v1/listen?{query}", self.address);
        let (socket, response) = connect_async(url).await.unwrap();
        let header = |name: &str| {
            response.headers().get(name).map(|value| value.to_str().unwrap().to_owned()).unwrap_or_default()
        };
        let (request_id, ignored) = (header("dg-request-id"), header("dg-ignored-parameters"));
        Session { socket, request_id, ignored }
    }
}

struct Session {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    request_id: String,
    ignored: String,
}

/// Everything that a session said until it was closed.
#[derive(Debug)]
struct Heard {
    messages: Vec<ServerMessage>,
    close: u16,
    reason: String,
}

impl Session {
    async fn audio(&mut self, bytes: &[u8], chunk: usize) {
        for chunk in bytes.chunks(chunk) {
            self.socket.send(Message::binary(chunk.to_vec())).await.unwrap();
        }
    }

    /// One binary frame, whatever is in it.
    async fn audio_frame(&mut self, bytes: Vec<u8>) {
        self.socket.send(Message::binary(bytes)).await.unwrap();
    }

    async fn text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// The next message, or the close.
    async fn next(&mut self) -> Result<ServerMessage, (u16, String)> {
        loop {
            let message = tokio::time::timeout(PATIENCE, self.socket.next()).await.expect("no message came");
            match message.expect("the connection ended without a close").unwrap() {
                Message::Text(text) => {
                    return Ok(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")));
                }
                Message::Close(frame) => {
                    let frame = frame.expect("a close has a code");
                    return Err((CloseCode::into(frame.code), frame.reason.to_string()));
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    /// The next result that is final.
    async fn final_result(&mut self) -> Results {
        loop {
            if let ServerMessage::Results(results) = self.next().await.unwrap()
                && results.is_final
            {
                return *results;
            }
        }
    }

    /// The next error.
    async fn error(&mut self) -> ErrorMessage {
        loop {
            if let ServerMessage::Error(error) = self.next().await.unwrap() {
                return error;
            }
        }
    }

    /// Everything up to the close.
    async fn rest(mut self) -> Heard {
        let mut messages = Vec::new();
        loop {
            match self.next().await {
                Ok(message) => messages.push(message),
                Err((close, reason)) => return Heard { messages, close, reason },
            }
        }
    }

    /// Says that no more audio comes; everything up to the close.
    async fn finish(mut self) -> Heard {
        self.text(r#"{"type":"CloseStream"}"#).await;
        self.rest().await
    }
}

impl Heard {
    fn results(&self) -> impl Iterator<Item = &Results> {
        self.messages.iter().filter_map(|message| match message {
            ServerMessage::Results(results) => Some(&**results),
            _ => None,
        })
    }

    /// The words of the final results of a channel, in order.
    fn words(&self, channel: usize) -> Vec<&str> {
        self.results()
            .filter(|results| results.is_final && results.channel_index[0] == channel)
            .flat_map(|results| &results.channel.alternatives[0].words)
            .map(|word| word.word.as_str())
            .collect()
    }

    /// The same as one text.
    fn text(&self, channel: usize) -> String {
        self.words(channel).join(" ")
    }

    /// The last message, which is the summary.
    fn summary(&self) -> &Metadata {
        match self.messages.last() {
            Some(ServerMessage::Metadata(metadata)) => metadata,
            other => panic!("the last message is the summary, not {other:?}"),
        }
    }

    /// The last message, which says what was wrong.
    fn last_error(&self) -> (ErrorKind, &str) {
        match self.messages.last() {
            Some(ServerMessage::Error(error)) => (error.variant, &error.description),
            other => panic!("the last message is an error, not {other:?}"),
        }
    }
}
