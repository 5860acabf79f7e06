//! `godctl agent run`: several agents on one task, as a file says.
//!
//! `command.rs` reads flags and files and joins the parts, `show.rs` shows a run to a person, `herald.rs` tells the bus of
//! it.

mod command;
mod herald;
mod show;

pub(super) use command::{Args, run};
