//! The services of a registry, lit when they get something; without a registry, the programs that say something. Pure.

use std::collections::{BTreeMap, HashMap};

use jiff::Timestamp;

use super::{Name, registry::Service, tallies::Seen};
use crate::bus::event::registry::{VOICE, VOICE_ALIAS};

/// For so long a service is lit after an event, in milliseconds.
const LIT: i64 = 3_000;

/// Programs that are told apart; who makes up names must not fill the memory.
const SOURCES: usize = 500;

/// Machines of one program that are told apart.
const HOSTS: usize = 16;

/// Types whose services are remembered.
const TYPES: usize = 4096;

/// What a service, or a program, was seen to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::cmd::dash) struct Seenness {
    pub(in crate::cmd::dash) events: u64,
    /// Of them, those whose type says that something went wrong.
    pub(in crate::cmd::dash) errors: u64,
    /// When the bus took the newest one.
    pub(in crate::cmd::dash) last: Option<Timestamp>,
    /// When the newest one came as it happened.
    lit: Option<Timestamp>,
}

impl Seenness {
    fn take(&mut self, seen: &Seen<'_>) {
        self.events += 1;
        self.errors += u64::from(seen.row.is_error);
        self.last = self.last.max(Some(seen.row.taken));
        if seen.is_live {
            self.lit = Some(seen.now);
        }
    }

    /// From 1, just now, to 0, three seconds ago.
    #[allow(clippy::cast_precision_loss, reason = "at most three thousand")]
    pub(in crate::cmd::dash) fn light(&self, now: Timestamp) -> f32 {
        let ago = self.lit.map_or(LIT, |lit| now.as_millisecond() - lit.as_millisecond());
        (LIT - ago.clamp(0, LIT)) as f32 / LIT as f32
    }
}

/// A program that said something.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Source {
    pub(in crate::cmd::dash) seen: Seenness,
    pub(in crate::cmd::dash) hosts: Vec<Name>,
    /// It was on more machines than those.
    pub(in crate::cmd::dash) has_more_hosts: bool,
}

/// What services got, and who said something.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Services {
    services: Vec<(Service, Seenness)>,
    /// The services that listen to a type, by their places.
    listeners: HashMap<Name, Box<[usize]>>,
    sources: BTreeMap<Name, Source>,
    /// Events of programs that there was no room for.
    others: u64,
    /// When something was lit last.
    lit: Option<Timestamp>,
}

impl Services {
    pub(in crate::cmd::dash) fn new(services: &[Service]) -> Self {
        let services = services.iter().map(|service| (service.clone(), Seenness::default())).collect();
        Self { services, ..Self::default() }
    }

    pub(super) fn take(&mut self, seen: &Seen<'_>) {
        if !self.services.is_empty() {
            self.deliver(seen);
        }
        let row = seen.row;
        if !self.sources.contains_key(&row.app) && self.sources.len() >= SOURCES {
            self.others += 1;
            return;
        }
        let source = self.sources.entry(Name::clone(&row.app)).or_default();
        source.seen.take(seen);
        if !source.hosts.contains(&row.host) {
            if source.hosts.len() < HOSTS {
                source.hosts.push(Name::clone(&row.host));
            } else {
                source.has_more_hosts = true;
            }
        }
        if seen.is_live {
            self.lit = Some(seen.now);
        }
    }

    fn deliver(&mut self, seen: &Seen<'_>) {
        let event_type = &seen.row.event_type;
        if !self.listeners.contains_key(event_type) {
            if self.listeners.len() >= TYPES {
                self.listeners.clear();
            }
            let services = self.services.iter().enumerate();
            let listens = services.filter(|(_, (service, _))| listens(service, event_type));
            let places = listens.map(|(place, _)| place).collect();
            self.listeners.insert(Name::clone(event_type), places);
        }
        for place in self.listeners.get(event_type).into_iter().flatten() {
            if let Some((_, count)) = self.services.get_mut(*place) {
                count.take(seen);
            }
        }
    }

    /// The services of the registry, in its order.
    pub(in crate::cmd::dash) fn services(&self) -> &[(Service, Seenness)] {
        &self.services
    }

    /// The programs, by name.
    pub(in crate::cmd::dash) const fn sources(&self) -> &BTreeMap<Name, Source> {
        &self.sources
    }

    /// Events of programs that are not among them, as there are too many.
    pub(in crate::cmd::dash) const fn others(&self) -> u64 {
        self.others
    }

    /// Whether something is lit, so that the view changes without an event.
    pub(in crate::cmd::dash) fn is_fading(&self, now: Timestamp) -> bool {
        // One frame more, in which all lights are out.
        self.lit.is_some_and(|lit| now.as_millisecond() - lit.as_millisecond() <= LIT + 500)
    }
}

/// Whether a service gets events of this type. An utterance has two names and comes once: with the one that was first.
fn listens(service: &Service, event_type: &str) -> bool {
    let has = |event_type: &str| service.keys.iter().any(|key| key.matches(event_type));
    has(event_type) || ([VOICE, VOICE_ALIAS].contains(&event_type) && (has(VOICE) || has(VOICE_ALIAS)))
}
