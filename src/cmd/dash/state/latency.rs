//! How long it takes from an utterance to the answer that it led to. Pure.
//!
//! An answer belongs to an utterance that is among its correlations, or else to the newest one that has a correlation
//! in common with it. The first answer counts. Times are those of the producers' clocks where both events come from
//! the same machine, else those at which the bus took them: clocks of two machines differ.

use std::collections::{HashMap, VecDeque};

use jiff::Timestamp;
use uuid::Uuid;

use super::row::Row;

/// Latencies that the percentiles are of.
const KEPT: usize = 1_000;

/// Utterances that may wait for an answer. Most of them are not meant for an agent.
const WAITING: usize = 4_096;

/// Correlations of an utterance that are looked at; the first is the root of its chain.
const CORRELATIONS: usize = 8;

#[derive(Debug)]
struct Utterance {
    host: super::Name,
    at: Timestamp,
    taken: Timestamp,
    correlations: Vec<Uuid>,
}

/// What was measured.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Latency {
    /// Utterances without an answer, by their ids.
    waiting: HashMap<Uuid, Utterance>,
    /// Their ids by what led to them; the newest one.
    related: HashMap<Uuid, Uuid>,
    /// Oldest first; some are answered already.
    order: VecDeque<Uuid>,
    /// Milliseconds, oldest first.
    measured: VecDeque<u64>,
}

/// Percentiles in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Percentiles {
    pub(in crate::cmd::dash) p50: u64,
    pub(in crate::cmd::dash) p95: u64,
    /// So many latencies.
    pub(in crate::cmd::dash) count: usize,
}

impl Latency {
    /// Somebody said something.
    pub(super) fn said(&mut self, row: &Row) {
        let correlations: Vec<Uuid> = row.correlations.iter().take(CORRELATIONS).copied().collect();
        for id in &correlations {
            self.related.insert(*id, row.id);
        }
        let (host, at, taken) = (super::Name::clone(&row.host), row.at, row.taken);
        self.waiting.insert(row.id, Utterance { host, at, taken, correlations });
        self.order.push_back(row.id);
        while self.order.len() > WAITING {
            if let Some(oldest) = self.order.pop_front() {
                self.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, id: &Uuid) -> Option<Utterance> {
        let utterance = self.waiting.remove(id)?;
        for related in &utterance.correlations {
            if self.related.get(related) == Some(id) {
                self.related.remove(related);
            }
        }
        Some(utterance)
    }

    /// An agent has answered.
    pub(super) fn answered(&mut self, row: &Row) {
        let own = row.correlations.iter().rev().find(|id| self.waiting.contains_key(id)).copied();
        let common = || row.correlations.iter().rev().find_map(|id| self.related.get(id)).copied();
        let Some(utterance) = own.or_else(common).and_then(|id| self.remove(&id)) else { return };
        let millis = if utterance.host == row.host {
            row.at.as_millisecond() - utterance.at.as_millisecond()
        } else {
            row.taken.as_millisecond() - utterance.taken.as_millisecond()
        };
        // An answer before the question says something about a clock, not about the answer.
        let Ok(millis) = u64::try_from(millis) else { return };
        if self.measured.len() == KEPT {
            self.measured.pop_front();
        }
        self.measured.push_back(millis);
    }

    /// Of the last 1,000; nothing without any.
    pub(in crate::cmd::dash) fn percentiles(&self) -> Option<Percentiles> {
        let mut sorted: Vec<u64> = self.measured.iter().copied().collect();
        sorted.sort_unstable();
        let count = sorted.len();
        // The smallest one that so many of a hundred don't exceed.
        let percentile =
            |percent: usize| sorted.get((count * percent).div_ceil(100).checked_sub(1)?).copied();
        Some(Percentiles { p50: percentile(50)?, p95: percentile(95)?, count })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{
        super::testing::{after, buffer_of, event_at},
        *,
    };
    use crate::bus::Event;

    /// What follows from utterances and answers in this order.
    fn measured(events: Vec<Event>) -> Latency {
        let mut latency = Latency::default();
        for row in buffer_of(events).rows() {
            if row.event_type.starts_with("voice.") { latency.said(row) } else { latency.answered(row) }
        }
        latency
    }

    fn said(second: i64) -> Event {
        event_at(second, "voice.transcription.completed", json!({}))
    }

    fn answer(second: i64) -> Event {
        event_at(second, "agent.response.completed", json!({}))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn percentiles_are_some_of_the_last_thousand_and_in_order(
            seconds in proptest::collection::vec(0_i64..60, 1..1_200),
        ) {
            let events = seconds.iter().flat_map(|second| {
                let voice = said(0);
                let answer = after(&voice, answer(*second));
                [voice, answer]
            });
            let found = measured(events.collect()).percentiles().unwrap();
            let last = &seconds[seconds.len().saturating_sub(1_000)..];
            prop_assert_eq!(found.count, last.len());
            prop_assert!(found.p50 <= found.p95);
            let within = |limit: u64| last.iter().filter(|second| **second as u64 * 1000 <= limit).count();
            let below = |limit: u64| last.iter().filter(|second| (**second as u64 * 1000) < limit).count();
            prop_assert!(within(found.p50) * 2 >= last.len() && below(found.p50) * 2 < last.len());
            prop_assert!(within(found.p95) * 20 >= last.len() * 19 && below(found.p95) * 20 < last.len() * 19);
        }
    }

    #[test]
    fn an_answer_belongs_to_what_led_to_it_and_the_first_one_counts() {
        let voice = said(0);
        let other = said(1);
        let prompt = after(&voice, event_at(1, "agent.prompt", json!({})));
        let latency = measured(vec![
            voice.clone(),
            other,
            after(&prompt, answer(4)),
            after(&voice, answer(30)),
            answer(40),
        ]);
        assert_eq!(latency.percentiles(), Some(Percentiles { p50: 4_000, p95: 4_000, count: 1 }));
        assert_eq!(measured(vec![answer(1)]).percentiles(), None);
    }

    #[test]
    fn a_correlation_in_common_is_enough() {
        let root = event_at(0, "up.part.started", json!({}));
        let latency = measured(vec![after(&root, said(1)), after(&root, said(5)), after(&root, answer(7))]);
        assert_eq!(latency.percentiles().unwrap().p50, 2_000);
    }

    #[test]
    fn clocks_of_two_machines_are_not_compared() {
        let mut voice = said(0);
        voice.source.host = "attic".to_owned();
        let mut answer = after(&voice, answer(3));
        // As the bus took it; its producer's clock is an hour behind.
        let mut buffer = buffer_of([voice]);
        let taken = answer.timestamp;
        answer.timestamp = taken - jiff::SignedDuration::from_hours(1);
        let draft = super::super::row::Draft::of_received(
            &crate::bus::Received { at: Some(taken), ..super::super::testing::received(answer) },
            taken,
        );
        buffer.push(draft);
        let mut latency = Latency::default();
        let rows: Vec<&Row> = buffer.rows().collect();
        latency.said(rows[0]);
        latency.answered(rows[1]);
        assert_eq!(latency.percentiles().unwrap().p50, 3_000);
    }

    #[test]
    fn what_nobody_answers_is_forgotten() {
        let first = said(0);
        let mut events = vec![first.clone()];
        events.extend((0..WAITING).map(|_| said(0)));
        events.push(after(&first, answer(1)));
        let latency = measured(events);
        assert_eq!(
            (latency.percentiles(), latency.waiting.len(), latency.order.len()),
            (None, WAITING, WAITING)
        );
    }
}
