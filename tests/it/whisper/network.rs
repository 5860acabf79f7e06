//! Front end, encoder and decoder against the reference's numbers.

use godctl::asr::DecodeOptions;
use godctl::asr::mel::FrontEnd;
use godctl::asr::model::cache::CrossCache;
use godctl::asr::model::decoder::{Output, Row};

use super::{Golden, TOLERANCE, assert_close, audio, demo, ids, plain, tiny, transcribe};

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
    let read = |cache: &mut _, tokens: &[u32]| {
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
