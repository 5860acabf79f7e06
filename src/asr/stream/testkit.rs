//! A voice gate for tests that anybody can follow: sound is speech, silence is not.

use super::{GateFrame, Samples, VoiceGate};

/// Samples in a frame: 10 ms.
pub(crate) const FRAME: usize = 160;

/// Speech is anything that is not zero. It starts at once, and ends after some silent frames.
#[derive(Debug)]
pub(crate) struct Loud {
    pre_roll: Samples,
    release: u32,
    clock: Samples,
    silent: u32,
    open: bool,
}

impl Loud {
    /// Keeps `pre_roll` samples from before the speech; `release` silent frames end it.
    pub(crate) const fn new(pre_roll: Samples, release: u32) -> Self {
        Self { pre_roll, release, clock: 0, silent: 0, open: false }
    }
}

impl VoiceGate for Loud {
    fn frame_len(&self) -> usize {
        FRAME
    }

    fn frame(&mut self, frame: &[f32]) -> GateFrame {
        let start = self.clock;
        self.clock += frame.len() as Samples;
        let loud = frame.iter().any(|s| *s != 0.0);
        self.silent = if loud { 0 } else { self.silent + 1 };
        let started = (loud && !self.open).then(|| start.saturating_sub(self.pre_roll));
        let ended = (self.open && self.silent == self.release)
            .then(|| self.clock - Samples::from(self.release) * FRAME as Samples);
        self.open = (self.open || loud) && ended.is_none();
        GateFrame { started, ended }
    }
}
