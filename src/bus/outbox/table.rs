//! The outbox's tables: what waits for one broker, what was set aside, and the circuit breaker that all processes share.

use std::sync::Arc;

use async_trait::async_trait;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Row as _, SqliteConnection};

use super::super::{
    BusError, Event,
    breaker::{Breaker, Change, Outcome, Permit, Policy},
    event,
    local::{LocalState, Write},
};

/// Events that are kept although the broker will never take them.
const MAX_FAILED: i64 = 1000;

/// The outbox of one broker.
#[derive(Debug, Clone)]
pub(super) struct Table {
    file: Arc<LocalState>,
    broker: i64,
    policy: Policy,
}

/// An event on its way into the outbox.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) json: Vec<u8>,
    pub(super) require_route: bool,
    /// Tells of the outbox itself.
    pub(super) own: bool,
}

/// An event in the outbox.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) seq: i64,
    pub(super) json: Vec<u8>,
    pub(super) require_route: bool,
    pub(super) own: bool,
}

/// How much may wait.
#[derive(Debug, Clone, Copy)]
pub(super) struct Caps {
    pub(super) events: u64,
    pub(super) bytes: u64,
}

/// One look at it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    pub(super) waiting: u64,
    pub(super) bytes: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
    pub(super) breaker: Breaker,
}

/// Events that found no room since the outbox was last empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Refusals {
    pub(super) events: u64,
    pub(super) waiting: u64,
    pub(super) bytes: u64,
    pub(super) reason: String,
}

impl Table {
    /// The outbox of the broker of this name.
    pub(super) async fn open(file: Arc<LocalState>, name: &str, policy: Policy) -> Result<Self, BusError> {
        let known = file
            .read("read", async |file| {
                sqlx::query_scalar("SELECT id FROM broker WHERE name = ?")
                    .bind(name)
                    .fetch_optional(file)
                    .await
            })
            .await?;
        let broker = match known {
            Some(broker) => broker,
            None => file.write(Register { name: name.to_owned() }).await?,
        };
        Ok(Self { file, broker, policy })
    }

    pub(super) const fn broker(&self) -> i64 {
        self.broker
    }

    pub(super) fn file(&self) -> &Arc<LocalState> {
        &self.file
    }

    /// Other brokers for which events wait, and how many.
    pub(super) async fn others(&self) -> Result<Vec<(String, u64)>, BusError> {
        self.file
            .read("read", async |file| {
                let rows = sqlx::query("SELECT name, waiting FROM broker WHERE id <> ? AND waiting > 0")
                    .bind(self.broker)
                    .fetch_all(file)
                    .await?;
                Ok(rows.iter().map(|row| (row.get(0), count(row, 1))).collect())
            })
            .await
    }

    pub(super) async fn view(&self) -> Result<View, BusError> {
        self.file
            .read("read", async |file| {
                let row = sqlx::query(
                    "SELECT waiting, bytes, refused, breaker, \
                     (SELECT count(*) FROM failed WHERE failed.broker = broker.id) FROM broker WHERE id = ?",
                )
                .bind(self.broker)
                .fetch_one(file)
                .await?;
                Ok(View {
                    waiting: count(&row, 0),
                    bytes: count(&row, 1),
                    refused: count(&row, 2),
                    breaker: breaker(row.get(3)),
                    failed: count(&row, 4),
                })
            })
            .await
    }

    /// Appends all of them, or none and counts them if there is no room; without caps there is always room.
    pub(super) async fn append(
        &self,
        entries: Vec<Entry>,
        caps: Option<Caps>,
    ) -> Result<Result<(), Refusals>, BusError> {
        self.file.write(Append { broker: self.broker, entries, caps }).await
    }

    /// The oldest ones, at least one if any waits, then as long as they are no more than so many bytes.
    pub(super) async fn head(&self, events: i64, bytes: usize) -> Result<Vec<Waiting>, BusError> {
        let rows = self
            .file
            .read("read", async |file| {
                sqlx::query(
                    "SELECT seq, event, require_route, own FROM outbox WHERE broker = ? ORDER BY seq LIMIT ?",
                )
                .bind(self.broker)
                .bind(events)
                .fetch_all(file)
                .await
            })
            .await?;
        let mut total = 0;
        let waiting = rows.iter().map(|row| Waiting {
            seq: row.get(0),
            json: row.get(1),
            require_route: row.get(2),
            own: row.get(3),
        });
        Ok(waiting
            .enumerate()
            .take_while(|(index, waiting)| {
                total += waiting.json.len();
                *index == 0 || total <= bytes
            })
            .map(|(_, waiting)| waiting)
            .collect())
    }

    /// Forgets what the broker has.
    pub(super) async fn sent(&self, first: i64, last: i64) -> Result<(), BusError> {
        self.file.write(Remove { broker: self.broker, first, last, reason: None }).await.map(drop)
    }

    /// Puts one aside that the broker will never take. Tells how many older ones had to make room.
    pub(super) async fn set_aside(&self, seq: i64, reason: String, at: Timestamp) -> Result<u64, BusError> {
        let reason = Some((reason, at.as_millisecond()));
        self.file.write(Remove { broker: self.broker, first: seq, last: seq, reason }).await
    }

    /// Asks the circuit breaker for a call.
    pub(super) async fn ask(&self, now: Timestamp) -> Result<Permit, BusError> {
        self.file.write(Ask { broker: self.broker, policy: self.policy, now }).await
    }

    /// Tells the circuit breaker how a call went.
    pub(super) async fn tell(&self, outcome: Outcome, now: Timestamp) -> Result<Option<Change>, BusError> {
        self.file.write(Tell { broker: self.broker, policy: self.policy, outcome, now }).await
    }

    /// What was refused since this was last asked.
    pub(super) async fn refusals(&self) -> Result<Option<Refusals>, BusError> {
        self.file.write(TakeRefusals { broker: self.broker }).await
    }

    pub(super) const fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// An event as it is kept.
pub(super) fn parse(json: &[u8]) -> Result<Event, String> {
    // It was written complete, so the time that stands in for a missing one is never used.
    event::read(json, None, Timestamp::UNIX_EPOCH, usize::MAX).map_err(|unparsed| unparsed.reason)
}

/// Counts are never negative.
fn count(row: &sqlx::sqlite::SqliteRow, index: usize) -> u64 {
    u64::try_from(row.get::<i64, _>(index)).unwrap_or(0)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What another version may have written in another way starts afresh.
fn breaker(json: Option<String>) -> Breaker {
    json.and_then(|json| serde_json::from_str(&json).ok()).unwrap_or_default()
}

struct Register {
    name: String,
}

#[async_trait]
impl Write for Register {
    type Answer = i64;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<i64> {
        sqlx::query_scalar(
            "INSERT INTO broker(name) VALUES (?) ON CONFLICT(name) DO UPDATE SET name = name RETURNING id",
        )
        .bind(&self.name)
        .fetch_one(file)
        .await
    }
}

struct Append {
    broker: i64,
    entries: Vec<Entry>,
    caps: Option<Caps>,
}

#[async_trait]
impl Write for Append {
    type Answer = Result<(), Refusals>;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<Self::Answer> {
        let row = sqlx::query("SELECT waiting, bytes, refusals FROM broker WHERE id = ?")
            .bind(self.broker)
            .fetch_one(&mut *file)
            .await?;
        let (waiting, bytes) = (count(&row, 0), count(&row, 1));
        let (more, size) = self.size();
        if let Some(reason) = self.caps.and_then(|caps| caps.refuse(waiting, bytes, more, size)) {
            let before: Option<Refusals> =
                row.get::<Option<String>, _>(2).and_then(|json| serde_json::from_str(&json).ok());
            let events = before.map_or(0, |before| before.events) + more;
            let refusals = Refusals { events, waiting, bytes, reason };
            sqlx::query("UPDATE broker SET refused = refused + ?, refusals = ? WHERE id = ?")
                .bind(signed(more))
                .bind(serde_json::to_string(&refusals).unwrap_or_default())
                .bind(self.broker)
                .execute(file)
                .await?;
            return Ok(Err(refusals));
        }
        for entry in &self.entries {
            sqlx::query("INSERT INTO outbox(broker, event, require_route, own) VALUES (?, ?, ?, ?)")
                .bind(self.broker)
                .bind(&entry.json)
                .bind(entry.require_route)
                .bind(entry.own)
                .execute(&mut *file)
                .await?;
        }
        sqlx::query("UPDATE broker SET waiting = waiting + ?, bytes = bytes + ? WHERE id = ?")
            .bind(signed(more))
            .bind(signed(size))
            .bind(self.broker)
            .execute(file)
            .await?;
        Ok(Ok(()))
    }
}

impl Append {
    fn size(&self) -> (u64, u64) {
        let bytes = self.entries.iter().map(|entry| entry.json.len() as u64).sum();
        (self.entries.len() as u64, bytes)
    }
}

impl Caps {
    fn refuse(self, waiting: u64, bytes: u64, more: u64, size: u64) -> Option<String> {
        if waiting + more > self.events {
            Some(format!("{waiting} events wait, and bus.outbox_max allows {}", self.events))
        } else if bytes + size > self.bytes {
            Some(format!("events of {bytes} bytes wait, and bus.outbox_max_mb allows {}", self.bytes))
        } else {
            None
        }
    }
}

/// Takes events out: they are with the broker, or set aside for this reason at this time.
struct Remove {
    broker: i64,
    first: i64,
    last: i64,
    reason: Option<(String, i64)>,
}

#[async_trait]
impl Write for Remove {
    type Answer = u64;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<u64> {
        let mut dropped = 0;
        if let Some((reason, at)) = &self.reason {
            sqlx::query(
                "INSERT INTO failed(broker, event, reason, at) SELECT broker, event, ?, ? FROM outbox \
                 WHERE broker = ? AND seq BETWEEN ? AND ?",
            )
            .bind(reason)
            .bind(at)
            .bind(self.broker)
            .bind(self.first)
            .bind(self.last)
            .execute(&mut *file)
            .await?;
            dropped = sqlx::query(
                "DELETE FROM failed WHERE broker = ?1 AND seq <= \
                 (SELECT seq FROM failed WHERE broker = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)",
            )
            .bind(self.broker)
            .bind(MAX_FAILED)
            .execute(&mut *file)
            .await?
            .rows_affected();
        }
        let gone: Vec<i64> = sqlx::query_scalar(
            "DELETE FROM outbox WHERE broker = ? AND seq BETWEEN ? AND ? RETURNING length(event)",
        )
        .bind(self.broker)
        .bind(self.first)
        .bind(self.last)
        .fetch_all(&mut *file)
        .await?;
        sqlx::query("UPDATE broker SET waiting = waiting - ?, bytes = bytes - ? WHERE id = ?")
            .bind(signed(gone.len() as u64))
            .bind(gone.iter().sum::<i64>())
            .bind(self.broker)
            .execute(file)
            .await?;
        Ok(dropped)
    }
}

struct Ask {
    broker: i64,
    policy: Policy,
    now: Timestamp,
}

#[async_trait]
impl Write for Ask {
    type Answer = Permit;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<Permit> {
        let mut breaker = load(file, self.broker).await?;
        let before = breaker;
        let permit = breaker.ask(&self.policy, self.now);
        save(file, self.broker, &before, &breaker).await?;
        Ok(permit)
    }
}

struct Tell {
    broker: i64,
    policy: Policy,
    outcome: Outcome,
    now: Timestamp,
}

#[async_trait]
impl Write for Tell {
    type Answer = Option<Change>;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<Option<Change>> {
        let mut breaker = load(file, self.broker).await?;
        let before = breaker;
        let change = breaker.tell(self.outcome, &self.policy, self.now);
        save(file, self.broker, &before, &breaker).await?;
        Ok(change)
    }
}

async fn load(file: &mut SqliteConnection, broker: i64) -> sqlx::Result<Breaker> {
    let json: Option<String> =
        sqlx::query_scalar("SELECT breaker FROM broker WHERE id = ?").bind(broker).fetch_one(file).await?;
    Ok(self::breaker(json))
}

async fn save(
    file: &mut SqliteConnection,
    broker: i64,
    before: &Breaker,
    after: &Breaker,
) -> sqlx::Result<()> {
    if before != after {
        sqlx::query("UPDATE broker SET breaker = ? WHERE id = ?")
            .bind(serde_json::to_string(after).unwrap_or_default())
            .bind(broker)
            .execute(file)
            .await?;
    }
    Ok(())
}

struct TakeRefusals {
    broker: i64,
}

#[async_trait]
impl Write for TakeRefusals {
    type Answer = Option<Refusals>;

    async fn apply(&self, file: &mut SqliteConnection) -> sqlx::Result<Option<Refusals>> {
        let json: Option<String> = sqlx::query_scalar("SELECT refusals FROM broker WHERE id = ?")
            .bind(self.broker)
            .fetch_one(&mut *file)
            .await?;
        if json.is_some() {
            sqlx::query("UPDATE broker SET refusals = NULL WHERE id = ?")
                .bind(self.broker)
                .execute(file)
                .await?;
        }
        Ok(json.and_then(|json| serde_json::from_str(&json).ok()))
    }
}
