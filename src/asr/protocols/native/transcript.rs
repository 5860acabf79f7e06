//! From the events of a stream to state updates. Pure: whoever drives it says how much audio has arrived.
//!
//! Words come in their order and are committed one after another, so a line is finished as soon as the layout says so,
//! and what is final stays as it is. The one line that still grows is the last. At the end of an utterance its last
//! decode may know better: then the part of it that is not in a final line yet is written anew.

use std::borrow::Cow;

use super::{
    Line, SILENCE, SPEAKER, StateUpdate, Status, TimedWord, clock, round,
    segment::{Detail, Layout},
};
use crate::asr::{
    Word,
    stream::{EndReason, StreamEvent, Utterance, join},
};

/// A pause longer than this, in seconds, gets a line of its own; the value is WhisperLiveKit's.
const PAUSE_S: f64 = 5.0;

/// How much audio has arrived, for the keys that tell how far behind the server is.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Arrival {
    /// Seconds of audio received.
    pub received_s: f64,
    /// Seconds of it that the engine has not taken in yet.
    pub waiting_s: f64,
    /// Seconds since the first of it.
    pub elapsed_s: f64,
    /// Seconds between two looks at the running utterance, where that is more than was asked for.
    pub hop_s: Option<f64>,
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
    layout: Layout,
    retention: usize,
    /// The last of them still grows if `open` has words.
    lines: Vec<Line>,
    pruned: u64,
    /// The id of the next line.
    next: u64,
    /// Words of the line that still grows.
    open: Vec<Word>,
    /// How many of them belong to utterances before the running one.
    inherited: usize,
    /// Words of the running utterance that are in final lines.
    settled: usize,
    /// Where the last of those ends, in seconds.
    settled_end: f64,
    /// The language of all utterances, where it was given.
    language: Option<String>,
    tail: String,
    tail_words: Vec<TimedWord>,
    /// Where the last word of the last utterance ends, in seconds.
    last_word_end: Option<f64>,
    /// Where the last committed word ends, in seconds.
    committed: f64,
    error: Option<String>,
}

impl Transcript {
    /// Nothing said yet; at most `retention` lines (one at least) are kept.
    #[must_use]
    pub fn new(layout: Layout, retention: usize) -> Self {
        Self {
            layout,
            retention: retention.max(1),
            lines: Vec::new(),
            pruned: 0,
            next: 0,
            open: Vec::new(),
            inherited: 0,
            settled: 0,
            settled_end: 0.0,
            language: None,
            tail: String::new(),
            tail_words: Vec::new(),
            last_word_end: None,
            committed: 0.0,
            error: None,
        }
    }

    /// Says in which language everything is decoded, where that is not detected.
    #[must_use]
    pub fn in_language(self, language: Option<String>) -> Self {
        Self { language, ..self }
    }

    /// Takes what the stream says. Markers and the end change nothing here: they are messages of their own.
    pub fn apply(&mut self, event: &StreamEvent) -> Change {
        match event {
            StreamEvent::Hypothesis { committed, tail, heard: _ } => {
                for word in committed {
                    self.add(word);
                }
                let changed = !committed.is_empty() | self.set_tail(tail);
                if changed { Change::Visible } else { Change::Nothing }
            }
            StreamEvent::UtteranceEnded(utterance) => self.finish(utterance),
            StreamEvent::Failed { message, start, end } => {
                self.fail(format!("{message} (from {} to {})", clock(*start), clock(*end)));
                Change::Visible
            }
            StreamEvent::Ended { .. } => {
                // An utterance that was cut may have left its line open.
                let open = !self.open.is_empty();
                self.close(None);
                if open { Change::Visible } else { Change::Nothing }
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

    /// The state as it is now: all lines, and the tail of the last one.
    pub fn update(&mut self, arrival: Arrival) -> StateUpdate<'_> {
        let error = self.error.take();
        let tail = Cow::Borrowed(self.tail.as_str());
        self.state(arrival, error, &self.lines, tail)
    }

    /// The state as it is now with only the lines that are final, and the line that still grows: its text and the
    /// tail are the buffer.
    pub fn settled(&mut self, arrival: Arrival) -> (StateUpdate<'_>, Option<&Line>) {
        let error = self.error.take();
        let (lines, running) = match self.lines.split_last() {
            Some((last, lines)) if !last.last => (lines, Some(last)),
            _ => (self.lines.as_slice(), None),
        };
        let buffer = if running.is_some() {
            let text: String = self.open.iter().map(|word| word.text.as_str()).collect();
            let text = text + &self.tail;
            // As with the tail: the space after the line before must stay.
            if lines.is_empty() { text.trim_start().to_owned() } else { text }.into()
        } else {
            Cow::Borrowed(self.tail.as_str())
        };
        (self.state(arrival, error, lines, buffer), running)
    }

    fn state<'a>(
        &'a self,
        arrival: Arrival,
        error: Option<String>,
        lines: &'a [Line],
        buffer: Cow<'a, str>,
    ) -> StateUpdate<'a> {
        let status = if error.is_some() {
            Status::Error
        } else if self.line_count() == 0 && self.tail.is_empty() {
            Status::NoAudioDetected
        } else {
            Status::ActiveTranscription
        };
        let taken_in = arrival.received_s - arrival.waiting_s;
        let held_back = if self.tail.is_empty() { 0.0 } else { taken_in - self.committed };
        let seconds = |value: f64| round(value.max(0.0), 10.0);
        StateUpdate {
            status,
            lines: Cow::Borrowed(lines),
            lines_pruned: self.pruned,
            buffer_transcription: buffer,
            buffer_words: Cow::Borrowed(&self.tail_words),
            buffer_diarization: Cow::Borrowed(""),
            buffer_translation: Cow::Borrowed(""),
            remaining_time_transcription: seconds(arrival.elapsed_s - taken_in),
            remaining_time_transcription_processing: seconds(arrival.waiting_s),
            remaining_time_transcription_policy: seconds(held_back),
            remaining_time_diarization: 0.0,
            hop: arrival.hop_s.map(milliseconds),
            error,
        }
    }

    /// Puts a committed word into the line that grows, or begins one with it.
    fn add(&mut self, word: &Word) {
        if self.layout.is_full(&self.open, word) {
            self.close(None);
        }
        if self.open.is_empty() {
            self.begin(word.start);
        }
        self.open.push(word.clone());
        self.write();
        self.committed = word.end;
        self.last_word_end = None;
        if self.layout.ends_with(word) {
            self.close(None);
        }
    }

    /// Begins a line, with a line for the pause before it if that was long.
    fn begin(&mut self, start: f64) {
        if let Some(end) = self.last_word_end
            && start - end > PAUSE_S
        {
            let pause = self.line(SILENCE, end, start);
            self.lines.push(Line { last: true, ..pause });
        }
        let line = self.line(SPEAKER, start, start);
        self.lines.push(line);
        let excess = self.lines.len().saturating_sub(self.retention);
        self.lines.drain(..excess);
        self.pruned += excess as u64;
    }

    /// Makes the last line say the open words.
    fn write(&mut self) {
        let (Some(line), Some(first), Some(last)) =
            (self.lines.last_mut(), self.open.first(), self.open.last())
        else {
            return;
        };
        line.text = join(&self.open);
        line.start = clock(first.start);
        line.end = clock(last.end);
        if self.layout.detail == Detail::Words {
            line.words = self.open.iter().map(TimedWord::from).collect();
        }
    }

    /// Makes the line that grows final.
    fn close(&mut self, language: Option<&str>) {
        if self.open.is_empty() {
            return;
        }
        self.settled += self.open.len() - self.inherited;
        self.settled_end = self.open.last().map_or(self.settled_end, |word| word.end);
        self.inherited = 0;
        self.open.clear();
        if let Some(line) = self.lines.last_mut() {
            line.detected_language = language.map(str::to_owned).or_else(|| self.language.clone());
            line.last = true;
        }
    }

    fn set_tail(&mut self, tail: &[Word]) -> bool {
        let text: String = tail.iter().map(|word| word.text.as_str()).collect();
        // Clients put the buffer straight behind the last line, so the space between the two must stay.
        let text = if self.lines.is_empty() { text.trim_start() } else { &text };
        let text = text.trim_end();
        let words: Vec<TimedWord> = match self.layout.detail {
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
        let mut changed = self.set_tail(&[]);
        let rest: Vec<Word> = if utterance.revised && self.settled > 0 {
            // What is in final lines stays there; what was said after it is taken from the better transcript.
            let after = |word: &&Word| (word.start + word.end) / 2.0 > self.settled_end;
            utterance.words.iter().filter(after).cloned().collect()
        } else {
            utterance.words.get(self.settled..).unwrap_or_default().to_vec()
        };
        if self.open.get(self.inherited..) != Some(rest.as_slice()) {
            self.reopen();
            for word in &rest {
                self.add(word);
            }
            changed = true;
        }
        if let Some(last) = utterance.words.last() {
            self.last_word_end = Some(last.end);
        }
        let goes_on = utterance.reason == EndReason::WindowFull && self.layout.outlives_a_cut();
        if !goes_on && !self.open.is_empty() {
            self.close(utterance.language.as_deref());
            changed = true;
        }
        (self.inherited, self.settled) = (self.open.len(), 0);
        if changed { Change::Visible } else { Change::Nothing }
    }

    /// Takes the words of the running utterance out of the line that grows; without any words it is no line.
    fn reopen(&mut self) {
        let grew = !self.open.is_empty();
        self.open.truncate(self.inherited);
        if !self.open.is_empty() {
            self.write();
        } else if grew && self.lines.pop_if(|line| !line.last).is_some() {
            self.next -= 1;
        }
    }

    fn line(&mut self, speaker: i32, start: f64, end: f64) -> Line {
        let id = self.next;
        self.next += 1;
        Line {
            id,
            last: false,
            speaker,
            text: String::new(),
            start: clock(start),
            end: clock(end),
            detected_language: None,
            words: Vec::new(),
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "float to int casts saturate, NaN is 0"
)]
fn milliseconds(seconds: f64) -> u64 {
    (seconds * 1_000.0).round() as u64
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::segment::Segment, *};

    const WORDS: Layout = Layout { segment: Segment::Pause, max_length: None, detail: Detail::Words };

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
            revised: false,
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
        let mut transcript = Transcript::new(Layout::default(), 10);
        insta::assert_snapshot!(json(&mut transcript, Arrival::default()));
    }

    #[test]
    fn the_running_utterance_is_a_line_and_a_buffer() {
        let mut transcript = Transcript::new(WORDS, 10);
        let first = heard(vec![], words("set", 1.0), 1.6);
        assert_eq!(transcript.apply(&first), Change::Visible);
        assert_eq!(transcript.update(Arrival::default()).buffer_transcription, "set");
        assert_eq!(transcript.apply(&heard(words("set a", 1.0), words("timber", 2.0), 2.8)), Change::Visible);
        insta::assert_snapshot!(json(
            &mut transcript,
            Arrival { received_s: 3.04, waiting_s: 0.24, elapsed_s: 4.26, hop_s: None }
        ));
        assert_eq!(transcript.apply(&heard(vec![], words("timber", 2.0), 3.0)), Change::Nothing);
    }

    #[test]
    fn each_utterance_is_a_line_and_a_long_pause_is_one_too() {
        let mut transcript = Transcript::new(Layout::default(), 10);
        for (text, start) in [("set a timer", 1.0), ("stop", 4.0), ("go on", 9.6)] {
            transcript.apply(&heard(words(text, start), vec![], start + 3.0));
            transcript.apply(&ended(words(text, start), Some("en")));
        }
        // An utterance in which the model heard nothing leaves no line.
        assert_eq!(transcript.apply(&ended(vec![], None)), Change::Nothing);
        insta::assert_snapshot!(json(
            &mut transcript,
            Arrival { received_s: 12.6, waiting_s: 0.0, elapsed_s: 12.6, hop_s: None }
        ));
    }

    #[test]
    fn a_pause_of_exactly_five_seconds_is_no_line() {
        let mut transcript = Transcript::new(Layout::default(), 10);
        transcript.apply(&ended(words("a", 0.0), None));
        transcript.apply(&ended(words("b", 5.5), None));
        assert_eq!(transcript.line_count(), 2);
    }

    #[test]
    fn a_failure_is_said_once_and_the_session_goes_on() {
        let mut transcript = Transcript::new(Layout::default(), 10);
        let failed =
            StreamEvent::Failed { message: "inference failed: boom".to_owned(), start: 1.0, end: 2.5 };
        assert_eq!(transcript.apply(&failed), Change::Visible);
        insta::assert_snapshot!(json(&mut transcript, Arrival::default()));
        assert_eq!(transcript.update(Arrival::default()).status, Status::NoAudioDetected);
    }

    fn texts(transcript: &mut Transcript) -> Vec<(u64, String, bool)> {
        let update = transcript.update(Arrival::default());
        update.lines.iter().map(|line| (line.id, line.text.clone(), line.last)).collect()
    }

    #[test]
    fn sentences_are_lines_as_soon_as_they_end() {
        let layout = Layout { segment: Segment::Sentence, ..Layout::default() };
        let mut transcript = Transcript::new(layout, 10).in_language(Some("en".to_owned()));
        transcript.apply(&heard(words("Stop. Ask Dr. Who", 0.0), words("to", 2.0), 3.0));
        let expected = [(0, "Stop.".to_owned(), true), (1, "Ask Dr. Who".to_owned(), false)];
        assert_eq!(texts(&mut transcript), expected);
        let (settled, running) = transcript.settled(Arrival::default());
        assert_eq!((settled.lines.len(), settled.buffer_transcription.as_ref()), (1, " Ask Dr. Who to"));
        assert_eq!((running.unwrap().id, settled.lines[0].detected_language.as_deref()), (1, Some("en")));
        // The model's window was full in the middle of the sentence, which goes on.
        let StreamEvent::UtteranceEnded(cut) = ended(words("Stop. Ask Dr. Who", 0.0), Some("en")) else {
            unreachable!()
        };
        let cut = Utterance { reason: EndReason::WindowFull, ..cut };
        transcript.apply(&StreamEvent::UtteranceEnded(cut));
        transcript.apply(&heard(words("to come. And", 2.0), vec![], 4.0));
        let expected = [(0, "Stop.", true), (1, "Ask Dr. Who to come.", true), (2, "And", false)]
            .map(|(id, text, last)| (id, text.to_owned(), last));
        assert_eq!(texts(&mut transcript), expected);
        assert_eq!(transcript.apply(&StreamEvent::Ended { heard: 4.0 }), Change::Visible);
        assert!(texts(&mut transcript)[2].2);
    }

    #[test]
    fn what_the_last_decode_knows_better_is_written_where_nothing_is_final_yet() {
        let revised = |words: Vec<Word>| {
            let StreamEvent::UtteranceEnded(utterance) = ended(words, Some("en")) else { unreachable!() };
            StreamEvent::UtteranceEnded(Utterance { revised: true, ..utterance })
        };
        let mut transcript = Transcript::new(WORDS, 10);
        transcript.apply(&heard(words("open the tab", 0.0), vec![], 2.0));
        transcript.apply(&revised(words("open a new tab", 0.0)));
        // Nothing was said after all: the line that grew was no line.
        transcript.apply(&heard(words("hm", 3.0), vec![], 4.0));
        transcript.apply(&revised(vec![]));
        transcript.apply(&ended(words("stop", 5.0), None));
        let expected = [(0, "open a new tab".to_owned(), true), (1, "stop".to_owned(), true)];
        assert_eq!(texts(&mut transcript), expected);

        let layout = Layout { segment: Segment::Sentence, ..Layout::default() };
        let mut transcript = Transcript::new(layout, 10);
        transcript.apply(&heard(words("Open it. Then clothes it", 0.0), vec![], 3.0));
        transcript.apply(&revised(words("Open it. Then close it.", 0.0)));
        let expected = [(0, "Open it.".to_owned(), true), (1, "Then close it.".to_owned(), true)];
        assert_eq!(texts(&mut transcript), expected);
    }

    #[test]
    fn a_full_line_is_cut_between_two_words() {
        let layout = Layout { segment: Segment::Length, max_length: Some(10), ..Layout::default() };
        let mut transcript = Transcript::new(layout, 10);
        transcript.apply(&ended(words("a bb ccc dddd incomprehensible e", 0.0), None));
        let lines: Vec<String> = texts(&mut transcript).into_iter().map(|(_, text, _)| text).collect();
        assert_eq!(lines, ["a bb ccc", "dddd", "incomprehensible", "e"]);
    }

    #[test]
    fn a_line_that_is_final_never_changes_however_lines_are_cut() {
        for segment in [Segment::Pause, Segment::Sentence, Segment::Length] {
            let layout = Layout { segment, max_length: Some(20), detail: Detail::Words };
            let mut transcript = Transcript::new(layout, 1_000);
            let mut known: Vec<Line> = Vec::new();
            let said = words("One two. Three four five six seven eight? Nine ten", 0.0);
            for utterance in 0..3 {
                let moved: Vec<Word> = said
                    .iter()
                    .map(|word| Word { start: word.start + f64::from(utterance) * 20.0, ..word.clone() })
                    .collect();
                for word in &moved {
                    transcript.apply(&heard(vec![word.clone()], vec![], word.end));
                    let now: Vec<Line> = transcript.update(Arrival::default()).lines.into_owned();
                    assert_eq!(
                        now.iter().map(|line| line.id).collect::<Vec<_>>(),
                        (0..now.len() as u64).collect::<Vec<_>>()
                    );
                    let (settled, _) = transcript.settled(Arrival::default());
                    let settled = settled.lines.into_owned();
                    assert_eq!(settled[..known.len()], known, "{segment:?}");
                    known = settled;
                }
                transcript.apply(&ended(moved, None));
            }
            let text: Vec<String> = texts(&mut transcript).into_iter().map(|(_, text, _)| text).collect();
            assert_eq!(text.join(" ").replace("  ", " "), [join(&said), join(&said), join(&said)].join(" "));
        }
    }

    #[test]
    fn old_lines_are_dropped_and_counted() {
        let mut transcript = Transcript::new(Layout::default(), 3);
        for i in 0..10 {
            transcript.apply(&ended(words(&format!("w{i}"), f64::from(i)), None));
        }
        let update = transcript.update(Arrival::default());
        let texts: Vec<_> = update.lines.iter().map(|line| line.text.as_str()).collect();
        assert_eq!((update.lines_pruned, texts), (7, vec!["w7", "w8", "w9"]));
    }

    #[test]
    fn text_that_html_would_eat_arrives_as_it_is() {
        let mut transcript = Transcript::new(Layout::default(), 3);
        transcript.apply(&ended(words("<b>\u{1F600} \"x\" \\n\u{0}", 0.0), None));
        let update = json(&mut transcript, Arrival::default());
        let read: StateUpdate<'_> = serde_json::from_str(&update).unwrap();
        assert_eq!(read.lines[0].text, "<b>\u{1F600} \"x\" \\n\u{0}");
    }

    /// An utterance: pieces of speech with a comma or a full stop, how many words are committed in each step, and what
    /// the last decode makes of it (which words it drops), if it knows better.
    type Said = (Vec<u8>, Vec<usize>, Option<Vec<bool>>, bool);

    fn utterances() -> impl Strategy<Value = Vec<Said>> {
        let utterance = (
            prop::collection::vec(0_u8..4, 0..9),
            prop::collection::vec(0_usize..4, 0..5),
            prop::option::of(prop::collection::vec(any::<bool>(), 9)),
            any::<bool>(),
        );
        prop::collection::vec(utterance, 0..8)
    }

    proptest! {
        /// However lines are cut and whatever a last decode makes of an utterance: what is final stays as it is, ids
        /// count up, time goes on, and a decode that changes nothing loses no word and says none twice.
        #[test]
        fn final_lines_stay_and_nothing_is_said_twice(
            utterances in utterances(),
            segment in prop::sample::select(vec![Segment::Pause, Segment::Sentence, Segment::Length]),
            max_length in prop::option::of(10_usize..30),
        ) {
            let layout = Layout { segment, max_length, detail: Detail::Words };
            let mut transcript = Transcript::new(layout, 1_000);
            let mut known: Vec<Line> = Vec::new();
            let mut expected: Vec<String> = Vec::new();
            let mut exact = true;
            let mut at = 0.0;
            for (kinds, steps, revised, full) in utterances {
                let text = |(i, kind): (usize, &u8)| format!("w{i}{}", ["", "", ",", "."][usize::from(*kind)]);
                let said = words(&kinds.iter().enumerate().map(text).collect::<Vec<_>>().join(" "), at);
                at += kinds.len() as f64 * 0.5 + 1.0;
                let mut done = 0;
                let mut events = Vec::new();
                for step in steps {
                    let next = (done + step).min(said.len());
                    events.push(heard(said[done..next].to_vec(), said[next..].to_vec(), at));
                    done = next;
                }
                events.push(heard(said[done..].to_vec(), vec![], at));
                let last: Vec<Word> = match &revised {
                    Some(keep) => said.iter().zip(keep).filter(|(_, keep)| **keep).map(|(word, _)| word.clone()).collect(),
                    None => said.clone(),
                };
                exact &= last == said;
                expected.extend(last.iter().map(|word| word.text.trim().to_owned()));
                let StreamEvent::UtteranceEnded(utterance) = ended(last, None) else { unreachable!() };
                let reason = if full { EndReason::WindowFull } else { EndReason::Endpoint };
                events.push(StreamEvent::UtteranceEnded(Utterance { revised: revised.is_some(), reason, ..utterance }));
                for event in events {
                    transcript.apply(&event);
                    let lines = transcript.update(Arrival::default()).lines.into_owned();
                    prop_assert!(lines.iter().enumerate().all(|(i, line)| line.id == i as u64));
                    let settled = transcript.settled(Arrival::default()).0.lines.into_owned();
                    prop_assert!(settled.iter().all(|line| line.last));
                    prop_assert!(settled.len() >= known.len() && settled[..known.len()] == known);
                    known = settled;
                }
            }
            transcript.apply(&StreamEvent::Ended { heard: at });
            let lines = transcript.update(Arrival::default()).lines.into_owned();
            let words: Vec<&TimedWord> = lines.iter().flat_map(|line| &line.words).collect();
            prop_assert!(words.windows(2).all(|pair| pair[0].end <= pair[1].start + 1e-6), "{words:?}");
            prop_assert!(lines.iter().all(|line| line.last));
            if exact {
                prop_assert_eq!(words.iter().map(|word| word.word.clone()).collect::<Vec<_>>(), expected);
            }
        }

        /// However the words of an utterance are committed, the lines are the utterances, and no line before the last
        /// ever changes.
        #[test]
        fn committing_in_any_steps_gives_the_same_lines(
            utterances in prop::collection::vec((1_usize..8, prop::collection::vec(0_usize..4, 0..4), 0.1..8.0_f64), 1..12),
        ) {
            let mut stepped = Transcript::new(WORDS, 100);
            let mut whole = Transcript::new(WORDS, 100);
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
