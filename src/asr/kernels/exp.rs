//! The exponential function on one f32, written so that a loop over it becomes vector code.

/// Adding this rounds to an integer and leaves it in the low bits of the mantissa (1.5 * 2^23).
const ROUNDER: f32 = 12_582_912.0;
/// ln 2 in two parts, the first exact in few bits, so that the reduction below loses nothing (Cephes, `expf`).
const LN2_HIGH: f32 = 355.0 / 512.0;
const LN2_LOW: f32 = -2.121_944_4e-4;
/// Above this the result is not finite in f32, below the other it would be denormal; the results stop there.
const HIGHEST: f32 = 88.0;
const LOWEST: f32 = -87.0;

/// `e^x`, within 2 units in the last place for `-87 <= x <= 88`; 0 below, `e^88` above, NaN for NaN.
#[inline(always)]
#[must_use]
pub fn exp(x: f32) -> f32 {
    // Comparisons rather than `clamp`: they let NaN through.
    let reduced = if x < LOWEST { LOWEST } else { x };
    let reduced = if reduced > HIGHEST { HIGHEST } else { reduced };
    let rounded = reduced * std::f32::consts::LOG2_E + ROUNDER;
    let n = rounded - ROUNDER;
    let r = reduced - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let y = p * r * r + r + 1.0;
    // 2^n, from the integer that the rounding left in the low bits.
    let scale = f32::from_bits(rounded.to_bits().wrapping_add(127) << 23);
    if x < LOWEST { 0.0 } else { y * scale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn edges() {
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(-1e30), 0.0);
        assert!(exp(1e30).is_finite());
        assert!(exp(f32::NAN).is_nan());
    }

    proptest! {
        #[test]
        fn agrees_with_the_library(x in -87.0f32..88.0) {
            let exact = f64::from(x).exp();
            prop_assert!((f64::from(exp(x)) / exact - 1.0).abs() < 2.5e-7, "{x} {} {exact}", exp(x));
        }
    }
}
