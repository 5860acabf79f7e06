//! The model that ships inside the binary: spoken commands in English, 450 words (see its MODEL_CARD.md).

use super::EmbeddedFile;

/// The name that users know it by.
pub const BUILTIN_NAME: &str = "command-en";

macro_rules! embedded {
    ($($name:literal),* $(,)?) => {
        &[$(EmbeddedFile {
            name: $name,
            bytes: include_bytes!(concat!("../../../assets/models/command-en/", $name)),
        }),*]
    };
}

/// The files of `command-en`.
pub const BUILTIN: &[EmbeddedFile] = embedded![
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "tokenizer.json",
    "model.safetensors",
];
