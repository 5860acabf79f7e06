//! `godctl bus` on a RabbitMQ of the test's own.

use lapin::{
    ExchangeKind,
    options::{BasicGetOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions},
    types::FieldTable,
};
use serde_json::{Value, json};

use super::Desk;
use crate::{
    broker::{Broker, on_a_channel},
    support::until,
};

const EXCHANGE: &str = "bloodbank.events.v1";

#[test]
fn events_and_work_go_through_a_rabbitmq() {
    let Some(broker) = Broker::start() else { return };
    let desk = Desk::new();
    let url = broker.url();
    let at = ["--bus", url.as_str()];

    a15_nobody_to_take_an_event_is_a_warning(&desk, &at);
    a12_and_a14_the_exchange_and_its_messages_are_what_others_expect(&desk, &at, &url);
    a18_the_environment_says_which_broker(&desk, &url);
    work_is_done_retried_and_buried(&desk, &at);
    a_bridge_copies_each_event_once(&desk, &at);
    the_doctor_looks_at_the_broker(&desk, &at);
}

fn a15_nobody_to_take_an_event_is_a_warning(desk: &Desk, at: &[&str]) {
    let ran = desk.bus(&[&["publish", "x.y", "{}"], at].concat());
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.stdout.starts_with("published x.y"), "{ran:?}");
    assert!(ran.stderr.starts_with("no queue bound to take x.y"), "{ran:?}");
    let ran = desk.bus(&[&["publish", "x.y", "{}", "--require-route"], at].concat());
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(1), ""), "{ran:?}");
    let line = b"{\"event_type\":\"x.y\",\"payload\":1}\n";
    let ran = desk.bus_with(&[&["publish", "--lines"], at].concat(), line);
    assert!(ran.code == Some(0) && ran.stdout.contains("\"outcome\":\"unrouted\""), "{ran:?}");
}

fn a12_and_a14_the_exchange_and_its_messages_are_what_others_expect(desk: &Desk, at: &[&str], url: &str) {
    on_a_channel(url, async |channel| {
        // A broker refuses this if the exchange has another type, or does not survive a restart.
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        channel
            .exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default())
            .await
            .unwrap();
        let exclusive = QueueDeclareOptions { exclusive: true, ..Default::default() };
        let queue = channel.queue_declare("".into(), exclusive, FieldTable::default()).await.unwrap();
        let name = queue.name().clone();
        let bind = QueueBindOptions::default();
        channel
            .queue_bind(name.clone(), EXCHANGE.into(), "x.#".into(), bind, FieldTable::default())
            .await
            .unwrap();

        let printed = desk.json(&[&["publish", "x.y", r#"{"a":1}"#, "--json"], at].concat());
        let message = channel.basic_get(name, BasicGetOptions { no_ack: true }).await.unwrap().unwrap();
        let properties = &message.properties;
        assert_eq!(message.routing_key.as_str(), "x.y");
        assert_eq!(*properties.delivery_mode(), Some(2), "persistent");
        let text = |value: &Option<lapin::types::ShortString>| value.as_ref().unwrap().to_string();
        assert_eq!(json!(text(properties.message_id())), printed[0]["event_id"]);
        assert_eq!(text(properties.content_type()), "application/json");
        let body: Value = serde_json::from_slice(&message.data).unwrap();
        assert_eq!(body, printed[0]);
    });
}

fn a18_the_environment_says_which_broker(desk: &Desk, url: &str) {
    let without_user = url.replace("guest:guest@", "");
    let cases: [&[(&str, &str)]; 2] = [
        &[("RABBIT_URL", url)],
        &[("RABBIT_URL", &without_user), ("DEFAULT_USERNAME", "guest"), ("DEFAULT_PASSWORD", "guest")],
    ];
    for vars in cases {
        let mut command = desk.home.command("godctl");
        let output = command.args(["bus", "queues", "--json"]).envs(vars.iter().copied()).output().unwrap();
        assert!(output.status.success(), "{vars:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    const MARKER: &str = "marker-5566";
    let mut command = desk.home.command("godctl");
    command.args(["bus", "queues", "-vvvv"]).env("RABBIT_URL", &without_user);
    let output = command.env("DEFAULT_USERNAME", "guest").env("DEFAULT_PASSWORD", MARKER).output().unwrap();
    assert_eq!(output.status.code(), Some(69));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("refused access") && !said.contains(MARKER), "{said}");
}

fn work_is_done_retried_and_buried(desk: &Desk, at: &[&str]) {
    let run = |args: &[&str]| {
        let ran = desk.bus(&[at, args].concat());
        assert_eq!(ran.code, Some(0), "{args:?}: {ran:?}");
        ran.stdout
    };
    run(&["work", "jobs", "--bind", "job.#", "--lines"]);
    for event_type in ["job.good", "job.bad", "job.flaky"] {
        run(&["publish", event_type, "{}"]);
    }
    let script = r#"
        echo "$GODCTL_EVENT_TYPE $GODCTL_EVENT_ATTEMPT"
        case "$GODCTL_EVENT_TYPE" in
            job.bad) echo "no good" >&2; exit 65;;
            job.flaky) test "$GODCTL_EVENT_ATTEMPT" = 2;;
        esac
    "#;
    let said = run(&["work", "jobs", "--idle", "3s", "--backoff", "10ms", "--", "sh", "-c", script]);
    let mut said: Vec<&str> = said.lines().collect();
    said.sort_unstable();
    assert_eq!(said, ["job.bad 1", "job.flaky 1", "job.flaky 2", "job.good 1"]);

    let dead: Value = serde_json::from_str(run(&["dead", "list", "--json"]).trim()).unwrap();
    assert_eq!(dead["event"]["event_type"], "job.bad");
    assert!(dead["reason"].as_str().unwrap().contains("no good"), "{dead}");
    let id = dead["event_id"].as_str().unwrap();
    assert_eq!(run(&["dead", "requeue", "jobs", id]), "requeued 1\n");
    assert_eq!(
        run(&["work", "jobs", "--idle", "2s", "--", "sh", "-c", "echo $GODCTL_EVENT_TYPE"]),
        "job.bad\n"
    );
    assert_eq!(run(&["queues", "delete", "jobs", "--yes"]), "deleted jobs\n");
}

fn a_bridge_copies_each_event_once(desk: &Desk, at: &[&str]) {
    for n in 0..5 {
        desk.publish("bridged.n", &n.to_string());
    }
    // Somebody has to be there to take them.
    desk.ok(&[&["work", "copies", "--bind", "bridged.#", "--lines"], at].concat());
    let bridge = |expected: u64| {
        let args =
            ["bridge", "--from", "sqlite:", "--to", at[1], "--bind", "bridged.#", "--no-follow", "--json"];
        let copied: Value = serde_json::from_str(&desk.ok(&args)).unwrap();
        assert_eq!(copied["copied"], expected, "{copied}");
    };
    bridge(5);
    bridge(0);
    desk.publish("bridged.n", "5");
    bridge(1);
    let queues: Value = serde_json::from_str(&desk.ok(&[&["queues", "--json"], at].concat())).unwrap();
    assert_eq!(queues[0]["ready"], 6, "{queues}");
    let same = desk.bus(&["bridge", "--from", at[1], "--to", at[1]]);
    assert_eq!(same.code, Some(2), "{same:?}");
}

fn the_doctor_looks_at_the_broker(desk: &Desk, at: &[&str]) {
    let report: Value = serde_json::from_str(&desk.ok(&[&["doctor", "--json"], at].concat())).unwrap();
    assert_eq!(report["ok"], true, "{report}");
    let report = report.to_string();
    assert!(
        report.contains("exchange bloodbank.events.v1 is ready") && !report.contains("guest:guest"),
        "{report}"
    );
}

#[test]
fn a_history_that_the_broker_has_lost_keeps_nobody_from_publishing_and_working() {
    let Some(mut broker) = Broker::start() else { return };
    let desk = Desk::new();
    let url = broker.url();
    let at = ["--bus", url.as_str(), "-c", "bus.history=true"];
    desk.ok(&[&["publish", "x.y", "1"], &at[..]].concat());
    desk.ok(&[&["work", "things", "--lines", "--bind", "x.#"], &at[..]].concat());
    broker.lose_streams();
    until("the node is whole again", || {
        (desk.bus(&[&["queues"], &at[..]].concat()).code == Some(0)).then_some(())
    });
    let ran = desk.bus(&[&["publish", "x.y", "2"], &at[..]].concat());
    assert!(ran.code == Some(0) && ran.stdout.starts_with("published"), "{ran:?}");
    assert_eq!(ran.stderr.matches("the history cannot be reached").count(), 1, "{}", ran.stderr);
    let done = desk.bus(&[&["work", "things", "--idle", "1s"], &at[..], &["--", "cat"]].concat());
    assert_eq!(done.code, Some(0), "{}", done.stderr);
    assert_eq!(done.stdout.matches("\"x.y\"").count(), 1, "{}", done.stdout);
    let ran = desk.bus(&[&["tail", "--no-follow"], &at[..]].concat());
    assert_eq!(ran.code, Some(69), "{ran:?}");
    assert!(ran.stderr.contains("its history cannot be reached"), "{}", ran.stderr);
}
