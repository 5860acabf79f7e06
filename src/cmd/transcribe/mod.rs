//! `godctl transcribe`: recordings, standard input or the microphone into text.
//!
//! `command.rs` holds the flags, `files.rs` transcribes recordings (those on disk with `whole.rs`), `live.rs` captions a
//! microphone (or a recording at the pace of the clock), `output.rs` writes the results.

mod command;
mod files;
mod live;
mod output;
mod whole;

pub(super) use command::{Args, run};
