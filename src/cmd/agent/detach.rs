//! `godctl agent start --detach`: the turn goes on in a process of its own, and this one returns as soon as the turn is
//! open in the store.
//!
//! The process is this program again with a hidden flag. It leads a session of its own, so that no terminal can end it.
//! The prompt goes to it by its standard input, what `-c` says by its environment, for both may hold what others on this
//! machine must not read in a list of processes. It says one line on its standard output, when the turn is open; what it
//! has to complain of goes into a file, which it deletes if there was nothing.

use std::{
    ffi::OsString,
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, anyhow};
use async_trait::async_trait;
use rustix::process::{Pid, Signal, kill_process, setsid};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
};
use uuid::Uuid;

use super::{
    super::{Context, Exit, Failure, Stdout, Threads},
    screen::visible,
    start::Show,
};
use crate::agents::{
    Outcome, Output,
    errand::Workspace,
    narrator::Subject,
    orchestrator::Recorder,
    session::Session,
    store::{Change, SessionStore, StoreError, Version},
};

/// The folder of the files in the data directory.
const FOLDER: &str = "detached";
/// For how long they are kept, and how many.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
const MAX_KEPT: usize = 200;
/// The line that the other process says is shorter.
const MAX_LINE: u64 = 64 * 1024;
/// How much of a file is repeated here, in bytes.
const MAX_COMPLAINT: u64 = 64 * 1024;

/// What the other process says when its turn is open.
#[derive(Debug, Serialize, Deserialize)]
struct Opened {
    session: String,
    run: Uuid,
    turn: u64,
    provider: String,
    pid: u32,
}

/// Starts the other process with these global flags and these words behind `agent start`, and waits until its turn is
/// open.
pub(super) fn start(
    context: &Context,
    (passed_on, words): (Vec<OsString>, Vec<OsString>),
    prompt: &str,
    json: bool,
) -> anyhow::Result<()> {
    let folder = context.paths.data_dir.join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    tidy(&folder, SystemTime::now());
    let log = folder.join(format!("{}.log", Uuid::now_v7()));
    let complaints = private_file(&log).with_context(|| format!("cannot write {}", log.display()))?;
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let (flags, settings) = settings_of(passed_on);
    context.block_on(Threads::Current, async {
        let mut child = Command::new(program)
            .args(flags)
            .args(["agent", "start", "--detached"])
            .arg(&log)
            .args(words)
            .envs(settings)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .context("cannot start a process")?;
        let opened = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => {
                give_up(&mut child).await;
                return Err(Failure::new(Exit::Interrupted, anyhow!("interrupted; nothing was left running")).into());
            }
            opened = open(&mut child, prompt) => opened?,
        };
        repeat(&log);
        match opened {
            Some(opened) => tell(&opened, &log, json),
            None => {
                let status = child.wait().await.context("cannot wait for a process")?;
                drop(fs::remove_file(&log));
                // It has said why.
                Err(Failure::reported(exit_of(status.code())).into())
            }
        }
    })
}

/// Hands over the prompt, and hears that the turn is open; `None` if it never was.
async fn open(child: &mut Child, prompt: &str) -> anyhow::Result<Option<Opened>> {
    let (Some(mut stdin), Some(stdout)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(anyhow!("a process was started without pipes"));
    };
    // One that ends before it has read everything says why.
    if let Err(error) = stdin.write_all(prompt.as_bytes()).await {
        tracing::debug!(%error, "the process did not read the prompt to its end");
    }
    drop(stdin);
    let mut line = String::new();
    BufReader::new(stdout).take(MAX_LINE).read_line(&mut line).await.context("cannot hear a process")?;
    match line.trim() {
        "" => Ok(None),
        line => Ok(Some(serde_json::from_str(line).context("a process says what nobody understands")?)),
    }
}

/// Nobody waits for it any more, so it need not begin.
async fn give_up(child: &mut Child) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        tracing::debug!(%error, "cannot stop the process");
    }
    if let Err(error) = child.wait().await {
        tracing::debug!(%error, "cannot wait for the process");
    }
}

fn tell(opened: &Opened, log: &Path, json: bool) -> anyhow::Result<()> {
    let mut stdout = Stdout::lock();
    if json {
        let mut value = serde_json::to_value(opened)?;
        value["log"] = log.display().to_string().into();
        writeln!(stdout, "{value}")?;
        return Ok(());
    }
    let id = &opened.session;
    writeln!(stdout, "{id}")?;
    stdout.flush()?;
    writeln!(
        io::stderr(),
        "{} works on it; `godctl agent status --watch` shows how it goes, `godctl agent sessions show {id}` the answer, \
         `godctl agent cancel {id}` stops it",
        opened.provider
    )?;
    Ok(())
}

/// Says here what the other process had to complain of so far.
fn repeat(log: &Path) {
    let read = || -> io::Result<String> {
        let mut bytes = Vec::new();
        io::Read::read_to_end(&mut io::Read::take(fs::File::open(log)?, MAX_COMPLAINT), &mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    match read() {
        // There is nowhere left to say that stderr is closed.
        Ok(text) => drop(io::stderr().write_all(visible(&text).as_bytes())),
        Err(error) => tracing::debug!(%error, "cannot read what the process complains of"),
    }
}

const fn exit_of(code: Option<i32>) -> Exit {
    match code {
        Some(2) => Exit::Usage,
        Some(69) => Exit::Unavailable,
        Some(75) => Exit::TryLater,
        Some(78) => Exit::Config,
        Some(130) => Exit::Interrupted,
        _ => Exit::Failed,
    }
}

/// A new file that only its owner reads.
fn private_file(path: &Path) -> io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.create_new(true).append(true);
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Deletes old files, and of too many the oldest.
fn tidy(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    let mut files: Vec<(SystemTime, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            Some((entry.metadata().ok()?.modified().ok()?, entry.path()))
        })
        .collect();
    files.sort();
    let surplus = files.len().saturating_sub(MAX_KEPT);
    for (number, (written, path)) in files.into_iter().enumerate() {
        let is_old = now.duration_since(written).is_ok_and(|age| age > KEPT);
        if (number < surplus || is_old)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!(%error, path = %path.display(), "cannot delete an old file");
        }
    }
}

/// Flags, and what `-c` said as variables, where a variable can say it.
fn settings_of(passed_on: Vec<OsString>) -> (Vec<OsString>, Vec<(String, String)>) {
    let (mut flags, mut settings) = (Vec::new(), Vec::new());
    let mut words = passed_on.into_iter();
    while let Some(word) = words.next() {
        if word != "-c" {
            flags.push(word);
            continue;
        }
        let Some(assignment) = words.next() else { break };
        match assignment.to_str().and_then(as_variable) {
            Some(setting) => settings.push(setting),
            None => flags.extend([word, assignment]),
        }
    }
    (flags, settings)
}

/// `a.b=c` as the variable that the configuration reads the same from.
fn as_variable(assignment: &str) -> Option<(String, String)> {
    let (key, value) = assignment.split_once('=')?;
    let key = key.trim();
    let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
    let comes_back = key.chars().all(is_plain) && !key.contains("__") && !key.is_empty();
    comes_back.then(|| {
        (format!("GODCTL__{}", key.to_ascii_uppercase().replace('.', "__")), value.trim().to_owned())
    })
}

/// This is the other process: it leaves the terminal of whoever started it.
pub(super) fn leave_terminal() {
    // Refused if it leads a group already, which it does only where somebody has started it by hand.
    if let Err(error) = setsid() {
        tracing::debug!(%error, "cannot begin a session of its own");
    }
}

/// The turn has ended well: a file without a complaint is of no use.
pub(super) fn clean_up(log: &Path) {
    let is_empty = fs::metadata(log).is_ok_and(|metadata| metadata.len() == 0);
    if is_empty && let Err(error) = fs::remove_file(log) {
        tracing::debug!(%error, path = %log.display(), "cannot delete an empty file");
    }
}

/// Says that the turn is open.
#[derive(Debug)]
pub(super) struct Announcer;

#[async_trait]
impl Recorder for Announcer {
    async fn record(
        &self,
        store: &dyn SessionStore,
        change: &Change<'_>,
        _: &Outcome,
    ) -> Result<Version, StoreError> {
        store.update(change).await
    }

    fn opened(&self, session: &Session) {
        let Some(run) = &session.run else { return };
        let opened = Opened {
            session: session.id.to_string(),
            run: run.id,
            turn: session.prompt_count,
            provider: session.provider.clone(),
            pid: std::process::id(),
        };
        let say = || -> anyhow::Result<()> {
            let mut stdout = Stdout::lock();
            writeln!(stdout, "{}", serde_json::to_string(&opened)?)?;
            stdout.flush()?;
            Ok(())
        };
        if let Err(error) = say() {
            // Whoever asked is gone; the turn goes on all the same.
            tracing::debug!(%error, "nobody hears that the turn is open");
        }
    }
}

/// Shows nothing: what comes of the turn is in the store.
#[derive(Debug)]
pub(super) struct Unseen;

impl Show for Unseen {
    fn begin(&mut self, _: Subject) {}

    fn output(&mut self, _: &Output) -> anyhow::Result<()> {
        Ok(())
    }

    fn end(&mut self, _: &Outcome, _: Option<&Workspace>, _: Duration) -> anyhow::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_by_the_environment_where_they_come_back_as_they_were() {
        let words =
            ["-c", "store.password = s3=cret ", "-v", "-c", "agents.providers.Rack.model=x", "-c", "a__b=1"];
        let (flags, settings) = settings_of(words.map(OsString::from).to_vec());
        assert_eq!(settings, [("GODCTL__STORE__PASSWORD".to_owned(), "s3=cret".to_owned())]);
        assert_eq!(flags, ["-v", "-c", "agents.providers.Rack.model=x", "-c", "a__b=1"]);
    }

    #[test]
    fn old_files_go_and_of_too_many_the_oldest() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..MAX_KEPT + 3 {
            private_file(&folder.path().join(format!("{number:04}.log"))).unwrap();
        }
        let count = || fs::read_dir(folder.path()).unwrap().count();
        tidy(folder.path(), SystemTime::now());
        assert_eq!(count(), MAX_KEPT);
        tidy(folder.path(), SystemTime::now() + KEPT + Duration::from_secs(60));
        assert_eq!(count(), 0);
    }
}
