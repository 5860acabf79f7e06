//! AlignAtt: a word is final when the decoder looked for it in audio that lies far enough behind the newest.
//!
//! Source: Papi, Turchi, Negri, "AlignAtt: Using Attention-based Audio-Translation Alignments as a Guide for
//! Simultaneous Speech Translation", Interspeech 2023. One hypothesis is enough to commit, where LocalAgreement waits
//! for a second. What differs here: words are judged whole, so that no half of one is committed; the decoder goes on past
//! the last final word, so that there is an unstable tail to show; attention that jumps back ends what is believed of a
//! hypothesis instead of throwing it away; the loop guard is the one of every policy; and no audio is ever dropped,
//! because each hypothesis is of the whole utterance.

use super::words::{Ledger, OnLoop};
use crate::asr::Word;

/// Attention that jumps back further than this (seconds) has lost its place; 200 positions of 20 ms, as in
/// SimulStreaming.
const REWIND_S: f64 = 4.0;

/// The words of one utterance.
#[derive(Debug, Clone, Default)]
pub struct AlignAtt {
    ledger: Ledger,
}

impl AlignAtt {
    /// Nothing heard yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What is final, and what is not.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes an interim hypothesis of the whole utterance; gives the words that it makes final.
    ///
    /// `attended` has one entry for each word: the latest place (seconds, on the words' own clock) that the decoder
    /// looked at for any token of it. Words that looked beyond `edge` stay open, and so does all that follows them, and
    /// what ends after `limit`. Without `attended` nothing is committed.
    pub fn interim(&mut self, hypothesis: &[Word], attended: &[f64], edge: f64, limit: f64) -> Vec<Word> {
        let rest = self.ledger.rest(hypothesis);
        let looked = attended.get(hypothesis.len() - rest.len()..).unwrap_or_default();
        let mut latest = f64::NEG_INFINITY;
        let stable = rest
            .iter()
            .zip(looked)
            .take_while(|(word, place)| {
                let kept = **place <= edge && word.end <= limit && latest - **place <= REWIND_S;
                latest = latest.max(**place);
                kept
            })
            .count();
        let words = self.ledger.commit(&rest[..stable], OnLoop::Wait);
        self.ledger.tail = rest[words.len()..].to_vec();
        words
    }

    /// Takes the last hypothesis of the utterance; everything in it that is not yet committed becomes final.
    pub fn finish(&mut self, hypothesis: &[Word]) -> Vec<Word> {
        self.ledger.finish(hypothesis)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::asr::stream::join;

    /// Word `i` lies at `i * 0.3` seconds, and is looked for in its middle.
    fn words(text: &str) -> (Vec<Word>, Vec<f64>) {
        let words: Vec<Word> = text
            .split_whitespace()
            .enumerate()
            .map(|(i, word)| Word {
                text: format!(" {word}"),
                start: i as f64 * 0.3,
                end: i as f64 * 0.3 + 0.25,
                probability: 0.9,
            })
            .collect();
        let attended = words.iter().map(|word| f64::midpoint(word.start, word.end)).collect();
        (words, attended)
    }

    fn hear(policy: &mut AlignAtt, text: &str, edge: f64) -> String {
        let (words, attended) = words(text);
        join(&policy.interim(&words, &attended, edge, 99.0))
    }

    #[test]
    fn one_hypothesis_commits_what_it_found_behind_the_edge() {
        let mut policy = AlignAtt::new();
        assert_eq!(hear(&mut policy, "open the dash", 0.5), "open the");
        assert_eq!(join(policy.ledger().tail()), "dash");
        assert_eq!(hear(&mut policy, "open the dashboard in", 0.8), "dashboard");
        assert_eq!(join(&policy.finish(&words("open the dashboard in a tab").0)), "in a tab");
    }

    #[test]
    fn the_edge_holds_back_everything_after_the_first_word_beyond_it() {
        let mut policy = AlignAtt::new();
        let (words, _) = words("one two three");
        assert_eq!(join(&policy.interim(&words, &[0.1, 2.0, 0.5], 1.0, 99.0)), "one");
        assert_eq!(join(policy.ledger().tail()), "two three");
    }

    #[test]
    fn attention_that_jumps_back_is_believed_no_further() {
        let mut policy = AlignAtt::new();
        let (words, _) = words("one two three");
        assert_eq!(join(&policy.interim(&words, &[0.1, 5.0, 0.9], 9.0, 99.0)), "one two");
    }

    #[test]
    fn without_attention_nothing_is_committed_before_the_end() {
        let mut policy = AlignAtt::new();
        let (words, _) = words("one two");
        assert!(policy.interim(&words, &[], 9.0, 99.0).is_empty());
        assert_eq!(join(&policy.finish(&words)), "one two");
    }

    #[test]
    fn a_loop_is_never_committed_while_speech_goes_on_and_cut_at_the_end() {
        let looped = "thank you for watching ".repeat(9);
        let mut policy = AlignAtt::new();
        assert_eq!(hear(&mut policy, &looped, 99.0), "");
        assert_eq!(hear(&mut policy, &looped, 99.0), "");
        assert_eq!(join(&policy.finish(&words(&looped).0)), "thank you for watching");
    }

    proptest! {
        #[test]
        fn what_is_committed_is_never_taken_back(
            hypotheses in prop::collection::vec(
                prop::collection::vec(("[abc]{1,2}", 0.0..9.0f64, 0.0..1.0f64, 0.0..9.0f64), 0..12), 1..12),
        ) {
            let mut policy = AlignAtt::new();
            let mut said: Vec<Word> = Vec::new();
            for hypothesis in hypotheses {
                let attended: Vec<f64> = hypothesis.iter().map(|word| word.3).collect();
                let words: Vec<Word> = hypothesis
                    .iter()
                    .map(|(text, start, length, _)| Word {
                        text: format!(" {text}"), start: *start, end: start + length, probability: 0.5,
                    })
                    .collect();
                said.extend(policy.interim(&words, &attended, 5.0, 7.0));
                prop_assert_eq!(policy.ledger().committed(), said.as_slice());
            }
            prop_assert!(said.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
