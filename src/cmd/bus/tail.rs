//! `godctl bus tail`: watch events, from now or from the past on.
//!
//! Runs on the command's task; Ctrl-C, the end of the history (`--no-follow`) or a reader that went away ends it.

use std::io::{self, BufWriter, Write as _};

use futures_util::FutureExt as _;
use jiff::{Timestamp, tz::TimeZone};
use serde_json::json;

use super::{
    connection::with_bus,
    line::{Look, json_line, json_of},
    quantity::{self, Moment},
    seen::Seen,
};
use crate::{
    bus::{Body, EventBus, Item, Pattern, Position, Query, Received, SharedBus, Start, Subscription},
    cmd::{Context, Stdout, Threads, notify::Notifier, terminal_width},
};

/// Flags of `godctl bus tail`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus tail                                    the last events, then those that come
  godctl bus tail --bind 'voice.#' --bind 'agent.*.completed'
  godctl bus tail --since 10m --no-follow
  godctl bus tail --since beginning --json | jq -r .payload.text
  godctl bus tail --after 1234                       go on behind a position that --json printed

In a pattern, * is one word and # any number of them. With --json each line is an event with its
`position`; what could not be read as one is {\"unparsed\": …}, what may be missing {\"gap\": …}.")]
pub(super) struct Args {
    /// Only events whose type matches (may be repeated)
    #[arg(long = "bind", value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// Start so long ago, at a time, or at the beginning
    #[arg(long, value_name = "10m|TIME|beginning", value_parser = quantity::moment, conflicts_with = "after")]
    since: Option<Moment>,
    /// Start behind this position
    #[arg(long, value_name = "POSITION")]
    after: Option<u64>,
    /// Start with the newest N [default: 10 where the bus keeps a history, and nothing else says where to start]
    #[arg(short = 'n', value_name = "N", conflicts_with = "after")]
    last: Option<usize>,
    /// End where the history ends
    #[arg(long)]
    no_follow: bool,
    /// Print each event as one JSON line
    #[arg(long)]
    json: bool,
    /// Show an event that comes twice twice
    #[arg(long)]
    all: bool,
}

/// Events shown from the past when nobody says how many.
const USUAL_LAST: usize = 10;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let stdout = context.terminal.stdout;
    let look = Look {
        color: stdout.color,
        width: stdout.is_terminal.then(terminal_width),
        zone: TimeZone::system(),
    };
    let mut screen = Screen {
        out: BufWriter::new(Stdout::lock()),
        look,
        json: args.json,
        all: args.all,
        seen: Seen::default(),
        counts: Counts::default(),
    };
    let notifier = Notifier::new(context);
    let result = context.block_on(Threads::PerCore, async {
        with_bus(context, async |bus| watch(args, context, notifier, bus, &mut screen).await).await
    });
    let result = result.and_then(|()| Ok(screen.out.flush()?));
    let counts = screen.counts;
    if (context.terminal.stderr.is_terminal && !args.no_follow) || counts.is_remarkable() {
        // There is nowhere left to say that stderr is closed.
        drop(writeln!(io::stderr(), "{counts}"));
    }
    result
}

async fn watch(
    args: &Args,
    context: &Context,
    notifier: Notifier,
    bus: SharedBus,
    screen: &mut Screen,
) -> anyhow::Result<()> {
    let patterns = if args.patterns.is_empty() { vec![Pattern::all()] } else { args.patterns.clone() };
    let since = args.since.map(|since| (since, since.resolve(Timestamp::now())));
    let last = match (args.last, since, args.after) {
        (Some(last), _, _) => Some(last),
        (None, None, None) if bus.capabilities().history => Some(USUAL_LAST),
        _ => None,
    };
    let start = match (last, since, args.after) {
        (Some(_), _, _) | (None, None, None) => Start::Now,
        (None, _, Some(position)) => Start::After(Position(position)),
        (None, Some((_, None)), None) => Start::Beginning,
        (None, Some((_, Some(at))), None) => Start::Time(at),
    };
    let since = since.and_then(|(_, at)| at);
    if let (Some(limit), true) = (last, args.no_follow) {
        return page(&*bus, Query { patterns, before: None, since, limit }, screen).await.map(drop);
    }

    let subscription =
        Subscription { patterns: patterns.clone(), start, follow: !args.no_follow, consumer: "tail" };
    // First the subscription, then the page: what comes between the two is in both, and shown once.
    let mut stream = tokio::select! {
        biased;
        () = context.shutdown.cancelled() => return Ok(()),
        stream = bus.subscribe(subscription) => stream?,
    };
    notifier.ready("watching");
    let shown = match last {
        Some(limit) => page(&*bus, Query { patterns, before: None, since, limit }, screen).await?,
        None => None,
    };
    loop {
        // What is there already is written in large pieces, what comes is written at once.
        let item = match stream.next().now_or_never() {
            Some(item) => item?,
            None => {
                screen.out.flush()?;
                tokio::select! {
                    biased;
                    () = context.shutdown.cancelled() => return Ok(()),
                    item = stream.next() => item?,
                }
            }
        };
        match item {
            _ if context.shutdown.is_cancelled() => return Ok(()),
            None => return Ok(()),
            Some(Item::Event(received))
                if received.position.is_some_and(|at| shown.is_some_and(|shown| at <= shown)) => {}
            Some(item) => screen.show(item)?,
        }
    }
}

/// Shows a page and tells the position of its last event.
async fn page(bus: &dyn EventBus, query: Query, screen: &mut Screen) -> anyhow::Result<Option<Position>> {
    let page = bus.page(query).await?;
    let last = page.last().and_then(|received| received.position);
    for received in page {
        screen.show(Item::Event(Box::new(received)))?;
    }
    Ok(last)
}

/// What was shown, and what was not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    events: u64,
    duplicates: u64,
    unparsed: u64,
    gaps: u64,
}

impl Counts {
    /// Something happened that the rows alone don't tell.
    const fn is_remarkable(self) -> bool {
        self.duplicates > 0 || self.unparsed > 0 || self.gaps > 0
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { events, duplicates, unparsed, gaps } = *self;
        let s = |n: u64| if n == 1 { "" } else { "s" };
        write!(f, "{events} event{}", s(events))?;
        if duplicates > 0 {
            write!(f, ", {duplicates} duplicate{}", s(duplicates))?;
        }
        if unparsed > 0 {
            write!(f, ", {unparsed} unparsed")?;
        }
        if gaps > 0 {
            write!(f, ", {gaps} gap{}", s(gaps))?;
        }
        Ok(())
    }
}

struct Screen {
    out: BufWriter<Stdout>,
    look: Look,
    json: bool,
    all: bool,
    seen: Seen,
    counts: Counts,
}

impl Screen {
    fn show(&mut self, item: Item) -> io::Result<()> {
        let line = match item {
            Item::CaughtUp => return Ok(()),
            Item::Gap { missed, reason } => {
                self.counts.gaps += 1;
                match (self.json, missed) {
                    (true, missed) => json_line(&json!({ "gap": { "missed": missed, "reason": reason } })),
                    (false, Some(missed)) => {
                        self.look.note(&format!("{missed} events are missing: {reason}"))
                    }
                    (false, None) => self.look.note(&format!("events may be missing: {reason}")),
                }
            }
            Item::Event(received) => {
                if !self.count(&received) {
                    return Ok(());
                }
                match self.json {
                    true => json_of(&received),
                    false => self.look.row(&received, Timestamp::now()),
                }
            }
        };
        writeln!(self.out, "{line}")
    }

    /// False for one that is not shown again.
    fn count(&mut self, received: &Received) -> bool {
        match &received.body {
            Body::Unparsed(_) => self.counts.unparsed += 1,
            Body::Event(event) if !self.seen.insert(event.event_id) => {
                self.counts.duplicates += 1;
                return self.all;
            }
            Body::Event(_) => self.counts.events += 1,
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_counts_what_was_not_a_plain_event() {
        let counts = Counts { events: 2, duplicates: 1, unparsed: 1, gaps: 2 };
        assert_eq!(counts.to_string(), "2 events, 1 duplicate, 1 unparsed, 2 gaps");
        assert_eq!(Counts { events: 1, ..Counts::default() }.to_string(), "1 event");
    }
}
