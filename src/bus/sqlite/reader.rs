//! Reading the file: a few connections that are opened when they are first needed, pages of events, times, figures.
//!
//! Every read is one short statement, as a long one would keep the write-ahead log from starting again. Streams and pages
//! walk over the events by position. Where not all types match, they jump to the next event that does by the index on
//! type and position, and take what matches from a window behind it, so that neither rare nor frequent types cost more
//! than they give. Runs where it is called.

use std::{collections::HashMap, path::PathBuf, sync::Arc, time::Duration};

use futures_util::TryStreamExt;
use jiff::Timestamp;
use parking_lot::Mutex;
use sqlx::{
    Connection, Row,
    sqlite::{SqliteConnection, SqliteRow},
};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::errors::failed;
use crate::{
    bus::{Body, BusError, Pattern, Position, Received, event},
    db,
};

/// Connections for reading.
const MAX_CONNECTIONS: usize = 4;

/// Events that one read gives.
const PAGE_ROWS: usize = 512;

/// Bytes after which a read ends early.
const PAGE_BYTES: usize = 4 << 20;

/// Positions that are looked through behind a match. It grows while little is found and shrinks while much is; the most
/// bounds the time of one read, as all of them may match.
const WINDOW: std::ops::RangeInclusive<i64> = 4096..=262_144;

/// The connections, and the names of the types as far as they are known.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    patience: Duration,
    permits: Semaphore,
    idle: Mutex<Vec<SqliteConnection>>,
    types: Mutex<Types>,
}

#[derive(Debug, Default)]
struct Types {
    names: Arc<HashMap<i64, Arc<str>>>,
    last: i64,
}

/// A connection that goes back when this is dropped.
struct Reading<'a> {
    connection: Option<SqliteConnection>,
    readers: &'a Readers,
    _permit: SemaphorePermit<'a>,
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && !self.readers.permits.is_closed()
        {
            self.readers.idle.lock().push(connection);
        }
    }
}

/// Which types somebody wants, and what was learnt about where they are.
#[derive(Debug)]
pub(super) struct Filter {
    patterns: Vec<Pattern>,
    /// Everything, whatever types come.
    all: bool,
    /// The types looked at so far.
    known: i64,
    others: bool,
    matching: Vec<i64>,
    window: i64,
}

impl Filter {
    pub(super) fn new(patterns: Vec<Pattern>) -> Self {
        let all = patterns.iter().any(|pattern| pattern.as_str() == "#");
        Self { patterns, all, known: 0, others: false, matching: Vec::new(), window: *WINDOW.start() }
    }

    /// Looks at the types that are new.
    fn learn(&mut self, types: &Types) {
        if self.all || self.known == types.last {
            return;
        }
        for (id, name) in types.names.iter().filter(|(id, _)| **id > self.known) {
            if self.patterns.iter().any(|pattern| pattern.matches(name)) {
                self.matching.push(*id);
            } else {
                self.others = true;
            }
        }
        self.known = types.last;
    }

    /// True if no event has to be left out.
    const fn takes_all(&self) -> bool {
        self.all || !self.others
    }

    fn ids(&self) -> String {
        serde_json::Value::from(self.matching.clone()).to_string()
    }

    fn adapt(&mut self, found: usize) {
        if found >= PAGE_ROWS {
            self.window = (self.window / 2).max(*WINDOW.start());
        } else if found < PAGE_ROWS / 4 {
            self.window = (self.window * 4).min(*WINDOW.end());
        }
    }
}

/// What one read gave.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// In the order of the walk.
    pub(super) events: Vec<Received>,
    /// Where to go on.
    pub(super) cursor: i64,
    /// Nothing lies behind.
    pub(super) end: bool,
    /// Events after the cursor had been deleted before they could be read.
    pub(super) gap: bool,
}

/// The two ends of the history.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    /// The position of the newest event that there ever was.
    pub(super) last: i64,
    /// The position of the newest one that was deleted.
    pub(super) pruned_to: i64,
}

const PRUNED_TO: &str = "SELECT coalesce((SELECT value FROM meta WHERE key = 'pruned_to'), 0)";

/// How things are in a queue.
#[derive(Debug, Clone, Copy)]
pub(super) struct Situation {
    /// Something can be leased.
    pub(super) ready: bool,
    /// When the next lease or delay ends, in milliseconds.
    pub(super) due: Option<i64>,
}

const FORWARD_ALL: &str = "
SELECT seq, type_id, at, body, NULL, (SELECT value FROM meta WHERE key = 'pruned_to')
FROM events WHERE seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT ?5";

const FORWARD: &str = "
WITH first(seq) AS MATERIALIZED (
    SELECT min((
        SELECT e.seq FROM events e INDEXED BY events_by_type
        WHERE e.type_id = t.value AND e.seq > ?2 AND e.seq <= ?3 ORDER BY e.seq LIMIT 1
    )) FROM json_each(?1) t
)
SELECT e.seq, e.type_id, e.at, e.body, first.seq, (SELECT value FROM meta WHERE key = 'pruned_to')
FROM first CROSS JOIN events e WHERE e.seq IN (
    SELECT w.seq FROM json_each(?1) t CROSS JOIN events w INDEXED BY events_by_type ON w.type_id = t.value
    WHERE w.seq >= first.seq AND w.seq < first.seq + ?4 AND w.seq <= ?3 ORDER BY w.seq LIMIT ?5
) ORDER BY e.seq";

const BACKWARD_ALL: &str = "
SELECT seq, type_id, at, body, NULL, NULL FROM events WHERE seq < ?2 AND seq >= ?3 ORDER BY seq DESC LIMIT ?5";

const BACKWARD: &str = "
WITH last(seq) AS MATERIALIZED (
    SELECT max((
        SELECT e.seq FROM events e INDEXED BY events_by_type
        WHERE e.type_id = t.value AND e.seq < ?2 AND e.seq >= ?3 ORDER BY e.seq DESC LIMIT 1
    )) FROM json_each(?1) t
)
SELECT e.seq, e.type_id, e.at, e.body, last.seq, NULL FROM last CROSS JOIN events e WHERE e.seq IN (
    SELECT w.seq FROM json_each(?1) t CROSS JOIN events w INDEXED BY events_by_type ON w.type_id = t.value
    WHERE w.seq <= last.seq AND w.seq > last.seq - ?4 AND w.seq >= ?3 ORDER BY w.seq DESC LIMIT ?5
) ORDER BY e.seq DESC";

/// All of them, for those who look at their plans.
#[cfg(test)]
pub(super) const STATEMENTS: [&str; 4] = [FORWARD_ALL, FORWARD, BACKWARD_ALL, BACKWARD];

impl Readers {
    pub(super) fn new(path: PathBuf, patience: Duration) -> Self {
        let permits = Semaphore::new(MAX_CONNECTIONS);
        Self { path, patience, permits, idle: Mutex::default(), types: Mutex::default() }
    }

    /// Ends all connections; later reads are refused.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock());
        for connection in idle {
            if let Err(error) = connection.close().await {
                tracing::debug!(%error, "cannot close a reading connection in order");
            }
        }
    }

    async fn reading(&self) -> Result<Reading<'_>, BusError> {
        let permit = self.permits.acquire().await.map_err(|_| BusError::Closed)?;
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => db::open_reader(&self.path, self.patience).await?,
        };
        Ok(Reading { connection: Some(connection), readers: self, _permit: permit })
    }

    /// Carries out one read. A connection that failed is not used again.
    pub(super) async fn read<T>(
        &self,
        read: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, BusError> {
        let mut reading = self.reading().await?;
        let Some(connection) = &mut reading.connection else { return Err(BusError::Closed) };
        match read(connection).await {
            Ok(read) => Ok(read),
            Err(error) => {
                drop(reading.connection.take());
                Err(failed(&self.path, "read", &error))
            }
        }
    }

    /// The ends of the history. All types up to the newer one are known afterwards.
    pub(super) async fn edge(&self) -> Result<Edge, BusError> {
        let known = self.types.lock().last;
        let (edge, newer) = self
            .read(async |connection| {
                let row = sqlx::query(
                    "SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0),
                        coalesce((SELECT max(id) FROM types), 0),
                        coalesce((SELECT value FROM meta WHERE key = 'pruned_to'), 0)",
                )
                .fetch_one(&mut *connection)
                .await?;
                let edge = Edge { last: row.try_get(0)?, pruned_to: row.try_get(2)? };
                let last_type: i64 = row.try_get(1)?;
                let newer: Vec<(i64, String)> = if last_type > known {
                    sqlx::query_as("SELECT id, name FROM types WHERE id > ?")
                        .bind(known)
                        .fetch_all(connection)
                        .await?
                } else {
                    Vec::new()
                };
                Ok((edge, newer))
            })
            .await?;
        let mut types = self.types.lock();
        for (id, name) in newer {
            types.last = types.last.max(id);
            Arc::make_mut(&mut types.names).insert(id, name.into());
        }
        Ok(edge)
    }

    /// Events that match, after `cursor` and up to `limit`, or to the newest one; some of them at least, if there are any.
    pub(super) async fn forward(
        &self,
        filter: &mut Filter,
        cursor: i64,
        limit: Option<i64>,
    ) -> Result<Page, BusError> {
        // The order matters: the types of all events up to the edge are known before any is left out.
        let Edge { last: edge, pruned_to } = self.edge().await?;
        let edge = limit.map_or(edge, |limit| limit.min(edge));
        if cursor < pruned_to.min(edge) {
            return Ok(Page { cursor: pruned_to.min(edge), gap: true, ..Page::default() });
        }
        if cursor >= edge {
            return Ok(Page { cursor, end: true, ..Page::default() });
        }
        let page = self.page(filter, [FORWARD_ALL, FORWARD], (cursor, edge), PAGE_ROWS).await?;
        let pruned_to = match page.pruned_to {
            Some(pruned_to) => pruned_to,
            None => {
                self.read(async |connection| sqlx::query_scalar(PRUNED_TO).fetch_one(connection).await)
                    .await?
            }
        };
        let gap = cursor < pruned_to;
        let last = page.events.last().map(place);
        let cursor = match (page.cut, last, page.anchor) {
            (true, Some(last), _) => last,
            (false, Some(_), Some(first)) => (first + page.window - 1).min(edge),
            // Nothing matches, or all was read.
            _ => edge,
        };
        Ok(Page { events: page.events, cursor, end: cursor >= edge, gap })
    }

    /// Events that match, from the one before `cursor` back to `first`; some of them at least, if there are any.
    pub(super) async fn backward(
        &self,
        filter: &mut Filter,
        cursor: i64,
        first: i64,
        rows: usize,
    ) -> Result<Page, BusError> {
        let page = self.page(filter, [BACKWARD_ALL, BACKWARD], (cursor, first), rows.min(PAGE_ROWS)).await?;
        let last = page.events.last().map(place);
        let cursor = match (page.cut, last, page.anchor) {
            (true, Some(last), _) => last,
            (false, Some(_), Some(newest)) => (newest - page.window + 1).max(first),
            _ => first,
        };
        Ok(Page { events: page.events, cursor, end: cursor <= first, gap: false })
    }

    async fn page(
        &self,
        filter: &mut Filter,
        [all, some]: [&'static str; 2],
        (from, to): (i64, i64),
        rows: usize,
    ) -> Result<RawPage, BusError> {
        let (names, ids) = {
            let types = self.types.lock();
            filter.learn(&types);
            (Arc::clone(&types.names), filter.ids())
        };
        let mut page = RawPage { window: filter.window, ..RawPage::default() };
        if !filter.takes_all() && filter.matching.is_empty() {
            return Ok(page);
        }
        let sql = if filter.takes_all() { all } else { some };
        self.read(async |connection| {
            let mut bytes = 0;
            let mut found = sqlx::query(sql)
                .bind(&ids)
                .bind(from)
                .bind(to)
                .bind(page.window)
                .bind(i64::try_from(rows).unwrap_or(i64::MAX))
                .fetch(connection);
            while let Some(row) = found.try_next().await? {
                page.anchor = row.try_get(4)?;
                page.pruned_to = Some(row.try_get::<Option<i64>, _>(5)?.unwrap_or(0));
                bytes += row.try_get::<&[u8], _>(3)?.len();
                page.events.push(received(&row, &names)?);
                page.cut = page.events.len() >= rows || bytes >= PAGE_BYTES;
                if page.cut {
                    break;
                }
            }
            Ok(())
        })
        .await?;
        filter.adapt(page.events.len());
        Ok(page)
    }

    /// The position from which on all events were taken at this time or later.
    pub(super) async fn first_at(&self, time: Timestamp) -> Result<i64, BusError> {
        let time = ceiling(time);
        let edge = self.edge().await?.last;
        self.read(async |connection| {
            // Events up to `low` are older, those from `high` on are not.
            let (mut low, mut high) = (0, edge + 1);
            while high - low > 1 {
                let middle = low + (high - low) / 2;
                let found: Option<(i64, i64)> =
                    sqlx::query_as("SELECT seq, at FROM events WHERE seq >= ? ORDER BY seq LIMIT 1")
                        .bind(middle)
                        .fetch_optional(&mut *connection)
                        .await?;
                match found {
                    Some((seq, at)) if at < time => low = seq,
                    Some(_) | None => high = middle,
                }
            }
            Ok(high)
        })
        .await
    }

    /// How things are in a queue; nothing if there is no such queue any more.
    pub(super) async fn situation(&self, queue: i64) -> Result<Option<Situation>, BusError> {
        self.read(async |connection| {
            let row = sqlx::query(
                "SELECT EXISTS (SELECT 1 FROM jobs WHERE queue_id = ?1 AND state = 0),
                    (SELECT min(since + hold_ms) FROM jobs INDEXED BY jobs_by_due
                        WHERE queue_id = ?1 AND state IN (1, 3))
                 FROM queues WHERE id = ?1",
            )
            .bind(queue)
            .fetch_optional(connection)
            .await?;
            row.map(|row| Ok(Situation { ready: row.try_get(0)?, due: row.try_get(1)? })).transpose()
        })
        .await
    }
}

#[derive(Debug, Default)]
struct RawPage {
    events: Vec<Received>,
    /// There may be more in the window.
    cut: bool,
    /// Where the window begins, if there is one.
    anchor: Option<i64>,
    window: i64,
    /// As in [`Edge`], when this was read; known if there are events.
    pruned_to: Option<i64>,
}

fn place(received: &Received) -> i64 {
    received.position.map_or(0, |position| position.0.cast_signed())
}

fn received(row: &SqliteRow, names: &HashMap<i64, Arc<str>>) -> Result<Received, sqlx::Error> {
    let name = names.get(&row.try_get(1)?).map_or("", |name| &**name);
    Ok(receive(row.try_get(0)?, row.try_get(2)?, name, row.try_get(3)?))
}

/// An event as it is handed out.
pub(super) fn receive(seq: i64, at: i64, routing_key: &str, body: &[u8]) -> Received {
    let at = timestamp(at);
    // Whoever published it has checked its size against a limit that may have been another one.
    let body = match event::read(body, Some(routing_key), at, usize::MAX) {
        Ok(event) => Body::Event(event),
        Err(unparsed) => Body::Unparsed(unparsed),
    };
    Received {
        position: Some(Position(seq.unsigned_abs())),
        at: Some(at),
        routing_key: routing_key.to_owned(),
        body,
    }
}

/// A time of the file.
pub(super) fn timestamp(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).unwrap_or(if ms < 0 { Timestamp::MIN } else { Timestamp::MAX })
}

/// The first whole millisecond that is not before this time.
fn ceiling(time: Timestamp) -> i64 {
    let whole = time.as_millisecond();
    if timestamp(whole) < time { whole + 1 } else { whole }
}
