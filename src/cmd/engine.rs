//! Joins a model, a voice gate and the engine that serves streams with them.

use std::{num::NonZeroUsize, time::Duration};

use anyhow::Context as _;
use tracing::warn;

use crate::{
    asr::{
        self, DecodeOptions, Transcriber,
        engine::{Engine, EngineConfig},
        model::device::DeviceChoice,
        stream::{self, Tuning, VoiceGate, gate::ActivityGate, samples_of_ms},
        weights::{self, BUILTIN_NAME},
        whisper::{LoadOptions, WhisperTranscriber},
    },
    audio::vad::VadConfig,
    config::{AUTO, Asr, Config, Device, Overrides, Paths, Policy, Sessions, Task, Vad},
    shutdown::Shutdown,
};

/// The most streams that `--sessions auto` lets in, however fast the machine is: each may hold some megabytes.
const MOST_SESSIONS: usize = 256;

/// Flags that choose and set up the model; they stand above the same keys of the configuration.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelArgs {
    /// The model: a name from `godctl models list`, owner/name, or a directory
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// The language spoken, as an ISO code, or auto to detect it
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Write down the language spoken, or its translation into English
    #[arg(long)]
    task: Option<Task>,
    /// Where inference runs
    #[arg(long)]
    device: Option<Device>,
    /// Threads for inference
    #[arg(long, value_name = "N")]
    threads: Option<u32>,
    /// Beams kept by beam search; 1 is greedy
    #[arg(long, value_name = "N")]
    beam_size: Option<u32>,
}

impl ModelArgs {
    /// The same as a layer of configuration.
    pub(crate) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        overrides
            .set("--model", "asr.model", self.model.as_ref())
            .set("--language", "asr.language", self.language.as_ref())
            .set("--task", "asr.task", self.task.as_ref())
            .set("--device", "asr.device", self.device.as_ref())
            .set("--threads", "asr.threads", self.threads.as_ref())
            .set("--beam-size", "asr.beam_size", self.beam_size.as_ref());
        overrides
    }
}

/// Starts the engine that `config` describes. The model's files are looked for now, and never fetched; its weights
/// are loaded on the engine's thread, see [`Engine::ready`].
///
/// # Errors
/// When there is no such model, with the command that fetches it, or no thread.
pub(super) fn start(config: &Config, paths: &Paths, shutdown: &Shutdown) -> anyhow::Result<Engine> {
    start_with(config, engine_config(&config.asr), paths, shutdown)
}

/// The same for a stream or two of our own, for which the machine need not be measured.
///
/// # Errors
/// As [`start`].
pub(super) fn start_for_us(config: &Config, paths: &Paths, shutdown: &Shutdown) -> anyhow::Result<Engine> {
    let engine = EngineConfig { measure: false, ..engine_config(&config.asr) };
    start_with(config, engine, paths, shutdown)
}

fn start_with(
    config: &Config,
    engine: EngineConfig,
    paths: &Paths,
    shutdown: &Shutdown,
) -> anyhow::Result<Engine> {
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
    let activity = activity(&config.vad);
    let load = move || Ok(Box::new(WhisperTranscriber::load(&source, options)?) as Box<dyn Transcriber>);
    let gate = move |tuning: Tuning| {
        let min_silence_samples = tuning.endpointing.unwrap_or(activity.min_silence_samples);
        Box::new(ActivityGate::new(VadConfig { min_silence_samples, ..activity })) as Box<dyn VoiceGate>
    };
    Engine::start(shutdown, engine, gate, load).context("cannot start the engine's thread")
}

/// How many streams, and for how long nothing may happen.
fn engine_config(asr: &Asr) -> EngineConfig {
    let (max_sessions, measure) = match asr.max_sessions {
        Sessions::Auto => (MOST_SESSIONS, true),
        Sessions::AtMost(sessions) => (usize::try_from(sessions.get()).unwrap_or(usize::MAX), false),
    };
    let stall = Duration::from_secs(u64::from(asr.watchdog_s));
    EngineConfig { max_sessions, measure, stall, ..EngineConfig::default() }
}

/// How the configuration has windows decoded.
pub(super) fn decode_options(asr: &Asr) -> DecodeOptions {
    DecodeOptions {
        language: asr.language.clone().filter(|language| language != AUTO),
        task: match asr.task {
            Task::Transcribe => asr::Task::Transcribe,
            Task::Translate => asr::Task::Translate,
        },
        beam_size: usize::try_from(asr.beam_size).unwrap_or(usize::MAX),
        ..DecodeOptions::default()
    }
}

/// When the configuration has streams decoded.
pub(super) fn tuning(asr: &Asr) -> Tuning {
    Tuning {
        policy: Some(match asr.policy {
            Policy::LocalAgreement => stream::Policy::LocalAgreement,
            Policy::AlignAtt => stream::Policy::AlignAtt,
        }),
        hop: asr.hop_ms.map(|ms| samples_of_ms(u64::from(ms))),
        agreement: asr.agreement.and_then(|n| usize::try_from(n).ok()),
        endpointing: None,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_reaches_the_engine() {
        let mut config = Config::default();
        assert_eq!(decode_options(&config.asr), DecodeOptions::default());
        let default = Tuning { policy: Some(stream::Policy::default()), ..Tuning::default() };
        assert_eq!(tuning(&config.asr), default, "the default is said twice, and is the same");
        assert_eq!(engine_config(&config.asr).max_sessions, EngineConfig::default().max_sessions);
        assert_eq!(
            activity(&config.vad),
            VadConfig::default(),
            "the defaults are said twice, and are the same"
        );
        config.asr.language = Some("de".to_owned());
        config.asr.task = Task::Translate;
        config.asr.hop_ms = Some(250);
        config.asr.agreement = Some(2);
        config.asr.policy = Policy::AlignAtt;
        config.asr.max_sessions = Sessions::Auto;
        config.asr.watchdog_s = 7;
        let decode = decode_options(&config.asr);
        assert_eq!((decode.language.as_deref(), decode.task), (Some("de"), asr::Task::Translate));
        let policy = Some(stream::Policy::AlignAtt);
        let expected = Tuning { policy, hop: Some(4_000), agreement: Some(2), endpointing: None };
        assert_eq!(tuning(&config.asr), expected);
        let engine = engine_config(&config.asr);
        assert_eq!((engine.measure, engine.stall), (true, Duration::from_secs(7)));
    }
}
