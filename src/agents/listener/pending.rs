//! Events about a turn that wait to be written to the journal: a bounded number, whatever its agent does. Pure.

use std::collections::VecDeque;

use crate::bus::{
    Event,
    event::payload::{Payload as _, agent::AgentSessionStarted},
};

/// Of more, the oldest are left out, and it is said.
const MAX: usize = 4_096;

/// What waits.
#[derive(Debug, Default)]
pub(super) struct Pending {
    /// That a turn has begun is never left out; nor are its last events, which do not come this way.
    begun: Vec<Event>,
    rest: VecDeque<Event>,
    left_out: u64,
}

impl Pending {
    /// Adds the newest.
    pub(super) fn add(&mut self, events: Vec<Event>) {
        for event in events {
            if event.event_type.as_str() == AgentSessionStarted::TYPE {
                self.begun.push(event);
            } else {
                self.rest.push_back(event);
            }
        }
        let surplus = self.rest.len().saturating_sub(MAX);
        self.rest.drain(..surplus);
        self.left_out += surplus as u64;
    }

    /// All of them, oldest first.
    pub(super) fn take(&mut self) -> Vec<Event> {
        let begun = std::mem::take(&mut self.begun);
        begun.into_iter().chain(std::mem::take(&mut self.rest)).collect()
    }

    /// They could not be written; others may have come meanwhile.
    pub(super) fn put_back(&mut self, mut events: Vec<Event>) {
        events.extend(self.take());
        self.add(events);
    }

    /// How many were left out.
    pub(super) const fn left_out(&self) -> u64 {
        self.left_out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bus::event::{Source, Stamp, payload::agent::AgentThinking};

    fn event(name: &str, number: usize) -> Event {
        let source = Source::new("desk", "godctl", "agent");
        Event::new(Stamp::now(), name.parse().unwrap(), source, number.into())
    }

    fn number(event: &Event) -> usize {
        usize::try_from(event.payload.as_u64().unwrap()).unwrap()
    }

    #[test]
    fn of_too_many_the_oldest_are_left_out_and_counted_and_the_beginning_stays() {
        let mut pending = Pending::default();
        pending.add(vec![event(AgentSessionStarted::TYPE, 0)]);
        for at in 1..=50_000 {
            pending.add(vec![event(AgentThinking::TYPE, at)]);
        }
        assert_eq!(pending.left_out(), 50_000 - MAX as u64);
        let events = pending.take();
        assert_eq!(events.len(), MAX + 1);
        assert_eq!((number(&events[0]), number(&events[1])), (0, 50_001 - MAX));
        assert_eq!(pending.take(), []);
    }

    #[test]
    fn what_could_not_be_written_stays_in_front_of_what_has_come_since() {
        let mut pending = Pending::default();
        let thinking = |at| event(AgentThinking::TYPE, at);
        pending.add((0..MAX).map(thinking).collect());
        let events = pending.take();
        pending.add(vec![thinking(MAX), thinking(MAX + 1)]);
        pending.put_back(events);
        assert_eq!(pending.left_out(), 2);
        let numbers: Vec<_> = pending.take().iter().map(number).collect();
        assert_eq!(numbers, (2..MAX + 2).collect::<Vec<_>>());
    }
}
