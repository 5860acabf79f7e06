//! The Whisper network on candle: read once, immutable, shared; every cache lives outside it.
//!
//! Runs on the thread that calls it (and rayon's current pool). [`load::load`] reads a model directory into a
//! [`Whisper`]: an [`encoder::Encoder`] turns a window of mel frames into states, [`decoder::Decoder`] prepares them
//! once as a [`cache::CrossCache`] and then advances any number of rows, each with its own [`cache::RowCache`],
//! position and window, in one batch.

pub mod cache;
pub mod config;
pub mod decoder;
pub mod device;
pub mod encoder;
pub mod heads;
pub mod layers;
pub mod load;
pub mod source;

use std::path::PathBuf;

/// Why a model could not be loaded. The messages name the file, and the tensor where there is one.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file that every model needs is not there: fetch the model again or point at another directory.
    #[error(
        "{location} has no {file}; pull the model again or point at a complete Hugging Face Whisper directory"
    )]
    MissingFile {
        /// The directory or `built-in`.
        location: String,
        /// The file or files looked for.
        file: String,
    },
    /// The operating system would not read a file.
    #[error("cannot read {}; check that it exists and is readable", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// A file is cut short or is not what its name says: fetch it again.
    #[error("{file} is damaged or incomplete ({reason}); delete it and pull the model again")]
    Damaged {
        /// The file.
        file: String,
        /// What was wrong.
        reason: String,
    },
    /// A configuration value makes no sense, or files contradict each other.
    #[error("{file}: {reason}; this is not a Whisper model that godctl can run")]
    Config {
        /// The file.
        file: String,
        /// The key, its value, and what was expected.
        reason: String,
    },
    /// The weights lack a tensor that the configuration calls for.
    #[error("{file} has no tensor {tensor}; the weights do not belong to this config.json")]
    MissingTensor {
        /// The file searched.
        file: String,
        /// The tensor's name.
        tensor: String,
    },
    /// A tensor does not have the shape that the configuration calls for.
    #[error(
        "{file}: tensor {tensor} is {found:?}, expected {expected:?}; the weights do not belong to this config.json"
    )]
    Shape {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The shape from the configuration.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A tensor is stored as a type that Whisper weights never have.
    #[error(
        "{file}: tensor {tensor} is stored as {dtype}; f32, f16, bf16 and GGUF's quantised types are known"
    )]
    Dtype {
        /// The file.
        file: String,
        /// The tensor's name.
        tensor: String,
        /// The type found.
        dtype: String,
    },
    /// The device asked for cannot be used: choose another.
    #[error("cannot use device {device}: {reason}; choose another, for example --device cpu")]
    Device {
        /// As asked for.
        device: String,
        /// Why not.
        reason: String,
    },
    /// Weights could not be brought to the device (out of memory, most likely).
    #[error("cannot place tensor {tensor} on {device}; is there enough memory?")]
    Placement {
        /// The tensor's name.
        tensor: String,
        /// The device.
        device: String,
        /// candle's own words.
        #[source]
        source: Box<candle_core::Error>,
    },
}

/// The network: weights only. Cheap to share behind an `Arc`.
#[derive(Debug)]
pub struct Whisper {
    /// The sizes and lists that the files gave.
    pub config: config::ModelConfig,
    /// Mel frames to states.
    pub encoder: encoder::Encoder,
    /// Tokens and states to logits.
    pub decoder: decoder::Decoder,
    /// Number of weights.
    pub parameters: u64,
}
