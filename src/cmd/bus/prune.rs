//! `godctl bus prune`: deletes old events.

use std::{io::Write as _, time::Duration};

use super::{connection::with_bus, quantity, queues::confirm};
use crate::{
    bus::Retention,
    cmd::{Context, Exit, Failure, Stdout, Threads, models::size},
    config,
};

/// Flags of `godctl bus prune`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus prune --dry-run                 what the configured retention would delete
  godctl bus prune --older-than 30d --yes
  godctl bus prune --max-size 1GB

Without --older-than and --max-size it does what the bus does by itself from time to time.
Work that waits in queues stays.")]
pub(super) struct Args {
    /// Delete events that the bus took longer ago than this
    #[arg(long, value_name = "DURATION", value_parser = quantity::duration)]
    older_than: Option<Duration>,
    /// Delete the oldest events until the bus is no larger than this
    #[arg(long, value_name = "SIZE", value_parser = quantity::bytes)]
    max_size: Option<u64>,
    /// Only tell what would be deleted
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

impl Args {
    fn retention(&self, bus: &config::Bus) -> Retention {
        let configured = self.older_than.is_none() && self.max_size.is_none();
        let days = (configured && bus.retention_days > 0)
            .then(|| Duration::from_secs(u64::from(bus.retention_days) * 86_400));
        let bytes = (configured && bus.retention_mb > 0).then(|| u64::from(bus.retention_mb) * 1_000_000);
        Retention {
            max_age: self.older_than.or(days),
            max_bytes: self.max_size.or(bytes),
            dry_run: self.dry_run,
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let retention = args.retention(&context.config.bus);
    if retention.max_age.is_none() && retention.max_bytes.is_none() {
        let error = anyhow::anyhow!(
            "bus.retention_days and bus.retention_mb keep everything; write --older-than or --max-size"
        );
        return Err(Failure::new(Exit::Usage, error).into());
    }
    let older = retention.max_age.map(|age| format!("events older than {}", quantity::rough(age)));
    let beyond = retention.max_bytes.map(|bytes| format!("the oldest events beyond {}", size(bytes)));
    let what: Vec<String> = older.into_iter().chain(beyond).collect();
    confirm(
        args.yes || args.dry_run,
        &format!("delete {} on {}", what.join(" and "), context.config.bus.url),
    )?;
    let pruned = context.block_on(Threads::Current, async {
        with_bus(context, async |bus| Ok(bus.prune(retention).await?)).await
    })?;
    let mut out = Stdout::lock();
    let would = if args.dry_run { "would delete" } else { "deleted" };
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&pruned)?)?,
        false => writeln!(out, "{would} {} events, {}", pruned.events, size(pruned.bytes))?,
    }
    Ok(())
}
