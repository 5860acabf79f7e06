//! What servers say on the wire, one dialect a module. Pure: no sockets, no threads, no clock.
//!
//! - [`native`]: the websocket `/asr` of WhisperLiveKit, which godctl's own client speaks too.

pub mod native;
