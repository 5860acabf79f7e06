//! Rules that say when to raise an alert, as they are written: `errors > 5/min`. Pure.

use std::{fmt, str::FromStr};

use crate::{bus::Pattern, cmd::text::printable};

/// What a rule looks like, for the help.
pub(in crate::cmd::dash) const HELP: &str = "METRIC OP NUMBER, such as 'errors > 5/min'. Metrics: errors, events, a \
    type or pattern such as agent.error or voice.#, all counted over 60 s, per minute (/min) or second (/s); \
    error-rate in %; silence in s, min or h since the last event. OP: > >= < <=. What fired ends when it is 20 % away \
    from the limit (errors > 5/min: at 4/min), and notifies once a minute at most";

/// Letters of a rule.
const LONGEST: usize = 200;

/// No threshold is larger, in its own unit.
const LARGEST: f64 = 1e9;

/// What is measured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Metric {
    Errors,
    Events,
    /// Events of a type.
    Type(Pattern),
    /// Errors among the events.
    ErrorRate,
    /// Time since the last event.
    Silence,
}

/// What a number is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    PerMinute,
    PerSecond,
    Percent,
    Seconds,
}

impl Unit {
    /// One of it, in what is measured: events in 60 seconds, percent, seconds.
    const fn factor(self) -> f64 {
        match self {
            Self::PerSecond => 60.0,
            Self::PerMinute | Self::Percent | Self::Seconds => 1.0,
        }
    }

    /// What was measured, in words.
    pub(super) fn say(self, value: f64) -> String {
        let round = |value: f64| format!("{value:.1}").trim_end_matches('0').trim_end_matches('.').to_owned();
        match self {
            Self::PerMinute => format!("{}/min", round(value)),
            Self::PerSecond => format!("{}/s", round(value / 60.0)),
            Self::Percent => format!("{} %", round(value)),
            Self::Seconds if value >= 60.0 && value % 60.0 < 1.0 => {
                format!("{:.0} min", value.div_euclid(60.0))
            }
            Self::Seconds => format!("{value:.0} s"),
        }
    }
}

/// How it is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    More,
    AtLeast,
    Less,
    AtMost,
}

/// A rule.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cmd::dash) struct Rule {
    /// As it was written, fit for a terminal.
    text: String,
    pub(super) metric: Metric,
    op: Op,
    /// In what is measured.
    threshold: f64,
    pub(super) unit: Unit,
}

/// Why a text is no rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(in crate::cmd::dash) struct RuleError(String);

impl Rule {
    /// Whether an alert begins.
    pub(super) fn fires(&self, value: f64) -> bool {
        match self.op {
            Op::More => value > self.threshold,
            Op::AtLeast => value >= self.threshold,
            Op::Less => value < self.threshold,
            Op::AtMost => value <= self.threshold,
        }
    }

    /// Whether an alert ends: only when the value is a fifth of the threshold away from it, so that one that goes up
    /// and down about its threshold gives one alert and not many.
    pub(super) fn clears(&self, value: f64) -> bool {
        let is_away = if self.needs_much() { value >= self.end() } else { value <= self.end() };
        is_away && !self.fires(value)
    }

    fn end(&self) -> f64 {
        if self.needs_much() { self.threshold * 1.2 } else { self.threshold * 0.8 }
    }

    /// It fires when there is too little, which nobody knows before a while has gone by.
    pub(super) const fn needs_much(&self) -> bool {
        matches!(self.op, Op::Less | Op::AtMost)
    }

    /// When an alert ends, in words.
    pub(in crate::cmd::dash) fn ends(&self) -> String {
        let word = if self.needs_much() { "or more" } else { "or less" };
        format!("{} {word}", self.unit.say(self.end()))
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl FromStr for Rule {
    type Err = RuleError;

    fn from_str(text: &str) -> Result<Self, RuleError> {
        let text = text.trim();
        let shown = printable(text, LONGEST);
        let fail = |why: &str| RuleError(format!("'{shown}' is no alert rule: {why}; want {HELP}"));
        if text.chars().count() > LONGEST {
            return Err(fail("it is too long"));
        }
        let Some(place) = text.find(['<', '>']) else { return Err(fail("it compares nothing")) };
        let (name, rest) = text.split_at(place);
        let [more, less] = ['>', '<'].map(|sign| rest.strip_prefix(sign));
        let (op, rest) = match (more, less) {
            (Some(rest), _) => rest.strip_prefix('=').map_or((Op::More, rest), |rest| (Op::AtLeast, rest)),
            (None, Some(rest)) => rest.strip_prefix('=').map_or((Op::Less, rest), |rest| (Op::AtMost, rest)),
            (None, None) => return Err(fail("it compares nothing")),
        };
        let metric = match name.trim() {
            "" => return Err(fail("the metric is missing")),
            "errors" => Metric::Errors,
            "events" => Metric::Events,
            "error-rate" => Metric::ErrorRate,
            "silence" => Metric::Silence,
            name if name.contains(['.', '*', '#']) => Metric::Type(
                name.parse().map_err(|error: crate::bus::PatternError| fail(&error.to_string()))?,
            ),
            name => return Err(fail(&format!("there is no metric '{}'", printable(name, LONGEST)))),
        };
        let rest = rest.trim();
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (digits, unit) = rest.split_at(digits);
        let number: f64 = digits.parse().map_err(|_| fail("the number is missing"))?;
        if number > LARGEST {
            return Err(fail("the number is too large"));
        }
        let (unit, factor) = match (&metric, unit.trim()) {
            (Metric::Errors | Metric::Events | Metric::Type(_), "" | "/min") => (Unit::PerMinute, 1.0),
            (Metric::Errors | Metric::Events | Metric::Type(_), "/s") => (Unit::PerSecond, 1.0),
            (Metric::ErrorRate, "" | "%") => (Unit::Percent, 1.0),
            (Metric::Silence, "s") => (Unit::Seconds, 1.0),
            (Metric::Silence, "min") => (Unit::Seconds, 60.0),
            (Metric::Silence, "h") => (Unit::Seconds, 3600.0),
            (Metric::Silence, "") => return Err(fail("of a silence say in what it is, such as 5min")),
            (_, unit) => {
                return Err(fail(&format!("'{}' does not fit this metric", printable(unit, LONGEST))));
            }
        };
        Ok(Self { text: shown.clone(), metric, op, threshold: number * factor * unit.factor(), unit })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> Rule {
        text.parse().unwrap()
    }

    #[test]
    fn rules_are_written_like_this() {
        for (text, metric, threshold, ends) in [
            ("errors > 5/min", Metric::Errors, 5.0, "4/min or less"),
            (" events>=2/s ", Metric::Events, 120.0, "1.6/s or less"),
            ("agent.error > 3", Metric::Type("agent.error".parse().unwrap()), 3.0, "2.4/min or less"),
            ("voice.# < 1/min", Metric::Type("voice.#".parse().unwrap()), 1.0, "1.2/min or more"),
            ("# <= 0", Metric::Type("#".parse().unwrap()), 0.0, "0/min or more"),
            ("error-rate > 12.5 %", Metric::ErrorRate, 12.5, "10 % or less"),
            ("silence > 5min", Metric::Silence, 300.0, "4 min or less"),
            ("silence>1h", Metric::Silence, 3600.0, "48 min or less"),
        ] {
            let rule = rule(text);
            assert_eq!(
                (&rule.metric, rule.threshold, rule.ends().as_str()),
                (&metric, threshold, ends),
                "{text}"
            );
            assert_eq!(rule.to_string(), text.trim());
        }
    }

    #[test]
    fn what_is_no_rule_is_told_what_one_is() {
        for (text, why) in [
            ("", "it compares nothing"),
            ("errors = 5", "it compares nothing"),
            ("> 5", "the metric is missing"),
            ("erors > 5", "there is no metric 'erors'"),
            ("errors >", "the number is missing"),
            ("errors > -5", "the number is missing"),
            ("errors > 1.2.3", "the number is missing"),
            ("errors > 99999999999", "the number is too large"),
            ("errors > 5 %", "'%' does not fit this metric"),
            ("error-rate > 5/min", "'/min' does not fit this metric"),
            ("silence > 5", "of a silence say in what it is, such as 5min"),
            ("agent.* > 5 \u{1b}[2J", "'\\u{1b}[2J' does not fit this metric"),
            (&"x.".repeat(150), "it is too long"),
        ] {
            let error = text.parse::<Rule>().unwrap_err().to_string();
            assert!(error.contains(&format!(": {why}; want METRIC OP NUMBER, such as")), "{error}");
            assert!(!error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn what_fires_does_not_clear_at_the_same_time() {
        for text in ["errors > 0", "errors >= 0", "errors <= 0", "events < 0", "errors > 5", "events <= 5"] {
            let rule = rule(text);
            for value in 0..20 {
                let value = f64::from(value) / 2.0;
                assert!(!(rule.fires(value) && rule.clears(value)), "{text} at {value}");
            }
        }
        assert!(rule("errors > 0").clears(0.0) && rule("errors <= 0").clears(1.0));
        assert!(!rule("errors > 5").clears(4.5) && rule("errors > 5").clears(4.0));
    }
}
