//! The real program: signals, sockets from systemd, descriptors, and what it never writes down.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{ChildStderr, Command, Stdio},
    sync::{Arc, mpsc::sync_channel},
    time::{Duration, Instant},
};

use futures_util::{SinkExt as _, StreamExt as _};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;

use super::{PATIENCE, certificate, connect, get, soon};
use crate::{
    fake::pcm,
    support::{Home, Running, root},
    wav,
};

/// `godctl asr-serve` on a free port, with all that it logs.
pub(super) struct Serving {
    running: Running,
    pub(super) address: String,
    logs: Arc<Mutex<String>>,
}

impl Serving {
    pub(super) fn start(home: &Home, args: &[&str]) -> Self {
        Self::start_with(home, args, |_| {})
    }

    fn start_with(home: &Home, args: &[&str], adapt: impl FnOnce(&mut Command)) -> Self {
        let mut command = home.command("godctl");
        command.args(["asr-serve", "--no-publish", "--log-format", "json"]).args(args);
        if !args.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        adapt(&mut command);
        let mut child = command.spawn().unwrap();
        let logs = collect(child.stderr.take().unwrap());
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let running = Running(child);
        let Some((_, rest)) = line.split_once("://") else { panic!("{line:?} {}", logs.lock()) };
        let address = rest.split(' ').next().unwrap().to_owned();
        Self { running, address, logs }
    }

    pub(super) async fn ready(self) -> Self {
        self.ready_for("").await
    }

    /// The same where clients need these headers.
    pub(super) async fn ready_for(self, headers: &str) -> Self {
        let until = Instant::now() + PATIENCE;
        while get(&self.address, "/ready", headers).await.status != 200 {
            assert!(Instant::now() < until, "not ready: {}", self.logs.lock());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.running.0.id()).unwrap()).unwrap()
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits until this is in the log.
    pub(super) async fn logged(&self, words: &str) {
        self.logged_times(words, 1).await;
    }

    pub(super) async fn logged_times(&self, words: &str, times: usize) {
        let until = Instant::now() + PATIENCE;
        while self.logs.lock().matches(words).count() < times {
            assert!(Instant::now() < until, "no '{words}' in: {}", self.logs.lock());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.running.0.id())).map_or(0, Iterator::count)
    }

    /// Waits for its end; gives its exit code and everything that it logged.
    pub(super) async fn end(mut self) -> (Option<i32>, String) {
        let until = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.running.0.try_wait().unwrap() {
                break status;
            }
            assert!(Instant::now() < until, "it does not end: {}", self.logs.lock());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let logs = self.logs.lock().clone();
        (status.code(), logs)
    }
}

fn collect(stderr: ChildStderr) -> Arc<Mutex<String>> {
    let logs = Arc::new(Mutex::new(String::new()));
    let writer = Arc::clone(&logs);
    #[allow(clippy::disallowed_methods, reason = "ends with the program whose pipe it reads")]
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let mut logs = writer.lock();
            logs.push_str(&line);
            logs.push('\n');
        }
    });
    logs
}

/// Somebody says "open the dashboard in a new tab".
pub(super) fn recording() -> Vec<f32> {
    let (samples, rate) = wav::read(&root().join("assets/demo/demo4.wav"));
    assert_eq!(rate, 16_000);
    samples
}

#[tokio::test]
async fn no_token_is_ever_logged_or_counted() {
    let home = Home::new();
    let path = home.path().join("tokens.toml");
    let made = home.godctl(&["asr-serve", "token", "kiosk", "--tokens-file", path.to_str().unwrap()]);
    let (good, configured) = (made.stdout.trim().to_owned(), "marker-cfg-91be");
    let args = ["-vvvv", "--tokens-file", path.to_str().unwrap(), "--listen", "127.0.0.1:0"];
    let serving = Serving::start_with(&home, &args, |command| {
        command.env("GODCTL__ASR__TOKEN", configured);
    });
    let address = serving.address.clone();
    let header = format!("authorization: Bearer {configured}\r\n");
    let until = Instant::now() + PATIENCE;
    while get(&address, "/ready", &header).await.status != 200 {
        assert!(Instant::now() < until, "{}", serving.logs.lock());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Every way to send one, good and bad, to every kind of route.
    for (at, secret) in [good.as_str(), configured, "marker-bad-5d1c"].into_iter().enumerate() {
        for path in ["/ready", "/metrics", "/", "/nowhere", "/v1/audio/transcriptions", "/v1/listen"] {
            get(&address, path, &format!("authorization: Bearer {secret}\r\n")).await;
            get(&address, path, &format!("authorization: Token {secret}\r\n")).await;
            get(&address, path, &format!("authorization: Basic {secret}\r\n")).await;
            get(&address, &format!("{path}?a=1&token={secret}"), "").await;
        }
        for path in ["/asr", "/v1/listen?encoding=linear16&sample_rate=16000"] {
            let joint = if path.contains('?') { '&' } else { '?' };
            let query = format!("{path}{joint}token={secret}");
            let pair = format!("token, {secret}");
            let own = format!("x, bearer.{secret}");
            let bearer = format!("Bearer {secret}");
            for (path, headers) in [
                (query.as_str(), &[][..]),
                (path, &[("sec-websocket-protocol", pair.as_str())]),
                (path, &[("sec-websocket-protocol", own.as_str())]),
                (path, &[("authorization", bearer.as_str())]),
            ] {
                let connected = connect(&address, path, headers).await;
                assert_eq!(connected.is_ok(), at < 2, "{path} {headers:?}");
                if let Ok(mut socket) = connected {
                    assert!(!socket.next().await.unwrap().to_string().contains(secret));
                    drop(socket.stream.close(None).await);
                }
            }
        }
    }
    let metrics = get(&address, "/metrics", &header).await.body;
    serving.signal(Signal::HUP);
    serving.logged("tokens were read again").await;
    serving.signal(Signal::TERM);
    let (code, logs) = serving.end().await;
    assert_eq!(code, Some(0), "{logs}");
    // Nothing that is linked in says anything below debug today; the filter lets all of it through.
    for expected in ["\"level\":\"DEBUG\"", "session closed", "request answered"] {
        assert!(logs.contains(expected), "{expected}: the log holds what it should");
    }
    assert!(
        logs.contains("\"token\":\"kiosk\"") && logs.contains("\"token\":\"default\""),
        "names may be told"
    );
    for secret in [good.as_str(), good.trim_start_matches("godctl_"), configured, "marker-bad-5d1c"] {
        assert!(!logs.contains(secret), "{}", logs.lines().find(|line| line.contains(secret)).unwrap());
        assert!(!metrics.contains(secret), "{metrics}");
    }
}

#[tokio::test]
async fn a_stop_in_the_middle_of_speech_gives_every_session_its_last_words() {
    let home = Home::new();
    // Unoptimised and beside other tests, the model may take longer than a stop normally waits.
    let serving = Serving::start(&home, &["-c", "shutdown.deadline_s=60"]).ready().await;
    let speech = recording();
    // All of the words, and not yet the pause that would make them final.
    let end = speech.iter().rposition(|sample| sample.abs() > 0.02).unwrap();
    let (mut native, mut others) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        let mut socket = connect(&serving.address, "/asr", &[]).await.unwrap();
        socket.audio(&speech[..end]).await;
        socket.send("{\"type\":\"marker\",\"name\":\"sent\"}").await;
        native.push(socket);
        let mut socket =
            connect(&serving.address, "/v1/listen?encoding=linear16&sample_rate=16000", &[]).await.unwrap();
        socket.audio(&speech[..end]).await;
        others.push(socket);
    }
    // What was sent has arrived when the marker is answered.
    for socket in &mut native {
        while socket.next().await.unwrap()["type"] != "marker" {}
    }
    serving.signal(Signal::TERM);
    for socket in &mut native {
        assert_eq!(socket.words().await, "open the dashboard in a new tab");
        assert_eq!(socket.closed().await.0, 1001);
    }
    for socket in &mut others {
        let mut words = Vec::new();
        let code = loop {
            match socket.next().await {
                Ok(message) if message["is_final"] == true => {
                    let said =
                        message["channel"]["alternatives"][0]["transcript"].as_str().unwrap().to_owned();
                    words.extend((!said.is_empty()).then_some(said));
                }
                Ok(_) => {}
                Err(code) => break code,
            }
        };
        assert_eq!((words.join(" ").as_str(), code), ("open the dashboard in a new tab", 1001));
    }
    let (code, logs) = serving.end().await;
    assert_eq!(code, Some(0), "{logs}");
    let lines = logs.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let closed: Vec<Value> = lines.filter(|line| line["message"] == "session closed").collect();
    assert_eq!(closed.len(), 4, "one line for each session: {logs}");
    for line in closed {
        assert_eq!(
            (&line["words"], &line["utterances"], &line["complete"]),
            (&7.into(), &1.into(), &true.into())
        );
        assert!(line["commit_p50_ms"].is_u64() && line["commit_p95_ms"].is_u64(), "{line}");
        assert!(
            line["session"].as_str().unwrap().len() == 36 && line["audio_s"].as_f64().unwrap() > 1.0,
            "{line}"
        );
        assert!(["asr", "listen"].contains(&line["protocol"].as_str().unwrap()), "{line}");
        assert_eq!(line["ended"], "the server is stopping");
    }
}

#[tokio::test]
async fn a_hangup_reads_tokens_and_certificate_again_and_keeps_the_old_ones_if_they_are_bad() {
    let home = Home::new();
    let tokens = home.path().join("tokens.toml");
    let made = |name: &str| {
        let ran = home.godctl(&["asr-serve", "token", name, "--tokens-file", tokens.to_str().unwrap()]);
        ran.stdout.trim().to_owned()
    };
    let first = made("first");
    let dir = home.path().to_owned();
    certificate(&dir);
    let files = [dir.join("cert.pem"), dir.join("key.pem")];
    let args = ["--tokens-file", tokens.to_str().unwrap()];
    let plain = Serving::start(&home, &args);
    let status = async |token: &str| {
        get(&plain.address, "/metrics", &format!("authorization: Bearer {token}\r\n")).await.status
    };
    assert_eq!(status(&first).await, 200);
    let second = made("second");
    assert_eq!(status(&second).await, 401, "not before it is told to look");
    plain.signal(Signal::HUP);
    plain.logged("tokens were read again").await;
    assert_eq!((status(&first).await, status(&second).await), (200, 200));
    std::fs::write(&tokens, "rubbish").unwrap();
    plain.signal(Signal::HUP);
    plain.logged("tokens were not read again, the old ones stay").await;
    assert_eq!((status(&first).await, status(&second).await), (200, 200));
    std::fs::write(&tokens, "").unwrap();
    plain.signal(Signal::HUP);
    plain.logged_times("tokens were read again", 2).await;
    assert_eq!(
        (status(&first).await, status("").await),
        (401, 401),
        "the last token is gone, the door is not"
    );
    plain.signal(Signal::TERM);
    assert_eq!(plain.end().await.0, Some(0));

    let args = ["--tls-cert", files[0].to_str().unwrap(), "--tls-key", files[1].to_str().unwrap()];
    let secure = Serving::start(&home, &args);
    std::fs::write(&files[0], "rubbish").unwrap();
    secure.signal(Signal::HUP);
    secure.logged("the certificate was not read again, the old one stays").await;
    certificate(&dir);
    secure.signal(Signal::HUP);
    secure.logged("the certificate was read again").await;
    secure.signal(Signal::TERM);
    assert_eq!(secure.end().await.0, Some(0));
}

#[tokio::test]
async fn two_servers_do_not_share_a_port() {
    let home = Home::new();
    let first = Serving::start(&home, &[]);
    let ran = home.godctl(&["asr-serve", "--no-publish", "--listen", &first.address]);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    assert!(ran.stderr.contains("is already in use"), "{ran:?}");
    let first = first.ready().await;
    first.signal(Signal::TERM);
    assert_eq!(first.end().await.0, Some(0), "the first one did not notice");
}

#[tokio::test]
async fn connections_that_come_and_go_leave_no_descriptors() {
    let home = Home::new();
    let serving = Serving::start(&home, &[]).ready().await;
    let round = async |count: usize| {
        for at in 0..count {
            let path = ["/asr", "/v1/listen?encoding=linear16&sample_rate=16000"][at % 2];
            if let Ok(mut socket) = connect(&serving.address, path, &[]).await
                && at % 3 == 0
            {
                drop(socket.stream.send(Message::binary(pcm(&[0.1; 1_600]))).await);
            }
            if at % 5 == 0 {
                drop(tokio::net::TcpStream::connect(&serving.address).await);
            }
        }
    };
    let settled = async || {
        let until = Instant::now() + PATIENCE;
        loop {
            let metrics = get(&serving.address, "/metrics", "").await.body;
            let gone = |name: &str| {
                metrics.lines().filter(|line| line.starts_with(name)).all(|line| line.ends_with(" 0"))
            };
            if gone("godctl_asr_sessions{") && metrics.contains("godctl_http_connections 1\n") {
                return serving.descriptors();
            }
            assert!(Instant::now() < until, "{metrics}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    round(50).await;
    let before = settled().await;
    soon(round(1_000)).await;
    let after = settled().await;
    assert!(after <= before + 2, "{before} descriptors before, {after} after");
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().await.0, Some(0));
}

/// Hands a listening socket to the program as systemd does: descriptor 3, and its own process id in `LISTEN_PID`,
/// which only a shell that becomes the program can know.
#[tokio::test]
async fn a_socket_that_was_handed_over_is_used() {
    let home = Home::new();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let shell = "exec 3<&0 0</dev/null; LISTEN_FDS=1 LISTEN_PID=$$ exec godctl asr-serve --no-publish --listen 127.0.0.1:1";
    let mut command = home.command("sh");
    command.args(["-c", shell]).stdin(std::os::fd::OwnedFd::from(listener));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let logs = collect(child.stderr.take().unwrap());
    let stdout = child.stdout.take().unwrap();
    let serving = Serving { running: Running(child), address: address.clone(), logs };
    // The socket listens already: a question waits for the program.
    assert_eq!(get(&address, "/health", "").await.status, 200);
    let mut line = String::new();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert!(line.contains(&address), "{line}");
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().await.0, Some(0));
}

#[tokio::test]
async fn whoever_started_it_is_told_of_a_reload() {
    let home = Home::new();
    let path = home.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let (sender, said) = sync_channel(100);
    #[allow(clippy::disallowed_methods, reason = "ends when nobody listens to it any more")]
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length) = socket.recv(&mut buffer) {
            if sender.send(String::from_utf8_lossy(&buffer[..length]).into_owned()).is_err() {
                break;
            }
        }
    });
    let serving = Serving::start_with(&home, &[], |command| {
        command.env("NOTIFY_SOCKET", Path::new(&path));
    });
    let until = |words: &str| loop {
        let message = said.recv_timeout(PATIENCE).unwrap();
        if message.contains(words) {
            return message;
        }
    };
    until("READY=1");
    serving.signal(Signal::HUP);
    until("RELOADING=1");
    assert!(until("READY=1").contains("STATUS=settings were read again"));
    serving.signal(Signal::TERM);
    until("STOPPING=1");
    assert_eq!(serving.end().await.0, Some(0));
}

#[tokio::test]
async fn a_slow_reader_costs_the_others_nothing() {
    let home = Home::new();
    let serving = Serving::start(&home, &["-c", "asr.send_timeout_s=1"]).ready().await;
    let mut slow = connect(&serving.address, "/asr?words=true", &[]).await.unwrap();
    let mut brisk = connect(&serving.address, "/asr", &[]).await.unwrap();
    let speech = recording();
    slow.audio(&speech).await;
    brisk.audio(&speech).await;
    assert_eq!(brisk.finish().await, "open the dashboard in a new tab");
    // It reads after all, and finds everything.
    assert_eq!(slow.finish().await, "open the dashboard in a new tab");
    assert!(soon(slow.stream.next()).await.is_none_or(|end| end.is_ok()));
    serving.signal(Signal::TERM);
    assert_eq!(serving.end().await.0, Some(0));
}
