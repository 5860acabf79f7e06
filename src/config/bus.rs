//! `bus`: where events go, and the address type that never shows a password.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Secret, SecretError};

/// `bus`: where events go and how long they stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bus {
    /// Which bus: `sqlite:[PATH]`, `amqp://…`, `amqps://…`, `file:PATH` (JSON lines) or `mem:` (this process only).
    pub url: BusUrl,
    /// The topic exchange on a RabbitMQ.
    pub exchange: String,
    /// User for a RabbitMQ whose address names none.
    pub username: Option<String>,
    /// Its password.
    #[serde(skip_serializing)]
    pub password: Option<Secret>,
    /// A file that holds the password; read when it is needed, and only if `password` is unset.
    pub password_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
    /// Keep history on a RabbitMQ, in a stream queue.
    pub history: bool,
    /// Deliveries that a consumer may hold unacknowledged.
    pub prefetch: u16,
    /// Seconds to reach a broker.
    pub connect_timeout_s: u32,
    /// Seconds to wait for a broker's confirmation.
    pub publish_timeout_s: u32,
    /// Seconds between heartbeats on a RabbitMQ.
    pub heartbeat_s: u16,
    /// The largest event, in bytes of JSON.
    pub max_event_bytes: u32,
    /// What a commit to SQLite survives.
    pub durability: Durability,
    /// Events older than this many days are deleted; 0 keeps them.
    pub retention_days: u32,
    /// The oldest events are deleted when the SQLite file is larger than this many MB; 0 keeps them.
    pub retention_mb: u32,
    /// Events that wait in the outbox while the broker is away; one more is refused.
    pub outbox_max: u32,
    /// What they may take together, in MB.
    pub outbox_max_mb: u32,
    /// A second name that transcriptions are published under (same id); empty means none.
    pub voice_alias: String,
}

impl Default for Bus {
    fn default() -> Self {
        Self {
            url: BusUrl::default(),
            exchange: "bloodbank.events.v1".to_owned(),
            username: None,
            password: None,
            password_file: None,
            ca_file: None,
            history: false,
            prefetch: 32,
            connect_timeout_s: 10,
            publish_timeout_s: 5,
            heartbeat_s: 30,
            max_event_bytes: 1 << 20,
            durability: Durability::Full,
            retention_days: 90,
            retention_mb: 4096,
            outbox_max: 1000,
            outbox_max_mb: 64,
            voice_alias: "transcription.voice.completed".to_owned(),
        }
    }
}

impl Bus {
    /// The password, from `password` or else from `password_file`, which is read now.
    ///
    /// # Errors
    /// When the file can't be read or holds nothing.
    pub fn read_password(&self) -> Result<Option<Secret>, SecretError> {
        match (&self.password, &self.password_file) {
            (Some(password), _) => Ok(Some(password.clone())),
            (None, Some(path)) => Secret::read("bus.password_file", path).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// How long to try to reach a broker.
    #[must_use]
    pub const fn connect_timeout(&self) -> Duration {
        Duration::from_secs(self.connect_timeout_s as u64)
    }

    /// How long to wait for a confirmation.
    #[must_use]
    pub const fn publish_timeout(&self) -> Duration {
        Duration::from_secs(self.publish_timeout_s as u64)
    }
}

/// `bus.durability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A power cut (`synchronous=FULL`).
    #[default]
    Full,
    /// The death of the process, but not always a power cut (`synchronous=NORMAL`).
    Normal,
}

/// Which bus. It may hold a password, so it shows without; [`BusUrl::expose`] gives the whole.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BusUrl(String);

/// What an address of a bus can begin with.
const SCHEMES: [&str; 5] = ["sqlite:", "amqp://", "amqps://", "file:", "mem:"];

impl BusUrl {
    /// As it was written, password included. Call it where the connection is made, and nowhere else.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What stands before the first colon, such as `amqp`.
    #[must_use]
    pub fn scheme(&self) -> &str {
        self.0.split(':').next().unwrap_or_default()
    }

    /// What stands behind the first colon of an address that names a file, without the slashes of `sqlite:///x`.
    #[must_use]
    pub fn path(&self) -> &str {
        let rest = self.0.split_once(':').map_or("", |(_, rest)| rest);
        rest.strip_prefix("//").unwrap_or(rest)
    }

    /// True for a broker on the network.
    #[must_use]
    pub fn is_broker(&self) -> bool {
        matches!(self.scheme(), "amqp" | "amqps")
    }
}

impl Default for BusUrl {
    fn default() -> Self {
        Self("sqlite:".to_owned())
    }
}

impl fmt::Display for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Everything up to the last @ of the authority is user and password.
        match self.0.split_once("://") {
            Some((scheme, rest)) if self.is_broker() => {
                // A password that was not percent-encoded may hold a slash, so the search is not bounded by one.
                let host = rest.rsplit_once('@').map(|(_, host)| host);
                // Query values may hold secrets too.
                match host.unwrap_or(rest).split_once('?').map_or(host.unwrap_or(rest), |(path, _)| path) {
                    shown if host.is_some() => write!(f, "{scheme}://***@{shown}"),
                    shown => write!(f, "{scheme}://{shown}"),
                }
            }
            _ => f.write_str(&self.0),
        }
    }
}

impl fmt::Debug for BusUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

impl Serialize for BusUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl TryFrom<String> for BusUrl {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if !SCHEMES.iter().any(|scheme| text.starts_with(scheme)) {
            return Err(
                "not a bus; write sqlite:, sqlite:PATH, amqp://HOST, amqps://HOST, file:PATH or mem:",
            );
        }
        let this = Self(text);
        match this.scheme() {
            "file" if this.path().is_empty() => Err("file: needs a path, such as file:events.jsonl"),
            "amqp" | "amqps" if this.path().trim_matches('/').is_empty() => {
                Err("a broker needs a host, such as amqp://localhost")
            }
            _ => Ok(this),
        }
    }
}

impl std::str::FromStr for BusUrl {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::try_from(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> BusUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_password_never_shows() {
        let cases = [
            ("amqp://guest:hunter2@host:5672/%2f", "amqp://***@host:5672/%2f"),
            ("amqps://u:hun@ter/2@host", "amqps://***@host"),
            ("amqp://host/vhost?password=hunter2", "amqp://host/vhost"),
            ("amqp://host", "amqp://host"),
            ("sqlite:/data/bus.db", "sqlite:/data/bus.db"),
        ];
        for (text, shown) in cases {
            assert_eq!(url(text).to_string(), shown);
            assert_eq!(format!("{:?}", url(text)), format!("{shown:?}"));
            assert_eq!(serde_json::to_value(url(text)).unwrap(), shown);
        }
    }

    #[test]
    fn files_have_paths_with_and_without_slashes() {
        assert_eq!(url("sqlite:").path(), "");
        assert_eq!(url("sqlite:bus.db").path(), "bus.db");
        assert_eq!(url("sqlite:///data/bus.db").path(), "/data/bus.db");
        assert_eq!(url("file://o.jsonl").path(), "o.jsonl");
        for wrong in ["", "bus.db", "file:", "amqp://", "redis://host", "sqlite"] {
            assert!(wrong.parse::<BusUrl>().is_err(), "{wrong}");
        }
    }
}
