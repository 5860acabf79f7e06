//! Mel frames to states: two convolutions and a stack of self-attention layers, one window at a time.
//!
//! On a CPU a batch of windows gains nothing over one window on all cores, so there is none.

use candle_core::{Module, Result, Tensor};
use candle_nn::LayerNorm;

use super::layers::{Attention, FeedForward, Linear};
use crate::asr::kernels::attention;

/// One layer of the encoder.
#[derive(Debug)]
pub struct EncoderLayer {
    /// Before the attention.
    pub norm: LayerNorm,
    /// Every position over every other.
    pub attention: Attention,
    /// The rest.
    pub feed_forward: FeedForward,
}

/// The encoder's weights.
#[derive(Debug)]
pub struct Encoder {
    /// First convolution (width 3, stride 1) as a linear layer over three neighbouring frames, `[width, 3 * bins]`.
    pub conv1: Linear,
    /// Second convolution (width 3, stride 2), likewise, `[width, 3 * width]`.
    pub conv2: Linear,
    /// `[positions, width]`.
    pub positions: Tensor,
    /// In order.
    pub layers: Vec<EncoderLayer>,
    /// After the last layer.
    pub norm: LayerNorm,
    /// Heads of a layer.
    pub heads: usize,
}

impl Encoder {
    /// The states of one window: `[2 * positions, bins]` mel frames to `[positions, width]`.
    ///
    /// # Errors
    /// Another number of frames or bins, or the device failed.
    pub fn forward(&self, mel: &Tensor) -> Result<Tensor> {
        let (frames, _) = mel.dims2()?;
        if frames != 2 * self.positions.dim(0)? {
            candle_core::bail!("{frames} mel frames for {} positions", self.positions.dim(0)?);
        }
        let x = mel.pad_with_zeros(0, 1, 1)?;
        let neighbours: Vec<Tensor> = (0..3).map(|k| x.narrow(0, k, frames)).collect::<Result<_>>()?;
        let x = self.conv1.gelu(&Tensor::cat(&neighbours, 1)?)?;
        // With one frame of padding in front, position i reads frames 2i, 2i + 1 and 2i + 2: the first two are one
        // row of the frames taken in pairs, the third begins the next pair.
        let width = x.dim(1)?;
        let x = x.pad_with_zeros(0, 1, 1)?;
        let pairs = x.reshape((frames / 2 + 1, 2 * width))?;
        let pair = pairs.narrow(0, 0, frames / 2)?;
        let next = pairs.narrow(0, 1, frames / 2)?.narrow(1, 0, width)?;
        let x = self.conv2.gelu(&Tensor::cat(&[pair, next], 1)?)?;
        let mut x = (x + &self.positions)?;
        for layer in &self.layers {
            let y = layer.norm.forward(&x)?;
            let a = &layer.attention;
            let (q, k, v) = (a.query.forward(&y)?, a.key.forward(&y)?, a.value.forward(&y)?);
            x = (x + a.out.forward(&attention::encoder(&q, &k, &v, self.heads)?)?)?;
            x = layer.feed_forward.forward(&x)?;
        }
        self.norm.forward(&x)
    }
}
