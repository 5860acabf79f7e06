//! Which session a prompt belongs to, and one turn of it after another.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, anyhow};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{Context, Exit, Failure},
    start::{Show, exit, subject},
    store::{directory_name, is_no_session, orchestrator, resolve, with_exit_code},
};
use crate::{
    agents::{
        Provider, Surroundings, Turn,
        errand::Customs,
        orchestrator::{Order, Recorder, Scene, WhenBusy, WhenLost},
        session::{Session, SessionId, Source, WORKTREE, parse_tag},
        store::{Change, Filter, SharedStore},
    },
    bus::{Clock as _, SystemClock},
};

/// Flags that choose a session.
#[derive(Debug, Default, Clone, clap::Args)]
#[command(next_help_heading = "Session")]
pub(super) struct Choice {
    /// Go on with this session, or begin it with this id; the beginning of an id is enough
    #[arg(long, value_name = "ID", value_parser = session_id, allow_hyphen_values = true)]
    pub(super) session_id: Option<String>,
    /// Go on with the latest session of this agent in this directory
    #[arg(long = "continue", conflicts_with = "session_id")]
    pub(super) goes_on: bool,
    /// What to do when the agent has lost the conversation: fail, or begin a new one
    #[arg(long, value_name = "WHAT", default_value = "fail", hide_possible_values = true)]
    pub(super) on_missing: WhenLost,
    /// A word to find the session by (may be repeated)
    #[arg(long = "tag", value_name = "TAG", value_parser = parse_tag)]
    pub(super) tags: Vec<String>,
    /// Wait while somebody else works on the session or in the directory, rather than fail
    #[arg(long)]
    pub(super) wait: bool,
    /// Fail if somebody else works on the session or in the directory; this is the default
    #[arg(long, conflicts_with = "wait")]
    pub(super) no_wait: bool,
    /// Others may write in the directory at the same time
    #[arg(long)]
    pub(super) shared_dir: bool,
    /// Keep no session: nothing is stored, and nothing can be gone on with
    #[arg(long, conflicts_with_all = ["session_id", "goes_on", "tags"])]
    pub(super) no_session: bool,
}

fn session_id(text: &str) -> Result<String, String> {
    SessionId::parse(text).map(|id| id.to_string()).map_err(|failure| failure.message)
}

/// The session that was chosen, made if need be.
pub(super) async fn choose(
    store: &SharedStore,
    provider: &dyn Provider,
    choice: &Choice,
    (cwd, in_worktree): (Option<&Path>, bool),
) -> anyhow::Result<Session> {
    let given = cwd.map(canonical).transpose()?;
    let here = || given.clone().map_or_else(|| canonical(Path::new(".")), Ok);
    let found = match &choice.session_id {
        Some(text) => match resolve(&**store, text).await {
            Ok(stored) => Some(stored),
            // Nothing begins like that: a new session of this id. What begins like it in more than one way is a mistake.
            Err(error) if is_no_session(&error) => None,
            Err(error) => return Err(error),
        },
        None if choice.goes_on => {
            let filter = Filter {
                provider: Some(provider.name().to_owned()),
                directory: Some(directory_name(&here()?)),
                ..Filter::default()
            };
            let latest = store.list(&filter).await?.into_iter();
            latest.into_iter().find(|stored| stored.session.can_be_continued())
        }
        None => None,
    };
    if let Some(mut stored) = found {
        let session = &mut stored.session;
        let usage = |message: String| Failure::new(Exit::Usage, anyhow!(message));
        if session.provider != provider.name() {
            let message =
                format!("session {} is one of {}, not of {}", session.id, session.provider, provider.name());
            return Err(usage(message).into());
        }
        if let Some(given) = given.filter(|given| directory_name(given) != session.directory) {
            let message = format!(
                "session {} belongs to {}, not to {}; leave --cwd out",
                session.id,
                session.directory,
                given.display()
            );
            return Err(usage(message).into());
        }
        if in_worktree && !session.extra.contains_key(WORKTREE) {
            let message = format!(
                "session {} works in {} itself; leave --worktree out, or start another session",
                session.id, session.directory
            );
            return Err(usage(message).into());
        }
        if !choice.tags.iter().all(|tag| session.tags.contains(tag)) {
            session.tags.extend(choice.tags.iter().cloned());
            let (id, expected) = (Uuid::now_v7(), stored.version);
            let change = Change { id, session, expected, lease: None, turn: None };
            store.update(&change).await?;
        }
        return Ok(stored.session);
    }
    if choice.goes_on {
        tracing::warn!("there is no session to continue; a new one begins");
    }
    let id = match &choice.session_id {
        Some(text) => SessionId::parse(text)?,
        None => SessionId::parse(&Uuid::now_v7().to_string())?,
    };
    let mut session = Session::new(id, provider.name(), &directory_name(&here()?), SystemClock.now());
    session.tags.extend(choice.tags.iter().cloned());
    if in_worktree {
        session.extra.insert(WORKTREE.to_owned(), "own".to_owned());
    }
    store.create(&session).await?;
    Ok(session)
}

pub(super) fn canonical(directory: &Path) -> anyhow::Result<PathBuf> {
    directory.canonicalize().with_context(|| format!("--cwd {}: no such directory", directory.display()))
}

/// One turn of a session after another.
pub(super) struct Conversation<'a> {
    pub(super) context: &'a Context,
    pub(super) provider: &'a dyn Provider,
    pub(super) store: SharedStore,
    pub(super) session: Session,
    pub(super) choice: &'a Choice,
    pub(super) customs: &'a Customs,
    pub(super) surroundings: Surroundings<'a>,
    /// Who stores the ends of turns.
    pub(super) recorder: &'a dyn Recorder,
}

impl Conversation<'_> {
    /// Works on one turn and shows it.
    pub(super) async fn turn(
        &mut self,
        turn: Turn,
        show: &mut (dyn Show + Send),
        stop: &CancellationToken,
    ) -> anyhow::Result<()> {
        let run = Uuid::now_v7();
        let correlation_id = Uuid::now_v7();
        show.begin(subject(self.provider, &turn, self.session.id.as_str(), correlation_id));
        let order = Order {
            session: self.session.id.clone(),
            turn,
            run,
            correlation_ids: vec![correlation_id],
            attempt: 1,
            key: None,
            wishes: Vec::new(),
            when_busy: if self.choice.wait { WhenBusy::Wait } else { WhenBusy::Fail },
            when_lost: self.choice.on_missing,
            shares_directory: self.choice.shared_dir,
        };
        let scene = Scene {
            provider: self.provider,
            customs: self.customs,
            source: Source::Cli,
            surroundings: self.surroundings,
            recorder: self.recorder,
        };
        let started = Instant::now();
        let mut unread = None;
        let halt = stop.child_token();
        let say = |output| {
            // Nobody reads what it says: it need not go on.
            if let Err(error) = show.output(&output) {
                unread.get_or_insert(error);
                halt.cancel();
            }
        };
        let works = orchestrator(&self.context.config, self.store.clone());
        let done =
            works.work(scene, &order, &halt, say).await.map_err(|error| with_exit_code(error.into()))?;
        self.session = done.session;
        if let Some(error) = unread {
            return Err(error);
        }
        show.end(&done.outcome, done.workspace.as_ref(), started.elapsed())?;
        done.stored.map_err(|error| {
            with_exit_code(anyhow::Error::new(error).context("the turn is over, but it could not be stored"))
        })?;
        match done.outcome.verdict {
            Ok(()) => Ok(()),
            Err(failure) => Err(Failure::new(exit(failure.class), failure).into()),
        }
    }
}
