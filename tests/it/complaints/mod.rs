//! What users of WhisperLiveKit complained about most, and at least one test for each of the fifteen: `words` has those
//! about what is written down and when, `serving` those about the server that does it.
//!
//! Where a complaint is about the server, the model is one that needs no weights; where it is about what a model makes
//! of sound, it is the built-in one, in the binary as it is shipped.

mod serving;
mod words;

use std::{fmt::Write as _, time::Duration};

use godctl::asr::{
    client::{self, ClientError},
    protocols::native::{ServerMessage, StateUpdate, Tagged},
    server::ServerOptions,
};
use tokio::net::TcpStream;

use crate::{
    fake::Model,
    operate::{Answer, request},
    server::{PATIENCE, Server, Session, texts},
    support::root,
    wav,
};

async fn ready(sessions: usize) -> Server {
    Server::ready(sessions, Model::Willing, ServerOptions::default()).await
}

/// A session with a server of its own process, whose model has to be loaded first.
async fn connect(address: &str, query: &str) -> Session {
    let connected = async {
        loop {
            match client::connect(&format!("ws://{address}/asr{query}")).await {
                Ok((sender, receiver)) => return Session { sender, receiver, config: None },
                Err(ClientError::Refused { status: 503, .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error}"),
            }
        }
    };
    let mut session = tokio::time::timeout(PATIENCE, connected).await.expect("the model was never loaded");
    let ServerMessage::Tagged(Tagged::Config(config)) = session.next().await else { panic!("no config") };
    session.config = Some(*config);
    session
}

fn fixture(path: &str) -> Vec<u8> {
    std::fs::read(root().join(path)).unwrap()
}

fn sound(path: &str) -> Vec<f32> {
    let (samples, rate) = wav::read(&root().join(path));
    assert_eq!(rate, 16_000);
    samples
}

/// The words of a state, in order.
fn words(state: &StateUpdate<'_>) -> String {
    texts(state).join(" ").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sends a body on a connection of its own, which HTTP/1.0 keeps free of chunks.
async fn post(address: &str, path: &str, content_type: &str, body: &[u8]) -> Answer {
    let mut bytes = format!(
        "POST {path} HTTP/1.0\r\nhost: x\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    )
    .into_bytes();
    bytes.extend_from_slice(body);
    request(TcpStream::connect(address).await.unwrap(), &bytes).await
}

/// Has OpenAI's endpoint transcribe a recording.
async fn transcribe(server: &Server, audio: &[u8], fields: &[(&str, &str)]) -> Answer {
    const BOUNDARY: &str = "----complaint";
    let mut head = String::new();
    for (name, value) in fields {
        write!(head, "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
            .unwrap();
    }
    write!(head, "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\r\n")
        .unwrap();
    let body = [head.as_bytes(), audio, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat();
    let content_type = format!("multipart/form-data; boundary={BOUNDARY}");
    post(&server.address, "/v1/audio/transcriptions", &content_type, &body).await
}
