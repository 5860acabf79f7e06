//! From a model's files to a [`Whisper`]: finds each tensor by its Hugging Face name, checks its shape, places it.
//!
//! Runs once, on the thread that loads.

use candle_core::{Device, Tensor, quantized::QMatMul};
use candle_nn::LayerNorm;

use super::{
    ModelError, Whisper,
    config::{self, ModelConfig},
    decoder::{Decoder, DecoderLayer},
    encoder::{Encoder, EncoderLayer},
    layers::{Attention, FeedForward, Linear, Weight},
    source::{Files, Stored, Weights},
};
use crate::asr::weights::ModelFiles;

/// Added to the variance by every layer norm (PyTorch's default).
const NORM_EPSILON: f64 = 1e-5;
/// The output projection, which most files leave out because it is the token table.
const PROJECTION: &str = "proj_out.weight";

/// Loads the weights and the two configuration files.
///
/// # Errors
/// See [`ModelError`].
pub fn load(files: &ModelFiles, device: &Device) -> Result<Whisper, ModelError> {
    let files = Files::new(files);
    let config = files.required(config::CONFIG_FILE)?;
    let generation = files.optional(config::GENERATION_FILE)?;
    let config = config::read(&config, generation.as_deref())?;
    let weights = files.weights()?;
    // Fine-tunes saved from the bare model leave out the prefix.
    let prefix = if weights.shape("model.decoder.embed_tokens.weight").is_none()
        && weights.shape("decoder.embed_tokens.weight").is_some()
    {
        ""
    } else {
        "model."
    };
    let mut loader = Loader { weights: &weights, device, prefix, width: config.dims.d_model, parameters: 0 };
    let encoder = loader.encoder(&config)?;
    let decoder = loader.decoder(&config)?;
    Ok(Whisper { encoder, decoder, parameters: loader.parameters, config })
}

struct Loader<'a> {
    weights: &'a Weights,
    device: &'a Device,
    prefix: &'static str,
    width: usize,
    parameters: u64,
}

impl Loader<'_> {
    /// A tensor with its full name, as the file stores it.
    fn stored(&mut self, name: &str, shape: &[usize]) -> Result<Stored, ModelError> {
        let stored = self.weights.get(name, shape, self.device)?;
        self.parameters += shape.iter().product::<usize>() as u64;
        Ok(stored)
    }

    fn place<T>(&self, name: &str, result: candle_core::Result<T>) -> Result<T, ModelError> {
        result.map_err(|source| ModelError::Placement {
            tensor: name.into(),
            device: super::device::name(self.device),
            source: Box::new(source),
        })
    }

    /// A tensor below the model prefix as f32.
    fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        let name = format!("{}{name}", self.prefix);
        match self.stored(&name, shape)? {
            Stored::Dense(tensor) => Ok(tensor),
            Stored::Quantized(tensor) => self.place(&name, tensor.dequantize(self.device)),
        }
    }

    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<Weight, ModelError> {
        match self.stored(name, shape)? {
            Stored::Dense(tensor) => Ok(Weight::Dense(tensor)),
            Stored::Quantized(tensor) => {
                self.place(name, QMatMul::from_qtensor(tensor)).map(Weight::Quantized)
            }
        }
    }

    /// `[outputs, inputs]` and its bias.
    fn linear(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, ModelError> {
        Ok(Linear {
            bias: Some(self.tensor(&format!("{name}.bias"), &[outputs])?),
            ..self.unbiased(name, outputs, inputs)?
        })
    }

    fn unbiased(&mut self, name: &str, outputs: usize, inputs: usize) -> Result<Linear, ModelError> {
        let name = format!("{}{name}.weight", self.prefix);
        Ok(Linear { weight: self.weight(&name, &[outputs, inputs])?, bias: None })
    }

    /// A convolution of width 3 as a linear layer over three neighbouring frames.
    fn convolution(&mut self, name: &str, inputs: usize) -> Result<Linear, ModelError> {
        let width = self.width;
        let weight = self.tensor(&format!("{name}.weight"), &[width, inputs, 3])?;
        let weight = weight.transpose(1, 2).and_then(|w| w.contiguous()?.reshape((width, 3 * inputs)));
        let bias = self.tensor(&format!("{name}.bias"), &[width])?;
        Ok(Linear { weight: Weight::Dense(self.place(name, weight)?), bias: Some(bias) })
    }

    fn norm(&mut self, name: &str) -> Result<LayerNorm, ModelError> {
        let weight = self.tensor(&format!("{name}.weight"), &[self.width])?;
        let bias = self.tensor(&format!("{name}.bias"), &[self.width])?;
        Ok(LayerNorm::new(weight, bias, NORM_EPSILON))
    }

    fn attention(&mut self, name: &str) -> Result<Attention, ModelError> {
        let width = self.width;
        Ok(Attention {
            query: self.linear(&format!("{name}.q_proj"), width, width)?,
            key: self.unbiased(&format!("{name}.k_proj"), width, width)?,
            value: self.linear(&format!("{name}.v_proj"), width, width)?,
            out: self.linear(&format!("{name}.out_proj"), width, width)?,
        })
    }

    fn feed_forward(&mut self, layer: &str, inner: usize) -> Result<FeedForward, ModelError> {
        Ok(FeedForward {
            norm: self.norm(&format!("{layer}.final_layer_norm"))?,
            up: self.linear(&format!("{layer}.fc1"), inner, self.width)?,
            down: self.linear(&format!("{layer}.fc2"), self.width, inner)?,
        })
    }

    fn encoder(&mut self, config: &ModelConfig) -> Result<Encoder, ModelError> {
        let dims = &config.dims;
        let layer = |this: &mut Self, i: usize| {
            let name = format!("encoder.layers.{i}");
            Ok(EncoderLayer {
                norm: this.norm(&format!("{name}.self_attn_layer_norm"))?,
                attention: this.attention(&format!("{name}.self_attn"))?,
                feed_forward: this.feed_forward(&name, config.encoder_ffn)?,
            })
        };
        Ok(Encoder {
            conv1: self.convolution("encoder.conv1", dims.num_mel_bins)?,
            conv2: self.convolution("encoder.conv2", self.width)?,
            positions: self
                .tensor("encoder.embed_positions.weight", &[dims.max_source_positions, self.width])?,
            layers: (0..dims.encoder_layers).map(|i| layer(self, i)).collect::<Result<_, ModelError>>()?,
            norm: self.norm("encoder.layer_norm")?,
            heads: dims.encoder_attention_heads,
        })
    }

    fn decoder(&mut self, config: &ModelConfig) -> Result<Decoder, ModelError> {
        let dims = &config.dims;
        let layer = |this: &mut Self, i: usize| {
            let name = format!("decoder.layers.{i}");
            Ok(DecoderLayer {
                self_norm: this.norm(&format!("{name}.self_attn_layer_norm"))?,
                self_attention: this.attention(&format!("{name}.self_attn"))?,
                cross_norm: this.norm(&format!("{name}.encoder_attn_layer_norm"))?,
                cross_attention: this.attention(&format!("{name}.encoder_attn"))?,
                feed_forward: this.feed_forward(&name, config.decoder_ffn)?,
            })
        };
        let table = [dims.vocab_size, self.width];
        let tokens_name = format!("{}decoder.embed_tokens.weight", self.prefix);
        let table_weight = self.weight(&tokens_name, &table)?;
        let tokens = match &table_weight {
            Weight::Dense(tensor) => tensor.clone(),
            Weight::Quantized(_) => self.lookup_table(&tokens_name, &table)?,
        };
        let untied = !config.tied && self.weights.shape(PROJECTION).is_some();
        let projection = if untied { self.weight(PROJECTION, &table)? } else { table_weight };
        Ok(Decoder {
            tokens,
            token_scale: if config.scale_embedding { (self.width as f64).sqrt() } else { 1.0 },
            positions: self
                .tensor("decoder.embed_positions.weight", &[dims.max_target_positions, self.width])?,
            layers: (0..dims.decoder_layers).map(|i| layer(self, i)).collect::<Result<_, ModelError>>()?,
            norm: self.norm("decoder.layer_norm")?,
            projection: Linear { weight: projection, bias: None },
            heads: dims.decoder_attention_heads,
            device: self.device.clone(),
        })
    }

    /// The token table in f32 for looking rows up, when the same table in blocks serves as projection.
    fn lookup_table(&self, name: &str, shape: &[usize]) -> Result<Tensor, ModelError> {
        match self.weights.get(name, shape, self.device)? {
            Stored::Dense(tensor) => Ok(tensor),
            Stored::Quantized(tensor) => self.place(name, tensor.dequantize(self.device)),
        }
    }
}
