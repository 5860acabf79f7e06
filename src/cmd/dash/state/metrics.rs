//! Figures about what came: each says what it counts, and none of them stands still when nothing comes. Pure.

use jiff::Timestamp;

/// Seconds that the rate looks back.
pub(in crate::cmd::dash) const WINDOW: usize = 60;

/// Counts of one second.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Second {
    /// Since the epoch.
    at: i64,
    events: u64,
    errors: u64,
}

/// What was counted since the start.
#[derive(Debug, Clone)]
pub(in crate::cmd::dash) struct Metrics {
    /// Events, whether they are still in the buffer or not.
    pub(in crate::cmd::dash) total: u64,
    /// Of them, those whose type says that something went wrong.
    pub(in crate::cmd::dash) errors: u64,
    /// Events that came again.
    pub(in crate::cmd::dash) duplicates: u64,
    /// What could not be read as an event.
    pub(in crate::cmd::dash) unparsed: u64,
    /// Places where events may be missing.
    pub(in crate::cmd::dash) gaps: u64,
    /// By the clock of this program, when they came.
    seconds: [Second; WINDOW],
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            total: 0,
            errors: 0,
            duplicates: 0,
            unparsed: 0,
            gaps: 0,
            seconds: [Second::default(); WINDOW],
        }
    }
}

impl Metrics {
    /// An event has come. What came from the history says nothing about the rate.
    pub(in crate::cmd::dash) fn event(&mut self, is_error: bool, is_live: bool, now: Timestamp) {
        self.total += 1;
        self.errors += u64::from(is_error);
        if !is_live {
            return;
        }
        let at = now.as_second();
        let Some(second) = self.seconds.get_mut(at.rem_euclid(WINDOW as i64) as usize) else { return };
        if second.at != at {
            *second = Second { at, ..Second::default() };
        }
        second.events += 1;
        second.errors += u64::from(is_error);
    }

    fn lately(&self, now: Timestamp) -> impl Iterator<Item = &Second> {
        let now = now.as_second();
        self.seconds.iter().filter(move |second| (0..WINDOW as i64).contains(&(now - second.at)))
    }

    /// Events that came in the last 60 seconds.
    pub(in crate::cmd::dash) fn per_minute(&self, now: Timestamp) -> u64 {
        self.lately(now).map(|second| second.events).sum()
    }

    /// Errors among all events, in percent.
    pub(in crate::cmd::dash) fn error_rate(&self) -> f64 {
        percent(self.errors, self.total)
    }

    /// Errors among those that came in the last 60 seconds, in percent.
    pub(in crate::cmd::dash) fn recent_error_rate(&self, now: Timestamp) -> f64 {
        let errors = self.lately(now).map(|second| second.errors).sum();
        percent(errors, self.per_minute(now))
    }

    /// Events of each of the last 60 seconds, the oldest first.
    pub(in crate::cmd::dash) fn spark(&self, now: Timestamp) -> [u64; WINDOW] {
        let mut spark = [0; WINDOW];
        for second in self.lately(now) {
            let ago = usize::try_from(now.as_second() - second.at).unwrap_or(WINDOW);
            if let Some(place) = (WINDOW - 1).checked_sub(ago).and_then(|index| spark.get_mut(index)) {
                *place = second.events;
            }
        }
        spark
    }
}

#[allow(clippy::cast_precision_loss, reason = "a rate is shown with one decimal")]
fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 * 100.0 / whole as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_795_255_200 + second).unwrap()
    }

    #[test]
    fn the_rate_falls_back_to_nothing_when_nothing_comes() {
        let mut metrics = Metrics::default();
        for n in 0..60 {
            metrics.event(n % 3 == 0, true, at(n / 10));
        }
        assert_eq!((metrics.per_minute(at(5)), metrics.per_minute(at(59))), (60, 60));
        assert_eq!(metrics.per_minute(at(62)), 30);
        assert_eq!((metrics.per_minute(at(66)), metrics.total), (0, 60));
        assert_eq!(metrics.per_minute(at(-100)), 0, "a clock that was set back");
        assert_eq!(metrics.spark(at(5))[WINDOW - 6..], [10; 6]);
        assert_eq!(
            format!("{:.1} {:.1}", metrics.error_rate(), metrics.recent_error_rate(at(66))),
            "33.3 0.0"
        );
    }

    #[test]
    fn the_past_counts_but_says_nothing_about_the_rate() {
        let mut metrics = Metrics::default();
        metrics.event(true, false, at(0));
        assert_eq!((metrics.total, metrics.errors, metrics.per_minute(at(0))), (1, 1, 0));
    }
}
