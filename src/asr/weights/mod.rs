//! Where weights come from: the built-in model, a directory, or a download from a Hugging Face hub.
//!
//! - `catalogue` knows the models worth knowing by name; `name` reads what a user typed.
//! - `resolve` turns a name into files that are already here; it never touches the network.
//! - `pull` brings files here: `hub` speaks HTTP, `download` fetches one file with resume and checks,
//!   `store` owns the data directory.
//!
//! Everything runs on the caller's task; dropping a future stops it and keeps what was received.

mod backoff;
mod builtin;
mod catalogue;
mod download;
mod error;
mod hub;
mod manifest;
mod name;
mod pull;
mod resolve;
mod store;

pub use backoff::RetryPolicy;
pub use builtin::{BUILTIN, BUILTIN_NAME};
pub use catalogue::{BUILTIN_SHAPE, CATALOGUE, Entry, Languages, Shape};
pub use error::WeightsError;
pub use manifest::{Manifest, ManifestFile};
pub use name::{HubModel, ModelName};
pub use pull::{Pulled, pull};
pub use resolve::{resolve, source_of};
pub use store::{Installed, Removed, find, installed, remove};

use std::{fmt, path::PathBuf, time::Duration};

use crate::config::Secret;

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

impl fmt::Debug for EmbeddedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

/// Where models are kept and where they are fetched from.
#[derive(Debug, Clone)]
pub struct HubOptions {
    /// The hub, e.g. `https://huggingface.co`; no user name or password in it.
    pub endpoint: String,
    /// Sent to `endpoint` only, never to a host that it redirects to.
    pub token: Option<Secret>,
    /// When true no connection is made at all.
    pub offline: bool,
    /// The directory that installed models live in; made when first needed.
    pub dir: PathBuf,
    /// How failures of the network are met.
    pub retry: RetryPolicy,
}

/// What happens during [`pull()`], for a progress bar or a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PullEvent {
    /// Another process is installing the same model; waiting for it.
    Waiting,
    /// All files are known.
    Planned {
        /// Number of files.
        files: usize,
        /// Their size together, in bytes.
        total: u64,
    },
    /// What an earlier pull left of a file is read and hashed, which takes some seconds for gigabytes.
    Checking {
        /// Its name.
        name: String,
    },
    /// A file is begun or gone on with.
    File {
        /// Its name.
        name: String,
        /// Its size in bytes.
        size: u64,
        /// Bytes that were here already.
        resumed: u64,
    },
    /// Bytes of all files that are here now; goes down when a file has to start again.
    Progress {
        /// Bytes.
        done: u64,
    },
    /// The network failed; the next try comes after `wait`.
    Retrying {
        /// What failed.
        reason: String,
        /// The pause.
        wait: Duration,
    },
    /// A file starts again from its first byte.
    Restarted {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// All files are here and checked.
    Installing,
}

/// Who is told what a pull does; called on the pulling task, so it must return at once.
pub trait PullProgress: Send {
    /// Something happened.
    fn on(&mut self, event: PullEvent);
}

impl<F: FnMut(PullEvent) + Send> PullProgress for F {
    fn on(&mut self, event: PullEvent) {
        self(event);
    }
}
