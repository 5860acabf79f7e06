//! Tokens to logits: any number of rows in one batch, each at its own position in its own window.
//!
//! The tokens of all rows are packed into one `[tokens, width]` matrix for the linear layers; attention goes row by
//! row over the row's own cache, and window by window over the audio (rows of one window that stand together, such
//! as beams, share one pass over its keys).
//!
//! On a CPU what a row gives does not depend on the other rows of its batch, to the last bit: rows of few tokens are
//! packed up to [`FEW_ROWS`] tokens at a time, for which every row's sums are its own, and a row of more tokens goes by
//! itself. Each weight would be read once for so many rows in any case.

use candle_core::{Device, Module, Result, Tensor};
use candle_nn::LayerNorm;

use super::{
    cache::{CrossCache, RowCache},
    heads::AlignmentHead,
    layers::{Attention, FeedForward, Linear},
};
use crate::asr::kernels::{attention, linear::FEW_ROWS};

/// One layer of the decoder.
#[derive(Debug)]
pub struct DecoderLayer {
    /// Before the attention over the row's tokens.
    pub self_norm: LayerNorm,
    /// Over the row's tokens.
    pub self_attention: Attention,
    /// Before the attention over the audio.
    pub cross_norm: LayerNorm,
    /// Over the audio.
    pub cross_attention: Attention,
    /// The rest.
    pub feed_forward: FeedForward,
}

/// The decoder's weights.
#[derive(Debug)]
pub struct Decoder {
    /// `[vocabulary, width]`.
    pub tokens: Tensor,
    /// Factor on token embeddings (1 in published models).
    pub token_scale: f64,
    /// `[target positions, width]`.
    pub positions: Tensor,
    /// In order.
    pub layers: Vec<DecoderLayer>,
    /// After the last layer.
    pub norm: LayerNorm,
    /// States to logits; the token table again in published models.
    pub projection: Linear,
    /// Heads of a layer.
    pub heads: usize,
    /// Where the weights are.
    pub device: Device,
}

/// One row of a batch: tokens to read, the cache to read them into, the audio to attend to.
#[derive(Debug)]
pub struct Row<'a> {
    /// Tokens read before; the new ones are added.
    pub cache: &'a mut RowCache,
    /// The window.
    pub audio: &'a CrossCache,
    /// New tokens, at least one.
    pub tokens: &'a [u32],
    /// Which of the new tokens' logits are wanted, as indices into `tokens`, ascending.
    pub wanted: &'a [usize],
}

/// What a batch gave.
#[derive(Debug)]
pub struct Output {
    /// For each wanted token of each row, in order, one value for each token of the vocabulary.
    pub logits: Vec<Vec<f32>>,
    /// For each row and each captured head: attention of every new token over the audio, `[tokens, positions]`.
    pub attention: Vec<Vec<Tensor>>,
}

impl Decoder {
    /// An empty cache for one row of up to `capacity` tokens (never more than the model has positions).
    ///
    /// # Errors
    /// Out of memory on the device.
    pub fn new_cache(&self, capacity: usize) -> Result<RowCache> {
        let capacity = capacity.min(self.positions.dim(0)?);
        RowCache::new(self.layers.len(), capacity, self.tokens.dim(1)?, &self.device)
    }

    /// Prepares a window's states (`[positions, width]`) for the decoder.
    ///
    /// # Errors
    /// The device failed.
    pub fn prepare(&self, states: &Tensor) -> Result<CrossCache> {
        let (positions, width) = states.dims2()?;
        let size = width / self.heads;
        let scale = (size as f64).powf(-0.5);
        let prepare = |layer: &DecoderLayer| {
            let by_head = |x: Tensor| x.reshape((positions, self.heads, size));
            let keys =
                (by_head(layer.cross_attention.key.forward(states)?)?.permute((1, 2, 0))?.contiguous()?
                    * scale)?;
            let values =
                by_head(layer.cross_attention.value.forward(states)?)?.transpose(0, 1)?.contiguous()?;
            Ok((keys, values))
        };
        Ok(CrossCache { layers: self.layers.iter().map(prepare).collect::<Result<_>>()? })
    }

    /// Reads each row's new tokens. `capture` lists the heads whose attention over the audio is returned.
    ///
    /// # Errors
    /// A row without tokens or room, or a token that is not in the vocabulary: the caches are then as long as before.
    /// Or the device failed.
    pub fn forward(&self, rows: &mut [Row<'_>], capture: &[AlignmentHead]) -> Result<Output> {
        self.check(rows)?;
        if !self.device.is_cpu() {
            return self.packed(rows, capture);
        }
        let mut output = Output { logits: Vec::new(), attention: Vec::with_capacity(rows.len()) };
        let mut rest = rows;
        while let Some(first) = rest.first() {
            let mut tokens = first.tokens.len();
            let fits = |row: &&Row<'_>| {
                tokens += row.tokens.len();
                tokens <= FEW_ROWS
            };
            let count = 1 + rest.iter().skip(1).take_while(fits).count();
            let (group, after) = rest.split_at_mut(count);
            let part = self.packed(group, capture)?;
            output.logits.extend(part.logits);
            output.attention.extend(part.attention);
            rest = after;
        }
        Ok(output)
    }

    /// Reads rows as one matrix.
    fn packed(&self, rows: &mut [Row<'_>], capture: &[AlignmentHead]) -> Result<Output> {
        let spans = spans(rows);
        let mut x = self.embed(rows)?;
        let mut captured: Vec<Vec<Option<Tensor>>> = rows.iter().map(|_| vec![None; capture.len()]).collect();
        for (index, layer) in self.layers.iter().enumerate() {
            x = (&x + self.own_tokens(index, layer, &x, rows, &spans)?)?;
            let query = layer.cross_attention.query.forward(&layer.cross_norm.forward(&x)?)?;
            for (slot, head) in capture.iter().enumerate().filter(|(_, head)| head.layer == index) {
                for ((row, &(start, len)), captured) in rows.iter().zip(&spans).zip(&mut captured) {
                    let Some((keys, _)) = row.audio.layers.get(index) else { continue };
                    let query = query.narrow(0, start, len)?;
                    if let Some(slot) = captured.get_mut(slot) {
                        *slot = Some(attention::cross_probabilities(&query, keys, head.head)?);
                    }
                }
            }
            let seen = audio(index, &query, rows, &spans)?;
            x = (x + layer.cross_attention.out.forward(&seen)?)?;
            x = layer.feed_forward.forward(&x)?;
        }
        let logits = self.logits(&x, rows, &spans)?;
        for row in rows.iter_mut() {
            row.cache.advance(row.tokens.len());
        }
        let attention = captured.into_iter().map(|heads| heads.into_iter().flatten().collect()).collect();
        Ok(Output { logits, attention })
    }

    fn check(&self, rows: &[Row<'_>]) -> Result<()> {
        let vocabulary = self.tokens.dim(0)?;
        for row in rows {
            let (past, new) = (row.cache.len(), row.tokens.len());
            if new == 0 || past + new > row.cache.capacity() {
                candle_core::bail!("{new} tokens after {past} in a cache for {}", row.cache.capacity());
            }
            if let Some(token) = row.tokens.iter().find(|&&t| t as usize >= vocabulary) {
                candle_core::bail!("token {token} is outside the vocabulary of {vocabulary}");
            }
            if row.wanted.iter().any(|&i| i >= new) || row.audio.layers.len() != self.layers.len() {
                candle_core::bail!("a row that asks for more than it brings");
            }
        }
        Ok(())
    }

    fn embed(&self, rows: &[Row<'_>]) -> Result<Tensor> {
        let tokens: Vec<u32> = rows.iter().flat_map(|row| row.tokens.iter().copied()).collect();
        let positions: Vec<u32> = rows
            .iter()
            .flat_map(|row| (row.cache.len()..row.cache.len() + row.tokens.len()).map(|p| p as u32))
            .collect();
        let count = tokens.len();
        let tokens = self.tokens.index_select(&Tensor::from_vec(tokens, count, &self.device)?, 0)?;
        let positions = self.positions.index_select(&Tensor::from_vec(positions, count, &self.device)?, 0)?;
        // An exact comparison: the factor is 1 in every published model.
        if self.token_scale == 1.0 { tokens + positions } else { (tokens * self.token_scale)? + positions }
    }

    fn own_tokens(
        &self,
        index: usize,
        layer: &DecoderLayer,
        x: &Tensor,
        rows: &[Row<'_>],
        spans: &[(usize, usize)],
    ) -> Result<Tensor> {
        let y = layer.self_norm.forward(x)?;
        let a = &layer.self_attention;
        let (q, k, v) = (a.query.forward(&y)?, a.key.forward(&y)?, a.value.forward(&y)?);
        let mut parts = Vec::with_capacity(rows.len());
        for (row, &(start, len)) in rows.iter().zip(spans) {
            let Some((keys, values)) = row.cache.layers.get(index) else {
                candle_core::bail!("a cache of another model");
            };
            let past = row.cache.len();
            keys.slice_set(&k.narrow(0, start, len)?, 0, past)?;
            values.slice_set(&v.narrow(0, start, len)?, 0, past)?;
            parts.push(attention::cached(&q.narrow(0, start, len)?, keys, values, self.heads, past)?);
        }
        a.out.forward(&join(parts)?)
    }

    fn logits(&self, x: &Tensor, rows: &[Row<'_>], spans: &[(usize, usize)]) -> Result<Vec<Vec<f32>>> {
        let wanted: Vec<u32> = rows
            .iter()
            .zip(spans)
            .flat_map(|(row, &(start, _))| row.wanted.iter().map(move |&i| (start + i) as u32))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let count = wanted.len();
        let x = if count == x.dim(0)? {
            x.clone()
        } else {
            x.index_select(&Tensor::from_vec(wanted, count, &self.device)?, 0)?
        };
        self.projection.forward(&self.norm.forward(&x)?)?.to_vec2()
    }
}

/// Where each row's tokens are in the packed batch: (start, length).
fn spans(rows: &[Row<'_>]) -> Vec<(usize, usize)> {
    let mut start = 0;
    rows.iter()
        .map(|row| {
            let span = (start, row.tokens.len());
            start += row.tokens.len();
            span
        })
        .collect()
}

/// Attention over the audio: one pass for each run of neighbouring rows with the same window.
fn audio(index: usize, query: &Tensor, rows: &[Row<'_>], spans: &[(usize, usize)]) -> Result<Tensor> {
    let mut parts = Vec::new();
    let mut rest = rows.iter().zip(spans).peekable();
    while let Some((row, &(start, mut len))) = rest.next() {
        while let Some((_, (_, more))) = rest.next_if(|(next, _)| std::ptr::eq(next.audio, row.audio)) {
            len += more;
        }
        let Some((keys, values)) = row.audio.layers.get(index) else {
            candle_core::bail!("a window prepared by another model");
        };
        parts.push(attention::cross(&query.narrow(0, start, len)?, keys, values)?);
    }
    join(parts)
}

fn join(parts: Vec<Tensor>) -> Result<Tensor> {
    match <[Tensor; 1]>::try_from(parts) {
        Ok([only]) => Ok(only),
        Err(parts) => Tensor::cat(&parts, 0),
    }
}
