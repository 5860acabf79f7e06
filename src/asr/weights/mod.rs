//! Where weights come from: the built-in model, a directory, or the catalogue's downloads.

mod builtin;

pub use builtin::BUILTIN;

use std::path::PathBuf;

/// A model's files, found but not yet read.
#[derive(Debug, Clone)]
pub struct ModelSource {
    /// The name that users know it by.
    pub name: String,
    /// Where the files are.
    pub files: ModelFiles,
}

/// Where the files of a model are.
#[derive(Debug, Clone)]
pub enum ModelFiles {
    /// A directory in Hugging Face layout.
    Directory(PathBuf),
    /// Inside this binary.
    Embedded(&'static [EmbeddedFile]),
}

/// One file that ships inside the binary.
#[derive(Clone, Copy)]
pub struct EmbeddedFile {
    /// Its name in a model directory.
    pub name: &'static str,
    /// Its content.
    pub bytes: &'static [u8],
}

impl std::fmt::Debug for EmbeddedFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}
