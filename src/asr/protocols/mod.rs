//! What servers say on the wire, one dialect a module. Pure: no sockets, no threads, no clock.
//!
//! - [`native`]: the websocket `/asr` of WhisperLiveKit, which godctl's own client speaks too;
//! - [`deepgram`]: the live and the recorded transcription of Deepgram;
//! - [`openai`]: the HTTP endpoints of OpenAI, which take whole recordings;
//! - [`parameter`]: what all of them say of a parameter that cannot be honoured.

pub mod deepgram;
pub mod native;
pub mod openai;
pub mod parameter;
