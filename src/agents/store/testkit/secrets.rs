//! Laws about what is encrypted.

use super::*;

const CANARY: &str = "canary-of-what-was-said";

async fn filled(store: &dyn SessionStore, name: &str) -> Session {
    let mut made = session(name);
    let version = store.create(&made).await.unwrap();
    let (turn, usage) = answered(&mut made, &format!("{CANARY} asked"), &format!("{CANARY} answered"));
    store.update(&Change { turn: Some((&turn, &usage)), ..change(&made, version, None) }).await.unwrap();
    made
}

fn holds_canary(bytes: &[u8]) -> bool {
    bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes())
}

pub(crate) async fn what_was_said_cannot_be_read_from_outside(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let made = filled(&*store, "s-1").await;
    let bytes = fixture.everything().await;
    assert!(bytes.windows(3).any(|window| window == b"s-1"), "these are the bytes");
    assert!(!holds_canary(&bytes));
    let turns = store.turns(&made.id, 0, 10).await.unwrap();
    assert!(turns[0].words.prompt.contains(CANARY) && turns[0].words.response.contains(CANARY));
}

pub(crate) async fn without_the_right_key_nothing_opens_and_nothing_is_lost(fixture: &impl Fixture) {
    let made = {
        let store = fixture.open().await;
        let made = filled(&*store, "s-1").await;
        store.close().await;
        made
    };
    for vault in [Vault::open_only(None), Vault::new(KeyRing::generate().unwrap())] {
        let error = fixture.open_with(vault).await.err().unwrap();
        assert!(matches!(error, StoreError::NoKey(_)), "{error}");
        let told = error.to_string();
        assert!(told.contains("'test'") && told.contains("GODCTL_SESSION_KEYS"), "{told}");
    }
    let same_name = KeyRing::parse("test:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=", "here").unwrap();
    let error = fixture.open_with(Vault::new(same_name)).await.err().unwrap();
    assert!(matches!(error, StoreError::Damaged(_)), "{error}");
    assert_eq!(fixture.open().await.get(&made.id).await.unwrap().unwrap().session, made);
}

pub(crate) async fn a_flipped_byte_and_a_swapped_blob_are_noticed(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let (one, two) = (filled(&*store, "s-1").await, filled(&*store, "s-2").await);
    let words = fixture.words(&one.id).await;
    for at in [0, 1, 3, 20, words.len() - 1] {
        let mut flipped = words.clone();
        flipped[at] ^= 1;
        fixture.set_words(&one.id, flipped).await;
        let error = store.get(&one.id).await.unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_) | StoreError::NoKey(_)), "byte {at}: {error}");
    }
    fixture.set_words(&one.id, fixture.words(&two.id).await).await;
    assert!(matches!(store.get(&one.id).await, Err(StoreError::Damaged(_))));
    assert_eq!(store.get(&two.id).await.unwrap().unwrap().session, two, "the other one still opens");
    fixture.set_words(&one.id, words).await;
    assert_eq!(store.get(&one.id).await.unwrap().unwrap().session, one);
}

pub(crate) async fn keys_are_rotated_and_the_old_one_can_be_forgotten(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let mut all = Vec::new();
    for number in 0..5 {
        all.push(filled(&*store, &format!("s-{number}")).await);
    }
    store.close().await;
    let mut keys = ring();
    keys.renew().unwrap();
    let both = fixture.open_with(Vault::new(keys.clone())).await.unwrap();
    // It was interrupted once: one session is done already.
    let half = both.get(&all[0].id).await.unwrap().unwrap();
    both.update(&change(&half.session, half.version, None)).await.unwrap();
    for made in &all {
        assert_eq!(both.get(&made.id).await.unwrap().unwrap().session, *made, "the old key still reads");
    }
    let done = both.reseal(2).await.unwrap();
    assert_eq!((done.changed, done.left), (4 + 5, 0), "words of sessions and of turns");
    assert_eq!(both.reseal(2).await.unwrap().changed, 0, "and nothing the second time");
    both.close().await;
    keys.forget_older();
    let new = fixture.open_with(Vault::new(keys)).await.unwrap();
    for made in &all {
        assert_eq!(new.get(&made.id).await.unwrap().unwrap().session, *made);
        assert_eq!(new.turns(&made.id, 0, 10).await.unwrap().len(), 1);
    }
    assert!(fixture.open_with(Vault::new(ring())).await.is_err(), "the old key alone opens nothing");
}

pub(crate) async fn a_store_without_encryption_reads_what_was_sealed_before(fixture: &impl Fixture) {
    let store = fixture.open().await;
    let sealed = filled(&*store, "s-1").await;
    store.close().await;
    let open = fixture.open_with(Vault::open_only(Some(ring()))).await.unwrap();
    let plain = filled(&*open, "s-2").await;
    assert!(holds_canary(&fixture.everything().await), "who opts out, opts out");
    for made in [sealed, plain] {
        assert_eq!(open.get(&made.id).await.unwrap().unwrap().session, made);
    }
}
