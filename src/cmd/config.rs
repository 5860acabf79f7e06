//! `godctl config`: show, check or explain the configuration.

use std::io::Write as _;

use serde_json::{Map, Value, json};

use super::Stdout;
use crate::config::{Entry, Loaded, Origin, Shown};

/// The file that explains every key.
const EXAMPLE: &str = include_str!("../../assets/config.example.toml");

/// Flags of `godctl config`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl config show --origin                  every setting, and which layer set it
  godctl config check --config staging.toml    is this file right?
  godctl config example > ~/.config/godctl/config.toml

Layers, weakest first: built-in defaults, the file, the environment (GODCTL__ASR__LISTEN=…), flags.")]
pub(super) struct Args {
    #[command(subcommand)]
    pub(super) action: Action,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Action {
    /// Print every setting as it is after all layers; secrets are masked
    Show(ShowArgs),
    /// Load and validate everything; exits with 78 and the reason when something is wrong
    Check,
    /// Print a commented configuration file with every key and its default
    Example,
}

/// Flags of `godctl config show`.
#[derive(Debug, clap::Args)]
pub(super) struct ShowArgs {
    /// Tell which layer each value came from
    #[arg(long)]
    origin: bool,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn example() -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    stdout.write_all(EXAMPLE.as_bytes())?;
    stdout.flush()?;
    Ok(())
}

pub(super) fn check(loaded: &Loaded) -> anyhow::Result<()> {
    let set = loaded.entries().iter().filter(|entry| entry.origin != Origin::Default).count();
    let keys = if set == 1 { "key" } else { "keys" };
    let file = match &loaded.paths.config_file {
        Some(path) if path.exists() => path.display().to_string(),
        Some(path) => format!("no file at {}", path.display()),
        None => "no file".to_owned(),
    };
    writeln!(Stdout::lock(), "ok: {set} {keys} set ({file})")?;
    Ok(())
}

pub(super) fn show(args: &ShowArgs, loaded: &Loaded) -> anyhow::Result<()> {
    let entries = loaded.entries();
    let mut stdout = Stdout::lock();
    match (args.json, args.origin) {
        (true, false) => writeln!(stdout, "{:#}", nested(&entries)?)?,
        (true, true) => writeln!(stdout, "{:#}", flat_with_origins(&entries)?)?,
        (false, _) => write!(stdout, "{}", as_toml(&entries, args.origin))?,
    }
    Ok(())
}

fn json_of(value: &Shown) -> anyhow::Result<Value> {
    Ok(match value {
        Shown::Value(value) => serde_json::to_value(value)?,
        Shown::Masked => "***".into(),
        Shown::Unset => Value::Null,
    })
}

/// `{"asr": {"listen": …}}`.
fn nested(entries: &[Entry]) -> anyhow::Result<Value> {
    let mut root = Map::new();
    for Entry { key, value, .. } in entries {
        let value = json_of(value)?;
        match key.split_once('.') {
            None => drop(root.insert(key.clone(), value)),
            Some((section, name)) => {
                let section = root.entry(section).or_insert_with(|| json!({}));
                section[name] = value;
            }
        }
    }
    Ok(root.into())
}

/// `{"asr.listen": {"value": …, "layer": "env", "origin": "environment variable …"}}`.
fn flat_with_origins(entries: &[Entry]) -> anyhow::Result<Value> {
    let mut root = Map::new();
    for Entry { key, value, origin } in entries {
        let entry = json!({
            "value": json_of(value)?,
            "layer": origin.layer(),
            "origin": origin.to_string(),
        });
        root.insert(key.clone(), entry);
    }
    Ok(root.into())
}

/// A file that could be loaded again, but for masked secrets.
fn as_toml(entries: &[Entry], with_origin: bool) -> String {
    let line = |name: &str, value: &Shown| match value {
        Shown::Unset => format!("# {name} is unset"),
        value => format!("{name} = {value}"),
    };
    let mut text = String::new();
    let mut current = "";
    for Entry { key, value, origin } in entries {
        let (section, name) = key.split_once('.').unwrap_or(("", key));
        if section != current {
            current = section;
            text.push_str(&format!("\n[{section}]\n"));
        }
        let line = line(name, value);
        match with_origin {
            true => text.push_str(&format!("{line:<40}  # {origin}\n")),
            false => text.push_str(&format!("{line}\n")),
        }
    }
    text
}
