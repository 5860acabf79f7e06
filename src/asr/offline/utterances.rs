//! Passages as the utterances that a live stream would have made of them. Pure.

use super::{Passage, SHORT_WINDOW_S};
use crate::asr::{
    Hypothesis, Segment, Word,
    stream::{EndReason, Utterance, join},
};

/// In a long window a pause of this many seconds ends an utterance: what ends one in a live stream by default.
const PAUSE_S: f64 = 0.6;

/// Counts the utterances of a recording.
#[derive(Debug, Clone)]
pub struct Utterances {
    next: u64,
    /// A passage is one stretch of speech. In long windows several share one.
    short: bool,
}

impl Utterances {
    /// Those of a recording, for a model with windows of this many seconds.
    #[must_use]
    pub const fn new(window_s: f64) -> Self {
        Self { next: 0, short: window_s <= SHORT_WINDOW_S }
    }

    /// What was said in the next passage; nothing where nobody spoke. Passages of several channels count up together.
    #[must_use]
    pub fn of(&mut self, passage: &Passage) -> Vec<Utterance> {
        let Passage { start, end, hypothesis, .. } = passage;
        if hypothesis.text.is_empty() {
            return Vec::new();
        }
        let mut utterance = |start, end, text, words: &[Word]| {
            let index = self.next;
            self.next += 1;
            utterance(index, (start, end), text, words, hypothesis)
        };
        if self.short {
            return vec![utterance(*start, *end, hypothesis.text.clone(), &hypothesis.words)];
        }
        if !hypothesis.words.is_empty() {
            let stretches = hypothesis.words.chunk_by(|a, b| b.start - a.end < PAUSE_S);
            return stretches
                .filter_map(|words| {
                    let (first, last) = (words.first()?, words.last()?);
                    let text = join(words);
                    // Of a lone blank nobody is told.
                    (!text.is_empty()).then(|| utterance(first.start, last.end, text, words))
                })
                .collect();
        }
        let mut rest = hypothesis.text.as_str();
        let stretches = hypothesis.segments.chunk_by(|a, b| b.start - a.end < PAUSE_S);
        stretches
            .filter_map(|segments| {
                let (first, last) = (segments.first()?, segments.last()?);
                Some(utterance(first.start, last.end, cut_off(&mut rest, segments), &[]))
            })
            .collect()
    }
}

fn utterance(
    index: u64,
    (start, end): (f64, f64),
    text: String,
    words: &[Word],
    hypothesis: &Hypothesis,
) -> Utterance {
    Utterance {
        index,
        start,
        end,
        text,
        words: words.to_vec(),
        revised: false,
        language: hypothesis.language.clone(),
        language_probability: hypothesis.language_probability,
        avg_logprob: hypothesis.avg_logprob,
        no_speech_prob: hypothesis.no_speech_prob,
        reason: EndReason::Endpoint,
    }
}

/// Cuts the text of the next segments off, with whatever the language has between them.
fn cut_off(rest: &mut &str, segments: &[Segment]) -> String {
    let mut taken = 0;
    for segment in segments {
        let after = rest.get(taken..).unwrap_or_default();
        let Some(at) = after.find(&segment.text) else {
            // Never so: both come from the same tokens.
            let texts: Vec<&str> = segments.iter().map(|segment| segment.text.as_str()).collect();
            return texts.join(" ");
        };
        taken += at + segment.text.len();
    }
    let (text, later) = rest.split_at(taken);
    *rest = later;
    text.trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn word(text: &str, start: f64) -> Word {
        Word { text: format!(" {text}"), start, end: start + 0.5, probability: 0.5 }
    }

    fn segment(text: &str, start: f64) -> Segment {
        Segment { start, end: start + 1.0, text: text.to_owned(), tokens: Vec::new() }
    }

    fn passage(text: &str, words: Vec<Word>, segments: Vec<Segment>) -> Passage {
        let text = text.to_owned();
        let hypothesis = Hypothesis { text, words, segments, ..Hypothesis::default() };
        Passage { channel: None, start: 10.0, end: 20.0, hypothesis }
    }

    fn told(utterances: &[Utterance]) -> Vec<(u64, f64, f64, &str, usize)> {
        utterances.iter().map(|u| (u.index, u.start, u.end, u.text.as_str(), u.words.len())).collect()
    }

    #[test]
    fn a_short_window_is_one_utterance_and_silence_is_none() {
        let mut utterances = Utterances::new(10.0);
        let words = vec![word("open", 10.5), word("it", 15.0)];
        assert_eq!(told(&utterances.of(&passage("", Vec::new(), Vec::new()))), []);
        assert_eq!(
            told(&utterances.of(&passage("open it", words, Vec::new()))),
            [(0, 10.0, 20.0, "open it", 2)]
        );
        assert_eq!(utterances.of(&passage("now", Vec::new(), Vec::new()))[0].index, 1);
    }

    #[test]
    fn the_stretches_that_share_a_long_window_are_told_apart() {
        let mut utterances = Utterances::new(30.0);
        let words = vec![word("open", 10.5), word("it", 11.2), word("now", 15.0)];
        let heard = utterances.of(&passage("open it now", words, Vec::new()));
        assert_eq!(told(&heard), [(0, 10.5, 11.7, "open it", 2), (1, 15.0, 15.5, "now", 1)]);
        // Without the times of words those of segments have to do.
        let segments = vec![segment("open it", 10.5), segment("please", 11.6), segment("now", 15.0)];
        let heard = utterances.of(&passage("open it please now", Vec::new(), segments));
        assert_eq!(told(&heard), [(2, 10.5, 12.6, "open it please", 0), (3, 15.0, 16.0, "now", 0)]);
        let segments = vec![segment("開けて", 10.5), segment("今", 11.6)];
        let heard = utterances.of(&passage("開けて今", Vec::new(), segments));
        assert_eq!(told(&heard), [(4, 10.5, 12.6, "開けて今", 0)], "no space where there is none");
    }
}
