//! LocalAgreement-n: a word is final once n successive hypotheses agree on everything up to it.
//!
//! Source: Liu, Spanakis, Niehues, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial
//! Hypothesis Selection", Interspeech 2020; Macháček, Dabre, Bojar, "Turning Whisper into Real-Time Transcription
//! System", 2023 (both with n = 2). What differs here: a loop is recognised before it can agree with itself, words near
//! the newest sample wait, the last word of an interim hypothesis always waits (its end has not been heard), and
//! hypotheses are aligned with what was committed by edit distance, not by time.

use std::collections::VecDeque;

use super::words::{Ledger, OnLoop, covered, same};
use crate::asr::Word;

/// The words of one utterance and the hypotheses they are waiting to be confirmed by.
#[derive(Debug, Clone)]
pub struct LocalAgreement {
    /// Hypotheses that must agree.
    agreement: usize,
    ledger: Ledger,
    /// The hypotheses before the newest one, whole, oldest first: `agreement` - 1 of them at most.
    earlier: VecDeque<Vec<Word>>,
}

impl LocalAgreement {
    /// A policy that commits what `agreement` successive hypotheses share (1 commits at once, 2 is LocalAgreement-2).
    #[must_use]
    pub fn new(agreement: usize) -> Self {
        Self { agreement: agreement.max(1), ledger: Ledger::default(), earlier: VecDeque::new() }
    }

    /// What is final, and what is not.
    #[must_use]
    pub const fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Takes an interim hypothesis of the whole utterance; gives the words that it makes final.
    ///
    /// Words that end after `horizon` (seconds, on the words' own clock) stay open, and so does the last one.
    pub fn interim(&mut self, hypothesis: &[Word], horizon: f64) -> Vec<Word> {
        let rest = self.ledger.rest(hypothesis);
        let mut agreed = 0;
        if self.earlier.len() + 1 >= self.agreement {
            agreed =
                rest.iter().take_while(|word| word.end <= horizon).count().min(rest.len().saturating_sub(1));
            for earlier in &self.earlier {
                let old = &earlier[covered(self.ledger.committed(), earlier)..];
                agreed = rest.iter().zip(old).take(agreed).take_while(|(new, old)| same(new, old)).count();
            }
        }
        let words = self.ledger.commit(&rest[..agreed], OnLoop::Wait);
        self.ledger.tail = rest[words.len()..].to_vec();
        self.earlier.push_back(hypothesis.to_vec());
        while self.earlier.len() >= self.agreement {
            self.earlier.pop_front();
        }
        words
    }

    /// Takes the last hypothesis of the utterance; everything in it that is not yet committed becomes final.
    pub fn finish(&mut self, hypothesis: &[Word]) -> Vec<Word> {
        self.earlier.clear();
        self.ledger.finish(hypothesis)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::asr::stream::words::without_loop;

    fn words(text: &str) -> Vec<Word> {
        text.split_whitespace()
            .enumerate()
            .map(|(i, word)| Word {
                text: format!(" {word}"),
                start: i as f64 * 0.3,
                end: i as f64 * 0.3 + 0.25,
                probability: 0.9,
            })
            .collect()
    }

    fn text(words: &[Word]) -> String {
        crate::asr::stream::join(words)
    }

    #[test]
    fn two_agreeing_hypotheses_commit_their_common_prefix() {
        let mut policy = LocalAgreement::new(2);
        assert!(policy.interim(&words("open the"), 9.0).is_empty());
        assert_eq!(text(&policy.interim(&words("open the dash"), 9.0)), "open the");
        assert_eq!(text(policy.ledger().tail()), "dash");
        assert_eq!(text(&policy.interim(&words("open the dashboard in"), 9.0)), "");
        assert_eq!(text(&policy.finish(&words("open the dashboard in a tab"))), "dashboard in a tab");
        assert_eq!(text(policy.ledger().committed()), "open the dashboard in a tab");
    }

    #[test]
    fn punctuation_and_case_do_not_delay_a_word() {
        let mut policy = LocalAgreement::new(2);
        policy.interim(&words("Hello, world"), 9.0);
        assert_eq!(text(&policy.interim(&words("hello world"), 9.0)), "hello");
    }

    #[test]
    fn words_beyond_the_horizon_stay_open() {
        let mut policy = LocalAgreement::new(2);
        policy.interim(&words("one two three four"), 0.6);
        assert_eq!(text(&policy.interim(&words("one two three four"), 0.6)), "one two");
        assert_eq!(text(policy.ledger().tail()), "three four");
    }

    #[test]
    fn as_many_hypotheses_must_agree_as_were_asked_for() {
        let mut policy = LocalAgreement::new(3);
        assert_eq!(text(&policy.interim(&words("push the brand"), 9.0)), "");
        assert_eq!(text(&policy.interim(&words("push the branch to"), 9.0)), "");
        assert_eq!(text(&policy.interim(&words("push the branch to main"), 9.0)), "push the");
        assert_eq!(text(&policy.interim(&words("push the branch to main"), 9.0)), "branch to");
    }

    #[test]
    fn a_changed_mind_of_the_model_loses_no_word_after_the_committed_ones() {
        let mut policy = LocalAgreement::new(2);
        policy.interim(&words("run the text and"), 9.0);
        policy.interim(&words("run the text and"), 9.0);
        assert_eq!(text(&policy.finish(&words("run the test and commit"))), "and commit");
    }

    #[test]
    fn a_loop_is_never_committed_while_speech_goes_on_and_cut_at_the_end() {
        let looped = words(&"thank you for watching ".repeat(9));
        let mut policy = LocalAgreement::new(2);
        policy.interim(&looped, 99.0);
        assert!(policy.interim(&looped, 99.0).is_empty());
        assert_eq!(text(&policy.finish(&looped)), "thank you for watching");
        assert_eq!(without_loop(&words("five five five five six six six six six")), 9);
    }

    proptest! {
        #[test]
        fn what_is_committed_is_never_taken_back_and_times_are_monotone(
            hypotheses in prop::collection::vec(
                prop::collection::vec(("[abc]{1,2}", 0.0..9.0f64, 0.0..1.0f64), 0..12), 1..12),
        ) {
            let mut policy = LocalAgreement::new(2);
            let mut said: Vec<Word> = Vec::new();
            let last = hypotheses.len() - 1;
            for (i, hypothesis) in hypotheses.iter().enumerate() {
                let hypothesis: Vec<Word> = hypothesis
                    .iter()
                    .map(|(text, start, length)| Word {
                        text: format!(" {text}"), start: *start, end: start + length, probability: 0.5,
                    })
                    .collect();
                said.extend(if i == last { policy.finish(&hypothesis) } else { policy.interim(&hypothesis, 5.0) });
                prop_assert_eq!(policy.ledger().committed(), said.as_slice());
            }
            prop_assert!(said.iter().all(|word| word.start <= word.end));
            prop_assert!(said.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }

        #[test]
        fn hypotheses_that_only_grow_lose_no_word(count in 1usize..40, steps in prop::collection::vec(0usize..40, 0..9)) {
            let all = words(&(0..count).map(|i| format!("w{i} ")).collect::<String>());
            let mut steps: Vec<usize> = steps.into_iter().map(|n| n.min(count)).collect();
            steps.sort_unstable();
            let mut policy = LocalAgreement::new(2);
            for n in steps {
                policy.interim(&all[..n], 99.0);
            }
            policy.finish(&all);
            prop_assert_eq!(policy.ledger().committed(), all.as_slice());
        }
    }
}
