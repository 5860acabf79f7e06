//! The conformance suite: what every backend promises, as laws. Compiled for tests only; a law runs on the runtime of
//! its own test and ends with it.
//!
//! A backend gives a [`Fixture`] and instantiates all laws with [`conformance!`]. Laws about what a backend can't do
//! check that it says so ([`BusError::Unsupported`](super::BusError)). Order and counts are exact; times are lower
//! bounds, so that a slow machine makes no law fail.

mod history;
mod life;
mod queues;
mod settle;
mod streams;
mod support;

use std::time::Duration;

use async_trait::async_trait;

use super::SharedBus;

pub(crate) use support::*;

/// The laws, for [`conformance!`].
pub(crate) mod laws {
    pub(crate) use super::{history::*, life::*, queues::*, settle::*, streams::*};
}

/// A fresh bus of some backend that nothing else uses.
#[async_trait]
pub(crate) trait Fixture: Send + Sync {
    /// A new handle on the bus; all handles of one fixture see the same bus. Where `Capabilities::shared` is true
    /// each handle stands for another process, otherwise all may be one.
    async fn open(&self) -> SharedBus;

    /// Puts bytes that nobody has checked on the bus. False where there is no way for them to get in.
    async fn inject(&self, _routing_key: &str, _raw: &[u8]) -> bool {
        false
    }

    /// The size of the largest event that the bus was opened to take, in bytes of JSON.
    fn max_event_bytes(&self) -> usize;

    /// The figures that this backend can be tested with.
    fn timing(&self) -> Timing {
        Timing::default()
    }

    /// Removes what is left of the bus on a server. Queues that a law made are deleted before.
    async fn remove(&self) {}
}

/// Short real times for the laws.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timing {
    /// How long a lease lasts; long enough for a delivery to be settled at once on a busy machine.
    pub(crate) visibility: Duration,
    /// A delay of a retry.
    pub(crate) delay: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { visibility: Duration::from_millis(300), delay: Duration::from_millis(150) }
    }
}

/// Instantiates every law for a backend: `conformance!(name, fixture)`, where `fixture` is a function without arguments
/// that gives a future of `Option<impl Fixture>`; `None` skips (a server is missing).
macro_rules! conformance {
    ($name:ident, $fixture:expr) => {
        $crate::bus::testkit::conformance! { @laws $name, $fixture,
            // streams
            subscribers_see_what_matches_in_order
            wildcards_match_words
            overlapping_patterns_deliver_once
            a_subscription_from_now_sees_no_past
            every_handle_sees_the_same_bus
            each_publisher_keeps_its_order
            a_large_batch_arrives_whole_and_in_order
            unknown_fields_survive
            nothing_published_is_fine
            duplicates_are_published_once
            an_event_that_is_too_large_stops_its_whole_batch
            the_limit_is_exact
            bytes_that_are_no_event_pass_through_a_stream
            a_route_can_be_required
            a_cancelled_read_loses_nothing
            // history
            history_comes_before_live_and_its_end_is_told_once
            an_empty_history_ends_at_once
            a_history_without_follow_ends
            a_subscription_starts_after_any_position
            a_subscription_starts_at_a_time
            history_and_live_meet_without_gap_or_duplicate
            positions_increase_and_are_told
            a_page_is_the_newest_that_match
            pages_walk_back_over_everything
            history_outlives_the_handle
            // queues
            consumers_share_the_work_and_each_piece_comes_once
            work_comes_in_order
            several_workers_share_one_handle
            bindings_catch_what_comes_later
            overlapping_bindings_catch_once
            a_second_consumer_joins_and_adds_bindings
            work_waits_for_a_consumer
            work_outlives_the_handle
            each_queue_gets_its_own_copy
            work_keeps_what_was_published
            bytes_that_are_no_event_pass_through_a_queue
            unknown_queues_are_named
            a_deleted_queue_is_gone_with_its_work
            queues_are_listed_with_their_figures
            waiting_work_is_shown_and_left
            waiting_work_is_purged
            draining_gives_back_uncounted
            dropping_a_consumer_gives_back_uncounted
            a_cancelled_wait_for_work_loses_nothing
            // settle
            an_acknowledgement_is_final
            unsettled_work_returns_and_the_late_one_is_told
            extending_keeps_the_work
            a_retry_waits_for_its_delay
            a_retry_holds_up_nobody
            the_last_attempt_is_dead_with_its_history
            unsettled_work_dies_after_its_last_attempt
            dead_letters_keep_their_reason
            dead_letters_go_back_with_a_fresh_count
            dead_letters_are_chosen_by_event
            dead_letters_are_purged
            released_work_is_not_counted
            finished_work_is_not_done_again_under_another_name
            // life
            cursors_are_kept_with_the_events
            a_refused_batch_leaves_the_cursor
            pruning_takes_old_events_and_no_work
            figures_count_what_is_there
            a_closed_bus_says_so
            closing_gives_back_leases_and_loses_nothing
        }
    };
    (@laws $name:ident, $fixture:expr, $($law:ident)*) => {
        mod $name {
            use super::*;

            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $law() {
                    if let Some(fixture) = $fixture().await {
                        $crate::bus::testkit::check(fixture, async |world| {
                            $crate::bus::testkit::laws::$law(world).await;
                        })
                        .await;
                    }
                }
            )*
        }
    };
}

pub(crate) use conformance;
