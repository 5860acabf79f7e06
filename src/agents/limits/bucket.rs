//! A token bucket: so many turns a minute, some of them at once. Pure; time is passed in.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Tokens are counted in these, so that no fraction is lost.
const PER_TOKEN: u64 = 60_000_000_000;

/// How many turns a bucket lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In a minute; 0 lets none through.
    pub per_minute: u32,
    /// At once, after a time without any; at least 1.
    pub burst: u32,
}

/// A bucket of tokens, full at first. Each turn takes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bucket {
    /// What is missing from a full one, in parts of a token.
    missing: u64,
    /// When that was so.
    at: Timestamp,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        Self { missing: 0, at: now }
    }

    /// Takes a token.
    ///
    /// # Errors
    /// How long it takes until there is one, if there is none; `Duration::MAX` if there never will be.
    pub fn take(&mut self, rate: Rate, now: Timestamp) -> Result<(), Duration> {
        self.refill(rate, now);
        let full = u64::from(rate.burst.max(1)) * PER_TOKEN;
        let after = self.missing.saturating_add(PER_TOKEN);
        if after <= full {
            self.missing = after;
            return Ok(());
        }
        if rate.per_minute == 0 {
            return Err(Duration::MAX);
        }
        Err(Duration::from_nanos((after - full).div_ceil(u64::from(rate.per_minute))))
    }

    /// Gives a token back, of a turn that did not take place.
    pub const fn give_back(&mut self) {
        self.missing = self.missing.saturating_sub(PER_TOKEN);
    }

    fn refill(&mut self, rate: Rate, now: Timestamp) {
        // A clock that was set back refills nothing, and takes nothing away.
        let passed = Duration::try_from(now.duration_since(self.at)).unwrap_or_default();
        let nanos = u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX);
        // A minute has as many nanoseconds as a token has parts.
        self.missing = self.missing.saturating_sub(nanos.saturating_mul(u64::from(rate.per_minute)));
        self.at = now;
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;

    const RATE: Rate = Rate { per_minute: 6, burst: 2 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    #[test]
    fn a_burst_goes_through_and_then_one_at_a_time() {
        let mut bucket = Bucket::new(at(0));
        assert_eq!((bucket.take(RATE, at(0)), bucket.take(RATE, at(0))), (Ok(()), Ok(())));
        assert_eq!(bucket.take(RATE, at(4)), Err(Duration::from_secs(6)));
        assert_eq!(bucket.take(RATE, at(10)), Ok(()));
        assert_eq!(bucket.take(RATE, at(10)), Err(Duration::from_secs(10)));
        assert_eq!((bucket.take(RATE, at(900)), bucket.take(RATE, at(900))), (Ok(()), Ok(())));
        assert!(bucket.take(RATE, at(900)).is_err(), "no more gathers than the burst");
    }

    #[test]
    fn what_did_not_take_place_is_given_back() {
        let mut bucket = Bucket::new(at(0));
        for _ in 0..2 {
            bucket.take(RATE, at(0)).unwrap();
        }
        bucket.give_back();
        assert_eq!(bucket.take(RATE, at(0)), Ok(()));
        assert!(bucket.take(RATE, at(0)).is_err());
    }

    #[test]
    fn a_clock_that_is_set_back_and_a_rate_of_nothing_do_no_harm() {
        let mut bucket = Bucket::new(at(100));
        for _ in 0..2 {
            bucket.take(RATE, at(0)).unwrap();
        }
        assert_eq!(bucket.take(RATE, at(0)), Err(Duration::from_secs(10)));
        assert_eq!(bucket.take(RATE, at(10)), Ok(()));
        let nothing = Rate { per_minute: 0, burst: 0 };
        let mut bucket = Bucket::new(at(0));
        assert_eq!(bucket.take(nothing, at(0)), Ok(()), "the first is there from the beginning");
        assert_eq!(bucket.take(nothing, at(100_000)), Err(Duration::MAX));
    }

    proptest! {
        #[test]
        fn no_more_go_through_than_the_rate_allows_and_who_waits_goes_through(
            per_minute in 1_u32..1_000,
            burst in 1_u32..20,
            steps in prop::collection::vec(0_i64..5_000, 1..200),
        ) {
            let rate = Rate { per_minute, burst };
            let (mut now, mut bucket, mut through) = (at(0), Bucket::new(at(0)), 0_u64);
            for step in steps {
                now = now.checked_add(SignedDuration::from_millis(step)).unwrap();
                match bucket.take(rate, now) {
                    Ok(()) => through += 1,
                    Err(wait) => {
                        let then = now.checked_add(SignedDuration::try_from(wait).unwrap()).unwrap();
                        prop_assert_eq!(bucket.clone().take(rate, then), Ok(()));
                    }
                }
            }
            let seconds = now.duration_since(at(0)).as_secs_f64();
            let most = f64::from(burst) + seconds * f64::from(per_minute) / 60.0;
            prop_assert!(through as f64 <= most + 1e-6, "{} of {}", through, most);
        }
    }
}
