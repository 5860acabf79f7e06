//! Peers that stall, flood or are too many.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use godctl::asr::server::ServerOptions;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_tungstenite::tungstenite::Message;

use super::{PATIENCE, Server, soon};
use crate::fake::{self, silence, spoken};

/// How a connection ended that was left alone after these bytes: what came back.
async fn left_alone(server: &Server, bytes: &[u8]) -> String {
    let mut socket = TcpStream::connect(&server.address).await.unwrap();
    socket.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A reset is an end, too.
    drop(soon(socket.read_to_end(&mut answer)).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_request_is_closed() {
    let options = ServerOptions { header_timeout: Duration::from_millis(200), ..ServerOptions::default() };
    let server = Server::start(1, options).await;
    let started = Instant::now();
    for bytes in [&b""[..], b"GET /asr HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: "] {
        assert_eq!(left_alone(&server, bytes).await, "", "nothing was asked");
    }
    // One that was answered and then asks nothing more.
    let answer = left_alone(&server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(started.elapsed() < PATIENCE / 2);
    assert_eq!(server.metric("godctl_http_connections ").await, 1.0, "only the one that asks");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn bytes_that_drip_do_not_hold_a_connection() {
    let options = ServerOptions { header_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = Server::start(1, options).await;
    let socket = TcpStream::connect(&server.address).await.unwrap();
    let (mut reader, mut writer) = socket.into_split();
    let drip = async {
        // Never a whole head; ends when the server has closed.
        for byte in b"GET / HTTP/1.1\r\nx-".iter().chain(std::iter::repeat(&b'a')) {
            if writer.write_all(&[*byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let mut rest = Vec::new();
    soon(async {
        tokio::select! {
            _ = reader.read_to_end(&mut rest) => {}
            () = drip => {}
        }
    })
    .await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_connection_too_many_is_turned_away_and_sessions_keep_their_places() {
    let options = ServerOptions { max_connections: 2, ..ServerOptions::default() };
    let server = Server::start(2, options).await;
    let mut session = server.connect("/asr", &[]).await.unwrap();
    let idle = TcpStream::connect(&server.address).await.unwrap();
    let mut third = TcpStream::connect(&server.address).await.unwrap();
    let mut answer = String::new();
    soon(third.read_to_string(&mut answer)).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503") && head.contains("retry-after"), "{answer}");
    let error: serde_json::Value = serde_json::from_str(body).unwrap();
    assert_eq!(error["code"], "too_many_connections");
    assert!(
        head.contains(&format!("content-length: {}\r\n", body.len()) as &str)
            || head.ends_with(&format!("content-length: {}", body.len()))
    );
    session.audio(&spoken(&[10])).await;
    assert_eq!(session.finish().await, "w10");
    drop(idle);
    drop(session);
    // Both places are free again.
    let mut refused = 1.0;
    for _ in 0..1_000 {
        let Ok(answer) = tokio::time::timeout(PATIENCE, server.get("/metrics", "")).await else { break };
        if answer.status == 200 {
            refused = answer
                .body
                .lines()
                .find_map(|line| line.strip_prefix("godctl_http_connections_refused_total "))
                .unwrap()
                .parse()
                .unwrap();
            break;
        }
    }
    assert!(refused >= 1.0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_takes_nothing_is_dropped_and_others_do_not_notice() {
    let options = ServerOptions { send_timeout: Duration::from_millis(300), ..ServerOptions::default() };
    let server = Server::start(2, options).await;
    let mut slow = server.connect("/asr?words=true", &[]).await.unwrap();
    let mut other = server.connect("/asr", &[]).await.unwrap();
    // Far more state than sockets hold, and nobody reads it. Once the server has dropped the session, sending fails.
    let speech: Vec<f32> = (0..40_u8).flat_map(|i| spoken(&[10 + i, 95, 11, 93])).collect();
    let flood = async {
        let bytes = fake::pcm(&speech);
        while slow.stream.send(Message::binary(bytes.clone())).await.is_ok() {}
    };
    soon(flood).await;
    server.active(1).await;
    other.audio(&spoken(&[10, 20])).await;
    assert_eq!(other.finish().await, "w10 w20");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_frame_of_100_mb_is_refused_before_it_is_held_and_nobody_else_notices() {
    let server = Server::start(2, ServerOptions::default()).await;
    let mut other = server.connect("/asr", &[]).await.unwrap();
    let huge = server.connect("/asr", &[]).await.unwrap();
    let before = server.metric("godctl_process_resident_memory_bytes ").await;
    let (mut sink, mut source) = huge.stream.split();
    let send = async {
        // The server closes while this goes on.
        drop(sink.send(Message::binary(vec![0; 100 << 20])).await);
    };
    let listen = async {
        loop {
            match source.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return Some(u16::from(frame.code)),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    };
    let (_, code) = soon(async { tokio::join!(send, listen) }).await;
    // A peer that goes on sending may see a reset before it reads the reason.
    assert!(code.is_none_or(|code| code == 1009), "{code:?}");
    let after = server.metric("godctl_process_resident_memory_bytes ").await;
    // The client's own 100 MB are in this process.
    assert!(after - before < 160e6, "{before} {after}");
    server.active(1).await;
    other.audio(&spoken(&[10])).await;
    assert_eq!(other.finish().await, "w10");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn malformed_json_never_ends_a_session() {
    let server = Server::start(1, ServerOptions::default()).await;
    let mut socket = server.connect("/asr", &[]).await.unwrap();
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for bad in ["", "{", "null", "\u{0}", "{\"type\":", "{\"type\":5}", "[[[[", "\u{feff}{}", deep.as_str()] {
        socket.send(Message::text(bad)).await;
        loop {
            let message = socket.next().await.unwrap();
            if message["type"] == "error" {
                assert_eq!(message["code"], "bad_message", "{message}");
                break;
            }
        }
    }
    socket.audio(&[spoken(&[10]), silence(0.3)].concat()).await;
    assert_eq!(socket.finish().await, "w10");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_thousand_connects_and_drops_leave_nothing_behind() {
    let server = Server::start(4, ServerOptions::default()).await;
    for round in 0..250 {
        // Four at a time, each gone at another point of its life.
        let half = async {
            let mut socket = TcpStream::connect(&server.address).await.unwrap();
            drop(socket.write_all(b"GET /asr HTTP/1.1\r\nhost: x\r\nupgrade: web").await);
        };
        let upgraded = async { drop(server.connect("/asr", &[]).await) };
        let speaking = async {
            if let Ok(mut socket) =
                server.connect("/v1/listen?encoding=linear16&sample_rate=16000", &[]).await
            {
                drop(socket.stream.send(Message::binary(fake::pcm(&spoken(&[10])))).await);
            }
        };
        let nothing = async { drop(TcpStream::connect(&server.address).await) };
        Box::pin(soon(async { tokio::join!(half, upgraded, speaking, nothing) })).await;
        if round % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    server.active(0).await;
    let settled = async {
        while server.metric("godctl_http_connections ").await != 1.0 {
            tokio::task::yield_now().await;
        }
    };
    soon(settled).await;
    for protocol in ["asr", "listen"] {
        assert_eq!(server.metric(&format!("godctl_asr_sessions{{protocol=\"{protocol}\"}}")).await, 0.0);
    }
    let mut socket = server.connect("/asr", &[]).await.unwrap();
    socket.audio(&spoken(&[10])).await;
    assert_eq!(socket.finish().await, "w10");
    server.stop().await.unwrap();
}
