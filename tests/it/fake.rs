//! A model and a voice gate that need no weights: what they hear is a pure function of the samples.
//!
//! Speech is any stretch that is not silent. It is heard in blocks of 100 ms, and each block that differs in level
//! from the one before is a word: a block of level 0.12 is `w12`. So a test writes down words as levels and reads
//! them back as text.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use godctl::{
    asr::{
        Hypothesis, ModelInfo, SttError, Transcriber, Window, Word,
        engine::{Engine, EngineConfig},
        stream::{GateFrame, Samples, Tuning, VoiceGate, join},
    },
    shutdown::Shutdown,
};

/// Samples in a block.
const BLOCK: usize = 1_600;
/// Samples in a frame of the gate.
const FRAME: usize = 160;
/// Silent frames that end an utterance: 200 ms.
const RELEASE: u32 = 20;

/// The word of this level ends a sentence.
const SENTENCE_END: u8 = 98;

/// Audio that the fake model hears as `w<level>` for each level, followed by half a second of silence.
pub(crate) fn spoken(levels: &[u8]) -> Vec<f32> {
    let mut samples: Vec<f32> =
        levels.iter().flat_map(|level| std::iter::repeat_n(f32::from(*level) / 100.0, BLOCK)).collect();
    samples.extend(silence(0.5));
    samples
}

/// The text of [`spoken`].
pub(crate) fn text_of(levels: &[u8]) -> String {
    levels.iter().map(|level| format!("w{level}")).collect::<Vec<_>>().join(" ")
}

/// Silence of this many seconds.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few seconds")]
pub(crate) fn silence(seconds: f64) -> Vec<f32> {
    vec![0.0; (seconds * 16_000.0) as usize]
}

/// The samples as s16le.
#[allow(clippy::cast_possible_truncation, reason = "levels are below 1")]
pub(crate) fn pcm(samples: &[f32]) -> Vec<u8> {
    samples.iter().flat_map(|sample| ((sample * 32_768.0).round() as i16).to_le_bytes()).collect()
}

/// Every stretch that is not silent is speech.
struct Loud {
    clock: Samples,
    silent: u32,
    open: bool,
    /// Silent frames that end an utterance.
    release: u32,
}

impl Loud {
    fn gate(tuning: Tuning) -> Box<dyn VoiceGate> {
        let frames = |samples: Samples| u32::try_from(samples / FRAME as Samples).unwrap().max(1);
        let release = tuning.endpointing.map_or(RELEASE, frames);
        Box::new(Self { clock: 0, silent: 0, open: false, release })
    }
}

impl VoiceGate for Loud {
    fn frame_len(&self) -> usize {
        FRAME
    }

    fn frame(&mut self, frame: &[f32]) -> GateFrame {
        let start = self.clock;
        self.clock += FRAME as Samples;
        let loud = frame.iter().any(|sample| *sample != 0.0);
        self.silent = if loud { 0 } else { self.silent + 1 };
        let started = (loud && !self.open).then_some(start);
        let ended = (self.open && self.silent == self.release)
            .then(|| self.clock - Samples::from(self.release) * FRAME as Samples);
        self.open = (self.open || loud) && ended.is_none();
        GateFrame { started, ended }
    }
}

/// What a test holds the model up with.
pub(crate) enum Model {
    /// Answers at once.
    Willing,
    /// Answers each batch when it is given a permit; freely once the permits' sender is gone.
    Held(Receiver<()>),
    /// Fails on every window while this is set.
    Broken(Arc<AtomicBool>),
}

/// Permits for a held model: it answers one batch for each message, and freely once this is dropped.
pub(crate) fn held() -> (SyncSender<()>, Model) {
    let (release, hold) = sync_channel(0);
    (release, Model::Held(hold))
}

struct Fake {
    info: ModelInfo,
    model: Model,
}

impl Transcriber for Fake {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn transcribe(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        match &self.model {
            Model::Willing => {}
            Model::Held(hold) => drop(hold.recv()),
            Model::Broken(broken) if broken.load(Ordering::SeqCst) => {
                let gone = || Err(SttError::Inference("the device is gone".to_owned()));
                return windows.iter().map(|_| gone()).collect();
            }
            Model::Broken(_) => {}
        }
        windows.iter().map(hear).collect()
    }
}

/// Level 99 cannot be heard: it is an error of that window.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "levels are 0 to 100")]
fn hear(window: &Window) -> Result<Hypothesis, SttError> {
    let mut words: Vec<Word> = Vec::new();
    let mut last = 0;
    for (i, block) in window.samples.chunks(BLOCK).enumerate() {
        let level = (block[block.len() / 2] * 100.0).round() as u8;
        let (start, end) = ((i * BLOCK) as f64 / 16_000.0, (i * BLOCK + block.len()) as f64 / 16_000.0);
        if level == 99 {
            return Err(SttError::Inference("level 99 is too loud".to_owned()));
        }
        if level != 0 && level != last {
            let stop = if level == SENTENCE_END { "." } else { "" };
            words.push(Word { text: format!(" w{level}{stop}"), start, end, probability: 0.9 });
        }
        last = level;
    }
    let allowed = || window.options.allowed_languages.first().cloned();
    let language = window.options.language.clone().or_else(allowed).or_else(|| Some("en".to_owned()));
    Ok(Hypothesis { text: join(&words), words, language, language_probability: 1.0, ..Hypothesis::default() })
}

pub(crate) fn info() -> ModelInfo {
    ModelInfo {
        name: "fake".to_owned(),
        window_s: 10.0,
        multilingual: true,
        prompts: true,
        languages: vec!["en".to_owned(), "fr".to_owned()],
        parameters: 0,
        device: "none".to_owned(),
    }
}

/// An engine over the fake model.
pub(crate) fn engine(shutdown: &Shutdown, max_sessions: usize, model: Model) -> Engine {
    let config = EngineConfig { max_sessions, max_batch: 4, ..EngineConfig::default() };
    let mut first = Some(model);
    let load = move || {
        let model = first.take().unwrap_or(Model::Willing);
        Ok(Box::new(Fake { info: info(), model }) as Box<dyn Transcriber>)
    };
    Engine::start(shutdown, config, Loud::gate, load).unwrap()
}

/// An engine that loads until `load` gives its verdict.
pub(crate) fn loading_engine(shutdown: &Shutdown, verdict: Receiver<Result<(), SttError>>) -> Engine {
    let load = move || {
        verdict.recv().unwrap_or(Err(SttError::Closed))?;
        Ok(Box::new(Fake { info: info(), model: Model::Willing }) as Box<dyn Transcriber>)
    };
    Engine::start(shutdown, EngineConfig::default(), Loud::gate, load).unwrap()
}
