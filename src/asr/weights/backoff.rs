//! How long to wait before the next try: exponential with jitter, the hub's own wish first. Pure.

use std::{
    hash::{BuildHasher, RandomState},
    time::Duration,
};

/// How failures of the network are met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Failures in a row without progress after which the error is given back; 1 means no second try.
    pub attempts: u32,
    /// Pause after the first failure; doubled by each further one.
    pub base: Duration,
    /// The longest pause of our own choosing.
    pub max: Duration,
    /// A hub that asks to wait longer than this is believed, and the error given back.
    pub max_retry_after: Duration,
    /// A connection that brought at least this many bytes counts as progress, and the failures start at 0 again.
    pub progress_bytes: u64,
    /// How often the lock of another process is looked at.
    pub lock_poll: Duration,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts: 6,
            base: Duration::from_millis(500),
            max: Duration::from_secs(30),
            max_retry_after: Duration::from_secs(300),
            progress_bytes: 1 << 20,
            lock_poll: Duration::from_millis(250),
            // Each `RandomState` has its own keys, so this differs between processes: machines that were cut
            // off together do not come back together.
            seed: RandomState::new().hash_one(0_u8),
        }
    }
}

/// The failures so far of one request.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RetryPolicy,
    failures: u32,
    state: u64,
}

impl Backoff {
    pub(super) fn new(policy: &RetryPolicy) -> Self {
        Self { policy: policy.clone(), failures: 0, state: policy.seed }
    }

    /// Progress was made.
    pub(super) const fn reset(&mut self) {
        self.failures = 0;
    }

    /// Counts a failure: the pause before the next try, or `None` when it is time to give up.
    pub(super) fn next(&mut self, retry_after: Option<Duration>) -> Option<Duration> {
        self.failures += 1;
        if self.failures >= self.policy.attempts {
            return None;
        }
        if let Some(wait) = retry_after {
            return (wait <= self.policy.max_retry_after).then_some(wait);
        }
        let full = self.policy.base.saturating_mul(1 << (self.failures - 1).min(20)).min(self.policy.max);
        // Between half and all of it.
        Some(full / 2 + (full / 2).mul_f64(self.random()))
    }

    /// A number in [0, 1): SplitMix64, which is plenty for spreading retries.
    #[allow(clippy::cast_precision_loss, reason = "53 bits are kept, which is what an f64 holds")]
    const fn random(&mut self) -> f64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_hub_is_believed_up_to_a_limit() {
        let mut backoff = Backoff::new(&RetryPolicy::default());
        assert_eq!(backoff.next(Some(Duration::from_secs(42))), Some(Duration::from_secs(42)));
        assert_eq!(backoff.next(Some(Duration::from_secs(3600))), None);
    }

    #[test]
    fn progress_starts_the_count_again() {
        let mut backoff = Backoff::new(&RetryPolicy { attempts: 2, ..RetryPolicy::default() });
        assert!(backoff.next(None).is_some());
        backoff.reset();
        assert!(backoff.next(None).is_some());
        assert!(backoff.next(None).is_none());
    }

    proptest! {
        #[test]
        fn pauses_stay_between_half_and_all_of_the_doubled_base(seed: u64, base_ms in 1_u64..5000) {
            let policy = RetryPolicy { attempts: 40, base: Duration::from_millis(base_ms), seed, ..RetryPolicy::default() };
            let mut backoff = Backoff::new(&policy);
            let mut full = policy.base;
            for _ in 1..40 {
                let wait = backoff.next(None).unwrap();
                prop_assert!(wait >= full / 2 && wait <= full, "{wait:?} of {full:?}");
                full = (full * 2).min(policy.max);
            }
            prop_assert!(backoff.next(None).is_none());
        }
    }
}
