//! What a client asks for in the query of `/v1/listen`. Pure.

use serde::{Deserialize, Serialize};

use super::{
    super::parameter::{BadParameter, quote},
    emitter::Rules,
};
use crate::{
    asr::{
        DecodeOptions, ModelInfo,
        stream::{Tuning, samples_of_ms},
    },
    audio::{
        SAMPLE_RATE_HZ,
        pcm::{PcmEncoding, PcmFormat},
    },
};

/// Rates that raw audio may have, in Hz.
pub const RATES_HZ: std::ops::RangeInclusive<u32> = 8_000..=192_000;
/// Channels that audio may have.
pub const MAX_CHANNELS: usize = 8;
/// A pause shorter than this lies inside words (the silence of a `t` or a `k`), so no utterance ends there.
pub const MIN_ENDPOINTING_MS: u32 = 200;
/// A longer pause is never waited for.
pub const MAX_ENDPOINTING_MS: u32 = 60_000;
/// What `utterance_end_ms` may be.
pub const UTTERANCE_END_MS: std::ops::RangeInclusive<u32> = 1_000..=5_000;
/// The pause that divides utterances of a file where nothing was asked for, as at Deepgram.
pub const UTT_SPLIT_MS: u32 = 800;
/// Longer lists of keyterms are refused: a model reads a few hundred tokens of them at most.
const MAX_KEYTERM_BYTES: usize = 4_096;
/// Parameters without effect that are named.
const MAX_IGNORED: usize = 32;

/// What the bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// Not said: a container by its content, or 16-bit samples.
    Unset,
    /// Raw samples.
    Pcm(PcmEncoding),
    /// Opus packets, one to a message, or Opus in a container.
    Opus,
    /// A container.
    Container,
}

/// When an utterance has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpointing {
    /// After the pause that the server is set to.
    Server,
    /// The same, but nobody is told.
    Off,
    /// After a pause of this length.
    Ms(u32),
}

/// Which audio the parameters are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Audio {
    /// It comes while somebody listens.
    Live,
    /// All of it is there.
    Recorded,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Language {
    AsServer,
    Detect,
    Code(String),
}

/// The parameters of a session, or of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Options {
    /// What the bytes are.
    pub encoding: Encoding,
    /// Frames per second of raw audio.
    pub sample_rate: u32,
    /// Channels of the audio, if it was said.
    pub channels: Option<usize>,
    /// Each channel has results of its own.
    pub multichannel: bool,
    /// Words that may still change are wanted.
    pub interim_results: bool,
    /// Beginnings of speech are wanted.
    pub vad_events: bool,
    /// When an utterance has ended.
    pub endpointing: Endpointing,
    /// The time without words after which `UtteranceEnd` is said.
    pub utterance_end_ms: Option<u32>,
    /// Utterances of a file are wanted as a list.
    pub utterances: bool,
    /// The pause in milliseconds that divides utterances of a file.
    pub utt_split_ms: u32,
    /// Paragraphs of a file are wanted.
    pub paragraphs: bool,
    /// The language of a file is wanted.
    pub detect_language: bool,
    language: Language,
    hints: Vec<String>,
    keyterms: Vec<String>,
    model: Option<String>,
    ignored: Vec<String>,
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Keyterms are the user's text; they have no place in a log.
        f.debug_struct("Options")
            .field("encoding", &self.encoding)
            .field("sample_rate", &self.sample_rate)
            .field("channels", &self.channels)
            .field("multichannel", &self.multichannel)
            .field("language", &self.language)
            .finish_non_exhaustive()
    }
}

/// What is in force in a session, as its client is told.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Effective {
    /// An ISO code, or `multi` for detection.
    pub language: String,
    /// Words that may still change are sent.
    pub interim_results: bool,
    /// Beginnings of speech are sent.
    pub vad_events: bool,
    /// Milliseconds of silence that end an utterance, where the client chose; `false` when nobody is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpointing: Option<serde_json::Value>,
    /// Milliseconds without words after which `UtteranceEnd` is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utterance_end_ms: Option<u32>,
    /// Words that are favoured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keyterms: Vec<String>,
}

impl Options {
    /// Reads the decoded pairs of a query. A parameter that is empty counts as absent, of two the last wins except
    /// where a list is meant; what has no effect here is ignored, and named in [`Options::ignored`].
    ///
    /// # Errors
    /// The first parameter that cannot be honoured, or that does not go with the others.
    pub fn parse(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, BadParameter> {
        let mut reader = Reader::default();
        for (name, value) in pairs {
            if !value.is_empty() {
                reader.take(&name, &value)?;
            }
        }
        reader.finish()
    }

    /// Names of parameters that have no effect on this server.
    #[must_use]
    pub fn ignored(&self, model: &ModelInfo, what: Audio) -> Vec<String> {
        let mut ignored = self.ignored.clone();
        let elsewhere = match what {
            Audio::Live => [
                (self.utterances, "utterances"),
                (self.paragraphs, "paragraphs"),
                (self.utt_split_ms != UTT_SPLIT_MS, "utt_split"),
            ],
            Audio::Recorded => [
                (self.interim_results, "interim_results"),
                (self.vad_events, "vad_events"),
                (self.utterance_end_ms.is_some(), "utterance_end_ms"),
            ],
        };
        ignored.extend(elsewhere.iter().filter(|(asked, _)| *asked).map(|(_, name)| (*name).to_owned()));
        let other = self.model.as_ref().is_some_and(|wanted| *wanted != model.name);
        ignored.extend(other.then(|| "model".to_owned()));
        ignored.extend((!self.keyterms.is_empty() && !model.prompts).then(|| "keyterm".to_owned()));
        ignored
    }

    /// How to decode: what was asked for over what the server was started with.
    #[must_use]
    pub fn decode(&self, server: &DecodeOptions, model: &ModelInfo) -> DecodeOptions {
        let mut decode = server.clone();
        match &self.language {
            Language::AsServer => {}
            Language::Detect => {
                decode.language = None;
                // A hint that the model does not know helps nobody.
                let known = self.hints.iter().filter(|hint| model.languages.contains(hint));
                decode.allowed_languages = known.cloned().collect();
            }
            Language::Code(code) => decode.language = Some(code.clone()),
        }
        if !self.keyterms.is_empty() && model.prompts {
            decode.hotwords = Some(self.keyterms.join(", "));
        }
        decode
    }

    /// When to decode and commit.
    #[must_use]
    pub fn tuning(&self, server: Tuning) -> Tuning {
        match self.endpointing {
            Endpointing::Ms(ms) => {
                Tuning { endpointing: Some(samples_of_ms(u64::from(ms.max(MIN_ENDPOINTING_MS)))), ..server }
            }
            Endpointing::Server | Endpointing::Off => server,
        }
    }

    /// What is to be said.
    #[must_use]
    pub fn rules(&self) -> Rules {
        Rules {
            interim_results: self.interim_results,
            vad_events: self.vad_events,
            endpointing: self.endpointing != Endpointing::Off,
            utterance_end_s: self.utterance_end_ms.map(|ms| f64::from(ms) / 1_000.0),
        }
    }

    /// Channels that have results of their own.
    #[must_use]
    pub fn streams(&self) -> usize {
        if self.multichannel { self.channels.unwrap_or(1) } else { 1 }
    }

    /// What raw audio is, where it is raw.
    #[must_use]
    pub fn pcm(&self) -> Option<PcmFormat> {
        let encoding = match self.encoding {
            Encoding::Pcm(encoding) => encoding,
            Encoding::Unset => PcmEncoding::Linear16,
            Encoding::Opus | Encoding::Container => return None,
        };
        Some(PcmFormat { encoding, rate_hz: self.sample_rate, channels: self.channels.unwrap_or(1) })
    }

    /// What is in force, with what [`Options::decode`] gave.
    #[must_use]
    pub fn effective(&self, decode: &DecodeOptions, model: &ModelInfo) -> Effective {
        Effective {
            language: decode.language.clone().unwrap_or_else(|| "multi".to_owned()),
            interim_results: self.interim_results,
            vad_events: self.vad_events,
            endpointing: match self.endpointing {
                Endpointing::Server => None,
                Endpointing::Off => Some(false.into()),
                Endpointing::Ms(ms) => Some(ms.max(MIN_ENDPOINTING_MS).into()),
            },
            utterance_end_ms: self.utterance_end_ms,
            keyterms: if model.prompts { self.keyterms.clone() } else { Vec::new() },
        }
    }
}

/// The parameters read so far.
#[derive(Debug)]
struct Reader {
    options: Options,
    sample_rate: Option<u32>,
}

impl Default for Reader {
    fn default() -> Self {
        let options = Options {
            encoding: Encoding::Unset,
            sample_rate: SAMPLE_RATE_HZ,
            channels: None,
            multichannel: false,
            interim_results: false,
            vad_events: false,
            endpointing: Endpointing::Server,
            utterance_end_ms: None,
            utterances: false,
            utt_split_ms: UTT_SPLIT_MS,
            paragraphs: false,
            detect_language: false,
            language: Language::AsServer,
            hints: Vec::new(),
            keyterms: Vec::new(),
            model: None,
            ignored: Vec::new(),
        };
        Self { options, sample_rate: None }
    }
}

impl Reader {
    fn take(&mut self, name: &str, value: &str) -> Result<(), BadParameter> {
        let options = &mut self.options;
        match name {
            "encoding" => options.encoding = encoding(value)?,
            "sample_rate" => {
                let wanted = format!("write a number of Hz from {} to {}", RATES_HZ.start(), RATES_HZ.end());
                self.sample_rate = Some(number("sample_rate", value, RATES_HZ, &wanted)?);
            }
            "channels" => {
                let wanted = format!("write a number from 1 to {MAX_CHANNELS}");
                let most = u32::try_from(MAX_CHANNELS).unwrap_or(u32::MAX);
                let channels = number("channels", value, 1..=most, &wanted)?;
                options.channels = usize::try_from(channels).ok();
            }
            "multichannel" => options.multichannel = flag("multichannel", value)?,
            "interim_results" => options.interim_results = flag("interim_results", value)?,
            "vad_events" => options.vad_events = flag("vad_events", value)?,
            "utterances" => options.utterances = flag("utterances", value)?,
            "paragraphs" => options.paragraphs = flag("paragraphs", value)?,
            "utt_split" => options.utt_split_ms = utt_split(value)?,
            "endpointing" => options.endpointing = endpointing(value)?,
            "utterance_end_ms" => {
                let wanted = "write milliseconds from 1000 to 5000";
                let ms = number("utterance_end_ms", value, UTTERANCE_END_MS, wanted)?;
                options.utterance_end_ms = Some(ms);
            }
            "language" => options.language = language("language", value)?,
            "detect_language" => match value.to_ascii_lowercase().as_str() {
                "false" | "0" => {}
                "true" | "1" => {
                    options.language = Language::Detect;
                    options.detect_language = true;
                }
                // A language that may be detected; it is repeated for more.
                _ => {
                    if let Language::Code(code) = language("detect_language", value)? {
                        options.hints.push(code);
                    }
                    options.language = Language::Detect;
                    options.detect_language = true;
                }
            },
            "language_hint" => {
                if let Language::Code(code) = language("language_hint", value)? {
                    options.hints.push(code);
                }
            }
            "keyterm" => options.keyterms.extend(list(value)),
            // `word:boost`; the boost has no counterpart here.
            "keywords" => {
                options.keyterms.extend(list(value).into_iter().map(|term| match term.rsplit_once(':') {
                    Some((word, boost)) if boost.parse::<f64>().is_ok() => word.to_owned(),
                    _ => term,
                }))
            }
            "model" => options.model = Some(value.to_owned()),
            "callback" => {
                return Err(BadParameter::new(
                    "callback",
                    "this server calls nobody back; read the results where you sent the audio",
                ));
            }
            "redact" if !is_no(value) => {
                return Err(BadParameter::new(
                    "redact",
                    "nothing is redacted here, and a transcript that only looks redacted helps nobody; leave it out",
                ));
            }
            // Tokens are looked at elsewhere. What a model does by itself, and what is about Deepgram's accounts, holds.
            "token" | "tag" | "extra" | "mip_opt_out" | "version" | "tier" | "punctuate" | "redact" => {}
            _ if is_no(value) => {}
            _ => {
                let name = quote(name);
                if options.ignored.len() < MAX_IGNORED && !options.ignored.contains(&name) {
                    options.ignored.push(name);
                }
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Options, BadParameter> {
        let Self { mut options, sample_rate } = self;
        let telephone = matches!(options.encoding, Encoding::Pcm(PcmEncoding::MuLaw | PcmEncoding::ALaw));
        options.sample_rate = match (sample_rate, options.encoding) {
            (Some(rate_hz), _) => rate_hz,
            (None, _) if telephone => 8_000,
            (None, Encoding::Pcm(_)) => {
                return Err(BadParameter::new(
                    "sample_rate",
                    "raw audio needs one; write its number of Hz, such as 16000",
                ));
            }
            (None, _) => SAMPLE_RATE_HZ,
        };
        if options.encoding == Encoding::Opus && options.channels.is_some_and(|channels| channels > 2) {
            return Err(BadParameter::new("channels", "Opus has one or two"));
        }
        if options.utterance_end_ms.is_some() && !options.interim_results {
            return Err(BadParameter::new("utterance_end_ms", "goes with interim_results=true only"));
        }
        if options.keyterms.iter().map(String::len).sum::<usize>() > MAX_KEYTERM_BYTES {
            let reason = format!("all together may have {MAX_KEYTERM_BYTES} bytes at most");
            return Err(BadParameter::new("keyterm", reason));
        }
        Ok(options)
    }
}

fn bad<T>(parameter: &'static str, value: &str, wanted: &str) -> Result<T, BadParameter> {
    Err(BadParameter::value(parameter, value, &format!("is not supported; {wanted}")))
}

fn is_no(value: &str) -> bool {
    value.eq_ignore_ascii_case("false") || value == "0"
}

fn flag(parameter: &'static str, value: &str) -> Result<bool, BadParameter> {
    match value.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => bad(parameter, value, "write true or false"),
    }
}

fn number(
    parameter: &'static str,
    value: &str,
    range: std::ops::RangeInclusive<u32>,
    wanted: &str,
) -> Result<u32, BadParameter> {
    match value.parse() {
        Ok(number) if range.contains(&number) => Ok(number),
        _ => bad(parameter, value, wanted),
    }
}

fn encoding(value: &str) -> Result<Encoding, BadParameter> {
    Ok(match value.to_ascii_lowercase().as_str() {
        "linear16" => Encoding::Pcm(PcmEncoding::Linear16),
        "linear32" => Encoding::Pcm(PcmEncoding::Linear32),
        "mulaw" => Encoding::Pcm(PcmEncoding::MuLaw),
        "alaw" => Encoding::Pcm(PcmEncoding::ALaw),
        "opus" => Encoding::Opus,
        "ogg-opus" | "flac" => Encoding::Container,
        _ => {
            let wanted = "write linear16, linear32, mulaw, alaw, opus, ogg-opus or flac, or leave it out for a container";
            return bad("encoding", value, wanted);
        }
    })
}

fn endpointing(value: &str) -> Result<Endpointing, BadParameter> {
    match value.to_ascii_lowercase().as_str() {
        "true" => Ok(Endpointing::Server),
        "false" => Ok(Endpointing::Off),
        _ => {
            let wanted =
                format!("write true, false, or milliseconds of silence from 1 to {MAX_ENDPOINTING_MS}");
            number("endpointing", value, 1..=MAX_ENDPOINTING_MS, &wanted).map(Endpointing::Ms)
        }
    }
}

/// Seconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
fn utt_split(value: &str) -> Result<u32, BadParameter> {
    match value.parse::<f64>() {
        Ok(seconds) if (0.05..=60.0).contains(&seconds) => Ok((seconds * 1_000.0).round() as u32),
        _ => bad("utt_split", value, "write seconds from 0.05 to 60"),
    }
}

/// A BCP-47 tag; what it says of a region or a script makes no difference to the model.
fn language(parameter: &'static str, value: &str) -> Result<Language, BadParameter> {
    let tag = value.to_ascii_lowercase();
    let code = tag.split(['-', '_']).next().unwrap_or_default();
    if matches!(code, "multi" | "auto") {
        return Ok(Language::Detect);
    }
    if (2..=3).contains(&code.len()) && code.bytes().all(|b| b.is_ascii_lowercase()) {
        return Ok(Language::Code(code.to_owned()));
    }
    bad(parameter, value, "write a language tag such as en or en-US, or multi to detect it")
}

/// One value, or a JSON list of them, which is how one of the SDKs writes a list.
fn list(value: &str) -> Vec<String> {
    serde_json::from_str::<Vec<String>>(value).unwrap_or_else(|_| vec![value.to_owned()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Options, BadParameter> {
        Options::parse(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
    }

    fn model(prompts: bool) -> ModelInfo {
        ModelInfo {
            name: "tiny".to_owned(),
            window_s: 30.0,
            multilingual: true,
            prompts,
            languages: vec!["en".to_owned(), "fr".to_owned()],
            parameters: 1,
            device: "cpu".to_owned(),
        }
    }

    #[test]
    fn nothing_asked_for_is_what_deepgram_does() {
        let options = parse(&[]).unwrap();
        let server = DecodeOptions { language: Some("fr".to_owned()), ..DecodeOptions::default() };
        assert_eq!(options.decode(&server, &model(true)), server);
        assert_eq!(options.rules(), Rules { endpointing: true, ..Rules::default() });
        assert_eq!(options.tuning(Tuning::default()), Tuning::default());
        assert_eq!((options.streams(), options.encoding), (1, Encoding::Unset));
        assert!(options.ignored(&model(true), Audio::Live).is_empty());
    }

    #[test]
    fn what_was_asked_for_is_done_or_named() {
        let options = parse(&[
            ("encoding", "linear16"),
            ("sample_rate", "44100"),
            ("channels", "2"),
            ("multichannel", "True"),
            ("interim_results", "true"),
            ("utterance_end_ms", "1000"),
            ("endpointing", "10"),
            ("language", "en-US"),
            ("keyterm", "godctl"),
            ("keyterm", r#"["event bus","lapin"]"#),
            ("keywords", "candle:2.5"),
            ("model", "nova-3"),
            ("smart_format", "true"),
            ("diarize", "true"),
            ("numerals", "false"),
            ("punctuate", "true"),
            ("token", "s3cret"),
        ])
        .unwrap();
        let format = PcmFormat { encoding: PcmEncoding::Linear16, rate_hz: 44_100, channels: 2 };
        assert_eq!((options.pcm(), options.streams()), (Some(format), 2));
        assert_eq!(options.tuning(Tuning::default()).endpointing, Some(3_200), "10 ms are inside a word");
        assert_eq!(options.rules().utterance_end_s, Some(1.0));
        let decode = options.decode(&DecodeOptions::default(), &model(true));
        assert_eq!(decode.language.as_deref(), Some("en"));
        assert_eq!(decode.hotwords.as_deref(), Some("godctl, event bus, lapin, candle"));
        assert_eq!(options.ignored(&model(true), Audio::Live), ["smart_format", "diarize", "model"]);
        assert_eq!(options.decode(&DecodeOptions::default(), &model(false)).hotwords, None);
        assert_eq!(options.ignored(&model(false), Audio::Live).last().map(String::as_str), Some("keyterm"));
        let told = options.effective(&decode, &model(true));
        insta::assert_snapshot!(serde_json::to_string(&told).unwrap());
    }

    #[test]
    fn what_belongs_to_the_other_kind_of_audio_is_named() {
        let options = parse(&[("utterances", "true"), ("utt_split", "1.5"), ("vad_events", "true")]).unwrap();
        assert_eq!(options.ignored(&model(true), Audio::Live), ["utterances", "utt_split"]);
        assert_eq!(options.ignored(&model(true), Audio::Recorded), ["vad_events"]);
    }

    #[test]
    fn languages_are_detected_among_the_hints() {
        for query in
            [[("language", "multi"), ("language_hint", "fr-CA")], [("detect_language", "fr"), ("x", "")]]
        {
            let options = parse(&query).unwrap();
            let server = DecodeOptions { language: Some("en".to_owned()), ..DecodeOptions::default() };
            let decode = options.decode(&server, &model(true));
            assert_eq!((decode.language, decode.allowed_languages), (None, vec!["fr".to_owned()]));
        }
        let unknown = parse(&[("language", "multi"), ("language_hint", "ja")]).unwrap();
        assert!(unknown.decode(&DecodeOptions::default(), &model(true)).allowed_languages.is_empty());
    }

    #[test]
    fn telephones_have_8_khz() {
        let options = parse(&[("encoding", "mulaw")]).unwrap();
        assert_eq!(options.pcm().map(|format| format.rate_hz), Some(8_000));
        assert_eq!(parse(&[("encoding", "opus")]).unwrap().pcm(), None);
    }

    #[test]
    fn what_cannot_be_honoured_is_refused_with_the_way_out() {
        let long = "x".repeat(MAX_KEYTERM_BYTES + 1);
        let cases: [&[(&str, &str)]; 19] = [
            &[("utt_split", "0")],
            &[("encoding", "amr-nb")],
            &[("encoding", "linear16")],
            &[("sample_rate", "7999")],
            &[("sample_rate", "192001")],
            &[("channels", "0")],
            &[("channels", "9")],
            &[("encoding", "opus"), ("channels", "3")],
            &[("multichannel", "maybe")],
            &[("interim_results", "2")],
            &[("endpointing", "-1")],
            &[("endpointing", "0")],
            &[("utterance_end_ms", "999"), ("interim_results", "true")],
            &[("utterance_end_ms", "5001"), ("interim_results", "true")],
            &[("utterance_end_ms", "1000")],
            &[("language", "klingon")],
            &[("callback", "https://example.org")],
            &[("redact", "pii")],
            &[("keyterm", &long)],
        ];
        let said: Vec<String> = cases.iter().map(|query| parse(query).unwrap_err().to_string()).collect();
        insta::assert_snapshot!(said.join("\n"));
    }

    #[test]
    fn a_log_shows_no_keyterm() {
        let options = parse(&[("keyterm", "marker-7"), ("token", "marker-7")]).unwrap();
        assert!(!format!("{options:?}").contains("marker-7"));
    }

    const NAMES: [&str; 14] = [
        "encoding",
        "sample_rate",
        "channels",
        "multichannel",
        "interim_results",
        "vad_events",
        "endpointing",
        "utterance_end_ms",
        "language",
        "detect_language",
        "language_hint",
        "keyterm",
        "keywords",
        "model",
    ];

    proptest! {
        #[test]
        fn nothing_panics_and_refusals_are_short(
            pairs in prop::collection::vec(
                (prop::sample::select(NAMES.to_vec()), "[a-z0-9.:_\\[\\]\",-]{0,60}|true|false|[0-9]{1,6}|.{0,20}"),
                0..8,
            ),
            strange in prop::collection::vec((".{0,60}", ".{0,60}"), 0..40),
        ) {
            let pairs = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).chain(strange);
            match Options::parse(pairs) {
                Ok(options) => {
                    prop_assert!((1..=MAX_CHANNELS).contains(&options.streams()));
                    prop_assert!(RATES_HZ.contains(&options.sample_rate));
                    prop_assert!(options.ignored(&model(false), Audio::Live).len() <= MAX_IGNORED + 5);
                    prop_assert!(options.utterance_end_ms.is_none() || options.interim_results);
                }
                Err(error) => prop_assert!(error.to_string().len() < 400),
            }
        }
    }
}
