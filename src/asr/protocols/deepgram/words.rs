//! Words as they stand in a result. Pure.

use serde::{Deserialize, Serialize};

use crate::asr::{Word, stream::join};

/// One word with its place on the clock of the audio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DeepgramWord {
    /// In lower case, without punctuation around it.
    pub word: String,
    /// Seconds.
    pub start: f64,
    /// Seconds.
    pub end: f64,
    /// 0 to 1.
    pub confidence: f64,
    /// As the model wrote it.
    pub punctuated_word: String,
    /// Always 0: nobody tells speakers apart here.
    pub speaker: u32,
}

/// What was heard.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Alternative {
    /// The text as the model wrote it.
    pub transcript: String,
    /// The mean of its words, 0 to 1; 0 without words.
    pub confidence: f64,
    /// The words of the text.
    pub words: Vec<DeepgramWord>,
}

impl Alternative {
    /// Of words as the model wrote them.
    #[must_use]
    pub fn of(words: &[Word]) -> Self {
        let words_on_wire: Vec<DeepgramWord> = words.iter().map(DeepgramWord::from).collect();
        let sum: f64 = words.iter().map(|word| f64::from(word.probability)).sum();
        let confidence = if words.is_empty() { 0.0 } else { probability(sum / to_f64(words.len())) };
        Self { transcript: join(words), confidence, words: words_on_wire }
    }
}

impl From<&Word> for DeepgramWord {
    fn from(word: &Word) -> Self {
        Self {
            word: bare(&word.text),
            start: to_millisecond(word.start),
            end: to_millisecond(word.end),
            confidence: probability(f64::from(word.probability)),
            punctuated_word: word.text.trim().to_owned(),
            speaker: 0,
        }
    }
}

#[allow(clippy::cast_precision_loss, reason = "an utterance has a few hundred words")]
fn to_f64(count: usize) -> f64 {
    count as f64
}

/// To 4 decimals, between 0 and 1.
fn probability(value: f64) -> f64 {
    if value.is_finite() { (value.clamp(0.0, 1.0) * 1e4).round() / 1e4 } else { 0.0 }
}

/// Seconds to 3 decimals.
#[must_use]
pub fn to_millisecond(seconds: f64) -> f64 {
    // `+ 0.0` makes -0.0 into 0.0, which prints without a sign.
    (seconds * 1e3).round() / 1e3 + 0.0
}

/// A word in lower case, without what is around its letters and digits; what is inside stays, as in `it's` or `3.5`.
#[must_use]
pub fn bare(text: &str) -> String {
    text.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

/// Whether there is no letter and no digit in it.
#[must_use]
pub fn is_punctuation(word: &Word) -> bool {
    !word.text.contains(char::is_alphanumeric)
}

/// Whether punctuation belongs to the word after it.
fn opens(text: &str) -> bool {
    text.trim().ends_with(['(', '[', '{', '¿', '¡', '«', '‹', '“', '„', '‘', '‚', '「', '『', '《', '（'])
}

/// Words with their punctuation glued on: what opens to the next word, everything else to the one before. What has no
/// such word is left over, before the first word or after the last.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Glued {
    /// Punctuation that belongs to a word said earlier, if there is one.
    pub before: Vec<Word>,
    /// The words, none of them bare punctuation.
    pub words: Vec<Word>,
    /// Punctuation that waits for the next word.
    pub after: Vec<Word>,
}

/// Glues punctuation to its words. The words keep their own times.
#[must_use]
pub fn glue(words: &[Word]) -> Glued {
    let mut glued = Glued::default();
    for word in words {
        if !is_punctuation(word) {
            let opening: String = glued.after.drain(..).map(|mark| mark.text).collect();
            // The space that stood before the mark now stands before the word.
            let text = if opening.is_empty() { word.text.clone() } else { opening + word.text.trim_start() };
            glued.words.push(Word { text, ..word.clone() });
        } else if opens(&word.text) || !glued.after.is_empty() {
            glued.after.push(word.clone());
        } else if let Some(last) = glued.words.last_mut() {
            last.text.push_str(&word.text);
        } else {
            glued.before.push(word.clone());
        }
    }
    glued
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn word(text: &str) -> Word {
        Word { text: text.to_owned(), start: 1.0, end: 1.5, probability: 0.5 }
    }

    fn words(texts: &[&str]) -> Vec<Word> {
        texts.iter().map(|text| word(text)).collect()
    }

    #[test]
    fn a_bare_word_has_no_punctuation_around_it() {
        for (text, want) in [
            (" Hello,", "hello"),
            (" “It's", "it's"),
            (" 3.5%", "3.5"),
            (" ÉCOLE!", "école"),
            (" ...", ""),
            ("日本。", "日本"),
        ] {
            assert_eq!(bare(text), want);
        }
    }

    #[test]
    fn punctuation_is_glued_to_its_word() {
        let glued = glue(&words(&[" ?", " ¿", "Qué", " tal", "?", " ("]));
        assert_eq!(join(&glued.words), "¿Qué tal?");
        assert_eq!(glued.words.len(), 2);
        assert_eq!((join(&glued.before), join(&glued.after)), ("?".to_owned(), "(".to_owned()));
    }

    #[test]
    fn an_alternative_says_what_the_model_wrote_and_how_sure_it_is() {
        let heard = Alternative::of(&[
            Word { text: " Turn".to_owned(), start: 0.100_4, end: 0.3, probability: 0.987_64 },
            Word { text: " on.".to_owned(), start: 0.3, end: 0.500_6, probability: 0.5 },
        ]);
        assert_eq!((heard.transcript.as_str(), heard.confidence), ("Turn on.", 0.7438));
        let first = &heard.words[0];
        assert_eq!((first.word.as_str(), first.punctuated_word.as_str()), ("turn", "Turn"));
        assert_eq!((first.start, heard.words[1].end, first.confidence), (0.1, 0.501, 0.9876));
        assert_eq!(Alternative::of(&[]), Alternative::default());
    }

    proptest! {
        #[test]
        fn gluing_keeps_every_letter_and_leaves_no_bare_punctuation(
            texts in prop::collection::vec("[ ]?[a-c.,(¿]{0,3}", 0..12),
        ) {
            let words: Vec<Word> = texts.iter().map(|text| word(text)).collect();
            let glued = glue(&words);
            prop_assert!(glued.words.iter().all(|word| !is_punctuation(word)));
            let letters = |words: &[Word]| -> String {
                words.iter().flat_map(|word| word.text.chars()).filter(|c| !c.is_whitespace()).collect()
            };
            let after = letters(&glued.before) + &letters(&glued.words) + &letters(&glued.after);
            prop_assert_eq!(after, letters(&words));
            prop_assert_eq!(
                glued.words.len(),
                words.iter().filter(|word| !is_punctuation(word)).count()
            );
        }
    }
}
