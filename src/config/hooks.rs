//! `agents.hooks`: what happens before and after a turn.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{Violation, holds_password};

/// `agents.hooks`, by name.
pub type HookMap = BTreeMap<String, HookSettings>;

const KEY: &str = "agents.hooks";
/// Longer names are mistakes.
const MAX_NAME: usize = 32;
/// A hook that takes longer than an hour is no hook.
const MAX_TIMEOUT_S: u64 = 3_600;

/// A hook. Which of the keys it takes depends on its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HookSettings {
    /// What it does.
    pub kind: HookKind,
    /// Before or after a turn, or both; unset means what suits its kind.
    #[serde(default)]
    pub when: Option<When>,
    /// Lower ones come first; those of one priority in the order of their names.
    #[serde(default = "usual_priority")]
    pub priority: i32,
    /// Seconds that it may take.
    #[serde(default = "usual_timeout")]
    pub timeout_s: u64,
    /// It takes part.
    #[serde(default = "yes")]
    pub enabled: bool,
    /// A message from a queue may switch it on and off.
    #[serde(default)]
    pub optional: bool,
    /// A turn is stopped if it fails before it; otherwise that is a warning.
    #[serde(default = "yes")]
    pub required: bool,
    /// `command`: the program and its arguments.
    #[serde(default)]
    pub command: Vec<String>,
    /// `command`: names of our variables that it gets beside those that every program gets; `*` at the end stands for any
    /// rest.
    #[serde(default)]
    pub variables: Vec<String>,
    /// `webhook`: where it is posted.
    #[serde(default)]
    pub url: Option<String>,
    /// `webhook`: a file that holds the address, where that is a secret itself.
    #[serde(default)]
    pub url_file: Option<PathBuf>,
    /// `webhook`: a file that holds a key, which is sent along.
    #[serde(default)]
    pub key_file: Option<PathBuf>,
    /// `rate-limit`: turns in a minute.
    #[serde(default)]
    pub per_minute: Option<u32>,
    /// `rate-limit`: turns at once.
    #[serde(default)]
    pub burst: Option<u32>,
    /// `validate`: the longest prompt, in kilobytes.
    #[serde(default)]
    pub max_prompt_kb: Option<u64>,
    /// `validate`: texts that no prompt may contain, whether large or small letters.
    #[serde(default)]
    pub forbid: Vec<String>,
    /// `validate`: no prompt may begin with a command of the agent (`/…`) or name files for it to read (`@…`).
    #[serde(default)]
    pub plain: bool,
    /// `metrics`: a file that is written after each turn, in the text format of Prometheus.
    #[serde(default)]
    pub file: Option<PathBuf>,
}

const fn yes() -> bool {
    true
}

const fn usual_priority() -> i32 {
    100
}

const fn usual_timeout() -> u64 {
    60
}

/// What a hook does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HookKind {
    /// Stops a turn for whose provider there is nothing to log in with.
    Auth,
    /// Stops a turn whose prompt is too long or holds what it must not.
    Validate,
    /// Writes a line into the log, without prompts and answers.
    Log,
    /// Stops a turn that comes too soon after the others.
    RateLimit,
    /// Counts turns, and how long they take.
    Metrics,
    /// Posts what happens to an address.
    Webhook,
    /// Runs a program, which reads what happens from its standard input.
    Command,
}

/// When a hook runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// Before a turn: it may stop it, and some may change its prompt.
    Before,
    /// After it: nothing changes any more.
    After,
    /// Both.
    Both,
}

impl HookSettings {
    /// When it runs.
    #[must_use]
    pub fn runs(&self) -> When {
        self.when.unwrap_or(match self.kind {
            HookKind::Auth | HookKind::Validate | HookKind::RateLimit | HookKind::Command => When::Before,
            HookKind::Metrics | HookKind::Webhook => When::After,
            HookKind::Log => When::Both,
        })
    }

    fn check(&self) -> Result<(), String> {
        let kind = self.kind;
        let fits = [
            ("command", !self.command.is_empty(), HookKind::Command),
            ("variables", !self.variables.is_empty(), HookKind::Command),
            ("url", self.url.is_some(), HookKind::Webhook),
            ("url_file", self.url_file.is_some(), HookKind::Webhook),
            ("key_file", self.key_file.is_some(), HookKind::Webhook),
            ("per_minute", self.per_minute.is_some(), HookKind::RateLimit),
            ("burst", self.burst.is_some(), HookKind::RateLimit),
            ("max_prompt_kb", self.max_prompt_kb.is_some(), HookKind::Validate),
            ("forbid", !self.forbid.is_empty(), HookKind::Validate),
            ("plain", self.plain, HookKind::Validate),
            ("file", self.file.is_some(), HookKind::Metrics),
        ];
        if let Some((key, ..)) = fits.iter().find(|(_, is_set, of)| *is_set && *of != kind) {
            return Err(format!("{key}: hooks of another kind have that"));
        }
        let lacks = match kind {
            HookKind::Command => self.command.first().is_none_or(String::is_empty).then_some("command"),
            HookKind::Webhook => (self.url.is_none() && self.url_file.is_none()).then_some("url"),
            HookKind::RateLimit => self.per_minute.is_none().then_some("per_minute"),
            HookKind::Auth | HookKind::Validate | HookKind::Log | HookKind::Metrics => None,
        };
        if let Some(key) = lacks {
            return Err(format!("{key}: a hook of this kind needs it"));
        }
        let only_before = matches!(kind, HookKind::Auth | HookKind::Validate | HookKind::RateLimit);
        if only_before && self.runs() != When::Before {
            return Err("when: a hook of this kind runs before a turn".to_owned());
        }
        if let Some(url) = &self.url
            && (!(url.starts_with("https://") || url.starts_with("http://"))
                || holds_password(url)
                || url.contains('@'))
        {
            return Err(
                "url: want https://… without a password; a secret address belongs into url_file".to_owned()
            );
        }
        if !(1..=MAX_TIMEOUT_S).contains(&self.timeout_s) {
            return Err(format!("timeout_s: want seconds from 1 to {MAX_TIMEOUT_S}"));
        }
        Ok(())
    }
}

/// What [`super::Config::validate`] checks about these.
pub(super) fn validate(hooks: &HookMap) -> Result<(), Violation> {
    for (name, settings) in hooks {
        let fits = (1..=MAX_NAME).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        let checked = match fits {
            true => settings.check(),
            false => Err(format!("is no name; want up to {MAX_NAME} of a-z, 0-9 and '-'")),
        };
        checked.map_err(|reason| Violation { key: KEY, reason: format!("'{name}' {reason}") })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> HookMap {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_hook_takes_the_keys_of_its_kind_and_needs_some() {
        let good = "[guard]\nkind = 'command'\ncommand = ['guard', '--strict']\nwhen = 'both'\n\
                    [slow]\nkind = 'rate-limit'\nper_minute = 6\n[tell]\nkind = 'webhook'\nurl = 'https://x/y'\n\
                    [who]\nkind = 'auth'\n[note]\nkind = 'log'\n[count]\nkind = 'metrics'\nfile = '/tmp/m.prom'\n\
                    [fit]\nkind = 'validate'\nforbid = ['rm -rf']\nmax_prompt_kb = 64";
        let good = read(good);
        assert!(validate(&good).is_ok());
        assert_eq!(read(&toml::to_string(&good).unwrap()), good);
        assert_eq!(
            (good["tell"].runs(), good["slow"].runs(), good["guard"].runs()),
            (When::After, When::Before, When::Both)
        );
        let refusal = |text: &str| validate(&read(&format!("[a]\n{text}"))).unwrap_err().to_string();
        for (text, says) in [
            ("kind = 'command'", "command: a hook of this kind needs it"),
            ("kind = 'log'\nurl = 'https://x'", "url: hooks of another kind have that"),
            ("kind = 'auth'\nwhen = 'after'", "runs before a turn"),
            ("kind = 'webhook'\nurl = 'https://u:p@x'", "url_file"),
            ("kind = 'rate-limit'\nper_minute = 1\ntimeout_s = 0", "timeout_s"),
        ] {
            assert!(refusal(text).contains(says), "{text}: {}", refusal(text));
        }
    }
}
