//! godctl: speech into events, events into finished work.
//!
//! The rooms of the house and who may import whom (a test reads the sources and enforces it):
//!
//! ```text
//! 0  shutdown, config            import nothing of ours
//! 1  telemetry                -> config
//! 1  db                       -> nothing
//! 2  audio                    -> config, shutdown
//! 2  bus                      -> config, shutdown, db
//! 3  asr                      -> audio and below
//! 3  agents                   -> bus, db and below
//! 5  cmd                      -> everything
//! 6  main                     -> cmd
//! ```

pub mod agents;
pub mod asr;
pub mod audio;
pub mod bus;
pub mod cmd;
pub mod config;
pub mod db;
pub mod shutdown;
pub mod telemetry;
