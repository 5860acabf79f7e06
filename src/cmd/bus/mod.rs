//! `godctl bus`: publish, watch, replay and work off events, and look after the bus.
//!
//! `command.rs` holds the tree of subcommands; each has a file of its own. They share `connection.rs` (open, use,
//! close, exit codes), `feed.rs` and `lines.rs` (many events from a file or a pipe), `line.rs` (an event as a person
//! reads it) and `quantity.rs` (durations, sizes and moments as people write them).

mod bench;
mod bench_worker;
mod bridge;
mod command;
mod connection;
mod dead;
mod doctor;
mod envelope;
mod export;
mod feed;
mod history;
mod ids;
mod import;
mod line;
mod lines;
mod progress;
mod prune;
mod publish;
mod publish_lines;
mod quantity;
mod queues;
mod replay;
mod schema;
mod seen;
mod stats;
mod table;
mod tail;
mod work;
mod work_command;
mod work_lines;

pub(super) use command::{Args, DevArgs, run, run_dev};
pub(super) use connection::{other_bus, with_bus, with_exit_code};
pub(super) use doctor::quick;
pub(super) use line::json_line;
pub(super) use quantity::{Moment, duration, moment};
pub(super) use queues::confirm;
pub(super) use table::{Side, table};
