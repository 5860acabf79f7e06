//! Connecting, losing the connection, TLS, and what is never printed.

use std::sync::Arc;

use super::{
    super::{AmqpBus, AmqpOptions, testing::Bench, uri},
    *,
};
use crate::bus::BusError;

#[tokio::test]
async fn a_lost_connection_is_a_gap_for_live_events_and_none_for_history() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    let options = AmqpOptions { history: true, ..bench.through(&proxy) };
    let far = AmqpBus::open(options, &bench.shutdown).await.unwrap();
    let near = bench.open().await;
    let mut live = far.subscribe(subscription(&["a"], Start::Now, true)).await.unwrap();
    let mut past = far.subscribe(subscription(&["a"], Start::Beginning, true)).await.unwrap();
    publish(&near, &[event("a", 0)]).await;
    assert_eq!(numbers(&mut *live, 1).await, [0]);
    assert_eq!(numbers(&mut *past, 1).await, [0]);
    proxy.set_down(true);
    publish(&near, &[event("a", 1)]).await;
    let away = Instant::now();
    let error = loop {
        match far.publish(&[event("a", 9)], Publish::default()).await {
            Err(error) => break error,
            Ok(_) => assert!(away.elapsed() < PATIENCE, "the loss is not noticed"),
        }
    };
    assert!(matches!(error, BusError::Unreachable { .. }) && error.is_retryable(), "{error:?}");
    proxy.set_down(false);
    let gap = next(&mut *live).await;
    assert!(matches!(&gap, Item::Gap { missed: None, reason } if !reason.is_empty()), "{gap:?}");
    publish(&near, &[event("a", 2)]).await;
    assert_eq!(numbers(&mut *live, 1).await, [2]);
    let mut seen = numbers(&mut *past, 2).await;
    seen.retain(|n| *n != 9);
    assert_eq!(seen, [1, 2]);
    far.close().await;
    near.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn opening_tells_what_is_wrong_and_never_the_password() {
    let Some(bench) = Bench::new().await else { return };
    let address = uri::parse(&bench.url, None, None).unwrap();
    let host = format!("{}:{}", address.host, address.port);
    let try_open = async |url: &str| {
        let url = url.to_owned().try_into().unwrap();
        let options = AmqpOptions { url, connect_timeout: Duration::from_secs(3), ..bench.options() };
        AmqpBus::open(options, &bench.shutdown).await.unwrap_err()
    };
    let wrong = try_open(&format!("amqp://guest:hunter2-marker@{host}")).await;
    assert!(matches!(wrong, BusError::Access { .. }), "{wrong:?}");
    let vhost = try_open(&format!("amqp://{host}/nothing-here")).await;
    assert!(matches!(vhost, BusError::Access { .. }), "{vhost:?}");
    let refused = try_open("amqp://u:hunter2-marker@127.0.0.1:1").await;
    assert!(matches!(refused, BusError::Unreachable { .. }), "{refused:?}");
    let unknown = try_open("amqp://u:hunter2-marker@no-such-host.invalid").await;
    assert!(matches!(unknown, BusError::Unreachable { .. }), "{unknown:?}");
    // A host that takes the connection and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let started = Instant::now();
    let mute = try_open(&format!("amqp://u:hunter2-marker@{}", silent.local_addr().unwrap())).await;
    assert!(
        matches!(mute, BusError::Unreachable { .. }) && started.elapsed() < Duration::from_secs(5),
        "{mute:?}"
    );
    for error in [wrong, vhost, refused, unknown, mute] {
        println!("{error}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error}");
    }
    bench.clean(&[]).await;
}

#[tokio::test]
async fn a_broker_that_is_away_is_found_when_it_is_back() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    proxy.set_down(true);
    let error = AmqpBus::open(bench.through(&proxy), &bench.shutdown).await.unwrap_err();
    assert!(matches!(error, BusError::Unreachable { .. }), "{error}");
    let bus = AmqpBus::open_or_wait(bench.through(&proxy), &bench.shutdown).await.unwrap();
    let error = bus.publish(&[event("a", 1)], Publish::default()).await.unwrap_err();
    assert!(matches!(error, BusError::Unreachable { .. }), "{error}");
    let spec = queue_spec(&bench, "work", &["#"]);
    assert!(bus.queue(spec.clone()).await.is_err_and(|error| error.is_retryable()));
    proxy.set_down(false);
    until("it is back", async || bus.publish(&[event("a", 2)], Publish::default()).await.is_ok()).await;
    let queue = bus.queue(spec.clone()).await.unwrap();
    publish(&bus, &[event("a", 3)]).await;
    take(&*queue).await.lease.ack().await.unwrap();
    bus.close().await;
    bench.clean(&[&spec.name]).await;
}

#[tokio::test]
async fn tls_trusts_the_file_and_says_why_it_does_not_trust() {
    let Some(bench) = Bench::new().await else { return };
    let (proxy, pem) = bench.tls_proxy("localhost").await;
    let (_, stranger) = bench.tls_proxy("localhost").await;
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (good, other, empty) = (file("good.pem", &pem), file("other.pem", &stranger), file("empty.pem", ""));
    let port = proxy.address.port();
    let try_open = async |scheme: &str, host: &str, ca_file: Option<std::path::PathBuf>| {
        let options = AmqpOptions { ca_file, ..bench.by_way_of(scheme, host) };
        AmqpBus::open(AmqpOptions { connect_timeout: Duration::from_secs(5), ..options }, &bench.shutdown)
            .await
    };
    let bus = try_open("amqps", &format!("localhost:{port}"), Some(good.clone())).await.unwrap();
    publish(&bus, &events("a", 100)).await;
    bus.close().await;
    let told: Vec<String> = [
        try_open("amqps", &format!("localhost:{port}"), None).await,
        try_open("amqps", &format!("localhost:{port}"), Some(other)).await,
        try_open("amqps", &format!("127.0.0.1:{port}"), Some(good.clone())).await,
        try_open("amqps", &format!("localhost:{port}"), Some(empty)).await,
        try_open("amqps", &format!("localhost:{port}"), Some(dir.path().join("absent.pem"))).await,
        try_open("amqps", "127.0.0.1:5672", Some(good)).await,
    ]
    .into_iter()
    .map(|opened| {
        let error = opened.unwrap_err();
        assert!(matches!(error, BusError::Invalid(_)), "{error:?}");
        let place = dir.path().display().to_string();
        error.to_string().replace(&place, "DIR").replace(&port.to_string(), "PORT")
    })
    .collect();
    insta::assert_snapshot!(told.join("\n"));
    let plain = try_open("amqp", &format!("localhost:{port}"), None).await.unwrap_err();
    assert!(matches!(plain, BusError::Unreachable { .. }), "{plain:?}");
    bench.clean(&[]).await;
}

/// Writes nothing, but notices a text, also as lapin would show its bytes.
#[derive(Clone)]
struct Detector {
    found: Arc<std::sync::atomic::AtomicBool>,
    lines: Arc<std::sync::atomic::AtomicU64>,
}

const MARKER: &str = "hunter2-marker";

impl std::io::Write for Detector {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        use std::sync::atomic::Ordering::Relaxed;
        let text = String::from_utf8_lossy(bytes);
        let numbers: Vec<String> = MARKER.bytes().map(|byte| byte.to_string()).collect();
        if text.contains(MARKER) || text.contains(&numbers.join(", ")) {
            self.found.store(true, Relaxed);
        }
        self.lines.fetch_add(1, Relaxed);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Up to DEBUG. At TRACE the password is in the log: presumably in the frames that lapin shows at that level.
#[tokio::test]
async fn no_log_line_up_to_debug_holds_the_password() {
    use std::sync::atomic::Ordering::Relaxed;
    let Some(bench) = Bench::new().await else { return };
    let detector = Detector { found: Arc::default(), lines: Arc::default() };
    let writer = detector.clone();
    // lapin logs from threads of its own, so this must be the subscriber of the whole process.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(move || writer.clone())
        .try_init()
        .expect("the only subscriber in these tests");
    let address = uri::parse(&bench.url, None, None).unwrap();
    let url = format!("amqp://guest:{MARKER}@{}:{}", address.host, address.port).try_into().unwrap();
    let wrong = AmqpOptions { url, ..bench.options() };
    AmqpBus::open(wrong, &bench.shutdown).await.unwrap_err();
    let bus = bench.open().await;
    publish(&bus, &[event("a", 1)]).await;
    bus.close().await;
    assert!(detector.lines.load(Relaxed) > 0, "nothing is logged");
    assert!(!detector.found.load(Relaxed), "the password was logged");
    bench.clean(&[]).await;
}
