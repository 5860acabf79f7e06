//! Tells the bus what becomes of the parts, as `up.part.*` events. Best effort: supervision never waits for a bus.
//!
//! One task opens the bus, publishes in order what waits in a bounded channel, and ends when the [`Reporter`] is
//! finished. Events that have no room or that the bus refuses are counted and said in the log.

use std::{path::PathBuf, time::Duration};

use tokio::sync::{mpsc, oneshot};
use tracing::warn;

use super::supervise::{Change, Ending};
use crate::{
    bus::{
        BusError, Event, Publish, SharedBus, connect,
        event::{
            Source, Stamp,
            payload::{PartExited, PartFailed, PartReady, PartStarted, PartStopped},
            registry,
        },
    },
    cmd::Context,
    config,
    shutdown::Shutdown,
};

/// Events that wait for the bus.
const WAITING: usize = 256;
/// What the last events may take, all together.
const LAST_EVENTS: Duration = Duration::from_secs(3);

/// The way to the task that publishes.
#[derive(Debug)]
pub(super) struct Reporter {
    events: mpsc::Sender<Event>,
    done: oneshot::Receiver<()>,
    host: String,
    /// Events that had no room.
    dropped: u64,
}

impl Reporter {
    /// Starts the task. Must be called on a runtime.
    pub(super) fn start(context: &Context) -> Self {
        let (events, waiting) = mpsc::channel(WAITING);
        let (finished, done) = oneshot::channel();
        let mut link = Link {
            config: context.config.bus.clone(),
            data_dir: context.paths.data_dir.clone(),
            life: Shutdown::new(),
            bus: None,
            failed: 0,
        };
        context.shutdown.spawn("up-events", async move {
            link.publish_all(waiting).await;
            link.close().await;
            // Its end is the message.
            drop::<oneshot::Sender<()>>(finished);
        });
        Self { events, done, host: crate::bus::event::host(), dropped: 0 }
    }

    /// Hands over an event; without room it is dropped, counted and said.
    pub(super) fn tell(&mut self, part: &str, pid: Option<u32>, restarts: u32, change: Change) {
        let source = Source::new(self.host.clone(), "godctl-up", "service");
        let event = event(Stamp::now(), source, part, pid, restarts, change);
        if self.events.try_send(event).is_err() {
            self.dropped += 1;
            warn!(dropped = self.dropped, "an event was dropped, because the bus takes too long");
        }
    }

    /// Waits until the events are published, but not for long.
    pub(super) async fn finish(self) {
        let Self { events, done, .. } = self;
        drop(events);
        if tokio::time::timeout(LAST_EVENTS, done).await.is_err() {
            warn!("the last events were not published in time");
        }
    }
}

/// The bus, opened when the first event comes.
struct Link {
    config: config::Bus,
    data_dir: PathBuf,
    /// A root of its own: the bus has to outlive the signal that stops the parts.
    life: Shutdown,
    bus: Option<SharedBus>,
    /// Events that were not published.
    failed: u64,
}

impl Link {
    /// Publishes until the channel is closed.
    async fn publish_all(&mut self, mut waiting: mpsc::Receiver<Event>) {
        while let Some(event) = waiting.recv().await {
            if let Err(error) = self.publish(event).await {
                self.failed += 1;
                // Once is enough: what goes wrong with a bus tends to go on doing so.
                if self.failed == 1 {
                    warn!(%error, bus = %self.config.url, "cannot tell the bus about the parts");
                }
            }
        }
    }

    /// A bus that can't be opened is tried again with the next event.
    async fn publish(&mut self, event: Event) -> Result<(), BusError> {
        let bus = match &mut self.bus {
            Some(bus) => bus,
            none => none.insert(connect::connect(&self.config, &self.data_dir, &self.life).await?),
        };
        bus.publish(&[event], Publish::default()).await.map(drop)
    }

    async fn close(self) {
        let Self { config, life, bus, failed, .. } = self;
        if failed > 1 {
            warn!(failed, bus = %config.url, "events about the parts were not published");
        }
        if let Some(bus) = bus {
            bus.close().await;
        }
        if let Err(error) = life.finish(LAST_EVENTS).await {
            warn!(%error, "the bus ended with an error");
        }
    }
}

/// A change as an event. What never had a process has the process id 0.
fn event(stamp: Stamp, source: Source, part: &str, pid: Option<u32>, restarts: u32, change: Change) -> Event {
    let (part, pid) = (part.to_owned(), pid.unwrap_or_default());
    match change {
        Change::Started { .. } => registry::event(stamp, source, &PartStarted { part, pid, restarts }),
        Change::Ready { after } => {
            registry::event(stamp, source, &PartReady { part, pid, after_s: after.as_secs_f64() })
        }
        Change::Exited { ending, reason, retry_in } => {
            let (exit_code, signal) = numbers(Some(&ending));
            let restart_in_s = retry_in.as_ref().map(Duration::as_secs_f64);
            registry::event(
                stamp,
                source,
                &PartExited { part, pid, exit_code, signal, restarts, restart_in_s, reason },
            )
        }
        Change::Failed { ending, reason } => {
            let (exit_code, _) = numbers(Some(&ending));
            registry::event(stamp, source, &PartFailed { part, exit_code, restarts, reason })
        }
        Change::Stopped { ending, reason } => {
            let (exit_code, _) = numbers(ending.as_ref());
            registry::event(stamp, source, &PartStopped { part, pid, exit_code, restarts, reason })
        }
    }
}

/// Exit code and signal.
const fn numbers(ending: Option<&Ending>) -> (Option<i32>, Option<i32>) {
    match ending {
        Some(Ending::Code(code)) => (Some(*code), None),
        Some(Ending::Signal(signal)) => (None, Some(*signal)),
        Some(Ending::Unstartable(_)) | None => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_is_an_event_that_its_schema_knows() {
        let reason = || "was asked to stop".to_owned();
        let changes = [
            (Change::Started { restarts: 2 }, "up.part.started"),
            (Change::Ready { after: Duration::from_millis(800) }, "up.part.ready"),
            (
                Change::Exited {
                    ending: Ending::Signal(9),
                    reason: reason(),
                    retry_in: Some(Duration::from_secs(1)),
                },
                "up.part.exited",
            ),
            (
                Change::Exited { ending: Ending::Unstartable(reason()), reason: reason(), retry_in: None },
                "up.part.exited",
            ),
            (Change::Failed { ending: Ending::Code(78), reason: reason() }, "up.part.failed"),
            (Change::Stopped { ending: None, reason: reason() }, "up.part.stopped"),
        ];
        for (change, name) in changes {
            let source = Source::new("desk", "godctl-up", "service");
            let event = event(Stamp::now(), source, "asr-serve", Some(4711), 2, change);
            assert_eq!(event.event_type.as_str(), name);
            assert_eq!(registry::validate(&event.to_json()), []);
        }
    }
}
