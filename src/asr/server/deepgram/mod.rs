//! `/v1/listen`: Deepgram's live websocket, and its transcription of recordings.
//!
//! `routes` opens sessions, each of which is a `session`; `recorded` takes a file. What both say is decided by
//! [`crate::asr::protocols::deepgram`].

mod recorded;
mod routes;
mod session;

pub(super) use routes::{DG_IGNORED, DG_REQUEST_ID, routes};
