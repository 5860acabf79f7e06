//! The tree of subcommands.

use clap::Subcommand;

use super::{super::Context, cost, flow, keys, listen, providers, sessions, start};

/// Flags of `godctl agent`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  godctl agent providers                              which agents are installed here
  godctl agent start claude -p \"why does it fail?\"    one prompt, one answer
  git diff | godctl agent start codex > review.md     the prompt from a pipe, the answer into a file
  godctl agent start claude --continue                go on where you were, one prompt after another
  godctl agent run review.toml                        several agents on one task, and their answers together
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
    /// List, show, find, resume, export and delete sessions
    Sessions(sessions::Args),
    /// Add up what agents have used
    Cost(cost::Args),
    /// List and rotate the keys that sessions are encrypted with
    Keys(keys::Args),
    /// Tell which agents are installed, and what they can do
    Providers(providers::Args),
}

pub(in crate::cmd) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    match &args.action {
        Action::Start(args) => start::run(args, context),
        Action::Run(args) => flow::run(args, context),
        Action::Listen(args) => listen::run(args, context),
        Action::Sessions(args) => sessions::run(args, context),
        Action::Cost(args) => cost::run(args, context),
        Action::Keys(args) => keys::run(args, context),
        Action::Providers(args) => providers::run(args, context),
    }
}
