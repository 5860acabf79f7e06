//! `godctl dash`: see everything that happens on the bus, in the terminal.
//!
//! `command.rs` holds the flags. What is known is in `state`, what a person does with it in `app` (both pure), how it
//! looks in `view`.

mod alarm;
mod app;
mod command;
mod effects;
mod export;
mod feed;
mod frame;
mod layout;
mod plain;
mod prefs;
mod record;
mod replay;
mod run;
mod schemas;
mod state;
mod terminal;
#[cfg(test)]
mod tests;
mod view;

pub(super) use command::{Args, run};
