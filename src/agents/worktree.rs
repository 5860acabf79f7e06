//! A directory of its own for a session: a git worktree on a branch of its own, so that two agents never edit one tree.
//!
//! What was done in it is told in terms of the commit that it began at: files changed (committed or not) and commits
//! made. One in which nothing was done is removed with its branch; any other one is left for a person to look at. Git is
//! started as a program, without hooks, without questions and with a limit on its time.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _},
    process::Command,
    time::timeout,
};

use super::lines::shortened;

/// Git may have to write out a whole tree.
const PATIENCE: Duration = Duration::from_secs(300);
/// How much of what git prints is read: more files than anybody looks at.
const MAX_OUTPUT: u64 = 4 * 1024 * 1024;
/// Files and commits that are told of; what lies beyond is counted.
const MAX_TOLD: usize = 1_000;
/// Longest name of a worktree, without the mark that keeps two apart.
const MAX_NAME: usize = 40;
/// Where a worktree keeps the commit that it began at. Git removes it with the worktree.
const BASE: &str = "refs/worktree/godctl-base";

/// Why there is no worktree, or why it cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum WorktreeError {
    /// The directory is not in a repository.
    #[error("{0} is in no git repository, so it has no worktrees; leave --worktree out")]
    NoRepository(PathBuf),
    /// The repository has no commit.
    #[error("the repository of {0} has no commit yet, so there is nothing to begin at; make one first")]
    NoCommit(PathBuf),
    /// There is no git.
    #[error("cannot start git: {0}; install it, or leave --worktree out")]
    NoGit(std::io::Error),
    /// Git failed.
    #[error("git {doing} failed: {said}")]
    Git {
        /// The subcommand.
        doing: String,
        /// What it said, shortened.
        said: String,
    },
    /// Git took too long.
    #[error("git {doing} did not end within {} s", PATIENCE.as_secs())]
    Slow {
        /// The subcommand.
        doing: String,
    },
    /// The file system failed.
    #[error("cannot make {path}: {source}")]
    Disk {
        /// What was to be made.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

/// A worktree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worktree {
    /// The repository's main directory.
    repository: PathBuf,
    /// Where the worktree is.
    path: PathBuf,
    /// The place in it that corresponds to the directory for which it was made.
    directory: PathBuf,
    branch: String,
    /// The commit that it began at.
    base: String,
}

/// What was done in a worktree.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Files that are not as they were, from the top of the repository, in order.
    pub files: Vec<String>,
    /// Commits, oldest first.
    pub commits: Vec<Commit>,
    /// Files and commits beyond those.
    pub more: usize,
}

impl Work {
    /// Nothing was done.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.files.is_empty() && self.commits.is_empty()
    }
}

/// A commit that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Commit {
    /// Its hash.
    pub id: String,
    /// The first line of its message.
    pub subject: String,
}

impl Worktree {
    /// The worktree of this name for a directory in a repository: a new one below `home` that begins at the commit that is
    /// checked out now, or the one that is there already.
    ///
    /// # Errors
    /// See [`WorktreeError`].
    pub async fn open(directory: &Path, home: &Path, name: &str) -> Result<Self, WorktreeError> {
        let top =
            Git(directory).run(&["rev-parse", "--show-toplevel"]).await.map_err(|error| match error {
                WorktreeError::Git { .. } => WorktreeError::NoRepository(directory.to_owned()),
                other => other,
            })?;
        let repository = PathBuf::from(top.trim_end_matches('\n'));
        let head = Git(&repository).run(&["rev-parse", "--verify", "HEAD^{commit}"]).await;
        let head = head.map_err(|error| match error {
            WorktreeError::Git { .. } => WorktreeError::NoCommit(directory.to_owned()),
            other => other,
        })?;
        let name = sanitised(name);
        let path = home.join(key_of(&repository)).join(&name);
        let branch = format!("godctl/{name}");
        let real = directory.canonicalize().unwrap_or_else(|_| directory.to_owned());
        let below = real.strip_prefix(&repository).unwrap_or_else(|_| Path::new("")).to_owned();

        if !path.join(".git").exists() {
            add(&repository, &path, &branch, head.trim()).await?;
        }
        let git = Git(&path);
        let base = match git.run(&["rev-parse", "--verify", "--quiet", BASE]).await {
            Ok(base) => base.trim().to_owned(),
            // It is new, or whoever made it came no further than that.
            Err(_) => {
                let base = git.run(&["merge-base", head.trim(), &branch]).await?.trim().to_owned();
                git.run(&["update-ref", BASE, &base]).await?;
                base
            }
        };
        let directory = if below.as_os_str().is_empty() { path.clone() } else { path.join(below) };
        // One that holds nothing which git keeps is not there yet.
        std::fs::create_dir_all(&directory)
            .map_err(|source| WorktreeError::Disk { path: directory.clone(), source })?;
        Ok(Self { repository, path, directory, branch, base })
    }

    /// The directory to work in.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its branch.
    #[must_use]
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// What was done in it so far.
    ///
    /// # Errors
    /// When git fails.
    pub async fn work(&self) -> Result<Work, WorktreeError> {
        let git = Git(&self.path);
        let changed = git.run(&["diff", "--name-only", "--no-renames", "-z", &self.base]).await?;
        let new = git.run(&["ls-files", "--others", "--exclude-standard", "-z"]).await?;
        let files: BTreeSet<&str> =
            changed.split('\0').chain(new.split('\0')).filter(|file| !file.is_empty()).collect();
        let since = format!("{}..HEAD", self.base);
        let log = git.run(&["log", "--reverse", "--format=%H %s", "-z", &since]).await?;
        let commits: Vec<Commit> = log
            .split('\0')
            .filter_map(|line| line.split_once(' '))
            .map(|(id, subject)| Commit { id: id.to_owned(), subject: shortened(subject, 200) })
            .collect();
        let more = files.len().saturating_sub(MAX_TOLD) + commits.len().saturating_sub(MAX_TOLD);
        Ok(Work {
            files: files.into_iter().take(MAX_TOLD).map(str::to_owned).collect(),
            commits: commits.into_iter().take(MAX_TOLD).collect(),
            more,
        })
    }

    /// Tells what was done, and removes the worktree and its branch if that is nothing.
    ///
    /// # Errors
    /// When git fails; then everything is left as it is.
    pub async fn close(&self) -> Result<Work, WorktreeError> {
        let work = self.work().await?;
        if work.is_none() {
            let place = self.path.to_string_lossy();
            let git = Git(&self.repository);
            // Without --force: git itself looks once more whether anything would be lost.
            git.run(&["worktree", "remove", &place]).await?;
            // Only if it still is where it began: an agent may have moved it and gone elsewhere.
            let branch = format!("refs/heads/{}", self.branch);
            drop(git.run(&["update-ref", "-d", &branch, &self.base]).await);
        }
        Ok(work)
    }
}

/// Makes a worktree: on a new branch that begins at a commit, or on the branch that is left of one that was deleted by
/// hand, so that what was committed there is not lost.
async fn add(repository: &Path, path: &Path, branch: &str, commit: &str) -> Result<(), WorktreeError> {
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .map_err(|source| WorktreeError::Disk { path: parent.to_owned(), source })?;
    }
    let (git, place) = (Git(repository), path.to_string_lossy());
    // A directory that somebody deleted is still in git's list.
    git.run(&["worktree", "prune"]).await?;
    let known = git.run(&["rev-parse", "--verify", "--quiet", &format!("refs/heads/{branch}")]).await;
    match known {
        Ok(_) => git.run(&["worktree", "add", "--quiet", &place, branch]).await,
        Err(_) => git.run(&["worktree", "add", "--quiet", "-b", branch, &place, commit]).await,
    }
    .map(drop)
}

/// A name for directories and branches: letters, digits and dashes, never empty, and another one for another text.
fn sanitised(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let kept: String = name.chars().map(plain).collect();
    let kept = kept.split('-').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    if kept == name && (1..=MAX_NAME).contains(&kept.len()) {
        return kept;
    }
    let kept: String = kept.chars().take(MAX_NAME).collect();
    let mark = hex(name.as_bytes());
    format!("{}-{mark}", if kept.is_empty() { "session" } else { kept.trim_end_matches('-') })
}

/// Tells repositories apart that have the same name.
fn key_of(repository: &Path) -> String {
    let name = repository.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let kept: String = sanitised(&name).chars().take(MAX_NAME).collect();
    format!("{kept}-{}", hex(repository.as_os_str().as_encoded_bytes()))
}

/// Eight digits that stand for these bytes.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Git in a directory.
struct Git<'a>(&'a Path);

impl Git<'_> {
    /// What it prints.
    async fn run(&self, arguments: &[&str]) -> Result<String, WorktreeError> {
        let doing = arguments.iter().take(2).copied().collect::<Vec<_>>().join(" ");
        let mut child = Command::new("git")
            // Hooks are code of whoever wrote the repository; locks that are only nice to have get in others' way.
            .args([
                "-c",
                "core.hooksPath=/dev/null",
                "-c",
                "core.fsmonitor=false",
                "--no-optional-locks",
                "-C",
            ])
            .arg(self.0)
            .args(arguments)
            // Set where we were started by a hook of git's, and then about another repository.
            .env_remove("GIT_DIR")
            .env_remove("GIT_WORK_TREE")
            .env_remove("GIT_INDEX_FILE")
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(WorktreeError::NoGit)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let ended = timeout(PATIENCE, async {
            let (out, err) = tokio::join!(read(stdout), read(stderr));
            (out, err, child.wait().await)
        });
        let (out, err, status) = ended.await.map_err(|_| WorktreeError::Slow { doing: doing.clone() })?;
        match status {
            Ok(status) if status.success() => Ok(out),
            Ok(_) => {
                let said = err.lines().find(|line| !line.trim().is_empty()).unwrap_or("it did not say why");
                Err(WorktreeError::Git { doing, said: shortened(said, 300) })
            }
            Err(error) => Err(WorktreeError::Git { doing, said: error.to_string() }),
        }
    }
}

/// Reads to the end; keeps no more than is wanted of it.
async fn read(pipe: Option<impl AsyncRead + Unpin>) -> String {
    let mut kept = Vec::new();
    if let Some(pipe) = pipe {
        let mut limited = pipe.take(MAX_OUTPUT);
        drop(limited.read_to_end(&mut kept).await);
        // A pipe that nobody reads would keep git from ending.
        drop(tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await);
    }
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Repository {
        dir: tempfile::TempDir,
    }

    impl Repository {
        /// With one commit.
        async fn new() -> Self {
            let this = Self { dir: tempfile::tempdir().unwrap() };
            std::fs::create_dir_all(this.path().join("sub")).unwrap();
            this.git(&["init", "--quiet", "-b", "main"]).await;
            this.write("sub/a.txt", "one");
            this.write(".gitignore", "target\n");
            this.git(&["add", "."]).await;
            this.commit(&this.path(), "begin").await;
            this
        }

        fn path(&self) -> PathBuf {
            self.dir.path().canonicalize().unwrap().join("repo dir")
        }

        fn home(&self) -> PathBuf {
            self.dir.path().canonicalize().unwrap().join("worktrees")
        }

        fn write(&self, name: &str, text: &str) {
            std::fs::write(self.path().join(name), text).unwrap();
        }

        async fn git(&self, arguments: &[&str]) -> String {
            Git(&self.path()).run(arguments).await.unwrap()
        }

        async fn commit(&self, at: &Path, message: &str) {
            let who = [
                "-c",
                "user.name=T",
                "-c",
                "user.email=t@example.org",
                "commit",
                "--quiet",
                "-a",
                "-m",
                message,
            ];
            Git(at).run(&who).await.unwrap();
        }

        async fn branches(&self) -> String {
            self.git(&["for-each-ref", "--format=%(refname:short)", "refs/heads"]).await
        }
    }

    #[tokio::test]
    async fn what_was_done_is_told_and_the_tree_of_the_user_stays_as_it_is() {
        let repository = Repository::new().await;
        repository.write("sub/a.txt", "not committed");
        let tree = Worktree::open(&repository.path().join("sub"), &repository.home(), "s-1").await.unwrap();
        assert!(tree.directory().ends_with("s-1/sub") && tree.directory().is_dir());
        assert_eq!(std::fs::read_to_string(tree.directory().join("a.txt")).unwrap(), "one");
        assert_eq!(tree.work().await.unwrap(), Work::default());

        std::fs::write(tree.directory().join("a.txt"), "two").unwrap();
        repository.commit(&tree.path, "Count to two\n\nbecause").await;
        std::fs::write(tree.directory().join("b ü.txt"), "new").unwrap();
        std::fs::create_dir(tree.path.join("target")).unwrap();
        std::fs::write(tree.path.join("target/ignored"), "x").unwrap();
        let work = tree.close().await.unwrap();
        assert_eq!(work.files, ["sub/a.txt", "sub/b ü.txt"]);
        let subjects: Vec<_> = work.commits.iter().map(|commit| commit.subject.as_str()).collect();
        assert_eq!((subjects, work.more), (vec!["Count to two"], 0));
        assert!(tree.directory().join("b ü.txt").exists(), "what was done is left");
        assert_eq!(std::fs::read_to_string(repository.path().join("sub/a.txt")).unwrap(), "not committed");

        let again = Worktree::open(&repository.path().join("sub"), &repository.home(), "s-1").await.unwrap();
        assert_eq!(again, tree, "a session goes on where it was");
        assert_eq!(again.work().await.unwrap(), work);
    }

    #[tokio::test]
    async fn one_in_which_nothing_was_done_is_removed_with_its_branch() {
        let repository = Repository::new().await;
        let tree = Worktree::open(&repository.path(), &repository.home(), "s-1").await.unwrap();
        assert_eq!(repository.branches().await, "godctl/s-1\nmain\n");
        assert!(tree.close().await.unwrap().is_none());
        assert!(!tree.directory().exists());
        assert_eq!(repository.branches().await, "main\n");
        // And may be made anew.
        let tree = Worktree::open(&repository.path(), &repository.home(), "s-1").await.unwrap();
        assert!(tree.directory().is_dir());
    }

    #[tokio::test]
    async fn what_was_committed_survives_a_directory_that_was_deleted() {
        let repository = Repository::new().await;
        let tree = Worktree::open(&repository.path(), &repository.home(), "s-1").await.unwrap();
        std::fs::write(tree.path.join("sub/a.txt"), "two").unwrap();
        repository.commit(&tree.path, "two").await;
        std::fs::remove_dir_all(&tree.path).unwrap();
        let tree = Worktree::open(&repository.path(), &repository.home(), "s-1").await.unwrap();
        assert_eq!(std::fs::read_to_string(tree.path.join("sub/a.txt")).unwrap(), "two");
        assert_eq!(tree.work().await.unwrap().commits.len(), 1);
    }

    #[tokio::test]
    async fn where_there_is_nothing_to_begin_at_it_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().join("worktrees");
        let error = Worktree::open(dir.path(), &home, "s").await.unwrap_err();
        assert!(matches!(error, WorktreeError::NoRepository(_)), "{error}");
        Git(dir.path()).run(&["init", "--quiet"]).await.unwrap();
        let error = Worktree::open(dir.path(), &home, "s").await.unwrap_err();
        assert!(matches!(error, WorktreeError::NoCommit(_)), "{error}");
        assert!(!home.exists(), "nothing is left behind");
    }

    #[tokio::test]
    async fn the_repositorys_hooks_do_not_run() {
        use std::os::unix::fs::PermissionsExt as _;
        let repository = Repository::new().await;
        let hook = repository.path().join(".git/hooks/post-checkout");
        std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
        let mark = repository.dir.path().join("ran");
        std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", mark.display())).unwrap();
        std::fs::set_permissions(&hook, std::fs::Permissions::from_mode(0o755)).unwrap();
        Worktree::open(&repository.path(), &repository.home(), "s").await.unwrap();
        assert!(!mark.exists());
    }

    #[test]
    fn names_are_fit_for_directories_and_branches_and_differ() {
        assert_eq!(sanitised("0197a5e0-0000-7000-8000-000000000001"), "0197a5e0-0000-7000-8000-000000000001");
        let long = "x".repeat(300);
        let names = ["../../etc", "..", "", "-", "A", "a b", "a/b", "a.lock", "@{u}", "ü", &long];
        let made: BTreeSet<_> = names.iter().map(|name| sanitised(name)).collect();
        assert_eq!(made.len(), names.len(), "{made:?}");
        for name in made {
            let fits = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
            assert!(
                fits && !name.is_empty() && !name.starts_with('-') && name.len() <= MAX_NAME + 9,
                "{name}"
            );
        }
    }
}
