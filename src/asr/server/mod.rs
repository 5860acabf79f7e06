//! The transcription server: HTTP and websockets in front of an [`Engine`].
//!
//! [`serve`] runs on the caller's async runtime until its [`Shutdown`] is cancelled. The port answers from the first
//! moment, while the model still loads: `/health` says that the process lives, `/ready` whether it is of use.
//! Each websocket session is one tracked task ([`session`]) that holds a slot of the engine. A stop refuses new
//! sessions first, then lets the running ones finish what they have received, then closes the port.
//!
//! ```text
//! frames -> intake (PCM or container) -> engine stream -> transcript -> newest state -> frames
//! ```
//!
//! Nothing here waits in an unbounded queue: a sender that is faster than the model is not read from, a reader that is
//! slower than the transcript skips states, and a peer that answers nothing is dropped.
//!
//! [`Engine`]: super::engine::Engine
//! [`Shutdown`]: crate::shutdown::Shutdown

mod board;
mod http;
mod intake;
mod listen;
mod session;

pub use listen::{bind, serve};

use std::time::Duration;

use super::{DecodeOptions, stream::Tuning, tap::Tap};

/// How sessions are served.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// How a session decodes where its client asks for nothing else.
    pub decode: DecodeOptions,
    /// When a session decodes and commits, where that is not the default for the model's window.
    pub tuning: Tuning,
    /// Lines that a session keeps; older ones are dropped and counted.
    pub retention_lines: usize,
    /// Larger messages end their session with close code 1009. Audio of any length fits in several messages.
    pub max_message_bytes: usize,
    /// A session sends its state at most this often.
    pub update_interval: Duration,
    /// How often a peer is asked whether it is still there; it is dropped after 2.5 times this without any frame.
    pub ping_interval: Duration,
    /// A session whose client sends neither audio nor control messages for this long is closed.
    pub idle_timeout: Duration,
    /// A peer that does not take a message within this time is dropped.
    pub send_timeout: Duration,
    /// How long a session waits for its client to close after everything was said.
    pub linger: Duration,
    /// How long a stop waits for sessions to finish.
    pub drain: Duration,
    /// Where the finished utterances of all sessions go besides to their clients.
    pub tap: Option<Tap>,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            decode: DecodeOptions::default(),
            tuning: Tuning::default(),
            retention_lines: 10_000,
            max_message_bytes: 4 << 20,
            update_interval: Duration::from_millis(50),
            ping_interval: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(300),
            send_timeout: Duration::from_secs(30),
            linger: Duration::from_secs(10),
            drain: Duration::from_secs(10),
            tap: None,
        }
    }
}

/// Why a server could not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// Somebody else has the port: choose another.
    #[error("{address} is already in use; stop the other program or choose another with --listen")]
    InUse {
        /// As it was asked for.
        address: String,
    },
    /// The address is not ours, or may not be used: choose another.
    #[error("cannot listen on {address}; choose another address with --listen")]
    Bind {
        /// As it was asked for.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The listener broke while it was serving.
    #[error("the listener failed")]
    Listener(#[source] std::io::Error),
    /// Sessions were still busy when the time to stop was over; their last words are lost.
    #[error("{sessions} sessions did not finish in time and were cut off; raise shutdown.deadline_s")]
    CutOff {
        /// How many.
        sessions: usize,
    },
}
