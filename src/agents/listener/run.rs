//! Puts intake, workers and publisher together, takes up what was broken off, and ends them in order.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{Listener, OnOrphan, Settings, intake::take_in, publisher::publish, withdraw::CANCELLED, worker};
use crate::{
    agents::{
        Class, Failure,
        limits::Shut,
        orchestrator::{Holder, kill_leftovers},
        session::SessionId,
        store::{
            StoreError,
            journal::{End, Job, Try},
        },
    },
    bus::{BusError, WorkQueue},
};

/// How often work of other processes is looked after.
const ROUNDS: Duration = Duration::from_secs(10);
/// How long events are published once all work has ended.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// What is done for longer is forgotten, and with it that the same key is a duplicate.
const KEPT: jiff::SignedDuration = jiff::SignedDuration::from_hours(24 * 7);

/// How often it is looked whether nothing is to be done.
const LOOK: Duration = Duration::from_millis(100);

/// Rings when there is something to do.
#[derive(Debug)]
pub(super) struct News {
    pub(super) jobs: Notify,
    pub(super) events: Notify,
    /// There may be room for another prompt.
    pub(super) room: Notify,
    rung: Mutex<Instant>,
    busy: AtomicUsize,
    shut: Mutex<BTreeMap<String, Shut>>,
}

/// A worker at work.
pub(super) struct Busy<'a>(&'a News);

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::Relaxed);
        self.0.room.notify_one();
    }
}

impl News {
    fn new() -> Self {
        Self {
            jobs: Notify::new(),
            events: Notify::new(),
            room: Notify::new(),
            rung: Mutex::new(Instant::now()),
            busy: AtomicUsize::new(0),
            shut: Mutex::default(),
        }
    }

    /// A worker begins.
    pub(super) fn begin(&self) -> Busy<'_> {
        self.busy.fetch_add(1, Ordering::Relaxed);
        Busy(self)
    }

    /// Workers at work.
    pub(super) fn busy(&self) -> usize {
        self.busy.load(Ordering::Relaxed)
    }

    /// Agents whose gates were shut when work was looked for last. What has changed is logged.
    pub(super) fn gates_are_shut(&self, shut: BTreeMap<String, Shut>) {
        let mut known = self.shut.lock();
        let is_new =
            |(name, shut): &(&String, &Shut)| known.get(*name).is_none_or(|known| known.why != shut.why);
        for (provider, Shut { why, until }) in shut.iter().filter(is_new) {
            let until = until.map(tracing::field::display);
            info!(provider, reason = why.name(), until, "prompts for an agent wait");
        }
        if *known != shut {
            *known = shut;
            self.room.notify_one();
        }
    }

    /// Their names.
    pub(super) fn shut(&self) -> BTreeSet<String> {
        self.shut.lock().keys().cloned().collect()
    }

    pub(super) fn ring(&self) {
        *self.rung.lock() = Instant::now();
        self.jobs.notify_waiters();
        self.jobs.notify_one();
        self.events.notify_one();
    }
}

/// Where prompts come from.
#[derive(Clone, Copy)]
pub struct Queues<'a> {
    /// Those that were written.
    pub prompts: &'a dyn WorkQueue,
    /// Those that were spoken, where [`Settings::voice`](super::Settings::voice) says how to read them.
    pub voice: Option<&'a dyn WorkQueue>,
}

impl fmt::Debug for Queues<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").field("hears_voices", &self.voice.is_some()).finish_non_exhaustive()
    }
}

/// Why a listener could not go on.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The queue.
    #[error(transparent)]
    Bus(#[from] BusError),
    /// What is kept here.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Works on prompts until `stop` is cancelled, and then for as long as [`Settings::drain`](super::Settings::drain) says.
/// What is broken off then is gone on with at the next start.
///
/// # Errors
/// [`ListenError`], when the queue or the journal is broken beyond what time mends.
pub async fn listen(
    listener: &Listener,
    queues: Queues<'_>,
    stop: &CancellationToken,
) -> Result<(), ListenError> {
    take_up(listener).await?;
    sign_in(listener).await?;
    let (stop, halt, quiet) = (stop.child_token(), CancellationToken::new(), CancellationToken::new());
    let news = News::new();
    let intake = async {
        let result = take_in(listener, queues.prompts, &news, &stop).await;
        // Without a queue there is nothing to wait for.
        stop.cancel();
        result
    };
    let ears = async {
        let Some(queue) = queues.voice else { return Ok(()) };
        let result = take_in(listener, queue, &news, &stop).await;
        stop.cancel();
        result
    };
    let workers =
        join_all((0..listener.settings.workers).map(|_| worker::work(listener, &news, (&stop, &halt))));
    let over = CancellationToken::new();
    let working = async {
        workers.await;
        over.cancel();
    };
    let draining = async {
        stop.cancelled().await;
        info!("no more prompts are taken; waiting for those that are being worked on");
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep(listener.settings.drain) => halt.cancel(),
        }
    };
    let rounds = async {
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(ROUNDS) => {
                    if let Err(error) = take_up(listener).await {
                        warn!(%error, "cannot look after work that was broken off");
                    }
                    if let Err(error) = sign_in(listener).await {
                        warn!(%error, "cannot say that this listener lives");
                    }
                    news.ring();
                }
            }
        }
    };
    let idling = async {
        let Some(idle) = listener.settings.idle else { return };
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
            let is_quiet = news.rung.lock().elapsed() >= idle;
            if is_quiet && has_nothing_to_do(listener).await {
                stop.cancel();
            }
        }
    };
    let publishing = publish(listener, &news.events, &quiet);
    let all = async {
        let (prompts, voice, (), (), (), ()) = tokio::join!(intake, ears, working, draining, rounds, idling);
        quiet.cancel();
        news.events.notify_one();
        prompts.and(voice)
    };
    let last = async {
        quiet.cancelled().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    let (result, ()) = tokio::join!(all, async {
        tokio::select! {
            () = publishing => {}
            () = last => warn!("not all events could be published; the next start does"),
        }
    });
    if let Err(error) = listener.journal.sign_out(&listener.orchestrator.holder.to_text()).await {
        warn!(%error, "cannot say that this listener has ended");
    }
    Ok(result?)
}

/// Lets `agent status` know of us.
async fn sign_in(listener: &Listener) -> Result<(), StoreError> {
    let Settings { queue, workers, .. } = &listener.settings;
    listener.journal.sign_in(&listener.orchestrator.holder.to_text(), queue, *workers).await
}

/// Nothing waits: not in the queue, not in the journal.
async fn has_nothing_to_do(listener: &Listener) -> bool {
    let Ok(queues) = listener.bus.queues().await else { return false };
    let ours = [listener.settings.queue.clone(), listener.settings.voice_queue()];
    let waiting = queues.iter().filter(|info| ours.contains(&info.name));
    let waiting: u64 = waiting.map(|info| info.ready + info.leased.unwrap_or(0)).sum();
    let Ok(counts) = listener.journal.counts().await else { return false };
    waiting + counts.ready + counts.running + counts.unsent == 0
}

/// Decides about jobs whose worker is dead. Those of living processes are theirs.
pub(super) async fn take_up(listener: &Listener) -> Result<(), StoreError> {
    let before = listener.orchestrator.clock.now().checked_sub(KEPT).unwrap_or(jiff::Timestamp::MIN);
    listener.journal.tidy(before).await?;
    for job in listener.journal.running().await? {
        let is_dead = Holder::parse(&job.holder).is_none_or(|holder| holder.is_dead());
        if is_dead {
            let key = job.key.clone();
            match take_up_one(listener, job).await {
                // Somebody else was quicker.
                Err(StoreError::Fenced { .. }) => {}
                Err(error) => return Err(error),
                Ok(()) => info!(key, "took up work that was broken off"),
            }
        }
    }
    Ok(())
}

async fn take_up_one(listener: &Listener, mut job: Job) -> Result<(), StoreError> {
    let store = &listener.orchestrator.store;
    let session = match SessionId::parse(&job.session) {
        Ok(id) => store.get(&id).await?.map(|stored| stored.session),
        Err(_) => None,
    };
    if let Some(session) = &session {
        let last = store.turns(&session.id, session.prompt_count, 1).await?;
        if let Some(turn) = last.into_iter().find(|turn| turn.run == job.run) {
            // Its end was stored, and only the journal did not hear of it.
            return worker::conclude(listener, job, &turn).await;
        }
    }
    let run = session.as_ref().and_then(|session| session.run.clone()).filter(|run| run.id == job.run);
    if let Some(run) = &run {
        kill_leftovers(run).await;
    }
    if let Some(session) = &session
        && store.is_asked_to_stop(&session.id, job.run).await?
    {
        // Somebody did not want it to go on, and whoever worked on it died before it could stop it.
        return worker::give_up(listener, job, &Failure::new(Class::Cancelled, CANCELLED)).await;
    }
    let now = listener.orchestrator.clock.now();
    let failure = Failure::new(Class::Orphaned, "whoever worked on it is gone");
    job.message.history.push(Try {
        at: now,
        class: failure.class.name().to_owned(),
        error: failure.message.clone(),
    });
    let knows_conversation = session.is_some_and(|session| session.native_id.is_some()) && run.is_some();
    let is_last = job.attempt >= listener.settings.attempts.get();
    match listener.settings.on_orphan {
        OnOrphan::Fail => worker::give_up(listener, job, &failure).await,
        _ if is_last => worker::give_up(listener, job, &failure).await,
        policy => {
            job.message.was_broken_off = policy == OnOrphan::Resume && knows_conversation;
            let end = End::Again { not_before: now, counts: true };
            listener.journal.end(&job, None, (end, &[])).await.map(drop)
        }
    }
}
