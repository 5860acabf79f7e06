//! What queues do to the file: leasing jobs, settling them, making and deleting queues. Runs on the writer's task, inside
//! its transaction.
//!
//! A lease is a job's number and its fence, which counts the job's leases: only who holds the latest can settle it.
//! Leases and delays end by the wall clock, as that is what processes have in common. A clock that was put back would
//! keep them for longer than they were to last, so those that began in the future begin again now.

use std::collections::HashSet;

use sqlx::{Row, sqlite::SqliteConnection};
use uuid::Uuid;

use super::append::add_route;
use crate::bus::{BusError, Lane, MAX_HISTORY, Pattern, Selection, Settled};

/// Why work is dead that was delivered often enough without ever being settled.
const EXHAUSTED: &str = "attempts exhausted";

/// How an attempt ended whose consumer let its lease run out.
const EXPIRED: &str = "lease expired";

/// Clocks are put right by less than this without anybody noticing.
pub(super) const CLOCK_TOLERANCE_MS: i64 = 5000;

/// The most bytes that one claim takes, so that a large prefetch of large events stays in bounds; one event always fits.
const MAX_CLAIM_BYTES: i64 = 8 << 20;

/// Rows that a long deletion takes in one transaction, so that others get their turn.
pub(super) const STEP_ROWS: i64 = 500;

/// Characters of a reason that are kept.
const MAX_REASON_CHARS: usize = 2000;

#[allow(clippy::cast_possible_wrap, reason = "a small constant")]
const MAX_ENTRIES: i64 = MAX_HISTORY as i64;

/// The right to settle a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseKey {
    /// The job's number.
    pub(super) job: i64,
    /// Which of its leases this is.
    pub(super) fence: i64,
}

/// A job that was leased.
#[derive(Debug)]
pub(super) struct Claimed {
    pub(super) key: LeaseKey,
    pub(super) seq: i64,
    pub(super) at: i64,
    pub(super) routing_key: String,
    pub(super) attempts: i64,
    /// JSON, as `jobs.history`.
    pub(super) history: String,
    pub(super) body: Vec<u8>,
}

/// What is wanted of a queue.
#[derive(Debug)]
pub(super) struct Claim {
    pub(super) queue: i64,
    pub(super) want: u16,
    pub(super) lease_ms: i64,
    pub(super) holder: String,
    pub(super) max_attempts: u32,
    /// Of several messages about one event only one is leased at a time.
    pub(super) dedupe: bool,
}

/// How a lease ends, or goes on.
#[derive(Debug)]
pub(super) enum Settlement {
    Retry { delay_ms: i64, reason: String },
    Dead { reason: String },
    Extend { lease_ms: i64 },
}

/// Lets leases and delays that began in the future begin now: the clock was put back since.
pub(super) async fn mend(connection: &mut SqliteConnection, now: i64, queue: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE jobs SET since = ?2 WHERE queue_id = ?1 AND state IN (1, 3) AND since > ?2 + ?3")
        .bind(queue)
        .bind(now)
        .bind(CLOCK_TOLERANCE_MS)
        .execute(connection)
        .await
        .map(drop)
}

/// Leases up to `claim.want` jobs, the oldest first.
pub(super) async fn claim(
    connection: &mut SqliteConnection,
    now: i64,
    claim: &Claim,
) -> Result<Vec<Claimed>, sqlx::Error> {
    sweep(connection, now, claim.queue).await?;
    let rows = sqlx::query(
        "UPDATE jobs SET state = 1, attempts = attempts + 1, fence = fence + 1, since = ?2, hold_ms = ?3, holder = ?4,
            max_attempts = ?7
            WHERE id IN (
                SELECT id FROM (
                    SELECT id, sum(size) OVER (ORDER BY id) - size AS before FROM (
                        SELECT id, size FROM jobs j INDEXED BY jobs_by_lane
                        WHERE queue_id = ?1 AND state = 0 AND NOT (?8 AND EXISTS (
                            SELECT 1 FROM jobs b INDEXED BY jobs_by_event
                            WHERE b.event_id = j.event_id AND b.queue_id = j.queue_id
                                AND (b.state = 1 OR (b.state = 0 AND b.id < j.id))
                        ))
                        ORDER BY id LIMIT ?5
                    )
                ) WHERE before < ?6
            )
            RETURNING id, fence, seq, at, (SELECT name FROM types t WHERE t.id = type_id), attempts, history,
                coalesce(body, (SELECT e.body FROM events e WHERE e.seq = jobs.seq))",
    )
    .bind(claim.queue)
    .bind(now)
    .bind(claim.lease_ms)
    .bind(&claim.holder)
    .bind(claim.want)
    .bind(MAX_CLAIM_BYTES)
    .bind(claim.max_attempts)
    .bind(claim.dedupe)
    .fetch_all(&mut *connection)
    .await?;
    let mut claimed = rows.iter().map(claimed).collect::<Result<Vec<_>, _>>()?;
    claimed.sort_by_key(|claimed| claimed.key.job);
    Ok(claimed)
}

/// Ends the leases and delays of a queue whose time has come.
pub(super) async fn sweep(
    connection: &mut SqliteConnection,
    now: i64,
    queue: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE jobs SET
            since = ?2, hold_ms = 0,
            state = CASE WHEN state = 1 AND attempts >= max_attempts THEN 2 ELSE 0 END,
            reason = CASE WHEN state = 1 AND attempts >= max_attempts THEN ?3 ELSE reason END,
            history = CASE WHEN state = 3 THEN history ELSE json_insert(
                CASE WHEN json_array_length(history) >= ?5 THEN json_remove(history, '$[0]') ELSE history END,
                '$[#]', json_object('at', ?2, 'consumer', holder, 'reason', ?4)) END
            WHERE queue_id = ?1 AND state IN (1, 3) AND since + hold_ms <= ?2",
    )
    .bind(queue)
    .bind(now)
    .bind(EXHAUSTED)
    .bind(EXPIRED)
    .bind(MAX_ENTRIES)
    .execute(connection)
    .await
    .map(drop)
}

fn claimed(row: &sqlx::sqlite::SqliteRow) -> Result<Claimed, sqlx::Error> {
    Ok(Claimed {
        key: LeaseKey { job: row.try_get(0)?, fence: row.try_get(1)? },
        seq: row.try_get(2)?,
        at: row.try_get(3)?,
        routing_key: row.try_get(4)?,
        attempts: row.try_get(5)?,
        history: row.try_get(6)?,
        body: row.try_get(7)?,
    })
}

/// Deletes these jobs as done, and tells which leases held. Where a lease says so, its event is remembered, and other
/// messages about it are deleted too.
pub(super) async fn acknowledge(
    connection: &mut SqliteConnection,
    now: i64,
    keys: &[(LeaseKey, bool)],
) -> Result<Vec<bool>, sqlx::Error> {
    let remembered = keys.iter().filter(|(_, dedupe)| *dedupe).map(|(key, _)| *key);
    let done: Vec<i64> = sqlx::query_scalar(
        "INSERT INTO seen(queue_id, event_id, at)
            SELECT j.queue_id, j.event_id, ?3 FROM json_each(?2) k CROSS JOIN jobs j ON j.id = k.value ->> 0
            WHERE j.fence = k.value ->> 1 AND j.state = 1
            ON CONFLICT DO NOTHING;
         DELETE FROM jobs WHERE id IN (
            SELECT other.id FROM json_each(?2) k CROSS JOIN jobs j ON j.id = k.value ->> 0
            CROSS JOIN jobs other ON other.event_id = j.event_id AND other.queue_id = j.queue_id
            WHERE j.fence = k.value ->> 1 AND j.state = 1 AND other.state IN (0, 3)
         );
         DELETE FROM jobs WHERE id IN (
            SELECT j.id FROM json_each(?1) k CROSS JOIN jobs j ON j.id = k.value ->> 0
            WHERE j.fence = k.value ->> 1 AND j.state = 1
         ) RETURNING id",
    )
    .bind(json(keys.iter().map(|(key, _)| *key)))
    .bind(json(remembered))
    .bind(now)
    .fetch_all(connection)
    .await?;
    let done: HashSet<i64> = done.into_iter().collect();
    Ok(keys.iter().map(|(key, _)| done.contains(&key.job)).collect())
}

/// Puts these jobs back as if they had not been leased; those whose lease has ended are left alone.
pub(super) async fn release(
    connection: &mut SqliteConnection,
    now: i64,
    keys: &[LeaseKey],
) -> Result<Vec<bool>, sqlx::Error> {
    let back: Vec<i64> = sqlx::query_scalar(
        "UPDATE jobs SET state = 0, attempts = attempts - 1, since = ?2, hold_ms = 0
            WHERE id IN (
                SELECT j.id FROM json_each(?1) k CROSS JOIN jobs j ON j.id = k.value ->> 0
                WHERE j.fence = k.value ->> 1 AND j.state = 1
            ) RETURNING id",
    )
    .bind(json(keys.iter().copied()))
    .bind(now)
    .fetch_all(connection)
    .await?;
    let back: HashSet<i64> = back.into_iter().collect();
    Ok(keys.iter().map(|key| back.contains(&key.job)).collect())
}

/// Ends a lease without success, or makes it last longer.
pub(super) async fn settle(
    connection: &mut SqliteConnection,
    now: i64,
    key: LeaseKey,
    how: &Settlement,
) -> Result<Result<Settled, BusError>, sqlx::Error> {
    let query = match how {
        Settlement::Extend { lease_ms } => sqlx::query_scalar(
            "UPDATE jobs SET since = ?3, hold_ms = ?4 WHERE id = ?1 AND fence = ?2 AND state = 1 RETURNING state",
        )
        .bind(key.job)
        .bind(key.fence)
        .bind(now)
        .bind(lease_ms),
        Settlement::Retry { delay_ms, reason } => unsettled(key, now, *delay_ms, reason),
        Settlement::Dead { reason } => unsettled(key, now, -1, reason),
    };
    let state: Option<i64> = query.fetch_optional(connection).await?;
    Ok(match state {
        Some(super::schema::state::DEAD) => Ok(Settled::Dead),
        Some(_) => Ok(Settled::Retrying),
        None => Err(BusError::LeaseLost),
    })
}

type Scalar<'q> = sqlx::query::QueryScalar<'q, sqlx::Sqlite, i64, sqlx::sqlite::SqliteArguments>;

/// Writes down how an attempt failed. A delay below zero means that there is no other attempt.
fn unsettled(key: LeaseKey, now: i64, delay_ms: i64, reason: &str) -> Scalar<'static> {
    let reason: String = reason.chars().take(MAX_REASON_CHARS).collect();
    sqlx::query_scalar(
        "UPDATE jobs SET
            since = ?3, hold_ms = max(?4, 0), reason = ?5,
            state = CASE WHEN ?4 < 0 OR attempts >= max_attempts THEN 2
                WHEN ?4 = 0 THEN 0 ELSE 3 END,
            history = json_insert(
                CASE WHEN json_array_length(history) >= ?6 THEN json_remove(history, '$[0]') ELSE history END,
                '$[#]', json_object('at', ?3, 'consumer', holder, 'reason', ?5))
            WHERE id = ?1 AND fence = ?2 AND state = 1 RETURNING state",
    )
    .bind(key.job)
    .bind(key.fence)
    .bind(now)
    .bind(delay_ms)
    .bind(reason)
    .bind(MAX_ENTRIES)
}

fn json(keys: impl Iterator<Item = LeaseKey>) -> String {
    serde_json::Value::from(keys.map(|key| vec![key.job, key.fence]).collect::<Vec<_>>()).to_string()
}

/// Makes a queue if there is none of this name, and adds its bindings. Tells its number.
pub(super) async fn open_queue(
    connection: &mut SqliteConnection,
    name: &str,
    bindings: &[Pattern],
) -> Result<i64, sqlx::Error> {
    sqlx::query("INSERT INTO queues(name) VALUES (?) ON CONFLICT DO NOTHING")
        .bind(name)
        .execute(&mut *connection)
        .await?;
    let queue = sqlx::query_scalar("SELECT id FROM queues WHERE name = ?")
        .bind(name)
        .fetch_one(&mut *connection)
        .await?;
    for pattern in bindings {
        bind(connection, queue, pattern).await?;
    }
    Ok(queue)
}

async fn bind(connection: &mut SqliteConnection, queue: i64, pattern: &Pattern) -> Result<(), sqlx::Error> {
    let added = sqlx::query("INSERT INTO bindings(queue_id, pattern) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(queue)
        .bind(pattern.as_str())
        .execute(&mut *connection)
        .await?;
    if added.rows_affected() == 0 {
        return Ok(());
    }
    let types: Vec<(i64, String)> =
        sqlx::query_as("SELECT id, name FROM types").fetch_all(&mut *connection).await?;
    for (type_id, _) in types.iter().filter(|(_, name)| pattern.matches(name)) {
        add_route(connection, *type_id, queue).await?;
    }
    Ok(())
}

/// Takes a queue away, with its bindings. Its jobs are left to [`purge`], which finds them by the number that this tells.
pub(super) async fn delete_queue(
    connection: &mut SqliteConnection,
    name: &str,
) -> Result<Option<i64>, sqlx::Error> {
    let queue: Option<i64> = sqlx::query_scalar("DELETE FROM queues WHERE name = ? RETURNING id")
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(queue) = queue {
        sqlx::query("DELETE FROM bindings WHERE queue_id = ?1; DELETE FROM routes WHERE queue_id = ?1")
            .bind(queue)
            .execute(connection)
            .await?;
    }
    Ok(queue)
}

/// Which jobs a step of a long change is about.
#[derive(Debug, Clone)]
pub(super) struct Part {
    pub(super) queue: i64,
    /// None means all states.
    pub(super) lane: Option<Lane>,
    pub(super) which: Selection,
    /// No job after this one, so that the change comes to an end.
    pub(super) last: i64,
}

impl Part {
    fn states(&self) -> &'static str {
        match self.lane {
            None => "[0,1,2,3]",
            Some(Lane::Ready) => "[0,3]",
            Some(Lane::Dead) => "[2]",
        }
    }

    /// The ids as JSON, or nothing for all.
    fn events(&self) -> Option<String> {
        match &self.which {
            Selection::All => None,
            Selection::Events(ids) => {
                let ids = ids.iter().map(|id: &Uuid| id.simple().to_string()).collect::<Vec<_>>();
                Some(serde_json::Value::from(ids).to_string())
            }
        }
    }
}

/// Deletes some of these jobs, and tells how many; fewer than [`STEP_ROWS`] means that none is left.
pub(super) async fn purge(connection: &mut SqliteConnection, part: &Part) -> Result<u64, sqlx::Error> {
    let purged = sqlx::query(
        "DELETE FROM jobs WHERE id IN (
            SELECT id FROM jobs WHERE queue_id = ?1 AND state IN (SELECT value FROM json_each(?2)) AND id <= ?3
                AND (?4 IS NULL OR event_id IN (SELECT unhex(value) FROM json_each(?4)))
            ORDER BY id LIMIT ?5)",
    )
    .bind(part.queue)
    .bind(part.states())
    .bind(part.last)
    .bind(part.events())
    .bind(STEP_ROWS)
    .execute(connection)
    .await?;
    Ok(purged.rows_affected())
}

/// Makes some of these dead letters ready, and tells how many; fewer than [`STEP_ROWS`] means that none is left.
pub(super) async fn requeue(
    connection: &mut SqliteConnection,
    now: i64,
    part: &Part,
) -> Result<u64, sqlx::Error> {
    let moved = sqlx::query(
        "UPDATE jobs SET state = 0, attempts = 0, since = ?6, hold_ms = 0, reason = NULL WHERE id IN (
            SELECT id FROM jobs WHERE queue_id = ?1 AND state IN (SELECT value FROM json_each(?2)) AND id <= ?3
                AND (?4 IS NULL OR event_id IN (SELECT unhex(value) FROM json_each(?4)))
            ORDER BY id LIMIT ?5)",
    )
    .bind(part.queue)
    .bind(part.states())
    .bind(part.last)
    .bind(part.events())
    .bind(STEP_ROWS)
    .bind(now)
    .execute(connection)
    .await?;
    Ok(moved.rows_affected())
}
