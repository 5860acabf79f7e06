//! A real RabbitMQ for tests: found by `GODCTL_TEST_AMQP_URL` or on this machine; each test has its own exchange.
//! Also a proxy whose connections can be cut.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
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
        self.by_way_of("amqp", &proxy.address.to_string())
    }

    pub(crate) fn by_way_of(&self, scheme: &str, host: &str) -> AmqpOptions {
        let address = uri::parse(&self.url, None, None).unwrap();
        let url = format!(
            "{scheme}://{}:{}@{host}/{}",
            address.username,
            address.password.expose(),
            address.vhost.replace('/', "%2f")
        );
        AmqpOptions { url: BusUrl::try_from(url).unwrap(), ..self.options() }
    }

    pub(crate) async fn open(&self) -> AmqpBus {
        AmqpBus::open(self.options(), &self.shutdown).await.unwrap()
    }

    pub(crate) async fn proxy(&self) -> Proxy {
        let address = uri::parse(&self.url, None, None).unwrap();
        Proxy::start((address.host, address.port), None, &self.shutdown).await
    }

    /// A proxy that speaks TLS on its near side, with a certificate for this name. Gives that certificate (PEM).
    pub(crate) async fn tls_proxy(&self, name: &str) -> (Proxy, String) {
        let certified = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        drop(rustls::crypto::ring::default_provider().install_default());
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certified.cert.der().clone()], key.into())
            .unwrap();
        let address = uri::parse(&self.url, None, None).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let proxy = Proxy::start((address.host, address.port), Some(acceptor), &self.shutdown).await;
        (proxy, certified.cert.pem())
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

#[derive(Default)]
struct ProxyState {
    /// Ends the connections that there are.
    cut: CancellationToken,
    /// Take no new ones.
    down: bool,
    /// Pass these bytes on to the broker, but none of its answers from then on, and cut the connection soon.
    last_words: Option<Vec<u8>>,
}

impl Proxy {
    async fn start(to: (String, u16), tls: Option<TlsAcceptor>, shutdown: &Shutdown) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(ProxyState::default()));
        let (shared, spawner, stop) = (Arc::clone(&state), shutdown.clone(), shutdown.child_token());
        shutdown.spawn("proxy", async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((near, _)) = accepted else { return };
                let (cut, down) = {
                    let state = shared.lock();
                    (state.cut.clone(), state.down)
                };
                if down {
                    continue;
                }
                let (to, stop, state, tls) = (to.clone(), stop.clone(), Arc::clone(&shared), tls.clone());
                spawner.spawn("proxied", async move {
                    let Ok(far) = TcpStream::connect(to).await else { return };
                    let passing = async {
                        match tls {
                            None => pass(near, far, &state).await,
                            Some(tls) => match tls.accept(near).await {
                                Ok(near) => pass(near, far, &state).await,
                                Err(_refused) => {}
                            },
                        }
                    };
                    tokio::select! {
                        () = stop.cancelled() => {}
                        () = cut.cancelled() => {}
                        () = passing => {}
                    }
                });
            }
        });
        Self { address, state }
    }

    /// Cuts all connections; new ones are taken.
    pub(crate) fn cut(&self) {
        let mut state = self.state.lock();
        std::mem::take(&mut state.cut).cancel();
    }

    /// Cuts all connections and takes no new ones, or takes them again.
    pub(crate) fn set_down(&self, down: bool) {
        self.state.lock().down = down;
        if down {
            self.cut();
        }
    }

    /// Cuts a connection after it has passed on these bytes, so that nobody knows what came of them.
    pub(crate) fn swallow_the_answer_to(&self, bytes: &[u8]) {
        self.state.lock().last_words = Some(bytes.to_vec());
    }
}

async fn pass(
    near: impl AsyncRead + AsyncWrite,
    far: impl AsyncRead + AsyncWrite,
    state: &Mutex<ProxyState>,
) {
    let (mut near_in, mut near_out) = tokio::io::split(near);
    let (mut far_in, mut far_out) = tokio::io::split(far);
    let mute = CancellationToken::new();
    let there = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(count @ 1..) = near_in.read(&mut buffer).await {
            let last = state.lock().last_words.take_if(|words| {
                buffer[..count].windows(words.len()).any(|window| window == words.as_slice())
            });
            if last.is_some() {
                mute.cancel();
            }
            if far_out.write_all(&buffer[..count]).await.is_err() {
                return;
            }
            if last.is_some() {
                // Time for the broker to do what it was asked for.
                tokio::time::sleep(Duration::from_millis(300)).await;
                return;
            }
        }
    };
    let back = async {
        tokio::select! {
            () = mute.cancelled() => std::future::pending().await,
            _ = tokio::io::copy(&mut far_in, &mut near_out) => {}
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
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
