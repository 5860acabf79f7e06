//! The tree of `godctl bus`, and which way each branch leads.

use clap::Subcommand;

use super::{
    bench, bridge, connection::with_exit_code, dead, doctor, export, ids, import, prune, publish, queues,
    replay, schema, stats, tail, work,
};
use crate::{cmd::Context, config::Overrides};

/// Flags of `godctl bus`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl bus publish demo.hello.said '{\"text\": \"hello\"}'
  godctl bus tail --bind 'voice.#'                     watch what is said
  godctl bus work mail --bind 'report.#' -- ./send.sh  do something for each event, once
  godctl bus tail --bus amqp://broker.example          another bus than bus.url

The bus is one SQLite file on this machine unless bus.url names another: sqlite:PATH, amqp://HOST
or amqps://HOST (RabbitMQ), file:PATH (JSON lines, one writer) or mem: (this process only). A
password belongs into bus.password_file or bus.password, not on the command line.

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
    /// List the work queues, or delete one
    Queues(queues::Args),
    /// Look at dead letters, try them again or drop them
    Dead(dead::Args),
    /// Play the past again, at its own pace or faster
    Replay(replay::Args),
    /// Write the history as JSON lines
    Export(export::Args),
    /// Publish the events of a file of JSON lines
    Import(import::Args),
    /// Copy events from one bus to another, through crashes
    Bridge(bridge::Args),
    /// Show figures about the bus
    Stats(stats::Args),
    /// Delete old events
    Prune(prune::Args),
    /// Tell whether the bus is well, and how to mend it
    Doctor(doctor::Args),
    /// Show what events look like, as JSON Schema
    Schema(schema::SchemaArgs),
    /// Check whether lines are events that every reader takes
    Validate(schema::ValidateArgs),
    /// Measure how fast the bus is on this machine
    Bench(bench::Args),
    /// Tell whether a pattern matches an event type
    Match(ids::MatchArgs),
    /// Print the id that an event of this type and key always has
    EventId(ids::EventIdArgs),
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
        Action::Queues(args) => queues::run(args, context),
        Action::Dead(args) => dead::run(args, context),
        Action::Replay(args) => replay::run(args, context),
        Action::Export(args) => export::run(args, context),
        Action::Import(args) => import::run(args, context),
        Action::Bridge(args) => bridge::run(args, context),
        Action::Stats(args) => stats::run(args, context),
        Action::Prune(args) => prune::run(args, context),
        Action::Doctor(args) => doctor::run(args, context),
        Action::Schema(args) => schema::run_schema(args),
        Action::Validate(args) => schema::run_validate(args, context),
        Action::Bench(args) => bench::run(args, context),
        Action::Match(args) => ids::run_match(args),
        Action::EventId(args) => ids::run_event_id(args),
    };
    result.map_err(with_exit_code)
}

/// Flags of `godctl dev`: what helps to write programs for the bus.
#[derive(Debug, clap::Args)]
pub(crate) struct DevArgs {
    #[command(subcommand)]
    action: DevAction,
}

#[derive(Debug, Subcommand)]
enum DevAction {
    /// The same as godctl bus match
    Match(ids::MatchArgs),
    /// The same as godctl bus event-id
    EventId(ids::EventIdArgs),
}

/// Runs one of them.
pub(crate) fn run_dev(args: &DevArgs) -> anyhow::Result<()> {
    match &args.action {
        DevAction::Match(args) => ids::run_match(args),
        DevAction::EventId(args) => ids::run_event_id(args),
    }
}
