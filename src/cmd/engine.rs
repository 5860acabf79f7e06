//! Joins a model, a voice gate and the engine that serves streams with them.

use std::num::NonZeroUsize;

use anyhow::Context as _;
use tracing::warn;

use crate::{
    asr::{
        Transcriber,
        engine::{Engine, EngineConfig},
        model::device::DeviceChoice,
        stream::{gate::ActivityGate, samples_of_ms},
        weights::{self, BUILTIN_NAME},
        whisper::{LoadOptions, WhisperTranscriber},
    },
    audio::vad::VadConfig,
    config::{Config, Device, Paths, Vad},
    shutdown::Shutdown,
};

/// Starts the engine that `config` describes. The model's files are looked for now, and never fetched; its weights
/// are loaded on the engine's thread, see [`Engine::ready`].
///
/// # Errors
/// When there is no such model, with the command that fetches it, or no thread.
pub(super) fn start(config: &Config, paths: &Paths, shutdown: &Shutdown) -> anyhow::Result<Engine> {
    let asr = &config.asr;
    let source = weights::resolve(asr.model.as_deref(), &paths.models_dir)?;
    if asr.model.is_none() && source.name == BUILTIN_NAME {
        warn!(
            "no model is installed, so the built-in one listens: good for spoken commands, not for dictation; godctl models pull base"
        );
    }
    let options = LoadOptions {
        device: match asr.device {
            Device::Auto => DeviceChoice::Auto,
            Device::Cpu => DeviceChoice::Cpu,
            Device::Cuda => DeviceChoice::Cuda(0),
            Device::Metal => DeviceChoice::Metal,
        },
        threads: asr.threads.and_then(|threads| NonZeroUsize::new(usize::try_from(threads).ok()?)),
    };
    let engine = EngineConfig {
        max_sessions: usize::try_from(asr.max_sessions).unwrap_or(usize::MAX),
        ..EngineConfig::default()
    };
    let activity = activity(&config.vad);
    let load = move || Ok(Box::new(WhisperTranscriber::load(&source, options)?) as Box<dyn Transcriber>);
    Engine::start(shutdown, engine, move || Box::new(ActivityGate::new(activity)), load)
        .context("cannot start the engine's thread")
}

#[allow(clippy::cast_possible_truncation, reason = "probabilities: f32 is what the detector has")]
fn activity(vad: &Vad) -> VadConfig {
    let samples = |ms: u32| samples_of_ms(u64::from(ms));
    VadConfig {
        on_threshold: vad.threshold as f32,
        off_threshold: vad.release as f32,
        min_speech_samples: samples(vad.min_speech_ms),
        min_silence_samples: samples(vad.min_silence_ms),
        pre_roll_samples: samples(vad.pre_roll_ms),
        ..VadConfig::default()
    }
}
