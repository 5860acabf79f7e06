//! The tree of commands, and the way from arguments to an exit code.
//!
//! Runs on the main thread, which stays synchronous; a command that needs a runtime builds one
//! with [`Context::block_on`].

use std::{
    ffi::OsString,
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use clap::{ArgAction, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use super::{
    Context, Exit, Failure, Stream, Terminal, agent, asr_serve, bus, completions, config, dash, demo, doctor,
    extension, models, transcribe, up, version,
};
use crate::{
    config::{Color, ConfigError, Environment, Loaded, Loader, LogFormat, Overrides},
    shutdown::Shutdown,
    telemetry::{self, Audience},
};

/// Speech into events, events into finished work
#[derive(Debug, Parser)]
#[command(name = "godctl", version, max_term_width = 100, after_help = EXAMPLES, propagate_version = false)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  godctl demo                                   watch speech become text, live
  godctl transcribe talk.mp3 --format srt       subtitles for a recording
  godctl transcribe --mic                       live captions
  godctl asr-serve --listen 127.0.0.1:8000      serve transcription to other programs
  godctl doctor                                 what works on this machine, and how to fix the rest
  godctl bus tail                               watch events as they come
  godctl dash                                   see everything that happens
  godctl agent start claude -p \"fix the typo\"   let a coding agent work on a prompt
  godctl up                                     run the configured parts, and keep them running
  godctl models list                            which speech models there are, and which are here
  godctl config show --origin                   every setting, and who set it
  godctl -c asr.threads=2 config check          try a setting without writing it down
  godctl completions bash > ~/.local/share/bash-completion/completions/godctl

Exit codes: 0 done, 1 failed, 2 wrong usage, 69 a needed service is unreachable,
75 try again later, 78 wrong configuration, 130 interrupted.";

/// Flags that every subcommand takes.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Read this configuration file instead of ~/.config/godctl/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// What `-c` said, on every level of the command line; see [`tree`].
    #[arg(skip)]
    set: Vec<String>,
    /// Log more; -vv and -vvv more still
    #[arg(short, long, global = true, action = ArgAction::Count)]
    verbose: u8,
    /// Log less; -qq nothing
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "verbose")]
    quiet: u8,
    /// How logs look: text or json
    #[arg(long, global = true, value_name = "FORMAT", hide_possible_values = true)]
    log_format: Option<LogFormat>,
    /// When to use colours: auto, always or never
    #[arg(long, global = true, value_name = "WHEN", hide_possible_values = true)]
    color: Option<Color>,
}

impl Global {
    /// The same flags as words of a command line, for the parts of `godctl up`. Colour is not among them: it depends
    /// on where the output goes.
    fn passed_on(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        if let Some(path) = &self.config {
            words.extend(["--config".into(), path.into()]);
        }
        for assignment in &self.set {
            words.extend(["-c".into(), assignment.into()]);
        }
        words.extend(std::iter::repeat_n("-v".into(), self.verbose.into()));
        words.extend(std::iter::repeat_n("-q".into(), self.quiet.into()));
        if let Some(format) = self.log_format.as_ref().and_then(clap::ValueEnum::to_possible_value) {
            words.extend(["--log-format".into(), format.get_name().into()]);
        }
        words
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve transcription to other programs over websockets
    AsrServe(asr_serve::Args),
    /// Transcribe recordings, standard input or the microphone
    Transcribe(transcribe::Args),
    /// Watch the live pipeline transcribe recordings, and see how well it does
    Demo(demo::Args),
    /// Publish, watch, replay and work off events
    Bus(bus::Args),
    /// Let coding agents work on prompts
    Agent(agent::Args),
    /// See everything that happens, in the terminal
    Dash(Box<dash::Args>),
    /// Run the configured parts under one supervisor, or write systemd units that do
    Up(up::Args),
    /// Helps to write programs for the bus
    #[command(hide = true)]
    Dev(bus::DevArgs),
    /// Show, check or explain the configuration
    Config(config::Args),
    /// Tell what works on this machine, and how to fix the rest
    Doctor(doctor::Args),
    /// List, download and remove speech models
    Models(models::ModelsArgs),
    /// The browser extension that captions a tab or the microphone
    Extension(extension::Args),
    /// Write a completion script for a shell to standard output
    Completions(completions::Args),
    /// Tell the version and what was built in
    Version(version::Args),
}

/// The whole tree, with `-c` on each level. It is not a `global` flag of clap's, because then those after the
/// subcommand would silently replace those before it.
fn tree() -> clap::Command {
    fn with_set(command: clap::Command) -> clap::Command {
        let set = clap::Arg::new(SET)
            .short('c')
            .value_name("SECTION.KEY=VALUE")
            .help("Set one key of the configuration (may be repeated)")
            .help_heading("Global options")
            // Last, wherever clap puts the global ones.
            .display_order(1000)
            .action(ArgAction::Append);
        command.arg(set).mut_subcommands(with_set)
    }
    with_set(Cli::command())
}

/// The id of the `-c` argument.
const SET: &str = "set";

fn parse<I, T>(args: I) -> Result<Cli, clap::Error>
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let matches = tree().try_get_matches_from(args)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    let mut level = Some(&matches);
    while let Some(matches) = level {
        cli.global.set.extend(matches.get_many::<String>(SET).into_iter().flatten().cloned());
        level = matches.subcommand().map(|(_, matches)| matches);
    }
    Ok(cli)
}

/// The subcommand that a command line (without the program's name) would run, such as `["bus", "work"]`.
pub(super) fn subcommand_of(words: &[OsString]) -> Result<Vec<String>, clap::Error> {
    let line = || std::iter::once(OsString::from("godctl")).chain(words.iter().cloned());
    // The types know rules that the tree alone does not.
    parse(line())?;
    let matches = tree().try_get_matches_from(line())?;
    let mut names = Vec::new();
    let mut level = matches.subcommand();
    while let Some((name, matches)) = level {
        names.push(name.to_owned());
        level = matches.subcommand();
    }
    Ok(names)
}

/// Parses the command line, runs the subcommand and maps its error to an exit code.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help that nobody reads to its end, and an error without a stderr, still end with their code.
            drop(error.print());
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let session = Session { global: cli.global, environment: Environment::of_process() };
    match cli.command {
        Command::AsrServe(args) => {
            let loaded = session.load(args.overrides())?;
            let audience = if args.serves() { Audience::Operator } else { Audience::Person };
            asr_serve::run(&args, &session.start(loaded, audience)?)
        }
        Command::Transcribe(args) => {
            let loaded = session.load(args.overrides())?;
            transcribe::run(&args, &session.start(loaded, Audience::Person)?)
        }
        Command::Demo(args) => {
            let loaded = session.load(Overrides::default())?;
            demo::run(&args, &session.start(loaded, Audience::Person)?)
        }
        Command::Bus(args) => {
            let loaded = session.load(args.overrides())?;
            bus::run(&args, &session.start(loaded, Audience::Person)?)
        }
        Command::Agent(args) => {
            let passed_on = session.global.passed_on();
            let loaded = session.load(Overrides::default())?;
            agent::run(&args, &session.start(loaded, Audience::Person)?, passed_on)
        }
        Command::Dash(args) => {
            let loaded = session.load(Overrides::default())?;
            dash::run(&args, &session.start(loaded, Audience::Person)?)
        }
        Command::Up(args) => {
            let passed_on = session.global.passed_on();
            let loaded = session.load(Overrides::default())?;
            up::run(&args, &session.start(loaded, Audience::Operator)?, passed_on)
        }
        Command::Dev(args) => bus::run_dev(&args),
        Command::Config(args) => match args.action {
            config::Action::Example => config::example(),
            config::Action::Show(args) => config::show(&args, &session.load(Overrides::default())?),
            config::Action::Check => config::check(&session.load(Overrides::default())?),
        },
        Command::Doctor(args) => {
            // A broken configuration is one of the things to report; the other checks then use the defaults.
            let loaded = session.load(Overrides::default());
            let (loaded, problem) = match loaded {
                Ok(loaded) => (loaded, None),
                Err(error) => (Loader::new(session.environment.without_settings()).load()?, Some(error)),
            };
            let context = session.start(loaded, Audience::Person)?;
            doctor::run(&args, &context, problem)
        }
        Command::Models(args) => {
            let loaded = session.load(Overrides::default())?;
            models::main(args, &session.start(loaded, Audience::Person)?)
        }
        Command::Extension(args) => extension::run(&args),
        Command::Completions(args) => completions::run(&args, &mut tree()),
        Command::Version(args) => version::run(&args),
    }
}

/// What every command starts from.
struct Session {
    global: Global,
    environment: Environment,
}

impl Session {
    /// The configuration with the global flags and a command's own on top.
    fn load(&self, overrides: Overrides) -> Result<Loaded, ConfigError> {
        let Global { config, set, log_format, color, .. } = &self.global;
        let mut global = Overrides::default();
        global.set("--log-format", "log.format", log_format.as_ref()).set(
            "--color",
            "log.color",
            color.as_ref(),
        );
        let mut loader = Loader::new(self.environment.clone());
        if let Some(path) = config {
            loader = loader.file(path.clone());
        }
        loader.assignments(set.clone()).overrides(global).overrides(overrides).load()
    }

    /// Starts the logs and hands over what a command needs.
    fn start(self, loaded: Loaded, audience: Audience) -> anyhow::Result<Context> {
        let no_color = self.environment.no_color();
        let color = loaded.config.log.color;
        let terminal = Terminal {
            stdout: Stream::new(color, io::stdout().is_terminal(), no_color),
            stderr: Stream::new(color, io::stderr().is_terminal(), no_color),
        };
        let steps = |count: u8| i8::try_from(count).unwrap_or(i8::MAX);
        let verbosity = steps(self.global.verbose).saturating_sub(steps(self.global.quiet));
        telemetry::start(
            &loaded.config.log,
            telemetry::Options { audience, verbosity, color: terminal.stderr.color },
        )?;
        let Loaded { config, paths, .. } = loaded;
        Ok(Context { config, paths, environment: self.environment, shutdown: Shutdown::new(), terminal })
    }
}

/// Prints the error once, with its chain, and gives the exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if super::is_stdout_closed(error) {
        return ExitCode::SUCCESS;
    }
    let failure = error.chain().find_map(|cause| cause.downcast_ref::<Failure>());
    let exit = match failure {
        Some(failure) => failure.exit,
        None if error.chain().any(|cause| cause.is::<ConfigError>()) => Exit::Config,
        None => Exit::Failed,
    };
    if failure.is_none_or(|failure| failure.error.is_some()) {
        // There is nowhere left to say that stderr is closed.
        drop(writeln!(io::stderr(), "error: {error:#}"));
    }
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        tree().debug_assert();
    }

    #[test]
    fn global_flags_may_stand_on_both_sides_of_the_command() {
        let cli = parse(["godctl", "-c", "a=1", "-v", "config", "-c", "b=2", "check", "-c", "c=3"]);
        let global = cli.unwrap().global;
        assert_eq!(global.set, ["a=1", "b=2", "c=3"]);
        assert_eq!(global.verbose, 1);
    }

    #[test]
    fn global_flags_can_be_passed_on() {
        let line =
            ["godctl", "-vv", "--config", "a b", "-c", "a=1", "--log-format", "json", "up", "-c", "b=2"];
        let words = parse(line).unwrap().global.passed_on();
        assert_eq!(words, ["--config", "a b", "-c", "a=1", "-c", "b=2", "-v", "-v", "--log-format", "json"]);
        let part = words.into_iter().chain(["config", "check", "-v"].map(OsString::from)).collect::<Vec<_>>();
        assert_eq!(subcommand_of(&part).unwrap(), ["config", "check"]);
        assert!(subcommand_of(&["bridgee".into()]).is_err());
    }

    #[test]
    fn errors_know_how_the_process_ends() {
        let code = |error: anyhow::Error| format!("{:?}", report(&error));
        let expected = |code: u8| format!("{:?}", ExitCode::from(code));
        let config = ConfigError::Assignment { flag: "-c".to_owned() };
        assert_eq!(code(anyhow::Error::new(config).context("starting")), expected(78));
        assert_eq!(code(anyhow::anyhow!("no")), expected(1));
        let unavailable = Failure::new(Exit::Unavailable, anyhow::anyhow!("no broker"));
        assert_eq!(code(anyhow::Error::new(unavailable).context("publishing")), expected(69));
        assert_eq!(code(Failure::reported(Exit::Failed).into()), expected(1));
        let gone = super::super::Stdout::translate(io::ErrorKind::BrokenPipe.into());
        assert_eq!(code(anyhow::Error::new(gone).context("printing")), expected(0));
        let socket = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(code(anyhow::Error::new(socket).context("sending")), expected(1));
    }
}
