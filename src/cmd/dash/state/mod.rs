//! What the dashboard knows: the events it keeps, and what follows from all that it has seen. Pure; time is passed in.
//!
//! `buffer` keeps the newest events (`row`, `bodies`), `filter` says which are shown (`search`) and `matches` which those
//! are; `graph` says what led to what. The other files count: `metrics`, `alerts` (by each `rule`), `latency`, and one for
//! each view that shows more than rows. `registry` is the file of services.

pub(super) mod alerts;
mod bodies;
pub(super) mod buffer;
pub(super) mod cloud;
pub(super) mod filter;
pub(super) mod flow;
pub(super) mod graph;
pub(super) mod latency;
pub(super) mod marks;
pub(super) mod matches;
pub(super) mod metrics;
pub(super) mod past;
pub(super) mod registry;
pub(super) mod row;
pub(super) mod rule;
pub(super) mod search;
pub(super) mod services;
pub(super) mod sessions;
pub(super) mod tallies;
#[cfg(test)]
pub(super) mod testing;
pub(super) mod timeline;
pub(super) mod types;

use std::sync::Arc;

/// A short text that many rows share.
pub(super) type Name = Arc<str>;
