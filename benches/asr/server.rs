//! The server as its operator sees it: how long until it is ready, and what it needs.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use godctl::asr::client;

use crate::sound;

const SESSIONS: usize = 8;

struct Server {
    child: Child,
    address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn run() {
    let home = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let mut child = Command::new(env!("CARGO_BIN_EXE_godctl"))
        .args(["asr-serve", "--listen", "127.0.0.1:0", "--no-publish", "--model", "command-en"])
        .env("HOME", home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address =
        line.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap().to_owned();
    let server = Server { child, address };
    let listening = started.elapsed();
    while !is_ready(&server.address) {
        assert!(started.elapsed() < Duration::from_secs(60), "the server does not become ready");
        std::thread::sleep(Duration::from_millis(2));
    }
    let ready = started.elapsed();
    println!("\nthe server with the built-in model");
    println!("answers after {} ms, ready after {} ms", listening.as_millis(), ready.as_millis());
    let idle = resident_mb(server.child.id());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let busy = runtime.block_on(async {
        let url = format!("ws://{}/asr", server.address);
        let speech = sound::long();
        let mut open = Vec::new();
        let mut reading = tokio::task::JoinSet::new();
        for _ in 0..SESSIONS {
            let (mut sender, mut receiver) = client::connect(&url).await.unwrap();
            sender.audio(&speech[..8 * 16_000]).await.unwrap();
            reading.spawn(async move { while let Ok(Some(_)) = receiver.next().await {} });
            open.push(sender);
        }
        tokio::time::sleep(Duration::from_secs(6)).await;
        let busy = resident_mb(server.child.id());
        reading.shutdown().await;
        drop(open);
        busy
    });
    let each = (busy - idle) / SESSIONS as f64;
    println!("resident memory: {idle:.1} MB idle, {busy:.1} MB with {SESSIONS} sessions, {each:.1} MB each");
}

fn is_ready(address: &str) -> bool {
    let Ok(mut socket) = TcpStream::connect(address) else { return false };
    let request = format!("GET /ready HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    let mut answer = String::new();
    socket.write_all(request.as_bytes()).and_then(|()| socket.read_to_string(&mut answer)).is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// Resident memory of a process in MB; not a number where the system does not say.
fn resident_mb(process: u32) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS"));
    let kb = line.and_then(|line| line.split_whitespace().nth(1)).and_then(|kb| kb.parse::<f64>().ok());
    kb.map_or(f64::NAN, |kb| kb / 1_024.0)
}
