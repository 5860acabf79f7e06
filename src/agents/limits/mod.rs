//! What keeps an agent from being asked too often: a circuit breaker for one that is in trouble ([`circuit`]), a token
//! bucket for one that is allowed so many turns a minute ([`bucket`]), and the [`gate`] that puts these and the other
//! limits together. All are pure; time is passed in, and all can be saved and restored.

pub mod bucket;
pub mod circuit;
pub mod gate;

pub use bucket::Bucket;
pub use circuit::ProviderCircuit;
pub use gate::{Bounds, Gate, Shut, Why};
