//! `godctl version`: what this binary is and what was built into it.

use std::io::Write as _;

use super::Stdout;
use crate::asr::weights::BUILTIN;

/// Flags of `godctl version`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// The commit that the binary was built from, where the build was told (`GODCTL_COMMIT=$(git rev-parse HEAD)`).
const COMMIT: Option<&str> = option_env!("GODCTL_COMMIT");

/// The name of the model inside the binary.
const BUILTIN_MODEL: &str = "command-en";

#[derive(Debug, serde::Serialize)]
struct Version {
    version: &'static str,
    commit: Option<&'static str>,
    target: String,
    features: Vec<&'static str>,
    builtin_model: &'static str,
    builtin_model_bytes: usize,
}

impl Version {
    fn of_this_binary() -> Self {
        let features = [("cuda", cfg!(feature = "cuda")), ("metal", cfg!(feature = "metal"))];
        Self {
            version: env!("CARGO_PKG_VERSION"),
            commit: COMMIT.filter(|commit| !commit.is_empty()),
            target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
            features: features.iter().filter(|(_, on)| *on).map(|(name, _)| *name).collect(),
            builtin_model: BUILTIN_MODEL,
            builtin_model_bytes: BUILTIN.iter().map(|file| file.bytes.len()).sum(),
        }
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<()> {
    let version = Version::of_this_binary();
    let mut stdout = Stdout::lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(&version)?)?;
        return Ok(());
    }
    let megabytes = version.builtin_model_bytes as f64 / 1e6;
    let features = if version.features.is_empty() { "none".to_owned() } else { version.features.join(", ") };
    writeln!(stdout, "godctl {}", version.version)?;
    writeln!(stdout, "commit    {}", version.commit.unwrap_or("not recorded"))?;
    writeln!(stdout, "target    {}", version.target)?;
    writeln!(stdout, "features  {features}")?;
    writeln!(stdout, "model     {} ({megabytes:.1} MB, built in)", version.builtin_model)?;
    Ok(())
}
