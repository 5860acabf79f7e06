//! Rows of scores to rows of probabilities, with a vector exponential.

use super::{dispatch, exp::exp};

/// Partial sums kept apart so that additions do not wait for each other.
const LANES: usize = 16;

#[inline(always)]
fn largest(row: &[f32]) -> f32 {
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane = if *value > *lane { *value } else { *lane };
        }
    }
    lanes.iter().chain(rest).fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a })
}

#[inline(always)]
fn softmax_body(row: &mut [f32]) {
    let top = largest(row);
    // A row that is all minus infinity has no probabilities; zeros keep it harmless.
    if top == f32::NEG_INFINITY {
        row.fill(0.0);
        return;
    }
    let mut lanes = [0.0f32; LANES];
    let mut chunks = row.chunks_exact_mut(LANES);
    for chunk in &mut chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *value = exp(*value - top);
            *lane += *value;
        }
    }
    let mut sum: f32 = lanes.iter().sum();
    for value in chunks.into_remainder() {
        *value = exp(*value - top);
        sum += *value;
    }
    let scale = 1.0 / sum;
    for value in row {
        *value *= scale;
    }
}

dispatch! {
    /// Turns one row of scores into probabilities that add up to one; minus infinity becomes zero.
    pub fn softmax_in_place(row: &mut [f32]) = softmax_body
}

/// The logarithm of the sum of the exponentials of `row`; minus infinity when there is nothing to add.
#[must_use]
pub fn log_sum_exp(row: &[f32]) -> f32 {
    let mut result = f32::NEG_INFINITY;
    log_sum_exp_into(row, &mut result);
    result
}

#[inline(always)]
fn log_sum_exp_body(row: &[f32], result: &mut f32) {
    let top = largest(row);
    if top == f32::NEG_INFINITY {
        *result = top;
        return;
    }
    let mut lanes = [0.0f32; LANES];
    let chunks = row.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (lane, value) in lanes.iter_mut().zip(chunk) {
            *lane += exp(*value - top);
        }
    }
    let sum: f32 = lanes.iter().sum::<f32>() + rest.iter().map(|v| exp(*v - top)).sum::<f32>();
    *result = top + sum.ln();
}

dispatch! { fn log_sum_exp_into(row: &[f32], result: &mut f32) = log_sum_exp_body }

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn agrees_with_the_definition(row in prop::collection::vec(-30.0f32..30.0, 1..100)) {
            let top = row.iter().copied().fold(f32::MIN, f32::max);
            let weights: Vec<f64> = row.iter().map(|v| f64::from(v - top).exp()).collect();
            let sum: f64 = weights.iter().sum();
            let mut got = row.clone();
            softmax_in_place(&mut got);
            for (g, w) in got.iter().zip(&weights) {
                prop_assert!((f64::from(*g) - w / sum).abs() < 1e-6);
            }
            let exact = sum.ln() + f64::from(top);
            prop_assert!((f64::from(log_sum_exp(&row)) - exact).abs() < 1e-5);
        }

        #[test]
        fn every_instruction_set_gives_the_same_bits(row in prop::collection::vec(-30.0f32..30.0, 1..100)) {
            let (mut fast, mut slow) = (row.clone(), row.clone());
            softmax_in_place(&mut fast);
            softmax_body(&mut slow);
            prop_assert_eq!(fast, slow);
            let mut sum = 0.0;
            log_sum_exp_body(&row, &mut sum);
            prop_assert_eq!(log_sum_exp(&row), sum);
        }
    }

    #[test]
    fn masked_entries_get_nothing() {
        let mut row = [1.0, f32::NEG_INFINITY, 1.0];
        softmax_in_place(&mut row);
        assert_eq!(row, [0.5, 0.0, 0.5]);
        let mut none = [f32::NEG_INFINITY; 3];
        softmax_in_place(&mut none);
        assert_eq!(none, [0.0; 3]);
        assert_eq!(log_sum_exp(&[f32::NEG_INFINITY; 20]), f32::NEG_INFINITY);
    }
}
