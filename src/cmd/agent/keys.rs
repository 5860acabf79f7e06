//! `godctl agent keys`: the keys that sessions are encrypted with.

use std::{io::Write as _, sync::Arc};

use anyhow::{anyhow, bail};

use super::{
    super::{Context, Exit, Failure, Stdout, Threads},
    store::with_exit_code,
};
use crate::{
    agents::store::{open, vault::Vault},
    bus::SystemClock,
};

/// Blobs that are encrypted anew in one step.
const BATCH: usize = 200;

/// Flags of `godctl agent keys`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl agent keys list
  godctl agent keys rotate
  godctl agent keys rotate --resume --forget-old

What agents themselves keep (below ~/.claude, ~/.gemini, ~/.codex) is not encrypted by godctl;
`agent start --ephemeral` lets claude and codex keep nothing.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// List the ids of the keys, the active one first
    #[command(after_help = "Examples:\n  godctl agent keys list")]
    List,
    /// Make a new key, and encrypt everything with it
    #[command(after_help = "\
Examples:
  godctl agent keys rotate
  godctl agent keys rotate --resume --forget-old     go on after an interruption

Other godctl processes keep the keys that they were started with; restart them before the old key is forgotten.
Keys that come from GODCTL_SESSION_KEYS are not made here: put a new one in front there, then use --resume.")]
    Rotate {
        /// Make no new key: only encrypt with the active one what is not yet
        #[arg(long)]
        resume: bool,
        /// Then delete the old keys from the file
        #[arg(long)]
        forget_old: bool,
    },
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let config = &context.config.store;
    let keys = open::find_keys(config, &context.paths.data_dir)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let Some(mut ring) = keys.ring else { bail!("there are no keys; store.encrypt is off") };
    let (resume, forget_old) = match args.action {
        Action::List => {
            let place =
                keys.file.as_ref().map_or("the environment".to_owned(), |file| file.display().to_string());
            let mut stdout = Stdout::lock();
            for (index, key) in ring.iter().enumerate() {
                let role = if index == 0 { "active" } else { "old" };
                writeln!(stdout, "{}  {role}  {place}", key.id())?;
            }
            return Ok(());
        }
        Action::Rotate { resume, forget_old } => (resume, forget_old),
    };
    if !config.encrypt {
        let error = anyhow!("store.encrypt is off; set it to true, or there is nothing to rotate to");
        return Err(Failure::new(Exit::Config, error).into());
    }
    let file = match (&keys.file, resume) {
        (None, false) => {
            let error = anyhow!(
                "the keys come from GODCTL_SESSION_KEYS; put a new one in front there, then use --resume"
            );
            return Err(Failure::new(Exit::Usage, error).into());
        }
        (file, _) => file.as_deref(),
    };
    if let Some(file) = file.filter(|_| !resume) {
        ring.renew()?;
        // The new key is on the disk before anything is encrypted with it.
        ring.write(file)?;
    }
    let done = context.block_on(Threads::Current, async {
        let vault = Vault::new(ring.clone());
        let store = open::open_with(config, &context.paths.data_dir, Arc::new(SystemClock), vault)
            .await
            .map_err(|error| with_exit_code(error.into()))?;
        let done = store.reseal(BATCH).await;
        store.close().await;
        done.map_err(|error| {
            with_exit_code(
                anyhow::Error::new(error)
                    .context("not all is encrypted anew; `godctl agent keys rotate --resume` goes on"),
            )
        })
    })?;
    writeln!(Stdout::lock(), "encrypted {} anew with key {}", done.changed, ring.active().id())?;
    if done.left > 0 {
        bail!("{} were changed meanwhile; run `godctl agent keys rotate --resume`", done.left);
    }
    if let Some(file) = file.filter(|_| forget_old) {
        ring.forget_older();
        ring.write(file)?;
    }
    Ok(())
}
