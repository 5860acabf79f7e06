//! `godctl models`: what there is, what is here, bring it, remove it. Runs on the command's runtime; Ctrl-C stops a
//! pull and keeps what came.

use std::{
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;
use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle as BarStyle};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::asr::weights::{
    self, BUILTIN, BUILTIN_NAME, BUILTIN_SHAPE, CATALOGUE, Entry, HubOptions, Installed, Languages,
    ModelFiles, ModelName, PullEvent, PullProgress, Pulled, Shape, WeightsError,
};

/// Flags of `godctl models`.
#[derive(Debug, Args)]
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
        /// A name of the catalogue, or owner/name[@revision] of a Hugging Face model
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
        /// A name of the catalogue, owner/name[@revision], or a directory
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// How a pull shows that it moves; always on stderr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullDisplay {
    /// A bar with rate and time left.
    Bar,
    /// A line for every tenth.
    Lines,
    /// Nothing.
    Silent,
}

impl PullDisplay {
    /// A bar where a person watches, lines elsewhere.
    #[must_use]
    pub fn detect() -> Self {
        if io::stderr().is_terminal() { Self::Bar } else { Self::Lines }
    }
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
    pub out: &'a mut (dyn Write + Send),
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

/// Runs `godctl models`.
///
/// # Errors
/// [`WeightsError`], [`Interrupted`], or a failure to write to `out`.
pub async fn run(args: ModelsArgs, context: ModelsContext<'_>) -> anyhow::Result<()> {
    let ModelsContext { hub, cancelled, display, out } = context;
    match args.command {
        ModelsCommand::List { json } => list(hub, json, out),
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
        ModelsCommand::Path { name, json } => match weights::resolve(Some(&name), hub)?.files {
            ModelFiles::Directory(path) if json => print_json(out, &serde_json::json!({ "path": path })),
            ModelFiles::Directory(path) => Ok(writeln!(out, "{}", path.display())?),
            ModelFiles::Embedded(_) => Err(WeightsError::BuiltIn { name }.into()),
        },
        ModelsCommand::Info { name, json } => {
            let row = info(&name, hub)?;
            if json { print_json(out, &row) } else { print_info(&row, out) }
        }
    }
}

/// All that is known of one model.
#[derive(Debug, Clone, Serialize)]
struct Row {
    name: String,
    aliases: &'static [&'static str],
    /// `owner/name` on the hub.
    repo: Option<String>,
    builtin: bool,
    parameters: Option<u64>,
    /// Approximate until installed, then the size on disk.
    size_bytes: Option<u64>,
    /// Estimated for one stream on a CPU, with the weights as f32.
    memory_bytes_estimate: Option<u64>,
    languages: Option<Languages>,
    licence: Option<String>,
    good_for: Option<&'static str>,
    installed: Option<Place>,
}

/// Where an installed model is, and since when.
#[derive(Debug, Clone, Serialize)]
struct Place {
    path: PathBuf,
    commit: Option<String>,
    installed_at: Option<String>,
    /// What is wrong with its files, if anything.
    damage: Option<String>,
}

impl Row {
    fn builtin() -> Self {
        Self {
            name: BUILTIN_NAME.to_owned(),
            aliases: &[],
            repo: None,
            builtin: true,
            parameters: Some(BUILTIN_SHAPE.parameters()),
            size_bytes: Some(BUILTIN.iter().map(|file| file.bytes.len() as u64).sum()),
            memory_bytes_estimate: Some(BUILTIN_SHAPE.memory_estimate()),
            languages: Some(Languages::English),
            licence: Some("see NOTICE".to_owned()),
            good_for: Some("spoken commands: 450 English words; pull a Whisper model for dictation"),
            installed: None,
        }
    }

    fn of_entry(entry: &Entry) -> Self {
        Self {
            name: entry.name.to_owned(),
            aliases: entry.aliases,
            repo: Some(entry.repo.to_owned()),
            builtin: false,
            parameters: Some(entry.shape.parameters()),
            size_bytes: Some(entry.download_estimate()),
            memory_bytes_estimate: Some(entry.shape.memory_estimate()),
            languages: Some(entry.languages),
            licence: Some(entry.licence.to_owned()),
            good_for: Some(entry.good_for),
            installed: None,
        }
    }

    /// A model that the catalogue does not know.
    fn unknown(name: String, repo: Option<String>) -> Self {
        Self {
            name,
            aliases: &[],
            repo,
            builtin: false,
            parameters: None,
            size_bytes: None,
            memory_bytes_estimate: None,
            languages: None,
            licence: None,
            good_for: None,
            installed: None,
        }
    }

    /// Adds what its `config.json` says.
    fn measure(&mut self, dir: &Path) {
        let shape = std::fs::read(dir.join("config.json")).ok().and_then(|json| Shape::from_config(&json));
        if let Some(shape) = shape {
            self.parameters = Some(shape.parameters());
            self.memory_bytes_estimate = Some(shape.memory_estimate());
        }
    }

    fn of_installed(model: &Installed) -> Self {
        let manifest = &model.manifest;
        let mut row = Entry::find(&manifest.repo)
            .map_or_else(|| Self::unknown(String::new(), Some(manifest.repo.clone())), Self::of_entry);
        row.name.clone_from(&manifest.name);
        row.measure(&model.dir);
        row.size_bytes = Some(model.bytes());
        row.licence = manifest.licence.clone().or(row.licence);
        row.installed = Some(Place {
            path: model.dir.clone(),
            commit: Some(manifest.commit.clone()),
            installed_at: Some(manifest.installed_at.clone()),
            damage: model.check().err().map(|error| error.to_string()),
        });
        row
    }

    fn of_directory(path: &Path) -> Self {
        let mut row = Self::unknown(path.display().to_string(), None);
        row.measure(path);
        let files = std::fs::read_dir(path).into_iter().flatten().flatten();
        row.size_bytes =
            Some(files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum());
        row.installed = Some(Place { path: path.to_owned(), commit: None, installed_at: None, damage: None });
        row
    }

    fn state(&self) -> &'static str {
        match &self.installed {
            _ if self.builtin => "built in",
            Some(Place { damage: Some(_), .. }) => "damaged",
            Some(_) => "yes",
            None => "-",
        }
    }
}

/// The built-in model, the catalogue, then installed models that are not in it.
fn rows(hub: &HubOptions) -> Result<Vec<Row>, WeightsError> {
    let mut installed = weights::installed(&hub.dir)?;
    let mut rows = vec![Row::builtin()];
    for entry in CATALOGUE {
        let here = installed.iter().position(|model| model.manifest.name == entry.name);
        rows.push(here.map_or_else(|| Row::of_entry(entry), |at| Row::of_installed(&installed.remove(at))));
    }
    rows.extend(installed.iter().map(Row::of_installed));
    Ok(rows)
}

fn list(hub: &HubOptions, json: bool, out: &mut dyn Write) -> anyhow::Result<()> {
    let rows = rows(hub)?;
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

fn info(name: &str, hub: &HubOptions) -> Result<Row, WeightsError> {
    let parsed = ModelName::parse(name)?;
    match &parsed {
        ModelName::BuiltIn => Ok(Row::builtin()),
        ModelName::Directory(path) => weights::source_of(&parsed, &hub.dir).map(|_| Row::of_directory(path)),
        ModelName::Hub(model) => Ok(match weights::find(&hub.dir, model)? {
            Some(installed) => Row::of_installed(&installed),
            None => match model.entry {
                Some(entry) => Row { name: model.name(), ..Row::of_entry(entry) },
                None => Row::unknown(model.name(), Some(model.repo.clone())),
            },
        }),
    }
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

/// Draws the events of a pull.
struct Display {
    style: PullDisplay,
    bar: ProgressBar,
    lines: Box<dyn Write + Send>,
    total: u64,
    done: u64,
    tenths: u64,
}

impl Display {
    fn new(style: PullDisplay, lines: Box<dyn Write + Send>) -> Self {
        let target = match style {
            PullDisplay::Bar => ProgressDrawTarget::stderr(),
            PullDisplay::Lines | PullDisplay::Silent => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        // A template that cannot be read would be a typing error here; the default bar serves as well.
        if let Ok(style) = BarStyle::with_template(
            "{msg:24!} [{wide_bar}] {decimal_bytes}/{decimal_total_bytes} {decimal_bytes_per_sec} {eta} left",
        ) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { style, bar, lines, total: 0, done: 0, tenths: 0 }
    }

    fn say(&mut self, text: &str) {
        match self.style {
            PullDisplay::Bar => self.bar.println(text),
            // Nobody is left to be told that stderr is closed.
            PullDisplay::Lines => drop(writeln!(self.lines, "{text}")),
            PullDisplay::Silent => {}
        }
    }
}

impl PullProgress for Display {
    fn on(&mut self, event: PullEvent) {
        match event {
            PullEvent::Waiting => self.say("another process is installing this model; waiting for it"),
            PullEvent::Planned { files, total } => {
                self.total = total;
                self.bar.set_length(total);
                if self.style == PullDisplay::Lines {
                    self.say(&format!("downloading {files} files, {}", size(total)));
                }
            }
            PullEvent::File { name, resumed, size: bytes } => {
                self.bar.set_message(name.clone());
                if resumed > 0 && self.total > 0 {
                    // Bytes that were here already say nothing about the speed of the network.
                    self.bar.set_position(self.done + resumed);
                    self.bar.reset_eta();
                    if resumed < bytes {
                        self.say(&format!("{name}: going on at {} of {}", size(resumed), size(bytes)));
                    }
                }
            }
            PullEvent::Progress { done } => {
                self.done = done;
                self.bar.set_position(done);
                let tenths = (done * 10).checked_div(self.total).unwrap_or_default().min(10);
                if tenths > self.tenths && self.style == PullDisplay::Lines {
                    self.say(&format!("{:3} % of {}", tenths * 10, size(self.total)));
                }
                self.tenths = tenths;
            }
            PullEvent::Retrying { reason, wait } => {
                self.say(&format!("{reason}; trying again in {:.1} s", wait.as_secs_f32()));
            }
            PullEvent::Restarted { name, reason } => {
                self.say(&format!("{name} starts again from its beginning: {reason}"));
            }
            PullEvent::Installing => self.bar.set_message("installing"),
        }
    }
}

/// Bytes in decimal units with three digits, as hubs and disks are labelled.
fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => {
            let (whole, hundredths) = (bytes / unit, bytes % unit * 100 / unit);
            match whole {
                0..10 => format!("{whole}.{hundredths:02} {name}"),
                10..100 => format!("{whole}.{} {name}", hundredths / 10),
                _ => format!("{whole} {name}"),
            }
        }
        None => format!("{bytes} B"),
    }
}

fn about(bytes: u64) -> String {
    format!("~{}", size(bytes))
}

fn parameters(count: u64) -> String {
    match count {
        0..10_000_000 => format!("{}.{} M", count / 1_000_000, count % 1_000_000 / 100_000),
        _ => format!("{} M", (count + 500_000) / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn without_a_terminal_there_is_a_line_for_every_tenth() {
        let sink = Sink::default();
        let mut display = Display::new(PullDisplay::Lines, Box::new(sink.clone()));
        display.on(PullEvent::Planned { files: 2, total: 1_000_000 });
        display.on(PullEvent::File { name: "w".into(), size: 1_000_000, resumed: 0 });
        for done in (0..=1_000_000).step_by(1000) {
            display.on(PullEvent::Progress { done });
        }
        let text = String::from_utf8(sink.0.lock().clone()).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 11, "{text}");
        assert_eq!(
            (lines[0], lines[1], lines[10]),
            ("downloading 2 files, 1.00 MB", " 10 % of 1.00 MB", "100 % of 1.00 MB")
        );
    }

    #[test]
    fn numbers_read_well() {
        assert_eq!(
            [size(0), size(999), size(1_500), size(7_190_000), size(154_042_560), size(6_176_219_840)],
            ["0 B", "999 B", "1.50 kB", "7.19 MB", "154 MB", "6.17 GB"]
        );
        assert_eq!(
            [parameters(3_513_216), parameters(37_760_640), parameters(1_543_490_560)],
            ["3.5 M", "38 M", "1543 M"]
        );
    }

    #[test]
    fn the_catalogue_table_is_complete_and_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let mut out = Vec::new();
        list(&HubOptions::new(dir.path()), false, &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines[1].starts_with("command-en") && lines[1].ends_with("built in"), "{text}");
        assert_eq!(lines.len(), 2 + CATALOGUE.len() + 3, "{text}");
        assert!(lines.iter().all(|line| line.len() <= 100), "{text}");
    }
}
