//! The data directory of models: what is installed in it, and how models enter and leave it.
//!
//! ```text
//! DIR/openai--whisper-base@e37978b90ca9/    an installed model and its godctl-model.json
//! DIR/.incomplete/openai--whisper-base@…/   a pull on its way, kept for resuming
//! DIR/.incomplete/openai--whisper-base.lock held by the process that pulls or removes that model
//! ```
//!
//! A model enters by one rename of a complete directory and leaves by one rename out of sight, so that no reader ever
//! sees half of it. All calls block on the disk, briefly.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use serde::Serialize;

use super::{
    ModelFiles, ModelSource,
    error::WeightsError,
    manifest::{self, Manifest, ManifestFile},
    name::{HubModel, ModelName},
};

const INCOMPLETE: &str = ".incomplete";
/// Characters of the commit in a directory's name: what git shows, and then some.
const SHORT_COMMIT: usize = 12;

/// An installed model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Its directory.
    pub dir: PathBuf,
    /// What is known of it.
    pub manifest: Manifest,
}

/// What [`remove`] removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removed {
    /// Directories of installed models.
    pub models: Vec<PathBuf>,
    /// Unfinished downloads.
    pub unfinished: Vec<PathBuf>,
    /// Space freed, in bytes.
    pub bytes: u64,
}

impl Installed {
    /// Size of all its files, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.size).sum()
    }

    /// Looks whether every file is there with its size; the contents are not read.
    ///
    /// # Errors
    /// [`WeightsError::Damaged`].
    pub fn check(&self) -> Result<(), WeightsError> {
        let damaged = |reason| WeightsError::Damaged { name: self.manifest.name.clone(), reason };
        for file in &self.manifest.files {
            match fs::metadata(self.dir.join(&file.name)) {
                Ok(found) if found.len() == file.size => {}
                Ok(found) => {
                    return Err(damaged(format!(
                        "{} has {} bytes, not {}",
                        file.name,
                        found.len(),
                        file.size
                    )));
                }
                Err(error) => return Err(damaged(format!("{}: {error}", file.name))),
            }
        }
        Ok(())
    }

    /// Its files, for loading.
    ///
    /// # Errors
    /// [`WeightsError::Damaged`].
    pub fn source(&self) -> Result<ModelSource, WeightsError> {
        self.check()?;
        Ok(ModelSource { name: self.manifest.name.clone(), files: ModelFiles::Directory(self.dir.clone()) })
    }

    fn is(&self, model: &HubModel) -> bool {
        let Manifest { repo, revision, commit, .. } = &self.manifest;
        let is_commit = model.revision.len() >= 7 && commit.starts_with(&model.revision.to_ascii_lowercase());
        repo.eq_ignore_ascii_case(&model.repo) && (*revision == model.revision || is_commit)
    }
}

/// Every installed model, the newest first. A directory that does not exist holds none.
///
/// # Errors
/// [`WeightsError::Disk`] when the directory cannot be read.
pub fn installed(dir: &Path) -> Result<Vec<Installed>, WeightsError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(WeightsError::disk("read", dir)(error)),
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(WeightsError::disk("read", dir))?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        // Not through links: what godctl installs are directories, and only those may be removed.
        if hidden || !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        match Manifest::read(&entry.path()) {
            Ok(Some(manifest)) => found.push(Installed { dir: entry.path(), manifest }),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(dir = %entry.path().display(), %error, "ignoring a model whose manifest cannot be read")
            }
        }
    }
    found.sort_by(|a, b| {
        (&b.manifest.installed_at, &a.manifest.name).cmp(&(&a.manifest.installed_at, &b.manifest.name))
    });
    Ok(found)
}

/// The installed model that is meant, if it is here; the newest of several.
///
/// # Errors
/// [`WeightsError::Disk`] when the directory cannot be read.
pub fn find(dir: &Path, model: &HubModel) -> Result<Option<Installed>, WeightsError> {
    Ok(installed(dir)?.into_iter().find(|installed| installed.is(model)))
}

/// Removes a model and what is left of unfinished downloads of it.
///
/// # Errors
/// [`WeightsError::BuiltIn`], [`WeightsError::NotOurs`] for a directory that godctl did not install,
/// [`WeightsError::NotInstalled`], [`WeightsError::BadName`] while another process pulls it, [`WeightsError::Disk`].
pub fn remove(typed: &str, dir: &Path) -> Result<Removed, WeightsError> {
    let all = installed(dir)?;
    let (wanted, slug): (Vec<Installed>, String) = match ModelName::parse(typed)? {
        ModelName::BuiltIn => return Err(WeightsError::BuiltIn { name: typed.to_owned() }),
        ModelName::Hub(model) => (all.into_iter().filter(|it| it.is(&model)).collect(), model.slug()),
        ModelName::Directory(path) => {
            let same = |it: &Installed| matches!((it.dir.canonicalize(), path.canonicalize()), (Ok(a), Ok(b)) if a == b);
            let Some(it) = all.into_iter().find(same) else {
                return Err(WeightsError::NotOurs { path, dir: dir.to_owned() });
            };
            let slug = it.manifest.repo.replace('/', "--");
            (vec![it], slug)
        }
    };
    let staging = dir.join(INCOMPLETE);
    let mut removed = Removed { models: Vec::new(), unfinished: Vec::new(), bytes: 0 };
    let mut unfinished = leftovers(&staging, &slug)?;
    if wanted.is_empty() && unfinished.is_empty() {
        return Err(WeightsError::NotInstalled { name: typed.to_owned() });
    }
    let _lock = try_lock(dir, &slug)?.ok_or_else(|| WeightsError::BadName {
        name: typed.to_owned(),
        reason: "is being pulled by another process; stop that first".to_owned(),
    })?;
    for model in wanted {
        removed.bytes += model.bytes();
        unfinished.push(hide(&model.dir, &staging)?);
        removed.models.push(model.dir);
    }
    for path in unfinished {
        let hidden = removed
            .models
            .iter()
            .any(|model| model.file_name().is_some_and(|name| is_hidden_copy(&path, name)));
        if !hidden {
            removed.bytes += size_of(&path);
            removed.unfinished.push(path.clone());
        }
        fs::remove_dir_all(&path).map_err(WeightsError::disk("remove", &path))?;
    }
    Ok(removed)
}

/// Unfinished downloads of a repository, whatever their commit.
pub(super) fn leftovers(staging: &Path, slug: &str) -> Result<Vec<PathBuf>, WeightsError> {
    let entries = match fs::read_dir(staging) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(WeightsError::disk("read", staging)(error)),
    };
    let prefix = format!("{slug}@");
    Ok(entries
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
        .map(|entry| entry.path())
        .collect())
}

fn size_of(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Suffix of a directory that was moved out of sight and is about to be removed.
const REMOVED: &str = ".removed";

fn is_hidden_copy(path: &Path, model: &std::ffi::OsStr) -> bool {
    path.file_name()
        .is_some_and(|name| *name.to_string_lossy() == format!("{}{REMOVED}", model.to_string_lossy()))
}

/// Moves a model's directory out of sight with one rename; gives the new place.
fn hide(model: &Path, staging: &Path) -> Result<PathBuf, WeightsError> {
    let mut name = model.file_name().unwrap_or_default().to_owned();
    name.push(REMOVED);
    let hidden = staging.join(name);
    if hidden.exists() {
        fs::remove_dir_all(&hidden).map_err(WeightsError::disk("remove", &hidden))?;
    }
    fs::rename(model, &hidden).map_err(WeightsError::disk("remove", model))?;
    Ok(hidden)
}

/// The exclusive right to change one model; given up when dropped, also by a process that dies.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Takes the lock of a repository, or `None` while another process has it.
pub(super) fn try_lock(dir: &Path, slug: &str) -> Result<Option<Lock>, WeightsError> {
    let staging = dir.join(INCOMPLETE);
    fs::create_dir_all(&staging).map_err(WeightsError::disk("create", &staging))?;
    // Never removed: a lock file that comes and goes can be held twice.
    let path = staging.join(format!("{slug}.lock"));
    let file = File::options()
        .create(true)
        .write(true)
        .truncate(false)
        .open(&path)
        .map_err(WeightsError::disk("open", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(Some(Lock { _file: file })),
        Err(TryLockError::WouldBlock) => Ok(None),
        Err(TryLockError::Error(error)) => Err(WeightsError::disk("lock", &path)(error)),
    }
}

/// The directory that a pull of this commit collects its files in.
pub(super) fn staging_dir(dir: &Path, model: &HubModel, commit: &str) -> Result<PathBuf, WeightsError> {
    let path = dir.join(INCOMPLETE).join(format!("{}@{commit}", model.slug()));
    fs::create_dir_all(&path).map_err(WeightsError::disk("create", &path))?;
    Ok(path)
}

/// What an installation is made from; the files lie in `staging`.
pub(super) struct Complete<'a> {
    pub(super) model: &'a HubModel,
    pub(super) commit: &'a str,
    pub(super) licence: Option<String>,
    pub(super) files: Vec<ManifestFile>,
    pub(super) staging: &'a Path,
    pub(super) now: SystemTime,
}

/// Installs a complete download by one rename, in place of older copies of the same revision. The caller has the lock.
pub(super) fn install(dir: &Path, complete: Complete<'_>) -> Result<Installed, WeightsError> {
    let Complete { model, commit, licence, files, staging, now } = complete;
    let manifest = Manifest {
        format: manifest::FORMAT,
        name: model.name(),
        repo: model.repo.clone(),
        revision: model.revision.clone(),
        commit: commit.to_owned(),
        licence,
        files,
        installed_at: manifest::rfc3339(now),
    };
    remove_strangers(staging, &manifest.files)?;
    manifest.write(staging).map_err(WeightsError::disk("write the manifest in", staging))?;
    sync_dir(staging)?;

    let incomplete = dir.join(INCOMPLETE);
    let short: String = commit.chars().take(SHORT_COMMIT).collect();
    let target = dir.join(format!("{}@{short}", model.slug()));
    let mut hidden = Vec::new();
    if target.exists() {
        // A damaged copy, or the remains of one without a manifest.
        hidden.push(hide(&target, &incomplete)?);
    }
    fs::rename(staging, &target).map_err(WeightsError::disk("install", &target))?;
    sync_dir(dir)?;
    for old in installed(dir)? {
        if old.dir != target && old.manifest.repo == model.repo && old.manifest.revision == model.revision {
            hidden.push(hide(&old.dir, &incomplete)?);
        }
    }
    hidden.extend(leftovers(&incomplete, &model.slug())?);
    for path in hidden {
        if let Err(error) = fs::remove_dir_all(&path) {
            // A copy out of sight costs only space; the next pull or rm tries again.
            tracing::debug!(path = %path.display(), %error, "an old copy stays behind");
        }
    }
    Ok(Installed { dir: target, manifest })
}

/// Removes from a staging directory what is no file of the model, such as parts of an earlier plan.
fn remove_strangers(staging: &Path, files: &[ManifestFile]) -> Result<(), WeightsError> {
    for entry in fs::read_dir(staging).map_err(WeightsError::disk("read", staging))? {
        let entry = entry.map_err(WeightsError::disk("read", staging))?;
        let known = files.iter().any(|file| *file.name == *entry.file_name());
        if !known && entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::remove_file(entry.path()).map_err(WeightsError::disk("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Makes renames in a directory durable, where the system can.
fn sync_dir(dir: &Path) -> Result<(), WeightsError> {
    if cfg!(unix) {
        File::open(dir).and_then(|handle| handle.sync_all()).map_err(WeightsError::disk("write", dir))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    fn model(typed: &str) -> HubModel {
        match ModelName::parse(typed).unwrap() {
            ModelName::Hub(model) => model,
            other => panic!("{other:?}"),
        }
    }

    fn put(dir: &Path, typed: &str, commit: &str, seconds: u64) -> Installed {
        let model = model(typed);
        let staging = staging_dir(dir, &model, commit).unwrap();
        fs::write(staging.join("config.json"), "{}").unwrap();
        fs::write(staging.join("stranger.part"), "x").unwrap();
        let files = vec![ManifestFile { name: "config.json".into(), size: 2, sha256: "00".into() }];
        let now = UNIX_EPOCH + Duration::from_secs(seconds);
        let complete = Complete { model: &model, commit, licence: None, files, staging: &staging, now };
        install(dir, complete).unwrap()
    }

    const A: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    #[test]
    fn a_newer_commit_takes_the_place_of_the_older() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), "base", A, 1);
        put(dir.path(), "tiny", A, 2);
        let new = put(dir.path(), "base", B, 3);
        assert!(new.dir.ends_with("openai--whisper-base@bbbbbbbbbbbb"));
        let names: Vec<_> = installed(dir.path()).unwrap().into_iter().map(|it| it.manifest.name).collect();
        assert_eq!(names, ["base", "tiny"], "newest first");
        assert_eq!(find(dir.path(), &model("base")).unwrap().unwrap(), new);
        assert_eq!(find(dir.path(), &model("base@bbbbbbb")).unwrap().unwrap(), new);
        assert_eq!(find(dir.path(), &model("base@aaaaaaa")).unwrap(), None);
        assert!(!new.dir.join("stranger.part").exists());
    }

    #[test]
    fn only_what_was_installed_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let base = put(dir.path(), "base", A, 1);
        let foreign = tempfile::tempdir().unwrap();
        let outside = foreign.path().to_str().unwrap();
        assert!(matches!(remove(outside, dir.path()), Err(WeightsError::NotOurs { .. })));
        assert!(matches!(remove("command-en", dir.path()), Err(WeightsError::BuiltIn { .. })));
        assert!(matches!(remove("small", dir.path()), Err(WeightsError::NotInstalled { .. })));
        assert!(foreign.path().exists());
        fs::create_dir_all(staging_dir(dir.path(), &model("base"), B).unwrap()).unwrap();

        let removed = remove(base.dir.to_str().unwrap(), dir.path()).unwrap();
        assert_eq!((removed.models.len(), removed.unfinished.len(), removed.bytes), (1, 1, 2));
        assert!(!base.dir.exists());
        assert!(installed(dir.path()).unwrap().is_empty());
    }

    #[test]
    fn nothing_is_removed_while_it_is_pulled() {
        let dir = tempfile::tempdir().unwrap();
        let base = put(dir.path(), "base", A, 1);
        let lock = try_lock(dir.path(), "openai--whisper-base").unwrap().unwrap();
        assert!(try_lock(dir.path(), "openai--whisper-base").unwrap().is_none());
        let error = remove("base", dir.path()).unwrap_err().to_string();
        assert!(error.contains("being pulled"), "{error}");
        drop(lock);
        remove("base", dir.path()).unwrap();
        assert!(!base.dir.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_link_is_not_a_model_of_ours() {
        let dir = tempfile::tempdir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let real = put(elsewhere.path(), "base", A, 1);
        std::os::unix::fs::symlink(&real.dir, dir.path().join("openai--whisper-base@aaaaaaaaaaaa")).unwrap();
        assert!(matches!(remove("base", dir.path()), Err(WeightsError::NotInstalled { .. })));
        real.check().unwrap();
    }

    #[test]
    fn a_missing_or_cut_file_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let base = put(dir.path(), "base", A, 1);
        base.check().unwrap();
        fs::write(base.dir.join("config.json"), "{").unwrap();
        let error = base.check().unwrap_err().to_string();
        assert_eq!(
            error,
            "model 'base' is damaged (config.json has 1 bytes, not 2); run: godctl models pull base"
        );
    }
}
