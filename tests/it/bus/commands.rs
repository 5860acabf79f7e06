//! Publishing and watching, and what wrong input gets.

use serde_json::{Value, json};

use super::Desk;
use crate::support::files;

#[test]
fn an_event_is_published_whole_and_seen_by_others() {
    let desk = Desk::new();
    let printed = desk.json(&[
        "publish",
        "x.y",
        r#"{"a":1}"#,
        "--json",
        "--session",
        "s-1",
        "--agent",
        "tonny",
        "--agent-type",
        "claude-code",
        "--project",
        "godctl",
        "--source-app",
        "test",
        "--source-type",
        "service",
        "--timestamp",
        "2026-11-21T10:00:00+01:00",
    ]);
    let event = &printed[0];
    let id: uuid::Uuid = event["event_id"].as_str().unwrap().parse().unwrap();
    assert_eq!(id.get_version_num(), 7);
    assert_eq!(event["event_type"], "x.y");
    assert_eq!(event["timestamp"], "2026-11-21T09:00:00Z");
    assert_eq!(event["version"], "1.0.0");
    assert_eq!((&event["source"]["app"], &event["source"]["type"]), (&json!("test"), &json!("service")));
    assert!(event["source"]["host"].as_str().is_some_and(|host| !host.is_empty()));
    assert_eq!(event["correlation_ids"], json!([]));
    assert_eq!(event["payload"], json!({ "a": 1 }));
    assert_eq!(
        event["agent_context"],
        json!({
            "agent_name": "tonny", "name": "tonny", "session_id": "s-1", "instance_id": "s-1",
            "project": "godctl", "type": "claude-code",
        })
    );

    let mut seen = desk.json(&["tail", "--no-follow", "--json"]);
    assert_eq!(seen[0].as_object_mut().unwrap().remove("position"), Some(json!(1)));
    assert_eq!(&seen, &printed);
    let plain = desk.ok(&["publish", "x.z", "[]"]);
    assert!(plain.starts_with("published x.z "), "{plain}");
}

#[test]
fn a1_a_file_gets_one_line_with_the_strict_envelope() {
    let desk = Desk::new();
    let file = desk.home.path().join("o.jsonl");
    desk.ok(&["publish", "x.y", r#"{"a":1}"#, "--bus", &format!("file://{}", file.display())]);
    let text = std::fs::read_to_string(&file).unwrap();
    assert_eq!(text.lines().count(), 1);
    let event: Value = serde_json::from_str(&text).unwrap();
    event["event_id"].as_str().unwrap().parse::<uuid::Uuid>().unwrap();
    assert!(event["timestamp"].as_str().unwrap().ends_with('Z'));
    for field in ["host", "app", "type"] {
        assert!(event["source"][field].is_string(), "{text}");
    }
    assert_eq!(
        (&event["event_type"], &event["version"], &event["correlation_ids"], &event["payload"]),
        (&json!("x.y"), &json!("1.0.0"), &json!([]), &json!({ "a": 1 }))
    );
    assert!(text.starts_with("{\"event_id\":"), "fields are in the order of the contract");
}

#[test]
fn a10_garbage_is_a_row_and_counted() {
    let desk = Desk::new();
    let good = r#"{"event_type":"x.y","event_id":"k","payload":{"text":"fine"}}"#;
    let file = desk.home.write("mixed.jsonl", &format!("not json\n{good}\n\u{1b}[31m\n"));
    let at = format!("file:{}", file.display());
    let ran = desk.bus(&["tail", "--no-follow", "--bus", &at]);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let rows: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(rows.len(), 3, "{ran:?}");
    assert!(rows[0].contains("unparsed") && rows[0].ends_with("not json"), "{ran:?}");
    assert!(rows[1].ends_with("fine") && rows[2].ends_with("\\u{1b}[31m"), "{ran:?}");
    assert_eq!(ran.stderr.trim(), "1 event, 2 unparsed");
    let json = desk.json(&["tail", "--no-follow", "--bus", &at, "--json"]);
    assert_eq!(json[0]["unparsed"]["raw"], "not json");
}

#[test]
fn a3_other_ids_become_the_same_uuid_each_time() {
    let desk = Desk::new();
    let ids = || {
        let args = ["publish", "x.y", "{}", "--json", "--correlation-id", "req-abc123", "--correlation-id"];
        let uuid = "0193b1f2-7d7a-7c3e-9a51-1b2c3d4e5f60";
        desk.json(&[&args[..], &[uuid]].concat())[0]["correlation_ids"].clone()
    };
    let expected = json!(["cce7903b-0d52-5443-8ef4-9062f8cadcf6", "0193b1f2-7d7a-7c3e-9a51-1b2c3d4e5f60"]);
    assert_eq!((ids(), ids()), (expected.clone(), expected));
}

#[test]
fn a_payload_comes_from_the_command_line_a_file_or_standard_input() {
    let desk = Desk::new();
    let file = desk.home.write("payload.json", "{\n  \"from\": \"file\"\n}\n");
    desk.ok(&["publish", "x.a", &format!("@{}", file.display())]);
    assert_eq!(desk.bus_with(&["publish", "x.b", "-"], b"\"from stdin\"").code, Some(0));
    desk.ok(&["publish", "x.c", "-5"]);
    let payloads: Vec<Value> = desk
        .json(&["tail", "--no-follow", "--json"])
        .into_iter()
        .map(|event| event["payload"].clone())
        .collect();
    assert_eq!(payloads, [json!({ "from": "file" }), json!("from stdin"), json!(-5)]);
}

#[test]
fn wrong_input_is_refused_with_its_place_and_nothing_is_published() {
    let desk = Desk::new();
    let large = format!("{{\"data\": \"{}\"}}", "x".repeat(10 << 20));
    let deep = format!("{}1{}", "[".repeat(300), "]".repeat(300));
    let cases: &[(&[u8], i32, &str)] = &[
        (b"{\"a\": }", 2, "standard input is not JSON: expected value at line 1 column 7"),
        (b"{\"a\":\n 1,}", 2, "line 2 column 4"),
        (b"", 2, "standard input is not JSON"),
        (b"{\"a\": \"\xff\"}", 2, "invalid unicode code point at line 1"),
        (deep.as_bytes(), 2, "recursion limit"),
        (
            large.as_bytes(),
            1,
            "are allowed; send a reference instead of the data, or raise bus.max_event_bytes",
        ),
    ];
    for (input, code, reason) in cases {
        let ran = desk.bus_with(&["publish", "x.y", "-"], input);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(*code), ""), "{reason}: {}", ran.stderr);
        assert!(ran.stderr.contains(reason), "{}", ran.stderr);
    }
    for args in [
        &["publish", "", "{}"][..],
        &["publish", "x.y"],
        &["publish", "x.y", "{}", "--event-id", "7"],
        &["publish", "x.y", "{}", "--lines"],
        &["publish", "x.y", "@/no/such/file"],
        &["tail", "--bind", ""],
        &["tail", "--since", "yesterday"],
        &["replay", "--speed", "fast"],
        &["prune", "--older-than", "5"],
    ] {
        assert_eq!(desk.bus(args).code, Some(2), "{args:?}");
    }
    assert_eq!(desk.ok(&["tail", "--no-follow"]), "");
}

#[test]
fn an_id_that_is_there_already_is_told_and_not_published_again() {
    let desk = Desk::new();
    let id = desk.ok(&["event-id", "report.made", "2026-11-21"]);
    let args = ["publish", "report.made", "{}", "--event-id", id.trim()];
    assert!(desk.ok(&args).starts_with("published report.made"));
    let again = desk.bus(&args);
    assert_eq!(again.code, Some(0));
    assert!(
        again.stdout.starts_with("duplicate report.made") && again.stderr.contains(id.trim()),
        "{again:?}"
    );
    assert_eq!(desk.ok(&["tail", "--no-follow"]).lines().count(), 1);
}

#[test]
fn lines_are_answered_one_by_one_and_a_bad_one_stops_no_other() {
    let desk = Desk::new();
    let long = format!("{{\"event_type\":\"x.y\",\"payload\":\"{}\"}}", "x".repeat(2 << 20));
    let input = format!(
        "{}\nnot json\n{}\n\n{}\n{}\n{long}\n{}\n",
        r#"{"event_type":"x.y","payload":{"n":1}}"#,
        r#"{"event_type":"x.y","event_id":"key-1","payload":{"n":2}}"#,
        r#"{"event_type":"x.y","event_id":"key-1","payload":{"n":2}}"#,
        r#"{"specversion":"1.0","id":"0193b1f2-7d7a-7c3e-9a51-1b2c3d4e5f60","type":"bloodbank.v1.conversation.turn.completed","source":"urn:x","time":"2026-05-24T10:00:00Z","data":{}}"#,
        r#"{"payload":{}}"#,
    );
    let ran = desk.bus_with(&["publish", "--lines"], input.as_bytes());
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let answers: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let outcomes: Vec<String> = answers
        .iter()
        .map(|answer| match &answer["outcome"] {
            Value::String(outcome) => outcome.clone(),
            _ => {
                // The size of the envelope depends on the name of this machine.
                let error = answer["error"].as_str().unwrap().replace(|c: char| c.is_ascii_digit(), "#");
                format!("{}: {error}", answer["line"])
            }
        })
        .collect();
    insta::assert_snapshot!(outcomes.join("\n"), @"
    published
    2: not JSON: expected ident at line # column #
    published
    duplicate
    published
    7: event x.y has ####### bytes and ####### are allowed; send a reference instead of the data, or raise bus.max_event_bytes
    8: no event_type, and no routing key to take it from
    ");
    assert_eq!(desk.ok(&["tail", "--no-follow"]).lines().count(), 3);
}

#[test]
fn lines_are_published_as_they_come() {
    let desk = Desk::new();
    let mut tail = desk.start(&["tail", "--json", "--bind", "live.#"]);
    let mut publisher = desk.start(&["publish", "--lines"]);
    for n in 0..3 {
        publisher.say(&format!("{{\"event_type\":\"live.number\",\"payload\":{n}}}"));
        assert_eq!(publisher.hear_json()["outcome"], "published");
        assert_eq!(tail.hear_json()["payload"], n);
    }
    publisher.hang_up();
    let (status, _) = publisher.end();
    assert!(status.success());
    tail.hang_up();
    #[cfg(unix)]
    {
        tail.signal(rustix::process::Signal::INT);
        let (status, stderr) = tail.end();
        assert!(status.success(), "{stderr}");
    }
}

#[test]
fn a4_to_a9_every_shape_on_the_wire_is_a_row() {
    let desk = Desk::new();
    let mut input = Vec::new();
    for path in files("tests/fixtures/events", ".json") {
        let value: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
        // A relay's greeting is no event, and a payload alone has no type.
        if value["type"] == "welcome" {
            continue;
        }
        input.extend(value.to_string().bytes().chain([b'\n']));
    }
    let ran = desk.bus_with(&["import", "-"], &input);
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let rows = desk.ok(&["tail", "--no-follow", "-n", "100"]);
    assert_eq!(rows.lines().count(), input.split(|byte| *byte == b'\n').count() - 1);
    let row = |word: &str| {
        rows.lines().find(|row| row.contains(word)).unwrap_or_else(|| panic!("no {word} in\n{rows}"))
    };
    assert!(row("transcription.voice.completed").contains("unknown") || rows.contains("unknown"), "{rows}");
    row("bloodbank.v1.conversation");
}

#[test]
fn a11_patterns_match_as_on_a_broker() {
    let desk = Desk::new();
    for (pattern, expected) in [("agent.*.started", "yes"), ("agent.*", "no"), ("#", "yes")] {
        let args = ["match", pattern, "agent.session.started"];
        let code = Some(i32::from(expected == "no"));
        let ran = desk.bus(&args);
        assert_eq!((ran.code, ran.stdout.trim()), (code, expected), "{pattern}");
        let dev = desk.home.godctl(&[&["dev"], &args[..]].concat());
        assert_eq!((dev.code, dev.stdout.trim()), (code, expected), "{pattern}");
    }
}

#[test]
fn a20_the_id_of_a_type_and_a_key_is_always_the_same() {
    let desk = Desk::new();
    let id = "e99c41c2-fd9b-525f-b08e-2b245f95b07e\n";
    assert_eq!(desk.ok(&["event-id", "fireflies.transcript.upload", "k"]), id);
    assert_eq!(desk.home.godctl(&["dev", "event-id", "fireflies.transcript.upload", "k"]).stdout, id);
}

#[test]
fn a19_an_event_under_two_names_is_one_row() {
    let desk = Desk::new();
    let id = desk.publish("voice.transcription.completed", r#"{"text":"hello"}"#);
    desk.ok(&["publish", "transcription.voice.completed", r#"{"text":"hello"}"#, "--event-id", &id]);
    let ran = desk.bus(&["tail", "--no-follow"]);
    assert_eq!(ran.stdout.lines().count(), 1, "{ran:?}");
    assert_eq!(ran.stderr.trim(), "1 event, 1 duplicate");
    assert_eq!(desk.ok(&["tail", "--no-follow", "--all"]).lines().count(), 2);
}

#[test]
fn tail_starts_where_it_is_told() {
    let desk = Desk::new();
    for n in 0..20 {
        desk.publish(if n % 2 == 0 { "even.n" } else { "odd.n" }, &n.to_string());
    }
    let numbers = |args: &[&str]| {
        let all = [&["tail", "--no-follow", "--json"], args].concat();
        desk.json(&all).iter().map(|event| event["payload"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(numbers(&[]), (10..20).collect::<Vec<_>>());
    assert_eq!(numbers(&["-n", "3", "--bind", "even.#"]), [14, 16, 18]);
    assert_eq!(numbers(&["--since", "beginning"]).len(), 20);
    assert_eq!(numbers(&["--since", "1h", "-n", "2"]), [18, 19]);
    assert_eq!(numbers(&["--since", "2999-01-01T00:00:00Z"]).len(), 0);
    assert_eq!(numbers(&["--after", "17"]), [17, 18, 19]);
}

#[cfg(unix)]
#[test]
fn a_reader_that_goes_away_ends_tail_quietly() {
    let desk = Desk::new();
    let input = "{\"event_type\":\"x.y\",\"payload\":\"some text to fill a pipe\"}\n".repeat(2000);
    assert_eq!(desk.bus_with(&["publish", "--lines"], input.as_bytes()).code, Some(0));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = desk.home.command("godctl");
    command.args(["bus", "tail", "--since", "beginning"]).stdout(writer);
    let output = command.stderr(std::process::Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(0), ""));
}

#[test]
fn schemas_and_problems_are_shown() {
    let desk = Desk::new();
    let list = desk.ok(&["schema", "--list"]);
    assert!(list.contains("voice.transcription.completed") && list.contains("agent.prompt"), "{list}");
    for args in [&["schema"][..], &["schema", "agent.prompt"], &["schema", "agent.prompt", "--example"]] {
        let schema: Value = serde_json::from_str(&desk.ok(args)).unwrap();
        assert!(schema.is_object(), "{args:?}");
    }
    assert_eq!(desk.bus(&["schema", "no.such.type"]).code, Some(1));

    desk.publish("x.y", "{}");
    let good = desk.ok(&["export"]);
    let file = desk.home.write("good.jsonl", &format!("{good}{good}"));
    assert_eq!(desk.ok(&["validate", file.to_str().unwrap()]), "ok: 2 events\n");
    let bad = format!("{good}\nnot json\n{{\"event_type\":\"x.y\"}}\n");
    let ran = desk.bus_with(&["validate", "-", "--json"], bad.as_bytes());
    assert_eq!(ran.code, Some(1));
    let problems: Vec<Value> = ran.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(problems.iter().any(|problem| problem["line"] == 3), "{problems:?}");
    assert!(
        problems
            .iter()
            .any(|problem| problem["line"] == 4 && problem["problem"].as_str().unwrap().contains("event_id")),
        "{problems:?}"
    );
}

#[test]
fn a_wrong_address_shows_no_password() {
    const MARKER: &str = "marker-77aa";
    let desk = Desk::new();
    for url in [
        format!("ampq://user:{MARKER}@host"),
        format!("user:{MARKER}@host"),
        format!("http://h?key={MARKER}"),
    ] {
        let ran = desk.bus(&["publish", "x.y", "{}", "--bus", &url]);
        assert_eq!((ran.code, ran.stdout.as_str()), (Some(78), ""), "{ran:?}");
        assert!(ran.stderr.contains("--bus") && !ran.stderr.contains(MARKER), "{}", ran.stderr);
        let ran = desk.bus(&["replay", "--to", &url]);
        assert_eq!(ran.code, Some(2));
        assert!(!ran.stderr.contains(MARKER), "{}", ran.stderr);
    }
}
