//! Words to times: dynamic time warping over the cross-attention of the alignment heads.
//!
//! Pure functions of attention weights; the procedure is `find_alignment` of openai/whisper.

use super::{
    Word,
    tokenizer::{Side, TokenWord, attach_punctuation},
};

/// Seconds of audio behind one encoder position.
pub const SECONDS_PER_POSITION: f64 = 0.02;

/// Attention of some heads: for each, `rows * positions` probabilities, row by row.
#[derive(Debug, Clone, Default)]
pub struct Weights {
    /// One matrix a head.
    pub heads: Vec<Vec<f32>>,
    /// Positions in a row.
    pub positions: usize,
}

impl Weights {
    /// Rows of each matrix.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.heads.first().map_or(0, |head| head.len().checked_div(self.positions).unwrap_or(0))
    }
}

/// Normalises each head over its rows, smooths it along the audio, and averages the heads: `[rows, used]`, where
/// `used` is how many positions hold audio.
#[must_use]
pub fn matrix(weights: &Weights, used: usize, filter_width: usize) -> Vec<f32> {
    let rows = weights.rows();
    let used = used.min(weights.positions);
    let mut mean = vec![0.0f32; rows * used];
    if rows == 0 || used == 0 {
        return mean;
    }
    for head in &weights.heads {
        let mut normal = vec![0.0f32; rows * used];
        for position in 0..used {
            let column = || head.iter().skip(position).step_by(weights.positions).map(|&w| f64::from(w));
            let average = column().sum::<f64>() / rows as f64;
            let deviation = (column().map(|w| (w - average).powi(2)).sum::<f64>() / rows as f64).sqrt();
            // A position that no row prefers says nothing; the reference divides zero by zero there.
            let scale = if deviation > 0.0 { 1.0 / deviation } else { 0.0 };
            for (out, w) in normal.iter_mut().skip(position).step_by(used).zip(column()) {
                *out = ((w - average) * scale) as f32;
            }
        }
        for (row, out) in normal.chunks_exact(used).zip(mean.chunks_exact_mut(used)) {
            for (out, smooth) in out.iter_mut().zip(median_filter(row, filter_width)) {
                *out += smooth / weights.heads.len() as f32;
            }
        }
    }
    mean
}

/// Median of every `width` neighbours, the ends mirrored without their edge. Rows too short to mirror stay.
fn median_filter(row: &[f32], width: usize) -> Vec<f32> {
    let half = width / 2;
    if half == 0 || row.len() <= half {
        return row.to_vec();
    }
    let last = row.len() as isize - 1;
    let at = |i: isize| {
        let i = i.abs();
        let i = if i > last { 2 * last - i } else { i };
        usize::try_from(i).ok().and_then(|i| row.get(i)).copied().unwrap_or_default()
    };
    let half = half as isize;
    let mut window = Vec::with_capacity(width);
    (0..=last)
        .map(|centre| {
            window.clear();
            window.extend((centre - half..=centre + half).map(at));
            window.sort_unstable_by(f32::total_cmp);
            window.get(window.len() / 2).copied().unwrap_or_default()
        })
        .collect()
}

/// The position that each row of `matrix` (`[rows, columns]`) looks at most.
#[must_use]
pub fn attended(matrix: &[f32], columns: usize) -> Vec<usize> {
    let best = |row: &[f32]| {
        row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0))).map_or(0, |(i, _)| i)
    };
    matrix.chunks_exact(columns.max(1)).map(best).collect()
}

/// The position where the best monotone path through `matrix` (`[rows, columns]`, larger is better) enters each row.
#[must_use]
pub fn warp(matrix: &[f32], columns: usize) -> Vec<usize> {
    let rows = matrix.len().checked_div(columns).unwrap_or(0);
    if rows == 0 {
        return Vec::new();
    }
    let stride = columns + 1;
    // Rounded to f32 at every step, as the reference does: ties then fall the same way.
    let mut cost = vec![f32::INFINITY; (rows + 1) * stride];
    let mut trace = vec![Step::Right; (rows + 1) * stride];
    let get = |cost: &[f32], i: usize| cost.get(i).copied().unwrap_or(f32::INFINITY);
    if let Some(first) = cost.first_mut() {
        *first = 0.0;
    }
    for column in 1..=columns {
        for row in 1..=rows {
            let here = row * stride + column;
            let diagonal = get(&cost, here - stride - 1);
            let up = get(&cost, here - stride);
            let left = get(&cost, here - 1);
            let (least, step) = if diagonal < up && diagonal < left {
                (diagonal, Step::Diagonal)
            } else if up < diagonal && up < left {
                (up, Step::Down)
            } else {
                (left, Step::Right)
            };
            let value = matrix.get((row - 1) * columns + column - 1).copied().unwrap_or_default();
            if let (Some(cost), Some(trace)) = (cost.get_mut(here), trace.get_mut(here)) {
                *cost = (f64::from(-value) + f64::from(least)) as f32;
                *trace = step;
            }
        }
    }
    let mut entered = vec![0; rows];
    let (mut row, mut column) = (rows, columns);
    while row > 0 {
        if let Some(slot) = entered.get_mut(row - 1) {
            *slot = column.saturating_sub(1);
        }
        let step = if column == 0 {
            Step::Down
        } else {
            trace.get(row * stride + column).copied().unwrap_or(Step::Down)
        };
        match step {
            Step::Diagonal => (row, column) = (row - 1, column - 1),
            Step::Down => row -= 1,
            Step::Right => column -= 1,
        }
    }
    entered
}

/// How a path reaches a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Next token, next position.
    Diagonal,
    /// Next token, same position.
    Down,
    /// Same token, next position.
    Right,
}

/// A word and the latest place that the decoder looked at for any of its tokens.
struct Placed {
    word: Word,
    place: f64,
}

/// Words with times from where each of their tokens starts, and for each word the latest of its tokens' `places`.
/// `starts` has one entry more than there are tokens: where the end was predicted. `probabilities` and `places` have
/// one for each token.
///
/// Times are clamped to `0..=seconds` and never run backwards.
#[must_use]
pub fn words(
    split: Vec<TokenWord>,
    starts: &[f64],
    probabilities: &[f32],
    places: &[f64],
    seconds: f64,
) -> (Vec<Word>, Vec<f64>) {
    let mut token = 0;
    let mut latest = 0.0f64;
    let mut at = |index: usize| {
        latest = starts.get(index).or(starts.last()).map_or(latest, |t| t.clamp(0.0, seconds).max(latest));
        latest
    };
    let mut words: Vec<Placed> = split
        .into_iter()
        .map(|word| {
            let start = at(token);
            let own = probabilities.get(token..token + word.tokens).unwrap_or_default();
            let probability = if own.is_empty() { 0.0 } else { own.iter().sum::<f32>() / own.len() as f32 };
            let looked = places.get(token..token + word.tokens).unwrap_or_default();
            let place = looked.iter().copied().fold(0.0, f64::max);
            token += word.tokens;
            Placed { word: Word { text: word.text, start, end: at(token), probability }, place }
        })
        .collect();
    attach_punctuation(&mut words, |w| &w.word.text, merge);
    words.retain(|w| !w.word.text.trim().is_empty());
    words.into_iter().map(|w| (w.word, w.place)).unzip()
}

/// Moves punctuation to its word; the word keeps its own times, as in the reference, and its own place.
fn merge(word: &mut Placed, mark: &mut Placed, side: Side) {
    let mark = std::mem::take(&mut mark.word.text);
    match side {
        Side::Before => word.word.text.insert_str(0, &mark),
        Side::After => word.word.text.push_str(&mark),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_diagonal_is_followed() {
        let matrix = [1.0, -1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0, 1.0];
        assert_eq!(warp(&matrix, 4), [0, 1, 3]);
    }

    #[test]
    fn a_row_looks_where_it_is_largest() {
        assert_eq!(attended(&[0.1, 0.9, 0.3, 2.0, 2.0, -1.0], 3), [1, 0]);
        assert!(attended(&[], 0).is_empty());
    }

    #[test]
    fn medians_mirror_the_ends() {
        assert_eq!(median_filter(&[5.0, 1.0, 9.0, 2.0, 2.0], 3), [1.0, 5.0, 2.0, 2.0, 2.0]);
        assert_eq!(median_filter(&[3.0, 1.0], 7), [3.0, 1.0]);
    }

    #[test]
    fn nothing_to_align_is_no_failure() {
        let none = Weights::default();
        assert!(matrix(&none, 10, 7).is_empty());
        assert!(warp(&[], 0).is_empty());
        let flat = Weights { heads: vec![vec![0.5; 6]], positions: 3 };
        assert!(matrix(&flat, 3, 7).iter().all(|v| v.abs() < f32::EPSILON));
        assert!(matrix(&flat, 0, 7).is_empty());
    }

    #[test]
    fn a_word_spans_its_tokens() {
        let split =
            [(" one", 1), (" two", 2), (".", 1)].map(|(t, tokens)| TokenWord { text: t.into(), tokens });
        let places = [0.2, 0.6, 0.5, 0.9];
        let (words, places) =
            words(split.to_vec(), &[0.1, 0.5, 0.7, 0.9, 9.0], &[1.0, 0.5, 0.7, 0.2], &places, 2.0);
        assert_eq!(places, [0.2, 0.6], "a full stop says nothing about its word");
        let shown: Vec<_> = words.iter().map(|w| (w.text.as_str(), w.start, w.end)).collect();
        assert_eq!(shown, [(" one", 0.1, 0.5), (" two.", 0.5, 0.9)]);
        assert!((words[1].probability - 0.6).abs() < 1e-6);
    }

    proptest! {
        #[test]
        fn paths_are_monotone_and_inside(columns in 1usize..12, values in prop::collection::vec(-3.0f32..3.0, 1..90)) {
            let rows = values.len() / columns;
            prop_assume!(rows > 0);
            let entered = warp(&values[..rows * columns], columns);
            prop_assert_eq!(entered.len(), rows);
            prop_assert!(entered.is_sorted());
            prop_assert!(entered.iter().all(|&c| c < columns));
        }

        #[test]
        fn word_times_are_monotone_and_inside(starts in prop::collection::vec(-1.0f64..9.0, 0..9), seconds in 0.0f64..8.0) {
            let split: Vec<_> = (0..6).map(|i| TokenWord { text: format!(" w{i}"), tokens: 1 + i % 2 }).collect();
            let (words, places) = words(split, &starts, &[0.5; 4], &[0.1; 9], seconds);
            prop_assert_eq!(words.len(), places.len());
            let times: Vec<f64> = words.iter().flat_map(|w| [w.start, w.end]).collect();
            prop_assert!(times.is_sorted());
            prop_assert!(times.iter().all(|t| (0.0..=seconds).contains(t)));
        }
    }
}
