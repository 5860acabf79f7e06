//! The messages as they stand on the wire.

use super::{
    emitter::{self, Emitter, Rules},
    letterhead::{Letterhead, model_uuid},
    options::Options,
    *,
};
use crate::asr::{
    DecodeOptions, ModelInfo, Word,
    stream::{EndReason, StreamEvent, Utterance},
};

fn model() -> ModelInfo {
    ModelInfo {
        name: "command-en".to_owned(),
        window_s: 10.0,
        multilingual: false,
        prompts: false,
        languages: vec!["en".to_owned()],
        parameters: 1,
        device: "cpu".to_owned(),
    }
}

fn letterhead() -> Letterhead {
    let options = Options::parse([("endpointing".to_owned(), "300".to_owned())]).unwrap();
    let told = options.effective(&DecodeOptions::default(), &model());
    let ignored = vec!["diarize".to_owned()];
    Letterhead::new("0190".to_owned(), "2024-05-01T12:00:00Z".to_owned(), &model(), 2, told, ignored)
}

#[test]
fn messages_on_the_wire() {
    let head = letterhead();
    let rules =
        Rules { interim_results: true, vad_events: true, endpointing: true, utterance_end_s: Some(1.0) };
    let mut emitter = Emitter::new(rules);
    let word =
        |text: &str, start: f64| Word { text: text.to_owned(), start, end: start + 0.25, probability: 0.9 };
    let (turn, on) = (word(" Turn", 0.5), word(" on.", 0.800_04));
    let events = [
        StreamEvent::SpeechStarted { at: 0.25 },
        StreamEvent::Hypothesis { committed: vec![turn.clone()], tail: vec![on.clone()], heard: 1.25 },
        StreamEvent::Hypothesis { committed: vec![on.clone()], tail: Vec::new(), heard: 1.5 },
        StreamEvent::UtteranceEnded(Utterance {
            index: 0,
            start: 0.25,
            end: 1.5,
            text: "Turn on.".to_owned(),
            words: vec![turn, on],
            language: None,
            language_probability: 1.0,
            avg_logprob: -0.1,
            no_speech_prob: 0.0,
            reason: EndReason::Endpoint,
            revised: false,
        }),
        StreamEvent::Marker(emitter::Mark::Clock(48_000).name()),
        StreamEvent::Failed { message: "inference failed".to_owned(), start: 3.0, end: 4.0 },
    ];
    let mut said = Vec::new();
    for event in &events {
        emitter.apply(event, &mut said);
    }
    let mut messages = vec![head.metadata(0.0, String::new())];
    messages.extend(said.into_iter().map(|said| head.message(1, 0.125, said)));
    messages.push(head.metadata(4.0, "ab".repeat(32)));
    messages.push(head.error(ErrorKind::SchemaError, "not a message"));
    let json = messages.iter().map(|message| serde_json::to_string_pretty(message).unwrap());
    insta::assert_snapshot!(json.collect::<Vec<_>>().join("\n"));
    for message in messages {
        let read: ServerMessage = serde_json::from_str(&serde_json::to_string(&message).unwrap()).unwrap();
        assert_eq!(read, message);
    }
}

#[test]
fn a_model_has_the_same_id_everywhere() {
    assert_eq!(model_uuid(&model()), model_uuid(&model()));
    let other = ModelInfo { name: "tiny".to_owned(), ..model() };
    assert_ne!(model_uuid(&model()), model_uuid(&other));
}
