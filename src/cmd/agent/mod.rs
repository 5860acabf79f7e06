//! `godctl agent`: lets coding agents work on prompts.
//!
//! `command.rs` holds the tree of subcommands, `start.rs` takes a prompt, `conversation.rs` finds its session and works on
//! it, `dialogue.rs` asks for one prompt after another, `listen.rs` takes them from the bus, `flow/` runs several agents
//! on one task, `screen.rs` shows a turn to a person, `sessions.rs`, `cost.rs` and `keys.rs` look after what is stored
//! (`store.rs`, which `doctor.rs` looks at), `providers.rs` tells which agents are there.

mod command;
mod conversation;
mod cost;
mod dialogue;
mod doctor;
mod flow;
mod keys;
mod listen;
mod providers;
mod screen;
mod sessions;
mod start;
mod store;

pub(super) use command::{Args, run};
pub(super) use doctor::quick;
