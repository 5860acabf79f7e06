//! Cuts a recording into windows for the model. Pure, on the clock of the samples alone.

use std::collections::VecDeque;

use crate::asr::stream::{Samples, VoiceGate, quiet, samples_of_ms};

/// Audio kept while nobody speaks: the pre-roll and what the gate needs to make up its mind.
const IDLE_HISTORY: Samples = samples_of_ms(2_000);

/// How a recording is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutConfig {
    /// No window is longer.
    pub window: Samples,
    /// Stretches of speech with at most this much silence between them share a window, as far as they fit; 0 gives each
    /// stretch a window of its own.
    pub join: Samples,
    /// Silence kept after a stretch of speech, so that its last word is whole.
    pub post_roll: Samples,
    /// Shorter stretches are clicks, not speech.
    pub min_speech: Samples,
}

/// A window to decode.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// Where it starts in the recording.
    pub start: Samples,
    /// Its audio.
    pub samples: Vec<f32>,
}

/// Takes audio and gives windows.
#[derive(Debug)]
pub struct Cutter<G> {
    gate: G,
    config: CutConfig,
    /// Samples that do not fill a frame of the gate yet.
    partial: Vec<f32>,
    /// Audio from `history_start` to `clock`.
    history: Vec<f32>,
    history_start: Samples,
    /// End of the last whole frame.
    clock: Samples,
    /// Start of the speech that goes on now.
    speech: Option<Samples>,
    last_end: Samples,
    /// Start and end of a window that may still grow.
    growing: Option<(Samples, Samples)>,
    ready: VecDeque<Cut>,
}

impl<G: VoiceGate> Cutter<G> {
    /// A recording at its first sample.
    #[must_use]
    pub fn new(gate: G, config: CutConfig) -> Self {
        Self {
            gate,
            config: CutConfig { window: config.window.max(1), ..config },
            partial: Vec::new(),
            history: Vec::new(),
            history_start: 0,
            clock: 0,
            speech: None,
            last_end: 0,
            growing: None,
            ready: VecDeque::new(),
        }
    }

    /// Takes the next samples.
    pub fn push(&mut self, mut samples: &[f32]) {
        let frame_len = self.gate.frame_len();
        while !samples.is_empty() {
            let (now, later) = samples.split_at(samples.len().min(frame_len - self.partial.len()));
            self.partial.extend_from_slice(now);
            samples = later;
            if self.partial.len() == frame_len {
                let frame = std::mem::take(&mut self.partial);
                self.step(&frame);
                self.partial = frame;
                self.partial.clear();
            }
        }
    }

    /// Says that the recording has ended; speech that goes on ends with its last sample.
    pub fn finish(&mut self) {
        let end = self.heard();
        if !self.partial.is_empty() {
            let mut frame = std::mem::take(&mut self.partial);
            frame.resize(self.gate.frame_len(), 0.0);
            self.step(&frame);
            // No position lies beyond the recording.
            self.history.truncate(self.offset(end));
            self.clock = end;
            self.growing = self.growing.map(|(start, to)| (start, to.min(end)));
            for cut in &mut self.ready {
                cut.samples.truncate(usize::try_from(end.saturating_sub(cut.start)).unwrap_or(usize::MAX));
            }
        }
        if let Some(start) = self.speech.take() {
            self.stretch(start, end);
        }
        self.close();
    }

    /// The next window, in the order of the recording.
    pub fn pop(&mut self) -> Option<Cut> {
        self.ready.pop_front()
    }

    /// Samples taken so far.
    #[must_use]
    pub fn heard(&self) -> Samples {
        self.clock + self.partial.len() as Samples
    }

    fn offset(&self, at: Samples) -> usize {
        usize::try_from(at.saturating_sub(self.history_start)).unwrap_or(usize::MAX).min(self.history.len())
    }

    fn step(&mut self, frame: &[f32]) {
        let turned = self.gate.frame(frame);
        self.history.extend_from_slice(frame);
        self.clock += frame.len() as Samples;
        if let Some(at) = turned.started
            && self.speech.is_none()
        {
            self.speech = Some(at.max(self.last_end).max(self.history_start).min(self.clock));
        }
        if let Some(at) = turned.ended
            && let Some(start) = self.speech.take()
        {
            // The last frame may reach beyond the window.
            let latest = self.clock.min(start + self.config.window);
            let end = (at + self.config.post_roll).clamp(start, latest);
            self.stretch(start, end);
        } else if let Some(start) = self.speech
            && self.clock - start >= self.config.window
        {
            let at = self.quietest(start);
            self.stretch(start, at);
            self.speech = Some(at);
        }
        let silent = self.speech.is_none();
        if let Some((_, end)) = self.growing
            && silent
            && self.clock - end > self.config.join + IDLE_HISTORY
        {
            self.close();
        }
        self.forget();
    }

    /// A stretch of speech has been heard: it joins the growing window if it can.
    fn stretch(&mut self, start: Samples, end: Samples) {
        self.last_end = end;
        if end - start < self.config.min_speech {
            return;
        }
        if let Some((from, to)) = self.growing
            && start.saturating_sub(to) <= self.config.join
            && end - from <= self.config.window
        {
            self.growing = Some((from, end));
        } else {
            self.close();
            self.growing = Some((start, end));
        }
        if self.config.join == 0 {
            self.close();
        }
    }

    /// The growing window is complete.
    fn close(&mut self) {
        if let Some((start, end)) = self.growing.take()
            && end > start
        {
            let samples = self.history[self.offset(start)..self.offset(end)].to_vec();
            self.ready.push_back(Cut { start, samples });
        }
    }

    /// Where speech that fills the window is cut: the quietest place in the second half of it.
    fn quietest(&self, start: Samples) -> Samples {
        let end = (start + self.config.window).min(self.clock);
        let latest = end.saturating_sub(quiet::MARGIN).max(start + 1);
        let earliest = (start + self.config.window / 2).min(latest);
        let audio = &self.history[self.offset(earliest)..self.offset(latest)];
        (earliest + quiet::quietest(audio, self.gate.frame_len())).min(latest)
    }

    /// Drops audio that no window can need any more.
    fn forget(&mut self) {
        let idle = self.clock.saturating_sub(IDLE_HISTORY).max(self.last_end.min(self.clock));
        let needed = self.growing.map_or(idle, |(start, _)| start).min(self.speech.unwrap_or(idle));
        let drop = self.offset(needed);
        // Moving the rest down costs a copy: do it rarely.
        if drop >= self.history.len() / 2 && drop > 0 {
            self.history.drain(..drop);
            self.history_start += drop as Samples;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::asr::stream::testkit::Loud;

    const CONFIG: CutConfig = CutConfig { window: 16_000, join: 0, post_roll: 160, min_speech: 320 };

    fn cut(audio: &[f32], config: CutConfig, chunks: &[usize]) -> Vec<Cut> {
        let mut cutter = Cutter::new(Loud::new(0, 10), config);
        let mut rest = audio;
        for size in chunks.iter().cycle() {
            let (now, later) = rest.split_at((*size).min(rest.len()));
            cutter.push(now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        cutter.finish();
        assert_eq!(cutter.heard(), audio.len() as Samples);
        std::iter::from_fn(|| cutter.pop()).collect()
    }

    fn spans(cuts: &[Cut]) -> Vec<(Samples, Samples)> {
        cuts.iter().map(|cut| (cut.start, cut.start + cut.samples.len() as Samples)).collect()
    }

    /// Speech and silence in turn, in samples.
    fn audio(lengths: &[usize]) -> Vec<f32> {
        let part = |(i, length): (usize, &usize)| vec![if i % 2 == 0 { 0.5 } else { 0.0 }; *length];
        lengths.iter().enumerate().flat_map(part).collect()
    }

    #[test]
    fn each_stretch_is_a_window_or_joins_its_neighbours() {
        let audio = audio(&[3_200, 4_800, 3_200, 4_800, 1_600, 4_800]);
        let alone = cut(&audio, CONFIG, &[777]);
        assert_eq!(spans(&alone), [(0, 3_360), (8_000, 11_360), (16_000, 17_760)]);
        let joined = cut(&audio, CutConfig { join: 4_800, ..CONFIG }, &[777]);
        assert_eq!(spans(&joined), [(0, 11_360), (16_000, 17_760)], "the third does not fit");
        let far = cut(&audio, CutConfig { join: 1_000, window: 160_000, ..CONFIG }, &[777]);
        assert_eq!(spans(&far), spans(&alone), "too much silence between them");
    }

    #[test]
    fn speech_without_a_pause_is_cut_where_it_is_quietest_and_nothing_is_lost() {
        let mut audio = vec![0.5; 40_000];
        audio[10_000..11_600].fill(0.1);
        let cuts = cut(&audio, CONFIG, &[1_000]);
        assert!((10_000..11_600).contains(&spans(&cuts)[0].1), "{:?}", spans(&cuts));
        let all: Vec<f32> = cuts.iter().flat_map(|cut| cut.samples.clone()).collect();
        assert_eq!(all, audio);
    }

    #[test]
    fn an_hour_of_silence_or_of_sound_is_not_kept() {
        for level in [0.0, 0.5] {
            let mut cutter = Cutter::new(Loud::new(0, 10), CutConfig { join: 32_000, ..CONFIG });
            for _ in 0..3_600 {
                cutter.push(&[level; 16_000]);
                while cutter.pop().is_some() {}
                assert!(cutter.history.len() < 100_000);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Windows come in order, overlap nowhere, fit the model, and hold every sample that is speech.
        #[test]
        fn every_sample_of_speech_is_in_exactly_one_window(
            lengths in prop::collection::vec(400_usize..40_000, 1..12),
            join in prop::sample::select(vec![0, 3_200, 64_000]),
            chunks in prop::collection::vec(1_usize..9_000, 1..8),
        ) {
            let audio = audio(&lengths);
            let config = CutConfig { join, ..CONFIG };
            let cuts = cut(&audio, config, &chunks);
            prop_assert_eq!(&cuts, &cut(&audio, config, &[usize::MAX]), "any chunking gives the same windows");
            let mut heard = vec![false; audio.len()];
            let mut last = 0;
            for cut in &cuts {
                let from = cut.start as usize;
                prop_assert!(cut.start >= last && cut.samples.len() as Samples <= CONFIG.window);
                prop_assert_eq!(&cut.samples[..], &audio[from..from + cut.samples.len()]);
                heard[from..from + cut.samples.len()].fill(true);
                last = cut.start + cut.samples.len() as Samples;
            }
            let lost = audio.iter().zip(&heard).filter(|(sample, heard)| **sample != 0.0 && !**heard).count();
            prop_assert!(lost < 320 * lengths.len(), "{} samples of speech lost", lost);
        }
    }
}
