//! Searches, thresholds, times of words, and requests that cannot be met.

use std::sync::Arc;

use godctl::asr::decode::prompt::Prompt;
use godctl::asr::decode::rules::Rules;
use godctl::asr::decode::{beam, search};
use godctl::asr::model::cache::CrossCache;
use godctl::asr::model::device::DeviceChoice;
use godctl::asr::weights::{ModelFiles, ModelSource};
use godctl::asr::whisper::{LoadOptions, WhisperTranscriber};
use godctl::asr::{DecodeOptions, Hypothesis, SttError, Task, Transcriber, Window, align};
use serde_json::Value;

use super::{
    Golden, TOLERANCE, assert_close, audio, demo, edit_json, ids, load, numbers, plain, tensors, tiny,
    tiny_dir, transcribe, with_weights,
};

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
        prompt: Prompt { tokens: prompt, start, given: 0 },
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
        assert_eq!(times(&weights), numbers(&expected["shifted_times"]), "{name}");

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
        window(vec![0.0; 100], DecodeOptions { beam_size: usize::MAX, ..plain(5) }),
        window(demo("demo1"), plain(6)),
        window(vec![], plain(5)),
        window(vec![f32::NAN; 16_000], plain(5)),
        window(demo("demo1"), DecodeOptions { task: Task::Translate, ..plain(5) }),
    ]);
    for (result, part) in results.iter().zip(["at most 6 s", "it knows en, fr, de", "temperature", "beams"]) {
        assert!(matches!(result, Err(SttError::BadRequest(m)) if m.contains(part)), "{result:?}");
    }
    assert_eq!(results[4].as_ref().unwrap().tokens, [277, 65, 278, 283, 278, 285]);
    assert!(results[5..].iter().all(Result::is_ok));
}

#[test]
fn a_pool_of_its_own_gives_the_same_result() {
    let source = ModelSource { name: "tiny".into(), files: ModelFiles::Directory(tiny_dir()) };
    let options = LoadOptions { device: DeviceChoice::Cpu, threads: std::num::NonZeroUsize::new(1) };
    let mut single = WhisperTranscriber::load(&source, options).unwrap();
    let expected = transcribe(&mut tiny(), demo("demo1"), plain(30));
    assert_eq!(transcribe(&mut single, demo("demo1"), plain(30)), expected);
}

#[test]
fn an_english_only_model_is_prompted_without_language_and_task() {
    let directory = with_weights(&tensors());
    edit_json(&directory.path().join("generation_config.json"), |g| g["is_multilingual"] = false.into());
    let mut whisper = load(directory.path()).unwrap();
    assert_eq!(
        (whisper.info().multilingual, whisper.info().languages.as_slice()),
        (false, &["en".to_owned()][..])
    );
    let heard = transcribe(&mut whisper, demo("demo1"), DecodeOptions { language: None, ..plain(8) });
    assert_eq!(heard.language.as_deref(), Some("en"));
    // <|startoftranscript|> and <|notimestamps|> alone.
    let audio = audio(&whisper, "demo1");
    let job = job(&whisper, &audio, vec![301, 310], 0, 8);
    let expected = search::run(&whisper.model().decoder, whisper.tokenizer(), &[job]).unwrap().remove(0);
    assert_eq!(heard.tokens, expected.tokens);
    let french = Window {
        samples: demo("demo1"),
        options: Arc::new(DecodeOptions { language: Some("fr".into()), ..plain(8) }),
    };
    assert!(matches!(&whisper.transcribe(&[french])[0], Err(SttError::BadRequest(_))));
}

#[test]
fn timestamps_missing_from_an_older_tokenizer_are_still_known() {
    let directory = with_weights(&tensors());
    edit_json(&directory.path().join("tokenizer.json"), |t| {
        t["added_tokens"].as_array_mut().unwrap().retain(|token| token["id"].as_u64().unwrap() <= 310);
    });
    let mut whisper = load(directory.path()).unwrap();
    assert_eq!(whisper.tokenizer().specials.first_timestamp, 311);
    let golden = Golden::read();
    let options = DecodeOptions { timestamps: true, word_timestamps: true, ..plain(30) };
    let heard = transcribe(&mut whisper, demo("demo1"), options);
    assert_decoded(&heard, &golden.json["greedy_timestamps"]["demo1"]);
    assert_eq!(heard.text, "or clingophep to top");
}
