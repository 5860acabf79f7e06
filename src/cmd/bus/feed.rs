//! Many events onto a bus: in order, in batches, and again while the bus is away or full.

use std::{
    collections::HashSet,
    fmt,
    time::{Duration, Instant},
};

use anyhow::bail;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bus::{BusError, Capabilities, Event, Publish, Published, SharedBus, backoff::Backoff};

/// What the pause after the first failure may be; it grows with each further one.
const PAUSE: Duration = Duration::from_millis(200);

/// No pause is longer.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What became of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    /// It is on the bus.
    Published,
    /// It was on the bus already.
    Duplicate,
    /// It waits in the outbox.
    Deferred,
    /// The broker took it, and nobody is bound to get it.
    Unrouted,
}

/// How many became what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub(super) struct Tally {
    pub(super) published: u64,
    pub(super) duplicates: u64,
    pub(super) deferred: u64,
    pub(super) unrouted: u64,
    /// Refused by the bus.
    pub(super) refused: u64,
}

impl Tally {
    /// Counts outcomes, and warns of those that the bus refused.
    pub(super) fn add(&mut self, outcomes: &[Result<Outcome, BusError>]) {
        for outcome in outcomes {
            *match outcome {
                Ok(Outcome::Published) => &mut self.published,
                Ok(Outcome::Duplicate) => &mut self.duplicates,
                Ok(Outcome::Deferred) => &mut self.deferred,
                Ok(Outcome::Unrouted) => &mut self.unrouted,
                Err(error) => {
                    warn!(%error, "not published");
                    &mut self.refused
                }
            } += 1;
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, duplicates, deferred, unrouted, refused } = *self;
        write!(f, "{} published", published + unrouted)?;
        let s = if duplicates == 1 { "" } else { "s" };
        for (count, what) in [
            (duplicates, format!("duplicate{s}")),
            (deferred, "in the outbox".to_owned()),
            (unrouted, "of them for nobody".to_owned()),
            (refused, "refused".to_owned()),
        ] {
            if count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        Ok(())
    }
}

/// Sends events to one bus.
#[derive(Debug)]
pub(super) struct Feed {
    bus: SharedBus,
    cancelled: CancellationToken,
    give_up_after: Option<Duration>,
}

impl Feed {
    /// Feeds `bus` until `cancelled`. Tries for so long after the first failure in a row, or for ever.
    pub(super) fn new(bus: SharedBus, cancelled: CancellationToken, give_up_after: Option<Duration>) -> Self {
        Self { bus, cancelled, give_up_after }
    }

    /// Publishes the events in this order and tells what became of each; an error of its own (too large) leaves the
    /// others alone. A bus that is away or full is tried again with growing waits.
    ///
    /// # Errors
    /// What concerns all of them: the user's interrupt, a wait that was long enough, a bus that is broken.
    pub(super) async fn send(&self, events: &[Event]) -> anyhow::Result<Vec<Result<Outcome, BusError>>> {
        let mut outcomes = Vec::with_capacity(events.len());
        for run in runs(events, self.bus.capabilities()).into_iter().filter(|run| !run.is_empty()) {
            // Those of a run that are refused for themselves are found by halving it.
            let mut rest = vec![run];
            while let Some(part) = rest.pop() {
                match self.publish(part).await? {
                    Ok(published) => outcomes.extend(tell(published, part.len()).into_iter().map(Ok)),
                    Err(error) if part.len() == 1 => outcomes.push(Err(error)),
                    Err(_) => {
                        let (first, second) = part.split_at(part.len() / 2);
                        rest.extend([second, first]);
                    }
                }
            }
        }
        Ok(outcomes)
    }

    /// Publishes until it works; the inner error is one that concerns a single event.
    async fn publish(&self, events: &[Event]) -> anyhow::Result<Result<Published, BusError>> {
        let mut backoff = Backoff::new(PAUSE, LONGEST_PAUSE);
        let mut random = fastrand::Rng::new();
        let mut failing_since: Option<Instant> = None;
        loop {
            let error = tokio::select! {
                biased;
                () = self.cancelled.cancelled() => bail!("interrupted"),
                result = self.bus.publish(events, Publish::default()) => match result {
                    Ok(published) => return Ok(Ok(published)),
                    Err(error @ (BusError::TooLarge { .. } | BusError::Invalid(_))) => return Ok(Err(error)),
                    Err(error) if error.is_retryable() => error,
                    Err(error) => return Err(error.into()),
                },
            };
            let since = *failing_since.get_or_insert_with(|| {
                warn!(%error, "trying again until it works");
                Instant::now()
            });
            if self.give_up_after.is_some_and(|limit| since.elapsed() >= limit) {
                return Err(error.into());
            }
            tokio::select! {
                biased;
                () = self.cancelled.cancelled() => bail!("interrupted while waiting: {error}"),
                () = tokio::time::sleep(backoff.pause(&mut random)) => {}
            }
        }
    }
}

/// Cuts the events where one comes again, and, where the bus counts those that nobody takes, where the type changes:
/// all events of a type go the same way.
fn runs(events: &[Event], bus: Capabilities) -> Vec<&[Event]> {
    let mut runs = Vec::new();
    let (mut rest, mut seen) = (events, HashSet::new());
    let mut length = 0;
    while let Some(event) = rest.get(length) {
        let again = bus.dedupes && seen.contains(&(event.event_id, &event.event_type));
        let turns =
            bus.reports_unrouted && rest.first().is_some_and(|first| first.event_type != event.event_type);
        if again || turns {
            let (run, others) = rest.split_at(length);
            runs.push(run);
            (rest, length) = (others, 0);
            seen.clear();
        } else {
            seen.insert((event.event_id, &event.event_type));
            length += 1;
        }
    }
    runs.push(rest);
    runs
}

/// Which event became what. The bus only counts, so for a mixed run this follows from the order in which things
/// happen: duplicates are what an earlier run had published before it was cut off, and deferred is what came after
/// the connection was lost.
fn tell(published: Published, events: usize) -> Vec<Outcome> {
    let count = |n: u64| usize::try_from(n).unwrap_or(usize::MAX).min(events);
    let deferred_from = events - count(published.deferred);
    let duplicates = count(published.duplicates);
    let sent = if published.unrouted > 0 { Outcome::Unrouted } else { Outcome::Published };
    (0..events)
        .map(|index| match index {
            index if index < duplicates => Outcome::Duplicate,
            index if index >= deferred_from => Outcome::Deferred,
            _ => sent,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::bus::event::Stamp;

    #[test]
    fn a_tally_reads_well() {
        let tally = Tally { published: 5, duplicates: 1, deferred: 2, unrouted: 3, refused: 0 };
        assert_eq!(tally.to_string(), "8 published, 1 duplicate, 2 in the outbox, 3 of them for nobody");
        let refused = BusError::Invalid("no".to_owned());
        let mut tally = Tally::default();
        tally.add(&[Ok(Outcome::Published), Err(refused), Ok(Outcome::Duplicate)]);
        assert_eq!(tally, Tally { published: 1, duplicates: 1, refused: 1, ..Tally::default() });
    }

    #[test]
    fn a_run_holds_no_event_twice_and_one_type_where_that_decides() {
        let event = |id: u128, event_type: &str| {
            let stamp = Stamp { id: Uuid::from_u128(id), at: jiff::Timestamp::UNIX_EPOCH };
            let source = crate::bus::event::Source::new("desk", "test", "manual");
            Event::new(stamp, event_type.parse().unwrap(), source, serde_json::Value::Null)
        };
        let events = [event(1, "a"), event(2, "a"), event(1, "b"), event(2, "a"), event(3, "a")];
        let nothing = Capabilities {
            durable: true,
            history: true,
            queues: true,
            dedupes: false,
            cursors: true,
            shared: true,
            reports_unrouted: false,
        };
        let lengths = |bus| runs(&events, bus).iter().map(|run| run.len()).collect::<Vec<_>>();
        assert_eq!(lengths(nothing), [5]);
        assert_eq!(lengths(Capabilities { dedupes: true, ..nothing }), [3, 2]);
        assert_eq!(lengths(Capabilities { reports_unrouted: true, ..nothing }), [2, 1, 2]);
    }

    #[test]
    fn counts_become_outcomes_in_the_order_in_which_things_happen() {
        use Outcome::{Deferred, Duplicate, Published as Sent, Unrouted};
        let of = |accepted, duplicates, unrouted, deferred, n| {
            tell(Published { accepted, duplicates, unrouted, deferred, last: None }, n)
        };
        assert_eq!(of(2, 0, 0, 0, 2), [Sent, Sent]);
        assert_eq!(of(1, 2, 0, 0, 3), [Duplicate, Duplicate, Sent]);
        assert_eq!(of(1, 0, 0, 1, 2), [Sent, Deferred]);
        assert_eq!(of(0, 0, 0, 2, 2), [Deferred, Deferred]);
        assert_eq!(of(2, 0, 2, 0, 2), [Unrouted, Unrouted]);
        assert_eq!(of(0, 9, 0, 9, 1), [Duplicate], "never more than there are");
    }
}
