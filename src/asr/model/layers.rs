//! The pieces that encoder and decoder are built from. Weights only; each works on `[rows, width]`.

use candle_core::{Module, Result, Tensor, quantized::QMatMul};
use candle_nn::LayerNorm;

use crate::asr::kernels::{
    gelu::{Activation, finish},
    linear::few_rows,
};

/// The numbers of a linear layer, `[out, in]`.
#[derive(Debug)]
pub enum Weight {
    /// f32.
    Dense(Tensor),
    /// GGUF blocks; the product dequantises as it goes.
    Quantized(QMatMul),
}

/// `x * weight^T + bias`.
#[derive(Debug)]
pub struct Linear {
    /// `[out, in]`.
    pub weight: Weight,
    /// `[out]`.
    pub bias: Option<Tensor>,
}

impl Linear {
    /// `[rows, in]` to `[rows, out]`.
    ///
    /// # Errors
    /// The shapes do not fit, or the device failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.activated(x, Activation::None)
    }

    /// [`Linear::forward`] followed by the exact GELU.
    ///
    /// # Errors
    /// The shapes do not fit, or the device failed.
    pub fn gelu(&self, x: &Tensor) -> Result<Tensor> {
        self.activated(x, Activation::Gelu)
    }

    fn activated(&self, x: &Tensor, activation: Activation) -> Result<Tensor> {
        let product = match &self.weight {
            Weight::Dense(weight) => match few_rows(x, weight)? {
                Some(product) => product,
                None => x.matmul(&weight.t()?)?,
            },
            Weight::Quantized(weight) => weight.forward(x)?,
        };
        finish(product, self.bias.as_ref(), activation)
    }
}

/// The four projections of an attention layer.
#[derive(Debug)]
pub struct Attention {
    /// Queries.
    pub query: Linear,
    /// Keys; Whisper gives them no bias.
    pub key: Linear,
    /// Values.
    pub value: Linear,
    /// Result.
    pub out: Linear,
}

/// The feed-forward half of a layer.
#[derive(Debug)]
pub struct FeedForward {
    /// Before.
    pub norm: LayerNorm,
    /// Widening.
    pub up: Linear,
    /// Narrowing.
    pub down: Linear,
}

impl FeedForward {
    /// `x` plus what the layer makes of it.
    ///
    /// # Errors
    /// The device failed.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        x + self.down.forward(&self.up.gelu(&self.norm.forward(x)?)?)?
    }
}
