//! What the dashboard remembers from one time to the next: written when the person changes it, and never otherwise.

use std::{fs, io::Write as _, path::Path};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::{
    app::{App, Theme},
    state::{
        marks::{Marks, Preset},
        types::Flags,
    },
};

/// In the data directory.
const FILE: &str = "dash.json";

/// What is remembered.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Prefs {
    pub(super) theme: Option<Theme>,
    pub(super) flags: Flags,
    pub(super) marks: Marks,
    pub(super) presets: Vec<Preset>,
}

impl Prefs {
    pub(super) fn of(app: &App) -> Self {
        Self {
            theme: Some(app.theme),
            flags: app.flags.clone(),
            marks: app.marks.clone(),
            presets: app.presets.clone(),
        }
    }

    /// What was remembered. A file that can't be read is as good as none: these are tastes, not data.
    pub(super) fn read(data_dir: &Path) -> Self {
        let text = fs::read(data_dir.join(FILE)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// # Errors
    /// What the disk says.
    pub(super) fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = data_dir.join(FILE);
        let keep = || -> anyhow::Result<()> {
            fs::create_dir_all(data_dir)?;
            let mut file = tempfile::NamedTempFile::new_in(data_dir)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.persist(&path)?;
            Ok(())
        };
        keep().with_context(|| format!("cannot remember this in {}", path.display()))
    }
}
