//! `make bench`, four parts; name some of them to run only these: `cargo bench --bench asr -- policies sessions`.
//!
//! - `kernels`: the engine beside stock candle, in the same process, on the same weights, in alternating rounds. Two
//!   models: the built-in one, and one of Whisper base's shape with random weights (speed does not depend on them).
//!   Each figure is the median of the rounds; the ratio is ours over stock, so below 1 is faster.
//! - `policies`: word error rate and delay of the streaming policies, on the clock of the samples.
//! - `sessions`: how many streams the machine holds in real time.
//! - `server`: start-up and memory of the real server.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench reports and may stop"
)]

#[path = "asr/models.rs"]
mod models;
#[path = "asr/policies.rs"]
mod policies;
#[path = "asr/server.rs"]
mod server;
#[path = "asr/sessions.rs"]
mod sessions;
#[path = "asr/sound.rs"]
mod sound;

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::whisper::{Config, audio, model::Whisper as Stock};
use godctl::asr::{
    DecodeOptions,
    mel::{FrontEnd, HOP},
    model::{Whisper, decoder::Row, load},
    weights::{BUILTIN, ModelFiles, ModelSource},
    whisper::{LoadOptions, WhisperTranscriber},
};

const ROUNDS: usize = 5;
const TOKENS: usize = 30;
/// Seconds at each number of streams.
const SECONDS: u64 = 10;

fn main() {
    // `cargo bench` and `cargo test --benches` pass flags that mean nothing here.
    let chosen: Vec<String> = std::env::args().skip(1).filter(|name| !name.starts_with('-')).collect();
    let wanted = |part: &str| chosen.is_empty() || chosen.iter().any(|name| name == part);
    let builtin = ModelSource { name: "command-en".to_owned(), files: ModelFiles::Embedded(BUILTIN) };
    if wanted("kernels") {
        kernels();
    }
    if wanted("policies") {
        policies::run(&mut WhisperTranscriber::load(&builtin, LoadOptions::default()).unwrap());
    }
    if wanted("sessions") {
        sessions::run("command-en, 10 s window", &builtin, &DecodeOptions::default(), SECONDS);
        let dir = tempfile::tempdir().unwrap();
        models::random(dir.path(), models::TINY);
        let files = ModelFiles::Directory(dir.path().to_owned());
        let tiny = ModelSource { name: "tiny shape".to_owned(), files };
        // Random weights never stop by themselves: as many tokens as 8 s of speech have.
        let decode = DecodeOptions {
            language: Some("en".to_owned()),
            max_tokens: Some(27),
            temperatures: vec![0.0],
            ..DecodeOptions::default()
        };
        sessions::run("tiny shape, 30 s window, random weights", &tiny, &decode, SECONDS);
    }
    if wanted("server") {
        server::run();
    }
}

fn kernels() {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("threads {threads}, {ROUNDS} alternating rounds, medians\n");
    println!("{:<34}{:>12}{:>12}{:>8}", "", "godctl", "candle", "ratio");
    let builtin: HashMap<_, _> = BUILTIN.iter().map(|file| (file.name, file.bytes)).collect();
    let config: Config = serde_json::from_slice(builtin["config.json"]).unwrap();
    let stock =
        VarBuilder::from_slice_safetensors(builtin["model.safetensors"], DType::F32, &Device::Cpu).unwrap();
    bench("command-en, 10 s", &ModelFiles::Embedded(BUILTIN), &config, &stock);

    let dir = tempfile::tempdir().unwrap();
    let config: Config = serde_json::from_value(models::random(dir.path(), models::BASE)).unwrap();
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
