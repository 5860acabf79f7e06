//! Jobs and events as rows.

use jiff::Timestamp;
use sqlx::{Connection as _, Row as _, SqliteConnection, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    super::{
        Change, StoreError, Version,
        journal::{Accepted, Counts, End, Job, Message, NewJob, Unsent},
        vault::Place,
    },
    SqliteStore,
    sessions::{millis, signed},
};
use crate::bus::{Event, event};

/// Who took events to publish them and has said nothing for so long will not.
const TAKEN_MS: i64 = 60_000;

pub(super) const fn job_place(key: &str) -> Place<'_> {
    Place { table: "inbox", column: "sealed", row: key }
}

pub(super) const fn event_place(id: &str) -> Place<'_> {
    Place { table: "outbox", column: "sealed", row: id }
}

const JOB: &str = "SELECT key, session, run, attempt, holder, sealed FROM inbox";

impl SqliteStore {
    fn seal_message(&self, key: &str, message: &Message) -> Result<Vec<u8>, StoreError> {
        let json = serde_json::to_vec(message).map_err(|error| StoreError::Failed {
            doing: "write a job as JSON".to_owned(),
            reason: error.to_string(),
        })?;
        Ok(self.vault.seal(job_place(key), &json)?)
    }

    pub(super) fn job(&self, row: &SqliteRow) -> Result<Job, StoreError> {
        let (key, session, run): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (attempt, holder, sealed): (i64, String, Vec<u8>) = (row.get(3), row.get(4), row.get(5));
        let opened = self.vault.open(job_place(&key), &sealed)?;
        let message = serde_json::from_slice(&opened).map_err(|_| {
            StoreError::Damaged(format!("job {key} cannot be read; a newer godctl may have written it"))
        })?;
        let run = Uuid::try_parse(&run).unwrap_or_default();
        Ok(Job { key, session, run, attempt: u32::try_from(attempt).unwrap_or(u32::MAX), holder, message })
    }

    pub(in super::super) async fn accept_job(&self, job: &NewJob<'_>) -> Result<Accepted, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let sealed = self.seal_message(job.key, job.message)?;
        let now = millis(self.clock.now());
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let known = sqlx::query("SELECT hash, status FROM inbox WHERE key = ?")
            .bind(job.key)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed)?;
        if let Some(row) = known {
            let (hash, status): (String, String) = (row.get(0), row.get(1));
            return Ok(match status.as_str() {
                _ if hash != job.hash => Accepted::Mismatch,
                "done" | "dead" => Accepted::Over,
                _ => Accepted::Waiting,
            });
        }
        sqlx::query(
            "INSERT INTO inbox(key, hash, session, provider, status, accepted, updated, sealed)
             VALUES (?1, ?2, ?3, ?4, 'ready', ?5, ?5, ?6)",
        )
        .bind(job.key)
        .bind(job.hash)
        .bind(job.session)
        .bind(&job.message.request.provider)
        .bind(now)
        .bind(sealed)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Accepted::New)
    }

    pub(in super::super) async fn next_job_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let due: Option<i64> =
            sqlx::query_scalar("SELECT min(not_before) FROM inbox WHERE status = 'ready' AND not_before > ?")
                .bind(millis(self.clock.now()))
                .fetch_one(connection)
                .await
                .map_err(|error| self.failed("read", &error))?;
        Ok(due.and_then(|due| Timestamp::from_millisecond(due).ok()))
    }

    pub(in super::super) async fn running_jobs(&self) -> Result<Vec<Job>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let query = sqlx::AssertSqlSafe(format!("{JOB} WHERE status = 'running' ORDER BY seq"));
        let rows =
            sqlx::query(query).fetch_all(connection).await.map_err(|error| self.failed("read", &error))?;
        rows.iter().map(|row| self.job(row)).collect()
    }

    pub(in super::super) async fn end_job(
        &self,
        job: &Job,
        change: Option<&Change<'_>>,
        (end, events): (End, &[Event]),
    ) -> Result<Option<Version>, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let sealed = self.seal_message(&job.key, &job.message)?;
        let now = millis(self.clock.now());
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let version = match change {
            Some(change) => Some(self.change(&mut transaction, change).await?),
            None => None,
        };
        let (status, not_before, attempt) = match end {
            End::Done => ("done", 0, job.attempt),
            End::Dead => ("dead", 0, job.attempt),
            End::Again { not_before, counts } => (
                "ready",
                millis(not_before),
                if counts { job.attempt } else { job.attempt.saturating_sub(1) },
            ),
        };
        // The run tells whether the job is still ours; one that has ended this way before is left as it is.
        let ended = sqlx::query(
            "UPDATE inbox SET status = ?, not_before = ?, attempt = ?, updated = ?, sealed = ?, holder = ''
             WHERE key = ? AND run = ? AND status = 'running'",
        )
        .bind(status)
        .bind(not_before)
        .bind(i64::from(attempt))
        .bind(now)
        .bind(sealed)
        .bind(&job.key)
        .bind(job.run.to_string())
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if ended.rows_affected() == 0 {
            return Err(StoreError::Fenced {
                name: format!("job {}", job.key),
                ours: job.attempt.into(),
                // Somebody else has begun at least one more.
                latest: u64::from(job.attempt) + 1,
            });
        }
        let is_result = matches!(end, End::Done | End::Dead);
        self.put_events(&mut transaction, &job.key, events, is_result).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(version)
    }

    pub(in super::super) async fn append_events(
        &self,
        key: &str,
        events: &[Event],
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        self.put_events(&mut transaction, key, events, false).await?;
        transaction.commit().await.map_err(failed)
    }

    pub(super) async fn put_events(
        &self,
        connection: &mut SqliteConnection,
        key: &str,
        events: &[Event],
        is_result: bool,
    ) -> Result<(), StoreError> {
        for event in events {
            let id = event.event_id.to_string();
            let sealed = self.vault.seal(event_place(&id), &event.to_json())?;
            sqlx::query("INSERT OR IGNORE INTO outbox(event_id, key, is_result, created, sealed) VALUES (?, ?, ?, ?, ?)")
                .bind(&id)
                .bind(key)
                .bind(is_result)
                .bind(millis(self.clock.now()))
                .bind(sealed)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.failed("write to", &error))?;
        }
        Ok(())
    }

    pub(in super::super) async fn take_unsent_events(
        &self,
        limit: usize,
        taker: &str,
        dead: Option<&str>,
    ) -> Result<Unsent, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let now = millis(self.clock.now());
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let other: Option<String> = sqlx::query_scalar(
            "SELECT taker FROM outbox WHERE sent = 0 AND taken > ? AND taker NOT IN (?, ?) LIMIT 1",
        )
        .bind(now.saturating_sub(TAKEN_MS))
        .bind(taker)
        .bind(dead.unwrap_or(taker))
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?;
        if let Some(other) = other {
            return Ok(Unsent::TakenBy(other));
        }
        let mut rows = sqlx::query(
            "UPDATE outbox SET taken = ?, taker = ?
             WHERE seq IN (SELECT seq FROM outbox WHERE sent = 0 ORDER BY seq LIMIT ?)
             RETURNING seq, event_id, sealed",
        )
        .bind(now)
        .bind(taker)
        .bind(signed(limit as u64))
        .fetch_all(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        // They come back in any order.
        rows.sort_by_key(|row| row.get::<i64, _>(0));
        rows.iter()
            .map(|row| {
                let (seq, id, sealed): (i64, String, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
                let opened = self.vault.open(event_place(&id), &sealed)?;
                event::read(&opened, None, Timestamp::UNIX_EPOCH, usize::MAX)
                    .map(|event| (seq, event))
                    .map_err(|unparsed| {
                        StoreError::Damaged(format!("event {id} cannot be read: {}", unparsed.reason))
                    })
            })
            .collect::<Result<_, _>>()
            .map(Unsent::Ours)
    }

    pub(in super::super) async fn mark_sent(&self, numbers: &[i64]) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let now = millis(self.clock.now());
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        for number in numbers {
            sqlx::query("UPDATE outbox SET sent = ? WHERE seq = ?")
                .bind(now)
                .bind(number)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    pub(in super::super) async fn repeat_result(&self, key: &str) -> Result<u64, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let done = sqlx::query("UPDATE outbox SET sent = 0, taken = 0 WHERE key = ? AND is_result")
            .bind(key)
            .execute(connection)
            .await
            .map_err(|error| self.failed("write to", &error))?;
        Ok(done.rows_affected())
    }

    pub(in super::super) async fn is_event_buried(&self, event: Uuid) -> Result<bool, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query_scalar("SELECT EXISTS(SELECT 1 FROM buried WHERE event_id = ?)")
            .bind(event.to_string())
            .fetch_one(connection)
            .await
            .map_err(|error| self.failed("read", &error))
    }

    pub(in super::super) async fn bury_event(&self, event: Uuid) -> Result<(), StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query("INSERT OR IGNORE INTO buried(event_id) VALUES (?)")
            .bind(event.to_string())
            .execute(connection)
            .await
            .map(drop)
            .map_err(|error| self.failed("write to", &error))
    }

    pub(in super::super) async fn count_jobs(&self) -> Result<Counts, StoreError> {
        let failed = |error| self.failed("read", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = sqlx::query("SELECT status, count(*) FROM inbox GROUP BY status")
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let mut counts = Counts::default();
        for row in rows {
            let (status, count): (String, i64) = (row.get(0), row.get(1));
            let count = u64::try_from(count).unwrap_or(0);
            match status.as_str() {
                "ready" => counts.ready = count,
                "running" => counts.running = count,
                "done" => counts.done = count,
                _ => counts.dead = count,
            }
        }
        let unsent: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox WHERE sent = 0")
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        counts.unsent = u64::try_from(unsent).unwrap_or(0);
        Ok(counts)
    }

    pub(in super::super) async fn tidy_journal(&self, before: Timestamp) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let statements = [
            "DELETE FROM outbox WHERE sent > 0 AND sent < ?",
            "DELETE FROM inbox WHERE status IN ('done', 'dead') AND updated < ?",
        ];
        for statement in statements {
            sqlx::query(statement).bind(millis(before)).execute(&mut *connection).await.map_err(failed)?;
        }
        Ok(())
    }
}
