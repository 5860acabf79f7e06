//! The events that are kept: a ring with a cap on their number and one on their bytes. Pure.

use std::{
    collections::{BTreeMap, HashSet, VecDeque},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    Name,
    bodies::Bodies,
    row::{Draft, Kind, Row},
};

/// How much is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Limits {
    pub(in crate::cmd::dash) rows: usize,
    pub(in crate::cmd::dash) bytes: usize,
}

/// What became of a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Pushed {
    /// It is the newest row now.
    Row(u64),
    /// An event with this id is there already.
    Duplicate,
}

/// How many events in the buffer have each name.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Facets {
    pub(in crate::cmd::dash) domains: BTreeMap<Name, usize>,
    /// Domain, type.
    pub(in crate::cmd::dash) types: BTreeMap<(Name, Name), usize>,
    pub(in crate::cmd::dash) apps: BTreeMap<Name, usize>,
    pub(in crate::cmd::dash) sessions: BTreeMap<Name, usize>,
}

fn count<K: Ord>(map: &mut BTreeMap<K, usize>, key: K) {
    *map.entry(key).or_default() += 1;
}

fn discount<K: Ord>(map: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = map.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            map.remove(key);
        }
    }
}

impl Facets {
    fn add(&mut self, row: &Row) {
        count(&mut self.domains, Arc::clone(&row.domain));
        count(&mut self.types, (Arc::clone(&row.domain), Arc::clone(&row.event_type)));
        count(&mut self.apps, Arc::clone(&row.app));
        if !row.session.is_empty() {
            count(&mut self.sessions, Arc::clone(&row.session));
        }
    }

    fn remove(&mut self, row: &Row) {
        discount(&mut self.domains, &row.domain);
        discount(&mut self.types, &(Arc::clone(&row.domain), Arc::clone(&row.event_type)));
        discount(&mut self.apps, &row.app);
        if !row.session.is_empty() {
            discount(&mut self.sessions, &row.session);
        }
    }
}

/// The ring.
#[derive(Debug)]
pub(in crate::cmd::dash) struct Buffer {
    limits: Limits,
    rows: VecDeque<Row>,
    /// The number of the oldest row, or of the next one.
    first: u64,
    bodies: Bodies,
    ids: HashSet<Uuid>,
    names: HashSet<Name>,
    facets: Facets,
    /// Rows that are events.
    events: usize,
    evicted: u64,
}

impl Buffer {
    pub(in crate::cmd::dash) fn new(limits: Limits) -> Self {
        Self {
            limits: Limits { rows: limits.rows.max(1), ..limits },
            rows: VecDeque::new(),
            first: 0,
            bodies: Bodies::default(),
            ids: HashSet::new(),
            names: HashSet::new(),
            facets: Facets::default(),
            events: 0,
            evicted: 0,
        }
    }

    /// Adds a row; the oldest ones go where there are too many.
    pub(in crate::cmd::dash) fn push(&mut self, draft: Draft) -> Pushed {
        if draft.kind == Kind::Event && !self.ids.insert(draft.id) {
            return Pushed::Duplicate;
        }
        let seq = self.end();
        let row = Row {
            seq,
            kind: draft.kind,
            id: draft.id,
            event_type: self.name(&draft.event_type),
            domain: self.name(&draft.domain),
            app: self.name(&draft.app),
            host: self.name(&draft.host),
            agent: self.name(&draft.agent),
            session: self.name(&draft.session),
            correlations: draft.correlations,
            at: draft.at,
            taken: draft.taken,
            position: draft.position,
            summary: draft.summary,
            is_error: draft.is_error,
            has_failed: draft.has_failed,
            body: self.bodies.push(&draft.body),
            payload: draft.payload,
        };
        if row.kind == Kind::Event {
            self.facets.add(&row);
            self.events += 1;
        }
        self.rows.push_back(row);
        while self.rows.len() > self.limits.rows
            || (self.bodies.allocated() > self.limits.bytes && self.rows.len() > 1)
        {
            self.evict();
        }
        Pushed::Row(seq)
    }

    fn evict(&mut self) {
        let Some(row) = self.rows.pop_front() else { return };
        self.first = row.seq + 1;
        self.bodies.drop_before(self.rows.front().map(|row| row.body));
        if row.kind == Kind::Event {
            self.ids.remove(&row.id);
            self.facets.remove(&row);
            self.events -= 1;
            self.evicted += 1;
        }
        let Row { event_type, domain, app, host, agent, session, .. } = row;
        for name in [event_type, domain, app, host, agent, session] {
            // Ours, and the one in the set.
            if Arc::strong_count(&name) == 2 {
                self.names.remove(&name);
            }
        }
    }

    /// One copy of each text, however many rows have it.
    fn name(&mut self, text: &str) -> Name {
        if let Some(name) = self.names.get(text) {
            return Arc::clone(name);
        }
        // Others may hold a name longer than the rows do; it goes when they are done with it.
        if self.names.len() > self.limits.rows.saturating_mul(4).saturating_add(1024) {
            self.names.retain(|name| Arc::strong_count(name) > 1);
        }
        let name: Name = text.into();
        self.names.insert(Arc::clone(&name));
        name
    }

    /// Forgets all rows; what was counted stays counted.
    pub(in crate::cmd::dash) fn clear(&mut self) {
        self.first = self.end();
        self.rows.clear();
        self.bodies.drop_before(None);
        self.ids.clear();
        self.names.clear();
        self.facets = Facets::default();
        self.events = 0;
    }

    pub(in crate::cmd::dash) fn row(&self, seq: u64) -> Option<&Row> {
        let index = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        self.rows.get(index)
    }

    /// The bytes of a row: the whole envelope, or what could not be read.
    pub(in crate::cmd::dash) fn body(&self, row: &Row) -> &[u8] {
        self.bodies.get(row.body)
    }

    /// The payload within them.
    pub(in crate::cmd::dash) fn payload(&self, row: &Row) -> &[u8] {
        let range = row.payload.start as usize..row.payload.end as usize;
        self.body(row).get(range).unwrap_or_default()
    }

    /// Rows from oldest to newest.
    pub(in crate::cmd::dash) fn rows(&self) -> impl DoubleEndedIterator<Item = &Row> + ExactSizeIterator {
        self.rows.iter()
    }

    /// The number of the oldest row.
    pub(in crate::cmd::dash) const fn first(&self) -> u64 {
        self.first
    }

    /// The number of the next row.
    pub(in crate::cmd::dash) fn end(&self) -> u64 {
        self.first + self.rows.len() as u64
    }

    /// Events in it.
    pub(in crate::cmd::dash) const fn events(&self) -> usize {
        self.events
    }

    pub(in crate::cmd::dash) const fn limits(&self) -> Limits {
        self.limits
    }

    /// Events that had to go.
    pub(in crate::cmd::dash) const fn evicted(&self) -> u64 {
        self.evicted
    }

    pub(in crate::cmd::dash) const fn facets(&self) -> &Facets {
        &self.facets
    }
}
