//! Speech starts and speech ends: hysteresis over the detector's probabilities, on the sample clock.

use super::{super::SAMPLE_RATE_HZ, FRAME_SAMPLES, FrameActivity, VoiceDetector};

/// How probabilities become speech. Times are in samples at 16 kHz; see [`VadConfig::default`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct VadConfig {
    /// A frame at or above this is voiced.
    pub on_threshold: f32,
    /// A frame below this is unvoiced; between the two, a frame is what the one before it was.
    pub off_threshold: f32,
    /// Voiced sound, in balance over unvoiced, that makes a start: shorter is a click or a cough.
    pub min_speech_samples: u64,
    /// Silence that makes an end (the endpoint of an utterance).
    pub min_silence_samples: u64,
    /// What is kept before the first voiced frame, never reaching before the previous end: soft consonants.
    pub pre_roll_samples: u64,
    /// What is kept after the last voiced frame: final consonants. Less than `min_silence_samples`.
    pub post_roll_samples: u64,
}

const fn millis(millis: u64) -> u64 {
    millis * SAMPLE_RATE_HZ as u64 / 1_000
}

impl Default for VadConfig {
    /// On 0.5, off 0.35, 144 ms of speech, 600 ms of silence, 300 ms before, 200 ms after.
    fn default() -> Self {
        Self {
            on_threshold: 0.5,
            off_threshold: 0.35,
            min_speech_samples: millis(144),
            min_silence_samples: millis(600),
            pre_roll_samples: millis(300),
            post_roll_samples: millis(200),
        }
    }
}

/// A turn between silence and speech.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VadEvent {
    /// Speech begins with this sample, pre-roll included. Never before the previous end.
    SpeechStart {
        /// Samples since the start of the stream.
        at_sample: u64,
    },
    /// Speech ended before this sample.
    SpeechEnd {
        /// Samples since the start of the stream.
        at_sample: u64,
    },
}

/// What came of the samples that were pushed, in order. The caller takes or clears it.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct VadOutput {
    /// Starts and ends, alternating, with samples that never go back.
    pub events: Vec<VadEvent>,
    /// Every frame, for example to find the quietest place in an overlong utterance.
    pub frames: Vec<FrameActivity>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Silence,
    /// Voiced frames have begun; the balance decides.
    Candidate {
        from: u64,
        balance: u64,
    },
    Speech {
        voiced_until: u64,
    },
}

/// The voice activity of one stream.
#[derive(Debug)]
pub struct VoiceActivity {
    config: VadConfig,
    detector: VoiceDetector,
    /// Samples that do not fill a frame yet.
    partial: Vec<f32>,
    /// Samples in whole frames so far: the clock.
    framed: u64,
    previous_end: u64,
    voiced: bool,
    state: State,
}

impl VoiceActivity {
    /// A stream in silence, at sample 0.
    #[must_use]
    pub fn new(config: VadConfig) -> Self {
        Self {
            config,
            detector: VoiceDetector::new(),
            partial: Vec::with_capacity(FRAME_SAMPLES),
            framed: 0,
            previous_end: 0,
            voiced: false,
            state: State::Silence,
        }
    }

    /// Samples pushed so far.
    #[must_use]
    pub const fn samples(&self) -> u64 {
        self.framed + self.partial.len() as u64
    }

    /// True between a start and its end.
    #[must_use]
    pub const fn in_speech(&self) -> bool {
        matches!(self.state, State::Speech { .. })
    }

    /// Takes samples, in chunks of any size, and appends what they complete.
    pub fn push(&mut self, mut samples: &[f32], out: &mut VadOutput) {
        while !samples.is_empty() {
            let (now, later) = samples.split_at(samples.len().min(FRAME_SAMPLES - self.partial.len()));
            self.partial.extend_from_slice(now);
            samples = later;
            if self.partial.len() == FRAME_SAMPLES {
                self.frame(FRAME_SAMPLES as u64, out);
            }
        }
    }

    /// Ends the stream: speech that goes on ends with the last sample. Afterwards the stream is as new.
    pub fn finish(&mut self, out: &mut VadOutput) {
        if !self.partial.is_empty() {
            self.frame(self.partial.len() as u64, out);
        }
        if let State::Speech { voiced_until } = self.state {
            let at_sample = (voiced_until + self.config.post_roll_samples).min(self.framed);
            out.events.push(VadEvent::SpeechEnd { at_sample });
        }
        *self = Self::new(self.config);
    }

    fn frame(&mut self, len: u64, out: &mut VadOutput) {
        let (probability, level_dbfs) = self.detector.push_frame(&self.partial);
        self.partial.clear();
        let at_sample = self.framed;
        self.framed += len;
        out.frames.push(FrameActivity { at_sample, probability, level_dbfs });
        self.step(at_sample, len, probability, out);
    }

    fn step(&mut self, at: u64, len: u64, probability: f32, out: &mut VadOutput) {
        let end = at + len;
        if probability >= self.config.on_threshold {
            self.voiced = true;
        } else if probability < self.config.off_threshold {
            self.voiced = false;
        }
        self.state = match self.state {
            State::Silence if self.voiced => self.weigh(at, len, out),
            State::Silence => State::Silence,
            State::Candidate { from, balance } if self.voiced => self.weigh_on(from, balance + len, end, out),
            State::Candidate { balance, .. } if balance <= len => State::Silence,
            State::Candidate { from, balance } => State::Candidate { from, balance: balance - len },
            State::Speech { .. } if self.voiced => State::Speech { voiced_until: end },
            State::Speech { voiced_until } if end - voiced_until >= self.config.min_silence_samples => {
                let at_sample = (voiced_until + self.config.post_roll_samples).min(end);
                out.events.push(VadEvent::SpeechEnd { at_sample });
                self.previous_end = at_sample;
                State::Silence
            }
            speech @ State::Speech { .. } => speech,
        };
    }

    fn weigh(&self, from: u64, len: u64, out: &mut VadOutput) -> State {
        self.weigh_on(from, len, from + len, out)
    }

    fn weigh_on(&self, from: u64, balance: u64, end: u64, out: &mut VadOutput) -> State {
        if balance < self.config.min_speech_samples {
            return State::Candidate { from, balance };
        }
        let at_sample = from.saturating_sub(self.config.pre_roll_samples).max(self.previous_end);
        out.events.push(VadEvent::SpeechStart { at_sample });
        State::Speech { voiced_until: end }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    /// The first 15 seconds of the fixture with twelve utterances.
    static SPEECH: LazyLock<Vec<f32>> = LazyLock::new(|| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/audio/command-en/long.wav");
        std::fs::read(path).unwrap()[44..]
            .as_chunks()
            .0
            .iter()
            .take(15 * 16_000)
            .map(|b| f32::from(i16::from_le_bytes(*b)) / 32_768.0)
            .collect()
    });

    fn run(samples: &[f32], cuts: &[usize]) -> VadOutput {
        let (mut activity, mut out) = (VoiceActivity::new(VadConfig::default()), VadOutput::default());
        let mut rest = samples;
        for cut in cuts.iter().cycle() {
            let (now, later) = rest.split_at((*cut).min(rest.len()));
            activity.push(now, &mut out);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(activity.samples(), samples.len() as u64);
        activity.finish(&mut out);
        out
    }

    /// The events alternate, never go back, and with the silences between them cover the stream.
    fn assert_lawful(out: &VadOutput, samples: u64) {
        let (mut at, mut active, mut silent) = (0, 0, 0);
        for pair in out.events.chunks(2) {
            let [VadEvent::SpeechStart { at_sample: start }, VadEvent::SpeechEnd { at_sample: end }] = *pair
            else {
                panic!("no start and end: {pair:?}");
            };
            assert!(at <= start && start < end && end <= samples, "{pair:?} after {at}");
            silent += start - at;
            active += end - start;
            at = end;
        }
        assert_eq!(active + silent + (samples - at), samples);
        assert_eq!(out.frames.len() as u64, samples.div_ceil(FRAME_SAMPLES as u64));
    }

    #[test]
    fn utterances_are_separated_and_whole() {
        let out = run(&SPEECH, &[512]);
        let spans: Vec<_> = out
            .events
            .iter()
            .map(|event| match event {
                VadEvent::SpeechStart { at_sample } | VadEvent::SpeechEnd { at_sample } => {
                    *at_sample as f64 / 16_000.0
                }
            })
            .collect();
        assert_eq!(spans.len(), 8, "{spans:?}");
        for (true_start, start) in [0.50, 4.39, 8.49, 11.89].iter().zip(spans.iter().step_by(2)) {
            assert!((true_start - 0.35..=*true_start).contains(start), "{start} for {true_start}");
        }
    }

    #[test]
    fn a_probability_between_the_thresholds_changes_nothing() {
        let config = VadConfig { pre_roll_samples: 512, post_roll_samples: 256, ..VadConfig::default() };
        let (mut activity, mut out) = (VoiceActivity::new(config), VadOutput::default());
        let mut at = 0;
        let mut play = |activity: &mut VoiceActivity, probability: f32, frames: u64| {
            for _ in 0..frames {
                activity.step(at, 256, probability, &mut out);
                at += 256;
            }
            out.events.clone()
        };
        assert!(play(&mut activity, 0.4, 50).is_empty(), "not enough to begin");
        assert!(play(&mut activity, 0.9, 8).is_empty(), "too short to count");
        assert!(play(&mut activity, 0.1, 20).is_empty());
        let events = play(&mut activity, 0.9, 10);
        assert_eq!(events, [VadEvent::SpeechStart { at_sample: 78 * 256 - 512 }]);
        assert_eq!(play(&mut activity, 0.4, 100).len(), 1, "enough to go on");
        assert_eq!(play(&mut activity, 0.1, 37).len(), 1);
        let events = play(&mut activity, 0.1, 1);
        assert_eq!(events[1], VadEvent::SpeechEnd { at_sample: 188 * 256 + 256 });
        let events = play(&mut activity, 0.9, 10);
        assert_eq!(events[2], VadEvent::SpeechStart { at_sample: 226 * 256 - 512 });
    }

    #[test]
    fn a_start_never_reaches_before_the_last_end() {
        let config = VadConfig { pre_roll_samples: 1_000_000, ..VadConfig::default() };
        let (mut activity, mut out) = (VoiceActivity::new(config), VadOutput::default());
        activity.push(&SPEECH, &mut out);
        activity.finish(&mut out);
        assert_lawful(&out, SPEECH.len() as u64);
        assert_eq!(out.events[1..3][0], out.events[1]);
        let (VadEvent::SpeechEnd { at_sample: end }, VadEvent::SpeechStart { at_sample: start }) =
            (out.events[1], out.events[2])
        else {
            panic!("{:?}", out.events);
        };
        assert_eq!(start, end);
    }

    #[test]
    fn what_is_no_number_is_silence() {
        let mut samples = vec![f32::NAN; 16_000];
        samples.extend([f32::INFINITY, f32::NEG_INFINITY, 1e30, -1e30].iter().cycle().take(16_000));
        let out = run(&samples, &[1_000]);
        assert!(out.frames.iter().all(|frame| frame.probability.is_finite() && frame.level_dbfs.is_finite()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn any_chunking_gives_the_same_events(
            from in 0_usize..80_000,
            len in 0_usize..64_000,
            cuts in prop::collection::vec(1_usize..5_000, 1..30),
        ) {
            let samples = &SPEECH[from..from + len];
            let whole = run(samples, &[usize::MAX]);
            assert_lawful(&whole, len as u64);
            prop_assert_eq!(run(samples, &cuts), whole);
        }

        #[test]
        fn the_hysteresis_is_lawful_for_any_probabilities(probabilities in prop::collection::vec(0.0_f32..1.0, 0..600)) {
            let (mut activity, mut out) = (VoiceActivity::new(VadConfig::default()), VadOutput::default());
            for (i, probability) in probabilities.iter().enumerate() {
                activity.framed = (i as u64 + 1) * 256;
                out.frames.push(FrameActivity { at_sample: i as u64 * 256, probability: *probability, level_dbfs: 0.0 });
                activity.step(i as u64 * 256, 256, *probability, &mut out);
            }
            activity.finish(&mut out);
            assert_lawful(&out, probabilities.len() as u64 * 256);
        }
    }
}
