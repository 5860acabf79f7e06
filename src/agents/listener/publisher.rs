//! Publishes what the journal holds, in order, until the bus has confirmed it.

use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::Listener;
use crate::{
    agents::{
        orchestrator::Holder,
        store::{StoreError, journal::Unsent},
    },
    bus::{Event, Publish},
};

/// They are kept here, encrypted, until the bus has them; an outbox of the bus would keep them as they are.
const OURS: Publish = Publish { require_route: false, never_deferred: true };
/// Events that are published in one go.
const BATCH: usize = 64;
/// How long to wait for the bus to come back: at first, and at most.
const PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(10);
/// Other processes write to the same journal: it is looked at this often even if nobody rings.
const LOOK: Duration = Duration::from_secs(1);

/// Publishes until `stop` is cancelled and nothing is left, or the bus is away then.
pub(super) async fn publish(listener: &Listener, news: &Notify, stop: &CancellationToken) {
    let mut pause = PAUSE;
    loop {
        let trouble = publish_some(listener).await;
        match trouble {
            Ok(0) if stop.is_cancelled() => return,
            Ok(0) => {
                pause = PAUSE;
                tokio::select! {
                    () = news.notified() => {}
                    () = tokio::time::sleep(LOOK) => {}
                    () = stop.cancelled() => {}
                }
            }
            Ok(_) => pause = PAUSE,
            Err(trouble) => {
                warn!(%trouble, "events wait in the journal");
                if stop.is_cancelled() {
                    return;
                }
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(MAX_PAUSE),
                }
            }
        }
    }
}

/// The oldest events, unless another process of this machine is about to publish them.
async fn take(listener: &Listener) -> Result<Vec<(i64, Event)>, StoreError> {
    let me = listener.orchestrator.holder.to_text();
    let mut dead = None;
    loop {
        match listener.journal.take_unsent(BATCH, &me, dead.as_deref()).await? {
            Unsent::Ours(events) => return Ok(events),
            Unsent::TakenBy(other) => {
                let is_dead = Holder::parse(&other).is_none_or(|holder| holder.is_dead());
                if !is_dead || dead.as_ref() == Some(&other) {
                    return Ok(Vec::new());
                }
                dead = Some(other);
            }
        }
    }
}

/// Publishes the oldest events; tells how many it has dealt with.
async fn publish_some(listener: &Listener) -> Result<usize, String> {
    let unsent = take(listener).await.map_err(|error| error.to_string())?;
    if unsent.is_empty() {
        return Ok(0);
    }
    let events: Vec<_> = unsent.iter().map(|(_, event)| event.clone()).collect();
    let mut done: Vec<i64> = unsent.iter().map(|(number, _)| *number).collect();
    match listener.bus.publish(&events, OURS).await {
        Ok(_) => {}
        Err(error) if error.is_about_the_event() => {
            done.clear();
            for (number, event) in &unsent {
                match listener.bus.publish(std::slice::from_ref(event), OURS).await {
                    Ok(_) => done.push(*number),
                    Err(error) if error.is_about_the_event() => {
                        // It would be refused for ever, and keep all others back.
                        error!(%error, event_id = %event.event_id, "the bus refuses an event; it is left out");
                        done.push(*number);
                    }
                    Err(error) => {
                        keep(listener, &done).await?;
                        return Err(error.to_string());
                    }
                }
            }
        }
        Err(error) => return Err(error.to_string()),
    }
    keep(listener, &done).await?;
    Ok(done.len())
}

/// Notes which events were published. If that fails they are published again, with the same ids.
async fn keep(listener: &Listener, done: &[i64]) -> Result<(), String> {
    listener.journal.sent(done).await.map_err(|error| error.to_string())
}
