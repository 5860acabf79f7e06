//! The HTTP endpoints of OpenAI: whole recordings in, transcripts out.
//!
//! An upload goes to a temporary file under a size limit ([`upload`]), waits for its turn at the engine, and is answered
//! at once or as server-sent events ([`transcribe`]). Everything belongs to the request: a client that goes away takes
//! its file and its windows with it.

mod models;
mod problem;
mod transcribe;
mod upload;

pub(super) use transcribe::{MODEL, WARNING, routes};

use super::{error::ApiError, http::RequestId, listen::App};
