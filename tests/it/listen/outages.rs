//! What `agent listen` does when its broker is killed, stops, or loses patience, and when it is killed itself.

use std::{fs, path::Path, time::Duration};

use futures_util::StreamExt as _;
use lapin::{
    options::{BasicConsumeOptions, BasicPublishOptions, QueueDeclareOptions},
    types::FieldTable,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Office, WAITS, collected, ends_in_order, lives, peak_mb};
use crate::{
    broker::{Broker, on_a_channel},
    redis_node::RedisNode,
    support::until,
};

/// All bytes of the files below a folder.
fn bytes_below(folder: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            bytes.extend(bytes_below(&path));
        } else {
            // A socket holds nothing.
            bytes.extend(fs::read(&path).unwrap_or_default());
        }
    }
    bytes
}

fn holds(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

fn signal(listener: &super::Running, signal: Signal) {
    kill_process(Pid::from_child(&listener.0), signal).unwrap();
}

/// A prompt for claude that shares its directory with others.
fn prompt(text: &str, session: &str) -> Value {
    json!({"provider": "claude", "prompt": text, "session_id": session, "access": "plan"})
}

#[test]
fn an_answer_that_the_broker_misses_waits_encrypted_outlives_kill_9_and_is_told_once() {
    let (Some(mut broker), Some(redis)) = (Broker::start(), RedisNode::start()) else { return };
    let (bus, store) = (format!("bus.url={}", broker.url()), format!("store.url={}", redis.url()));
    let office = Office::new(&[&bus, &store, "log.level=debug"]);
    office.claude(&format!("{WAITS}; echo \"bad key $ANTHROPIC_API_KEY\" >&2"));
    office.open();
    office.collect("answers", &["agent.response.completed"]);
    let mut first = office.listen(&["--workers", "1"]);
    office.publish(&prompt("canary-of-a-prompt", "mine"));
    let session = until("it runs", || {
        let session = office.sessions().into_iter().next()?;
        (!session["native_id"].is_null() && !session["run"]["leader"].is_null()).then_some(session)
    });
    let leader = &session["run"]["leader"]["pid"];
    let line = fs::read(format!("/proc/{leader}/cmdline")).unwrap();
    assert!(!holds(&line, "canary-of") && !holds(&line, "marker-of"));

    broker.kill();
    assert!(lives(leader), "its turn goes on");
    office.go();
    until("its answer waits", || {
        let status = office.status();
        (status["journal"]["done"] == 1 && status["journal"]["unsent"].as_u64()? > 0).then_some(())
    });
    // The listener has tried to publish it, in vain.
    until("it was tried", || fs::read_to_string(office.log()).ok()?.contains("events wait").then_some(()));
    let kept = [
        bytes_below(&office.path(".local/share/godctl")),
        bytes_below(redis.folder()),
        fs::read(office.log()).unwrap(),
    ]
    .concat();
    assert!(holds(&kept, "mine") && holds(&kept, "sessions"), "these are the bytes");
    for secret in ["canary-of-a-prompt", "marker-of-a-secret", "\"response\":\"two\""] {
        assert!(!holds(&kept, secret), "{secret}");
    }

    first.0.kill().unwrap();
    first.0.wait().unwrap();
    broker.restart();
    let second = office.listen(&["--workers", "1"]);
    until("its answer is there", || (office.queue("answers")["ready"] == 1).then_some(()));
    assert_eq!(office.queue("agent.prompt")["consumers"], 1);
    until("nothing waits", || (office.status()["journal"]["unsent"] == 0).then_some(()));
    ends_in_order(second);
    let answers = collected(&broker, "answers");
    assert_eq!(answers.len(), 1, "{answers:?}");
    assert_eq!(answers[0]["payload"]["prompt"], "canary-of-a-prompt");
    assert_eq!(office.runs(), 1, "its agent is not run again");
}

/// RabbitMQ takes a message back that nobody has acknowledged for so long, and closes the channel.
#[test]
fn a_turn_that_takes_longer_than_the_broker_waits_for_an_acknowledgement_runs_once() {
    let terms = "[{rabbit, [{consumer_timeout, 1500}, {channel_tick_interval, 500}]}].";
    let Some(broker) = Broker::start_with(terms) else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url())]);
    office.claude(WAITS);
    office.open();
    office.collect("answers", &["agent.response.completed"]);
    let listener = office.listen(&["--workers", "1"]);
    office.publish(&prompt("count", "mine"));
    until("it runs", || (office.runs() == 1).then_some(()));
    // Somebody who acknowledges late is cut off meanwhile: the broker means it.
    on_a_channel(&broker.url(), async |channel| {
        let queue = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        channel.queue_declare("late".into(), queue, FieldTable::default()).await.unwrap();
        channel
            .basic_publish("".into(), "late".into(), BasicPublishOptions::default(), b"x", Default::default())
            .await
            .unwrap();
        let options = BasicConsumeOptions::default();
        let consumer = channel.basic_consume("late".into(), "".into(), options, FieldTable::default());
        let mut consumer = consumer.await.unwrap();
        consumer.next().await.unwrap().unwrap();
        let refused = loop {
            match consumer.next().await {
                Some(Err(error)) => break error.to_string(),
                Some(Ok(_)) => {}
                None => break "no reason given".to_owned(),
            }
        };
        assert!(!channel.status().connected(), "{refused}");
    });
    assert_eq!(office.runs(), 1);
    office.go();
    until("it is answered", || (office.queue("answers")["ready"] == 1).then_some(()));
    // Its place in the queue was not lost either.
    office.publish(&prompt("and again", "mine"));
    until("the next one is answered", || (office.queue("answers")["ready"] == 2).then_some(()));
    ends_in_order(listener);
    assert_eq!(office.runs(), 2, "once each");
    let log = fs::read_to_string(office.log()).unwrap();
    assert!(!log.contains("PRECONDITION_FAILED") && !log.contains("timed out"), "{log}");
}

#[test]
fn a_flood_before_a_broker_that_stands_still_takes_little_memory_and_ends_with_its_answer() {
    const TOOLS: u64 = 6_000;
    let Some(broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url())]);
    let delta = r#"{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"word word word "}}}"#;
    let tool = r#"{"type":"assistant","message":{"id":"m1","content":[{"type":"tool_use","id":"t%d","name":"Bash","input":{"command":"ls %d"}}]},"parent_tool_use_id":null}"#;
    let print = |line: &str| line.replace('"', "\\\"");
    office.claude(&format!(
        "touch HOME/begun; while [ ! -e HOME/flood ]; do sleep 0.05; done
         awk 'BEGIN {{ for (i = 0; i < 50000; i++) print \"{}\"; for (i = 0; i < {TOOLS}; i++) printf \"{}\\n\", i, i }}'",
        print(delta),
        print(tool)
    ));
    office.open();
    office.collect("answers", &["agent.response.completed"]);
    office.collect("ends", &["agent.session.ended"]);
    office.collect("tools", &["agent.tool.invoked"]);
    let listener = office.listen(&["--workers", "1"]);
    office.publish(&prompt("count", "mine"));
    until("it runs", || office.path("begun").exists().then_some(()));
    broker.pause();
    fs::write(office.path("flood"), "").unwrap();
    let journal = |is: &dyn Fn(&Value) -> bool| {
        until("the journal says so", || {
            Some(office.glance()?["journal"].clone()).filter(|journal| is(journal))
        })
    };
    let unsent = journal(&|journal| journal["done"] == 1)["unsent"].as_u64().unwrap();
    broker.resume();
    assert!(unsent > 1_000, "{unsent}");
    until("its answer is there", || (office.queue("answers")["ready"] == 1).then_some(()));
    journal(&|journal| journal["unsent"] == 0);
    let peak = peak_mb(listener.0.id());
    assert!(peak < 150, "{peak} MB");
    let told = office.queue("tools")["ready"].as_u64().unwrap();
    ends_in_order(listener);
    let ended = collected(&broker, "ends").remove(0);
    let left_out = ended["payload"]["events_left_out"].as_u64().unwrap_or(0);
    // What a broker that stood still has seen twice is not told twice, but may be counted twice by it.
    assert!(told + left_out >= TOOLS, "{told} told, {left_out} left out");
    println!("{told} told, {left_out} left out, {unsent} waited, {peak} MB");
}

#[test]
fn a_stop_gives_back_what_was_not_begun_and_what_was_is_gone_on_with() {
    let Some(broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url()), "agents.grace_s=1"]);
    office.claude(
        "mkdir -p HOME/at; touch HOME/at/$$; ls HOME/at | wc -l >> HOME/most
        while [ ! -e HOME/go ]; do sleep 0.05; done; rm HOME/at/$$",
    );
    office.open();
    office.collect("answers", &["agent.response.completed"]);
    for number in 0..5 {
        office.publish(&prompt("count", &format!("s-{number}")));
    }
    let mut listener = office.listen(&["--workers", "2", "--drain-timeout", "200ms"]);
    let at_work = until("two run", || {
        let running = office.status()["running"].as_array()?.clone();
        (office.runs() == 2 && running.len() == 2).then_some(running)
    });
    assert_eq!(office.status()["journal"]["ready"], 0, "no more is taken than is worked on");
    let ready = office.queue("agent.prompt")["ready"].as_u64().unwrap();
    assert!(ready >= 1, "no more than it has workers are on their way to the listener: {ready}");
    signal(&listener, Signal::TERM);
    assert_eq!(listener.0.wait().unwrap().code(), Some(0));
    assert_eq!(office.queue("agent.prompt")["ready"], 3);
    let pids = fs::read_to_string(office.path("runs")).unwrap();
    assert!(pids.lines().all(|pid| !lives(&pid.parse().unwrap())), "{pids}");
    let interrupted = office.sessions().into_iter().filter(|session| session["state"] == "interrupted");
    assert_eq!(interrupted.count(), 2);
    let begun: Vec<_> = at_work.iter().map(|running| running["session"].clone()).collect();

    fs::remove_dir_all(office.path("at")).unwrap();
    let second = office.listen(&["--workers", "2"]);
    until("two run", || (office.runs() == 4).then_some(()));
    office.go();
    until("all are answered", || (office.queue("answers")["ready"] == 5).then_some(()));
    ends_in_order(second);
    assert_eq!(office.runs(), 7, "two of them were begun twice");
    for session in office.sessions() {
        let turns = if begun.contains(&session["id"]) { 2 } else { 1 };
        assert_eq!(
            (&session["prompt_count"], &session["state"]),
            (&json!(turns), &json!("idle")),
            "{session}"
        );
    }
    let most = fs::read_to_string(office.path("most")).unwrap();
    assert!(most.lines().all(|count| count.trim().parse::<u32>().unwrap() <= 2), "{most}");
}

#[test]
fn a_second_signal_ends_it_at_once_with_its_agents() {
    let office = Office::new(&["log.level=info"]);
    office.claude("trap '' TERM INT; while true; do sleep 0.05; done");
    office.open();
    let mut listener = office.listen(&["--drain-timeout", "600s"]);
    office.publish(&prompt("count", "mine"));
    until("it runs", || (office.runs() == 1).then_some(()));
    let leader = until("its leader is known", || {
        let leader = office.sessions().first()?["run"]["leader"]["pid"].clone();
        (!leader.is_null()).then_some(leader)
    });
    signal(&listener, Signal::TERM);
    until("it has heard the first", || {
        fs::read_to_string(office.log()).ok()?.contains("second signal").then_some(())
    });
    assert!(listener.0.try_wait().unwrap().is_none(), "it waits for its turn");
    let asked = std::time::Instant::now();
    signal(&listener, Signal::TERM);
    assert_eq!(listener.0.wait().unwrap().code(), Some(130));
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    until("its agent is gone", || (!lives(&leader)).then_some(()));
}

#[test]
fn the_same_prompt_twice_is_one_run_and_the_same_event_twice() {
    let Some(broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url())]);
    office.claude(":");
    office.open();
    office.collect("answers", &["agent.response.completed"]);
    let listener = office.listen(&[]);
    let mut once = prompt("count", "mine");
    once["idempotency_key"] = json!("k");
    for count in 1..=2 {
        office.publish(&once);
        until("it is answered", || (office.queue("answers")["ready"] == count).then_some(()));
    }
    once["prompt"] = json!("something else");
    office.publish(&once);
    until("it is refused", || (office.queue("agent.prompt")["dead"] == 1).then_some(()));
    ends_in_order(listener);
    assert_eq!(office.runs(), 1);
    let answers = collected(&broker, "answers");
    assert_eq!((answers.len(), &answers[0]), (2, &answers[1]));
}

/// Others than us may put anything into the queue, and others than us read what died.
#[test]
fn dead_letters_say_why_in_their_headers_whoever_sent_them() {
    let Some(broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url()), "listen.attempts=2"]);
    office.claude("echo overloaded >&2; exit 1");
    office.open();
    let errors = "agent.error";
    office.collect("errors", &[errors]);
    let listener = office.listen(&["--workers", "1"]);
    on_a_channel(&broker.url(), async |channel| {
        let options = BasicPublishOptions::default();
        let garbage = b"{\"provider\": \"claude\", \"prompt\"";
        channel
            .basic_publish("".into(), "agent.prompt".into(), options, garbage, Default::default())
            .await
            .unwrap();
    });
    office.publish(&json!({"provider": "siri", "prompt": "x"}));
    office.publish(&prompt("count", "mine"));
    until("all are dead", || (office.queue("agent.prompt")["dead"] == 3).then_some(()));
    ends_in_order(listener);
    assert_eq!(office.runs(), 2, "tried again once");
    let mut died = on_a_channel(&broker.url(), async |channel| {
        let mut died = Vec::new();
        while let Some(message) =
            channel.basic_get("agent.prompt.dlq".into(), Default::default()).await.unwrap()
        {
            let headers = message.properties.headers().clone().unwrap();
            let header = |name: &str| {
                let value = headers.inner().get(name)?;
                Some(value.as_long_string().map_or_else(|| format!("{value:?}"), ToString::to_string))
            };
            let names = ["x-godctl-reason", "x-godctl-error", "x-godctl-origin-queue", "x-godctl-dead-at"];
            died.push(names.map(|name| header(name).unwrap_or_else(|| panic!("{name}: {headers:?}"))));
        }
        died
    });
    died.sort();
    assert_eq!(died.len(), 3, "{died:?}");
    assert!(died.iter().all(|[_, _, queue, _]| queue == "agent.prompt"), "{died:?}");
    let errors_told: Vec<_> = died.iter().map(|[_, error, ..]| error.as_str()).collect();
    assert!(
        errors_told.iter().any(|error| error.contains("overloaded") && error.contains("2 attempts")),
        "{died:?}"
    );
    assert!(errors_told.iter().any(|error| error.contains("siri")), "{died:?}");
    let told = collected(&broker, "errors");
    assert_eq!((told.len(), &told[0]["payload"]["class"]), (1, &json!("overloaded")), "{told:?}");
    assert_eq!(told[0]["payload"]["attempts"], 2);
}
