//! Figures in the text format of Prometheus. Pure.

use std::fmt::{Display, Write as _};

/// Upper bounds of the times that are told apart, in seconds: from an answer at once to a turn of an hour.
const BOUNDS: [u32; 9] = [1, 5, 15, 30, 60, 120, 300, 900, 3_600];

/// Families of figures, as text.
#[derive(Debug, Clone, Default)]
pub struct Figures(String);

impl Figures {
    /// Begins a family; its figures follow.
    pub fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}").ok();
    }

    /// A figure.
    pub fn figure(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        writeln!(self.0, "{name}{labels} {value}").ok();
    }

    /// All of it.
    #[must_use]
    pub fn into_text(self) -> String {
        self.0
    }
}

/// How long something takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Times {
    /// What took no longer than each bound.
    within: [u64; BOUNDS.len()],
    count: u64,
    sum_ms: u64,
}

impl Times {
    /// One more, which took so many milliseconds.
    pub fn add(&mut self, ms: u64) {
        for (bound, within) in BOUNDS.iter().zip(&mut self.within) {
            *within += u64::from(ms <= u64::from(*bound) * 1_000);
        }
        self.count += 1;
        self.sum_ms = self.sum_ms.saturating_add(ms);
    }

    /// As figures of a family that was begun with the kind `histogram`.
    pub fn write(&self, figures: &mut Figures, name: &str, (label, value): (&str, &str)) {
        let bucket = format!("{name}_bucket");
        for (bound, within) in BOUNDS.iter().zip(self.within) {
            figures.figure(&bucket, &[(label, value), ("le", &bound.to_string())], within);
        }
        figures.figure(&bucket, &[(label, value), ("le", "+Inf")], self.count);
        let (seconds, ms) = (self.sum_ms / 1_000, self.sum_ms % 1_000);
        figures.figure(&format!("{name}_sum"), &[(label, value)], format_args!("{seconds}.{ms:03}"));
        figures.figure(&format!("{name}_count"), &[(label, value)], self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_bound_counts_what_took_no_longer_and_labels_stay_in_their_quotes() {
        let mut times = Times::default();
        for ms in [0, 1_000, 1_001, 4_000_000] {
            times.add(ms);
        }
        let mut figures = Figures::default();
        figures.family("t", "histogram", "Times.");
        times.write(&mut figures, "t", ("who", "a\"b\\c\nd"));
        figures.family("n", "gauge", "One number.");
        figures.figure("n", &[], 7);
        insta::assert_snapshot!(figures.into_text());
    }
}
