//! Deepgram's own clients against the real server with the built-in model: what they understood is what was said.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    support::{Home, Running, root},
    tools,
};

/// A recording and what is said in it; the built-in model gets every word of it right.
const RECORDING: (&str, &str) = ("assets/demo/demo3.wav", "computer run the test and commit the changes");

/// The server as users start it, once its model is loaded.
struct Server {
    _home: Home,
    _process: Running,
    address: String,
}

impl Server {
    fn start() -> Self {
        let home = Home::new();
        let mut command = home.command("godctl");
        command.args(["asr-serve", "--listen", "127.0.0.1:0"]);
        let mut process = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.split("ws://").nth(1).unwrap_or_else(|| panic!("no address in {line:?}"));
        let address = url.split('/').next().unwrap().to_owned();
        let started = Instant::now();
        while !get(&address, "/ready").starts_with("HTTP/1.1 200") {
            assert!(started.elapsed() < Duration::from_secs(30), "the model was never loaded");
            std::thread::yield_now();
        }
        Self { _home: home, _process: process, address }
    }
}

fn get(address: &str, path: &str) -> String {
    let mut socket = TcpStream::connect(address).unwrap();
    write!(socket, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    answer
}

fn recording() -> PathBuf {
    root().join(RECORDING.0)
}

/// Runs a script of `tests/sdk`; its last line is what the client understood.
fn run(mut command: Command, script: &str, address: &str, file: &Path) -> Value {
    let ran = command.arg(root().join("tests/sdk").join(script)).arg(address).arg(file).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{stdout}\n{stderr}");
    let last = stdout.lines().last().unwrap_or_else(|| panic!("it said nothing; {stderr}"));
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{error}: {last}"))
}

fn node(modules: &Path) -> Command {
    let mut command = Command::new("node");
    command.env("NODE_PATH", modules);
    command
}

/// What a client of a live session must have understood; `prefix` is what it puts before the names of messages.
fn check_live(understood: &Value, prefix: &str) {
    assert_eq!(understood["words"], RECORDING.1, "{understood}");
    assert_eq!(understood["errors"], Value::Array(Vec::new()), "{understood}");
    assert_eq!((&understood["closed"], &understood["finalized"]), (&1000.into(), &1.into()), "{understood}");
    assert_eq!(understood["request_ids"], 1, "{understood}");
    let kinds: Vec<&str> = understood["kinds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|kind| kind.as_str().unwrap().strip_prefix(prefix).unwrap())
        .collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&"Metadata"), Some(&"Metadata")), "{understood}");
    assert!(kinds.contains(&"SpeechStarted") && kinds.contains(&"Results"), "{understood}");
}

#[test]
fn the_python_sdk_transcribes_live() {
    let Some(python) = tools::python() else { return };
    let server = Server::start();
    let understood = run(Command::new(python), "deepgram_live.py", &server.address, &recording());
    check_live(&understood, "ListenV1");
}

#[test]
fn the_javascript_sdk_transcribes_live() {
    let Some(modules) = tools::node_modules() else { return };
    let server = Server::start();
    let understood = run(node(&modules), "deepgram_live.mjs", &server.address, &recording());
    check_live(&understood, "");
}

/// What a client of a recording must have understood.
fn check_file(understood: &Value) {
    for text in ["words", "utterances", "paragraphs"] {
        assert_eq!(understood[text], RECORDING.1, "{text}: {understood}");
    }
    let duration = understood["duration"].as_f64().unwrap();
    assert!((duration - 3.53).abs() < 0.02, "{understood}");
    assert_eq!(understood["model"], serde_json::json!(["command-en"]), "{understood}");
    let refused = &understood["refused"];
    assert_eq!(refused["status"], 400, "{understood}");
    assert!(refused["body"].as_str().unwrap().contains("fetches nothing"), "{understood}");
}

#[test]
fn the_python_sdk_transcribes_a_file() {
    let Some(python) = tools::python() else { return };
    let server = Server::start();
    check_file(&run(Command::new(python), "deepgram_file.py", &server.address, &recording()));
}

#[test]
fn the_javascript_sdk_transcribes_a_file() {
    let Some(modules) = tools::node_modules() else { return };
    let server = Server::start();
    check_file(&run(node(&modules), "deepgram_file.mjs", &server.address, &recording()));
}
