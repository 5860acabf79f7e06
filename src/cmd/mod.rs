//! The subcommands: each reads its flags, joins the parts and prints. No domain logic lives here.

pub mod models;

use std::process::ExitCode;

/// Parses the command line, runs the subcommand and maps its error to an exit code.
#[must_use]
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
