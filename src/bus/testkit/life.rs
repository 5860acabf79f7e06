//! Laws of cursors, retention, figures and the end.

use std::time::Duration;

use serde_json::json;

use super::{queues::has_queues, support::*};
use crate::bus::{BusError, Lane, Publish, Query, QueueSpec, Retention, Selection, Start};

pub(crate) async fn cursors_are_kept_with_the_events(world: &World) {
    if !world.can.cursors {
        assert_unsupported(world.bus.publish_with_cursor(&[event("a", 0)], "copy", "1").await);
        assert_unsupported(world.bus.cursor("copy").await);
        return;
    }
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    assert_eq!(world.bus.cursor("copy").await.unwrap(), None);
    let batch = numbered("a", 3);
    let published = world.bus.publish_with_cursor(&batch, "copy", "at-3").await.unwrap();
    assert_eq!(published.accepted, 3);
    assert_eq!(world.other.cursor("copy").await.unwrap().as_deref(), Some("at-3"));
    assert_eq!(world.other.cursor("another").await.unwrap(), None);
    // Nothing new but the cursor.
    let again = world.other.publish_with_cursor(&batch[1..], "copy", "at-4 \"x\"").await.unwrap();
    if world.can.dedupes {
        assert_eq!((again.accepted, again.duplicates), (0, 2));
    }
    assert_eq!(world.bus.cursor("copy").await.unwrap().as_deref(), Some("at-4 \"x\""));
    world.bus.publish_with_cursor(&[], "copy", "at-5").await.unwrap();
    assert_eq!(world.bus.cursor("copy").await.unwrap().as_deref(), Some("at-5"));
    assert_eq!(numbers(&events(&mut *stream, 3).await), [0, 1, 2]);
    if world.can.durable {
        world.bus.close().await;
        world.other.close().await;
        let again = world.fixture.open().await;
        assert_eq!(again.cursor("copy").await.unwrap().as_deref(), Some("at-5"));
        again.close().await;
    }
}

pub(crate) async fn a_refused_batch_leaves_the_cursor(world: &World) {
    if !world.can.cursors {
        return;
    }
    world.bus.publish_with_cursor(&[event("a", 0)], "copy", "first").await.unwrap();
    let mut large = event("a", 1);
    large.payload = json!({ "text": "x".repeat(world.fixture.max_event_bytes()) });
    let refused = world.bus.publish_with_cursor(&[event("a", 2), large], "copy", "second").await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })), "{refused:?}");
    assert_eq!(world.bus.cursor("copy").await.unwrap().as_deref(), Some("first"));
}

pub(crate) async fn pruning_takes_old_events_and_no_work(world: &World) {
    let everything = Retention { max_age: Some(Duration::ZERO), ..Retention::default() };
    let before = world.bus.prune(everything).await;
    if matches!(before, Err(BusError::Unsupported { .. })) {
        return;
    }
    assert_eq!(before.unwrap().events, 0);
    let queue = if world.can.queues {
        Some(world.bus.queue(world.patient_queue("work", &["#"])).await.unwrap())
    } else {
        None
    };
    publish(&*world.bus, &numbered("a", 5)).await;
    let hour = Retention { max_age: Some(Duration::from_secs(3600)), ..Retention::default() };
    assert_eq!(world.bus.prune(hour).await.unwrap().events, 0);
    // An event is older than nothing once the clock has moved on.
    until("all would be deleted", async || {
        world.bus.prune(Retention { dry_run: true, ..everything }).await.unwrap().events == 5
    })
    .await;
    let page = Query { patterns: vec![pattern("#")], before: None, since: None, limit: 10 };
    if world.can.history {
        assert_eq!(world.bus.page(page.clone()).await.unwrap().len(), 5, "a dry run deletes nothing");
    }
    assert_eq!(world.other.prune(everything).await.unwrap().events, 5);
    if world.can.history {
        assert!(world.bus.page(page).await.unwrap().is_empty());
    }
    if let Some(queue) = queue {
        assert_eq!(numbers(&work_off(&*queue, 5).await), [0, 1, 2, 3, 4]);
    }
}

pub(crate) async fn figures_count_what_is_there(world: &World) {
    publish(&*world.bus, &numbered("a", 3)).await;
    publish(&*world.bus, &numbered("b", 2)).await;
    let stats = world.other.stats().await.unwrap();
    assert!(!stats.bus.is_empty());
    assert!(!stats.bus.contains("guest"), "no user, no password: {}", stats.bus);
    if let Some(events) = stats.events {
        assert_eq!(events, 5);
        assert!(stats.oldest <= stats.newest && stats.newest.is_some());
    }
    if !stats.types.is_empty() {
        let types: Vec<(&str, u64)> =
            stats.types.iter().map(|(kind, count)| (kind.as_str(), *count)).collect();
        assert_eq!(types, [("a", 3), ("b", 2)]);
    }
}

pub(crate) async fn a_closed_bus_says_so(world: &World) {
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    let spec = world.queue("work", &["job"]);
    let queue = if world.can.queues { Some(world.bus.queue(spec.clone()).await.unwrap()) } else { None };
    let waiting = async {
        match &queue {
            Some(queue) => queue.next().await.unwrap().is_none(),
            None => true,
        }
    };
    let closing = async {
        tokio::task::yield_now().await;
        world.bus.close().await;
    };
    let (ended, ()) =
        tokio::time::timeout(PATIENCE, async { tokio::join!(waiting, closing) }).await.expect("close hangs");
    assert!(ended, "who waits for work is told");
    // A gap may tell that the connection is gone, but then it ends.
    until("the stream ends", async || stream.next().await.unwrap().is_none()).await;
    world.bus.close().await;

    let bus = &world.bus;
    let query = Query { patterns: vec![pattern("#")], before: None, since: None, limit: 1 };
    let mut results = vec![
        bus.publish(&[event("a", 1)], Publish::default()).await.map(drop),
        bus.subscribe(subscription(&["#"], Start::Now, true)).await.map(drop),
        bus.stats().await.map(drop),
    ];
    if world.can.history {
        results.push(bus.page(query).await.map(drop));
    }
    if world.can.cursors {
        results.push(bus.publish_with_cursor(&[event("a", 1)], "c", "1").await.map(drop));
        results.push(bus.cursor("c").await.map(drop));
    }
    if world.can.queues {
        results.push(bus.queue(spec.clone()).await.map(drop));
        results.push(bus.queues().await.map(drop));
        results.push(bus.peek(&spec.name, Lane::Ready, 1).await.map(drop));
        results.push(bus.requeue(&spec.name, &Selection::All).await.map(drop));
        results.push(bus.purge(&spec.name, Lane::Ready, &Selection::All).await.map(drop));
        results.push(bus.delete_queue(&spec.name).await);
    }
    for (index, result) in results.into_iter().enumerate() {
        assert!(matches!(result, Err(BusError::Closed)), "call {index}: {result:?}");
    }
}

pub(crate) async fn closing_gives_back_leases_and_loses_nothing(world: &World) {
    if !has_queues(world).await || !world.can.shared {
        return;
    }
    let spec = QueueSpec { prefetch: 4, ..world.patient_queue("work", &["job.*"]) };
    let mine = world.bus.queue(spec.clone()).await.unwrap();
    let sent = numbered("job.new", 10);
    // Publishing goes on while the bus is closed; what was accepted must be there afterwards.
    let publishing = async {
        let mut accepted = Vec::new();
        for event in &sent {
            match world.bus.publish(std::slice::from_ref(event), Publish::default()).await {
                Ok(_) => accepted.push(event.clone()),
                Err(BusError::Closed) => break,
                Err(error) => panic!("{error}"),
            }
        }
        accepted
    };
    let closing = async {
        let held = take(&*mine).await;
        world.bus.close().await;
        held
    };
    let (accepted, held) = tokio::join!(publishing, closing);
    assert!(held.lease.ack().await.is_err(), "the lease was given back");
    drop(mine);
    let theirs = world.other.queue(spec).await.unwrap();
    let mut done = numbers(&work_off(&*theirs, accepted.len()).await);
    done.sort_unstable();
    // An event whose publishing was cut off may be there too; the ones that were accepted must.
    assert_eq!(done, numbers(&accepted));
}
