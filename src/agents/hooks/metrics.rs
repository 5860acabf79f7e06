//! Counts turns, and how long they take, in the text format of Prometheus. Pure.

use std::collections::BTreeMap;

use super::{
    super::figures::{Figures, Times},
    Report,
};

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Turns by provider and how they ended: `ok`, or the class of their failure.
    turns: BTreeMap<(String, &'static str), u64>,
    /// Turns that a hook stopped, by its name.
    stopped: BTreeMap<String, u64>,
    times: BTreeMap<String, Times>,
}

impl Metrics {
    /// Counts a turn that has ended.
    pub(super) fn ended(&mut self, provider: &str, report: &Report) {
        let how = if report.success { "ok" } else { report.class.unwrap_or("unknown") };
        *self.turns.entry((provider.to_owned(), how)).or_default() += 1;
        self.times.entry(provider.to_owned()).or_default().add(report.execution_time_ms);
    }

    /// Counts a turn that a hook has stopped.
    pub(super) fn stopped(&mut self, hook: &str) {
        *self.stopped.entry(hook.to_owned()).or_default() += 1;
    }

    /// All of it as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut figures = Figures::default();
        let name = "godctl_agent_turns_total";
        figures.family(name, "counter", "Turns, by provider and how they ended.");
        for ((provider, how), count) in &self.turns {
            figures.figure(name, &[("provider", provider), ("outcome", how)], count);
        }
        let name = "godctl_agent_turns_stopped_total";
        figures.family(name, "counter", "Turns that a hook has stopped.");
        for (hook, count) in &self.stopped {
            figures.figure(name, &[("hook", hook)], count);
        }
        let name = "godctl_agent_turn_seconds";
        figures.family(name, "histogram", "How long turns take.");
        for (provider, times) in &self.times {
            times.write(&mut figures, name, ("provider", provider));
        }
        figures.into_text()
    }
}
