//! Work queues: a command for each delivery, and programs that speak JSON lines.

use serde_json::{Value, json};

use super::{Desk, until};

#[test]
fn a_command_gets_the_event_and_its_exit_code_settles() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    let good = desk.publish("job.good", r#"{"n":1}"#);
    desk.publish("job.bad", "{}");
    desk.publish("job.flaky", "{}");
    let script = r#"
        cat > "event.$GODCTL_EVENT_TYPE"
        echo "$GODCTL_QUEUE $GODCTL_EVENT_TYPE $GODCTL_EVENT_ATTEMPT"
        case "$GODCTL_EVENT_TYPE" in
            job.bad) echo "not a picture" >&2; exit 65;;
            job.flaky) test "$GODCTL_EVENT_ATTEMPT" = 3 || { echo "no luck" >&2; exit 75; };;
        esac
    "#;
    let script = format!("cd {}; {script}", desk.home.path().display());
    let ran = desk.bus(&["work", "jobs", "--idle", "2s", "--backoff", "10ms", "--", "sh", "-c", &script]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let mut runs: Vec<&str> = ran.stdout.lines().collect();
    runs.sort_unstable();
    assert_eq!(
        runs,
        ["jobs job.bad 1", "jobs job.flaky 1", "jobs job.flaky 2", "jobs job.flaky 3", "jobs job.good 1"]
    );
    assert!(ran.stderr.contains("not a picture\n"), "{}", ran.stderr);

    let event = std::fs::read_to_string(desk.home.path().join("event.job.good")).unwrap();
    let event: Value = serde_json::from_str(&event).unwrap();
    assert_eq!((&event["event_id"], &event["payload"]), (&json!(good), &json!({ "n": 1 })));

    let queue = desk.queue("jobs");
    assert_eq!((&queue["ready"], &queue["dead"]), (&json!(0), &json!(1)));
    let dead = desk.json(&["dead", "list", "jobs", "--json"]);
    assert_eq!(dead[0]["event"]["event_type"], "job.bad");
    assert!(dead[0]["reason"].as_str().unwrap().contains("not a picture"), "{dead:?}");
}

#[test]
fn dead_letters_are_looked_at_tried_again_and_dropped() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    let id = desk.publish("job.a", "{}");
    let other = desk.publish("job.b", "{}");
    let fail = [
        "work",
        "jobs",
        "--idle",
        "1s",
        "--max-attempts",
        "2",
        "--backoff",
        "1ms",
        "--",
        "sh",
        "-c",
        "exit 1",
    ];
    assert_eq!(desk.bus(&fail).code, Some(0));
    let list = desk.ok(&["dead", "list"]);
    assert!(list.contains(&id) && list.contains("exit status: 1"), "{list}");
    let shown: Value = serde_json::from_str(&desk.ok(&["dead", "show", "jobs", &id])).unwrap();
    assert_eq!((&shown["attempts"], shown["history"].as_array().unwrap().len()), (&json!(2), 2), "{shown}");

    assert_eq!(desk.ok(&["dead", "requeue", "jobs", &id]), "requeued 1\n");
    assert_eq!(desk.queue("jobs")["ready"], 1);
    let ran = desk.bus(&["work", "jobs", "--idle", "1s", "--", "sh", "-c", "echo $GODCTL_EVENT_ATTEMPT"]);
    assert_eq!(ran.stdout, "1\n", "attempts are counted afresh");
    assert_eq!(desk.bus(&["dead", "requeue", "jobs", &id]).code, Some(1), "it is not dead any more");
    assert_eq!(desk.ok(&["dead", "drop", "jobs", &other, "--yes"]), "dropped 1\n");
    assert_eq!(desk.ok(&["dead", "list"]), "no dead letters\n");
    assert_eq!(desk.bus(&["dead", "list", "no-such-queue"]).code, Some(1));
}

#[test]
fn a_lease_is_kept_alive_while_the_command_runs() {
    let desk = Desk::new();
    desk.make_queue("slow", "job.#");
    desk.publish("job.a", "{}");
    let args = [
        "work",
        "slow",
        "--workers",
        "2",
        "--visibility",
        "1s",
        "--idle",
        "2s",
        "--",
        "sh",
        "-c",
        "echo run; sleep 3",
    ];
    let ran = desk.bus(&args);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "run\n"), "{ran:?}");
    assert_eq!(desk.queue("slow")["ready"], 0);
}

#[test]
fn a_command_that_takes_too_long_is_ended_with_all_it_started() {
    let desk = Desk::new();
    desk.make_queue("slow", "job.#");
    desk.publish("job.a", "{}");
    // The grandchild would write its file if it were left alone.
    let file = desk.home.path().join("written");
    let script = format!("(sleep 4; touch {}) & wait", file.display());
    let args = [
        "work",
        "slow",
        "--timeout",
        "500ms",
        "--max-attempts",
        "1",
        "--idle",
        "1s",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let ran = desk.bus(&args);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let dead = desk.json(&["dead", "list", "slow", "--json"]);
    assert!(dead[0]["reason"].as_str().unwrap().contains("took longer than 0.5 s"), "{dead:?}");
    assert!(!file.exists());
}

#[test]
fn a_command_that_cannot_run_costs_no_attempt() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    desk.publish("job.a", "{}");
    let ran = desk.bus(&["work", "jobs", "--", "/no/such/program"]);
    assert_eq!(ran.code, Some(1));
    assert!(ran.stderr.contains("cannot run /no/such/program"), "{}", ran.stderr);
    assert_eq!(desk.queue("jobs")["ready"], 1);
    let ran = desk.bus(&["work", "jobs", "--idle", "1s", "--", "sh", "-c", "echo $GODCTL_EVENT_ATTEMPT"]);
    assert_eq!(ran.stdout, "1\n");
}

#[cfg(unix)]
#[test]
fn sigterm_lets_work_in_hand_finish_and_takes_no_more() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    for n in 0..3 {
        desk.publish("job.a", &n.to_string());
    }
    let talk = desk.start(&["work", "jobs", "--", "sh", "-c", "echo begun; sleep 1; echo done"]);
    assert_eq!(talk.hear(), "begun");
    talk.signal(rustix::process::Signal::TERM);
    assert_eq!(talk.hear(), "done");
    let (status, stderr) = talk.end();
    assert!(status.success(), "{stderr}");
    assert_eq!(desk.queue("jobs")["ready"], 2);
}

#[test]
fn programs_settle_work_over_lines() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    let ids: Vec<String> = (0..4).map(|n| desk.publish("job.a", &n.to_string())).collect();
    let mut talk = desk.start(&["work", "jobs", "--lines"]);
    for (n, id) in ids.iter().enumerate() {
        let delivery = talk.hear_json();
        assert_eq!(delivery["event_id"], json!(id));
        assert_eq!(delivery["event"]["payload"], json!(n));
        assert_eq!((&delivery["attempt"], &delivery["queue"]), (&json!(1), &json!("jobs")));
        assert!(delivery["at_ms"].as_i64().unwrap() > 1_700_000_000_000);
    }
    let answer = |talk: &mut super::Talk, line: Value| {
        talk.say(&line.to_string());
        talk.hear_json()
    };
    assert_eq!(answer(&mut talk, json!({ "extend": ids[0] })), json!({ "extended": ids[0] }));
    assert_eq!(answer(&mut talk, json!({ "ack": ids[0] })), json!({ "acked": ids[0] }));
    assert_eq!(answer(&mut talk, json!({ "dead": ids[1], "reason": "broken" })), json!({ "dead": ids[1] }));
    let twice = answer(&mut talk, json!({ "ack": ids[0] }));
    assert!(twice["error"].as_str().unwrap().contains("not held"), "{twice}");
    let wrong = answer(&mut talk, json!({ "acknowledge": ids[2] }));
    assert!(wrong["error"].as_str().unwrap().contains("\"ack\""), "{wrong}");
    let retried = answer(&mut talk, json!({ "retry": ids[2], "delay_ms": 1, "reason": "later" }));
    assert_eq!(retried, json!({ "retrying": ids[2] }));
    let again = talk.hear_json();
    assert_eq!((&again["event_id"], &again["attempt"]), (&json!(ids[2]), &json!(2)));
    // The rest is given back, uncounted, at the end of the input.
    talk.hang_up();
    let (status, stderr) = talk.end();
    assert!(status.success(), "{stderr}");
    assert_eq!(desk.queue("jobs")["ready"], 2);
    assert_eq!(desk.queue("jobs")["dead"], 1);
}

#[cfg(unix)]
#[test]
fn programs_are_given_time_to_settle_after_sigterm() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    let ids: Vec<String> = (0..2).map(|n| desk.publish("job.a", &n.to_string())).collect();
    let mut talk = desk.start(&["work", "jobs", "--lines", "--prefetch", "1"]);
    assert_eq!(talk.hear_json()["event_id"], json!(ids[0]));
    talk.signal(rustix::process::Signal::TERM);
    talk.say(&json!({ "ack": ids[0] }).to_string());
    assert_eq!(talk.hear_json(), json!({ "acked": ids[0] }));
    let (status, stderr) = talk.end();
    assert!(status.success(), "{stderr}");
    assert_eq!(desk.queue("jobs")["ready"], 1);
}

#[test]
fn consumers_share_a_queue() {
    let desk = Desk::new();
    desk.make_queue("jobs", "job.#");
    let mut consumers: Vec<_> =
        (0..2).map(|_| desk.start(&["work", "jobs", "--lines", "--prefetch", "1"])).collect();
    let ids = [desk.publish("job.a", "0"), desk.publish("job.a", "1")];
    let mut seen: Vec<String> =
        consumers.iter().map(|talk| talk.hear_json()["event_id"].as_str().unwrap().to_owned()).collect();
    let mut expected = ids.to_vec();
    expected.sort_unstable();
    let held = seen.clone();
    seen.sort_unstable();
    assert_eq!(seen, expected, "each has one of them");
    for (talk, id) in consumers.iter_mut().zip(&held) {
        talk.say(&json!({ "ack": id }).to_string());
        assert_eq!(talk.hear_json(), json!({ "acked": id }));
    }
    until("the queue is empty", || {
        let queue = desk.queue("jobs");
        queue["ready"] == 0 && queue["leased"].as_u64().unwrap_or_default() == 0
    });
}
