//! `config.json` and `generation_config.json`: read, checked, and brought into one form.
//!
//! Pure functions of the files' bytes.

use candle_transformers::models::whisper::Config;
use serde::Deserialize;

use super::{ModelError, heads::AlignmentHead};

/// Upper bounds that no Whisper comes near; beyond them a file is nonsense, and believing it would only allocate.
const MAX_WIDTH: usize = 1 << 14;
const MAX_LAYERS: usize = 256;
const MAX_VOCABULARY: usize = 1 << 20;
const MAX_POSITIONS: usize = 1 << 15;
const MAX_MEL_BINS: usize = 512;

/// The files' names, for messages.
pub const CONFIG_FILE: &str = "config.json";
/// See [`CONFIG_FILE`].
pub const GENERATION_FILE: &str = "generation_config.json";

/// Everything about a model that is not a weight or a token.
#[derive(Debug, Clone)]
pub struct ModelConfig {
    /// Sizes, in candle's own type.
    pub dims: Config,
    /// Inner width of the encoder's feed-forward layers.
    pub encoder_ffn: usize,
    /// Inner width of the decoder's feed-forward layers.
    pub decoder_ffn: usize,
    /// Token embeddings are multiplied by the square root of the width.
    pub scale_embedding: bool,
    /// The output projection is the token table.
    pub tied: bool,
    /// Tokens never decoded.
    pub suppress: Vec<u32>,
    /// Tokens never decoded first.
    pub begin_suppress: Vec<u32>,
    /// Heads whose cross-attention follows the audio, when the files list them.
    pub alignment_heads: Option<Vec<AlignmentHead>>,
    /// Largest first timestamp, as an index of 20 ms steps.
    pub max_initial_timestamp_index: Option<usize>,
    /// Whether the model takes language and task tokens, when the files say so.
    pub multilingual: Option<bool>,
    /// Width of the median filter over alignment weights.
    pub median_filter_width: usize,
}

impl ModelConfig {
    /// Mel frames in one window (two for each encoder position).
    #[must_use]
    pub const fn frames(&self) -> usize {
        self.dims.max_source_positions * 2
    }
}

#[derive(Deserialize)]
struct RawConfig {
    num_mel_bins: usize,
    d_model: usize,
    encoder_layers: usize,
    decoder_layers: usize,
    encoder_attention_heads: usize,
    decoder_attention_heads: usize,
    encoder_ffn_dim: Option<usize>,
    decoder_ffn_dim: Option<usize>,
    max_source_positions: usize,
    max_target_positions: usize,
    vocab_size: usize,
    activation_function: Option<String>,
    scale_embedding: Option<bool>,
    tie_word_embeddings: Option<bool>,
    median_filter_width: Option<usize>,
    suppress_tokens: Option<Vec<i64>>,
    begin_suppress_tokens: Option<Vec<i64>>,
    alignment_heads: Option<Vec<AlignmentHead>>,
}

#[derive(Deserialize, Default)]
struct RawGeneration {
    suppress_tokens: Option<Vec<i64>>,
    begin_suppress_tokens: Option<Vec<i64>>,
    alignment_heads: Option<Vec<AlignmentHead>>,
    max_initial_timestamp_index: Option<usize>,
    is_multilingual: Option<bool>,
}

fn parse<T: serde::de::DeserializeOwned>(file: &str, bytes: &[u8]) -> Result<T, ModelError> {
    serde_json::from_slice(bytes).map_err(|e| match e.classify() {
        serde_json::error::Category::Data => ModelError::Config { file: file.into(), reason: e.to_string() },
        serde_json::error::Category::Io
        | serde_json::error::Category::Syntax
        | serde_json::error::Category::Eof => {
            ModelError::Damaged { file: file.into(), reason: e.to_string() }
        }
    })
}

/// Reads both files; `generation` is missing in some fine-tunes, then `config` speaks for it.
///
/// # Errors
/// JSON that does not parse, a missing key, or sizes that no Whisper can have.
pub fn read(config: &[u8], generation: Option<&[u8]>) -> Result<ModelConfig, ModelError> {
    let raw: RawConfig = parse(CONFIG_FILE, config)?;
    let generation: RawGeneration =
        generation.map(|bytes| parse(GENERATION_FILE, bytes)).transpose()?.unwrap_or_default();
    check(&raw)?;
    let tokens = |list: Option<Vec<i64>>| -> Vec<u32> {
        let ids = list.unwrap_or_default().into_iter();
        ids.filter_map(|id| u32::try_from(id).ok()).filter(|&id| (id as usize) < raw.vocab_size).collect()
    };
    let suppress = tokens(generation.suppress_tokens.or_else(|| raw.suppress_tokens.clone()));
    let begin_suppress =
        tokens(generation.begin_suppress_tokens.or_else(|| raw.begin_suppress_tokens.clone()));
    let heads = generation.alignment_heads.or(raw.alignment_heads);
    if let Some(bad) =
        heads.iter().flatten().find(|h| !h.fits(raw.decoder_layers, raw.decoder_attention_heads))
    {
        return Err(ModelError::Config {
            file: GENERATION_FILE.into(),
            reason: format!(
                "alignment head [{}, {}] is outside {} layers of {} heads",
                bad.layer, bad.head, raw.decoder_layers, raw.decoder_attention_heads
            ),
        });
    }
    Ok(ModelConfig {
        encoder_ffn: raw.encoder_ffn_dim.unwrap_or(4 * raw.d_model),
        decoder_ffn: raw.decoder_ffn_dim.unwrap_or(4 * raw.d_model),
        scale_embedding: raw.scale_embedding.unwrap_or(false),
        tied: raw.tie_word_embeddings.unwrap_or(true),
        suppress: suppress.clone(),
        begin_suppress,
        alignment_heads: heads.filter(|heads| !heads.is_empty()),
        max_initial_timestamp_index: generation.max_initial_timestamp_index,
        multilingual: generation.is_multilingual,
        median_filter_width: raw.median_filter_width.filter(|w| w % 2 == 1).unwrap_or(7),
        dims: Config {
            num_mel_bins: raw.num_mel_bins,
            max_source_positions: raw.max_source_positions,
            d_model: raw.d_model,
            encoder_attention_heads: raw.encoder_attention_heads,
            encoder_layers: raw.encoder_layers,
            vocab_size: raw.vocab_size,
            max_target_positions: raw.max_target_positions,
            decoder_attention_heads: raw.decoder_attention_heads,
            decoder_layers: raw.decoder_layers,
            suppress_tokens: suppress,
        },
    })
}

fn check(raw: &RawConfig) -> Result<(), ModelError> {
    let wrong = |reason: String| Err(ModelError::Config { file: CONFIG_FILE.into(), reason });
    let ffn = 4 * MAX_WIDTH;
    let sizes = [
        ("d_model", raw.d_model, MAX_WIDTH),
        ("encoder_layers", raw.encoder_layers, MAX_LAYERS),
        ("decoder_layers", raw.decoder_layers, MAX_LAYERS),
        ("encoder_attention_heads", raw.encoder_attention_heads, MAX_WIDTH),
        ("decoder_attention_heads", raw.decoder_attention_heads, MAX_WIDTH),
        ("encoder_ffn_dim", raw.encoder_ffn_dim.unwrap_or(1), ffn),
        ("decoder_ffn_dim", raw.decoder_ffn_dim.unwrap_or(1), ffn),
        ("num_mel_bins", raw.num_mel_bins, MAX_MEL_BINS),
        ("max_source_positions", raw.max_source_positions, MAX_POSITIONS),
        ("max_target_positions", raw.max_target_positions, MAX_POSITIONS),
        ("vocab_size", raw.vocab_size, MAX_VOCABULARY),
    ];
    for (key, value, most) in sizes {
        if value == 0 || value > most {
            return wrong(format!("{key} is {value}, expected 1 to {most}"));
        }
    }
    for (key, heads) in [
        ("encoder_attention_heads", raw.encoder_attention_heads),
        ("decoder_attention_heads", raw.decoder_attention_heads),
    ] {
        if !raw.d_model.is_multiple_of(heads) {
            return wrong(format!("d_model {} is not divisible by {key} {heads}", raw.d_model));
        }
    }
    if raw.max_target_positions < 8 {
        return wrong(format!("max_target_positions is {}, expected at least 8", raw.max_target_positions));
    }
    match raw.activation_function.as_deref() {
        None | Some("gelu") => Ok(()),
        Some(other) => wrong(format!("activation_function is {other:?}, expected \"gelu\"")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn tiny() -> Value {
        json!({
            "num_mel_bins": 80, "d_model": 48, "encoder_layers": 2, "decoder_layers": 2,
            "encoder_attention_heads": 3, "decoder_attention_heads": 3, "max_source_positions": 300,
            "max_target_positions": 64, "vocab_size": 612, "suppress_tokens": [1, -1, 900], "begin_suppress_tokens": null,
        })
    }

    fn with(key: &str, value: Value) -> Result<ModelConfig, ModelError> {
        let mut config = tiny();
        config[key] = value;
        read(config.to_string().as_bytes(), None)
    }

    #[test]
    fn defaults_and_fallbacks() {
        let config = read(tiny().to_string().as_bytes(), None).unwrap();
        assert_eq!((config.encoder_ffn, config.tied, config.median_filter_width), (192, true, 7));
        assert_eq!((config.suppress.as_slice(), config.begin_suppress.as_slice()), (&[1][..], &[][..]));
        assert_eq!((config.alignment_heads, config.multilingual), (None, None));
        assert_eq!(config.dims.max_source_positions * 2, 600);
    }

    #[test]
    fn the_generation_config_speaks_first() {
        let generation =
            br#"{"suppress_tokens": [7], "alignment_heads": [[1, 2]], "is_multilingual": false}"#;
        let config = read(tiny().to_string().as_bytes(), Some(generation)).unwrap();
        assert_eq!(config.suppress, [7]);
        assert_eq!(config.alignment_heads, Some(vec![AlignmentHead { layer: 1, head: 2 }]));
        assert_eq!(config.multilingual, Some(false));
    }

    #[test]
    fn nonsense_is_named() {
        for (key, value, part) in [
            ("decoder_attention_heads", json!(0), "decoder_attention_heads is 0"),
            ("encoder_attention_heads", json!(5), "not divisible by encoder_attention_heads 5"),
            ("d_model", json!(4_000_000_000u64), "d_model is 4000000000"),
            ("max_source_positions", json!(1u64 << 40), "max_source_positions"),
            ("vocab_size", json!(-3), "-3"),
            ("activation_function", json!("relu"), "relu"),
            ("max_target_positions", json!(3), "at least 8"),
        ] {
            let error = with(key, value).unwrap_err();
            assert!(matches!(error, ModelError::Config { .. }), "{error:?}");
            assert!(error.to_string().contains(part), "{error}");
        }
    }

    #[test]
    fn an_alignment_head_that_is_not_there_is_an_error() {
        let error = with("alignment_heads", json!([[1, 3]])).unwrap_err();
        assert!(error.to_string().contains("[1, 3]"), "{error}");
    }

    #[test]
    fn broken_json_is_damage_and_a_missing_key_is_not() {
        assert!(matches!(read(b"{\"d_model\": 4", None), Err(ModelError::Damaged { .. })));
        let error = read(b"{\"d_model\": 4}", None).unwrap_err();
        assert!(
            matches!(&error, ModelError::Config { reason, .. } if reason.contains("num_mel_bins")),
            "{error}"
        );
    }
}
