//! What decoding remembers, kept outside the weights: one [`RowCache`] for each hypothesis, one [`CrossCache`] for
//! each window of audio, which all its hypotheses share by reference.

use candle_core::{DType, Device, Result, Tensor};

/// Keys and values of the tokens that a row has read, a pair of `[capacity, width]` for each layer.
///
/// Allocated once; new tokens are written behind the old ones in place.
#[derive(Debug)]
pub struct RowCache {
    pub(super) layers: Vec<(Tensor, Tensor)>,
    len: usize,
    capacity: usize,
}

impl RowCache {
    /// An empty cache for `capacity` tokens.
    ///
    /// # Errors
    /// Out of memory on the device.
    pub(super) fn new(layers: usize, capacity: usize, width: usize, device: &Device) -> Result<Self> {
        let zeros = || Tensor::zeros((capacity, width), DType::F32, device);
        let layers = (0..layers).map(|_| Ok((zeros()?, zeros()?))).collect::<Result<_>>()?;
        Ok(Self { layers, len: 0, capacity })
    }

    /// Tokens read so far: the position of the next one.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// True before the first token.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Tokens that fit.
    #[must_use]
    pub const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Forgets everything; keeps the memory.
    pub const fn clear(&mut self) {
        self.len = 0;
    }

    pub(super) const fn advance(&mut self, tokens: usize) {
        self.len += tokens;
    }

    /// Becomes a copy of `other`, of which only the tokens read are copied.
    ///
    /// # Errors
    /// The caches are of different models or this one is too short.
    pub fn copy_from(&mut self, other: &Self) -> Result<()> {
        if other.len > self.capacity || other.layers.len() != self.layers.len() {
            candle_core::bail!("a cache of {} tokens does not fit into one for {}", other.len, self.capacity);
        }
        self.len = other.len;
        if other.len == 0 {
            return Ok(());
        }
        for ((keys, values), (other_keys, other_values)) in self.layers.iter().zip(&other.layers) {
            keys.slice_set(&other_keys.narrow(0, 0, other.len)?, 0, 0)?;
            values.slice_set(&other_values.narrow(0, 0, other.len)?, 0, 0)?;
        }
        Ok(())
    }
}

/// Keys and values of a window of audio, computed once, read by every token of every row.
#[derive(Debug)]
pub struct CrossCache {
    /// For each layer: keys `[heads, size, positions]`, transposed and scaled; values `[heads, positions, size]`.
    pub(super) layers: Vec<(Tensor, Tensor)>,
}
