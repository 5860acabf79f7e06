//! systemd user units that run the same parts in the same order, with the same patience. Pure.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
    time::Duration,
};

use anyhow::{anyhow, bail};

use super::{Policy, parts::Part};
use crate::config::holds_password;

/// The unit that stands for all parts.
const TARGET: &str = "godctl.target";

/// Commands that read their files again on SIGHUP.
const RELOADS: [&str; 1] = ["asr-serve"];

/// One file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Unit {
    /// Its name, such as `godctl-asr-serve.service`.
    pub(super) file: String,
    /// What is in it.
    pub(super) text: String,
}

/// What works without privileges, in every user manager, and for whatever an agent may start. Mount namespaces
/// (`ProtectSystem=` and the like) are missing because many machines forbid them to users; a unit that asks for them
/// does not start there.
const HARDENING: &str = "\
NoNewPrivileges=yes
LockPersonality=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
UMask=0077
";

/// The units of these parts, the target first.
///
/// # Errors
/// Where a unit would hold a password, or a word that is no text.
pub(super) fn units(
    parts: &[Part],
    program: &Path,
    passed_on: &[OsString],
    policy: Policy,
) -> anyhow::Result<Vec<Unit>> {
    let start = std::iter::once(program.as_os_str()).chain(passed_on.iter().map(OsString::as_os_str));
    let start = start.map(text).collect::<anyhow::Result<Vec<_>>>()?;
    if start.iter().any(|word| holds_password(word)) {
        bail!(
            "units can be read by others, so no password may stand in them; leave it out of the flags and set \
             bus.password_file or models.token_file in the configuration file"
        );
    }

    let files: Vec<String> = parts.iter().map(|part| format!("godctl-{}.service", part.name)).collect();
    let wants = files.iter().fold(String::new(), |wants, file| format!("{wants}Wants={file}\n"));
    let target = format!("[Unit]\nDescription=godctl\n{wants}\n[Install]\nWantedBy=default.target\n");
    let mut units = vec![Unit { file: TARGET.to_owned(), text: target }];

    let before = std::iter::once(None).chain(files.iter().map(Some));
    for ((part, file), before) in parts.iter().zip(&files).zip(before) {
        let words = start.iter().copied().chain(part.words.iter().map(String::as_str));
        let mut unit = format!("[Unit]\nDescription=godctl {}\nPartOf={TARGET}\n", escape(&part.name));
        if let Some(before) = before {
            // It tells systemd that it is ready, so After= waits for that.
            unit.push_str(&format!("Wants={before}\nAfter={before}\n"));
        }
        unit.push_str(&format!(
            "\
StartLimitIntervalSec={window}
StartLimitBurst={burst}

[Service]
Type=notify
NotifyAccess=main
ExecStart={words}
{reload}TimeoutStartSec={ready}
TimeoutStopSec={stop}
WatchdogSec={watchdog}
Restart=on-failure
RestartPreventExitStatus=2 78
RestartSec=1
# Longer waits need systemd 254; older ones say so and wait for RestartSec each time.
RestartSteps=6
RestartMaxDelaySec=60
{HARDENING}
[Install]
WantedBy={TARGET}
",
            window = seconds(policy.window),
            burst = policy.max_restarts.saturating_add(1),
            words = command(words),
            reload = if part.words.first().is_some_and(|word| RELOADS.contains(&word.as_str())) {
                "ExecReload=/bin/kill -HUP $MAINPID\n"
            } else {
                ""
            },
            ready = seconds(policy.ready),
            stop = seconds(policy.stop),
            watchdog = seconds(policy.watchdog),
        ));
        units.push(Unit { file: file.clone(), text: unit });
    }
    Ok(units)
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs()
}

fn text(word: &OsStr) -> anyhow::Result<&str> {
    let word = word
        .to_str()
        .ok_or_else(|| anyhow!("{} is not valid UTF-8, which a unit must be", word.display()))?;
    if word.chars().any(char::is_control) {
        bail!("{word:?} holds a control character; rename it, or leave it out");
    }
    Ok(word)
}

/// A command line in the syntax of systemd.service(5), `COMMAND LINES`: the program's path and its arguments.
fn command<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let quoted = words.enumerate().map(|(at, word)| {
        let escaped = escape(word);
        // A variable is replaced in the arguments, but not in the path.
        let escaped = if at == 0 { escaped } else { escaped.replace('$', "$$") };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:,=+@%$".contains(c);
        if !word.is_empty() && escaped.chars().all(is_plain) { escaped } else { format!("\"{escaped}\"") }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// Specifiers, quotes and escapes as themselves.
fn escape(word: &str) -> String {
    word.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        ready: Duration::from_secs(60),
        stop: Duration::from_secs(20),
        watchdog: Duration::from_secs(30),
        max_restarts: 5,
        window: Duration::from_secs(300),
    };

    fn part(name: &str, words: &[&str]) -> Part {
        Part { name: name.to_owned(), words: words.iter().map(|word| (*word).to_owned()).collect() }
    }

    #[test]
    fn the_units_of_two_parts() {
        let parts = [
            part("asr-serve", &["asr-serve", "--language", "en"]),
            part(
                "bus-bridge",
                &["bus", "bridge", "--from", "sqlite:/my data/100%.db", "--to", "amqp://host"],
            ),
        ];
        let passed_on = ["--config".into(), "/home/me/my config.toml".into()];
        let units = units(&parts, Path::new("/usr/local/bin/godctl"), &passed_on, POLICY).unwrap();
        let all = units.iter().map(|unit| format!("# {}\n{}", unit.file, unit.text));
        insta::assert_snapshot!(all.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn a_password_keeps_units_from_being_written() {
        for secret in ["bus.password=x", "bus.url=amqp://u:x@host", "models.token=x"] {
            let passed_on = ["-c".into(), secret.into()];
            let error =
                units(&[part("a", &["a"])], Path::new("/g"), &passed_on, POLICY).unwrap_err().to_string();
            assert!(error.contains("password_file") && !error.contains(secret), "{error}");
        }
        assert!(units(&[], Path::new("/g"), &["a\nb".into()], POLICY).is_err());
    }

    #[test]
    fn nothing_in_a_word_means_anything_to_systemd() {
        let words = ["/opt/a $b/godctl", "", "a b", "100%", "$HOME", "it's", "\"q\\", "a;b", "é"];
        assert_eq!(
            command(words.into_iter()),
            r#""/opt/a $b/godctl" "" "a b" 100%% $$HOME "it's" "\"q\\" "a;b" "é""#
        );
    }
}
