//! `godctl-model.json`: what an installed model is, beside its files.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

use super::name::is_file_name;

const NAME: &str = "godctl-model.json";
/// Version of the format that this program writes and reads.
pub(super) const FORMAT: u32 = 1;

/// What `godctl-model.json` says about the model beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this format.
    pub format: u32,
    /// The name to ask for it by.
    pub name: String,
    /// `owner/name` on the hub.
    pub repo: String,
    /// The revision that was asked for.
    pub revision: String,
    /// The commit that it was.
    pub commit: String,
    /// As the model's card said.
    pub licence: Option<String>,
    /// Every file.
    pub files: Vec<ManifestFile>,
    /// When, in UTC as RFC 3339.
    pub installed_at: String,
}

/// One file of an installed model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// SHA-256 of its content, in hex.
    pub sha256: String,
}

impl Manifest {
    /// The manifest in a directory, or `None` where there is none.
    ///
    /// # Errors
    /// When it cannot be read, or names files outside of its directory.
    pub(super) fn read(dir: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read(dir.join(NAME)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let manifest: Self = serde_json::from_slice(&text)?;
        if manifest.format != FORMAT || !manifest.files.iter().all(|file| is_file_name(&file.name)) {
            return Err(io::Error::other("written by another version of godctl"));
        }
        Ok(Some(manifest))
    }

    /// Writes it durably into a directory that nobody looks at yet.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        let mut text = serde_json::to_vec_pretty(self)?;
        text.push(b'\n');
        let mut file = File::create(dir.join(NAME))?;
        file.write_all(&text)?;
        file.sync_all()
    }
}

/// UTC in seconds, as RFC 3339 writes it; times before 1970 are written as 1970.
pub(super) fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // Howard Hinnant's civil_from_days, for days since 1970 (https://howardhinnant.github.io/date_algorithms.html).
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z", of_day / 3600, of_day / 60 % 60, of_day % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times_are_written_as_dates() {
        let at = |seconds| rfc3339(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "1970-01-01T00:00:00Z");
        assert_eq!(at(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(at(1_795_228_230), "2026-11-21T02:30:30Z");
    }

    #[test]
    fn a_manifest_that_names_files_elsewhere_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Manifest::read(dir.path()).unwrap().is_none());
        let mut manifest = Manifest {
            format: FORMAT,
            name: "me/mine".to_owned(),
            repo: "me/mine".to_owned(),
            revision: "main".to_owned(),
            commit: "0123456".to_owned(),
            licence: None,
            files: vec![ManifestFile { name: "config.json".to_owned(), size: 2, sha256: "00".to_owned() }],
            installed_at: rfc3339(UNIX_EPOCH),
        };
        manifest.write(dir.path()).unwrap();
        assert_eq!(Manifest::read(dir.path()).unwrap().unwrap(), manifest);
        manifest.files[0].name = "../config.json".to_owned();
        manifest.write(dir.path()).unwrap();
        assert!(Manifest::read(dir.path()).is_err());
    }
}
