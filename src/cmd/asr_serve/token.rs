//! `godctl asr-serve token`: makes a token, shows it once, and keeps its hash.

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, anyhow, bail};

use super::{
    super::{Context, Stdout},
    doors,
};
use crate::asr::server::NewToken;

/// Flags of `godctl asr-serve token`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl asr-serve token kiosk --tokens-file tokens.toml     add one to this file, and print it
  TOKEN=$(godctl asr-serve token kiosk)                      add one to the file of asr.tokens_file
  godctl asr-serve token guest --max-sessions 1 --max-session-s 600
  pkill -HUP -f 'godctl asr-serve'                           running servers read the file again

The token is printed once. The file holds its SHA-256 only, which is enough: a token has 256
random bits, so there is nothing to guess. Without a file the entry is printed for you to store.
To revoke a token, delete its table from the file and send SIGHUP: the sessions that it has open say
what they have heard, and close.")]
pub(super) struct TokenArgs {
    /// Who gets it; the name stands in logs
    name: String,
    /// Streams it may have at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    max_sessions: Option<u32>,
    /// Seconds that each of its sessions may last
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..))]
    max_session_s: Option<u32>,
    /// The file to add it to; made if it is not there
    #[arg(long, value_name = "FILE")]
    tokens_file: Option<PathBuf>,
}

pub(super) fn run(args: &TokenArgs, context: &Context) -> anyhow::Result<()> {
    let token = NewToken::generate().ok_or_else(|| anyhow!("the system gives no random numbers"))?;
    let entry = token.entry(&args.name, args.max_sessions, args.max_session_s)?;
    let file = args.tokens_file.as_ref().or(context.config.asr.tokens_file.as_ref());
    if let Some(path) = file {
        add(path, &args.name, &entry)?;
        writeln!(Stdout::lock(), "{}", token.expose())?;
        // The token alone is the result; this is for whoever watches.
        drop(writeln!(
            io::stderr(),
            "added {} to {}; running servers read it on SIGHUP",
            args.name,
            path.display()
        ));
        return Ok(());
    }
    write!(
        Stdout::lock(),
        "Give this to the client; it is shown once:\n\n{}\n\nPut this into the file that asr.tokens_file names:\n\n{entry}",
        token.expose()
    )?;
    Ok(())
}

/// Appends an entry to a file that holds tokens, or makes the file.
fn add(path: &Path, name: &str, entry: &str) -> anyhow::Result<()> {
    let exists = path.exists();
    if exists && doors::parse(path)?.has(name) {
        bail!(
            "{} has a token called {name} already; choose another name, or delete its table",
            path.display()
        );
    }
    let mut options = std::fs::OpenOptions::new();
    options.append(true).create(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let text = if exists { format!("\n{entry}") } else { entry.to_owned() };
    let cannot = || format!("cannot write {}", path.display());
    let mut file = options.open(path).with_context(cannot)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(cannot)
}
