//! `/metrics`.

use godctl::asr::server::ServerOptions;

use super::Server;
use crate::fake::{silence, spoken};

#[tokio::test]
async fn what_happened_can_be_read_in_numbers() {
    let server = Server::start(1, ServerOptions::default()).await;
    let mut socket = server.connect("/asr", &[]).await.unwrap();
    assert_eq!(socket.next().await.unwrap()["type"], "config");
    assert_eq!(server.metric("godctl_asr_sessions{protocol=\"asr\"}").await, 1.0);
    let mut refused = server.connect("/asr", &[]).await.unwrap();
    assert_eq!(refused.closed().await.0, 1013);
    // Two utterances, and one window that fails.
    socket.audio(&[spoken(&[10, 20]), spoken(&[99]), spoken(&[30]), silence(1.0)].concat()).await;
    assert_eq!(socket.finish().await, "w10 w20 w30");
    drop(socket);
    server.active(0).await;
    assert_eq!(server.get("/nowhere", "").await.status, 404);

    let answer = server.get("/metrics", "").await;
    assert!(answer.head.contains("content-type: application/openmetrics-text"), "{}", answer.head);
    assert!(answer.body.ends_with("# EOF\n"));
    // The last of the session's holders may still be letting go.
    while server.metric("godctl_asr_sessions{protocol=\"asr\"}").await != 0.0 {
        tokio::task::yield_now().await;
    }
    let expected = [
        ("godctl_build_info{version=\"", 1.0),
        ("godctl_asr_ready ", 1.0),
        ("godctl_asr_sessions_opened_total{protocol=\"asr\"}", 1.0),
        ("godctl_asr_errors_total{kind=\"busy\"}", 1.0),
        ("godctl_asr_errors_total{kind=\"inference_failed\"}", 1.0),
        ("godctl_asr_windows_failed_total ", 1.0),
        ("godctl_asr_windows_failed_in_a_row ", 0.0),
        ("godctl_asr_streams_refused_total ", 1.0),
        ("godctl_asr_commit_latency_seconds_count{protocol=\"asr\"}", 3.0),
        ("godctl_asr_first_word_latency_seconds_count{protocol=\"asr\"}", 2.0),
        ("godctl_asr_audio_received_seconds_total{protocol=\"asr\"}", 2.9),
        ("godctl_asr_audio_processed_seconds_total ", 2.9),
        ("godctl_asr_queue_seconds ", 0.0),
        ("godctl_http_requests_total{route=\"other\",status=\"4xx\"}", 1.0),
        ("godctl_http_errors_total{kind=\"not_found\"}", 1.0),
    ];
    for (start, value) in expected {
        let found = server.metric(start).await;
        assert!((found - value).abs() < 1e-6, "{start}: {found}\n{}", server.get("/metrics", "").await.body);
    }
    let body = server.get("/metrics", "").await.body;
    for name in [
        "godctl_asr_model_load_seconds ",
        "godctl_asr_real_time_factor ",
        "godctl_asr_windows_total ",
        "godctl_asr_batches_total ",
        "godctl_asr_inference_seconds_total ",
        "godctl_asr_commit_latency_seconds_bucket{",
        "godctl_asr_sessions_ended_total{protocol=\"asr\",how=\"",
        "godctl_http_connections ",
        "godctl_asr_streams_limit 1",
        "godctl_asr_load_ratio ",
        "godctl_asr_lag_seconds ",
        "godctl_asr_hop_factor 1",
        "godctl_asr_last_batch_windows 1",
        "godctl_asr_model_restarts_total 0",
        "godctl_asr_streams_aborted_total 0",
    ] {
        assert!(body.lines().any(|line| line.starts_with(name)), "{name} is missing:\n{body}");
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn batches_are_counted_by_their_size() {
    let (release, model) = crate::fake::held();
    let server = Server::with(4, model, ServerOptions::default()).await;
    // The model is held up with the first window, so those of the others wait for it, and go together.
    let mut first = server.connect("/asr?hop=10000", &[]).await.unwrap();
    first.audio(&spoken(&[10])[..8_000]).await;
    while server.engine.stats().audio_s == 0.0 {
        tokio::task::yield_now().await;
    }
    let mut sockets = Vec::new();
    for level in 11..14 {
        let mut socket = server.connect("/asr?hop=10000", &[]).await.unwrap();
        socket.audio(&spoken(&[level])).await;
        sockets.push(socket);
    }
    while server.engine.stats().queued_s < 3.0 * 0.599 {
        tokio::task::yield_now().await;
    }
    drop(release);
    assert_eq!(first.finish().await, "w10");
    for (socket, level) in sockets.iter_mut().zip(11..) {
        assert_eq!(socket.finish().await, format!("w{level}"));
    }
    let body = server.get("/metrics", "").await.body;
    assert!(body.contains("# TYPE godctl_asr_batch_size histogram"), "{body}");
    assert!(
        body.contains("# HELP godctl_asr_batch_size Windows of live streams, or of recordings,"),
        "{body}"
    );
    for (most, batches) in [("1.0", 1.0), ("2.0", 1.0), ("3.0", 2.0), ("16.0", 2.0), ("+Inf", 2.0)] {
        let found = server.metric(&format!("godctl_asr_batch_size_bucket{{le=\"{most}\"}}")).await;
        assert_eq!(found, batches, "batches of {most} windows at most: {body}");
    }
    assert_eq!(server.metric("godctl_asr_batch_size_count ").await, 2.0);
    let sum = server.metric("godctl_asr_batch_size_sum ").await;
    assert_eq!((sum, sum), (4.0, server.metric("godctl_asr_windows_total ").await));
    server.stop().await.unwrap();
}

#[tokio::test]
async fn audio_that_nobody_will_hear_is_counted() {
    let (release, model) = crate::fake::held();
    let server = Server::with(1, model, ServerOptions::default()).await;
    let mut socket = server.connect("/asr", &[]).await.unwrap();
    // The first window is held up, so the rest waits.
    socket.audio(&[spoken(&[10, 20]), spoken(&[30]), silence(2.0)].concat()).await;
    socket.send("{\"type\":\"keepalive\"}").await;
    while server.metric("godctl_asr_queue_seconds ").await == 0.0 {
        tokio::task::yield_now().await;
    }
    drop(socket);
    while server.metric("godctl_asr_sessions{protocol=\"asr\"}").await != 0.0 {
        tokio::task::yield_now().await;
    }
    assert!(server.metric("godctl_asr_audio_lost_seconds_total{reason=\"abandoned\"}").await > 1.0);
    assert_eq!(server.metric("godctl_asr_queue_seconds ").await, 0.0);
    drop(release);
    server.stop().await.unwrap();
}
