//! Whether a turn of an agent may begin now: one gate for each agent and machine, which all its processes share through a
//! file. Pure; time and load are passed in.
//!
//! What is turned away here waits; it has not failed. Five things can shut a gate: as many turns at once as are allowed,
//! a pause that the service asked for, a day's budget, too many turns in a minute, and a circuit that is open.

use std::time::Duration;

use jiff::{Timestamp, Zoned};
use serde::{Deserialize, Serialize};

use super::{
    super::{Class, Failure},
    Bucket, ProviderCircuit,
    bucket::Rate,
};
use crate::{
    bus::breaker::{Change, Permit},
    config::LimitSettings,
};

/// No pause is longer than this, whatever a service says: limits of a week are the longest that there are.
const LONGEST_PAUSE: Duration = Duration::from_secs(8 * 24 * 3600);
/// Where a service does not say how long its limit holds.
const SOME_PAUSE: Duration = Duration::from_secs(30);

/// What an agent is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bounds {
    /// Turns at once.
    pub at_once: Option<usize>,
    /// Turns in a time.
    pub rate: Option<Rate>,
}

impl Bounds {
    /// Those of a configuration.
    #[must_use]
    pub fn new(settings: &LimitSettings) -> Self {
        let rate = |per_minute| Rate { per_minute, burst: settings.burst.unwrap_or(1) };
        Self { at_once: settings.at_once, rate: settings.per_minute.map(rate) }
    }
}

/// A gate.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Gate {
    circuit: ProviderCircuit,
    bucket: Option<Bucket>,
    paused_until: Option<Timestamp>,
    /// The end of the day of which it was told that its budget is used up.
    told_until: Option<Timestamp>,
}

/// Why a turn may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// As many as are allowed are being worked on.
    AtOnce,
    /// The service answers no more until a time.
    RateLimited,
    /// The day's budget is used up.
    Budget,
    /// Too many in a minute.
    Rate,
    /// It keeps failing through its own fault.
    Circuit,
}

impl Why {
    /// As events and tables say it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AtOnce => "at_once",
            Self::RateLimited => "rate_limited",
            Self::Budget => "budget",
            Self::Rate => "rate",
            Self::Circuit => "circuit",
        }
    }
}

/// A turn may not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Shut {
    /// Why.
    pub why: Why,
    /// Until when, if time alone opens it.
    pub until: Option<Timestamp>,
}

/// A change that others should hear of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// The circuit has opened: no turns until then.
    Opened {
        /// When one may try.
        until: Timestamp,
        /// The failure that was one too many.
        class: Class,
        /// What it said.
        error: String,
    },
    /// The circuit has closed.
    Closed {
        /// When it had opened.
        since: Timestamp,
    },
    /// No turns until then.
    Paused {
        /// [`Why::RateLimited`] or [`Why::Budget`].
        why: Why,
        /// When it goes on.
        until: Timestamp,
        /// For people.
        message: String,
    },
}

impl Gate {
    /// The state of the circuit: `closed`, `open` or `half-open`.
    #[must_use]
    pub const fn circuit(&self) -> &'static str {
        self.circuit.state()
    }

    /// Until when the service answers no more.
    #[must_use]
    pub fn pause(&self, now: Timestamp) -> Option<Timestamp> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Asks for a turn. `running` is how many there are, `budget` what the day's budget says. Whoever is let through must
    /// [`Self::tell`] how it went. Who is not let through changes nothing, but for what was told.
    ///
    /// # Errors
    /// Why not, and until when.
    pub fn ask(
        &mut self,
        bounds: Bounds,
        running: usize,
        budget: Result<(), &Failure>,
        now: &Zoned,
    ) -> (Result<(), Shut>, Option<News>) {
        let at = now.timestamp();
        let after = |wait: Duration| at.checked_add(wait).unwrap_or(Timestamp::MAX);
        let shut = |why, until| (Err(Shut { why, until }), None);
        if bounds.at_once.is_some_and(|most| running >= most) {
            return shut(Why::AtOnce, None);
        }
        if let Some(until) = self.pause(at) {
            return shut(Why::RateLimited, Some(until));
        }
        if let Err(failure) = budget {
            let until = after(failure.retry_after.unwrap_or_default());
            let was_told = self.told_until.is_some_and(|told| told > at);
            self.told_until = Some(until);
            let message = failure.message.clone();
            let news = (!was_told).then_some(News::Paused { why: Why::Budget, until, message });
            return (Err(Shut { why: Why::Budget, until: Some(until) }), news);
        }
        let mut bucket = self.bucket.unwrap_or_else(|| Bucket::new(at));
        if let Some(rate) = bounds.rate
            && let Err(wait) = bucket.take(rate, at)
        {
            return shut(Why::Rate, Some(after(wait)));
        }
        let mut circuit = self.circuit.clone();
        if let Permit::Wait(wait) = circuit.ask(at) {
            return shut(Why::Circuit, Some(after(wait)));
        }
        self.circuit = circuit;
        self.bucket = bounds.rate.map(|_| bucket);
        self.told_until = None;
        (Ok(()), None)
    }

    /// Learns how a turn went that was let through.
    pub fn tell(&mut self, verdict: Result<(), &Failure>, now: Timestamp) -> Vec<News> {
        let mut news = Vec::new();
        match self.circuit.tell(verdict.map_err(|failure| failure.class), now) {
            Some(Change::Closed { since }) => news.push(News::Closed { since }),
            Some(Change::Opened) => {
                let wait = match self.circuit.clone().ask(now) {
                    Permit::Wait(wait) => wait,
                    Permit::Go => Duration::ZERO,
                };
                if let Err(failure) = verdict {
                    news.push(News::Opened {
                        until: now.checked_add(wait).unwrap_or(Timestamp::MAX),
                        class: failure.class,
                        error: failure.message.clone(),
                    });
                }
            }
            None => {}
        }
        if let Err(failure) = verdict
            && failure.class == Class::RateLimited
        {
            let wait = failure.retry_after.unwrap_or(SOME_PAUSE).min(LONGEST_PAUSE);
            news.extend(self.limited(now.checked_add(wait).unwrap_or(Timestamp::MAX), &failure.message, now));
        }
        news
    }

    /// The service says that it answers no more until a time.
    pub fn limited(&mut self, until: Timestamp, message: &str, now: Timestamp) -> Option<News> {
        let until = until.min(now.checked_add(LONGEST_PAUSE).unwrap_or(Timestamp::MAX));
        if until <= now || self.paused_until.is_some_and(|known| known >= until) {
            return None;
        }
        self.paused_until = Some(until);
        Some(News::Paused { why: Why::RateLimited, until, message: message.to_owned() })
    }

    /// Nothing would be learnt from a success.
    #[must_use]
    pub fn is_calm(&self) -> bool {
        self.circuit.is_calm()
    }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn ask(gate: &mut Gate, bounds: Bounds, running: usize, second: i64) -> Result<(), Shut> {
        gate.ask(bounds, running, Ok(()), &at(second).to_zoned(TimeZone::UTC)).0
    }

    fn shut(why: Why, until: Option<i64>) -> Result<(), Shut> {
        Err(Shut { why, until: until.map(at) })
    }

    #[test]
    fn without_limits_everybody_goes_through() {
        let mut gate = Gate::default();
        for second in 0..100 {
            assert_eq!(ask(&mut gate, Bounds::default(), 1_000, second), Ok(()));
        }
        assert_eq!(gate, Gate::default(), "and nothing needs to be kept");
    }

    #[test]
    fn so_many_at_once_and_so_many_in_a_minute() {
        let bounds = Bounds { at_once: Some(2), rate: Some(Rate { per_minute: 6, burst: 2 }) };
        let mut gate = Gate::default();
        assert_eq!(ask(&mut gate, bounds, 2, 0), shut(Why::AtOnce, None));
        assert_eq!((ask(&mut gate, bounds, 0, 0), ask(&mut gate, bounds, 1, 0)), (Ok(()), Ok(())));
        assert_eq!(ask(&mut gate, bounds, 0, 4), shut(Why::Rate, Some(10)));
        let before = gate.clone();
        assert_eq!(ask(&mut gate, bounds, 0, 5), shut(Why::Rate, Some(10)));
        assert_eq!(gate, before, "asking changes nothing");
        assert_eq!(ask(&mut gate, bounds, 0, 10), Ok(()));
    }

    #[test]
    fn a_limit_of_the_service_is_waited_for_and_told_once() {
        let mut gate = Gate::default();
        let failure = |wait: Option<u64>| Failure {
            retry_after: wait.map(Duration::from_secs),
            ..Failure::new(Class::RateLimited, "slow down")
        };
        let news = gate.tell(Err(&failure(Some(60))), at(0));
        let [News::Paused { why: Why::RateLimited, until, .. }] = &news[..] else { panic!("{news:?}") };
        assert_eq!(*until, at(60));
        assert_eq!(ask(&mut gate, Bounds::default(), 0, 59), shut(Why::RateLimited, Some(60)));
        assert!(gate.tell(Err(&failure(Some(20))), at(10)).is_empty(), "a shorter one says nothing new");
        assert_eq!(gate.limited(at(0), "over", at(30)), None);
        assert_eq!(ask(&mut gate, Bounds::default(), 0, 60), Ok(()));
        gate.tell(Err(&failure(None)), at(100));
        assert_eq!(ask(&mut gate, Bounds::default(), 0, 101), shut(Why::RateLimited, Some(130)));
        gate.limited(Timestamp::MAX, "for ever", at(200));
        let week = i64::try_from(LONGEST_PAUSE.as_secs()).unwrap();
        assert_eq!(ask(&mut gate, Bounds::default(), 0, 201), shut(Why::RateLimited, Some(200 + week)));
    }

    #[test]
    fn a_budget_that_is_used_up_is_told_once_a_day() {
        let mut gate = Gate::default();
        let wait = Some(Duration::from_secs(3_600));
        let failure = Failure { retry_after: wait, ..Failure::new(Class::Budget, "used up") };
        let mut ask = |second: i64, budget: Result<(), &Failure>| {
            gate.ask(Bounds::default(), 0, budget, &at(second).to_zoned(TimeZone::UTC))
        };
        let (answer, news) = ask(0, Err(&failure));
        assert_eq!(answer, shut(Why::Budget, Some(3_600)));
        assert!(matches!(news, Some(News::Paused { why: Why::Budget, .. })));
        assert_eq!(ask(10, Err(&failure)).1, None);
        assert_eq!(ask(20, Ok(())), (Ok(()), None), "the limit was raised");
        assert!(ask(30, Err(&failure)).1.is_some());
        assert!(ask(3_700, Err(&failure)).1.is_some(), "the next day");
    }

    #[test]
    fn a_circuit_opens_lets_one_try_and_closes() {
        let mut gate = Gate::default();
        let failure = Failure::new(Class::Overloaded, "too much to do");
        for second in 0..4 {
            assert_eq!(gate.tell(Err(&failure), at(second)), []);
        }
        let news = gate.tell(Err(&failure), at(4));
        assert_eq!(
            news,
            [News::Opened { until: at(34), class: Class::Overloaded, error: "too much to do".to_owned() }]
        );
        assert!(!gate.is_calm());
        assert_eq!(ask(&mut gate, Bounds::default(), 0, 5), shut(Why::Circuit, Some(34)));
        let rate = Bounds { rate: Some(Rate { per_minute: 1, burst: 1 }), ..Bounds::default() };
        assert_eq!(ask(&mut gate, rate, 0, 6), shut(Why::Circuit, Some(34)), "and takes no token");
        assert_eq!(ask(&mut gate, rate, 0, 34), Ok(()), "one tries");
        assert!(ask(&mut gate, Bounds::default(), 0, 34).is_err(), "one alone");
        assert_eq!(gate.tell(Ok(()), at(36)), [News::Closed { since: at(4) }]);
        let text = serde_json::to_string(&gate).unwrap();
        assert_eq!(serde_json::from_str::<Gate>(&text).unwrap(), gate);
        assert_eq!(serde_json::from_str::<Gate>("{}").unwrap(), Gate::default());
    }
}
