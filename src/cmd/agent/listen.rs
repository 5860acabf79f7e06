//! `godctl agent listen`: works on prompts from the bus.

use std::{io::Write as _, path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context as _, anyhow};

use super::{
    super::{
        Context, Exit, Failure, Threads,
        bus::{duration, with_bus, with_exit_code},
        notify::Notifier,
    },
    store::{orchestrator, with_exit_code as with_store_exit_code},
};
use crate::{
    agents::{
        Access, Groups, Limits,
        errand::Customs,
        listener::{
            Backoff, ListenError, Listener, OnOrphan, Queues, Rules, Settings, TELEMETRY, VoiceRules, bounds,
            listen,
        },
        providers::Roster,
        store::{SharedStore, journal::Journal, open},
    },
    bus::{
        self, BusError, Pattern, QueueSpec, SharedBus, SystemClock,
        event::{
            Source,
            payload::{AgentPrompt, Payload as _, agent::AgentPromptFailed},
            registry,
        },
    },
    config::{AgentListen, MaxAccess},
};

/// Flags of `godctl agent listen`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Prompts are events of the type agent.prompt, such as
  godctl bus publish agent.prompt '{\"provider\": \"claude\", \"prompt\": \"why does the build fail?\"}'
What comes of them is on the bus: agent.session.started, agent.tool.*, then agent.response.completed or
agent.error, with the same correlation id.

A prompt is acknowledged as soon as it is on this machine's disk, for agents may work for longer than a broker
waits; from then on this machine works on it, also after a crash. Prompts of one session are worked on in order. What
is given up becomes a dead letter of the queue: see `godctl bus dead`; put back, it is worked on again.

With --voice, what somebody said is a prompt: \"Computer, ask Gemini to read the log\". An agent
that is named works on it, else listen.voice_provider. It gets listen.voice_access; for more the
utterance says so and ends with listen.voice_confirm: \"ask Claude with full access to clean up,
confirm full access\". Each microphone is a session of its own with each agent.

A message may not bring a command, arguments or variables; directories are those of listen.roots, and
access goes up to listen.access.

Examples:
  godctl agent listen
  godctl agent listen --workers 2 --root ~/code --access plan
  godctl agent listen --voice=prefix --voice-provider codex
  godctl -c bus.url=amqp://broker -c store.url=redis://cache agent listen")]
pub(super) struct Args {
    /// The queue; made if there is none (listen.queue)
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// What lands in it beside agent.prompt, such as 'deploy.prompt' (may be repeated)
    #[arg(long = "bind", value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// Turns that are worked on at once (listen.workers)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    workers: Option<u16>,
    /// A directory that messages may let agents work in, with all below it (may be repeated; listen.roots)
    #[arg(long = "root", value_name = "DIR")]
    roots: Vec<PathBuf>,
    /// What a message may ask for at most: plan, default, edit, full (listen.access)
    #[arg(long, value_name = "LEVEL", hide_possible_values = true)]
    access: Option<Access>,
    /// Take what was said as prompts, too: all of it, or only what begins with listen.voice_prefix
    #[arg(long, value_name = "WHICH", num_args = 0..=1, default_missing_value = "all", hide_possible_values = true)]
    voice: Option<Voice>,
    /// Who works on what was said to nobody by name (listen.voice_provider)
    #[arg(long, value_name = "NAME", requires = "voice")]
    voice_provider: Option<String>,
    /// What to do with a prompt whose turn was broken off by a crash: resume, rerun or fail
    #[arg(long, value_name = "WHAT", default_value = "resume", hide_possible_values = true)]
    on_orphan: OnOrphan,
    /// How long turns may go on once a stop was asked for (listen.drain_s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    drain_timeout: Option<Duration>,
    /// Let agents write in one directory at the same time
    #[arg(long)]
    shared_dir: bool,
    /// End when there was nothing to do for so long
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    idle: Option<Duration>,
}

/// `--voice`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "lower")]
enum Voice {
    All,
    Prefix,
}

/// How long the end of a turn is tried to be stored: whoever waits for it waits for the store anyway.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two attempts to reach a broker that is away: at most so long at first, and at last.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let notifier = Notifier::new(context);
    let agents = Roster::new(&context.config.agents);
    let settings = settings(args, context, &agents)?;
    let spec = spec(args, &settings)?;
    context
        .block_on(Threads::PerCore, async {
            let clock = Arc::new(SystemClock);
            let (store, journal) =
                open::open_with_journal(&context.config.store, &context.paths.data_dir, clock)
                    .await
                    .map_err(|error| with_store_exit_code(error.into()))?;
            let stage = Stage { context, store: &store, journal: &journal, settings: &settings, spec: &spec };
            let result = stage.serve_until_stopped(&notifier).await;
            journal.close().await;
            store.close().await;
            result
        })
        .map_err(with_exit_code)
}

/// What a listener is made from, as often as the bus has to be opened.
struct Stage<'a> {
    context: &'a Context,
    store: &'a SharedStore,
    journal: &'a Journal,
    settings: &'a Settings,
    spec: &'a QueueSpec,
}

impl Stage<'_> {
    /// Waits for a broker that is away: one that is started after us, or takes longer.
    async fn serve_until_stopped(&self, notifier: &Notifier) -> anyhow::Result<()> {
        let mut backoff = bus::backoff::Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let result = with_bus(self.context, async |bus| self.serve(&bus, notifier).await).await;
            if self.context.shutdown.is_cancelled() {
                return Ok(());
            }
            let is_away = |error: &anyhow::Error| {
                let errors = error.chain().filter_map(|cause| cause.downcast_ref::<BusError>());
                errors.into_iter().any(|error| matches!(error, BusError::Unreachable { .. }))
            };
            let error = match result {
                Err(error) if is_away(&error) => error,
                other => return other,
            };
            let pause = backoff.pause(&mut fastrand::Rng::new());
            writeln!(std::io::stderr(), "{error:#}; trying again in {:.1} s", pause.as_secs_f64()).ok();
            tokio::select! {
                () = self.context.shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn serve(&self, bus: &SharedBus, notifier: &Notifier) -> anyhow::Result<()> {
        let Self { context, settings, .. } = *self;
        let ears = match &settings.voice {
            Some(_) => Some(bus.queue(spec_of_voice(self.spec, settings.voice_queue())?).await?),
            None => None,
        };
        let queue = bus.queue(self.spec.clone()).await?;
        let config = &context.config.agents;
        let mut works = orchestrator(&context.config, self.store.clone());
        works.patience = PATIENCE;
        let listener = Listener {
            bus: bus.clone(),
            journal: self.journal.clone(),
            orchestrator: works,
            agents: Roster::new(config),
            customs: Customs::new(config, &context.paths.data_dir),
            variables: context.environment.variables().clone(),
            groups: Groups::default(),
            limits: Limits::new(config),
            source: Source::here("godctl", "agent"),
            settings: settings.clone(),
        };
        let last = listener.groups.clone();
        context.shutdown.before_exit(move || last.kill_all());
        let place = context.config.bus.url.to_string();
        let (name, workers) = (&listener.settings.queue, listener.settings.workers);
        writeln!(std::io::stderr(), "working on {name} of {place}, {workers} at once; Ctrl-C ends it").ok();
        notifier.clone().ready("listening");
        let stop = context.shutdown.child_token();
        Box::pin(listen(&listener, Queues { prompts: &*queue, voice: ears.as_deref() }, &stop)).await.map_err(
            |error| match error {
                ListenError::Bus(error) => anyhow::Error::new(error),
                ListenError::Store(error) => with_store_exit_code(error.into()),
            },
        )
    }
}

fn settings(args: &Args, context: &Context, agents: &Roster) -> anyhow::Result<Settings> {
    let config = &context.config.listen;
    let given = if args.roots.is_empty() { &config.roots } else { &args.roots };
    let here = [PathBuf::from(".")];
    let roots = if given.is_empty() { &here[..] } else { given };
    // As the system names them, so that no link leads around them.
    let roots = roots
        .iter()
        .map(|root| {
            root.canonicalize().with_context(|| format!("--root {}: no such directory", root.display()))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let access = args.access.unwrap_or(access(config.access));
    let attempts = std::num::NonZeroU32::new(config.attempts).unwrap_or(std::num::NonZeroU32::MIN);
    Ok(Settings {
        queue: args.queue.clone().unwrap_or_else(|| config.queue.clone()),
        rules: Rules {
            agents: agents.all().map(|provider| provider.name().to_owned()).collect(),
            roots,
            access,
            timeout_s: context.config.agents.timeout_s,
        },
        workers: args.workers.map_or(config.workers, usize::from),
        voice: args.voice.map(|which| voice(args, which, config, agents)).transpose()?,
        bounds: bounds(&context.config.agents.limits),
        attempts,
        backoff: Backoff::default(),
        on_orphan: args.on_orphan,
        drain: args.drain_timeout.unwrap_or(Duration::from_secs(config.drain_s)),
        shares_directory: args.shared_dir,
        idle: args.idle,
    })
}

const fn access(configured: MaxAccess) -> Access {
    match configured {
        MaxAccess::Plan => Access::Plan,
        MaxAccess::Default => Access::Default,
        MaxAccess::Edit => Access::Edit,
        MaxAccess::Full => Access::Full,
    }
}

fn voice(args: &Args, which: Voice, config: &AgentListen, agents: &Roster) -> anyhow::Result<VoiceRules> {
    let provider = args.voice_provider.as_ref().unwrap_or(&config.voice_provider);
    for name in config.voice_names.values().chain([provider]) {
        agents.by_name(name).map_err(|failure| Failure::new(Exit::Usage, failure))?;
    }
    let own = agents.all().map(|agent| (agent.name().to_owned(), agent.name().to_owned()));
    Ok(VoiceRules {
        prefix: config.voice_prefix.clone(),
        needs_prefix: which == Voice::Prefix,
        provider: provider.clone(),
        names: own.chain(config.voice_names.clone()).collect(),
        access: access(config.voice_access),
        confirmation: config.voice_confirm.clone(),
        max_age: Duration::from_secs(config.voice_max_age_s),
    })
}

fn spec_of_voice(prompts: &QueueSpec, name: String) -> anyhow::Result<QueueSpec> {
    let names = [registry::VOICE, registry::VOICE_ALIAS];
    let patterns = names.iter().map(|name| name.parse()).collect::<Result<Vec<Pattern>, _>>()?;
    let QueueSpec { prefetch, consumer, .. } = prompts.clone();
    Ok(QueueSpec { prefetch, consumer, ..QueueSpec::new(name, patterns) })
}

fn spec(args: &Args, settings: &Settings) -> anyhow::Result<QueueSpec> {
    // What agents say of themselves is no work, and would come back for ever.
    let own = registry::known().iter().map(|info| info.name).filter(|name| *name != AgentPrompt::TYPE);
    let forbidden: Vec<&str> = own.chain([TELEMETRY]).collect();
    for pattern in &args.patterns {
        if let Some(name) = forbidden.iter().find(|name| pattern.matches(name)) {
            let error =
                anyhow!("--bind '{pattern}' would take {name}, which is no prompt; bind something narrower");
            return Err(Failure::new(Exit::Usage, error).into());
        }
    }
    let always = [AgentPrompt::TYPE, AgentPromptFailed::TYPE];
    let mut patterns = always.iter().map(|name| name.parse()).collect::<Result<Vec<Pattern>, _>>()?;
    patterns.extend(args.patterns.iter().cloned());
    let host = gethostname::gethostname();
    // What a busy listener has fetched ahead, nobody else can work on.
    let prefetch = 1;
    let consumer = format!("{}:{}", host.to_string_lossy(), std::process::id());
    Ok(QueueSpec { prefetch, consumer, ..QueueSpec::new(settings.queue.clone(), patterns) })
}
