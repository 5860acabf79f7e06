//! What a client asks for, in the query of `/asr` or in a `config` message. Pure.

use super::{
    super::parameter::{BadParameter, quote},
    Config,
    segment::{Detail, Layout, Segment},
};
use crate::{
    asr::{
        DecodeOptions, ModelInfo, Task,
        stream::{Policy, Samples, StreamConfig, Tuning, samples_of_ms, seconds},
    },
    audio::SAMPLE_RATE_HZ,
};

/// Longer contexts are refused: a model reads a few hundred tokens of it at most.
const MAX_CONTEXT: usize = 4_096;
/// Unknown parameters that are named in the config message.
const MAX_IGNORED: usize = 16;
/// Languages of one set; Whisper knows a hundred.
const MAX_LANGUAGES: usize = 100;
/// Decoding more often than this buys no freshness that anybody sees, and less often is no live transcript.
const HOP_MS: (u64, u64) = (100, 10_000);
/// A pause inside a word is shorter than this, and after this long everybody thinks the line is dead.
const ENDPOINTING_MS: (u64, u64) = (50, 10_000);
/// The lengths of lines that can be asked for, in characters.
const LENGTH: (usize, usize) = (10, 2_000);

/// Which language to decode in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Language {
    /// What the server was started with.
    #[default]
    AsServer,
    /// `auto`.
    Detect,
    /// One of several ISO codes, detected for each utterance; of one there is nothing to detect.
    OneOf(Vec<String>),
}

/// What a client sees of the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Every update carries all lines.
    #[default]
    Full,
    /// An update carries what is new; see [`super::diff`].
    Diff,
}

impl Mode {
    const fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Diff => "diff",
        }
    }
}

/// The parameters of a session.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Request {
    language: Language,
    task: Option<Task>,
    prompt: Option<String>,
    hotwords: Option<String>,
    model: Option<String>,
    policy: Option<Policy>,
    hop: Option<Samples>,
    endpointing: Option<Samples>,
    segment: Segment,
    max_length: Option<usize>,
    /// Which updates are sent.
    pub mode: Mode,
    detail: Detail,
    ignored: Vec<String>,
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Prompt and hotwords are the user's text; they have no place in a log.
        f.debug_struct("Request")
            .field("language", &self.language)
            .field("task", &self.task)
            .field("model", &self.model)
            .field("policy", &self.policy)
            .field("hop", &self.hop)
            .field("mode", &self.mode)
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
        Self::default().amended(pairs)
    }

    /// The same with some parameters set anew.
    ///
    /// # Errors
    /// The first parameter that cannot be honoured.
    pub fn amended(
        mut self,
        pairs: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, BadParameter> {
        for (name, value) in pairs {
            if !value.is_empty() {
                self.set(&name, value)?;
            }
        }
        Ok(self)
    }

    fn set(&mut self, name: &str, value: String) -> Result<(), BadParameter> {
        match name {
            "language" | "languages" => self.language = language(&value)?,
            "task" => {
                self.task = match value.as_str() {
                    "transcribe" => Some(Task::Transcribe),
                    "translate" => Some(Task::Translate),
                    _ => {
                        let reason = "is no task; write transcribe or translate";
                        return Err(BadParameter::value("task", &value, reason));
                    }
                }
            }
            "mode" => {
                self.mode = match value.as_str() {
                    "full" => Mode::Full,
                    "diff" => Mode::Diff,
                    _ => return Err(BadParameter::value("mode", &value, "is no mode; write full or diff")),
                }
            }
            "words" => {
                self.detail = match value.to_ascii_lowercase().as_str() {
                    "true" | "1" => Detail::Words,
                    "false" | "0" => Detail::Lines,
                    _ => return Err(BadParameter::value("words", &value, "is neither true nor false")),
                }
            }
            "prompt" => self.prompt = Some(context("prompt", value)?),
            "hotwords" => self.hotwords = Some(context("hotwords", value)?),
            "model" => self.model = Some(value),
            "policy" => {
                self.policy = match value.to_ascii_lowercase().as_str() {
                    "localagreement" => Some(Policy::LocalAgreement),
                    // The second is what WhisperLiveKit calls the same.
                    "alignatt" | "simulstreaming" => Some(Policy::AlignAtt),
                    _ => {
                        let reason = "is no policy; write localagreement or alignatt";
                        return Err(BadParameter::value("policy", &value, reason));
                    }
                }
            }
            "hop" => self.hop = Some(samples_of_ms(number("hop", &value, HOP_MS, "milliseconds")?)),
            "endpointing" => {
                let ms = number("endpointing", &value, ENDPOINTING_MS, "milliseconds")?;
                self.endpointing = Some(samples_of_ms(ms));
            }
            "segment" => {
                self.segment = match value.to_ascii_lowercase().as_str() {
                    "pause" => Segment::Pause,
                    "sentence" => Segment::Sentence,
                    "length" => Segment::Length,
                    _ => {
                        let reason = "is no way to end lines; write pause, sentence or length";
                        return Err(BadParameter::value("segment", &value, reason));
                    }
                }
            }
            "max_length" => self.max_length = Some(number("max_length", &value, LENGTH, "characters")?),
            "token" => {}
            _ => {
                let shown = quote(name);
                if self.ignored.len() < MAX_IGNORED && !self.ignored.contains(&shown) {
                    self.ignored.push(shown);
                }
            }
        }
        Ok(())
    }

    /// Refuses a model that is not the one loaded: this server runs one.
    ///
    /// # Errors
    /// Names the model that is loaded.
    pub fn check_model(&self, loaded: &ModelInfo) -> Result<(), BadParameter> {
        match &self.model {
            Some(wanted) if *wanted != loaded.name => {
                let reason = format!("this server runs '{}'; leave model out or ask for that", loaded.name);
                Err(BadParameter::new("model", reason))
            }
            _ => Ok(()),
        }
    }

    /// How to decode: what was asked for over what the server was started with.
    #[must_use]
    pub fn decode(&self, server: &DecodeOptions) -> DecodeOptions {
        let (language, allowed_languages) = match &self.language {
            Language::AsServer => (server.language.clone(), server.allowed_languages.clone()),
            Language::Detect => (None, Vec::new()),
            Language::OneOf(codes) => match codes.as_slice() {
                [only] => (Some(only.clone()), Vec::new()),
                several => (None, several.to_vec()),
            },
        };
        DecodeOptions {
            language,
            allowed_languages,
            task: self.task.unwrap_or(server.task),
            prompt: self.prompt.clone().or_else(|| server.prompt.clone()),
            hotwords: self.hotwords.clone().or_else(|| server.hotwords.clone()),
            ..server.clone()
        }
    }

    /// When to decode and commit: what was asked for over what the server was started with.
    #[must_use]
    pub fn tuning(&self, server: Tuning) -> Tuning {
        Tuning {
            policy: self.policy.or(server.policy),
            hop: self.hop.or(server.hop),
            endpointing: self.endpointing.or(server.endpointing),
            ..server
        }
    }

    /// How the transcript is cut into lines.
    #[must_use]
    pub fn layout(&self) -> Layout {
        Layout { segment: self.segment, max_length: self.max_length, detail: self.detail }
    }

    /// The config message of a session that decodes this way.
    #[must_use]
    pub fn config(
        &self,
        session: String,
        model: &ModelInfo,
        decode: &DecodeOptions,
        tuning: Tuning,
        retention_lines: usize,
    ) -> Config {
        let stream = StreamConfig::for_window(model.window_s).tuned(tuning);
        let layout = self.layout();
        Config {
            use_audio_worklet: true,
            mode: self.mode.name().into(),
            session,
            model: model.name.clone(),
            language: decode.language.clone().unwrap_or_else(|| "auto".to_owned()),
            languages: decode.allowed_languages.clone(),
            task: decode.task,
            prompt: decode.prompt.clone(),
            hotwords: decode.hotwords.clone(),
            policy: tuning.policy.unwrap_or_default(),
            hop: milliseconds(stream.hop),
            endpointing: tuning.endpointing.map(milliseconds),
            segment: layout.segment,
            max_length: layout.limit(),
            words: self.detail == Detail::Words,
            sample_rate: SAMPLE_RATE_HZ,
            retention_lines,
            ignored: self.ignored.clone(),
        }
    }
}

fn language(value: &str) -> Result<Language, BadParameter> {
    let value = value.to_ascii_lowercase();
    if value == "auto" {
        return Ok(Language::Detect);
    }
    let mut codes: Vec<String> = Vec::new();
    for code in value.split(',').map(str::trim).filter(|code| !code.is_empty()) {
        let known_shape = (2..=3).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase());
        if !known_shape || codes.len() == MAX_LANGUAGES {
            let reason = "is no language; write an ISO code such as en, several as in en,de, or auto";
            return Err(BadParameter::value("language", code, reason));
        }
        if !codes.iter().any(|known| known == code) {
            codes.push(code.to_owned());
        }
    }
    if codes.is_empty() {
        return Err(BadParameter::value("language", &value, "names no language; write en, en,de or auto"));
    }
    Ok(Language::OneOf(codes))
}

fn context(parameter: &'static str, value: String) -> Result<String, BadParameter> {
    if value.len() > MAX_CONTEXT {
        let reason = format!("longer than {MAX_CONTEXT} bytes");
        return Err(BadParameter::new(parameter, reason));
    }
    Ok(value)
}

/// A whole number between two limits.
fn number<N>(parameter: &'static str, value: &str, (low, high): (N, N), unit: &str) -> Result<N, BadParameter>
where
    N: std::str::FromStr + PartialOrd + std::fmt::Display + Copy,
{
    value.parse().ok().filter(|number| (low..=high).contains(number)).ok_or_else(|| {
        BadParameter::value(
            parameter,
            value,
            &format!("is not a whole number of {unit} from {low} to {high}"),
        )
    })
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive, and far below what an integer holds"
)]
fn milliseconds(samples: Samples) -> u64 {
    (seconds(samples) * 1_000.0).round() as u64
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
        let tuned = Tuning { hop: Some(7), agreement: Some(4), ..Tuning::default() };
        assert_eq!(silent.tuning(tuned), tuned);
        let asked = parse(&[
            ("language", "EN"),
            ("task", "translate"),
            ("mode", "diff"),
            ("words", "true"),
            ("hotwords", "godctl"),
            ("model", "tiny"),
            ("policy", "alignatt"),
            ("hop", "250"),
            ("endpointing", "400"),
            ("segment", "sentence"),
            ("max_length", "120"),
            ("target_language", "de"),
        ])
        .unwrap();
        asked.check_model(&model()).unwrap();
        let decode = asked.decode(&server);
        assert_eq!(
            (decode.language.as_deref(), decode.task, decode.beam_size),
            (Some("en"), Task::Translate, 5)
        );
        let tuning = asked.tuning(tuned);
        let expected = Tuning {
            policy: Some(Policy::AlignAtt),
            hop: Some(4_000),
            agreement: Some(4),
            endpointing: Some(6_400),
        };
        assert_eq!(tuning, expected);
        insta::assert_snapshot!(
            serde_json::to_string_pretty(&asked.config("id".to_owned(), &model(), &decode, tuning, 10))
                .unwrap()
        );
    }

    #[test]
    fn a_language_is_one_or_several_or_detected() {
        let server = DecodeOptions { language: Some("fr".to_owned()), ..DecodeOptions::default() };
        let decoded = |value: &str| {
            let decode = parse(&[("language", value)]).unwrap().decode(&server);
            (decode.language, decode.allowed_languages.join(" "))
        };
        assert_eq!(decoded("auto"), (None, String::new()));
        assert_eq!(decoded("de"), (Some("de".to_owned()), String::new()));
        assert_eq!(decoded("en, DE ,en,"), (None, "en de".to_owned()));
        assert_eq!(decoded("en,en"), (Some("en".to_owned()), String::new()));
    }

    #[test]
    fn a_second_request_changes_only_what_it_names() {
        let first = parse(&[("language", "en"), ("hop", "250"), ("song", "x")]).unwrap();
        let second = first.clone().amended([("hop".to_owned(), "500".to_owned())]).unwrap();
        assert_eq!((second.hop, &second.language), (Some(8_000), &first.language));
        assert!(first.amended([("hop".to_owned(), "soon".to_owned())]).is_err());
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_the_way_out() {
        let long = "x".repeat(MAX_CONTEXT + 1);
        let cases: [(&str, &str); 15] = [
            ("language", "klingon"),
            ("language", "e1"),
            ("language", "auto,en"),
            ("language", " , "),
            ("task", "sing"),
            ("mode", "half"),
            ("words", "maybe"),
            ("prompt", &long),
            ("hotwords", &long),
            ("policy", "guess"),
            ("hop", "99"),
            ("hop", "0.5"),
            ("endpointing", "-1"),
            ("segment", "word"),
            ("max_length", "99999999999999999999"),
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
