//! Laws about leases: one holder, numbers that only grow, and no harm from those who slept.

use uuid::Uuid;

use super::*;

const NAME: &str = "session:s-1";

pub(crate) async fn a_lease_has_one_holder_at_a_time(fixture: &impl Fixture) {
    let (one, two) = (fixture.open().await, fixture.open().await);
    let token = Uuid::new_v4();
    let Acquired::Lease(lease) = one.acquire(&request(NAME, token)).await.unwrap() else { panic!() };
    let held = Acquired::Held { holder: "a test".to_owned(), token };
    assert_eq!(two.acquire(&request(NAME, Uuid::new_v4())).await.unwrap(), held);
    let again = one.acquire(&request(NAME, token)).await.unwrap();
    assert_eq!(again, Acquired::Lease(lease.clone()), "whoever did not hear of it asks again");
    two.acquire(&request("session:s-2", Uuid::new_v4())).await.unwrap();
    let hour = std::time::Duration::from_secs(3600);
    one.renew(&lease, hour).await.unwrap();
    one.release(&lease).await.unwrap();
    let next = acquire(&*two, NAME).await;
    assert!(next.fence > lease.fence);
    one.release(&lease).await.unwrap();
    assert!(matches!(one.acquire(&request(NAME, Uuid::new_v4())).await.unwrap(), Acquired::Held { .. }));
}

pub(crate) async fn a_paused_holder_is_fenced_off_when_it_wakes(fixture: &impl Fixture) {
    let (sleeper, other) = (fixture.open().await, fixture.open().await);
    let mut made = session("s-1");
    let version = sleeper.create(&made).await.unwrap();
    let lease = acquire(&*sleeper, NAME).await;
    fixture.lapse(NAME).await;
    // Nobody took it: it may be gone on with.
    made.tags.insert("mine".to_owned());
    let version = sleeper.update(&change(&made, version, Some(&lease))).await.unwrap();
    let hour = std::time::Duration::from_secs(3600);
    sleeper.renew(&lease, hour).await.unwrap();
    assert!(matches!(other.acquire(&request(NAME, Uuid::new_v4())).await.unwrap(), Acquired::Held { .. }));

    fixture.lapse(NAME).await;
    let newer = acquire(&*other, NAME).await;
    assert!(newer.fence > lease.fence);
    made.tags.insert("too late".to_owned());
    let error = sleeper.update(&change(&made, version, Some(&lease))).await.unwrap_err();
    let (ours, latest) = (lease.fence, newer.fence);
    assert!(
        matches!(&error, StoreError::Fenced { ours: a, latest: b, .. } if (*a, *b) == (ours, latest)),
        "{error}"
    );
    assert!(matches!(sleeper.renew(&lease, hour).await, Err(StoreError::Fenced { .. })));
    sleeper.release(&lease).await.unwrap();
    let found = other.get(&made.id).await.unwrap().unwrap();
    assert_eq!((found.session.tags.len(), found.version, found.fence), (1, version, ours));
    made.tags.remove("too late");
    other.update(&change(&made, version, Some(&newer))).await.unwrap();
    assert_eq!(other.get(&made.id).await.unwrap().unwrap().fence, latest);
}

pub(crate) async fn numbers_of_leases_only_grow(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let mut last = 0;
    for round in 0..3 {
        let lease = acquire(&*store, NAME).await;
        assert!(lease.fence > last, "round {round}");
        last = lease.fence;
        store.release(&lease).await.unwrap();
    }
    let known = Request { floor: 70, ..request(NAME, Uuid::new_v4()) };
    let Acquired::Lease(lease) = store.acquire(&known).await.unwrap() else { panic!() };
    assert_eq!(lease.fence, 71, "larger than what the caller has seen, whatever the store remembers");
}

pub(crate) async fn a_lease_of_the_dead_can_be_taken_over_by_its_token(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let dead = acquire(&*store, NAME).await;
    let guess = Request { instead_of: Some(Uuid::new_v4()), ..request(NAME, Uuid::new_v4()) };
    assert!(matches!(store.acquire(&guess).await.unwrap(), Acquired::Held { .. }));
    let heir = Request { instead_of: Some(dead.token), ..request(NAME, Uuid::new_v4()) };
    let Acquired::Lease(lease) = store.acquire(&heir).await.unwrap() else { panic!() };
    assert!(lease.fence > dead.fence);
}

pub(crate) async fn of_many_that_ask_one_gets_the_lease(fixture: &impl Fixture) {
    let asking = (0..8).map(|_| async {
        let store = fixture.open().await;
        store.acquire(&request(NAME, Uuid::new_v4())).await.unwrap()
    });
    let answers = futures_util::future::join_all(asking).await;
    assert_eq!(answers.iter().filter(|answer| matches!(answer, Acquired::Lease(_))).count(), 1);
}
