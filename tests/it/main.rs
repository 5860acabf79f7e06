//! The one integration binary: what crosses modules, runs the binary, or reads the project's own files.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy allows these in test functions only, and here the helpers are tests too"
)]

#[cfg(unix)]
mod agent;
mod audio;
#[cfg(unix)]
mod broker;
mod browser;
mod bus;
#[cfg(unix)]
mod bus_bad;
mod cli;
mod complaints;
mod config;
#[cfg(unix)]
mod control;
mod corpora;
mod dash;
mod deepgram;
mod demo;
mod engine;
mod extension;
mod fake;
mod fake_hub;
#[cfg(unix)]
mod kill;
mod layering;
mod listen;
mod missing;
mod models;
mod native;
mod offline;
mod openai;
#[cfg(unix)]
mod openai_sdk;
mod operate;
mod project;
mod readme;
mod redis_node;
mod server;
mod serving;
mod sessions;
mod soak;
mod soak_engine;
mod support;
mod tools;
mod transcribe;
#[cfg(unix)]
mod up;
mod uploads;
mod voice;
mod wav;
mod whisper;
