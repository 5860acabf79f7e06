//! `godctl bus bridge`: copies events from one bus to another, for as long as it runs.
//!
//! Runs on the command's task; a small second future shows how far it is. Ctrl-C or SIGTERM ends it between two
//! steps, and it goes on there the next time.

use std::{
    io::{self, Write as _},
    time::Duration,
};

use jiff::Timestamp;

use super::{
    connection::{Place, other_bus, with_bus_at},
    progress,
    quantity::{self, Moment},
};
use crate::{
    bus::{
        Pattern, Start,
        bridge::{self, BridgeOptions, Copied, Progress},
    },
    cmd::{Context, Exit, Failure, Stdout, Threads, notify::Notifier},
    config,
};

/// Flags of `godctl bus bridge`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus bridge --to amqp://broker.example                      from the bus of bus.url
  godctl bus bridge --from sqlite: --to amqp://broker.example --bind 'voice.#' --name voice
  godctl bus bridge --from amqp://broker.example --to sqlite:copy.db --no-follow --since 7d

How far it is is kept at the destination, in the same step as the events: a bridge that is killed goes
on where it stopped, without loss. Where the source keeps no history (a RabbitMQ without bus.history)
it works off a queue of its own there, from the first time that it was started on. It says at its start
whether events can arrive twice.")]
pub(super) struct Args {
    /// Copy from this bus instead of bus.url
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// Copy to this bus
    #[arg(long, value_name = "URL")]
    to: String,
    /// The exchange at the destination, where it is another one than bus.exchange
    #[arg(long, value_name = "NAME")]
    to_exchange: Option<String>,
    /// Only events whose type matches (may be repeated)
    #[arg(long = "bind", value_name = "PATTERN")]
    patterns: Vec<Pattern>,
    /// What remembers how far it is; two bridges between the same buses need two names
    #[arg(long, value_name = "NAME", default_value = "bridge")]
    name: String,
    /// Where to begin the first time: so long ago, at a time, or at the beginning
    #[arg(long, value_name = "10m|TIME|beginning", default_value = "beginning", value_parser = quantity::moment)]
    since: Moment,
    /// End where the history ends
    #[arg(long)]
    no_follow: bool,
    /// Print what was done as one JSON object at the end
    #[arg(long)]
    json: bool,
}

/// Events copied in one step.
const BATCH: usize = 256;

/// How often what was done is shown.
const SHOWN: Duration = Duration::from_millis(250);

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let from = match &args.from {
        Some(from) => other_bus(from, context)?,
        None => context.config.bus.clone(),
    };
    let mut to = other_bus(&args.to, context)?;
    if let Some(exchange) = &args.to_exchange {
        to.exchange.clone_from(exchange);
    }
    if is_same(&from, &to) {
        let error = anyhow::anyhow!("a bridge from a bus to itself would never end; change --from or --to");
        return Err(Failure::new(Exit::Usage, error).into());
    }
    let options = BridgeOptions {
        name: args.name.clone(),
        patterns: if args.patterns.is_empty() { vec![Pattern::all()] } else { args.patterns.clone() },
        start: args.since.resolve(Timestamp::now()).map_or(Start::Beginning, Start::Time),
        batch: BATCH,
        follow: !args.no_follow,
    };
    let notifier = Notifier::new(context);
    let copied = context.block_on(Threads::PerCore, async {
        with_bus_at(context, Place::of(&from, context), async |source| {
            with_bus_at(context, Place::of(&to, context), async |destination| {
                let promise = bridge::promise(&source.capabilities(), &destination.capabilities());
                writeln!(io::stderr(), "from {} to {}: {promise}", from.url, to.url).ok();
                notifier.clone().ready("copying");
                let progress = Progress::default();
                let stop = context.shutdown.child_token();
                tokio::select! {
                    ended = bridge::run(&*source, &*destination, &options, &progress, &stop) => ended?,
                    () = show(context, &notifier, &progress) => {}
                }
                Ok(progress.now())
            })
            .await
        })
        .await
    })?;
    match args.json {
        true => writeln!(Stdout::lock(), "{}", serde_json::to_string(&copied)?)?,
        false => drop(writeln!(io::stderr(), "{}", text(&copied))),
    }
    Ok(())
}

fn is_same(from: &config::Bus, to: &config::Bus) -> bool {
    from.url == to.url && (!from.url.is_broker() || from.exchange == to.exchange)
}

/// Shows how far it is, on a terminal and to whoever supervises. Never ends.
async fn show(context: &Context, notifier: &Notifier, progress: &Progress) {
    let spinner = progress::count(context);
    let mut ticks = tokio::time::interval(SHOWN);
    let mut told = Copied::default();
    loop {
        ticks.tick().await;
        let now = progress.now();
        spinner.set_position(now.copied);
        if now != told {
            notifier.status(&text(&now));
            told = now;
        }
    }
}

fn text(copied: &Copied) -> String {
    let Copied { copied, duplicates, skipped, gaps, retries, .. } = *copied;
    let mut text = format!("{copied} copied");
    for (count, what) in [
        (duplicates, "there already"),
        (skipped, "skipped"),
        (gaps, "gaps at the source"),
        (retries, "times a side was away"),
    ] {
        if count > 0 {
            text.push_str(&format!(", {count} {what}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_reads_well() {
        let copied = Copied { copied: 12, duplicates: 3, retries: 1, ..Copied::default() };
        assert_eq!(text(&copied), "12 copied, 3 there already, 1 times a side was away");
        assert_eq!(text(&Copied::default()), "0 copied");
    }

    #[test]
    fn a_bus_is_the_same_if_address_and_exchange_are() {
        let bus = |url: &str, exchange: &str| config::Bus {
            url: url.parse().unwrap(),
            exchange: exchange.to_owned(),
            ..config::Bus::default()
        };
        assert!(is_same(&bus("sqlite:", "a"), &bus("sqlite:", "b")));
        assert!(!is_same(&bus("amqp://h", "a"), &bus("amqp://h", "b")));
        assert!(is_same(&bus("amqp://h", "a"), &bus("amqp://h", "a")));
        assert!(!is_same(&bus("sqlite:", "a"), &bus("amqp://h", "a")));
    }
}
