//! What a user typed for a model: the built-in one, a catalogue name, `owner/name[@revision]`, or a directory. Pure,
//! but for one look whether a directory of that name exists.

use std::path::{Path, PathBuf};

use super::{
    builtin::BUILTIN_NAME,
    catalogue::{Entry, nearest},
    error::WeightsError,
};

/// The revision of a repository that is meant when none is given.
pub(super) const DEFAULT_REVISION: &str = "main";

/// A model's name, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModelName {
    /// The model inside this binary.
    BuiltIn,
    /// A repository of the hub.
    Hub(HubModel),
    /// A directory of this machine.
    Directory(PathBuf),
}

/// A repository of the hub at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubModel {
    /// `owner/name`.
    pub repo: String,
    /// Branch, tag or commit.
    pub revision: String,
    /// What the catalogue knows of it.
    pub entry: Option<&'static Entry>,
}

impl HubModel {
    /// The shortest name that leads back here: `base`, `owner/name`, `owner/name@revision`.
    #[must_use]
    pub fn name(&self) -> String {
        let name = self.entry.map_or(self.repo.as_str(), |entry| entry.name);
        if self.revision == DEFAULT_REVISION { name.to_owned() } else { format!("{name}@{}", self.revision) }
    }

    /// The repository as part of a file name.
    pub(super) fn slug(&self) -> String {
        self.repo.replace('/', "--")
    }
}

impl ModelName {
    /// Reads a name: explicit paths first, then the built-in model and the catalogue, then an existing directory,
    /// then a repository.
    ///
    /// # Errors
    /// [`WeightsError::UnknownName`] with the nearest known name, or [`WeightsError::BadName`].
    pub fn parse(typed: &str) -> Result<Self, WeightsError> {
        let typed = typed.trim();
        if typed.is_empty() {
            return Err(bad(typed, "is empty; see: godctl models list"));
        }
        if is_explicit_path(typed) {
            return Ok(Self::Directory(PathBuf::from(typed)));
        }
        if typed.eq_ignore_ascii_case(BUILTIN_NAME) {
            return Ok(Self::BuiltIn);
        }
        let (name, revision) = match typed.split_once('@') {
            Some((_, revision)) if !is_revision(revision) => {
                return Err(bad(typed, "has a revision that is no branch, tag or commit"));
            }
            Some((name, revision)) => (name, revision),
            None => (typed, DEFAULT_REVISION),
        };
        if let Some(entry) = Entry::find(name) {
            let (repo, revision) = (entry.repo.to_owned(), revision.to_owned());
            return Ok(Self::Hub(HubModel { repo, revision, entry: Some(entry) }));
        }
        if Path::new(typed).is_dir() {
            return Ok(Self::Directory(PathBuf::from(typed)));
        }
        if !name.contains('/') {
            let suggestion = nearest(name, BUILTIN_NAME).map(str::to_owned);
            return Err(WeightsError::UnknownName { name: typed.to_owned(), suggestion });
        }
        if !is_repo(name) {
            return Err(bad(typed, "is neither a directory nor owner/name of a Hugging Face model"));
        }
        Ok(Self::Hub(HubModel { repo: name.to_owned(), revision: revision.to_owned(), entry: None }))
    }
}

fn bad(name: &str, reason: &str) -> WeightsError {
    WeightsError::BadName { name: name.to_owned(), reason: reason.to_owned() }
}

fn is_explicit_path(typed: &str) -> bool {
    Path::new(typed).is_absolute()
        || [".", ".."].contains(&typed)
        || typed.starts_with("./")
        || typed.starts_with("../")
}

/// The hub's own rules: two parts of letters, digits, `.`, `_`, `-`, at most 96 characters each. Neither holds `--`,
/// so that a slug stands for one repository only.
fn is_repo(name: &str) -> bool {
    let part = |part: &str| {
        (1..=96).contains(&part.len())
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
            && !part.starts_with(['.', '-'])
            && !part.contains("..")
            && !part.contains("--")
    };
    name.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name))
}

fn is_revision(revision: &str) -> bool {
    (1..=200).contains(&revision.len())
        && revision.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-/+".contains(&b))
        && !revision.starts_with(['.', '-', '/'])
        && !revision.ends_with('/')
        && !revision.contains("..")
}

/// True for a plain file name that is safe inside any directory.
pub(super) fn is_file_name(name: &str) -> bool {
    (1..=255).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+=@ ".contains(&b))
}

/// True for a relative path below the repository's root, as every listing has them.
pub(super) fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains(['\\', '\0'])
        && path.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hub(typed: &str) -> (String, String, String) {
        match ModelName::parse(typed).unwrap() {
            ModelName::Hub(model) => (model.name(), model.repo, model.revision),
            other => panic!("{typed}: {other:?}"),
        }
    }

    #[test]
    fn every_way_to_name_a_model() {
        assert_eq!(ModelName::parse("command-en").unwrap(), ModelName::BuiltIn);
        assert_eq!(
            hub("turbo"),
            ("large-v3-turbo".into(), "openai/whisper-large-v3-turbo".into(), "main".into())
        );
        assert_eq!(hub("openai/whisper-base"), ("base".into(), "openai/whisper-base".into(), "main".into()));
        assert_eq!(
            hub("base@refs/pr/2"),
            ("base@refs/pr/2".into(), "openai/whisper-base".into(), "refs/pr/2".into())
        );
        assert_eq!(hub("me/mine@v1.0").0, "me/mine@v1.0");
        assert_eq!(ModelName::parse("/m/base").unwrap(), ModelName::Directory("/m/base".into()));
        assert_eq!(ModelName::parse("./base").unwrap(), ModelName::Directory("./base".into()));
        assert_eq!(ModelName::parse("src/asr").unwrap(), ModelName::Directory("src/asr".into()));
    }

    #[test]
    fn what_cannot_be_a_name_says_why() {
        let error = ModelName::parse("bsae.en").unwrap_err().to_string();
        assert_eq!(
            error,
            "there is no model called 'bsae.en'; did you mean 'base.en'? see: godctl models list"
        );
        for typed in
            ["", "a/b/c", "a/../b", "-x/y", "a/b@", "a/b@../x", "a--b/c", "a/b?c", "a b/c", "../x@y/../z "]
        {
            match ModelName::parse(typed) {
                Err(WeightsError::BadName { .. }) | Ok(ModelName::Directory(_)) => {}
                other => panic!("{typed:?}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_name_leads_out_of_its_directory(typed in "[a-zA-Z0-9./@_\\\\-]{0,24}") {
            if let Ok(ModelName::Hub(model)) = ModelName::parse(&typed) {
                let slug = model.slug();
                prop_assert!(!slug.contains('/') && !slug.starts_with('.') && !slug.contains(".."), "{slug}");
                prop_assert_eq!(ModelName::parse(&model.name()).unwrap(), ModelName::Hub(model));
            }
        }
    }

    #[test]
    fn names_from_the_hub_stay_inside() {
        for good in ["config.json", "model-00001-of-00002.safetensors"] {
            assert!(is_file_name(good) && is_inside(good));
        }
        for evil in ["../x", "/etc/passwd", "a/../../x", "..", "", "a\\..\\b", "a//b", "./x"] {
            assert!(!is_inside(evil), "{evil}");
            assert!(!is_file_name(evil), "{evil}");
        }
        assert!(is_inside("onnx/model.onnx") && !is_file_name("onnx/model.onnx"));
    }
}
