//! What the server counts, and `/metrics`: OpenMetrics text, which Prometheus reads. No label holds what a client sent.

use std::{
    fmt,
    sync::{Arc, Weak, atomic::AtomicU64},
    time::Duration,
};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse as _, Response},
};
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, MetricEncoder, NoLabelSet, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
        info::Info,
    },
    registry::{Registry, Unit},
};

use super::{error::ApiError, listen::App, live::Protocol};
use crate::asr::{
    engine::{Engine, EngineState, EngineStats, FAILING, FAILING_S, StreamInput},
    stream::seconds,
};

/// Audio that waits to be taken by the engine.
pub(super) type Queued = Weak<StreamInput>;

/// From a tenth of a second, which nobody notices, to a minute, which everybody does.
const LATENCIES: [f64; 15] = [0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 8.0, 13.0, 20.0, 30.0, 60.0];

type One = [(&'static str, &'static str); 1];
type Two = [(&'static str, &'static str); 2];
type Seconds = Counter<f64, AtomicU64>;

/// Everything that is counted. Cheap to clone.
#[derive(Clone)]
pub(super) struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    sessions: Family<One, Gauge>,
    opened: Family<One, Counter>,
    ended: Family<Two, Counter>,
    received: Family<One, Seconds>,
    lost: Family<One, Seconds>,
    commit: Family<One, Histogram>,
    first_word: Family<One, Histogram>,
    stream_errors: Family<One, Counter>,
    requests: Family<Two, Counter>,
    http_errors: Family<One, Counter>,
    connections: Gauge,
    connections_refused: Counter,
    queues: Arc<Mutex<Vec<Queued>>>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

fn latencies() -> Histogram {
    Histogram::new(LATENCIES)
}

impl Metrics {
    pub(super) fn new(engine: &Engine) -> Self {
        let inner = Inner {
            registry: Registry::default(),
            sessions: Family::default(),
            opened: Family::default(),
            ended: Family::default(),
            received: Family::default(),
            lost: Family::default(),
            commit: Family::new_with_constructor(latencies),
            first_word: Family::new_with_constructor(latencies),
            stream_errors: Family::default(),
            requests: Family::default(),
            http_errors: Family::default(),
            connections: Gauge::default(),
            connections_refused: Counter::default(),
            queues: Arc::default(),
        };
        Self(Arc::new(inner.registered(engine)))
    }

    pub(super) fn opened(&self, protocol: Protocol) {
        let label = [("protocol", protocol.name())];
        self.0.sessions.get_or_create(&label).inc();
        self.0.opened.get_or_create(&label).inc();
    }

    pub(super) fn closed(&self, protocol: Protocol, how: &'static str) {
        self.0.sessions.get_or_create(&[("protocol", protocol.name())]).dec();
        self.0.ended.get_or_create(&[("protocol", protocol.name()), ("how", how)]).inc();
    }

    pub(super) fn received(&self, protocol: Protocol, seconds: f64) {
        self.0.received.get_or_create(&[("protocol", protocol.name())]).inc_by(seconds);
    }

    pub(super) fn lost(&self, why: &'static str, seconds: f64) {
        self.0.lost.get_or_create(&[("reason", why)]).inc_by(seconds);
    }

    pub(super) fn committed(&self, protocol: Protocol, latency: Duration) {
        self.0.commit.get_or_create(&[("protocol", protocol.name())]).observe(latency.as_secs_f64());
    }

    pub(super) fn first_word(&self, protocol: Protocol, latency: Duration) {
        self.0.first_word.get_or_create(&[("protocol", protocol.name())]).observe(latency.as_secs_f64());
    }

    /// A stream that was refused, or something in it that failed.
    pub(super) fn stream_error(&self, kind: &'static str) {
        self.0.stream_errors.get_or_create(&[("kind", kind)]).inc();
    }

    /// A request was answered.
    pub(super) fn answered(&self, path: &str, response: &Response) {
        let labels = [("route", route(path)), ("status", class(response.status()))];
        self.0.requests.get_or_create(&labels).inc();
        if let Some(error) = response.extensions().get::<ApiError>() {
            self.0.http_errors.get_or_create(&[("kind", error.code())]).inc();
        }
    }

    /// One connection more, until what this gives is dropped.
    pub(super) fn connection(&self) -> Open {
        self.0.connections.inc();
        Open(self.0.connections.clone())
    }

    pub(super) fn connection_refused(&self) {
        self.0.connections_refused.inc();
    }

    /// Has the audio that waits in this stream counted for as long as the stream lives.
    pub(super) fn watch(&self, queue: Queued) {
        let mut queues = self.0.queues.lock();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(queue);
    }
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Inner {
    fn registered(mut self, engine: &Engine) -> Self {
        let mut registry = Registry::with_prefix("godctl");
        let build = [("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "Which version runs", Info::new(build));
        registry.register("asr_sessions", "Sessions open now", self.sessions.clone());
        registry.register("asr_sessions_opened", "Sessions opened", self.opened.clone());
        registry.register("asr_sessions_ended", "Sessions that have ended, and how", self.ended.clone());
        let second = || Unit::Seconds;
        let received = "Audio received";
        registry.register_with_unit("asr_audio_received", received, second(), self.received.clone());
        let lost =
            "Audio received but not transcribed: refused after its stream's end, or abandoned by its client";
        registry.register_with_unit("asr_audio_lost", lost, second(), self.lost.clone());
        let commit = "From the arrival of the sound at a word's end until the word was final";
        registry.register_with_unit("asr_commit_latency", commit, second(), self.commit.clone());
        let first = "From the arrival of the sound at the start of an utterance's first word until it was first shown";
        registry.register_with_unit("asr_first_word_latency", first, second(), self.first_word.clone());
        let errors = "Streams refused and windows failed, by kind";
        registry.register("asr_errors", errors, self.stream_errors.clone());
        registry.register("http_requests", "Requests answered", self.requests.clone());
        registry.register(
            "http_errors",
            "Requests answered with an error, by kind",
            self.http_errors.clone(),
        );
        registry.register("http_connections", "Connections open now", self.connections.clone());
        let refused = "Connections closed at once because there were too many";
        registry.register("http_connections_refused", refused, self.connections_refused.clone());
        registry.register_collector(Box::new(EngineCollector {
            engine: engine.clone(),
            queues: Arc::clone(&self.queues),
        }));
        self.registry = registry;
        self
    }
}

/// A bounded set of names for paths, which clients may make up.
fn route(path: &str) -> &'static str {
    const ROUTES: [&str; 9] = [
        "/v1/audio/transcriptions",
        "/v1/audio/translations",
        "/v1/listen",
        "/v1/models",
        "/asr",
        "/health",
        "/ready",
        "/metrics",
        "/",
    ];
    ROUTES.into_iter().find(|route| *route == path).unwrap_or("other")
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() {
        100..=199 => "1xx",
        200..=299 => "2xx",
        300..=399 => "3xx",
        400..=499 => "4xx",
        _ => "5xx",
    }
}

/// What the engine and the process know themselves, asked at each scrape.
#[derive(Debug)]
struct EngineCollector {
    engine: Engine,
    queues: Arc<Mutex<Vec<Queued>>>,
}

impl Collector for EngineCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut put = |name: &str, help: &str, metric: &dyn Encode| {
            let encoder = encoder.encode_descriptor(name, help, None, metric.kind())?;
            metric.write(encoder)
        };
        let stats = self.engine.stats();
        let loaded = matches!(*self.engine.state().borrow(), EngineState::Ready(_));
        let ready = loaded && self.engine.failing().is_none();
        let works =
            "1 when the model is loaded and has not failed on each of its last windows, as /ready says";
        put("asr_ready", works, &ConstGauge::new(i64::from(ready)))?;
        let loaded = "How long the model took to load, the last time";
        put("asr_model_load_seconds", loaded, &ConstGauge::new(stats.load_time_s))?;
        let restarts = "Times that the model was loaded again after a panic";
        put("asr_model_restarts", restarts, &ConstCounter::new(stats.restarts))?;
        let limit = i64::try_from(stats.limit).unwrap_or(i64::MAX);
        put("asr_streams_limit", "Streams that can be open at once", &ConstGauge::new(limit))?;
        let late = "Streams refused because the machine was behind";
        put("asr_streams_refused_late", late, &ConstCounter::new(stats.refused_late))?;
        let aborted = "Streams that were ended with an error of the engine";
        put("asr_streams_aborted", aborted, &ConstCounter::new(stats.aborted))?;
        let stalled = "Of those, streams for which nothing happened although audio waited";
        put("asr_streams_stalled", stalled, &ConstCounter::new(stats.stalled))?;
        let load = "Share of the last seconds that the model worked";
        put("asr_load_ratio", load, &ConstGauge::new(stats.load))?;
        let lag = "How late the newest result of the stream that is furthest behind was";
        put("asr_lag_seconds", lag, &ConstGauge::new(stats.lag_s))?;
        let hop = "The largest factor by which a stream's hop is stretched";
        put("asr_hop_factor", hop, &ConstGauge::new(f64::from(stats.hop_factor)))?;
        let last = i64::try_from(stats.batch).unwrap_or(i64::MAX);
        put("asr_last_batch_windows", "Windows of the last batch", &ConstGauge::new(last))?;
        let queued: u64 =
            self.queues.lock().iter().filter_map(Weak::upgrade).map(|stream| stream.queued()).sum();
        put("asr_queue_seconds", "Audio that waits for the engine", &ConstGauge::new(seconds(queued)))?;
        put("asr_windows", "Windows decoded", &ConstCounter::new(stats.windows))?;
        put("asr_batches", "Batches that those windows came in", &ConstCounter::new(stats.batches))?;
        put("asr_windows_failed", "Windows that failed inside the model", &ConstCounter::new(stats.failed))?;
        let in_a_row = i64::try_from(stats.failed_in_a_row).unwrap_or(i64::MAX);
        let row = format!(
            "Windows that have failed since the last good one; from {FAILING} on, and until {FAILING_S} s without any, \
             the server is not ready"
        );
        put("asr_windows_failed_in_a_row", &row, &ConstGauge::new(in_a_row))?;
        put(
            "asr_streams_refused",
            "Streams refused because the server was full",
            &ConstCounter::new(stats.refused),
        )?;
        let audio = "Audio that the engine has taken in";
        put("asr_audio_processed_seconds", audio, &ConstCounter::new(stats.audio_s))?;
        let worked = "How long the model has worked";
        put("asr_inference_seconds", worked, &ConstCounter::new(stats.inference_s))?;
        let sizes = "Windows of live streams, or of recordings, that were decoded together as one batch: the rows of \
                     each step of the decoder at its begin";
        put("asr_batch_size", sizes, &Batches(&stats))?;
        if stats.audio_s > 0.0 {
            let help =
                "Inference per second of audio, mean since the start; below 1 keeps up with one speaker";
            put("asr_real_time_factor", help, &ConstGauge::new(stats.inference_s / stats.audio_s))?;
        }
        #[cfg(target_os = "linux")]
        {
            if let Some(bytes) = process::resident_bytes() {
                put("process_resident_memory_bytes", "Resident memory", &ConstGauge::new(bytes))?;
            }
            if let Some(count) = process::open_fds() {
                put("process_open_fds", "Open file descriptors", &ConstGauge::new(count))?;
            }
        }
        Ok(())
    }
}

/// The engine's batches as a histogram of their sizes.
#[derive(Debug)]
struct Batches<'a>(&'a EngineStats);

impl EncodeMetric for Batches<'_> {
    #[allow(clippy::cast_precision_loss, reason = "counts of windows are far below 2^52")]
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        let EngineStats { batches, windows, batch_sizes, .. } = self.0;
        // The encoder adds them up.
        let bound = |most: Option<usize>| most.map_or(f64::INFINITY, |most| most as f64);
        let buckets: Vec<(f64, u64)> =
            batch_sizes.counts().map(|(most, count)| (bound(most), count)).collect();
        encoder.encode_histogram::<NoLabelSet>(*windows as f64, *batches, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

/// [`EncodeMetric`] as an object: its own method takes the encoder by value, generically.
trait Encode {
    fn kind(&self) -> MetricType;
    fn write(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error>;
}

impl<M: EncodeMetric> Encode for M {
    fn kind(&self) -> MetricType {
        self.metric_type()
    }

    fn write(&self, encoder: MetricEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode(encoder)
    }
}

#[cfg(target_os = "linux")]
mod process {
    /// From the kernel's own account (proc(5)).
    pub(super) fn resident_bytes() -> Option<i64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS:"))?;
        let kilobytes: i64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kilobytes * 1024)
    }

    pub(super) fn open_fds() -> Option<i64> {
        i64::try_from(std::fs::read_dir("/proc/self/fd").ok()?.count()).ok()
    }
}

/// `GET /metrics`.
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let mut text = String::new();
    match encode(&mut text, &app.metrics.0.registry) {
        Ok(()) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            let message = format!("the metrics cannot be written: {error}");
            ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "metrics", message).into_response()
        }
    }
}
