//! The model that ships in the binary, on the recordings that ship with it.

use std::fs;
use std::sync::Arc;

use godctl::asr::model::device::DeviceChoice;
use godctl::asr::weights::{BUILTIN, ModelFiles, ModelSource};
use godctl::asr::whisper::{LoadOptions, WhisperTranscriber};
use godctl::asr::{DecodeOptions, Transcriber, Window};

use super::{demo, plain, root, transcribe, wav};

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

#[test]
fn a_window_gives_the_same_to_the_last_bit_alone_and_among_twenty() {
    let mut whisper = builtin();
    let fixtures = root().join("tests/fixtures/audio/command-en");
    let (long, noise) = (wav(&fixtures.join("long.wav")), wav(&fixtures.join("noise.wav")));
    // Some are good at once, some are tried again; some have beams or a prefix.
    let windows: Vec<Window> = (0..20)
        .map(|i| {
            let mut options = DecodeOptions { seed: i as u64, ..DecodeOptions::default() };
            options.beam_size = if i % 7 == 3 { 3 } else { 1 };
            if i % 4 == 1 {
                // Nothing is as sure as that, so these go through all temperatures.
                options.log_prob_threshold = Some(0.0);
            }
            options.prefix = (i % 5 == 4).then(|| "open the project".to_owned());
            let from = i * 30_000;
            let mut samples = long[from..from + 30_000 + i * 3_000].to_vec();
            if i % 3 == 2 {
                samples.iter_mut().zip(&noise).for_each(|(sample, noise)| *sample = *sample * 0.2 + noise);
            }
            Window { samples, options: Arc::new(options) }
        })
        .collect();
    let together = whisper.transcribe(&windows);
    assert!(together.iter().flatten().any(|heard| heard.temperature > 0.0), "some were tried again");
    for (i, (window, together)) in windows.iter().zip(together).enumerate() {
        let alone = whisper.transcribe(std::slice::from_ref(window)).remove(0).unwrap();
        assert_eq!(together.unwrap(), alone, "window {i}");
    }
}

#[test]
fn a_prefix_is_taken_as_said_and_the_rest_is_heard() {
    let mut whisper = builtin();
    let samples = demo("demo4");
    let whole = transcribe(&mut whisper, samples.clone(), DecodeOptions::default());
    assert_eq!(whole.text, "open the dashboard in a new tab");
    assert_eq!(whole.attended.len(), whole.words.len());
    assert!(whole.attended.iter().all(|place| (0.0..2.3).contains(place)), "{:?}", whole.attended);
    let prefix = Some("open the dashboard".to_owned());
    let rest =
        transcribe(&mut whisper, samples.clone(), DecodeOptions { prefix, ..DecodeOptions::default() });
    assert_eq!(rest.text, whole.text);
    let wrong = Some("close the dashboard".to_owned());
    let forced =
        transcribe(&mut whisper, samples, DecodeOptions { prefix: wrong, ..DecodeOptions::default() });
    assert!(forced.text.starts_with("close the dashboard"), "{}", forced.text);
}
