//! What came when: from a session's updates to the figures of the summary. Pure: arrival times are passed in.

use std::time::Instant;

use serde::Serialize;

use super::{events::Left, recordings::Recording};
use crate::asr::{
    ModelInfo,
    engine::EngineStats,
    protocols::native::{StateUpdate, TimedWord},
    stream::{Samples, samples_of_seconds},
    wer::WordErrors,
};

/// When which sample went out.
#[derive(Debug, Default)]
pub(super) struct Sent(Vec<(Samples, Instant)>);

impl Sent {
    /// Everything up to this position has been sent.
    pub(super) fn push(&mut self, position: Samples, at: Instant) {
        self.0.push((position, at));
    }

    /// When the sample at this second went out; a word may end a little after the last sample.
    fn at(&self, second: f64) -> Option<Instant> {
        let position = samples_of_seconds(second);
        let sent = self.0.partition_point(|(until, _)| *until < position);
        self.0.get(sent).or(self.0.last()).map(|(_, at)| *at)
    }
}

/// A committed word and when it arrived.
#[derive(Debug)]
struct Arrived {
    word: TimedWord,
    at: Instant,
}

/// Watches a session.
#[derive(Debug)]
pub(super) struct Watch<'a> {
    recordings: &'a [Recording],
    /// How many words of each line have been seen.
    seen: Vec<usize>,
    committed: Vec<Arrived>,
    /// When each recording first showed a word, committed or not.
    shown: Vec<Option<Instant>>,
    tail: Vec<TimedWord>,
}

/// What a recording has on the screen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Caption {
    /// Final.
    pub(super) committed: String,
    /// May still change.
    pub(super) tail: String,
}

impl<'a> Watch<'a> {
    pub(super) fn new(recordings: &'a [Recording]) -> Self {
        Self {
            recordings,
            seen: Vec::new(),
            committed: Vec::new(),
            shown: vec![None; recordings.len()],
            tail: Vec::new(),
        }
    }

    /// Takes an update that arrived at `at`. The server of a demo never drops lines.
    pub(super) fn update(&mut self, state: &StateUpdate<'_>, at: Instant) {
        self.seen.resize(state.lines.len().max(self.seen.len()), 0);
        for (line, seen) in state.lines.iter().zip(&mut self.seen) {
            let new = line.words.get(*seen..).unwrap_or_default();
            self.committed.extend(new.iter().map(|word| Arrived { word: word.clone(), at }));
            *seen = line.words.len().max(*seen);
        }
        self.tail = state.buffer_words.to_vec();
        for (recording, shown) in self.recordings.iter().zip(&mut self.shown) {
            let mut words = self.committed.iter().map(|arrived| &arrived.word).chain(&self.tail);
            if shown.is_none() && words.any(|word| recording.owns(word.start, word.end)) {
                *shown = Some(at);
            }
        }
    }

    /// What each recording has on the screen now.
    pub(super) fn captions(&self) -> Vec<Caption> {
        let caption = |recording: &Recording| Caption {
            committed: text_of(recording, self.committed.iter().map(|arrived| &arrived.word)),
            tail: text_of(recording, self.tail.iter()),
        };
        self.recordings.iter().map(caption).collect()
    }

    /// The figures. Latencies mean something only where audio went out at the pace of speech: give `None` otherwise.
    pub(super) fn summary(&self, sent: Option<&Sent>, model: &ModelInfo, stats: &EngineStats) -> Summary {
        let captions = self.captions();
        let mut errors = WordErrors::default();
        let recordings: Vec<_> = self
            .recordings
            .iter()
            .zip(&captions)
            .map(|(recording, caption)| {
                let own = WordErrors::between(recording.text, &caption.committed);
                errors += own;
                Heard {
                    name: recording.name,
                    voice: recording.voice,
                    said: recording.text,
                    heard: caption.committed.clone(),
                    wer: own.rate(),
                    errors: own,
                }
            })
            .collect();
        let latency = |from: Option<Instant>, to: Instant| {
            Some(to.saturating_duration_since(from?).as_secs_f64() * 1e3)
        };
        let commit = sent.map(|sent| {
            self.committed
                .iter()
                .filter_map(|word| latency(sent.at(word.word.end), word.at))
                .collect::<Vec<_>>()
        });
        let first = sent.map(|sent| {
            let of = |(recording, shown): (&Recording, &Option<Instant>)| {
                let mut words = self.committed.iter().map(|arrived| &arrived.word);
                let first = words.find(|word| recording.owns(word.start, word.end))?;
                latency(sent.at(first.start), (*shown)?)
            };
            self.recordings.iter().zip(&self.shown).filter_map(of).collect::<Vec<_>>()
        });
        Summary {
            wer: errors.rate(),
            words: self.committed.len(),
            errors,
            audio_s: rounded(stats.audio_s, 1e2),
            rtf: rounded(stats.inference_s / stats.audio_s.max(f64::MIN_POSITIVE), 1e4),
            commit_ms_p50: commit.as_deref().and_then(|ms| percentile(ms, 50)),
            commit_ms_p95: commit.as_deref().and_then(|ms| percentile(ms, 95)),
            first_word_ms_p50: first.as_deref().and_then(|ms| percentile(ms, 50)),
            rss_mb: None,
            model: model.name.clone(),
            parameters: model.parameters,
            device: model.device.clone(),
            recordings,
            events: None,
        }
    }
}

fn text_of<'w>(recording: &Recording, words: impl Iterator<Item = &'w TimedWord>) -> String {
    let own = words.filter(|word| recording.owns(word.start, word.end));
    own.map(|word| word.word.as_str()).collect::<Vec<_>>().join(" ")
}

fn rounded(value: f64, per_unit: f64) -> f64 {
    (value * per_unit).round() / per_unit
}

/// The nearest-rank percentile, in whole milliseconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
fn percentile(values: &[f64], percent: usize) -> Option<u64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).map(|value| value.round() as u64)
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    /// Word errors for each word said, 0 to 1 (or more).
    pub(super) wer: f64,
    /// Words committed.
    pub(super) words: usize,
    /// The errors by kind, and the words said.
    pub(super) errors: WordErrors,
    /// Seconds of audio, gaps included.
    pub(super) audio_s: f64,
    /// Seconds of inference for each second of audio.
    pub(super) rtf: f64,
    /// From the end of a word to its commitment on the client's side; null without pacing.
    pub(super) commit_ms_p50: Option<u64>,
    /// The same for all but the slowest twentieth.
    pub(super) commit_ms_p95: Option<u64>,
    /// From the onset of speech to the first word shown, which may still change; null without pacing.
    pub(super) first_word_ms_p50: Option<u64>,
    /// The most memory the process ever held, in MB; left out where the system does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rss_mb: Option<u64>,
    /// The model's name.
    pub(super) model: String,
    /// Its number of weights.
    pub(super) parameters: u64,
    /// Where it ran.
    pub(super) device: String,
    /// Each recording by itself.
    pub(super) recordings: Vec<Heard>,
    /// What was left on the event bus; null where nothing was to be.
    pub(super) events: Option<Left>,
}

/// One recording's result.
#[derive(Debug, Serialize)]
pub(super) struct Heard {
    pub(super) name: &'static str,
    pub(super) voice: &'static str,
    /// The text known to be spoken.
    pub(super) said: &'static str,
    /// What was committed.
    pub(super) heard: String,
    pub(super) wer: f64,
    pub(super) errors: WordErrors,
}

#[cfg(test)]
mod tests {
    use std::{borrow::Cow, time::Duration};

    use super::*;
    use crate::asr::{
        protocols::native::{
            segment::{Detail, Layout},
            transcript::{Arrival, Transcript},
        },
        stream::StreamEvent,
    };

    fn recording(text: &'static str, start: Samples) -> Recording {
        Recording { name: "r", voice: "v", text, start, samples: vec![0.0; 32_000] }
    }

    fn word(text: &str, start: f64) -> crate::asr::Word {
        crate::asr::Word { text: format!(" {text}"), start, end: start + 0.5, probability: 1.0 }
    }

    fn model() -> ModelInfo {
        ModelInfo {
            name: "fake".to_owned(),
            window_s: 10.0,
            multilingual: false,
            prompts: true,
            languages: vec!["en".to_owned()],
            parameters: 1,
            device: "none".to_owned(),
        }
    }

    #[test]
    fn words_are_counted_once_and_timed_from_their_end() {
        let recordings = [recording("open the door", 0), recording("stop", 48_000)];
        let begin = Instant::now();
        let after = |ms| begin + Duration::from_millis(ms);
        let mut sent = Sent::default();
        for second in 1..=6_u32 {
            sent.push(Samples::from(second) * 16_000, after(u64::from(second) * 1_000));
        }
        let mut transcript = Transcript::new(Layout { detail: Detail::Words, ..Layout::default() }, 100);
        let mut watch = Watch::new(&recordings);
        let mut hear = |committed: Vec<_>, tail: Vec<_>, at| {
            transcript.apply(&StreamEvent::Hypothesis { committed, tail, heard: 0.0 });
            watch.update(&transcript.update(Arrival::default()), at);
        };
        // Sent with the first second, shown at 1.2 s, committed at 1.5 s.
        hear(vec![], vec![word("open", 0.2)], after(1_200));
        hear(vec![word("open", 0.2)], vec![word("a", 0.8)], after(1_500));
        // Ends in the second second; committed at 2.9 s. Nothing is shown twice.
        hear(vec![word("a", 0.8), word("door", 1.3)], vec![], after(2_900));
        hear(vec![word("stop", 3.2)], vec![], after(4_100));
        let summary = watch.summary(Some(&sent), &model(), &EngineStats::default());
        assert_eq!(summary.words, 4);
        assert_eq!((summary.errors.substitutions, summary.errors.words), (1, 4));
        // Latencies 500, 900, 900, 100 ms; first words 200 and 100 ms.
        assert_eq!((summary.commit_ms_p50, summary.commit_ms_p95), (Some(500), Some(900)));
        assert_eq!(summary.first_word_ms_p50, Some(100));
        assert_eq!(summary.recordings[0].heard, "open a door");
        assert_eq!(summary.recordings[1].heard, "stop");
        let unpaced = watch.summary(None, &model(), &EngineStats::default());
        assert_eq!((unpaced.commit_ms_p50, unpaced.first_word_ms_p50), (None, None));
    }

    #[test]
    fn nothing_heard_is_all_deletions() {
        let recordings = [recording("open the door", 0)];
        let summary = Watch::new(&recordings).summary(None, &model(), &EngineStats::default());
        assert!((summary.wer - 1.0).abs() < 1e-9);
        assert_eq!(summary.words, 0);
        assert!(summary.rtf.abs() < 1e-9);
    }

    #[test]
    fn an_update_without_words_changes_no_count() {
        let recordings = [recording("stop", 0)];
        let mut watch = Watch::new(&recordings);
        let mut transcript = Transcript::new(Layout::default(), 1);
        let mut state = transcript.update(Arrival::default());
        state.buffer_transcription = Cow::Borrowed("st");
        watch.update(&state, Instant::now());
        assert_eq!(watch.captions(), [Caption::default()]);
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!((percentile(&hundred, 50), percentile(&hundred, 95)), (Some(50), Some(95)));
        assert_eq!((percentile(&[7.4], 95), percentile(&[], 50)), (Some(7), None));
    }
}
