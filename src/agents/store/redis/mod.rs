//! Sessions in Redis, for agents on several machines.
//!
//! One connection, shared by all calls, that is made anew when it breaks; a call on a broken one fails and is not
//! repeated here, for nobody knows what became of it. Every change is one script, so it happens whole or not at all.
//! Redis keeps what it has as its own settings say; with `appendfsync everysec` a crash of its machine loses a second.
//!
//! Keys, all behind a prefix: `session:ID` (hash), `turns:ID` and `words:ID` (hashes by number), `index:…` (sorted by the
//! time of the last change), `usage` and `usage:at`, `lease:NAME` (hash that stays: number and token of the latest lease)
//! and `lock:NAME` (its token, with a time to live), `stops:ID` (set of the runs that somebody wants to be stopped).

mod backend;
mod connect;
mod scripts;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use redis::aio::ConnectionManager;

use self::scripts::Scripts;
use super::vault::Vault;
use crate::config::{Secret, StoreUrl};

/// How to reach Redis.
#[derive(Debug, Clone)]
pub struct RedisOptions {
    /// Where it is.
    pub url: StoreUrl,
    /// Its password, if the address has none.
    pub password: Option<Secret>,
    /// What the names of all keys begin with.
    pub prefix: String,
    /// How long to wait for a connection, and for each answer.
    pub patience: Duration,
}

/// The store. See the module.
pub struct RedisStore {
    address: String,
    prefix: String,
    vault: Vault,
    connection: ConnectionManager,
    scripts: Scripts,
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").field("address", &self.address).finish_non_exhaustive()
    }
}
