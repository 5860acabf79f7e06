//! `godctl asr-serve`: `command` reads the flags and joins the parts, `doors` says who may come in and where, `reload`
//! reads tokens and certificate again, `check` tries everything without serving, `token` makes tokens.

mod check;
mod command;
mod doors;
mod reload;
mod token;

pub(super) use command::{Args, run};
