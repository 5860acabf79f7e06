//! The models that are measured: the built-in one, and Whisper's shapes with random weights.

use std::{collections::HashMap, path::Path};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

/// One of Whisper's shapes.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) width: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
}

pub(crate) const TINY: Shape = Shape { width: 384, layers: 4, heads: 6 };
pub(crate) const BASE: Shape = Shape { width: 512, layers: 6, heads: 8 };

const VOCABULARY: usize = 51_865;
const END: usize = 50_257;

/// Writes a model of this shape with random f16 weights, in Hugging Face's layout; gives its configuration.
pub(crate) fn random(dir: &Path, shape: Shape) -> Value {
    let Shape { width, layers, heads } = shape;
    let config = json!({
        "model_type": "whisper", "activation_function": "gelu", "num_mel_bins": 80, "d_model": width,
        "encoder_layers": layers, "decoder_layers": layers, "encoder_attention_heads": heads,
        "decoder_attention_heads": heads, "encoder_ffn_dim": 4 * width, "decoder_ffn_dim": 4 * width,
        "max_source_positions": 1500, "max_target_positions": 448, "vocab_size": VOCABULARY,
        "eos_token_id": END, "decoder_start_token_id": END + 1,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    std::fs::write(dir.join("tokenizer.json"), tokenizer().to_string()).unwrap();
    let mut tensors = HashMap::new();
    let mut put = |name: String, shape: &[usize]| {
        let scale = (shape.last().copied().unwrap_or(1) as f32).sqrt().recip();
        let tensor = if name.ends_with("norm.weight") {
            Tensor::ones(shape, DType::F16, &Device::Cpu).unwrap()
        } else {
            Tensor::randn(0f32, scale, shape, &Device::Cpu).unwrap().to_dtype(DType::F16).unwrap()
        };
        tensors.insert(name, tensor);
    };
    let linear =
        |put: &mut dyn FnMut(String, &[usize]), name: String, out: usize, input: usize, bias: bool| {
            put(format!("{name}.weight"), &[out, input]);
            if bias {
                put(format!("{name}.bias"), &[out]);
            }
        };
    let norm = |put: &mut dyn FnMut(String, &[usize]), name: String| {
        put(format!("{name}.weight"), &[width]);
        put(format!("{name}.bias"), &[width]);
    };
    for side in ["encoder", "decoder"] {
        for i in 0..layers {
            let layer = format!("model.{side}.layers.{i}");
            let attentions: &[&str] =
                if side == "encoder" { &["self_attn"] } else { &["self_attn", "encoder_attn"] };
            for attention in attentions {
                for (part, bias) in
                    [("q_proj", true), ("k_proj", false), ("v_proj", true), ("out_proj", true)]
                {
                    linear(&mut put, format!("{layer}.{attention}.{part}"), width, width, bias);
                }
                norm(&mut put, format!("{layer}.{attention}_layer_norm"));
            }
            linear(&mut put, format!("{layer}.fc1"), 4 * width, width, true);
            linear(&mut put, format!("{layer}.fc2"), width, 4 * width, true);
            norm(&mut put, format!("{layer}.final_layer_norm"));
        }
        norm(&mut put, format!("model.{side}.layer_norm"));
    }
    for (name, input) in [("conv1", 80), ("conv2", width)] {
        put(format!("model.encoder.{name}.weight"), &[width, input, 3]);
        put(format!("model.encoder.{name}.bias"), &[width]);
    }
    put("model.encoder.embed_positions.weight".to_owned(), &[1500, width]);
    put("model.decoder.embed_positions.weight".to_owned(), &[448, width]);
    put("model.decoder.embed_tokens.weight".to_owned(), &[VOCABULARY, width]);
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    config
}

/// As many tokens as Whisper has, with its special ones at their places; the others are made up.
fn tokenizer() -> Value {
    let vocabulary: serde_json::Map<String, Value> =
        (0..END).map(|id| (format!("\u{120}w{id}"), json!(id))).collect();
    let mut specials =
        vec!["<|endoftext|>".to_owned(), "<|startoftranscript|>".to_owned(), "<|en|>".to_owned()];
    specials.extend((1..99).map(|i| format!("<|unused{i}|>")));
    specials.extend(
        ["translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
            .map(|name| format!("<|{name}|>")),
    );
    specials.extend((0..=1500).map(|i| format!("<|{:.2}|>", f64::from(i) * 0.02)));
    assert_eq!(END + specials.len(), VOCABULARY);
    let added: Vec<Value> = specials
        .iter()
        .enumerate()
        .map(|(i, content)| {
            json!({ "id": END + i, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true })
        })
        .collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": { "type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true },
        "model": { "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "vocab": vocabulary,
            "merges": [] },
    })
}
