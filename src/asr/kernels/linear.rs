//! A linear layer over few rows, as in decoding: every weight is used once or a handful of times, so the product is
//! bound by memory, and packing operands for a matrix product (what `gemm` does) costs more than it saves.

use candle_core::{CpuStorage, CustomOp2, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{attention::values, dispatch};

/// Most rows for which this beats the matrix product.
pub const FEW_ROWS: usize = 8;
/// Multiply-adds below which waking a second thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 21;
/// Output values of one task when there are several.
const GRAIN: usize = 512;
/// Partial sums kept apart, so that additions do not wait for each other.
const LANES: usize = 32;

#[inline(always)]
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let (a, b) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a.remainder().iter().zip(b.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a.zip(b) {
        for ((lane, a), b) in lanes.iter_mut().zip(a).zip(b) {
            *lane += a * b;
        }
    }
    lanes.iter().sum::<f32>() + rest
}

/// `out[o * rows + r] = dot(weights row o, x row r)`: each weight row is read once for all rows.
#[inline(always)]
fn outputs_body(weights: &[f32], x: &[f32], depth: usize, out: &mut [f32]) {
    let rows = x.len() / depth;
    for (weights, out) in weights.chunks_exact(depth).zip(out.chunks_exact_mut(rows)) {
        for (x, out) in x.chunks_exact(depth).zip(out) {
            *out = dot(weights, x);
        }
    }
}

dispatch! { fn outputs(weights: &[f32], x: &[f32], depth: usize, out: &mut [f32]) = outputs_body }

/// `x * weight^T` for a few rows: `[rows, in]` and `[out, in]` to `[rows, out]`. `None` when the operands are not
/// what this is for (too many rows, another device or type, a view with gaps).
///
/// # Errors
/// The shapes do not fit.
pub fn few_rows(x: &Tensor, weight: &Tensor) -> Result<Option<Tensor>> {
    let suits = |t: &Tensor| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous();
    if x.dim(0)? > FEW_ROWS || !suits(x) || !suits(weight) {
        return Ok(None);
    }
    x.apply_op2_no_bwd(weight, &FewRows).map(Some)
}

struct FewRows;

impl CustomOp2 for FewRows {
    fn name(&self) -> &'static str {
        "linear-few-rows"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (rows, depth) = xl.shape().dims2()?;
        let (width, weight_depth) = wl.shape().dims2()?;
        if depth != weight_depth || rows * depth * width == 0 {
            candle_core::bail!("a linear layer of {:?} over {:?}", wl.shape(), xl.shape());
        }
        let (x, w) = (values(x, xl)?, values(w, wl)?);
        let mut by_output = vec![0.0f32; rows * width];
        if rows * depth * width > PARALLEL_WORK {
            let parts = by_output.par_chunks_mut(GRAIN * rows).zip(w.par_chunks(GRAIN * depth));
            parts.for_each(|(out, w)| outputs(w, x, depth, out));
        } else {
            outputs(w, x, depth, &mut by_output);
        }
        if rows > 1 {
            let mut out = vec![0.0f32; rows * width];
            for (row, out) in out.chunks_exact_mut(width).enumerate() {
                for (out, value) in out.iter_mut().zip(by_output.iter().skip(row).step_by(rows)) {
                    *out = *value;
                }
            }
            by_output = out;
        }
        Ok((CpuStorage::F32(by_output), Shape::from((rows, width))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;
    use proptest::prelude::*;

    fn tensor(values: &[f32], rows: usize, columns: usize) -> Tensor {
        Tensor::from_slice(values, (rows, columns), &Device::Cpu).unwrap()
    }

    proptest! {
        #[test]
        fn agrees_with_the_matrix_product(
            rows in 1usize..=FEW_ROWS, depth in 1usize..140, width in 1usize..40, seed in prop::collection::vec(-2.0f32..2.0, 97),
        ) {
            let fill = |n: usize, from: usize| -> Vec<f32> { (0..n).map(|i| seed[(i * 31 + from) % seed.len()]).collect() };
            let (x, w) = (tensor(&fill(rows * depth, 0), rows, depth), tensor(&fill(width * depth, 7), width, depth));
            let fast: Vec<Vec<f32>> = few_rows(&x, &w).unwrap().unwrap().to_vec2().unwrap();
            let slow: Vec<Vec<f32>> = x.matmul(&w.t().unwrap()).unwrap().to_vec2().unwrap();
            for (fast, slow) in fast.concat().iter().zip(slow.concat()) {
                prop_assert!((fast - slow).abs() < 1e-3, "{fast} {slow}");
            }
        }

        #[test]
        fn every_instruction_set_gives_the_same_bits(x in prop::collection::vec(-2.0f32..2.0, 70), w in prop::collection::vec(-2.0f32..2.0, 210)) {
            let (mut fast, mut slow) = ([0.0; 3], [0.0; 3]);
            outputs(&w, &x, 70, &mut fast);
            outputs_body(&w, &x, 70, &mut slow);
            prop_assert_eq!(fast, slow);
        }
    }

    #[test]
    fn a_large_layer_goes_over_all_threads() {
        let x = tensor(&(0..600).map(|i| (i as f32 * 0.1).sin()).collect::<Vec<_>>(), 2, 300);
        let w = tensor(&(0..1_500_000).map(|i| (i as f32 * 0.01).cos()).collect::<Vec<_>>(), 5000, 300);
        let fast = few_rows(&x, &w).unwrap().unwrap();
        let slow = x.matmul(&w.t().unwrap()).unwrap();
        let worst = (fast - slow).unwrap().abs().unwrap().max_all().unwrap().to_scalar::<f32>().unwrap();
        assert!(worst < 1e-3, "{worst}");
    }

    #[test]
    fn other_operands_are_left_to_the_matrix_product() {
        let w = tensor(&[0.0; 6], 2, 3);
        assert!(few_rows(&tensor(&[0.0; 27], 9, 3), &w).unwrap().is_none());
        assert!(few_rows(&tensor(&[0.0; 6], 2, 3).t().unwrap(), &w).unwrap().is_none());
        assert!(few_rows(&tensor(&[0.0; 4], 1, 4), &w).is_err());
    }
}
