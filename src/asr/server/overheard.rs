//! What the recordings of uploads said, for who listens besides their clients.

use std::sync::Arc;

use jiff::Timestamp;

use super::listen::App;
use crate::asr::{
    ModelInfo,
    offline::{Passage, Utterances},
    tap::{Spoken, Tap},
};

/// What a recording has said so far. It is told when all of the recording was heard, and never when it is dropped
/// before: an upload that failed or was given up leaves no half of itself.
#[derive(Debug)]
pub(super) struct Overheard {
    /// `None` where nobody listens; then nothing is kept.
    tap: Option<Tap>,
    session: String,
    model: Arc<ModelInfo>,
    utterances: Utterances,
    spoken: Vec<Spoken>,
}

impl App {
    /// For the recording of a request.
    pub(super) fn overhear(&self, request: &str, model: &Arc<ModelInfo>) -> Overheard {
        Overheard {
            tap: self.options.tap.clone(),
            session: request.to_owned(),
            model: Arc::clone(model),
            utterances: Utterances::new(model.window_s),
            spoken: Vec::new(),
        }
    }
}

impl Overheard {
    /// Takes the next passage, and who speaks in it where that is known.
    pub(super) fn take(&mut self, passage: &Passage, speaker: Option<&str>) {
        if self.tap.is_none() {
            return;
        }
        let Self { session, model, utterances, spoken, .. } = self;
        let at = Timestamp::now();
        spoken.extend(utterances.of(passage).into_iter().map(|utterance| {
            let (session, model, speaker) = (session.clone(), model.name.clone(), speaker.map(str::to_owned));
            Spoken { session, model, at, speaker, utterance }
        }));
    }

    /// All of the recording was heard.
    pub(super) fn tell(self) {
        if let Some(tap) = self.tap {
            tap.offer_recording(self.spoken);
        }
    }
}
