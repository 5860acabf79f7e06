//! The bus in a file of JSON lines: one event each, appended by any number of processes, read with any tool.
//!
//! `append` writes whole lines under a lock of the file system, `lines` reads them, `stream` follows
//! them, `bus` joins these. Nothing runs in the background: a publisher writes where it is called, a subscriber looks at the file now and
//! then. There are no work queues, no cursors, and nobody notices duplicates.

mod append;
mod bus;
mod lines;
mod stream;
#[cfg(test)]
mod tests;

pub use bus::FileBus;
