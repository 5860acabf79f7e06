//! Who there is to work on prompts: the built-in agents, the services that are known, and what the configuration adds.

use std::collections::BTreeMap;

use super::{
    super::{Class, Failure, Provider},
    acp::Acp,
    agy::Agy,
    claude::Claude,
    codex::Codex,
    echo::Echo,
    gemini::Gemini,
    openai::OpenAi,
    template::Template,
};
use crate::config::{Agents, Endpoint, Preset, ProviderSettings};

/// All agents, in the order in which they are shown.
#[derive(Debug)]
pub struct Roster(Vec<Box<dyn Provider>>);

impl Roster {
    /// Those of a configuration.
    #[must_use]
    pub fn new(config: &Agents) -> Self {
        let mut all: Vec<Box<dyn Provider>> = vec![
            Box::new(Claude { program: config.claude_program.clone() }),
            Box::new(Gemini { program: config.gemini_program.clone() }),
            Box::new(Codex { program: config.codex_program.clone() }),
            Box::new(Agy { program: config.agy_program.clone() }),
            Box::new(Echo),
        ];
        let presets = Preset::ALL
            .map(|preset| (preset.name().to_owned(), ProviderSettings::Openai(Endpoint::default())));
        // What is configured under the name of a preset takes its place.
        let mut settings = BTreeMap::from(presets);
        settings.extend(config.providers.clone());
        let (known, others): (Vec<_>, Vec<_>) =
            settings.iter().partition(|(name, _)| Preset::ALL.iter().any(|preset| preset.name() == *name));
        all.extend(known.into_iter().chain(others).map(|(name, settings)| configured(name, settings)));
        Self(all)
    }

    /// These and no others.
    #[must_use]
    pub const fn of(agents: Vec<Box<dyn Provider>>) -> Self {
        Self(agents)
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &dyn Provider> {
        self.0.iter().map(AsRef::as_ref)
    }

    /// The one of this name.
    ///
    /// # Errors
    /// [`Class::BadRequest`], naming those that there are.
    pub fn by_name(&self, name: &str) -> Result<&dyn Provider, Failure> {
        self.all().find(|provider| provider.name() == name).ok_or_else(|| {
            let names: Vec<_> = self.all().map(Provider::name).collect();
            Failure::new(
                Class::BadRequest,
                format!("there is no provider '{name}'; choose one of {}", names.join(", ")),
            )
        })
    }
}

fn configured(name: &str, settings: &ProviderSettings) -> Box<dyn Provider> {
    match settings {
        ProviderSettings::Openai(endpoint) => Box::new(OpenAi::new(name, endpoint)),
        ProviderSettings::Command(command) => Box::new(Template::new(name, command)),
        ProviderSettings::Acp(acp) => Box::new(Acp::new(name, acp)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_configured_joins_or_replaces_what_is_known() {
        let endpoint = |url: &str| {
            ProviderSettings::Openai(Endpoint { base_url: Some(url.to_owned()), ..Endpoint::default() })
        };
        let providers = [
            ("acme".to_owned(), endpoint("http://acme/v1")),
            ("xai".to_owned(), endpoint("http://proxy/v1")),
        ];
        let config = Agents { providers: providers.into(), ..Agents::default() };
        let roster = Roster::new(&config);
        let names: Vec<_> = roster.all().map(Provider::name).collect();
        assert_eq!(
            names,
            ["claude", "gemini", "codex", "agy", "echo", "ollama", "openai", "vllm", "xai", "acme"]
        );
        let place = |name: &str| format!("{:?}", roster.by_name(name).unwrap().place());
        assert!(place("xai").contains("http://proxy/v1") && place("openai").contains("api.openai.com"));
        let failure = roster.by_name("siri").unwrap_err();
        assert!(failure.message.contains("claude, gemini, codex, agy, echo, ollama"), "{failure}");
    }
}
