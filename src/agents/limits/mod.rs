//! What keeps a provider from being asked too often: a circuit breaker for one that is in trouble ([`circuit`]) and a
//! token bucket for one that allows so many turns a minute ([`bucket`]). Both are pure; time is passed in, and both can be
//! saved and restored.

pub mod bucket;
pub mod circuit;

pub use bucket::Bucket;
pub use circuit::ProviderCircuit;
