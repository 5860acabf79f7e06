//! Mel frames to states: two convolutions and a stack of self-attention layers.
//!
//! On a CPU a batch of windows gains nothing over one window after the other on all cores, and a window's states must
//! not depend on its neighbours; elsewhere a batch goes through the linear layers as one matrix.

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
        self.packed(std::slice::from_ref(mel))
    }

    /// The states of several windows, each as from [`Encoder::forward`].
    ///
    /// # Errors
    /// As there.
    pub fn forward_all(&self, mels: &[Tensor]) -> Result<Vec<Tensor>> {
        if mels.iter().all(|mel| mel.device().is_cpu()) {
            return mels.iter().map(|mel| self.forward(mel)).collect();
        }
        let states = self.packed(mels)?;
        let positions = self.positions.dim(0)?;
        (0..mels.len()).map(|i| states.narrow(0, i * positions, positions)?.contiguous()).collect()
    }

    /// The states of all windows below each other: `[windows * positions, width]`.
    fn packed(&self, mels: &[Tensor]) -> Result<Tensor> {
        let positions = self.positions.dim(0)?;
        let frames = 2 * positions;
        let neighbours = |mel: &Tensor| {
            let (given, _) = mel.dims2()?;
            if given != frames {
                candle_core::bail!("{given} mel frames for {positions} positions");
            }
            let x = mel.pad_with_zeros(0, 1, 1)?;
            let shifted: Vec<Tensor> = (0..3).map(|k| x.narrow(0, k, frames)).collect::<Result<_>>()?;
            Tensor::cat(&shifted, 1)
        };
        let x = self.conv1.gelu(&each(mels.iter().map(neighbours))?)?;
        // With one frame of padding in front, position i reads frames 2i, 2i + 1 and 2i + 2: the first two are one
        // row of the frames taken in pairs, the third begins the next pair.
        let width = x.dim(1)?;
        let pairs = |window: usize| {
            let x = x.narrow(0, window * frames, frames)?.pad_with_zeros(0, 1, 1)?;
            let pairs = x.reshape((positions + 1, 2 * width))?;
            let pair = pairs.narrow(0, 0, positions)?;
            let next = pairs.narrow(0, 1, positions)?.narrow(1, 0, width)?;
            Tensor::cat(&[pair, next], 1)
        };
        let x = self.conv2.gelu(&each((0..mels.len()).map(pairs))?)?;
        let window = |x: &Tensor, i: usize| x.narrow(0, i * positions, positions);
        let mut x = each((0..mels.len()).map(|i| window(&x, i)? + &self.positions))?;
        for layer in &self.layers {
            let y = layer.norm.forward(&x)?;
            let a = &layer.attention;
            let (q, k, v) = (a.query.forward(&y)?, a.key.forward(&y)?, a.value.forward(&y)?);
            let seen =
                |i: usize| attention::encoder(&window(&q, i)?, &window(&k, i)?, &window(&v, i)?, self.heads);
            x = (x + a.out.forward(&each((0..mels.len()).map(seen))?)?)?;
            x = layer.feed_forward.forward(&x)?;
        }
        self.norm.forward(&x)
    }
}

/// What each window gave, below each other.
fn each(windows: impl Iterator<Item = Result<Tensor>>) -> Result<Tensor> {
    match <[Tensor; 1]>::try_from(windows.collect::<Result<Vec<_>>>()?) {
        Ok([only]) => Ok(only),
        Err(several) => Tensor::cat(&several, 0),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use crate::asr::{
        model::load,
        weights::{BUILTIN, ModelFiles},
    };

    #[test]
    fn windows_encoded_together_are_what_they_are_alone() {
        let model = load::load(&ModelFiles::Embedded(BUILTIN), &Device::Cpu).unwrap();
        let (frames, bins) = (model.config.frames(), model.config.dims.num_mel_bins);
        let mels: Vec<Tensor> = (0..3)
            .map(|i| Tensor::randn(i as f32 * 0.2, 0.5, (frames, bins), &Device::Cpu).unwrap())
            .collect();
        let together = model.encoder.packed(&mels).unwrap();
        let positions = frames / 2;
        for (i, (mel, alone)) in mels.iter().zip(model.encoder.forward_all(&mels).unwrap()).enumerate() {
            let same = (model.encoder.forward(mel).unwrap() - &alone).unwrap().abs().unwrap();
            assert_eq!(same.max_all().unwrap().to_scalar::<f32>().unwrap(), 0.0);
            let part = together.narrow(0, i * positions, positions).unwrap();
            let worst = (part - alone).unwrap().abs().unwrap().max_all().unwrap();
            assert!(worst.to_scalar::<f32>().unwrap() < 1e-4, "window {i}");
        }
    }
}
