//! The part of a history that a command goes through: which events, from when to when, no further than its end was
//! when the command began.

use anyhow::bail;
use jiff::Timestamp;

use super::quantity::{self, Moment};
use crate::{
    bus::{Event, EventBus, EventStream, Item, Pattern, Position, Query, Received, Start, Subscription},
    cmd::Context,
};

/// Flags that choose it.
#[derive(Debug, clap::Args)]
pub(super) struct Range {
    /// Only events whose type matches (may be repeated)
    #[arg(long = "bind", value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// Only events that the bus took at this time or later: so long ago, or a time
    #[arg(long, value_name = "10m|TIME", value_parser = quantity::moment)]
    since: Option<Moment>,
    /// Only events that the bus took before this time
    #[arg(long, value_name = "10m|TIME", value_parser = quantity::moment)]
    until: Option<Moment>,
    /// Only events of this session
    #[arg(long, value_name = "ID")]
    session: Option<String>,
}

/// Where the history ended when the walk began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// There was nothing.
    Empty,
    /// At this position.
    At(Position),
    /// Where the bus says that it ends; it has no positions.
    Unknown,
}

/// A walk through it.
pub(super) struct Walk {
    stream: Box<dyn EventStream>,
    /// A replay onto the same bus would never end without it.
    end: End,
    until: Option<Timestamp>,
    session: Option<String>,
}

impl Range {
    /// Opens the walk.
    ///
    /// # Errors
    /// Those of the bus; one that keeps no history says so.
    pub(super) async fn open(&self, bus: &dyn EventBus, consumer: &'static str) -> anyhow::Result<Walk> {
        let now = Timestamp::now();
        let patterns = if self.patterns.is_empty() { vec![Pattern::all()] } else { self.patterns.clone() };
        let start = match self.since.and_then(|since| since.resolve(now)) {
            Some(at) => Start::Time(at),
            None => Start::Beginning,
        };
        let newest = Query { patterns: vec![Pattern::all()], before: None, since: None, limit: 1 };
        let newest = bus.page(newest).await?;
        let end = match newest.last() {
            None => End::Empty,
            Some(received) => received.position.map_or(End::Unknown, End::At),
        };
        let stream = bus.subscribe(Subscription { patterns, start, follow: false, consumer }).await?;
        let until = self.until.and_then(|until| until.resolve(now));
        Ok(Walk { stream, end, until, session: self.session.clone() })
    }
}

impl Walk {
    /// The next one, `None` at the end.
    ///
    /// # Errors
    /// Those of the bus, and an interrupt.
    pub(super) async fn next(&mut self, context: &Context) -> anyhow::Result<Option<Box<Received>>> {
        while self.end != End::Empty {
            let item = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => bail!("interrupted"),
                item = self.stream.next() => item?,
            };
            let received = match item {
                None => return Ok(None),
                Some(Item::CaughtUp) => continue,
                Some(Item::Gap { missed, reason }) => {
                    tracing::warn!(missed, reason, "events are missing here");
                    continue;
                }
                Some(Item::Event(received)) => received,
            };
            match (self.end, received.position) {
                (End::At(end), Some(at)) if at > end => break,
                _ if self.is_wanted(&received) => return Ok(Some(received)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn is_wanted(&self, received: &Received) -> bool {
        let event = received.body.event();
        let at = received.at.or_else(|| event.map(|event| event.timestamp));
        let in_time = self.until.is_none_or(|until| at.is_none_or(|at| at < until));
        let session = self.session.as_deref();
        in_time && session.is_none_or(|wanted| event.and_then(Event::session_id) == Some(wanted))
    }
}
