//! Runs of flows in the store of sessions: begun, found again, held by one process at a time, finished; and what of
//! their steps is done already.

use std::{collections::BTreeMap, path::Path, time::Duration};

use jiff::Timestamp;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        Class, Failure, Thread,
        lines::shortened,
        orchestrator::{Orchestrator, OrderError, WhenBusy},
        session::{self, MAX_PREVIEW, Session, SessionId},
        store::{Change, Filter, Lease, StoreError, Stored},
    },
    AGENT, FILE, HASH, RUN, SETTLED, STEP,
    news::Settled,
    plan::{Plan, Step},
};

/// Longest inputs of a run, all together, in bytes.
const MAX_INPUTS: usize = 4 << 20;
/// A session that others change all the time is changed in the end.
const MAX_CONFLICTS: usize = 50;

/// Looks after the runs of one flow in one directory.
#[derive(Debug, Clone, Copy)]
pub struct Book<'a> {
    /// What works on turns; its store has the runs too.
    pub orchestrator: &'a Orchestrator,
    /// The flow.
    pub plan: &'a Plan,
    /// Its file, as the system names it.
    pub file: &'a Path,
    /// Where it runs, as the system names it.
    pub directory: &'a Path,
}

/// Which run is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wish {
    /// The latest one of the same inputs that was broken off; a new one if there is none.
    Auto,
    /// The one whose id begins so, or the latest that is not finished.
    Resume(Option<String>),
    /// A new one.
    New,
}

/// A run that is ours to work on.
#[derive(Debug)]
pub struct Run {
    /// Its id: also that of its session, of the event that began it, and the root of all correlations.
    pub id: Uuid,
    /// What was asked for.
    pub inputs: BTreeMap<String, String>,
    /// When it began, if it was begun earlier.
    pub began_at: Option<Timestamp>,
    lease: Lease,
}

/// A run as it was found.
#[derive(Debug)]
struct Found {
    stored: Stored,
    inputs: BTreeMap<String, String>,
}

/// Why there is no run to work on.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Give other inputs.
    #[error("{0}")]
    Inputs(String),
    /// Put the file back, or begin anew.
    #[error(
        "run {run} was broken off at {at}, and the flow has changed since; put it back to go on, or begin anew with --new"
    )]
    Changed {
        /// The run.
        run: SessionId,
        /// When something last happened in it.
        at: Timestamp,
    },
    /// Leave them out, or begin anew.
    #[error(
        "run {0} was begun with other inputs; leave --input out to go on with it, or begin anew with --new"
    )]
    OtherInputs(SessionId),
    /// Begin one.
    #[error(
        "there is no run {0}of this flow in this directory that is not finished; leave --resume out to begin one"
    )]
    NoRun(String),
    /// Write more of it.
    #[error("more than one run begins with {0}; write more of its id")]
    Ambiguous(String),
    /// There is nothing to go on with.
    #[error("run {0} is finished; begin anew with --new")]
    Finished(SessionId),
    /// Wait, or begin another one.
    #[error("run {run} of this flow is being worked on{by}; wait for it, or begin another one with --new")]
    Busy {
        /// The run.
        run: SessionId,
        /// By whom, in words, with a space in front; empty if nobody knows.
        by: String,
    },
    /// The store is in trouble, or waiting was stopped.
    #[error(transparent)]
    Order(#[from] OrderError),
}

impl From<StoreError> for RunError {
    fn from(error: StoreError) -> Self {
        Self::Order(error.into())
    }
}

/// The session of a step.
pub(super) fn session_of(run: Uuid, step: &Step) -> Result<SessionId, Failure> {
    SessionId::parse(&Uuid::new_v5(&run, step.name.as_bytes()).to_string())
}

/// What sessions of a flow, and of one run of it, are found by.
pub(super) fn tags(plan: &Plan, run: Uuid) -> [String; 2] {
    [format!("flow:{}", plan.name), format!("flow-run:{run}")]
}

impl Found {
    fn read(stored: Stored) -> Self {
        let text = stored.session.words.last_prompt.as_deref().unwrap_or_default();
        Self { inputs: serde_json::from_str(text).unwrap_or_default(), stored }
    }

    const fn session(&self) -> &Session {
        &self.stored.session
    }

    fn was_broken_off(&self) -> bool {
        matches!(self.session().state, session::State::Running | session::State::Interrupted)
    }

    fn is_finished(&self) -> bool {
        matches!(self.session().state, session::State::Idle | session::State::Ended)
    }
}

impl Book<'_> {
    /// The run that is wanted, held by this process.
    ///
    /// # Errors
    /// [`RunError`].
    pub async fn open(
        &self,
        wish: Wish,
        given: &BTreeMap<String, String>,
        stop: &CancellationToken,
    ) -> Result<Run, RunError> {
        let found = match &wish {
            Wish::New => None,
            Wish::Auto => {
                let inputs = self.inputs(given)?;
                self.runs().await?.into_iter().find(|run| run.was_broken_off() && run.inputs == inputs)
            }
            Wish::Resume(id) => Some(self.named(id.as_deref(), given).await?),
        };
        match found {
            Some(found) => self.take_up(found, stop).await,
            None => self.begin(self.inputs(given)?, stop).await,
        }
    }

    /// All that was given, with the defaults.
    fn inputs(&self, given: &BTreeMap<String, String>) -> Result<BTreeMap<String, String>, RunError> {
        let known = || self.plan.inputs.iter().map(|input| input.name.as_str());
        if let Some(name) = given.keys().find(|name| !known().any(|known| known == name.as_str())) {
            let names: Vec<_> = known().collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(RunError::Inputs(format!("the flow has no input '{name}'; it has {there}")));
        }
        let mut inputs = BTreeMap::new();
        for input in &self.plan.inputs {
            let Some(value) = given.get(&input.name).or(input.default.as_ref()) else {
                let about = if input.description.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", input.description)
                };
                let name = &input.name;
                return Err(RunError::Inputs(format!(
                    "the flow needs the input '{name}'{about}; add --input {name}=VALUE, or --input {name}=@FILE"
                )));
            };
            inputs.insert(input.name.clone(), value.clone());
        }
        if inputs.values().map(String::len).sum::<usize>() > MAX_INPUTS {
            let message =
                format!("the inputs are longer than {MAX_INPUTS} bytes; let the agents read files instead");
            return Err(RunError::Inputs(message));
        }
        Ok(inputs)
    }

    /// Runs of this flow here, latest first.
    async fn runs(&self) -> Result<Vec<Found>, StoreError> {
        let filter = Filter {
            provider: Some(AGENT.to_owned()),
            directory: Some(self.directory.display().to_string()),
            tags: vec![format!("flow:{}", self.plan.name)],
            ..Filter::default()
        };
        let file = self.file.display().to_string();
        let all = self.orchestrator.store.list(&filter).await?.into_iter();
        Ok(all.filter(|stored| stored.session.extra.get(FILE) == Some(&file)).map(Found::read).collect())
    }

    /// The one whose id begins so, or the latest that is not finished.
    async fn named(&self, id: Option<&str>, given: &BTreeMap<String, String>) -> Result<Found, RunError> {
        let mut runs = self.runs().await?;
        match id {
            Some(id) => runs.retain(|run| run.session().id.as_str().starts_with(id)),
            None => runs.retain(|run| !run.is_finished()),
        }
        if let (Some(id), 2..) = (id, runs.len()) {
            return Err(RunError::Ambiguous(id.to_owned()));
        }
        let Some(found) = runs.into_iter().next() else {
            return Err(RunError::NoRun(id.map_or(String::new(), |id| format!("{id} "))));
        };
        if found.is_finished() {
            return Err(RunError::Finished(found.session().id.clone()));
        }
        if given.iter().any(|(name, value)| found.inputs.get(name) != Some(value)) {
            return Err(RunError::OtherInputs(found.session().id.clone()));
        }
        Ok(found)
    }

    async fn begin(
        &self,
        inputs: BTreeMap<String, String>,
        stop: &CancellationToken,
    ) -> Result<Run, RunError> {
        let run = Uuid::now_v7();
        let id = SessionId::parse(&run.to_string()).map_err(|failure| RunError::Inputs(failure.message))?;
        let now = self.orchestrator.clock.now();
        let mut session = Session::new(id.clone(), AGENT, &self.directory.display().to_string(), now);
        session.tags.extend(tags(self.plan, run));
        session.extra.extend([
            (RUN.to_owned(), run.to_string()),
            (FILE.to_owned(), self.file.display().to_string()),
            (HASH.to_owned(), self.plan.hash()),
        ]);
        let lease = self.lease(&id, 0, stop).await?;
        let begun = self.begin_turn(&mut session, (run, &inputs));
        let created = match begun {
            Ok(()) => self.orchestrator.store.create(&session).await.map(drop).map_err(RunError::from),
            Err(error) => Err(error),
        };
        if let Err(error) = created {
            self.orchestrator.release_one(&lease).await;
            return Err(error);
        }
        Ok(Run { id: run, inputs, began_at: None, lease })
    }

    async fn take_up(&self, found: Found, stop: &CancellationToken) -> Result<Run, RunError> {
        let Found { stored, inputs } = found;
        let id = stored.session.id.clone();
        if stored.session.extra.get(HASH) != Some(&self.plan.hash()) {
            return Err(RunError::Changed { run: id, at: stored.session.updated_at });
        }
        let run = Uuid::try_parse(id.as_str()).map_err(|_| RunError::NoRun(format!("{id} ")))?;
        let began_at = Some(stored.session.created_at);
        let lease = self.lease(&id, stored.fence, stop).await?;
        let taken = self
            .change(&id, &lease, |session| {
                // Somebody may have finished it meanwhile.
                if matches!(session.state, session::State::Idle | session::State::Ended) {
                    return Err(RunError::Finished(session.id.clone()));
                }
                if session.run.is_some() {
                    let orphaned = session.step(session::Input::Orphaned, self.orchestrator.clock.now());
                    orphaned.map_err(OrderError::from)?;
                }
                self.begin_turn(session, (run, &inputs))
            })
            .await;
        if let Err(error) = taken {
            self.orchestrator.release_one(&lease).await;
            return Err(error);
        }
        Ok(Run { id: run, inputs, began_at, lease })
    }

    fn begin_turn(
        &self,
        session: &mut Session,
        (run, inputs): (Uuid, &BTreeMap<String, String>),
    ) -> Result<(), RunError> {
        let begin = session::Begin {
            run: Uuid::now_v7(),
            prompt: "",
            thread: &Thread::New(None),
            correlation_ids: &[run],
            attempt: 1,
        };
        session
            .step(session::Input::Begin(begin), self.orchestrator.clock.now())
            .map_err(OrderError::from)?;
        // The whole of them, as a run that goes on needs them again.
        session.words.last_prompt = Some(serde_json::to_string(inputs).unwrap_or_default());
        Ok(())
    }

    async fn lease(&self, id: &SessionId, floor: u64, stop: &CancellationToken) -> Result<Lease, RunError> {
        // As for any session, so that whoever looks for its holder finds it.
        let (name, what) = (format!("session:{id}"), format!("run {id}"));
        let taken = self.orchestrator.take_one((&name, &what), floor, (WhenBusy::Fail, stop), None);
        taken.await.map_err(|error| match error {
            OrderError::Busy { by, .. } => RunError::Busy { run: id.clone(), by },
            other => other.into(),
        })
    }

    /// Changes the session of a run, whoever else changes it too.
    async fn change(
        &self,
        id: &SessionId,
        lease: &Lease,
        mut change: impl FnMut(&mut Session) -> Result<(), RunError>,
    ) -> Result<(), RunError> {
        for _ in 0..MAX_CONFLICTS {
            let Some(Stored { mut session, version, .. }) = self.orchestrator.store.get(id).await? else {
                return Err(StoreError::Gone(id.clone()).into());
            };
            change(&mut session)?;
            let (own, expected) = (Uuid::now_v7(), version);
            let change = Change { id: own, session: &session, expected, lease: Some(lease), turn: None };
            match self.orchestrator.store.update(&change).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return Ok(other.map(drop)?),
            }
        }
        let reason = "others change it all the time".to_owned();
        Err(StoreError::Failed { doing: "store the run".to_owned(), reason }.into())
    }

    /// What is known of each step of a run that goes on. A step that failed and may not fail is not among it: it is tried
    /// again.
    ///
    /// # Errors
    /// A store in trouble.
    pub async fn settled(&self, run: &Run) -> Result<Vec<Option<Settled>>, StoreError> {
        let mut all = Vec::with_capacity(self.plan.steps.len());
        for step in &self.plan.steps {
            let known = match session_of(run.id, step) {
                Ok(id) if run.began_at.is_some() => self.look(&id).await?,
                _ => None,
            };
            let may_fail = step.when_failed == super::WhenFailed::Continue;
            all.push(known.filter(|settled| settled.is_done() || may_fail));
        }
        Ok(all)
    }

    async fn look(&self, id: &SessionId) -> Result<Option<Settled>, StoreError> {
        let store = &self.orchestrator.store;
        let Some(Stored { session, .. }) = store.get(id).await? else { return Ok(None) };
        let Some(turn) = session.extra.get(SETTLED).and_then(|text| Uuid::try_parse(text).ok()) else {
            return Ok(None);
        };
        let turns = store.turns(id, 0, usize::MAX).await?;
        let Some(record) = turns.into_iter().find(|record| record.run == turn) else { return Ok(None) };
        let answer = match &record.failure_class {
            None => Ok(record.words.response),
            Some(name) => {
                let class =
                    Class::ALL.into_iter().find(|class| class.name() == name).unwrap_or(Class::Unknown);
                Err(Failure::new(class, record.words.failure.unwrap_or_default()))
            }
        };
        Ok(Some(Settled {
            session: id.clone(),
            turn,
            answer,
            took: Duration::try_from(record.ended_at.duration_since(record.began_at)).unwrap_or_default(),
            cost_micro_usd: session.totals.known_cost_micro_usd(),
            attempts: session.prompt_count,
        }))
    }

    /// Keeps a run ours; ends when it is not any more, and says why.
    pub(super) async fn keep(&self, run: &Run) -> StoreError {
        let mut lease = run.lease.clone();
        loop {
            sleep(self.orchestrator.lease / 3).await;
            let renewed = match self.orchestrator.store.renew(&lease, self.orchestrator.lease).await {
                // The store has lost all that it knew.
                Err(StoreError::Fenced { latest: 0, .. }) => {
                    match self.orchestrator.take_anew(&lease).await {
                        Ok(anew) => {
                            lease = anew;
                            Ok(())
                        }
                        Err(error) => Err(error),
                    }
                }
                other => other,
            };
            match renewed {
                Ok(()) => {}
                Err(error @ (StoreError::Fenced { .. } | StoreError::Gone(_))) => return error,
                Err(error) => tracing::warn!(%error, "the run could not be held yet"),
            }
        }
    }

    /// Stores how a run ended, and lets go of it.
    ///
    /// # Errors
    /// A store in trouble; the run is then taken for broken off.
    pub async fn finish(
        &self,
        run: &Run,
        (state, failure): (session::State, Option<&Failure>),
        text: Option<&str>,
    ) -> Result<(), RunError> {
        let id =
            SessionId::parse(&run.id.to_string()).map_err(|failure| RunError::Inputs(failure.message))?;
        let changed = self
            .change(&id, &run.lease, |session| {
                // Not by its state machine: no agent took this turn, so nothing was used and there is no record of it.
                session.run = None;
                session.state = state;
                session.failure_class = failure.map(|failure| failure.class.name().to_owned());
                session.words.failure = failure.map(|failure| failure.message.clone());
                session.words.last_response = text.map(|text| shortened(text, MAX_PREVIEW));
                session.updated_at = session.updated_at.max(self.orchestrator.clock.now());
                Ok(())
            })
            .await;
        self.orchestrator.release_one(&run.lease).await;
        changed
    }

    /// A new session for a step of a run.
    pub(super) fn session(&self, run: &Run, step: &Step, id: SessionId, directory: &Path) -> Session {
        let now = self.orchestrator.clock.now();
        let mut session = Session::new(id, &step.provider, &directory.display().to_string(), now);
        session.tags.extend(tags(self.plan, run.id));
        session.extra.insert(RUN.to_owned(), run.id.to_string());
        session.extra.insert(STEP.to_owned(), step.name.clone());
        if step.has_worktree {
            session.extra.insert(session::WORKTREE.to_owned(), "own".to_owned());
        }
        session
    }
}
