//! Tells the bus what happens, as well as it can: a bus that is away stops no flow.

use std::time::Duration;

use tokio::{sync::mpsc, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::super::super::{Context, publish::Link};
use crate::bus::{BusError, Event, Publish, backoff::Backoff};

/// Events that wait for the bus; one more is left out and counted.
const WAITING: usize = 4_096;
/// What was asked and answered is kept encrypted in the sessions; an outbox of the bus would keep it as it is.
const DIRECTLY: Publish = Publish { require_route: false, never_deferred: true };
/// Events published together.
const BATCH: usize = 64;
/// Between two attempts to reach a bus that is away.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For what is left when the run is over.
const LAST_MOMENTS: Duration = Duration::from_secs(5);

/// Where events go in.
#[derive(Debug)]
pub(super) struct Herald {
    events: mpsc::Sender<Event>,
    left_out: u64,
}

impl Herald {
    pub(super) fn new() -> (Self, mpsc::Receiver<Event>) {
        let (events, tap) = mpsc::channel(WAITING);
        (Self { events, left_out: 0 }, tap)
    }

    /// Never waits.
    pub(super) fn tell(&mut self, event: Event) {
        if self.events.try_send(event).is_err() {
            self.left_out += 1;
        }
    }

    pub(super) fn say_what_was_lost(&self) {
        if self.left_out > 0 {
            warn!(events = self.left_out, "the bus was too slow for what happened; some was not published");
        }
    }
}

/// Publishes until `closing` is cancelled and nothing is left, or a while after.
pub(super) async fn publish(
    context: &Context,
    mut events: mpsc::Receiver<Event>,
    closing: &CancellationToken,
) {
    let mut link = None;
    let mut batch = Vec::new();
    let publishing = all(context, (&mut events, &mut batch), &mut link, closing);
    let too_long = async {
        closing.cancelled().await;
        sleep(LAST_MOMENTS).await;
    };
    tokio::select! {
        () = publishing => {}
        () = too_long => {}
    }
    events.close();
    let mut lost = batch.len();
    while events.try_recv().is_ok() {
        lost += 1;
    }
    if lost > 0 {
        warn!(bus = %context.config.bus.url, events = lost, "the bus is away; not all that happened is published");
    }
    if let Some(link) = link.take() {
        Link::close(link).await;
    }
}

async fn all(
    context: &Context,
    (events, batch): (&mut mpsc::Receiver<Event>, &mut Vec<Event>),
    link: &mut Option<Link>,
    closing: &CancellationToken,
) {
    let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
    let mut random = fastrand::Rng::new();
    loop {
        if batch.is_empty() {
            tokio::select! {
                biased;
                _ = events.recv_many(batch, BATCH) => {}
                () = closing.cancelled() => {
                    // What is in it is still given.
                    events.close();
                    events.recv_many(batch, BATCH).await;
                }
            }
        }
        if batch.is_empty() {
            return;
        }
        match send(context, batch, link).await {
            Ok(()) => backoff.reset(),
            Err(error) => {
                if backoff.failures() == 0 {
                    warn!(bus = %context.config.bus.url, %error, "cannot publish what happens; trying again");
                }
                if matches!(error, BusError::Closed) {
                    *link = None;
                }
                let pause = backoff.pause(&mut random);
                sleep(pause).await;
            }
        }
    }
}

/// Publishes a batch and empties it; what the bus refuses for good is left out.
async fn send(context: &Context, batch: &mut Vec<Event>, link: &mut Option<Link>) -> Result<(), BusError> {
    let link = match link {
        Some(link) => link,
        None => link.insert(Link::open(context).await?),
    };
    match link.bus.publish(batch, DIRECTLY).await {
        Ok(_) => batch.clear(),
        Err(error) if error.is_about_the_event() => {
            while let Some(event) = batch.first() {
                match link.bus.publish(std::slice::from_ref(event), DIRECTLY).await {
                    Err(error) if error.is_about_the_event() => {
                        warn!(%error, event_type = %event.event_type, "the bus does not take an event");
                    }
                    Err(error) => return Err(error),
                    Ok(_) => {}
                }
                batch.remove(0);
            }
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
