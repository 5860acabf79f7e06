//! `godctl bus import`: publishes the events of a file of JSON lines.
//!
//! A thread reads the file; the command's task publishes batch after batch. Ctrl-C ends it between two batches, and
//! the same command goes on where it stopped, because ids that are on the bus already are not published again.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::json;
use tracing::warn;

use super::{
    connection::with_bus,
    feed::{Feed, Tally},
    lines::Lines,
    progress,
    publish_lines::{event, longest_line},
    quantity,
};
use crate::{
    bus::Event,
    cmd::{Context, Exit, Failure, Stdout, Threads},
};

/// Flags of `godctl bus import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus import events.jsonl
  zcat old.jsonl.gz | godctl bus import - --rejected bad.jsonl
  godctl bus import events.jsonl --bus amqp://broker.example

Each line is an event in any known shape. A line that is none is counted, told and left out, and
the exit code is then 1. Events keep their ids: what is on the bus already is not published again.")]
pub(super) struct Args {
    /// The file to read; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write the lines that are no events to a file [default: FILE.rejected]
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    rejected: Option<Option<PathBuf>>,
    /// End with an error when the bus has been away or full for so long, such as 30s
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    give_up_after: Option<Duration>,
    /// Print the counts as one JSON object
    #[arg(long)]
    json: bool,
}

/// Bad lines that are told one by one; the others are only counted.
const TOLD: u64 = 10;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let rejects = rejects(args)?;
    let stdin = args.file == Path::new("-");
    let (source, size): (Box<dyn Read + Send>, u64) = match stdin {
        true => (Box::new(io::stdin()), 0),
        false => {
            let file =
                File::open(&args.file).with_context(|| format!("cannot read {}", args.file.display()))?;
            let size = file.metadata().map_or(0, |metadata| metadata.len());
            (Box::new(file), size)
        }
    };
    let (tally, bad) = context.block_on(Threads::Current, async {
        with_bus(context, async |bus| {
            let feed = Feed::new(bus, context.shutdown.child_token(), args.give_up_after);
            let lines = Lines::read(&context.shutdown, source, longest_line(context))?;
            import(&feed, lines, rejects, Progress { context, size, stdin }).await
        })
        .await
    })?;
    let mut out = Stdout::lock();
    match args.json {
        true => {
            let mut counts = json!(tally);
            counts["bad_lines"] = bad.into();
            writeln!(out, "{counts}")?;
        }
        false if bad > 0 => writeln!(out, "{tally}, {bad} bad line{}", if bad == 1 { "" } else { "s" })?,
        false => writeln!(out, "{tally}")?,
    }
    if bad > 0 || tally.refused > 0 { Err(Failure::reported(Exit::Failed).into()) } else { Ok(()) }
}

struct Progress<'a> {
    context: &'a Context,
    size: u64,
    stdin: bool,
}

async fn import(
    feed: &Feed,
    mut lines: Lines,
    mut rejects: Option<File>,
    progress: Progress<'_>,
) -> anyhow::Result<(Tally, u64)> {
    let Progress { context, size, stdin } = progress;
    let bar = if stdin { progress::count(context) } else { progress::bar(context, size) };
    let (mut tally, mut bad) = (Tally::default(), 0);
    loop {
        let batch = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => bail!("interrupted after {tally}; run it again to go on"),
            batch = lines.next() => batch.context("cannot read on")?,
        };
        let Some(batch) = batch else { break };
        let mut events: Vec<Event> = Vec::with_capacity(batch.len());
        for line in &batch {
            match event(line, context) {
                Ok(event) => events.push(event),
                Err(reason) => {
                    bad += 1;
                    if bad <= TOLD {
                        bar.suspend(|| warn!(line = line.number, reason, "not an event"));
                    }
                    if let Some(rejects) = &mut rejects {
                        rejects.write_all(&[&line.text, b"\n".as_slice()].concat())?;
                    }
                }
            }
        }
        tally.add(&feed.send(&events).await.with_context(|| format!("stopped after {tally}"))?);
        match (stdin, batch.last()) {
            (false, Some(last)) => bar.set_position(last.offset),
            _ => bar.inc(batch.len() as u64),
        }
    }
    bar.finish_and_clear();
    Ok((tally, bad))
}

/// Opens the file for bad lines, if they are wanted.
fn rejects(args: &Args) -> anyhow::Result<Option<File>> {
    let path = match &args.rejected {
        None => return Ok(None),
        Some(Some(path)) => path.clone(),
        Some(None) if args.file == Path::new("-") => {
            let error = anyhow::anyhow!("standard input has no name; write --rejected FILE");
            return Err(Failure::new(Exit::Usage, error).into());
        }
        Some(None) => {
            let mut path = args.file.clone().into_os_string();
            path.push(".rejected");
            path.into()
        }
    };
    File::create(&path).map(Some).with_context(|| format!("cannot write {}", path.display()))
}
