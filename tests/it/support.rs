//! Runs the binary in a home directory of its own, with nothing of the developer's environment but `PATH`.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

/// The directory of `Cargo.toml`.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the project.
pub(crate) fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// All files below a directory of the project whose name ends so.
pub(crate) fn files(below: &str, ending: &str) -> Vec<PathBuf> {
    fn walk(dir: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, ending, found);
            } else if path.to_str().is_some_and(|path| path.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(below), ending, &mut found);
    found.sort();
    assert!(!found.is_empty(), "no {ending} below {below}");
    found
}

/// A user's home directory that vanishes with the test.
pub(crate) struct Home {
    dir: tempfile::TempDir,
}

/// What a run of the binary left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is UTF-8");
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file below the home directory.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The binary, or any program that shall see the same surroundings.
    pub(crate) fn command(&self, program: &str) -> Command {
        let binary = Path::new(env!("CARGO_BIN_EXE_godctl"));
        #[allow(clippy::disallowed_methods, reason = "the shell and its tools must be found by the examples")]
        let system = std::env::var_os("PATH").unwrap_or_default();
        let search =
            std::iter::once(binary.parent().unwrap().to_owned()).chain(std::env::split_paths(&system));
        let mut command =
            Command::new(if program == "godctl" { binary.as_os_str() } else { program.as_ref() });
        command
            .env_clear()
            .env("HOME", self.path())
            .env("PATH", std::env::join_paths(search).unwrap())
            .current_dir(root())
            .stdin(Stdio::null());
        command
    }

    /// Runs `godctl` to its end.
    pub(crate) fn godctl(&self, args: &[&str]) -> Ran {
        self.command("godctl").args(args).output().unwrap().into()
    }

    /// Everything below the home directory, to see whether something was left there.
    pub(crate) fn leftovers(&self) -> Vec<PathBuf> {
        std::fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }
}

/// Waits until something holds, for as long as a busy machine may take.
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

/// A program that ends with its test, also when the test fails.
pub(crate) struct Running(pub(crate) std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
