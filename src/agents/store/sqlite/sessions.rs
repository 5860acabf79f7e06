//! Sessions, turns and usage as rows.

use std::{path::Path, time::Duration};

use async_trait::async_trait;
use jiff::Timestamp;
use sqlx::{Connection as _, QueryBuilder, Row as _, Sqlite, SqliteConnection, sqlite::SqliteRow};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    super::{
        Acquired, Change, Filter, Lease, Remove, Request, Resealed, SessionStore, StoreError, Stored,
        Version,
        codec::{self, CANARY, CANARY_TEXT, session_place, turn_place},
        vault::{Place, Vault},
    },
    SqliteOptions, SqliteStore,
    journal::{event_place, job_place},
    leases,
    schema::FORMAT,
    stops,
};
use crate::{
    agents::session::{Session, SessionId, TurnRecord, UsageRow},
    db,
};

/// Milliseconds since 1970.
pub(super) fn millis(at: Timestamp) -> i64 {
    at.as_millisecond()
}

impl SqliteStore {
    /// Opens the file, and makes it if there is none.
    ///
    /// # Errors
    /// [`StoreError::Refused`] for a file that is not a store, or of a newer version; [`StoreError::NoKey`] and
    /// [`StoreError::Damaged`] if what is in it does not open with these keys; [`StoreError::Unreachable`] while another
    /// process keeps it locked.
    pub async fn open(options: SqliteOptions, vault: Vault) -> Result<Self, StoreError> {
        let SqliteOptions { path, patience, clock } = options;
        let file = db::Options { path: path.clone(), sync: true, patience, max_pages: None };
        let connection = db::open(&FORMAT, &file).await?;
        let this = Self { path, vault, clock, connection: Mutex::new(Some(connection)) };
        if let Err(error) = this.check_canary().await {
            this.close().await;
            return Err(error);
        }
        Ok(this)
    }

    /// Nothing is written with a key while something is there that this key does not open.
    async fn check_canary(&self) -> Result<(), StoreError> {
        let failed = |error| self.failed("open", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let found: Option<Vec<u8>> = sqlx::query_scalar("SELECT value FROM meta WHERE key = 'canary'")
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed)?;
        match found {
            Some(blob) => drop(self.vault.open(CANARY, &blob)?),
            None => {
                sqlx::query("INSERT INTO meta(key, value) VALUES ('canary', ?)")
                    .bind(self.vault.seal(CANARY, CANARY_TEXT)?)
                    .execute(&mut *transaction)
                    .await
                    .map_err(failed)?;
            }
        }
        transaction.commit().await.map_err(failed)
    }

    pub(super) fn failed(&self, doing: &str, error: &sqlx::Error) -> StoreError {
        db::explain(&self.path, &format!("{doing} {}", self.path.display()), error).into()
    }

    pub(super) fn open_one<'a>(
        &self,
        connection: &'a mut Option<SqliteConnection>,
    ) -> Result<&'a mut SqliteConnection, StoreError> {
        connection.as_mut().ok_or_else(|| StoreError::Failed {
            doing: format!("use {}", self.path.display()),
            reason: "it was closed".to_owned(),
        })
    }

    fn decode(&self, row: &SqliteRow) -> Result<Stored, StoreError> {
        let (id, version, fence): (String, i64, i64) = (row.get("id"), row.get("version"), row.get("fence"));
        let (plain, sealed): (String, Vec<u8>) = (row.get("plain"), row.get("sealed"));
        let session = codec::decode_session(&self.vault, &id, &plain, &sealed)?;
        let number = |number: i64| u64::try_from(number).unwrap_or(0);
        Ok(Stored { session, version: Version(number(version)), fence: number(fence) })
    }

    /// Writes the row of a session and its tags.
    async fn put(
        &self,
        connection: &mut SqliteConnection,
        session: &Session,
        (version, change_id, fence): (u64, String, u64),
    ) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let encoded = codec::encode_session(&self.vault, session)?;
        sqlx::query(
            "INSERT INTO sessions(id, version, change_id, fence, provider, state, directory, updated, plain, sealed)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
             ON CONFLICT(id) DO UPDATE SET version = ?2, change_id = ?3, fence = ?4, provider = ?5, state = ?6,
                directory = ?7, updated = ?8, plain = ?9, sealed = ?10",
        )
        .bind(session.id.as_str())
        .bind(signed(version))
        .bind(change_id)
        .bind(signed(fence))
        .bind(&session.provider)
        .bind(session.state.name())
        .bind(&session.directory)
        .bind(millis(session.updated_at))
        .bind(encoded.plain)
        .bind(encoded.sealed)
        .execute(&mut *connection)
        .await
        .map_err(failed)?;
        sqlx::query("DELETE FROM tags WHERE session = ?")
            .bind(session.id.as_str())
            .execute(&mut *connection)
            .await
            .map_err(failed)?;
        for tag in &session.tags {
            sqlx::query("INSERT INTO tags(tag, session) VALUES (?, ?)")
                .bind(tag)
                .bind(session.id.as_str())
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
        }
        Ok(())
    }

    /// Does a change inside a transaction that the caller commits.
    pub(super) async fn change(
        &self,
        connection: &mut SqliteConnection,
        change: &Change<'_>,
    ) -> Result<Version, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let id = &change.session.id;
        let row = sqlx::query("SELECT version, change_id, fence FROM sessions WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(&mut *connection)
            .await
            .map_err(failed)?
            .ok_or_else(|| StoreError::Gone(id.clone()))?;
        let (version, change_id, fence): (i64, String, i64) = (row.get(0), row.get(1), row.get(2));
        let found = Version(u64::try_from(version).unwrap_or(0));
        if change_id == change.id.to_string() {
            return Ok(found);
        }
        if let Some(lease) = change.lease {
            leases::check(connection, lease).await.map_err(failed)??;
        }
        if found != change.expected {
            return Err(StoreError::Conflict { id: id.clone(), expected: change.expected, found });
        }
        let fence = u64::try_from(fence).unwrap_or(0).max(change.lease.map_or(0, |lease| lease.fence));
        let next = found.0.saturating_add(1);
        self.put(connection, change.session, (next, change.id.to_string(), fence)).await?;
        if let Some((turn, usage)) = change.turn {
            let encoded = codec::encode_turn(&self.vault, id, turn)?;
            sqlx::query("INSERT OR REPLACE INTO turns(session, number, plain, sealed) VALUES (?, ?, ?, ?)")
                .bind(id.as_str())
                .bind(signed(turn.number))
                .bind(encoded.plain)
                .bind(encoded.sealed)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
            sqlx::query("INSERT OR REPLACE INTO usage(run, session, at, row) VALUES (?, ?, ?, ?)")
                .bind(usage.run.to_string())
                .bind(usage.session.as_str())
                .bind(millis(usage.at))
                .bind(codec::encode_usage(usage)?)
                .execute(&mut *connection)
                .await
                .map_err(failed)?;
            stops::forget(connection, id, usage.run).await.map_err(failed)?;
        }
        Ok(Version(next))
    }

    /// Encrypts some rows of one table anew that do not begin as they should; tells how many.
    async fn reseal_some(&self, table: Sealed, limit: usize) -> Result<u64, StoreError> {
        let failed = |error| self.failed("encrypt anew in", &error);
        let header = self.vault.current_header();
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let rows = sqlx::query(table.select)
            .bind(i64::try_from(header.len()).unwrap_or(i64::MAX))
            .bind(&header)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut changed = 0;
        for row in rows {
            let (name, key, sealed): (String, i64, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
            sqlx::query(table.update)
                .bind(self.vault.reseal((table.place)(&name), &sealed)?)
                .bind(key)
                .execute(&mut *transaction)
                .await
                .map_err(failed)?;
            changed += 1;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(changed)
    }
}

/// A table with blobs in it, and how they are found and replaced. `select` gives the name of the row's place, its number
/// and the blob.
#[derive(Clone, Copy)]
struct Sealed {
    select: &'static str,
    update: &'static str,
    place: fn(&str) -> Place<'_>,
}

const SEALED: [Sealed; 4] = [
    Sealed {
        select: "SELECT id, rowid, sealed FROM sessions WHERE substr(sealed, 1, ?) <> ? LIMIT ?",
        update: "UPDATE sessions SET sealed = ? WHERE rowid = ?",
        place: session_place,
    },
    Sealed {
        select: "SELECT session || '/' || number, rowid, sealed FROM turns WHERE substr(sealed, 1, ?) <> ? LIMIT ?",
        update: "UPDATE turns SET sealed = ? WHERE rowid = ?",
        place: turn_place,
    },
    Sealed {
        select: "SELECT key, seq, sealed FROM inbox WHERE substr(sealed, 1, ?) <> ? LIMIT ?",
        update: "UPDATE inbox SET sealed = ? WHERE seq = ?",
        place: job_place,
    },
    Sealed {
        select: "SELECT event_id, seq, sealed FROM outbox WHERE substr(sealed, 1, ?) <> ? LIMIT ?",
        update: "UPDATE outbox SET sealed = ? WHERE seq = ?",
        place: event_place,
    },
];

#[async_trait]
impl SessionStore for SqliteStore {
    fn address(&self) -> String {
        format!("sqlite:{}", self.path.display())
    }

    async fn create(&self, session: &Session) -> Result<Version, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS(SELECT 1 FROM sessions WHERE id = ?)")
            .bind(session.id.as_str())
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if exists {
            return Err(StoreError::Exists(session.id.clone()));
        }
        self.put(&mut transaction, session, (1, String::new(), 0)).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(Version(1))
    }

    async fn get(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let row = sqlx::query("SELECT id, version, fence, plain, sealed FROM sessions WHERE id = ?")
            .bind(id.as_str())
            .fetch_optional(connection)
            .await
            .map_err(|error| self.failed("read", &error))?;
        row.map(|row| self.decode(&row)).transpose()
    }

    async fn update(&self, change: &Change<'_>) -> Result<Version, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let version = self.change(&mut transaction, change).await?;
        transaction.commit().await.map_err(failed)?;
        Ok(version)
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, StoreError> {
        let mut query: QueryBuilder<Sqlite> =
            QueryBuilder::new("SELECT id, version, fence, plain, sealed FROM sessions WHERE 1 = 1");
        if let Some(provider) = &filter.provider {
            query.push(" AND provider = ").push_bind(provider);
        }
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.name());
        }
        if let Some(directory) = &filter.directory {
            query.push(" AND directory = ").push_bind(directory);
        }
        for tag in &filter.tags {
            query.push(" AND id IN (SELECT session FROM tags WHERE tag = ").push_bind(tag).push(")");
        }
        if let Some(prefix) = &filter.id_prefix {
            let length = i64::try_from(prefix.chars().count()).unwrap_or(i64::MAX);
            query.push(" AND substr(id, 1, ").push_bind(length).push(") = ").push_bind(prefix);
        }
        if let Some(since) = filter.since {
            query.push(" AND updated >= ").push_bind(millis(since));
        }
        if let Some(before) = filter.before {
            query.push(" AND updated < ").push_bind(millis(before));
        }
        query.push(" ORDER BY updated DESC, id DESC LIMIT ");
        query.push_bind(filter.limit.map_or(-1, |limit| i64::try_from(limit).unwrap_or(-1)));
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = query.build().fetch_all(connection).await.map_err(|error| self.failed("read", &error))?;
        rows.iter().map(|row| self.decode(row)).collect()
    }

    async fn turns(&self, id: &SessionId, from: u64, limit: usize) -> Result<Vec<TurnRecord>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows = sqlx::query(
            "SELECT number, plain, sealed FROM turns WHERE session = ? AND number >= ? ORDER BY number LIMIT ?",
        )
        .bind(id.as_str())
        .bind(signed(from))
        .bind(i64::try_from(limit).unwrap_or(i64::MAX))
        .fetch_all(connection)
        .await
        .map_err(|error| self.failed("read", &error))?;
        rows.iter()
            .map(|row| {
                let (number, plain, sealed): (i64, String, Vec<u8>) = (row.get(0), row.get(1), row.get(2));
                codec::decode_turn(&self.vault, id, u64::try_from(number).unwrap_or(0), (&plain, &sealed))
            })
            .collect()
    }

    async fn usage(&self, since: Option<Timestamp>) -> Result<Vec<UsageRow>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let rows: Vec<String> = sqlx::query_scalar("SELECT row FROM usage WHERE at >= ? ORDER BY at, run")
            .bind(since.map_or(i64::MIN, millis))
            .fetch_all(connection)
            .await
            .map_err(|error| self.failed("read", &error))?;
        rows.iter().map(|row| codec::decode_usage(row)).collect()
    }

    async fn remove(&self, id: &SessionId, what: Remove) -> Result<bool, StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let mut was_there = false;
        let statements = [
            "DELETE FROM sessions WHERE id = ?",
            "DELETE FROM tags WHERE session = ?",
            "DELETE FROM turns WHERE session = ?",
            "DELETE FROM stops WHERE session = ?",
            "DELETE FROM usage WHERE session = ?",
        ];
        let count = if what == Remove::Everything { 5 } else { 4 };
        for (index, statement) in statements.into_iter().take(count).enumerate() {
            let gone =
                sqlx::query(statement).bind(id.as_str()).execute(&mut *transaction).await.map_err(failed)?;
            was_there |= index == 0 && gone.rows_affected() > 0;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(was_there)
    }

    async fn acquire(&self, request: &Request<'_>) -> Result<Acquired, StoreError> {
        self.take_lease(request).await
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        self.extend_lease(lease, i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX)).await
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        self.drop_lease(lease).await
    }

    async fn holder_of(&self, name: &str) -> Result<Option<String>, StoreError> {
        self.read_holder(name).await
    }

    async fn ask_to_stop(&self, id: &SessionId, run: Uuid) -> Result<(), StoreError> {
        self.put_stop(id, run).await
    }

    async fn is_asked_to_stop(&self, id: &SessionId, run: Uuid) -> Result<bool, StoreError> {
        self.has_stop(id, run).await
    }

    async fn reseal(&self, batch: usize) -> Result<Resealed, StoreError> {
        let mut done = Resealed::default();
        for table in SEALED {
            loop {
                let changed = self.reseal_some(table, batch.max(1)).await?;
                done.changed += changed;
                if changed == 0 {
                    break;
                }
            }
        }
        // Last, so that an interrupted rotation still needs the old key.
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query("UPDATE meta SET value = ? WHERE key = 'canary'")
            .bind(self.vault.seal(CANARY, CANARY_TEXT)?)
            .execute(connection)
            .await
            .map_err(|error| self.failed("encrypt anew in", &error))?;
        Ok(done)
    }

    async fn close(&self) {
        if let Some(connection) = self.connection.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, path = %Path::new(&self.path).display(), "the store did not close well");
        }
    }
}

pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
