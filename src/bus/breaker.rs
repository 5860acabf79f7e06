//! A circuit breaker: who keeps failing is left alone for a while. Pure; time is passed in.
//!
//! The state can be saved and restored, so that all processes of a machine can share one through a file. It therefore
//! runs on the wall clock, and takes care that a clock that is set back leaves no circuit open for longer than its
//! cooldown.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// When to open and to close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// Failures in a row that open the circuit.
    pub failures: u32,
    /// How long it stays open before one call may try, and how long that one may take to tell how it went.
    pub cooldown: Duration,
    /// Successes in a row that close it again.
    pub successes: u32,
}

impl Default for Policy {
    /// 3 failures, 30 s, 2 successes.
    fn default() -> Self {
        Self { failures: 3, cooldown: Duration::from_secs(30), successes: 2 }
    }
}

/// The circuit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "circuit", rename_all = "kebab-case")]
pub enum Circuit {
    /// Calls go through.
    Closed {
        /// Failures since the last success.
        failures: u32,
    },
    /// Calls are refused.
    Open {
        /// Since when.
        since: Timestamp,
    },
    /// One call at a time may try.
    HalfOpen {
        /// Calls that went well since.
        successes: u32,
        /// When the one that tries now was let through.
        probe: Option<Timestamp>,
    },
}

impl Circuit {
    /// `closed`, `open` or `half-open`.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed { .. } => "closed",
            Self::Open { .. } => "open",
            Self::HalfOpen { .. } => "half-open",
        }
    }
}

/// Whether a call may be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permit {
    /// Yes; tell how it went.
    Go,
    /// No, ask again after this time.
    Wait(Duration),
}

/// How a call went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Well.
    Success,
    /// Badly, and not through a fault of the caller.
    Failure,
    /// The caller made a mistake, which says nothing about the other side; or nobody waited for the end.
    Unknown,
}

/// A change that others should hear of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Calls are refused from now on.
    Opened,
    /// All calls go through again.
    Closed {
        /// When it had opened; failed attempts in between don't count.
        since: Timestamp,
    },
}

/// A circuit and how often it opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Breaker {
    #[serde(flatten)]
    circuit: Circuit,
    opened: u64,
    /// When it opened, if it has not closed since.
    opened_at: Option<Timestamp>,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { circuit: Circuit::Closed { failures: 0 }, opened: 0, opened_at: None }
    }
}

impl Breaker {
    /// Its state.
    #[must_use]
    pub const fn circuit(&self) -> Circuit {
        self.circuit
    }

    /// How often it opened after having been closed.
    #[must_use]
    pub const fn opened(&self) -> u64 {
        self.opened
    }

    /// True if nothing is to be learnt from a success.
    #[must_use]
    pub const fn is_calm(&self) -> bool {
        matches!(self.circuit, Circuit::Closed { failures: 0 })
    }

    /// Asks for a call. Whoever gets [`Permit::Go`] has to say how it went ([`Breaker::tell`]).
    pub fn ask(&mut self, policy: &Policy, now: Timestamp) -> Permit {
        let permit = self.look(policy, now);
        if permit == Permit::Go {
            match self.circuit {
                Circuit::Closed { .. } => {}
                Circuit::Open { .. } => self.circuit = Circuit::HalfOpen { successes: 0, probe: Some(now) },
                Circuit::HalfOpen { successes, .. } => {
                    self.circuit = Circuit::HalfOpen { successes, probe: Some(now) };
                }
            }
        }
        permit
    }

    /// What [`Breaker::ask`] would say, without asking.
    #[must_use]
    pub fn look(&self, policy: &Policy, now: Timestamp) -> Permit {
        let since = match self.circuit {
            Circuit::Closed { .. } | Circuit::HalfOpen { probe: None, .. } => return Permit::Go,
            Circuit::Open { since } | Circuit::HalfOpen { probe: Some(since), .. } => since,
        };
        // A time to come is one of a clock that was set back since.
        match Duration::try_from(now.duration_since(since)).map(|passed| policy.cooldown.checked_sub(passed))
        {
            Ok(Some(left)) if !left.is_zero() => Permit::Wait(left),
            _ => Permit::Go,
        }
    }

    /// Learns how a call went, also one that nobody asked for.
    pub fn tell(&mut self, outcome: Outcome, policy: &Policy, now: Timestamp) -> Option<Change> {
        match (outcome, self.circuit) {
            (Outcome::Success, Circuit::Closed { .. }) => {
                self.circuit = Circuit::Closed { failures: 0 };
                None
            }
            (Outcome::Success, Circuit::Open { .. }) => self.succeed(0, policy, now),
            (Outcome::Success, Circuit::HalfOpen { successes, .. }) => self.succeed(successes, policy, now),
            (Outcome::Failure, Circuit::Closed { failures }) => {
                let failures = failures.saturating_add(1);
                if failures < policy.failures {
                    self.circuit = Circuit::Closed { failures };
                    return None;
                }
                self.circuit = Circuit::Open { since: now };
                self.opened += 1;
                self.opened_at = Some(now);
                Some(Change::Opened)
            }
            // A call that began before the circuit opened says nothing new.
            (Outcome::Failure, Circuit::Open { .. }) => None,
            (Outcome::Failure, Circuit::HalfOpen { .. }) => {
                self.circuit = Circuit::Open { since: now };
                None
            }
            (Outcome::Unknown, Circuit::HalfOpen { successes, .. }) => {
                self.circuit = Circuit::HalfOpen { successes, probe: None };
                None
            }
            (Outcome::Unknown, Circuit::Closed { .. } | Circuit::Open { .. }) => None,
        }
    }

    fn succeed(&mut self, before: u32, policy: &Policy, now: Timestamp) -> Option<Change> {
        let successes = before.saturating_add(1);
        if successes < policy.successes {
            self.circuit = Circuit::HalfOpen { successes, probe: None };
            return None;
        }
        self.circuit = Circuit::Closed { failures: 0 };
        Some(Change::Closed { since: self.opened_at.take().unwrap_or(now) })
    }
}

#[cfg(test)]
mod tests {
    use jiff::SignedDuration;
    use proptest::prelude::*;

    use super::*;

    const POLICY: Policy = Policy { failures: 3, cooldown: Duration::from_secs(30), successes: 2 };

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn open_at(second: i64) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            assert_eq!(breaker.tell(Outcome::Failure, &POLICY, at(second)), None);
        }
        assert_eq!(breaker.tell(Outcome::Failure, &POLICY, at(second)), Some(Change::Opened));
        breaker
    }

    #[test]
    fn three_failures_in_a_row_open_it_and_a_success_between_does_not() {
        let mut breaker = Breaker::default();
        for outcome in
            [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::Failure, Outcome::Failure]
        {
            assert_eq!(breaker.ask(&POLICY, at(0)), Permit::Go);
            assert_eq!(breaker.tell(outcome, &POLICY, at(0)), None);
        }
        assert_eq!(breaker.tell(Outcome::Unknown, &POLICY, at(0)), None, "a mistake of the caller");
        assert_eq!(breaker.tell(Outcome::Failure, &POLICY, at(0)), Some(Change::Opened));
        assert_eq!((breaker.circuit().name(), breaker.opened()), ("open", 1));
    }

    #[test]
    fn one_probe_after_the_cooldown_and_two_successes_close_it() {
        let mut breaker = open_at(0);
        assert_eq!(breaker.ask(&POLICY, at(10)), Permit::Wait(Duration::from_secs(20)));
        assert_eq!(breaker.ask(&POLICY, at(30)), Permit::Go);
        assert_eq!(breaker.ask(&POLICY, at(31)), Permit::Wait(Duration::from_secs(29)), "one at a time");
        assert_eq!(breaker.tell(Outcome::Success, &POLICY, at(32)), None);
        assert_eq!(breaker.circuit().name(), "half-open");
        assert_eq!(breaker.ask(&POLICY, at(32)), Permit::Go);
        assert_eq!(breaker.tell(Outcome::Success, &POLICY, at(33)), Some(Change::Closed { since: at(0) }));
        assert!(breaker.is_calm());
        assert_eq!(breaker.opened(), 1);
    }

    #[test]
    fn a_failed_probe_opens_it_again_and_is_no_news() {
        let mut breaker = open_at(0);
        assert_eq!(breaker.ask(&POLICY, at(30)), Permit::Go);
        assert_eq!(breaker.tell(Outcome::Failure, &POLICY, at(31)), None);
        assert_eq!(breaker.ask(&POLICY, at(60)), Permit::Wait(Duration::from_secs(1)));
        assert_eq!(breaker.opened(), 1);
    }

    #[test]
    fn a_probe_that_never_tells_is_given_up() {
        let mut breaker = open_at(0);
        assert_eq!(breaker.ask(&POLICY, at(30)), Permit::Go);
        assert_eq!(breaker.ask(&POLICY, at(59)), Permit::Wait(Duration::from_secs(1)));
        assert_eq!(breaker.ask(&POLICY, at(60)), Permit::Go);
    }

    #[test]
    fn a_probe_that_says_nothing_lets_the_next_one_try_at_once() {
        let mut breaker = open_at(0);
        assert_eq!(breaker.ask(&POLICY, at(30)), Permit::Go);
        assert_eq!(breaker.tell(Outcome::Unknown, &POLICY, at(30)), None);
        assert_eq!(breaker.ask(&POLICY, at(30)), Permit::Go);
    }

    #[test]
    fn news_that_the_other_side_is_back_need_not_wait_for_the_cooldown() {
        let mut breaker = open_at(0);
        assert_eq!(breaker.tell(Outcome::Success, &POLICY, at(1)), None);
        assert_eq!(breaker.ask(&POLICY, at(1)), Permit::Go);
    }

    #[test]
    fn it_is_saved_in_words() {
        let mut breaker = open_at(0);
        let text = |breaker: &Breaker| serde_json::to_string(breaker).unwrap();
        assert_eq!(
            text(&Breaker::default()),
            r#"{"circuit":"closed","failures":0,"opened":0,"opened_at":null}"#
        );
        assert_eq!(
            text(&breaker),
            r#"{"circuit":"open","since":"1970-01-12T13:46:40Z","opened":1,"opened_at":"1970-01-12T13:46:40Z"}"#
        );
        breaker.ask(&POLICY, at(30));
        assert_eq!(
            text(&breaker),
            r#"{"circuit":"half-open","successes":0,"probe":"1970-01-12T13:47:10Z","opened":1,"opened_at":"1970-01-12T13:46:40Z"}"#
        );
    }

    fn outcomes() -> impl Strategy<Value = Outcome> {
        prop_oneof![Just(Outcome::Success), Just(Outcome::Failure), Just(Outcome::Unknown)]
    }

    proptest! {
        /// Whatever happened and whatever the clock did: waiting for what it says is always enough.
        #[test]
        fn it_never_refuses_for_ever(steps in prop::collection::vec((-100_i64..100, outcomes(), any::<bool>()), 0..60)) {
            let mut breaker = Breaker::default();
            let mut now = at(10_000);
            let mut opened = 0;
            for (passed, outcome, asks) in steps {
                now += SignedDuration::from_secs(passed);
                if !asks || breaker.ask(&POLICY, now) == Permit::Go {
                    opened += u64::from(breaker.tell(outcome, &POLICY, now) == Some(Change::Opened));
                }
                prop_assert_eq!(breaker.opened(), opened);
                let saved = serde_json::to_string(&breaker).unwrap();
                prop_assert_eq!(serde_json::from_str::<Breaker>(&saved).unwrap(), breaker);
                if let Permit::Wait(left) = breaker.look(&POLICY, now) {
                    prop_assert!(left <= POLICY.cooldown);
                    let later = now + SignedDuration::try_from(left).unwrap();
                    prop_assert_eq!(breaker.look(&POLICY, later), Permit::Go);
                }
            }
        }

        /// Half open, at most one call is under way at a time until it tells or its time is over.
        #[test]
        fn at_most_one_probe(waits in prop::collection::vec(0_i64..29, 1..20)) {
            let mut breaker = open_at(0);
            let mut now = at(30);
            prop_assert_eq!(breaker.ask(&POLICY, now), Permit::Go);
            for wait in waits {
                let asked = breaker.ask(&POLICY, now + SignedDuration::from_secs(wait));
                prop_assert!(matches!(asked, Permit::Wait(_)));
            }
            now += SignedDuration::from_secs(1);
            breaker.tell(Outcome::Success, &POLICY, now);
            prop_assert_eq!(breaker.ask(&POLICY, now), Permit::Go);
        }
    }
}
