//! Whether a prompt is tried again, and when. Pure; chance is passed in.

use std::{num::NonZeroU32, time::Duration};

use jiff::Timestamp;

use super::super::{Failure, store::journal::End};
use crate::bus::backoff::ceiling;

/// How long to wait between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// At most so long before the second attempt; twice that before the third, and so on.
    pub base: Duration,
    /// At most so long before any.
    pub cap: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: Duration::from_secs(2), cap: Duration::from_secs(300) }
    }
}

impl Backoff {
    /// Between nothing and all of the wait before the attempt after this one, so that what failed together is not tried
    /// again together. `chance` is from 0 to 1.
    #[must_use]
    pub fn wait(&self, attempt: u32, chance: f64) -> Duration {
        ceiling(self.base, self.cap, attempt).mul_f64(chance.clamp(0.0, 1.0))
    }
}

/// What follows from a failure of an attempt of this number.
pub(super) fn after(
    failure: &Failure,
    (attempt, attempts): (u32, NonZeroU32),
    backoff: Backoff,
    (now, chance): (Timestamp, f64),
) -> End {
    if !failure.class.is_retryable() || attempt >= attempts.get() {
        return End::Dead;
    }
    // What the provider says itself is the least.
    let wait = backoff.wait(attempt, chance).max(failure.retry_after.unwrap_or_default());
    End::Again { not_before: now.checked_add(wait).unwrap_or(Timestamp::MAX), counts: true }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::agents::Class;

    fn decide(failure: &Failure, attempt: u32) -> End {
        let three = NonZeroU32::new(3).unwrap();
        after(failure, (attempt, three), Backoff::default(), (Timestamp::UNIX_EPOCH, 0.5))
    }

    #[test]
    fn only_what_time_may_mend_is_tried_again_and_only_so_often() {
        for class in Class::ALL {
            let failure = Failure::new(class, "no");
            assert_eq!(decide(&failure, 1) == End::Dead, !class.is_retryable(), "{class}");
            assert_eq!(decide(&failure, 3), End::Dead, "{class}");
        }
    }

    #[test]
    fn what_the_provider_says_is_waited_for() {
        let minute = Some(Duration::from_secs(60));
        let failure = Failure { retry_after: minute, ..Failure::new(Class::RateLimited, "slow down") };
        let at = Timestamp::from_second(60).unwrap();
        assert_eq!(decide(&failure, 1), End::Again { not_before: at, counts: true });
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds_and_grows(attempt in 1_u32..64, chance in 0.0..=1.0_f64) {
            let backoff = Backoff::default();
            let wait = backoff.wait(attempt, chance);
            prop_assert!(wait <= backoff.cap);
            prop_assert!(wait <= backoff.wait(attempt + 1, chance));
            prop_assert!(wait <= backoff.wait(attempt, 1.0));
        }
    }
}
