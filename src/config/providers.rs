//! `agents.providers`: agents beside those that are built in.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::{AcpSettings, CommandSettings, Violation, holds_password};

/// `agents.providers`, by name.
pub type Providers = BTreeMap<String, ProviderSettings>;

/// The key that all of this stands under.
const KEY: &str = "agents.providers";
/// Names of agents that are built in and have settings of their own.
const BUILT_IN: [&str; 5] = ["claude", "gemini", "codex", "agy", "echo"];
/// Longer names are mistakes.
const MAX_NAME: usize = 32;
/// Whoever has not answered by then will not; a day.
const MAX_WAIT_S: u64 = 86_400;

/// An agent, by its kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum ProviderSettings {
    /// A service that speaks OpenAI's chat protocol.
    Openai(Endpoint),
    /// Any program.
    Command(CommandSettings),
    /// A program that speaks the Agent Client Protocol.
    Acp(AcpSettings),
}

/// A service that speaks OpenAI's chat protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Endpoint {
    /// A service whose address and key variable are known; unset means the one of the provider's own name, if any.
    pub preset: Option<Preset>,
    /// The address, up to and with `/v1`; unset means the preset's.
    pub base_url: Option<String>,
    /// The model where a prompt names none.
    pub model: Option<String>,
    /// The variable that holds the key; unset means the preset's.
    pub key_variable: Option<String>,
    /// A file that holds the key, in place of the variable; read for each prompt.
    pub key_file: Option<PathBuf>,
    /// Of what was said before, no more is sent than this many tokens, the newest. Estimated, at 3 bytes a token.
    pub history_tokens: u32,
    /// Seconds until the connection must stand.
    pub connect_s: u64,
    /// Seconds from there to the first byte of an answer. A service that loads a model first may take minutes.
    pub first_byte_s: u64,
    /// Seconds between two pieces of an answer.
    pub idle_s: u64,
}

impl Default for Endpoint {
    fn default() -> Self {
        Self {
            preset: None,
            base_url: None,
            model: None,
            key_variable: None,
            key_file: None,
            history_tokens: 16_000,
            connect_s: 10,
            first_byte_s: 60,
            idle_s: 120,
        }
    }
}

/// A service whose address is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// OpenAI.
    Openai,
    /// xAI.
    Xai,
    /// Ollama on this machine.
    Ollama,
    /// vLLM on this machine.
    Vllm,
}

impl Preset {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Openai, Self::Xai, Self::Ollama, Self::Vllm];

    /// Its name, which is that of a provider that needs no settings, too.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Xai => "xai",
            Self::Ollama => "ollama",
            Self::Vllm => "vllm",
        }
    }

    /// Its address, as its makers document it.
    #[must_use]
    pub const fn base_url(self) -> &'static str {
        match self {
            Self::Openai => "https://api.openai.com/v1",
            Self::Xai => "https://api.x.ai/v1",
            Self::Ollama => "http://localhost:11434/v1",
            Self::Vllm => "http://localhost:8000/v1",
        }
    }

    /// The variable that its makers' own programs read the key from; `None` if it takes none.
    #[must_use]
    pub const fn key_variable(self) -> Option<&'static str> {
        match self {
            Self::Openai => Some("OPENAI_API_KEY"),
            Self::Xai => Some("XAI_API_KEY"),
            Self::Vllm => Some("VLLM_API_KEY"),
            Self::Ollama => None,
        }
    }
}

impl Endpoint {
    /// The preset of a provider of this name.
    #[must_use]
    pub fn preset_of(&self, name: &str) -> Option<Preset> {
        self.preset.or_else(|| Preset::ALL.into_iter().find(|preset| preset.name() == name))
    }

    fn check(&self, name: &str) -> Result<(), String> {
        match &self.base_url {
            None if self.preset_of(name).is_none() => {
                return Err(
                    "has no address; set base_url, or a preset (openai, xai, ollama, vllm)".to_owned()
                );
            }
            Some(url) if !(url.starts_with("https://") || url.starts_with("http://")) => {
                return Err("base_url: want an address that begins with https:// (or http://)".to_owned());
            }
            // A key in the address would be shown with it.
            Some(url) if holds_password(url) || url.contains(['@', '?', '#']) => {
                return Err(
                    "base_url: want scheme, host, port and path; a key belongs into key_file".to_owned()
                );
            }
            _ => {}
        }
        if self.key_file.as_ref().is_some_and(|file| file.starts_with("~")) {
            return Err("key_file: only a shell expands ~; write the directory out".to_owned());
        }
        let waits =
            [("connect_s", self.connect_s), ("first_byte_s", self.first_byte_s), ("idle_s", self.idle_s)];
        match waits.into_iter().find(|(_, seconds)| !(1..=MAX_WAIT_S).contains(seconds)) {
            Some((wait, _)) => Err(format!("{wait}: want seconds from 1 to {MAX_WAIT_S}, a day")),
            None => Ok(()),
        }
    }
}

/// What [`super::Config::validate`] checks about these.
pub(super) fn validate(providers: &Providers) -> Result<(), Violation> {
    for (name, settings) in providers {
        let known = if BUILT_IN.contains(&name.as_str()) {
            Err(format!("is built in; choose another name, or set agents.{name}_program"))
        } else if !is_name(name) {
            Err(format!("is no name; want up to {MAX_NAME} of a-z, 0-9 and '-', a letter first"))
        } else {
            match settings {
                ProviderSettings::Openai(endpoint) => endpoint.check(name),
                ProviderSettings::Command(command) => command.check(),
                ProviderSettings::Acp(acp) => acp.check(),
            }
        };
        known.map_err(|reason| Violation { key: KEY, reason: format!("'{name}' {reason}") })?;
    }
    Ok(())
}

fn is_name(name: &str) -> bool {
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Providers, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    fn refusal(text: &str) -> String {
        validate(&read(text).unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn a_service_needs_a_name_and_where_it_is() {
        for good in [
            "[xai]\nkind = 'openai'",
            "[work]\nkind = 'openai'\npreset = 'openai'\nkey_variable = 'WORK_KEY'",
            "[rack-2]\nkind = 'openai'\nbase_url = 'http://rack-2:8000/v1'\nmodel = 'm'",
        ] {
            assert!(validate(&read(good).unwrap()).is_ok(), "{good}");
        }
        assert!(refusal("[mine]\nkind = 'openai'").contains("'mine' has no address; set base_url"));
        assert!(refusal("[claude]\nkind = 'openai'").contains("agents.claude_program"));
        assert!(refusal("[Xai]\nkind = 'openai'").contains("is no name"));
        assert!(refusal("[a]\nkind = 'openai'\nbase_url = 'api.x.ai'").contains("https://"));
        assert!(refusal("[a]\nkind = 'openai'\nbase_url = 'https://k:v@x/v1'").contains("key_file"));
        assert!(refusal("[xai]\nkind = 'openai'\nidle_s = 0").contains("idle_s"));
        assert!(read("[a]\nkind = 'openai'\nurl = 'x'").unwrap_err().contains("unknown field `url`"));
        assert!(read("[a]\nkind = 'siri'").unwrap_err().contains("openai"));
    }

    #[test]
    fn settings_are_written_as_they_are_read() {
        let text = "[work]\nkind = 'openai'\npreset = 'xai'\nconnect_s = 3";
        let providers = read(text).unwrap();
        assert_eq!(read(&toml::to_string(&providers).unwrap()).unwrap(), providers);
    }
}
