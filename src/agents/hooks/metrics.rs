//! Counts turns, and how long they take, in the text format of Prometheus. Pure.

use std::collections::BTreeMap;

use super::Report;

/// Upper bounds of the times that are told apart, in seconds: from an answer at once to a turn of an hour.
const BOUNDS: [u32; 9] = [1, 5, 15, 30, 60, 120, 300, 900, 3_600];

/// What was counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metrics {
    /// Turns by provider and how they ended: `ok`, or the class of their failure.
    turns: BTreeMap<(String, &'static str), u64>,
    /// Turns that a hook stopped, by its name.
    stopped: BTreeMap<String, u64>,
    times: BTreeMap<String, Times>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Times {
    /// Turns that took no longer than each bound.
    within: [u64; BOUNDS.len()],
    count: u64,
    sum_ms: u64,
}

impl Metrics {
    /// Counts a turn that has ended.
    pub(super) fn ended(&mut self, provider: &str, report: &Report) {
        let how = if report.success { "ok" } else { report.class.unwrap_or("unknown") };
        *self.turns.entry((provider.to_owned(), how)).or_default() += 1;
        let times = self.times.entry(provider.to_owned()).or_default();
        for (bound, within) in BOUNDS.iter().zip(&mut times.within) {
            *within += u64::from(report.execution_time_ms <= u64::from(*bound) * 1_000);
        }
        times.count += 1;
        times.sum_ms = times.sum_ms.saturating_add(report.execution_time_ms);
    }

    /// Counts a turn that a hook has stopped.
    pub(super) fn stopped(&mut self, hook: &str) {
        *self.stopped.entry(hook.to_owned()).or_default() += 1;
    }

    /// All of it as Prometheus reads it.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |line: String| text.push_str(&line);
        line(head("godctl_agent_turns_total", "Turns, by provider and how they ended.", "counter"));
        for ((provider, how), count) in &self.turns {
            line(format!("godctl_agent_turns_total{{provider=\"{provider}\",outcome=\"{how}\"}} {count}\n"));
        }
        line(head("godctl_agent_turns_stopped_total", "Turns that a hook has stopped.", "counter"));
        for (hook, count) in &self.stopped {
            line(format!("godctl_agent_turns_stopped_total{{hook=\"{hook}\"}} {count}\n"));
        }
        let name = "godctl_agent_turn_seconds";
        line(head(name, "How long turns take.", "histogram"));
        for (provider, times) in &self.times {
            for (bound, within) in BOUNDS.iter().zip(times.within) {
                line(format!("{name}_bucket{{provider=\"{provider}\",le=\"{bound}\"}} {within}\n"));
            }
            line(format!("{name}_bucket{{provider=\"{provider}\",le=\"+Inf\"}} {}\n", times.count));
            let (seconds, ms) = (times.sum_ms / 1_000, times.sum_ms % 1_000);
            line(format!("{name}_sum{{provider=\"{provider}\"}} {seconds}.{ms:03}\n"));
            line(format!("{name}_count{{provider=\"{provider}\"}} {}\n", times.count));
        }
        text
    }
}

fn head(name: &str, help: &str, kind: &str) -> String {
    format!("# HELP {name} {help}\n# TYPE {name} {kind}\n")
}
