//! Reaching Redis, and what its errors mean.

use redis::{
    Client, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, RedisError, ServerErrorKind,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use super::{
    super::{
        StoreError,
        codec::{CANARY, CANARY_TEXT},
        vault::Vault,
    },
    RedisOptions, RedisStore,
    scripts::Scripts,
};

/// Tries to reach Redis again after a connection broke, for each call that needs it.
const RETRIES: usize = 2;

impl RedisStore {
    /// Connects.
    ///
    /// # Errors
    /// [`StoreError::Unreachable`]; [`StoreError::Refused`] if it does not let us in; [`StoreError::NoKey`] and
    /// [`StoreError::Damaged`] if what is in it does not open with these keys.
    pub async fn open(options: RedisOptions, vault: Vault) -> Result<Self, StoreError> {
        let address = options.url.to_string();
        let wrong = |error: &RedisError| told(&address, error);
        let mut info: ConnectionInfo =
            options.url.expose().into_connection_info().map_err(|error| wrong(&error))?;
        if let Some(password) = &options.password {
            let settings = info.redis_settings().clone().set_password(password.expose());
            info = info.set_redis_settings(settings);
        }
        // Another part of the program may have done so already.
        drop(rustls::crypto::ring::default_provider().install_default());
        let config = ConnectionManagerConfig::new()
            .set_number_of_retries(RETRIES)
            .set_connection_timeout(Some(options.patience))
            .set_response_timeout(Some(options.patience));
        let client = Client::open(info).map_err(|error| wrong(&error))?;
        let connection =
            ConnectionManager::new_with_config(client, config).await.map_err(|error| wrong(&error))?;
        let this = Self { address, prefix: options.prefix, vault, connection, scripts: Scripts::new() };
        this.check_canary().await?;
        Ok(this)
    }

    /// Nothing is written with a key while something is there that this key does not open.
    async fn check_canary(&self) -> Result<(), StoreError> {
        let key = self.key("canary");
        let sealed = self.vault.seal(CANARY, CANARY_TEXT)?;
        let mut connection = self.connection.clone();
        let failed = |error: RedisError| told(&self.address, &error);
        let _is_new: bool =
            redis::cmd("SETNX").arg(&key).arg(sealed).query_async(&mut connection).await.map_err(failed)?;
        let found: Vec<u8> =
            redis::cmd("GET").arg(&key).query_async(&mut connection).await.map_err(failed)?;
        drop(self.vault.open(CANARY, &found)?);
        Ok(())
    }

    pub(super) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn failed(&self, error: &RedisError) -> StoreError {
        told(&self.address, error)
    }
}

/// What an error of Redis means.
fn told(address: &str, error: &RedisError) -> StoreError {
    let store = address.to_owned();
    let reason = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    let refused =
        |advice: &str| StoreError::Refused { store: store.clone(), reason: format!("{reason}; {advice}") };
    match error.code() {
        Some("OOM") => {
            let reason = format!("{reason}; raise its maxmemory, or prune (`godctl agent sessions prune`)");
            return StoreError::Full { store, reason };
        }
        Some("MISCONF") => return refused("it cannot save to its disk; make room there"),
        Some("NOAUTH" | "WRONGPASS") => return refused("set store.password"),
        _ => {}
    }
    match error.kind() {
        ErrorKind::AuthenticationFailed => refused("set store.password"),
        ErrorKind::Server(ServerErrorKind::NoPerm) => refused("give the user more permissions"),
        ErrorKind::Server(ServerErrorKind::ReadOnly) => {
            refused("it is a replica; name the primary in store.url")
        }
        ErrorKind::Server(
            ServerErrorKind::BusyLoading
            | ServerErrorKind::TryAgain
            | ServerErrorKind::ClusterDown
            | ServerErrorKind::MasterDown,
        )
        | ErrorKind::Io => StoreError::Unreachable { store, reason },
        _ if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() => {
            StoreError::Unreachable { store, reason }
        }
        ErrorKind::InvalidClientConfig => refused("correct store.url"),
        _ => StoreError::Failed { doing: format!("use {store}"), reason: error.to_string() },
    }
}
