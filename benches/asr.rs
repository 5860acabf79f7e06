//! `make bench`: the engine beside stock candle, in the same process, on the same weights, in alternating rounds.
//!
//! Two models: the built-in one, and one of Whisper base's shape with random weights (speed does not depend on them).
//! Each figure is the median of the rounds; the ratio is ours over stock, so below 1 is faster.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench reports and may stop"
)]

use std::{
    collections::HashMap,
    path::Path,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::whisper::{Config, audio, model::Whisper as Stock};
use godctl::asr::{
    mel::{FrontEnd, HOP},
    model::{Whisper, decoder::Row, load},
    weights::{BUILTIN, ModelFiles},
};

const ROUNDS: usize = 5;
const TOKENS: usize = 30;

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags that mean nothing here.
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("threads {threads}, {ROUNDS} alternating rounds, medians\n");
    println!("{:<34}{:>12}{:>12}{:>8}", "", "godctl", "candle", "ratio");
    let builtin: HashMap<_, _> = BUILTIN.iter().map(|file| (file.name, file.bytes)).collect();
    let config: Config = serde_json::from_slice(builtin["config.json"]).unwrap();
    let stock =
        VarBuilder::from_slice_safetensors(builtin["model.safetensors"], DType::F32, &Device::Cpu).unwrap();
    bench("command-en, 10 s", &ModelFiles::Embedded(BUILTIN), &config, &stock);

    let dir = tempfile::tempdir().unwrap();
    let config = random_base(dir.path());
    let bytes = std::fs::read(dir.path().join("model.safetensors")).unwrap();
    let stock = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    bench("base shape, 30 s", &ModelFiles::Directory(dir.path().to_owned()), &config, &stock);
}

fn bench(name: &str, files: &ModelFiles, config: &Config, stock: &VarBuilder<'_>) {
    let ours = load::load(files, &Device::Cpu).unwrap();
    let mut stock = Stock::load(&stock.pp("model"), config.clone())
        .or_else(|_| Stock::load(stock, config.clone()))
        .unwrap();
    let frames = 2 * config.max_source_positions;
    let samples: Vec<f32> = (0..frames * HOP).map(|i| (i as f32 * 0.07).sin() * 0.3).collect();

    let front_end = FrontEnd::new(config.num_mel_bins);
    let filters = vec![0.01f32; config.num_mel_bins * (audio_bins())];
    let (mel, stock_mel) = alternate(
        || drop(front_end.window(&samples, frames)),
        || drop(audio::pcm_to_mel(config, &samples, &filters)),
    );
    row(&format!("{name}: mel"), mel, stock_mel, 1);

    let features = front_end.window(&samples, frames);
    let x = Tensor::from_vec(features, (frames, config.num_mel_bins), &Device::Cpu).unwrap();
    let stock_x = x.t().unwrap().contiguous().unwrap().unsqueeze(0).unwrap();
    let (encoder, stock_encoder) = alternate(
        || drop(ours.encoder.forward(&x).unwrap()),
        || drop(stock.encoder.forward(&stock_x, true).unwrap()),
    );
    row(&format!("{name}: encoder"), encoder, stock_encoder, 1);

    let states = ours.encoder.forward(&x).unwrap();
    let stock_states = stock.encoder.forward(&stock_x, true).unwrap();
    let (decode, stock_decode) =
        alternate(|| decode(&ours, &states, 1), || decode_stock(&mut stock, &stock_states));
    row(&format!("{name}: decode, a token"), decode, stock_decode, TOKENS as u32);
    let batch = median(|| self::decode(&ours, &states, 8));
    row(&format!("{name}: 8 rows, a token each"), batch, stock_decode * 8, 8 * TOKENS as u32);
}

const fn audio_bins() -> usize {
    candle_transformers::models::whisper::N_FFT / 2 + 1
}

/// The same forced tokens for every row, one at a time.
fn decode(model: &Whisper, states: &Tensor, rows: usize) {
    let audio = model.decoder.prepare(states).unwrap();
    let mut caches: Vec<_> = (0..rows).map(|_| model.decoder.new_cache(TOKENS).unwrap()).collect();
    for token in 0..TOKENS as u32 {
        let tokens = [token + 5];
        let mut batch: Vec<_> = caches
            .iter_mut()
            .map(|cache| Row { cache, audio: &audio, tokens: &tokens, wanted: &[0] })
            .collect();
        model.decoder.forward(&mut batch, &[]).unwrap();
    }
}

/// What stock candle offers: the whole prefix again for each token.
fn decode_stock(model: &mut Stock, states: &Tensor) {
    let mut tokens = Vec::new();
    for token in 0..TOKENS as u32 {
        tokens.push(token + 5);
        let input = Tensor::new(tokens.as_slice(), &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let out = model.decoder.forward(&input, states, token == 0).unwrap();
        let last = out.narrow(1, tokens.len() - 1, 1).unwrap();
        drop(model.decoder.final_linear(&last).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap());
    }
}

fn alternate(mut ours: impl FnMut(), mut stock: impl FnMut()) -> (Duration, Duration) {
    let time = |work: &mut dyn FnMut()| {
        let started = Instant::now();
        work();
        started.elapsed()
    };
    time(&mut ours);
    time(&mut stock);
    let mut times: Vec<_> = (0..ROUNDS).map(|_| (time(&mut ours), time(&mut stock))).collect();
    let mut middle = |key: fn(&(Duration, Duration)) -> Duration| {
        times.sort_by_key(key);
        key(&times[ROUNDS / 2])
    };
    (middle(|pair| pair.0), middle(|pair| pair.1))
}

fn median(work: impl FnMut()) -> Duration {
    alternate(work, || {}).0
}

fn row(name: &str, ours: Duration, stock: Duration, count: u32) {
    let ms = |duration: Duration| duration.as_secs_f64() * 1_000.0 / f64::from(count);
    println!("{name:<34}{:>9.2} ms{:>9.2} ms{:>8.2}", ms(ours), ms(stock), ms(ours) / ms(stock));
}

/// A model of Whisper base's shape with random f16 weights, in Hugging Face's layout.
fn random_base(dir: &Path) -> Config {
    let config = serde_json::json!({
        "model_type": "whisper", "activation_function": "gelu", "num_mel_bins": 80, "d_model": 512,
        "encoder_layers": 6, "decoder_layers": 6, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
        "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048, "max_source_positions": 1500,
        "max_target_positions": 448, "vocab_size": 51865, "eos_token_id": 50257, "decoder_start_token_id": 50258,
    });
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
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
        put(format!("{name}.weight"), &[512]);
        put(format!("{name}.bias"), &[512]);
    };
    for (side, layers) in [("encoder", 6), ("decoder", 6)] {
        for i in 0..layers {
            let layer = format!("model.{side}.layers.{i}");
            let attentions: &[&str] =
                if side == "encoder" { &["self_attn"] } else { &["self_attn", "encoder_attn"] };
            for attention in attentions {
                for (part, bias) in
                    [("q_proj", true), ("k_proj", false), ("v_proj", true), ("out_proj", true)]
                {
                    linear(&mut put, format!("{layer}.{attention}.{part}"), 512, 512, bias);
                }
                norm(&mut put, format!("{layer}.{attention}_layer_norm"));
            }
            linear(&mut put, format!("{layer}.fc1"), 2048, 512, true);
            linear(&mut put, format!("{layer}.fc2"), 512, 2048, true);
            norm(&mut put, format!("{layer}.final_layer_norm"));
        }
        norm(&mut put, format!("model.{side}.layer_norm"));
    }
    for (name, input) in [("conv1", 80), ("conv2", 512)] {
        put(format!("model.encoder.{name}.weight"), &[512, input, 3]);
        put(format!("model.encoder.{name}.bias"), &[512]);
    }
    put("model.encoder.embed_positions.weight".to_owned(), &[1500, 512]);
    put("model.decoder.embed_positions.weight".to_owned(), &[448, 512]);
    put("model.decoder.embed_tokens.weight".to_owned(), &[51865, 512]);
    candle_core::safetensors::save(&tensors, dir.join("model.safetensors")).unwrap();
    serde_json::from_value(config).unwrap()
}
