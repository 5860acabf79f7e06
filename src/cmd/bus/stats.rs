//! `godctl bus stats`: figures about the bus.

use std::io::Write as _;

use jiff::tz::TimeZone;

use super::{
    connection::with_bus,
    table::{Side, table},
};
use crate::{
    bus::Stats,
    cmd::{Context, Stdout, Threads, models::size, text::printable},
};

/// Flags of `godctl bus stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus stats
  godctl bus stats --json | jq .link.outbox")]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Types listed; the others are summed up.
const TYPES: usize = 30;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let stats = context
        .block_on(Threads::Current, async { with_bus(context, async |bus| Ok(bus.stats().await?)).await })?;
    let mut out = Stdout::lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string_pretty(&stats)?)?,
        false => write!(out, "{}", text(&stats, &TimeZone::system()))?,
    }
    Ok(())
}

fn text(stats: &Stats, zone: &TimeZone) -> String {
    let time = |at: jiff::Timestamp| at.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string();
    let mut text = String::new();
    let mut line = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            text.push_str(&format!("{name:<16}{value}\n"));
        }
    };
    line("bus", Some(stats.bus.clone()));
    line("events", stats.events.map(|count| count.to_string()));
    line("oldest", stats.oldest.map(time));
    line("newest", stats.newest.map(time));
    line("on disk", stats.bytes.map(size));
    if let Some(link) = &stats.link {
        line("circuit", Some(format!("{}, opened {} times", link.circuit, link.opened)));
        line("outbox", Some(format!("{} events, {}", link.outbox, size(link.outbox_bytes))));
        line(
            "refused",
            (link.outbox_refused > 0).then(|| format!("{} events, the outbox was full", link.outbox_refused)),
        );
        line(
            "failed",
            (link.outbox_failed > 0)
                .then(|| format!("{} events that the broker never takes", link.outbox_failed)),
        );
    }
    if stats.types.is_empty() {
        return text;
    }
    let mut types: Vec<(&String, u64)> = stats.types.iter().map(|(name, count)| (name, *count)).collect();
    types.sort_by_key(|(name, count)| (std::cmp::Reverse(*count), *name));
    let rest = types.split_off(types.len().min(TYPES));
    let row = |name: &str, count: u64| vec![printable(name, 100), count.to_string()];
    let mut rows: Vec<Vec<String>> = types.into_iter().map(|(name, count)| row(name, count)).collect();
    if !rest.is_empty() {
        rows.push(row(&format!("{} other types", rest.len()), rest.iter().map(|(_, count)| count).sum()));
    }
    text + "\n" + &table(&[("TYPE", Side::Left), ("EVENTS", Side::Right)], &rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::LinkStats;

    #[test]
    fn figures_read_well() {
        let stats = Stats {
            bus: "amqp://***@host".to_owned(),
            events: Some(12),
            oldest: Some("2026-11-20T08:00:00Z".parse().unwrap()),
            newest: Some("2026-11-21T08:00:00Z".parse().unwrap()),
            bytes: Some(1_500_000),
            types: [("voice.transcription.completed".to_owned(), 10), ("x.y".to_owned(), 2)].into(),
            link: Some(LinkStats {
                outbox: 3,
                outbox_bytes: 900,
                circuit: "open".to_owned(),
                opened: 2,
                ..LinkStats::default()
            }),
        };
        insta::assert_snapshot!(text(&stats, &TimeZone::UTC), @"
        bus             amqp://***@host
        events          12
        oldest          2026-11-20 08:00:00
        newest          2026-11-21 08:00:00
        on disk         1.50 MB
        circuit         open, opened 2 times
        outbox          3 events, 900 B

        TYPE                           EVENTS
        voice.transcription.completed      10
        x.y                                 2
        ");
    }
}
