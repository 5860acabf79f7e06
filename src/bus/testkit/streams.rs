//! Laws of publishing and subscribing.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use serde_json::json;
use tokio::time::timeout;

use super::support::*;
use crate::bus::{
    Body, BusError, Event, Item, Publish, Start,
    event::{AgentContext, EventType},
};

pub(crate) async fn subscribers_see_what_matches_in_order(world: &World) {
    let mut all = follow(&*world.bus, &["#"], Start::Now).await;
    let mut ab = follow(&*world.other, &["a.b", "end"], Start::Now).await;
    let mut ax = follow(&*world.bus, &["a.*", "end"], Start::Now).await;
    let mut none = follow(&*world.bus, &["b.#", "end"], Start::Now).await;
    let sent: Vec<Event> =
        ["a.b", "a.c", "a", "a.b.c", "a.b", "end"].iter().zip(0..).map(|(kind, n)| event(kind, n)).collect();
    for event in &sent {
        publish(&*world.bus, std::slice::from_ref(event)).await;
    }
    assert_eq!(events(&mut *all, 6).await, sent);
    assert_eq!(numbers(&events(&mut *ab, 3).await), [0, 4, 5]);
    assert_eq!(numbers(&events(&mut *ax, 4).await), [0, 1, 4, 5]);
    assert_eq!(numbers(&events(&mut *none, 1).await), [5]);
}

pub(crate) async fn wildcards_match_words(world: &World) {
    let keys = ["a", "b", "a.b", "a.c", "b.c", "a.b.c", "a.x.c", "a.b.c.d", "A.b", "end"];
    let cases: [(&str, &[&str]); 9] = [
        ("#", &keys),
        ("*", &["a", "b", "end"]),
        ("a", &["a", "end"]),
        ("a.*", &["a.b", "a.c", "end"]),
        ("a.#", &["a", "a.b", "a.c", "a.b.c", "a.x.c", "a.b.c.d", "end"]),
        ("#.c", &["a.c", "b.c", "a.b.c", "a.x.c", "end"]),
        ("a.*.c", &["a.b.c", "a.x.c", "end"]),
        ("*.*", &["a.b", "a.c", "b.c", "A.b", "end"]),
        ("a.#.c.#", &["a.c", "a.b.c", "a.x.c", "a.b.c.d", "end"]),
    ];
    let mut streams = Vec::new();
    for (pattern, _) in cases {
        streams.push(follow(&*world.bus, &[pattern, "end"], Start::Now).await);
    }
    let sent: Vec<Event> = keys.iter().map(|key| event(key, 0)).collect();
    publish(&*world.other, &sent).await;
    for (mut stream, (pattern, want)) in streams.into_iter().zip(cases) {
        let got = events(&mut *stream, want.len()).await;
        let types: Vec<&str> = got.iter().map(|event| event.event_type.as_str()).collect();
        assert_eq!(types, want, "{pattern}");
    }
}

pub(crate) async fn overlapping_patterns_deliver_once(world: &World) {
    let mut stream = follow(&*world.bus, &["a.b", "a.*", "#", "a.b"], Start::Now).await;
    publish(&*world.bus, &numbered("a.b", 5)).await;
    publish(&*world.bus, &[event("end", 5)]).await;
    assert_eq!(numbers(&events(&mut *stream, 6).await), [0, 1, 2, 3, 4, 5]);
}

pub(crate) async fn a_subscription_from_now_sees_no_past(world: &World) {
    publish(&*world.bus, &numbered("a.b", 3)).await;
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    publish(&*world.bus, &[event("a.b", 7)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [7]);
}

pub(crate) async fn every_handle_sees_the_same_bus(world: &World) {
    let mut here = follow(&*world.bus, &["#"], Start::Now).await;
    let mut there = follow(&*world.other, &["#"], Start::Now).await;
    publish(&*world.bus, &[event("a", 0)]).await;
    publish(&*world.other, &[event("a", 1)]).await;
    assert_eq!(numbers(&events(&mut *here, 2).await), [0, 1]);
    assert_eq!(numbers(&events(&mut *there, 2).await), [0, 1]);
}

pub(crate) async fn each_publisher_keeps_its_order(world: &World) {
    const PUBLISHERS: u64 = 8;
    const EACH: u64 = 50;
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    let publishers = (0..PUBLISHERS).map(|publisher| async move {
        let bus = if publisher % 2 == 0 { &world.bus } else { &world.other };
        let kind = format!("from.p{publisher}");
        // One by one, and in batches of seven.
        let sent = numbered(&kind, EACH);
        for batch in sent.chunks(if publisher < 4 { 1 } else { 7 }) {
            publish(&**bus, batch).await;
        }
    });
    let all = async { events(&mut *stream, usize::try_from(PUBLISHERS * EACH).unwrap()).await };
    let (_, got) = tokio::join!(join_all(publishers), all);
    let mut each: BTreeMap<&EventType, Vec<&Event>> = BTreeMap::new();
    for event in &got {
        each.entry(&event.event_type).or_default().push(event);
    }
    assert_eq!(each.len() as u64, PUBLISHERS);
    for (publisher, got) in each {
        assert_eq!(numbers(got), (0..EACH).collect::<Vec<_>>(), "{publisher}");
    }
}

pub(crate) async fn a_large_batch_arrives_whole_and_in_order(world: &World) {
    let mut stream = follow(&*world.other, &["#"], Start::Now).await;
    let sent = numbered("a.b", 1000);
    let all = async { events(&mut *stream, sent.len()).await };
    let (_, got) = tokio::join!(publish(&*world.bus, &sent), all);
    assert_eq!(got, sent);
}

pub(crate) async fn unknown_fields_survive(world: &World) {
    let mut stream = follow(&*world.other, &["#"], Start::Now).await;
    let mut sent = event("voice.transcription.completed", 1);
    sent.payload = json!({
        "text": "Grüße \u{1F44B}\u{0}\n\"quoted\"", "large": u64::MAX, "small": i64::MIN, "third": 0.1,
        "none": null, "deep": [[{"a": {"b": []}}]], "": "empty key",
    });
    sent.correlation_ids = vec![uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
    sent.extra.insert("producer".to_owned(), json!("service:other"));
    sent.extra.insert("nested".to_owned(), json!({"x": [1, 2.5, null]}));
    sent.source.extra.insert("meta".to_owned(), json!({"k": "v"}));
    sent.agent_context = Some(AgentContext {
        agent_name: Some("tonny".to_owned()),
        session_id: Some("s-1".to_owned()),
        kind: Some("custom".to_owned()),
        extra: json!({"checkpoint_id": 7}).as_object().unwrap().clone(),
        ..AgentContext::default()
    });
    publish(&*world.bus, std::slice::from_ref(&sent)).await;
    assert_eq!(events(&mut *stream, 1).await, [sent]);
}

pub(crate) async fn nothing_published_is_fine(world: &World) {
    let published = world.bus.publish(&[], Publish::default()).await.unwrap();
    assert_eq!((published.accepted, published.duplicates, published.deferred), (0, 0, 0));
}

pub(crate) async fn duplicates_are_published_once(world: &World) {
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    let first = event("a.b", 1);
    let mut alias = first.clone();
    alias.event_type = "b.a".parse().unwrap();

    let published = publish(&*world.bus, std::slice::from_ref(&first)).await;
    assert_eq!((published.accepted, published.duplicates), (1, 0));
    let again = publish(&*world.other, &[first.clone(), alias.clone(), first.clone()]).await;
    publish(&*world.bus, &[event("end", 9)]).await;
    if world.can.dedupes {
        assert_eq!((again.accepted, again.duplicates), (1, 2), "only the one with another type is new");
        let got = events(&mut *stream, 3).await;
        assert_eq!(got[..2], [first, alias]);
        assert_eq!(got[2].event_type.as_str(), "end");
    } else {
        assert_eq!(again.duplicates, 0, "nobody counts");
        let got = events(&mut *stream, 5).await;
        assert_eq!(got[..4], [first.clone(), first.clone(), alias, first]);
    }
}

pub(crate) async fn an_event_that_is_too_large_stops_its_whole_batch(world: &World) {
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    let limit = world.fixture.max_event_bytes();
    let mut large = event("a.large", 1);
    large.payload = json!({ "text": "x".repeat(limit) });
    let batch = [event("a", 0), large, event("a", 2)];
    match world.bus.publish(&batch, Publish::default()).await {
        Err(BusError::TooLarge { event_type, size, limit: told, key }) => {
            assert_eq!((event_type.as_str(), told), ("a.large", limit));
            assert!(size > limit && !key.is_empty());
        }
        other => panic!("want TooLarge, got {other:?}"),
    }
    publish(&*world.bus, &[event("end", 9)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [9], "nothing of the batch was published");
}

pub(crate) async fn the_limit_is_exact(world: &World) {
    let limit = world.fixture.max_event_bytes();
    let mut exact = event("a", 0);
    exact.payload = json!({ "text": "" });
    let frame = serde_json::to_vec(&exact).unwrap().len();
    let fill = |bytes: usize| json!({ "text": "x".repeat(bytes - frame) });
    exact.payload = fill(limit);
    publish(&*world.bus, std::slice::from_ref(&exact)).await;
    let over = Event { payload: fill(limit + 1), ..event("a", 1) };
    let refused = world.bus.publish(&[over], Publish::default()).await;
    assert!(matches!(refused, Err(BusError::TooLarge { .. })), "{refused:?}");
}

pub(crate) async fn bytes_that_are_no_event_pass_through_a_stream(world: &World) {
    let mut stream = follow(&*world.bus, &["odd.#"], Start::Now).await;
    let odd: [&[u8]; 2] = [b"not json", b"{\"a\": 1"];
    for raw in odd {
        if !world.fixture.inject("odd.one", raw).await {
            return;
        }
    }
    publish(&*world.bus, &[event("odd.end", 1)]).await;
    let got = received(&mut *stream, 3).await;
    for (received, raw) in got.iter().zip(odd) {
        match &received.body {
            Body::Unparsed(unparsed) => {
                assert_eq!(unparsed.raw, raw);
                assert!(!unparsed.reason.is_empty());
            }
            Body::Event(event) => panic!("{raw:?} became {event:?}"),
        }
    }
    assert_eq!(numbers([parsed(&got[2])]), [1], "what follows is read as usual");
}

pub(crate) async fn a_route_can_be_required(world: &World) {
    let required = Publish { require_route: true, ..Publish::default() };
    let nobody = world.bus.publish(&[event("no.body", 1)], required).await;
    if world.can.reports_unrouted {
        assert!(matches!(nobody, Err(BusError::Unroutable(_))), "{nobody:?}");
        let counted = publish(&*world.bus, &[event("no.body", 2)]).await;
        assert_eq!(counted.unrouted, 1);
    } else {
        assert_eq!(nobody.unwrap().unrouted, 0, "the history took it");
    }
    let mut stream = follow(&*world.bus, &["some.body"], Start::Now).await;
    let published = world.bus.publish(&[event("some.body", 3)], required).await.unwrap();
    assert_eq!(published.unrouted, 0);
    assert_eq!(numbers(&events(&mut *stream, 1).await), [3]);
}

pub(crate) async fn a_cancelled_read_loses_nothing(world: &World) {
    const COUNT: u64 = 100;
    let mut stream = follow(&*world.bus, &["#"], Start::Now).await;
    let sending = async {
        for event in numbered("a", COUNT) {
            publish(&*world.other, &[event]).await;
        }
    };
    let reading = async {
        let mut got = Vec::new();
        while (got.len() as u64) < COUNT {
            // Most of these waits are cancelled in the middle.
            if let Ok(item) = timeout(Duration::from_micros(300), stream.next()).await {
                match item.unwrap().expect("the stream ended early") {
                    Item::Event(received) => got.push(parsed(&received).clone()),
                    Item::CaughtUp => {}
                    gap @ Item::Gap { .. } => panic!("{gap:?}"),
                }
            }
        }
        got
    };
    let ((), got) = tokio::join!(sending, reading);
    assert_eq!(numbers(&got), (0..COUNT).collect::<Vec<_>>());
}
