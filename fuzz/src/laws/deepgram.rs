//! Deepgram's protocol: the query, what clients say, and the messages as a client reads them.

use godctl::asr::{
    DecodeOptions,
    protocols::deepgram::{
        ServerMessage,
        control::Control,
        options::{Audio, Effective, MAX_CHANNELS, Options, RATES_HZ},
    },
    stream::Tuning,
};

use super::setting::{model, pairs};

/// As text it is a frame of the client, a message of the server and a query.
pub fn hold(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    for channels in [1, MAX_CHANNELS] {
        match Control::parse(text, channels) {
            Ok(Control::Finalize { channel }) => assert!(channel.is_none_or(|channel| channel < channels)),
            Ok(Control::Unknown(name)) => assert!(name.len() <= text.len()),
            Ok(Control::KeepAlive | Control::CloseStream | Control::Configure { .. }) => {}
            Err(refused) => assert!(!refused.reason.is_empty() && text.starts_with(&refused.quote)),
        }
    }
    message(text);
    query(text);
}

/// Holds: a message that is read, written and read again is the same.
fn message(text: &str) {
    if let Ok(message) = serde_json::from_str::<ServerMessage>(text) {
        let written = serde_json::to_string(&message).unwrap();
        assert_eq!(serde_json::from_str::<ServerMessage>(&written).unwrap(), message, "{written}");
    }
}

/// Holds: a refusal is short and names its parameter; what was asked for is within the limits that are documented, and
/// the client can read what is in force.
fn query(text: &str) {
    let pairs = pairs(text);
    let options = match Options::parse(pairs.clone()) {
        Ok(options) => options,
        Err(refused) => return assert!(refused.to_string().len() < 400, "{refused}"),
    };
    assert!((1..=MAX_CHANNELS).contains(&options.streams()));
    if let Some(pcm) = options.pcm() {
        assert!(RATES_HZ.contains(&pcm.rate_hz) && (1..=MAX_CHANNELS).contains(&pcm.channels));
    }
    let rules = options.rules();
    assert!(rules.utterance_end_s.is_none_or(|seconds| (1.0..=5.0).contains(&seconds)));
    assert!(options.tuning(Tuning::default()).endpointing.is_none_or(|samples| samples > 0));
    for prompts in [false, true] {
        let model = model(prompts);
        let decode = options.decode(&DecodeOptions::default(), &model);
        assert!(prompts || decode.hotwords.is_none());
        let effective = options.effective(&decode, &model);
        let written = serde_json::to_string(&effective).unwrap();
        assert_eq!(serde_json::from_str::<Effective>(&written).unwrap(), effective, "{written}");
        for audio in [Audio::Live, Audio::Recorded] {
            let ignored = options.ignored(&model, audio);
            assert!(ignored.len() <= pairs.len() && ignored.iter().all(|name| name.chars().count() <= 40));
        }
    }
}
