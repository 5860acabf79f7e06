//! Deleting what is old: by age, by size, in the background, under those who read and work.

use std::{sync::Arc, time::Duration};

use super::{Folder, Hand};
use crate::bus::{
    Event, EventBus, Item, Lane, Position, Pruned, QueueSpec, Retention, Start,
    sqlite::{SqliteOptions, prune},
    testkit::*,
};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn older_than(max_age: Duration) -> Retention {
    Retention { max_age: Some(max_age), ..Retention::default() }
}

/// Events of about 1 KB.
fn bulky(count: u64) -> Vec<Event> {
    let mut events = numbered("bulk", count);
    for event in &mut events {
        event.payload["text"] = "x".repeat(800).into();
    }
    events
}

#[tokio::test]
async fn old_events_go_and_younger_ones_stay() {
    let folder = Folder::new();
    let clock = Hand::new();
    let bus = folder.with(SqliteOptions { clock: Arc::clone(&clock) as _, ..folder.options() }).await;
    for n in 0..10 {
        publish(&bus, &numbered("a", 120)).await;
        clock.forward(DAY);
        publish(&bus, &[event("b", n)]).await;
    }
    let dry = bus.prune(Retention { dry_run: true, ..older_than(4 * DAY + DAY / 2) }).await.unwrap();
    assert_eq!(dry.events, 6 * 120 + 5);
    assert_eq!(bus.stats().await.unwrap().events, Some(1210), "a dry run deletes nothing");
    let pruned = bus.prune(older_than(4 * DAY + DAY / 2)).await.unwrap();
    assert_eq!(pruned.events, dry.events);
    let stats = bus.stats().await.unwrap();
    assert_eq!((stats.events, stats.types["a"], stats.types["b"]), (Some(485), 480, 5));
    assert_eq!(bus.prune(older_than(4 * DAY + DAY / 2)).await.unwrap().events, 0);
    assert_eq!(bus.prune(older_than(Duration::MAX)).await.unwrap(), Pruned::default());
    // Positions are never used again.
    bus.prune(Retention { max_bytes: Some(0), ..Retention::default() }).await.unwrap();
    let last = publish(&bus, &[event("a", 0)]).await.last;
    assert_eq!(last, Some(Position(1211)));
}

#[tokio::test]
async fn the_oldest_go_until_the_file_is_small_enough() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    for _ in 0..10 {
        publish(&bus, &bulky(500)).await;
    }
    let before = std::fs::metadata(folder.path()).unwrap().len();
    let limit = Retention { max_bytes: Some(2_000_000), ..Retention::default() };
    let dry = bus.prune(Retention { dry_run: true, ..limit }).await.unwrap();
    let pruned = bus.prune(limit).await.unwrap();
    assert!(pruned.events > 2000 && pruned.events < 5000, "{pruned:?}");
    assert!(dry.events.abs_diff(pruned.events) <= 600, "{dry:?} for {pruned:?}");
    let after = std::fs::metadata(folder.path()).unwrap().len();
    assert!(after <= 2_100_000 && before > 4_000_000, "from {before} to {after}");
    assert!(pruned.bytes > 2_000_000, "{pruned:?}");
    let left = bus.stats().await.unwrap().events.unwrap();
    assert_eq!(left, 5000 - pruned.events);
    assert_eq!(bus.prune(limit).await.unwrap().events, 0);
    // The newest are the ones that are left.
    let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    let first = rest(&mut *stream).await[0].position.unwrap();
    assert_eq!(first, Position(pruned.events + 1));
}

#[tokio::test]
async fn work_outlives_its_events_whatever_becomes_of_it() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    let queue =
        bus.queue(QueueSpec { prefetch: 1, ..QueueSpec::new("work", vec![pattern("#")]) }).await.unwrap();
    let sent = bulky(8);
    publish(&bus, &sent).await;
    take(&*queue).await.lease.dead("no").await.unwrap();
    take(&*queue).await.lease.retry(DAY, "later").await.unwrap();
    let held = take(&*queue).await;
    let everything = Retention { max_bytes: Some(0), ..Retention::default() };
    assert_eq!(bus.prune(everything).await.unwrap().events, 8);
    assert_eq!(bus.stats().await.unwrap().events, Some(0));
    held.lease.release().await.unwrap();
    let dead = bus.peek("work", Lane::Dead, 10).await.unwrap();
    assert_eq!(*parsed(&dead[0].received), sent[0]);
    let ready = bus.peek("work", Lane::Ready, 10).await.unwrap();
    assert_eq!(ready.iter().map(|held| parsed(&held.received).clone()).collect::<Vec<_>>(), sent[1..]);
    assert_eq!(work_off(&*queue, 6).await, sent[2..]);
    // The log forgot these events, the queue did not.
    assert_eq!(publish(&bus, &sent[2..]).await.accepted, 6);
    assert_idle(&*queue, Duration::from_millis(100)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_is_overtaken_is_told() {
    let folder = Folder::new();
    let (bus, other) = (folder.bus().await, folder.bus().await);
    for _ in 0..4 {
        publish(&bus, &numbered("a", 500)).await;
    }
    let mut slow = follow(&bus, &["#"], Start::Beginning).await;
    let mut picky = follow(&bus, &["b"], Start::Beginning).await;
    assert_eq!(numbers(&events(&mut *slow, 3).await), [0, 1, 2]);
    let everything = Retention { max_bytes: Some(0), ..Retention::default() };
    other.prune(everything).await.unwrap();
    publish(&other, &[event("b", 7)]).await;
    for stream in [&mut slow, &mut picky] {
        let mut gaps = 0;
        let mut numbers_seen = Vec::new();
        loop {
            match next(&mut **stream).await {
                Item::Gap { missed: None, reason } => {
                    assert!(!reason.is_empty());
                    gaps += 1;
                }
                Item::Event(received) => {
                    let seen = parsed(&received);
                    numbers_seen.push(numbers([seen])[0]);
                    if seen.event_type.as_str() == "b" {
                        break;
                    }
                }
                Item::CaughtUp => {}
                gap @ Item::Gap { .. } => panic!("{gap:?}"),
            }
        }
        assert_eq!(gaps, 1);
        assert_eq!(numbers_seen.last(), Some(&7));
    }
    // Who begins now misses nothing, unless it goes on from a place that is gone.
    let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    assert_eq!(rest(&mut *stream).await.len(), 1);
    let mut stream = bus.subscribe(subscription(&["#"], Start::After(Position(10)), false)).await.unwrap();
    assert!(matches!(next(&mut *stream).await, Item::Gap { .. }));
    assert_eq!(rest(&mut *stream).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_and_publishing_go_on_while_the_bus_tidies_up() {
    let folder = Folder::new();
    let (bus, other) = (folder.bus().await, folder.bus().await);
    for _ in 0..6 {
        publish(&bus, &bulky(500)).await;
    }
    let mut live = follow(&bus, &["live"], Start::Now).await;
    let publishing = async {
        for n in 0..40 {
            publish(&bus, &[event("live", n)]).await;
        }
    };
    let limit = Retention { max_bytes: Some(500_000), ..Retention::default() };
    let (pruned, (), seen) = tokio::join!(other.prune(limit), publishing, events(&mut *live, 40));
    assert!(pruned.unwrap().events > 1000);
    assert_eq!(numbers(&seen), (0..40).collect::<Vec<_>>());
}

#[tokio::test]
async fn one_process_an_hour_tidies_up_for_all() {
    let folder = Folder::new();
    let clock = Hand::new();
    let options = SqliteOptions {
        clock: Arc::clone(&clock) as _,
        retention: older_than(DAY),
        seen_window: 2 * DAY,
        ..folder.options()
    };
    let (bus, other) = (folder.with(options.clone()).await, folder.with(options).await);
    let queue = bus.queue(QueueSpec::new("work", vec![pattern("a")])).await.unwrap();
    let gone = bus.queue(QueueSpec::new("gone", vec![pattern("a")])).await.unwrap();
    let sent = numbered("a", 3);
    publish(&bus, &sent).await;
    work_off(&*queue, 3).await;
    drop(gone);
    // A process that died after the first step of deleting a queue.
    folder.alter("DELETE FROM queues WHERE name = 'gone'").await;
    let orphans = async || -> i64 {
        let mut connection = folder.raw().await;
        sqlx::query_scalar("SELECT count(*) FROM jobs").fetch_one(&mut connection).await.unwrap()
    };
    assert_eq!(orphans().await, 3);

    assert_eq!(prune::tidy(&bus.shared).await.unwrap().map(|pruned| pruned.events), Some(0));
    assert_eq!(orphans().await, 0);
    assert_eq!(prune::tidy(&other.shared).await.unwrap(), None, "not twice in an hour");
    clock.forward(DAY + DAY / 2);
    assert_eq!(prune::tidy(&other.shared).await.unwrap().map(|pruned| pruned.events), Some(3));
    assert_eq!(prune::tidy(&bus.shared).await.unwrap(), None);
    // The ids of the work are remembered for longer than the events, but not for ever.
    publish(&bus, &sent).await;
    assert_idle(&*queue, Duration::from_millis(100)).await;
    clock.forward(DAY + DAY / 2);
    assert_eq!(prune::tidy(&bus.shared).await.unwrap().map(|pruned| pruned.events), Some(3));
    publish(&bus, &sent).await;
    assert_eq!(numbers(&work_off(&*queue, 3).await), [0, 1, 2]);
    // A clock that was put back stops no tidying.
    clock.turn(-jiff::SignedDuration::from_hours(1000));
    assert!(prune::tidy(&bus.shared).await.unwrap().is_some());
}
