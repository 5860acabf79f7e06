//! Chooses and opens the bus that the configuration names. Runs where it is called; what a backend starts in the
//! background ends with `Shutdown`, or with the bus.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;

use super::{
    BusError, Capabilities, EventBus as _, Retention, SharedBus, SystemClock,
    amqp::{AmqpBus, AmqpOptions},
    breaker::Policy,
    event::{self, Source},
    file::FileBus,
    local::LocalState,
    memory::{MemoryBus, MemoryOptions},
    outbox::{Broker, Opened, OutboxBus, OutboxOptions},
    sqlite::{SqliteBus, SqliteOptions},
};
use crate::{config, shutdown::Shutdown};

/// The file of the bus in the data directory, where the address names none.
const DEFAULT_FILE: &str = "bus.db";

/// The file in the data directory for what a broker can't keep while it is away.
const OUTBOX_FILE: &str = "outbox.db";

/// The longest pause between two attempts to send what waits in the outbox.
const RETRY: Duration = Duration::from_secs(30);

/// How long a close may take to send what waits in the outbox.
const FLUSH: Duration = Duration::from_secs(5);

/// The file of a bus in SQLite.
#[must_use]
pub fn sqlite_file(config: &config::Bus, data_dir: &Path) -> PathBuf {
    match config.url.path() {
        "" => data_dir.join(DEFAULT_FILE),
        path => path.into(),
    }
}

/// The file that holds the outbox of a broker.
#[must_use]
pub fn outbox_file(data_dir: &Path) -> PathBuf {
    data_dir.join(OUTBOX_FILE)
}

/// Opens the bus at `config.url`. Files without a path of their own go to `data_dir`.
///
/// A broker that is away is no error here: publishing then fills the outbox, everything else says that it can't be
/// reached.
///
/// # Errors
/// What the backend says when it is opened: a file that is damaged or not ours, wrong credentials, no room.
pub async fn connect(
    config: &config::Bus,
    data_dir: &Path,
    shutdown: &Shutdown,
) -> Result<SharedBus, BusError> {
    match config.url.scheme() {
        "mem" => Ok(Arc::new(MemoryBus::new(MemoryOptions {
            max_event_bytes: config.max_event_bytes as usize,
            ..MemoryOptions::default()
        }))),
        "sqlite" => {
            let options = SqliteOptions {
                durability: config.durability,
                max_event_bytes: config.max_event_bytes as usize,
                retention: retention(config),
                ..SqliteOptions::new(sqlite_file(config, data_dir))
            };
            Ok(Arc::new(SqliteBus::open(options, shutdown).await?))
        }
        "file" => Ok(Arc::new(FileBus::open(Path::new(config.url.path()), config.max_event_bytes as usize)?)),
        "amqp" | "amqps" => Ok(Arc::new(rabbitmq(config, data_dir, shutdown).await?)),
        scheme => Err(BusError::Invalid(format!("there is no bus for addresses that begin with {scheme}:"))),
    }
}

/// A bus that is only looked at.
#[derive(Debug)]
pub struct Watched {
    /// The bus; nobody publishes on it.
    pub bus: SharedBus,
    /// Whether there is a connection, where there can be none.
    pub online: Option<tokio::sync::watch::Receiver<bool>>,
}

/// Opens the bus at `config.url` to look at it: nothing is made, neither a file nor an exchange, and no outbox stands
/// in front. A connection that is lost is told by [`Watched::online`].
///
/// # Errors
/// As [`connect`]; also [`BusError::Unreachable`] for a file or an exchange that is not there yet, and for a broker that
/// is away.
pub async fn watch(config: &config::Bus, data_dir: &Path, shutdown: &Shutdown) -> Result<Watched, BusError> {
    let missing = |path: &Path| {
        let reason =
            format!("there is no file {} yet; it is made when something is published", path.display());
        (!path.exists()).then(|| BusError::Unreachable { bus: config.url.to_string(), reason })
    };
    match config.url.scheme() {
        "sqlite" => {
            let path = sqlite_file(config, data_dir);
            if let Some(error) = missing(&path) {
                return Err(error);
            }
            let options = SqliteOptions {
                max_event_bytes: config.max_event_bytes as usize,
                // Its bell would be a file; news are found by looking, ten times a second.
                doorbell: false,
                ..SqliteOptions::new(path)
            };
            Ok(Watched { bus: Arc::new(SqliteBus::open(options, shutdown).await?), online: None })
        }
        "file" => {
            if let Some(error) = missing(Path::new(config.url.path())) {
                return Err(error);
            }
            Ok(Watched { bus: connect(config, data_dir, shutdown).await?, online: None })
        }
        "amqp" | "amqps" => {
            let options = AmqpOptions { passive: true, ..broker(config)? };
            let bus = AmqpBus::open(options, shutdown).await?;
            let online = Some(bus.online());
            Ok(Watched { bus: Arc::new(bus), online })
        }
        _ => Ok(Watched { bus: connect(config, data_dir, shutdown).await?, online: None }),
    }
}

fn retention(config: &config::Bus) -> Retention {
    let days = Duration::from_secs(u64::from(config.retention_days) * 24 * 3600);
    let bytes = u64::from(config.retention_mb) * 1_000_000;
    Retention {
        max_age: (!days.is_zero()).then_some(days),
        max_bytes: (bytes > 0).then_some(bytes),
        dry_run: false,
    }
}

/// Deletes the exchange of a RabbitMQ, with its history, for whoever made it for a while. Its queues go before.
///
/// # Errors
/// [`BusError::Unreachable`]; [`BusError::Access`].
pub async fn remove_exchange(config: &config::Bus, shutdown: &Shutdown) -> Result<(), BusError> {
    let bus = AmqpBus::open(broker(config)?, shutdown).await?;
    let removed = bus.dismantle().await;
    bus.close().await;
    removed
}

/// How to reach the RabbitMQ.
fn broker(config: &config::Bus) -> Result<AmqpOptions, BusError> {
    let password = config
        .read_password()
        .map_err(|error| BusError::Storage { doing: "log in".to_owned(), reason: chain(&error) })?;
    Ok(AmqpOptions {
        name: format!("godctl {}:{}", event::host(), std::process::id()),
        ..AmqpOptions::from_config(config, password)
    })
}

/// A RabbitMQ with an outbox in front. It is not connected to before somebody needs it.
async fn rabbitmq(config: &config::Bus, data_dir: &Path, shutdown: &Shutdown) -> Result<OutboxBus, BusError> {
    let file = LocalState::open(&outbox_file(data_dir), Arc::new(SystemClock), shutdown).await?;
    let options = AmqpOptions { seen: Some(Arc::clone(&file) as _), ..broker(config)? };
    let outbox = OutboxOptions {
        max_events: u64::from(config.outbox_max),
        max_bytes: u64::from(config.outbox_max_mb) * 1_000_000,
        max_event_bytes: config.max_event_bytes as usize,
        retry: RETRY,
        flush: FLUSH,
        policy: Policy::default(),
        source: Source::here("godctl-bus", "service"),
        clock: Arc::new(SystemClock),
    };
    let broker = RabbitMq { identity: AmqpBus::identity(&options)?, options, shutdown: shutdown.clone() };
    OutboxBus::open(Arc::new(broker), file, outbox, shutdown).await
}

/// An error with what led to it, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

/// The way to a RabbitMQ.
#[derive(Debug)]
struct RabbitMq {
    identity: String,
    options: AmqpOptions,
    shutdown: Shutdown,
}

#[async_trait]
impl Broker for RabbitMq {
    fn address(&self) -> String {
        self.options.url.to_string()
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn capabilities(&self) -> Capabilities {
        AmqpBus::capabilities_of(&self.options)
    }

    async fn open(&self) -> Result<Opened, BusError> {
        // A broker that is away is looked for in the background from now on.
        let bus = AmqpBus::open_or_wait(self.options.clone(), &self.shutdown).await?;
        let online = Some(bus.online());
        Ok(Opened { bus: Arc::new(bus), online })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::{QueueSpec, amqp::testing::Bench, testkit::*};

    fn config(url: &str) -> config::Bus {
        config::Bus { url: url.parse().unwrap(), connect_timeout_s: 1, ..config::Bus::default() }
    }

    #[tokio::test]
    async fn each_kind_of_address_opens_its_bus() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let shutdown = Shutdown::new();
        let lines = folder.path().join("o.jsonl");
        let elsewhere = folder.path().join("deep/x.db");
        for (url, shown) in [
            ("mem:".to_owned(), "mem:".to_owned()),
            ("sqlite:".to_owned(), format!("sqlite:{}", data.join("bus.db").display())),
            (format!("sqlite:{}", elsewhere.display()), format!("sqlite:{}", elsewhere.display())),
            (format!("file:{}", lines.display()), format!("file:{}", lines.display())),
        ] {
            let bus = connect(&config(&url), &data, &shutdown).await.unwrap();
            publish(&*bus, &[event("a", 1)]).await;
            assert_eq!(bus.stats().await.unwrap().bus, shown);
            bus.close().await;
        }
        shutdown.finish(Duration::from_secs(10)).await.unwrap();
    }

    #[tokio::test]
    async fn a_broker_that_is_away_takes_what_is_published_later() {
        let folder = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        // Nobody listens on this port of the discard protocol.
        let config = config("amqp://user:hunter2@127.0.0.1:9/%2f");
        let bus = connect(&config, folder.path(), &shutdown).await.unwrap();
        assert_eq!(publish(&*bus, &numbered("a", 3)).await.deferred, 3);
        let refused = bus.subscribe(subscription(&["#"], crate::bus::Start::Now, true)).await.map(drop);
        assert!(matches!(refused, Err(BusError::Unreachable { .. })), "{refused:?}");
        let stats = bus.stats().await.unwrap();
        assert_eq!(stats.bus, "amqp://***@127.0.0.1:9/%2f");
        assert!(stats.link.unwrap().outbox >= 3);
        bus.close().await;
        shutdown.finish(Duration::from_secs(10)).await.unwrap();
        let kept = std::fs::read(outbox_file(folder.path())).unwrap();
        assert!(!kept.windows(7).any(|part| part == b"hunter2"), "no password on the disk");
    }

    /// Two processes publish while the network to the broker comes and goes; a third one works the events off.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_two_processes_publish_outlives_a_network_that_comes_and_goes() {
        const EACH: u64 = 300;
        let Some(bench) = Bench::new().await else { return };
        let proxy = bench.proxy().await;
        let folder = tempfile::tempdir().unwrap();
        let through = config::Bus {
            exchange: bench.exchange.clone(),
            publish_timeout_s: 2,
            ..config(bench.through(&proxy).url.expose())
        };
        let queue_name = format!("{}.work", bench.exchange);
        let consumer = bench.open().await;
        let spec = QueueSpec { dedupe: false, ..QueueSpec::new(queue_name.clone(), vec![pattern("p.*")]) };
        let queue = consumer.queue(spec).await.unwrap();

        let processes = [
            connect(&through, folder.path(), &bench.shutdown).await.unwrap(),
            connect(&through, folder.path(), &bench.shutdown).await.unwrap(),
        ];
        let publishing = processes.iter().zip(["p.one", "p.two"]).map(|(bus, event_type)| async move {
            let mut deferred = 0;
            for event in numbered(event_type, EACH) {
                deferred += publish(&**bus, &[event]).await.deferred;
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            deferred
        });
        let disturbing = async {
            for round in 0..4 {
                tokio::time::sleep(Duration::from_millis(100)).await;
                if round % 2 == 0 {
                    proxy.cut();
                } else {
                    proxy.set_down(true);
                    tokio::time::sleep(Duration::from_millis(150)).await;
                    proxy.set_down(false);
                }
            }
        };
        let (deferred, ()) = tokio::join!(futures_util::future::join_all(publishing), disturbing);
        assert!(deferred.iter().sum::<u64>() > 0, "the outbox was of no use: {deferred:?}");

        let (mut got, mut copies) = ([Vec::new(), Vec::new()], 0);
        while got.iter().any(|got| (got.len() as u64) < EACH) {
            let delivery = take(&*queue).await;
            delivery.lease.ack().await.unwrap();
            let event = parsed(&delivery.received);
            let n = numbers([event])[0];
            let got = &mut got[usize::from(event.event_type.as_str() == "p.two")];
            if got.contains(&n) {
                copies += 1;
            } else {
                got.push(n);
            }
        }
        let all: Vec<u64> = (0..EACH).collect();
        assert_eq!(got, [all.clone(), all], "each once and in order, {copies} further copies aside");
        for bus in &processes {
            assert_eq!(bus.stats().await.unwrap().link.unwrap().outbox_failed, 0);
            bus.close().await;
        }
        drop(queue);
        consumer.close().await;
        bench.clean(&[&queue_name]).await;
    }

    #[tokio::test]
    async fn a_password_that_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let config =
            config::Bus { password_file: Some(folder.path().join("absent")), ..config("amqp://127.0.0.1:9") };
        let refused = connect(&config, folder.path(), &Shutdown::new()).await.unwrap_err();
        assert!(refused.to_string().contains("bus.password_file"), "{refused}");
    }
}
