//! Laws of leases: acknowledge, retry, give up, give back, and what happens to who says nothing.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{queues::has_queues, support::*};
use crate::bus::{BusError, Held, Lane, QueueSpec, Selection, Settled};

/// Waits until so many are among the dead, and gives them.
async fn dead(world: &World, queue: &str, count: usize) -> Vec<Held> {
    until("the dead are listed", async || {
        world.other.peek(queue, Lane::Dead, 100).await.unwrap().len() == count
    })
    .await;
    world.other.peek(queue, Lane::Dead, 100).await.unwrap()
}

pub(crate) async fn an_acknowledgement_is_final(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.queue("work", &["job.*"]);
    let first = world.bus.queue(QueueSpec { prefetch: 1, ..spec.clone() }).await.unwrap();
    publish(&*world.bus, &[event("job.new", 0)]).await;
    take(&*first).await.lease.ack().await.unwrap();
    let second = world.other.queue(spec.clone()).await.unwrap();
    assert_idle(&*second, world.timing.visibility * 3).await;
    drop(first);
    publish(&*world.bus, &[event("job.new", 1)]).await;
    assert_eq!(numbers(&work_off(&*second, 1).await), [1]);
    until("nothing is left", async || {
        figures(&*world.bus, &spec.name).await.is_some_and(|info| {
            (info.ready, info.leased.unwrap_or(0), info.delayed, info.dead) == (0, 0, 0, 0)
        })
    })
    .await;
}

pub(crate) async fn unsettled_work_returns_and_the_late_one_is_told(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.queue("work", &["job.*"]);
    let first = world.bus.queue(QueueSpec { prefetch: 1, ..spec.clone() }).await.unwrap();
    let before = Instant::now();
    publish(&*world.bus, &[event("job.new", 0)]).await;
    let lost = take(&*first).await;
    first.drain().await;
    let second = world.other.queue(QueueSpec { consumer: "two".to_owned(), ..spec.clone() }).await.unwrap();
    let delivery = take(&*second).await;
    assert!(before.elapsed() >= world.timing.visibility, "after {:?}", before.elapsed());
    assert_eq!(numbers([parsed(&delivery.received)]), [0]);
    assert_eq!(delivery.attempt, 2);
    assert_eq!(delivery.history.len(), 1, "{:?}", delivery.history);
    assert_eq!(delivery.history[0].consumer, "one");
    assert!(!delivery.history[0].reason.is_empty());

    for late in [
        lost.lease.ack().await,
        lost.lease.retry(Duration::ZERO, "late").await.map(drop),
        lost.lease.dead("late").await,
        lost.lease.release().await,
        lost.lease.extend(Duration::from_secs(60)).await,
    ] {
        assert!(matches!(late, Err(BusError::LeaseLost)), "{late:?}");
    }
    delivery.lease.ack().await.unwrap();
}

pub(crate) async fn extending_keeps_the_work(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.queue("work", &["job.*"]);
    let first = world.bus.queue(QueueSpec { prefetch: 1, ..spec.clone() }).await.unwrap();
    publish(&*world.bus, &[event("job.new", 0)]).await;
    let delivery = take(&*first).await;
    delivery.lease.extend(world.timing.visibility * 20).await.unwrap();
    let second = world.other.queue(spec).await.unwrap();
    assert_idle(&*second, world.timing.visibility * 3).await;
    delivery.lease.extend(world.timing.visibility * 20).await.unwrap();
    delivery.lease.ack().await.unwrap();
    publish(&*world.bus, &[event("job.new", 1)]).await;
    first.drain().await;
    assert_eq!(numbers(&work_off(&*second, 1).await), [1]);
}

pub(crate) async fn a_retry_waits_for_its_delay(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &[event("job.new", 0)]).await;
    for (attempt, delay) in [(1, world.timing.delay), (2, Duration::ZERO)] {
        let delivery = take(&*queue).await;
        assert_eq!(delivery.attempt, attempt);
        let before = Instant::now();
        assert_eq!(delivery.lease.retry(delay, "not yet").await.unwrap(), Settled::Retrying);
        let again = take(&*queue).await;
        assert!(before.elapsed() >= delay, "came after {:?}", before.elapsed());
        assert_eq!(again.attempt, attempt + 1);
        assert_eq!(again.history.len(), usize::try_from(attempt).unwrap());
        let last = again.history.last().unwrap();
        assert_eq!((last.consumer.as_str(), last.reason.as_str()), ("one", "not yet"));
        if attempt == 2 {
            again.lease.ack().await.unwrap();
        } else {
            again.lease.release().await.unwrap();
        }
    }
}

pub(crate) async fn a_retry_holds_up_nobody(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(QueueSpec { prefetch: 1, ..spec.clone() }).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 3)).await;
    take(&*queue).await.lease.retry(Duration::from_secs(120), "much later").await.unwrap();
    assert_eq!(numbers(&work_off(&*queue, 2).await), [1, 2]);
    until("one is delayed", async || {
        figures(&*world.other, &spec.name).await.is_some_and(|info| info.delayed == 1)
    })
    .await;
    // A short one overtakes a long one.
    publish(&*world.bus, &[event("job.new", 3)]).await;
    take(&*queue).await.lease.retry(world.timing.delay, "soon").await.unwrap();
    assert_eq!(numbers(&work_off(&*queue, 1).await), [3]);
}

pub(crate) async fn the_last_attempt_is_dead_with_its_history(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    let sent = event("job.new", 0);
    publish(&*world.bus, std::slice::from_ref(&sent)).await;
    let reasons = ["first", "second", "third \u{1F4A5} \"quoted\""];
    for (reason, attempt) in reasons.iter().zip(1..) {
        let delivery = take(&*queue).await;
        assert_eq!(delivery.attempt, attempt);
        let settled = delivery.lease.retry(Duration::from_millis(1), reason).await.unwrap();
        assert_eq!(settled, if attempt == 3 { Settled::Dead } else { Settled::Retrying });
    }
    let dead = dead(world, &spec.name, 1).await;
    assert_eq!(*parsed(&dead[0].received), sent);
    assert_eq!(dead[0].attempts, 3);
    assert_eq!(dead[0].reason.as_deref(), Some(reasons[2]));
    let told: Vec<&str> = dead[0].history.iter().map(|attempt| attempt.reason.as_str()).collect();
    assert_eq!(told, reasons);
    assert!(dead[0].history.iter().all(|attempt| attempt.consumer == "one"));
    assert_idle(&*queue, world.timing.delay * 2).await;
}

pub(crate) async fn unsettled_work_dies_after_its_last_attempt(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = QueueSpec { max_attempts: 2.try_into().unwrap(), ..world.queue("work", &["job.*"]) };
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &[event("job.new", 0)]).await;
    let _first = take(&*queue).await;
    let second = take(&*queue).await;
    assert_eq!(second.attempt, 2);
    let dead = dead(world, &spec.name, 1).await;
    assert_eq!((dead[0].attempts, dead[0].history.len()), (2, 2));
    assert!(dead[0].reason.as_deref().is_some_and(|reason| !reason.is_empty()));
    assert!(matches!(second.lease.ack().await, Err(BusError::LeaseLost)));
}

pub(crate) async fn dead_letters_keep_their_reason(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 2)).await;
    for reason in ["no such project", "said \"no\"\nand ümlauts"] {
        take(&*queue).await.lease.dead(reason).await.unwrap();
    }
    let dead = dead(world, &spec.name, 2).await;
    assert_eq!(numbers(dead.iter().map(|held| parsed(&held.received))), [0, 1], "oldest first");
    let reasons: Vec<&str> = dead.iter().filter_map(|held| held.reason.as_deref()).collect();
    assert_eq!(reasons, ["no such project", "said \"no\"\nand ümlauts"]);
    assert!(dead.iter().all(|held| held.attempts == 1 && held.history.len() == 1));
    assert_eq!(world.bus.peek(&spec.name, Lane::Dead, 1).await.unwrap().len(), 1);
    assert_idle(&*queue, world.timing.delay).await;
}

pub(crate) async fn dead_letters_go_back_with_a_fresh_count(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 3)).await;
    for _ in 0..3 {
        take(&*queue).await.lease.dead("no").await.unwrap();
    }
    dead(world, &spec.name, 3).await;
    assert_eq!(world.other.requeue(&spec.name, &Selection::All).await.unwrap(), 3);
    assert_eq!(world.other.requeue(&spec.name, &Selection::All).await.unwrap(), 0);
    let mut done = Vec::new();
    for _ in 0..3 {
        let delivery = take(&*queue).await;
        assert_eq!(delivery.attempt, 1);
        delivery.lease.ack().await.unwrap();
        done.push(parsed(&delivery.received).clone());
    }
    assert_eq!(numbers(&done), [0, 1, 2]);
    dead(world, &spec.name, 0).await;
}

pub(crate) async fn dead_letters_are_chosen_by_event(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    let sent = numbered("job.new", 5);
    publish(&*world.bus, &sent).await;
    for _ in 0..5 {
        take(&*queue).await.lease.dead("no").await.unwrap();
    }
    dead(world, &spec.name, 5).await;
    let some = Selection::Events(vec![sent[3].event_id, sent[1].event_id, Uuid::new_v4()]);
    assert_eq!(world.bus.requeue(&spec.name, &some).await.unwrap(), 2);
    let mut done = numbers(&work_off(&*queue, 2).await);
    done.sort_unstable();
    assert_eq!(done, [1, 3]);
    let left = dead(world, &spec.name, 3).await;
    assert_eq!(numbers(left.iter().map(|held| parsed(&held.received))), [0, 2, 4]);
    assert!(left.iter().all(|held| held.reason.as_deref() == Some("no")), "looking changes nothing");
}

pub(crate) async fn dead_letters_are_purged(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let queue = world.bus.queue(QueueSpec { prefetch: 1, ..spec.clone() }).await.unwrap();
    let sent = numbered("job.new", 4);
    publish(&*world.bus, &sent).await;
    for _ in 0..3 {
        take(&*queue).await.lease.dead("no").await.unwrap();
    }
    dead(world, &spec.name, 3).await;
    let one = Selection::Events(vec![sent[1].event_id, sent[3].event_id]);
    assert_eq!(world.other.purge(&spec.name, Lane::Dead, &one).await.unwrap(), 1, "the last is not dead");
    let left = dead(world, &spec.name, 2).await;
    assert_eq!(numbers(left.iter().map(|held| parsed(&held.received))), [0, 2]);
    assert_eq!(world.bus.purge(&spec.name, Lane::Dead, &Selection::All).await.unwrap(), 2);
    dead(world, &spec.name, 0).await;
    assert_eq!(numbers(&work_off(&*queue, 1).await), [3], "what waits is not touched");
}

pub(crate) async fn released_work_is_not_counted(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let queue = world.bus.queue(world.patient_queue("work", &["job.*"])).await.unwrap();
    publish(&*world.bus, &[event("job.new", 0)]).await;
    for _ in 0..5 {
        let delivery = take(&*queue).await;
        assert_eq!((delivery.attempt, delivery.history.len()), (1, 0));
        delivery.lease.release().await.unwrap();
    }
    take(&*queue).await.lease.ack().await.unwrap();
}

pub(crate) async fn finished_work_is_not_done_again_under_another_name(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*", "work.*"]);
    let careful = world.bus.queue(QueueSpec { dedupe: true, ..spec }).await.unwrap();
    let spec = world.patient_queue("twice", &["job.*", "work.*"]);
    let careless = world.bus.queue(QueueSpec { dedupe: false, ..spec }).await.unwrap();
    let first = event("job.new", 0);
    let mut alias = first.clone();
    alias.event_type = "work.job".parse().unwrap();
    publish(&*world.bus, &[first.clone(), alias.clone()]).await;
    publish(&*world.bus, &[event("job.new", 1)]).await;
    // The clock of a backend may be coarse; what counts is that the first was acknowledged before the alias is taken.
    assert_eq!(numbers(&work_off(&*careful, 2).await), [0, 1]);
    assert_eq!(numbers(&work_off(&*careless, 3).await), [0, 0, 1]);
    // The same once more, long after.
    sleep(Duration::from_millis(5)).await;
    publish(&*world.other, &[first, alias, event("job.new", 2)]).await;
    assert_eq!(numbers(&work_off(&*careful, 1).await), [2]);
}
