//! Logs: tracing to stderr (or a file when a screen owns the terminal), as text or JSON.
