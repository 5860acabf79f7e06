//! The environment as it was at the start, and the user's directories.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use super::{Config, ConfigError};

/// The file that holds the configuration, inside the configuration directory.
const FILE_NAME: &str = "config.toml";

/// A snapshot of what the surroundings say: variables and the user's base directories. The only place where the
/// process environment is read.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    vars: BTreeMap<String, String>,
    not_text: Vec<String>,
    config_home: Option<PathBuf>,
    data_home: Option<PathBuf>,
}

impl Environment {
    /// The process's own.
    #[must_use]
    pub fn of_process() -> Self {
        let base = etcetera::choose_base_strategy().ok();
        let mut this = Self {
            config_home: base.as_ref().map(etcetera::BaseStrategy::config_dir),
            data_home: base.as_ref().map(etcetera::BaseStrategy::data_dir),
            ..Self::default()
        };
        this.insert(std::env::vars_os());
        this
    }

    /// Made up, for tests: these variables, and base directories under `home`.
    #[must_use]
    pub fn made_up<'a>(vars: impl IntoIterator<Item = (&'a str, &'a str)>, home: &Path) -> Self {
        let mut this = Self {
            config_home: Some(home.join(".config")),
            data_home: Some(home.join(".local/share")),
            ..Self::default()
        };
        this.insert(vars.into_iter().map(|(name, value)| (name.into(), value.into())));
        this
    }

    fn insert(&mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) {
        for (name, value) in vars {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => drop(self.vars.insert(name, value)),
                Err(_) => self.not_text.push(name),
            }
        }
    }

    /// The same directories and search path without any variable that sets a key or names a file.
    #[must_use]
    pub fn without_settings(&self) -> Self {
        let keep = |name: &str| matches!(name, "PATH" | "NO_COLOR" | "TERM");
        let vars = self.vars.iter().filter(|(name, _)| keep(name));
        let vars = vars.map(|(name, value)| (name.clone(), value.clone())).collect();
        Self { vars, not_text: Vec::new(), config_home: None, data_home: self.data_home.clone() }
    }

    /// A variable's value; one that is set to nothing counts as unset.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// True where the user asked all programs for no colour (see no-color.org) or the terminal can't show any.
    #[must_use]
    pub fn no_color(&self) -> bool {
        self.get("NO_COLOR").is_some() || self.get("TERM") == Some("dumb")
    }

    /// The directories where programs are looked for, in order.
    #[must_use]
    pub fn search_path(&self) -> Vec<PathBuf> {
        self.get("PATH").map(|path| std::env::split_paths(path).collect()).unwrap_or_default()
    }

    /// All variables by their names, those that are empty too.
    #[must_use]
    pub const fn variables(&self) -> &BTreeMap<String, String> {
        &self.vars
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let set = self.vars.iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    pub(super) fn not_text(&self) -> impl Iterator<Item = &str> {
        self.not_text.iter().map(String::as_str)
    }

    /// Where the configuration is when nobody says otherwise.
    pub(super) fn default_file(&self) -> Option<PathBuf> {
        self.config_home.as_ref().map(|home| home.join("godctl").join(FILE_NAME))
    }
}

/// Where things are kept. Nothing here is created by loading; whoever writes makes the directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paths {
    /// The configuration file that was read, or would have been if it existed.
    pub config_file: Option<PathBuf>,
    /// Models, and whatever else outlives a run.
    pub data_dir: PathBuf,
    /// Installed models, one directory each.
    pub models_dir: PathBuf,
}

impl Paths {
    pub(super) fn new(
        config: &Config,
        environment: &Environment,
        config_file: Option<PathBuf>,
    ) -> Result<Self, ConfigError> {
        let from_home = || environment.data_home.as_ref().map(|home| home.join("godctl"));
        let data_dir = config.data_dir.clone().or_else(from_home).ok_or(ConfigError::NoHome)?;
        let models_dir = config.models.dir.clone().unwrap_or_else(|| data_dir.join("models"));
        Ok(Self { config_file, data_dir, models_dir })
    }
}
