//! A file that sounds like a microphone: its samples are released by the clock. For `--input file:PATH`, so that
//! the live path runs, and is tested, without hardware. Blocking; it runs on its caller's thread.

use std::time::{Duration, Instant};

use super::{AudioError, AudioSource, AudioStats, SAMPLE_RATE_HZ};

/// Samples in one release: 20 ms, as a sound card gives them.
const PERIOD_SAMPLES: usize = SAMPLE_RATE_HZ as usize / 50;

/// What the pace is kept by: passed in, so that a test needs no real time.
pub trait Clock: Send {
    /// Time since any fixed moment.
    fn now(&self) -> Duration;
    /// Returns at that time or a little later.
    fn sleep_until(&self, at: Duration);
}

/// The machine's monotonic clock.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep_until(&self, at: Duration) {
        std::thread::sleep(at.saturating_sub(self.now()));
    }
}

/// A source that gives each sample when it would have been recorded.
#[derive(Debug)]
pub struct PacedFile<S, C> {
    source: S,
    clock: C,
    started: Option<Duration>,
    given: u64,
    pending: Vec<f32>,
    at: usize,
}

impl<S: AudioSource, C: Clock> PacedFile<S, C> {
    /// Paces `source` by `clock`; its time begins with the first call of `next_chunk`.
    pub const fn new(source: S, clock: C) -> Self {
        Self { source, clock, started: None, given: 0, pending: Vec::new(), at: 0 }
    }
}

impl<S: AudioSource, C: Clock> AudioSource for PacedFile<S, C> {
    fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
        if self.at == self.pending.len() {
            let Some(chunk) = self.source.next_chunk()? else { return Ok(None) };
            (self.pending, self.at) = (chunk, 0);
        }
        let end = (self.at + PERIOD_SAMPLES).min(self.pending.len());
        let chunk = self.pending[self.at..end].to_vec();
        self.at = end;
        self.given += chunk.len() as u64;
        // The last sample of a period is recorded before the period is given. Reckoned from the start, so that
        // late wake-ups do not add up.
        let started = *self.started.get_or_insert_with(|| self.clock.now());
        let recorded = Duration::from_nanos(self.given * 1_000_000_000 / u64::from(SAMPLE_RATE_HZ));
        self.clock.sleep_until(started + recorded);
        Ok(Some(chunk))
    }

    fn duration_hint(&self) -> Option<Duration> {
        self.source.duration_hint()
    }

    fn stats(&self) -> AudioStats {
        self.source.stats()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct FakeClock(Arc<Mutex<Duration>>);

    impl Clock for FakeClock {
        fn now(&self) -> Duration {
            *self.0.lock()
        }
        fn sleep_until(&self, at: Duration) {
            let mut now = self.0.lock();
            *now = (*now).max(at);
        }
    }

    struct Chunks(Vec<Vec<f32>>);

    impl AudioSource for Chunks {
        fn next_chunk(&mut self) -> Result<Option<Vec<f32>>, AudioError> {
            Ok(if self.0.is_empty() { None } else { Some(self.0.remove(0)) })
        }
        fn duration_hint(&self) -> Option<Duration> {
            None
        }
        fn stats(&self) -> AudioStats {
            AudioStats::default()
        }
    }

    #[test]
    fn samples_come_when_they_would_have_been_recorded() {
        let clock = FakeClock::default();
        *clock.0.lock() = Duration::from_secs(100);
        let mut paced =
            PacedFile::new(Chunks(vec![vec![0.1; 8_000], vec![0.2; 8_000], vec![0.3; 100]]), clock.clone());
        let mut heard = 0;
        while let Some(chunk) = paced.next_chunk().unwrap() {
            assert!(chunk.len() <= PERIOD_SAMPLES);
            heard += chunk.len();
            let elapsed = clock.now() - Duration::from_secs(100);
            assert_eq!(elapsed.as_micros(), heard as u128 * 1_000_000 / 16_000);
        }
        assert_eq!(heard, 16_100);
    }

    #[test]
    fn a_late_consumer_gets_the_backlog_at_once() {
        let clock = FakeClock::default();
        let mut paced = PacedFile::new(Chunks(vec![vec![0.1; 8_000]]), clock.clone());
        paced.next_chunk().unwrap();
        *clock.0.lock() = Duration::from_secs(10);
        for _ in 0..24 {
            assert!(paced.next_chunk().unwrap().is_some());
        }
        assert_eq!(clock.now(), Duration::from_secs(10), "nothing had to wait");
    }
}
