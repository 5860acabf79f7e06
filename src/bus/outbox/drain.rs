//! Sends what waits in the outbox, oldest first, by one process at a time. The task wakes up when something comes to
//! wait, when the connection is back, and else after a pause that grows; it ends with `Shutdown` or with the bus.

use std::{
    fs::{File, TryLockError},
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{sync::watch, time::sleep};
use tracing::{debug, error, info, warn};

use super::{
    super::{
        BusError, Event, Publish, SharedBus,
        backoff::Backoff,
        breaker::Outcome,
        event::payload::{OutboxDrained, OutboxRefused},
    },
    Opened,
    bus::{Core, is_away},
    table::{self, Waiting},
};

/// Events that are published at once, and their bytes. Each batch costs a commit of the file, for which whoever fills
/// the outbox competes: in small batches a busy outbox would never become empty.
const BATCH: i64 = 512;
const BATCH_BYTES: usize = 4 << 20;

/// The first pause after a failure, at most.
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How soon to look again at an outbox that another process drains, which may have died; to look is to try a lock.
const OTHERS_DRAIN: Duration = Duration::from_millis(100);

/// What was sent since the outbox was last empty, by this process.
#[derive(Debug, Default)]
pub(super) struct Tally {
    sent: u64,
    failed: u64,
    began: Option<Instant>,
}

/// How far a drain came.
enum Reached {
    /// Nothing waits.
    Empty,
    /// Another process drains.
    Locked,
    /// The circuit is open for this long.
    Refused(Duration),
    /// The broker is away, or won't have us.
    Failed,
}

/// The task.
pub(super) async fn run(core: Arc<Core>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, core.options.retry);
    let mut random = fastrand::Rng::new();
    let mut online = None;
    while !core.stop.is_cancelled() {
        let failed = core.failed.swap(false, Ordering::AcqRel);
        let reached = if failed { Ok(Reached::Failed) } else { drain(&core).await };
        let (pause, patient) = match reached {
            Ok(Reached::Empty) => {
                backoff.reset();
                (core.options.retry, false)
            }
            Ok(Reached::Locked) => (OTHERS_DRAIN, false),
            Ok(Reached::Refused(left)) => (left.min(core.options.retry), true),
            Ok(Reached::Failed) => (backoff.pause(&mut random), true),
            Err(error) => {
                error!(%error, "cannot read or write the outbox");
                (core.options.retry, true)
            }
        };
        if online.is_none() {
            online = core.opened.get().and_then(|opened| opened.online.clone());
        }
        tokio::select! {
            () = core.stop.cancelled() => {}
            // After a failure, one more event that waits is no reason to try again earlier.
            () = core.bell.notified(), if !patient => {}
            () = came_online(&mut online) => core.tell_if_news(Outcome::Success, "").await,
            () = sleep(pause) => {}
        }
    }
    core.ended.cancel();
}

/// Waits until the connection is back; for ever if nobody can tell.
async fn came_online(online: &mut Option<watch::Receiver<bool>>) {
    while let Some(signal) = online {
        match signal.changed().await {
            Ok(()) if *signal.borrow_and_update() => return,
            Ok(()) => {}
            Err(_) => *online = None,
        }
    }
    std::future::pending().await
}

/// Sends what waits if the broker is there, but not for long.
pub(super) async fn flush(core: &Core) {
    let all = async {
        while core.opened.get().is_some_and(Opened::is_online) {
            match drain(core).await {
                Ok(Reached::Locked) => sleep(Duration::from_millis(50)).await,
                Ok(Reached::Empty | Reached::Refused(_) | Reached::Failed) => break,
                Err(error) => {
                    warn!(%error, "cannot read or write the outbox");
                    break;
                }
            }
        }
    };
    let late = tokio::time::timeout(core.options.flush, all).await.is_err();
    match core.table.view().await {
        Ok(view) if view.waiting > 0 => {
            let (bus, waiting) = (core.broker.address(), view.waiting);
            info!(
                bus,
                waiting, late, "events wait in the outbox; the next godctl that uses this bus sends them"
            );
        }
        _ => {}
    }
}

/// Sends all that waits.
async fn drain(core: &Core) -> Result<Reached, BusError> {
    loop {
        if core.table.view().await?.waiting == 0 {
            // What waited may have been sent by another process; then that one tells.
            if !told(core).await? {
                return Ok(Reached::Empty);
            }
        }
        let Some(lock) = lock(core)? else { return Ok(Reached::Locked) };
        let reached = drain_locked(core).await;
        drop(lock);
        // Whatever was appended while the lock was still held found it held, so it is looked for again.
        if let Some(reached) = reached? {
            return Ok(reached);
        }
    }
}

/// The right to drain, if no other process has it. The system takes it back from a process that dies.
fn lock(core: &Core) -> Result<Option<File>, BusError> {
    let path = &core.lock;
    let failed = |error: std::io::Error| BusError::Storage {
        doing: format!("lock {}", path.display()),
        reason: error.to_string(),
    };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Sends until nothing waits (`None`) or the broker does not take it.
async fn drain_locked(core: &Core) -> Result<Option<Reached>, BusError> {
    loop {
        let batch = core.table.head(BATCH, BATCH_BYTES).await?;
        if batch.is_empty() {
            return Ok(None);
        }
        if let Some(left) = core.must_wait().await? {
            return Ok(Some(Reached::Refused(left)));
        }
        let bus = match core.link().await {
            Ok(opened) => &opened.bus,
            Err(error) => {
                if !is_away(&error) {
                    warn!(bus = core.broker.address(), %error, "cannot send what waits in the outbox");
                }
                return Ok(Some(Reached::Failed));
            }
        };
        core.tally.lock().began.get_or_insert_with(Instant::now);
        for part in batch.chunk_by(|one, next| !one.require_route && !next.require_route) {
            if let Err(error) = send(core, bus, part).await? {
                let outcome = if is_away(&error) { Outcome::Failure } else { Outcome::Unknown };
                if outcome == Outcome::Unknown {
                    warn!(bus = core.broker.address(), %error, "cannot send what waits in the outbox");
                }
                core.tell(outcome, &error.to_string()).await;
                return Ok(Some(Reached::Failed));
            }
        }
    }
}

/// Sends these events. The outer error is the outbox's, the inner one the broker's.
async fn send(core: &Core, bus: &SharedBus, part: &[Waiting]) -> Result<Result<(), BusError>, BusError> {
    let parsed: Result<Vec<Event>, String> = part.iter().map(|waiting| table::parse(&waiting.json)).collect();
    let require_route = part.iter().any(|waiting| waiting.require_route);
    let sent = match parsed {
        Ok(events) => bus.publish(&events, Publish { require_route, never_deferred: true }).await,
        Err(reason) => Err(BusError::Invalid(reason)),
    };
    match (sent, part) {
        (_, []) => Ok(Ok(())),
        (Ok(_), [first, ..]) => {
            let last = part.last().unwrap_or(first);
            core.table.sent(first.seq, last.seq).await?;
            core.tell_if_news(Outcome::Success, "").await;
            core.tally.lock().sent += part.iter().filter(|waiting| !waiting.own).count() as u64;
            Ok(Ok(()))
        }
        (Err(error), [only]) if error.is_about_the_event() => {
            error!(bus = core.broker.address(), %error, seq = only.seq, "the broker will never take this event; set aside");
            let dropped = core.table.set_aside(only.seq, error.to_string(), core.options.clock.now()).await?;
            if dropped > 0 {
                error!(dropped, "too many events were set aside; the oldest are gone");
            }
            core.tell_if_news(Outcome::Unknown, "").await;
            core.tally.lock().failed += u64::from(!only.own);
            Ok(Ok(()))
        }
        // One of them is at fault, so each goes alone.
        (Err(error), _) if error.is_about_the_event() => {
            debug!(%error, events = part.len(), "a batch was refused; sending its events one by one");
            for one in part {
                if let Err(error) = Box::pin(send(core, bus, std::slice::from_ref(one))).await? {
                    return Ok(Err(error));
                }
            }
            Ok(Ok(()))
        }
        (Err(error), _) => Ok(Err(error)),
    }
}

/// Says that the outbox is empty again, if it was this process that emptied it. These events wait in turn, but are
/// not counted, so that nothing is said about them.
async fn told(core: &Core) -> Result<bool, BusError> {
    let Tally { sent, failed, began } = std::mem::take(&mut *core.tally.lock());
    if sent + failed == 0 {
        return Ok(false);
    }
    let bus = core.broker.address();
    if let Some(refusals) = core.table.refusals().await? {
        core.announce(&OutboxRefused {
            bus: bus.clone(),
            refused: refusals.events,
            waiting: refusals.waiting,
            waiting_bytes: refusals.bytes,
            reason: refusals.reason,
        })
        .await;
    }
    info!(bus, sent, failed, "the outbox is empty again");
    let took_s = began.map_or(0.0, |began| began.elapsed().as_secs_f64());
    core.announce(&OutboxDrained { bus, sent, failed, took_s }).await;
    Ok(true)
}
