//! `mode=diff`: after one snapshot, updates carry only the lines that are new. Pure.
//!
//! Two kinds of clients exist. One does what WhisperLiveKit documents: drop `lines_pruned` lines from the front, append
//! `new_lines`, and expect `n_lines` of them. The other mends what WhisperLiveKit's server gets wrong: after pruning it
//! cuts its list to `n_lines - len(new_lines)` before it appends. The messages made here say the same to both:
//! a list that only lost lines at its front and won some at its end is said as that, and any other change as
//! "drop everything, here is everything". In a live transcript that never happens, because only final lines are
//! listed; the growing one is in `buffer_transcription` (and in `running`, which is ours) until it is final.

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

use serde::{Deserialize, Serialize};

use super::{Line, StateUpdate, Status, TimedWord, is_empty};

/// The first update of `mode=diff`: all that a full update has.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot<'a> {
    /// Always `snapshot`.
    pub r#type: Cow<'static, str>,
    /// Always 1.
    pub seq: u64,
    /// The line that still grows; its text is at the front of `buffer_transcription` as well.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Cow<'a, Line>>,
    /// The final lines, the buffers, the lag.
    #[serde(flatten)]
    pub state: StateUpdate<'a>,
}

/// What changed since the update before.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Diff<'a> {
    /// Always `diff`.
    pub r#type: Cow<'static, str>,
    /// One more than the update before.
    pub seq: u64,
    /// What the session is doing.
    pub status: Status,
    /// Lines that the client has once it has done as told.
    pub n_lines: usize,
    /// Lines to drop from the front.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lines_pruned: usize,
    /// Lines to append.
    #[serde(default, skip_serializing_if = "is_empty")]
    pub new_lines: Cow<'a, [Line]>,
    /// As in [`Snapshot::running`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<Cow<'a, Line>>,
    /// As in [`StateUpdate::buffer_transcription`], after the text of the running line.
    pub buffer_transcription: Cow<'a, str>,
    /// As in [`StateUpdate::buffer_words`].
    #[serde(default, skip_serializing_if = "is_empty")]
    pub buffer_words: Cow<'a, [TimedWord]>,
    /// As in [`StateUpdate::buffer_diarization`].
    pub buffer_diarization: Cow<'a, str>,
    /// As in [`StateUpdate::buffer_translation`].
    pub buffer_translation: Cow<'a, str>,
    /// As in [`StateUpdate::remaining_time_transcription`].
    pub remaining_time_transcription: f64,
    /// As in [`StateUpdate::remaining_time_transcription_processing`].
    pub remaining_time_transcription_processing: f64,
    /// As in [`StateUpdate::remaining_time_transcription_policy`].
    pub remaining_time_transcription_policy: f64,
    /// As in [`StateUpdate::remaining_time_diarization`].
    pub remaining_time_diarization: f64,
    /// As in [`StateUpdate::hop`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hop: Option<u64>,
    /// As in [`StateUpdate::error`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// An update of `mode=diff`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Update<'a> {
    /// The first one.
    Snapshot(Box<Snapshot<'a>>),
    /// All others.
    Diff(Box<Diff<'a>>),
}

/// What a client has been told: 8 bytes for each line.
#[derive(Debug, Default)]
pub struct Tracker {
    seq: u64,
    told: Vec<u64>,
}

/// What tells two lines apart: a final line never changes, so its id is enough.
fn key(line: &Line) -> u64 {
    let mut hasher = DefaultHasher::new();
    (line.id, line.last).hash(&mut hasher);
    if !line.last {
        (line.speaker, &line.text, &line.start, &line.end).hash(&mut hasher);
    }
    hasher.finish()
}

impl Tracker {
    /// The message that brings a client from what it was told to this state, and the growing line.
    pub fn update<'a>(&mut self, state: StateUpdate<'a>, running: Option<&'a Line>) -> Update<'a> {
        self.seq += 1;
        let running = running.map(Cow::Borrowed);
        let keys: Vec<u64> = state.lines.iter().map(key).collect();
        if self.seq == 1 {
            self.told = keys;
            let r#type = Cow::Borrowed("snapshot");
            return Update::Snapshot(Box::new(Snapshot { r#type, seq: 1, running, state }));
        }
        let (pruned, known) = changed(&self.told, &keys);
        self.told = keys;
        let n_lines = state.lines.len();
        let new_lines = match state.lines {
            Cow::Borrowed(lines) => Cow::Borrowed(lines.get(known..).unwrap_or_default()),
            Cow::Owned(mut lines) => Cow::Owned(lines.split_off(known.min(lines.len()))),
        };
        Update::Diff(Box::new(Diff {
            r#type: Cow::Borrowed("diff"),
            seq: self.seq,
            status: state.status,
            n_lines,
            lines_pruned: pruned,
            new_lines,
            running,
            buffer_transcription: state.buffer_transcription,
            buffer_words: state.buffer_words,
            buffer_diarization: state.buffer_diarization,
            buffer_translation: state.buffer_translation,
            remaining_time_transcription: state.remaining_time_transcription,
            remaining_time_transcription_processing: state.remaining_time_transcription_processing,
            remaining_time_transcription_policy: state.remaining_time_transcription_policy,
            remaining_time_diarization: state.remaining_time_diarization,
            hop: state.hop,
            error: state.error,
        }))
    }
}

/// How many of the lines told before must go from the front, and how many of the present ones are then there already.
fn changed(before: &[u64], now: &[u64]) -> (usize, usize) {
    let first = now.first().and_then(|first| before.iter().position(|key| key == first));
    match first {
        Some(pruned) if now.starts_with(&before[pruned..]) => (pruned, before.len() - pruned),
        _ => (before.len(), 0),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::asr::protocols::native::{
        SPEAKER,
        segment::Layout,
        transcript::{Arrival, Transcript},
    };

    fn line(id: u64, text: &str, last: bool) -> Line {
        Line {
            speaker: SPEAKER,
            id,
            last,
            text: text.to_owned(),
            start: "0:00:00.00".to_owned(),
            end: "0:00:01.00".to_owned(),
            detected_language: None,
            words: Vec::new(),
        }
    }

    fn state(lines: &[Line]) -> StateUpdate<'static> {
        let mut nothing = Transcript::new(Layout::default(), 1);
        let update = nothing.update(Arrival::default());
        StateUpdate {
            status: update.status,
            lines: Cow::Owned(lines.to_vec()),
            lines_pruned: 0,
            buffer_transcription: Cow::Borrowed(""),
            buffer_words: Cow::Borrowed(&[]),
            buffer_diarization: Cow::Borrowed(""),
            buffer_translation: Cow::Borrowed(""),
            remaining_time_transcription: 0.0,
            remaining_time_transcription_processing: 0.0,
            remaining_time_transcription_policy: 0.0,
            remaining_time_diarization: 0.0,
            hop: None,
            error: None,
        }
    }

    /// A client that reads the JSON and follows one of the two rules.
    struct Client {
        robust: bool,
        seq: u64,
        lines: Vec<Line>,
    }

    impl Client {
        fn read(&mut self, update: &Update<'_>) {
            let json = serde_json::to_value(update).unwrap();
            let lines = |key: &str| -> Vec<Line> {
                json.get(key).map(|lines| serde_json::from_value(lines.clone()).unwrap()).unwrap_or_default()
            };
            self.seq += 1;
            assert_eq!(json["seq"], self.seq);
            if json["type"] == "snapshot" {
                self.lines = lines("lines");
                return;
            }
            let count =
                |key: &str| json.get(key).map_or(0, |n| usize::try_from(n.as_u64().unwrap()).unwrap());
            self.lines.drain(..count("lines_pruned"));
            let new = lines("new_lines");
            if self.robust {
                self.lines.truncate(count("n_lines") - new.len());
            }
            self.lines.extend(new);
            assert_eq!(self.lines.len(), count("n_lines"), "the rule that is documented ends with a count");
        }
    }

    /// One change of a list of lines.
    #[derive(Debug, Clone)]
    enum Edit {
        Append(String),
        /// The last line grows in place: what WhisperLiveKit gets wrong.
        Grow(String),
        Prune(usize),
        /// Something that no live transcript does.
        Replace(usize, String),
        Remove(usize),
        Insert(usize, String),
        Clear,
    }

    fn edits() -> impl Strategy<Value = Vec<Edit>> {
        let text = || "[a-c]{0,3}";
        prop::collection::vec(
            prop_oneof![
                4 => text().prop_map(Edit::Append),
                3 => text().prop_map(Edit::Grow),
                2 => (0_usize..4).prop_map(Edit::Prune),
                1 => (0_usize..8, text()).prop_map(|(at, text)| Edit::Replace(at, text)),
                1 => (0_usize..8).prop_map(Edit::Remove),
                1 => (0_usize..8, text()).prop_map(|(at, text)| Edit::Insert(at, text)),
                1 => Just(Edit::Clear),
            ],
            0..60,
        )
    }

    proptest! {
        #[test]
        fn both_kinds_of_clients_end_with_the_same_lines(edits in edits(), skip in prop::collection::vec(any::<bool>(), 60)) {
            let mut tracker = Tracker::default();
            let mut clients = [false, true].map(|robust| Client { robust, seq: 0, lines: Vec::new() });
            let mut lines: Vec<Line> = Vec::new();
            let mut next = 0;
            let mut fresh = |text: &str, last: bool| {
                next += 1;
                line(next, text, last)
            };
            for (edit, skip) in edits.into_iter().zip(skip) {
                match edit {
                    Edit::Append(text) => lines.push(fresh(&text, true)),
                    Edit::Grow(text) => match lines.last_mut() {
                        Some(line) if !line.last => line.text.push_str(&text),
                        _ => lines.push(fresh(&text, false)),
                    },
                    Edit::Prune(count) => drop(lines.drain(..count.min(lines.len()))),
                    Edit::Replace(at, text) if at < lines.len() => lines[at] = fresh(&text, true),
                    Edit::Remove(at) if at < lines.len() => drop(lines.remove(at)),
                    Edit::Insert(at, text) => lines.insert(at.min(lines.len()), fresh(&text, true)),
                    Edit::Clear => lines.clear(),
                    Edit::Replace(..) | Edit::Remove(_) => {}
                }
                // A slow reader does not see every state.
                if skip {
                    continue;
                }
                let update = tracker.update(state(&lines), None);
                for client in &mut clients {
                    client.read(&update);
                    prop_assert_eq!(&client.lines, &lines);
                }
            }
        }
    }

    #[test]
    fn messages_of_the_mode() {
        let mut tracker = Tracker::default();
        let lines = [line(0, "set a timer", true), line(1, "stop", true), line(2, "go", true)];
        let running = line(3, "on", false);
        let messages = [
            tracker.update(state(&lines[..1]), None),
            tracker.update(state(&lines[..2]), Some(&running)),
            tracker.update(state(&lines[1..]), None),
            tracker.update(state(&lines[1..]), None),
        ];
        let json = messages.each_ref().map(|message| serde_json::to_string_pretty(message).unwrap());
        insta::assert_snapshot!(json.join("\n"));
    }
}
