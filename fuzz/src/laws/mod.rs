//! What must hold for any bytes: one module for each fuzz target, each with a function `hold` that panics where a law is
//! broken. Pure, but for a temporary file.
//!
//! The targets of `fuzz_targets` run them on what the fuzzer makes up. `tests/it/corpora.rs` includes this folder and
//! runs them on the committed corpora, so that these stay meaningful without any fuzzing tool.

pub mod bus_names;
pub mod container_file;
pub mod container_stream;
pub mod deepgram;
pub mod event;
pub mod native;
pub mod openai;
pub mod raw_audio;

mod heard;
mod pieces;
mod setting;

/// One target: its name, which is that of its corpus too, and its law.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: [Target; 8] = [
    ("bus_names", bus_names::hold),
    ("container_file", container_file::hold),
    ("container_stream", container_stream::hold),
    ("deepgram", deepgram::hold),
    ("event", event::hold),
    ("native", native::hold),
    ("openai", openai::hold),
    ("raw_audio", raw_audio::hold),
];
