//! The repetition guard: notices a decoder that has begun to repeat itself for ever.
//!
//! Pure functions of the tokens.

/// Longest phrase, in tokens, whose repetition is looked for.
const LONGEST: usize = 24;

/// A loop at the end of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loop {
    /// Tokens of the repeated phrase.
    pub period: usize,
    /// How often it stands there.
    pub repeats: usize,
}

/// Repetitions of a phrase of `period` tokens that nobody says on purpose. Short phrases need more: digits are read
/// out as "zero zero zero zero", and people do count the same word.
const fn too_often(period: usize) -> usize {
    match period {
        1 => 12,
        2 => 8,
        3 => 6,
        4..=7 => 5,
        _ => 4,
    }
}

/// The loop that `tokens` (text only) ends in, when there is one.
#[must_use]
pub fn find(tokens: &[u32]) -> Option<Loop> {
    (1..=LONGEST.min(tokens.len())).find_map(|period| {
        let repeats = repeats(tokens, period);
        (repeats >= too_often(period)).then_some(Loop { period, repeats })
    })
}

/// How often the last `period` tokens stand at the end in a row.
fn repeats(tokens: &[u32], period: usize) -> usize {
    let mut phrases = tokens.rchunks_exact(period);
    match phrases.next() {
        Some(last) => 1 + phrases.take_while(|phrase| *phrase == last).count(),
        None => 0,
    }
}

/// Removes all but the first repetition from the end of `tokens`, of which only those that are `text` count.
pub fn trim(tokens: &mut Vec<u32>, found: Loop, text: impl Fn(u32) -> bool) {
    let mut surplus = found.period * found.repeats.saturating_sub(1);
    while surplus > 0 {
        match tokens.pop() {
            Some(token) if text(token) => surplus -= 1,
            Some(_) => {}
            None => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ordinary_speech_is_no_loop() {
        assert_eq!(find(&[]), None);
        assert_eq!(find(&[1, 2, 3, 4, 5]), None);
        // "six six six six", "no no no no no"
        assert_eq!(find(&[9, 6, 6, 6, 6]), None);
        assert_eq!(find(&[7; 11]), None);
    }

    #[test]
    fn a_loop_is_found_and_trimmed_to_one_phrase() {
        let mut tokens = vec![1, 2];
        tokens.extend([5, 6, 7].repeat(6));
        let found = find(&tokens).unwrap();
        assert_eq!(found, Loop { period: 3, repeats: 6 });
        trim(&mut tokens, found, |_| true);
        assert_eq!(tokens, [1, 2, 5, 6, 7]);
    }

    #[test]
    fn timestamps_between_the_phrases_are_skipped() {
        let text = |t: u32| t < 100;
        let mut tokens = vec![100, 1];
        for i in 0..12 {
            tokens.extend([101 + i, 8]);
        }
        let heard: Vec<u32> = tokens.iter().copied().filter(|&t| text(t)).collect();
        trim(&mut tokens, find(&heard).unwrap(), text);
        assert_eq!(tokens, [100, 1, 101, 8, 102]);
    }

    proptest! {
        #[test]
        fn a_phrase_repeated_often_enough_is_always_found(phrase in prop::collection::vec(0u32..5, 1..12), head in prop::collection::vec(5u32..9, 0..9)) {
            let mut tokens = head;
            tokens.extend(phrase.repeat(12));
            let found = find(&tokens).unwrap();
            let mut trimmed = tokens.clone();
            trim(&mut trimmed, found, |_| true);
            prop_assert!(trimmed.len() < tokens.len());
            prop_assert!(tokens.starts_with(&trimmed));
            prop_assert_eq!(find(&trimmed), None);
        }

        #[test]
        fn tokens_that_never_repeat_are_left_alone(tokens in prop::collection::vec(any::<u32>(), 0..60)) {
            let mut sorted = tokens.clone();
            sorted.sort_unstable();
            sorted.dedup();
            prop_assume!(sorted.len() == tokens.len());
            prop_assert_eq!(find(&tokens), None);
        }
    }
}
