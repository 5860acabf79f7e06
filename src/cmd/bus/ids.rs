//! `godctl bus match` and `godctl bus event-id`: what a pattern matches, and the id that an event always has.
//! Pure; they use no bus.

use std::io::Write as _;

use crate::{
    bus::{EventType, Pattern, event::ids},
    cmd::{Exit, Failure, Stdout},
};

/// Flags of `godctl bus match`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus match 'agent.*.started' agent.session.started      yes
  godctl bus match 'agent.*' agent.session.started              no, and exit code 1
  if godctl bus match \"$pattern\" \"$type\" > /dev/null; then …; fi

* is one word, # any number of words, none included.")]
pub(in crate::cmd) struct MatchArgs {
    /// A topic pattern
    pattern: Pattern,
    /// The type of an event
    #[arg(value_name = "TYPE")]
    event_type: EventType,
}

pub(in crate::cmd) fn run_match(args: &MatchArgs) -> anyhow::Result<()> {
    let matches = args.pattern.matches(args.event_type.as_str());
    writeln!(Stdout::lock(), "{}", if matches { "yes" } else { "no" })?;
    if matches { Ok(()) } else { Err(Failure::reported(Exit::Failed).into()) }
}

/// Flags of `godctl bus event-id`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus event-id fireflies.transcript.upload meeting-7
  godctl bus publish report.made '{}' --event-id \"$(godctl bus event-id report.made 2026-11-21)\"

The same type and key give the same id on every machine, so that an event is on the bus once,
whoever publishes it and how often. It is the UUIDv5 of bloodbank:TYPE:KEY in the OID namespace.")]
pub(in crate::cmd) struct EventIdArgs {
    /// The type of the event
    #[arg(value_name = "TYPE")]
    event_type: EventType,
    /// What makes it the only one of its type
    key: String,
}

pub(in crate::cmd) fn run_event_id(args: &EventIdArgs) -> anyhow::Result<()> {
    writeln!(Stdout::lock(), "{}", ids::deterministic(args.event_type.as_str(), &args.key))?;
    Ok(())
}
