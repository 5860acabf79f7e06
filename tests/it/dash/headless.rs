//! Frames, lines and files: nothing here needs a terminal.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{event, recording};
use crate::support::{Home, Ran};

/// A home with a recording, in a folder of its own.
fn home(count: u32) -> (Home, String) {
    let home = Home::new();
    let path = home.write("day.jsonl", &recording(count));
    let path = path.to_str().unwrap().to_owned();
    (home, path)
}

/// Runs it in the home's folder, with the clock of Greenwich.
fn dash(home: &Home, args: &[&str]) -> Ran {
    let mut command = home.command(env!("CARGO_BIN_EXE_godctl"));
    let output = command.arg("dash").args(args).current_dir(home.path()).env("TZ", "UTC").output();
    Ran::from(output.unwrap())
}

fn ok(ran: Ran) -> String {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran.stdout
}

#[test]
fn one_frame_is_text_and_each_view_has_one() {
    let (home, _) = home(48);
    let mut frames = Vec::new();
    for keys in ["<Down>", "2", "3", "<Down>4", "6", "7", "?"] {
        let frame = ok(dash(&home, &["--replay", "day.jsonl", "--frame", "100x30", "--keys", keys]));
        assert_eq!(frame.lines().count(), 30);
        assert!(frame.lines().all(|line| unicode_width::UnicodeWidthStr::width(line) <= 100), "{frame}");
        frames.push(format!("{keys}\n{frame}"));
    }
    insta::assert_snapshot!(frames.join("\n"));
}

#[test]
fn pattern_1_is_a_chain_in_the_list_and_in_the_graph() {
    let (home, _) = home(8);
    let frame = ok(dash(&home, &["--replay", "day.jsonl", "--frame", "100x16", "--keys", "<Down>x"]));
    assert!(frame.contains("Showing 4 of 8"), "{frame}");
    let frame = ok(dash(&home, &["--replay", "day.jsonl", "--frame", "100x16", "--keys", "<Down>4"]));
    assert!(frame.contains("4 events, 3 links"), "{frame}");
}

#[test]
fn colours_are_asked_for() {
    let (home, _) = home(8);
    let frame = ok(dash(&home, &["--replay", "day.jsonl", "--frame", "100x16", "--ansi"]));
    assert!(frame.contains("38;2;59;130;246m"), "agent's #3B82F6");
    let plain = ok(dash(&home, &["--replay", "day.jsonl", "--frame", "100x16"]));
    assert!(!plain.contains('\x1b'));
}

#[test]
fn a_recording_of_twelve_thousand_leaves_ten_thousand() {
    let (home, _) = home(12_000);
    let frame = ok(dash(&home, &["--replay", "day.jsonl", "--frame", "120x16"]));
    assert!(
        frame.contains("total 12,000  buffered 10,000/10,000") && frame.contains("evicted 2,000"),
        "{frame}"
    );
    let ran = dash(&home, &["--replay", "day.jsonl", "--frame", "120x16", "--stats"]);
    assert!(ran.stderr.contains("12000 events, 240 batches, 240 of them full"), "{}", ran.stderr);
}

#[test]
fn what_was_exported_can_be_replayed_and_looks_the_same() {
    let (home, _) = home(100);
    ok(dash(&home, &["export", "--replay", "day.jsonl", "-o", "out.json"]));
    let exported: Vec<Value> =
        serde_json::from_str(&std::fs::read_to_string(home.path().join("out.json")).unwrap()).unwrap();
    assert_eq!(exported, (0..100).map(event).collect::<Vec<_>>());
    let body = |file: &str, keys: &str| {
        let frame = ok(dash(&home, &["--replay", file, "--frame", "120x40", "--keys", keys]));
        frame.lines().skip(1).map(str::to_owned).collect::<Vec<_>>()
    };
    for keys in ["<Down><Down>", "2", "3", "6", "7", "!"] {
        assert_eq!(body("day.jsonl", keys), body("out.json", keys), "{keys}");
    }
    let again = dash(&home, &["export", "--replay", "day.jsonl", "-o", "out.json"]);
    assert!(again.code == Some(1) && again.stderr.contains("out.json"), "{}", again.stderr);
}

#[test]
fn a_table_of_what_matches_goes_to_standard_output() {
    let (home, _) = home(100);
    let args = ["export", "--replay", "day.jsonl", "--errors", "--format", "csv", "-o", "-"];
    let table = ok(dash(&home, &args));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[0], r#""Event ID","Event Type","Timestamp","Source App","Domain","Session ID""#);
    let errors = (0..100).map(event).filter(|event| event["event_type"] == "agent.error").count();
    assert_eq!(lines.len(), errors + 1);
    assert!(lines[1].contains("\"agent.error\"") && lines[1].contains("\"session-2\""), "{}", lines[1]);
}

#[test]
fn lines_and_objects_instead_of_a_screen() {
    let (home, _) = home(8);
    let plain = ok(dash(&home, &["--replay", "day.jsonl", "--plain", "--speed", "max"]));
    let lines: Vec<&str> = plain.lines().collect();
    assert_eq!(lines.len(), 8);
    assert_eq!(
        lines[0],
        "12:00:00 voice.transcription.completed godctl-asr@desk computer, run test number 0"
    );
    let found =
        ok(dash(&home, &["--replay", "day.jsonl", "--plain", "--speed", "max", "--search", "number 4"]));
    assert_eq!(found, format!("{}\n", lines[4]));
    let json = ok(dash(&home, &["--replay", "day.jsonl", "--json", "--bind", "agent.#"]));
    let events: Vec<Value> = json.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let agents: Vec<Value> = (0..8)
        .map(event)
        .filter(|event| event["event_type"].as_str().unwrap().starts_with("agent."))
        .collect();
    assert_eq!(events, agents);
}

#[test]
fn without_a_terminal_it_prints_lines() {
    let (home, _) = home(4);
    let shown = ok(dash(&home, &["--replay", "day.jsonl", "--speed", "max"]));
    assert_eq!(shown.lines().count(), 4);
}

#[test]
fn what_is_recorded_from_a_bus_can_be_replayed() {
    let home = Home::new();
    home.write("day.jsonl", &recording(40));
    let ran = home.godctl(&["bus", "import", home.path().join("day.jsonl").to_str().unwrap()]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let before = files(&home);
    let frame = |args: &[&str]| {
        let shown = ok(dash(&home, &[&["--frame", "120x40", "--keys", "<Down>"], args].concat()));
        shown.lines().skip(2).map(str::to_owned).collect::<Vec<_>>()
    };
    ok(dash(&home, &["--json", "--no-follow", "--since", "beginning"]));
    frame(&[]);
    assert_eq!(files(&home), before, "nothing is written unless it is asked for");
    ok(dash(&home, &["--json", "--no-follow", "--since", "beginning", "--record", "again.jsonl"]));
    let recorded = std::fs::read_to_string(home.path().join("again.jsonl")).unwrap();
    let events: Vec<Value> = recorded.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(events, (0..40).map(event).collect::<Vec<_>>());
    assert_eq!(frame(&["--replay", "again.jsonl"]), frame(&["--replay", "day.jsonl"]));
    // A dashboard that is opened shows what the bus has, and so does one that plays the bus's file.
    let list = |lines: Vec<String>| {
        let rows =
            lines.iter().filter_map(|line| line.split("││").next()).filter(|row| row.contains("12:00:"));
        rows.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(list(frame(&[])), list(frame(&["--replay", "again.jsonl"])));
}

/// All files of the home, but for what SQLite keeps beside a file that is open.
fn files(home: &Home) -> BTreeSet<String> {
    fn walk(dir: &std::path::Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else {
                found.insert(path.display().to_string());
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(home.path(), &mut found);
    found.retain(|path| !path.ends_with("-wal") && !path.ends_with("-shm"));
    found
}

#[test]
fn what_cannot_be_is_said_with_what_to_do() {
    let (home, _) = home(4);
    home.write("wrong.yaml", "services: {}\n");
    for (args, code, said) in [
        (&["--frame", "9x9"][..], 2, "at least 20x6"),
        (
            &["--frame", "80x24", "--keys", "<Nonsense>", "--replay", "day.jsonl"],
            2,
            "there is no key <Nonsense>",
        ),
        (&["--replay", "absent.jsonl", "--plain"], 1, "cannot read the recording absent.jsonl"),
        (&["--search", "/(/", "--frame", "80x24", "--replay", "day.jsonl"], 2, "no such pattern"),
        (&["--alert", "sometimes"], 2, "is no alert rule"),
        (&["--notify", "mail"], 2, "want bell, desktop, webhook=URL or command="),
        (&["--url", "nonsense://x", "--plain"], 2, ""),
        (&["--registry", "wrong.yaml", "--frame", "80x24", "--replay", "day.jsonl"], 2, "convert it to JSON"),
        (&["--json", "--plain"], 2, "cannot be used with"),
    ] {
        let ran = dash(&home, args);
        assert!(
            ran.code == Some(code) && ran.stderr.contains(said),
            "{args:?} {:?} {}",
            ran.code,
            ran.stderr
        );
        assert!(ran.stdout.is_empty(), "{args:?}");
    }
}

#[test]
fn every_shape_of_the_wire_has_a_row() {
    let home = Home::new();
    let lines = [
        r#"{"event_id":"0199f0a2-1111-7000-8000-000000000001","event_type":"a.shape","timestamp":"2026-11-21T12:00:00Z","source":{"host":"h","app":null,"type":"x"},"payload":{}}"#,
        r#"{"event_id":"0199f0a2-1111-7000-8000-000000000002","routing_key":"c.shape.float","payload":{"text":"hi"},"timestamp":1795255200.5,"priority":5}"#,
        r#"{"event_id":"0199f0a2-1111-7000-8000-000000000003","event_type":"d.flat","timestamp":"2026-11-21T12:00:01Z","source":"phone","session_id":"s-1","payload":{"text":"flat"}}"#,
        r#"{"type":"event","routing_key":"g.relay","envelope":{"event_id":"0199f0a2-1111-7000-8000-000000000004","event_type":"g.relay","timestamp":"2026-11-21T12:00:02Z","source":{"host":"h","app":"relay","type":"x"},"payload":{}}}"#,
        r#"{"specversion":"1.0","id":"0199f0a2-1111-7000-8000-000000000005","source":"urn:33god:service:x","type":"bloodbank.v1.conversation.turn.completed","time":"2026-11-21T12:00:03Z","correlationid":"0199f0a2-1111-7000-8000-000000000001","producer":"p","service":"talk","domain":"conversation","kind":"event","data":{"outcome":"completed"}}"#,
        "not json",
    ];
    home.write("shapes.jsonl", &lines.join("\n"));
    let frame = ok(dash(&home, &["--replay", "shapes.jsonl", "--frame", "130x14"]));
    for said in [
        "a.shape",
        "unknown",
        "c.shape.float",
        "d.flat",
        "g.relay",
        "bloodbank.v1.conv",
        "⚠ unparsed",
        "unparsed 1",
    ] {
        assert!(frame.contains(said), "{said}\n{frame}");
    }
}
