//! The tree of `godctl bus`, and which way each branch leads.

use clap::Subcommand;

use super::{connection::with_exit_code, publish, tail, work};
use crate::{cmd::Context, config::Overrides};

/// Flags of `godctl bus`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus publish demo.hello.said '{\"text\": \"hello\"}'
  godctl bus tail --bind 'voice.#'                     watch what is said
  godctl bus work mail --bind 'report.#' -- ./send.sh  do something for each event, once
  godctl bus tail --bus amqp://broker.example          another bus than bus.url

The bus is one SQLite file on this machine unless bus.url names another: sqlite:PATH, amqp://HOST or
amqps://HOST (RabbitMQ), file:PATH (JSON lines, one writer) or mem: (this process only).
A password belongs into bus.password_file or bus.password, not on the command line.

Exit codes: 0 done, 1 failed, 2 wrong usage, 69 the broker is unreachable or refuses access,
78 wrong configuration, 130 interrupted twice.")]
pub(crate) struct Args {
    #[command(flatten)]
    connection: Connection,
    #[command(subcommand)]
    action: Action,
}

/// Which bus. Taken as text, and checked with the configuration: an error must not show a password.
#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Bus options")]
struct Connection {
    /// The bus to use instead of bus.url
    #[arg(long, global = true, value_name = "URL")]
    bus: Option<String>,
    /// The topic exchange to use on a RabbitMQ instead of bus.exchange
    #[arg(long, global = true, value_name = "NAME")]
    exchange: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Publish an event, or many from standard input
    Publish(publish::Args),
    /// Watch events, from now or from the past on
    Tail(tail::Args),
    /// Consume a work queue: a command for each event, or JSON lines for a program
    Work(work::Args),
}

impl Args {
    /// What these flags set.
    pub(crate) fn overrides(&self) -> Overrides {
        let mut overrides = Overrides::default();
        overrides.set("--bus", "bus.url", self.connection.bus.as_ref()).set(
            "--exchange",
            "bus.exchange",
            self.connection.exchange.as_ref(),
        );
        overrides
    }
}

/// Runs one of them.
pub(crate) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    let result = match &args.action {
        Action::Publish(args) => publish::run(args, context),
        Action::Tail(args) => tail::run(args, context),
        Action::Work(args) => work::run(args, context),
    };
    result.map_err(with_exit_code)
}
