//! Choosing a token: the likeliest, or one drawn at a temperature from a seeded generator.

use crate::asr::kernels::softmax::{log_sum_exp, softmax_in_place};

/// SplitMix64 (Steele, Lea and Flood 2014): a few lines, the same everywhere, good enough to draw tokens with.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// The same seed gives the same draws.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Even in [0, 1).
    pub const fn unit(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// The likeliest token and its log-probability among `logits` (of which minus infinity is ruled out).
/// `None` when everything is ruled out or not a number.
#[must_use]
pub fn likeliest(logits: &[f32]) -> Option<(u32, f32)> {
    let mut best: Option<(usize, f32)> = None;
    for (token, &value) in logits.iter().enumerate() {
        if value > best.map_or(f32::NEG_INFINITY, |(_, top)| top) {
            best = Some((token, value));
        }
    }
    best.map(|(token, value)| (token as u32, value - log_sum_exp(logits)))
}

/// A token drawn with probability proportional to `exp(logit / temperature)`, and its log-probability at
/// temperature 1. `None` as for [`likeliest`].
#[must_use]
pub fn draw(logits: &[f32], temperature: f32, random: &mut Random) -> Option<(u32, f32)> {
    let (best, _) = likeliest(logits)?;
    let mut weights: Vec<f32> = logits.iter().map(|l| l / temperature).collect();
    softmax_in_place(&mut weights);
    let mut left = random.unit();
    let mut chosen = best;
    for (token, &weight) in weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
        chosen = token as u32;
        left -= f64::from(weight);
        if left < 0.0 {
            break;
        }
    }
    let value = logits.get(chosen as usize).copied()?;
    Some((chosen, value - log_sum_exp(logits)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_first_of_equals_wins() {
        let (token, logprob) = likeliest(&[0.0, 2.0, 2.0]).unwrap();
        assert_eq!(token, 1);
        assert!((logprob - (2.0 - (1.0 + 2.0 * 2f32.exp()).ln())).abs() < 1e-5);
        assert_eq!(likeliest(&[f32::NEG_INFINITY, f32::NAN]), None);
    }

    #[test]
    fn a_cold_draw_is_the_likeliest_and_a_hot_one_is_not_always() {
        let logits = [0.0, 1.0, 0.5, f32::NEG_INFINITY];
        let mut random = Random::new(1);
        assert!((0..100).all(|_| draw(&logits, 1e-3, &mut random).unwrap().0 == 1));
        let mut counts = [0; 4];
        for _ in 0..4000 {
            counts[draw(&logits, 1.0, &mut random).unwrap().0 as usize] += 1;
        }
        let expected = [0.186, 0.506, 0.307, 0.0];
        for (count, p) in counts.iter().zip(expected) {
            assert!((f64::from(*count) / 4000.0 - p).abs() < 0.04, "{counts:?}");
        }
    }

    proptest! {
        #[test]
        fn a_seed_decides_everything(seed: u64, logits in prop::collection::vec(-5.0f32..5.0, 1..20)) {
            let mut once = Random::new(seed);
            let mut again = Random::new(seed);
            for _ in 0..5 {
                prop_assert_eq!(draw(&logits, 0.7, &mut once), draw(&logits, 0.7, &mut again));
            }
        }

        #[test]
        fn what_is_ruled_out_is_never_drawn(seed: u64, out in 0usize..6) {
            let mut logits = [1.0f32; 6];
            logits[out] = f32::NEG_INFINITY;
            let mut random = Random::new(seed);
            prop_assert!((0..20).all(|_| draw(&logits, 1.0, &mut random).unwrap().0 as usize != out));
        }
    }
}
