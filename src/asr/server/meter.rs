//! What is measured of a session's streams, and the line that sums them up when it has ended.
//!
//! Latency is told from the sound: the time from when the samples at a word's end (or start) arrived at the server
//! until the word was final (or first shown). So it holds whatever the size of the chunks, and a sender that is faster
//! than real time sees the queue it makes.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tracing::info;

use super::{live::Protocol, metrics::Metrics};
use crate::asr::stream::{Samples, StreamEvent, samples_of_seconds, seconds};

/// Audio that one mark stands for at least; so much may a latency be overstated.
const STEP: Samples = 320;
/// Marks kept. Words are final within a window and an inbox, which are a minute together; this is 80 s and more.
const MARKS: usize = 4_096;

/// What is measured of one stream of a session.
#[derive(Debug)]
pub(super) struct Meter {
    tally: Arc<Tally>,
    /// Samples handed to the engine.
    received: AtomicU64,
    heard: Mutex<Heard>,
}

#[derive(Debug, Default)]
struct Heard {
    arrivals: Arrivals,
    /// The running utterance has shown a word.
    shown: bool,
}

/// What all streams of a session amount to. Its end is told when the last of them is gone.
#[derive(Debug)]
pub(super) struct Tally {
    session: String,
    protocol: Protocol,
    token: Option<String>,
    metrics: Metrics,
    opened: Instant,
    sums: Mutex<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    streams: usize,
    /// Samples of the longest stream.
    audio: Samples,
    /// Milliseconds until words were final.
    commit: Quantiles,
    /// Milliseconds until the first word of an utterance was shown.
    first_word: Quantiles,
    utterances: u64,
    words: u64,
    failed: u64,
    /// Samples that were not transcribed.
    lost: Samples,
    /// Streams that have said everything.
    complete: usize,
    ended: Option<&'static str>,
}

impl Meter {
    pub(super) fn new(tally: Arc<Tally>) -> Self {
        tally.sums.lock().streams += 1;
        Self { tally, received: AtomicU64::new(0), heard: Mutex::default() }
    }

    /// Samples handed to the engine so far.
    pub(super) fn received(&self) -> Samples {
        self.received.load(Ordering::Relaxed)
    }

    /// Says how the session ends, in words for an operator; the first call counts.
    pub(super) fn ended(&self, how: &'static str) {
        self.tally.sums.lock().ended.get_or_insert(how);
    }

    /// So many samples came in now.
    pub(super) fn arrived(&self, samples: usize, now: Instant) {
        let samples = samples as u64;
        let end = self.received.fetch_add(samples, Ordering::Relaxed) + samples;
        self.heard.lock().arrivals.note(end, now);
        let Tally { protocol, metrics, sums, .. } = &*self.tally;
        let mut sums = sums.lock();
        sums.audio = sums.audio.max(end);
        metrics.received(*protocol, seconds(samples));
    }

    /// So many samples came in but will not be transcribed.
    pub(super) fn lost(&self, samples: Samples, why: &'static str) {
        if samples > 0 {
            self.tally.sums.lock().lost += samples;
            self.tally.metrics.lost(why, seconds(samples));
        }
    }

    /// The engine said this now.
    pub(super) fn observe(&self, event: &StreamEvent, now: Instant) {
        let Tally { protocol, metrics, sums, .. } = &*self.tally;
        let (mut heard, mut sums) = (self.heard.lock(), sums.lock());
        match event {
            StreamEvent::Hypothesis { committed, tail, .. } => {
                if let Some(first) = committed.first().or_else(|| tail.first())
                    && !heard.shown
                {
                    heard.shown = true;
                    if let Some(latency) = heard.arrivals.since(first.start, now) {
                        sums.first_word.add(latency);
                        metrics.first_word(*protocol, latency);
                    }
                }
                sums.words += committed.len() as u64;
                for word in committed {
                    if let Some(latency) = heard.arrivals.since(word.end, now) {
                        sums.commit.add(latency);
                        metrics.committed(*protocol, latency);
                    }
                }
            }
            StreamEvent::UtteranceEnded(utterance) => {
                sums.utterances += u64::from(!utterance.text.is_empty());
                heard.shown = false;
            }
            StreamEvent::Failed { .. } => {
                sums.failed += 1;
                metrics.stream_error("inference_failed");
            }
            StreamEvent::Ended { .. } => sums.complete += 1,
            StreamEvent::SpeechStarted { .. } | StreamEvent::Marker(_) => {}
        }
    }
}

impl Tally {
    pub(super) fn new(session: &str, protocol: Protocol, token: Option<&str>, metrics: Metrics) -> Self {
        metrics.opened(protocol);
        let (session, token) = (session.to_owned(), token.map(str::to_owned));
        Self { session, protocol, token, metrics, opened: Instant::now(), sums: Mutex::default() }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        let sums = self.sums.get_mut();
        let complete = sums.complete == sums.streams;
        let ended = sums.ended.unwrap_or(if complete { "everything was said" } else { "cut off" });
        self.metrics.closed(self.protocol, ended);
        let rounded = |seconds: f64| (seconds * 1e3).round() / 1e3;
        info!(
            session = self.session,
            protocol = self.protocol.name(),
            token = self.token.as_deref(),
            streams = sums.streams,
            audio_s = rounded(seconds(sums.audio)),
            lost_s = rounded(seconds(sums.lost)),
            utterances = sums.utterances,
            words = sums.words,
            failed_windows = sums.failed,
            commit_p50_ms = sums.commit.quantile(0.5),
            commit_p95_ms = sums.commit.quantile(0.95),
            first_word_p50_ms = sums.first_word.quantile(0.5),
            first_word_p95_ms = sums.first_word.quantile(0.95),
            open_s = rounded(self.opened.elapsed().as_secs_f64()),
            complete,
            ended,
            "session closed"
        );
    }
}

/// When the samples up to which position had arrived.
#[derive(Debug, Default)]
struct Arrivals {
    marks: VecDeque<Mark>,
}

#[derive(Debug, Clone, Copy)]
struct Mark {
    start: Samples,
    end: Samples,
    at: Instant,
}

impl Arrivals {
    fn note(&mut self, end: Samples, at: Instant) {
        let start = self.marks.back().map_or(0, |mark| mark.end);
        match self.marks.back_mut() {
            Some(last) if end - last.start <= STEP => last.end = end,
            _ => self.marks.push_back(Mark { start, end, at }),
        }
        if self.marks.len() > MARKS {
            self.marks.pop_front();
        }
    }

    /// The time since the sound at this second arrived; `None` where that is not known any more. Later calls must ask
    /// for later sound, which is how words become final.
    fn since(&mut self, second: f64, now: Instant) -> Option<Duration> {
        let position = samples_of_seconds(second);
        let newest = self.marks.back()?.end;
        // The end of a word may lie a little behind the newest sample.
        let position = position.min(newest);
        while self.marks.front().is_some_and(|mark| mark.end < position) {
            self.marks.pop_front();
        }
        let mark = self.marks.front().filter(|mark| mark.start <= position)?;
        Some(now.saturating_duration_since(mark.at))
    }
}

/// Durations by size: what is larger than a tenth more is told apart, from 1 ms to a quarter of an hour.
#[derive(Debug)]
struct Quantiles {
    counts: [u32; BUCKETS],
    total: u32,
}

const BUCKETS: usize = 146;
const GROWTH: f64 = 1.1;

impl Default for Quantiles {
    fn default() -> Self {
        Self { counts: [0; BUCKETS], total: 0 }
    }
}

impl Quantiles {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
    fn add(&mut self, duration: Duration) {
        let bucket = (duration.as_secs_f64() * 1e3).max(1.0).log(GROWTH) as usize;
        if let Some(count) = self.counts.get_mut(bucket.min(BUCKETS - 1)) {
            *count = count.saturating_add(1);
            self.total = self.total.saturating_add(1);
        }
    }

    /// Milliseconds that this share of the durations stays below, to 10 %; `None` without any.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
    fn quantile(&self, share: f64) -> Option<u64> {
        if self.total == 0 {
            return None;
        }
        let wanted = (f64::from(self.total) * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let bucket = self.counts.iter().position(|count| {
            seen += u64::from(*count);
            seen >= wanted
        })?;
        Some(GROWTH.powf(bucket as f64 + 0.5).round() as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_latency_is_counted_from_the_arrival_of_its_sound() {
        let start = Instant::now();
        let at = |ms: u64| start + Duration::from_millis(ms);
        let mut arrivals = Arrivals::default();
        assert_eq!(arrivals.since(0.0, start), None, "nothing has arrived");
        // 100 ms of sound each 100 ms, as from a microphone.
        for chunk in 1..=20 {
            arrivals.note(chunk * 1_600, at(chunk * 100));
        }
        let ms =
            |arrivals: &mut Arrivals, second, now| arrivals.since(second, at(now)).map(|d| d.as_millis());
        assert_eq!(ms(&mut arrivals, 0.05, 500), Some(400));
        assert_eq!(ms(&mut arrivals, 0.1, 500), Some(400));
        assert_eq!(ms(&mut arrivals, 0.11, 500), Some(300));
        assert_eq!(ms(&mut arrivals, 1.0, 1_800), Some(800));
        assert_eq!(ms(&mut arrivals, 9.0, 2_000), Some(0), "behind the newest sample");
    }

    #[test]
    fn what_is_kept_of_arrivals_is_bounded() {
        let now = Instant::now();
        let mut arrivals = Arrivals::default();
        for sample in 1..=16_000 {
            arrivals.note(sample, now);
        }
        assert!(arrivals.marks.len() <= 50, "{}", arrivals.marks.len());
        for chunk in 1..=10_000 {
            arrivals.note(16_000 + chunk * 1_600, now);
        }
        assert_eq!(arrivals.marks.len(), MARKS);
        assert_eq!(arrivals.since(1.0, now), None, "too long ago");
        assert!(arrivals.since(1_000.0, now).is_some());
    }

    proptest! {
        #[test]
        fn a_quantile_is_right_to_a_tenth(mut ms in prop::collection::vec(1_u64..900_000, 1..200), share in 0.01_f64..1.0) {
            let mut quantiles = Quantiles::default();
            ms.iter().for_each(|ms| quantiles.add(Duration::from_millis(*ms)));
            ms.sort_unstable();
            let exact = ms[((ms.len() as f64 * share).ceil() as usize).max(1) - 1] as f64;
            let found = quantiles.quantile(share).unwrap() as f64;
            prop_assert!((found / exact - 1.0).abs() <= 0.11 || (found - exact).abs() <= 1.0, "{found} for {exact}");
        }
    }
}
