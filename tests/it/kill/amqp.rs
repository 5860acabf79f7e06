//! Producers and consumers on a RabbitMQ that is killed too; the outbox while it is away for a minute; the bridge.

use std::{
    io::Write as _,
    process::Stdio,
    time::{Duration, Instant},
};

use super::{
    actors::{Run, event, pause},
    audit, events,
    ledger::{Ledger, Name, none},
    now, seed, turn,
};
use crate::{broker::Broker, support::Home};

/// Settings of processes that use this broker, with room in the outbox for all that comes while it is away.
fn settings(broker: &Broker) -> Vec<String> {
    let url = format!("bus.url={}", broker.url());
    ["-c", &url, "-c", "bus.outbox_max=200000", "-c", "bus.outbox_max_mb=512"].map(str::to_owned).to_vec()
}

#[test]
fn rabbitmq_keeps_its_promises_while_everybody_is_killed() {
    let _turn = turn();
    let Some(mut broker) = Broker::start() else { return };
    let home = Home::new();
    let seed = seed();
    let url = broker.url();
    audit::begin(&url);

    let mut rng = fastrand::Rng::with_seed(!seed);
    let mut next = Duration::from_millis(rng.u64(5_000..15_000));
    let run = Run::new(&home, settings(&broker), seed).with(4, 4, events(100_000)).may_lack_a_broker();
    let played = run.play(&mut |run, elapsed| {
        if (next..run.duration).contains(&elapsed) {
            run.ledger.lock().broker_dies(now());
            broker.kill();
            pause(rng.u64(0..3_000));
            broker.restart();
            run.ledger.lock().broker_is_back(now());
            next = elapsed + Duration::from_millis(rng.u64(12_000..25_000));
        }
    });
    judge(played.ledger, &audit::end(&url, seed));
}

#[test]
fn the_outbox_bridges_a_minute_without_a_broker() {
    let _turn = turn();
    let Some(mut broker) = Broker::start() else { return };
    let home = Home::new();
    let seed = seed();
    let url = broker.url();
    audit::begin(&url);

    let run = Run::new(&home, settings(&broker), seed).with(4, 4, events(100_000)).may_lack_a_broker();
    let (from, to) = (run.duration / 4, run.duration * 3 / 4);
    let (mut is_down, mut reported_before) = (false, 0);
    let played = run.play(&mut |run, elapsed| {
        if !is_down && (from..to).contains(&elapsed) {
            run.ledger.lock().broker_dies(now());
            broker.kill();
            is_down = true;
            reported_before = run.ledger.lock().reported.len();
        } else if is_down && elapsed >= to {
            let meanwhile = run.ledger.lock().reported.len() - reported_before;
            println!("{meanwhile} events reported while there was no broker");
            assert!(meanwhile > 0, "publishing stood still");
            broker.restart();
            run.ledger.lock().broker_is_back(now());
            is_down = false;
        }
    });
    let deferred = played.ledger.outcomes.get("deferred").copied().unwrap_or_default();
    assert!(deferred > 0, "{:?}", played.ledger.outcomes);
    judge(played.ledger, &audit::end(&url, seed));
}

/// The laws, and that an event is on the broker more than once only where it had to be published again.
fn judge(mut ledger: Ledger, log: &[Name]) {
    for name in log {
        *ledger.copies.entry(*name).or_default() += 1;
    }
    ledger.copies.retain(|_, copies| *copies > 1);
    println!("the broker got {} events, {} of them more than once", log.len(), ledger.copies.len());
    none(&ledger.needless_copies());
    none(&ledger.violations(10_000, 100));
    none(&ledger.order_violations(log));
}

#[test]
fn a_full_outbox_refuses_and_says_so() {
    let _turn = turn();
    let Some(mut broker) = Broker::start() else { return };
    broker.kill();
    let home = Home::new();
    let bus = broker.url();
    let run = |n: u32| {
        let payload = format!("{{\"n\":{n}}}");
        home.godctl(&["-c", "bus.outbox_max=5", "bus", "publish", "kill.p0.made", &payload, "--bus", &bus])
    };
    // The news that the broker is away may wait there too.
    let mut taken = 0;
    let ran = loop {
        let ran = run(taken);
        if ran.code != Some(0) {
            break ran;
        }
        assert!(ran.stderr.contains("outbox"), "{ran:?}");
        taken += 1;
    };
    assert!((4..=5).contains(&taken), "{taken} events were taken");
    assert!(ran.code == Some(1) && ran.stderr.contains("is full"), "{ran:?}");
    assert!(ran.stderr.contains("bus.outbox_max"), "what to do is not said: {ran:?}");
    assert!(!ran.stderr.contains("guest:guest"), "{ran:?}");
}

/// How often the bridge is killed.
const BRIDGE_KILLS: usize = 40;

#[test]
fn a_bridge_that_is_killed_neither_loses_nor_repeats() {
    let _turn = turn();
    let Some(broker) = Broker::start() else { return };
    let home = Home::new();
    let seed = seed();
    println!("seed {seed} (GODCTL_KILL_SEED)");
    let mut rng = fastrand::Rng::with_seed(seed);
    let (url, count) = (broker.url(), events(20_000));
    audit::begin(&url);

    let bridge = || {
        home.command("godctl")
            .args(["bus", "bridge", "--from", "sqlite:", "--to", &url, "--bind", "kill.#"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap()
    };
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish_slowly(&home, count, seed));
        for _ in 0..BRIDGE_KILLS {
            let mut child = bridge();
            pause(rng.u64(20..700));
            assert_eq!(child.try_wait().unwrap(), None, "the bridge ended by itself");
            child.kill().unwrap();
            child.wait().unwrap();
        }
        publisher.join().unwrap();
    });
    let mut child = bridge();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut log = Vec::new();
    while log.len() < count as usize && Instant::now() < deadline {
        log.extend(audit::end(&url, seed));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    log.extend(audit::end(&url, seed));
    let numbers: Vec<u32> = log.iter().map(|name| name.n).collect();
    let expected: Vec<u32> = (0..count).collect();
    let wrong = numbers.iter().zip(&expected).position(|(got, expected)| got != expected);
    assert!(
        numbers == expected,
        "{} of {count} events came over; the first wrong one at {wrong:?}",
        numbers.len()
    );
}

/// About as long as the bridge is killed.
fn publish_slowly(home: &Home, count: u32, seed: u64) {
    let mut child = home
        .command("godctl")
        .args(["bus", "publish", "--lines"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for n in 0..count {
        writeln!(stdin, "{}", event(Name { producer: 0, n }, seed)).unwrap();
        if n % 100 == 0 {
            pause(50);
        }
    }
    drop(stdin);
    assert!(child.wait().unwrap().success());
}
