//! Leases as rows. Their time is that of the clock that was passed in; their number is what protects.

use sqlx::{Connection as _, Row as _, SqliteConnection};
use uuid::Uuid;

use super::{
    super::{Acquired, Lease, Request, StoreError},
    SqliteStore,
    sessions::millis,
};

impl SqliteStore {
    pub(super) async fn take_lease(&self, request: &Request<'_>) -> Result<Acquired, StoreError> {
        let failed = |error| self.failed("take a lease in", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        let now = millis(self.clock.now());
        let ttl = i64::try_from(request.ttl.as_millis()).unwrap_or(i64::MAX);
        let row = sqlx::query("SELECT token, fence, holder, until FROM leases WHERE name = ?")
            .bind(request.name)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed)?;
        let mut known = 0;
        if let Some(row) = row {
            let (token, fence, holder, until): (String, i64, String, i64) =
                (row.get(0), row.get(1), row.get(2), row.get(3));
            let token = Uuid::try_parse(&token).unwrap_or_default();
            known = u64::try_from(fence).unwrap_or(0);
            if token == request.token {
                set_until(&mut transaction, request.name, now.saturating_add(ttl)).await.map_err(failed)?;
                transaction.commit().await.map_err(failed)?;
                return Ok(Acquired::Lease(Lease { name: request.name.to_owned(), token, fence: known }));
            }
            if until > now && request.instead_of != Some(token) {
                return Ok(Acquired::Held { holder, token });
            }
        }
        let fence = known.max(request.floor).saturating_add(1);
        sqlx::query(
            "INSERT INTO leases(name, token, fence, holder, until) VALUES (?1, ?2, ?3, ?4, ?5)
             ON CONFLICT(name) DO UPDATE SET token = ?2, fence = ?3, holder = ?4, until = ?5",
        )
        .bind(request.name)
        .bind(request.token.to_string())
        .bind(i64::try_from(fence).unwrap_or(i64::MAX))
        .bind(request.holder)
        .bind(now.saturating_add(ttl))
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        transaction.commit().await.map_err(failed)?;
        Ok(Acquired::Lease(Lease { name: request.name.to_owned(), token: request.token, fence }))
    }

    pub(super) async fn read_holder(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query_scalar("SELECT holder FROM leases WHERE name = ? AND until > ?")
            .bind(name)
            .bind(millis(self.clock.now()))
            .fetch_optional(connection)
            .await
            .map_err(|error| self.failed("read", &error))
    }

    pub(super) async fn extend_lease(&self, lease: &Lease, ttl_ms: i64) -> Result<(), StoreError> {
        let failed = |error| self.failed("renew a lease in", &error);
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await.map_err(failed)?;
        check(&mut transaction, lease).await.map_err(failed)??;
        let until = millis(self.clock.now()).saturating_add(ttl_ms);
        set_until(&mut transaction, &lease.name, until).await.map_err(failed)?;
        transaction.commit().await.map_err(failed)
    }

    pub(super) async fn drop_lease(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut guard = self.connection.lock().await;
        let connection = self.open_one(&mut guard)?;
        sqlx::query("UPDATE leases SET until = 0 WHERE name = ? AND token = ?")
            .bind(&lease.name)
            .bind(lease.token.to_string())
            .execute(connection)
            .await
            .map(drop)
            .map_err(|error| self.failed("give back a lease in", &error))
    }
}

/// Whether nobody has taken this lease over.
pub(super) async fn check(
    connection: &mut SqliteConnection,
    lease: &Lease,
) -> Result<Result<(), StoreError>, sqlx::Error> {
    let row = sqlx::query("SELECT token, fence FROM leases WHERE name = ?")
        .bind(&lease.name)
        .fetch_optional(connection)
        .await?;
    let (token, fence): (String, i64) = row.map_or((String::new(), 0), |row| (row.get(0), row.get(1)));
    if token == lease.token.to_string() {
        return Ok(Ok(()));
    }
    let latest = u64::try_from(fence).unwrap_or(0);
    Ok(Err(StoreError::Fenced { name: lease.name.clone(), ours: lease.fence, latest }))
}

async fn set_until(connection: &mut SqliteConnection, name: &str, until: i64) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE leases SET until = ? WHERE name = ?")
        .bind(until)
        .bind(name)
        .execute(connection)
        .await
        .map(drop)
}
