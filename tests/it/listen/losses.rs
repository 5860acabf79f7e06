//! Many prompts, while agents and their listener are killed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{Office, collected, ends_in_order, lives};
use crate::{
    broker::Broker,
    support::{Running, until},
};

const PROMPTS: usize = 100;

fn files_of(listener: &Running) -> usize {
    fs::read_dir(format!("/proc/{}/fd", listener.0.id())).unwrap().count()
}

/// Publishes prompts for twenty sessions in one go.
fn ask(office: &Office, prompts: std::ops::Range<usize>) {
    let line = |number: usize| {
        let payload = json!({
            "provider": "claude", "prompt": format!("prompt {number}"), "access": "plan",
            "session_id": format!("s-{}", number % 20),
        });
        json!({"event_id": uuid::Uuid::new_v4(), "event_type": "agent.prompt", "timestamp": "2026-11-21T10:00:00Z",
               "version": "1.0.0", "source": {"host": "h", "type": "manual", "app": "test"}, "correlation_ids": [],
               "payload": payload})
        .to_string()
    };
    let lines: Vec<_> = prompts.map(line).collect();
    let file = office.desk.home.write("prompts.jsonl", &lines.join("\n"));
    office.run(&["bus", "import", file.to_str().unwrap()]);
}

fn over(office: &Office) -> u64 {
    let journal = office.status()["journal"].clone();
    journal["done"].as_u64().unwrap() + journal["dead"].as_u64().unwrap()
}

#[test]
fn a_hundred_prompts_end_once_each_although_agents_and_the_listener_are_killed_and_nothing_is_left() {
    let Some(broker) = Broker::start() else { return };
    let office = Office::new(&[&format!("bus.url={}", broker.url()), "agents.grace_s=1"]);
    office.claude("sleep 0.1");
    office.open();
    office.collect("ends", &["agent.response.completed", "agent.prompt.failed"]);
    let mut first = office.listen(&["--workers", "5"]);
    ask(&office, 0..PROMPTS);
    let pids = || -> Vec<Value> {
        let text = fs::read_to_string(office.path("runs")).unwrap_or_default();
        text.lines().map(|line| line.parse().unwrap()).collect()
    };
    let kill_some = || {
        for pid in pids().iter().rev().take(5).filter(|pid| lives(pid)) {
            if fastrand::u8(..4) == 0 {
                let pid = i32::try_from(pid.as_i64().unwrap()).unwrap();
                kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).ok();
            }
        }
    };
    until("a third is over", || {
        kill_some();
        (over(&office) > 33).then_some(())
    });
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    let second = office.listen(&["--workers", "5"]);
    until("two thirds are over", || {
        kill_some();
        (over(&office) > 66).then_some(())
    });
    let all_over = |count: usize| {
        until("all are over", || {
            let status = office.status()["journal"].clone();
            (over(&office) == count as u64 && status["unsent"] == 0).then_some(())
        });
    };
    all_over(PROMPTS);
    let files = files_of(&second);
    ask(&office, PROMPTS..PROMPTS + 20);
    all_over(PROMPTS + 20);
    assert!(files_of(&second) <= files + 2, "{files} files were open, and now {}", files_of(&second));
    ends_in_order(second);
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let (mut told, mut given_up) = (BTreeSet::new(), 0);
    for event in collected(&broker, "ends") {
        // Whoever reads the bus knows by its id an event that it has seen.
        if told.insert(event["event_id"].to_string()) {
            let payload = match event["event_type"] == "agent.prompt.failed" {
                true => &event["payload"]["event"]["payload"],
                false => &event["payload"],
            };
            given_up += u32::from(event["event_type"] == "agent.prompt.failed");
            *ends.entry(payload["prompt"].as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    assert_eq!(ends.len(), PROMPTS + 20);
    assert!(ends.values().all(|count| *count == 1), "{ends:?}");
    assert!(pids().iter().all(|pid| !lives(pid)), "no agent is left");
    println!("{} runs, {given_up} given up", pids().len());
}
