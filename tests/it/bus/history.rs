//! Moving events: export, import, replay; and cleaning up.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::Desk;

#[test]
fn an_export_is_imported_as_it_was() {
    let desk = Desk::new();
    desk.publish("voice.said", r#"{"text":"one","session_id":"s1"}"#);
    desk.publish("agent.done", r#"{"text":"two"}"#);
    let file = desk.home.path().join("out.jsonl");
    let file = file.to_str().unwrap();
    let ran = desk.bus(&["export", file]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), "2 events\n"), "{ran:?}");

    let other = ["--bus", "sqlite:other.db"];
    let other_file = desk.home.path().join("other.db");
    let other = [other[0], &format!("sqlite:{}", other_file.display())];
    let import = |file: &str| desk.bus(&["import", file, other[0], other[1]]);
    assert_eq!(import(file).stdout, "2 published\n");
    assert_eq!(import(file).stdout, "0 published, 2 duplicates\n");
    assert_eq!(desk.ok(&["export", other[0], other[1]]), std::fs::read_to_string(file).unwrap());
    assert_eq!(desk.ok(&["export", "--session", "s1"]).lines().count(), 1);
    assert_eq!(desk.ok(&["export", "--bind", "agent.#"]).lines().count(), 1);

    // What tail shows can be read too, and is the same event.
    let shown = desk.ok(&["tail", "--no-follow", "--json"]);
    let copied = desk.bus_with(&["publish", "--lines", other[0], other[1]], shown.as_bytes());
    assert_eq!(copied.stdout.matches("duplicate").count(), 2, "{copied:?}");
}

#[test]
fn lines_that_are_no_events_are_counted_and_kept_if_asked_for() {
    let desk = Desk::new();
    let file = desk.home.write("in.jsonl", "{\"event_type\":\"x.y\",\"payload\":1}\nnonsense\n[1]\n");
    let file = file.to_str().unwrap();
    let ran = desk.bus(&["import", file, "--rejected", "--json"]);
    assert_eq!(ran.code, Some(1));
    let counts: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!((&counts["published"], &counts["bad_lines"]), (&1.into(), &2.into()), "{counts}");
    assert_eq!(std::fs::read_to_string(format!("{file}.rejected")).unwrap(), "nonsense\n[1]\n");
    assert!(ran.stderr.contains("line=2"), "{}", ran.stderr);
    assert_eq!(desk.bus(&["import", "/no/such/file"]).code, Some(1));
}

#[test]
fn a_replay_keeps_the_pace_and_can_skip_pauses() {
    let desk = Desk::new();
    for (n, time) in ["10:00:00", "10:00:02", "11:00:00"].iter().enumerate() {
        desk.ok(&["publish", "x.y", &n.to_string(), "--timestamp", &format!("2026-11-21T{time}Z")]);
    }
    let started = Instant::now();
    let rows = desk.ok(&["replay", "--speed", "10x", "--max-gap", "500ms"]);
    let took = started.elapsed();
    assert_eq!(rows.lines().count(), 3);
    // 2 s at ten times the speed, and half a second at most for the hour.
    assert!(took >= Duration::from_millis(700), "{took:?}");
    let started = Instant::now();
    desk.ok(&["replay", "--speed", "max"]);
    assert!(started.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_replay_onto_a_bus_keeps_ids_unless_told_otherwise() {
    let desk = Desk::new();
    let first = desk.publish("x.cause", "{}");
    desk.ok(&["publish", "x.effect", "{}", "--correlation-id", &first]);
    let other = format!("sqlite:{}", desk.home.path().join("other.db").display());
    let replay =
        |args: &[&str]| desk.bus(&[&["replay", "--speed", "max", "--to", &other], args].concat()).stderr;
    assert_eq!(replay(&[]), "2 published\n");
    assert_eq!(replay(&[]), "0 published, 2 duplicates\n");
    assert_eq!(replay(&["--as-new"]), "2 published\n");
    let events = desk.json(&["tail", "--no-follow", "--json", "--bus", &other]);
    assert_eq!(events[0]["event_id"], first);
    assert_ne!(events[2]["event_id"], first);
    assert_eq!(events[3]["correlation_ids"][0], events[2]["event_id"], "a chain stays one");
    // Onto itself it ends where the history was when it began.
    let same = desk.bus(&["replay", "--speed", "max", "--as-new", "--to", "sqlite:", "--bind", "#"]);
    assert_eq!(same.stderr, "2 published\n");
}

#[test]
fn what_deletes_asks_first() {
    let desk = Desk::new();
    desk.publish("x.y", "{}");
    desk.make_queue("work", "x.#");
    for args in [
        &["prune", "--older-than", "0s"][..],
        &["queues", "delete", "work"],
        &["dead", "drop", "work", "--all"],
    ] {
        let ran = desk.bus(args);
        assert_eq!(ran.code, Some(2), "{ran:?}");
        assert!(ran.stderr.contains("add --yes"), "{}", ran.stderr);
    }
    let dry = desk.ok(&["prune", "--older-than", "0s", "--dry-run"]);
    assert!(dry.starts_with("would delete 1 events"), "{dry}");
    assert!(desk.ok(&["prune", "--older-than", "0s", "--yes"]).starts_with("deleted 1 events"));
    assert_eq!(desk.ok(&["queues", "delete", "work", "--yes"]), "deleted work\n");
    assert_eq!(desk.bus(&["queues", "delete", "work", "--yes"]).code, Some(1));
    let stats: Value = serde_json::from_str(&desk.ok(&["stats", "--json"])).unwrap();
    assert_eq!(stats["events"], 0);
}

#[test]
fn the_doctor_tells_what_is_wrong_with_a_file_and_leaves_it_alone() {
    let desk = Desk::new();
    let doctor = |args: &[&str]| {
        let ran = desk.bus(&[&["doctor", "--json"], args].concat());
        let report: Value =
            serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"));
        (ran.code, report)
    };
    let find = |report: &Value, name: &str| {
        let checks = report["checks"].as_array().unwrap();
        checks
            .iter()
            .find(|check| check["name"] == name)
            .cloned()
            .unwrap_or_else(|| panic!("no {name}: {report}"))
    };
    let (code, report) = doctor(&[]);
    assert_eq!(code, Some(0));
    assert!(find(&report, "file")["detail"].as_str().unwrap().ends_with("(will be made)"));
    assert_eq!(desk.home.leftovers(), Vec::<std::path::PathBuf>::new());

    desk.publish("x.y", "{}");
    let (code, report) = doctor(&[]);
    assert_eq!(code, Some(0), "{report}");
    assert_eq!(find(&report, "integrity")["status"], "ok");
    assert!(find(&report, "contents")["detail"].as_str().unwrap().starts_with("1 events"), "{report}");
    assert_eq!(find(&report, "permissions")["status"], "ok");

    let foreign = desk.home.write("diary.db", "dear diary");
    let (code, report) = doctor(&["--bus", &format!("sqlite:{}", foreign.display())]);
    assert_eq!((code, &find(&report, "file")["status"]), (Some(1), &"failed".into()));
    assert_eq!(std::fs::read_to_string(&foreign).unwrap(), "dear diary");
    let whole = desk.home.godctl(&["doctor", "--json", "-c", "models.offline=true"]);
    let report: Value = serde_json::from_str(&whole.stdout).unwrap();
    assert_eq!(find(&report, "event bus")["status"], "ok");
}

#[test]
fn a_bridge_goes_on_where_it_stopped() {
    let desk = Desk::new();
    for n in 0..3 {
        desk.publish("x.y", &n.to_string());
    }
    let to = format!("sqlite:{}", desk.home.path().join("copy.db").display());
    let bridge = || desk.ok(&["bridge", "--to", &to, "--no-follow", "--json"]);
    let copied = |text: String| serde_json::from_str::<Value>(&text).unwrap()["copied"].clone();
    assert_eq!(copied(bridge()), 3);
    desk.publish("x.y", "3");
    assert_eq!(copied(bridge()), 1);
    assert_eq!(desk.ok(&["export"]), desk.ok(&["export", "--bus", &to]));
}

#[test]
fn a_bench_measures_and_cleans_up() {
    let desk = Desk::new();
    let args = ["bench", "--json", "--count", "20", "--processes", "2", "--batch", "10"];
    let report: Value = serde_json::from_str(&desk.ok(&args)).unwrap();
    assert_eq!(report["publish"].as_array().unwrap().len(), 4, "{report}");
    assert!(
        report["publish"].as_array().unwrap().iter().all(|run| run["per_second"].as_f64().unwrap() > 0.0)
    );
    assert_eq!(report["latency"]["events"], 20);
    assert_eq!(desk.ok(&["tail", "--no-follow"]), "");
    let kept = desk.home.path().join(".local/share/godctl");
    let kept: Vec<String> = std::fs::read_dir(kept)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert!(kept.iter().all(|name| name.starts_with("bus.db")), "{kept:?}");
}
