//! The agents that godctl knows: how each is called, and what it prints.
//!
//! What is said here of their flags and streams was read in the help and the shipped code of the versions named in each
//! module. Unknown events and fields are passed over, because these programs change every week.

pub mod acp;
pub mod agy;
pub mod claude;
pub mod codex;
mod draft;
pub mod echo;
pub mod gemini;
pub mod json_lines;
pub mod openai;
mod plain;
mod roster;
pub mod template;
#[cfg(test)]
mod testkit;

pub use roster::Roster;
