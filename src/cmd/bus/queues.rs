//! `godctl bus queues`: the work queues, and how to be rid of one.

use std::io::{self, IsTerminal as _, Write as _};

use super::{
    connection::with_bus,
    table::{Side, table},
};
use crate::{
    bus::QueueInfo,
    cmd::{Context, Exit, Failure, Stdout, Threads},
};

/// Flags of `godctl bus queues`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus queues
  godctl bus queues --json | jq '.[] | select(.dead > 0)'
  godctl bus queues delete thumbnails --yes

READY waits for a consumer, LEASED is being worked on, DELAYED waits for its next attempt, DEAD
failed for good (see godctl bus dead).")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// Print one JSON array
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Delete a queue, its bindings and all that waits in it
    #[command(
        after_help = "Examples:\n  godctl bus queues delete thumbnails\n  godctl bus queues delete thumbnails --yes"
    )]
    Delete {
        /// The queue
        name: String,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    match &args.action {
        Some(Action::Delete { name, yes }) => delete(name, *yes, context),
        None => list(args.json, context),
    }
}

fn list(json: bool, context: &Context) -> anyhow::Result<()> {
    let queues = context
        .block_on(Threads::Current, async { with_bus(context, async |bus| Ok(bus.queues().await?)).await })?;
    let mut out = Stdout::lock();
    match (json, queues.is_empty()) {
        (true, _) => writeln!(out, "{}", serde_json::to_string_pretty(&queues)?)?,
        (false, true) => writeln!(out, "no queues; godctl bus work QUEUE --bind PATTERN makes one")?,
        (false, false) => write!(out, "{}", rows(&queues))?,
    }
    Ok(())
}

fn rows(queues: &[QueueInfo]) -> String {
    let columns = [
        ("QUEUE", Side::Left),
        ("READY", Side::Right),
        ("LEASED", Side::Right),
        ("DELAYED", Side::Right),
        ("DEAD", Side::Right),
        ("CONSUMERS", Side::Right),
        ("BINDINGS", Side::Left),
    ];
    let known = |count: Option<u64>| count.map_or_else(|| "?".to_owned(), |count| count.to_string());
    let rows: Vec<Vec<String>> = queues
        .iter()
        .map(|queue| {
            vec![
                queue.name.clone(),
                queue.ready.to_string(),
                known(queue.leased),
                queue.delayed.to_string(),
                queue.dead.to_string(),
                known(queue.consumers),
                queue.bindings.as_ref().map_or_else(|| "?".to_owned(), |bindings| bindings.join(" ")),
            ]
        })
        .collect();
    table(&columns, &rows)
}

fn delete(name: &str, yes: bool, context: &Context) -> anyhow::Result<()> {
    confirm(yes, &format!("delete the queue {name} and all that waits in it"))?;
    context.block_on(Threads::Current, async {
        with_bus(context, async |bus| Ok(bus.delete_queue(name).await?)).await
    })?;
    writeln!(Stdout::lock(), "deleted {name}")?;
    Ok(())
}

/// Asks before something is lost. Without anybody to ask, the answer has to be among the flags.
///
/// # Errors
/// When the answer is no, or there is none.
pub(in crate::cmd) fn confirm(yes: bool, what: &str) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        let error = anyhow::anyhow!("this would {what}; add --yes");
        return Err(Failure::new(Exit::Usage, error).into());
    }
    write!(io::stderr(), "{what}? [y/N] ")?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => anyhow::bail!("nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_not_made_up() {
        let queue = |name: &str, bindings: Option<&[&str]>, leased| QueueInfo {
            name: name.to_owned(),
            bindings: bindings.map(|bindings| bindings.iter().map(|binding| (*binding).to_owned()).collect()),
            ready: 12,
            leased,
            delayed: 0,
            dead: 1,
            consumers: None,
        };
        let queues =
            [queue("agent.prompt", Some(&["agent.prompt", "voice.#"]), Some(3)), queue("mail", None, None)];
        insta::assert_snapshot!(rows(&queues), @"
        QUEUE         READY  LEASED  DELAYED  DEAD  CONSUMERS  BINDINGS
        agent.prompt     12       3        0     1          ?  agent.prompt voice.#
        mail             12       ?        0     1          ?  ?
        ");
    }
}
