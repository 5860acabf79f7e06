//! Laws of the history: where a subscription starts, how it goes over to live events, pages.

use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;

use super::support::*;
use crate::bus::{Event, Item, Position, Query, Received, Start};

/// Publishes one by one, and reads back how the bus took them.
async fn filled(world: &World, sent: &[Event]) -> Vec<Received> {
    for event in sent {
        publish(&*world.bus, std::slice::from_ref(event)).await;
    }
    let mut stream = world.other.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    let all = rest(&mut *stream).await;
    assert_eq!(all.iter().map(|received| parsed(received).clone()).collect::<Vec<_>>(), sent);
    all
}

/// Checks that a backend without history says so wherever history is needed.
async fn has_history(world: &World) -> bool {
    if !world.can.history {
        for start in [Start::Beginning, Start::After(Position(1)), Start::Time(Timestamp::now())] {
            assert_unsupported(world.bus.subscribe(subscription(&["#"], start, true)).await);
        }
        assert_unsupported(world.bus.page(newest(&["#"], 10)).await);
    }
    world.can.history
}

fn newest(patterns: &[&str], limit: usize) -> Query {
    Query { patterns: patterns.iter().copied().map(pattern).collect(), before: None, since: None, limit }
}

fn position(received: &Received) -> Position {
    received.position.expect("a backend with history has positions")
}

fn numbers_of(received: &[Received]) -> Vec<u64> {
    numbers(received.iter().map(parsed))
}

pub(crate) async fn history_comes_before_live_and_its_end_is_told_once(world: &World) {
    if !has_history(world).await {
        return;
    }
    publish(&*world.bus, &numbered("a", 3)).await;
    let mut stream = follow(&*world.other, &["a"], Start::Beginning).await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        seen.push(next(&mut *stream).await);
    }
    assert_eq!(seen.iter().position(|item| *item == Item::CaughtUp), Some(3), "{seen:?}");
    publish(&*world.bus, &[event("b", 8), event("a", 3)]).await;
    publish(&*world.bus, &[event("a", 4)]).await;
    for n in [3, 4] {
        match next(&mut *stream).await {
            Item::Event(received) => assert_eq!(numbers([parsed(&received)]), [n]),
            other => panic!("told twice: {other:?}"),
        }
    }
}

pub(crate) async fn an_empty_history_ends_at_once(world: &World) {
    if !has_history(world).await {
        return;
    }
    let mut stream = follow(&*world.bus, &["#"], Start::Beginning).await;
    assert_eq!(next(&mut *stream).await, Item::CaughtUp);
    let mut stream = world.bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    assert!(rest(&mut *stream).await.is_empty());
    assert!(world.bus.page(newest(&["#"], 10)).await.unwrap().is_empty());
}

pub(crate) async fn a_history_without_follow_ends(world: &World) {
    if !has_history(world).await {
        return;
    }
    publish(&*world.bus, &[event("a", 0), event("b", 1), event("a", 2)]).await;
    let mut stream = world.other.subscribe(subscription(&["a"], Start::Beginning, false)).await.unwrap();
    assert_eq!(numbers_of(&rest(&mut *stream).await), [0, 2]);
    assert!(stream.next().await.unwrap().is_none(), "an ended stream stays at its end");
    let mut stream = world.bus.subscribe(subscription(&["c"], Start::Beginning, false)).await.unwrap();
    assert!(rest(&mut *stream).await.is_empty());
    let mut stream = world.bus.subscribe(subscription(&["#"], Start::Now, false)).await.unwrap();
    assert!(rest(&mut *stream).await.is_empty());
}

pub(crate) async fn a_subscription_starts_after_any_position(world: &World) {
    if !has_history(world).await {
        return;
    }
    let sent = numbered("a", 6);
    let all = filled(world, &sent).await;
    for (index, received) in all.iter().enumerate() {
        let start = Start::After(position(received));
        let mut stream = world.bus.subscribe(subscription(&["#"], start, false)).await.unwrap();
        assert_eq!(rest(&mut *stream).await, all[index + 1..]);
    }
    // Live, after the last one.
    let mut stream = follow(&*world.bus, &["#"], Start::After(position(&all[5]))).await;
    publish(&*world.other, &[event("a", 6)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [6]);
}

pub(crate) async fn a_subscription_starts_at_a_time(world: &World) {
    if !has_history(world).await {
        return;
    }
    let all = filled(world, &numbered("a", 5)).await;
    let times: Vec<Timestamp> = all.iter().map(|received| received.at.expect("history has times")).collect();
    let hour = jiff::SignedDuration::from_hours(1);
    for time in times.iter().copied().chain([times[0] - hour, times[4] + hour]) {
        let first = times.iter().position(|at| *at >= time).unwrap_or(times.len());
        let mut stream = world.bus.subscribe(subscription(&["#"], Start::Time(time), false)).await.unwrap();
        assert_eq!(rest(&mut *stream).await, all[first..], "from {time}");
        let since = Query { since: Some(time), ..newest(&["#"], 100) };
        assert_eq!(world.bus.page(since).await.unwrap(), all[first..], "since {time}");
    }
}

pub(crate) async fn history_and_live_meet_without_gap_or_duplicate(world: &World) {
    if !has_history(world).await {
        return;
    }
    const COUNT: u64 = 300;
    let sent = numbered("a", COUNT);
    let sending = async {
        for (batch, bus) in sent.chunks(3).zip([&world.bus, &world.other].into_iter().cycle()) {
            publish(&**bus, batch).await;
            tokio::task::yield_now().await;
        }
    };
    let reading = |wait: u64| async move {
        // Somewhere in the middle of the publishing; where exactly is not what is tested.
        tokio::time::sleep(Duration::from_millis(wait)).await;
        let mut stream = follow(&*world.bus, &["a"], Start::Beginning).await;
        let all = received(&mut *stream, usize::try_from(COUNT).unwrap()).await;
        let wait = usize::try_from(wait).unwrap();
        let mut late = follow(&*world.other, &["a"], Start::After(position(&all[wait]))).await;
        let rest = received(&mut *late, all.len() - wait - 1).await;
        assert_eq!(rest, all[wait + 1..]);
        numbers_of(&all)
    };
    let ((), all) = tokio::join!(sending, join_all((0..20).map(reading)));
    for got in all {
        assert_eq!(got, (0..COUNT).collect::<Vec<_>>());
    }
}

pub(crate) async fn positions_increase_and_are_told(world: &World) {
    if !has_history(world).await {
        return;
    }
    let mut last = Vec::new();
    for batch in [numbered("a", 1), numbered("b", 3), numbered("a", 2)] {
        last.extend(publish(&*world.bus, &batch).await.last);
    }
    let mut stream = world.bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    let positions: Vec<Position> = rest(&mut *stream).await.iter().map(position).collect();
    assert!(positions.is_sorted_by(|one, next| one < next), "{positions:?}");
    if !last.is_empty() {
        assert_eq!(last, [positions[0], positions[3], positions[5]]);
    }
}

pub(crate) async fn a_page_is_the_newest_that_match(world: &World) {
    if !has_history(world).await {
        return;
    }
    let sent: Vec<Event> =
        (0..20).map(|n| event(["a.x", "b.x", "a.y", "c"][usize::try_from(n % 4).unwrap()], n)).collect();
    let all = filled(world, &sent).await;
    let page = async |query| numbers_of(&world.other.page(query).await.unwrap());
    assert_eq!(page(newest(&["#"], 3)).await, [17, 18, 19]);
    assert_eq!(page(newest(&["a.*"], 3)).await, [14, 16, 18]);
    assert_eq!(page(newest(&["a.x", "c"], 3)).await, [15, 16, 19]);
    assert_eq!(page(newest(&["#", "a.x"], 100)).await, (0..20).collect::<Vec<_>>());
    assert!(page(newest(&["#"], 0)).await.is_empty());
    assert!(page(newest(&["nobody"], 5)).await.is_empty());
    let before = |index: usize, patterns: &[&str]| crate::bus::Query {
        before: Some(position(&all[index])),
        ..newest(patterns, 3)
    };
    assert_eq!(page(before(10, &["#"])).await, [7, 8, 9]);
    assert_eq!(page(before(10, &["a.*"])).await, [4, 6, 8]);
    assert!(page(before(0, &["#"])).await.is_empty());
}

pub(crate) async fn pages_walk_back_over_everything(world: &World) {
    if !has_history(world).await {
        return;
    }
    let all = filled(world, &numbered("a", 23)).await;
    let mut walked = Vec::new();
    let mut before = None;
    loop {
        let mut page = world.bus.page(Query { before, ..newest(&["a"], 5) }).await.unwrap();
        let Some(first) = page.first() else { break };
        before = Some(position(first));
        page.extend(walked);
        walked = page;
    }
    assert_eq!(walked, all);
}

pub(crate) async fn history_outlives_the_handle(world: &World) {
    if !has_history(world).await || !world.can.durable {
        return;
    }
    publish(&*world.bus, &numbered("a", 3)).await;
    world.bus.close().await;
    world.other.close().await;
    let again = world.fixture.open().await;
    publish(&*again, &[event("a", 3)]).await;
    let mut stream = again.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
    assert_eq!(numbers_of(&rest(&mut *stream).await), [0, 1, 2, 3]);
    again.close().await;
}
