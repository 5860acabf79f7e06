//! One step: a session of its own, a turn of it, and further ones where time may mend what failed.

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        Class, Failure, Limits, Outcome, Provider, Surroundings, Turn,
        narrator::Subject,
        orchestrator::{GO_ON, Order, OrderError, Recorder, Scene, WhenBusy, WhenLost},
        session::{Refusal, Session, SessionId, Source, State},
        store::{Change, SessionStore, StoreError, Stored, Version},
    },
    SETTLED,
    book::{Book, Run, session_of},
    news::{News, Settled},
    plan::Step,
    run::{Crew, FlowError, Listen},
};

/// A step that is to be worked on.
pub(super) struct Task<'a> {
    pub(super) at: usize,
    pub(super) step: &'a Step,
    pub(super) provider: &'a dyn Provider,
    pub(super) run: &'a Run,
    pub(super) prompt: String,
    pub(super) correlation_ids: Vec<Uuid>,
    pub(super) directory: std::path::PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub(super) enum Worked {
    Settled(Settled),
    Interrupted,
}

/// What follows from a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// It stands.
    Settle,
    /// We stopped it, and will go on another time.
    Interrupt,
    /// The conversation is gone: all of the prompt, to begin with.
    FromTheBeginning,
    /// Later again.
    Retry,
}

/// An attempt at a step.
#[derive(Debug)]
struct Attempt<'a> {
    number: u32,
    retries: u32,
    goes_on: bool,
    stop: &'a CancellationToken,
    /// The turn that settled the step.
    settled: OnceLock<Uuid>,
}

impl Attempt<'_> {
    fn next(&self, failure: &Failure) -> Next {
        match failure.class {
            Class::Cancelled if self.stop.is_cancelled() => Next::Interrupt,
            Class::SessionNotFound if self.goes_on => Next::FromTheBeginning,
            class if class.is_retryable() && self.number <= self.retries => Next::Retry,
            _ => Next::Settle,
        }
    }
}

/// Marks the turn that settles the step in the same change that stores it.
#[async_trait]
impl Recorder for Attempt<'_> {
    async fn record(
        &self,
        store: &dyn SessionStore,
        change: &Change<'_>,
        outcome: &Outcome,
    ) -> Result<Version, StoreError> {
        let settles = outcome.verdict.as_ref().err().is_none_or(|failure| self.next(failure) == Next::Settle);
        let Some((turn, usage)) = change.turn.filter(|_| settles) else { return store.update(change).await };
        let mut session = change.session.clone();
        session.extra.insert(SETTLED.to_owned(), turn.run.to_string());
        let Change { id, expected, lease, .. } = *change;
        let change = Change { id, session: &session, expected, lease, turn: Some((turn, usage)) };
        let version = store.update(&change).await?;
        self.settled.get_or_init(|| turn.run);
        Ok(version)
    }
}

impl Crew<'_> {
    /// Works on a step until it is settled or `stop` is cancelled.
    pub(super) async fn work_on(
        &self,
        book: &Book<'_>,
        task: Task<'_>,
        stop: &CancellationToken,
        tell: &Listen<'_>,
    ) -> Result<Worked, FlowError> {
        let Task { at, step, provider, run, prompt, correlation_ids, directory } = task;
        let id = match session_of(run.id, step) {
            Ok(id) => id,
            Err(failure) => return Err(FlowError::Step { step: step.name.clone(), failure }),
        };
        let session = self.session(book, (run, step), id.clone(), &directory).await?;
        let abilities = provider.abilities();
        // What has failed is asked again, in all its words.
        let was_broken_off = matches!(session.state, State::Running | State::Interrupted)
            && !session.extra.contains_key(SETTLED);
        self.unsettle(&session).await?;
        let mut goes_on =
            was_broken_off && session.native_id.is_some() && abilities.resume && !abilities.needs_history;
        let mut number = 1;
        let mut when_busy = WhenBusy::Fail;
        loop {
            let attempt = Attempt { number, retries: step.retries, goes_on, stop, settled: OnceLock::new() };
            let said = if goes_on { GO_ON } else { &prompt };
            let turn = Turn {
                model: step.model.clone(),
                access: step.access,
                ..Turn::new(said, &session.directory)
            };
            let order = Order {
                session: id.clone(),
                turn,
                run: Uuid::now_v7(),
                correlation_ids: correlation_ids.clone(),
                attempt: number,
                key: None,
                wishes: Vec::new(),
                when_busy,
                // The words that go on with a conversation make no sense in another one.
                when_lost: if goes_on { WhenLost::Fail } else { WhenLost::New },
                shares_directory: step.shares_directory || step.has_worktree,
            };
            let total = step.timeout.unwrap_or(self.limits.total);
            let limits = Limits { total, ..self.limits };
            let surroundings =
                Surroundings { groups: self.groups, variables: self.variables, limits, mark: None };
            let scene = Scene {
                provider,
                customs: self.customs,
                source: Source::Cli,
                surroundings,
                recorder: &attempt,
            };
            let subject = Subject {
                provider: provider.name().to_owned(),
                kind: provider.kind(),
                session_id: id.to_string(),
                directory: session.directory.clone(),
                prompt: prompt.clone(),
                correlation_ids: correlation_ids.clone(),
                attempt: number,
            };
            tell(News::Started { step: at, subject, goes_on });
            let started = Instant::now();
            let say = |output| tell(News::Said { step: at, output: &output });
            let working = Box::pin(self.orchestrator.work(scene, &order, stop, say));
            let done = match working.await {
                Ok(done) => done,
                Err(OrderError::Stopped(_)) => return Ok(Worked::Interrupted),
                // Nothing was started. It is said once, for it may take long.
                Err(OrderError::Busy { what, by }) if when_busy == WhenBusy::Fail => {
                    tell(News::Waiting { step: at, what: format!("{what} is being worked on{by}") });
                    when_busy = WhenBusy::Wait;
                    continue;
                }
                Err(error) => return given_up(error, step, &session, started.elapsed()),
            };
            done.stored.map_err(OrderError::from)?;
            let took = started.elapsed();
            let ended =
                News::Ended { step: at, outcome: &done.outcome, workspace: done.workspace.as_ref(), took };
            let failure = done.outcome.verdict.clone().err();
            match failure.as_ref().map_or(Next::Settle, |failure| attempt.next(failure)) {
                Next::Settle => {
                    tell(ended);
                    let turn = attempt.settled.get().copied().unwrap_or(order.run);
                    return Ok(Worked::Settled(Settled {
                        session: id,
                        turn,
                        answer: failure.map_or(Ok(done.outcome.text), Err),
                        took,
                        cost_micro_usd: done.session.totals.known_cost_micro_usd(),
                        attempts: done.session.prompt_count,
                    }));
                }
                Next::Interrupt => {
                    tell(ended);
                    return Ok(Worked::Interrupted);
                }
                Next::FromTheBeginning => goes_on = false,
                Next::Retry => {
                    let Some(failure) = failure else { continue };
                    let wait = self.backoff.wait(number, (self.chance)());
                    let wait = wait.max(failure.retry_after.unwrap_or_default());
                    tell(News::Retrying { step: at, failure: &failure, wait });
                    tokio::select! {
                        () = stop.cancelled() => return Ok(Worked::Interrupted),
                        () = sleep(wait) => {}
                    }
                    goes_on = false;
                    number += 1;
                }
            }
        }
    }

    /// The session of a step, made if need be.
    async fn session(
        &self,
        book: &Book<'_>,
        (run, step): (&Run, &Step),
        id: SessionId,
        directory: &std::path::Path,
    ) -> Result<Session, FlowError> {
        let store = &self.orchestrator.store;
        if let Some(stored) = store.get(&id).await.map_err(OrderError::from)? {
            return Ok(stored.session);
        }
        let session = book.session(run, step, id, directory);
        store.create(&session).await.map_err(OrderError::from)?;
        Ok(session)
    }

    /// A step that failed is tried again: its old failure does not stand any more.
    async fn unsettle(&self, session: &Session) -> Result<(), FlowError> {
        let store = &self.orchestrator.store;
        if !session.extra.contains_key(SETTLED) {
            return Ok(());
        }
        loop {
            let stored = store.get(&session.id).await.map_err(OrderError::from)?;
            let Some(Stored { mut session, version, .. }) = stored else { return Ok(()) };
            session.extra.remove(SETTLED);
            let (id, expected) = (Uuid::now_v7(), version);
            let change = Change { id, session: &session, expected, lease: None, turn: None };
            match store.update(&change).await {
                Err(StoreError::Conflict { .. }) => {}
                other => return Ok(other.map(drop).map_err(OrderError::from)?),
            }
        }
    }
}

/// What an order that was not worked on means for its step.
fn given_up(error: OrderError, step: &Step, session: &Session, took: Duration) -> Result<Worked, FlowError> {
    let class = match &error {
        OrderError::Budget(failure) => failure.class,
        OrderError::Refused(Refusal::Ended { .. }) => Class::InvalidRequest,
        OrderError::NoSession(_) => Class::SessionNotFound,
        OrderError::Lost(StoreError::Gone(_)) => Class::Cancelled,
        _ => {
            tracing::debug!(step = step.name, "the store or another process ended a step");
            return Err(error.into());
        }
    };
    Ok(Worked::Settled(Settled {
        session: session.id.clone(),
        turn: Uuid::now_v7(),
        answer: Err(Failure::new(class, error.to_string())),
        took,
        cost_micro_usd: session.totals.known_cost_micro_usd(),
        attempts: session.prompt_count,
    }))
}
