//! Laws of work queues: who gets what, in which order, and what can be seen and done from outside.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::timeout;
use uuid::Uuid;

use super::support::*;
use crate::bus::{Body, BusError, Event, Lane, QueueSpec, Selection, WorkQueue};

/// Checks that a backend without queues says so.
pub(super) async fn has_queues(world: &World) -> bool {
    if !world.can.queues {
        assert_unsupported(world.bus.queue(world.queue("work", &["#"])).await);
        assert_unsupported(world.bus.queues().await);
    }
    world.can.queues
}

pub(crate) async fn consumers_share_the_work_and_each_piece_comes_once(world: &World) {
    if !has_queues(world).await {
        return;
    }
    const COUNT: u64 = 200;
    let spec = world.patient_queue("work", &["job.*"]);
    let mut consumers: Vec<Arc<dyn WorkQueue>> = Vec::new();
    for bus in [&world.bus, &world.other, &world.bus, &world.other] {
        consumers.push(bus.queue(spec.clone()).await.unwrap().into());
    }
    let sent = numbered("job.new", COUNT);
    let done = Mutex::new(BTreeMap::<Uuid, u32>::new());
    let by: Mutex<Vec<u64>> = Mutex::new(vec![0; consumers.len()]);
    let working = consumers.iter().enumerate().map(|(index, consumer)| {
        let (done, by) = (&done, &by);
        async move {
            while let Some(delivery) = consumer.next().await.unwrap() {
                assert_eq!(delivery.attempt, 1);
                delivery.lease.ack().await.unwrap();
                *done.lock().entry(parsed(&delivery.received).event_id).or_default() += 1;
                by.lock()[index] += 1;
                tokio::task::yield_now().await;
            }
        }
    });
    let sending = async {
        for batch in sent.chunks(5) {
            publish(&*world.bus, batch).await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        until("all is done", async || done.lock().len() as u64 == COUNT).await;
        join_all(consumers.iter().map(|consumer| consumer.drain())).await;
    };
    tokio::join!(sending, join_all(working));
    assert!(done.lock().values().all(|times| *times == 1), "something came twice");
    assert!(by.lock().iter().all(|count| *count > 0), "somebody got nothing: {by:?}");
}

pub(crate) async fn work_comes_in_order(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = QueueSpec { prefetch: 1, ..world.patient_queue("work", &["job.*"]) };
    let queue = world.bus.queue(spec).await.unwrap();
    let sent = numbered("job.new", 30);
    publish(&*world.other, &sent[..10]).await;
    publish(&*world.other, &sent[10..]).await;
    assert_eq!(work_off(&*queue, 30).await, sent);
}

pub(crate) async fn several_workers_share_one_handle(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let queue = world.bus.queue(world.patient_queue("work", &["job.*"])).await.unwrap();
    let working = (0..4).map(|_| work_off(&*queue, 10));
    let sending = async {
        for event in numbered("job.new", 40) {
            publish(&*world.other, &[event]).await;
        }
    };
    let (all, ()) = tokio::join!(join_all(working), sending);
    let mut done = numbers(all.iter().flatten());
    done.sort_unstable();
    assert_eq!(done, (0..40).collect::<Vec<_>>());
}

pub(crate) async fn bindings_catch_what_comes_later(world: &World) {
    if !has_queues(world).await {
        return;
    }
    publish(&*world.bus, &[event("job.new", 0)]).await;
    let queue = world.bus.queue(world.patient_queue("work", &["job.*", "todo.#"])).await.unwrap();
    let sent = [
        event("job.new", 1),
        event("job.new.urgent", 2),
        event("other", 3),
        event("todo", 4),
        event("todo.a.b", 5),
    ];
    publish(&*world.bus, &sent).await;
    assert_eq!(numbers(&work_off(&*queue, 3).await), [1, 4, 5]);
}

pub(crate) async fn overlapping_bindings_catch_once(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let queue = world.bus.queue(world.patient_queue("work", &["job.*", "#", "job.new"])).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 3)).await;
    publish(&*world.bus, &[event("end", 3)]).await;
    assert_eq!(numbers(&work_off(&*queue, 4).await), [0, 1, 2, 3]);
}

pub(crate) async fn a_second_consumer_joins_and_adds_bindings(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let first = world.bus.queue(world.patient_queue("work", &["a"])).await.unwrap();
    publish(&*world.bus, &[event("b", 0)]).await;
    let second = world.other.queue(world.patient_queue("work", &["b"])).await.unwrap();
    publish(&*world.bus, &[event("a", 1), event("b", 2)]).await;
    first.drain().await;
    let mut done = numbers(&work_off(&*second, 2).await);
    done.sort_unstable();
    assert_eq!(done, [1, 2], "bindings of both hold for both");
}

pub(crate) async fn work_waits_for_a_consumer(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    drop(world.bus.queue(spec.clone()).await.unwrap());
    publish(&*world.bus, &numbered("job.new", 3)).await;
    let queue = world.other.queue(QueueSpec { prefetch: 1, bindings: Vec::new(), ..spec }).await.unwrap();
    assert_eq!(numbers(&work_off(&*queue, 3).await), [0, 1, 2]);
}

pub(crate) async fn work_outlives_the_handle(world: &World) {
    if !has_queues(world).await || !world.can.durable {
        return;
    }
    let spec = QueueSpec { prefetch: 1, ..world.patient_queue("work", &["job.*"]) };
    let queue = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 3)).await;
    let delivery = take(&*queue).await;
    assert_eq!(numbers([parsed(&delivery.received)]), [0]);
    delivery.lease.dead("cannot be done").await.unwrap();
    work_off(&*queue, 1).await;
    drop(queue);
    world.bus.close().await;
    world.other.close().await;

    let again = world.fixture.open().await;
    let dead = again.peek(&spec.name, Lane::Dead, 10).await.unwrap();
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].reason.as_deref(), Some("cannot be done"));
    let queue = again.queue(spec).await.unwrap();
    assert_eq!(numbers(&work_off(&*queue, 1).await), [2]);
    drop(queue);
    again.close().await;
}

pub(crate) async fn each_queue_gets_its_own_copy(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let one = world.bus.queue(world.patient_queue("one", &["job.*"])).await.unwrap();
    let two = world.other.queue(world.patient_queue("two", &["#"])).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 3)).await;
    assert_eq!(numbers(&work_off(&*one, 3).await), [0, 1, 2]);
    assert_eq!(numbers(&work_off(&*two, 3).await), [0, 1, 2]);
}

pub(crate) async fn work_keeps_what_was_published(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let queue = world.bus.queue(world.patient_queue("work", &["#"])).await.unwrap();
    let mut sent = event("job.new", 1);
    sent.extra.insert("producer".to_owned(), serde_json::json!({"name": "x"}));
    publish(&*world.bus, std::slice::from_ref(&sent)).await;
    let delivery = take(&*queue).await;
    assert_eq!(*parsed(&delivery.received), sent);
    assert_eq!(delivery.received.routing_key, "job.new");
    assert_eq!((delivery.attempt, delivery.history.len()), (1, 0));
    delivery.lease.ack().await.unwrap();
}

pub(crate) async fn bytes_that_are_no_event_pass_through_a_queue(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let queue = world.bus.queue(world.patient_queue("work", &["odd.*"])).await.unwrap();
    if !world.fixture.inject("odd.one", b"not json").await {
        return;
    }
    let delivery = take(&*queue).await;
    match &delivery.received.body {
        Body::Unparsed(unparsed) => assert_eq!(unparsed.raw, b"not json"),
        Body::Event(event) => panic!("{event:?}"),
    }
    delivery.lease.dead("not an event").await.unwrap();
    let name = world.queue("work", &[]).name;
    until("it is among the dead", async || world.bus.peek(&name, Lane::Dead, 5).await.unwrap().len() == 1)
        .await;
}

pub(crate) async fn unknown_queues_are_named(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let name = format!("test.absent.{}", Uuid::new_v4());
    let results = [
        world.bus.peek(&name, Lane::Ready, 1).await.map(drop),
        world.bus.peek(&name, Lane::Dead, 1).await.map(drop),
        world.bus.requeue(&name, &Selection::All).await.map(drop),
        world.bus.purge(&name, Lane::Ready, &Selection::All).await.map(drop),
        world.bus.purge(&name, Lane::Dead, &Selection::All).await.map(drop),
        world.bus.delete_queue(&name).await,
    ];
    for result in results {
        assert!(matches!(&result, Err(BusError::NoSuchQueue(told)) if *told == name), "{result:?}");
    }
    // The handle is as good as before.
    publish(&*world.bus, &[event("a", 1)]).await;
}

pub(crate) async fn a_deleted_queue_is_gone_with_its_work(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    drop(world.bus.queue(spec.clone()).await.unwrap());
    publish(&*world.bus, &numbered("job.new", 3)).await;
    world.other.delete_queue(&spec.name).await.unwrap();
    assert!(figures(&*world.bus, &spec.name).await.is_none());
    publish(&*world.bus, &[event("job.new", 3)]).await;
    let queue = world.bus.queue(spec).await.unwrap();
    publish(&*world.bus, &[event("job.new", 4)]).await;
    assert_eq!(numbers(&work_off(&*queue, 1).await), [4]);
}

pub(crate) async fn queues_are_listed_with_their_figures(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*", "todo"]);
    let name = spec.name.clone();
    let queue = world.bus.queue(QueueSpec { prefetch: 1, ..spec }).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 4)).await;
    take(&*queue).await.lease.dead("no").await.unwrap();
    take(&*queue).await.lease.retry(Duration::from_secs(60), "later").await.unwrap();
    let held = take(&*queue).await;
    // One that a consumer has fetched ahead is no longer ready where the backend fetches.
    drop(queue);
    until("figures", async || {
        figures(&*world.other, &name).await.is_some_and(|info| {
            let bindings = info.bindings.is_none_or(|bindings| bindings == ["job.*", "todo"]);
            let leased = info.leased.is_none_or(|leased| leased == 1);
            bindings && leased && (info.ready, info.delayed, info.dead) == (1, 1, 1)
        })
    })
    .await;
    held.lease.ack().await.unwrap();
}

pub(crate) async fn waiting_work_is_shown_and_left(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    drop(world.bus.queue(spec.clone()).await.unwrap());
    let sent = numbered("job.new", 5);
    publish(&*world.bus, &sent).await;
    for limit in [3, 100, 3] {
        let shown = world.other.peek(&spec.name, Lane::Ready, limit).await.unwrap();
        let events: Vec<&Event> = shown.iter().map(|held| parsed(&held.received)).collect();
        assert_eq!(events, sent.iter().take(limit).collect::<Vec<_>>());
        assert!(shown.iter().all(|held| held.attempts == 0 && held.reason.is_none()));
    }
    assert!(world.bus.peek(&spec.name, Lane::Dead, 10).await.unwrap().is_empty());
    let queue = world.bus.queue(spec).await.unwrap();
    let mut done = Vec::new();
    for _ in 0..5 {
        let delivery = take(&*queue).await;
        assert_eq!(delivery.attempt, 1, "to be looked at is no attempt");
        delivery.lease.ack().await.unwrap();
        done.push(parsed(&delivery.received).clone());
    }
    assert_eq!(done, sent);
}

pub(crate) async fn waiting_work_is_purged(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    drop(world.bus.queue(spec.clone()).await.unwrap());
    let sent = numbered("job.new", 6);
    publish(&*world.bus, &sent).await;
    let some = Selection::Events(vec![sent[1].event_id, sent[4].event_id, Uuid::new_v4()]);
    assert_eq!(world.other.purge(&spec.name, Lane::Ready, &some).await.unwrap(), 2);
    let left = world.bus.peek(&spec.name, Lane::Ready, 10).await.unwrap();
    assert_eq!(numbers(left.iter().map(|held| parsed(&held.received))), [0, 2, 3, 5]);
    assert_eq!(world.bus.purge(&spec.name, Lane::Ready, &Selection::All).await.unwrap(), 4);
    assert_eq!(world.bus.purge(&spec.name, Lane::Ready, &Selection::All).await.unwrap(), 0);
    let queue = world.bus.queue(spec).await.unwrap();
    publish(&*world.bus, &[event("job.new", 6)]).await;
    assert_eq!(numbers(&work_off(&*queue, 1).await), [6]);
}

pub(crate) async fn draining_gives_back_uncounted(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let first = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 6)).await;
    let held = take(&*first).await;
    first.drain().await;
    assert!(timeout(PATIENCE, first.next()).await.unwrap().unwrap().is_none(), "a drained consumer ends");
    let second = world.other.queue(spec).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..5 {
        let delivery = take(&*second).await;
        assert_eq!(delivery.attempt, 1);
        rest.push(numbers([parsed(&delivery.received)])[0]);
        delivery.lease.ack().await.unwrap();
    }
    assert_eq!(rest, [1, 2, 3, 4, 5]);
    held.lease.ack().await.unwrap();
}

pub(crate) async fn dropping_a_consumer_gives_back_uncounted(world: &World) {
    if !has_queues(world).await {
        return;
    }
    let spec = world.patient_queue("work", &["job.*"]);
    let first = world.bus.queue(spec.clone()).await.unwrap();
    publish(&*world.bus, &numbered("job.new", 6)).await;
    let held = take(&*first).await;
    drop(first);
    let second = world.other.queue(spec).await.unwrap();
    let mut rest = Vec::new();
    for _ in 0..5 {
        let delivery = take(&*second).await;
        assert_eq!(delivery.attempt, 1);
        rest.push(numbers([parsed(&delivery.received)])[0]);
        delivery.lease.ack().await.unwrap();
    }
    rest.sort_unstable();
    assert_eq!(rest, [1, 2, 3, 4, 5]);
    held.lease.ack().await.unwrap();
}

pub(crate) async fn a_cancelled_wait_for_work_loses_nothing(world: &World) {
    if !has_queues(world).await {
        return;
    }
    const COUNT: u64 = 60;
    let queue = world.bus.queue(world.patient_queue("work", &["job.*"])).await.unwrap();
    let sending = async {
        for event in numbered("job.new", COUNT) {
            publish(&*world.other, &[event]).await;
        }
    };
    let working = async {
        let mut done = Vec::new();
        while (done.len() as u64) < COUNT {
            // Most of these waits are cancelled in the middle.
            if let Ok(delivery) = timeout(Duration::from_micros(300), queue.next()).await {
                let delivery = delivery.unwrap().unwrap();
                assert_eq!(delivery.attempt, 1);
                delivery.lease.ack().await.unwrap();
                done.push(parsed(&delivery.received).clone());
            }
        }
        done
    };
    let ((), done) = tokio::join!(sending, working);
    assert_eq!(numbers(&done), (0..COUNT).collect::<Vec<_>>());
}
