//! Which tokens may come next: suppressed ones, and the grammar of timestamps.
//!
//! Pure functions of what has been generated so far; the same rules as `SuppressTokens`, `SuppressBlank` and
//! `ApplyTimestampRules` of openai/whisper, as transformers applies them.

use crate::asr::kernels::softmax::log_sum_exp;

/// What the timestamp grammar needs to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimestampRules {
    /// `<|endoftext|>`; text tokens are below it.
    pub end: u32,
    /// `<|notimestamps|>`, never generated.
    pub no_timestamps: Option<u32>,
    /// `<|0.00|>`.
    pub first: u32,
    /// Largest index that the first timestamp may have.
    pub max_initial_index: Option<usize>,
}

/// The rules of one row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rules {
    /// Never generated.
    pub suppress: Vec<u32>,
    /// Never generated first.
    pub begin_suppress: Vec<u32>,
    /// The grammar of timestamps, in timestamp mode.
    pub timestamps: Option<TimestampRules>,
}

fn rule_out(scores: &mut [f32], from: usize, to: usize) {
    let to = to.min(scores.len());
    if let Some(range) = scores.get_mut(from.min(to)..to) {
        range.fill(f32::NEG_INFINITY);
    }
}

fn rule_out_each(scores: &mut [f32], tokens: &[u32]) {
    for &token in tokens {
        rule_out(scores, token as usize, token as usize + 1);
    }
}

impl Rules {
    /// Sets the scores (logits or log-probabilities) of tokens that may not follow `generated` to minus infinity.
    pub fn apply(&self, generated: &[u32], scores: &mut [f32]) {
        rule_out_each(scores, &self.suppress);
        if generated.is_empty() {
            rule_out_each(scores, &self.begin_suppress);
        }
        if let Some(rules) = &self.timestamps {
            rules.apply(generated, scores);
        }
    }
}

impl TimestampRules {
    fn apply(&self, generated: &[u32], scores: &mut [f32]) {
        let first = self.first as usize;
        rule_out_each(scores, self.no_timestamps.as_slice());
        let is_stamp = |token: &u32| *token >= self.first;
        let last_was = generated.last().is_some_and(is_stamp);
        let before_was = generated.len() < 2 || generated.iter().rev().nth(1).is_some_and(is_stamp);
        if last_was {
            if before_was {
                // A pair is complete: text must follow.
                rule_out(scores, first, usize::MAX);
            } else {
                // A segment has ended: the next one starts, or everything ends.
                rule_out(scores, 0, self.end as usize);
            }
        }
        if let Some(&last) = generated.iter().rev().find(|t| is_stamp(t)) {
            // Time does not run backwards; only the start of a segment may equal the end of the one before.
            let may_repeat = last_was && !before_was;
            rule_out(scores, first, last as usize + usize::from(!may_repeat));
        }
        if generated.is_empty() {
            rule_out(scores, 0, first);
            if let Some(index) = self.max_initial_index {
                rule_out(scores, first + index + 1, usize::MAX);
            }
        }
        // If a timestamp is likelier than any single text token, it must be a timestamp.
        let (text, stamps) = scores.split_at_mut(first.min(scores.len()));
        let best_text = text.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if log_sum_exp(stamps) > best_text {
            text.fill(f32::NEG_INFINITY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Text 0..8, end 8, no-timestamps 9, timestamps from 10 to 19.
    fn rules() -> Rules {
        let timestamps =
            TimestampRules { end: 8, no_timestamps: Some(9), first: 10, max_initial_index: Some(3) };
        Rules { timestamps: Some(timestamps), ..Rules::default() }
    }

    fn allowed(rules: &Rules, generated: &[u32], scores: &[f32]) -> Vec<u32> {
        let mut scores = scores.to_vec();
        rules.apply(generated, &mut scores);
        (0..).zip(scores).filter(|(_, s)| *s > f32::NEG_INFINITY).map(|(i, _)| i).collect()
    }

    /// Text so likely that the last rule does not bite.
    fn text_first() -> Vec<f32> {
        (0..20).map(|i| if i < 9 { 10.0 } else { 0.0 }).collect()
    }

    #[test]
    fn the_first_token_is_an_early_timestamp() {
        assert_eq!(allowed(&rules(), &[], &text_first()), [10, 11, 12, 13]);
    }

    #[test]
    fn after_the_opening_timestamp_comes_text() {
        assert_eq!(allowed(&rules(), &[11], &text_first()), [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    }

    #[test]
    fn after_a_closing_timestamp_comes_its_equal_or_a_later_one_or_the_end() {
        // The end competes with the timestamps, and is likelier here.
        assert_eq!(allowed(&rules(), &[11, 2, 15], &text_first()), [8, 15, 16, 17, 18, 19]);
        assert_eq!(allowed(&rules(), &[11, 2, 15], &[0.0; 20]), [15, 16, 17, 18, 19]);
    }

    #[test]
    fn inside_a_segment_time_moves_on() {
        assert_eq!(
            allowed(&rules(), &[11, 2], &text_first()),
            [0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14, 15, 16, 17, 18, 19]
        );
        assert_eq!(allowed(&rules(), &[11, 2], &[0.0; 20]), [12, 13, 14, 15, 16, 17, 18, 19]);
    }

    #[test]
    fn suppressed_tokens_stay_away() {
        let rules = Rules { suppress: vec![1, 99], begin_suppress: vec![0], timestamps: None };
        assert_eq!(allowed(&rules, &[], &[0.0; 5]), [2, 3, 4]);
        assert_eq!(allowed(&rules, &[2], &[0.0; 5]), [0, 2, 3, 4]);
    }

    proptest! {
        /// Whatever the model prefers, what comes out is a well-formed sequence of timestamps.
        #[test]
        fn time_never_runs_backwards(scores in prop::collection::vec(prop::collection::vec(-4.0f32..4.0, 20), 1..25)) {
            let rules = rules();
            let mut generated: Vec<u32> = Vec::new();
            for mut step in scores {
                rules.apply(&generated, &mut step);
                let Some((token, _)) = super::super::sample::likeliest(&step) else { break };
                if token == 8 { break }
                generated.push(token);
            }
            let stamps: Vec<u32> = generated.iter().copied().filter(|t| *t >= 10).collect();
            prop_assert!(stamps.is_sorted());
            prop_assert!(generated.first().is_none_or(|t| (10..14).contains(t)));
            prop_assert!(!generated.contains(&9));
            for three in generated.windows(3) {
                prop_assert!(three.iter().any(|t| *t < 10), "three timestamps in a row: {:?}", generated);
            }
        }
    }
}
