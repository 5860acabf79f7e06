//! A Redis of the test's own that keeps everything on its disk: it can be killed and started again.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::missing::missing;

/// Whatever a busy machine takes.
const BOOT: Duration = Duration::from_secs(60);

/// A server that ends with its test.
pub(crate) struct RedisNode {
    dir: tempfile::TempDir,
    port: u16,
    child: Option<Child>,
}

impl RedisNode {
    /// Starts one. `None`, after a line that says why, where Redis is not installed.
    pub(crate) fn start() -> Option<Self> {
        let found = Command::new("redis-server").arg("--version").stdout(Stdio::null()).status();
        if found.is_err() {
            return missing("redis-server");
        }
        let dir = tempfile::Builder::new().prefix("godctl-redis-").tempdir().unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut node = Self { dir, port, child: None };
        node.restart();
        Some(node)
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Where all that it has acknowledged is kept.
    pub(crate) fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// What it answers to one command, as it comes over the wire.
    pub(crate) fn ask(&self, words: &[&str]) -> String {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let words: String = words.iter().map(|word| format!("${}\r\n{word}\r\n", word.len())).collect();
        let count = words.matches('$').count();
        stream.write_all(format!("*{count}\r\n{words}").as_bytes()).unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    }

    /// Kills it with SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Starts it where it was killed, with all that it had acknowledged.
    pub(crate) fn restart(&mut self) {
        self.kill();
        let port = self.port.to_string();
        let flags = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always"];
        let child = Command::new("redis-server")
            .args(flags)
            .args(["--port", &port, "--dir"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        self.child = Some(child);
        let started = Instant::now();
        while !self.is_ready() {
            assert!(started.elapsed() < BOOT, "redis-server did not start");
            std::thread::yield_now();
        }
    }

    fn is_ready(&self) -> bool {
        let ask = || -> std::io::Result<bool> {
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            stream.write_all(b"PING\r\n")?;
            let mut answer = [0; 5];
            stream.read_exact(&mut answer)?;
            Ok(&answer == b"+PONG")
        };
        ask().unwrap_or(false)
    }
}

impl Drop for RedisNode {
    fn drop(&mut self) {
        self.kill();
    }
}
