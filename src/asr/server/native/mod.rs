//! `/asr`: WhisperLiveKit's websocket.
//!
//! `routes` opens sessions, each of which is a `session` with a `board` that its loops share; `wishes` is what its client
//! asked for.

mod board;
mod routes;
mod session;
mod wishes;

pub(super) use routes::routes;
