//! The websocket `/asr`: its query, what its clients say, and what its server says as a client reads it.

use std::borrow::Cow;

use godctl::asr::{
    DecodeOptions,
    protocols::native::{
        Line, ServerMessage, StateUpdate, Status, Tagged, clock,
        control::Control,
        diff::{Diff, Tracker, Update},
        parse_clock,
        request::Request,
    },
    stream::Tuning,
};

use super::setting::{model, pairs};

/// Changes of one list of lines; more tell nothing new and take long.
const MAX_CHANGES: usize = 64;

/// As text it is a frame, a query and a time; as bytes it is what happens to a list of lines.
pub fn hold(bytes: &[u8]) {
    lines(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    message(text);
    query(text);
    time(text);
    match Control::parse(text) {
        Ok(Control::Config(options)) => request(options),
        Ok(Control::Marker(name)) => assert!(!name.is_empty() && name.len() <= text.len()),
        Ok(Control::End | Control::Flush | Control::KeepAlive) => {}
        Err(refused) => assert!(refused.to_string().len() < 400, "{refused}"),
    }
}

/// Holds: a message that is read, written and read again is the same.
fn message(text: &str) {
    if let Ok(message) = ServerMessage::parse(text) {
        let written = write(&message);
        assert_eq!(ServerMessage::parse(&written).unwrap(), message, "{written}");
    }
}

fn write(message: &ServerMessage) -> String {
    match message {
        ServerMessage::Tagged(tagged) => serde_json::to_string(tagged),
        ServerMessage::State(state) => serde_json::to_string(state),
        ServerMessage::Snapshot(snapshot) => serde_json::to_string(snapshot),
        ServerMessage::Diff(diff) => serde_json::to_string(diff),
    }
    .unwrap()
}

fn query(text: &str) {
    request(pairs(text));
}

/// Holds: a refusal is short and names its parameter; what is in force is something that a client can read; setting the
/// same parameters twice is as setting them once.
fn request(pairs: Vec<(String, String)>) {
    let request = match Request::parse(pairs.clone()) {
        Ok(request) => request,
        Err(refused) => {
            assert!(refused.to_string().len() < 400, "{refused}");
            return assert!(pairs.iter().any(|(name, _)| name.starts_with(refused.parameter)));
        }
    };
    assert_eq!(request.clone().amended(pairs).unwrap(), request);
    let (model, tuning) = (model(true), request.tuning(Tuning::default()));
    let decode = request.decode(&DecodeOptions::default());
    let config = Tagged::Config(Box::new(request.config("id".to_owned(), &model, &decode, tuning, 1_000)));
    let written = serde_json::to_string(&config).unwrap();
    assert_eq!(ServerMessage::parse(&written).unwrap(), ServerMessage::Tagged(config), "{written}");
}

/// Holds: a time within a century that is read, written and read again is the same to half a hundredth.
fn time(text: &str) {
    if let Some(seconds) = parse_clock(text).filter(|seconds| *seconds < 3e9) {
        let again = parse_clock(&clock(seconds));
        assert!(again.is_some_and(|again| (again - seconds).abs() <= 0.005 + 1e-5), "{seconds} {again:?}");
    }
}

/// Holds: whatever becomes of a list of lines, a client that reads the updates of `mode=diff` and does what they say has
/// the same list.
fn lines(bytes: &[u8]) {
    let mut tracker = Tracker::default();
    let (mut lines, mut client): (Vec<Line>, Vec<Line>) = (Vec::new(), Vec::new());
    for (seq, (byte, id)) in (1..).zip(bytes.iter().take(MAX_CHANGES).zip(0..)) {
        let at = usize::from(byte >> 3);
        match byte & 7 {
            0..=2 => lines.push(line(id, byte & 7 > 0)),
            3 => lines.last_mut().into_iter().filter(|line| !line.last).for_each(|line| line.text.push('x')),
            4 => drop(lines.drain(..at.min(lines.len()))),
            5 if at < lines.len() => drop(lines.remove(at)),
            6 => lines.insert(at.min(lines.len()), line(id, true)),
            _ => lines.truncate(at),
        }
        let running = lines.last().filter(|line| !line.last).cloned();
        let update = tracker.update(state(&lines), running.as_ref());
        let seq_said = match &update {
            Update::Snapshot(snapshot) => snapshot.seq,
            Update::Diff(diff) => diff.seq,
        };
        assert_eq!(seq_said, seq);
        match ServerMessage::parse(&serde_json::to_string(&update).unwrap()).unwrap() {
            ServerMessage::Snapshot(snapshot) => client = snapshot.state.lines.into_owned(),
            ServerMessage::Diff(diff) => apply(&diff, &mut client),
            other => panic!("{other:?} is no update"),
        }
        assert_eq!(client, lines);
    }
}

/// What WhisperLiveKit tells its clients to do.
fn apply(diff: &Diff<'_>, lines: &mut Vec<Line>) {
    lines.drain(..diff.lines_pruned);
    lines.extend_from_slice(&diff.new_lines);
    assert_eq!(lines.len(), diff.n_lines);
}

fn line(id: u64, last: bool) -> Line {
    let (start, end) = (clock(id as f64), clock(id as f64 + 1.0));
    let text = format!("line {id}");
    Line { id, last, speaker: 1, text, start, end, detected_language: None, words: Vec::new() }
}

fn state(lines: &[Line]) -> StateUpdate<'_> {
    StateUpdate {
        status: Status::ActiveTranscription,
        lines: Cow::Borrowed(lines),
        lines_pruned: 0,
        buffer_transcription: "".into(),
        buffer_words: Cow::Borrowed(&[]),
        buffer_diarization: "".into(),
        buffer_translation: "".into(),
        remaining_time_transcription: 0.0,
        remaining_time_transcription_processing: 0.0,
        remaining_time_transcription_policy: 0.0,
        remaining_time_diarization: 0.0,
        hop: None,
        error: None,
    }
}
