//! The flags of `godctl up`, and what each of its ways does. Runs on the main thread; the supervisor gets a runtime of
//! its own there.

use std::{
    ffi::OsString,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::Context as _;

use super::{
    Policy,
    parts::{self, Part},
    units::{self, Unit},
};
use crate::{
    cmd::{Context, Stdout},
    config::Config,
};

/// Flags of `godctl up`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl up                                   run what up.parts lists, until Ctrl-C
  godctl -c 'up.parts=[\"asr-serve\", \"asr-serve --listen 127.0.0.1:8001\"]' up
  godctl up --parts asr-serve                 run one of them
  godctl up --dry-run                         what would run
  godctl up --print-units --write ~/.config/systemd/user
  systemctl --user daemon-reload && systemctl --user enable --now godctl.target

A part is a command line of godctl: asr-serve, bus bridge, bus work or bus tail. It starts when the
one before it is ready, and starts again when it fails or hangs: after 1 s, then 2, 4, up to 60. One
that fails too often (up.max_restarts within up.window_s) stops everything, and so does one whose
usage or configuration is wrong. A part that was ready and ends with exit code 0 stays down, because
somebody stopped it. Ctrl-C or SIGTERM stops the parts, the last one first; a second one kills them
at once. Global flags are passed on.

Units run with systemd's environment, not with this shell's: put settings into the configuration
file.")]
pub(in crate::cmd) struct Args {
    /// Run only these parts, by the names that --dry-run shows
    #[arg(long, value_name = "NAME,…", value_delimiter = ',')]
    parts: Vec<String>,
    /// List what would run, and end
    #[arg(long, conflicts_with = "print_units")]
    dry_run: bool,
    /// Print systemd user units that run the same parts, and end
    #[arg(long)]
    print_units: bool,
    /// Write the units into this directory instead
    #[arg(long, value_name = "DIR", requires = "print_units")]
    write: Option<PathBuf>,
}

pub(in crate::cmd) fn run(args: &Args, context: &Context, passed_on: Vec<OsString>) -> anyhow::Result<()> {
    let parts = parts::plan(&context.config.up, &passed_on, &args.parts)?;
    let policy = policy(&context.config);
    if args.dry_run {
        return list(&parts);
    }
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    if args.print_units {
        let passed_on = for_units(context, passed_on)?;
        let units = units::units(&parts, &program, &passed_on, policy)?;
        return match &args.write {
            Some(dir) => write(&units, dir),
            None => print(&units),
        };
    }
    supervise(context, parts, program, passed_on, policy)
}

#[cfg(unix)]
fn supervise(
    context: &Context,
    parts: Vec<Part>,
    program: PathBuf,
    passed_on: Vec<OsString>,
    policy: Policy,
) -> anyhow::Result<()> {
    use super::runner::{self, Plan};
    use crate::cmd::{Threads, notify::Notifier};
    let notifier = Notifier::new(context);
    // One thread, because the parts are bound to the life of the thread that starts them.
    let plan = Plan { parts, program, passed_on, policy };
    context.block_on(Threads::Current, runner::run(plan, context, notifier))
}

#[cfg(not(unix))]
fn supervise(_: &Context, _: Vec<Part>, _: PathBuf, _: Vec<OsString>, _: Policy) -> anyhow::Result<()> {
    anyhow::bail!(
        "supervising needs a Unix system; start the parts one by one, `godctl up --dry-run` lists them"
    )
}

fn policy(config: &Config) -> Policy {
    let up = &config.up;
    Policy {
        ready: up.ready(),
        stop: up.stop(&config.shutdown),
        watchdog: up.watchdog(),
        max_restarts: up.max_restarts as usize,
        window: up.window(),
    }
}

/// The global flags as a unit needs them: it runs elsewhere and without this shell's variables.
fn for_units(context: &Context, passed_on: Vec<OsString>) -> anyhow::Result<Vec<OsString>> {
    let absolute =
        |path: &Path| std::path::absolute(path).context("cannot tell where the configuration file is");
    let mut words = Vec::new();
    let mut has_file = false;
    let mut flags = passed_on.into_iter();
    while let Some(flag) = flags.next() {
        let is_file = flag == "--config";
        words.push(flag);
        if is_file && let Some(path) = flags.next() {
            words.push(absolute(path.as_ref())?.into());
            has_file = true;
        }
    }
    if let (false, Some(path)) = (has_file, context.environment.get("GODCTL_CONFIG")) {
        words.extend(["--config".into(), absolute(path.as_ref())?.into()]);
    }
    Ok(words)
}

fn list(parts: &[Part]) -> anyhow::Result<()> {
    let width = parts.iter().map(|part| part.name.len()).max().unwrap_or_default();
    let mut stdout = Stdout::lock();
    for part in parts {
        writeln!(stdout, "{:width$}  godctl {}", part.name, part.shown())?;
    }
    Ok(stdout.flush()?)
}

fn print(units: &[Unit]) -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    for (index, unit) in units.iter().enumerate() {
        let gap = if index > 0 { "\n" } else { "" };
        write!(stdout, "{gap}# {}\n{}", unit.file, unit.text)?;
    }
    Ok(stdout.flush()?)
}

fn write(units: &[Unit], dir: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make the directory {}", dir.display()))?;
    let mut stdout = Stdout::lock();
    for unit in units {
        let path = dir.join(&unit.file);
        let failed = || format!("cannot write {}", path.display());
        // Whole or not at all, also where systemd reads at the same time.
        let mut file = tempfile::Builder::new().prefix(".godctl").tempfile_in(dir).with_context(failed)?;
        file.write_all(unit.text.as_bytes()).with_context(failed)?;
        file.persist(&path).with_context(failed)?;
        writeln!(stdout, "{}", path.display())?;
    }
    for file in left_over(units, dir) {
        writeln!(
            stdout,
            "{} belongs to no part any more; remove it if it is yours",
            dir.join(file).display()
        )?;
    }
    Ok(stdout.flush()?)
}

/// Units of ours that an earlier configuration left in the directory.
fn left_over(units: &[Unit], dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<String> = names
        .filter(|name| name.starts_with("godctl-") && name.ends_with(".service"))
        .filter(|name| units.iter().all(|unit| unit.file != *name))
        .collect();
    names.sort();
    names
}
