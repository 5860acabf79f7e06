//! `godctl agent providers`: which agents are installed, and what they can do.

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Serialize;

use super::super::{Context, Stdout, Threads};
use crate::agents::{Abilities, Place, process, providers::Roster};

/// Flags of `godctl agent providers`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print a JSON array
    #[arg(long)]
    json: bool,
}

/// How long an agent may take to tell its version: some start a whole runtime first.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Serialize)]
struct Found {
    name: String,
    /// Where its program is, if it is installed.
    program: Option<PathBuf>,
    /// Where it is reached, if it is a service; whether it is, only a prompt shows.
    address: Option<String>,
    version: Option<String>,
    /// Whether there is something that it could log in with; whether that is taken only the service knows.
    credentials: bool,
    abilities: Abilities,
}

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let variables = context.environment.variables();
    let found = context.block_on(Threads::Current, async {
        let mut found = Vec::new();
        for provider in Roster::new(&context.config.agents).all() {
            let (path, address) = match provider.place() {
                Place::Program(program) => (process::find(program, variables), None),
                Place::Address(address) => (None, Some(address.to_owned())),
            };
            let version = match &path {
                Some(path) => version(path, variables).await,
                None => None,
            };
            found.push(Found {
                name: provider.name().to_owned(),
                program: path,
                address,
                version,
                credentials: provider.credentials().is_none_or(|wanted| wanted.are_there(variables)),
                abilities: provider.abilities(),
            });
        }
        Ok(found)
    })?;
    let mut stdout = Stdout::lock();
    if args.json {
        writeln!(stdout, "{}", serde_json::to_string(&found)?)?;
        return Ok(());
    }
    for one in &found {
        let state = match (&one.program, &one.address, one.credentials) {
            (None, None, _) => "not installed".to_owned(),
            (Some(path), _, true) => path.display().to_string(),
            (Some(path), _, false) => format!("{}  (no credentials found; log in first)", path.display()),
            (None, Some(address), true) => address.clone(),
            (None, Some(address), false) => format!("{address}  (no key found)"),
        };
        writeln!(stdout, "{:<8} {:<26} {state}", one.name, one.version.as_deref().unwrap_or("-"))?;
        writeln!(stdout, "         {}", describe(one.abilities))?;
    }
    Ok(())
}

fn describe(abilities: Abilities) -> String {
    let all = [
        (abilities.tools, "tools"),
        (abilities.resume, "resumes sessions"),
        (abilities.deltas, "answers piece by piece"),
        (abilities.thinking, "tells its thoughts"),
        (abilities.cost, "tells its cost"),
        (abilities.budget, "keeps to a budget"),
    ];
    let names: Vec<_> = all.into_iter().filter_map(|(has, name)| has.then_some(name)).collect();
    names.join(", ")
}

/// The first line that it prints about itself.
async fn version(program: &Path, variables: &BTreeMap<String, String>) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command
        .arg("--version")
        .env_clear()
        .envs(variables)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    Some(line.chars().filter(|c| !c.is_control()).take(60).collect())
}
