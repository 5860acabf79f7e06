//! `up`: which parts `godctl up` runs, and how it treats those that fail.

use serde::{Deserialize, Serialize};

/// `up`: which parts `godctl up` runs, in this order, and how it treats those that fail.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Up {
    /// Command lines of godctl, started in this order and stopped in the reverse one.
    pub parts: Vec<String>,
    /// Seconds until a part must say that it is ready.
    pub ready_s: u32,
    /// Seconds a part has to end before it is killed.
    pub stop_s: u32,
    /// Restarts within `window_s` after which a part counts as broken, which stops everything.
    pub max_restarts: u32,
    /// See `max_restarts`.
    pub window_s: u32,
}

impl Default for Up {
    fn default() -> Self {
        Self { parts: vec!["asr-serve".to_owned()], ready_s: 60, stop_s: 10, max_restarts: 5, window_s: 300 }
    }
}
