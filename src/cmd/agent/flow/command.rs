//! Flags and files of `godctl agent run`, and what they set going.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, anyhow};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        super::{
            Context, Exit, Failure, Stdout, Threads,
            bus::{Side, duration, table},
        },
        conversation::canonical,
        start::exit,
        store::{orchestrator, tidy, with_exit_code, with_store},
    },
    herald,
    show::Show,
};
use crate::{
    agents::{
        Class, Groups, Limits,
        errand::Customs,
        flow::{
            Book, Crew, Ending, FlowError, MAX_FILE, News, Plan, Report, RunError, Teller, Verdict, Wish,
        },
        listener::Backoff,
        providers::Roster,
        store::SharedStore,
    },
    bus::{
        Event,
        event::{Source, Stamp},
    },
};

/// Longest file that becomes a prompt or an input, and one byte more shows that it is too long.
const MAX_INPUT: u64 = 4 << 20;

/// Flags of `godctl agent run`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A flow is a TOML file: steps with a provider and a prompt each, which steps they need, and how
their answers are put together. A step runs as soon as all that it needs is over, in a session of
its own. Prompts hold {{ inputs.NAME }}, {{ steps.NAME.text }}, {{ steps.NAME.ok }} and {{
steps.NAME.error }}. An example is in assets/flows/review.toml of the sources.

The result goes to standard output, what happens to standard error, and all of it onto the bus:
agent.flow.started, agent.flow.step.completed, agent.aggregate.completed, and the events of each
turn; the run is the first correlation id of all of them.

A run that was broken off goes on where it was when the same flow is run with the same inputs in
the same directory: what is done is not done again, and an agent in the middle of its turn goes
on with its conversation. --new begins anew; if the flow has changed since, it must be said. A
run that failed goes on with --resume, which tries again what failed. Ctrl-C stops a run so that
it can be gone on with.

Agents that may write share no directory: such steps run one after another, unless they have
worktree = true, access = \"plan\" or shared_dir = true.

Examples:
  godctl agent run review.toml
  godctl agent run review.toml --dry-run
  git diff | godctl agent run review.toml --input change=@- > review.md
  godctl agent run review.toml --jobs 2 --resume
  godctl agent run review.toml --json | jq -r .event_type

Exit codes: 0 all that had to be answered was, 1 a step failed, 2 wrong usage or a flow that
makes no sense, 69 an agent is not installed, 75 try again later (a limit, an overload, or
somebody works on the run), 130 stopped.")]
pub(in super::super) struct Args {
    /// The file of the flow
    #[arg(value_name = "FLOW")]
    file: PathBuf,
    /// An input of the flow; NAME=@FILE reads it from a file, NAME=@- from standard input (may be repeated)
    #[arg(long = "input", value_name = "NAME=VALUE", value_parser = pair)]
    inputs: Vec<(String, String)>,
    /// Steps that are worked on at once
    #[arg(long, short, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    jobs: u16,
    /// How long a step may take that does not say it itself (agents.timeout_s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    timeout: Option<Duration>,
    /// The directory that the agents work in; without it this one
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Go on with a run that was broken off or failed: the one whose id begins so, or the latest
    #[arg(long, value_name = "RUN")]
    #[allow(clippy::option_option, reason = "a flag with a value that may be left out")]
    resume: Option<Option<String>>,
    /// Begin anew, also where a run was broken off
    #[arg(long, conflicts_with = "resume")]
    new: bool,
    /// Show which steps would run, and when
    #[arg(long)]
    dry_run: bool,
    /// Tell the bus nothing
    #[arg(long)]
    no_publish: bool,
    /// Print events, one JSON object a line, in place of the result
    #[arg(long)]
    json: bool,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE, or NAME=@FILE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn usage(error: anyhow::Error) -> anyhow::Error {
    Failure::new(Exit::Usage, error).into()
}

pub(in super::super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let config = &context.config.agents;
    let roster = Roster::new(config);
    let file = args.file.canonicalize().with_context(|| format!("cannot read {}", args.file.display()))?;
    let plan = read_plan(&args.file, &file, &roster)?;
    let directory = canonical(args.cwd.as_deref().unwrap_or(Path::new(".")))?;
    let (groups, customs) = (Groups::default(), Customs::new(config, &context.paths.data_dir));
    let limits = Limits::new(config);
    let limits = Limits { total: args.timeout.unwrap_or(limits.total), ..limits };
    let flow = Flow { args, context, plan: &plan, file: &file, directory: &directory };
    let inputs = inputs(&args.inputs)?;
    Crew::check(&roster, &plan, &directory)
        .map_err(|error| usage(anyhow!("{}: {error}", args.file.display())))?;
    if args.dry_run {
        return Ok(Stdout::lock().write_all(flow.dry_run().as_bytes())?);
    }
    let last = groups.clone();
    context.shutdown.before_exit(move || last.kill_all());
    context.block_on(Threads::Current, async {
        with_store(context, async |store: SharedStore| {
            let works = orchestrator(&context.config, store.clone());
            let crew = Crew {
                orchestrator: &works,
                roster: &roster,
                customs: &customs,
                variables: context.environment.variables(),
                groups: &groups,
                limits,
                jobs: usize::from(args.jobs),
                backoff: Backoff::default(),
                chance: fastrand::f64,
            };
            let result = Box::pin(flow.work(&crew, &inputs)).await;
            tidy(&context.config, &*store).await;
            result
        })
        .await
    })
}

/// The flow in a file; `shown` is how its user wrote the path.
fn read_plan(shown: &Path, file: &Path, roster: &Roster) -> anyhow::Result<Plan> {
    let text =
        read_text(file, MAX_FILE as u64).with_context(|| format!("cannot read {}", shown.display()))?;
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let providers: Vec<String> = roster.all().map(|provider| provider.name().to_owned()).collect();
    let beside = file.parent().unwrap_or(Path::new("/"));
    Plan::read(&text, &name, &providers, |path| read_text(&beside.join(path), MAX_INPUT))
        .map_err(|error| usage(anyhow!("{}: {error}", shown.display())))
}

fn read_text(path: &Path, limit: u64) -> io::Result<String> {
    text_of(&mut File::open(path)?, limit)
}

fn text_of(reader: &mut dyn io::Read, limit: u64) -> io::Result<String> {
    let mut bytes = Vec::new();
    reader.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("longer than {limit} bytes")));
    }
    String::from_utf8(bytes).map_err(|_| io::Error::other("not UTF-8"))
}

/// The inputs that were given, read from wherever they are.
fn inputs(given: &[(String, String)]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut inputs = BTreeMap::new();
    for (name, value) in given {
        let value = match value.strip_prefix('@') {
            None => value.clone(),
            Some("-") => text_of(&mut io::stdin().lock(), MAX_INPUT)
                .with_context(|| format!("--input {name}: standard input"))?,
            Some(path) => {
                read_text(Path::new(path), MAX_INPUT).with_context(|| format!("--input {name}: {path}"))?
            }
        };
        if inputs.insert(name.clone(), value).is_some() {
            return Err(usage(anyhow!("--input {name} is given twice; leave one out")));
        }
    }
    Ok(inputs)
}

struct Flow<'a> {
    args: &'a Args,
    context: &'a Context,
    plan: &'a Plan,
    file: &'a Path,
    directory: &'a Path,
}

/// Where news go.
struct Desk<'a> {
    show: Show<'a>,
    teller: Teller<'a>,
    herald: Option<herald::Herald>,
    unread: Option<anyhow::Error>,
}

impl Desk<'_> {
    fn publish(&mut self, events: Vec<Event>) -> anyhow::Result<()> {
        self.show.events(&events)?;
        if let Some(herald) = &mut self.herald {
            events.into_iter().for_each(|event| herald.tell(event));
        }
        Ok(())
    }

    fn hear(&mut self, news: &News<'_>) -> anyhow::Result<()> {
        let events = self.teller.hear(news, Stamp::now);
        self.publish(events)?;
        self.show.hear(news)
    }
}

impl Flow<'_> {
    async fn work(&self, crew: &Crew<'_>, inputs: &BTreeMap<String, String>) -> anyhow::Result<()> {
        let Self { args, context, plan, .. } = *self;
        let stop = context.shutdown.child_token();
        let book = Book { orchestrator: crew.orchestrator, plan, file: self.file, directory: self.directory };
        let wish = match &args.resume {
            Some(id) => Wish::Resume(id.clone()),
            None if args.new => Wish::New,
            None => Wish::Auto,
        };
        let run = book.open(wish, inputs, &stop).await.map_err(|error| self.refused(error))?;
        let directory = self.directory.display().to_string();
        let max_event_bytes = context.config.bus.max_event_bytes as usize;
        let source = Source::here("godctl", "agent");
        let (herald, tap) = herald::Herald::new();
        let desk = Mutex::new(Desk {
            show: Show::new(plan, context.terminal, args.json),
            teller: Teller::new(plan, (run.id, directory), source, max_event_bytes),
            herald: (!args.no_publish).then_some(herald),
            unread: None,
        });
        let closing = CancellationToken::new();
        let started = Instant::now();
        let working = async {
            let settled = book.settled(&run).await.map_err(|error| with_exit_code(error.into()))?;
            let count = settled.iter().flatten().count();
            {
                let mut desk = desk.lock();
                if let Some(began_at) = run.began_at {
                    desk.show.goes_on((run.id, began_at), (count, plan.steps.len()))?;
                }
                let event = desk.teller.begin(run.began_at.is_some(), count, Stamp::now);
                desk.publish(vec![event])?;
            }
            let tell = |news: News<'_>| {
                let mut desk = desk.lock();
                // Nobody reads what is said: the run need not go on.
                if let Err(error) = desk.hear(&news) {
                    desk.unread.get_or_insert(error);
                    stop.cancel();
                }
            };
            let report = Box::pin(crew.work(&book, &run, &stop, &tell)).await;
            let mut desk = desk.lock();
            desk.show.close();
            if let Some(error) = desk.unread.take() {
                return Err(error);
            }
            let report = report.map_err(|error| self.broken(error, run.id))?;
            if let Some(event) = desk.teller.end(&report, started.elapsed(), Stamp::now()) {
                desk.publish(vec![event])?;
            }
            desk.show.end(&report, started.elapsed())?;
            self.verdict(report, run.id)
        };
        let working = async {
            let result = Box::pin(working).await;
            closing.cancel();
            result
        };
        if args.no_publish {
            return working.await;
        }
        let (result, ()) = tokio::join!(working, herald::publish(context, tap, &closing));
        if let Some(herald) = &desk.lock().herald {
            herald.say_what_was_lost();
        }
        result
    }

    /// What goes on with a run, as it is typed.
    fn again(&self, run: Uuid) -> String {
        let mut words = vec!["godctl".to_owned(), "agent".to_owned(), "run".to_owned()];
        words.push(self.args.file.display().to_string());
        if let Some(cwd) = &self.args.cwd {
            words.extend(["--cwd".to_owned(), cwd.display().to_string()]);
        }
        words.extend(["--resume".to_owned(), run.to_string()]);
        let typed = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_else(|_| words.join(" "));
        format!("go on with: {typed}")
    }

    fn verdict(&self, report: Report, run: Uuid) -> anyhow::Result<()> {
        let result = match report.verdict {
            Verdict::Done => Ok(()),
            Verdict::Failed { step, failure } => {
                let error =
                    anyhow!("step {} failed: {failure}; {}", self.plan.name_of(step), self.again(run));
                Err(Failure::new(exit(failure.class), error).into())
            }
            Verdict::Interrupted => {
                let error = anyhow!("stopped; {}", self.again(run));
                Err(Failure::new(exit(Class::Cancelled), error).into())
            }
        };
        report.stored.map_err(|error| {
            let error = anyhow::Error::new(error);
            with_exit_code(error.context("the run is over, but that could not be stored"))
        })?;
        result
    }

    fn broken(&self, error: FlowError, run: Uuid) -> anyhow::Error {
        let error = match error {
            FlowError::Order(error) => anyhow::Error::new(error),
            other => other.into(),
        };
        with_exit_code(error.context(format!("the run was broken off; {}", self.again(run))))
    }

    fn refused(&self, error: RunError) -> anyhow::Error {
        let exit = match &error {
            RunError::Inputs(_) | RunError::Changed { .. } | RunError::OtherInputs(_) => Exit::Usage,
            RunError::Ambiguous(_) => Exit::Usage,
            RunError::NoRun(_) | RunError::Finished(_) => Exit::Failed,
            RunError::Busy { .. } => Exit::TryLater,
            RunError::Order(_) => {
                return match error {
                    RunError::Order(error) => with_exit_code(error.into()),
                    other => other.into(),
                };
            }
        };
        Failure::new(exit, anyhow!("{}: {error}", self.args.file.display())).into()
    }

    /// Which steps would run, in waves.
    fn dry_run(&self) -> String {
        let plan = self.plan;
        let mut rows = Vec::new();
        for (wave, steps) in plan.waves().iter().enumerate() {
            for step in steps.iter().filter_map(|at| plan.step(*at)) {
                let needs: Vec<&str> = step.needs.iter().map(|need| plan.name_of(*need)).collect();
                let agent = match &step.model {
                    Some(model) => format!("{} ({model})", step.provider),
                    None => step.provider.clone(),
                };
                rows.push(vec![
                    (wave + 1).to_string(),
                    step.name.clone(),
                    agent,
                    step.access.name().to_owned(),
                    needs.join(", "),
                ]);
            }
        }
        let columns = [
            ("WAVE", Side::Right),
            ("STEP", Side::Left),
            ("AGENT", Side::Left),
            ("ACCESS", Side::Left),
            ("NEEDS", Side::Left),
        ];
        let parts: Vec<&str> = plan.parts.iter().map(|at| plan.name_of(*at)).collect();
        let ending = match plan.ending {
            Ending::Format(_) => "no agent",
            Ending::Step(at) => plan.step(at).map_or("", |step| step.provider.as_str()),
        };
        let about = if plan.description.is_empty() {
            String::new()
        } else {
            format!(": {}", plan.description.trim())
        };
        format!(
            "{}{about}\n{}put together from {} by {ending}\n",
            plan.name,
            table(&columns, &rows),
            parts.join(", ")
        )
    }
}
