//! The Whisper engine against the reference library's numbers, the shipped model, and damaged model directories.
//!
//! `tests/fixtures/tiny-whisper` is a seeded random model; `golden.json` says what each number is and how it was made
//! (`tools/tiny-whisper/make.py`).

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, QTensor, gguf_file},
};
use godctl::asr::{
    DecodeOptions, Hypothesis, SttError, Task, Transcriber, Window, align,
    decode::{beam, prompt::Prompt, rules::Rules, search},
    mel::FrontEnd,
    model::{
        ModelError,
        cache::CrossCache,
        decoder::{Output, Row},
        device::DeviceChoice,
    },
    weights::{BUILTIN, ModelFiles, ModelSource},
    whisper::{LoadOptions, WhisperTranscriber},
};
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

// ---- front end and network -------------------------------------------------------------------------------------

#[test]
fn mel_matches_the_reference() {
    let golden = Golden::read();
    for (prefix, bins, frames, names) in [
        ("mel80", 80, 600, &["demo1", "demo2"][..]),
        ("mel128", 128, 600, &["demo1", "demo2"]),
        ("mel80_30s", 80, 3000, &["demo1"]),
    ] {
        let picked = golden.indices(&format!("{prefix}/frames"));
        for name in names {
            let mel = FrontEnd::new(bins).window(&demo(name), frames);
            for (bin, expected) in golden.rows(&format!("{prefix}/{name}")).iter().enumerate() {
                let got: Vec<f32> = picked.iter().map(|frame| mel[frame * bins + bin]).collect();
                assert_close(&got, expected, TOLERANCE);
            }
        }
    }
}

#[test]
fn encoder_matches_the_reference() {
    let (golden, whisper) = (Golden::read(), tiny());
    let states: Vec<Vec<f32>> = whisper.encode(&demo("demo1")).unwrap().to_vec2().unwrap();
    for (got, expected) in states.iter().zip(golden.rows("encoder/demo1")) {
        assert_close(got, &expected, TOLERANCE);
    }
    let states: Vec<Vec<f32>> = whisper.encode(&demo("demo2")).unwrap().to_vec2().unwrap();
    for (row, expected) in golden.indices("encoder/demo2_rows").into_iter().zip(golden.rows("encoder/demo2"))
    {
        assert_close(&states[row], &expected, TOLERANCE);
    }
}

#[test]
fn prefill_and_cached_steps_match_the_reference() {
    let (golden, whisper) = (Golden::read(), tiny());
    let audio = audio(&whisper, "demo1");
    let decoder = &whisper.model().decoder;
    let forced = &golden.json["forced"];
    let prompt = ids(&forced["prompt"]);
    let mut cache = decoder.new_cache(64).unwrap();
    let mut read = |tokens: &[u32]| {
        let wanted: Vec<usize> = (0..tokens.len()).collect();
        let row = Row { cache: &mut cache, audio: &audio, tokens, wanted: &wanted };
        decoder.forward(&mut [row], &[]).unwrap().logits
    };
    for (got, expected) in read(&prompt).iter().zip(golden.rows("logits/prefill")) {
        assert_close(got, &expected, TOLERANCE);
    }
    for (token, expected) in ids(&forced["tokens"]).into_iter().zip(golden.rows("logits/steps")) {
        assert_close(&read(&[token])[0], &expected, TOLERANCE);
    }
}

#[test]
fn rows_at_different_positions_share_a_batch() {
    let (golden, whisper) = (Golden::read(), tiny());
    let decoder = &whisper.model().decoder;
    let specs = golden.json["batched"].as_array().unwrap();
    let audios: Vec<CrossCache> =
        specs.iter().map(|s| audio(&whisper, s["audio"].as_str().unwrap())).collect();
    let tokens: Vec<Vec<u32>> = specs.iter().map(|s| ids(&s["tokens"])).collect();
    let mut caches: Vec<_> = (0..2).map(|_| decoder.new_cache(40).unwrap()).collect();
    let mut step = |from: [usize; 2], to: [usize; 2]| -> Output {
        let mut rows: Vec<Row<'_>> = caches
            .iter_mut()
            .enumerate()
            .map(|(i, cache)| Row {
                cache,
                audio: &audios[i],
                tokens: &tokens[i][from[i]..to[i]],
                wanted: &[0],
            })
            .collect();
        decoder.forward(&mut rows, &[]).unwrap()
    };
    // A ragged prefill, another ragged piece, and the last token of both.
    let (a, b) = (tokens[0].len(), tokens[1].len());
    step([0, 0], [4, 5]);
    step([4, 5], [a - 1, b - 1]);
    let last = step([a - 1, b - 1], [a, b]);
    for (got, name) in last.logits.iter().zip(["batched/a", "batched/b"]) {
        assert_close(got, &golden.tensors[name].to_vec1::<f32>().unwrap(), TOLERANCE);
    }
}

#[test]
fn a_copied_cache_continues_like_its_original() {
    let whisper = tiny();
    let (decoder, audio) = (&whisper.model().decoder, audio(&whisper, "demo1"));
    let mut original = decoder.new_cache(32).unwrap();
    let mut copy = decoder.new_cache(20).unwrap();
    let mut read = |cache: &mut _, tokens: &[u32]| {
        let row = Row { cache, audio: &audio, tokens, wanted: &[0] };
        decoder.forward(&mut [row], &[]).unwrap().logits.remove(0)
    };
    read(&mut copy, &[9, 9, 9, 9]);
    read(&mut original, &[301, 302, 306]);
    copy.copy_from(&original).unwrap();
    assert_eq!(read(&mut original, &[5]), read(&mut copy, &[5]));
    let mut small = decoder.new_cache(2).unwrap();
    assert!(small.copy_from(&original).is_err());
}

#[test]
fn the_decoder_refuses_what_it_cannot_read() {
    let whisper = tiny();
    let (decoder, audio) = (&whisper.model().decoder, audio(&whisper, "demo1"));
    let mut cache = decoder.new_cache(4).unwrap();
    let mut read = |tokens: &[u32], wanted: &[usize]| {
        let row = Row { cache: &mut cache, audio: &audio, tokens, wanted };
        decoder.forward(&mut [row], &[]).map(|_| ())
    };
    assert!(read(&[], &[]).is_err());
    assert!(read(&[612], &[0]).is_err(), "outside the vocabulary");
    assert!(read(&[1; 5], &[0]).is_err(), "longer than the cache");
    assert!(read(&[1], &[1]).is_err(), "wants what it does not bring");
    assert!(read(&[1; 4], &[0]).is_ok());
    assert!(read(&[1], &[0]).is_err(), "the cache is full");
}

#[test]
fn language_and_silence_match_the_reference() {
    let (golden, mut whisper) = (Golden::read(), tiny());
    for name in ["demo1", "demo2"] {
        let expected = &golden.json["language"][name];
        let (languages, no_speech) = whisper.detect(&audio(&whisper, name)).unwrap();
        let known: Vec<String> = whisper.tokenizer().languages.iter().map(|(code, _)| code.clone()).collect();
        assert_eq!(known, ["en", "fr", "de"]);
        for (code, got) in known.iter().zip(&languages) {
            let p = expected["probabilities"][format!("<|{code}|>")].as_f64().unwrap();
            assert!((f64::from(*got) - p).abs() < 1e-4, "{code} {got} {p}");
        }
        assert!((f64::from(no_speech) - expected["no_speech"].as_f64().unwrap()).abs() < 1e-5);

        let options = DecodeOptions { language: None, ..plain(3) };
        let heard = transcribe(&mut whisper, demo(name), options.clone());
        let best = if name == "demo1" { "en" } else { "fr" };
        assert_eq!(heard.language.as_deref(), Some(best));
        assert!((f64::from(heard.no_speech_prob) - expected["no_speech"].as_f64().unwrap()).abs() < 1e-5);

        let allowed = DecodeOptions { allowed_languages: vec!["de".into(), "en".into()], ..options };
        let heard = transcribe(&mut whisper, demo(name), allowed);
        assert_eq!(heard.language.as_deref(), Some("en"));
    }
}

// ---- decoding --------------------------------------------------------------------------------------------------

const END: u32 = 300;

#[track_caller]
fn assert_decoded(heard: &Hypothesis, expected: &Value) {
    let mut tokens = ids(&expected["tokens"]);
    if tokens.last() == Some(&END) {
        tokens.pop();
    }
    assert_eq!(heard.tokens, tokens);
    let sum = f64::from(heard.avg_logprob) * (tokens.len() + 1) as f64;
    assert!((sum - expected["sum_logprob"].as_f64().unwrap()).abs() < 1e-3, "{sum}");
}

#[test]
fn greedy_decoding_matches_the_reference() {
    let (golden, mut whisper) = (Golden::read(), tiny());
    for (key, limit, timestamps) in
        [("greedy", 30, false), ("greedy_limit", 6, false), ("greedy_timestamps", 30, true)]
    {
        let options = DecodeOptions { timestamps, ..plain(limit) };
        // Both windows in one batch: they end at different lengths.
        let windows =
            ["demo1", "demo2"].map(|name| Window { samples: demo(name), options: Arc::new(options.clone()) });
        let heard = whisper.transcribe(&windows);
        for (heard, name) in heard.iter().zip(["demo1", "demo2"]) {
            let (heard, expected) = (heard.as_ref().unwrap(), &golden.json[key][name]);
            assert_decoded(heard, expected);
            if !timestamps {
                assert_eq!(heard.text, expected["text"].as_str().unwrap().trim());
            }
        }
    }
}

#[test]
fn timestamps_make_segments() {
    let mut whisper = tiny();
    let heard = transcribe(&mut whisper, demo("demo1"), DecodeOptions { timestamps: true, ..plain(30) });
    let shown: Vec<_> = heard.segments.iter().map(|s| (s.start, s.end, s.text.as_str())).collect();
    assert_eq!(shown, [(0.36, 0.84, "or cl"), (0.84, 1.44, "ingophep to top")]);
    assert_eq!(heard.text, "or clingophep to top");
}

fn job<'a>(
    whisper: &WhisperTranscriber,
    audio: &'a CrossCache,
    prompt: Vec<u32>,
    start: usize,
    budget: usize,
) -> search::Job<'a> {
    let config = &whisper.model().config;
    search::Job {
        audio,
        prompt: Prompt { tokens: prompt, start },
        rules: Rules {
            suppress: config.suppress.clone(),
            begin_suppress: config.begin_suppress.clone(),
            timestamps: None,
        },
        budget,
        temperature: 0.0,
        seed: 0,
    }
}

#[test]
fn previous_text_matches_the_reference() {
    let (golden, whisper) = (Golden::read(), tiny());
    for name in ["demo1", "demo2"] {
        let expected = &golden.json["greedy_previous"][name];
        let audio = audio(&whisper, name);
        let job = job(&whisper, &audio, ids(&expected["prompt"]), 9, 30);
        let got = search::run(&whisper.model().decoder, whisper.tokenizer(), &[job]).unwrap().remove(0);
        let mut tokens = ids(&expected["tokens"]);
        assert_eq!(got.ended, tokens.last() == Some(&END));
        tokens.retain(|&t| t != END);
        assert_eq!(got.tokens, tokens);
        assert!((got.sum_logprob - expected["sum_logprob"].as_f64().unwrap()).abs() < 1e-3);
    }
}

#[test]
fn a_text_prompt_is_read_and_kept_short() {
    let mut whisper = tiny();
    let with =
        |prompt: Option<String>, hotwords: Option<String>| DecodeOptions { prompt, hotwords, ..plain(12) };
    let alone = transcribe(&mut whisper, demo("demo1"), with(None, None));
    let prompted = transcribe(&mut whisper, demo("demo1"), with(Some("the star".into()), None));
    assert_ne!(alone.tokens, prompted.tokens);
    // Far longer than the model: the end of the text and the beginning of the hotwords are kept.
    let long = transcribe(
        &mut whisper,
        demo("demo1"),
        with(Some("open the star ".repeat(90)), Some("dog ".repeat(90))),
    );
    assert!(!long.tokens.is_empty());
    let blank = transcribe(&mut whisper, demo("demo1"), with(Some("  ".into()), Some(String::new())));
    assert_eq!(blank.tokens, alone.tokens);
}

#[test]
fn beam_search_matches_the_reference() {
    let (golden, mut whisper) = (Golden::read(), tiny());
    for key in ["beam5", "beam3", "beam5_limit"] {
        for name in ["demo1", "demo2"] {
            let expected = &golden.json[key][name];
            let size = expected["num_beams"].as_u64().unwrap() as usize;
            let length_penalty = expected["length_penalty"].as_f64().unwrap() as f32;
            let limit = expected["max_new_tokens"].as_u64().unwrap() as usize;
            let audio = audio(&whisper, name);
            let job = job(&whisper, &audio, ids(&expected["prompt"]), 0, limit);
            let beams = beam::Beams { size, length_penalty };
            let got = beam::run(&whisper.model().decoder, whisper.tokenizer(), &job, beams).unwrap();
            let all = ids(&expected["tokens"]);
            let mut tokens = all.clone();
            tokens.retain(|&t| t != END);
            assert_eq!(got.tokens, tokens, "{key} {name}");
            let score = got.sum_logprob / (all.len() as f64).powf(f64::from(length_penalty));
            assert!((score - expected["score"].as_f64().unwrap()).abs() < 1e-4, "{key} {name} {score}");

            let options = DecodeOptions { beam_size: size, length_penalty, ..plain(limit) };
            assert_eq!(transcribe(&mut whisper, demo(name), options).tokens, tokens);
        }
    }
}

#[test]
fn alignment_matches_the_reference() {
    let (golden, whisper) = (Golden::read(), tiny());
    for name in ["demo1", "demo2"] {
        let expected = &golden.json["alignment"][name];
        let (prompt, mut tokens) = (ids(&expected["prompt"]), ids(&expected["tokens"]));
        assert_eq!(tokens.pop(), Some(END));
        let used = expected["frames"].as_u64().unwrap() as usize / 2;
        let (weights, logits) = whisper.forced(&audio(&whisper, name), &prompt, &tokens).unwrap();
        assert_eq!((weights.rows(), logits.len()), (tokens.len() + 1, tokens.len()));
        let times = |weights: &align::Weights| -> Vec<f64> {
            let matrix = align::matrix(weights, used, 7);
            align::warp(&matrix, used).into_iter().map(|p| (p as f64 * 2.0).round() / 100.0).collect()
        };
        assert_eq!(times(&weights), numbers(&expected["openai_times"]), "{name}");

        // transformers' own rows begin with the first generated token.
        let positions = weights.positions;
        let heads: Vec<Vec<f32>> = weights.heads.iter().map(|head| head[positions..].to_vec()).collect();
        let theirs = align::Weights { heads, positions };
        let mut expected_times = numbers(&expected["token_timestamps"]);
        expected_times.pop();
        assert_eq!(times(&theirs), expected_times, "{name}");
        if name == "demo1" {
            let attention: Vec<Vec<Vec<f32>>> = golden.tensors["alignment/attention"].to_vec3().unwrap();
            for (got, expected) in weights.heads.iter().zip(attention) {
                assert_close(got, &expected[3..].concat(), TOLERANCE);
            }
            let expected: Vec<f32> =
                golden.tensors["alignment/matrix"].flatten_all().unwrap().to_vec1().unwrap();
            assert_close(&align::matrix(&theirs, used, 7), &expected, 1e-3);
        }
    }
}

#[test]
fn words_join_to_the_text_and_lie_inside_the_audio() {
    let mut whisper = tiny();
    for timestamps in [false, true] {
        let options = DecodeOptions { word_timestamps: true, timestamps, ..plain(30) };
        let samples = demo("demo2");
        let seconds = samples.len() as f64 / 16_000.0;
        let heard = transcribe(&mut whisper, samples, options);
        let joined: String = heard.words.iter().map(|w| w.text.as_str()).collect();
        assert_eq!(joined.trim(), heard.text);
        let times: Vec<f64> = heard.words.iter().flat_map(|w| [w.start, w.end]).collect();
        assert!(times.is_sorted(), "{times:?}");
        assert!(times.iter().all(|t| (0.0..=seconds).contains(t)));
        assert!(heard.words.iter().all(|w| (0.0..=1.0).contains(&w.probability)));
    }
}

#[test]
fn each_threshold_sends_the_window_to_the_next_temperature() {
    let mut whisper = tiny();
    let at =
        |temperatures: &[f32]| DecodeOptions { temperatures: temperatures.to_vec(), seed: 5, ..plain(30) };
    let cold = transcribe(&mut whisper, demo("demo1"), at(&[0.0]));
    let hot = transcribe(&mut whisper, demo("demo1"), at(&[1.0]));
    assert_ne!(cold.tokens, hot.tokens);

    // A threshold between the two results, the worse one first.
    let order = |cold_is_worse: bool| if cold_is_worse { ([0.0, 1.0], 1.0) } else { ([1.0, 0.0], 0.0) };
    let (temperatures, expected) = order(cold.compression_ratio > hot.compression_ratio);
    let threshold = f32::midpoint(cold.compression_ratio, hot.compression_ratio);
    let options = DecodeOptions { compression_ratio_threshold: Some(threshold), ..at(&temperatures) };
    assert_eq!(transcribe(&mut whisper, demo("demo1"), options).temperature, expected);

    let (temperatures, expected) = order(cold.avg_logprob < hot.avg_logprob);
    let threshold = f32::midpoint(cold.avg_logprob, hot.avg_logprob);
    let options = DecodeOptions { log_prob_threshold: Some(threshold), ..at(&temperatures) };
    assert_eq!(transcribe(&mut whisper, demo("demo1"), options).temperature, expected);

    let options = DecodeOptions { no_speech_threshold: Some(1e-6), ..at(&[0.0]) };
    let silent = transcribe(&mut whisper, demo("demo1"), options);
    assert_eq!((silent.text.as_str(), silent.tokens.len(), silent.segments.len()), ("", 0, 0));
}

#[test]
fn sampling_depends_on_the_seed_alone() {
    let mut whisper = tiny();
    let hot = |seed| DecodeOptions { temperatures: vec![1.0], seed, ..plain(30) };
    let once = transcribe(&mut whisper, demo("demo1"), hot(1));
    assert_eq!(transcribe(&mut whisper, demo("demo1"), hot(1)), once);
    assert_ne!(transcribe(&mut whisper, demo("demo1"), hot(2)).tokens, once.tokens);
}

#[test]
fn bad_requests_are_refused_one_by_one() {
    let mut whisper = tiny();
    let window = |samples: Vec<f32>, options: DecodeOptions| Window { samples, options: Arc::new(options) };
    let results = whisper.transcribe(&[
        window(vec![0.0; 6 * 16_000 + 1], plain(5)),
        window(vec![0.0; 100], DecodeOptions { language: Some("xx".into()), ..plain(5) }),
        window(vec![0.0; 100], DecodeOptions { temperatures: vec![f32::NAN], ..plain(5) }),
        window(demo("demo1"), plain(6)),
        window(vec![], plain(5)),
        window(vec![f32::NAN; 16_000], plain(5)),
        window(demo("demo1"), DecodeOptions { task: Task::Translate, ..plain(5) }),
    ]);
    for (result, part) in results.iter().zip(["at most 6 s", "it knows en, fr, de", "temperature"]) {
        assert!(matches!(result, Err(SttError::BadRequest(m)) if m.contains(part)), "{result:?}");
    }
    assert_eq!(results[3].as_ref().unwrap().tokens, [277, 65, 278, 283, 278, 285]);
    assert!(results[4..].iter().all(Result::is_ok));
}

#[test]
fn a_pool_of_its_own_gives_the_same_result() {
    let source = ModelSource { name: "tiny".into(), files: ModelFiles::Directory(tiny_dir()) };
    let options = LoadOptions { device: DeviceChoice::Cpu, threads: std::num::NonZeroUsize::new(1) };
    let mut single = WhisperTranscriber::load(&source, options).unwrap();
    let expected = transcribe(&mut tiny(), demo("demo1"), plain(30));
    assert_eq!(transcribe(&mut single, demo("demo1"), plain(30)), expected);
}

// ---- other ways to store a model -------------------------------------------------------------------------------

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

#[test]
fn shards_and_bare_names_load() {
    let expected = first_logits(&tiny());
    let directory = without_weights();
    let (mut first, mut second, mut map) = (HashMap::new(), HashMap::new(), HashMap::new());
    for (i, (name, tensor)) in tensors().into_iter().enumerate() {
        let (file, part) = if i % 2 == 0 {
            ("model-00001-of-00002.safetensors", &mut first)
        } else {
            ("model-00002-of-00002.safetensors", &mut second)
        };
        map.insert(name.clone(), file);
        part.insert(name, tensor);
    }
    candle_core::safetensors::save(&first, directory.path().join("model-00001-of-00002.safetensors"))
        .unwrap();
    candle_core::safetensors::save(&second, directory.path().join("model-00002-of-00002.safetensors"))
        .unwrap();
    let index = serde_json::json!({"metadata": {}, "weight_map": map}).to_string();
    fs::write(directory.path().join("model.safetensors.index.json"), index).unwrap();
    assert_eq!(first_logits(&load(directory.path()).unwrap()), expected);
    fs::remove_file(directory.path().join("model-00002-of-00002.safetensors")).unwrap();
    let error = load(directory.path()).unwrap_err().to_string();
    assert!(error.contains("model-00002-of-00002.safetensors"), "{error}");

    let bare = tensors().into_iter().map(|(n, t)| (n.trim_start_matches("model.").to_owned(), t)).collect();
    assert_eq!(first_logits(&load(with_weights(&bare).path()).unwrap()), expected);
}

#[test]
fn half_precision_loads() {
    let expected = first_logits(&tiny());
    for (dtype, tolerance) in [(DType::F16, 0.05), (DType::BF16, 0.4)] {
        let half = tensors().into_iter().map(|(n, t)| (n, t.to_dtype(dtype).unwrap())).collect();
        let got = first_logits(&load(with_weights(&half).path()).unwrap());
        assert_close(&got, &expected, tolerance);
        assert_ne!(got, expected);
    }
}

#[test]
fn an_untied_projection_is_used() {
    let mut tensors = tensors();
    let table = tensors["model.decoder.embed_tokens.weight"].clone();
    tensors.insert("proj_out.weight".into(), (&table * 2.0).unwrap());
    let directory = with_weights(&tensors);
    let tied = first_logits(&load(directory.path()).unwrap());
    assert_eq!(tied, first_logits(&tiny()));
    edit_json(&directory.path().join("config.json"), |config| config["tie_word_embeddings"] = false.into());
    let doubled: Vec<f32> = tied.iter().map(|v| v * 2.0).collect();
    assert_close(&first_logits(&load(directory.path()).unwrap()), &doubled, 1e-3);
}

#[test]
fn gguf_loads_quantised() {
    let expected = first_logits(&tiny());
    for (kind, tolerance) in [(GgmlDType::F16, 0.05), (GgmlDType::Q8_0, 0.6)] {
        let directory = without_weights();
        let stored: Vec<(String, QTensor)> = tensors()
            .into_iter()
            .map(|(name, tensor)| {
                // Rows of 48 are no whole blocks of 32, so only the wider matrices can be quantised here.
                let whole = tensor.rank() == 2 && tensor.dim(1).unwrap() % kind.block_size() == 0;
                let kind = if whole && !name.contains("embed_positions") { kind } else { GgmlDType::F32 };
                (name, QTensor::quantize(&tensor, kind).unwrap())
            })
            .collect();
        assert!(stored.iter().any(|(_, t)| t.dtype() == kind));
        let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
        let path = directory.path().join("tiny.gguf");
        gguf_file::write(&mut fs::File::create(&path).unwrap(), &[], &refs).unwrap();
        let got = first_logits(&load(directory.path()).unwrap());
        assert_close(&got, &expected, tolerance);
        assert_ne!(got, expected);

        let whole = fs::read(&path).unwrap();
        for cut in [3, 100, whole.len() / 2, whole.len() - 3000] {
            fs::write(&path, &whole[..cut]).unwrap();
            let error = load(directory.path()).unwrap_err();
            assert!(matches!(error, ModelError::Damaged { .. }), "{error:?}");
        }
    }
}

#[test]
fn a_quantised_token_table_is_looked_up_and_projected() {
    // A model of 64 wide rows, so that every matrix is made of whole blocks: widened with zeros would change the
    // norms, so this one is only compared with itself in f32.
    let widen =
        |shape: &[usize]| -> Vec<usize> { shape.iter().map(|&n| if n == 48 { 64 } else { n }).collect() };
    let mut seed = 1u32;
    let mut noise = |shape: Vec<usize>| {
        let values: Vec<f32> = (0..shape.iter().product::<usize>())
            .map(|_| {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (seed >> 8) as f32 / (1u32 << 24) as f32 - 0.5
            })
            .collect();
        Tensor::from_vec(values, shape, &Device::Cpu).unwrap()
    };
    let mut names: Vec<(String, Tensor)> = tensors().into_iter().collect();
    names.sort_by(|a, b| a.0.cmp(&b.0));
    let wide: HashMap<String, Tensor> =
        names.into_iter().map(|(n, t)| (n, (noise(widen(t.dims())) * 0.4).unwrap())).collect();
    let config = |directory: &Path| {
        edit_json(&directory.join("config.json"), |c| {
            c["d_model"] = 64.into();
            c["encoder_attention_heads"] = 4.into();
            c["decoder_attention_heads"] = 4.into();
        });
    };
    let dense = with_weights(&wide);
    config(dense.path());
    let quantised = without_weights();
    config(quantised.path());
    let stored: Vec<(String, QTensor)> = wide
        .iter()
        .map(|(n, t)| {
            let kind =
                if t.rank() == 2 && !n.contains("positions") { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            (n.clone(), QTensor::quantize(t, kind).unwrap())
        })
        .collect();
    let refs: Vec<(&str, &QTensor)> = stored.iter().map(|(n, t)| (n.as_str(), t)).collect();
    gguf_file::write(&mut fs::File::create(quantised.path().join("m.gguf")).unwrap(), &[], &refs).unwrap();
    let expected = first_logits(&load(dense.path()).unwrap());
    assert_close(&first_logits(&load(quantised.path()).unwrap()), &expected, 0.05);
}

// ---- damaged models --------------------------------------------------------------------------------------------

fn edit_json(path: &Path, edit: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    edit(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

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
    let mut huge = whole.clone();
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

// ---- the model in the binary -----------------------------------------------------------------------------------

fn builtin() -> WhisperTranscriber {
    let source = ModelSource { name: "command-en".into(), files: ModelFiles::Embedded(BUILTIN) };
    WhisperTranscriber::load(&source, LoadOptions { device: DeviceChoice::Cpu, threads: None }).unwrap()
}

#[test]
fn the_built_in_model_hears_what_the_reference_hears() {
    let fixtures = root().join("tests/fixtures/audio/command-en");
    let table = fs::read_to_string(fixtures.join("reference_output.tsv")).unwrap();
    let rows: Vec<(&str, &str)> = table
        .lines()
        .skip(1)
        .map(|line| {
            let mut cells = line.split('\t');
            (cells.next().unwrap(), cells.nth(1).unwrap_or(""))
        })
        .collect();
    assert!(rows.len() >= 28);
    let options = Arc::new(DecodeOptions { language: None, ..plain(124) });
    let windows: Vec<Window> = rows
        .iter()
        .map(|(file, _)| {
            let folder = if file.starts_with("demo") { root().join("assets/demo") } else { fixtures.clone() };
            Window { samples: wav(&folder.join(file)), options: Arc::clone(&options) }
        })
        .collect();
    let mut whisper = builtin();
    assert_eq!(whisper.info().window_s, 10.0);
    assert_eq!(whisper.info().languages, ["en"]);
    for ((file, expected), heard) in rows.iter().zip(whisper.transcribe(&windows)) {
        assert_eq!(heard.unwrap().text, *expected, "{file}");
    }
}

#[test]
fn the_built_in_model_is_silent_in_silence_and_noise() {
    let fixtures = root().join("tests/fixtures/audio/command-en");
    let mut whisper = builtin();
    for file in ["silence.wav", "noise.wav"] {
        let samples: Vec<f32> = wav(&fixtures.join(file)).into_iter().take(160_000).collect();
        let heard = transcribe(&mut whisper, samples, DecodeOptions::default());
        assert_eq!((heard.text.as_str(), heard.words.len()), ("", 0), "{file}");
        assert!(heard.no_speech_prob > 0.5, "{file} {}", heard.no_speech_prob);
    }
}

#[test]
fn the_built_in_model_times_its_words() {
    let mut whisper = builtin();
    let samples = demo("demo4");
    let seconds = samples.len() as f64 / 16_000.0;
    let heard = transcribe(&mut whisper, samples, DecodeOptions::default());
    let words: Vec<&str> = heard.words.iter().map(|w| w.text.trim()).collect();
    assert_eq!(words.join(" "), "open the dashboard in a new tab");
    let times: Vec<f64> = heard.words.iter().flat_map(|w| [w.start, w.end]).collect();
    assert!(times.is_sorted() && times.iter().all(|t| (0.0..=seconds).contains(t)), "{times:?}");
    assert!(heard.words.last().unwrap().end > seconds / 2.0);
    assert_eq!(heard.segments.len(), 1);
}
