//! Alerts: rules, what they measure, and whether they fire. Pure.
//!
//! Counted is what comes as it happens, over the last 60 seconds by the clock of this program; the history says nothing
//! about what is wrong now. Rules that fire on too little wait until they have seen 60 seconds.

use jiff::{SignedDuration, Timestamp};

use super::{
    rule::{Metric, Rule},
    tallies::Seen,
};

/// Seconds that are counted.
const WINDOW: i64 = 60;

/// A rule notifies not again before so long.
const PAUSE: SignedDuration = SignedDuration::from_secs(60);

/// Counts of the last 60 seconds: each second's number and its count.
#[derive(Debug, Clone)]
struct Counter([(i64, u32); WINDOW as usize]);

impl Default for Counter {
    fn default() -> Self {
        Self([(i64::MIN, 0); WINDOW as usize])
    }
}

impl Counter {
    fn add(&mut self, now: i64) {
        let place = usize::try_from(now.rem_euclid(WINDOW)).unwrap_or(0);
        if let Some(second) = self.0.get_mut(place) {
            if second.0 != now {
                *second = (now, 0);
            }
            second.1 = second.1.saturating_add(1);
        }
    }

    fn sum(&self, now: i64) -> u32 {
        let is_recent = |at: i64| at <= now && now - WINDOW < at;
        self.0.iter().filter(|(at, _)| is_recent(*at)).fold(0, |sum, (_, count)| sum.saturating_add(*count))
    }
}

/// A rule and how it stands.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Alert {
    pub(in crate::cmd::dash) rule: Rule,
    /// Events of its type.
    counter: Counter,
    /// Since when it fires.
    pub(in crate::cmd::dash) firing: Option<Timestamp>,
    /// How often it fired.
    pub(in crate::cmd::dash) fired: u64,
    /// When it notified last, and whether of the alert that is on.
    notified: Option<Timestamp>,
    is_told: bool,
    /// What was measured last.
    value: f64,
}

impl Alert {
    /// What was measured last, in words.
    pub(in crate::cmd::dash) fn value(&self) -> String {
        self.rule.unit.say(self.value)
    }
}

/// Something that a person wants to be told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Notice {
    /// An alert is on.
    Fires { title: String, text: String },
    /// It is over.
    Clears(String),
}

/// All of them.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Alerts {
    alerts: Vec<Alert>,
    events: Counter,
    errors: Counter,
    /// When this began, and when the last event came.
    since: Timestamp,
    last: Timestamp,
}

impl Alerts {
    pub(in crate::cmd::dash) fn new(rules: &[Rule], now: Timestamp) -> Self {
        let alert = |rule: &Rule| Alert {
            rule: rule.clone(),
            counter: Counter::default(),
            firing: None,
            fired: 0,
            notified: None,
            is_told: false,
            value: 0.0,
        };
        Self {
            alerts: rules.iter().map(alert).collect(),
            events: Counter::default(),
            errors: Counter::default(),
            since: now,
            last: now,
        }
    }

    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        if !seen.is_live || self.alerts.is_empty() {
            return;
        }
        let now = seen.now.as_second();
        self.last = seen.now;
        self.events.add(now);
        if seen.row.is_error {
            self.errors.add(now);
        }
        for alert in &mut self.alerts {
            if let Metric::Type(pattern) = &alert.rule.metric
                && pattern.matches(&seen.row.event_type)
            {
                alert.counter.add(now);
            }
        }
    }

    /// Looks how all rules stand, and tells what has changed.
    pub(in crate::cmd::dash) fn check(&mut self, now: Timestamp) -> Vec<Notice> {
        let second = now.as_second();
        let [events, errors] = [&self.events, &self.errors].map(|counter| f64::from(counter.sum(second)));
        let silence = now.duration_since(self.last).as_secs_f64().max(0.0);
        let is_early = now.duration_since(self.since) < SignedDuration::from_secs(WINDOW);
        let mut notices = Vec::new();
        for alert in &mut self.alerts {
            let value = match &alert.rule.metric {
                Metric::Errors => errors,
                Metric::Events => events,
                Metric::Type(_) => f64::from(alert.counter.sum(second)),
                Metric::ErrorRate if events > 0.0 => errors * 100.0 / events,
                Metric::ErrorRate => 0.0,
                Metric::Silence => silence,
            };
            alert.value = value;
            if alert.firing.is_some() {
                if alert.rule.clears(value) {
                    alert.firing = None;
                    notices.push(Notice::Clears(alert.rule.to_string()));
                }
            } else if alert.rule.fires(value) && !(alert.rule.needs_much() && is_early) {
                alert.firing = Some(now);
                alert.fired += 1;
                alert.is_told = false;
            }
            let is_paused = alert.notified.is_some_and(|at| now.duration_since(at) < PAUSE);
            if alert.firing.is_some() && !alert.is_told && !is_paused {
                alert.is_told = true;
                alert.notified = Some(now);
                notices.push(Notice::Fires {
                    title: format!("godctl: {}", alert.rule),
                    text: format!("{} now; over at {}", alert.value(), alert.rule.ends()),
                });
            }
        }
        notices
    }

    /// The rules, in the order in which they were given.
    pub(in crate::cmd::dash) fn all(&self) -> &[Alert] {
        &self.alerts
    }

    /// How many fire.
    pub(in crate::cmd::dash) fn firing(&self) -> usize {
        self.alerts.iter().filter(|alert| alert.firing.is_some()).count()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{
        super::testing::{at, buffer_of, event_at},
        *,
    };

    fn alerts(rules: &[&str]) -> Alerts {
        let rules: Vec<Rule> = rules.iter().map(|rule| rule.parse().unwrap()).collect();
        Alerts::new(&rules, at(0))
    }

    fn take(alerts: &mut Alerts, second: i64, event_type: &str) {
        let event = event_at(second, event_type, json!({}));
        let buffer = buffer_of([event.clone()]);
        for row in buffer.rows() {
            alerts.take(&Seen { row, event: &event, is_live: true, now: at(second) });
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn counts_equal_a_recount_and_alerts_have_hysteresis_and_a_pause(
            gaps in proptest::collection::vec((0_i64..20, any::<bool>()), 0..120),
        ) {
            let mut watched = alerts(&["errors > 5/min", "events < 4/min"]);
            let mut came: Vec<(i64, bool)> = Vec::new();
            let mut were = [false, false];
            let mut notified: Vec<i64> = Vec::new();
            let mut now = 0;
            for (gap, is_error) in gaps {
                now += gap;
                take(&mut watched, now, if is_error { "agent.error" } else { "a.b" });
                came.push((now, is_error));
                let within = |wanted: &dyn Fn(bool) -> bool| {
                    came.iter().filter(|(at, is_error)| now - at < 60 && wanted(*is_error)).count()
                };
                let (errors, events) = (within(&|is_error| is_error), within(&|_| true));
                for notice in watched.check(at(now)) {
                    if let Notice::Fires { title, .. } = notice
                        && title.contains("errors")
                    {
                        prop_assert!(notified.last().is_none_or(|last| now - last >= 60));
                        notified.push(now);
                    }
                }
                prop_assert_eq!(watched.alerts[0].value(), format!("{errors}/min"));
                prop_assert_eq!(watched.alerts[1].value(), format!("{events}/min"));
                were = [
                    if were[0] { errors > 4 } else { errors > 5 },
                    if were[1] { events < 5 } else { events < 4 && now >= 60 },
                ];
                let are: Vec<bool> = watched.alerts.iter().map(|alert| alert.firing.is_some()).collect();
                prop_assert_eq!(are, were);
            }
        }
    }

    #[test]
    fn types_rates_and_silence() {
        let mut watched = alerts(&["agent.* > 1", "error-rate >= 50 %", "silence > 30s", "voice.# > 2/s"]);
        let stand = |watched: &mut Alerts, second: i64| {
            watched.check(at(second));
            let alerts = watched.all().iter();
            alerts
                .map(|alert| format!("{}{}", alert.value(), if alert.firing.is_some() { "!" } else { "" }))
                .collect()
        };
        let found: Vec<String> = stand(&mut watched, 1);
        assert_eq!(found, ["0/min", "0 %", "1 s", "0/s"]);
        take(&mut watched, 2, "agent.error");
        take(&mut watched, 2, "agent.thinking.more");
        take(&mut watched, 3, "agent.ended");
        let found: Vec<String> = stand(&mut watched, 3);
        assert_eq!(found, ["2/min!", "33.3 %", "0 s", "0/s"]);
        (0..121).for_each(|_| take(&mut watched, 4, "voice.x"));
        let found: Vec<String> = stand(&mut watched, 35);
        assert_eq!(found, ["2/min!", "0.8 %", "31 s!", "2/s!"]);
        take(&mut watched, 36, "agent.error");
        let found: Vec<String> = stand(&mut watched, 95);
        assert_eq!(found, ["1/min!", "100 %!", "59 s!", "0/s"]);
        let found: Vec<String> = stand(&mut watched, 96);
        assert_eq!(found, ["0/min", "0 %", "1 min!", "0/s"]);
    }
}
