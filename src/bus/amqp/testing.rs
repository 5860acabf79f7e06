//! A real RabbitMQ for tests: found by `GODCTL_TEST_AMQP_URL` or on this machine; each test has its own exchange.
//! Also a proxy whose connections can be cut.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{AmqpBus, AmqpOptions, uri};
use crate::{
    bus::{EventBus as _, SeenIds},
    config::BusUrl,
    shutdown::Shutdown,
};

/// The broker's address, if it can be reached. Says so if not; in CI it must be there.
pub(crate) async fn broker_url() -> Option<BusUrl> {
    #[allow(clippy::disallowed_methods, reason = "tests are told by the environment what they may use")]
    let var = |name| std::env::var(name).ok();
    let url =
        var("GODCTL_TEST_AMQP_URL").unwrap_or_else(|| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned());
    let url = BusUrl::try_from(url).unwrap();
    let address = uri::parse(&url, None, None).unwrap();
    let probe = TcpStream::connect((address.host.as_str(), address.port));
    if matches!(timeout(Duration::from_secs(2), probe).await, Ok(Ok(_))) {
        return Some(url);
    }
    assert!(var("CI").as_deref() != Some("true"), "no RabbitMQ at {url}");
    println!("ignored, needs RabbitMQ (none at {url})");
    None
}

/// A bus of one test, on an exchange of its own.
pub(crate) struct Bench {
    pub(crate) url: BusUrl,
    pub(crate) exchange: String,
    pub(crate) shutdown: Shutdown,
}

impl Bench {
    pub(crate) async fn new() -> Option<Self> {
        let url = broker_url().await?;
        Some(Self {
            url,
            exchange: format!("godctl.test.{}", Uuid::new_v4().simple()),
            shutdown: Shutdown::new(),
        })
    }

    pub(crate) fn options(&self) -> AmqpOptions {
        AmqpOptions {
            exchange: self.exchange.clone(),
            name: "godctl test".to_owned(),
            ..AmqpOptions::new(self.url.clone())
        }
    }

    /// Options for the same broker by way of a proxy.
    pub(crate) fn through(&self, proxy: &Proxy) -> AmqpOptions {
        let address = uri::parse(&self.url, None, None).unwrap();
        let url = format!(
            "amqp://{}:{}@{}/{}",
            address.username,
            address.password.expose(),
            proxy.address,
            address.vhost.replace('/', "%2f")
        );
        AmqpOptions { url: BusUrl::try_from(url).unwrap(), ..self.options() }
    }

    pub(crate) async fn open(&self) -> AmqpBus {
        AmqpBus::open(self.options(), &self.shutdown).await.unwrap()
    }

    pub(crate) async fn proxy(&self) -> Proxy {
        let address = uri::parse(&self.url, None, None).unwrap();
        Proxy::start((address.host, address.port), &self.shutdown).await
    }

    /// Deletes the exchange, the history and these queues.
    pub(crate) async fn clean(self, queues: &[&str]) {
        let bus = self.open().await;
        for queue in queues {
            drop(bus.delete_queue(queue).await);
        }
        bus.remove_exchange().await;
        bus.close().await;
        self.shutdown.finish(Duration::from_secs(5)).await.unwrap();
    }
}

/// Passes bytes on, until it is told to cut them off.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    state: Arc<Mutex<ProxyState>>,
}

struct ProxyState {
    /// Ends the connections that there are.
    cut: CancellationToken,
    /// Take no new ones.
    down: bool,
}

impl Proxy {
    async fn start(to: (String, u16), shutdown: &Shutdown) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(ProxyState { cut: CancellationToken::new(), down: false }));
        let (shared, spawner, stop) = (Arc::clone(&state), shutdown.clone(), shutdown.child_token());
        shutdown.spawn("proxy", async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((mut near, _)) = accepted else { return };
                let (cut, down) = {
                    let state = shared.lock();
                    (state.cut.clone(), state.down)
                };
                if down {
                    continue;
                }
                let (to, stop) = (to.clone(), stop.clone());
                spawner.spawn("proxied", async move {
                    let Ok(mut far) = TcpStream::connect(to).await else { return };
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = cut.cancelled() => {}
                        _ = copy_bidirectional(&mut near, &mut far) => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    /// Cuts all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock();
        std::mem::replace(&mut state.cut, CancellationToken::new()).cancel();
    }

    /// Cuts all connections and takes no new ones, or takes them again.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        if down {
            self.cut();
        }
    }
}

/// Remembers in memory what is done.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<std::collections::HashSet<(String, Uuid)>>);

#[async_trait::async_trait]
impl SeenIds for Seen {
    async fn is_done(&self, queue: &str, event: Uuid) -> Result<bool, crate::bus::BusError> {
        Ok(self.0.lock().contains(&(queue.to_owned(), event)))
    }

    async fn mark_done(&self, queue: &str, event: Uuid) -> Result<(), crate::bus::BusError> {
        self.0.lock().insert((queue.to_owned(), event));
        Ok(())
    }
}
