//! Works on one job after another.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Listener, Wanted, gates, pending::Pending, retry, run::News};
use crate::{
    agents::{
        Class, Failure, Limits, Outcome, Output, Provider, Surroundings, Turn, Usage,
        narrator::{Narrator, Subject},
        orchestrator::{GO_ON, Order, OrderError, Recorder, Scene, WhenBusy, WhenLost},
        session::{Refusal, Session, SessionId, Source, TurnRecord},
        store::{
            Change, SessionStore, StoreError, Version,
            journal::{End, Job, Try},
        },
    },
    bus::{
        Event,
        event::{
            Source as EventSource, Stamp, ids,
            payload::{
                Payload as _,
                agent::{AgentError, AgentPromptFailed, AgentResponse, FailedAttempt},
            },
            registry,
        },
    },
};

/// How long to wait where somebody else is at work, or the store is away.
const BUSY: Duration = Duration::from_secs(1);
const AWAY: Duration = Duration::from_secs(5);
/// Other processes take part in the same journal.
const LOOK: Duration = Duration::from_secs(1);
/// How often what an agent says is written to the journal.
const FLUSH: Duration = Duration::from_millis(200);

/// Works until `stop` is cancelled; what is under way then goes on until `halt` is.
pub(super) async fn work(
    listener: &Listener,
    news: &News,
    (stop, halt): (&CancellationToken, &CancellationToken),
) {
    let holder = listener.orchestrator.holder.to_text();
    while !stop.is_cancelled() {
        // Before it is claimed, so that no more is taken in meanwhile.
        let busy = news.begin();
        match claim(listener, news, &holder).await {
            Ok(Some(job)) => {
                work_on(listener, job, news, halt).await;
                drop(busy);
                // Its session's next prompt may begin now.
                news.ring();
            }
            Ok(None) => {
                drop(busy);
                wait(listener, news, stop).await;
            }
            Err(error) => {
                drop(busy);
                warn!(%error, "cannot look for work");
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(AWAY) => {}
                }
            }
        }
    }
}

async fn claim(listener: &Listener, news: &News, holder: &str) -> Result<Option<Job>, StoreError> {
    let keeper = gates::Keeper::new(listener).await?;
    let claim = listener.journal.claim(holder, &keeper).await?;
    news.gates_are_shut(claim.shut);
    Ok(claim.job)
}

/// Until there may be something to do.
async fn wait(listener: &Listener, news: &News, stop: &CancellationToken) {
    let now = listener.orchestrator.clock.now();
    let due = listener.journal.next_due().await.ok().flatten();
    let until =
        due.map_or(LOOK, |due| Duration::try_from(due.duration_since(now)).unwrap_or_default().min(LOOK));
    tokio::select! {
        () = stop.cancelled() => {}
        () = news.jobs.notified() => {}
        () = tokio::time::sleep(until) => {}
    }
}

async fn work_on(listener: &Listener, job: Job, news: &News, halt: &CancellationToken) {
    let (key, name) = (job.key.clone(), job.message.request.provider.clone());
    let prepared = prepare(listener, &job).await;
    let (provider, session) = match prepared {
        Ok(Ok(prepared)) => prepared,
        Ok(Err(failure)) => return settled(&key, give_up(listener, job, &failure).await),
        Err(error) => return settled(&key, put_off(listener, job, AWAY, &error.to_string()).await),
    };
    let shares_directory = listener.settings.shares_directory;
    let order = Order { shares_directory, ..order(&job, &session) };
    let subject = subject(&job, provider, &session);
    let recorder = JobRecorder {
        listener,
        began: Instant::now(),
        halt: halt.clone(),
        state: Mutex::new(State {
            job,
            narrator: Narrator::new(subject, listener.source.clone()),
            pending: Pending::default(),
            limited_until: None,
            plan: None,
        }),
    };
    let timeout = recorder.state.lock().job.message.request.timeout_s;
    let limits =
        Limits { total: timeout.map_or(listener.limits.total, Duration::from_secs), ..listener.limits };
    let surroundings =
        Surroundings { groups: &listener.groups, variables: &listener.variables, limits, mark: None };
    let scene = Scene {
        provider,
        customs: &listener.customs,
        source: Source::Bus,
        surroundings,
        recorder: &recorder,
    };
    let working = Box::pin(listener.orchestrator.work(scene, &order, halt, |output| recorder.hear(&output)));
    let flushing = async {
        loop {
            tokio::time::sleep(FLUSH).await;
            recorder.flush(news).await;
        }
    };
    let result = tokio::select! {
        result = working => result,
        () = flushing => return,
    };
    recorder.tell_limit().await;
    let job = recorder.state.into_inner().job;
    let outcome = match result {
        Ok(done) => {
            gates::tell(listener, &name, done.outcome.verdict.as_ref().copied()).await;
            done.stored
        }
        Err(error) => {
            // Whoever was let through says that nothing came of it.
            let nothing = Failure::new(Class::Cancelled, "it did not begin");
            gates::tell(listener, &name, Err(&nothing)).await;
            after_error(listener, job, error).await
        }
    };
    settled(&key, outcome);
}

fn settled(key: &str, result: Result<(), StoreError>) {
    match result {
        Ok(()) => {}
        Err(StoreError::Fenced { .. }) => warn!(key, "somebody else has taken the work over"),
        // Its worker is us, and we live: it is taken up at the next start.
        Err(error) => warn!(key, %error, "what came of a prompt could not be stored"),
    }
}

type Prepared<'a> = (&'a dyn Provider, Session);

/// The agent and the session of a job; the session is made if need be.
async fn prepare<'a>(listener: &'a Listener, job: &Job) -> Result<Result<Prepared<'a>, Failure>, StoreError> {
    let request = &job.message.request;
    let provider = match listener.agents.by_name(&request.provider) {
        Ok(provider) => provider,
        Err(failure) => return Ok(Err(failure)),
    };
    let id = match SessionId::parse(&job.session) {
        Ok(id) => id,
        Err(failure) => return Ok(Err(failure)),
    };
    let store = &listener.orchestrator.store;
    if let Some(stored) = store.get(&id).await? {
        let session = stored.session;
        if request.directory.as_ref().is_some_and(|wanted| wanted.display().to_string() != session.directory)
        {
            let message = format!("session {id} belongs to another directory, {}", session.directory);
            return Ok(Err(Failure::new(Class::BadRequest, message)));
        }
        // It may have been made by hand, in a directory that messages may not use.
        let roots = &listener.settings.rules.roots;
        if !roots.iter().any(|root| Path::new(&session.directory).starts_with(root)) {
            let message =
                format!("session {id} works in {}, which is in none of listen.roots", session.directory);
            return Ok(Err(Failure::new(Class::Denied, message)));
        }
        return Ok(Ok((provider, session)));
    }
    if matches!(request.wanted, Wanted::Existing(_)) {
        return Ok(Err(Failure::new(Class::SessionNotFound, format!("there is no session {id} any more"))));
    }
    let root = request.directory.as_ref().or(listener.settings.rules.roots.first());
    let Some(directory) = root else {
        return Ok(Err(Failure::new(Class::Denied, "listen.roots names no directory")));
    };
    let now = listener.orchestrator.clock.now();
    let mut session = Session::new(id, provider.name(), &directory.display().to_string(), now);
    session.source = Source::Bus;
    session.tags.extend(request.tags.iter().cloned());
    match store.create(&session).await {
        Ok(_) => Ok(Ok((provider, session))),
        Err(error) => Err(error),
    }
}

fn order(job: &Job, session: &Session) -> Order {
    let request = &job.message.request;
    let goes_on = job.message.was_broken_off && session.native_id.is_some();
    let prompt = if goes_on { GO_ON.to_owned() } else { request.prompt.clone() };
    let turn = Turn {
        model: request.model.clone(),
        access: request.access,
        ..Turn::new(prompt, &session.directory)
    };
    Order {
        session: session.id.clone(),
        turn,
        run: job.run,
        correlation_ids: request.correlation_ids.clone(),
        attempt: job.attempt,
        key: Some(job.key.clone()),
        wishes: request.wishes.clone(),
        when_busy: WhenBusy::Fail,
        when_lost: WhenLost::Fail,
        shares_directory: false,
    }
}

fn subject(job: &Job, provider: &dyn Provider, session: &Session) -> Subject {
    let request = &job.message.request;
    Subject {
        provider: provider.name().to_owned(),
        kind: provider.kind(),
        session_id: session.id.to_string(),
        directory: session.directory.clone(),
        prompt: request.prompt.clone(),
        correlation_ids: request.correlation_ids.clone(),
        attempt: job.attempt,
    }
}

/// What an order that was not worked on means for its job.
async fn after_error(listener: &Listener, job: Job, error: OrderError) -> Result<(), StoreError> {
    match error {
        OrderError::Busy { .. } => put_off(listener, job, BUSY, "somebody else is at work").await,
        OrderError::Stopped(_) => put_off(listener, job, Duration::ZERO, "stopped").await,
        OrderError::Refused(Refusal::Ended { .. }) => {
            give_up(listener, job, &Failure::new(Class::InvalidRequest, error.to_string())).await
        }
        OrderError::Answered(number) => answered(listener, job, number).await,
        // The day's, which was used up since the gate let it through: the gate knows when it goes on.
        OrderError::Budget(failure) if failure.retry_after.is_some() => {
            put_off(listener, job, Duration::ZERO, &failure.message).await
        }
        OrderError::Budget(failure) => give_up(listener, job, &failure).await,
        OrderError::NoSession(_) => {
            give_up(listener, job, &Failure::new(Class::SessionNotFound, error.to_string())).await
        }
        OrderError::Lost(StoreError::Gone(id)) => {
            let message = format!("session {id} was removed while it was being worked on");
            give_up(listener, job, &Failure::new(Class::Cancelled, message)).await
        }
        OrderError::Store(inner) if !inner.is_retryable() => {
            give_up(listener, job, &Failure::new(Class::Unknown, inner.to_string())).await
        }
        OrderError::Lost(_) | OrderError::Refused(_) | OrderError::Store(_) => {
            put_off(listener, job, AWAY, &error.to_string()).await
        }
    }
}

/// Later, as if nothing had been tried.
async fn put_off(listener: &Listener, job: Job, wait: Duration, why: &str) -> Result<(), StoreError> {
    tracing::debug!(key = job.key, why, ?wait, "a prompt waits");
    let not_before = listener.orchestrator.clock.now().checked_add(wait).unwrap_or(Timestamp::MAX);
    listener.journal.end(&job, None, (End::Again { not_before, counts: false }, &[])).await.map(drop)
}

/// Never: the failure is told, and the prompt goes to the dead letters.
pub(super) async fn give_up(listener: &Listener, job: Job, failure: &Failure) -> Result<(), StoreError> {
    let voice = (&listener.source, listener.settings.queue.as_str());
    let events = last_words(&job, failure, voice, || stamp(listener));
    listener.journal.end(&job, None, (End::Dead, &events)).await.map(drop)
}

/// What is told of a prompt that is given up, by whom, and in which queue it dies.
pub(super) fn last_words(
    job: &Job,
    failure: &Failure,
    (source, queue): (&EventSource, &str),
    stamp: impl Fn() -> Stamp,
) -> Vec<Event> {
    let outcome = Outcome::refused(failure.clone());
    let mut narrator = Narrator::new(told_of(job), source.clone());
    let mut events = narrator.end(&outcome, Duration::ZERO, &stamp);
    events.push(obituary(job, failure, (source, queue), stamp()));
    settle_ids(job, &mut events);
    events
}

/// Ends a job that was answered on another machine, or by somebody who died before the journal heard of it.
async fn answered(listener: &Listener, job: Job, number: u64) -> Result<(), StoreError> {
    let turns = match SessionId::parse(&job.session) {
        Ok(id) => listener.orchestrator.store.turns(&id, number, 1).await?,
        Err(_) => Vec::new(),
    };
    match turns.into_iter().next() {
        Some(turn) => conclude(listener, job, &turn).await,
        None => {
            let message = format!("turn {number} of session {} has answered it, and is gone", job.session);
            give_up(listener, job, &Failure::new(Class::SessionNotFound, message)).await
        }
    }
}

/// The events that end a job have the same ids wherever they are made, so that who has seen one knows the other.
fn settle_ids(job: &Job, events: &mut [Event]) {
    for event in events {
        let name = event.event_type.as_str();
        if [AgentResponse::TYPE, AgentError::TYPE, AgentPromptFailed::TYPE].contains(&name) {
            event.event_id = ids::deterministic(name, &job.key);
        }
    }
}

/// Ends a job whose turn was stored by somebody who died right after.
pub(super) async fn conclude(listener: &Listener, job: Job, turn: &TurnRecord) -> Result<(), StoreError> {
    let verdict = match &turn.failure_class {
        None => Ok(()),
        Some(class) => {
            let class = Class::ALL.into_iter().find(|known| known.name() == class).unwrap_or(Class::Unknown);
            Err(Failure::new(class, turn.words.failure.clone().unwrap_or_default()))
        }
    };
    if let Err(failure) = verdict {
        return give_up(listener, job, &failure).await;
    }
    let outcome = Outcome {
        native_id: None,
        text: turn.words.response.clone(),
        usage: Usage::default(),
        verdict,
        warning: None,
    };
    let took = Duration::try_from(turn.ended_at.duration_since(turn.began_at)).unwrap_or_default();
    let mut narrator = Narrator::new(told_of(&job), listener.source.clone());
    let mut events = narrator.end(&outcome, took, || stamp(listener));
    settle_ids(&job, &mut events);
    listener.journal.end(&job, None, (End::Done, &events)).await.map(drop)
}

/// Of a job whose session is not at hand.
fn told_of(job: &Job) -> Subject {
    let request = &job.message.request;
    Subject {
        provider: request.provider.clone(),
        kind: "custom",
        session_id: job.session.clone(),
        directory: request.directory.as_ref().map(|path| path.display().to_string()).unwrap_or_default(),
        prompt: request.prompt.clone(),
        correlation_ids: request.correlation_ids.clone(),
        attempt: job.attempt,
    }
}

/// Says that a prompt was given up, with the whole story; its way leads to the dead letters.
fn obituary(job: &Job, failure: &Failure, (source, queue): (&EventSource, &str), stamp: Stamp) -> Event {
    let history = job.message.history.iter();
    let payload = AgentPromptFailed {
        queue: queue.to_owned(),
        key: job.key.clone(),
        session_id: job.session.clone(),
        provider: job.message.request.provider.clone(),
        class: failure.class.name().to_owned(),
        error: failure.message.clone(),
        attempts: job.attempt,
        history: history
            .map(|one| FailedAttempt { at: one.at, class: one.class.clone(), error: one.error.clone() })
            .collect(),
        event: job.message.event.clone(),
    };
    let mut event = registry::event(stamp, source.clone(), &payload);
    event.correlation_ids.clone_from(&job.message.request.correlation_ids);
    event
}

pub(super) fn stamp(listener: &Listener) -> Stamp {
    Stamp { at: listener.orchestrator.clock.now(), ..Stamp::now() }
}

/// Stores the end of a turn with that of its job, and what is to be published about both.
struct JobRecorder<'a> {
    listener: &'a Listener,
    began: Instant,
    halt: CancellationToken,
    state: Mutex<State>,
}

struct State {
    job: Job,
    narrator: Narrator,
    pending: Pending,
    /// Until when the agent's service answers no more, if it has just said so.
    limited_until: Option<Timestamp>,
    /// What was decided, once: the end of a turn may be stored in more than one attempt.
    plan: Option<Arc<Plan>>,
}

struct Plan {
    job: Job,
    end: End,
    events: Vec<Event>,
}

impl std::fmt::Debug for JobRecorder<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JobRecorder").field("key", &self.state.lock().job.key).finish_non_exhaustive()
    }
}

impl JobRecorder<'_> {
    fn hear(&self, output: &Output) {
        let mut state = self.state.lock();
        if let Output::RateLimited { is_reached: true, resets_at: Some(until) } = output {
            state.limited_until = Some(*until);
        }
        let events = state.narrator.output(output, || stamp(self.listener));
        state.pending.add(events);
    }

    /// Tells the agent's gate of a limit that is reached.
    async fn tell_limit(&self) {
        let (provider, until) = {
            let mut state = self.state.lock();
            (state.job.message.request.provider.clone(), state.limited_until.take())
        };
        if let Some(until) = until {
            gates::limited(self.listener, &provider, until).await;
        }
    }

    /// Writes what was said to the journal.
    async fn flush(&self, news: &News) {
        self.tell_limit().await;
        let (key, events) = {
            let mut state = self.state.lock();
            (state.job.key.clone(), state.pending.take())
        };
        if events.is_empty() {
            return;
        }
        match self.listener.journal.append(&key, &events).await {
            Ok(()) => news.events.notify_one(),
            Err(error) => {
                warn!(%error, "what the agent says waits");
                self.state.lock().pending.put_back(events);
            }
        }
    }

    /// What becomes of the job. Of a turn that was cancelled: by a person, or by our own drain?
    fn plan(&self, outcome: &Outcome, by_person: bool) -> Arc<Plan> {
        let mut state = self.state.lock();
        if let Some(plan) = &state.plan {
            return Arc::clone(plan);
        }
        let left_out = state.pending.left_out();
        if left_out > 0 {
            warn!(events = left_out, "the journal was too slow for what the agent said; some was left out");
            state.narrator.left_out(left_out);
        }
        let mut events = state.pending.take();
        let now = self.listener.orchestrator.clock.now();
        let settings = &self.listener.settings;
        let end = match &outcome.verdict {
            Ok(()) => End::Done,
            // We stopped it ourselves, to go on with it at the next start.
            Err(failure) if failure.class == Class::Cancelled && self.halt.is_cancelled() && !by_person => {
                state.job.message.was_broken_off = true;
                End::Again { not_before: now, counts: false }
            }
            Err(failure) => {
                let error = failure.message.clone();
                state.job.message.history.push(Try {
                    at: now,
                    class: failure.class.name().to_owned(),
                    error,
                });
                let attempts = (state.job.attempt, settings.attempts);
                retry::after(failure, attempts, settings.backoff, (now, fastrand::f64()))
            }
        };
        match (end, &outcome.verdict) {
            (End::Again { not_before, .. }, Err(failure)) => {
                info!(key = state.job.key, class = %failure.class, %not_before, "a prompt is tried again");
            }
            (_, verdict) => {
                events.extend(state.narrator.end(outcome, self.began.elapsed(), || stamp(self.listener)));
                if let Err(failure) = verdict {
                    let voice = (&self.listener.source, settings.queue.as_str());
                    events.push(obituary(&state.job, failure, voice, stamp(self.listener)));
                }
                settle_ids(&state.job, &mut events);
            }
        }
        let plan = Arc::new(Plan { job: state.job.clone(), end, events });
        state.plan = Some(Arc::clone(&plan));
        plan
    }
}

#[async_trait]
impl Recorder for JobRecorder<'_> {
    async fn record(
        &self,
        store: &dyn SessionStore,
        change: &Change<'_>,
        outcome: &Outcome,
    ) -> Result<Version, StoreError> {
        let by_person = match change.turn {
            Some((turn, _)) => store.is_asked_to_stop(&change.session.id, turn.run).await?,
            None => false,
        };
        let plan = self.plan(outcome, by_person);
        let ended =
            self.listener.journal.end(&plan.job, Some((store, change)), (plan.end, &plan.events)).await?;
        Ok(ended.unwrap_or(change.expected))
    }
}
