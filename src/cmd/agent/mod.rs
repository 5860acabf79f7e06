//! `godctl agent`: lets coding agents work on prompts.
//!
//! `command.rs` holds the tree of subcommands, `start.rs` takes a prompt, `conversation.rs` finds its session and works on
//! it, `dialogue.rs` asks for one prompt after another, `listen.rs` takes them from the bus, `flow/` runs several agents
//! on one task, `screen.rs` shows a turn to a person, `sessions.rs`, `cost.rs` and `keys.rs` look after what is stored
//! (`store.rs`, which `doctor.rs` looks at), `providers.rs` tells which agents are there. `detach.rs`
//! lets a turn go on in a process of its own, `status/` shows what runs, `metrics.rs` counts it, `cancel.rs` stops it, and `dlq.rs` looks after
//! prompts that were given up.

mod cancel;
mod command;
mod conversation;
mod cost;
mod detach;
mod dialogue;
mod dlq;
mod doctor;
mod flow;
mod keys;
mod listen;
mod metrics;
mod providers;
mod screen;
mod sessions;
mod start;
mod status;
mod store;

pub(super) use command::{Args, run};
pub(super) use doctor::quick;
