//! One stream: cuts audio into utterances and says which stretch must be decoded when.
//!
//! Pure and driven from outside: [`Session::push`] takes audio until something must be decoded, [`Session::next_job`]
//! hands that window out, [`Session::absorb`] takes the hypothesis back, [`Session::pop_event`] gives what there is to
//! say. Audio is taken only while no job is open, so decisions never depend on how fast the model answers.

use std::collections::VecDeque;

use super::{
    EndReason, GateFrame, Policy, Samples, StreamConfig, StreamEvent, Utterance, VoiceGate,
    agreement::LocalAgreement,
    alignatt::AlignAtt,
    join, quiet, samples_of_ms, seconds,
    words::{Ledger, settled},
};
use crate::asr::{Hypothesis, Word};

/// Audio kept while nobody speaks: the pre-roll (5 s at most, see the configuration) and what the gate needs to make up
/// its mind.
const IDLE_HISTORY: Samples = samples_of_ms(6_000);
/// A forced cut lies in this last part of the window: one over so much. Nothing there is committed before the cut, or
/// the next utterance would say it again.
const CUT_PART: Samples = 4;

/// An utterance that is being heard or decoded.
#[derive(Debug)]
struct Running {
    index: u64,
    start: Samples,
    next_hop: Samples,
    rule: Rule,
    /// The language that an interim hypothesis was sure of: the next one need not ask again.
    language: Option<String>,
}

/// Which words of a running utterance are final.
#[derive(Debug)]
enum Rule {
    Agreement(LocalAgreement),
    Attention(AlignAtt),
}

impl Rule {
    const fn ledger(&self) -> &Ledger {
        match self {
            Self::Agreement(policy) => policy.ledger(),
            Self::Attention(policy) => policy.ledger(),
        }
    }

    fn finish(&mut self, words: &[Word]) -> Vec<Word> {
        match self {
            Self::Agreement(policy) => policy.finish(words),
            Self::Attention(policy) => policy.finish(words),
        }
    }
}

/// A stretch of audio that must be decoded.
#[derive(Debug, Clone, PartialEq)]
pub struct Decode {
    /// The audio.
    pub samples: Vec<f32>,
    /// Where it ends on the clock of the stream.
    pub end: Samples,
    /// Whether it is an utterance that has ended, whose words depend on nothing but `samples`; otherwise it is the
    /// running one so far, and the other fields help.
    pub is_last: bool,
    /// Words that are final: the hypothesis goes on after them.
    pub prefix: Option<String>,
    /// The language that was recognised before.
    pub language: Option<String>,
}

#[derive(Debug)]
enum Job {
    /// Decode the running utterance up to here.
    Interim { end: Samples },
    /// Decode an utterance that has ended.
    Last { utterance: Running, end: Samples, reason: EndReason },
}

/// The state of one stream.
#[derive(Debug)]
pub struct Session<G> {
    gate: G,
    config: StreamConfig,
    /// The hop is so many times longer than configured.
    stretch: u32,
    /// Samples that do not fill a frame yet.
    partial: Vec<f32>,
    /// Audio from `history_start` to `clock`.
    history: Vec<f32>,
    history_start: Samples,
    /// End of the last whole frame.
    clock: Samples,
    running: Option<Running>,
    last_end: Samples,
    utterances: u64,
    jobs: VecDeque<Job>,
    /// The job whose hypothesis is awaited.
    open: Option<Job>,
    markers: VecDeque<String>,
    events: VecDeque<StreamEvent>,
    finish: Finish,
}

#[derive(Debug, PartialEq, Eq)]
enum Finish {
    No,
    Asked,
    Done,
}

impl<G: VoiceGate> Session<G> {
    /// A stream at its first sample.
    #[must_use]
    pub fn new(gate: G, config: StreamConfig) -> Self {
        Self {
            gate,
            config,
            stretch: 1,
            partial: Vec::new(),
            history: Vec::new(),
            history_start: 0,
            clock: 0,
            running: None,
            last_end: 0,
            utterances: 0,
            jobs: VecDeque::new(),
            open: None,
            markers: VecDeque::new(),
            events: VecDeque::new(),
            finish: Finish::No,
        }
    }

    /// Takes audio until a job is waiting; gives how many samples it took (all of them when no job came up).
    ///
    /// Takes nothing while a job is waiting or open, and nothing after [`Session::finish`].
    pub fn push(&mut self, samples: &[f32]) -> usize {
        let frame_len = self.gate.frame_len();
        let mut taken = 0;
        while taken < samples.len() && self.wants_audio() {
            let rest = &samples[taken..];
            let part = rest.len().min(frame_len - self.partial.len());
            self.partial.extend_from_slice(&rest[..part]);
            taken += part;
            if self.partial.len() == frame_len {
                let frame = std::mem::take(&mut self.partial);
                self.step(&frame);
                self.partial = frame;
                self.partial.clear();
            }
        }
        taken
    }

    /// True while audio can be pushed: nothing to decode first, and not finished.
    #[must_use]
    pub fn wants_audio(&self) -> bool {
        self.jobs.is_empty() && self.open.is_none() && self.finish == Finish::No
    }

    /// The next window to decode; its hypothesis must come back through [`Session::absorb`].
    pub fn next_job(&mut self) -> Option<Decode> {
        if self.open.is_some() {
            return None;
        }
        let job = self.jobs.pop_front()?;
        let (start, mut decode) = match &job {
            Job::Interim { end } => {
                let running = self.running.as_ref()?;
                let prefix = match &running.rule {
                    Rule::Attention(policy) => Some(join(policy.ledger().committed())),
                    Rule::Agreement(_) => None,
                };
                let prefix = prefix.filter(|text| !text.is_empty());
                let language = running.language.clone();
                (running.start, Decode { samples: Vec::new(), end: *end, is_last: false, prefix, language })
            }
            Job::Last { utterance, end, .. } => {
                let decode =
                    Decode { samples: Vec::new(), end: *end, is_last: true, prefix: None, language: None };
                (utterance.start, decode)
            }
        };
        decode.samples = self.history[self.offset(start)..self.offset(decode.end)].to_vec();
        self.open = Some(job);
        Some(decode)
    }

    /// Makes the hop so many times longer than configured, from the next one on. Changes when words are committed, and
    /// never the transcript.
    pub const fn stretch_hop(&mut self, times: u32) {
        self.stretch = if times == 0 { 1 } else { times };
    }

    /// The time between two interim decodes as it is now, in samples; 0 for none.
    #[must_use]
    pub const fn hop(&self) -> Samples {
        self.config.hop.saturating_mul(self.stretch as Samples)
    }

    /// Takes the hypothesis of the open job.
    pub fn absorb(&mut self, result: Result<Hypothesis, String>) {
        match self.open.take() {
            None => {}
            Some(Job::Interim { end }) => self.absorb_interim(end, result),
            Some(Job::Last { utterance, end, reason }) => self.absorb_last(utterance, end, reason, result),
        }
        self.settle();
    }

    /// Makes everything heard so far final, without waiting for a pause.
    pub fn flush(&mut self) {
        if let Some(running) = self.running.take() {
            let clock = self.clock;
            self.end(running, clock, EndReason::Flush);
            // The gate is still open: what follows belongs to a new utterance.
            self.begin(clock);
        }
        self.settle();
    }

    /// Asks to be told when everything pushed so far has been dealt with.
    pub fn marker(&mut self, name: String) {
        self.markers.push_back(name);
        self.settle();
    }

    /// Says that no more audio comes.
    pub fn finish(&mut self) {
        if self.finish != Finish::No {
            return;
        }
        if !self.partial.is_empty() {
            let real = self.partial.len() as Samples;
            let mut frame = std::mem::take(&mut self.partial);
            frame.resize(self.gate.frame_len(), 0.0);
            let before = self.clock;
            self.step(&frame);
            // Positions never lie beyond the real audio.
            let end = before + real;
            self.history.truncate(self.offset(end));
            self.clock = end;
            for job in &mut self.jobs {
                let (Job::Interim { end: at } | Job::Last { end: at, .. }) = job;
                *at = (*at).min(end);
            }
        }
        self.finish = Finish::Asked;
        if let Some(running) = self.running.take() {
            self.jobs.retain(|job| matches!(job, Job::Last { .. }));
            let clock = self.clock;
            self.end(running, clock, EndReason::EndOfStream);
        }
        self.settle();
    }

    /// The next thing to say.
    pub fn pop_event(&mut self) -> Option<StreamEvent> {
        self.events.pop_front()
    }

    /// True once [`StreamEvent::Ended`] has been put out.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finish == Finish::Done
    }

    /// Samples heard so far.
    #[must_use]
    pub fn heard(&self) -> Samples {
        self.clock + self.partial.len() as Samples
    }

    fn offset(&self, at: Samples) -> usize {
        usize::try_from(at.saturating_sub(self.history_start)).unwrap_or(usize::MAX).min(self.history.len())
    }

    fn step(&mut self, frame: &[f32]) {
        let GateFrame { started, ended } = self.gate.frame(frame);
        self.history.extend_from_slice(frame);
        self.clock += frame.len() as Samples;
        if let Some(at) = started
            && self.running.is_none()
        {
            // Not `history_start`: how much more than this is still there depends on when it was tidied up.
            let kept = self.clock.saturating_sub(IDLE_HISTORY);
            let at = at.max(self.last_end).max(kept).min(self.clock);
            self.events.push_back(StreamEvent::SpeechStarted { at: seconds(at) });
            self.begin(at);
        }
        if let Some(at) = ended
            && let Some(running) = self.running.take()
        {
            let end = (at + self.config.post_roll).clamp(running.start, self.clock);
            self.end(running, end, EndReason::Endpoint);
        } else if let Some(running) = &mut self.running {
            if self.clock - running.start >= self.config.window {
                self.cut();
            } else if self.config.hop > 0 && self.clock >= running.next_hop {
                running.next_hop = self.clock + self.config.hop * Samples::from(self.stretch);
                self.jobs.push_back(Job::Interim { end: self.clock });
            }
        }
        self.forget();
        self.settle();
    }

    fn begin(&mut self, start: Samples) {
        let next_hop = self.clock.max(start) + self.hop();
        let rule = match self.config.policy {
            Policy::LocalAgreement => Rule::Agreement(LocalAgreement::new(self.config.agreement)),
            Policy::AlignAtt => Rule::Attention(AlignAtt::new()),
        };
        self.running = Some(Running { index: self.utterances, start, next_hop, rule, language: None });
        self.utterances += 1;
    }

    fn end(&mut self, utterance: Running, end: Samples, reason: EndReason) {
        self.last_end = end;
        if end - utterance.start < self.config.min_utterance {
            self.say_ended(&utterance, end, reason, &Hypothesis::default(), Vec::new());
        } else {
            self.jobs.push_back(Job::Last { utterance, end, reason });
        }
    }

    /// Ends the running utterance at its quietest place because the window is full, and goes on from there.
    fn cut(&mut self) {
        let Some(running) = self.running.take() else { return };
        let latest = self.clock.saturating_sub(quiet::MARGIN).max(running.start);
        let earliest = self.earliest_cut(running.start).min(latest);
        let at = self.quietest(earliest, latest);
        self.end(running, at, EndReason::WindowFull);
        self.begin(at);
    }

    /// Where an utterance that fills the window may be cut; nothing behind it is committed before its end.
    const fn earliest_cut(&self, start: Samples) -> Samples {
        start + self.config.window - self.config.window / CUT_PART
    }

    /// The middle of the stretch with the least energy between two positions.
    fn quietest(&self, earliest: Samples, latest: Samples) -> Samples {
        let audio = &self.history[self.offset(earliest)..self.offset(latest)];
        (earliest + quiet::quietest(audio, self.gate.frame_len())).min(latest)
    }

    /// Drops audio that no utterance can need any more.
    fn forget(&mut self) {
        if !self.jobs.is_empty() || self.open.is_some() {
            return;
        }
        let needed = match &self.running {
            Some(running) => running.start,
            None => self.clock.saturating_sub(IDLE_HISTORY).max(self.last_end.min(self.clock)),
        };
        let drop = self.offset(needed);
        // Moving the rest down costs a copy: do it rarely.
        if drop >= self.history.len() / 2 && drop > 0 {
            self.history.drain(..drop);
            self.history_start += drop as Samples;
        }
    }

    fn absorb_interim(&mut self, end: Samples, result: Result<Hypothesis, String>) {
        let cut = self.running.as_ref().map_or(0, |running| self.earliest_cut(running.start));
        let Some(running) = &mut self.running else { return };
        // A failed interim decode costs nothing but freshness: the same audio is decoded again.
        let Ok(hypothesis) = result else { return };
        // Where words are final already somebody does speak, and a doubtful hypothesis is not thrown away.
        let believed = self.config.believes(&hypothesis) || !running.rule.ledger().committed().is_empty();
        let heard = if believed { hypothesis.words.as_slice() } else { &[] };
        let words = on_stream_clock(heard, running.start, end);
        let committed = match &mut running.rule {
            Rule::Agreement(policy) => {
                let horizon = end.saturating_sub(self.config.holdback).min(cut);
                policy.interim(&words, seconds(horizon))
            }
            Rule::Attention(policy) => {
                let offset = seconds(running.start);
                let attended: Vec<f64> = hypothesis.attended.iter().map(|place| place + offset).collect();
                let edge = end.saturating_sub(self.config.attention_margin);
                policy.interim(&words, &attended, seconds(edge), seconds(cut))
            }
        };
        if !committed.is_empty() {
            running.language.clone_from(&hypothesis.language);
        }
        let tail = running.rule.ledger().tail().to_vec();
        self.events.push_back(StreamEvent::Hypothesis { committed, tail, heard: seconds(end) });
    }

    fn absorb_last(
        &mut self,
        mut utterance: Running,
        end: Samples,
        reason: EndReason,
        result: Result<Hypothesis, String>,
    ) {
        let (words, hypothesis) = match result {
            Ok(hypothesis) => {
                // Not a word about what was committed: this depends on the audio alone.
                let heard = if self.config.believes(&hypothesis) { hypothesis.words.as_slice() } else { &[] };
                (settled(&on_stream_clock(heard, utterance.start, end)), hypothesis)
            }
            Err(message) => {
                let (start, end) = (seconds(utterance.start), seconds(end));
                self.events.push_back(StreamEvent::Failed { message, start, end });
                // The words heard on the way are better than none.
                let ledger = utterance.rule.ledger();
                ([ledger.committed(), ledger.tail()].concat(), Hypothesis::default())
            }
        };
        let committed = utterance.rule.finish(&words);
        self.events.push_back(StreamEvent::Hypothesis { committed, tail: Vec::new(), heard: seconds(end) });
        self.say_ended(&utterance, end, reason, &hypothesis, words);
    }

    fn say_ended(
        &mut self,
        utterance: &Running,
        end: Samples,
        reason: EndReason,
        hypothesis: &Hypothesis,
        words: Vec<Word>,
    ) {
        let text = join(&words);
        self.events.push_back(StreamEvent::UtteranceEnded(Utterance {
            index: utterance.index,
            start: to_millisecond(seconds(utterance.start)),
            end: to_millisecond(seconds(end)),
            revised: text != join(utterance.rule.ledger().committed()),
            text,
            words,
            language: hypothesis.language.clone(),
            language_probability: hypothesis.language_probability,
            avg_logprob: hypothesis.avg_logprob,
            no_speech_prob: hypothesis.no_speech_prob,
            reason,
        }));
    }

    /// Says what may be said once nothing waits to be decoded.
    fn settle(&mut self) {
        if !self.jobs.is_empty() || self.open.is_some() {
            return;
        }
        self.events.extend(self.markers.drain(..).map(StreamEvent::Marker));
        if self.finish == Finish::Asked {
            self.finish = Finish::Done;
            self.events.push_back(StreamEvent::Ended { heard: seconds(self.clock) });
        }
    }
}

/// To the millisecond, which is finer than any word is timed.
fn to_millisecond(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

/// Moves words from the clock of the window to the clock of the stream, inside the window.
fn on_stream_clock(words: &[Word], start: Samples, end: Samples) -> Vec<Word> {
    let (offset, limit) = (seconds(start), seconds(end));
    words
        .iter()
        .map(|word| Word {
            start: to_millisecond((word.start + offset).min(limit)),
            end: to_millisecond((word.end + offset).min(limit)),
            ..word.clone()
        })
        .collect()
}

#[cfg(test)]
mod tests;
