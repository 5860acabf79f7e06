//! Flags of `godctl agent status`, and what they lead to.

use std::io::Write as _;

use super::{
    super::super::{Context, Stdout, Threads},
    Look, look, screen, watch,
};
use crate::bus::{Clock as _, SystemClock};

/// Flags of `godctl agent status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Shows the turns that run now, wherever the store of the sessions is seen from, those that have
ended lately, and the prompts that `agent listen` has taken on this machine.

Examples:
  godctl agent status
  godctl agent status --watch                          until q or Ctrl-C
  godctl agent status --json | jq '.running[].session'
  godctl agent status --watch --json                   a line for each change")]
pub(in crate::cmd::agent) struct Args {
    /// Show it anew every second; q ends it
    #[arg(short, long)]
    watch: bool,
    /// Print one JSON object; with --watch one a line, for each change
    #[arg(long)]
    json: bool,
}

pub(in crate::cmd::agent) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    context.block_on(Threads::Current, async {
        look::with_desk(context, async |desk| {
            if args.watch {
                return watch::watch(context, desk, args.json).await;
            }
            let status = desk.look(SystemClock.now()).await?;
            let mut stdout = Stdout::lock();
            if args.json {
                writeln!(stdout, "{}", serde_json::to_string(&status)?)?;
            } else {
                for line in screen::lines(&status, &Look::of(context)) {
                    writeln!(stdout, "{line}")?;
                }
            }
            Ok(())
        })
        .await
    })
}
