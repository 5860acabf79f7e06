//! Laws about cancelling: who works on a session can be told, and asked to stop.

use uuid::Uuid;

use super::*;
use crate::agents::store::Remove;

const NAME: &str = "session:s-1";

pub(crate) async fn who_has_a_lease_is_told_while_it_lasts(fixture: &impl Fixture) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    assert_eq!(two.holder_of(NAME).await.unwrap(), None);
    let lease = acquire(&*one, NAME).await;
    assert_eq!(two.holder_of(NAME).await.unwrap().as_deref(), Some("a test"));
    assert_eq!(two.holder_of("session:s-2").await.unwrap(), None);
    one.release(&lease).await.unwrap();
    assert_eq!(two.holder_of(NAME).await.unwrap(), None, "it was given back");
    acquire(&*one, NAME).await;
    fixture.lapse(NAME).await;
    assert_eq!(two.holder_of(NAME).await.unwrap(), None, "its time is over");
}

pub(crate) async fn a_run_that_is_asked_to_stop_is_known_to_all_and_no_other_run_is_meant(
    fixture: &impl Fixture,
) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let (older, newer) = (Uuid::new_v4(), Uuid::new_v4());
    let nobody = id("s-1");
    assert!(matches!(one.ask_to_stop(&nobody, older).await, Err(StoreError::Gone(_))));
    assert!(!two.is_asked_to_stop(&nobody, older).await.unwrap());
    for name in ["s-1", "s-2"] {
        one.create(&session(name)).await.unwrap();
    }
    let made = id("s-1");
    one.ask_to_stop(&made, newer).await.unwrap();
    one.ask_to_stop(&made, newer).await.unwrap();
    assert!(two.is_asked_to_stop(&made, newer).await.unwrap());
    assert!(!two.is_asked_to_stop(&made, older).await.unwrap(), "another run");
    assert!(!two.is_asked_to_stop(&id("s-2"), newer).await.unwrap(), "another session");
    // Somebody was slow, and asks for what was over before.
    two.ask_to_stop(&made, older).await.unwrap();
    assert!(one.is_asked_to_stop(&made, newer).await.unwrap(), "and takes nothing back");
}

pub(crate) async fn what_was_asked_of_a_run_is_gone_with_its_turn_and_with_its_session(
    fixture: &impl Fixture,
) {
    let store = fixture.open().await;
    let mut made = session("s-1");
    let version = store.create(&made).await.unwrap();
    let (turn, usage) = answered(&mut made, "what?", "that");
    let next = Uuid::new_v4();
    for run in [usage.run, next] {
        store.ask_to_stop(&made.id, run).await.unwrap();
    }
    let with_turn = Change { turn: Some((&turn, &usage)), ..change(&made, version, None) };
    store.update(&with_turn).await.unwrap();
    assert!(!store.is_asked_to_stop(&made.id, usage.run).await.unwrap());
    assert!(store.is_asked_to_stop(&made.id, next).await.unwrap());
    assert!(store.remove(&made.id, Remove::Words).await.unwrap());
    store.create(&session("s-1")).await.unwrap();
    assert!(!store.is_asked_to_stop(&made.id, next).await.unwrap(), "what has its name now is another one");
}
