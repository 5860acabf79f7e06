//! `godctl agent cancel`: stops the turn that runs in a session, whoever runs it; or gives up a prompt that only waits.

use std::{io::Write as _, sync::Arc, time::Duration};

use anyhow::{anyhow, bail};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    super::{Context, Exit, Failure, Stdout, Threads},
    store::{is_no_session, orchestrator, resolve, with_exit_code},
};
use crate::{
    agents::{
        listener::withdraw,
        orchestrator::{Hold, Orchestrator, OrderError},
        session::{Session, SessionId},
        store::{
            SharedStore, StoreError,
            journal::{Journal, Ticket},
            open,
        },
    },
    bus::{Clock as _, SystemClock, event::Source},
};

/// Flags of `godctl agent cancel`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
The agent is asked to stop, then told to, then killed (agents.grace_s); its turn is stored as
cancelled, and its session can be gone on with. It does not matter who runs the turn: another
terminal, a detached process, a listener, or, with the sessions in Redis, another machine. A
listener does not try a prompt again that was cancelled: it gives it up, and it can be put back
with `godctl agent dlq replay`.

Of a session in which no turn runs the prompts that wait for it on this machine are given up.

Examples:
  godctl agent cancel 0199f0a2 --wait
  godctl agent cancel 0199f0a2 --all        and the prompts that wait for the session, too
  godctl agent cancel key:nightly-report    a prompt, by the key that `agent status` shows

Exit codes: 0 cancelled, or asked to stop; 1 there is nothing to cancel.")]
pub(super) struct Args {
    /// The session, or a beginning of its id; or the key of a prompt
    #[arg(value_name = "ID")]
    id: String,
    /// Wait until the turn has ended
    #[arg(long)]
    wait: bool,
    /// Also the prompts that wait for the session
    #[arg(long)]
    all: bool,
    /// The queue that prompts which are given up came from (listen.queue)
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// Print each thing that was cancelled as a JSON line
    #[arg(long)]
    json: bool,
}

/// How often it is looked whether the turn has ended.
const LOOK: Duration = Duration::from_millis(100);

/// What it works with.
struct Desk<'a> {
    works: Orchestrator,
    store: SharedStore,
    journal: Journal,
    args: &'a Args,
    queue: &'a str,
}

/// What was found under an id or a key.
struct Found {
    session: Option<Session>,
    /// The run of the turn that is to be stopped.
    run: Option<Uuid>,
    /// The keys of prompts that wait.
    waiting: Vec<String>,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    context.block_on(Threads::Current, async {
        let clock = Arc::new(SystemClock);
        let (store, journal) =
            open::open_with_journal(&context.config.store, &context.paths.data_dir, clock)
                .await
                .map_err(|error| with_exit_code(error.into()))?;
        let desk = Desk {
            works: orchestrator(&context.config, store.clone()),
            store: store.clone(),
            journal: journal.clone(),
            args,
            queue: args.queue.as_deref().unwrap_or(&context.config.listen.queue),
        };
        let stop = context.shutdown.child_token();
        let result = tokio::select! {
            biased;
            () = stop.cancelled() => {
                Err(Failure::new(Exit::Interrupted, anyhow!("interrupted; what was asked for stays asked for")).into())
            }
            result = desk.cancel() => result,
        };
        journal.close().await;
        store.close().await;
        result.map_err(with_exit_code)
    })
}

impl Desk<'_> {
    async fn cancel(&self) -> anyhow::Result<()> {
        let Found { session, run, waiting } = self.find().await?;
        let mut has_done = false;
        if let (Some(session), Some(run)) = (&session, run) {
            has_done = self.stop(session, run).await?;
        }
        let rest = waiting.len();
        if !has_done || self.args.all {
            for key in waiting {
                has_done |= self.give_up(&key).await?;
            }
        } else if rest > 0 && !self.args.json {
            writeln!(Stdout::lock(), "prompts that wait for this session: {rest}; --all cancels them, too")?;
        }
        match (has_done, session) {
            (true, _) => Ok(()),
            (false, Some(session)) => {
                bail!(
                    "session {} is not being worked on ({}), and no prompt waits for it on this machine; there is \
                     nothing to cancel",
                    session.id,
                    session.state.name()
                )
            }
            (false, None) => bail!("it began or ended just now; see `godctl agent status`, and try again"),
        }
    }

    async fn find(&self) -> anyhow::Result<Found> {
        let text = self.args.id.as_str();
        let open = self.journal.find_open(text).await?;
        if let Some(found) = open.iter().find(|ticket| ticket.session != text) {
            // By its key. It may not have a session yet.
            let session = match SessionId::parse(&found.session) {
                Ok(id) => self.store.get(&id).await?.map(|stored| stored.session),
                Err(_) => None,
            };
            let waiting = if found.run.is_none() { vec![found.key.clone()] } else { Vec::new() };
            return Ok(Found { session, run: found.run, waiting });
        }
        // What is no id of a session could still have been a key.
        let resolved = match SessionId::parse(text) {
            Ok(_) => resolve(&*self.store, text).await,
            Err(_) => Err(nothing_known(text)),
        };
        match resolved {
            Ok(stored) => {
                let session = stored.session;
                let open = self.journal.find_open(session.id.as_str()).await?;
                let run = session.run.as_ref().map(|run| run.id);
                Ok(Found { session: Some(session), run, waiting: waiting(open) })
            }
            // Its first prompt has not been begun with.
            Err(error) if is_no_session(&error) => match waiting(open) {
                waiting if waiting.is_empty() => Err(nothing_known(text)),
                waiting => Ok(Found { session: None, run: None, waiting }),
            },
            Err(error) => Err(error),
        }
    }

    /// Stops a turn; false if there is none any more.
    async fn stop(&self, session: &Session, run: Uuid) -> anyhow::Result<bool> {
        let id = &session.id;
        match self.store.ask_to_stop(id, run).await {
            Ok(()) => {}
            Err(StoreError::Gone(_)) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        let turn = session.prompt_count;
        let told = json!({ "cancelled": "turn", "session": id, "run": run, "turn": turn });
        if let Some(holder) = self.close_if_left(id, run).await? {
            let line = format!("turn {turn} of {id} was left open by {holder}; it is closed now");
            self.tell(told, "left_open", &line)?;
            return Ok(true);
        }
        if !self.args.wait {
            let line = format!("asked {} to stop working on turn {turn} of {id}", session.provider);
            self.tell(told, "asked", &line)?;
            return Ok(true);
        }
        loop {
            let open = self.store.get(id).await?.and_then(|stored| stored.session.run);
            if open.is_none_or(|open| open.id != run) {
                break;
            }
            if self.close_if_left(id, run).await?.is_some() {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        let ended = self.store.turns(id, turn, usize::MAX).await?;
        let ended = ended.into_iter().find(|ended| ended.run == run);
        let class = ended.map(|ended| ended.failure_class);
        let (state, what) = match class.as_ref().map(Option::as_deref) {
            Some(Some("cancelled")) => ("cancelled", "was cancelled".to_owned()),
            Some(None) => ("answered", "was answered before it could be stopped".to_owned()),
            Some(Some(class)) => ("failed", format!("failed before it could be stopped ({class})")),
            None => ("left_open", "was left open by whoever worked on it; it is closed now".to_owned()),
        };
        self.tell(told, state, &format!("turn {turn} of {id} {what}"))?;
        Ok(true)
    }

    /// Closes a turn whose worker is gone, and tells who that was.
    async fn close_if_left(&self, id: &SessionId, run: Uuid) -> anyhow::Result<Option<String>> {
        let holder = match self.works.hold_on(id).await? {
            Hold::Free => "somebody who is gone".to_owned(),
            Hold::Dead(holder) => format!("{}, which is gone", holder.describe()),
            Hold::By(_) | Hold::Unknown => return Ok(None),
        };
        match self.works.close_left_open(id, run).await {
            Ok(true) => Ok(Some(holder)),
            // It has ended meanwhile, or somebody has just taken it up: they were told.
            Ok(false) | Err(OrderError::Busy { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives up a prompt; false if it does not wait any more.
    async fn give_up(&self, key: &str) -> anyhow::Result<bool> {
        let source = Source::here("godctl", "agent");
        let (holder, clock) = (&self.works.holder, &*self.works.clock);
        let Some(job) = withdraw(&self.journal, key, (holder, clock), (&source, self.queue)).await? else {
            return Ok(false);
        };
        let told = json!({ "cancelled": "prompt", "session": job.session, "key": key });
        let line = format!(
            "gave up the prompt {key} of {}, which waited; it becomes a dead letter of {}",
            job.session, self.queue
        );
        self.tell(told, "given_up", &line)?;
        Ok(true)
    }

    fn tell(&self, mut told: Value, state: &str, line: &str) -> anyhow::Result<()> {
        let mut stdout = Stdout::lock();
        if self.args.json {
            told["state"] = json!(state);
            told["at"] = json!(SystemClock.now());
            writeln!(stdout, "{told}")?;
        } else {
            writeln!(stdout, "{line}")?;
        }
        Ok(())
    }
}

fn waiting(open: Vec<Ticket>) -> Vec<String> {
    open.into_iter().filter(|ticket| ticket.run.is_none()).map(|ticket| ticket.key).collect()
}

fn nothing_known(text: &str) -> anyhow::Error {
    anyhow!(
        "there is no session {text}, and no prompt of that key waits on this machine; `godctl agent status` shows \
         what there is"
    )
}
