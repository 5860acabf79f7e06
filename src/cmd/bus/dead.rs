//! `godctl bus dead`: look at dead letters, give them another chance, or drop them.

use std::io::{self, Write as _};

use anyhow::bail;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    connection::with_bus,
    line::json_line,
    queues::confirm,
    table::{Side, table},
};
use crate::{
    bus::{Body, BusError, EventBus, Held, Lane, Selection},
    cmd::{Context, Stdout, Threads, text::printable},
};

/// Flags of `godctl bus dead`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus dead list
  godctl bus dead show mail 0197c2f0-8a6e-7d34-a1d0-4f1c8c6a2f11
  godctl bus dead requeue mail --all
  godctl bus dead drop mail 0197c2f0-8a6e-7d34-a1d0-4f1c8c6a2f11")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List dead letters, oldest first, with why they died
    #[command(
        after_help = "Examples:\n  godctl bus dead list\n  godctl bus dead list mail --json | jq -r .reason"
    )]
    List {
        /// Only those of this queue
        queue: Option<String>,
        /// At most so many of each queue
        #[arg(long, value_name = "N", default_value_t = 100)]
        limit: usize,
        /// Print each as one JSON line
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of dead letters: event, attempts, reasons
    #[command(after_help = "Examples:\n  godctl bus dead show mail 0197c2f0-8a6e-7d34-a1d0-4f1c8c6a2f11")]
    Show {
        /// The queue they died in
        queue: String,
        /// Their events
        #[arg(required = true, value_name = "ID")]
        ids: Vec<Uuid>,
    },
    /// Put dead letters back into their queue, with a fresh count of attempts
    #[command(after_help = "Examples:\n  godctl bus dead requeue mail --all")]
    Requeue(Which),
    /// Delete dead letters
    #[command(after_help = "Examples:\n  godctl bus dead drop mail --all --yes")]
    Drop {
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Which dead letters.
#[derive(Debug, clap::Args)]
struct Which {
    /// The queue they died in
    queue: String,
    /// Their events
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<Uuid>,
    /// All of the queue
    #[arg(long)]
    all: bool,
}

impl Which {
    fn selection(&self) -> Selection {
        if self.all { Selection::All } else { Selection::Events(self.ids.clone()) }
    }
}

/// Dead letters that `show` looks through for an id.
const SEARCHED: usize = 100_000;

/// Characters of a reason in a table.
const REASON: usize = 80;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    if let Action::Drop { which, yes } = &args.action {
        let what = if which.all {
            "all dead letters".to_owned()
        } else {
            format!("{} dead letters", which.ids.len())
        };
        confirm(*yes, &format!("delete {what} of {}", which.queue))?;
    }
    context.block_on(Threads::Current, async {
        with_bus(context, async |bus| match &args.action {
            Action::List { queue, limit, json } => list(&*bus, queue.as_deref(), *limit, *json).await,
            Action::Show { queue, ids } => show(&*bus, queue, ids).await,
            Action::Requeue(which) => {
                let count = bus.requeue(&which.queue, &which.selection()).await?;
                tell("requeued", count, which)
            }
            Action::Drop { which, .. } => {
                let count = bus.purge(&which.queue, Lane::Dead, &which.selection()).await?;
                tell("dropped", count, which)
            }
        })
        .await
    })
}

fn tell(done: &str, count: u64, which: &Which) -> anyhow::Result<()> {
    let missing = if which.all { 0 } else { (which.ids.len() as u64).saturating_sub(count) };
    writeln!(Stdout::lock(), "{done} {count}")?;
    if missing > 0 {
        bail!("{missing} of the ids are not among the dead letters of {}", which.queue);
    }
    Ok(())
}

async fn list(bus: &dyn EventBus, queue: Option<&str>, limit: usize, json: bool) -> anyhow::Result<()> {
    let names: Vec<String> = match queue {
        Some(queue) => vec![queue.to_owned()],
        None => {
            bus.queues().await?.into_iter().filter(|queue| queue.dead > 0).map(|queue| queue.name).collect()
        }
    };
    let mut rows = Vec::new();
    let mut out = Stdout::lock();
    for name in names {
        let page = match bus.peek(&name, Lane::Dead, limit).await {
            // Deleted since it was listed.
            Err(BusError::NoSuchQueue(_)) if queue.is_none() => continue,
            page => page?,
        };
        if page.len() == limit {
            writeln!(io::stderr(), "{name} may have more than {limit}; see --limit").ok();
        }
        for held in page {
            match json {
                true => writeln!(out, "{}", json_line(&letter(&name, &held)))?,
                false => rows.push(row(&name, &held)),
            }
        }
    }
    match (json, rows.is_empty()) {
        (true, _) => {}
        (false, true) => writeln!(out, "no dead letters")?,
        (false, false) => {
            let left = |heading| (heading, Side::Left);
            let columns = [
                left("QUEUE"),
                left("EVENT"),
                left("TYPE"),
                ("ATTEMPTS", Side::Right),
                left("DIED"),
                left("REASON"),
            ];
            write!(out, "{}", table(&columns, &rows))?;
        }
    }
    Ok(())
}

fn row(queue: &str, held: &Held) -> Vec<String> {
    let event = held.received.body.event();
    let since =
        held.since.map(|at| at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string());
    vec![
        printable(queue, REASON),
        event.map_or_else(|| "unparsed".to_owned(), |event| event.event_id.to_string()),
        printable(
            event.map_or(held.received.routing_key.as_str(), |event| event.event_type.as_str()),
            REASON,
        ),
        held.attempts.to_string(),
        since.unwrap_or_default(),
        printable(held.reason.as_deref().unwrap_or_default(), REASON),
    ]
}

fn letter(queue: &str, held: &Held) -> Value {
    let event = match &held.received.body {
        Body::Event(event) => json!(event),
        Body::Unparsed(unparsed) => {
            json!({ "unparsed": { "reason": unparsed.reason, "raw": String::from_utf8_lossy(&unparsed.raw) } })
        }
    };
    json!({
        "queue": queue,
        "event_id": held.received.body.event().map(|event| event.event_id),
        "attempts": held.attempts,
        "reason": held.reason,
        "since": held.since,
        "history": held.history,
        "event": event,
    })
}

async fn show(bus: &dyn EventBus, queue: &str, ids: &[Uuid]) -> anyhow::Result<()> {
    let held = bus.peek(queue, Lane::Dead, SEARCHED).await?;
    let mut out = Stdout::lock();
    for id in ids {
        let is_it = |held: &&Held| held.received.body.event().is_some_and(|event| event.event_id == *id);
        let Some(held) = held.iter().find(is_it) else {
            bail!("{id} is not among the dead letters of {queue}; see godctl bus dead list {queue}");
        };
        let pretty = serde_json::to_string_pretty(&letter(queue, held))?;
        // Line by line, because the escaping must leave the line ends alone.
        for line in pretty.lines() {
            writeln!(out, "{}", printable(line, usize::MAX))?;
        }
    }
    Ok(())
}
