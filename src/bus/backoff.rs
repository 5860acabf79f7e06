//! Pauses between attempts: exponential with full jitter. Pure; randomness is passed in.

use std::time::Duration;

/// Pauses that grow with each failure, up to a cap, and are spread so that many clients don't come back at once.
///
/// The pause after the n-th failure in a row is uniform in `0 ..= min(cap, base * 2^(n-1))`: "full jitter" of the
/// article "Exponential Backoff And Jitter" in the AWS architecture blog (2015).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    failures: u32,
}

impl Backoff {
    /// No failure yet.
    #[must_use]
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, failures: 0 }
    }

    /// Notes one more failure; gives the pause before the next attempt.
    pub fn pause(&mut self, random: &mut fastrand::Rng) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let limit = u64::try_from(self.limit().as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(random.u64(0..=limit))
    }

    /// The longest that [`Backoff::pause`] could have given after the failures so far; zero before the first.
    #[must_use]
    pub fn limit(&self) -> Duration {
        ceiling(self.base, self.cap, self.failures)
    }

    /// Failures in a row so far.
    #[must_use]
    pub const fn failures(&self) -> u32 {
        self.failures
    }

    /// Notes a success.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

/// The longest pause after so many failures in a row: `min(cap, base * 2^(failures-1))`; zero before the first.
#[must_use]
pub fn ceiling(base: Duration, cap: Duration, failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        failures => base.saturating_mul(1_u32.checked_shl(failures - 1).unwrap_or(u32::MAX)).min(cap),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn pauses_stay_below_a_limit_that_doubles_up_to_the_cap(
            seed: u64, base in 1_u64..10_000, cap in 1_u64..1_000_000, failures in 1_u32..80,
        ) {
            let (base, cap) = (Duration::from_millis(base), Duration::from_millis(cap));
            let mut random = fastrand::Rng::with_seed(seed);
            let mut backoff = Backoff::new(base, cap);
            let mut before = Duration::ZERO;
            for n in 1..=failures {
                let pause = backoff.pause(&mut random);
                let limit = backoff.limit();
                prop_assert!(pause <= limit && limit <= cap);
                prop_assert!(limit >= before, "never shrinks");
                let doubled = base.as_nanos().checked_shl(n - 1).filter(|_| n < 60).unwrap_or(u128::MAX);
                prop_assert_eq!(limit.as_nanos(), doubled.min(cap.as_nanos()));
                before = limit;
            }
            prop_assert_eq!(backoff.failures(), failures);
            backoff.reset();
            prop_assert_eq!(backoff, Backoff::new(base, cap));
        }

        #[test]
        fn the_same_seed_gives_the_same_pauses(seed: u64) {
            let pauses = || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
                std::iter::repeat_with(|| backoff.pause(&mut random)).take(20).collect::<Vec<_>>()
            };
            prop_assert_eq!(pauses(), pauses());
        }
    }

    #[test]
    fn pauses_are_spread_over_the_whole_range() {
        let mut random = fastrand::Rng::with_seed(7);
        let first = || Backoff::new(Duration::from_millis(1000), Duration::from_secs(30)).pause(&mut random);
        let pauses: Vec<u128> =
            std::iter::repeat_with(first).take(1000).map(|pause| pause.as_millis()).collect();
        let mean = pauses.iter().sum::<u128>() / 1000;
        assert!((450..550).contains(&mean), "{mean}");
        assert!(pauses.iter().any(|pause| *pause < 50) && pauses.iter().any(|pause| *pause > 950));
    }
}
