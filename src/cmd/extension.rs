//! `godctl extension`: the browser extension that captions a tab or the microphone.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use clap::Subcommand;

use super::Stdout;

/// How the manifest of every version of this extension names itself.
const MARK: &str = "\"name\": \"godctl captions\"";

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_bytes!(concat!("../../assets/extension/", $path)).as_slice())),*]
    };
}

/// Everything that a browser loads.
const FILES: [(&str, &[u8]); 17] = files![
    "manifest.json",
    "background.js",
    "icon.png",
    "offscreen.html",
    "offscreen.js",
    "options.html",
    "options.js",
    "overlay.js",
    "pages.css",
    "popup.html",
    "popup.js",
    "README.md",
    "lib/capture.js",
    "lib/capture-worklet.js",
    "lib/resample.js",
    "lib/session.js",
    "lib/transcript.js",
];

/// Flags of `godctl extension`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Write the extension into a directory, for a browser to load
    Export(ExportArgs),
}

/// Flags of `godctl extension export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl extension export ~/godctl-captions
  godctl extension export ./captions --force     also over files that are not ours

Then, in Chrome, Chromium, Edge or Brave (version 116 or later): open chrome://extensions, switch on
developer mode, choose `Load unpacked`, and take that directory. Set the server in the options of the
extension; it is ws://127.0.0.1:8000 until then. A directory that holds an earlier export is
brought up to date.")]
struct ExportArgs {
    /// Where to; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Write also where other files are
    #[arg(long)]
    force: bool,
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let Action::Export(args) = &args.action;
    if !args.force {
        refuse_foreign(&args.dir)?;
    }
    for (name, content) in FILES {
        let path = args.dir.join(name);
        let parent = path.parent().unwrap_or(&args.dir);
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let mut stdout = Stdout::lock();
    writeln!(stdout, "wrote {} files to {}", FILES.len(), args.dir.display())?;
    writeln!(stdout, "in the browser: chrome://extensions, developer mode, Load unpacked")?;
    stdout.flush()?;
    Ok(())
}

/// Refuses a directory that holds something else than an earlier export.
fn refuse_foreign(dir: &Path) -> anyhow::Result<()> {
    let mut entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => {
            bail!("{} is a file; give a directory", dir.display())
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    let ours = fs::read_to_string(dir.join("manifest.json")).is_ok_and(|manifest| manifest.contains(MARK));
    if !ours && let Some(entry) = entries.next() {
        let entry = entry.with_context(|| format!("cannot read {}", dir.display()))?;
        bail!(
            "{} holds other files, such as {}; give an empty directory, or --force to write there all the same",
            dir.display(),
            entry.file_name().to_string_lossy()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_bears_the_mark_and_the_version() {
        let manifest = std::str::from_utf8(FILES[0].1).unwrap();
        assert!(manifest.contains(MARK));
        let manifest: serde_json::Value = serde_json::from_str(manifest).unwrap();
        assert_eq!(manifest["version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(manifest["manifest_version"], 3);
    }
}
