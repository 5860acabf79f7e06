//! Model directories that are incomplete, damaged or nonsense, and weights that make a decoder loop.

use std::{fs, io::Cursor, path::Path};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use godctl::asr::DecodeOptions;
use godctl::asr::model::ModelError;
use proptest::prelude::*;
use serde_json::Value;

use super::{demo, edit_json, load, plain, tensors, tiny_dir, transcribe, with_weights, without_weights};

#[test]
fn missing_files_are_named() {
    let error = load(Path::new("/nowhere/at/all")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/at/all") && error.contains("config.json"), "{error}");
    let error = load(without_weights().path()).unwrap_err().to_string();
    assert!(error.contains("model.safetensors") && error.contains("gguf"), "{error}");
    let directory = with_weights(&tensors());
    fs::remove_file(directory.path().join("tokenizer.json")).unwrap();
    let error = load(directory.path()).unwrap_err();
    assert!(matches!(&error, ModelError::MissingFile { file, .. } if file == "tokenizer.json"), "{error:?}");
}

#[test]
fn damaged_weights_are_named() {
    let directory = without_weights();
    let path = directory.path().join("model.safetensors");
    let whole = fs::read(tiny_dir().join("model.safetensors")).unwrap();
    for cut in [0, 7, 8, 100, 5000, whole.len() - 1] {
        fs::write(&path, &whole[..cut]).unwrap();
        let error = load(directory.path()).unwrap_err();
        assert!(
            matches!(&error, ModelError::Damaged { file, .. } if file.ends_with("model.safetensors")),
            "{cut} {error:?}"
        );
    }
    // A header that claims to be longer than any file.
    let mut huge = whole;
    huge[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    fs::write(&path, huge).unwrap();
    assert!(matches!(load(directory.path()), Err(ModelError::Damaged { .. })));
    fs::write(&path, b"version https://git-lfs.github.com/spec/v1\n").unwrap();
    assert!(matches!(load(directory.path()), Err(ModelError::Damaged { .. })));
}

#[test]
fn wrong_tensors_are_named() {
    let mut missing = tensors();
    missing.remove("model.decoder.layers.1.fc2.weight");
    let error = load(with_weights(&missing).path()).unwrap_err();
    assert!(
        matches!(&error, ModelError::MissingTensor { tensor, .. } if tensor == "model.decoder.layers.1.fc2.weight"),
        "{error:?}"
    );

    let mut wrong = tensors();
    wrong.insert(
        "model.encoder.conv1.weight".into(),
        Tensor::zeros((48, 128, 3), DType::F32, &Device::Cpu).unwrap(),
    );
    let error = load(with_weights(&wrong).path()).unwrap_err().to_string();
    for part in ["model.encoder.conv1.weight", "[48, 128, 3]", "[48, 80, 3]", "model.safetensors"] {
        assert!(error.contains(part), "{error}");
    }

    let mut whole = tensors();
    whole
        .insert("model.encoder.layer_norm.bias".into(), Tensor::zeros(48, DType::U32, &Device::Cpu).unwrap());
    assert!(matches!(load(with_weights(&whole).path()), Err(ModelError::Dtype { .. })));
}

#[test]
fn nonsense_configurations_are_errors_not_allocations() {
    let edits: [(&str, Value); 6] = [
        ("d_model", 0.into()),
        ("decoder_attention_heads", 7.into()),
        ("encoder_layers", u64::MAX.into()),
        ("vocab_size", 1_000_000.into()),
        ("max_source_positions", 30_000.into()),
        ("encoder_layers", 3.into()),
    ];
    for (key, value) in edits {
        let directory = with_weights(&tensors());
        edit_json(&directory.path().join("config.json"), |config| config[key] = value.clone());
        let error = load(directory.path()).unwrap_err();
        assert!(!matches!(error, ModelError::Placement { .. }), "{key}: {error:?}");
    }
    for (file, content) in [
        ("config.json", "{"),
        ("tokenizer.json", "[]"),
        ("generation_config.json", "{\"suppress_tokens\": 4}"),
    ] {
        let directory = with_weights(&tensors());
        fs::write(directory.path().join(file), content).unwrap();
        let error = load(directory.path()).unwrap_err().to_string();
        assert!(error.contains(file), "{error}");
    }
}

#[test]
fn a_tokenizer_of_another_model_is_noticed() {
    let directory = with_weights(&tensors());
    edit_json(&directory.path().join("tokenizer.json"), |t| {
        for token in t["added_tokens"].as_array_mut().unwrap() {
            if token["content"] == "<|startoftranscript|>" {
                token["content"] = "<|somethingelse|>".into();
            }
        }
    });
    let error = load(directory.path()).unwrap_err().to_string();
    assert!(error.contains("<|startoftranscript|>"), "{error}");
}

#[test]
fn a_model_that_loops_is_stopped_and_trimmed() {
    // The last norm ignores its input and always points at one token, " and".
    let mut tensors = tensors();
    let row = tensors["model.decoder.embed_tokens.weight"].get(277).unwrap();
    tensors.insert("model.decoder.layer_norm.weight".into(), row.zeros_like().unwrap());
    tensors.insert("model.decoder.layer_norm.bias".into(), (row * 20.0).unwrap());
    let mut whisper = load(with_weights(&tensors).path()).unwrap();
    for beam_size in [1, 3] {
        let heard = transcribe(&mut whisper, demo("demo1"), DecodeOptions { beam_size, ..plain(60) });
        assert!(
            heard.tokens.len() < 12,
            "{} tokens with {beam_size} beams: {}",
            heard.tokens.len(),
            heard.text
        );
        if beam_size == 1 {
            assert_eq!(heard.text, "and");
            // What was decoded before trimming is what the ratio speaks of.
            assert!(heard.compression_ratio > 2.0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is written over a header, loading ends with a model or an error, never with a panic.
    #[test]
    fn a_scribbled_header_is_an_error_or_harmless(at in 0usize..6000, scribble in prop::collection::vec(any::<u8>(), 1..9)) {
        let directory = without_weights();
        let path = directory.path().join("model.safetensors");
        let mut bytes = fs::read(tiny_dir().join("model.safetensors")).unwrap();
        bytes[at..at + scribble.len()].copy_from_slice(&scribble);
        fs::write(&path, bytes).unwrap();
        drop(load(directory.path()));
    }

    #[test]
    fn a_scribbled_gguf_is_an_error_or_harmless(at in 0usize..4000, scribble in prop::collection::vec(any::<u8>(), 1..9)) {
        let directory = without_weights();
        let stored: Vec<(String, QTensor)> =
            tensors().into_iter().map(|(n, t)| (n, QTensor::quantize(&t, GgmlDType::F32).unwrap())).collect();
        let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let mut file = Cursor::new(Vec::new());
        gguf_file::write(&mut file, &[("general.alignment", &gguf_file::Value::U32(32))], &refs).unwrap();
        let mut bytes = file.into_inner();
        bytes[at..at + scribble.len()].copy_from_slice(&scribble);
        fs::write(directory.path().join("m.gguf"), bytes).unwrap();
        drop(load(directory.path()));
    }
}

#[test]
fn a_gguf_with_an_alignment_of_zero_is_an_error() {
    let directory = without_weights();
    let zero =
        QTensor::quantize(&Tensor::zeros(32, DType::F32, &Device::Cpu).unwrap(), GgmlDType::F32).unwrap();
    let mut file = fs::File::create(directory.path().join("m.gguf")).unwrap();
    gguf_file::write(&mut file, &[("general.alignment", &gguf_file::Value::U32(0))], &[("x", &zero)])
        .unwrap();
    assert!(matches!(load(directory.path()), Err(ModelError::Damaged { .. })));
}
