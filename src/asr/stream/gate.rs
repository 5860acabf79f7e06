//! The voice gate of real streams: [`crate::audio::vad`] seen as a [`VoiceGate`]. Pure.

use super::{GateFrame, VoiceGate};
use crate::audio::vad::{FRAME_SAMPLES, VadConfig, VadEvent, VadOutput, VoiceActivity};

/// Voice activity of one stream.
#[derive(Debug)]
pub struct ActivityGate {
    activity: VoiceActivity,
    /// Kept for its allocation.
    output: VadOutput,
}

impl ActivityGate {
    /// A stream in silence. What is kept after the last voiced sample is the stream's to say
    /// ([`super::StreamConfig::post_roll`]), so `config.post_roll_samples` is not used.
    #[must_use]
    pub fn new(config: VadConfig) -> Self {
        let config = VadConfig { post_roll_samples: 0, ..config };
        Self { activity: VoiceActivity::new(config), output: VadOutput::default() }
    }
}

impl VoiceGate for ActivityGate {
    fn frame_len(&self) -> usize {
        FRAME_SAMPLES
    }

    fn frame(&mut self, frame: &[f32]) -> GateFrame {
        self.output.events.clear();
        self.output.frames.clear();
        self.activity.push(frame, &mut self.output);
        let mut change = GateFrame::default();
        for event in &self.output.events {
            match event {
                VadEvent::SpeechStart { at_sample } => change.started = Some(*at_sample),
                VadEvent::SpeechEnd { at_sample } => change.ended = Some(*at_sample),
            }
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_between_silences_starts_and_ends_once() {
        let wav = include_bytes!("../../../assets/demo/demo1.wav");
        let (samples, _) = wav[44..].as_chunks::<2>();
        let speech = samples.iter().map(|bytes| f32::from(i16::from_le_bytes(*bytes)) / 32_768.0);
        let silence = || std::iter::repeat_n(0.0, 32_000);
        let audio: Vec<f32> = silence().chain(speech).chain(silence()).collect();
        let mut gate = ActivityGate::new(VadConfig::default());
        let (mut starts, mut ends) = (Vec::new(), Vec::new());
        for frame in audio.chunks_exact(gate.frame_len()) {
            let GateFrame { started, ended } = gate.frame(frame);
            starts.extend(started);
            ends.extend(ended);
        }
        assert_eq!((starts.len(), ends.len()), (1, 1), "{starts:?} {ends:?}");
        assert!(starts[0] >= 24_000 && starts[0] < ends[0] && ends[0] <= 32_000 + samples.len() as u64);
    }
}
