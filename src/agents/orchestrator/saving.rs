//! Carries out the effects of a session's state machine on a store that may be slow, away, or have lost everything.

use std::{
    fmt,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{
    super::{
        Failure, Outcome, Output,
        session::{Answered, Effect, Input, Leader, Session, TurnRecord, UsageRow},
        store::{Change, SessionStore, StoreError, Version},
    },
    Orchestrator, Order,
    leases::Leases,
};

/// Prompts that a session remembers to have answered. One that comes again does so soon.
const MAX_ANSWERED: usize = 64;
/// How long to wait before the store is asked again.
const PAUSE: Duration = Duration::from_millis(100);
/// How often it is looked whether somebody wants the turn to be stopped; and where the store could not be asked.
const LOOK: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(5);
/// A session that others change all the time is changed in the end.
const MAX_CONFLICTS: usize = 50;

/// Stores the end of a turn. Whoever has more to keep with it, in the same step, has one of its own.
#[async_trait]
pub trait Recorder: fmt::Debug + Send + Sync {
    /// Makes the change, and keeps what else must be kept with it, all or nothing.
    ///
    /// # Errors
    /// As [`SessionStore::update`].
    async fn record(
        &self,
        store: &dyn SessionStore,
        change: &Change<'_>,
        outcome: &Outcome,
    ) -> Result<Version, StoreError>;

    /// The turn is open in the store, and its agent is about to start.
    fn opened(&self, _: &Session) {}
}

/// Nothing more.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

#[async_trait]
impl Recorder for Plain {
    async fn record(
        &self,
        store: &dyn SessionStore,
        change: &Change<'_>,
        _: &Outcome,
    ) -> Result<Version, StoreError> {
        store.update(change).await
    }
}

/// The session of a turn while it is worked on: what it is, and what of it the store has.
pub(super) struct Desk {
    state: Mutex<State>,
    news: Notify,
}

struct State {
    session: Session,
    version: Version,
    is_dirty: bool,
    objection: Option<Failure>,
    is_cancelled: bool,
}

/// The end of a turn, to be stored with the session.
pub(super) struct Ending<'a> {
    pub(super) turn: &'a TurnRecord,
    pub(super) usage: &'a UsageRow,
    pub(super) outcome: &'a Outcome,
    pub(super) recorder: &'a dyn Recorder,
}

impl Desk {
    pub(super) fn new(session: Session, version: Version) -> Self {
        let state = State { session, version, is_dirty: false, objection: None, is_cancelled: false };
        Self { state: Mutex::new(state), news: Notify::new() }
    }

    pub(super) fn session(&self) -> Session {
        self.state.lock().session.clone()
    }

    /// Why the agent had to be stopped, if it had.
    pub(super) fn objection(&self) -> Option<Failure> {
        self.state.lock().objection.take()
    }

    /// Whether somebody has asked for this turn to be stopped.
    pub(super) fn is_cancelled(&self) -> bool {
        self.state.lock().is_cancelled
    }

    /// Tells the session what the agent said. True if the agent must be stopped.
    pub(super) fn hear(&self, output: &Output, orchestrator: &Orchestrator) -> bool {
        self.tell(Input::Said(output), orchestrator)
    }

    fn tell(&self, input: Input<'_>, orchestrator: &Orchestrator) -> bool {
        let mut state = self.state.lock();
        let State { session, is_dirty, objection, .. } = &mut *state;
        // A turn that is over hears nothing more.
        for effect in session.step(input, orchestrator.clock.now()).unwrap_or_default() {
            match effect {
                Effect::Save => *is_dirty = true,
                Effect::Stop(failure) => *objection = Some(failure),
                Effect::Record(_) => {}
            }
        }
        if state.is_dirty {
            self.news.notify_one();
        }
        state.objection.is_some()
    }

    /// The turn is over. `None` if it never was.
    pub(super) fn end(
        &self,
        outcome: &Outcome,
        order: &Order,
        orchestrator: &Orchestrator,
    ) -> Option<(TurnRecord, UsageRow)> {
        let mut state = self.state.lock();
        let ended = Input::Ended { outcome, prompt: &order.turn.prompt };
        let effects = state.session.step(ended, orchestrator.clock.now()).ok()?;
        if let (Some(key), Ok(())) = (&order.key, &outcome.verdict) {
            let Session { answered, prompt_count, .. } = &mut state.session;
            answered.push(Answered { key: key.clone(), turn: *prompt_count });
            let surplus = answered.len().saturating_sub(MAX_ANSWERED);
            answered.drain(..surplus);
        }
        effects.into_iter().find_map(|effect| match effect {
            Effect::Record(record) => Some(*record),
            Effect::Save | Effect::Stop(_) => None,
        })
    }

    /// The store had another version: what others may change is theirs, the rest ours.
    fn merge(&self, theirs: Session, version: Version) {
        let mut state = self.state.lock();
        state.session.tags = theirs.tags;
        state.session.extra = theirs.extra;
        state.version = version;
    }

    fn saved(&self, what: &Session, version: Version) {
        let mut state = self.state.lock();
        state.version = version;
        state.is_dirty = state.session != *what;
    }
}

impl Orchestrator {
    /// Stores the session as it is on the desk.
    pub(super) async fn save(
        &self,
        desk: &Desk,
        leases: &mut Leases,
        ending: Option<&Ending<'_>>,
    ) -> Result<(), StoreError> {
        for _ in 0..MAX_CONFLICTS {
            let (session, expected) = {
                let state = desk.state.lock();
                (state.session.clone(), state.version)
            };
            let change = Change {
                id: Uuid::now_v7(),
                session: &session,
                expected,
                lease: Some(&leases.session),
                turn: ending.map(|ending| (ending.turn, ending.usage)),
            };
            let changed = match ending {
                Some(ending) => ending.recorder.record(&*self.store, &change, ending.outcome).await,
                None => self.store.update(&change).await,
            };
            match changed {
                Ok(version) => {
                    desk.saved(&session, version);
                    return Ok(());
                }
                Err(StoreError::Conflict { .. }) => match self.store.get(&session.id).await? {
                    Some(stored) => desk.merge(stored.session, stored.version),
                    None => continue,
                },
                // With our lease it has lost all that it knew. With the session alone, somebody has removed that.
                Err(StoreError::Gone(id)) => {
                    match self.renew(leases).await {
                        Err(StoreError::Fenced { latest: 0, .. }) => self.retake(leases).await?,
                        Err(error) => return Err(error),
                        Ok(()) => return Err(StoreError::Gone(id)),
                    }
                    match self.store.create(&session).await {
                        Ok(version) => desk.merge(session, version),
                        Err(StoreError::Exists(_)) => {}
                        Err(error) => return Err(error),
                    }
                }
                Err(StoreError::Fenced { latest: 0, .. }) => self.retake(leases).await?,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Failed {
            doing: "store the session".to_owned(),
            reason: "others change it all the time".to_owned(),
        })
    }

    /// Keeps the leases, and the store's copy of the session up to date, while a turn is worked on; cancels `halt` when
    /// somebody wants it to be stopped. Ends when the session is no longer ours, and says why.
    pub(super) async fn keep(
        &self,
        desk: &Desk,
        leases: &mut Leases,
        mut leader: watch::Receiver<Option<i32>>,
        halt: &CancellationToken,
    ) -> StoreError {
        let mut renew_at = Instant::now() + leases.renewal();
        let mut look_at = Instant::now() + LOOK;
        let mut has_leader = false;
        loop {
            let is_dirty = desk.state.lock().is_dirty;
            let wake_at = renew_at.min(look_at);
            let until = if is_dirty { wake_at.min(Instant::now() + PAUSE) } else { wake_at };
            // All of these are cancel safe.
            tokio::select! {
                () = desk.news.notified() => {}
                told = leader.changed(), if !has_leader => {
                    has_leader = true;
                    let pid = told.ok().and_then(|()| *leader.borrow());
                    if let Some(leader) = pid.and_then(Leader::of) {
                        desk.tell(Input::Launched(leader), self);
                    }
                }
                () = tokio::time::sleep_until(until.into()) => {}
            }
            if Instant::now() >= look_at {
                look_at = Instant::now() + self.look_for_stop(desk, halt).await;
            }
            let mut trouble = None;
            if Instant::now() >= renew_at {
                trouble = self.renew(leases).await.err();
                renew_at = Instant::now() + leases.renewal();
            }
            if trouble.is_none() && desk.state.lock().is_dirty {
                trouble = self.save(desk, leases, None).await.err();
            }
            match trouble {
                None => {}
                // The store has begun anew; with the next change it learns of the session again.
                Some(StoreError::Fenced { latest: 0, .. }) => desk.state.lock().is_dirty = true,
                // Somebody has taken it over, or removed it.
                Some(error @ (StoreError::Fenced { .. } | StoreError::Gone(_))) => return error,
                Some(error) if leases.are_stale() => return error,
                Some(error) => {
                    tracing::warn!(%error, "the session could not be stored yet");
                    renew_at = renew_at.min(Instant::now() + leases.renewal() / 2);
                }
            }
        }
    }

    /// Looks whether somebody wants the turn to be stopped, and says when to look again.
    async fn look_for_stop(&self, desk: &Desk, halt: &CancellationToken) -> Duration {
        let (id, run, is_known) = {
            let State { session, is_cancelled, .. } = &*desk.state.lock();
            (session.id.clone(), session.run.as_ref().map(|run| run.id), *is_cancelled)
        };
        let Some(run) = run.filter(|_| !is_known) else { return LOOK_AGAIN };
        match self.store.is_asked_to_stop(&id, run).await {
            Ok(false) => LOOK,
            Ok(true) => {
                tracing::info!(session = %id, %run, "somebody has cancelled the turn");
                desk.state.lock().is_cancelled = true;
                halt.cancel();
                LOOK_AGAIN
            }
            Err(error) => {
                tracing::debug!(%error, "cannot look whether the turn was cancelled");
                LOOK_AGAIN
            }
        }
    }

    /// Stores the end of a turn, and tries for as long as the store may come back.
    pub(super) async fn finish(
        &self,
        desk: &Desk,
        leases: &mut Leases,
        ending: &Ending<'_>,
    ) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.patience;
        let mut pause = PAUSE;
        loop {
            match self.save(desk, leases, Some(ending)).await {
                Err(error) if error.is_retryable() && Instant::now() < deadline => {
                    tracing::warn!(%error, "the end of the turn could not be stored yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
                other => return other,
            }
        }
    }
}
