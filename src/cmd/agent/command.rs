//! The tree of subcommands.

use std::ffi::OsString;

use clap::Subcommand;

use super::{
    super::Context, cancel, cost, dlq, flow, keys, listen, metrics, providers, sessions, start, status,
};

/// Flags of `godctl agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl agent providers                              which agents are installed here
  godctl agent start claude -p \"why does it fail?\"    one prompt, one answer
  git diff | godctl agent start codex > review.md     the prompt from a pipe, the answer into a file
  godctl agent start claude --continue                go on where you were, one prompt after another
  godctl agent run review.toml                        several agents on one task, and their answers together
  godctl agent status --watch                         what is being worked on, here and by listeners
  godctl agent cancel 0199f0a2                        stop a turn, whoever runs it
  godctl agent sessions search parser                 find an earlier session by what was said
  godctl agent cost --by day                          what it cost")]
pub(in crate::cmd) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Give an agent a prompt, and watch it work
    Start(start::Args),
    /// Let several agents work on one task, as a file says
    Run(flow::Args),
    /// Work on prompts from the bus
    Listen(listen::Args),
    /// Show what is being worked on, what waits and what has ended
    Status(status::Args),
    /// Print figures about agents, for Prometheus
    Metrics(metrics::Args),
    /// Stop the turn of a session, whoever works on it, or give up a prompt that waits
    Cancel(cancel::Args),
    /// Look at prompts that were given up, put them back or delete them
    Dlq(dlq::Args),
    /// List, show, find, resume, export and delete sessions
    Sessions(sessions::Args),
    /// Add up what agents have used
    Cost(cost::Args),
    /// List and rotate the keys that sessions are encrypted with
    Keys(keys::Args),
    /// Tell which agents are installed, and what they can do
    Providers(providers::Args),
}

/// `passed_on` are the global flags as words of a command line, for a process of its own.
pub(in crate::cmd) fn run(args: &Args, context: &Context, passed_on: Vec<OsString>) -> anyhow::Result<()> {
    match &args.action {
        Action::Start(args) => start::run(args, context, passed_on),
        Action::Run(args) => flow::run(args, context),
        Action::Listen(args) => listen::run(args, context),
        Action::Status(args) => status::run(args, context),
        Action::Metrics(args) => metrics::run(args, context),
        Action::Cancel(args) => cancel::run(args, context),
        Action::Dlq(args) => dlq::run(args, context),
        Action::Sessions(args) => sessions::run(args, context),
        Action::Cost(args) => cost::run(args, context),
        Action::Keys(args) => keys::run(args, context),
        Action::Providers(args) => providers::run(args, context),
    }
}
