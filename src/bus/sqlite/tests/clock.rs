//! What the clock does to leases, delays and times: it goes on, it jumps, it is put back.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::time::timeout;

use super::{Folder, Hand};
use crate::bus::{BusError, EventBus, Lane, QueueSpec, Start, WorkQueue, sqlite::SqliteOptions, testkit::*};

const HOUR: Duration = Duration::from_secs(3600);
const SOON: Duration = Duration::from_millis(400);

fn spec(max_attempts: u32) -> QueueSpec {
    QueueSpec {
        visibility: Duration::from_secs(60),
        max_attempts: max_attempts.try_into().unwrap(),
        prefetch: 1,
        consumer: "one".to_owned(),
        ..QueueSpec::new("work", vec![pattern("#")])
    }
}

struct Timed {
    folder: Folder,
    clock: Arc<Hand>,
}

impl Timed {
    fn new() -> Self {
        Self { folder: Folder::new(), clock: Hand::new() }
    }

    async fn bus(&self) -> crate::bus::sqlite::SqliteBus {
        let clock = Arc::clone(&self.clock) as _;
        self.folder.with(SqliteOptions { clock, ..self.folder.options() }).await
    }
}

async fn nothing(queue: &dyn WorkQueue) {
    assert_idle(queue, SOON).await;
}

#[tokio::test]
async fn a_lease_ends_with_its_time_and_the_attempts_with_their_number() {
    let timed = Timed::new();
    let (bus, other) = (timed.bus().await, timed.bus().await);
    let mine = bus.queue(spec(2)).await.unwrap();
    let theirs = other.queue(QueueSpec { consumer: "two".to_owned(), ..spec(2) }).await.unwrap();
    publish(&bus, &[event("a", 0)]).await;
    let first = take(&*mine).await;
    timed.clock.forward(Duration::from_secs(59));
    nothing(&*theirs).await;
    // Whoever waits notices that the clock goes on.
    let (second, ()) = tokio::join!(take(&*theirs), async {
        timed.clock.forward(Duration::from_secs(60));
    });
    assert_eq!((second.attempt, second.history.len()), (2, 1));
    assert_eq!(
        (second.history[0].consumer.as_str(), second.history[0].reason.as_str()),
        ("one", "lease expired")
    );
    assert!(matches!(first.lease.ack().await, Err(BusError::LeaseLost)));
    timed.clock.forward(HOUR);
    let dead = bus.peek("work", Lane::Dead, 10).await.unwrap();
    assert_eq!(dead[0].reason.as_deref(), Some("attempts exhausted"));
    assert_eq!((dead[0].attempts, dead[0].history.len()), (2, 2));
    assert_eq!(dead[0].history[1].consumer, "two");
    nothing(&*mine).await;
}

#[tokio::test]
async fn a_late_acknowledgement_counts_while_nobody_else_has_the_work() {
    let timed = Timed::new();
    let bus = timed.bus().await;
    let queue = bus.queue(spec(2)).await.unwrap();
    publish(&bus, &[event("a", 0)]).await;
    let late = take(&*queue).await;
    timed.clock.forward(HOUR);
    late.lease.ack().await.unwrap();
    nothing(&*queue).await;
}

#[tokio::test]
async fn an_extended_lease_lasts() {
    let timed = Timed::new();
    let bus = timed.bus().await;
    let queue = bus.queue(spec(2)).await.unwrap();
    publish(&bus, &[event("a", 0)]).await;
    let held = take(&*queue).await;
    held.lease.extend(2 * HOUR).await.unwrap();
    timed.clock.forward(HOUR);
    nothing(&*queue).await;
    held.lease.extend(2 * HOUR).await.unwrap();
    timed.clock.forward(HOUR + HOUR / 2);
    nothing(&*queue).await;
    timed.clock.forward(HOUR);
    assert_eq!(take(&*queue).await.attempt, 2);
}

#[tokio::test]
async fn a_clock_that_was_put_back_freezes_no_lease_and_no_delay() {
    let timed = Timed::new();
    let (bus, other) = (timed.bus().await, timed.bus().await);
    let queue = bus.queue(spec(9)).await.unwrap();
    publish(&bus, &numbered("a", 2)).await;
    let _held = take(&*queue).await;
    take(&*queue).await.lease.retry(Duration::from_secs(30), "later").await.unwrap();
    timed.clock.turn(-SignedDuration::from_hours(24 * 365));
    // A process that was there before, and one that comes later; neither waits for a year.
    for bus in [other, timed.bus().await] {
        let queue = bus.queue(spec(9)).await.unwrap();
        nothing(&*queue).await;
        timed.clock.forward(Duration::from_secs(31));
        assert_eq!(numbers([parsed(&take(&*queue).await.received)]), [1], "the delay began again");
        timed.clock.forward(Duration::from_secs(60));
        let again = take(&*queue).await;
        assert_eq!(numbers([parsed(&again.received)]), [0], "so did the lease");
        again.lease.retry(Duration::from_secs(30), "later").await.unwrap();
        timed.clock.turn(-SignedDuration::from_hours(24 * 365));
        queue.drain().await;
        // The next one finds: 1 leased, 0 delayed, both in the future; make them what the first one found.
        let queue = bus.queue(spec(9)).await.unwrap();
        timed.clock.forward(Duration::from_secs(100));
        let (zero, one) = (take(&*queue).await, take(&*queue).await);
        assert_eq!(numbers([parsed(&zero.received), parsed(&one.received)]), [0, 1]);
        one.lease.retry(Duration::from_secs(30), "later").await.unwrap();
        timed.clock.turn(-SignedDuration::from_hours(24 * 365));
    }
}

#[tokio::test]
async fn a_consumer_that_waits_notices_a_clock_that_was_put_back() {
    let timed = Timed::new();
    let bus = timed.bus().await;
    let queue = bus.queue(spec(9)).await.unwrap();
    publish(&bus, &[event("a", 0)]).await;
    take(&*queue).await.lease.retry(Duration::from_secs(30), "later").await.unwrap();
    let waiting = async { timeout(PATIENCE, queue.next()).await.expect("frozen").unwrap().unwrap() };
    let setting = async {
        tokio::time::sleep(SOON).await;
        timed.clock.turn(-SignedDuration::from_hours(1000));
        tokio::time::sleep(SOON).await;
        timed.clock.forward(Duration::from_secs(31));
    };
    let (delivery, ()) = tokio::join!(waiting, setting);
    assert_eq!(delivery.attempt, 2);
}

#[tokio::test]
async fn times_never_decrease_along_the_history() {
    let timed = Timed::new();
    let (bus, other) = (timed.bus().await, timed.bus().await);
    for (n, hours) in [5, -3, 1, -7, 9].into_iter().enumerate() {
        timed.clock.turn(SignedDuration::from_hours(hours));
        publish(if n % 2 == 0 { &bus } else { &other }, &[event("a", n as u64)]).await;
    }
    let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    let all = rest(&mut *stream).await;
    let times: Vec<Timestamp> = all.iter().filter_map(|received| received.at).collect();
    assert!(times.len() == 5 && times.is_sorted(), "{times:?}");
    for time in times.iter().copied() {
        let mut stream = other.subscribe(subscription(&["#"], Start::Time(time), false)).await.unwrap();
        let first = times.iter().position(|at| *at >= time).unwrap();
        assert_eq!(rest(&mut *stream).await, all[first..]);
    }
}

#[tokio::test]
async fn the_longest_times_are_no_overflow() {
    let timed = Timed::new();
    let bus = timed.bus().await;
    let endless = QueueSpec { visibility: Duration::MAX, ..spec(9) };
    let queue = bus.queue(endless).await.unwrap();
    publish(&bus, &numbered("a", 2)).await;
    let first = take(&*queue).await;
    first.lease.extend(Duration::MAX).await.unwrap();
    take(&*queue).await.lease.retry(Duration::MAX, "never").await.unwrap();
    timed.clock.forward(HOUR * 1000);
    nothing(&*queue).await;
    first.lease.ack().await.unwrap();
    assert_eq!(bus.queues().await.unwrap()[0].delayed, 1);
}

#[tokio::test]
async fn what_is_fetched_ahead_and_not_wanted_goes_back_uncounted() {
    // By the clock of the process, so this takes real time: a quarter of the visibility.
    let folder = Folder::new();
    let (bus, other) = (folder.bus().await, folder.bus().await);
    let greedy = QueueSpec { prefetch: 10, visibility: Duration::from_millis(400), ..spec(2) };
    let mine = bus.queue(greedy.clone()).await.unwrap();
    let theirs = other.queue(QueueSpec { visibility: HOUR, ..greedy }).await.unwrap();
    publish(&bus, &numbered("a", 6)).await;
    let held = take(&*mine).await;
    held.lease.extend(HOUR).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..5 {
        let delivery = take(&*theirs).await;
        assert_eq!((delivery.attempt, delivery.history.len()), (1, 0));
        delivery.lease.ack().await.unwrap();
        rest.push(parsed(&delivery.received).clone());
    }
    assert_eq!(numbers(&rest), [1, 2, 3, 4, 5]);
    held.lease.ack().await.unwrap();
}
