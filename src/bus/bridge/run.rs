//! The copying itself: by cursor from a history, by queue from a bus without one. Runs where it is called, until the
//! token is cancelled.

use std::{num::NonZeroU32, sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{
    super::{
        Body, BusError, Delivery, Event, EventBus, EventStream, Item, Pattern, Position, Publish, Query,
        QueueSpec, Received, Start, Subscription, WorkQueue, backoff::Backoff,
    },
    BridgeOptions, Progress,
};

/// The most bytes that one step copies; one event always fits.
const MAX_STEP_BYTES: usize = 4 << 20;

/// Work that the bridge has in hand comes back after this if the bridge hangs.
const VISIBILITY: Duration = Duration::from_secs(300);

/// How long to wait for more once something is in hand.
const GATHER: Duration = Duration::from_millis(2);

/// Pauses while either side is away.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(30));

/// What is kept as the cursor: which bus the position belongs to, and the position.
#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    from: String,
    after: u64,
}

/// Copies until the token is cancelled, or to the end of the history if [`BridgeOptions::follow`] is false.
///
/// # Errors
/// What can't be mended by waiting: a bus that refuses access, a damaged file, a cursor that belongs to another source,
/// [`BusError::Unsupported`] where the two can't be bridged.
pub async fn run(
    from: &dyn EventBus,
    to: &dyn EventBus,
    options: &BridgeOptions,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    let mut backoff = BACKOFF;
    let mut random = fastrand::Rng::new();
    loop {
        let before = progress.now();
        // Each time anew: what a broker can do is known for sure when it is there.
        let (source, destination) = (from.capabilities(), to.capabilities());
        let ended = match (source.history && destination.cursors, source.queues && options.follow) {
            // Cancel safe: nothing is remembered but the cursor.
            (true, _) => match stop.run_until_cancelled(by_cursor(from, to, options, progress)).await {
                Some(ended) => ended,
                None => return Ok(()),
            },
            (false, true) => by_queue(from, to, options, progress, stop).await,
            (false, false) => Err(BusError::Unsupported {
                what: "bridging these two",
                bus: name_of(from).await?,
                instead: "it needs a history here and a cursor there (sqlite, RabbitMQ), or a queue here; to write a \
                          file use `godctl bus export`"
                    .to_owned(),
            }),
        };
        let error = match ended {
            Ok(()) => return Ok(()),
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(error),
        };
        let after = progress.now();
        if (after.copied, after.duplicates) != (before.copied, before.duplicates) {
            backoff.reset();
        }
        Progress::add(&progress.retries, 1);
        let pause = backoff.pause(&mut random);
        warn!(%error, ?pause, bridge = options.name, "a side of the bridge is away");
        if stop.run_until_cancelled(tokio::time::sleep(pause)).await.is_none() {
            return Ok(());
        }
    }
}

async fn name_of(bus: &dyn EventBus) -> Result<String, BusError> {
    Ok(bus.stats().await?.bus)
}

async fn by_cursor(
    from: &dyn EventBus,
    to: &dyn EventBus,
    options: &BridgeOptions,
    progress: &Progress,
) -> Result<(), BusError> {
    let source = name_of(from).await?;
    let start = match to.cursor(&options.name).await? {
        None => options.start,
        Some(text) => {
            let after = continue_after(from, &source, &text, &options.name).await?;
            progress.position.store(after, Ordering::Relaxed);
            Start::After(Position(after))
        }
    };
    let subscription = Subscription {
        patterns: options.patterns.clone(),
        start,
        follow: options.follow,
        consumer: "bridge",
    };
    let mut stream = from.subscribe(subscription).await?;
    let keep = async |events: &[Event], after: u64| {
        let cursor = serde_json::to_string(&Cursor { from: source.clone(), after }).unwrap_or_default();
        let published = to.publish_with_cursor(events, &options.name, &cursor).await?;
        progress.published(&published);
        progress.position.store(after, Ordering::Relaxed);
        Ok(())
    };
    while let Some(Step { events, positions, end, at }) = step(&mut *stream, options.batch, progress).await? {
        match keep(&events, end).await {
            Ok(()) => {}
            // One of them is at fault, so each goes alone.
            Err(BusError::TooLarge { .. } | BusError::Invalid(_) | BusError::Unroutable(_)) => {
                for (event, position) in events.iter().zip(positions) {
                    match keep(std::slice::from_ref(event), position).await {
                        Err(error) if error.is_about_the_event() => {
                            Progress::add(&progress.skipped, 1);
                            warn!(id = %event.event_id, %error, "the destination does not take an event; skipped");
                        }
                        kept => kept?,
                    }
                }
                keep(&[], end).await?;
            }
            Err(error) => return Err(error),
        }
        progress.reached(at);
    }
    Ok(())
}

/// The position that a cursor tells, if it can be the one of this source.
async fn continue_after(from: &dyn EventBus, source: &str, text: &str, name: &str) -> Result<u64, BusError> {
    let conflict = |reason| BusError::Conflict { what: format!("bridge '{name}'"), reason };
    let cursor: Cursor = serde_json::from_str(text)
        .map_err(|error| conflict(format!("its cursor is unreadable ({error}); use another name")))?;
    if cursor.from != source {
        return Err(conflict(format!("it copies from {}, not from {source}; use another name", cursor.from)));
    }
    let newest = Query { patterns: vec![Pattern::all()], before: None, since: None, limit: 1 };
    let newest = from.page(newest).await?.last().and_then(|newest| newest.position);
    match newest {
        // Positions never go down, so this is not the history that was copied.
        Some(newest) if newest.0 < cursor.after => Err(conflict(format!(
            "it has copied up to position {} of {source}, whose newest is {newest}; the source was replaced, so use \
             another name",
            cursor.after
        ))),
        _ => Ok(cursor.after),
    }
}

/// What is copied at once.
struct Step {
    events: Vec<Event>,
    /// The place of each.
    positions: Vec<u64>,
    /// The place of the last message, which need not be an event.
    end: u64,
    /// When the source took it.
    at: Option<Timestamp>,
}

/// What is there now, at least one message, at most `batch`; `None` at the end of the history.
async fn step(
    stream: &mut dyn EventStream,
    batch: usize,
    progress: &Progress,
) -> Result<Option<Step>, BusError> {
    let (mut events, mut positions, mut bytes) = (Vec::new(), Vec::new(), 0);
    let (mut end, mut at) = (None, None);
    while events.len() < batch.max(1) && bytes < MAX_STEP_BYTES {
        let next = match end {
            None => stream.next().await?,
            // Something is in hand: take what comes at once, and leave the rest for the next step.
            Some(_) => match tokio::time::timeout(GATHER, stream.next()).await {
                Ok(next) => next?,
                Err(_) => break,
            },
        };
        match next {
            Some(Item::Event(received)) => {
                let position = received.position.map(|position| position.0).or(end).unwrap_or_default();
                end = Some(position);
                at = received.at.or(at);
                match received.body {
                    Body::Event(event) => {
                        bytes += event.to_json().len();
                        events.push(event);
                        positions.push(position);
                    }
                    Body::Unparsed(unparsed) => skip(progress, &unparsed.reason),
                }
            }
            Some(Item::Gap { missed, reason }) => {
                Progress::add(&progress.gaps, 1);
                warn!(?missed, reason, "events are missing at the source");
            }
            Some(Item::CaughtUp) => debug!("the history is copied"),
            None if end.is_none() => return Ok(None),
            None => break,
        }
    }
    Ok(end.map(|end| Step { events, positions, end, at }))
}

fn skip(progress: &Progress, reason: &str) {
    Progress::add(&progress.skipped, 1);
    warn!(reason, "a message is no event and is not copied");
}

async fn by_queue(
    from: &dyn EventBus,
    to: &dyn EventBus,
    options: &BridgeOptions,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    let queue = from
        .queue(QueueSpec {
            visibility: VISIBILITY,
            max_attempts: NonZeroU32::MAX,
            prefetch: u16::try_from(options.batch).unwrap_or(u16::MAX).max(1),
            // An event under two names is two messages, and both are copied.
            dedupe: false,
            consumer: format!("bridge {}", options.name),
            ..QueueSpec::new(format!("godctl.bridge.{}", options.name), options.patterns.clone())
        })
        .await?;
    let copied = work_off(&*queue, to, options.batch, progress, stop).await;
    queue.drain().await;
    copied
}

async fn work_off(
    queue: &dyn WorkQueue,
    to: &dyn EventBus,
    batch: usize,
    progress: &Progress,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    loop {
        let mut taken: Vec<Delivery> = Vec::new();
        while taken.len() < batch.max(1) {
            let wait = (!taken.is_empty()).then_some(GATHER);
            let next = async {
                match wait {
                    None => queue.next().await,
                    Some(wait) => tokio::time::timeout(wait, queue.next()).await.unwrap_or(Ok(None)),
                }
            };
            // Cancel safe: what a cancelled call leased goes to the next one, or back when the queue is drained.
            match stop.run_until_cancelled(next).await {
                Some(Ok(Some(delivery))) => taken.push(delivery),
                Some(Ok(None)) => break,
                Some(Err(error)) => return give_back(taken, error).await,
                None => break,
            }
        }
        if taken.is_empty() {
            return Ok(());
        }
        if let Err((rest, error)) = copy(taken, to, progress).await {
            return give_back(rest, error).await;
        }
        if stop.is_cancelled() {
            return Ok(());
        }
    }
}

/// Publishes and acknowledges. Gives back what is left when the destination fails.
async fn copy(
    taken: Vec<Delivery>,
    to: &dyn EventBus,
    progress: &Progress,
) -> Result<(), (Vec<Delivery>, BusError)> {
    let (mut good, mut events) = (Vec::new(), Vec::new());
    for delivery in taken {
        match &delivery.received {
            Received { body: Body::Event(event), .. } => {
                events.push(event.clone());
                good.push(delivery);
            }
            Received { body: Body::Unparsed(unparsed), .. } => {
                skip(progress, &unparsed.reason);
                let reason = unparsed.reason.clone();
                lost(delivery.lease.dead(&reason).await);
            }
        }
    }
    let at = good.iter().filter_map(|delivery| delivery.received.at).max();
    match to.publish(&events, Publish::default()).await {
        Ok(published) => progress.published(&published),
        Err(error) if error.is_about_the_event() && good.len() == 1 => {
            Progress::add(&progress.skipped, 1);
            warn!(%error, "the destination does not take an event; it is among the dead letters");
            for delivery in good {
                lost(delivery.lease.dead(&error.to_string()).await);
            }
            return Ok(());
        }
        Err(error) if error.is_about_the_event() => {
            // One by one, so that only what is at fault is left behind.
            let mut left = good.into_iter();
            while let Some(delivery) = left.next() {
                if let Err((mut rest, error)) = Box::pin(copy(vec![delivery], to, progress)).await {
                    rest.extend(left);
                    return Err((rest, error));
                }
            }
            return Ok(());
        }
        Err(error) => return Err((good, error)),
    }
    progress.reached(at);
    // Together: each waits for the broker's answer.
    for acked in join_all(good.iter().map(|delivery| delivery.lease.ack())).await {
        lost(acked);
    }
    Ok(())
}

/// A lease that could not be settled comes back by itself; the destination knows the event then.
fn lost(settled: Result<(), BusError>) {
    if let Err(error) = settled {
        debug!(%error, "a message will come again");
    }
}

async fn give_back(taken: Vec<Delivery>, error: BusError) -> Result<(), BusError> {
    for delivery in taken {
        lost(delivery.lease.release().await);
    }
    Err(error)
}
