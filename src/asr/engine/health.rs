//! Whether the model is of use: one that is loaded and fails on every window is not, and whoever asks must hear of it.
//! Pure: times are seconds on any clock.
//!
//! Windows that fail may be bad windows. So after some in a row the model is given a control window of plain silence:
//! only a model that fails on that one too is broken, and no client's audio makes a server look so.

use std::fmt;

use crate::asr::{Hypothesis, SttError};

/// So many failed windows in a row, of whichever streams and recordings, cast a doubt on the model.
pub const FAILING: u64 = 5;
/// Seconds after the last of them until the model is given another chance. Whoever keeps clients away from a server
/// that is not ready also keeps the window away that would show that it works again.
pub const FAILING_S: f64 = 60.0;
/// Seconds between control windows, while windows go on to fail.
const AGAIN_S: f64 = 5.0;

/// What the last windows said of the model.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    /// Windows that have failed since the last good one.
    in_a_row: u64,
    /// When the last window failed.
    last: f64,
    /// When the last control window failed, and why.
    control: Option<(f64, String)>,
}

/// The model is loaded, and has failed on every one of its last windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failing {
    /// How many windows.
    pub windows: u64,
    /// What was wrong with plain silence.
    pub reason: String,
}

impl fmt::Display for Failing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { windows, reason } = self;
        write!(
            f,
            "the last {windows} windows of audio all failed, and so does plain silence, so nothing is transcribed \
             ({reason}); see the server's log, and restart it if that goes on"
        )
    }
}

impl Health {
    /// Windows were decoded, or failed, in this order. True if the model should be given a control window.
    #[must_use]
    pub(super) fn decoded(&mut self, results: &[Result<Hypothesis, SttError>], now: f64) -> bool {
        for result in results {
            match result {
                Ok(_) => *self = Self::default(),
                // What the model was asked for was wrong, which says nothing about the model.
                Err(SttError::BadRequest(_)) => {}
                Err(_) => {
                    self.in_a_row += 1;
                    self.last = now;
                }
            }
        }
        self.in_a_row >= FAILING && self.control.as_ref().is_none_or(|(at, _)| now - at >= AGAIN_S)
    }

    /// The control window was decoded, or failed.
    pub(super) fn controlled(&mut self, result: &Result<Hypothesis, SttError>, now: f64) {
        match result {
            Ok(_) => *self = Self::default(),
            Err(error) => self.control = Some((now, error.to_string())),
        }
    }

    /// Windows that have failed since the last good one.
    pub(super) const fn in_a_row(&self) -> u64 {
        self.in_a_row
    }

    /// Whether the model is broken, as far as one can tell now.
    pub(super) fn failing(&self, now: f64) -> Option<Failing> {
        let (_, reason) = self.control.as_ref()?;
        (now - self.last < FAILING_S).then(|| Failing { windows: self.in_a_row, reason: reason.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad() -> Result<Hypothesis, SttError> {
        Err(SttError::Inference("no such kernel".to_owned()))
    }

    fn good() -> Result<Hypothesis, SttError> {
        Ok(Hypothesis::default())
    }

    #[test]
    fn a_model_that_fails_on_silence_too_is_broken_until_it_hears_something() {
        let mut health = Health::default();
        assert!(!health.decoded(&[bad(), bad(), bad(), bad()], 10.0));
        assert!(health.decoded(&[bad()], 11.0), "it may be what it was given, so it is given something else");
        assert_eq!((health.in_a_row(), health.failing(11.0)), (5, None));
        health.controlled(&bad(), 11.0);
        let failing = health.failing(11.0).unwrap();
        assert_eq!(failing.windows, 5);
        assert!(failing.to_string().contains("the last 5 windows of audio all failed"), "{failing}");
        assert!(failing.to_string().contains("no such kernel"), "{failing}");
        assert!(!health.decoded(&[good()], 12.0));
        assert_eq!((health.in_a_row(), health.failing(12.0)), (0, None));
    }

    #[test]
    fn however_many_bad_windows_somebody_sends_a_model_that_hears_silence_is_well() {
        let mut health = Health::default();
        for second in 0..100 {
            if health.decoded(&[bad()], f64::from(second)) {
                health.controlled(&good(), f64::from(second));
            }
            assert_eq!(health.failing(f64::from(second)), None);
            assert!(health.in_a_row() < FAILING);
        }
    }

    #[test]
    fn one_good_window_among_bad_ones_is_enough() {
        let mut health = Health::default();
        for second in 0..20 {
            assert!(!health.decoded(&[bad(), bad(), good(), bad(), bad()], f64::from(second)));
        }
    }

    #[test]
    fn a_broken_model_is_tried_again_now_and_then_while_windows_come() {
        let mut health = Health::default();
        assert!(health.decoded(&[bad(), bad(), bad(), bad(), bad()], 0.0));
        health.controlled(&bad(), 0.0);
        assert!(!health.decoded(&[bad()], 4.0), "not for every window");
        assert!(health.decoded(&[bad()], 5.0));
        health.controlled(&good(), 5.0);
        assert_eq!((health.in_a_row(), health.failing(5.0)), (0, None));
    }

    #[test]
    fn after_a_minute_without_a_window_it_gets_another_chance_and_no_more_than_that() {
        let mut health = Health::default();
        assert!(health.decoded(&[bad(), bad(), bad(), bad(), bad()], 4.0));
        health.controlled(&bad(), 4.0);
        assert!(health.failing(4.0 + 59.0).is_some());
        assert_eq!(health.failing(4.0 + 60.0), None, "nobody would ever send it anything again");
        assert!(health.decoded(&[bad()], 90.0));
        health.controlled(&bad(), 90.0);
        assert_eq!(health.failing(90.0).map(|failing| failing.windows), Some(6));
    }

    #[test]
    fn wishes_that_cannot_be_met_say_nothing_about_the_model() {
        let mut health = Health::default();
        for _ in 0..9 {
            assert!(!health.decoded(&[Err(SttError::BadRequest("nine hundred beams".to_owned()))], 1.0));
        }
        assert_eq!((health.in_a_row(), health.failing(1.0)), (0, None));
    }
}
