//! The Whisper engine against the reference library's numbers, the shipped model, and damaged model directories.
//!
//! `tests/fixtures/tiny-whisper` is a seeded random model; `golden.json` says what each number is and how it was made
//! (`tools/tiny-whisper/make.py`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests fail by panicking")]

mod builtin;
mod damage;
mod decoding;
mod network;
mod storage;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use godctl::asr::model::ModelError;
use godctl::asr::model::cache::CrossCache;
use godctl::asr::model::decoder::Row;
use godctl::asr::model::device::DeviceChoice;
use godctl::asr::weights::{ModelFiles, ModelSource};
use godctl::asr::whisper::{LoadOptions, WhisperTranscriber};
use godctl::asr::{DecodeOptions, Hypothesis, Transcriber, Window};
use serde_json::Value;

/// Everything in f32 agrees with the reference this closely.
const TOLERANCE: f32 = 1e-4;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn tiny_dir() -> PathBuf {
    root().join("tests/fixtures/tiny-whisper")
}

fn load(directory: &Path) -> Result<WhisperTranscriber, ModelError> {
    let source = ModelSource { name: "tiny".into(), files: ModelFiles::Directory(directory.to_path_buf()) };
    WhisperTranscriber::load(&source, LoadOptions { device: DeviceChoice::Cpu, threads: None })
}

fn tiny() -> WhisperTranscriber {
    load(&tiny_dir()).unwrap()
}

/// A 16 kHz mono 16-bit WAV file.
fn wav(path: &Path) -> Vec<f32> {
    let bytes = fs::read(path).unwrap();
    assert_eq!((&bytes[..4], &bytes[8..12]), (&b"RIFF"[..], &b"WAVE"[..]), "{}", path.display());
    let mut at = 12;
    let mut checked = false;
    loop {
        let length = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        let body = &bytes[at + 8..at + 8 + length];
        match &bytes[at..at + 4] {
            b"fmt " => {
                let field = |i: usize| u16::from_le_bytes([body[i], body[i + 1]]);
                let rate = u32::from_le_bytes(body[4..8].try_into().unwrap());
                assert_eq!((field(0), field(2), rate, field(14)), (1, 1, 16_000, 16), "{}", path.display());
                checked = true;
            }
            b"data" => {
                assert!(checked);
                return body
                    .chunks_exact(2)
                    .map(|b| f32::from(i16::from_le_bytes([b[0], b[1]])) / 32768.0)
                    .collect();
            }
            _ => {}
        }
        at += 8 + length + length % 2;
    }
}

fn demo(name: &str) -> Vec<f32> {
    wav(&root().join("assets/demo").join(format!("{name}.wav")))
}

/// The reference's numbers.
struct Golden {
    tensors: HashMap<String, Tensor>,
    json: Value,
}

impl Golden {
    fn read() -> Self {
        let tensors =
            candle_core::safetensors::load(tiny_dir().join("golden.safetensors"), &Device::Cpu).unwrap();
        let json =
            serde_json::from_str(&fs::read_to_string(tiny_dir().join("golden.json")).unwrap()).unwrap();
        Self { tensors, json }
    }

    fn rows(&self, name: &str) -> Vec<Vec<f32>> {
        self.tensors[name].to_vec2().unwrap()
    }

    fn indices(&self, name: &str) -> Vec<usize> {
        let values: Vec<f32> = self.tensors[name].to_dtype(DType::F32).unwrap().to_vec1().unwrap();
        values.into_iter().map(|v| v as usize).collect()
    }
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

#[track_caller]
fn assert_close(got: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(got.len(), expected.len());
    let worst = got.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst < tolerance, "differs by {worst}");
    assert!(got.iter().all(|v| v.is_finite()));
}

fn audio(whisper: &WhisperTranscriber, name: &str) -> CrossCache {
    whisper.model().decoder.prepare(&whisper.encode(&demo(name)).unwrap()).unwrap()
}

/// Every token's logits, read in one call into a fresh cache.
fn logits(whisper: &WhisperTranscriber, audio: &CrossCache, tokens: &[u32]) -> Vec<Vec<f32>> {
    let mut cache = whisper.model().decoder.new_cache(64).unwrap();
    let wanted: Vec<usize> = (0..tokens.len()).collect();
    let row = Row { cache: &mut cache, audio, tokens, wanted: &wanted };
    whisper.model().decoder.forward(&mut [row], &[]).unwrap().logits
}

/// No fallback, no thresholds: what the decoder says by itself.
fn plain(max_tokens: usize) -> DecodeOptions {
    DecodeOptions {
        language: Some("en".into()),
        temperatures: vec![0.0],
        compression_ratio_threshold: None,
        log_prob_threshold: None,
        no_speech_threshold: None,
        word_timestamps: false,
        max_tokens: Some(max_tokens),
        ..DecodeOptions::default()
    }
}

fn transcribe(whisper: &mut WhisperTranscriber, samples: Vec<f32>, options: DecodeOptions) -> Hypothesis {
    let mut results = whisper.transcribe(&[Window { samples, options: Arc::new(options) }]);
    results.pop().unwrap().unwrap()
}

fn tensors() -> HashMap<String, Tensor> {
    candle_core::safetensors::load(tiny_dir().join("model.safetensors"), &Device::Cpu).unwrap()
}

/// A directory with the tiny model's small files and no weights.
fn without_weights() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for file in ["config.json", "generation_config.json", "tokenizer.json", "preprocessor_config.json"] {
        fs::copy(tiny_dir().join(file), directory.path().join(file)).unwrap();
    }
    directory
}

fn with_weights(tensors: &HashMap<String, Tensor>) -> tempfile::TempDir {
    let directory = without_weights();
    candle_core::safetensors::save(tensors, directory.path().join("model.safetensors")).unwrap();
    directory
}

/// The logits that the golden's prefill has, as this model gives them.
fn first_logits(whisper: &WhisperTranscriber) -> Vec<f32> {
    logits(whisper, &audio(whisper, "demo1"), &[301, 302, 306, 310]).concat()
}

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}
