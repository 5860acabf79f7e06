//! The bus of one process: nothing on disk, nothing in the background, all promises but durability.
//!
//! `history` is a ring of events, `queue` one work queue; both are plain data behind one lock in `bus`, which hands
//! out the streams and leases. Time passes only when somebody calls or waits; everything ends with the last handle.

mod bus;
mod history;
mod queue;

pub use bus::{MemoryBus, MemoryOptions};
