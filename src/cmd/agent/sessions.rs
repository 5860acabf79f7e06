//! `godctl agent sessions`: looks at sessions, finds, resumes, exports and deletes them.

use std::{collections::BTreeSet, io::Write as _, path::PathBuf, time::Duration};

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use super::{
    super::{
        Context, Exit, Failure, Stdout, Threads,
        bus::{Moment, Side, confirm, duration, moment, table},
    },
    conversation::canonical,
    cost::dollars,
    screen::visible,
    start,
    store::{directory_name, resolve, with_store},
};
use crate::{
    agents::{
        Access, flow,
        lines::shortened,
        orchestrator::WhenLost,
        session::{Session, State, TurnRecord},
        store::{Filter, Remove, SessionStore, Stored, prune, search},
    },
    bus::{Clock as _, SystemClock},
    shutdown::Shutdown,
};

/// Flags of `godctl agent sessions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl agent sessions list --provider claude --cwd .
  godctl agent sessions search \"the parser\"
  godctl agent sessions resume 0199f0a2 -p \"and now the tests\"
  godctl agent sessions export 0199f0a2 > session.jsonl

Where an ID is wanted, its beginning is enough if no other session begins so.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List sessions, latest first
    #[command(after_help = "\
Examples:
  godctl agent sessions list --state interrupted
  godctl agent sessions list --tag release --since 7d --json | jq -r .id")]
    List {
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: usize,
        /// Print each as one JSON line
        #[arg(long)]
        json: bool,
    },
    /// Show a session and its turns
    #[command(
        after_help = "Examples:\n  godctl agent sessions show 0199f0a2\n  godctl agent sessions show 0199f0a2 --json | jq .turns"
    )]
    Show {
        /// The session
        id: String,
        /// So many of its latest turns
        #[arg(long, value_name = "N", default_value_t = 10)]
        turns: usize,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Find sessions by what was asked, answered or written
    #[command(after_help = "Examples:\n  godctl agent sessions search \"race condition\" --since 30d")]
    Search {
        /// A text, in any case of letters
        text: String,
        #[command(flatten)]
        which: Which,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// Print each as one JSON line
        #[arg(long)]
        json: bool,
    },
    /// Give a session its next prompt
    #[command(after_help = "Examples:\n  godctl agent sessions resume 0199f0a2 -p \"and now the tests\"")]
    Resume(ResumeArgs),
    /// Write sessions with all their turns as JSON lines
    #[command(after_help = "Examples:\n  godctl agent sessions export --tag release > release.jsonl")]
    Export {
        /// These; without any, all that fit
        ids: Vec<String>,
        #[command(flatten)]
        which: Which,
    },
    /// Delete sessions, and all that is known of them
    #[command(after_help = "Examples:\n  godctl agent sessions rm 0199f0a2 --yes")]
    Rm {
        /// The sessions
        #[arg(required = true)]
        ids: Vec<String>,
        /// Also those that are worked on
        #[arg(long)]
        force: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
    /// Delete sessions that nobody has touched for long; what they cost is kept
    #[command(after_help = "Examples:\n  godctl agent sessions prune --older-than 30d --dry-run")]
    Prune {
        /// For how long (store.keep_days)
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        older_than: Option<Duration>,
        /// Only tell which
        #[arg(long)]
        dry_run: bool,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Flags of `godctl agent sessions resume`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ResumeArgs {
    /// The session
    pub(super) id: String,
    /// What is to be done; - reads standard input
    #[arg(short, long, value_name = "TEXT", conflicts_with = "file")]
    pub(super) prompt: Option<String>,
    /// Read the prompt from this file
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Which model; without it the agent chooses
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// What it may do without asking, as for `agent start`
    #[arg(long, value_name = "LEVEL", default_value = "default", hide_possible_values = true)]
    pub(super) access: Access,
    /// How long it may take (agents.timeout_s)
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(super) timeout: Option<Duration>,
    /// What to do when the agent has lost the conversation: fail, or begin a new one
    #[arg(long, value_name = "WHAT", default_value = "fail", hide_possible_values = true)]
    pub(super) on_missing: WhenLost,
    /// Wait while somebody else works on the session or in the directory, rather than fail
    #[arg(long)]
    pub(super) wait: bool,
    /// Print events, one JSON object a line, in place of the answer
    #[arg(long)]
    pub(super) json: bool,
}

/// Which sessions.
#[derive(Debug, clap::Args)]
struct Which {
    /// Of this agent
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// In this state: idle, running, interrupted, failed or ended
    #[arg(long, value_name = "STATE", hide_possible_values = true)]
    state: Option<State>,
    /// In this directory
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// With this tag (may be repeated)
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// Used at this time or later, such as 7d (ago) or 2026-01-31
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
}

impl Which {
    fn filter(&self) -> anyhow::Result<Filter> {
        // A directory that is gone may still have sessions.
        let directory = self.cwd.as_ref().map(|cwd| canonical(cwd).unwrap_or_else(|_| cwd.clone()));
        Ok(Filter {
            provider: self.provider.clone(),
            state: self.state,
            directory: directory.map(|directory| directory_name(&directory)),
            tags: self.tags.clone(),
            since: self.since.and_then(|since| since.resolve(SystemClock.now())),
            ..Filter::default()
        })
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    match &args.action {
        Action::Resume(args) => {
            // A life of its own: that of the command begins with the turn.
            let look = Context {
                config: context.config.clone(),
                paths: context.paths.clone(),
                environment: context.environment.clone(),
                shutdown: Shutdown::new(),
                terminal: context.terminal,
            };
            let stored = in_store(&look, async |store| resolve(store, &args.id).await)?;
            if let Some(file) = stored.session.extra.get(flow::FILE) {
                let id = &stored.session.id;
                let error = anyhow::anyhow!(
                    "{id} is a run of a flow; go on with: godctl agent run {file} --cwd {} --resume {id}",
                    stored.session.directory
                );
                return Err(Failure::new(Exit::Usage, error).into());
            }
            let (provider, id) = (stored.session.provider, stored.session.id.to_string());
            return start::run(&start::Args::resume(provider, id, args.clone()), context, Vec::new());
        }
        Action::Rm { ids, yes, .. } => confirm(*yes, &format!("delete {} sessions", ids.len()))?,
        Action::Prune { yes, dry_run: false, .. } => confirm(*yes, "delete old sessions")?,
        _ => {}
    }
    in_store(context, async |store| match &args.action {
        Action::List { which, limit, json } => {
            let filter = Filter { limit: Some(*limit), ..which.filter()? };
            list(&store.list(&filter).await?, *json)
        }
        Action::Show { id, turns, json } => show(store, id, *turns, *json).await,
        Action::Search { text, which, limit, json } => {
            let found = search::search(store, text, &which.filter()?, *limit).await?;
            let mut stdout = Stdout::lock();
            for one in &found {
                let session = &one.stored.session;
                if *json {
                    let line = json!({ "session": session, "turn": one.turn, "excerpt": one.excerpt });
                    writeln!(stdout, "{line}")?;
                } else {
                    let turn = one.turn.map_or("files".to_owned(), |number| format!("turn {number}"));
                    writeln!(
                        stdout,
                        "{}  {}  {turn}: {}",
                        session.id,
                        session.provider,
                        visible(&one.excerpt)
                    )?;
                }
            }
            match found.is_empty() {
                true => Err(Failure::reported(Exit::Failed).into()),
                false => Ok(()),
            }
        }
        Action::Export { ids, which } => export(store, ids, which).await,
        Action::Rm { ids, force, .. } => remove(store, ids, *force).await,
        Action::Prune { older_than, dry_run, .. } => {
            let days = u64::from(context.config.store.keep_days);
            let age = match (older_than, days) {
                (Some(age), _) => *age,
                (None, 1..) => Duration::from_secs(days * 24 * 3600),
                (None, 0) => {
                    let error = anyhow::anyhow!("store.keep_days keeps all sessions; say --older-than 30d");
                    return Err(Failure::new(Exit::Usage, error).into());
                }
            };
            let before = SystemClock.now().checked_sub(age).unwrap_or(Timestamp::MIN);
            let gone = prune(store, before, None, *dry_run).await?;
            let mut stdout = Stdout::lock();
            for id in &gone {
                writeln!(stdout, "{id}")?;
            }
            let done = if *dry_run { "would delete" } else { "deleted" };
            writeln!(stdout, "{done} {}", gone.len())?;
            Ok(())
        }
        Action::Resume(_) => Ok(()),
    })
}

fn in_store<T>(
    context: &Context,
    work: impl AsyncFnOnce(&dyn SessionStore) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    context.block_on(Threads::Current, async { with_store(context, async |store| work(&*store).await).await })
}

fn list(found: &[Stored], json: bool) -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    if json {
        for stored in found {
            writeln!(stdout, "{}", object(stored, &[]))?;
        }
        return Ok(());
    }
    let row = |stored: &Stored| {
        let session = &stored.session;
        let asked = session.words.last_prompt.as_deref().unwrap_or_default();
        vec![
            session.id.to_string(),
            session.provider.clone(),
            session.state.name().to_owned(),
            session.prompt_count.to_string(),
            cost(session),
            local(session.updated_at),
            shortened(&visible(asked).replace('\n', " "), 50),
        ]
    };
    let columns = [
        ("ID", Side::Left),
        ("AGENT", Side::Left),
        ("STATE", Side::Left),
        ("PROMPTS", Side::Right),
        ("COST", Side::Right),
        ("USED", Side::Left),
        ("LAST PROMPT", Side::Left),
    ];
    let rows: Vec<_> = found.iter().map(row).collect();
    stdout.write_all(table(&columns, &rows).as_bytes())?;
    Ok(())
}

/// What a session has cost, as far as that is known.
fn cost(session: &Session) -> String {
    let more = if session.totals.turns_without_cost > 0 { "+?" } else { "" };
    match session.totals.known_cost_micro_usd() {
        Some(micro) => format!("{}{more}", dollars(micro)),
        None if session.totals.turns == 0 => String::new(),
        None => "?".to_owned(),
    }
}

fn local(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M").to_string()
}

/// A session as JSON, with what was said.
fn object(stored: &Stored, turns: &[TurnRecord]) -> Value {
    let mut value = json!(stored.session);
    value["version"] = json!(stored.version);
    value["words"] = json!(stored.session.words);
    if !turns.is_empty() {
        let turns = turns.iter().map(|turn| {
            let mut value = json!(turn);
            value["words"] = json!(turn.words);
            value
        });
        value["turns"] = turns.collect();
    }
    value
}

async fn show(store: &dyn SessionStore, id: &str, limit: usize, json: bool) -> anyhow::Result<()> {
    let stored = resolve(store, id).await?;
    let session = &stored.session;
    let first = session.prompt_count.saturating_sub(limit as u64) + 1;
    let turns = store.turns(&session.id, first, limit).await?;
    let mut stdout = Stdout::lock();
    if json {
        writeln!(stdout, "{}", object(&stored, &turns))?;
        return Ok(());
    }
    let native = session.native_id.as_ref().map_or("not known yet".to_owned(), ToString::to_string);
    let tags = session.tags.iter().cloned().collect::<Vec<_>>().join(", ");
    let totals = session.totals;
    let tokens = format!("{} in, {} out", totals.input_tokens, totals.output_tokens);
    let rows = [
        ("session", session.id.to_string()),
        ("agent", session.provider.clone()),
        ("its id", native),
        ("model", session.model.clone().unwrap_or_default()),
        ("directory", session.directory.clone()),
        (
            "state",
            format!(
                "{}{}",
                session.state.name(),
                session.failure_class.as_ref().map_or(String::new(), |class| format!(" ({class})"))
            ),
        ),
        ("tags", tags),
        ("made", local(session.created_at)),
        ("used", local(session.updated_at)),
        ("prompts", session.prompt_count.to_string()),
        ("tokens", if totals.turns == 0 { String::new() } else { tokens }),
        ("cost", cost(session)),
        ("files", session.words.files.join(", ")),
    ];
    for (name, value) in rows.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(stdout, "{name:<10} {}", visible(value))?;
    }
    for turn in &turns {
        writeln!(stdout, "\n── {} · {} ──", turn.number, local(turn.began_at))?;
        writeln!(stdout, "> {}", visible(&turn.words.prompt).replace('\n', "\n> "))?;
        if !turn.words.response.is_empty() {
            writeln!(stdout, "\n{}", visible(turn.words.response.trim_end()))?;
        }
        if let Some(failure) = &turn.words.failure {
            writeln!(stdout, "\nfailed: {}", visible(failure))?;
        }
    }
    Ok(())
}

async fn export(store: &dyn SessionStore, ids: &[String], which: &Which) -> anyhow::Result<()> {
    let mut chosen = Vec::new();
    if ids.is_empty() {
        chosen = store.list(&which.filter()?).await?;
    }
    for id in ids {
        chosen.push(resolve(store, id).await?);
    }
    let mut stdout = Stdout::lock();
    for stored in chosen {
        let turns = store.turns(&stored.session.id, 0, usize::MAX).await?;
        writeln!(stdout, "{}", object(&stored, &turns))?;
    }
    Ok(())
}

async fn remove(store: &dyn SessionStore, ids: &[String], force: bool) -> anyhow::Result<()> {
    // All of them are looked up first, so that a mistyped one deletes nothing.
    let mut chosen = BTreeSet::new();
    for id in ids {
        let session = resolve(store, id).await?.session;
        if session.state == State::Running && !force {
            let error = anyhow::anyhow!(
                "session {} is being worked on; add --force to delete it all the same",
                session.id
            );
            return Err(Failure::new(Exit::TryLater, error).into());
        }
        chosen.insert(session.id);
    }
    let mut stdout = Stdout::lock();
    for id in &chosen {
        store.remove(id, Remove::Everything).await?;
        writeln!(stdout, "deleted {id}")?;
    }
    Ok(())
}
