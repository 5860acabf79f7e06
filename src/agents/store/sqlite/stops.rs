//! Runs that somebody wants to be stopped, as rows.

use sqlx::{Connection as _, SqliteConnection};
use uuid::Uuid;

use super::{super::StoreError, SqliteStore};
use crate::agents::session::SessionId;

impl SqliteStore {
    pub(super) async fn put_stop(&self, id: &SessionId, run: Uuid) -> Result<(), StoreError> {
        let failed = |error| self.failed("write to", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let exists: bool = sqlx::query_scalar("SELECT EXISTS(SELECT 1 FROM sessions WHERE id = ?)")
            .bind(id.as_str())
            .fetch_one(&mut *transaction)
            .await
            .map_err(failed)?;
        if !exists {
            return Err(StoreError::Gone(id.clone()));
        }
        sqlx::query("INSERT OR IGNORE INTO stops(session, run) VALUES (?, ?)")
            .bind(id.as_str())
            .bind(run.to_string())
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    pub(super) async fn has_stop(&self, id: &SessionId, run: Uuid) -> Result<bool, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query_scalar("SELECT EXISTS(SELECT 1 FROM stops WHERE session = ? AND run = ?)")
            .bind(id.as_str())
            .bind(run.to_string())
            .fetch_one(connection)
            .await
            .map_err(|error| self.failed("read", &error))
    }
}

/// The turn of a run is over, and with it what was asked of it.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    id: &SessionId,
    run: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM stops WHERE session = ? AND run = ?")
        .bind(id.as_str())
        .bind(run.to_string())
        .execute(connection)
        .await
        .map(drop)
}
