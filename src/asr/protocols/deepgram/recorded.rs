//! The answer to a recording. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    ModelCard, TRANSACTION_KEY,
    letterhead::model_uuid,
    options::Options,
    words::{Alternative, DeepgramWord, Glued, glue, to_millisecond},
};
use crate::asr::{
    ModelInfo, Word,
    offline::{Passage, majority},
};

/// A pause that begins a new paragraph.
const PARAGRAPH_PAUSE_S: f64 = 2.0;

/// The answer to a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Transcription {
    /// What the recording was.
    pub metadata: RecordedMetadata,
    /// What was heard.
    pub results: RecordedResults,
}

/// What a recording was.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedMetadata {
    /// Always `deprecated`.
    pub transaction_key: String,
    /// The request's id, in the server's log as well.
    pub request_id: String,
    /// SHA-256 of the bytes received, in hexadecimal.
    pub sha256: String,
    /// When it came: UTC, in seconds.
    pub created: String,
    /// Seconds.
    pub duration: f64,
    /// Channels that have results of their own.
    pub channels: usize,
    /// Ids of the models that listened.
    pub models: Vec<String>,
    /// What these models are.
    pub model_info: BTreeMap<String, ModelCard>,
    /// What is to be known of the answer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<Warning>,
}

/// What is to be known of an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// The parameter that it is about; empty where it is about the recording.
    pub parameter: String,
    /// For programs.
    pub r#type: String,
    /// For people.
    pub message: String,
}

/// What was heard in a recording.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedResults {
    /// One for each channel that has results of its own.
    pub channels: Vec<RecordedChannel>,
    /// Utterances of all channels in the order in which they start, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub utterances: Option<Vec<RecordedUtterance>>,
}

/// What was heard on a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedChannel {
    /// Always one.
    pub alternatives: Vec<RecordedAlternative>,
    /// The language of the most speech, if it was to be detected.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detected_language: Option<String>,
}

/// The words of a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedAlternative {
    /// The text and its words.
    #[serde(flatten)]
    pub heard: Alternative,
    /// The same in paragraphs, if asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paragraphs: Option<Paragraphs>,
}

/// Text in paragraphs.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Paragraphs {
    /// The text, with an empty line between paragraphs.
    pub transcript: String,
    /// The paragraphs.
    pub paragraphs: Vec<Paragraph>,
}

/// Sentences without a long pause between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Paragraph {
    /// Its sentences.
    pub sentences: Vec<Sentence>,
    /// Words in all of them.
    pub num_words: usize,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

/// A sentence.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    /// As the model wrote it.
    pub text: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
}

/// Words without a pause between them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecordedUtterance {
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// The mean of its words.
    pub confidence: f64,
    /// From 0.
    pub channel: usize,
    /// The text.
    pub transcript: String,
    /// The words of the text.
    pub words: Vec<DeepgramWord>,
    /// Always 0: nobody tells speakers apart here.
    pub speaker: u32,
    /// Made from the request's id.
    pub id: String,
}

/// What is known of a recording beside its words.
#[derive(Debug, Clone, Default)]
pub struct About {
    /// The request's id.
    pub request_id: String,
    /// When it came: UTC, in seconds.
    pub created: String,
    /// SHA-256 of the bytes received, in hexadecimal.
    pub sha256: String,
    /// Seconds.
    pub duration: f64,
    /// What is to be known.
    pub warnings: Vec<Warning>,
}

/// The words of a channel so far.
#[derive(Debug, Clone, Default)]
struct Channel {
    words: Vec<Word>,
    /// Languages of its passages with their lengths in seconds.
    languages: Vec<(Option<String>, f64)>,
}

/// A recording that is being heard.
#[derive(Debug, Clone)]
pub struct Recording {
    channels: Vec<Channel>,
    utterances: bool,
    paragraphs: bool,
    detect_language: bool,
    utt_split_s: f64,
}

impl Recording {
    /// One with so many channels that have results of their own, at least one.
    #[must_use]
    pub fn new(options: &Options, channels: usize) -> Self {
        Self {
            channels: vec![Channel::default(); channels.max(1)],
            utterances: options.utterances,
            paragraphs: options.paragraphs,
            detect_language: options.detect_language,
            utt_split_s: f64::from(options.utt_split_ms) / 1_000.0,
        }
    }

    /// Takes the next passage; those of a channel come in order.
    pub fn add(&mut self, passage: Passage) {
        let Some(channel) = self.channels.get_mut(passage.channel.unwrap_or(0)) else { return };
        if passage.hypothesis.text.is_empty() {
            return;
        }
        channel.languages.push((passage.hypothesis.language, passage.end - passage.start));
        let Glued { before, mut words, after } = glue(&passage.hypothesis.words);
        // Punctuation that has no word in this passage goes to the nearest one.
        let last = if words.is_empty() { channel.words.last_mut() } else { words.last_mut() };
        if let Some(last) = last {
            after.iter().for_each(|mark| last.text.push_str(&mark.text));
        }
        let marks: String = before.iter().map(|mark| mark.text.as_str()).collect();
        match (words.first_mut(), channel.words.last_mut()) {
            (_, Some(last)) => last.text.push_str(&marks),
            (Some(first), None) if !marks.is_empty() => first.text = marks + first.text.trim_start(),
            _ => {}
        }
        // Two passages are never one word.
        if let (Some(first), false) = (words.first_mut(), channel.words.is_empty())
            && !first.text.starts_with(char::is_whitespace)
        {
            first.text.insert(0, ' ');
        }
        channel.words.extend(words);
    }

    /// The whole answer.
    #[must_use]
    pub fn answer(&self, about: About, model: &ModelInfo) -> Transcription {
        let uuid = model_uuid(model);
        let channels = self.channels.iter().map(|channel| self.channel(channel)).collect();
        let utterances = self.utterances.then(|| self.utterances(&about.request_id));
        let About { request_id, created, sha256, duration, warnings } = about;
        Transcription {
            metadata: RecordedMetadata {
                transaction_key: TRANSACTION_KEY.to_owned(),
                request_id,
                sha256,
                created,
                duration: to_millisecond(duration),
                channels: self.channels.len(),
                models: vec![uuid.clone()],
                model_info: [(uuid, ModelCard::of(model))].into(),
                warnings,
            },
            results: RecordedResults { channels, utterances },
        }
    }

    fn channel(&self, channel: &Channel) -> RecordedChannel {
        let languages = channel.languages.iter().map(|(language, length)| (language.as_deref(), *length));
        RecordedChannel {
            alternatives: vec![RecordedAlternative {
                heard: Alternative::of(&channel.words),
                paragraphs: self.paragraphs.then(|| paragraphs(&channel.words)),
            }],
            detected_language: self.detect_language.then(|| majority(languages).map(str::to_owned)).flatten(),
        }
    }

    fn utterances(&self, request_id: &str) -> Vec<RecordedUtterance> {
        let mut utterances: Vec<RecordedUtterance> = self
            .channels
            .iter()
            .enumerate()
            .flat_map(|(channel, heard)| {
                split(&heard.words, self.utt_split_s).map(move |words| (channel, words))
            })
            .map(|(channel, words)| {
                let Alternative { transcript, confidence, words: on_wire } = Alternative::of(words);
                let (start, end) = span(words);
                let name = format!("godctl:utterance:{request_id}:{channel}:{start}");
                let id = Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()).to_string();
                RecordedUtterance {
                    start,
                    end,
                    confidence,
                    channel,
                    transcript,
                    words: on_wire,
                    speaker: 0,
                    id,
                }
            })
            .collect();
        utterances.sort_by(|a, b| a.start.total_cmp(&b.start));
        utterances
    }
}

/// Words with pauses of at least this many seconds between the groups.
fn split(words: &[Word], pause_s: f64) -> impl Iterator<Item = &[Word]> {
    words.chunk_by(move |a, b| b.start - a.end < pause_s)
}

/// Where words start and end.
fn span(words: &[Word]) -> (f64, f64) {
    let start = words.first().map_or(0.0, |word| word.start);
    (to_millisecond(start), to_millisecond(words.last().map_or(start, |word| word.end)))
}

fn ends_sentence(word: &Word) -> bool {
    word.text
        .trim_end_matches(['"', '\'', '”', '’', ')', ']'])
        .ends_with(['.', '!', '?', '。', '！', '？', '…'])
}

fn paragraphs(words: &[Word]) -> Paragraphs {
    let paragraphs: Vec<Paragraph> = split(words, PARAGRAPH_PAUSE_S)
        .map(|paragraph| {
            let sentences = paragraph
                .chunk_by(|word, _| !ends_sentence(word))
                .map(|sentence| {
                    let (start, end) = span(sentence);
                    Sentence { text: Alternative::of(sentence).transcript, start, end }
                })
                .collect();
            let (start, end) = span(paragraph);
            Paragraph { sentences, num_words: paragraph.len(), start, end }
        })
        .collect();
    let texts = split(words, PARAGRAPH_PAUSE_S).map(|paragraph| Alternative::of(paragraph).transcript);
    Paragraphs { transcript: texts.collect::<Vec<_>>().join("\n\n"), paragraphs }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::asr::Hypothesis;

    fn model() -> ModelInfo {
        ModelInfo {
            name: "tiny".to_owned(),
            window_s: 30.0,
            multilingual: true,
            prompts: true,
            languages: vec!["en".to_owned()],
            parameters: 1,
            device: "cpu".to_owned(),
        }
    }

    fn passage(channel: Option<usize>, language: &str, words: &[(&str, f64)]) -> Passage {
        let words: Vec<Word> = words
            .iter()
            .map(|(text, start)| Word {
                text: (*text).to_owned(),
                start: *start,
                end: start + 0.25,
                probability: 0.5,
            })
            .collect();
        let (start, end) = span(&words);
        let text = crate::asr::stream::join(&words);
        let language = Some(language.to_owned());
        Passage {
            channel,
            start,
            end,
            hypothesis: Hypothesis { text, words, language, ..Hypothesis::default() },
        }
    }

    fn options(query: &[(&str, &str)]) -> Options {
        Options::parse(query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))).unwrap()
    }

    #[test]
    fn an_answer_on_the_wire() {
        let all = [("utterances", "true"), ("paragraphs", "true"), ("detect_language", "true")];
        let mut recording = Recording::new(&options(&all), 2);
        recording.add(passage(Some(0), "en", &[(" Turn", 0.0), (" on.", 0.25), (" Now", 0.5), ("!", 0.75)]));
        recording.add(passage(Some(1), "fr", &[("Oui", 1.5)]));
        recording.add(passage(Some(0), "en", &[("Thanks", 3.0), (".", 3.25)]));
        let about = About {
            request_id: "0190".to_owned(),
            created: "2024-05-01T12:00:00Z".to_owned(),
            sha256: "ab".repeat(32),
            duration: 4.000_4,
            warnings: vec![Warning {
                parameter: String::new(),
                r#type: "incomplete_audio".to_owned(),
                message: "it broke off".to_owned(),
            }],
        };
        let answer = recording.answer(about, &model());
        insta::assert_snapshot!(serde_json::to_string_pretty(&answer).unwrap());
        let read: Transcription = serde_json::from_str(&serde_json::to_string(&answer).unwrap()).unwrap();
        assert_eq!(read, answer);
    }

    #[test]
    fn nothing_asked_for_is_a_plain_transcript() {
        let mut recording = Recording::new(&options(&[]), 1);
        recording.add(passage(None, "en", &[(" yes", 0.0)]));
        let RecordedResults { channels, utterances } = recording.answer(About::default(), &model()).results;
        assert_eq!((channels.len(), utterances), (1, None));
        assert_eq!(channels[0].alternatives[0].heard.transcript, "yes");
        assert_eq!((&channels[0].detected_language, &channels[0].alternatives[0].paragraphs), (&None, &None));
    }

    proptest! {
        #[test]
        fn no_word_is_lost_on_the_way(
            passages in prop::collection::vec(
                (0_usize..2, prop::collection::vec(("[ ]?[a-c.,(]{1,3}", 0.0..0.5_f64), 1..6)),
                0..8,
            ),
        ) {
            let all = options(&[("utterances", "true"), ("paragraphs", "true"), ("utt_split", "0.3")]);
            let mut recording = Recording::new(&all, 2);
            let (mut clock, mut letters) = (0.0, [String::new(), String::new()]);
            for (channel, words) in &passages {
                let words: Vec<(&str, f64)> = words
                    .iter()
                    .map(|(text, pause)| {
                        clock += 0.25 + pause;
                        (text.as_str(), clock)
                    })
                    .collect();
                let passage = passage(Some(*channel), "en", &words);
                if !passage.hypothesis.text.is_empty() {
                    letters[*channel].extend(words.iter().flat_map(|(text, _)| text.chars()).filter(|c| c.is_alphanumeric()));
                }
                recording.add(passage);
            }
            let of = |text: &str| text.chars().filter(|c| c.is_alphanumeric()).collect::<String>();
            let results = recording.answer(About::default(), &model()).results;
            let utterances = results.utterances.unwrap();
            prop_assert!(utterances.is_sorted_by(|a, b| a.start <= b.start));
            for (channel, heard) in results.channels.iter().enumerate() {
                let alternative = &heard.alternatives[0];
                prop_assert_eq!(&of(&alternative.heard.transcript), &letters[channel]);
                let paragraphs = alternative.paragraphs.as_ref().unwrap();
                prop_assert_eq!(&of(&paragraphs.transcript), &letters[channel]);
                let sentences = paragraphs.paragraphs.iter().flat_map(|paragraph| &paragraph.sentences);
                prop_assert_eq!(&sentences.map(|sentence| of(&sentence.text)).collect::<String>(), &letters[channel]);
                let mine = utterances.iter().filter(|utterance| utterance.channel == channel);
                prop_assert_eq!(&mine.map(|utterance| of(&utterance.transcript)).collect::<String>(), &letters[channel]);
            }
        }
    }
}
