//! `up`: which parts `godctl up` runs, and how it treats those that fail.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    Stop, Violation,
    mask::{holds_password, mask_addresses},
};

/// `up`: which parts `godctl up` runs, in this order, and how it treats those that fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Up {
    /// Command lines of godctl, started in this order and stopped in the reverse one.
    pub parts: Vec<CommandLine>,
    /// Seconds until a part must say that it is ready.
    pub ready_s: u32,
    /// Seconds a part has to end before it is killed; unset means 5 more than `shutdown.deadline_s`, which is what
    /// the part itself takes at most.
    pub stop_s: Option<u32>,
    /// Seconds that a part may say nothing before it counts as stuck and is killed.
    pub watchdog_s: u32,
    /// Restarts within `window_s` after which a part counts as broken, which stops everything.
    pub max_restarts: u32,
    /// See `max_restarts`; a part that was ready for so long starts again with the shortest wait.
    pub window_s: u32,
}

impl Default for Up {
    fn default() -> Self {
        Self {
            parts: vec![CommandLine("asr-serve".to_owned())],
            ready_s: 60,
            stop_s: None,
            watchdog_s: 30,
            max_restarts: 5,
            window_s: 300,
        }
    }
}

impl Up {
    /// How long a part may take to be ready.
    #[must_use]
    pub const fn ready(&self) -> Duration {
        Duration::from_secs(self.ready_s as u64)
    }

    /// How long a part may take to end.
    #[must_use]
    pub fn stop(&self, shutdown: &Stop) -> Duration {
        self.stop_s.map_or(shutdown.deadline() + Duration::from_secs(5), |s| Duration::from_secs(s.into()))
    }

    /// How long a part may say nothing.
    #[must_use]
    pub const fn watchdog(&self) -> Duration {
        Duration::from_secs(self.watchdog_s as u64)
    }

    /// The window in which restarts are counted.
    #[must_use]
    pub const fn window(&self) -> Duration {
        Duration::from_secs(self.window_s as u64)
    }

    /// What [`super::Config::validate`] checks about this section.
    pub(super) fn validate(&self) -> Result<(), Violation> {
        let rule = |holds: bool, key: &'static str, reason: &str| {
            if holds { Ok(()) } else { Err(Violation { key, reason: reason.to_owned() }) }
        };
        rule((1..=3600).contains(&self.ready_s), "up.ready_s", "want 1 to 3600")?;
        rule(self.stop_s.is_none_or(|s| (1..=600).contains(&s)), "up.stop_s", "want 1 to 600")?;
        rule((1..=3600).contains(&self.watchdog_s), "up.watchdog_s", "want 1 to 3600")?;
        rule((1..=86_400).contains(&self.window_s), "up.window_s", "want 1 to 86400")?;
        for (index, part) in self.parts.iter().enumerate() {
            part.words().map_err(|reason| Violation {
                key: "up.parts",
                reason: format!("command line {}: {reason}", index + 1),
            })?;
        }
        Ok(())
    }
}

/// A command line of godctl without the program's name, such as `asr-serve --model base.en`. It shows without
/// passwords, although [`CommandLine::words`] refuses them.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct CommandLine(String);

impl CommandLine {
    /// Its words, split and unquoted as a POSIX shell does, but with nothing expanded.
    ///
    /// # Errors
    /// What is wrong with it, and what to write instead: quotes without an end, no words, control characters, or a
    /// password, which everybody on the machine could read in the list of processes.
    pub fn words(&self) -> Result<Vec<String>, &'static str> {
        if self.0.chars().any(char::is_control) {
            return Err("has a line break or another control character; write it on one line");
        }
        let words = shlex::split(&self.0).ok_or("has a quote that is not closed")?;
        match words.first().map(String::as_str) {
            None => Err("is empty; write a subcommand, such as asr-serve"),
            Some("godctl") => Err("begins with godctl; leave that out and begin with the subcommand"),
            Some(_) if words.iter().any(|word| holds_password(word)) => {
                Err("holds a password, which everybody on this machine could read in the list of processes; \
                 leave it out and set bus.password_file")
            }
            Some(_) => Ok(words),
        }
    }
}

impl From<&str> for CommandLine {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Words are masked whole where they are assignments, so this is only about a line that `words` refuses.
        let words = self.0.split_whitespace();
        if words.clone().any(|word| holds_password(word) && !word.contains("://")) {
            let masked = words.map(|word| match word.split_once('=') {
                Some((key, _)) if holds_password(word) => format!("{key}=***"),
                _ => mask_addresses(word),
            });
            return f.write_str(&masked.collect::<Vec<_>>().join(" "));
        }
        f.write_str(&mask_addresses(&self.0))
    }
}

impl fmt::Debug for CommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for CommandLine {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(line: &str) -> String {
        let up = Up { parts: vec!["asr-serve".into(), line.into()], ..Up::default() };
        up.validate().unwrap_err().to_string()
    }

    #[test]
    fn command_lines_are_split_as_in_a_shell() {
        let line =
            CommandLine::from(r#"bus bridge --from sqlite:'/my data/bus.db' --bind "voice.#" \$HOME # all"#);
        let words = ["bus", "bridge", "--from", "sqlite:/my data/bus.db", "--bind", "voice.#", "$HOME"];
        assert_eq!(line.words().unwrap(), words);
    }

    #[test]
    fn command_lines_that_cannot_run_are_refused() {
        assert_eq!(refusal("asr-serve 'x"), "up.parts: command line 2: has a quote that is not closed");
        assert!(refusal("  ").contains("is empty"));
        assert!(refusal("godctl asr-serve").contains("leave that out"));
        assert!(refusal("asr-serve\n--model base").contains("one line"));
        assert!(refusal("bus bridge --to amqp://u:p@h").contains("password_file"));
        assert!(refusal("asr-serve -c models.token=hf_x").contains("holds a password"));
    }

    #[test]
    fn a_password_never_shows() {
        for line in [
            "bus bridge --to amqp://u:hunter2@h",
            "asr-serve -c 'bus.password=hunter2'",
            "-cbus.password=hunter2",
        ] {
            let line = CommandLine::from(line);
            let shown = format!("{line} {line:?} {}", serde_json::to_string(&line).unwrap());
            assert!(shown.contains("***") && !shown.contains("hunter2"), "{shown}");
        }
    }

    #[test]
    fn a_part_gets_more_time_to_stop_than_it_takes() {
        let shutdown = Stop { deadline_s: 40 };
        assert_eq!(Up::default().stop(&shutdown), Duration::from_secs(45));
        assert_eq!(Up { stop_s: Some(3), ..Up::default() }.stop(&shutdown), Duration::from_secs(3));
    }
}
