//! What every policy shares: when two words are the same, what a loop is, and the ledger of words that are final.
//!
//! Pure. The loop guard lives here, so that no policy can commit without it.

use crate::asr::Word;

/// Two words are the same when their letters and digits are; a comma that comes and goes changes nothing.
pub(super) fn same(a: &Word, b: &Word) -> bool {
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

/// The committed words of one utterance, and the words after them that may still change.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    committed: Vec<Word>,
    pub(super) tail: Vec<Word>,
}

impl Ledger {
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

    /// The part of a hypothesis of the whole utterance that is not committed yet.
    #[must_use]
    pub fn rest<'a>(&self, hypothesis: &'a [Word]) -> &'a [Word] {
        hypothesis.get(covered(&self.committed, hypothesis)..).unwrap_or_default()
    }

    /// Takes the last hypothesis of the utterance; everything in it that is not yet committed becomes final.
    pub fn finish(&mut self, hypothesis: &[Word]) -> Vec<Word> {
        let rest = self.rest(hypothesis).to_vec();
        self.tail.clear();
        self.commit(&rest, OnLoop::Cut)
    }

    /// Makes words final, unless that would complete a loop; gives those that are.
    pub(super) fn commit(&mut self, words: &[Word], on_loop: OnLoop) -> Vec<Word> {
        let before = self.committed.len();
        let clock = self.committed.last().map_or(0.0, |word| word.end);
        self.committed.extend(in_order(words, clock));
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

/// The words of a decode of a whole utterance as they are handed on: no loop, and times that never run backwards.
#[must_use]
pub fn settled(words: &[Word]) -> Vec<Word> {
    in_order(&words[..without_loop(words)], 0.0).collect()
}

/// The same words with times from `clock` on that never run backwards.
fn in_order(words: &[Word], mut clock: f64) -> impl Iterator<Item = Word> {
    words.iter().map(move |word| {
        let start = word.start.max(clock);
        let end = word.end.max(start);
        clock = end;
        Word { start, end, ..word.clone() }
    })
}

/// What to do with words that would complete a loop.
#[derive(Debug, Clone, Copy)]
pub(super) enum OnLoop {
    /// Commit nothing now: a later hypothesis may not loop.
    Wait,
    /// Commit the first round.
    Cut,
}
