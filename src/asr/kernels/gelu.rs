//! The exact GELU, `x * Phi(x)`, which Whisper was trained with (candle's Whisper uses the tanh approximation).

use candle_core::{CpuStorage, InplaceOp1, InplaceOp2, Layout, Result, Tensor};
use rayon::prelude::*;

use super::{dispatch, exp::exp};

/// Values handled by one thread at a time; below this a second thread costs more than it saves.
const GRAIN: usize = 1 << 14;

/// `x * Phi(x)` with an absolute error below 5e-7.
///
/// The tail of the error function is Abramowitz and Stegun 7.1.26 (|error| < 1.5e-7), used on `|x|` alone: neither
/// side then subtracts two nearly equal numbers.
#[inline(always)]
#[must_use]
pub fn gelu(x: f32) -> f32 {
    let a = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * std::f32::consts::FRAC_1_SQRT_2 * a);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152_1;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_72;
    p = p * t + 0.254_829_6;
    let tail = p * t * exp(-0.5 * a * a);
    let positive = if x < 0.0 { 0.0 } else { x };
    positive - 0.5 * a * tail
}

#[inline(always)]
fn gelu_body(values: &mut [f32]) {
    for value in values {
        *value = gelu(*value);
    }
}

#[inline(always)]
fn bias_body(values: &mut [f32], bias: &[f32]) {
    for row in values.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value += bias;
        }
    }
}

#[inline(always)]
fn bias_gelu_body(values: &mut [f32], bias: &[f32]) {
    for row in values.chunks_exact_mut(bias.len()) {
        for (value, bias) in row.iter_mut().zip(bias) {
            *value = gelu(*value + bias);
        }
    }
}

dispatch! { fn gelu_slice(values: &mut [f32]) = gelu_body }
dispatch! { fn bias_slice(values: &mut [f32], bias: &[f32]) = bias_body }
dispatch! { fn bias_gelu_slice(values: &mut [f32], bias: &[f32]) = bias_gelu_body }

/// [`gelu`] of every value, on all threads of the current pool.
pub fn gelu_in_place(values: &mut [f32]) {
    if values.len() <= GRAIN {
        gelu_slice(values);
    } else {
        values.par_chunks_mut(GRAIN).for_each(gelu_slice);
    }
}

fn by_rows(values: &mut [f32], bias: &[f32], row: fn(&mut [f32], &[f32])) {
    if bias.is_empty() {
        return;
    }
    let grain = GRAIN.div_ceil(bias.len()) * bias.len();
    if values.len() <= grain {
        row(values, bias);
    } else {
        values.par_chunks_mut(grain).for_each(|part| row(part, bias));
    }
}

/// Adds `bias` to every row of `values` (`[rows, bias.len()]`).
pub fn add_bias(values: &mut [f32], bias: &[f32]) {
    by_rows(values, bias, bias_slice);
}

/// [`add_bias`], then [`gelu`].
pub fn add_bias_gelu(values: &mut [f32], bias: &[f32]) {
    by_rows(values, bias, bias_gelu_slice);
}

/// What an operation does to a tensor after the bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// Nothing.
    None,
    /// The exact GELU.
    Gelu,
}

/// Adds a bias (when there is one) to the last dimension of `x`, applies `activation`, and returns the result.
///
/// On the CPU `x` is changed in place: it must be a tensor that nobody else reads, such as a fresh product.
///
/// # Errors
/// The shapes do not fit, or the device failed.
pub fn finish(x: Tensor, bias: Option<&Tensor>, activation: Activation) -> Result<Tensor> {
    if x.device().is_cpu() && x.is_contiguous() && x.dtype() == candle_core::DType::F32 {
        match bias {
            Some(bias) => x.inplace_op2(bias, &BiasOp(activation))?,
            None if activation == Activation::Gelu => x.inplace_op1(&GeluOp)?,
            None => {}
        }
        return Ok(x);
    }
    let x = match bias {
        Some(bias) => x.broadcast_add(bias)?,
        None => x,
    };
    match activation {
        Activation::Gelu => x.gelu_erf(),
        Activation::None => Ok(x),
    }
}

struct GeluOp;

impl InplaceOp1 for GeluOp {
    fn name(&self) -> &'static str {
        "gelu-exact"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        gelu_in_place(values_mut(storage, layout)?);
        Ok(())
    }
}

struct BiasOp(Activation);

impl InplaceOp2 for BiasOp {
    fn name(&self) -> &'static str {
        "bias-activation"
    }

    fn cpu_fwd(
        &self,
        storage: &mut CpuStorage,
        layout: &Layout,
        bias: &CpuStorage,
        bias_layout: &Layout,
    ) -> Result<()> {
        let bias = super::attention::values(bias, bias_layout)?;
        if layout.dims().last() != Some(&bias.len()) {
            candle_core::bail!("a bias of {} values does not fit {:?}", bias.len(), layout.shape());
        }
        let values = values_mut(storage, layout)?;
        match self.0 {
            Activation::None => add_bias(values, bias),
            Activation::Gelu => add_bias_gelu(values, bias),
        }
        Ok(())
    }
}

fn values_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => match values.get_mut(start..end) {
            Some(values) => Ok(values),
            None => candle_core::bail!("a layout that leaves its storage"),
        },
        _ => candle_core::bail!("only contiguous f32 tensors are changed in place"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    /// erf by its Taylor series, which is exact enough in f64 up to 6.
    fn erf(x: f64) -> f64 {
        let (mut term, mut sum) = (x, x);
        for n in 1..200 {
            term *= -x * x / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    }

    proptest! {
        #[test]
        fn is_the_exact_function(x in -5.0f32..5.0) {
            let exact = 0.5 * f64::from(x) * (1.0 + erf(f64::from(x) / std::f64::consts::SQRT_2));
            prop_assert!((f64::from(gelu(x)) - exact).abs() < 5e-7, "{x} {} {exact}", gelu(x));
        }

        #[test]
        fn every_instruction_set_gives_the_same_bits(values in prop::collection::vec(-20.0f32..20.0, 0..300)) {
            let mut fast = values.clone();
            gelu_in_place(&mut fast);
            let slow: Vec<f32> = values.iter().map(|&v| gelu(v)).collect();
            prop_assert_eq!(fast, slow);
        }

        #[test]
        fn bias_is_added_to_every_row(values in prop::collection::vec(-9.0f32..9.0, 0..40), width in 1usize..5) {
            let bias: Vec<f32> = (0..width).map(|i| i as f32 - 1.5).collect();
            let values = &values[..values.len() / width * width];
            let (mut plain, mut active) = (values.to_vec(), values.to_vec());
            add_bias(&mut plain, &bias);
            add_bias_gelu(&mut active, &bias);
            for (i, &v) in values.iter().enumerate() {
                prop_assert_eq!(plain[i], v + bias[i % width]);
                prop_assert_eq!(active[i], gelu(v + bias[i % width]));
            }
        }
    }

    #[test]
    fn large_inputs_go_over_all_threads() {
        let values: Vec<f32> = (0..100_000).map(|i| (i as f32 * 0.01).sin() * 4.0).collect();
        let mut fast = values.clone();
        gelu_in_place(&mut fast);
        assert!(fast.iter().zip(&values).all(|(f, v)| *f == gelu(*v)));
    }

    #[test]
    fn far_from_zero_it_is_zero_or_the_identity() {
        assert_eq!(gelu(40.0), 40.0);
        assert_eq!(gelu(-40.0), 0.0);
        assert!(gelu(f32::NAN).is_nan());
    }

    #[test]
    fn a_bias_of_another_width_is_refused() {
        let x = Tensor::zeros((2, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(2, candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(finish(x, Some(&bias), Activation::Gelu).is_err());
    }
}
