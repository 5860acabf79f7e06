//! What a server is told at its start.

use std::{path::PathBuf, time::Duration};

use super::{Access, Origins, Tls};
use crate::asr::{DecodeOptions, stream::Tuning, tap::Tap};

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
    /// A larger recording is refused with status 413.
    pub max_upload_bytes: u64,
    /// Where uploads lie while they are worked on; `None` is the system's place for temporary files.
    pub upload_dir: Option<PathBuf>,
    /// Where the finished utterances of all sessions go besides to their clients.
    pub tap: Option<Tap>,
    /// Who may come in; with no tokens in it, everybody.
    pub access: Access,
    /// Speak TLS, and with which certificate.
    pub tls: Option<Tls>,
    /// Web pages that may open websockets, besides the server's own and those of this machine.
    pub allow_origins: Origins,
    /// Web pages whose scripts may read answers over HTTP.
    pub cors_origins: Origins,
    /// Streams of one token at once, where the token has no limit of its own.
    pub max_sessions_per_token: Option<usize>,
    /// How long a session may last, unless its token says less.
    pub max_session: Option<Duration>,
    /// Connections at once; one more is turned away.
    pub max_connections: usize,
    /// Until the head of a request (and before it the TLS handshake) must have come, and how long a connection may
    /// stay open without another request.
    pub header_timeout: Duration,
    /// Until the next piece of a request's body must have come.
    pub body_timeout: Duration,
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
            max_upload_bytes: 512 << 20,
            upload_dir: None,
            tap: None,
            access: Access::default(),
            tls: None,
            allow_origins: Origins::default(),
            cors_origins: Origins::default(),
            max_sessions_per_token: None,
            max_session: None,
            max_connections: 512,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
        }
    }
}
