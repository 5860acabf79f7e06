//! LocalAgreement-n: a word is final once n successive hypotheses agree on everything up to it.
//!
//! Source: Liu, Spanakis, Niehues, "Low-Latency Sequence-to-Sequence Speech Recognition and Translation by Partial
//! Hypothesis Selection", Interspeech 2020; Macháček, Dabre, Bojar, "Turning Whisper into Real-Time Transcription
//! System", 2023 (both with n = 2). What differs here: a loop is recognised before it can agree with itself, words near
//! the newest sample wait, the last word of an interim hypothesis always waits (its end has not been heard), and
//! hypotheses are aligned with what was committed by edit distance, not by time.

use std::collections::VecDeque;

use crate::asr::Word;

/// Two words are the same when their letters and digits are; a comma that comes and goes changes nothing.
fn same(a: &Word, b: &Word) -> bool {
    let key = |word: &Word| {
        let letters: String =
            word.text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect();
        if letters.is_empty() { word.text.trim().to_owned() } else { letters }
    };
    key(a) == key(b)
}

/// The longest prefix of `words` that does not run into a loop.
///
/// A loop is a phrase of 1 to 8 words said again and again without a break: 6 times for a single word (people do say
/// "five five five five"), 4 times for two words, 3 times for longer ones. The first round of it is kept.
#[must_use]
pub fn without_loop(words: &[Word]) -> usize {
    let limit = |phrase: usize| match phrase {
        1 => 6,
        2 => 4,
        _ => 3,
    };
    for end in 1..=words.len() {
        for phrase in 1..=8.min(end) {
            let rounds = limit(phrase);
            if end < phrase * rounds {
                continue;
            }
            let start = end - phrase * rounds;
            let repeats = (start + phrase..end).all(|i| same(&words[i], &words[i - phrase]));
            if repeats {
                return start + phrase;
            }
        }
    }
    words.len()
}

/// How many words of `hypothesis` cover `committed`: the prefix with the smallest edit distance to it.
///
/// Among equals the one whose length is nearest to the committed length wins, so that a word heard twice is not lost.
#[must_use]
pub fn covered(committed: &[Word], hypothesis: &[Word]) -> usize {
    if committed.is_empty() {
        return 0;
    }
    let columns = hypothesis.len() + 1;
    let mut row: Vec<usize> = (0..columns).collect();
    for (i, word) in committed.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for j in 1..columns {
            let substitution = diagonal + usize::from(!same(word, &hypothesis[j - 1]));
            diagonal = row[j];
            row[j] = substitution.min(row[j] + 1).min(row[j - 1] + 1);
        }
    }
    (0..columns).min_by_key(|&j| (row[j], j.abs_diff(committed.len()))).unwrap_or(0)
}

/// The committed words of one utterance and the hypotheses they are waiting to be confirmed by.
#[derive(Debug, Clone)]
pub struct LocalAgreement {
    /// Hypotheses that must agree.
    agreement: usize,
    committed: Vec<Word>,
    /// The hypotheses before the newest one, whole, oldest first: `agreement` - 1 of them at most.
    earlier: VecDeque<Vec<Word>>,
    tail: Vec<Word>,
}

impl LocalAgreement {
    /// A policy that commits what `agreement` successive hypotheses share (1 commits at once, 2 is LocalAgreement-2).
    #[must_use]
    pub fn new(agreement: usize) -> Self {
        Self {
            agreement: agreement.max(1),
            committed: Vec::new(),
            earlier: VecDeque::new(),
            tail: Vec::new(),
        }
    }

    /// Words that are final.
    #[must_use]
    pub fn committed(&self) -> &[Word] {
        &self.committed
    }

    /// Words of the newest hypothesis that may still change.
    #[must_use]
    pub fn tail(&self) -> &[Word] {
        &self.tail
    }

    /// Takes an interim hypothesis of the whole utterance; gives the words that it makes final.
    ///
    /// Words that end after `horizon` (seconds, on the words' own clock) stay open, and so does the last one.
    pub fn interim(&mut self, hypothesis: &[Word], horizon: f64) -> Vec<Word> {
        let rest = &hypothesis[covered(&self.committed, hypothesis)..];
        let mut agreed = 0;
        if self.earlier.len() + 1 >= self.agreement {
            agreed =
                rest.iter().take_while(|word| word.end <= horizon).count().min(rest.len().saturating_sub(1));
            for earlier in &self.earlier {
                let old = &earlier[covered(&self.committed, earlier)..];
                agreed = rest.iter().zip(old).take(agreed).take_while(|(new, old)| same(new, old)).count();
            }
        }
        let words = self.commit(&rest[..agreed], OnLoop::Wait);
        self.tail = rest[words.len()..].to_vec();
        self.earlier.push_back(hypothesis.to_vec());
        while self.earlier.len() >= self.agreement {
            self.earlier.pop_front();
        }
        words
    }

    /// Takes the last hypothesis of the utterance; everything in it that is not yet committed becomes final.
    pub fn finish(&mut self, hypothesis: &[Word]) -> Vec<Word> {
        let rest = &hypothesis[covered(&self.committed, hypothesis)..];
        self.tail.clear();
        self.earlier.clear();
        self.commit(rest, OnLoop::Cut)
    }

    fn commit(&mut self, words: &[Word], on_loop: OnLoop) -> Vec<Word> {
        let before = self.committed.len();
        let mut clock = self.committed.last().map_or(0.0, |word| word.end);
        for word in words {
            let start = word.start.max(clock);
            let end = word.end.max(start);
            clock = end;
            self.committed.push(Word { start, end, ..word.clone() });
        }
        let clean = without_loop(&self.committed);
        if clean < self.committed.len() {
            // What is committed already stays; only words that were not yet said can be held back or cut.
            let keep = match on_loop {
                OnLoop::Wait => before,
                OnLoop::Cut => clean.max(before),
            };
            self.committed.truncate(keep);
        }
        self.committed[before..].to_vec()
    }
}

/// What to do with words that would complete a loop.
#[derive(Clone, Copy)]
enum OnLoop {
    /// Commit nothing now: a later hypothesis may not loop.
    Wait,
    /// Commit the first round.
    Cut,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        super::super::join(words)
    }

    #[test]
    fn two_agreeing_hypotheses_commit_their_common_prefix() {
        let mut policy = LocalAgreement::new(2);
        assert!(policy.interim(&words("open the"), 9.0).is_empty());
        assert_eq!(text(&policy.interim(&words("open the dash"), 9.0)), "open the");
        assert_eq!(text(policy.tail()), "dash");
        assert_eq!(text(&policy.interim(&words("open the dashboard in"), 9.0)), "");
        assert_eq!(text(&policy.finish(&words("open the dashboard in a tab"))), "dashboard in a tab");
        assert_eq!(text(policy.committed()), "open the dashboard in a tab");
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
        assert_eq!(text(policy.tail()), "three four");
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
                prop_assert_eq!(policy.committed(), said.as_slice());
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
            prop_assert_eq!(policy.committed(), all.as_slice());
        }
    }
}
