//! Attention on the CPU, one candle operation for each of its three shapes in Whisper.
//!
//! - encoder: every position sees every other; block by block of queries, so that the square of scores (1500 x 1500
//!   for 30 s) never exists;
//! - decoder, own tokens: a few queries, keys and values in a cache that is written in place, causal;
//! - decoder, audio: a few queries, keys transposed and scaled once for the window.
//!
//! Each has a twin of ordinary tensor operations for other devices; tests hold one against the other.

use candle_core::{CpuStorage, CustomOp3, D, DType, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{
    dispatch,
    gemm::{Matrix, Sizes, product},
    softmax::softmax_in_place,
};

/// Queries of one task of the encoder's attention: enough to amortise packing the keys, few enough that the scores
/// (64 x 1500 floats) stay in the second-level cache.
const BLOCK: usize = 64;
/// Multiply-adds below which a second thread costs more than it saves.
const PARALLEL_WORK: usize = 1 << 18;
/// From this many queries on a matrix product beats row-by-row sums (measured: four queries over 500 positions take
/// 50 us row by row and 230 us as a product).
const GEMM_QUERIES: usize = 16;

/// The f32 values of a contiguous CPU tensor.
///
/// # Errors
/// Another type, or a view with gaps.
pub(super) fn values<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(values), Some((start, end))) => match values.get(start..end) {
            Some(values) => Ok(values),
            None => candle_core::bail!("a layout that leaves its storage"),
        },
        _ => candle_core::bail!("the attention kernels take contiguous f32 tensors"),
    }
}

fn on_cpu(tensors: [&Tensor; 3]) -> bool {
    tensors.iter().all(|t| t.device().is_cpu() && t.dtype() == DType::F32 && t.is_contiguous())
}

/// `sums += factor * row`
#[inline(always)]
fn add_scaled(sums: &mut [f32], factor: f32, row: &[f32]) {
    for (sum, value) in sums.iter_mut().zip(row) {
        *sum += factor * value;
    }
}

// ---- encoder ---------------------------------------------------------------------------------------------------

/// Attention of the encoder: `q`, `k`, `v` are `[positions, width]`, and so is the result.
///
/// # Errors
/// The shapes do not fit, or the device failed.
pub fn encoder(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    if on_cpu([q, k, v]) {
        q.apply_op3_no_bwd(k, v, &EncoderOp { heads })
    } else {
        encoder_tensors(q, k, v, heads)
    }
}

/// `[positions, width]` to `[heads, positions, width / heads]`.
fn split_heads(x: &Tensor, heads: usize) -> Result<Tensor> {
    let (positions, width) = x.dims2()?;
    x.reshape((positions, heads, width / heads))?.transpose(0, 1)?.contiguous()
}

/// `[heads, positions, size]` to `[positions, heads * size]`.
fn join_heads(x: &Tensor) -> Result<Tensor> {
    x.transpose(0, 1)?.contiguous()?.flatten_from(1)
}

fn encoder_tensors(q: &Tensor, k: &Tensor, v: &Tensor, heads: usize) -> Result<Tensor> {
    let scale = ((q.dim(1)? / heads) as f64).powf(-0.5);
    let (q, k, v) = (split_heads(&(q * scale)?, heads)?, split_heads(k, heads)?, split_heads(v, heads)?);
    let scores = q.matmul(&k.transpose(1, 2)?)?;
    join_heads(&candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?)
}

struct EncoderOp {
    heads: usize,
}

impl CustomOp3 for EncoderOp {
    fn name(&self) -> &'static str {
        "encoder-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (positions, width) = ql.shape().dims2()?;
        if kl.shape() != ql.shape() || vl.shape() != ql.shape() || self.heads == 0 || width % self.heads != 0
        {
            candle_core::bail!("encoder attention of {:?}, {:?}, {:?}", ql.shape(), kl.shape(), vl.shape());
        }
        let (q, k, v) = (values(q, ql)?, values(k, kl)?, values(v, vl)?);
        let size = width / self.heads;
        let scale = (size as f32).powf(-0.5);
        let mut out = vec![0.0f32; positions * width];
        out.par_chunks_mut(BLOCK * width).enumerate().for_each_init(
            || vec![0.0f32; BLOCK * positions],
            |scores, (block, out)| {
                let rows = out.len() / width;
                for head in 0..self.heads {
                    let from = |values| Matrix {
                        values: tail(values, head * size),
                        row_stride: width,
                        column_stride: 1,
                    };
                    let queries = Matrix {
                        values: tail(q, block * BLOCK * width + head * size),
                        row_stride: width,
                        column_stride: 1,
                    };
                    let keys = Matrix { row_stride: 1, column_stride: width, ..from(k) };
                    let shape = Sizes { rows, depth: size, columns: positions };
                    product(scores, positions, queries, keys, shape, scale);
                    scores.chunks_exact_mut(positions).take(rows).for_each(softmax_in_place);
                    let weights = Matrix { values: scores, row_stride: positions, column_stride: 1 };
                    let shape = Sizes { rows, depth: positions, columns: size };
                    product(tail_mut(out, head * size), width, weights, from(v), shape, 1.0);
                }
            },
        );
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

fn tail(values: &[f32], from: usize) -> &[f32] {
    values.get(from..).unwrap_or_default()
}

fn tail_mut(values: &mut [f32], from: usize) -> &mut [f32] {
    values.get_mut(from..).unwrap_or_default()
}

// ---- decoder, own tokens ---------------------------------------------------------------------------------------

/// Causal attention of new tokens over a cache: `q` is `[new, width]`, `keys` and `values` are `[capacity, width]`
/// with the new tokens' rows already written at `past..past + new`. The result is `[new, width]`.
///
/// # Errors
/// The shapes do not fit, or the device failed.
pub fn cached(q: &Tensor, keys: &Tensor, values: &Tensor, heads: usize, past: usize) -> Result<Tensor> {
    if on_cpu([q, keys, values]) {
        q.apply_op3_no_bwd(keys, values, &CachedOp { heads, past })
    } else {
        cached_tensors(q, keys, values, heads, past)
    }
}

fn cached_tensors(q: &Tensor, keys: &Tensor, values: &Tensor, heads: usize, past: usize) -> Result<Tensor> {
    let (new, width) = q.dims2()?;
    let scale = ((width / heads) as f64).powf(-0.5);
    let total = past + new;
    let q = split_heads(&(q * scale)?, heads)?;
    let k = split_heads(&keys.narrow(0, 0, total)?, heads)?;
    let v = split_heads(&values.narrow(0, 0, total)?, heads)?;
    let mask: Vec<f32> = (0..new)
        .flat_map(|row| (0..total).map(move |t| if t > past + row { f32::NEG_INFINITY } else { 0.0 }))
        .collect();
    let mask = Tensor::from_vec(mask, (new, total), q.device())?;
    let scores = q.matmul(&k.transpose(1, 2)?)?.broadcast_add(&mask)?;
    join_heads(&candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(&v)?)
}

struct CachedOp {
    heads: usize,
    past: usize,
}

/// One query over the first rows of a cache, all heads. `scores` holds at least as many values as there are rows.
#[inline(always)]
fn cached_row_body(
    q: &[f32],
    keys: &[f32],
    values: &[f32],
    size: usize,
    scores: &mut [f32],
    out: &mut [f32],
) {
    const LANES: usize = 16;
    let width = q.len();
    let scale = (size as f32).powf(-0.5);
    for (head, (q, out)) in q.chunks_exact(size).zip(out.chunks_exact_mut(size)).enumerate() {
        let rows = keys.chunks_exact(width);
        for (score, row) in scores.iter_mut().zip(rows) {
            let key = row.get(head * size..).unwrap_or_default();
            let mut lanes = [0.0f32; LANES];
            let (q16, k16) = (q.chunks_exact(LANES), key.chunks_exact(LANES));
            let rest: f32 =
                q16.remainder().iter().zip(key.iter().skip(size - size % LANES)).map(|(a, b)| a * b).sum();
            for (q, k) in q16.zip(k16) {
                for ((lane, q), k) in lanes.iter_mut().zip(q).zip(k) {
                    *lane += q * k;
                }
            }
            *score = (lanes.iter().sum::<f32>() + rest) * scale;
        }
        softmax_in_place(scores);
        out.fill(0.0);
        for (weight, row) in scores.iter().zip(values.chunks_exact(width)) {
            add_scaled(out, *weight, row.get(head * size..(head + 1) * size).unwrap_or_default());
        }
    }
}

dispatch! {
    fn cached_row(q: &[f32], keys: &[f32], values: &[f32], size: usize, scores: &mut [f32], out: &mut [f32])
        = cached_row_body
}

impl CustomOp3 for CachedOp {
    fn name(&self) -> &'static str {
        "cached-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (new, width) = ql.shape().dims2()?;
        let (capacity, key_width) = kl.shape().dims2()?;
        let total = self.past + new;
        let fits = key_width == width && vl.shape() == kl.shape() && total <= capacity;
        if !fits || self.heads == 0 || width == 0 || width % self.heads != 0 {
            candle_core::bail!(
                "{new} queries after {} over {:?} and {:?}",
                self.past,
                kl.shape(),
                vl.shape()
            );
        }
        let (q, k, v) = (values(q, ql)?, values(k, kl)?, values(v, vl)?);
        let size = width / self.heads;
        let mut out = vec![0.0f32; new * width];
        let row = |scores: &mut Vec<f32>, (i, (q, out)): (usize, (&[f32], &mut [f32]))| {
            let seen = self.past + i + 1;
            scores.resize(seen, 0.0);
            cached_row(q, k.get(..seen * width).unwrap_or(k), v, size, scores, out);
        };
        if new > 1 && new * total * width > PARALLEL_WORK {
            let pairs = q.par_chunks_exact(width).zip(out.par_chunks_exact_mut(width));
            pairs.enumerate().for_each_init(Vec::new, row);
        } else {
            let mut scores = Vec::with_capacity(total);
            let pairs = q.chunks_exact(width).zip(out.chunks_exact_mut(width));
            pairs.enumerate().for_each(|pair| row(&mut scores, pair));
        }
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

// ---- decoder, audio --------------------------------------------------------------------------------------------

/// Attention of tokens over a window of audio: `q` is `[tokens, width]`, `keys` is `[heads, size, positions]`
/// (transposed and already scaled), `values` is `[heads, positions, size]`. The result is `[tokens, width]`.
///
/// # Errors
/// The shapes do not fit, or the device failed.
pub fn cross(q: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    if on_cpu([q, keys, values]) {
        q.apply_op3_no_bwd(keys, values, &CrossOp)
    } else {
        cross_tensors(q, keys, values)
    }
}

fn cross_tensors(q: &Tensor, keys: &Tensor, values: &Tensor) -> Result<Tensor> {
    let scores = split_heads(q, keys.dim(0)?)?.matmul(keys)?;
    join_heads(&candle_nn::ops::softmax(&scores, D::Minus1)?.matmul(values)?)
}

/// The probabilities behind [`cross`] for one head: `[tokens, positions]`.
///
/// # Errors
/// No such head, or the device failed.
pub fn cross_probabilities(q: &Tensor, keys: &Tensor, head: usize) -> Result<Tensor> {
    let (_, size, _) = keys.dims3()?;
    let q = q.narrow(1, head * size, size)?.contiguous()?;
    candle_nn::ops::softmax(&q.matmul(&keys.get(head)?)?, D::Minus1)
}

struct CrossOp;

/// One query over one head. `scores` is as long as there are positions.
#[inline(always)]
fn cross_row_body(q: &[f32], keys: &[f32], values: &[f32], scores: &mut [f32], out: &mut [f32]) {
    scores.fill(0.0);
    for (q, key) in q.iter().zip(keys.chunks_exact(scores.len())) {
        add_scaled(scores, *q, key);
    }
    softmax_in_place(scores);
    out.fill(0.0);
    for (weight, value) in scores.iter().zip(values.chunks_exact(out.len())) {
        add_scaled(out, *weight, value);
    }
}

dispatch! {
    fn cross_row(q: &[f32], keys: &[f32], values: &[f32], scores: &mut [f32], out: &mut [f32]) = cross_row_body
}

impl CustomOp3 for CrossOp {
    fn name(&self) -> &'static str {
        "cross-attention"
    }

    fn cpu_fwd(
        &self,
        q: &CpuStorage,
        ql: &Layout,
        k: &CpuStorage,
        kl: &Layout,
        v: &CpuStorage,
        vl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (tokens, width) = ql.shape().dims2()?;
        let (heads, size, positions) = kl.shape().dims3()?;
        if heads * size != width || vl.dims() != [heads, positions, size] || width * positions == 0 {
            candle_core::bail!(
                "cross attention of {:?} over {:?} and {:?}",
                ql.shape(),
                kl.shape(),
                vl.shape()
            );
        }
        let (q, k, v) = (values(q, ql)?, values(k, kl)?, values(v, vl)?);
        // Head by head, each into its own rows; put in order at the end.
        let mut by_head = vec![0.0f32; tokens * width];
        let one = |scores: &mut Vec<f32>, (head, out): (usize, &mut [f32])| {
            let keys = tail(k, head * size * positions);
            let keys = keys.get(..size * positions).unwrap_or(keys);
            let values = tail(v, head * size * positions);
            let values = values.get(..size * positions).unwrap_or(values);
            if tokens >= GEMM_QUERIES {
                scores.resize(tokens * positions, 0.0);
                let queries = Matrix { values: tail(q, head * size), row_stride: width, column_stride: 1 };
                let keys = Matrix { values: keys, row_stride: positions, column_stride: 1 };
                product(
                    scores,
                    positions,
                    queries,
                    keys,
                    Sizes { rows: tokens, depth: size, columns: positions },
                    1.0,
                );
                scores.chunks_exact_mut(positions).for_each(softmax_in_place);
                let weights = Matrix { values: scores, row_stride: positions, column_stride: 1 };
                let values = Matrix { values, row_stride: size, column_stride: 1 };
                product(
                    out,
                    size,
                    weights,
                    values,
                    Sizes { rows: tokens, depth: positions, columns: size },
                    1.0,
                );
            } else {
                scores.resize(positions, 0.0);
                for (q, out) in q.chunks_exact(width).zip(out.chunks_exact_mut(size)) {
                    let q = q.get(head * size..(head + 1) * size).unwrap_or_default();
                    cross_row(q, keys, values, scores, out);
                }
            }
        };
        if tokens * positions * width > PARALLEL_WORK {
            by_head.par_chunks_exact_mut(tokens * size).enumerate().for_each_init(Vec::new, one);
        } else {
            let mut scores = Vec::new();
            by_head.chunks_exact_mut(tokens * size).enumerate().for_each(|part| one(&mut scores, part));
        }
        if tokens == 1 {
            return Ok((CpuStorage::F32(by_head), ql.shape().clone()));
        }
        let mut out = vec![0.0f32; tokens * width];
        for (head, part) in by_head.chunks_exact(tokens * size).enumerate() {
            for (row, out) in part.chunks_exact(size).zip(out.chunks_exact_mut(width)) {
                if let Some(out) = out.get_mut(head * size..(head + 1) * size) {
                    out.copy_from_slice(row);
                }
            }
        }
        Ok((CpuStorage::F32(out), ql.shape().clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    /// Reproducible values in [-1, 1].
    fn noise(shape: &[usize], seed: u64) -> Tensor {
        let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
        let values: Vec<f32> = (0..shape.iter().product())
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    }

    fn difference(a: &Tensor, b: &Tensor) -> f32 {
        assert_eq!(a.dims(), b.dims());
        let d = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
        d.to_vec1::<f32>().unwrap().into_iter().fold(0.0, f32::max)
    }

    #[test]
    fn encoder_agrees_with_its_tensor_twin() {
        for (positions, heads, size) in [(1, 1, 4), (63, 3, 16), (64, 2, 64), (65, 3, 20), (200, 2, 8)] {
            let [q, k, v] = [1, 2, 3].map(|seed| noise(&[positions, heads * size], seed));
            let twin = encoder_tensors(&q, &k, &v, heads).unwrap();
            assert!(difference(&encoder(&q, &k, &v, heads).unwrap(), &twin) < 1e-5);
        }
    }

    #[test]
    fn cached_agrees_with_its_tensor_twin() {
        for (new, past, heads, size) in
            [(1, 0, 1, 4), (1, 9, 3, 16), (4, 3, 2, 20), (7, 0, 3, 64), (90, 20, 2, 64)]
        {
            let q = noise(&[new, heads * size], 4);
            let [k, v] = [5, 6].map(|seed| noise(&[past + new + 3, heads * size], seed));
            let twin = cached_tensors(&q, &k, &v, heads, past).unwrap();
            assert!(difference(&cached(&q, &k, &v, heads, past).unwrap(), &twin) < 1e-5);
        }
    }

    #[test]
    fn cross_agrees_with_its_tensor_twin() {
        for (tokens, positions, heads, size) in
            [(1, 5, 1, 4), (1, 300, 3, 16), (3, 77, 2, 20), (4, 33, 3, 8), (9, 900, 6, 64), (17, 900, 6, 64)]
        {
            let q = noise(&[tokens, heads * size], 7);
            let k = noise(&[heads, size, positions], 8);
            let v = noise(&[heads, positions, size], 9);
            let twin = cross_tensors(&q, &k, &v).unwrap();
            assert!(difference(&cross(&q, &k, &v).unwrap(), &twin) < 1e-5);
            let head = heads - 1;
            let p = cross_probabilities(&q, &k, head).unwrap();
            let part = p.matmul(&v.get(head).unwrap()).unwrap();
            assert!(difference(&part, &twin.narrow(1, head * size, size).unwrap()) < 1e-5);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_errors() {
        let q = noise(&[2, 6], 1);
        assert!(encoder(&q, &noise(&[3, 6], 2), &q, 2).is_err());
        assert!(cached(&q, &q, &q, 2, 1).is_err());
        assert!(cached(&q, &q, &q, 4, 0).is_err());
        assert!(cross(&q, &noise(&[2, 4, 5], 1), &noise(&[2, 5, 4], 2)).is_err());
    }
}
