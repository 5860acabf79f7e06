//! `godctl completions`: scripts that teach a shell our commands and flags.

use std::io::Write as _;

use clap_complete::Shell;

use super::Stdout;

/// Flags of `godctl completions`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl completions bash > ~/.local/share/bash-completion/completions/godctl
  godctl completions zsh  > \"${fpath[1]}/_godctl\"
  godctl completions fish > ~/.config/fish/completions/godctl.fish")]
pub(super) struct Args {
    /// The shell to write for
    shell: Shell,
}

pub(super) fn run(args: &Args, tree: &mut clap::Command) -> anyhow::Result<()> {
    // Generated into memory first: the generator gives up on a reader that went away by panicking.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, tree, "godctl", &mut script);
    let mut stdout = Stdout::lock();
    stdout.write_all(&script)?;
    stdout.flush()?;
    Ok(())
}
