//! Four producers, four consumers and one file; and one file under writers that never live long.

use std::{
    collections::HashSet,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Stdio},
    time::Duration,
};

use parking_lot::Mutex;
use serde_json::Value;

use super::{
    actors::{Run, event},
    events,
    ledger::{Name, none},
    seed, turn,
};
use crate::support::{Home, Ran};

/// All events of the file in their order, each compared with what was sent.
fn log(exported: &Ran, seed: u64) -> Vec<Name> {
    assert_eq!(exported.code, Some(0), "{}", exported.stderr);
    let names = exported.stdout.lines().map(|line| {
        let got: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let name = Name::of(got["event_id"].as_str().unwrap().parse().unwrap(), seed).unwrap();
        assert_eq!(got["payload"], event(name, seed)["payload"], "{name:?}");
        name
    });
    let names: Vec<Name> = names.collect();
    let distinct: HashSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len(), "an event is in the log twice");
    names
}

#[test]
fn sqlite_keeps_its_promises_while_everybody_is_killed() {
    let _turn = turn();
    let home = Home::new();
    let seed = seed();
    let played = Run::new(&home, Vec::new(), seed).with(4, 4, events(100_000)).play(&mut |_, _| {});
    none(&played.ledger.violations(10_000, 0));
    assert!(played.ledger.outcomes.keys().all(|outcome| outcome != "deferred"), "a file is never away");
    none(&played.ledger.order_violations(&log(&home.godctl(&["bus", "export", "-"]), seed)));
    let doctor = home.godctl(&["bus", "doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    let queues: Value = serde_json::from_str(&home.godctl(&["bus", "queues", "--json"]).stdout).unwrap();
    for lane in ["ready", "leased", "delayed", "dead"] {
        assert_eq!(queues[0][lane], 0, "{queues}");
    }
}

/// Kills of each writer.
const DEATHS: u32 = 100;

#[test]
fn sqlite_survives_deaths_in_the_middle_of_a_write() {
    let _turn = turn();
    let home = Home::new();
    let seed = seed();
    println!("seed {seed} (GODCTL_KILL_SEED)");
    let reported = Mutex::new(HashSet::new());
    let most = std::thread::scope(|scope| {
        let writers = [0, 1].map(|producer| {
            let (home, reported) = (&home, &reported);
            scope.spawn(move || die_often(home, producer, seed, reported))
        });
        writers.map(|writer| writer.join().unwrap())
    });
    let reported = reported.into_inner();
    println!("{} events reported, batches in flight of up to {most:?}", reported.len());

    let doctor = home.godctl(&["bus", "doctor"]);
    assert_eq!(doctor.code, Some(0), "{doctor:?}");
    let log = log(&home.godctl(&["bus", "export", "-"]), seed);
    let there: HashSet<_> = log.iter().copied().collect();
    let lost: Vec<_> = reported.difference(&there).collect();
    assert!(lost.is_empty(), "{} reported events are lost, such as {:?}", lost.len(), lost[0]);
    for producer in [0, 1] {
        let numbers: Vec<u32> =
            log.iter().filter(|name| name.producer == producer).map(|name| name.n).collect();
        assert!(numbers.iter().enumerate().all(|(i, n)| i as u32 == *n), "producer {producer} left a hole");
    }
}

/// Writes as fast as the bus takes it, in processes that are killed shortly after their first report. Each goes on
/// with the first event that was not reported.
fn die_often(home: &Home, producer: u8, seed: u64, reported: &Mutex<HashSet<Name>>) -> u32 {
    let mut rng = fastrand::Rng::with_seed(seed ^ u64::from(producer));
    let (mut next, mut most) = (0, 0);
    for _ in 0..DEATHS {
        let mut child = home
            .command("godctl")
            .args(["bus", "publish", "--lines"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let lifetime = Duration::from_micros(rng.u64(0..60_000));
        std::thread::scope(|scope| {
            let from = next;
            let writer = scope.spawn(move || {
                for n in from.. {
                    if writeln!(stdin, "{}", event(Name { producer, n }, seed)).is_err() {
                        return n;
                    }
                }
                unreachable!("the process is killed before that")
            });
            let mut note = |line: String| {
                let Ok(answer) = serde_json::from_str::<Value>(&line) else { return };
                let outcome = answer["outcome"].as_str().unwrap_or_else(|| panic!("{line}"));
                assert!(["published", "duplicate"].contains(&outcome), "{line}");
                let id = answer["event_id"].as_str().unwrap().parse().unwrap();
                let name = Name::of(id, seed).unwrap();
                reported.lock().insert(name);
                next = next.max(name.n + 1);
            };
            note(lines.next().unwrap());
            let killer = scope.spawn(|| kill_after(&mut child, lifetime));
            lines.for_each(note);
            killer.join().unwrap();
            most = most.max(writer.join().unwrap() - next);
        });
    }
    most
}

fn kill_after(child: &mut Child, lifetime: Duration) {
    std::thread::sleep(lifetime);
    child.kill().unwrap();
    child.wait().unwrap();
}
