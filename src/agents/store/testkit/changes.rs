//! Laws about sessions, turns, indexes and removal.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::*;
use crate::agents::{
    session::State,
    store::{Filter, Remove, search::search},
};

pub(crate) async fn what_is_created_is_found_again_and_only_once(fixture: &impl Fixture) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let mut made = session("s-1");
    made.tags = BTreeSet::from(["a".to_owned(), "b".to_owned()]);
    answered(&mut made, "what?", "that");
    assert_eq!(one.get(&made.id).await.unwrap(), None);
    let version = one.create(&made).await.unwrap();
    let found = two.get(&made.id).await.unwrap().unwrap();
    assert_eq!((found.session, found.version), (made.clone(), version));
    assert!(matches!(two.create(&made).await, Err(StoreError::Exists(_))));
}

pub(crate) async fn a_change_on_another_version_than_it_thinks_is_refused(fixture: &impl Fixture) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let mut made = session("s-1");
    let first = one.create(&made).await.unwrap();
    made.tags.insert("one".to_owned());
    let second = one.update(&change(&made, first, None)).await.unwrap();
    made.tags.insert("two".to_owned());
    let error = two.update(&change(&made, first, None)).await.unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict { expected, found, .. } if expected == first && found == second),
        "{error}"
    );
    let found = two.get(&made.id).await.unwrap().unwrap();
    assert_eq!((found.session.tags.len(), found.version), (1, second), "it is as it was");
    let other = session("s-2");
    assert!(matches!(two.update(&change(&other, first, None)).await, Err(StoreError::Gone(_))));
    assert_eq!(two.get(&other.id).await.unwrap(), None);
}

pub(crate) async fn the_same_change_is_made_once(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let mut made = session("s-1");
    let first = store.create(&made).await.unwrap();
    made.tags.insert("one".to_owned());
    let same = change(&made, first, None);
    let second = store.update(&same).await.unwrap();
    assert_eq!(store.update(&same).await.unwrap(), second, "whoever did not hear of it asks again");
    assert_eq!(store.get(&made.id).await.unwrap().unwrap().version, second);
}

pub(crate) async fn a_turn_is_kept_with_its_session_or_not_at_all(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let mut made = session("s-1");
    let version = store.create(&made).await.unwrap();
    let (turn, usage) = answered(&mut made, "what?", "that");
    let lost = Lease { name: "session:s-1".to_owned(), token: Uuid::new_v4(), fence: 1 };
    let with_turn =
        |lease, expected| Change { turn: Some((&turn, &usage)), ..change(&made, expected, lease) };
    assert!(matches!(store.update(&with_turn(Some(&lost), version)).await, Err(StoreError::Fenced { .. })));
    assert!(matches!(
        store.update(&with_turn(None, Version(version.0 + 1))).await,
        Err(StoreError::Conflict { .. })
    ));
    assert_eq!(store.turns(&made.id, 0, 10).await.unwrap(), []);
    assert_eq!(store.usage(None).await.unwrap(), []);

    store.update(&with_turn(None, version)).await.unwrap();
    assert_eq!(store.turns(&made.id, 0, 10).await.unwrap(), std::slice::from_ref(&turn));
    assert_eq!(store.usage(None).await.unwrap(), std::slice::from_ref(&usage));
    let mut version = store.get(&made.id).await.unwrap().unwrap().version;
    for number in 2..=5 {
        made.updated_at = at(100 + number);
        let (turn, usage) = answered(&mut made, "again?", &format!("answer {number}"));
        let change = Change { turn: Some((&turn, &usage)), ..change(&made, version, None) };
        version = store.update(&change).await.unwrap();
    }
    let numbers = |turns: Vec<TurnRecord>| turns.iter().map(|turn| turn.number).collect::<Vec<_>>();
    assert_eq!(numbers(store.turns(&made.id, 2, 3).await.unwrap()), [2, 3, 4]);
    assert_eq!(numbers(store.turns(&made.id, 5, 9).await.unwrap()), [5]);
    assert_eq!(store.usage(Some(at(104))).await.unwrap().len(), 2);
}

pub(crate) async fn no_change_is_lost_among_many_writers(fixture: &impl Fixture) {
    let store = fixture.open().await;
    store.create(&session("s-1")).await.unwrap();
    let writers = (0..4).map(|writer| async move {
        let store = fixture.open().await;
        for number in 0..5 {
            loop {
                let mut found = store.get(&id("s-1")).await.unwrap().unwrap();
                found.session.tags.insert(format!("{writer}-{number}"));
                match store.update(&change(&found.session, found.version, None)).await {
                    Ok(_) => break,
                    Err(StoreError::Conflict { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    futures_util::future::join_all(writers).await;
    assert_eq!(store.get(&id("s-1")).await.unwrap().unwrap().session.tags.len(), 20);
}

pub(crate) async fn sessions_are_found_by_all_that_may_be_asked_for_latest_first(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let mut versions = Vec::new();
    for (number, (name, provider, directory, tags)) in [
        ("a-1", "claude", "/w", &["x"][..]),
        ("a-2", "codex", "/w", &["x", "y"]),
        ("b-1", "claude", "/v", &[]),
        ("b_1", "claude", "/v", &["y"]),
    ]
    .into_iter()
    .enumerate()
    {
        let when = at(100 + i64::try_from(number).unwrap());
        let mut made = Session::new(id(name), provider, directory, when);
        made.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        versions.push(store.create(&made).await.unwrap());
    }
    let ids = async |filter: &Filter| -> Vec<String> {
        let found = store.list(filter).await.unwrap();
        found.into_iter().map(|stored| stored.session.id.to_string()).collect()
    };
    let all = Filter::default();
    assert_eq!(ids(&all).await, ["b_1", "b-1", "a-2", "a-1"]);
    assert_eq!(ids(&Filter { limit: Some(2), ..all.clone() }).await, ["b_1", "b-1"]);
    assert_eq!(ids(&Filter { provider: Some("codex".to_owned()), ..all.clone() }).await, ["a-2"]);
    assert_eq!(ids(&Filter { directory: Some("/w".to_owned()), ..all.clone() }).await, ["a-2", "a-1"]);
    assert_eq!(ids(&Filter { tags: vec!["y".to_owned()], ..all.clone() }).await, ["b_1", "a-2"]);
    let both = Filter { tags: vec!["x".to_owned(), "y".to_owned()], ..all.clone() };
    assert_eq!(ids(&both).await, ["a-2"]);
    assert_eq!(ids(&Filter { id_prefix: Some("b_".to_owned()), ..all.clone() }).await, ["b_1"]);
    let time = Filter { since: Some(at(101)), before: Some(at(103)), ..all.clone() };
    assert_eq!(ids(&time).await, ["b-1", "a-2"]);
    let mixed =
        Filter { provider: Some("claude".to_owned()), directory: Some("/v".to_owned()), ..all.clone() };
    assert_eq!(ids(&Filter { limit: Some(1), ..mixed }).await, ["b_1"]);

    // A session that changes leaves the places where it stood.
    let mut changed = store.get(&id("a-1")).await.unwrap().unwrap().session;
    let begin = Begin {
        run: Uuid::new_v4(),
        prompt: "p",
        thread: &Thread::New(None),
        correlation_ids: &[],
        attempt: 1,
    };
    changed.step(Input::Begin(begin), at(200)).unwrap();
    changed.tags.clear();
    store.update(&change(&changed, versions[0], None)).await.unwrap();
    assert_eq!(ids(&Filter { state: Some(State::Running), ..all.clone() }).await, ["a-1"]);
    assert_eq!(ids(&Filter { state: Some(State::Idle), ..all.clone() }).await, ["b_1", "b-1", "a-2"]);
    assert_eq!(ids(&Filter { tags: vec!["x".to_owned()], ..all.clone() }).await, ["a-2"]);
    assert_eq!(ids(&Filter { limit: Some(1), ..all }).await, ["a-1"]);
}

pub(crate) async fn removing_leaves_nothing_or_only_what_it_cost(fixture: &impl Fixture) {
    let store = fixture.open().await;
    for (name, what, rows) in [("s-1", Remove::Words, 1), ("s-2", Remove::Everything, 1)] {
        let mut made = session(name);
        let version = store.create(&made).await.unwrap();
        let (turn, usage) = answered(&mut made, "what?", "that");
        let change = Change { turn: Some((&turn, &usage)), ..change(&made, version, None) };
        store.update(&change).await.unwrap();
        assert!(store.remove(&made.id, what).await.unwrap());
        assert!(!store.remove(&made.id, what).await.unwrap(), "once");
        assert_eq!(store.get(&made.id).await.unwrap(), None);
        assert_eq!(store.turns(&made.id, 0, 10).await.unwrap(), []);
        assert_eq!(store.list(&Filter::default()).await.unwrap(), []);
        assert_eq!(store.usage(None).await.unwrap().len(), rows, "that of s-1 stays");
    }
}

pub(crate) async fn what_was_said_can_be_searched(fixture: &impl Fixture) {
    let store = fixture.open().await;
    for (name, prompt, response) in
        [("s-1", "why does the BUILD fail?", "a comma"), ("s-2", "count", "two builders")]
    {
        let mut made = session(name);
        let version = store.create(&made).await.unwrap();
        let (turn, usage) = answered(&mut made, prompt, response);
        store.update(&Change { turn: Some((&turn, &usage)), ..change(&made, version, None) }).await.unwrap();
    }
    let found = async |text: &str, limit| {
        let found = search(&*store, text, &Filter::default(), limit).await.unwrap();
        found.into_iter().map(|found| (found.stored.session.id.to_string(), found.turn)).collect::<Vec<_>>()
    };
    let both = [("s-2".to_owned(), Some(1)), ("s-1".to_owned(), Some(1))];
    assert_eq!(found("build", 10).await, both);
    assert_eq!(found("build", 1).await, both[..1]);
    assert_eq!(found("comma.rs", 10).await, [("s-1".to_owned(), None)], "a file");
    assert_eq!(found("nothing of it", 10).await, []);
}
