//! Work queues and cursors, where they are RabbitMQ's own matter.

use std::sync::Arc;

use lapin::{
    ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions},
    types::FieldTable,
};

use super::{
    super::{
        AmqpBus, AmqpOptions,
        testing::{Bench, Seen},
    },
    *,
};
use crate::bus::BusError;

#[tokio::test]
async fn what_is_there_with_other_properties_is_a_conflict() {
    let Some(bench) = Bench::new().await else { return };
    let bus = bench.open().await;
    let raw = bus.raw_channel().await;
    let spec = queue_spec(&bench, "work", &["#"]);
    raw.queue_declare(spec.name.as_str().into(), QueueDeclareOptions::default(), FieldTable::default())
        .await
        .unwrap();
    let started = Instant::now();
    let error = bus.queue(spec.clone()).await.map(drop).unwrap_err();
    assert!(
        matches!(&error, BusError::Conflict { reason, .. } if reason.contains("PRECONDITION_FAILED")),
        "{error}"
    );
    assert!(started.elapsed() < Duration::from_secs(5), "no loop");
    // The bus works as before.
    publish(&bus, &[event("a", 1)]).await;

    let other = format!("{}.fanout", bench.exchange);
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    raw.exchange_declare(other.as_str().into(), ExchangeKind::Fanout, durable, FieldTable::default())
        .await
        .unwrap();
    let options = AmqpOptions { exchange: other.clone(), ..bench.options() };
    let error = AmqpBus::open(options, &bench.shutdown).await.unwrap_err();
    assert!(matches!(&error, BusError::Conflict { what, .. } if what.contains(&other)), "{error}");

    // A queue of the history's name that is no stream.
    let history = format!("{}.history", bench.exchange);
    let durable = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    raw.queue_declare(history.as_str().into(), durable, FieldTable::default()).await.unwrap();
    let options = AmqpOptions { history: true, ..bench.options() };
    let error = AmqpBus::open(options, &bench.shutdown).await.unwrap_err();
    assert!(matches!(&error, BusError::Conflict { what, .. } if what.contains(&history)), "{error}");
    // One that only finds it takes it for a history, until it reads.
    let finds = bench.open().await;
    let error = match finds.subscribe(subscription(&["#"], Start::Beginning, false)).await {
        Ok(mut stream) => timeout(PATIENCE, stream.next()).await.unwrap().unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error, BusError::Conflict { .. }), "{error}");
    finds.close().await;
    raw.exchange_delete(other.into(), ExchangeDeleteOptions::default()).await.unwrap();
    drop(raw);
    bus.close().await;
    bench.clean(&[&spec.name]).await;
}

#[tokio::test]
async fn work_goes_on_after_a_lost_connection_and_finished_work_does_not_come_back() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    let options = AmqpOptions { seen: Some(Arc::<Seen>::default()), ..bench.through(&proxy) };
    let far = AmqpBus::open(options, &bench.shutdown).await.unwrap();
    let near = bench.open().await;
    let spec = queue_spec(&bench, "work", &["a"]);
    let queue = far.queue(spec.clone()).await.unwrap();
    publish(&near, &events("a", 3)).await;
    let first = take(&*queue).await;
    assert_eq!((number_of(&first), first.attempt), (0, 1));
    proxy.cut();
    // What was only fetched comes again and is no second attempt; what is being worked on waits for its worker.
    for n in [1, 2] {
        let next = take(&*queue).await;
        assert_eq!((number_of(&next), next.attempt), (n, 1));
        next.lease.ack().await.unwrap();
    }
    first.lease.ack().await.expect("remembered as done, although its channel is gone");
    publish(&near, &[event("a", 3)]).await;
    let last = take(&*queue).await;
    assert_eq!(number_of(&last), 3, "the first is skipped");
    last.lease.ack().await.unwrap();
    until("the queue is empty", async || {
        let infos = near.queues().await.unwrap();
        infos.iter().any(|info| info.name == spec.name && info.ready == 0)
    })
    .await;
    far.close().await;
    near.close().await;
    bench.clean(&[&spec.name]).await;
}

#[tokio::test]
async fn without_a_memory_of_what_is_done_a_lost_acknowledgement_is_told() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    let far = AmqpBus::open(bench.through(&proxy), &bench.shutdown).await.unwrap();
    let near = bench.open().await;
    let spec = queue_spec(&bench, "work", &["a"]);
    let queue = far.queue(spec.clone()).await.unwrap();
    publish(&near, &[event("a", 0)]).await;
    let first = take(&*queue).await;
    proxy.cut();
    until("the loss is noticed", async || first.lease.extend(Duration::from_secs(60)).await.is_err()).await;
    assert!(matches!(first.lease.ack().await, Err(BusError::LeaseLost)));
    let again = take(&*queue).await;
    assert_eq!((number_of(&again), again.attempt), (0, 2));
    again.lease.ack().await.unwrap();
    far.close().await;
    near.close().await;
    bench.clean(&[&spec.name]).await;
}

#[tokio::test]
async fn a_commit_without_an_answer_is_found_out_by_the_next_call() {
    let Some(bench) = Bench::new().await else { return };
    let proxy = bench.proxy().await;
    let far = AmqpBus::open(bench.through(&proxy), &bench.shutdown).await.unwrap();
    let near = bench.open().await;
    let mut stream = near.subscribe(subscription(&["#"], Start::Now, true)).await.unwrap();
    let first = far.publish_with_cursor(&[event("a", 0)], "copy", "one").await.unwrap();
    assert_eq!((first.accepted, first.unrouted), (1, 0));
    let batch = events("a", 5);
    // The method frame of tx.commit: class 90, method 20 (AMQP 0-9-1).
    proxy.swallow_the_answer_to(&[0, 90, 0, 20]);
    let lost = far.publish_with_cursor(&batch, "copy", "two").await.unwrap_err();
    assert!(lost.is_retryable(), "{lost:?}");
    let again = loop {
        match far.publish_with_cursor(&batch, "copy", "two").await {
            Err(BusError::Unreachable { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            other => break other.unwrap(),
        }
    };
    assert_eq!((again.accepted, again.duplicates), (0, 5));
    far.publish_with_cursor(&[event("a", 9)], "copy", "three").await.unwrap();
    assert_eq!(numbers(&mut *stream, 7).await, [0, 0, 1, 2, 3, 4, 9]);
    assert_eq!(near.cursor("copy").await.unwrap().as_deref(), Some("three"));

    // And a second bridge of the same name does not publish it all again.
    far.publish_with_cursor(&[], "copy", "four").await.unwrap();
    let late = near.publish_with_cursor(&[event("a", 10)], "copy", "four too").await.unwrap_err();
    assert!(matches!(&late, BusError::Conflict { .. }), "{late:?}");
    assert_eq!(near.cursor("copy").await.unwrap().as_deref(), Some("four"));
    far.close().await;
    near.close().await;
    bench.clean(&[]).await;
}

#[tokio::test]
async fn nobody_in_a_transaction_is_counted_and_a_held_lock_is_a_conflict() {
    let Some(bench) = Bench::new().await else { return };
    let options = AmqpOptions { publish_timeout: Duration::from_secs(1), ..bench.options() };
    let bus = AmqpBus::open(options, &bench.shutdown).await.unwrap();
    let published = bus.publish_with_cursor(&events("nobody", 3), "copy", "one").await.unwrap();
    assert_eq!((published.accepted, published.unrouted), (3, 3));
    let other = bench.open().await;
    let raw = other.raw_channel().await;
    let exclusive = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
    let lock = format!("{}.bridge.copy.lock", bench.exchange);
    raw.queue_declare(lock.as_str().into(), exclusive, FieldTable::default()).await.unwrap();
    let locked = bus.publish_with_cursor(&events("nobody", 1), "copy", "two").await.unwrap_err();
    assert!(matches!(&locked, BusError::Conflict { .. }), "{locked:?}");
    raw.queue_delete(lock.into(), QueueDeleteOptions::default()).await.unwrap();
    bus.publish_with_cursor(&events("nobody", 1), "copy", "two").await.unwrap();
    bus.close().await;
    other.close().await;
    bench.clean(&[]).await;
}
