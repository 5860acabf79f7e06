//! Transcripts as files: plain text, JSON, SubRip, WebVTT, TSV and LRC. Pure.

use std::{fmt, io, str::FromStr};

use serde::Serialize;

use super::{
    Word,
    stream::{Utterance, join},
};

/// A caption stays on screen no longer than this, in seconds; longer ones are split between words.
const CUE_SECONDS: f64 = 7.0;
/// A caption is no longer than two lines of 42 characters, the usual limit for subtitles.
const CUE_CHARS: usize = 84;

/// What was said in one recording.
#[derive(Debug, Clone, Serialize)]
pub struct Transcript {
    /// The recording's name.
    pub source: String,
    /// The model that wrote it.
    pub model: String,
    /// ISO code of the language, where it is known: of the longest stretch of speech if there are several.
    pub language: Option<String>,
    /// Seconds of audio.
    pub duration: f64,
    /// The utterances that have text, in order.
    pub utterances: Vec<Utterance>,
}

impl Transcript {
    /// Everything that was said, in one line.
    #[must_use]
    pub fn text(&self) -> String {
        self.utterances.iter().map(|u| u.text.as_str()).collect::<Vec<_>>().join(" ")
    }
}

/// A file format for transcripts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// One line an utterance.
    Txt,
    /// Everything that is known.
    Json,
    /// SubRip subtitles.
    Srt,
    /// WebVTT captions.
    Vtt,
    /// Start and end in milliseconds and the text, with a heading.
    Tsv,
    /// Synchronised lyrics.
    Lrc,
}

impl Format {
    /// Every format.
    pub const ALL: [Self; 6] = [Self::Txt, Self::Json, Self::Srt, Self::Vtt, Self::Tsv, Self::Lrc];

    /// The name, which is also the file extension.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Txt => "txt",
            Self::Json => "json",
            Self::Srt => "srt",
            Self::Vtt => "vtt",
            Self::Tsv => "tsv",
            Self::Lrc => "lrc",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|format| format.name() == name).ok_or_else(|| {
            format!("no such format '{name}'; there are {}", Self::ALL.map(Self::name).join(", "))
        })
    }
}

/// How fine the times in a transcript are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detail {
    /// A time for each caption.
    Captions,
    /// A time for each word: `words` in JSON, inline times in WebVTT and LRC, a caption a word in SubRip and TSV.
    Words,
}

/// Writes a transcript.
///
/// # Errors
/// Whatever the writer says.
pub fn write(
    out: &mut dyn io::Write,
    format: Format,
    transcript: &Transcript,
    detail: Detail,
) -> io::Result<()> {
    match format {
        Format::Txt => transcript.utterances.iter().try_for_each(|u| writeln!(out, "{}", u.text)),
        Format::Json => write_json(out, transcript, detail),
        Format::Srt => {
            for (i, cue) in cues(transcript, detail).iter().enumerate() {
                let (start, end) = (clock(cue.start, ','), clock(cue.end, ','));
                writeln!(out, "{}\n{start} --> {end}\n{}\n", i + 1, cue.text().replace("-->", "->"))?;
            }
            Ok(())
        }
        Format::Vtt => write_vtt(out, transcript, detail),
        Format::Tsv => {
            writeln!(out, "start\tend\ttext")?;
            for cue in cues(transcript, detail) {
                writeln!(
                    out,
                    "{}\t{}\t{}",
                    millis(cue.start),
                    millis(cue.end),
                    cue.text().replace('\t', " ")
                )?;
            }
            Ok(())
        }
        Format::Lrc => write_lrc(out, transcript, detail),
    }
}

/// One caption.
struct Cue<'a> {
    start: f64,
    end: f64,
    words: &'a [Word],
}

impl Cue<'_> {
    fn text(&self) -> String {
        join(self.words)
    }
}

/// The captions: an utterance each, split between words where it is too long to read at once.
fn cues(transcript: &Transcript, detail: Detail) -> Vec<Cue<'_>> {
    let mut cues = Vec::new();
    for utterance in &transcript.utterances {
        let mut words = utterance.words.as_slice();
        while let Some(first) = words.first() {
            let mut chars = 0;
            let fits = words
                .iter()
                .take_while(|word| {
                    chars += word.text.chars().count();
                    chars <= CUE_CHARS && word.end - first.start <= CUE_SECONDS
                })
                .count()
                .max(1);
            let take = if detail == Detail::Words { 1 } else { fits };
            let (cue, rest) = words.split_at(take);
            cues.push(Cue { start: first.start, end: cue.last().map_or(first.end, |w| w.end), words: cue });
            words = rest;
        }
    }
    cues
}

fn write_json(out: &mut dyn io::Write, transcript: &Transcript, detail: Detail) -> io::Result<()> {
    let mut value = serde_json::to_value(transcript)?;
    if let Some(object) = value.as_object_mut() {
        object.insert("text".to_owned(), transcript.text().into());
        if detail == Detail::Captions {
            let utterances = object.get_mut("utterances").and_then(serde_json::Value::as_array_mut);
            for utterance in utterances.into_iter().flatten().filter_map(serde_json::Value::as_object_mut) {
                utterance.remove("words");
            }
        }
    }
    serde_json::to_writer_pretty(&mut *out, &value)?;
    writeln!(out)
}

fn write_vtt(out: &mut dyn io::Write, transcript: &Transcript, detail: Detail) -> io::Result<()> {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    writeln!(out, "WEBVTT\n")?;
    for cue in cues(transcript, Detail::Captions) {
        writeln!(out, "{} --> {}", clock(cue.start, '.'), clock(cue.end, '.'))?;
        if detail == Detail::Captions {
            writeln!(out, "{}\n", escape(&cue.text()))?;
            continue;
        }
        for (i, word) in cue.words.iter().enumerate() {
            let text = if i == 0 { word.text.trim_start() } else { &word.text };
            if i == 0 {
                write!(out, "{}", escape(text))?;
            } else {
                write!(out, "<{}>{}", clock(word.start, '.'), escape(text))?;
            }
        }
        writeln!(out, "\n")?;
    }
    Ok(())
}

fn write_lrc(out: &mut dyn io::Write, transcript: &Transcript, detail: Detail) -> io::Result<()> {
    let stamp = |seconds: f64| {
        let hundredths = (millis(seconds) + 5) / 10;
        format!("{:02}:{:02}.{:02}", hundredths / 6_000, hundredths / 100 % 60, hundredths % 100)
    };
    for cue in cues(transcript, Detail::Captions) {
        write!(out, "[{}]", stamp(cue.start))?;
        match detail {
            Detail::Captions => write!(out, "{}", cue.text())?,
            Detail::Words => {
                for word in cue.words {
                    write!(out, " <{}>{}", stamp(word.start), word.text)?;
                }
            }
        }
        writeln!(out)?;
    }
    Ok(())
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
fn millis(seconds: f64) -> u64 {
    (seconds * 1_000.0).round() as u64
}

/// `HH:MM:SS` and milliseconds after `point`.
fn clock(seconds: f64, point: char) -> String {
    let ms = millis(seconds);
    format!("{:02}:{:02}:{:02}{point}{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::stream::EndReason;

    fn utterance(index: u64, start: f64, text: &str) -> Utterance {
        let words: Vec<Word> = text
            .split_whitespace()
            .enumerate()
            .map(|(i, word)| Word {
                text: format!(" {word}"),
                start: start + i as f64 * 0.5,
                end: start + i as f64 * 0.5 + 0.4,
                probability: 0.75,
            })
            .collect();
        Utterance {
            index,
            start,
            end: start + 0.5 * words.len() as f64,
            text: join(&words),
            words,
            revised: false,
            language: Some("en".to_owned()),
            language_probability: 1.0,
            avg_logprob: -0.25,
            no_speech_prob: 0.0,
            reason: EndReason::Endpoint,
        }
    }

    fn transcript() -> Transcript {
        Transcript {
            source: "talk.wav".to_owned(),
            model: "command-en".to_owned(),
            language: Some("en".to_owned()),
            duration: 3_700.0,
            utterances: vec![
                utterance(0, 0.25, "open <the> dash&board"),
                utterance(1, 3_661.5, "a\tb --> c"),
                utterance(2, 3_670.0, &"seventeen ".repeat(17)),
            ],
        }
    }

    fn written(format: Format, detail: Detail) -> String {
        let mut out = Vec::new();
        write(&mut out, format, &transcript(), detail).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_format_is_written_as_its_readers_expect() {
        for format in Format::ALL {
            insta::assert_snapshot!(format!("captions_{format}"), written(format, Detail::Captions));
            insta::assert_snapshot!(format!("words_{format}"), written(format, Detail::Words));
        }
    }

    #[test]
    fn names_of_formats_are_read_back_and_others_are_refused_with_a_list() {
        for format in Format::ALL {
            assert_eq!(format.name().parse(), Ok(format));
        }
        assert!("doc".parse::<Format>().unwrap_err().contains("txt, json, srt, vtt, tsv, lrc"));
    }
}
