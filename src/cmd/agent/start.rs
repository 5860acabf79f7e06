//! `godctl agent start`: gives an agent a prompt, shows it at work, and prints its answer; with somebody at the keyboard
//! and no prompt, one after another.

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use clap::ValueEnum as _;
use uuid::Uuid;

use super::{
    super::{Context, Exit, Failure as CmdFailure, Stdout, Threads, bus::duration},
    conversation::{self, Choice, Conversation, canonical},
    detach, dialogue,
    screen::Screen,
    store::{tidy, with_store},
};
use crate::{
    agents::{
        Access, Class, Failure, Groups, Limits, NativeId, Outcome, Output, Place, Provider, Surroundings,
        Thread, Turn,
        errand::{Customs, Errand, Workspace},
        narrator::{Narrator, Subject},
        orchestrator::{Plain, Recorder},
        process,
        providers::Roster,
    },
    bus::{
        Event,
        event::{Source, Stamp},
    },
};

/// Longer prompts are mistakes.
const MAX_PROMPT: u64 = 64 * 1024 * 1024;

/// Flags of `godctl agent start`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The prompt comes from --prompt, --file, or standard input, and goes to the agent's standard input: it is never part of
a command line. The answer goes to standard output, what the agent does to standard error. An agent may do what its own
settings allow; whatever it would ask for is denied, unless --access says more.

Each turn belongs to a session, which is stored (what was asked and answered is encrypted), and can be gone on with:
see `godctl agent sessions`. Without a prompt, and with somebody at the keyboard, it asks for one after another; Ctrl-C
cancels the turn, and leaves when there is none.

Examples:
  godctl agent start claude -p \"why does the build fail?\"
  godctl agent start claude --continue -p \"then fix it\"
  godctl agent start codex --access edit --cwd ~/engine --file task.md
  git diff | godctl agent start gemini -p - > review.md
  godctl agent start ollama --model qwen3 -p \"name three rivers\"
  godctl agent start claude -p \"plan it\" --json | jq -r .event_type
  godctl agent start codex --file task.md --detach    begin, print the session's id, and leave it at work

Exit codes: 0 answered, 1 failed, 2 wrong usage, 69 the agent is not installed, 75 try again later
(a limit or an overload), 130 cancelled.")]
pub(super) struct Args {
    /// Who works on it: claude, gemini, codex, agy; openai, xai, ollama, vllm, which only talk; echo, which gives the prompt
    /// back; or one of agents.providers
    #[arg(value_name = "PROVIDER")]
    provider: String,
    /// What is to be done; - reads standard input
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    prompt: Option<String>,
    /// Read the prompt from this file
    #[arg(long, value_name = "FILE", visible_alias = "prompt-file")]
    file: Option<PathBuf>,
    /// Which model; without it the agent chooses
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// The directory that it works in; without it that of the session, or this one
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// What it may do without asking: plan (read only), default (its own settings), edit (change files), full (anything,
    /// without a sandbox)
    #[arg(long, value_name = "LEVEL", default_value = "default", hide_possible_values = true)]
    access: Access,
    /// How long it may take (agents.timeout_s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// Stop it after so many rounds of model and tools (claude only)
    #[arg(long, value_name = "N")]
    max_turns: Option<u32>,
    /// Stop it when it has cost so much (claude only)
    #[arg(long, value_name = "USD")]
    budget_usd: Option<f64>,
    /// Let the agent keep no transcript of its own (claude and codex only)
    #[arg(long)]
    ephemeral: bool,
    /// Let it work in a git worktree of its own, on a branch of its own, which is kept if anything was done there
    #[arg(long)]
    worktree: bool,
    /// Print events, one JSON object a line, in place of the answer; with --detach one object that tells what was begun
    #[arg(long)]
    json: bool,
    /// Let it work in a process of its own, which no terminal ends: print the session's id once the turn has begun, and
    /// return
    #[arg(long, conflicts_with = "no_session")]
    detach: bool,
    /// We are that process, and complain here
    #[arg(long, hide = true, value_name = "FILE")]
    detached: Option<PathBuf>,
    #[command(flatten)]
    choice: Choice,
}

impl Args {
    /// Those of `godctl agent sessions resume`.
    pub(super) fn resume(provider: String, session: String, rest: super::sessions::ResumeArgs) -> Self {
        let super::sessions::ResumeArgs {
            prompt, file, model, access, timeout, json, wait, on_missing, ..
        } = rest;
        let choice = Choice { session_id: Some(session), wait, on_missing, ..Choice::default() };
        Self {
            provider,
            prompt,
            file,
            model,
            cwd: None,
            access,
            timeout,
            max_turns: None,
            budget_usd: None,
            ephemeral: false,
            worktree: false,
            json,
            detach: false,
            detached: None,
            choice,
        }
    }

    /// The same turn as words behind `agent start`, without its prompt and how it is shown.
    fn words(&self) -> Vec<OsString> {
        let Self {
            provider,
            prompt: _,
            file: _,
            model,
            cwd,
            access,
            timeout,
            max_turns,
            budget_usd,
            ephemeral,
            worktree,
            json: _,
            detach: _,
            detached: _,
            choice,
        } = self;
        let Choice { session_id, goes_on, on_missing, tags, wait, no_wait: _, shared_dir, no_session: _ } =
            choice;
        let mut words: Vec<OsString> = Vec::new();
        let mut with = |name: &str, value: Option<OsString>| {
            if let Some(value) = value {
                let mut word = OsString::from(format!("--{name}="));
                word.push(value);
                words.push(word);
            }
        };
        with("model", model.as_ref().map(OsString::from));
        with("cwd", cwd.as_ref().map(OsString::from));
        with("access", access.to_possible_value().map(|value| value.get_name().into()));
        with("timeout", timeout.map(|timeout| format!("{}ms", timeout.as_millis()).into()));
        with("max-turns", max_turns.map(|turns| turns.to_string().into()));
        with("budget-usd", budget_usd.map(|budget| budget.to_string().into()));
        with("session-id", session_id.as_ref().map(OsString::from));
        with("on-missing", on_missing.to_possible_value().map(|value| value.get_name().into()));
        for tag in tags {
            with("tag", Some(tag.into()));
        }
        let switches = [
            (*ephemeral, "--ephemeral"),
            (*worktree, "--worktree"),
            (*goes_on, "--continue"),
            (*wait, "--wait"),
            (*shared_dir, "--shared-dir"),
        ];
        words.extend(switches.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| OsString::from(name)));
        words.extend(["--".into(), provider.into()]);
        words
    }
}

/// `passed_on` are the global flags as words of a command line.
pub(super) fn run(args: &Args, context: &Context, passed_on: Vec<OsString>) -> anyhow::Result<()> {
    let usage = |failure: Failure| CmdFailure::new(Exit::Usage, failure);
    let roster = Roster::new(&context.config.agents);
    let provider = roster.by_name(&args.provider).map_err(usage)?;
    let abilities = provider.abilities();
    let refuse = |what: &str| {
        Err(CmdFailure::new(Exit::Usage, anyhow!("{} has no {what}; leave it out", args.provider)))
    };
    if args.max_turns.is_some() && !abilities.budget {
        return Ok(refuse("limit of rounds (--max-turns)")?);
    }
    if let Some(budget) = args.budget_usd {
        if !abilities.budget {
            return Ok(refuse("budget (--budget-usd)")?);
        }
        if !(budget.is_finite() && budget > 0.0) {
            return Err(CmdFailure::new(Exit::Usage, anyhow!("--budget-usd: want more than 0")).into());
        }
    }
    if args.worktree && !abilities.tools {
        return Ok(refuse("tools and changes no files (--worktree)")?);
    }
    let prompt = prompt(args)?;
    if args.detach {
        let prompt = prompt.ok_or_else(no_prompt)?;
        if let Place::Program(program) = provider.place()
            && process::find(program, context.environment.variables()).is_none()
        {
            let error = anyhow!(
                "{} is not installed or not on the search path; `godctl agent providers` tells which agents are here",
                args.provider
            );
            return Err(CmdFailure::new(Exit::Unavailable, error).into());
        }
        return detach::start(context, (passed_on, args.words()), &prompt, args.json);
    }
    if args.detached.is_some() {
        detach::leave_terminal();
    }
    let config = &context.config.agents;
    let limits = Limits::new(config);
    let limits = Limits { total: args.timeout.unwrap_or(limits.total), ..limits };
    let (variables, groups) = (context.environment.variables(), Groups::default());
    let surroundings = Surroundings { groups: &groups, variables, limits, mark: None };
    let last = groups.clone();
    context.shutdown.before_exit(move || last.kill_all());
    let customs = Customs::new(config, &context.paths.data_dir);
    let mut show: Box<dyn Show + Send> = match (&args.detached, args.json) {
        (Some(_), _) => Box::new(detach::Unseen),
        (None, true) => Box::new(Events(None)),
        (None, false) => Box::new(Screen::new(context.terminal)),
    };
    let recorder: &dyn Recorder = if args.detached.is_some() { &detach::Announcer } else { &Plain };
    let turn = Turn {
        model: args.model.clone(),
        access: args.access,
        max_turns: args.max_turns,
        budget_usd: args.budget_usd,
        ephemeral: args.ephemeral,
        ..Turn::new(String::new(), PathBuf::new())
    };

    context.block_on(Threads::Current, async {
        if args.choice.no_session {
            let directory = canonical(args.cwd.as_deref().unwrap_or(Path::new(".")))?;
            let prompt = prompt.ok_or_else(no_prompt)?;
            let turn = Turn { prompt, directory, ..turn };
            return alone(context, provider, turn, (surroundings, &customs, args.worktree), &mut *show).await;
        }
        with_store(context, async |store| {
            let session =
                conversation::choose(&store, provider, &args.choice, (args.cwd.as_deref(), args.worktree))
                    .await?;
            let turn = Turn { directory: PathBuf::from(&session.directory), ..turn };
            let (choice, customs) = (&args.choice, &customs);
            let mut conversation = Conversation {
                context,
                provider,
                store: store.clone(),
                session,
                choice,
                customs,
                surroundings,
                recorder,
            };
            let result = match prompt {
                Some(prompt) => {
                    let stop = context.shutdown.child_token();
                    conversation.turn(Turn { prompt, ..turn }, &mut *show, &stop).await
                }
                None => dialogue::hold(&mut conversation, &turn, &mut *show).await,
            };
            tidy(&context.config, &*store).await;
            result
        })
        .await
    })?;
    if let Some(log) = &args.detached {
        detach::clean_up(log);
    }
    Ok(())
}

/// One turn that nobody remembers.
async fn alone(
    context: &Context,
    provider: &dyn Provider,
    turn: Turn,
    (surroundings, customs, has_worktree): (Surroundings<'_>, &Customs, bool),
    show: &mut (dyn Show + Send),
) -> anyhow::Result<()> {
    let session = Uuid::now_v7().to_string();
    let native = if provider.abilities().chooses_id { NativeId::parse(&session).ok() } else { None };
    let turn = Turn { thread: Thread::New(native), ..turn };
    let correlation_id = Uuid::now_v7();
    show.begin(subject(provider, &turn, &session, correlation_id));
    let started = Instant::now();
    let mut unread = None;
    let stop = context.shutdown.child_token();
    let say = |output: Output| {
        // Nobody reads what it says: it need not go on.
        if let Err(error) = show.output(&output) {
            unread.get_or_insert(error);
            stop.cancel();
        }
    };
    let correlation_ids = [correlation_id];
    let errand = Errand {
        provider,
        customs,
        wishes: &[],
        has_worktree,
        session_id: &session,
        source: "cli",
        correlation_ids: &correlation_ids,
        attempt: 1,
    };
    let done = errand.run(turn, surroundings, &stop, say).await;
    if let Some(error) = unread {
        return Err(error);
    }
    show.end(&done.outcome, done.workspace.as_ref(), started.elapsed())?;
    match done.outcome.verdict {
        Ok(()) => Ok(()),
        Err(failure) => Err(CmdFailure::new(exit(failure.class), failure).into()),
    }
}

/// Where turns are shown.
pub(super) trait Show {
    /// A turn begins.
    fn begin(&mut self, subject: Subject);
    fn output(&mut self, output: &Output) -> anyhow::Result<()>;
    fn end(&mut self, outcome: &Outcome, workspace: Option<&Workspace>, took: Duration)
    -> anyhow::Result<()>;
}

impl Show for Screen {
    fn begin(&mut self, _: Subject) {
        self.begin();
    }

    fn output(&mut self, output: &Output) -> anyhow::Result<()> {
        Ok(self.show(output)?)
    }

    fn end(
        &mut self,
        outcome: &Outcome,
        workspace: Option<&Workspace>,
        took: Duration,
    ) -> anyhow::Result<()> {
        if let Some(workspace) = workspace {
            self.worked(workspace)?;
        }
        Ok(Self::end(self, outcome, took.as_secs_f64())?)
    }
}

/// Lines of JSON.
struct Events(Option<Narrator>);

impl Show for Events {
    fn begin(&mut self, subject: Subject) {
        self.0 = Some(Narrator::new(subject, Source::here("godctl", "agent")));
    }

    fn output(&mut self, output: &Output) -> anyhow::Result<()> {
        self.0.as_mut().map_or(Ok(()), |narrator| print(&narrator.output(output, Stamp::now)))
    }

    fn end(
        &mut self,
        outcome: &Outcome,
        workspace: Option<&Workspace>,
        took: Duration,
    ) -> anyhow::Result<()> {
        let Some(narrator) = &mut self.0 else { return Ok(()) };
        if let Some(workspace) = workspace {
            narrator.worked(workspace);
        }
        print(&narrator.end(outcome, took, Stamp::now))
    }
}

fn print(events: &[Event]) -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    for event in events {
        stdout.write_all(&event.to_json())?;
        stdout.write_all(b"\n")?;
    }
    stdout.flush()?;
    Ok(())
}

pub(super) fn subject(provider: &dyn Provider, turn: &Turn, session: &str, correlation_id: Uuid) -> Subject {
    Subject {
        provider: provider.name().to_owned(),
        kind: provider.kind(),
        session_id: session.to_owned(),
        directory: turn.directory.display().to_string(),
        prompt: turn.prompt.clone(),
        correlation_ids: vec![correlation_id],
        attempt: 1,
    }
}

fn no_prompt() -> CmdFailure {
    CmdFailure::new(Exit::Usage, anyhow!("there is no prompt; write -p \"…\" or --file FILE"))
}

/// What is to be done, from wherever it was given; `None` if somebody is there to be asked.
fn prompt(args: &Args) -> anyhow::Result<Option<String>> {
    let read = |reader: &mut dyn std::io::Read, name: &str| -> anyhow::Result<String> {
        let mut bytes = Vec::new();
        reader.take(MAX_PROMPT + 1).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
        if bytes.len() as u64 > MAX_PROMPT {
            return Err(anyhow!("{name} is longer than {MAX_PROMPT} bytes"));
        }
        String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))
    };
    let stdin = || read(&mut std::io::stdin().lock(), "standard input");
    let prompt = match (&args.prompt, &args.file) {
        (Some(dash), _) if dash == "-" => stdin()?,
        (Some(prompt), _) => prompt.clone(),
        (None, Some(path)) => {
            let mut file = std::fs::File::open(path).with_context(|| format!("--file {}", path.display()))?;
            read(&mut file, &path.display().to_string())?
        }
        (None, None) if std::io::stdin().is_terminal() => return Ok(None),
        (None, None) => stdin()?,
    };
    if prompt.trim().is_empty() {
        return Err(CmdFailure::new(Exit::Usage, anyhow!("the prompt is empty")).into());
    }
    Ok(Some(prompt))
}

pub(super) const fn exit(class: Class) -> Exit {
    match class {
        Class::BadRequest => Exit::Usage,
        Class::MissingExecutable => Exit::Unavailable,
        Class::RateLimited | Class::Overloaded | Class::Busy => Exit::TryLater,
        Class::Cancelled => Exit::Interrupted,
        _ => Exit::Failed,
    }
}
