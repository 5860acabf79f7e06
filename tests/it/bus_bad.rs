//! What a RabbitMQ can hold that is no event, and what it can refuse: each gets an answer that says what to do, and no
//! password shows.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::{Duration, Instant},
};

use lapin::{
    BasicProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::Value;

use crate::{
    broker::{Broker, on_a_channel, stranger_ca},
    support::{Home, Ran},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// A `godctl` whose standard output is read line by line.
struct Talking {
    child: Child,
    /// Open for as long as this lives.
    _stdin: ChildStdin,
    lines: Receiver<Value>,
}

impl Talking {
    fn start(home: &Home, args: &[&str]) -> Self {
        let mut child =
            home.command("godctl").args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let stdin = child.stdin.take().unwrap();
        let stdout: ChildStdout = child.stdout.take().unwrap();
        let (sender, lines) = sync_channel(1_000);
        #[allow(clippy::disallowed_methods, reason = "it ends with the child, which ends with this")]
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
                if sender.send(value).is_err() {
                    return;
                }
            }
        });
        Self { child, _stdin: stdin, lines }
    }

    fn next(&self) -> Value {
        self.lines.recv_timeout(PATIENCE).expect("a line in time")
    }
}

impl Drop for Talking {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Puts bytes onto the exchange as any program may.
fn publish_raw(url: &str, bodies: &[Vec<u8>]) {
    on_a_channel(url, async |channel| {
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        for body in bodies {
            let options = BasicPublishOptions { mandatory: true, ..Default::default() };
            let properties = BasicProperties::default().with_delivery_mode(2);
            let confirm = channel
                .basic_publish(
                    "bloodbank.events.v1".into(),
                    "bad.thing.said".into(),
                    options,
                    body,
                    properties,
                )
                .await
                .unwrap();
            let confirmation = confirm.await.unwrap();
            assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "nobody took it");
        }
    });
}

/// Not JSON; not UTF-8; nested deeper than anybody reads; larger than is allowed; and at last an event.
fn bodies() -> Vec<Vec<u8>> {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let large = format!(r#"{{"event_type":"bad.thing.said","payload":"{}"}}"#, "x".repeat(10 << 20));
    let event = r#"{"event_id":"4d5a8f3e-6e0c-4d52-9a53-0d1f3a0f4a11","event_type":"bad.thing.said","payload":{"n":1}}"#;
    vec![
        b"{\"event_type\": \"bad.thing".to_vec(),
        b"{\"event_type\":\"bad.thing.said\",\"payload\":\"\xff\xfe\"}".to_vec(),
        format!(r#"{{"event_type":"bad.thing.said","payload":{deep}}}"#).into_bytes(),
        large.into_bytes(),
        event.as_bytes().to_vec(),
    ]
}

#[test]
fn what_is_no_event_is_shown_and_does_not_stop_anybody() {
    let Some(broker) = Broker::start() else { return };
    let home = Home::new();
    let url = broker.url();
    let bind = ["--bus", &url, "--bind", "bad.#"];
    let tail = Talking::start(&home, &[&["bus", "tail", "--json"][..], &bind].concat());
    let work = Talking::start(&home, &[&["bus", "work", "bad", "--lines"][..], &bind].concat());
    // Both have their queues when something published arrives.
    let greeting = home.godctl(&["bus", "work", "bad", "--lines", "--idle", "1s", "--bus", &url]);
    assert_eq!(greeting.code, Some(0), "{greeting:?}");
    let started = Instant::now();
    while tail.lines.recv_timeout(Duration::from_millis(200)).is_err() {
        assert!(started.elapsed() < PATIENCE);
        home.godctl(&["bus", "publish", "bad.hello.said", "{}", "--bus", &url]);
    }

    publish_raw(&url, &bodies());
    let mut shown = Vec::new();
    while shown.len() < bodies().len() {
        let line = tail.next();
        if line["event_type"] != "bad.hello.said" {
            shown.push(line);
        }
    }
    for (line, word) in shown.iter().zip(["JSON", "UTF-8", "deep", "bytes"]) {
        let text = line["unparsed"].to_string();
        assert!(text.contains(word), "{word}: {}", text.chars().take(300).collect::<String>());
    }
    assert_eq!(shown[4]["payload"]["n"], 1);

    // The queue hands out events; the others are dead letters that say why.
    let mut dead = 0;
    loop {
        let line = work.next();
        match (&line["event"]["event_type"], &line["dead"]) {
            (Value::String(kind), _) if kind == "bad.hello.said" => {}
            (Value::String(_), _) => break assert_eq!(line["event"]["payload"]["n"], 1),
            _ => {
                assert!(line["reason"].as_str().unwrap().contains("not an event"), "{line}");
                dead += 1;
            }
        }
    }
    while dead < 4 {
        let line = work.next();
        dead += usize::from(line["reason"].is_string());
    }
    let listed = home.godctl(&["bus", "dead", "list", "bad", "--json", "--bus", &url]);
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 4), "{}", listed.stderr);
}

#[test]
fn what_is_too_large_or_too_deep_is_not_published() {
    let Some(broker) = Broker::start() else { return };
    let home = Home::new();
    let url = broker.url();
    let publish = |payload: &str| {
        let file = home.write("payload.json", payload);
        let argument = format!("@{}", file.display());
        home.godctl(&["bus", "publish", "bad.thing.said", &argument, "--bus", &url])
    };
    let large = publish(&format!("\"{}\"", "x".repeat(10 << 20)));
    assert_eq!(large.code, Some(1), "{large:?}");
    assert!(
        large.stderr.contains("1048576 are allowed") && large.stderr.contains("bus.max_event_bytes"),
        "{large:?}"
    );
    let deep = publish(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000)));
    assert_eq!(deep.code, Some(2), "{deep:?}");
    assert!(deep.stderr.contains("recursion limit"), "{deep:?}");
}

#[test]
fn a_broker_that_refuses_is_told_from_one_that_is_not_there() {
    let Some(broker) = Broker::start() else { return };
    let home = Home::new();
    let url = broker.url();
    let refused = |ran: &Ran, code: i32, words: &[&str]| {
        assert_eq!(ran.code, Some(code), "{ran:?}");
        for word in words {
            assert!(ran.stderr.contains(word), "{word}: {ran:?}");
        }
        for secret in ["guest:", "hunter2"] {
            assert!(!format!("{ran:?}").contains(secret), "{secret}: {ran:?}");
        }
    };

    // A queue of the same name, made by somebody else with other arguments.
    on_a_channel(&url, async |channel| {
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), 7.into());
        let options = QueueDeclareOptions { durable: true, ..Default::default() };
        channel.queue_declare("theirs".into(), options, arguments).await.unwrap();
    });
    let work = home.godctl(&["bus", "work", "theirs", "--lines", "--bind", "x.#", "--bus", &url]);
    refused(&work, 1, &["theirs", "exists with other arguments"]);

    let wrong = format!("amqp://guest:hunter2@127.0.0.1:{}/%2f", broker.port());
    let queue = ["bus", "work", "mine", "--lines", "--idle", "1s", "--bind", "x.#", "--bus"];
    let trace = ["-vvv"];
    refused(&home.godctl(&[&queue[..], &[&wrong], &trace].concat()), 69, &["refused access", "amqp://***@"]);
    refused(
        &home.godctl(&[&queue[..], &["amqp://guest:hunter2@nowhere.invalid"], &trace].concat()),
        69,
        &["cannot reach", "nowhere.invalid"],
    );
    drop(broker);
    refused(&home.godctl(&[&queue[..], &[&wrong], &trace].concat()), 69, &["cannot reach"]);
}

#[test]
fn tls_is_trusted_only_where_it_should_be() {
    let Some(broker) = Broker::start_with_tls() else { return };
    let home = Home::new();
    let publish = |url: &str, ca: &str| {
        let ca = format!("bus.ca_file={ca}");
        home.godctl(&[
            "-c", &ca, "bus", "work", "x", "--lines", "--idle", "1s", "--bind", "x.#", "--bus", url,
        ])
    };
    let trusted = broker.ca_file();
    let ran = publish(&broker.tls_url(), trusted.to_str().unwrap());
    assert_eq!(ran.code, Some(0), "{ran:?}");

    let stranger = home.write("stranger.pem", &stranger_ca());
    let ran = publish(&broker.tls_url(), stranger.to_str().unwrap());
    assert_ne!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stderr.contains("certificate") && ran.stderr.contains("bus.ca_file"), "{ran:?}");
    assert!(!ran.stderr.contains("guest:guest"), "{ran:?}");
}
