//! The conformance suite: what every store promises, as laws. Compiled for tests only.
//!
//! A backend gives a [`Fixture`] and instantiates all laws with [`conformance!`]. Each handle stands for another process.

mod changes;
mod leases;
mod secrets;
mod stops;

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use parking_lot::Mutex;
use uuid::Uuid;

use super::{
    Acquired, Change, Lease, Request, SessionStore, SharedStore, StoreError, Version, keys::KeyRing,
    vault::Vault,
};
use crate::{
    agents::{
        Outcome, Output, Thread, Usage,
        session::{Begin, Effect, Input, Session, SessionId, TurnRecord, UsageRow},
    },
    bus::Clock,
};

/// The laws, for [`conformance!`].
pub(crate) mod laws {
    pub(crate) use super::{changes::*, leases::*, secrets::*, stops::*};
}

/// A clock that is set by hand.
#[derive(Debug, Clone)]
pub(crate) struct Hand(pub(crate) Arc<Mutex<Timestamp>>);

impl Hand {
    /// One that stands at this second.
    pub(crate) fn at(second: i64) -> Self {
        Self(Arc::new(Mutex::new(at(second))))
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        *self.0.lock()
    }
}

/// A fresh store of some backend that nothing else uses.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// A new handle on the store.
    async fn open_with(&self, vault: Vault) -> Result<SharedStore, StoreError>;

    /// The time of a lease is over, and nobody has noticed.
    async fn lapse(&self, name: &str);

    /// All bytes that are kept.
    async fn everything(&self) -> Vec<u8>;

    /// The sealed words of a session.
    async fn words(&self, id: &SessionId) -> Vec<u8>;

    /// Puts other bytes in their place.
    async fn set_words(&self, id: &SessionId, words: Vec<u8>);

    /// A handle with keys that all handles of this kind share.
    async fn open(&self) -> SharedStore {
        self.open_with(Vault::new(ring())).await.unwrap()
    }
}

/// The keys of [`Fixture::open`].
pub(crate) fn ring() -> KeyRing {
    KeyRing::parse("test:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=", "the test").unwrap()
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

pub(crate) fn id(text: &str) -> SessionId {
    SessionId::parse(text).unwrap()
}

pub(crate) fn session(name: &str) -> Session {
    Session::new(id(name), "claude", "/w", at(100))
}

/// A session that was given a prompt and has answered it.
pub(crate) fn answered(session: &mut Session, prompt: &str, response: &str) -> (TurnRecord, UsageRow) {
    let now = session.updated_at;
    let begin =
        Begin { run: Uuid::new_v4(), prompt, thread: &Thread::New(None), correlation_ids: &[], attempt: 1 };
    session.step(Input::Begin(begin), now).unwrap();
    let output = Output::ToolInvoked {
        id: "t".to_owned(),
        name: "Write".to_owned(),
        input: serde_json::json!({ "file_path": format!("/w/{response}.rs") }),
    };
    session.step(Input::Said(&output), now).unwrap();
    let outcome = Outcome {
        native_id: None,
        text: response.to_owned(),
        usage: Usage { cost_usd: Some(0.5), input_tokens: Some(7), ..Usage::default() },
        verdict: Ok(()),
        warning: None,
    };
    let mut effects = session.step(Input::Ended { outcome: &outcome, prompt }, now).unwrap();
    let Some(Effect::Record(record)) = effects.pop() else { panic!("{effects:?}") };
    *record
}

pub(crate) fn change<'a>(session: &'a Session, expected: Version, lease: Option<&'a Lease>) -> Change<'a> {
    Change { id: Uuid::new_v4(), session, expected, lease, turn: None }
}

pub(crate) const fn request(name: &str, token: Uuid) -> Request<'_> {
    Request {
        name,
        token,
        holder: "a test",
        ttl: std::time::Duration::from_secs(3600),
        floor: 0,
        instead_of: None,
    }
}

pub(crate) async fn acquire(store: &dyn SessionStore, name: &str) -> Lease {
    match store.acquire(&request(name, Uuid::new_v4())).await.unwrap() {
        Acquired::Lease(lease) => lease,
        held @ Acquired::Held { .. } => panic!("{held:?}"),
    }
}

/// Instantiates all laws for a fixture: `conformance!(module, expression);`. The expression gives `Option<Fixture>`;
/// `None` leaves the laws out, as it has said itself.
macro_rules! conformance {
    ($module:ident, $fixture:expr) => {
        $crate::agents::store::testkit::conformance!($module, $fixture;
            what_is_created_is_found_again_and_only_once
            a_change_on_another_version_than_it_thinks_is_refused
            the_same_change_is_made_once
            a_turn_is_kept_with_its_session_or_not_at_all
            no_change_is_lost_among_many_writers
            sessions_are_found_by_all_that_may_be_asked_for_latest_first
            removing_leaves_nothing_or_only_what_it_cost
            a_lease_has_one_holder_at_a_time
            a_paused_holder_is_fenced_off_when_it_wakes
            numbers_of_leases_only_grow
            a_lease_of_the_dead_can_be_taken_over_by_its_token
            of_many_that_ask_one_gets_the_lease
            what_was_said_cannot_be_read_from_outside
            without_the_right_key_nothing_opens_and_nothing_is_lost
            a_flipped_byte_and_a_swapped_blob_are_noticed
            keys_are_rotated_and_the_old_one_can_be_forgotten
            a_store_without_encryption_reads_what_was_sealed_before
            what_was_said_can_be_searched
            who_has_a_lease_is_told_while_it_lasts
            a_run_that_is_asked_to_stop_is_known_to_all_and_no_other_run_is_meant
            what_was_asked_of_a_run_is_gone_with_its_turn_and_with_its_session
        );
    };
    ($module:ident, $fixture:expr; $($law:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $law() {
                    if let Some(fixture) = $fixture {
                        $crate::agents::store::testkit::laws::$law(&fixture).await;
                    }
                }
            )*
        }
    };
}
pub(crate) use conformance;
