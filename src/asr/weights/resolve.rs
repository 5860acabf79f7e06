//! From a name to files that are on this machine. Never touches the network.

use std::path::Path;

use super::{
    ModelFiles, ModelSource,
    builtin::{BUILTIN, BUILTIN_NAME},
    error::WeightsError,
    name::ModelName,
    store,
};

/// The model to load. Without a name: the one installed last, or the built-in one when none is installed.
///
/// # Errors
/// [`WeightsError::NotInstalled`] with the command to run, [`WeightsError::Damaged`], [`WeightsError::NotAModel`],
/// [`WeightsError::UnknownName`], [`WeightsError::BadName`], or [`WeightsError::Disk`].
pub fn resolve(name: Option<&str>, dir: &Path) -> Result<ModelSource, WeightsError> {
    match name {
        Some(name) => source_of(&ModelName::parse(name)?, dir),
        None => match store::installed(dir)?.first() {
            Some(newest) => newest.source(),
            None => Ok(builtin()),
        },
    }
}

/// The files of a model whose name is understood already.
///
/// # Errors
/// As for [`resolve`].
pub fn source_of(name: &ModelName, dir: &Path) -> Result<ModelSource, WeightsError> {
    match name {
        ModelName::BuiltIn => Ok(builtin()),
        ModelName::Directory(path) => directory(path),
        ModelName::Hub(model) => match store::find(dir, model)? {
            Some(installed) => installed.source(),
            None => Err(WeightsError::NotInstalled { name: model.name() }),
        },
    }
}

fn builtin() -> ModelSource {
    ModelSource { name: BUILTIN_NAME.to_owned(), files: ModelFiles::Embedded(BUILTIN) }
}

/// A light check: the loader reads the files and says more.
fn directory(path: &Path) -> Result<ModelSource, WeightsError> {
    let not_a_model =
        |reason: &str| WeightsError::NotAModel { path: path.to_owned(), reason: reason.to_owned() };
    if !path.is_dir() {
        return Err(not_a_model(if path.exists() { "it is a file" } else { "it does not exist" }));
    }
    if !path.join("config.json").is_file() {
        return Err(not_a_model("it has no config.json"));
    }
    let name = path
        .file_name()
        .map_or_else(|| path.display().to_string(), |name| name.to_string_lossy().into_owned());
    Ok(ModelSource { name, files: ModelFiles::Directory(path.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_name_and_without_installed_models_it_is_the_built_in_one() {
        let dir = tempfile::tempdir().unwrap();
        let never_made = dir.path().join("never-made");
        let source = resolve(None, &never_made).unwrap();
        assert_eq!(source.name, "command-en");
        assert!(matches!(source.files, ModelFiles::Embedded(files) if files.len() == BUILTIN.len()));
        assert!(!never_made.exists(), "looking makes nothing");
    }

    #[test]
    fn what_is_not_here_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let error = |name| resolve(Some(name), dir.path()).unwrap_err().to_string();
        assert_eq!(
            error("turbo"),
            "model 'large-v3-turbo' is not installed; run: godctl models pull large-v3-turbo"
        );
        assert_eq!(
            error("me/mine@v1"),
            "model 'me/mine@v1' is not installed; run: godctl models pull me/mine@v1"
        );
        assert_eq!(
            error("/nowhere/at/all"),
            "/nowhere/at/all is not a Whisper model directory: it does not exist"
        );
        let path = dir.path().to_str().unwrap();
        assert!(error(path).ends_with("it has no config.json"));
        std::fs::write(dir.path().join("config.json"), "{}").unwrap();
        assert!(matches!(resolve(Some(path), dir.path()).unwrap().files, ModelFiles::Directory(_)));
    }
}
