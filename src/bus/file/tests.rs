//! The suite of all backends, and what only a file can do.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;

use super::FileBus;
use crate::bus::{Body, BusError, Item, Position, Query, Received, SharedBus, Start, testkit::*};

const MAX: usize = 4096;

struct InFile(tempfile::TempDir);

impl InFile {
    fn path(&self) -> PathBuf {
        self.0.path().join("bus.jsonl")
    }
}

#[async_trait]
impl Fixture for InFile {
    async fn open(&self) -> SharedBus {
        Arc::new(FileBus::open(&self.path(), MAX).unwrap())
    }

    fn max_event_bytes(&self) -> usize {
        MAX
    }
}

fn in_file() -> std::future::Ready<Option<InFile>> {
    std::future::ready(Some(InFile(tempfile::tempdir().unwrap())))
}

conformance!(conformance, in_file);

async fn fixture() -> (InFile, SharedBus) {
    let file = in_file().await.unwrap();
    let bus = file.open().await;
    (file, bus)
}

fn add(path: &Path, text: &str) {
    use std::io::Write as _;
    std::fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(path)
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
}

/// The numbers of the events, and `None` for each that could not be read.
fn told(received: &[Received]) -> Vec<Option<u64>> {
    received.iter().map(|received| received.body.event().map(|event| numbers([event])[0])).collect()
}

#[tokio::test]
async fn a10_lines_that_are_no_events_are_kept_and_separated() {
    let (file, bus) = fixture().await;
    publish(&*bus, &numbered("a", 2)).await;
    add(&file.path(), "not json\n\r\n{\"event_id\":\"torn");
    publish(&*bus, &[event("a", 2)]).await;
    let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    let all = rest(&mut *stream).await;
    assert_eq!(told(&all), [Some(0), Some(1), None, None, Some(2)]);
    let query = Query { patterns: vec![pattern("#")], before: None, since: None, limit: 10 };
    assert_eq!(bus.page(query).await.unwrap(), all);
    // Who asks for some types is not shown what has none.
    let mut stream = bus.subscribe(subscription(&["a"], Start::Beginning, false)).await.unwrap();
    assert_eq!(told(&rest(&mut *stream).await), [Some(0), Some(1), Some(2)]);
    let stats = bus.stats().await.unwrap();
    assert_eq!((stats.events, stats.types.get("a")), (Some(5), Some(&3)));
}

#[tokio::test]
async fn the_end_of_a_file_without_a_newline_is_a_line_of_its_history() {
    let (file, bus) = fixture().await;
    let mut line = event("a", 0).to_json();
    std::fs::write(file.path(), &line).unwrap();
    let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    assert_eq!(told(&rest(&mut *stream).await), [Some(0)]);
    // Whoever follows waits for its end.
    let mut live = follow(&*bus, &["#"], Start::Beginning).await;
    assert_eq!(next(&mut *live).await, Item::CaughtUp);
    let mut now = follow(&*bus, &["#"], Start::Now).await;
    publish(&*bus, &[event("a", 1)]).await;
    assert_eq!(numbers(&events(&mut *live, 2).await), [0, 1]);
    assert_eq!(numbers(&events(&mut *now, 1).await), [1]);
    line.push(b'\n');
    assert!(std::fs::read(file.path()).unwrap().starts_with(&line));
}

#[tokio::test]
async fn a_file_that_comes_later_is_followed() {
    let (file, bus) = fixture().await;
    let mut stream = follow(&*bus, &["#"], Start::Beginning).await;
    assert_eq!(next(&mut *stream).await, Item::CaughtUp);
    assert!(!file.path().exists(), "reading makes no file");
    publish(&*file.open().await, &[event("a", 0)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [0]);
}

#[tokio::test]
async fn a_file_that_is_replaced_or_cut_is_a_gap() {
    let (file, bus) = fixture().await;
    let mut stream = follow(&*bus, &["#"], Start::Now).await;
    publish(&*bus, &numbered("a", 3)).await;
    assert_eq!(numbers(&events(&mut *stream, 2).await), [0, 1]);
    std::fs::rename(file.path(), file.path().with_extension("old")).unwrap();
    publish(&*bus, &[event("a", 3)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [2], "what is left in the old one comes first");
    let Item::Gap { missed: None, reason } = next(&mut *stream).await else { panic!("no gap") };
    assert!(reason.ends_with("bus.jsonl was replaced; going on from its beginning"), "{reason}");
    assert_eq!(numbers(&events(&mut *stream, 1).await), [3]);

    std::fs::write(file.path(), "").unwrap();
    let Item::Gap { reason, .. } = next(&mut *stream).await else { panic!("no gap") };
    assert!(reason.contains("was cut short"), "{reason}");
    publish(&*bus, &[event("a", 4)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [4]);
    let mut stream = follow(&*bus, &["#"], Start::After(Position(1 << 40))).await;
    assert!(matches!(next(&mut *stream).await, Item::Gap { .. }));
}

#[tokio::test]
async fn pages_reach_over_lines_longer_than_a_window() {
    let (file, bus) = fixture().await;
    publish(&*bus, &[event("a", 0)]).await;
    add(&file.path(), &format!("{}\n", "x".repeat(5 << 16)));
    publish(&*bus, &[event("a", 1)]).await;
    let query = Query { patterns: vec![pattern("#")], before: None, since: None, limit: 3 };
    let page = bus.page(query).await.unwrap();
    assert_eq!(told(&page), [Some(0), None, Some(1)]);
    let Body::Unparsed(long) = &page[1].body else { panic!("{page:?}") };
    assert_eq!(long.raw.len(), MAX, "no more than that is kept in memory");
    assert!(long.reason.starts_with("327680 bytes, and 4096 are allowed"), "{}", long.reason);
}

#[tokio::test]
async fn a_position_within_a_line_is_the_next_line() {
    let (_file, bus) = fixture().await;
    publish(&*bus, &numbered("a", 3)).await;
    let mut stream = bus.subscribe(subscription(&["#"], Start::After(Position(5)), false)).await.unwrap();
    assert_eq!(told(&rest(&mut *stream).await), [Some(1), Some(2)]);
}

#[test]
fn a_path_that_can_be_no_bus_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(matches!(FileBus::open(dir.path(), MAX), Err(BusError::Invalid(_))));
    let missing = FileBus::open(&dir.path().join("no/bus.jsonl"), MAX).unwrap_err();
    assert!(missing.to_string().ends_with("there is no such directory; make it first"), "{missing}");
}
