//! The one integration binary: what crosses modules, against real sockets and files.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod fake;
mod fake_hub;
mod models;
mod server;
