//! A Redis of the bench's own, and `redis-benchmark` against it. The server ends when this is dropped.

use std::{
    fs::File,
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::{broker::find, worker::PAYLOAD};

pub(crate) struct Redis {
    server: Child,
    port: u16,
    benchmark: PathBuf,
}

impl Redis {
    /// Starts one that writes each command to the disk before it answers, or one that only remembers.
    pub(crate) fn start(dir: &Path, fsync: bool) -> Option<Self> {
        let Some((server, benchmark)) = find("redis-server", &[]).zip(find("redis-benchmark", &[])) else {
            println!("redis-server and redis-benchmark are not installed: no comparison with Redis");
            return None;
        };
        std::fs::create_dir_all(dir).unwrap();
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let (append, sync) = if fsync { ("yes", "always") } else { ("no", "no") };
        let server = Command::new(server)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""])
            .args(["--appendonly", append, "--appendfsync", sync, "--dir"])
            .arg(dir)
            .stdin(Stdio::null())
            .stdout(File::create(dir.join("log")).unwrap())
            .spawn()
            .unwrap();
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            assert!(started.elapsed() < Duration::from_secs(10), "redis-server does not answer");
            std::thread::sleep(Duration::from_millis(10));
        }
        Some(Self { server, port, benchmark })
    }

    /// XADDs in a second, with so many in a pipeline and so many connections, over about this time.
    pub(crate) fn publish(&self, batch: usize, connections: usize, time: Duration) -> f64 {
        let trial = self.run(batch, connections, 20 * batch * connections);
        self.run(batch, connections, (trial * time.as_secs_f64()).max(100.0) as usize)
    }

    fn run(&self, batch: usize, connections: usize, requests: usize) -> f64 {
        let output = Command::new(&self.benchmark)
            .args(["-p", &self.port.to_string(), "-c", &connections.to_string(), "-P", &batch.to_string()])
            .args([
                "-n",
                &requests.to_string(),
                "--csv",
                "XADD",
                "bench",
                "MAXLEN",
                "~",
                "100000",
                "*",
                "event",
            ])
            // An envelope takes about 300 bytes beside its payload.
            .arg("x".repeat(PAYLOAD + 300))
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        // "test","rps",… and then "XADD …","12345.67",…
        let rate = text.lines().last().and_then(|line| line.split("\",\"").nth(1)?.parse().ok());
        rate.unwrap_or_else(|| panic!("redis-benchmark said {text}"))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
    }
}
