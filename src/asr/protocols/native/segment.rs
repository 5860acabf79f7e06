//! Where a line of the transcript ends. Pure.

use serde::{Deserialize, Serialize};

use crate::asr::Word;

/// Characters of a line of subtitles: two rows of 42, as broadcasters set them.
const SUBTITLE: usize = 84;
/// Characters after which a sentence that does not end is cut: no model of commands writes full stops.
const SENTENCE: usize = 300;
/// Words that end in a full stop and end no sentence.
const ABBREVIATIONS: [&str; 22] = [
    "mr.", "mrs.", "ms.", "dr.", "prof.", "st.", "vs.", "etc.", "e.g.", "i.e.", "no.", "fig.", "approx.",
    "dept.", "jr.", "sr.", "hr.", "fr.", "nr.", "bzw.", "ca.", "mme.",
];

/// What ends a line, besides the end of the utterance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Segment {
    /// Nothing: each utterance is a line.
    #[default]
    Pause,
    /// The end of a sentence, told by its punctuation.
    Sentence,
    /// The line is full.
    Length,
}

/// What lines carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Text and times.
    #[default]
    Lines,
    /// The words and their times as well.
    Words,
}

/// How a transcript is cut into lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Layout {
    /// What ends a line.
    pub segment: Segment,
    /// Characters of a line; a longer one is cut between two words.
    pub max_length: Option<usize>,
    /// What lines carry.
    pub detail: Detail,
}

impl Layout {
    /// The characters of a line, where there is a limit.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        self.max_length.or(match self.segment {
            Segment::Pause => None,
            Segment::Sentence => Some(SENTENCE),
            Segment::Length => Some(SUBTITLE),
        })
    }

    /// True when a line with these words is full, so that `next` belongs to a new one. A word longer than a line
    /// stands alone.
    #[must_use]
    pub fn is_full(&self, line: &[Word], next: &Word) -> bool {
        let Some((limit, (first, rest))) = self.limit().zip(line.split_first()) else { return false };
        let length = |text: &str| text.chars().count();
        let written =
            length(first.text.trim_start()) + rest.iter().map(|word| length(&word.text)).sum::<usize>();
        written + length(next.text.trim_end()) > limit
    }

    /// True when this word is the last of its line.
    #[must_use]
    pub fn ends_with(&self, word: &Word) -> bool {
        self.segment == Segment::Sentence && ends_sentence(&word.text)
    }

    /// True when the line goes on although the utterance was cut, because the model's window was full.
    #[must_use]
    pub fn outlives_a_cut(&self) -> bool {
        self.segment != Segment::Pause
    }
}

/// True when a word, as the model writes it, ends a sentence.
fn ends_sentence(word: &str) -> bool {
    let bare = word.trim().trim_end_matches(['"', '\'', '”', '’', '»', ')', ']', '」', '』']);
    match bare.chars().next_back() {
        Some('!' | '?' | '…' | '。' | '！' | '？' | '．' | '।' | '؟' | '۔') => true,
        Some('.') => {
            let stem = bare.trim_end_matches('.');
            // "J. Smith", and "etc." between its commas.
            let initial = stem.chars().count() == 1 && stem.chars().all(char::is_alphabetic);
            !initial && !ABBREVIATIONS.contains(&bare.to_lowercase().as_str())
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_end_where_people_end_them() {
        for word in
            [" done.", " really?", " no!", " wait…", " said.\"", " (yes.)", "。", "です。", " 42.", " क्या।"]
        {
            assert!(ends_sentence(word), "{word}");
        }
        for word in [" done", " Mr.", " J.", " e.g.", " 3.14", " well,", ":", "", " .5", " \"", " DR."] {
            assert!(!ends_sentence(word), "{word}");
        }
    }

    #[test]
    fn a_line_is_full_before_the_word_that_does_not_fit() {
        let word = |text: &str| Word { text: text.to_owned(), start: 0.0, end: 0.0, probability: 1.0 };
        let layout = Layout { segment: Segment::Length, max_length: Some(9), ..Layout::default() };
        let line = [word(" four"), word(" fou")];
        assert!(!layout.is_full(&line, &word("r")));
        assert!(layout.is_full(&line, &word(" r")));
        assert!(!layout.is_full(&[], &word(" incomprehensible")));
        assert!(!Layout::default().is_full(&line, &word(" incomprehensible")));
    }
}
