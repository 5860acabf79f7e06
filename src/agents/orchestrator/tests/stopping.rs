//! Turns that are stopped from elsewhere, and turns that nobody works on any more.

use super::*;

/// Works on a turn that never ends by itself, and stops it through another handle on the store.
async fn is_stopped_from_elsewhere(bench: &Bench, store: &SharedStore, other: &SharedStore) {
    let works = bench.orchestrator(store, LONG);
    let session = bench.session(store, "s-1").await;
    let stop = CancellationToken::new();
    let order = bench.order(&session, &format!("{STARTED}{}{DONE}", bench.until("never")));
    let working = works.work(bench.scene(), &order, &stop, deaf);
    let elsewhere = bench.orchestrator(other, LONG);
    let stopping = async {
        let run = until("it runs", async || {
            let session = other.get(&session).await.unwrap().unwrap().session;
            session.native_id.and(session.run).filter(|run| run.leader.is_some())
        })
        .await;
        assert_eq!(elsewhere.hold_on(&session).await.unwrap(), Hold::By(Holder::here()));
        let busy = elsewhere.close_left_open(&session, run.id).await;
        assert!(matches!(busy, Err(OrderError::Busy { .. })), "{busy:?}");
        // A run that was over before means nobody who works now.
        other.ask_to_stop(&session, Uuid::now_v7()).await.unwrap();
        other.ask_to_stop(&session, run.id).await.unwrap();
        run
    };
    let (done, run) = tokio::join!(working, stopping);
    let done = done.unwrap();
    assert!(done.stored.is_ok(), "{:?}", done.stored);
    let failure = done.outcome.verdict.unwrap_err();
    assert_eq!(failure.class, Class::Cancelled);
    assert!(failure.message.contains("agent cancel"), "{}", failure.message);
    assert!(!stop.is_cancelled(), "nothing else is stopped");
    let leader = run.leader.unwrap();
    assert_ne!(crate::agents::session::Leader::of(leader.pid), Some(leader), "its agent is gone");
    let stored = other.get(&session).await.unwrap().unwrap().session;
    assert_eq!((stored.state, stored.native_id.unwrap().as_str()), (State::Interrupted, "t-1"));
    let turns = other.turns(&session, 0, 10).await.unwrap();
    assert_eq!(turns[0].failure_class.as_deref(), Some("cancelled"));
    assert_eq!(elsewhere.hold_on(&session).await.unwrap(), Hold::Free);

    // It can be gone on with.
    let next = bench.order(&session, &format!("{STARTED}{DONE}"));
    let done = works.work(bench.scene(), &next, &stop, deaf).await.unwrap();
    assert!(done.outcome.verdict.is_ok(), "{:?}", done.outcome);
}

#[tokio::test]
async fn a_turn_is_stopped_by_another_process_on_this_machine() {
    let bench = Bench::new();
    let (store, other) = (bench.sqlite().await, bench.sqlite().await);
    is_stopped_from_elsewhere(&bench, &store, &other).await;
}

#[tokio::test]
async fn a_turn_is_stopped_from_another_machine_by_way_of_redis() {
    let Some(server) = Server::start() else { return };
    let bench = Bench::new();
    let (store, other) = (redis(&server).await, redis(&server).await);
    is_stopped_from_elsewhere(&bench, &store, &other).await;
}

#[tokio::test]
async fn a_turn_that_the_dead_left_open_is_closed_and_its_agent_killed() {
    let bench = Bench::new();
    let store = bench.sqlite().await;
    let works = bench.orchestrator(&store, LONG);
    let session = bench.session(&store, "s-1").await;
    let (mut left, run, dead) = left_open(&store, &session).await;

    let hold = works.hold_on(&session).await.unwrap();
    assert!(hold.is_over() && hold == Hold::Dead(dead), "{hold:?}");
    assert!(!works.close_left_open(&session, Uuid::new_v4()).await.unwrap(), "another run");
    assert!(works.close_left_open(&session, run).await.unwrap());
    assert!(!works.close_left_open(&session, run).await.unwrap(), "once");
    assert!(!left.wait().unwrap().success(), "it was killed");
    let stored = store.get(&session).await.unwrap().unwrap().session;
    assert_eq!((stored.state, stored.run), (State::Interrupted, None));
    assert_eq!(works.hold_on(&session).await.unwrap(), Hold::Free, "and nobody has the session");
    assert!(!works.close_left_open(&testkit::id("nobody"), run).await.unwrap());
}
