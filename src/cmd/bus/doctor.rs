//! `godctl bus doctor`, and the line about the bus in `godctl doctor`: what is well with the bus, and how to mend the
//! rest. Looks and leaves no trace: no file is made, no queue and no exchange that was not there.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use crate::{
    bus::{BusError, connect, sqlite::{Inspection, SqliteBus}},
    cmd::{
        Context, Threads,
        findings::{Finding, Named, Report, Status},
        models::size,
        probe,
    },
    config,
};

/// Flags of `godctl bus doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus doctor
  godctl bus doctor --json | jq '.checks[] | select(.status != \"ok\")'
  godctl bus doctor --bus amqp://broker.example

The check of a SQLite file reads all of it: about a second for each GB. Exits with 1 if something essential fails.")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// A file larger than this is not read by the quick check.
const QUICK_BYTES: u64 = 100_000_000;

/// A write-ahead log larger than this says that something keeps it from being written back.
const LARGE_WAL: u64 = 256_000_000;
