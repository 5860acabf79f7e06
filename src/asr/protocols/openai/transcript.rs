//! Passages of a recording as OpenAI's answers. Pure: what has been said so far, and what to say of it.

use std::io;

use super::{
    Diarized, DiarizedSegment, Event, Logprob, Segment, Transcription, Usage, Verbose, Word, language,
    request::{Format, Request},
};
use crate::asr::{
    self, Task,
    captions::{self, Detail},
    offline::{Passage, majority},
    stream::{EndReason, Utterance},
};

/// `diarized_json` calls its segments this.
const SEGMENT: &str = "transcript.text.segment";

/// An answer in one of the formats.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(untagged)]
pub enum Answer {
    /// `json`
    Json(Transcription),
    /// `verbose_json`
    Verbose(Verbose),
    /// `diarized_json`
    Diarized(Diarized),
    /// `text`, `srt` and `vtt`
    #[serde(skip)]
    Text {
        /// The media type.
        content_type: &'static str,
        /// The document.
        body: String,
    },
}

/// One piece of the text: a segment of a passage.
#[derive(Debug)]
struct Piece {
    speaker: usize,
    seek: u64,
    segment: asr::Segment,
    words: Vec<asr::Word>,
    language: Option<String>,
    temperature: f32,
    avg_logprob: f32,
    compression_ratio: f32,
    no_speech_prob: f32,
}

/// What has been said so far.
#[derive(Debug)]
pub struct Transcript {
    request: Request,
    task: Task,
    pieces: Vec<Piece>,
    text: String,
    /// The language of each passage and its seconds of speech.
    languages: Vec<(Option<String>, f64)>,
    /// What the answer lacks or covers only in part, and why.
    pub warnings: Vec<String>,
}

impl Transcript {
    /// Nothing said yet.
    #[must_use]
    pub fn new(request: Request, task: Task) -> Self {
        let (pieces, text, languages, warnings) = Default::default();
        Self { request, task, pieces, text, languages, warnings }
    }

    /// Takes the next passage; gives what a client that listens is told of it.
    pub fn add(&mut self, passage: Passage) -> Vec<Event> {
        let Passage { channel, start, end, hypothesis } = passage;
        if hypothesis.text.is_empty() {
            return Vec::new();
        }
        self.languages.push((hypothesis.language.clone(), end - start));
        let mut words = hypothesis.words.into_iter();
        let mut events = Vec::new();
        let last = hypothesis.segments.len().saturating_sub(1);
        for (i, segment) in hypothesis.segments.into_iter().enumerate() {
            let words = if i == last { words.by_ref().collect() } else { of_text(&mut words, &segment.text) };
            let piece = Piece {
                speaker: channel.unwrap_or(0),
                seek: hundredths(start),
                words,
                segment,
                // A translation is English, whatever was spoken.
                language: if self.task == Task::Translate { None } else { hypothesis.language.clone() },
                temperature: hypothesis.temperature,
                avg_logprob: hypothesis.avg_logprob,
                compression_ratio: hypothesis.compression_ratio,
                no_speech_prob: hypothesis.no_speech_prob,
            };
            events.extend(self.say(piece));
        }
        events
    }

    fn say(&mut self, piece: Piece) -> Vec<Event> {
        let space = if self.text.is_empty() { "" } else { language::space(piece.language.as_deref()) };
        let delta = format!("{space}{}", piece.segment.text);
        self.text.push_str(&delta);
        let logprobs = self.request.logprobs.then(|| logprobs(&piece.words));
        let diarized =
            (self.request.format == Format::DiarizedJson).then(|| self.diarized(self.pieces.len(), &piece));
        self.pieces.push(piece);
        let segment_id = diarized.as_ref().map(|segment| segment.id.clone());
        let mut events = vec![Event::Delta { delta, logprobs, segment_id }];
        events.extend(diarized.map(|DiarizedSegment { kind: _, id, start, end, text, speaker }| {
            Event::Segment { id, start, end, text, speaker }
        }));
        events
    }

    /// The last event.
    #[must_use]
    pub fn done(&self) -> Event {
        Event::Done { text: self.text.clone(), logprobs: self.logprobs(), warnings: self.warnings.clone() }
    }

    /// The whole answer, for a recording of so many seconds.
    #[must_use]
    pub fn answer(self, duration: f64) -> Answer {
        let usage = Usage::Duration { seconds: seconds_up(duration) };
        match self.request.format {
            Format::Json => Answer::Json(Transcription {
                logprobs: self.logprobs(),
                usage,
                text: self.text,
                warnings: self.warnings,
            }),
            Format::VerboseJson => Answer::Verbose(self.verbose(duration, usage)),
            Format::DiarizedJson => Answer::Diarized(Diarized {
                task: Task::Transcribe.to_string(),
                duration: to_millisecond(duration),
                text: self.turns(),
                segments: (0..).zip(&self.pieces).map(|(i, piece)| self.diarized(i, piece)).collect(),
                usage,
                warnings: self.warnings,
            }),
            Format::Text => {
                Answer::Text { content_type: "text/plain; charset=utf-8", body: format!("{}\n", self.text) }
            }
            Format::Srt => {
                self.captions(captions::Format::Srt, "application/x-subrip; charset=utf-8", duration)
            }
            Format::Vtt => self.captions(captions::Format::Vtt, "text/vtt; charset=utf-8", duration),
        }
    }

    fn verbose(self, duration: f64, usage: Usage) -> Verbose {
        let spoken = majority(self.languages.iter().map(|(language, length)| (language.as_deref(), *length)));
        let language =
            self.request.language.as_deref().or(spoken).map_or("unknown", language::name).to_owned();
        let timed =
            |word: &asr::Word| Word { word: word.text.trim().to_owned(), start: word.start, end: word.end };
        let words =
            self.request.words.then(|| self.pieces.iter().flat_map(|p| &p.words).map(timed).collect());
        let segment = |(id, piece): (u64, Piece)| Segment {
            id,
            seek: piece.seek,
            start: piece.segment.start,
            end: piece.segment.end,
            text: piece.segment.text,
            tokens: piece.segment.tokens,
            temperature: piece.temperature,
            avg_logprob: piece.avg_logprob,
            compression_ratio: piece.compression_ratio,
            no_speech_prob: piece.no_speech_prob,
        };
        Verbose {
            task: self.task.to_string(),
            language,
            duration: to_millisecond(duration),
            text: self.text,
            words,
            segments: (0..).zip(self.pieces).map(segment).collect(),
            usage,
            warnings: self.warnings,
        }
    }

    fn logprobs(&self) -> Option<Vec<Logprob>> {
        self.request.logprobs.then(|| self.pieces.iter().flat_map(|piece| logprobs(&piece.words)).collect())
    }

    fn diarized(&self, index: usize, piece: &Piece) -> DiarizedSegment {
        DiarizedSegment {
            kind: SEGMENT.to_owned(),
            id: format!("seg_{:03}", index + 1),
            start: piece.segment.start,
            end: piece.segment.end,
            text: piece.segment.text.clone(),
            speaker: self.speaker(piece.speaker),
        }
    }

    /// What the answer calls who speaks on a channel.
    #[must_use]
    pub fn speaker(&self, channel: usize) -> String {
        self.request.speakers.get(channel).cloned().unwrap_or_else(|| letters(channel))
    }

    /// A line for each turn.
    fn turns(&self) -> String {
        let mut text = String::new();
        let mut speaking = None;
        for piece in &self.pieces {
            if speaking == Some(piece.speaker) {
                text.push_str(language::space(piece.language.as_deref()));
            } else {
                let line = if text.is_empty() { "" } else { "\n" };
                text.push_str(&format!("{line}{}: ", self.speaker(piece.speaker)));
                speaking = Some(piece.speaker);
            }
            text.push_str(&piece.segment.text);
        }
        text
    }

    fn captions(self, format: captions::Format, content_type: &'static str, duration: f64) -> Answer {
        let utterance = |(index, piece): (u64, Piece)| {
            let asr::Segment { start, end, text, .. } = piece.segment;
            // A piece whose words were not timed is one caption.
            let whole = || asr::Word { text: text.clone(), start, end, probability: 1.0 };
            let words = if piece.words.is_empty() { vec![whole()] } else { piece.words };
            Utterance {
                index,
                start,
                end,
                text,
                words,
                revised: false,
                language: piece.language,
                language_probability: 1.0,
                avg_logprob: piece.avg_logprob,
                no_speech_prob: piece.no_speech_prob,
                reason: EndReason::Endpoint,
            }
        };
        let transcript = captions::Transcript {
            source: String::new(),
            model: String::new(),
            language: None,
            duration,
            utterances: (0..).zip(self.pieces).map(utterance).collect(),
        };
        let mut body = Vec::new();
        // Writing into memory cannot fail.
        let written: io::Result<()> = captions::write(&mut body, format, &transcript, Detail::Captions);
        debug_assert!(written.is_ok());
        Answer::Text { content_type, body: String::from_utf8_lossy(&body).into_owned() }
    }
}

/// The next words, as many as this text has; both come from the same tokens.
fn of_text(words: &mut std::vec::IntoIter<asr::Word>, text: &str) -> Vec<asr::Word> {
    let visible = |text: &str| text.chars().filter(|c| !c.is_whitespace()).count();
    let mut left = visible(text);
    let mut taken = Vec::new();
    while left > 0
        && let Some(word) = words.next()
    {
        left = left.saturating_sub(visible(&word.text).max(1));
        taken.push(word);
    }
    taken
}

fn logprobs(words: &[asr::Word]) -> Vec<Logprob> {
    let logprob = |word: &asr::Word| Logprob {
        token: word.text.clone(),
        logprob: word.probability.max(f32::MIN_POSITIVE).ln(),
        bytes: word.text.clone().into_bytes(),
    };
    words.iter().map(logprob).collect()
}

/// `A` to `Z`, then `AA`, `AB` and so on.
fn letters(mut index: usize) -> String {
    let mut name = Vec::new();
    loop {
        name.push(char::from(b'A' + (index % 26) as u8));
        if index < 26 {
            break;
        }
        index = index / 26 - 1;
    }
    name.iter().rev().collect()
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
fn hundredths(seconds: f64) -> u64 {
    (seconds * 100.0).round() as u64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
fn seconds_up(seconds: f64) -> u64 {
    seconds.ceil() as u64
}

/// To the millisecond, as all other times are.
fn to_millisecond(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::Hypothesis;

    fn word(text: &str, start: f64) -> asr::Word {
        asr::Word { text: format!(" {text}"), start, end: start + 0.4, probability: 0.5 }
    }

    /// Two segments of two words, spoken on a channel.
    fn passage(channel: Option<usize>, start: f64, texts: [&str; 2], language: &str) -> Passage {
        let segment = |(i, text): (usize, &str)| asr::Segment {
            start: start + 2.0 * i as f64,
            end: start + 2.0 * i as f64 + 1.5,
            text: text.to_owned(),
            tokens: vec![7, 8],
        };
        let words = texts.iter().enumerate().flat_map(|(i, text)| {
            let at = start + 2.0 * i as f64;
            text.split(' ')
                .enumerate()
                .map(move |(j, text)| word(text, at + 0.5 * j as f64))
                .collect::<Vec<_>>()
        });
        let hypothesis = Hypothesis {
            text: texts.join(" "),
            language: Some(language.to_owned()),
            language_probability: 0.9,
            words: words.collect(),
            attended: Vec::new(),
            segments: texts.into_iter().enumerate().map(segment).collect(),
            tokens: vec![7, 8, 7, 8],
            avg_logprob: -0.25,
            no_speech_prob: 0.125,
            compression_ratio: 1.5,
            temperature: 0.2,
        };
        Passage { channel, start, end: start + 4.0, hypothesis }
    }

    fn transcript(request: Request) -> (Transcript, Vec<Event>) {
        let mut transcript = Transcript::new(request, Task::Transcribe);
        let mut events = transcript.add(passage(Some(0), 1.25, ["open <the>", "dashboard now"], "en"));
        events.extend(transcript.add(Passage {
            channel: Some(0),
            start: 6.0,
            end: 7.0,
            hypothesis: Hypothesis::default(),
        }));
        events.extend(transcript.add(passage(Some(1), 3_661.5, ["yes please", "thank you"], "en")));
        (transcript, events)
    }

    #[test]
    fn every_format_is_as_the_clients_read_it() {
        for (name, format) in Format::ALL {
            let request =
                Request { format, words: true, logprobs: format == Format::Json, ..Request::default() };
            let (transcript, _) = transcript(request);
            match transcript.answer(3_670.2) {
                Answer::Text { content_type, body } => {
                    insta::assert_snapshot!(format!("answer_{name}"), format!("{content_type}\n\n{body}"));
                }
                json => insta::assert_snapshot!(
                    format!("answer_{name}"),
                    serde_json::to_string_pretty(&json).unwrap()
                ),
            }
        }
    }

    #[test]
    fn the_events_add_up_to_the_text() {
        for format in [Format::Json, Format::DiarizedJson] {
            let request = Request { format, speakers: vec!["agent".to_owned()], ..Request::default() };
            let (transcript, events) = transcript(request);
            let lines: Vec<String> = events
                .iter()
                .chain([&transcript.done()])
                .map(|event| format!("{}: {}", event.name(), serde_json::to_string(event).unwrap()))
                .collect();
            insta::assert_snapshot!(format!("events_{format}"), lines.join("\n"));
            let said: String = events
                .iter()
                .filter_map(
                    |event| if let Event::Delta { delta, .. } = event { Some(delta.as_str()) } else { None },
                )
                .collect();
            assert!(matches!(transcript.done(), Event::Done { text, .. } if text == said));
        }
    }

    #[test]
    fn a_language_without_spaces_is_joined_without_them_and_the_most_spoken_one_is_told() {
        let request = Request { format: Format::VerboseJson, ..Request::default() };
        let mut transcript = Transcript::new(request, Task::Transcribe);
        transcript.add(passage(None, 0.0, ["開いて", "ください"], "ja"));
        transcript.add(passage(None, 10.0, ["お願い", "します"], "ja"));
        transcript.add(passage(None, 20.0, ["ok", "bye"], "en"));
        let Answer::Verbose(verbose) = transcript.answer(30.0) else { panic!("not verbose") };
        assert_eq!(
            (verbose.text.as_str(), verbose.language.as_str()),
            ("開いてくださいお願いします ok bye", "japanese")
        );
        assert_eq!(verbose.words, None);
    }

    #[test]
    fn speakers_are_lettered_as_columns_are() {
        let names: Vec<String> = [0, 25, 26, 27, 701, 702].map(letters).into();
        assert_eq!(names, ["A", "Z", "AA", "AB", "ZZ", "AAA"]);
    }

    #[test]
    fn nothing_said_is_an_answer_too() {
        for (_, format) in Format::ALL {
            let transcript = Transcript::new(Request { format, ..Request::default() }, Task::Transcribe);
            match transcript.answer(0.4) {
                Answer::Json(json) => {
                    assert_eq!((json.text.as_str(), json.usage), ("", Usage::Duration { seconds: 1 }))
                }
                Answer::Verbose(verbose) => {
                    assert_eq!((verbose.language.as_str(), verbose.segments.len()), ("unknown", 0))
                }
                Answer::Diarized(diarized) => {
                    assert_eq!((diarized.text.as_str(), diarized.segments.len()), ("", 0))
                }
                Answer::Text { body, .. } => {
                    assert!(["\n", "", "WEBVTT\n\n"].contains(&body.as_str()), "{body:?}")
                }
            }
        }
    }
}
