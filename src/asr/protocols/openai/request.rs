//! The fields of a transcription request, which may come in any order. Pure.

use std::{fmt, str::FromStr};

use super::language;
use crate::asr::{DecodeOptions, Task};

/// Whisper raises the temperature by this much until a result passes.
const TEMPERATURE_STEP: f32 = 0.2;
/// Words to expect, or languages, of one request at most.
const MAX_LIST: usize = 100;

/// A field that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct BadField {
    /// Its name.
    pub param: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl BadField {
    fn new(param: &str, message: impl Into<String>) -> Self {
        Self { param: param.to_owned(), message: message.into() }
    }
}

/// What the answer looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The text and what was used.
    #[default]
    Json,
    /// The text alone.
    Text,
    /// SubRip subtitles.
    Srt,
    /// WebVTT captions.
    Vtt,
    /// Everything that is known.
    VerboseJson,
    /// Who said what.
    DiarizedJson,
}

impl Format {
    /// Every format and its name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("json", Self::Json),
        ("text", Self::Text),
        ("srt", Self::Srt),
        ("vtt", Self::Vtt),
        ("verbose_json", Self::VerboseJson),
        ("diarized_json", Self::DiarizedJson),
    ];

    /// True for those that can be told piece by piece.
    #[must_use]
    pub const fn streams(self) -> bool {
        matches!(self, Self::Json | Self::Text | Self::DiarizedJson)
    }

    /// True for those that time their words.
    #[must_use]
    pub const fn needs_words(self) -> bool {
        matches!(self, Self::Srt | Self::Vtt)
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, format)| format == self).map_or("json", |(name, _)| name))
    }
}

impl FromStr for Format {
    type Err = BadField;

    fn from_str(name: &str) -> Result<Self, BadField> {
        let known = Self::ALL.iter().find(|(known, _)| *known == name);
        known.map(|(_, format)| *format).ok_or_else(|| {
            let names = Self::ALL.map(|(name, _)| name).join(", ");
            BadField::new(
                "response_format",
                format!("there is no response_format '{name}'; there are {names}"),
            )
        })
    }
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Request {
    /// The name of a model; whatever it is, the loaded one answers.
    pub model: Option<String>,
    /// ISO code of the language spoken.
    pub language: Option<String>,
    /// ISO codes of languages that may be spoken.
    pub languages: Vec<String>,
    /// Text that came before, or that shows the style.
    pub prompt: Option<String>,
    /// Words to expect.
    pub keywords: Vec<String>,
    /// What the answer looks like.
    pub format: Format,
    /// Times of words, in `verbose_json`.
    pub words: bool,
    /// The first temperature to decode at.
    pub temperature: f32,
    /// Server-sent events instead of one answer.
    pub stream: bool,
    /// How sure the model is of each word, in `json`.
    pub logprobs: bool,
    /// Names for the speakers of the channels, in their order.
    pub speakers: Vec<String>,
}

impl Request {
    /// Takes a field of the form. What is not known is passed over, as OpenAI's clients may be newer than this.
    ///
    /// # Errors
    /// What is wrong with the value.
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), BadField> {
        let given = || Some(value.trim()).filter(|value| !value.is_empty()).map(str::to_owned);
        let push = |list: &mut Vec<String>, item: Option<String>| {
            if list.len() == MAX_LIST {
                return Err(BadField::new(name, format!("at most {MAX_LIST} values of {name} are taken")));
            }
            list.extend(item);
            Ok(())
        };
        match name.strip_suffix("[]").unwrap_or(name) {
            "model" => self.model = given(),
            "language" => self.language = given().map(|given| language::code(&given)),
            "languages" => push(&mut self.languages, given().map(|given| language::code(&given)))?,
            "prompt" => self.prompt = given(),
            "keywords" => push(&mut self.keywords, given())?,
            "response_format" => {
                self.format = given().map_or(Ok(Format::default()), |given| given.parse())?
            }
            "timestamp_granularities" => match value.trim() {
                "word" => self.words = true,
                "segment" | "" => {}
                other => {
                    let message =
                        format!("there is no timestamp granularity '{other}'; there are word and segment");
                    return Err(BadField::new("timestamp_granularities", message));
                }
            },
            "temperature" => self.temperature = given().map_or(Ok(0.0), |given| temperature(&given))?,
            "stream" => self.stream = flag(value)?,
            "include" => match value.trim() {
                "logprobs" => self.logprobs = true,
                "" => {}
                other => {
                    let message = format!("'{other}' cannot be included; only logprobs can");
                    return Err(BadField::new("include", message));
                }
            },
            "known_speaker_names" => push(&mut self.speakers, given())?,
            "known_speaker_references" => {
                let message = "speakers are not told apart by their voice here, only by their channel; \
                               leave known_speaker_references out";
                return Err(BadField::new("known_speaker_references", message));
            }
            _ => {}
        }
        Ok(())
    }

    /// Refuses what makes no sense together.
    ///
    /// # Errors
    /// Which field to change.
    pub fn check(&self) -> Result<(), BadField> {
        if self.stream && !self.format.streams() {
            let message = format!(
                "stream=true works with response_format json, text and diarized_json, not with {}",
                self.format
            );
            return Err(BadField::new("stream", message));
        }
        Ok(())
    }

    /// How a recording is decoded: the server's way with what was asked for on top.
    #[must_use]
    pub fn decode(&self, server: &DecodeOptions, task: Task) -> DecodeOptions {
        let mut decode = server.clone();
        decode.task = task;
        if self.language.is_some() || !self.languages.is_empty() {
            decode.language.clone_from(&self.language);
            decode.allowed_languages.clone_from(&self.languages);
        }
        decode.prompt = self.prompt.clone().or(decode.prompt);
        if !self.keywords.is_empty() {
            decode.hotwords = Some(self.keywords.join(", "));
        }
        if self.temperature > 0.0 {
            decode.temperatures = ladder(self.temperature);
        }
        decode.word_timestamps = self.words || self.logprobs || self.format.needs_words();
        decode
    }
}

fn flag(value: &str) -> Result<bool, BadField> {
    match value.trim().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" | "" => Ok(false),
        _ => Err(BadField::new("stream", "stream is true or false")),
    }
}

fn temperature(value: &str) -> Result<f32, BadField> {
    let number = value.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| BadField::new("temperature", "temperature is a number from 0 to 1"))
}

/// From the temperature asked for up to 1, as Whisper does it.
fn ladder(first: f32) -> Vec<f32> {
    std::iter::successors(Some(first), |last| Some(last + TEMPERATURE_STEP))
        .take_while(|temperature| *temperature <= 1.0 + 1e-6)
        .collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn request(fields: &[(&str, &str)]) -> Result<Request, BadField> {
        let mut request = Request::default();
        fields.iter().try_for_each(|(name, value)| request.set(name, value))?;
        request.check()?;
        Ok(request)
    }

    #[test]
    fn what_clients_send_is_understood() {
        let request = request(&[
            ("model", "whisper-1"),
            ("language", "en-US"),
            ("prompt", " "),
            ("response_format", "verbose_json"),
            ("timestamp_granularities[]", "word"),
            ("timestamp_granularities[]", "segment"),
            ("temperature", "0"),
            ("stream", "false"),
            ("chunking_strategy[type]", "server_vad"),
            ("something_new", "1"),
            ("keywords[]", "godctl"),
            ("keywords[]", "Tonny"),
        ]);
        let request = request.unwrap();
        assert_eq!((request.language.as_deref(), request.prompt.as_deref()), (Some("en"), None));
        assert!(request.words && !request.stream && request.format == Format::VerboseJson);
        let decode = request.decode(&DecodeOptions::default(), Task::Translate);
        assert_eq!((decode.task, decode.hotwords.as_deref()), (Task::Translate, Some("godctl, Tonny")));
        assert_eq!(decode.temperatures, DecodeOptions::default().temperatures);
        assert!(decode.word_timestamps);
    }

    #[test]
    fn a_temperature_is_where_the_fallback_starts() {
        let request = request(&[("temperature", "0.5")]).unwrap();
        let temperatures = request.decode(&DecodeOptions::default(), Task::Transcribe).temperatures;
        assert_eq!(temperatures.len(), 3, "{temperatures:?}");
        assert!((temperatures[0] - 0.5).abs() < 1e-6 && temperatures[2] <= 1.0);
    }

    #[test]
    fn what_cannot_be_done_is_refused_with_the_name_of_the_field() {
        let cases: [(&[(&str, &str)], &str); 7] = [
            (&[("response_format", "xml")], "response_format"),
            (&[("temperature", "hot")], "temperature"),
            (&[("temperature", "1.5")], "temperature"),
            (&[("timestamp_granularities[]", "syllable")], "timestamp_granularities"),
            (&[("include[]", "everything")], "include"),
            (&[("stream", "true"), ("response_format", "srt")], "stream"),
            (&[("known_speaker_references[]", "data:audio/wav;base64,AAAA")], "known_speaker_references"),
        ];
        for (fields, param) in cases {
            assert_eq!(request(fields).unwrap_err().param, param, "{fields:?}");
        }
        for (name, format) in Format::ALL {
            assert_eq!((name.parse(), format.to_string().as_str()), (Ok(format), name));
        }
    }

    proptest! {
        #[test]
        fn no_field_can_do_harm(name in "[a-z_]{0,30}(\\[\\])?", value in any::<String>()) {
            drop(Request::default().set(&name, &value));
        }
    }
}
