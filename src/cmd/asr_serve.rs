//! `godctl asr-serve`: the transcription server.

use std::{io::Write as _, num::NonZeroU32};

use super::{
    Context, Stdout, Threads,
    engine::{self, ModelArgs},
    notify::Notifier,
    publish::{Publisher, Voice},
};
use crate::{
    asr::server::{self, ServerOptions},
    config::{Config, Listen, Overrides},
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
then ends the server.

Each finished utterance is published on the bus as voice.transcription.completed; a bus that is
away stops no session. Watch with: godctl bus tail --bind 'voice.#'")]
pub(super) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Listen>,
    /// Streams transcribed at once; one more is refused
    #[arg(long, value_name = "N")]
    max_sessions: Option<NonZeroU32>,
    /// Keep what is heard off the event bus
    #[arg(long)]
    no_publish: bool,
    #[command(flatten)]
    model: ModelArgs,
}

impl Args {
    /// What these flags set.
    pub(super) fn overrides(&self) -> Overrides {
        let mut overrides = self.model.overrides();
        overrides.set("--listen", "asr.listen", self.listen.as_ref()).set(
            "--max-sessions",
            "asr.max_sessions",
            self.max_sessions.as_ref(),
        );
        overrides.set("--no-publish", "asr.publish", self.no_publish.then_some(&false));
        overrides
    }
}

pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    let notifier = Notifier::new(context);
    context.block_on(Threads::PerCore, async {
        let Context { config, paths, shutdown, .. } = context;
        // The port first: it answers while the model loads.
        let listener = server::bind(config.asr.listen.as_str()).await?;
        let address = listener.local_addr()?;
        notifier.status("loading the model");
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
            match loaded {
                Ok(_) => notifier.ready(&format!("listening on http://{address}")),
                Err(error) => stop.fail("asr-engine", error.to_string()),
            }
        });
        let voice = || Voice::new(&config.bus, "service", &[]);
        let publisher = config.asr.publish.then(|| Publisher::start(context, voice()));
        let tap = publisher.as_ref().map(|publisher| publisher.tap().clone());
        let served =
            server::serve(listener, engine, ServerOptions { tap, ..options(config) }, shutdown).await;
        if let Some(publisher) = publisher {
            publisher.finish(config.shutdown.deadline().mul_f32(0.2)).await.tell().await;
        }
        Ok(served?)
    })
}

fn options(config: &Config) -> ServerOptions {
    ServerOptions {
        decode: engine::decode_options(&config.asr),
        tuning: engine::tuning(&config.asr),
        // The rest of the deadline belongs to the threads that end after the sessions.
        drain: config.shutdown.deadline().mul_f32(0.7),
        ..ServerOptions::default()
    }
}
