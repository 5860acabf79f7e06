//! `godctl bus publish --lines`: events from standard input, one a line, with an answer for each.
//!
//! A thread reads lines as they come; the command's task publishes what is available as one batch and answers when
//! it is durable. It ends with its input or with Ctrl-C.

use std::io::{self, Write as _};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::json;

use super::{
    connection::with_bus,
    envelope,
    feed::Feed,
    lines::{Line, Lines},
    publish::Args,
};
use crate::{
    bus::Event,
    cmd::{Context, Exit, Failure, Stdout, Threads},
};

/// A line may be so much longer than the largest event, because white space does not count there.
const SLACK: usize = 4;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let failed = context.block_on(Threads::PerCore, async {
        with_bus(context, async |bus| {
            let mut lines = Lines::read(&context.shutdown, io::stdin(), longest_line(context))?;
            let feed = Feed::new(bus, context.shutdown.child_token(), args.give_up_after);
            let (mut failed, mut answered) = (0, 0);
            loop {
                let batch = tokio::select! {
                    biased;
                    () = context.shutdown.cancelled() => {
                        bail!("interrupted; {answered} lines were answered, the others were not published")
                    }
                    batch = lines.next() => batch.context("cannot read standard input")?,
                };
                let Some(batch) = batch else { break };
                failed += publish(&feed, &batch, context).await?;
                answered += batch.len();
            }
            Ok(failed)
        })
        .await
    })?;
    if failed > 0 { Err(Failure::reported(Exit::Failed).into()) } else { Ok(()) }
}

/// The longest line that may hold an event, in bytes.
pub(super) fn longest_line(context: &Context) -> usize {
    usize::try_from(context.config.bus.max_event_bytes).unwrap_or(usize::MAX).saturating_mul(SLACK)
}

/// Reads a line as an event.
///
/// # Errors
/// Why it is none.
pub(super) fn event(line: &Line, context: &Context) -> Result<Event, String> {
    match line.too_long {
        Some(bytes) => Err(format!("the line has {bytes} bytes; see bus.max_event_bytes")),
        None => envelope::of_line(&line.text, Timestamp::now(), longest_line(context)),
    }
}

/// Publishes a batch and answers in the order of its lines. Tells how many failed.
async fn publish(feed: &Feed, batch: &[Line], context: &Context) -> anyhow::Result<u64> {
    let mut events = Vec::with_capacity(batch.len());
    let read: Vec<Result<(), String>> =
        batch.iter().map(|line| event(line, context).map(|event| events.push(event))).collect();
    let mut outcomes = feed.send(&events).await?.into_iter().zip(&events);

    let mut failed = 0;
    let mut out = Stdout::lock();
    for (read, line) in read.into_iter().zip(batch) {
        let answer = match (read, line.number) {
            (Err(reason), line) => {
                failed += 1;
                json!({ "line": line, "error": reason })
            }
            (Ok(()), line) => match outcomes.next() {
                Some((Ok(outcome), Event { event_id, event_type, .. })) => {
                    json!({ "event_id": event_id, "event_type": event_type, "outcome": outcome })
                }
                Some((Err(error), event)) => {
                    failed += 1;
                    json!({ "line": line, "event_id": event.event_id, "error": error.to_string() })
                }
                None => unreachable!("a feed tells of each event"),
            },
        };
        writeln!(out, "{answer}")?;
    }
    out.flush()?;
    Ok(failed)
}
