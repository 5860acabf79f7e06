//! Works on a run: starts steps as the machine says, several at once, until nothing is left to do.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        Access, Class, Failure, Groups, Limits, Turn,
        errand::Customs,
        listener::Backoff,
        orchestrator::{Orchestrator, OrderError},
        providers::Roster,
        session,
        store::StoreError,
    },
    book::{Book, Run, RunError, session_of},
    combine::{Combined, combine},
    machine::{Effect, Input, Machine, State},
    news::{End, News, Settled},
    plan::{Plan, Step, WhenFailed},
    step::{Task, Worked},
    template::{Field, Hole},
};

/// Longest prompt with its holes filled, in bytes.
const MAX_PROMPT: usize = 16 << 20;
/// Correlation ids of a step: the root, and those of the steps that it needs.
const MAX_CORRELATIONS: usize = 32;

/// A prompt that every agent takes.
const AGREED: &str = "x";

/// Hears what happens.
pub(super) type Listen<'a> = dyn Fn(News<'_>) + Send + Sync + 'a;

/// What works on runs.
#[derive(Debug)]
pub struct Crew<'a> {
    /// Works on turns.
    pub orchestrator: &'a Orchestrator,
    /// The agents.
    pub roster: &'a Roster,
    /// What surrounds turns.
    pub customs: &'a Customs,
    /// Our own variables.
    pub variables: &'a BTreeMap<String, String>,
    /// Processes that must not outlive us.
    pub groups: &'a Groups,
    /// How long things may take.
    pub limits: Limits,
    /// Steps that are worked on at once.
    pub jobs: usize,
    /// How long to wait before a step is tried again.
    pub backoff: Backoff,
    /// From 0 to 1, by chance.
    pub chance: fn() -> f64,
}

/// Why a run was not worked on to its end. What was done is stored.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// A step makes no sense for its agent.
    #[error("step {step}: {failure}")]
    Step {
        /// Its name.
        step: String,
        /// Why.
        failure: Failure,
    },
    /// The store is in trouble, or somebody else works on it.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// Somebody else has taken the run over.
    #[error("lost the run while working on it: {0}")]
    Lost(#[source] StoreError),
}

/// How a run ended.
#[derive(Debug)]
pub struct Report {
    /// What came of each step.
    pub ends: Vec<End>,
    /// Their results, put together.
    pub combined: Combined,
    /// How it went.
    pub verdict: Verdict,
    /// Whether that could be stored; if not, the run will be taken for broken off.
    pub stored: Result<(), RunError>,
}

/// How a run went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// All that had to be answered was.
    Done,
    /// This step, and maybe more.
    Failed {
        /// Its number.
        step: usize,
        /// Why.
        failure: Failure,
    },
    /// It was stopped, and can be gone on with.
    Interrupted,
}

impl Crew<'_> {
    /// Whether all steps can be given to their agents; directories are looked at.
    ///
    /// # Errors
    /// The first that cannot.
    pub fn check(roster: &Roster, plan: &Plan, base: &Path) -> Result<(), FlowError> {
        for step in &plan.steps {
            let wrong = |message: String| FlowError::Step {
                step: step.name.clone(),
                failure: Failure::new(Class::BadRequest, message),
            };
            let provider = roster.by_name(&step.provider).map_err(|failure| wrong(failure.message))?;
            if step.has_worktree && !provider.abilities().tools {
                return Err(wrong(format!(
                    "{} has no tools and changes no files; leave worktree out",
                    step.provider
                )));
            }
            let directory = directory(step, base);
            if !directory.is_dir() {
                return Err(wrong(format!("cwd {}: no such directory", directory.display())));
            }
            // What can be said before anything is started: a model or an access that the agent does not take.
            let turn =
                Turn { model: step.model.clone(), access: step.access, ..Turn::new(AGREED, directory) };
            provider.launch(&turn).map_err(|failure| wrong(failure.message))?;
        }
        Ok(())
    }

    /// Works on a run until all its steps are settled, or `stop` is cancelled. What happens is told to `tell` as it
    /// comes.
    ///
    /// # Errors
    /// [`FlowError`]. What agents fail at is no error but a verdict.
    ///
    /// # Cancel safety
    /// Dropping the future kills the agents; the run can be gone on with.
    pub async fn work(
        &self,
        book: &Book<'_>,
        run: &Run,
        stop: &CancellationToken,
        tell: &Listen<'_>,
    ) -> Result<Report, FlowError> {
        let plan = book.plan;
        let mut ends = vec![End::Open; plan.steps.len()];
        let mut machine = Machine::new(plan, self.jobs, |at| self.place(plan.step(at)?, book.directory));
        for (at, settled) in book.settled(run).await.map_err(OrderError::from)?.into_iter().enumerate() {
            let Some(settled) = settled else { continue };
            machine.restore(at, if settled.is_done() { State::Done } else { State::Failed });
            put(&mut ends, at, End::Settled(settled));
        }
        let halt = stop.child_token();
        let mut running = FuturesUnordered::new();
        let mut trouble = None;
        let mut is_stopping = false;
        let keeping = book.keep(run);
        tokio::pin!(keeping);
        let mut effects = machine.step(Input::Begin);
        loop {
            for effect in effects.drain(..) {
                match effect {
                    Effect::Skip { step, because } => {
                        put(&mut ends, step, End::Skipped(because));
                        tell(News::Skipped { step, because });
                    }
                    Effect::Start(at) => {
                        let Some(step) = plan.step(at) else { continue };
                        let prepared = self.prepare((book, run), (at, step), &ends);
                        let halt = &halt;
                        running.push(Box::pin(async move {
                            let worked = match prepared {
                                Ok(task) => self.work_on(book, task, halt, tell).await,
                                Err(failure) => refused(run, step, failure),
                            };
                            (at, worked)
                        }));
                    }
                }
            }
            if running.is_empty() {
                break;
            }
            tokio::select! {
                Some((at, worked)) = running.next() => {
                    let state = match worked {
                        Ok(Worked::Settled(settled)) => {
                            tell(News::Settled { step: at, settled: &settled });
                            let state = if settled.is_done() { State::Done } else { State::Failed };
                            put(&mut ends, at, End::Settled(settled));
                            state
                        }
                        Ok(Worked::Interrupted) => {
                            tell(News::Interrupted { step: at });
                            State::Interrupted
                        }
                        Err(error) => {
                            // What is under way is stopped, for it could not be stored either.
                            trouble.get_or_insert(error);
                            halt.cancel();
                            State::Interrupted
                        }
                    };
                    effects = machine.step(Input::Ended(at, state));
                }
                () = halt.cancelled(), if !is_stopping => {
                    is_stopping = true;
                    effects = machine.step(Input::Stop);
                }
                error = &mut keeping, if trouble.is_none() => {
                    trouble = Some(FlowError::Lost(error));
                    halt.cancel();
                }
            }
        }
        if let Some(error) = trouble {
            if let Err(error) = book.finish(run, (session::State::Interrupted, None), None).await {
                tracing::debug!(%error, "the run is taken for broken off, which it is");
            }
            return Err(error);
        }
        let combined = combine(plan, &ends);
        let verdict = verdict(plan, &ends);
        let (state, failure) = match &verdict {
            Verdict::Done => (session::State::Idle, None),
            Verdict::Failed { failure, .. } => (session::State::Failed, Some(failure)),
            Verdict::Interrupted => (session::State::Interrupted, None),
        };
        let stored = book.finish(run, (state, failure), combined.text.as_deref()).await;
        Ok(Report { ends, combined, verdict, stored })
    }

    /// Where a step wants to be alone: in the directory that it may write in, if that is not its own.
    fn place(&self, step: &Step, base: &Path) -> Option<String> {
        let tools = self.roster.by_name(&step.provider).is_ok_and(|provider| provider.abilities().tools);
        let writes = tools && step.access != Access::Plan && !step.shares_directory && !step.has_worktree;
        writes.then(|| directory(step, base).display().to_string())
    }

    fn prepare<'a>(
        &'a self,
        (book, run): (&Book<'a>, &'a Run),
        (at, step): (usize, &'a Step),
        ends: &[End],
    ) -> Result<Task<'a>, Failure> {
        let provider = self.roster.by_name(&step.provider)?;
        let prompt = fill(book.plan, step, run, ends)?;
        let directory = directory(step, book.directory);
        let directory = directory.canonicalize().map_err(|error| {
            Failure::new(Class::BadRequest, format!("cwd {}: {error}", directory.display()))
        })?;
        let correlation_ids = causes(run, &step.needs, ends);
        Ok(Task { at, step, provider, run, prompt, correlation_ids, directory })
    }
}

fn put(ends: &mut [End], at: usize, end: End) {
    if let Some(place) = ends.get_mut(at) {
        *place = end;
    }
}

fn directory(step: &Step, base: &Path) -> PathBuf {
    step.directory.as_ref().map_or_else(|| base.to_owned(), |directory| base.join(directory))
}

/// The prompt of a step.
fn fill(plan: &Plan, step: &Step, run: &Run, ends: &[End]) -> Result<String, Failure> {
    let settled = |name: &str| {
        let at = plan.steps.iter().position(|step| step.name == name)?;
        ends.get(at)?.settled()
    };
    let value = |hole: &Hole| -> &str {
        match hole {
            Hole::Input(name) => run.inputs.get(name).map_or("", String::as_str),
            Hole::Step { name, field } => match (field, settled(name).map(|settled| &settled.answer)) {
                (Field::Text, Some(Ok(text))) => text,
                (Field::Error, Some(Err(failure))) => &failure.message,
                (Field::Ok, Some(Ok(_))) => "true",
                (Field::Ok, _) => "false",
                (Field::Text | Field::Error, _) => "",
            },
        }
    };
    step.prompt.fill(MAX_PROMPT, value).map_err(|too_long| {
        let message = format!(
            "its prompt would be {} bytes long, of at most {MAX_PROMPT}; let the steps before answer in fewer words",
            too_long.0
        );
        Failure::new(Class::BadRequest, message)
    })
}

/// The root, and the events that tell of these steps.
pub(super) fn causes(run: &Run, steps: &[usize], ends: &[End]) -> Vec<Uuid> {
    let of_steps = steps.iter().filter_map(|at| ends.get(*at)?.settled()).map(Settled::event_id);
    std::iter::once(run.id).chain(of_steps).take(MAX_CORRELATIONS).collect()
}

/// A step whose agent was never asked.
fn refused(run: &Run, step: &Step, failure: Failure) -> Result<Worked, FlowError> {
    let session =
        session_of(run.id, step).map_err(|failure| FlowError::Step { step: step.name.clone(), failure })?;
    Ok(Worked::Settled(Settled {
        session,
        turn: Uuid::now_v7(),
        answer: Err(failure),
        took: std::time::Duration::ZERO,
        cost_micro_usd: None,
        attempts: 0,
    }))
}

fn verdict(plan: &Plan, ends: &[End]) -> Verdict {
    if ends.contains(&End::Open) {
        return Verdict::Interrupted;
    }
    let failed = plan.order().iter().find_map(|at| {
        let failure = ends.get(*at)?.settled()?.answer.as_ref().err()?;
        let may_fail = plan.step(*at)?.when_failed == WhenFailed::Continue;
        (!may_fail).then(|| Verdict::Failed { step: *at, failure: failure.clone() })
    });
    failed.unwrap_or(Verdict::Done)
}
