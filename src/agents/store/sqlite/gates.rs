//! Which job is worked on next, and the gates of agents as rows.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::{Connection as _, Row as _, SqliteConnection};
use uuid::Uuid;

use super::{
    super::{
        super::limits::Gate,
        StoreError,
        journal::{Claim, Doorkeeper, Job, Waiting},
    },
    SqliteStore,
    sessions::millis,
};
use crate::bus::Event;

/// What may be worked on: its time has come, and nobody works for its session, nor is an older prompt of that session
/// waiting.
const CLAIMABLE: &str = "a.status = 'ready' AND a.not_before <= ?1 AND NOT EXISTS (
    SELECT 1 FROM inbox b
    WHERE b.session = a.session AND b.status IN ('ready', 'running') AND (b.seq < a.seq OR b.status = 'running'))";

impl SqliteStore {
    pub(in super::super) async fn claim_job(
        &self,
        holder: &str,
        doorkeeper: &dyn Doorkeeper,
    ) -> Result<Claim, StoreError> {
        let failed = |error| self.failed("claim a job in", &error);
        let now = millis(self.clock.now());
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let query = format!(
            "SELECT min(a.seq), a.provider FROM inbox a WHERE {CLAIMABLE} GROUP BY a.provider ORDER BY 1"
        );
        let candidates = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(now)
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut claim = Claim::default();
        for row in candidates {
            let (seq, provider): (i64, String) = (row.get(0), row.get(1));
            let before = self.gate(&mut transaction, &provider).await?;
            let running = self.running_of(&mut transaction, &provider).await?;
            let mut gate = before.clone();
            let (answer, event) = doorkeeper.ask(&provider, &mut gate, running);
            if gate != before {
                self.put_gate(&mut transaction, &provider, &gate).await?;
            }
            self.put_events(&mut transaction, &provider, event.as_slice(), false).await?;
            match answer {
                Err(shut) => drop(claim.shut.insert(provider, shut)),
                Ok(()) => {
                    claim.job = Some(self.take_job(&mut transaction, seq, (holder, now)).await?);
                    break;
                }
            }
        }
        transaction.commit().await.map_err(failed)?;
        Ok(claim)
    }

    async fn take_job(
        &self,
        connection: &mut SqliteConnection,
        seq: i64,
        (holder, now): (&str, i64),
    ) -> Result<Job, StoreError> {
        let row = sqlx::query(
            "UPDATE inbox SET status = 'running', attempt = attempt + 1, run = ?, holder = ?, updated = ?
             WHERE seq = ? RETURNING key, session, run, attempt, holder, sealed",
        )
        .bind(Uuid::now_v7().to_string())
        .bind(holder)
        .bind(now)
        .bind(seq)
        .fetch_one(connection)
        .await
        .map_err(|error| self.failed("claim a job in", &error))?;
        self.job(&row)
    }

    async fn running_of(
        &self,
        connection: &mut SqliteConnection,
        provider: &str,
    ) -> Result<usize, StoreError> {
        let running: i64 =
            sqlx::query_scalar("SELECT count(*) FROM inbox WHERE provider = ? AND status = 'running'")
                .bind(provider)
                .fetch_one(connection)
                .await
                .map_err(|error| self.failed("read", &error))?;
        Ok(usize::try_from(running).unwrap_or(0))
    }

    pub(in super::super) async fn waiting_jobs(
        &self,
        shut: &BTreeSet<String>,
    ) -> Result<Waiting, StoreError> {
        let failed = |error| self.failed("read", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let query = format!("SELECT a.provider, count(*) FROM inbox a WHERE {CLAIMABLE} GROUP BY a.provider");
        let rows = sqlx::query(sqlx::AssertSqlSafe(query))
            .bind(millis(self.clock.now()))
            .fetch_all(&mut *connection)
            .await
            .map_err(failed)?;
        let mut waiting = Waiting::default();
        for row in rows {
            let (provider, count): (String, i64) = (row.get(0), row.get(1));
            if !shut.contains(&provider) {
                waiting.claimable += usize::try_from(count).unwrap_or(0);
            }
        }
        let all: i64 = sqlx::query_scalar("SELECT count(*) FROM inbox WHERE status = 'ready'")
            .fetch_one(connection)
            .await
            .map_err(failed)?;
        waiting.all = usize::try_from(all).unwrap_or(0);
        Ok(waiting)
    }

    pub(in super::super) async fn change_gate(
        &self,
        provider: &str,
        change: &(dyn Fn(&mut Gate) -> Vec<Event> + Sync),
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let before = self.gate(&mut transaction, provider).await?;
        let mut gate = before.clone();
        let events = change(&mut gate);
        if gate != before {
            self.put_gate(&mut transaction, provider, &gate).await?;
        }
        self.put_events(&mut transaction, provider, &events, false).await?;
        transaction.commit().await.map_err(failed)
    }

    pub(in super::super) async fn all_gates(&self) -> Result<BTreeMap<String, Gate>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = sqlx::query("SELECT provider, gate FROM gates")
            .fetch_all(connection)
            .await
            .map_err(|error| self.failed("read", &error))?;
        Ok(rows.iter().map(|row| (row.get(0), read(row.get(1)))).collect())
    }

    async fn gate(&self, connection: &mut SqliteConnection, provider: &str) -> Result<Gate, StoreError> {
        let text: Option<String> = sqlx::query_scalar("SELECT gate FROM gates WHERE provider = ?")
            .bind(provider)
            .fetch_optional(connection)
            .await
            .map_err(|error| self.failed("read", &error))?;
        Ok(text.as_deref().map(read).unwrap_or_default())
    }

    async fn put_gate(
        &self,
        connection: &mut SqliteConnection,
        provider: &str,
        gate: &Gate,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(gate).map_err(|error| StoreError::Failed {
            doing: "write a gate as JSON".to_owned(),
            reason: error.to_string(),
        })?;
        sqlx::query("INSERT OR REPLACE INTO gates(provider, gate) VALUES (?, ?)")
            .bind(provider)
            .bind(text)
            .execute(connection)
            .await
            .map(drop)
            .map_err(|error| self.failed("write to", &error))
    }
}

/// A gate that a newer godctl has written in another way is an open one: what it knew is learnt again.
fn read(text: &str) -> Gate {
    serde_json::from_str(text).unwrap_or_default()
}
