//! `godctl doctor` placeholder file replaced below.

use super::Context;
use crate::config::ConfigError;

/// Flags of `godctl doctor`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, _context: &Context, _problem: Option<ConfigError>) -> anyhow::Result<()> {
    let _ = args.json;
    Ok(())
}
