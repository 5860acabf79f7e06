//! `godctl bus schema` and `godctl bus validate`: what events look like, and whether lines are such events.
//! They use no bus.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read as _, Write as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::json;

use super::{
    line::json_line,
    table::{Side, table},
};
use crate::{
    bus::event::registry::{self, ENVELOPE_SCHEMA},
    cmd::{Context, Exit, Failure, Stdout, text::printable},
};

/// Flags of `godctl bus schema`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus schema                                   of the envelope
  godctl bus schema voice.transcription.completed     of a payload
  godctl bus schema agent.prompt --example            an event as it may come
  godctl bus schema --list

The schemas are JSON Schema, draft 2020-12. Events of other types have any payload.")]
pub(super) struct SchemaArgs {
    /// The type whose payload to describe
    #[arg(value_name = "TYPE")]
    event_type: Option<String>,
    /// List the types that godctl itself publishes or works off
    #[arg(long, conflicts_with_all = ["event_type", "example"])]
    list: bool,
    /// Print a payload as it may come instead of the schema
    #[arg(long, requires = "event_type")]
    example: bool,
}

pub(super) fn run_schema(args: &SchemaArgs) -> anyhow::Result<()> {
    let mut out = Stdout::lock();
    if args.list {
        let rows: Vec<Vec<String>> =
            registry::known().iter().map(|info| vec![info.name.to_owned(), info.title.to_owned()]).collect();
        write!(out, "{}", table(&[("TYPE", Side::Left), ("TELLS", Side::Left)], &rows))?;
        return Ok(());
    }
    let Some(name) = &args.event_type else {
        return Ok(writeln!(out, "{}", ENVELOPE_SCHEMA.trim_end())?);
    };
    let info = registry::find(name).with_context(|| {
        format!(
            "no schema for {}; its payload is free (godctl bus schema --list shows those that have one)",
            printable(name, 100)
        )
    })?;
    match args.example {
        true => writeln!(out, "{:#}", (info.example)())?,
        false => writeln!(out, "{}", info.schema.trim_end())?,
    }
    Ok(())
}

/// Flags of `godctl bus validate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus validate events.jsonl
  godctl bus export - | godctl bus validate -
  godctl bus validate event.json --json | jq -r .pointer

Each line is one event; a file with one event over many lines works too. Payloads are checked for
the types of godctl bus schema --list. It is strict: what godctl reads but another program on the
bus would refuse is told. Exits with 1 if there is any problem.")]
pub(super) struct ValidateArgs {
    /// The file to check; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print each problem as one JSON line
    #[arg(long)]
    json: bool,
}

/// What is shown of a message that quotes a value.
const LONGEST_MESSAGE: usize = 300;

pub(super) fn run_validate(args: &ValidateArgs, context: &Context) -> anyhow::Result<()> {
    let name =
        if args.file == Path::new("-") { "standard input".into() } else { args.file.to_string_lossy() };
    let mut source: Box<dyn BufRead> = match args.file == Path::new("-") {
        true => Box::new(io::stdin().lock()),
        false => {
            Box::new(BufReader::new(File::open(&args.file).with_context(|| format!("cannot read {name}"))?))
        }
    };
    let limit = u64::from(context.config.bus.max_event_bytes);
    let mut out = Stdout::lock();
    let (mut number, mut events, mut problems) = (0_u64, 0_u64, 0_u64);
    let mut text = Vec::new();
    loop {
        text.clear();
        // One more than the largest, and its line end, so that a longer line is told from a whole one.
        let read = source.by_ref().take(limit.saturating_add(2)).read_until(b'\n', &mut text);
        if read.with_context(|| format!("cannot read {name}"))? == 0 {
            break;
        }
        number += 1;
        if number == 1 && text.trim_ascii() == b"{" {
            // One event over many lines, as people and pretty printers write it.
            source.by_ref().take(limit).read_to_end(&mut text)?;
        }
        if text.trim_ascii().is_empty() {
            continue;
        }
        events += 1;
        let found = match text.len() as u64 > limit + 1 {
            true => {
                skip_line(&mut source, &text)?;
                vec![(String::new(), format!("more than {limit} bytes; see bus.max_event_bytes"))]
            }
            false => registry::validate(&text).into_iter().map(|found| (found.path, found.message)).collect(),
        };
        for (pointer, message) in found {
            problems += 1;
            match args.json {
                true => {
                    let problem = json!({ "line": number, "pointer": pointer, "problem": message });
                    writeln!(out, "{}", json_line(&problem))?;
                }
                false => {
                    let place = if pointer.is_empty() { String::new() } else { format!(" {pointer}") };
                    let line = format!("{name}:{number}:{place} {message}");
                    writeln!(out, "{}", printable(&line, LONGEST_MESSAGE))?;
                }
            }
        }
    }
    if !args.json && problems == 0 {
        writeln!(out, "ok: {events} event{}", if events == 1 { "" } else { "s" })?;
    }
    if problems > 0 { Err(Failure::reported(Exit::Failed).into()) } else { Ok(()) }
}

/// Reads to the end of a line of which `read` is the beginning.
fn skip_line(source: &mut dyn BufRead, read: &[u8]) -> io::Result<()> {
    if read.last() == Some(&b'\n') {
        return Ok(());
    }
    loop {
        let buffer = source.fill_buf()?;
        let end = buffer.iter().position(|&byte| byte == b'\n');
        let used = end.map_or(buffer.len(), |at| at + 1);
        let done = end.is_some() || buffer.is_empty();
        source.consume(used);
        if done {
            return Ok(());
        }
    }
}
