//! One work queue in memory: who waits, who is leased to whom until when, who is dead. Plain data behind the bus's
//! lock; time is passed in. Leases and delays run on the monotonic clock, so that a clock that is set ends none early.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::history::{FAR, Stored, Window};
use crate::bus::{Attempt, BusError, Held, Lane, MAX_HISTORY, Pattern, QueueInfo, Selection, Settled};

/// Ids of finished work that a queue remembers.
const DONE: usize = 1 << 16;

/// Both clocks at one moment.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    /// What leases and delays are measured by.
    pub(super) tick: Instant,
    /// What is shown to people.
    pub(super) at: Timestamp,
}

/// What a consumer works under.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) consumer: String,
    pub(super) visibility: Duration,
    pub(super) max_attempts: u32,
    pub(super) dedupe: bool,
}

/// What tells one lease from all others of its queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    work: u64,
    lease: u64,
}

/// Work that was handed out.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) ticket: Ticket,
    pub(super) stored: Arc<Stored>,
    pub(super) attempt: u32,
    pub(super) history: Vec<Attempt>,
}

#[derive(Debug)]
enum State {
    Ready,
    Delayed { until: Instant, shown: Timestamp },
    Leased { lease: u64, until: Instant, terms: Arc<Terms> },
}

#[derive(Debug)]
struct Work {
    stored: Arc<Stored>,
    attempts: u32,
    history: Vec<Attempt>,
    state: State,
}

#[derive(Debug)]
struct Dead {
    stored: Arc<Stored>,
    attempts: u32,
    history: Vec<Attempt>,
    reason: String,
    since: Timestamp,
}

/// One queue.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) bindings: Vec<Pattern>,
    /// Tells the consumers of this queue from those of a deleted one of the same name.
    pub(super) generation: u64,
    pub(super) consumers: u64,
    /// Rung when there may be work to claim, and at the end.
    pub(super) bell: Arc<Notify>,
    /// By the order in which it came, which work keeps while it is leased or delayed.
    work: BTreeMap<u64, Work>,
    ready: BTreeSet<u64>,
    timed: BTreeSet<(Instant, u64)>,
    /// By the order in which they died.
    dead: BTreeMap<u64, Dead>,
    /// Events whose work is leased, to keep a second message about one of them waiting.
    busy: HashMap<Uuid, u32>,
    done: Window<Uuid>,
    bytes: usize,
    serial: u64,
}

impl Queue {
    pub(super) fn new(generation: u64) -> Self {
        Self {
            bindings: Vec::new(),
            generation,
            consumers: 0,
            bell: Arc::default(),
            work: BTreeMap::new(),
            ready: BTreeSet::new(),
            timed: BTreeSet::new(),
            dead: BTreeMap::new(),
            busy: HashMap::new(),
            done: Window::new(DONE),
            bytes: 0,
            serial: 0,
        }
    }

    /// Items and bytes held, dead ones included.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.work.len() + self.dead.len(), self.bytes)
    }

    pub(super) fn push(&mut self, stored: Arc<Stored>) {
        self.bytes += stored.bytes;
        self.wait(Work { stored, attempts: 0, history: Vec::new(), state: State::Ready });
    }

    fn wait(&mut self, work: Work) {
        self.serial += 1;
        self.ready.insert(self.serial);
        self.work.insert(self.serial, work);
        self.bell.notify_waiters();
    }

    /// Ends leases and delays whose time has come.
    pub(super) fn pass(&mut self, now: Now) {
        while let Some((until, number)) = self.timed.first().copied().filter(|(until, _)| *until <= now.tick)
        {
            self.timed.remove(&(until, number));
            let Some(work) = self.work.get_mut(&number) else { continue };
            match std::mem::replace(&mut work.state, State::Ready) {
                State::Leased { terms, .. } => {
                    let reason = format!("not settled within {} ms", terms.visibility.as_millis());
                    self.unlease(number);
                    self.failed(number, &terms, &reason, now);
                }
                State::Delayed { .. } | State::Ready => {
                    self.ready.insert(number);
                    self.bell.notify_waiters();
                }
            }
        }
    }

    /// When [`Queue::pass`] has something to do next.
    pub(super) fn next_change(&self) -> Option<Instant> {
        self.timed.first().map(|(until, _)| *until)
    }

    /// Leases the oldest work that may be done now.
    pub(super) fn claim(&mut self, terms: &Arc<Terms>, now: Now) -> Option<Claimed> {
        self.pass(now);
        let mut number = 0;
        loop {
            number = self.ready.range(number + 1..).next().copied()?;
            let id = self.work.get(&number)?.stored.event.event_id;
            if !terms.dedupe {
                break;
            }
            if self.done.contains(&id) {
                self.remove(number);
            } else if !self.busy.contains_key(&id) {
                break;
            }
        }
        self.serial += 1;
        let lease = self.serial;
        let until = now.tick + terms.visibility.min(FAR);
        let work = self.work.get_mut(&number)?;
        work.attempts += 1;
        work.state = State::Leased { lease, until, terms: Arc::clone(terms) };
        let claimed = Claimed {
            ticket: Ticket { work: number, lease },
            stored: Arc::clone(&work.stored),
            attempt: work.attempts,
            history: work.history.clone(),
        };
        self.ready.remove(&number);
        self.timed.insert((until, number));
        *self.busy.entry(claimed.stored.event.event_id).or_default() += 1;
        Some(claimed)
    }

    pub(super) fn ack(&mut self, ticket: Ticket, now: Now) -> Result<(), BusError> {
        self.take_back(ticket, now)?;
        if let Some(work) = self.remove(ticket.work) {
            self.done.insert(work.stored.event.event_id);
        }
        Ok(())
    }

    pub(super) fn retry(
        &mut self,
        ticket: Ticket,
        delay: Duration,
        reason: &str,
        now: Now,
    ) -> Result<Settled, BusError> {
        let terms = self.take_back(ticket, now)?;
        let settled = self.failed(ticket.work, &terms, reason, now);
        if settled == Settled::Retrying
            && !delay.is_zero()
            && let Some(work) = self.work.get_mut(&ticket.work)
        {
            let delay = delay.min(FAR);
            let until = now.tick + delay;
            let shown = SignedDuration::try_from(delay).ok().and_then(|delay| now.at.checked_add(delay).ok());
            work.state = State::Delayed { until, shown: shown.unwrap_or(Timestamp::MAX) };
            self.ready.remove(&ticket.work);
            self.timed.insert((until, ticket.work));
            // Whoever waits has to learn the new time.
            self.bell.notify_waiters();
        }
        Ok(settled)
    }

    pub(super) fn dead(&mut self, ticket: Ticket, reason: &str, now: Now) -> Result<(), BusError> {
        let terms = self.take_back(ticket, now)?;
        self.note(ticket.work, &terms, reason, now);
        self.bury(ticket.work, reason, now);
        Ok(())
    }

    pub(super) fn release(&mut self, ticket: Ticket, now: Now) -> Result<(), BusError> {
        self.take_back(ticket, now)?;
        if let Some(work) = self.work.get_mut(&ticket.work) {
            work.attempts = work.attempts.saturating_sub(1);
        }
        self.ready.insert(ticket.work);
        self.bell.notify_waiters();
        Ok(())
    }

    pub(super) fn extend(&mut self, ticket: Ticket, time: Duration, now: Now) -> Result<(), BusError> {
        let terms = self.take_back(ticket, now)?;
        let until = now.tick + time.min(FAR);
        if let Some(work) = self.work.get_mut(&ticket.work) {
            work.state = State::Leased { lease: ticket.lease, until, terms };
            *self.busy.entry(work.stored.event.event_id).or_default() += 1;
            self.timed.insert((until, ticket.work));
        }
        Ok(())
    }

    /// Ends the lease if it still holds; the work is then in no lane.
    fn take_back(&mut self, ticket: Ticket, now: Now) -> Result<Arc<Terms>, BusError> {
        self.pass(now);
        let work = self.work.get_mut(&ticket.work).ok_or(BusError::LeaseLost)?;
        let (until, terms) = match &work.state {
            State::Leased { lease, until, terms } if *lease == ticket.lease => (*until, Arc::clone(terms)),
            State::Leased { .. } | State::Ready | State::Delayed { .. } => return Err(BusError::LeaseLost),
        };
        work.state = State::Ready;
        self.timed.remove(&(until, ticket.work));
        self.unlease(ticket.work);
        Ok(terms)
    }

    /// Forgets that work on this event goes on.
    fn unlease(&mut self, number: u64) {
        let Some(work) = self.work.get(&number) else { return };
        let id = work.stored.event.event_id;
        match self.busy.get_mut(&id) {
            Some(count) if *count > 1 => *count -= 1,
            _ => {
                self.busy.remove(&id);
                // A second message about this event may have waited for this.
                self.bell.notify_waiters();
            }
        }
    }

    /// An attempt failed: back to the others, or to the dead if it was the last one.
    fn failed(&mut self, number: u64, terms: &Terms, reason: &str, now: Now) -> Settled {
        self.note(number, terms, reason, now);
        if self.work.get(&number).is_some_and(|work| work.attempts >= terms.max_attempts) {
            self.bury(number, reason, now);
            return Settled::Dead;
        }
        self.ready.insert(number);
        self.bell.notify_waiters();
        Settled::Retrying
    }

    fn note(&mut self, number: u64, terms: &Terms, reason: &str, now: Now) {
        if let Some(work) = self.work.get_mut(&number) {
            if work.history.len() >= MAX_HISTORY {
                work.history.remove(0);
            }
            work.history.push(Attempt {
                at: now.at,
                consumer: terms.consumer.clone(),
                reason: reason.to_owned(),
            });
        }
    }

    fn bury(&mut self, number: u64, reason: &str, now: Now) {
        if let Some(Work { stored, attempts, history, .. }) = self.work.remove(&number) {
            self.serial += 1;
            let dead = Dead { stored, attempts, history, reason: reason.to_owned(), since: now.at };
            self.dead.insert(self.serial, dead);
        }
    }

    /// Takes work that is not leased away for good.
    fn remove(&mut self, number: u64) -> Option<Work> {
        let work = self.work.remove(&number)?;
        self.ready.remove(&number);
        if let State::Delayed { until, .. } = &work.state {
            self.timed.remove(&(*until, number));
        }
        self.bytes -= work.stored.bytes;
        Some(work)
    }

    pub(super) fn peek(&self, lane: Lane, limit: usize) -> Vec<Held> {
        match lane {
            Lane::Ready => {
                let since = |work: &Work| match &work.state {
                    State::Ready => Some(None),
                    State::Delayed { shown, .. } => Some(Some(*shown)),
                    State::Leased { .. } => None,
                };
                let held = self.work.values().filter_map(|work| {
                    Some(Held {
                        since: since(work)?,
                        received: work.stored.received(),
                        attempts: work.attempts,
                        reason: None,
                        history: work.history.clone(),
                    })
                });
                held.take(limit).collect()
            }
            Lane::Dead => {
                let held = self.dead.values().map(|dead| Held {
                    received: dead.stored.received(),
                    attempts: dead.attempts,
                    reason: Some(dead.reason.clone()),
                    since: Some(dead.since),
                    history: dead.history.clone(),
                });
                held.take(limit).collect()
            }
        }
    }

    pub(super) fn requeue(&mut self, which: &Selection) -> u64 {
        let chosen: Vec<u64> =
            self.dead.iter().filter(|(_, dead)| selects(which, &dead.stored)).map(|(n, _)| *n).collect();
        for number in &chosen {
            if let Some(Dead { stored, history, .. }) = self.dead.remove(number) {
                self.wait(Work { stored, attempts: 0, history, state: State::Ready });
            }
        }
        chosen.len() as u64
    }

    pub(super) fn purge(&mut self, lane: Lane, which: &Selection) -> u64 {
        let chosen: Vec<u64> = match lane {
            Lane::Ready => self
                .work
                .iter()
                .filter(|(_, work)| {
                    !matches!(work.state, State::Leased { .. }) && selects(which, &work.stored)
                })
                .map(|(number, _)| *number)
                .collect(),
            Lane::Dead => {
                self.dead.iter().filter(|(_, dead)| selects(which, &dead.stored)).map(|(n, _)| *n).collect()
            }
        };
        for number in &chosen {
            match lane {
                Lane::Ready => {
                    self.remove(*number);
                }
                Lane::Dead => {
                    self.bytes -= self.dead.remove(number).map_or(0, |dead| dead.stored.bytes);
                }
            }
        }
        chosen.len() as u64
    }

    pub(super) fn info(&self, name: &str) -> QueueInfo {
        let leased = self.work.values().filter(|work| matches!(work.state, State::Leased { .. })).count();
        QueueInfo {
            name: name.to_owned(),
            bindings: Some(self.bindings.iter().map(ToString::to_string).collect()),
            ready: self.ready.len() as u64,
            leased: Some(leased as u64),
            delayed: (self.work.len() - self.ready.len() - leased) as u64,
            dead: self.dead.len() as u64,
            consumers: Some(self.consumers),
        }
    }
}

fn selects(which: &Selection, stored: &Stored) -> bool {
    match which {
        Selection::All => true,
        Selection::Events(ids) => ids.contains(&stored.event.event_id),
    }
}
