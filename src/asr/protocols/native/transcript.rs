//! From the events of a stream to state updates. Pure: whoever drives it says how much audio has arrived.

use std::borrow::Cow;

use super::{Line, SILENCE, SPEAKER, StateUpdate, Status, TimedWord, clock, round};
use crate::asr::{
    Word,
    stream::{StreamEvent, Utterance, join},
};

/// A pause longer than this, in seconds, gets a line of its own; the value is WhisperLiveKit's.
const PAUSE_S: f64 = 5.0;

/// What lines carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Detail {
    /// Text and times.
    #[default]
    Lines,
    /// The words and their times as well.
    Words,
}

/// How much audio has arrived, for the keys that tell how far behind the server is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Arrival {
    /// Seconds of audio received.
    pub received_s: f64,
    /// Seconds since the first of it.
    pub elapsed_s: f64,
}

/// What an event did to the transcript.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A client would see the same; only its lag may differ, which is not worth a message.
    Nothing,
    /// There is something to send.
    Visible,
}

/// Everything said in a session, within a cap.
#[derive(Debug)]
pub struct Transcript {
    detail: Detail,
    retention: usize,
    /// The last of them belongs to the running utterance if that has committed words.
    lines: Vec<Line>,
    pruned: u64,
    /// Committed words of the running utterance.
    running: Vec<Word>,
    tail: String,
    tail_words: Vec<TimedWord>,
    /// Where the last word of the last finished line ends, in seconds.
    last_word_end: Option<f64>,
    heard: f64,
    committed: f64,
    error: Option<String>,
}

impl Transcript {
    /// Nothing said yet; at most `retention` lines (one at least) are kept.
    #[must_use]
    pub fn new(detail: Detail, retention: usize) -> Self {
        Self {
            detail,
            retention: retention.max(1),
            lines: Vec::new(),
            pruned: 0,
            running: Vec::new(),
            tail: String::new(),
            tail_words: Vec::new(),
            last_word_end: None,
            heard: 0.0,
            committed: 0.0,
            error: None,
        }
    }

    /// Takes what the stream says. Markers and the end change nothing here: they are messages of their own.
    pub fn apply(&mut self, event: &StreamEvent) -> Change {
        match event {
            StreamEvent::Hypothesis { committed, tail, heard } => {
                self.heard = self.heard.max(*heard);
                let changed = self.extend(committed) | self.set_tail(tail);
                if changed { Change::Visible } else { Change::Nothing }
            }
            StreamEvent::UtteranceEnded(utterance) => self.finish(utterance),
            StreamEvent::Failed { message, start, end } => {
                self.fail(format!("{message} (from {} to {})", clock(*start), clock(*end)));
                Change::Visible
            }
            StreamEvent::Ended { heard } => {
                self.heard = self.heard.max(*heard);
                Change::Nothing
            }
            StreamEvent::SpeechStarted { .. } | StreamEvent::Marker(_) => Change::Nothing,
        }
    }

    /// Has the next update say that something failed. It is said once, in an update that is really taken.
    pub fn fail(&mut self, message: String) {
        self.error = Some(message);
    }

    /// Lines so far, those that were dropped included.
    #[must_use]
    pub fn line_count(&self) -> u64 {
        self.pruned + self.lines.len() as u64
    }

    /// The state as it is now.
    pub fn update(&mut self, arrival: Arrival) -> StateUpdate<'_> {
        let error = self.error.take();
        let status = if error.is_some() {
            Status::Error
        } else if self.line_count() == 0 && self.tail.is_empty() {
            Status::NoAudioDetected
        } else {
            Status::ActiveTranscription
        };
        let held_back = if self.tail.is_empty() { 0.0 } else { self.heard - self.committed };
        let seconds = |value: f64| round(value.max(0.0), 10.0);
        StateUpdate {
            status,
            lines: Cow::Borrowed(&self.lines),
            lines_pruned: self.pruned,
            buffer_transcription: Cow::Borrowed(&self.tail),
            buffer_words: Cow::Borrowed(&self.tail_words),
            buffer_diarization: Cow::Borrowed(""),
            buffer_translation: Cow::Borrowed(""),
            remaining_time_transcription: seconds(arrival.elapsed_s - self.heard),
            remaining_time_transcription_processing: seconds(arrival.received_s - self.heard),
            remaining_time_transcription_policy: seconds(held_back),
            remaining_time_diarization: 0.0,
            error,
        }
    }

    /// Adds committed words to the running line, which appears with the first of them.
    fn extend(&mut self, committed: &[Word]) -> bool {
        let Some(first) = committed.first() else { return false };
        if self.running.is_empty() {
            self.open(first.start);
        }
        self.running.extend_from_slice(committed);
        let running = std::mem::take(&mut self.running);
        self.write(&running);
        self.running = running;
        true
    }

    /// Begins a line, with a line for the pause before it if that was long.
    fn open(&mut self, start: f64) {
        if let Some(end) = self.last_word_end
            && start - end > PAUSE_S
        {
            self.lines.push(line(SILENCE, end, start));
        }
        self.lines.push(line(SPEAKER, start, start));
        let excess = self.lines.len().saturating_sub(self.retention);
        self.lines.drain(..excess);
        self.pruned += excess as u64;
    }

    /// Makes the last line say these words.
    fn write(&mut self, words: &[Word]) {
        let (Some(line), Some(first), Some(last)) = (self.lines.last_mut(), words.first(), words.last())
        else {
            return;
        };
        line.text = join(words);
        line.start = clock(first.start);
        line.end = clock(last.end);
        if self.detail == Detail::Words {
            line.words = words.iter().map(TimedWord::from).collect();
        }
        self.committed = last.end;
    }

    fn set_tail(&mut self, tail: &[Word]) -> bool {
        let text: String = tail.iter().map(|word| word.text.as_str()).collect();
        // Clients put the buffer straight behind the last line, so the space between the two must stay.
        let text = if self.lines.is_empty() { text.trim_start() } else { &text };
        let text = text.trim_end();
        let words: Vec<TimedWord> = match self.detail {
            Detail::Words => tail.iter().map(TimedWord::from).collect(),
            Detail::Lines => Vec::new(),
        };
        let changed = self.tail != text || self.tail_words != words;
        if changed {
            text.clone_into(&mut self.tail);
            self.tail_words = words;
        }
        changed
    }

    fn finish(&mut self, utterance: &Utterance) -> Change {
        self.heard = self.heard.max(utterance.end);
        let mut changed = self.set_tail(&[]);
        if let (Some(first), Some(last)) = (utterance.words.first(), utterance.words.last()) {
            if self.running.is_empty() {
                self.open(first.start);
            }
            let before = self.lines.last().cloned();
            self.write(&utterance.words);
            if let Some(line) = self.lines.last_mut() {
                line.detected_language.clone_from(&utterance.language);
            }
            self.last_word_end = Some(last.end);
            changed |= before.as_ref() != self.lines.last();
        }
        self.running.clear();
        if changed { Change::Visible } else { Change::Nothing }
    }
}

fn line(speaker: i32, start: f64, end: f64) -> Line {
    Line {
        speaker,
        text: String::new(),
        start: clock(start),
        end: clock(end),
        detected_language: None,
        words: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::asr::stream::EndReason;

    fn word(text: &str, start: f64) -> Word {
        Word { text: format!(" {text}"), start, end: start + 0.5, probability: 0.9 }
    }

    fn words(text: &str, start: f64) -> Vec<Word> {
        text.split_whitespace().enumerate().map(|(i, text)| word(text, start + i as f64 * 0.5)).collect()
    }

    fn ended(words: Vec<Word>, language: Option<&str>) -> StreamEvent {
        StreamEvent::UtteranceEnded(Utterance {
            index: 0,
            start: words.first().map_or(0.0, |word| word.start),
            end: words.last().map_or(0.0, |word| word.end + 0.2),
            text: join(&words),
            words,
            language: language.map(str::to_owned),
            language_probability: 1.0,
            avg_logprob: 0.0,
            no_speech_prob: 0.0,
            reason: EndReason::Endpoint,
        })
    }

    fn heard(committed: Vec<Word>, tail: Vec<Word>, heard: f64) -> StreamEvent {
        StreamEvent::Hypothesis { committed, tail, heard }
    }

    fn json(transcript: &mut Transcript, arrival: Arrival) -> String {
        serde_json::to_string_pretty(&transcript.update(arrival)).unwrap()
    }

    #[test]
    fn the_first_update_says_that_there_is_nothing() {
        let mut transcript = Transcript::new(Detail::Lines, 10);
        insta::assert_snapshot!(json(&mut transcript, Arrival::default()));
    }

    #[test]
    fn the_running_utterance_is_a_line_and_a_buffer() {
        let mut transcript = Transcript::new(Detail::Words, 10);
        let first = heard(vec![], words("set", 1.0), 1.6);
        assert_eq!(transcript.apply(&first), Change::Visible);
        assert_eq!(transcript.update(Arrival::default()).buffer_transcription, "set");
        assert_eq!(transcript.apply(&heard(words("set a", 1.0), words("timber", 2.0), 2.8)), Change::Visible);
        insta::assert_snapshot!(json(&mut transcript, Arrival { received_s: 3.04, elapsed_s: 4.26 }));
        assert_eq!(transcript.apply(&heard(vec![], words("timber", 2.0), 3.0)), Change::Nothing);
    }

    #[test]
    fn each_utterance_is_a_line_and_a_long_pause_is_one_too() {
        let mut transcript = Transcript::new(Detail::Lines, 10);
        for (text, start) in [("set a timer", 1.0), ("stop", 4.0), ("go on", 9.6)] {
            transcript.apply(&heard(words(text, start), vec![], start + 3.0));
            transcript.apply(&ended(words(text, start), Some("en")));
        }
        // An utterance in which the model heard nothing leaves no line.
        assert_eq!(transcript.apply(&ended(vec![], None)), Change::Nothing);
        insta::assert_snapshot!(json(&mut transcript, Arrival { received_s: 12.6, elapsed_s: 12.6 }));
    }

    #[test]
    fn a_pause_of_exactly_five_seconds_is_no_line() {
        let mut transcript = Transcript::new(Detail::Lines, 10);
        transcript.apply(&ended(words("a", 0.0), None));
        transcript.apply(&ended(words("b", 5.5), None));
        assert_eq!(transcript.line_count(), 2);
    }

    #[test]
    fn a_failure_is_said_once_and_the_session_goes_on() {
        let mut transcript = Transcript::new(Detail::Lines, 10);
        let failed =
            StreamEvent::Failed { message: "inference failed: boom".to_owned(), start: 1.0, end: 2.5 };
        assert_eq!(transcript.apply(&failed), Change::Visible);
        insta::assert_snapshot!(json(&mut transcript, Arrival::default()));
        assert_eq!(transcript.update(Arrival::default()).status, Status::NoAudioDetected);
    }

    #[test]
    fn old_lines_are_dropped_and_counted() {
        let mut transcript = Transcript::new(Detail::Lines, 3);
        for i in 0..10 {
            transcript.apply(&ended(words(&format!("w{i}"), f64::from(i)), None));
        }
        let update = transcript.update(Arrival::default());
        let texts: Vec<_> = update.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!((update.lines_pruned, texts), (7, vec!["w7", "w8", "w9"]));
    }

    #[test]
    fn text_that_html_would_eat_arrives_as_it_is() {
        let mut transcript = Transcript::new(Detail::Lines, 3);
        transcript.apply(&ended(words("<b>\u{1F600} \"x\" \\n\u{0}", 0.0), None));
        let update = json(&mut transcript, Arrival::default());
        let read: StateUpdate<'_> = serde_json::from_str(&update).unwrap();
        assert_eq!(read.lines[0].text, "<b>\u{1F600} \"x\" \\n\u{0}");
    }

    proptest! {
        /// However the words of an utterance are committed, the lines are the utterances, and no line before the last
        /// ever changes.
        #[test]
        fn committing_in_any_steps_gives_the_same_lines(
            utterances in prop::collection::vec((1_usize..8, prop::collection::vec(0_usize..4, 0..4), 0.1..8.0_f64), 1..12),
        ) {
            let mut stepped = Transcript::new(Detail::Words, 100);
            let mut whole = Transcript::new(Detail::Words, 100);
            let mut at = 0.0;
            for (count, steps, pause) in utterances {
                at += pause;
                let said: Vec<Word> = (0..count).map(|i| word(&format!("w{i}"), at + i as f64 * 0.5)).collect();
                let mut done = 0;
                for step in steps {
                    let next = (done + step).min(count);
                    let before = stepped.update(Arrival::default()).lines.into_owned();
                    stepped.apply(&heard(said[done..next].to_vec(), said[next..].to_vec(), at));
                    let after = stepped.update(Arrival::default()).lines.into_owned();
                    let settled = before.len().saturating_sub(1);
                    prop_assert_eq!(&before[..settled], &after[..settled]);
                    done = next;
                }
                at += count as f64 * 0.5;
                stepped.apply(&heard(said[done..].to_vec(), vec![], at));
                stepped.apply(&ended(said.clone(), Some("en")));
                whole.apply(&ended(said, Some("en")));
            }
            let (stepped, whole) = (stepped.update(Arrival::default()), whole.update(Arrival::default()));
            prop_assert_eq!(stepped, whole);
        }
    }
}
