//! The one integration binary: what crosses modules, runs the binary, or reads the project's own files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy allows these in test functions only, and here the helpers are tests too"
)]

mod audio;
#[cfg(unix)]
mod broker;
mod bus;
#[cfg(unix)]
mod bus_bad;
mod cli;
mod config;
mod demo;
mod fake;
mod fake_hub;
#[cfg(unix)]
mod kill;
mod layering;
mod models;
mod project;
mod readme;
mod server;
mod soak;
mod support;
mod transcribe;
#[cfg(unix)]
mod up;
mod voice;
mod wav;
mod whisper;
