//! `godctl bus replay`: the past again, at its own pace or faster, to standard output or onto a bus.
//!
//! Runs on the command's task; the end of the history or Ctrl-C ends it.

use std::{
    collections::{HashMap, VecDeque},
    io::{self, Write as _},
    num::NonZeroU32,
    time::Duration,
};

use anyhow::bail;
use indicatif::ProgressBar;
use jiff::{Timestamp, tz::TimeZone};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{
    connection::{Place, other_bus, with_bus, with_bus_at},
    feed::{Feed, Tally},
    history::Range,
    line::{Look, json_of},
    lines::BATCH_LINES,
    progress, quantity,
};
use crate::{
    bus::{Body, Event, Received, SharedBus, event::Stamp},
    cmd::{Context, Exit, Failure, Stdout, Threads, terminal_width},
};

/// Flags of `godctl bus replay`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus replay --since 1h --speed 10x           what happened in the last hour, in six minutes
  godctl bus replay --session s1 --max-gap 2s        without the long pauses
  godctl bus replay --to amqp://broker.example --speed max
  godctl bus replay --bind 'agent.#' --to sqlite:try.db --as-new

The pace is that of the events' own times. Events keep their ids, so a bus that has them already
takes them as duplicates; --as-new gives them new ids and the present time.")]
pub(super) struct Args {
    #[command(flatten)]
    range: Range,
    /// How fast: 1x, 10x, 0.5x, or max without any waiting
    #[arg(long, value_name = "FACTOR", default_value = "1x", value_parser = speed)]
    speed: Speed,
    /// Never wait longer than this
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    max_gap: Option<Duration>,
    /// Publish on this bus instead of printing
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Give the events new ids and the present time
    #[arg(long)]
    as_new: bool,
    /// Print each event as one JSON line
    #[arg(long, conflicts_with = "to")]
    json: bool,
}

/// Events onto a bus are published at least so often, and printed ones shown.
const BATCH: usize = BATCH_LINES;

/// How fast time passes, in thousandths; none at all for `Max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speed {
    Max,
    Times { thousandths: NonZeroU32 },
}

fn speed(text: &str) -> Result<Speed, String> {
    let wrong = || format!("'{text}' is not a speed; write it like 1x, 10x, 0.5x or max");
    if text == "max" {
        return Ok(Speed::Max);
    }
    let factor: f64 = text.strip_suffix('x').unwrap_or(text).parse().map_err(|_| wrong())?;
    if !(0.001..=1e6).contains(&factor) {
        return Err(wrong());
    }
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0.001 to 1e6, as just checked"
    )]
    let thousandths = (factor * 1000.0).round() as u32;
    NonZeroU32::new(thousandths).map(|thousandths| Speed::Times { thousandths }).ok_or_else(wrong)
}

/// When events are due.
#[derive(Debug)]
struct Pace {
    speed: Speed,
    max_gap: Option<Duration>,
    last: Option<Timestamp>,
    /// Since the first one.
    due: Duration,
}

impl Pace {
    const fn new(speed: Speed, max_gap: Option<Duration>) -> Self {
        Self { speed, max_gap, last: None, due: Duration::ZERO }
    }

    /// How long after the first event this one is due. A clock that went back makes no wait.
    fn due(&mut self, at: Timestamp) -> Duration {
        let gap = self.last.map_or(Duration::ZERO, |last| {
            Duration::try_from(at.duration_since(last)).unwrap_or(Duration::ZERO)
        });
        self.last = Some(at);
        let gap = match self.speed {
            Speed::Max => Duration::ZERO,
            Speed::Times { thousandths } => gap.saturating_mul(1000) / thousandths.get(),
        };
        self.due = self.due.saturating_add(self.max_gap.map_or(gap, |limit| gap.min(limit)));
        self.due
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let target = args.to.as_deref().map(|to| other_bus(to, context)).transpose()?;
    let tally = context.block_on(Threads::PerCore, async {
        with_bus(context, async |bus| match &target {
            None => replay(args, context, &bus, Sink::screen(args, context)).await,
            Some(target) => {
                with_bus_at(context, Place::of(target, context), async |onto| {
                    let feed = Feed::new(onto, context.shutdown.child_token(), None);
                    replay(args, context, &bus, Sink::bus(feed, context)).await
                })
                .await
            }
        })
        .await
    })?;
    if args.to.is_some() {
        writeln!(io::stderr(), "{tally}").ok();
    }
    if tally.refused > 0 { Err(Failure::reported(Exit::Failed).into()) } else { Ok(()) }
}

async fn replay(args: &Args, context: &Context, from: &SharedBus, mut sink: Sink) -> anyhow::Result<Tally> {
    let mut walk = args.range.open(&**from, "replay").await?;
    let mut pace = Pace::new(args.speed, args.max_gap);
    let mut renewed = args.as_new.then(Renewed::default);
    let began = Instant::now();
    while let Some(mut received) = walk.next(context).await? {
        if let Body::Event(event) = &mut received.body {
            let due = began + pace.due(event.timestamp);
            if due > Instant::now() {
                sink.flush().await?;
                tokio::select! {
                    biased;
                    () = context.shutdown.cancelled() => bail!("interrupted"),
                    () = tokio::time::sleep_until(due) => {}
                }
            }
            if let Some(renewed) = &mut renewed {
                renewed.renew(event, Stamp::now());
            }
        }
        sink.push(*received).await?;
    }
    sink.flush().await?;
    sink.progress.finish_and_clear();
    if sink.unparsed > 0 {
        warn!(count = sink.unparsed, "left out what could not be read as an event");
    }
    Ok(sink.tally)
}

/// Where the events go.
struct Sink {
    way: Way,
    waiting: Vec<Received>,
    tally: Tally,
    /// Left out, because it is no event.
    unparsed: usize,
    progress: ProgressBar,
}

enum Way {
    Screen { look: Look, json: bool },
    Bus(Feed),
}

impl Sink {
    fn screen(args: &Args, context: &Context) -> Self {
        let stdout = context.terminal.stdout;
        let look = Look {
            color: stdout.color,
            width: stdout.is_terminal.then(terminal_width),
            zone: TimeZone::system(),
        };
        let way = Way::Screen { look, json: args.json };
        Self {
            way,
            waiting: Vec::new(),
            tally: Tally::default(),
            unparsed: 0,
            progress: ProgressBar::hidden(),
        }
    }

    fn bus(feed: Feed, context: &Context) -> Self {
        let progress = progress::count(context);
        Self { way: Way::Bus(feed), waiting: Vec::new(), tally: Tally::default(), unparsed: 0, progress }
    }

    async fn push(&mut self, received: Received) -> anyhow::Result<()> {
        self.waiting.push(received);
        if self.waiting.len() >= BATCH { self.flush().await } else { Ok(()) }
    }

    async fn flush(&mut self) -> anyhow::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        self.progress.inc(waiting.len() as u64);
        match &self.way {
            Way::Bus(feed) => {
                let all = waiting.len();
                let events = waiting.into_iter().filter_map(|received| match received.body {
                    Body::Event(event) => Some(event),
                    Body::Unparsed(_) => None,
                });
                let events: Vec<Event> = events.collect();
                self.unparsed += all - events.len();
                if let Some(event) = events.last() {
                    self.progress.set_message(format!("at {:.0}", event.timestamp));
                }
                self.tally.add(&feed.send(&events).await?);
            }
            Way::Screen { look, json } => {
                let mut out = Stdout::lock();
                let now = Timestamp::now();
                for received in waiting {
                    let line = if *json { json_of(&received) } else { look.row(&received, now) };
                    writeln!(out, "{line}")?;
                }
                out.flush()?;
            }
        }
        Ok(())
    }
}

/// Ids remembered for the correlation of later events.
const RENEWED: usize = 100_000;

/// New ids for old ones, so that chains of events stay chains.
#[derive(Debug, Default)]
struct Renewed {
    ids: HashMap<Uuid, Uuid>,
    order: VecDeque<Uuid>,
}

impl Renewed {
    fn renew(&mut self, event: &mut Event, stamp: Stamp) {
        for id in &mut event.correlation_ids {
            *id = self.ids.get(id).copied().unwrap_or(*id);
        }
        // A second event of the same id (an alias) gets the same new one.
        let new = *self.ids.entry(event.event_id).or_insert(stamp.id);
        if new == stamp.id {
            self.order.push_back(event.event_id);
        }
        if self.order.len() > RENEWED
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
        event.event_id = new;
        event.timestamp = stamp.at;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cmd::bus::envelope;

    #[test]
    fn a_speed_is_a_factor_or_max() {
        let times = |thousandths| Ok(Speed::Times { thousandths: NonZeroU32::new(thousandths).unwrap() });
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(
            (speed("1x"), speed("10x"), speed("0.5x"), speed("2")),
            (times(1000), times(10_000), times(500), times(2000))
        );
        for wrong in ["", "x", "0x", "-1x", "fast", "NaN", "infx"] {
            assert!(speed(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_pace_follows_the_events_times() {
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let times = [100, 110, 105, 1105].map(at);
        let due = |speed: &str, max_gap| {
            let mut pace = Pace::new(super::speed(speed).unwrap(), max_gap);
            times.map(|at| pace.due(at).as_millis())
        };
        assert_eq!(due("1x", None), [0, 10_000, 10_000, 1_010_000]);
        assert_eq!(due("10x", None), [0, 1000, 1000, 101_000]);
        assert_eq!(due("1x", Some(Duration::from_secs(2))), [0, 2000, 2000, 4000]);
        assert_eq!(due("max", None), [0; 4]);
    }

    #[test]
    fn a_chain_of_events_stays_one_under_new_ids() {
        let stamp = |n| Stamp { id: Uuid::from_u128(n), at: Timestamp::UNIX_EPOCH };
        let event = |n| {
            let source = envelope::source("t", "manual");
            Event::new(stamp(n), "x.y".parse().unwrap(), source, json!(null))
        };
        let mut renewed = Renewed::default();
        let (mut first, mut second, mut alias) = (event(1), event(2), event(1));
        second.correlation_ids = vec![Uuid::from_u128(1), Uuid::from_u128(9)];
        renewed.renew(&mut first, stamp(101));
        renewed.renew(&mut second, stamp(102));
        renewed.renew(&mut alias, stamp(103));
        assert_eq!(first.event_id, Uuid::from_u128(101));
        assert_eq!(second.correlation_ids, [first.event_id, Uuid::from_u128(9)]);
        assert_eq!(alias.event_id, first.event_id);
    }
}
