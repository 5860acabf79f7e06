//! `godctl asr-serve`: the transcription server.

use std::{io::Write as _, num::NonZeroU32};

use super::{Context, Stdout, Threads, engine};
use crate::{
    asr::{
        DecodeOptions,
        server::{self, ServerOptions},
        stream::samples_of_ms,
    },
    config::{Config, Device, Listen, Overrides, Task},
};

/// Flags of `godctl asr-serve`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl asr-serve                            the best model installed, else the built-in one
  godctl asr-serve --model base.en --listen 0.0.0.0:8000
  godctl asr-serve --language de --max-sessions 4
  curl http://127.0.0.1:8000/ready            is the model loaded?

Clients of WhisperLiveKit connect to ws://HOST:PORT/asr unchanged. They may add to the URL:
language, task, prompt, hotwords, words=true. SIGTERM lets sessions finish what they have heard,
then ends the server.")]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Listen>,
    /// A model of the catalogue, owner/name[@revision], or a directory
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// Where inference runs
    #[arg(long)]
    device: Option<Device>,
    /// Threads for inference
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroU32>,
    /// Streams transcribed at once; one more is refused
    #[arg(long, value_name = "N")]
    max_sessions: Option<NonZeroU32>,
    /// The language spoken, as an ISO code; it is detected otherwise
    #[arg(long, value_name = "CODE")]
    language: Option<String>,
    /// Write down the language spoken, or its translation into English
    #[arg(long)]
    task: Option<Task>,
    /// Beams kept by beam search; 1 is greedy
    #[arg(long, value_name = "N")]
    beam_size: Option<u32>,
}

impl Args {
    /// What these flags set.
    pub(super) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        overrides
            .set("--listen", "asr.listen", self.listen.as_ref())
            .set("--model", "asr.model", self.model.as_ref())
            .set("--device", "asr.device", self.device.as_ref())
            .set("--threads", "asr.threads", self.threads.as_ref())
            .set("--max-sessions", "asr.max_sessions", self.max_sessions.as_ref())
            .set("--language", "asr.language", self.language.as_ref())
            .set("--task", "asr.task", self.task.as_ref())
            .set("--beam-size", "asr.beam_size", self.beam_size.as_ref());
        overrides
    }
}

pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    context.block_on(Threads::PerCore, async {
        let Context { config, paths, shutdown, .. } = context;
        // The port first: it answers while the model loads.
        let listener = server::bind(config.asr.listen.as_str()).await?;
        let address = listener.local_addr()?;
        let engine = engine::start(config, paths, shutdown)?;
        {
            let mut stdout = Stdout::lock();
            writeln!(stdout, "listening on http://{address} (websocket: ws://{address}/asr)")?;
            stdout.flush()?;
        }
        let (watched, stop) = (engine.clone(), shutdown.clone());
        shutdown.spawn("asr-model", async move {
            // A server without a model is of no use to anybody: say why, and let whoever watches us start us again.
            let loaded = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                loaded = watched.ready() => loaded,
            };
            if let Err(error) = loaded {
                stop.fail("asr-engine", error.to_string());
            }
        });
        Ok(server::serve(listener, engine, options(config), shutdown).await?)
    })
}

fn options(config: &Config) -> ServerOptions {
    let asr = &config.asr;
    ServerOptions {
        decode: DecodeOptions {
            language: asr.language.clone(),
            task: match asr.task {
                Task::Transcribe => crate::asr::Task::Transcribe,
                Task::Translate => crate::asr::Task::Translate,
            },
            beam_size: usize::try_from(asr.beam_size).unwrap_or(usize::MAX),
            ..DecodeOptions::default()
        },
        hop: Some(samples_of_ms(u64::from(asr.hop_ms))),
        // The rest of the deadline belongs to the threads that end after the sessions.
        drain: config.shutdown.deadline().mul_f32(0.7),
        ..ServerOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_get_what_is_configured() {
        let mut config = Config::default();
        config.asr.language = Some("de".to_owned());
        config.asr.task = Task::Translate;
        config.asr.hop_ms = 250;
        let options = options(&config);
        assert_eq!(options.decode.language.as_deref(), Some("de"));
        assert_eq!(options.decode.task, crate::asr::Task::Translate);
        assert_eq!(options.hop, Some(4_000));
        assert!(options.drain < config.shutdown.deadline());
    }
}
