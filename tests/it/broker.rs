//! A RabbitMQ node of the test's own, in a directory of its own, on ports of its own: it can be killed, restarted and
//! asked for TLS without touching a broker that serves somebody. Dropping it ends the node; should the test be killed,
//! a small shell that holds the other end of a pipe ends it.

use std::{
    fs::File,
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::missing::missing;
use lapin::{Channel, Connection, ConnectionProperties};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustix::process::{Pid, Signal, kill_process};

/// Twenty times what a boot takes on two cores.
const BOOT: Duration = Duration::from_secs(90);

/// A node. Its users are `guest` with the password `guest`, and nobody else.
pub(crate) struct Broker {
    dir: tempfile::TempDir,
    /// Ends everything in its process group when its standard input ends, so at the latest with this process.
    guard: Child,
    node: Option<Child>,
    ports: Ports,
    server: PathBuf,
    ca_pem: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    amqp: u16,
    amqps: u16,
    /// Erlang's distribution, which nobody uses here but which a node insists on, and its name server.
    dist: u16,
    epmd: u16,
}

impl Broker {
    /// Starts a node and waits until it talks AMQP. `None`, after a line that says why, where RabbitMQ is not
    /// installed.
    pub(crate) fn start() -> Option<Self> {
        Self::boot(false, "")
    }

    /// The same with settings that only a file of Erlang terms can say.
    pub(crate) fn start_with(terms: &str) -> Option<Self> {
        Self::boot(false, terms)
    }

    /// The same with TLS on another port, and a certificate authority made up for this node.
    pub(crate) fn start_with_tls() -> Option<Self> {
        Self::boot(true, "")
    }

    fn boot(tls: bool, terms: &str) -> Option<Self> {
        let found = server().zip(find("epmd", &["/usr/lib/erlang/bin/epmd"]));
        let Some((server, epmd)) = found else { return missing("rabbitmq-server") };
        let dir = tempfile::Builder::new().prefix("godctl-rabbitmq-").tempdir().unwrap();
        let ports = Ports::choose();
        let guard = Command::new("sh")
            .args(["-c", GUARD, "guard"])
            .arg(&epmd)
            .arg(ports.epmd.to_string())
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(File::create(dir.path().join("guard.log")).unwrap())
            .spawn()
            .unwrap();
        let mut broker = Self { dir, guard, node: None, ports, server, ca_pem: None };
        let mut config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\nloopback_users = none\nlog.console = false\nlog.file.level = info\n",
            ports.amqp
        );
        if tls {
            let (ca, certificate, key) = certificates();
            for (name, text) in [("ca.pem", &ca), ("server.pem", &certificate), ("key.pem", &key)] {
                std::fs::write(broker.path(name), text).unwrap();
            }
            config += &format!(
                "listeners.ssl.1 = 127.0.0.1:{}\nssl_options.cacertfile = {}\nssl_options.certfile = {}\n\
                 ssl_options.keyfile = {}\nssl_options.verify = verify_none\n\
                 ssl_options.fail_if_no_peer_cert = false\n",
                ports.amqps,
                broker.path("ca.pem").display(),
                broker.path("server.pem").display(),
                broker.path("key.pem").display(),
            );
            broker.ca_pem = Some(ca);
        }
        std::fs::write(broker.path("rabbitmq.conf"), config).unwrap();
        std::fs::write(broker.path("enabled_plugins"), "[].\n").unwrap();
        if !terms.is_empty() {
            std::fs::write(broker.path("advanced.config"), terms).unwrap();
        }
        broker.restart();
        Some(broker)
    }

    /// Its address, with user and password.
    pub(crate) fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.ports.amqp)
    }

    /// Its address for TLS. The certificate is for `localhost`.
    pub(crate) fn tls_url(&self) -> String {
        assert!(self.ca_pem.is_some(), "started without TLS");
        format!("amqps://guest:guest@localhost:{}/%2f", self.ports.amqps)
    }

    /// The certificate of the authority that signed the node's own.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The port for connections without TLS.
    pub(crate) fn port(&self) -> u16 {
        self.ports.amqp
    }

    /// Kills the node with SIGKILL. What it had not written is lost; what it had confirmed must not be.
    pub(crate) fn kill(&mut self) {
        if let Some(mut node) = self.node.take() {
            node.kill().unwrap();
            node.wait().unwrap();
        }
    }

    /// Stops the node where it is, connections and all, until [`Broker::resume`].
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let node = self.node.as_ref().unwrap();
        kill_process(Pid::from_child(node), signal).unwrap();
    }

    /// Kills the node and deletes what it knows of where its streams are, as a crash soon after their making does; then
    /// starts it again.
    pub(crate) fn lose_streams(&mut self) {
        self.kill();
        let node = self.path("mnesia").join(format!("godctl-{}@localhost", self.ports.amqp));
        for part in ["coordination", "stream"] {
            std::fs::remove_dir_all(node.join(part)).unwrap();
        }
        self.restart();
    }

    /// Starts the node again where it was killed, and waits until it talks AMQP.
    pub(crate) fn restart(&mut self) {
        self.kill();
        self.node = Some(self.spawn());
        let started = Instant::now();
        while !self.is_ready() {
            let ended = self.node.as_mut().unwrap().try_wait().unwrap();
            assert!(ended.is_none() && started.elapsed() < BOOT, "{ended:?}\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn spawn(&self) -> Child {
        let log = File::options().create(true).append(true).open(self.path("out.log")).unwrap();
        Command::new(&self.server)
            .env_clear()
            .env("PATH", search_path())
            .env("LANG", "C.UTF-8")
            .env("HOME", self.dir.path())
            .env("ERL_EPMD_PORT", self.ports.epmd.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_NODENAME", format!("godctl-{}@localhost", self.ports.amqp))
            .env("RABBITMQ_DIST_PORT", self.ports.dist.to_string())
            .env("RABBITMQ_MNESIA_BASE", self.path("mnesia"))
            .env("RABBITMQ_LOG_BASE", self.path("log"))
            .env("RABBITMQ_CONFIG_FILE", self.path("rabbitmq"))
            .env("RABBITMQ_CONF_ENV_FILE", self.path("none"))
            .env("RABBITMQ_ADVANCED_CONFIG_FILE", self.path("advanced.config"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", self.path("enabled_plugins"))
            .env("RABBITMQ_PID_FILE", self.path("pid"))
            // The name server is the guard's child; Erlang would start one that outlives everything.
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "-start_epmd false")
            // With this set, the start script becomes the node instead of waiting for it, and one kill is enough.
            .env("NOTIFY_SOCKET", self.path("nobody-listens"))
            .current_dir(self.dir.path())
            .process_group(i32::try_from(self.guard.id()).unwrap())
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    /// True when the node answers a protocol header with `connection.start`.
    fn is_ready(&self) -> bool {
        let greet = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.amqp))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"AMQP\0\0\x09\x01")?;
            let mut frame = [0];
            stream.read_exact(&mut frame)?;
            Ok(frame == [1])
        };
        greet().unwrap_or(false)
    }

    /// What the node said, for a test that fails.
    fn log(&self) -> String {
        ["guard.log", "out.log"]
            .map(|name| std::fs::read_to_string(self.path(name)).unwrap_or_default())
            .join("\n")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        if let Some(node) = &mut self.node {
            node.kill().ok();
            node.wait().ok();
        }
        drop(self.guard.stdin.take());
        self.guard.wait().ok();
    }
}

/// Runs Erlang's name server, waits until the test is gone, and kills its own process group.
const GUARD: &str = r#"
trap '' INT TERM HUP
"$1" -port "$2" -address 127.0.0.1 &
while read -r _; do :; done
kill -9 0
"#;

impl Ports {
    /// Free ports below those that the system gives to outgoing connections: while the node is down, clients that try
    /// to reach it must not be given its port, and connect to themselves.
    fn choose() -> Self {
        let mut free =
            (0..1_000).map(|_| fastrand::u16(20_000..32_000)).filter(|port| {
                match TcpListener::bind((Ipv4Addr::LOCALHOST, *port)) {
                    Ok(_) => true,
                    Err(error) if error.kind() == ErrorKind::AddrInUse => false,
                    Err(error) => panic!("port {port}: {error}"),
                }
            });
        let mut next = || free.next().unwrap();
        Self { amqp: next(), amqps: next(), dist: next(), epmd: next() }
    }
}

/// An authority, a certificate for `localhost` signed by it, and its key, as PEM.
fn certificates() -> (String, String, String) {
    let named = |name: &str, hosts: &[&str]| {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params
    };
    let mut ca = named("godctl test authority", &[]);
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_key = KeyPair::generate().unwrap();
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = named("localhost", &["localhost", "127.0.0.1"])
        .signed_by(&key, &Issuer::from_params(&ca, &ca_key))
        .unwrap();
    (ca_certificate.pem(), certificate.pem(), key.serialize_pem())
}

/// Talks to a broker with plain lapin, on a runtime that lives for this call.
pub(crate) fn on_a_channel<T>(url: &str, work: impl AsyncFnOnce(Channel) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let connection = Connection::connect(url, ConnectionProperties::default()).await.unwrap();
        // The last one to be dropped closes it, which must not happen while the connection is closed.
        let channel = connection.create_channel().await.unwrap();
        let result = work(channel.clone()).await;
        connection.close(200, "done".into()).await.unwrap();
        result
    })
}

/// A certificate authority that signed nothing.
pub(crate) fn stranger_ca() -> String {
    certificates().0
}

/// The start script of RabbitMQ itself. Debian's wrapper in `/usr/sbin` changes the user and the directories, so it is
/// passed over.
fn server() -> Option<PathBuf> {
    let debian = Path::new("/usr/lib/rabbitmq/bin/rabbitmq-server");
    if debian.is_file() { Some(debian.to_owned()) } else { find("rabbitmq-server", &[]) }
}

/// A program on the search path, or else at one of these places.
pub(crate) fn find(program: &str, places: &[&str]) -> Option<PathBuf> {
    let on_path = std::env::split_paths(&search_path()).map(|dir| dir.join(program)).collect::<Vec<_>>();
    on_path.into_iter().chain(places.iter().map(PathBuf::from)).find(|path| path.is_file())
}

#[allow(clippy::disallowed_methods, reason = "servers are found as the user's shell finds them")]
fn search_path() -> std::ffi::OsString {
    std::env::var_os("PATH").unwrap_or_default()
}

#[test]
fn a_node_is_killed_and_restarted_and_leaves_nothing_behind() {
    let started = Instant::now();
    let Some(mut broker) = Broker::start_with_tls() else { return };
    let booted = started.elapsed();
    broker.kill();
    assert!(!broker.is_ready());
    broker.restart();
    println!("first start {booted:?}, with a restart {:?}", started.elapsed());
    let (dir, ports) = (broker.dir.path().to_owned(), broker.ports);
    TcpStream::connect((Ipv4Addr::LOCALHOST, ports.amqps)).unwrap();
    drop(broker);
    for port in [ports.amqp, ports.amqps, ports.dist, ports.epmd] {
        assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "{port} is still served");
    }
    assert!(!dir.exists(), "{} was left behind", dir.display());
}
