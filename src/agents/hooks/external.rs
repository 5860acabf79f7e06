//! Runs the program of a hook: JSON goes in, a decision comes out. One that does not end in time is cut, with its group.

use std::{
    collections::BTreeMap,
    path::Path,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::Pid;
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::{Instant, sleep_until, timeout},
};

use super::{
    super::{
        groups::{Group, Groups},
        lines::shortened,
    },
    Decision,
};

/// How much a hook may print: a prompt that it has rewritten, as JSON.
const MAX_OUTPUT: u64 = 128 * 1024 * 1024;
/// How much of what it says for people is kept.
const MAX_SAID: u64 = 8 * 1024;
/// How long what is left in the pipes is read once it has ended: something that it started may hold them open.
const DRAIN: Duration = Duration::from_secs(2);
/// The exit code that says no.
const VETO: i32 = 2;
/// Longest reason that is passed on, in characters.
const MAX_REASON: usize = 500;

/// A program, and what it is given.
#[derive(Debug)]
pub(super) struct Program<'a> {
    /// It and its arguments.
    pub(super) command: &'a [String],
    /// Where it runs.
    pub(super) directory: &'a Path,
    /// All its variables.
    pub(super) environment: &'a BTreeMap<String, String>,
    /// What it reads.
    pub(super) input: Vec<u8>,
    /// How long it may take.
    pub(super) patience: Duration,
}

/// What it said.
#[derive(Debug, Default)]
struct Said {
    out: Vec<u8>,
    err: Vec<u8>,
}

impl Program<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// Why it decided nothing.
    ///
    /// # Cancel safety
    /// Dropping the future kills it and its group.
    pub(super) async fn decide(&self, groups: &Groups) -> Result<Decision, String> {
        let (status, said) = self.run(groups).await?;
        let reason = || {
            let text = String::from_utf8_lossy(&said.err).into_owned();
            let line = text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned);
            line.map(|line| shortened(&line, MAX_REASON))
        };
        match status.code() {
            Some(0) => decision(&said.out),
            Some(VETO) => Ok(Decision::Stop(reason().unwrap_or_else(|| "it did not say why".to_owned()))),
            _ => {
                let said = reason().map(|reason| format!(": {reason}")).unwrap_or_default();
                Err(format!("ended with {status}{said}"))
            }
        }
    }

    async fn run(&self, groups: &Groups) -> Result<(ExitStatus, Said), String> {
        let (name, arguments) = self.command.split_first().ok_or("has no program")?;
        let mut child = Command::new(name)
            .args(arguments)
            .env_clear()
            .envs(self.environment)
            .current_dir(self.directory)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start '{name}': {error}"))?;
        let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        let group = pid.map(|pid| Group::new(pid, groups)).ok_or("has no process id")?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut said = Said::default();
        let end = Instant::now() + self.patience;
        let status = {
            let feeding = async {
                if let Some(mut stdin) = stdin {
                    // It need not read it.
                    drop(stdin.write_all(&self.input).await);
                }
            };
            let Said { out, err } = &mut said;
            let talking =
                async { tokio::join!(feeding, read(stdout, out, MAX_OUTPUT), read(stderr, err, MAX_SAID)) };
            tokio::pin!(talking);
            let mut is_silent = false;
            loop {
                // The wait is cancel safe by contract, and the rest is polled only here.
                tokio::select! {
                    ended = child.wait() => {
                        if !is_silent {
                            drop(timeout(DRAIN, &mut talking).await);
                        }
                        break Some(ended);
                    }
                    _ = &mut talking, if !is_silent => is_silent = true,
                    () = sleep_until(end) => break None,
                }
            }
        };
        group.bury().await;
        match status {
            Some(Ok(status)) => Ok((status, said)),
            Some(Err(error)) => Err(format!("was lost: {error}")),
            None => Err(format!("did not end within {} s and was stopped", self.patience.as_secs())),
        }
    }
}

/// Reads to the end, and keeps so much of it.
async fn read(pipe: Option<impl AsyncRead + Unpin>, kept: &mut Vec<u8>, limit: u64) {
    let Some(pipe) = pipe else { return };
    let mut limited = pipe.take(limit);
    drop(limited.read_to_end(kept).await);
    drop(tokio::io::copy(&mut limited.into_inner(), &mut tokio::io::sink()).await);
}

/// What was printed: nothing, or an object with `abort` and `message`, or with a `prompt`.
///
/// # Errors
/// When it is something else.
pub(super) fn decision(printed: &[u8]) -> Result<Decision, String> {
    if printed.trim_ascii().is_empty() {
        return Ok(Decision::Go);
    }
    let object: Value = serde_json::from_slice(printed)
        .ok()
        .filter(Value::is_object)
        .ok_or("printed something that is no JSON object; notes for people go to standard error")?;
    if object["abort"] == true {
        let reason = object["message"].as_str().unwrap_or("it did not say why");
        return Ok(Decision::Stop(shortened(reason, MAX_REASON)));
    }
    match &object["prompt"] {
        Value::Null => Ok(Decision::Go),
        Value::String(prompt) if !prompt.trim().is_empty() => Ok(Decision::Rewrite(prompt.clone())),
        _ => Err("gave a prompt that is empty or no text".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn run(script: &str, patience: Duration) -> Result<Decision, String> {
        let command = ["sh", "-c", script].map(str::to_owned);
        let environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin:/bin".to_owned())]);
        let (groups, directory) = (Groups::default(), std::env::temp_dir());
        let program = Program {
            command: &command,
            directory: &directory,
            environment: &environment,
            input: vec![b'x'; 1_000_000],
            patience,
        };
        let decided = program.decide(&groups).await;
        assert!(groups.is_empty());
        decided
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn a_program_lets_pass_stops_or_rewrites() {
        assert_eq!(run("cat > /dev/null", LONG).await, Ok(Decision::Go));
        assert_eq!(run(":", LONG).await, Ok(Decision::Go), "it need not read");
        assert_eq!(
            run("echo not on sundays >&2; exit 2", LONG).await,
            Ok(Decision::Stop("not on sundays".to_owned()))
        );
        let rewritten = run("echo '{\"prompt\":\"in short: x\"}'", LONG).await;
        assert_eq!(rewritten, Ok(Decision::Rewrite("in short: x".to_owned())));
        let stopped = run("echo '{\"abort\":true,\"message\":\"no\"}'", LONG).await;
        assert_eq!(stopped, Ok(Decision::Stop("no".to_owned())));
        // More than a pipe holds, both ways.
        let echoed = run("printf '{\"prompt\":\"'; cat; printf '\"}'", LONG).await;
        assert_eq!(echoed, Ok(Decision::Rewrite("x".repeat(1_000_000))));
    }

    #[tokio::test]
    async fn what_decides_nothing_says_why() {
        for (script, says) in [
            ("echo hello", "no JSON object"),
            ("echo '{\"prompt\":\"\"}'", "is empty"),
            ("echo broken >&2; exit 7", "broken"),
            ("kill -9 $$", "signal"),
        ] {
            let error = run(script, LONG).await.unwrap_err();
            assert!(error.contains(says), "{script}: {error}");
        }
    }

    #[tokio::test]
    async fn one_that_hangs_is_cut_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let note = dir.path().join("pid");
        let script = format!("trap '' TERM; sleep 600 & echo $! > {}; wait", note.display());
        let error = run(&script, Duration::from_secs(2)).await.unwrap_err();
        assert!(error.contains("within 2 s"), "{error}");
        let pid = std::fs::read_to_string(note).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z"), "{stat}");
        // One that has ended is not waited for although something of it goes on.
        assert_eq!(run("sleep 600 &", LONG).await, Ok(Decision::Go));
    }
}
