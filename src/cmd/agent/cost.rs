//! `godctl agent cost`: adds up what agents have used.

use std::{collections::BTreeMap, io::Write as _};

use jiff::tz::TimeZone;
use serde_json::json;

use super::{
    super::{
        Context, Stdout, Threads,
        bus::{Moment, Side, moment, table},
    },
    store::with_store,
};
use crate::{
    agents::session::{Totals, UsageRow},
    bus::{Clock as _, SystemClock},
};

/// Flags of `godctl agent cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
A cost counts only if the agent told it: what is not known is a '?', never 0.

Examples:
  godctl agent cost
  godctl agent cost --by provider,model --since 30d
  godctl agent cost --by day --json | jq -r '[.day, .cost_usd] | @tsv'")]
pub(super) struct Args {
    /// What is added up apart: provider, project (the directory), day, model; more behind commas
    #[arg(
        long,
        value_name = "WHAT",
        value_delimiter = ',',
        default_value = "provider",
        hide_possible_values = true
    )]
    by: Vec<By>,
    /// Turns that ended at this time or later, such as 30d (ago) or 2026-01-31
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Moment>,
    /// Print each line of the table as a JSON object
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum By {
    Provider,
    Project,
    Day,
    Model,
}

impl By {
    const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Project => "project",
            Self::Day => "day",
            Self::Model => "model",
        }
    }

    fn of(self, row: &UsageRow, zone: &TimeZone) -> String {
        match self {
            Self::Provider => row.provider.clone(),
            Self::Project => row.directory.clone(),
            Self::Day => row.at.to_zoned(zone.clone()).strftime("%Y-%m-%d").to_string(),
            Self::Model => row.model.clone().unwrap_or_else(|| "?".to_owned()),
        }
    }
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let since = args.since.and_then(|since| since.resolve(SystemClock.now()));
    let rows = context.block_on(Threads::Current, async {
        with_store(context, async |store| Ok(store.usage(since).await?)).await
    })?;
    let groups = grouped(&rows, &args.by, &TimeZone::system());
    let mut stdout = Stdout::lock();
    if args.json {
        for (names, totals) in &groups {
            let mut line = json!(totals);
            for (by, name) in args.by.iter().zip(names) {
                line[by.name()] = json!(name);
            }
            line["cost_usd"] = json!(totals.known_cost_micro_usd().map(usd));
            writeln!(stdout, "{line}")?;
        }
        return Ok(());
    }
    stdout.write_all(shown(&groups, &args.by).as_bytes())?;
    Ok(())
}

type Groups = BTreeMap<Vec<String>, Totals>;

fn grouped(rows: &[UsageRow], by: &[By], zone: &TimeZone) -> Groups {
    let mut groups = Groups::new();
    for row in rows {
        let names = by.iter().map(|by| by.of(row, zone)).collect();
        let totals = groups.entry(names).or_default();
        *totals = totals.and(row.amounts);
    }
    groups
}

fn shown(groups: &Groups, by: &[By]) -> String {
    let headings: Vec<String> = by.iter().map(|by| by.name().to_uppercase()).collect();
    let mut columns: Vec<(&str, Side)> = headings.iter().map(|name| (name.as_str(), Side::Left)).collect();
    columns.extend([
        ("TURNS", Side::Right),
        ("TOKENS IN", Side::Right),
        ("TOKENS OUT", Side::Right),
        ("COST", Side::Right),
        ("UNKNOWN", Side::Right),
    ]);
    let rows: Vec<Vec<String>> = groups
        .iter()
        .map(|(names, totals)| {
            let tokens = |count: u64| match totals.turns_without_tokens == totals.turns && count == 0 {
                true => "?".to_owned(),
                false => count.to_string(),
            };
            let unknown = totals.turns_without_cost;
            let figures = [
                totals.turns.to_string(),
                tokens(totals.input_tokens),
                tokens(totals.output_tokens),
                totals.known_cost_micro_usd().map_or("?".to_owned(), dollars),
                if unknown == 0 { String::new() } else { format!("{unknown} turns") },
            ];
            names.iter().cloned().chain(figures).collect()
        })
        .collect();
    table(&columns, &rows)
}

#[allow(clippy::cast_precision_loss, reason = "exact up to nine thousand million dollars")]
fn usd(micro: u64) -> f64 {
    micro as f64 / 1e6
}

/// Millionths of a dollar as people write them: whole cents where there are dollars.
pub(super) fn dollars(micro: u64) -> String {
    let (digits, unit) = if micro >= 1_000_000 { (2, 10_000) } else { (4, 100) };
    let rounded = micro.saturating_add(unit / 2) / unit;
    let per_dollar = 1_000_000 / unit;
    format!("${}.{:0digits$}", rounded / per_dollar, rounded % per_dollar)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use uuid::Uuid;

    use super::*;
    use crate::agents::session::{Amounts, CostSource, SessionId};

    fn row(provider: &str, day: i64, cost: Option<u64>) -> UsageRow {
        let amounts = Amounts {
            cost_micro_usd: cost,
            input_tokens: Some(10),
            output_tokens: Some(2),
            cached_tokens: None,
        };
        UsageRow {
            run: Uuid::nil(),
            session: SessionId::parse("s").unwrap(),
            provider: provider.to_owned(),
            model: None,
            directory: "/w".to_owned(),
            at: Timestamp::from_second(day * 86_400).unwrap(),
            took_ms: None,
            failure_class: None,
            amounts,
            cost_source: CostSource::Reported,
            raw: amounts,
            is_cumulative: false,
        }
    }

    #[test]
    fn sums_equal_their_rows_and_what_is_unknown_is_said() {
        let rows =
            [row("claude", 0, Some(100_000)), row("claude", 1, Some(1_150_000)), row("codex", 1, None)];
        insta::assert_snapshot!(shown(&grouped(&rows, &[By::Provider], &TimeZone::UTC), &[By::Provider]), @"
        PROVIDER  TURNS  TOKENS IN  TOKENS OUT   COST  UNKNOWN
        claude        2         20           4  $1.25
        codex         1         10           2      ?  1 turns
        ");
        let both = [By::Day, By::Provider];
        insta::assert_snapshot!(shown(&grouped(&rows, &both, &TimeZone::UTC), &both), @"
        DAY         PROVIDER  TURNS  TOKENS IN  TOKENS OUT     COST  UNKNOWN
        1970-01-01  claude        1         10           2  $0.1000
        1970-01-02  claude        1         10           2    $1.15
        1970-01-02  codex         1         10           2        ?  1 turns
        ");
    }

    #[test]
    fn small_amounts_keep_their_digits() {
        let cases = [(0, "$0.0000"), (123, "$0.0001"), (999_999, "$1.0000"), (1_234_567, "$1.23")];
        for (micro, text) in cases {
            assert_eq!(dollars(micro), text);
        }
    }
}
