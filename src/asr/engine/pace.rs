//! When a window of a stream is due, and how often the stream is looked at. Pure: times are seconds on any clock.

use crate::asr::stream::{Samples, seconds};

/// Results in a row that must come early before the hop halves: growing is quick, shrinking is slow, so that a machine
/// at its limit does not swing between the two.
const CALM: u32 = 8;

/// The pace of one stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Pace {
    /// When the first sample was spoken, as far as can be told from the arrivals: none arrived before it was spoken.
    origin: Option<f64>,
    /// When the audio being taken arrived.
    arrival: f64,
    factor: u32,
    most: u32,
    calm: u32,
    lag_s: f64,
}

impl Pace {
    /// A stream that has heard nothing. Its hop may grow `most` times (1 at least).
    #[must_use]
    pub const fn new(most: u32) -> Self {
        let most = if most == 0 { 1 } else { most };
        Self { origin: None, arrival: 0.0, factor: 1, most, calm: 0, lag_s: 0.0 }
    }

    /// Audio up to the sample `end` arrived at `at`.
    ///
    /// A sender that pauses moves the origin; one that sends faster than speech does not.
    pub fn arrived(&mut self, at: f64, end: Samples) {
        let origin = at - seconds(end);
        self.origin = Some(self.origin.map_or(origin, |known| known.max(origin)));
        self.arrival = at;
    }

    /// When the window that ends with the sample `end` is due.
    #[must_use]
    pub fn due(&self, end: Samples) -> f64 {
        self.origin.map_or(self.arrival, |origin| self.arrival.max(origin + seconds(end)))
    }

    /// A result came `lag_s` seconds after it was due; `hop_s` is the hop without any stretching.
    pub fn decoded(&mut self, lag_s: f64, hop_s: f64) {
        self.lag_s = lag_s.max(0.0);
        let hop = hop_s * f64::from(self.factor);
        if self.lag_s > hop {
            self.factor = self.factor.saturating_mul(2).min(self.most);
            self.calm = 0;
        } else if self.lag_s < hop / 4.0 {
            self.calm += 1;
            if self.calm >= CALM {
                self.factor = (self.factor / 2).max(1);
                self.calm = 0;
            }
        } else {
            self.calm = 0;
        }
    }

    /// How many times longer the hop is than asked for.
    #[must_use]
    pub const fn factor(&self) -> u32 {
        self.factor
    }

    /// How late the newest result came, in seconds.
    #[must_use]
    pub const fn lag_s(&self) -> f64 {
        self.lag_s
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Samples = 16_000;

    #[test]
    fn audio_at_the_pace_of_speech_is_due_when_it_arrives() {
        let mut pace = Pace::new(8);
        for second in 1..=5 {
            pace.arrived(100.0 + second as f64, second * SECOND);
            assert!((pace.due(second * SECOND) - (100.0 + second as f64)).abs() < 1e-9);
        }
    }

    #[test]
    fn a_recording_sent_at_once_is_due_at_the_pace_of_speech() {
        let mut pace = Pace::new(8);
        pace.arrived(100.0, SECOND);
        pace.arrived(100.0, 30 * SECOND);
        assert!((pace.due(30 * SECOND) - 129.0).abs() < 1e-9);
    }

    #[test]
    fn a_pause_of_the_sender_makes_nothing_late() {
        let mut pace = Pace::new(8);
        pace.arrived(100.0, SECOND);
        pace.arrived(160.0, 2 * SECOND);
        pace.arrived(161.0, 3 * SECOND);
        assert!((pace.due(3 * SECOND) - 161.0).abs() < 1e-9);
    }

    #[test]
    fn the_hop_grows_while_results_are_late_and_shrinks_when_there_is_room() {
        let mut pace = Pace::new(6);
        let factors: Vec<u32> = [0.4, 0.6, 1.2, 2.5, 9.0]
            .iter()
            .map(|lag| {
                pace.decoded(*lag, 0.5);
                pace.factor()
            })
            .collect();
        assert_eq!(factors, [1, 2, 4, 6, 6]);
        for _ in 0..2 * CALM {
            pace.decoded(0.0, 0.5);
        }
        assert_eq!(pace.factor(), 1, "6, 3, 1");
    }

    proptest! {
        #[test]
        fn the_factor_stays_in_its_bounds_and_deadlines_never_run_backwards(
            most in 0u32..40,
            steps in prop::collection::vec((0.0..3.0f64, 1u64..80_000, 0.0..9.0f64), 1..60),
        ) {
            let mut pace = Pace::new(most);
            let (mut at, mut end, mut last) = (0.0, 0, f64::NEG_INFINITY);
            for (later, samples, lag) in steps {
                at += later;
                end += samples;
                pace.arrived(at, end);
                let due = pace.due(end);
                prop_assert!(due >= last && due >= at - 1e-9);
                last = due;
                pace.decoded(lag, 0.5);
                prop_assert!((1..=most.max(1)).contains(&pace.factor()));
            }
        }
    }
}
