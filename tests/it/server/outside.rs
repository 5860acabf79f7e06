//! What the server says to who is no session (yet), and what it bears.

use std::sync::mpsc::sync_channel;

use godctl::{
    asr::{
        SttError,
        client::ClientError,
        server::{self, ServerOptions},
    },
    shutdown::Shutdown,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{PATIENCE, Server, Session, texts};
use crate::fake::{self, Model, pcm, spoken};

#[tokio::test]
async fn before_the_model_is_there_everything_answers() {
    let (verdict, loaded) = sync_channel(1);
    let engine = |shutdown: &Shutdown| fake::loading_engine(shutdown, loaded);
    let server = Server::start(engine, ServerOptions::default()).await;
    let (head, body) = server.get("/health", "").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("\"ready\":false"), "{head} {body}");
    let (head, body) = server.get("/ready", "x-request-id: abc-1\r\n").await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after: 1"), "{head}");
    assert!(head.contains("x-request-id: abc-1") && body.contains("\"code\":\"loading\""), "{head} {body}");
    assert!(matches!(
        server.try_connect("").await,
        Err(ClientError::Refused { status: 503, code, retry_after: Some(_), .. }) if code == "loading"
    ));
    verdict.send(Ok(())).unwrap();
    server.engine.ready().await.unwrap();
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("\"name\":\"fake\""), "{head} {body}");
    let (_, body) = server.get("/health", "").await;
    assert!(body.contains("\"ready\":true") && body.contains("\"model\":\"fake\""), "{body}");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_told_to_whoever_asks() {
    let (verdict, loaded) = sync_channel(1);
    let engine = |shutdown: &Shutdown| fake::loading_engine(shutdown, loaded);
    let server = Server::start(engine, ServerOptions::default()).await;
    verdict.send(Err(SttError::Unavailable("no such directory".to_owned()))).unwrap();
    server.engine.ready().await.unwrap_err();
    let (head, body) = server.get("/ready", "").await;
    assert!(head.starts_with("http/1.1 503") && body.contains("no such directory"), "{head} {body}");
    assert!(!head.contains("retry-after"), "waiting does not help: {head}");
    let refused = server.try_connect("").await;
    assert!(matches!(refused, Err(ClientError::Refused { status: 503, code, .. }) if code == "unavailable"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn http_errors_are_objects_with_a_request_id() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    for (path, status, code) in [("/nowhere", "404", "not_found"), ("/asr", "426", "websocket_required")] {
        // An id that does not fit into a log is replaced.
        let (head, body) = server.get(path, "x-request-id: a b\r\n").await;
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("x-request-id: ") && !head.contains("x-request-id: a b"), "{head}");
        let error: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(error["code"], code);
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
    let (head, body) = server.get("/", "").await;
    assert!(head.starts_with("http/1.1 200") && body.contains("/asr"));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn parameters_that_cannot_be_honoured_close_with_4400() {
    let server = Server::ready(1, Model::Willing, ServerOptions::default()).await;
    for query in [
        "?language=tlh",
        "?language=klingon",
        "?task=sing",
        "?mode=half",
        "?words=maybe",
        "?model=other",
        "?policy=x",
        "?hop=0",
    ] {
        let (sender, receiver) = server.try_connect(query).await.unwrap();
        let (error, code, close) = Session { sender, receiver, config: None }.refusal().await;
        assert_eq!((code.as_str(), close), ("bad_request", 4400), "{query}: {error}");
    }
    // None of them took the only slot; a token is not looked at as long as no tokens are configured.
    server.active(0).await;
    let session = server.connect("?token=x&model=fake&task=translate&language=FR&mode=full").await;
    let config = session.config.clone().unwrap();
    assert_eq!((config.language.as_str(), config.task.to_string().as_str()), ("fr", "translate"));
    session.finish().await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_in_an_orderly_way() {
    let options = ServerOptions { max_message_bytes: 64 << 10, ..ServerOptions::default() };
    let server = Server::ready(1, Model::Willing, options).await;
    for bytes in [(64 << 10) + 1, 200 << 10] {
        let mut session = server.connect("").await;
        session.sender.bytes(vec![0; bytes]).await.unwrap();
        let (_, code, close) = session.refusal().await;
        assert_eq!((code.as_str(), close), ("message_too_large", 1009));
        server.active(0).await;
    }
    let mut session = server.connect("").await;
    session.sender.bytes(pcm(&spoken(&[10]))).await.unwrap();
    assert_eq!(texts(&session.finish().await), ["w10"]);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_port_in_use_is_said_plainly() {
    let taken = server::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let error = server::bind(&address).await.unwrap_err().to_string();
    assert_eq!(
        error,
        format!("{address} is already in use; stop the other program or choose another with --listen")
    );
    let error = server::bind("203.0.113.1:80").await.unwrap_err().to_string();
    assert!(error.contains("choose another address"), "{error}");
}

#[tokio::test]
async fn rubbish_on_the_wire_hurts_only_its_own_connection() {
    let server = Server::ready(2, Model::Willing, ServerOptions::default()).await;
    let mut healthy = server.connect("").await;
    for rubbish in [
        &b"\x00\xff\x13\x37"[..],
        b"GET /asr HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
        b"GET /asr HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\n\
          sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let mut socket = TcpStream::connect(&server.address).await.unwrap();
        socket.write_all(rubbish).await.unwrap();
        socket.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset is an answer, too.
        drop(tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer)).await.unwrap());
    }
    server.active(1).await;
    healthy.sender.audio(&spoken(&[10])).await.unwrap();
    assert_eq!(texts(&healthy.finish().await), ["w10"]);
    server.stop().await.unwrap();
}
