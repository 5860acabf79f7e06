//! Which results follow from what the engine says of one channel. Pure.
//!
//! The engine never takes a committed word back, so a word is final here the moment it is committed, and it is said
//! final exactly once. What is left to decide: the last words of an utterance and the news that it ended are one
//! result, not two; what may still change is repeated only when it changed; and how long nobody has spoken is measured
//! on the clock of the audio, by marks that come back when everything before them was heard.

use super::words::{Alternative, Glued, glue, is_punctuation, to_millisecond};
use crate::asr::{
    Word,
    stream::{EndReason, Samples, StreamEvent, Utterance, join, seconds},
};

/// What a session wants to hear.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rules {
    /// Words that may still change.
    pub interim_results: bool,
    /// That somebody began to speak.
    pub vad_events: bool,
    /// That a pause ended an utterance (`speech_final`).
    pub endpointing: bool,
    /// That no word followed for so many seconds.
    pub utterance_end_s: Option<f64>,
}

/// What is said of a channel.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// What was heard in a stretch.
    Results(Heard),
    /// Somebody began to speak.
    SpeechStarted {
        /// Seconds.
        at: f64,
    },
    /// No word followed the last one for the time that was asked for.
    UtteranceEnd {
        /// Seconds.
        last_word_end: f64,
    },
    /// A stretch could not be decoded.
    Failed {
        /// What went wrong.
        message: String,
        /// Seconds.
        start: f64,
        /// Seconds.
        end: f64,
    },
}

/// What was heard in a stretch. Final stretches never overlap.
#[derive(Debug, Clone, PartialEq)]
pub struct Heard {
    /// Seconds.
    pub start: f64,
    /// Seconds, at least `start`.
    pub end: f64,
    /// These words are said once and never changed.
    pub is_final: bool,
    /// A pause, or the end of the audio, ended the utterance.
    pub speech_final: bool,
    /// The answer to a `Finalize`.
    pub from_finalize: bool,
    /// The words.
    pub alternative: Alternative,
}

/// A mark that is sent through the engine between pieces of audio.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Everything up to this position was handed over.
    Clock(Samples),
    /// A `Finalize` was asked for here.
    Finalize,
}

impl Mark {
    /// The name under which it goes through the engine.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Clock(at) => at.to_string(),
            Self::Finalize => "finalize".to_owned(),
        }
    }

    /// The mark of a name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        if name == "finalize" { Some(Self::Finalize) } else { name.parse().ok().map(Self::Clock) }
    }
}

/// The state of one channel.
#[derive(Debug)]
pub struct Emitter {
    rules: Rules,
    /// End of the last final stretch.
    cursor: f64,
    /// Where the running utterance starts; it may be before the cursor.
    utterance: f64,
    /// The newest position that was heard.
    heard: f64,
    /// Somebody speaks, as far as is known.
    speaking: bool,
    /// Final words that wait for what comes next: it may say that their utterance has ended with them.
    held: Option<Vec<Word>>,
    /// Final punctuation that belongs to the next word.
    opening: Vec<Word>,
    /// Words that may still change.
    tail: Vec<Word>,
    /// The interim result that the client has before its eyes.
    shown: Option<String>,
    /// There were final words before.
    spoke: bool,
    /// End of the last final word, until its `UtteranceEnd` was said.
    anchor: Option<f64>,
    /// The flush of a `Finalize` was answered already; its mark is still to come.
    answered: bool,
}

impl Emitter {
    /// A channel at its first sample.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            cursor: 0.0,
            utterance: 0.0,
            heard: 0.0,
            speaking: false,
            held: None,
            opening: Vec::new(),
            tail: Vec::new(),
            shown: None,
            spoke: false,
            anchor: None,
            answered: false,
        }
    }

    /// The newest position on the clock of the audio that was heard, in seconds.
    #[must_use]
    pub const fn heard(&self) -> f64 {
        self.heard
    }

    /// Takes what the engine says; appends what follows from it.
    pub fn apply(&mut self, event: &StreamEvent, out: &mut Vec<Said>) {
        if !matches!(event, StreamEvent::UtteranceEnded(_)) {
            self.release(out);
        }
        match event {
            StreamEvent::SpeechStarted { at } => {
                self.utterance_end(*at, out);
                self.speaking = true;
                self.utterance = at.max(self.cursor);
                if self.rules.vad_events {
                    out.push(Said::SpeechStarted { at: *at });
                }
            }
            StreamEvent::Hypothesis { committed, tail, heard } => {
                self.hypothesis(committed, tail, *heard, out);
            }
            StreamEvent::UtteranceEnded(utterance) => self.ended(utterance, out),
            StreamEvent::Marker(name) => match Mark::parse(name) {
                // Whoever speaks has been heard only up to the last hypothesis.
                Some(Mark::Clock(_)) if self.speaking => self.utterance_end(self.heard, out),
                Some(Mark::Clock(at)) => {
                    self.heard = self.heard.max(seconds(at));
                    self.utterance_end(self.heard, out);
                }
                Some(Mark::Finalize) if !std::mem::take(&mut self.answered) => {
                    let finalize = Final { finalize: true, ..Final::default() };
                    self.result(Vec::new(), self.heard, finalize, out);
                }
                Some(Mark::Finalize) | None => {}
            },
            StreamEvent::Failed { message, start, end } => {
                out.push(Said::Failed { message: message.clone(), start: *start, end: *end });
            }
            StreamEvent::Ended { heard } => {
                self.heard = self.heard.max(*heard);
                self.speaking = false;
                self.result(Vec::new(), self.heard, Final { last: true, ..Final::default() }, out);
                self.utterance_end(self.heard, out);
            }
        }
    }

    fn hypothesis(&mut self, committed: &[Word], tail: &[Word], heard: f64, out: &mut Vec<Said>) {
        self.heard = self.heard.max(heard);
        self.tail = tail.to_vec();
        if tail.is_empty() {
            self.held = Some(committed.to_vec());
            return;
        }
        if let Some(last) = committed.last() {
            self.result(committed.to_vec(), last.end, Final::default(), out);
        }
        self.interim(out);
    }

    fn ended(&mut self, utterance: &Utterance, out: &mut Vec<Said>) {
        let words = self.held.take().unwrap_or_default();
        self.heard = self.heard.max(utterance.end);
        // Whoever was cut off speaks on.
        self.speaking = matches!(utterance.reason, EndReason::Flush | EndReason::WindowFull);
        self.tail.clear();
        let paused = matches!(utterance.reason, EndReason::Endpoint | EndReason::EndOfStream);
        let finalize = utterance.reason == EndReason::Flush && !self.answered;
        self.answered |= finalize;
        let speech = paused && self.rules.endpointing;
        self.result(words, utterance.end, Final { speech, finalize, last: paused }, out);
        self.utterance = self.cursor.max(utterance.end);
        self.utterance_end(utterance.end, out);
    }

    /// Says held words whose utterance goes on.
    fn release(&mut self, out: &mut Vec<Said>) {
        match self.held.take() {
            Some(words) if words.is_empty() => self.interim(out),
            Some(words) => {
                let end = words.last().map_or(self.heard, |word| word.end);
                self.result(words, end, Final::default(), out);
            }
            None => {}
        }
    }

    /// A final result for what was heard up to `end`, if there is anything to say.
    fn result(&mut self, words: Vec<Word>, end: f64, how: Final, out: &mut Vec<Said>) {
        let mut all = std::mem::take(&mut self.opening);
        all.extend(words);
        // `late` is punctuation of a word that is final already; `after` waits for the next word.
        let Glued { before: mut late, mut words, after } = glue(&all);
        if !how.last {
            self.opening = after;
        } else if let Some(last) = words.last_mut() {
            after.iter().for_each(|mark| last.text.push_str(&mark.text));
        } else {
            late.extend(after);
        }
        if let Some(first) = words.first_mut() {
            if !self.spoke && !late.is_empty() {
                // There is no word before it.
                let marks: String = late.drain(..).map(|mark| mark.text).collect();
                first.text = marks + first.text.trim_start();
            }
            let start = first.start;
            self.before_word(start, out);
        }
        let start = to_millisecond(self.cursor.max(self.utterance));
        if !late.is_empty() {
            let alternative = Alternative { transcript: join(&late), ..Alternative::default() };
            self.say(Heard::final_of(alternative, start, start), out);
        }
        let shown = self.shown.as_ref().is_some_and(|text| !text.is_empty());
        if words.is_empty() && !how.speech && !how.finalize && !shown {
            return;
        }
        let end = to_millisecond(words.last().map_or(end, |word| word.end.max(end))).max(start);
        if let Some(last) = words.last() {
            self.spoke = true;
            self.anchor = Some(last.end);
        }
        let heard = Heard::final_of(Alternative::of(&words), start, end);
        self.say(Heard { speech_final: how.speech, from_finalize: how.finalize, ..heard }, out);
    }

    fn say(&mut self, heard: Heard, out: &mut Vec<Said>) {
        self.cursor = self.cursor.max(heard.end);
        self.shown = None;
        out.push(Said::Results(heard));
    }

    /// Says what may still change, if the client has not seen it.
    fn interim(&mut self, out: &mut Vec<Said>) {
        if !self.rules.interim_results {
            return;
        }
        let words = glue(&self.tail).words;
        if words.is_empty() && self.shown.is_none() {
            return;
        }
        let alternative = Alternative::of(&words);
        if self.shown.as_ref() == Some(&alternative.transcript) {
            return;
        }
        if let Some(first) = words.first() {
            self.before_word(first.start, out);
        }
        self.shown = Some(alternative.transcript.clone());
        let start = to_millisecond(self.cursor.max(self.utterance));
        out.push(Said::Results(Heard {
            start,
            end: to_millisecond(self.heard).max(start),
            is_final: false,
            speech_final: false,
            from_finalize: false,
            alternative,
        }));
    }

    /// Says that the utterance before a new word was over, if it was.
    fn before_word(&mut self, start: f64, out: &mut Vec<Said>) {
        if let (Some(limit), Some(anchor)) = (self.rules.utterance_end_s, self.anchor)
            && start - anchor >= limit
        {
            self.anchor = None;
            out.push(Said::UtteranceEnd { last_word_end: anchor });
        }
    }

    /// Says that the utterance is over if no word followed its last one up to `now`.
    fn utterance_end(&mut self, now: f64, out: &mut Vec<Said>) {
        let pending = self.held.is_some() || self.tail.iter().any(|word| !is_punctuation(word));
        if !pending {
            self.before_word(now, out);
        }
    }
}

/// What a final result says besides its words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Final {
    speech: bool,
    finalize: bool,
    /// No word follows soon that punctuation could belong to.
    last: bool,
}

impl Heard {
    fn final_of(alternative: Alternative, start: f64, end: f64) -> Self {
        Self { start, end, is_final: true, speech_final: false, from_finalize: false, alternative }
    }
}

#[cfg(test)]
mod tests;
