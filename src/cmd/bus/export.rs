//! `godctl bus export`: the history as JSON lines, one envelope each.
//!
//! A file appears whole or not at all: it is written under another name beside its own, and renamed at the end.

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{connection::with_bus, history::Range, progress};
use crate::{
    bus::{Body, EventBus},
    cmd::{Context, Stdout, Threads},
};

/// Flags of `godctl bus export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus export events.jsonl
  godctl bus export - --bind 'voice.#' --since 7d | gzip > voice.jsonl.gz
  godctl bus export today.jsonl --since 2026-11-21 --session s1

A message that could not be read as an event is written as it came, if it is one line.
godctl bus import reads the file again.")]
pub(super) struct Args {
    /// The file to write; - is standard output
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
    #[command(flatten)]
    range: Range,
}

/// How many lines were written, and what was not.
#[derive(Debug, Default)]
struct Written {
    events: u64,
    unparsed: u64,
    /// Could not be read as an event, and is no single line either.
    left_out: u64,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let file = &args.file;
    let written = context.block_on(Threads::Current, async {
        with_bus(context, async |bus| {
            if file == Path::new("-") {
                let mut out = BufWriter::new(Stdout::lock());
                let written = write(args, context, &*bus, &mut out).await?;
                out.flush()?;
                return Ok(written);
            }
            let place =
                file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            let target = tempfile::NamedTempFile::new_in(place)
                .with_context(|| format!("cannot write to {}", place.display()))?;
            let mut out = BufWriter::new(target);
            let written = write(args, context, &*bus, &mut out).await?;
            let target = out.into_inner().map_err(io::IntoInnerError::into_error)?;
            target.persist(file).with_context(|| format!("cannot write {}", file.display()))?;
            Ok(written)
        })
        .await
    })?;
    let Written { events, unparsed, left_out } = written;
    let mut summary = format!("{events} events");
    if unparsed > 0 {
        summary.push_str(&format!(", {unparsed} unparsed"));
    }
    if left_out > 0 {
        summary.push_str(&format!(", {left_out} left out because they are neither events nor lines"));
    }
    writeln!(io::stderr(), "{summary}").ok();
    Ok(())
}

async fn write(
    args: &Args,
    context: &Context,
    bus: &dyn EventBus,
    out: &mut impl Write,
) -> anyhow::Result<Written> {
    let mut walk = args.range.open(bus, "export").await?;
    let bar = progress::count(context);
    let mut written = Written::default();
    while let Some(received) = walk.next(context).await? {
        match received.body {
            Body::Event(event) => {
                out.write_all(&event.to_json())?;
                out.write_all(b"\n")?;
                written.events += 1;
            }
            Body::Unparsed(unparsed) if unparsed.raw.contains(&b'\n') => written.left_out += 1,
            Body::Unparsed(unparsed) => {
                out.write_all(&unparsed.raw)?;
                out.write_all(b"\n")?;
                written.unparsed += 1;
            }
        }
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(written)
}
