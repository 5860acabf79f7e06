//! The transcription server: HTTP and websockets in front of an [`Engine`].
//!
//! [`serve`] runs on the caller's async runtime until its [`Shutdown`] is cancelled. The port answers from the first
//! moment, while the model still loads: `/health` says that the process lives, `/ready` whether it is of use.
//! Each websocket session is one tracked task (such as `native::session`) that holds a slot of the engine. A stop refuses new
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

mod access;
mod connections;
mod deepgram;
mod error;
mod guarded;
mod http;
mod intake;
mod listen;
mod live;
mod meter;
mod metrics;
mod native;
mod openai;
mod openapi;
mod options;
mod overheard;
mod page;
mod socket;
mod spool;
mod tls;
mod validity;

pub use access::{Access, Limits, NewToken, Origins, Token, Tokens, TokensError};
pub use listen::{adopt, bind, serve};
pub use options::ServerOptions;
pub use tls::{Tls, TlsError};
pub use validity::Validity;

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
