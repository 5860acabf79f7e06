//! The subcommands: each reads its flags, joins the parts and prints. No domain logic lives here.
//!
//! This file holds what they share: [`Context`], [`Terminal`], [`Stdout`] and the exit codes. The tree of commands and
//! the way from arguments to an exit code are in `cli.rs`. To add a subcommand: a file with `Args` (clap), a `run`
//! that takes `&Args` and `&Context`, and a variant in `cli::Command` with its two or three match arms.

mod agent;
mod asr_serve;
mod bus;
mod cli;
mod completions;
mod config;
mod dash;
mod demo;
mod doctor;
mod engine;
mod extension;
mod findings;
pub mod models;
mod notify;
mod probe;
mod probe_tls;
mod publish;
mod text;
mod transcribe;
mod up;
mod version;

pub use cli::main;

use std::{
    fmt,
    future::Future,
    io::{self, Write},
};

use anyhow::Context as _;

use crate::{
    config::{Color, Config, Environment, Paths},
    shutdown::Shutdown,
};

/// What a subcommand gets: its settings, the way to end, and what the terminal can show.
#[derive(Debug)]
pub struct Context {
    /// All settings; hand a part its own section.
    pub config: Config,
    /// Where things are kept.
    pub paths: Paths,
    /// The environment as it was at the start.
    pub environment: Environment,
    /// Every task and thread of the command is started through it.
    pub shutdown: Shutdown,
    /// What may be written to stdout and stderr.
    pub terminal: Terminal,
}

/// What one output stream can show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stream {
    /// Somebody is looking: lines may be redrawn, progress may move.
    pub is_terminal: bool,
    /// Colour codes are welcome.
    pub color: bool,
}

/// Both output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// Results.
    pub stdout: Stream,
    /// Logs, progress, errors.
    pub stderr: Stream,
}

/// How many threads an async runtime gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// The caller's only: for commands that do one thing after another.
    Current,
    /// One for each core: for servers.
    PerCore,
}

impl Context {
    /// Runs a command's async part to its end, then stops everything it started, in order and within
    /// `shutdown.deadline_s`. The first signal cancels [`Context::shutdown`], which `task` must watch; a second one
    /// ends the process.
    ///
    /// # Errors
    /// The first fatal error of a critical part, else the error of `task`.
    pub fn block_on<T, F>(&self, threads: Threads, task: F) -> anyhow::Result<T>
    where
        F: Future<Output = anyhow::Result<T>>,
    {
        let mut builder = match threads {
            Threads::Current => tokio::runtime::Builder::new_current_thread(),
            Threads::PerCore => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder
            .enable_all()
            .thread_name("godctl-io")
            .build()
            .context("cannot start the async runtime")?;
        let result = runtime.block_on(async {
            self.shutdown.listen_for_signals();
            let result = task.await;
            self.shutdown.finish(self.config.shutdown.deadline()).await?;
            result
        });
        // The listener for a second signal never ends by itself.
        runtime.shutdown_background();
        result
    }
}

impl Stream {
    const fn new(color: Color, is_terminal: bool, no_color: bool) -> Self {
        let color = match color {
            Color::Auto => is_terminal && !no_color,
            Color::Always => true,
            Color::Never => false,
        };
        Self { is_terminal, color }
    }
}

/// Tells of one failure among several things to do, in the words that an error at the end would have.
fn complain(error: &anyhow::Error) {
    // There is nowhere left to say that stderr is closed.
    drop(writeln!(io::stderr(), "error: {error:#}"));
}

/// Whether an error says that nobody reads standard output any more, which ends a command quietly.
fn is_stdout_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<StdoutClosed>)
    })
}

/// The width of the terminal in columns; 80 where nobody knows.
fn terminal_width() -> usize {
    terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0))
}

/// How the process ends; the numbers are those of `sysexits.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something went wrong.
    Failed = 1,
    /// A service that the command needs can't be reached.
    Unavailable = 69,
    /// It did not work now, and may work later.
    TryLater = 75,
    /// Flags that contradict each other.
    Usage = 2,
    /// The configuration is wrong.
    Config = 78,
    /// Somebody interrupted it.
    Interrupted = 130,
}

/// An error that says how the process ends. Without one an error ends it with 1, except that a
/// [`crate::config::ConfigError`] ends it with 78.
#[derive(Debug)]
pub struct Failure {
    exit: Exit,
    /// `None` when the command has already said all there is to say.
    error: Option<anyhow::Error>,
}

impl Failure {
    /// Ends the process with this code after printing the error.
    #[must_use]
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: Some(error.into()) }
    }

    /// Ends the process with this code without another word.
    #[must_use]
    pub const fn reported(exit: Exit) -> Self {
        Self { exit, error: None }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.error {
            Some(error) => write!(f, "{error:#}"),
            None => f.write_str("failed, as reported"),
        }
    }
}

// No `source`: the message above holds the whole chain already.
impl std::error::Error for Failure {}

/// Standard output for results. A reader that went away (`godctl … | head`) is told apart from every other broken
/// pipe, because it is no failure.
#[derive(Debug)]
pub struct Stdout(io::StdoutLock<'static>);

/// The reader of standard output went away.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads the output any more")]
pub struct StdoutClosed;

impl Stdout {
    #[must_use]
    pub fn lock() -> Self {
        Self(io::stdout().lock())
    }

    fn translate(error: io::Error) -> io::Error {
        match error.kind() {
            io::ErrorKind::BrokenPipe => io::Error::new(io::ErrorKind::BrokenPipe, StdoutClosed),
            _ => error,
        }
    }
}

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(Self::translate)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(Self::translate)
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn context() -> Context {
        let dark = Stream::new(Color::Auto, false, false);
        let paths = Paths { config_file: None, data_dir: PathBuf::new(), models_dir: PathBuf::new() };
        Context {
            config: Config::default(),
            paths,
            environment: Environment::default(),
            shutdown: Shutdown::new(),
            terminal: Terminal { stdout: dark, stderr: dark },
        }
    }

    #[test]
    fn colour_follows_the_setting_then_the_terminal() {
        let colored = |color, is_terminal, no_color| Stream::new(color, is_terminal, no_color).color;
        assert!(colored(Color::Auto, true, false) && colored(Color::Always, false, true));
        assert!(!colored(Color::Auto, false, false) && !colored(Color::Auto, true, true));
        assert!(!colored(Color::Never, true, false));
    }

    #[test]
    fn a_command_gives_its_result_and_everything_it_started_has_stopped() {
        let context = context();
        let shutdown = context.shutdown.clone();
        let result = context.block_on(Threads::Current, async {
            let token = shutdown.child_token();
            shutdown.spawn("background", async move { token.cancelled().await });
            Ok(7)
        });
        assert_eq!(result.unwrap(), 7);
        assert!(context.shutdown.is_cancelled());
    }

    #[test]
    fn a_dead_part_explains_more_than_what_it_caused() {
        let context = context();
        let shutdown = context.shutdown.clone();
        let result: anyhow::Result<()> = context.block_on(Threads::PerCore, async {
            shutdown.spawn_critical("engine", async { Err::<(), _>("out of memory") });
            shutdown.cancelled().await;
            Err(anyhow::anyhow!("the stream is closed"))
        });
        assert_eq!(result.unwrap_err().to_string(), "engine stopped: out of memory");
    }
}
