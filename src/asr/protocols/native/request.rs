//! What a client asks for in the query of `/asr`. Pure.

use super::{Config, transcript::Detail};
use crate::{
    asr::{DecodeOptions, ModelInfo, Task},
    audio::SAMPLE_RATE_HZ,
};

/// Longer contexts are refused: a model reads a few hundred tokens of it at most.
const MAX_CONTEXT: usize = 4_096;
/// Unknown parameters that are named in the config message.
const MAX_IGNORED: usize = 16;

/// A parameter that cannot be honoured. The session is closed with [`super::CLOSE_BAD_PARAMETERS`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{parameter}: {reason}")]
pub struct BadParameter {
    /// Its name.
    pub parameter: &'static str,
    /// What is wanted instead.
    pub reason: String,
}

/// Which language to decode in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Language {
    /// What the server was started with.
    #[default]
    AsServer,
    /// `auto`.
    Detect,
    /// An ISO code.
    Code(String),
}

/// The parameters of a session.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Request {
    language: Language,
    task: Option<Task>,
    prompt: Option<String>,
    hotwords: Option<String>,
    model: Option<String>,
    /// Whether lines carry their words.
    pub detail: Detail,
    ignored: Vec<String>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Prompt and hotwords are the user's text; they have no place in a log.
        f.debug_struct("Request")
            .field("language", &self.language)
            .field("task", &self.task)
            .field("model", &self.model)
            .field("detail", &self.detail)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// Reads the decoded pairs of a query. A parameter that is empty counts as absent, of two the last wins; `token`
    /// is not looked at; what nobody knows is ignored, and named in the config message.
    ///
    /// # Errors
    /// The first parameter that cannot be honoured.
    pub fn parse(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, BadParameter> {
        let mut request = Self::default();
        for (name, value) in pairs {
            let bad = |parameter, reason: &str| {
                let shown: String = value.chars().take(40).collect();
                Err(BadParameter { parameter, reason: format!("'{shown}' {reason}") })
            };
            if value.is_empty() {
                continue;
            }
            match name.as_str() {
                "language" => {
                    request.language = match value.to_ascii_lowercase() {
                        auto if auto == "auto" => Language::Detect,
                        code if (2..=3).contains(&code.len())
                            && code.bytes().all(|b| b.is_ascii_lowercase()) =>
                        {
                            Language::Code(code)
                        }
                        _ => return bad("language", "is no language; write an ISO code such as en, or auto"),
                    }
                }
                "task" => {
                    request.task = match value.as_str() {
                        "transcribe" => Some(Task::Transcribe),
                        "translate" => Some(Task::Translate),
                        _ => return bad("task", "is no task; write transcribe or translate"),
                    }
                }
                "mode" if value != "full" => {
                    return bad("mode", "is not spoken here; leave mode out or write full");
                }
                "words" => {
                    request.detail = match value.to_ascii_lowercase().as_str() {
                        "true" | "1" => Detail::Words,
                        "false" | "0" => Detail::Lines,
                        _ => return bad("words", "is neither true nor false"),
                    }
                }
                "prompt" | "hotwords" if value.len() > MAX_CONTEXT => {
                    let parameter = if name == "prompt" { "prompt" } else { "hotwords" };
                    return Err(BadParameter {
                        parameter,
                        reason: format!("longer than {MAX_CONTEXT} bytes"),
                    });
                }
                "prompt" => request.prompt = Some(value),
                "hotwords" => request.hotwords = Some(value),
                "model" => request.model = Some(value),
                "mode" | "token" => {}
                _ => {
                    if request.ignored.len() < MAX_IGNORED {
                        request.ignored.push(name.chars().take(40).collect());
                    }
                }
            }
        }
        Ok(request)
    }

    /// Refuses a model that is not the one loaded: this server runs one.
    ///
    /// # Errors
    /// Names the model that is loaded.
    pub fn check_model(&self, loaded: &ModelInfo) -> Result<(), BadParameter> {
        match &self.model {
            Some(wanted) if *wanted != loaded.name => {
                let reason = format!("this server runs '{}'; leave model out or ask for that", loaded.name);
                Err(BadParameter { parameter: "model", reason })
            }
            _ => Ok(()),
        }
    }

    /// How to decode: what was asked for over what the server was started with.
    #[must_use]
    pub fn decode(&self, server: &DecodeOptions) -> DecodeOptions {
        DecodeOptions {
            language: match &self.language {
                Language::AsServer => server.language.clone(),
                Language::Detect => None,
                Language::Code(code) => Some(code.clone()),
            },
            task: self.task.unwrap_or(server.task),
            prompt: self.prompt.clone().or_else(|| server.prompt.clone()),
            hotwords: self.hotwords.clone().or_else(|| server.hotwords.clone()),
            ..server.clone()
        }
    }

    /// The config message of a session that decodes this way.
    #[must_use]
    pub fn config(
        &self,
        session: String,
        model: &ModelInfo,
        decode: &DecodeOptions,
        retention_lines: usize,
    ) -> Config {
        Config {
            use_audio_worklet: true,
            mode: "full".into(),
            session,
            model: model.name.clone(),
            language: decode.language.clone().unwrap_or_else(|| "auto".to_owned()),
            task: decode.task,
            prompt: decode.prompt.clone(),
            hotwords: decode.hotwords.clone(),
            words: self.detail == Detail::Words,
            sample_rate: SAMPLE_RATE_HZ,
            retention_lines,
            ignored: self.ignored.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Request, BadParameter> {
        Request::parse(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn model() -> ModelInfo {
        ModelInfo {
            name: "tiny".to_owned(),
            window_s: 30.0,
            multilingual: true,
            prompts: true,
            languages: vec!["en".to_owned(), "fr".to_owned()],
            parameters: 1,
            device: "cpu".to_owned(),
        }
    }

    #[test]
    fn what_was_asked_for_wins_over_the_server_and_is_echoed() {
        let server = DecodeOptions {
            language: Some("fr".to_owned()),
            prompt: Some("Notes.".to_owned()),
            beam_size: 5,
            ..DecodeOptions::default()
        };
        let silent = parse(&[("language", ""), ("token", "s3cret")]).unwrap();
        assert_eq!(silent.decode(&server), server);
        let asked = parse(&[
            ("language", "EN"),
            ("task", "translate"),
            ("mode", "full"),
            ("words", "true"),
            ("hotwords", "godctl"),
            ("model", "tiny"),
            ("target_language", "de"),
        ])
        .unwrap();
        asked.check_model(&model()).unwrap();
        let decode = asked.decode(&server);
        assert_eq!(
            (decode.language.as_deref(), decode.task, decode.beam_size),
            (Some("en"), Task::Translate, 5)
        );
        let config = asked.config("id".to_owned(), &model(), &decode, 10);
        assert_eq!(config.prompt.as_deref(), Some("Notes."));
        assert_eq!(config.ignored, ["target_language"]);
        assert!(config.words);
        let detect = parse(&[("language", "auto")]).unwrap().decode(&server);
        assert_eq!(detect.language, None);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_the_way_out() {
        let long = "x".repeat(MAX_CONTEXT + 1);
        let cases: [(&str, &str); 7] = [
            ("language", "klingon"),
            ("language", "e1"),
            ("task", "sing"),
            ("mode", "diff"),
            ("words", "maybe"),
            ("prompt", &long),
            ("hotwords", &long),
        ];
        let mut said: Vec<String> =
            cases.iter().map(|pair| parse(&[*pair]).unwrap_err().to_string()).collect();
        said.push(parse(&[("model", "large")]).unwrap().check_model(&model()).unwrap_err().to_string());
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn a_log_shows_no_prompt() {
        let request = parse(&[("prompt", "marker-7"), ("hotwords", "marker-7")]).unwrap();
        assert!(!format!("{request:?}").contains("marker-7"));
    }
}
