//! `godctl bus work`: consume a work queue, with a command for each delivery (`work_command.rs`) or over standard
//! input and output (`work_lines.rs`).

use std::{ffi::OsString, num::NonZeroU32, time::Duration};

use super::{quantity, work_command, work_lines};
use crate::{
    bus::{Pattern, QueueSpec},
    cmd::Context,
};

/// Flags of `godctl bus work`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus work thumbnails --bind 'photo.file.added' -- ./thumbnail.sh
  godctl bus work mail --bind 'report.#' --workers 4 --timeout 10m -- python3 send.py
  godctl bus work mail --idle 5s -- python3 send.py      end when nothing came for so long
  godctl bus work mail --lines                           for programs: JSON lines in and out

The command gets the event as JSON on standard input, and GODCTL_EVENT_TYPE, GODCTL_EVENT_ID,
GODCTL_EVENT_ATTEMPT and GODCTL_QUEUE. Its exit code settles the delivery: 0 done, 65 (EX_DATAERR)
never, anything else (such as 75, EX_TEMPFAIL) again later, and dead after --max-attempts; the end
of what it wrote to standard error becomes the reason. Its lease is extended while it runs. Events
that come while nobody works wait in the queue, from the first time that it was opened on.

With --lines each delivery is a line {\"event_id\", \"event\", \"attempt\", \"queue\", \"at_ms\"}, and
standard input settles: {\"ack\": ID}, {\"retry\": ID, \"delay_ms\": N, \"reason\": TEXT}, {\"dead\": ID,
\"reason\": TEXT}, {\"release\": ID}, {\"extend\": ID}. Each is answered, such as {\"acked\": ID} or
{\"event_id\": ID, \"error\": TEXT}. At the end of the input what is not settled is given back.
SIGTERM lets work in hand finish.")]
pub(super) struct Args {
    /// The queue; made if there is none
    #[arg(value_name = "QUEUE")]
    queue: String,
    /// What lands in it, such as 'voice.#' (may be repeated); added to what is bound already
    #[arg(long = "bind", value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// How long a delivery may be kept without a sign of life
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = quantity::duration)]
    visibility: Duration,
    /// Deliveries after which work is dead
    #[arg(long, value_name = "N", default_value = "5")]
    max_attempts: NonZeroU32,
    /// Deliveries fetched ahead; with --lines, deliveries held at once
    #[arg(long, value_name = "N", default_value = "16", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) prefetch: u16,
    /// Commands that run at once
    #[arg(long, value_name = "N", default_value = "1", conflicts_with = "lines", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(super) workers: u16,
    /// The wait before the second attempt; it doubles with each further one, up to 5 minutes
    #[arg(long, value_name = "DURATION", default_value = "1s", conflicts_with = "lines", value_parser = quantity::duration)]
    pub(super) backoff: Duration,
    /// End a command that runs longer, and try again later
    #[arg(long, value_name = "DURATION", conflicts_with = "lines", value_parser = quantity::duration)]
    pub(super) timeout: Option<Duration>,
    /// End when no work came for so long
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    pub(super) idle: Option<Duration>,
    /// Hand deliveries to standard output, and settle them from standard input
    #[arg(long, conflicts_with = "command")]
    lines: bool,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD", required_unless_present = "lines")]
    pub(super) command: Vec<OsString>,
}

impl Args {
    pub(super) fn spec(&self) -> QueueSpec {
        let host = gethostname::gethostname();
        QueueSpec {
            visibility: self.visibility,
            max_attempts: self.max_attempts,
            prefetch: self.prefetch,
            consumer: format!("{}:{}", host.to_string_lossy(), std::process::id()),
            ..QueueSpec::new(self.queue.clone(), self.patterns.clone())
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    if args.lines { work_lines::run(args, context) } else { work_command::run(args, context) }
}
