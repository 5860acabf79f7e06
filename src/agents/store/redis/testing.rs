//! A Redis of the test's own: in a directory of its own, on a port of its own, without the disk.

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// A server that ends with its test.
pub(crate) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    child: Child,
}

/// A busy machine starts a server within this time.
const PATIENCE: Duration = Duration::from_secs(60);

impl Server {
    /// Starts one. `None`, after a line that says why, where Redis is not installed; in CI it must be.
    pub(crate) fn start() -> Option<Self> {
        let dir = tempfile::Builder::new().prefix("godctl-redis-").tempdir().unwrap();
        let Some((port, child)) = spawn(&dir) else {
            #[allow(
                clippy::disallowed_methods,
                reason = "CI says in the environment that nothing may be left out"
            )]
            let is_ci = std::env::var("CI").as_deref() == Ok("true");
            assert!(!is_ci, "CI needs redis-server; `make deps-test` installs it");
            println!("ignored, needs redis-server");
            return None;
        };
        Some(Self { dir, port, child })
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) const fn port(&self) -> u16 {
        self.port
    }

    /// Ends it at once, and starts it again on the same port with nothing in it.
    pub(crate) fn restart_empty(&mut self) {
        self.kill();
        self.child = run(&self.dir, self.port).unwrap();
        assert!(is_ready(&mut self.child, self.port), "redis-server did not start again");
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

fn spawn(dir: &tempfile::TempDir) -> Option<(u16, Child)> {
    // Another program may take the port between here and there.
    for _ in 0..10 {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut child = run(dir, port)?;
        if is_ready(&mut child, port) {
            return Some((port, child));
        }
    }
    panic!("redis-server finds no port");
}

fn run(dir: &tempfile::TempDir, port: u16) -> Option<Child> {
    let port = port.to_string();
    let arguments = [
        "--bind",
        "127.0.0.1",
        "--port",
        &port,
        "--save",
        "",
        "--appendonly",
        "no",
        "--logfile",
        "redis.log",
    ];
    let spawned = Command::new("redis-server")
        .args(arguments)
        .current_dir(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    match spawned {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("redis-server: {error}"),
    }
}

/// Waits until it listens; false if it ended instead.
fn is_ready(child: &mut Child, port: u16) -> bool {
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().unwrap().is_none() {
        if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return true;
        }
        assert!(Instant::now() < deadline, "redis-server does not listen");
        std::thread::yield_now();
    }
    false
}
