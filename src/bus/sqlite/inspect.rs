//! A look at the file, for `godctl bus doctor`: opens it for reading, checks it, changes nothing.

use std::{fs, path::Path, time::Duration};

use sqlx::{Connection, sqlite::SqliteConnection};

use super::{Inspection, SqliteBus, errors::failed, reader::timestamp, schema::FORMAT};
use crate::{bus::BusError, db};

impl SqliteBus {
    /// Looks at a bus's file without changing it. The check reads all of it, which takes about a second for each GB.
    ///
    /// # Errors
    /// [`BusError::Foreign`] and the like, where the file can't even be opened. Damage that the check finds is no error;
    /// it is told in [`Inspection::problems`], up to 20 times.
    pub async fn inspect(path: &Path) -> Result<Inspection, BusError> {
        let mut connection = db::open_existing(&FORMAT, path, Duration::from_secs(5)).await?;
        let inspection = look(&mut connection, path).await.map_err(|error| failed(path, "inspect", &error));
        connection.close().await.map_err(|error| failed(path, "close", &error))?;
        inspection
    }
}

async fn look(connection: &mut SqliteConnection, path: &Path) -> Result<Inspection, sqlx::Error> {
    let size = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        fs::metadata(name).map_or(0, |found| found.len())
    };
    let (pages, free_pages, page_size): (i64, i64, i64) = sqlx::query_as(
        "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )
    .fetch_one(&mut *connection)
    .await?;
    let schema_version: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *connection).await?;
    let mut problems: Vec<String> =
        sqlx::query_scalar("PRAGMA quick_check(20)").fetch_all(&mut *connection).await?;
    problems.retain(|problem| problem != "ok");
    let newest = FORMAT.migrations.len();
    let known = usize::try_from(schema_version).is_ok_and(|version| (1..=newest).contains(&version));
    if !known {
        problems.push(format!(
            "its version is {schema_version}, and this program knows 1 to {newest}; update godctl"
        ));
    }
    // The tables of another version may differ.
    let figures = if known { figures(connection).await } else { Ok((0, 0, None)) };
    let (events, queues, pruned_at) = match figures {
        Ok(figures) => figures,
        Err(error) => {
            problems.push(error.to_string());
            (0, 0, None)
        }
    };
    Ok(Inspection {
        path: path.display().to_string(),
        sqlite_version: sqlx::query_scalar("SELECT sqlite_version()").fetch_one(&mut *connection).await?,
        schema_version,
        newest_schema_version: i64::try_from(newest).unwrap_or(i64::MAX),
        journal_mode: sqlx::query_scalar("PRAGMA journal_mode").fetch_one(&mut *connection).await?,
        page_size: page_size.unsigned_abs(),
        pages: pages.unsigned_abs(),
        free_pages: free_pages.unsigned_abs(),
        file_bytes: size(""),
        wal_bytes: size("-wal"),
        events,
        queues,
        problems,
        pruned_at: pruned_at.map(timestamp),
    })
}

async fn figures(connection: &mut SqliteConnection) -> Result<(u64, u64, Option<i64>), sqlx::Error> {
    let (events, queues, pruned_at): (i64, i64, Option<i64>) = sqlx::query_as(
        "SELECT (SELECT coalesce(sum(events), 0) FROM types), (SELECT count(*) FROM queues),
            (SELECT value FROM meta WHERE key = 'tidied_at')",
    )
    .fetch_one(connection)
    .await?;
    Ok((events.unsigned_abs(), queues.unsigned_abs(), pruned_at))
}
