//! A circuit breaker for a provider: one that keeps failing through its own fault is left alone for a while, longer each
//! time. Pure; time is passed in.
//!
//! The bus's [`Breaker`] decides when to open, when to try and when to close. Here is what counts as a failure of a
//! provider: what [`Class::blames_provider`] says, `FAILURES` times among the last `LOOKED_AT` turns of a minute; what no
//! second try will mend opens it at once.

use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::super::Class;
use crate::bus::breaker::{Breaker, Change, Circuit, Outcome, Permit, Policy};

/// Failures that open it.
const FAILURES: usize = 5;
/// Among so many turns.
const LOOKED_AT: usize = 10;
/// Of no more than this time.
const WINDOW: Duration = Duration::from_secs(60);
/// How long it stays open the first time; twice as long each time after.
const FIRST_COOLDOWN: Duration = Duration::from_secs(30);
/// And no longer than this.
const LAST_COOLDOWN: Duration = Duration::from_secs(600);

/// The circuit of one provider and account.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderCircuit {
    breaker: Breaker,
    /// How the last turns went, oldest first: true for a failure.
    recent: VecDeque<(Timestamp, bool)>,
    /// How often a try has failed since it opened.
    failed_tries: u32,
}

impl ProviderCircuit {
    /// `closed`, `open` or `half-open`.
    #[must_use]
    pub const fn state(&self) -> &'static str {
        self.breaker.circuit().name()
    }

    /// Nothing is wrong, and was not in the last minute: a success says nothing new.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.breaker.is_calm() && !self.recent.iter().any(|(_, failed)| *failed)
    }

    /// Asks for a turn. Whoever is let through has to say how it went ([`Self::tell`]).
    pub fn ask(&mut self, now: Timestamp) -> Permit {
        let policy = self.policy();
        self.breaker.ask(&policy, now)
    }

    /// Learns how a turn went.
    pub fn tell(&mut self, verdict: Result<(), Class>, now: Timestamp) -> Option<Change> {
        let policy = self.policy();
        let is_closed = matches!(self.breaker.circuit(), Circuit::Closed { .. });
        let outcome = match verdict {
            Ok(()) => Outcome::Success,
            Err(class) if !class.blames_provider() => Outcome::Unknown,
            Err(class) if is_closed && !self.is_enough(class, now) => Outcome::Unknown,
            Err(_) => Outcome::Failure,
        };
        if outcome == Outcome::Success {
            self.note(now, false);
        }
        if outcome == Outcome::Failure && matches!(self.breaker.circuit(), Circuit::HalfOpen { .. }) {
            self.failed_tries = self.failed_tries.saturating_add(1);
        }
        let change = self.breaker.tell(outcome, &policy, now);
        if matches!(change, Some(Change::Closed { .. })) {
            self.failed_tries = 0;
            self.recent.clear();
        }
        change
    }

    /// Notes a failure; says whether that is enough of them.
    fn is_enough(&mut self, class: Class, now: Timestamp) -> bool {
        self.note(now, true);
        // A key that is not taken and a program that is not there stay so until somebody does something.
        matches!(class, Class::Auth | Class::MissingExecutable)
            || self.recent.iter().filter(|(_, failed)| *failed).count() >= FAILURES
    }

    fn note(&mut self, now: Timestamp, failed: bool) {
        self.recent.push_back((now, failed));
        // What lies in the future was noted before the clock was set back.
        let is_recent =
            |at: Timestamp| Duration::try_from(now.duration_since(at)).is_ok_and(|passed| passed <= WINDOW);
        self.recent.retain(|(at, _)| is_recent(*at));
        let surplus = self.recent.len().saturating_sub(LOOKED_AT);
        self.recent.drain(..surplus);
    }

    /// The window has counted already, so one is enough for the breaker.
    fn policy(&self) -> Policy {
        let longer = 2_u32.saturating_pow(self.failed_tries.min(16));
        let cooldown = FIRST_COOLDOWN.saturating_mul(longer).min(LAST_COOLDOWN);
        Policy { failures: 1, cooldown, successes: 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn fail(circuit: &mut ProviderCircuit, second: i64) -> Option<Change> {
        circuit.tell(Err(Class::Overloaded), at(second))
    }

    fn open() -> ProviderCircuit {
        let mut circuit = ProviderCircuit::default();
        for second in 0..4 {
            assert_eq!(fail(&mut circuit, second), None);
        }
        assert_eq!(fail(&mut circuit, 4), Some(Change::Opened));
        circuit
    }

    #[test]
    fn five_failures_of_its_own_in_a_minute_open_it() {
        let mut circuit = open();
        assert_eq!(circuit.ask(at(5)), Permit::Wait(Duration::from_secs(29)));
        assert_eq!(circuit.ask(at(34)), Permit::Go, "one may try");
        assert_eq!(circuit.ask(at(34)), Permit::Wait(Duration::from_secs(30)), "one alone");
        assert_eq!(circuit.tell(Ok(()), at(35)), Some(Change::Closed { since: at(4) }));
        assert_eq!((circuit.ask(at(36)), circuit.state()), (Permit::Go, "closed"));
        assert_eq!(fail(&mut circuit, 36), None, "and it begins to count anew");
    }

    #[test]
    fn failures_that_lie_apart_or_among_successes_do_not() {
        let mut circuit = ProviderCircuit::default();
        for second in 0..20 {
            assert_eq!(fail(&mut circuit, second * 16), None, "four fall into a minute");
        }
        let mut circuit = ProviderCircuit::default();
        for second in 0..30 {
            let change =
                if second % 3 == 0 { fail(&mut circuit, second) } else { circuit.tell(Ok(()), at(second)) };
            assert_eq!(change, None, "a third of them");
        }
    }

    #[test]
    fn the_mistakes_of_users_do_not_count() {
        let mut circuit = ProviderCircuit::default();
        for second in 0..50 {
            for class in [Class::InvalidRequest, Class::Timeout, Class::Cancelled, Class::RateLimited] {
                assert_eq!(circuit.tell(Err(class), at(second)), None);
            }
        }
        assert_eq!(circuit.state(), "closed");
    }

    #[test]
    fn what_no_second_try_mends_opens_it_at_once() {
        for class in [Class::Auth, Class::MissingExecutable] {
            let mut circuit = ProviderCircuit::default();
            assert_eq!(circuit.tell(Err(class), at(0)), Some(Change::Opened), "{class}");
        }
    }

    #[test]
    fn each_try_that_fails_doubles_the_wait_up_to_ten_minutes() {
        let mut circuit = open();
        let mut now = 4;
        for wait in [30, 60, 120, 240, 480, 600, 600] {
            assert_eq!(circuit.ask(at(now)), Permit::Wait(Duration::from_secs(wait)));
            now += i64::try_from(wait).unwrap();
            assert_eq!(circuit.ask(at(now)), Permit::Go);
            assert_eq!(fail(&mut circuit, now), None);
        }
        now += 600;
        assert_eq!(circuit.ask(at(now)), Permit::Go);
        assert!(circuit.tell(Ok(()), at(now)).is_some());
        for second in 1..=5 {
            fail(&mut circuit, now + second);
        }
        assert_eq!(circuit.ask(at(now + 5)), Permit::Wait(Duration::from_secs(30)), "it is forgotten then");
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let circuit = open();
        let text = serde_json::to_string(&circuit).unwrap();
        assert_eq!(serde_json::from_str::<ProviderCircuit>(&text).unwrap(), circuit);
    }
}
