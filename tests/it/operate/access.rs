//! Tokens, origins and CORS.

use std::time::Duration;

use godctl::asr::server::{Access, NewToken, Origins, ServerOptions, Tokens};

use super::{Keys, Server, soon};
use crate::fake::spoken;

fn guarded(keys: &Keys) -> ServerOptions {
    ServerOptions { access: keys.access(), ..ServerOptions::default() }
}

#[tokio::test]
async fn every_route_but_health_wants_a_token_once_there_is_one() {
    let keys = Keys::new();
    let server = Server::start(1, guarded(&keys)).await;
    assert_eq!(server.get("/health", "").await.status, 200);
    let paths = [
        "/",
        "/ready",
        "/metrics",
        "/asr",
        "/v1/listen",
        "/v1/models",
        "/openapi.json",
        "/nowhere",
        "/health/",
    ];
    for path in paths {
        let answer = server.get(path, "").await;
        assert_eq!(answer.status, 401, "{path}");
        assert!(answer.head.contains("www-authenticate: bearer"), "{answer:?}");
        assert!(answer.head.contains("content-type: application/json"), "{answer:?}");
    }
    let token = keys.free.expose();
    let good = [
        ("/ready".to_owned(), format!("authorization: Bearer {token}\r\n")),
        ("/ready".to_owned(), format!("authorization: Token {token}\r\n")),
        ("/ready".to_owned(), format!("Authorization: bearer {token}\r\n")),
        (format!("/ready?token={token}"), String::new()),
        (format!("/metrics?x=1&token={token}"), String::new()),
        (format!("/?token={token}"), String::new()),
    ];
    for (path, headers) in good {
        assert_eq!(server.get(&path, &headers).await.status, 200, "{path} {headers}");
    }
    let bad = [
        ("/ready?token=", String::new()),
        ("/ready?token=wrong", String::new()),
        ("/ready", "authorization: Bearer wrong\r\n".to_owned()),
        ("/ready", format!("authorization: Basic {token}\r\n")),
        ("/ready", format!("authorization: {token}\r\n")),
        ("/ready", format!("x-api-key: {token}\r\n")),
        ("/ready", format!("cookie: token={token}\r\n")),
    ];
    for (path, headers) in bad {
        assert_eq!(server.get(path, &headers).await.status, 401, "{path} {headers}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_refusal_has_the_shape_that_clients_of_the_path_know() {
    let keys = Keys::new();
    let server = Server::start(1, guarded(&keys)).await;
    let native = server.get("/asr", "").await.json();
    assert_eq!(native["code"], "unauthorized");
    assert!(native["message"].as_str().unwrap().contains("Authorization: Bearer"), "{native}");
    let openai = server.get("/v1/audio/transcriptions", "").await.json();
    assert_eq!(openai["error"]["code"], "invalid_api_key");
    assert_eq!(openai["error"]["type"], "invalid_request_error");
    assert!(openai["error"]["param"].is_null(), "{openai}");
    let deepgram = server.get("/v1/listen", "x-request-id: r-1\r\n").await.json();
    assert_eq!(deepgram["err_code"], "INVALID_AUTH");
    assert_eq!(deepgram["request_id"], "r-1");
    // Somebody with a browser gets a field for the token; a program does not.
    let page = server.get("/", "accept: text/html,*/*\r\n").await;
    assert!(
        page.status == 401
            && page.body.contains("name=token")
            && page.head.contains("content-security-policy")
    );
    assert_eq!(server.get("/", "").await.json()["code"], "unauthorized");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_websocket_takes_its_token_from_wherever_the_client_can_put_it() {
    let keys = Keys::new();
    let server = Server::start(4, guarded(&keys)).await;
    let refused = server.connect("/asr", &[]).await.unwrap_err();
    assert_eq!((refused.status, refused.body["code"].as_str()), (401, Some("unauthorized")));
    assert!(refused.headers.contains_key("www-authenticate"));
    assert_eq!(server.connect("/asr?token=no", &[]).await.unwrap_err().status, 401);

    let token = keys.free.expose();
    let query = format!("/asr?token={token}&language=en");
    let [bearer, plain] = ["Bearer", "Token"].map(|scheme| format!("{scheme} {token}"));
    let [pair, pair2] = ["token", "bearer"].map(|name| format!("{name}, {token}"));
    let [own, openai] =
        ["bearer.", "openai-insecure-api-key."].map(|prefix| format!("realtime, {prefix}{token}"));
    type Headers<'a> = &'a [(&'a str, &'a str)];
    let cases: [(&str, Headers<'_>, Option<&str>); 7] = [
        (&query, &[], None),
        ("/asr", &[("authorization", &bearer)], None),
        ("/asr", &[("authorization", &plain)], None),
        ("/asr", &[("sec-websocket-protocol", &pair)], Some("token")),
        ("/asr", &[("sec-websocket-protocol", &pair2)], Some("bearer")),
        ("/asr", &[("sec-websocket-protocol", &own)], Some("realtime")),
        ("/asr", &[("sec-websocket-protocol", &openai)], Some("realtime")),
    ];
    for (path, headers, chosen) in cases {
        let mut socket = server.connect(path, headers).await.unwrap();
        let answered =
            socket.upgraded.headers.get("sec-websocket-protocol").map(|value| value.to_str().unwrap());
        assert_eq!(
            answered, chosen,
            "{headers:?}: browsers want one of what they offered, and never the token"
        );
        let config = socket.next().await.unwrap();
        assert_eq!(config["type"], "config");
        assert!(!config.to_string().contains(token), "{config}");
        socket.audio(&spoken(&[10])).await;
        assert_eq!(socket.finish().await, "w10");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn browsers_that_offer_a_token_connect_where_nobody_wants_one() {
    let server = Server::start(1, ServerOptions::default()).await;
    let socket = server.connect("/asr", &[("sec-websocket-protocol", "token, anything")]).await.unwrap();
    assert_eq!(socket.upgraded.headers["sec-websocket-protocol"], "token");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn each_token_has_its_own_share_and_a_session_that_ends_gives_it_back() {
    let keys = Keys::new();
    let options = ServerOptions { max_sessions_per_token: Some(2), ..guarded(&keys) };
    let server = Server::start(8, options).await;
    let [free, narrow] = [&keys.free, &keys.narrow].map(|key| format!("/asr?token={}", key.expose()));
    let mut first = server.connect(&narrow, &[]).await.unwrap();
    assert_eq!(first.next().await.unwrap()["type"], "config");
    let mut second = server.connect(&narrow, &[]).await.unwrap();
    assert_eq!(second.closed().await, (1013, Some("token_busy".to_owned())));
    // Others are not concerned, and have the server's own limit.
    let mut others = Vec::new();
    for _ in 0..2 {
        let mut socket = server.connect(&free, &[]).await.unwrap();
        assert_eq!(socket.next().await.unwrap()["type"], "config");
        others.push(socket);
    }
    let mut third = server.connect(&free, &[]).await.unwrap();
    assert_eq!(third.closed().await, (1013, Some("token_busy".to_owned())));
    // Recordings count like streams.
    let upload = format!(
        "POST /v1/listen HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Token {}\r\ncontent-length: 0\r\n\r\n",
        keys.narrow.expose()
    );
    let socket = tokio::net::TcpStream::connect(&server.address).await.unwrap();
    let refused = super::request(socket, &upload).await;
    assert!(refused.status == 503 && refused.head.contains("retry-after: 5"), "{refused:?}");
    drop(first);
    server.active(2).await;
    let mut again = server.connect(&narrow, &[]).await.unwrap();
    assert_eq!(again.next().await.unwrap()["type"], "config");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn tokens_can_be_replaced_while_sessions_run() {
    let keys = Keys::new();
    let options = guarded(&keys);
    let access: Access = options.access.clone();
    let server = Server::start(4, options).await;
    let [old, kept] = [&keys.free, &keys.narrow].map(|key| format!("/asr?token={}", key.expose()));
    let (mut ends, mut stays) =
        (server.connect(&old, &[]).await.unwrap(), server.connect(&kept, &[]).await.unwrap());
    // Speech without a pause after it: only the end makes it final.
    for socket in [&mut ends, &mut stays] {
        socket.audio(&spoken(&[10, 20])[..3_200]).await;
        socket.send("{\"type\":\"marker\",\"name\":\"arrived\"}").await;
        while socket.next().await.unwrap()["type"] != "marker" {}
    }
    let fresh = NewToken::generate().unwrap();
    // One goes, one stays under another name and with other limits, and one is new.
    let entries = [keys.narrow.entry("renamed", None, None), fresh.entry("fresh", None, None)];
    access.replace(Tokens::parse(&entries.map(Result::unwrap).join("\n")).unwrap());
    assert_eq!(soon(ends.words()).await, "w10 w20");
    assert_eq!(ends.closed().await, (1008, Some("token_revoked".to_owned())));
    assert_eq!(server.connect(&old, &[]).await.unwrap_err().status, 401);
    let mut new = server.connect(&format!("/asr?token={}", fresh.expose()), &[]).await.unwrap();
    new.audio(&spoken(&[30])).await;
    assert_eq!((stays.finish().await, new.finish().await), ("w10 w20".to_owned(), "w30".to_owned()));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_with_its_last_words() {
    let options = ServerOptions { max_session: Some(Duration::from_millis(600)), ..ServerOptions::default() };
    let server = Server::start(1, options).await;
    let mut socket = server.connect("/asr", &[]).await.unwrap();
    // Speech without a pause after it: only the end makes it final.
    socket.audio(&spoken(&[10, 20, 30])[..4_800]).await;
    assert_eq!(soon(socket.words()).await, "w10 w20 w30");
    assert_eq!(socket.closed().await, (1008, Some("session_too_long".to_owned())));
    server.active(0).await;

    let mut deepgram = server.connect("/v1/listen?encoding=linear16&sample_rate=16000", &[]).await.unwrap();
    deepgram.audio(&spoken(&[10, 20, 30])[..4_800]).await;
    let mut words = Vec::new();
    let code = loop {
        match deepgram.next().await {
            Ok(message) if message["is_final"] == true => {
                words.push(message["channel"]["alternatives"][0]["transcript"].clone())
            }
            Ok(_) => {}
            Err(code) => break code,
        }
    };
    assert_eq!((words, code), (vec!["w10 w20 w30".into()], 1008));
    server.active(0).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn pages_of_other_origins_open_no_websocket() {
    let options =
        ServerOptions { allow_origins: Origins::new(["https://app.example"]), ..ServerOptions::default() };
    let server = Server::start(8, options).await;
    let own = format!("http://{}", server.address);
    for origin in
        [own.as_str(), "http://localhost:5173", "https://app.example", "chrome-extension://abcdefgh"]
    {
        assert!(server.connect("/asr", &[("origin", origin)]).await.is_ok(), "{origin}");
    }
    assert!(server.connect("/asr", &[]).await.is_ok(), "programs have no origin");
    for path in ["/asr", "/v1/listen"] {
        for origin in ["https://evil.example", "null", "http://app.example"] {
            let refused = server.connect(path, &[("origin", origin)]).await.unwrap_err();
            assert_eq!(refused.status, 403, "{origin}");
            assert!(refused.body.to_string().contains("--allow-origin"), "{}", refused.body);
        }
    }
    // What is no websocket is the business of CORS.
    assert_eq!(server.get("/ready", "origin: https://evil.example\r\n").await.status, 200);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn scripts_of_listed_origins_may_read_answers() {
    let keys = Keys::new();
    let options = ServerOptions { cors_origins: Origins::new(["https://app.example"]), ..guarded(&keys) };
    let server = Server::start(1, options).await;
    let allowed = "access-control-allow-origin: https://app.example";
    // The browser asks first, and can't send a token with that.
    let asks = "origin: https://app.example\r\naccess-control-request-method: POST\r\n\
                access-control-request-headers: authorization\r\n";
    let request =
        format!("OPTIONS /v1/audio/transcriptions HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{asks}\r\n");
    let preflight =
        super::request(tokio::net::TcpStream::connect(&server.address).await.unwrap(), &request).await;
    assert_eq!(preflight.status, 200, "{preflight:?}");
    assert!(preflight.head.contains(allowed) && preflight.head.contains("authorization"), "{preflight:?}");
    // A refusal can be read, too.
    let refused = server.get("/ready", "origin: https://app.example\r\n").await;
    assert!(refused.status == 401 && refused.head.contains(allowed), "{refused:?}");
    // So can what clients of each protocol look for in the headers.
    let exposed = refused.head.lines().find_map(|line| line.strip_prefix("access-control-expose-headers: "));
    let exposed: Vec<&str> = exposed.unwrap_or_default().split(',').map(str::trim).collect();
    for header in [
        "retry-after",
        "x-request-id",
        "dg-request-id",
        "dg-ignored-parameters",
        "x-godctl-model",
        "x-godctl-warning",
    ] {
        assert!(exposed.contains(&header), "{header}: {refused:?}");
    }
    let other = server.get("/health", "origin: https://evil.example\r\n").await;
    assert!(other.status == 200 && !other.head.contains("access-control-allow-origin"), "{other:?}");
    server.stop().await.unwrap();
}
