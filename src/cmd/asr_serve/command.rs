//! The server: its flags, and the parts that it joins.

use std::{io::Write as _, path::PathBuf, time::Duration};

use super::{
    super::{
        Context, Stdout, Threads,
        engine::{self, ModelArgs},
        notify::Notifier,
        publish::{Publisher, Voice},
    },
    check, doors,
    reload::Reload,
    token::{self, TokenArgs},
};
use crate::{
    asr::{
        server::{self, Access, Origins, ServerOptions},
        stream::{Tuning, samples_of_ms},
    },
    config::{Config, Listen, Overrides, Policy, Sessions},
};

/// Flags of `godctl asr-serve`.
#[derive(Debug, clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "\
Examples:
  godctl asr-serve                            the best model installed, else the built-in one
  godctl asr-serve --model base --language de --sessions 4
  godctl asr-serve --sessions auto --policy alignatt
  godctl asr-serve token kiosk --tokens-file tokens.toml
  godctl asr-serve --listen 0.0.0.0:8000 --tokens-file tokens.toml --tls-cert c.pem --tls-key k.pem
  godctl asr-serve --check                    would it start? model, tokens, certificate, port
  curl http://127.0.0.1:8000/ready            is the model loaded, and does it work?
  curl http://127.0.0.1:8000/metrics          what Prometheus reads
  curl http://127.0.0.1:8000/v1/audio/transcriptions -F file=@talk.mp3 -F response_format=srt

Clients of Deepgram connect to ws://HOST:PORT/v1/listen, or post a recording there; their SDKs need
no more than this address. Clients of OpenAI are given http://HOST:PORT/v1 as their base URL, for
/v1/audio/transcriptions and /v1/audio/translations; /openapi.json tells the rest.
Clients of WhisperLiveKit connect to ws://HOST:PORT/asr unchanged. They may add to the URL:
mode, language, task, prompt, hotwords, segment, max_length, policy, hop, endpointing, words. A
browser that opens http://HOST:PORT/ gets a page that transcribes the microphone or a recording.

Once there is a token every route but /health wants one: Authorization: Bearer TOKEN (or Token
TOKEN), ?token=TOKEN, or on a websocket the subprotocols token, TOKEN. An address that other
machines can reach needs tokens or --insecure. SIGHUP reads tokens and certificate again; sessions
go on, but for those of a token that is gone, which end with their last words. SIGTERM lets all
sessions finish what they have heard, then ends the server.
A socket that systemd hands over (ListenStream=) is used instead of --listen.

Each finished utterance is published on the bus as voice.transcription.completed, those of an
upload when all of it was transcribed; a bus that is away stops neither sessions nor uploads. Watch
with: godctl bus tail --bind 'voice.#'"
)]
pub(crate) struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<Listen>,
    /// Streams transcribed at once, one more is refused; auto measures how many this machine holds
    #[arg(long, visible_alias = "max-sessions", value_name = "N|auto")]
    sessions: Option<Sessions>,
    /// Which rule makes words final before a pause
    #[arg(long)]
    policy: Option<Policy>,
    /// Keep what is heard off the event bus
    #[arg(long)]
    no_publish: bool,
    /// Try model, tokens, certificate and port, and end; 78 when the configuration is to blame
    #[arg(long)]
    check: bool,
    /// Print what --check finds as one JSON object
    #[arg(long, requires = "check")]
    json: bool,
    /// Tokens that clients must send, hashed; see `godctl asr-serve token --help`
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    tokens_file: Option<PathBuf>,
    /// Let other machines in without a token
    #[arg(long, help_heading = "Access")]
    insecure: bool,
    /// Certificate chain (PEM), for https and wss
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key (PEM)
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    tls_key: Option<PathBuf>,
    /// Pages of this origin may open websockets (may be repeated); * for all
    #[arg(long, value_name = "ORIGIN", help_heading = "Access")]
    allow_origin: Vec<String>,
    /// Scripts of this origin may read answers (CORS; may be repeated); * for all
    #[arg(long, value_name = "ORIGIN", help_heading = "Access")]
    cors_origin: Vec<String>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token for a client
    Token(TokenArgs),
}

impl Args {
    /// What these flags set.
    pub(crate) fn overrides(&self) -> Overrides {
        let mut overrides = self.model.overrides();
        let list = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        overrides
            .set("--listen", "asr.listen", self.listen.as_ref())
            .set("--sessions", "asr.max_sessions", self.sessions.as_ref())
            .set("--policy", "asr.policy", self.policy.as_ref())
            .set("--no-publish", "asr.publish", self.no_publish.then_some(&false))
            .set("--tokens-file", "asr.tokens_file", self.tokens_file.as_ref())
            .set("--insecure", "asr.insecure", self.insecure.then_some(&true))
            .set("--tls-cert", "asr.tls_cert", self.tls_cert.as_ref())
            .set("--tls-key", "asr.tls_key", self.tls_key.as_ref())
            .set("--allow-origin", "asr.allow_origins", list(&self.allow_origin).as_ref())
            .set("--cors-origin", "asr.cors_origins", list(&self.cors_origin).as_ref());
        overrides
    }

    /// Whether this runs until it is told to stop.
    pub(crate) const fn serves(&self) -> bool {
        !self.check && self.action.is_none()
    }
}

pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    match &args.action {
        Some(Action::Token(args)) => token::run(args, context),
        None if args.check => check::run(context, args.json),
        None => serve(context),
    }
}

fn serve(context: &Context) -> anyhow::Result<()> {
    let notifier = Notifier::new(context);
    context.block_on(Threads::PerCore, async {
        let Context { config, paths, shutdown, .. } = context;
        let tokens = doors::tokens(&config.asr)?;
        let tls = doors::tls(&config.asr)?;
        // The port first: it answers while the model loads.
        let listener = doors::open(&config.asr, !tokens.is_empty()).await?;
        let address = listener.local_addr()?;
        let access = Access::new(tokens);
        let reload = Reload { asr: config.asr.clone(), access: access.clone(), tls: tls.clone() };
        reload.on_hangup(shutdown, &notifier);
        notifier.status("loading the model");
        let engine = engine::start(config, paths, shutdown)?;
        let s = if tls.is_some() { "s" } else { "" };
        {
            let mut stdout = Stdout::lock();
            writeln!(stdout, "listening on http{s}://{address} (websocket: ws{s}://{address}/asr)")?;
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
                Ok(_) => notifier.ready(&format!("listening on http{s}://{address}")),
                Err(error) => stop.fail("asr-engine", error.to_string()),
            }
        });
        let voice = || Voice::new(&config.bus, "service", &[]);
        let publisher = config.asr.publish.then(|| Publisher::start(context, voice()));
        let tap = publisher.as_ref().map(|publisher| publisher.tap().clone());
        let options = ServerOptions { tap, access, tls, ..options(config) };
        let served = server::serve(listener, engine, options, shutdown).await;
        if let Some(publisher) = publisher {
            publisher.finish(config.shutdown.deadline().mul_f32(0.2)).await.tell().await;
        }
        Ok(served?)
    })
}

fn options(config: &Config) -> ServerOptions {
    let asr = &config.asr;
    let seconds = |s: u32| Duration::from_secs(u64::from(s));
    let count = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    ServerOptions {
        decode: engine::decode_options(asr),
        tuning: Tuning {
            // What the voice gate is set up with anyway; so sessions are told.
            endpointing: Some(samples_of_ms(u64::from(config.vad.min_silence_ms))),
            ..engine::tuning(asr)
        },
        // The rest of the deadline belongs to the threads that end after the sessions.
        drain: config.shutdown.deadline().mul_f32(0.7),
        allow_origins: Origins::new(&asr.allow_origins),
        cors_origins: Origins::new(&asr.cors_origins),
        max_sessions_per_token: asr.max_sessions_per_token.map(count),
        max_session: asr.max_session_s.map(seconds),
        idle_timeout: seconds(asr.idle_timeout_s),
        send_timeout: seconds(asr.send_timeout_s),
        header_timeout: seconds(asr.header_timeout_s),
        body_timeout: seconds(asr.body_timeout_s),
        max_connections: count(asr.max_connections),
        max_message_bytes: count(asr.max_message_kb).saturating_mul(1 << 10),
        max_upload_bytes: u64::from(asr.max_upload_mb) << 20,
        ..ServerOptions::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_of_the_configuration_are_those_of_the_server() {
        let (ours, theirs) = (options(&Config::default()), ServerOptions::default());
        let shown = |options: &ServerOptions| {
            let common = options.clone();
            format!("{:?}", ServerOptions { drain: Duration::ZERO, tuning: Tuning::default(), ..common })
        };
        assert_eq!(shown(&ours), shown(&theirs), "they are said twice, and are the same");
    }
}
