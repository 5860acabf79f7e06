//! Programs that some tests need and that `make deps-test` installs: client libraries and a browser.

use std::path::{Path, PathBuf};

use crate::{missing::missing, support::root};

/// A Python with the client libraries of `tests/sdk/requirements.txt`.
pub(crate) fn python() -> Option<PathBuf> {
    found(root().join("target/test-deps/python/bin/python"), "the Python clients (make deps-test)")
}

/// The directory with `node_modules` of `tests/sdk/package.json`; scripts find them through `NODE_PATH`.
pub(crate) fn node_modules() -> Option<PathBuf> {
    found(root().join("target/test-deps/node/node_modules"), "the JavaScript clients (make deps-test)")
}

/// The directory of the programs of `tests/sdk/agents/package.json`.
pub(crate) fn agents() -> Option<PathBuf> {
    found(root().join("target/test-deps/agents/node_modules/.bin"), "the agents (make deps-test)")
}

/// Chromium, for playwright-core to drive.
pub(crate) fn chromium() -> Option<PathBuf> {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .iter()
        .map(Path::new)
        .find(|path| path.exists())
        .map(Path::to_owned)
        .or_else(|| missing("chromium"))
}

fn found(path: PathBuf, what: &str) -> Option<PathBuf> {
    if path.exists() { Some(path) } else { missing(what) }
}
