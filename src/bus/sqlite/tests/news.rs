//! How processes learn of each other's events, and how many of them get along.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::Folder;
use crate::bus::{EventBus, QueueSpec, Start, sqlite::SqliteOptions, testkit::*};

#[tokio::test]
async fn without_a_doorbell_news_is_found_by_looking() {
    let folder = Folder::new();
    let quiet = SqliteOptions { doorbell: false, ..folder.options() };
    let (bus, other) = (folder.with(quiet.clone()).await, folder.with(quiet).await);
    let mut stream = follow(&other, &["a.#"], Start::Now).await;
    let queue = other.queue(QueueSpec::new("work", vec![pattern("a.job")])).await.unwrap();
    let started = Instant::now();
    for n in 0..20 {
        publish(&bus, &[event("b.c", n), event("a.job", n)]).await;
        let (work, seen) = tokio::join!(work_off(&*queue, 1), events(&mut *stream, 1));
        assert_eq!((numbers(&work), numbers(&seen)), (vec![n], vec![n]));
    }
    // 20 times at most 100 ms, and a good deal for a slow machine.
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(std::fs::read_dir(folder.path().parent().unwrap()).unwrap().count(), 3, "no doorbell");
}

#[tokio::test]
async fn the_doorbell_is_taken_down_at_the_end() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    let mut stream = follow(&bus, &["#"], Start::Now).await;
    let bell = super::super::doorbell::folder_of(&std::fs::canonicalize(folder.path()).unwrap());
    until("it hangs", async || std::fs::read_dir(&bell).unwrap().count() == 1).await;
    publish(&bus, &[event("a", 0)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [0]);
    bus.close().await;
    assert_eq!(std::fs::read_dir(&bell).unwrap().count(), 0);
    let left: Vec<_> = std::fs::read_dir(folder.path().parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 2, "the file and the folder of the bell: {left:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_handles_write_at_once_and_each_gets_its_turn() {
    let folder = Folder::new();
    let buses = join_all((0..6).map(|_| folder.bus())).await;
    let mut stream = follow(&buses[0], &["#"], Start::Now).await;
    const EACH: u64 = 50;
    let publishing = buses.iter().enumerate().map(|(index, bus)| async move {
        for event in numbered(&format!("p{index}"), EACH) {
            publish(bus, &[event]).await;
        }
    });
    let reading = events(&mut *stream, usize::try_from(EACH).unwrap() * buses.len());
    let (_, all) = tokio::join!(join_all(publishing), reading);
    for index in 0..buses.len() {
        let name = format!("p{index}");
        let theirs = numbers(all.iter().filter(|event| event.event_type.as_str() == name));
        assert_eq!(theirs, (0..EACH).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn dropping_everything_ends_everything() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    *folder.last.lock() = None;
    let mut stream = follow(&bus, &["#"], Start::Now).await;
    let queue = bus.queue(QueueSpec::new("work", vec![pattern("#")])).await.unwrap();
    publish(&bus, &numbered("a", 3)).await;
    // What is left works without the handle.
    drop(bus);
    assert_eq!(numbers(&events(&mut *stream, 3).await), [0, 1, 2]);
    let held = take(&*queue).await;
    drop((stream, queue));
    held.lease.ack().await.unwrap();
    drop(held);
    folder.shutdown.finish(Duration::from_secs(10)).await.unwrap();
    let again = folder.bus().await;
    let queue = again.queue(QueueSpec::new("work", vec![])).await.unwrap();
    assert_eq!(numbers(&work_off(&*queue, 2).await), [1, 2], "what was fetched ahead was given back");
}

#[tokio::test]
async fn a_new_type_is_seen_by_those_who_waited_for_it() {
    let folder = Folder::new();
    let (bus, other) = (folder.bus().await, folder.bus().await);
    publish(&bus, &numbered("known", 3)).await;
    let mut stream = follow(&other, &["new.*"], Start::Beginning).await;
    let queue = other.queue(QueueSpec::new("work", vec![pattern("new.*")])).await.unwrap();
    assert_eq!(next(&mut *stream).await, crate::bus::Item::CaughtUp);
    for n in 0..5 {
        publish(&bus, &[event("known", n), event(&format!("new.{n}"), n)]).await;
        assert_eq!(numbers(&events(&mut *stream, 1).await), [n]);
        assert_eq!(numbers(&work_off(&*queue, 1).await), [n]);
    }
}
