//! What is known of each model: the built-in one, the catalogue, and what is installed. Reads the disk, never the network.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::asr::weights::{
    self, BUILTIN, BUILTIN_NAME, BUILTIN_SHAPE, CATALOGUE, Entry, Installed, Languages, ModelName, Shape,
    WeightsError,
};

/// All that is known of one model.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) aliases: &'static [&'static str],
    /// `owner/name` on the hub.
    pub(super) repo: Option<String>,
    pub(super) builtin: bool,
    pub(super) parameters: Option<u64>,
    /// Approximate until installed, then the size on disk.
    pub(super) size_bytes: Option<u64>,
    /// Estimated for one stream on a CPU, with the weights as f32.
    pub(super) memory_bytes_estimate: Option<u64>,
    pub(super) languages: Option<Languages>,
    pub(super) licence: Option<String>,
    pub(super) good_for: Option<&'static str>,
    pub(super) installed: Option<Place>,
}

/// Where an installed model is, and since when.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Place {
    pub(super) path: PathBuf,
    pub(super) commit: Option<String>,
    pub(super) installed_at: Option<String>,
    /// What is wrong with its files, if anything.
    pub(super) damage: Option<String>,
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

    /// The last column of the table.
    pub(super) fn state(&self) -> &'static str {
        match &self.installed {
            _ if self.builtin => "built in",
            Some(Place { damage: Some(_), .. }) => "damaged",
            Some(_) => "yes",
            None => "-",
        }
    }
}

/// The built-in model, the catalogue, then installed models that are not in it.
pub(super) fn rows(dir: &Path) -> Result<Vec<Row>, WeightsError> {
    let mut installed = weights::installed(dir)?;
    let mut rows = vec![Row::builtin()];
    for entry in CATALOGUE {
        let here = installed.iter().position(|model| model.manifest.name == entry.name);
        rows.push(here.map_or_else(|| Row::of_entry(entry), |at| Row::of_installed(&installed.remove(at))));
    }
    rows.extend(installed.iter().map(Row::of_installed));
    Ok(rows)
}

/// One model by name.
pub(super) fn info(name: &str, dir: &Path) -> Result<Row, WeightsError> {
    let parsed = ModelName::parse(name)?;
    match &parsed {
        ModelName::BuiltIn => Ok(Row::builtin()),
        ModelName::Directory(path) => weights::source_of(&parsed, dir).map(|_| Row::of_directory(path)),
        ModelName::Hub(model) => Ok(match weights::find(dir, model)? {
            Some(installed) => Row::of_installed(&installed),
            None => match model.entry {
                Some(entry) => Row { name: model.name(), ..Row::of_entry(entry) },
                None => Row::unknown(model.name(), Some(model.repo.clone())),
            },
        }),
    }
}
