//! `godctl models`: `command` reads the flags and prints, `row` knows what there is, `progress` draws a pull, `numbers`
//! writes sizes.

mod command;
mod numbers;
mod progress;
mod row;

pub(super) use command::main;
pub use command::{Interrupted, ModelsArgs, ModelsContext, run};
pub(super) use numbers::size;
pub use progress::PullDisplay;
