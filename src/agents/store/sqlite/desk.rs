//! What people are told of the journal, and what they do about it: open prompts, and who takes them.

use std::time::Duration;

use futures_util::TryStreamExt as _;
use jiff::{SignedDuration, Timestamp};
use sqlx::{Row as _, sqlite::SqliteRow};
use uuid::Uuid;

use super::{
    super::{
        StoreError,
        journal::{Census, Job, Passage, Presence, Queued, Ticket},
    },
    SqliteStore,
    sessions::{millis, signed},
};
use crate::agents::{lines::shortened, session::MAX_PREVIEW};

/// Who has not been heard of for so long is forgotten.
const FORGOTTEN: SignedDuration = SignedDuration::from_hours(24);

fn time(millis: i64) -> Timestamp {
    Timestamp::from_millisecond(millis).unwrap_or_default()
}

impl SqliteStore {
    pub(in super::super) async fn claim_waiting_job(
        &self,
        key: &str,
        holder: &str,
    ) -> Result<Option<Job>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let row = sqlx::query(
            "UPDATE inbox SET status = 'running', run = ?, holder = ?, updated = ?
             WHERE key = ? AND status = 'ready'
             RETURNING key, session, run, attempt, holder, sealed",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(holder)
        .bind(millis(self.clock.now()))
        .bind(key)
        .fetch_optional(connection)
        .await
        .map_err(|error| self.failed("claim a job in", &error))?;
        row.map(|row| self.job(&row)).transpose()
    }

    pub(in super::super) async fn queued_jobs(&self, limit: usize) -> Result<Vec<Queued>, StoreError> {
        let failed = |error| self.failed("read", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut rows = sqlx::query(
            "SELECT key, session, run, attempt, holder, sealed, not_before FROM inbox
             WHERE status = 'ready' ORDER BY seq LIMIT ?",
        )
        .bind(signed(limit as u64))
        .fetch(connection);
        let mut queued = Vec::new();
        // One after another: a prompt may be long, and only its beginning is kept.
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let not_before = time(row.get(6));
            let Job { key, session, attempt, message, .. } = self.job(&row)?;
            queued.push(Queued {
                key,
                session,
                provider: message.request.provider,
                prompt: shortened(&message.request.prompt, MAX_PREVIEW),
                attempts: attempt,
                last_class: message.history.into_iter().next_back().map(|last| last.class),
                not_before,
            });
        }
        Ok(queued)
    }

    pub(in super::super) async fn count_open_jobs(&self) -> Result<Census, StoreError> {
        let failed = |error| self.failed("read", &error);
        let now = millis(self.clock.now());
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = sqlx::query(
            "SELECT provider, status, not_before > ?, count(*), min(not_before) FROM inbox
             WHERE status IN ('ready', 'running') GROUP BY 1, 2, 3",
        )
        .bind(now)
        .fetch_all(&mut *connection)
        .await
        .map_err(failed)?;
        let number = |count: i64| u64::try_from(count).unwrap_or(0);
        let mut census = Census::default();
        for row in rows {
            let (provider, status, is_later): (String, String, bool) = (row.get(0), row.get(1), row.get(2));
            let (count, first): (i64, i64) = (row.get(3), row.get(4));
            let of = census.providers.entry(provider).or_default();
            match (status.as_str(), is_later) {
                ("running", _) => of.running += number(count),
                (_, false) => of.ready += number(count),
                (_, true) => {
                    of.waiting += number(count);
                    let first = time(first);
                    census.next_at = Some(census.next_at.map_or(first, |next| next.min(first)));
                }
            }
        }
        let rows = sqlx::query("SELECT holder, count(*) FROM inbox WHERE status = 'running' GROUP BY 1")
            .fetch_all(connection)
            .await
            .map_err(failed)?;
        census.holders = rows.iter().map(|row| (row.get(0), number(row.get(1)))).collect();
        Ok(census)
    }

    pub(in super::super) async fn read_passages(&self) -> Result<Vec<Passage>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = sqlx::query("SELECT provider, status, attempt, accepted, updated FROM inbox ORDER BY seq")
            .fetch_all(connection)
            .await
            .map_err(|error| self.failed("read", &error))?;
        let passage = |row: &SqliteRow| {
            let (status, attempt): (String, i64) = (row.get(1), row.get(2));
            let (accepted, updated): (i64, i64) = (row.get(3), row.get(4));
            let is_answered = match status.as_str() {
                "done" => Some(true),
                "dead" => Some(false),
                _ => None,
            };
            let took = is_answered.filter(|_| accepted > 0).and(u64::try_from(updated - accepted).ok());
            let attempts = u32::try_from(attempt).unwrap_or(0);
            Passage { provider: row.get(0), is_answered, attempts, took: took.map(Duration::from_millis) }
        };
        Ok(rows.iter().map(passage).collect())
    }

    pub(in super::super) async fn find_open_jobs(&self, text: &str) -> Result<Vec<Ticket>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = sqlx::query(
            "SELECT key, session, run, status FROM inbox
             WHERE status IN ('ready', 'running')
                AND (session = ?1 OR key IN (?1, 'key:' || ?1, 'event:' || ?1))
             ORDER BY seq",
        )
        .bind(text)
        .fetch_all(connection)
        .await
        .map_err(|error| self.failed("read", &error))?;
        let ticket = |row: &SqliteRow| {
            let (run, status): (String, String) = (row.get(2), row.get(3));
            let run = Uuid::try_parse(&run).ok().filter(|_| status == "running");
            Ticket { key: row.get(0), session: row.get(1), run }
        };
        Ok(rows.iter().map(ticket).collect())
    }

    pub(in super::super) async fn put_listener(
        &self,
        holder: &str,
        queue: &str,
        workers: usize,
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let now = self.clock.now();
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query(
            "INSERT INTO listeners(holder, queue, workers, began, seen) VALUES (?1, ?2, ?3, ?4, ?4)
             ON CONFLICT(holder) DO UPDATE SET queue = ?2, workers = ?3, seen = ?4",
        )
        .bind(holder)
        .bind(queue)
        .bind(signed(workers as u64))
        .bind(millis(now))
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
        sqlx::query("DELETE FROM listeners WHERE seen < ?")
            .bind(millis(now.checked_sub(FORGOTTEN).unwrap_or(Timestamp::MIN)))
            .execute(connection)
            .await
            .map(drop)
            .map_err(failed)
    }

    pub(in super::super) async fn drop_listener(&self, holder: &str) -> Result<(), StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query("DELETE FROM listeners WHERE holder = ?")
            .bind(holder)
            .execute(connection)
            .await
            .map(drop)
            .map_err(|error| self.failed("write to", &error))
    }

    pub(in super::super) async fn read_listeners(&self) -> Result<Vec<Presence>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows =
            sqlx::query("SELECT holder, queue, workers, began, seen FROM listeners ORDER BY began, holder")
                .fetch_all(connection)
                .await
                .map_err(|error| self.failed("read", &error))?;
        let presence = |row: &SqliteRow| Presence {
            holder: row.get(0),
            queue: row.get(1),
            workers: u64::try_from(row.get::<i64, _>(2)).unwrap_or(0),
            began: time(row.get(3)),
            seen: time(row.get(4)),
        };
        Ok(rows.iter().map(presence).collect())
    }
}
