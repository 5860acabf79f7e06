//! The subcommands of `godctl models`: what there is, what is here, bring it, remove it. Runs on the command's
//! runtime; Ctrl-C stops a pull and keeps what came.

use std::{
    io::{self, Write},
    path::Path,
};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::{
    numbers::{about, parameters, size},
    progress::{Display, PullDisplay},
    row::{Row, info, rows},
};
use crate::{
    asr::weights::{
        self, BUILTIN_NAME, HubOptions, Installed, ModelFiles, Pulled, RetryPolicy, WeightsError,
    },
    cmd::{Context, Exit, Failure, Stdout, Threads},
};

/// Flags of `godctl models`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  godctl models list                what there is, how large, under which licence, and what is here
  godctl models pull base           the usual choice for dictation on a small machine
  godctl models info base           all that is known of it
  godctl models rm base

Without an installed model godctl uses command-en, which is built in: good for spoken commands, not for dictation.
Models are kept in models.dir; HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean elsewhere.")]
pub struct ModelsArgs {
    #[command(subcommand)]
    command: ModelsCommand,
}

#[derive(Debug, Subcommand)]
enum ModelsCommand {
    /// Show the catalogue and what is installed
    #[command(
        after_help = "Examples:\n  godctl models list\n  godctl models list --json | jq -r '.[] | select(.installed) | .name'"
    )]
    List {
        /// Print one JSON array instead of the table
        #[arg(long)]
        json: bool,
    },
    /// Download a model, check it and install it
    #[command(after_help = "Examples:
  godctl models pull base
  godctl models pull large-v3-turbo
  godctl models pull distil-whisper/distil-large-v3@main
  HF_TOKEN=hf_... godctl models pull me/my-private-whisper
  HF_ENDPOINT=https://hf-mirror.example godctl models pull small.en

An interrupted pull goes on where it stopped when the same command is run again.")]
    Pull {
        /// A name of the catalogue, or owner/name or owner/name@revision of Hugging Face
        name: String,
        /// Print one JSON object at the end
        #[arg(long)]
        json: bool,
    },
    /// Remove an installed model and what is left of unfinished downloads of it
    #[command(after_help = "Examples:\n  godctl models rm medium\n  godctl models rm me/mine@v1")]
    Rm {
        /// The model, as `models list` calls it
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the directory of an installed model
    #[command(after_help = "Examples:\n  godctl models path base\n  ls \"$(godctl models path base)\"")]
    Path {
        /// The model, as `models list` calls it
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show all that is known of a model, installed or not, without using the network
    #[command(
        after_help = "Examples:\n  godctl models info large-v3-turbo\n  godctl models info ./my-fine-tune --json"
    )]
    Info {
        /// A name of the catalogue, owner/name, owner/name@revision, or a directory
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// What the command works with.
pub struct ModelsContext<'a> {
    /// Where models are and come from.
    pub hub: &'a HubOptions,
    /// Ends a pull, with [`Interrupted`].
    pub cancelled: CancellationToken,
    /// How a pull shows that it moves.
    pub display: PullDisplay,
    /// Where results are written: stdout.
    pub out: &'a mut dyn Write,
}

impl std::fmt::Debug for ModelsContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ModelsContext")
            .field("hub", &self.hub)
            .field("display", &self.display)
            .finish_non_exhaustive()
    }
}

/// The user stopped a pull; what was received is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; {} are kept, run the same command to go on", size(*kept))]
pub struct Interrupted {
    /// Bytes on disk.
    pub kept: u64,
}

/// `godctl models`, from the flags to the exit code.
pub(in crate::cmd) fn main(args: ModelsArgs, context: &Context) -> anyhow::Result<()> {
    let models = &context.config.models;
    let hub = HubOptions {
        endpoint: models.endpoint.clone(),
        // A token that cannot be read is no reason to refuse a look at what is installed.
        token: if matches!(args.command, ModelsCommand::Pull { .. }) { models.read_token()? } else { None },
        offline: models.offline,
        dir: context.paths.models_dir.clone(),
        retry: RetryPolicy::default(),
    };
    let display = if context.terminal.stderr.is_terminal { PullDisplay::Bar } else { PullDisplay::Lines };
    let cancelled = context.shutdown.child_token();
    let result = context.block_on(Threads::Current, async {
        run(args, ModelsContext { hub: &hub, cancelled, display, out: &mut Stdout::lock() }).await
    });
    result.map_err(|error| match error.downcast_ref::<WeightsError>() {
        Some(WeightsError::Busy { .. } | WeightsError::Unreachable { .. }) => {
            Failure::new(Exit::Unavailable, error).into()
        }
        Some(WeightsError::Settings(_)) => Failure::new(Exit::Config, error).into(),
        _ => error,
    })
}

/// Runs `godctl models`.
///
/// # Errors
/// [`WeightsError`], [`Interrupted`], or a failure to write to `out`.
pub async fn run(args: ModelsArgs, context: ModelsContext<'_>) -> anyhow::Result<()> {
    let ModelsContext { hub, cancelled, display, out } = context;
    match args.command {
        ModelsCommand::List { json } => list(&hub.dir, json, out),
        ModelsCommand::Pull { name, json } => {
            let pulled = pull(&name, hub, &cancelled, Display::new(display, Box::new(io::stderr()))).await?;
            report_pull(&pulled, json, out)
        }
        ModelsCommand::Rm { name, json } => {
            let removed = weights::remove(&name, &hub.dir)?;
            if json {
                return print_json(out, &removed);
            }
            for path in removed.models.iter().chain(&removed.unfinished) {
                writeln!(out, "removed {}", path.display())?;
            }
            Ok(writeln!(out, "freed {}", size(removed.bytes))?)
        }
        ModelsCommand::Path { name, json } => match weights::resolve(Some(&name), &hub.dir)?.files {
            ModelFiles::Directory(path) if json => print_json(out, &serde_json::json!({ "path": path })),
            ModelFiles::Directory(path) => Ok(writeln!(out, "{}", path.display())?),
            ModelFiles::Embedded(_) => Err(WeightsError::BuiltIn { name }.into()),
        },
        ModelsCommand::Info { name, json } => {
            let row = info(&name, &hub.dir)?;
            if json { print_json(out, &row) } else { print_info(&row, out) }
        }
    }
}

fn list(dir: &Path, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let rows = rows(dir)?;
    if json {
        return print_json(out, &rows);
    }
    let width = rows.iter().map(|row| row.name.len()).max().unwrap_or_default().max(4);
    writeln!(
        out,
        "{:width$}  {:>10}  {:>8}  {:>8}  {:14}  {:10}  INSTALLED",
        "NAME", "PARAMETERS", "SIZE", "MEMORY", "LANGUAGES", "LICENCE"
    )?;
    for row in &rows {
        let exact = row.installed.is_some() || row.builtin;
        writeln!(
            out,
            "{:width$}  {:>10}  {:>8}  {:>8}  {:14}  {:10}  {}",
            row.name,
            row.parameters.map_or_else(|| "?".to_owned(), parameters),
            row.size_bytes
                .map_or_else(|| "?".to_owned(), |bytes| if exact { size(bytes) } else { about(bytes) }),
            row.memory_bytes_estimate.map_or_else(|| "?".to_owned(), about),
            row.languages.map_or_else(|| "?".to_owned(), |languages| languages.to_string()),
            row.licence.as_deref().unwrap_or("?"),
            row.state(),
        )?;
    }
    writeln!(
        out,
        "\n~ is approximate. MEMORY is an estimate for one stream on a CPU, with the weights as f32."
    )?;
    writeln!(
        out,
        "godctl models info NAME says what a model is good for; godctl models pull NAME installs it."
    )?;
    Ok(())
}

fn print_info(row: &Row, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut line = |key: &str, value: Option<String>| match value {
        Some(value) => writeln!(out, "{key:12}{value}"),
        None => Ok(()),
    };
    line("name", Some(row.name.clone()))?;
    line("also called", (!row.aliases.is_empty()).then(|| row.aliases.join(", ")))?;
    line("from", row.repo.as_ref().map(|repo| format!("{repo} on the Hugging Face hub")))?;
    line("good for", row.good_for.map(str::to_owned))?;
    line("languages", row.languages.map(|languages| languages.to_string()))?;
    let source = if row.builtin { "" } else { " (as its model card says)" };
    line("licence", row.licence.as_ref().map(|licence| format!("{licence}{source}")))?;
    line("parameters", row.parameters.map(parameters))?;
    match (&row.installed, row.builtin) {
        (Some(place), _) => {
            line("size", row.size_bytes.map(size))?;
            line(
                "memory",
                row.memory_bytes_estimate.map(|bytes| format!("{} (estimate, f32 on a CPU)", about(bytes))),
            )?;
            line("path", Some(place.path.display().to_string()))?;
            line("commit", place.commit.clone())?;
            line("installed", place.installed_at.clone())?;
            line("damage", place.damage.clone())?;
        }
        (None, true) => {
            line("size", row.size_bytes.map(size))?;
            line(
                "memory",
                row.memory_bytes_estimate.map(|bytes| format!("{} (estimate, f32 on a CPU)", about(bytes))),
            )?;
            line("path", Some("inside the godctl binary".to_owned()))?;
        }
        (None, false) => {
            line("download", row.size_bytes.map(about))?;
            line(
                "memory",
                row.memory_bytes_estimate.map(|bytes| format!("{} (estimate, f32 on a CPU)", about(bytes))),
            )?;
            line("installed", Some(format!("no; run: godctl models pull {}", row.name)))?;
        }
    }
    Ok(())
}

async fn pull(
    name: &str,
    hub: &HubOptions,
    cancelled: &CancellationToken,
    mut display: Display,
) -> anyhow::Result<Pulled> {
    let result = {
        let pull = Box::pin(weights::pull(name, hub, &mut display));
        tokio::select! {
            biased;
            // Dropping the pull keeps its parts.
            () = cancelled.cancelled() => None,
            result = pull => Some(result),
        }
    };
    display.bar.finish_and_clear();
    match result {
        Some(result) => Ok(result?),
        None => Err(Interrupted { kept: display.done }.into()),
    }
}

fn report_pull(pulled: &Pulled, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let (status, model, received) = match pulled {
        Pulled::BuiltIn => ("built_in", None, 0),
        Pulled::Present(model) => ("present", Some(model), 0),
        Pulled::Fetched { model, received } => ("installed", Some(model), *received),
    };
    if json {
        return print_json(
            out,
            &serde_json::json!({
                "status": status,
                "name": model.map_or(BUILTIN_NAME, |model| &model.manifest.name),
                "path": model.map(|model| &model.dir),
                "commit": model.map(|model| &model.manifest.commit),
                "bytes": model.map(Installed::bytes),
                "received_bytes": received,
            }),
        );
    }
    match pulled {
        Pulled::BuiltIn => {
            writeln!(out, "{BUILTIN_NAME} is inside the godctl binary; there is nothing to download")?
        }
        Pulled::Present(model) => {
            writeln!(out, "{} is installed and up to date in {}", model.manifest.name, model.dir.display())?;
        }
        Pulled::Fetched { model, .. } => {
            let name = &model.manifest.name;
            writeln!(out, "installed {name} ({}) in {}", size(model.bytes()), model.dir.display())?;
            writeln!(out, "use it: godctl transcribe --model {name} FILE")?;
        }
    }
    Ok(())
}

fn print_json(out: &mut dyn Write, value: &impl Serialize) -> anyhow::Result<()> {
    serde_json::to_writer_pretty(&mut *out, value).context("writing JSON")?;
    Ok(writeln!(out)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::weights::CATALOGUE;

    #[test]
    fn the_catalogue_table_is_complete_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        list(dir.path(), false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("command-en") && lines[1].ends_with("built in"), "{text}");
        assert_eq!(lines.len(), 2 + CATALOGUE.len() + 3, "{text}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
    }
}
