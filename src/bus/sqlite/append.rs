//! Appending events: interning their types, routing, inserting in batches. Runs on the writer's task, inside its
//! transaction.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use sqlx::{AssertSqlSafe, Row, sqlite::SqliteConnection};
use uuid::Uuid;

use crate::bus::{Pattern, Position, Published};

/// The most rows that one statement inserts. Statements exist for the powers of two up to this.
const MAX_ROWS: usize = 128;

/// An event on its way into the file.
#[derive(Debug)]
pub(super) struct Entry {
    /// Its id.
    pub(super) id: Uuid,
    /// What it is routed by.
    pub(super) routing_key: String,
    /// As it will be read.
    pub(super) body: Vec<u8>,
}

/// One call of `publish`.
#[derive(Debug)]
pub(super) struct Append {
    /// In order.
    pub(super) entries: Vec<Entry>,
    /// A cursor's name and value, remembered with them.
    pub(super) cursor: Option<(String, String)>,
}

/// Ids of the types by their names, as far as this process has needed them. Must be emptied after a rollback.
pub(super) type TypeIds = HashMap<String, i64>;

/// `INSERT` statements for 1, 2, 4, … rows.
static INSERTS: LazyLock<Vec<Arc<str>>> = LazyLock::new(|| {
    let sizes = std::iter::successors(Some(1), |rows| (*rows < MAX_ROWS).then_some(rows * 2));
    sizes
        .map(|rows| {
            let values = vec!["(?,?,?,?)"; rows].join(",");
            format!(
                "INSERT INTO events(type_id, at, event_id, body) VALUES {values} \
                 ON CONFLICT(event_id, type_id) DO NOTHING RETURNING seq, type_id, event_id"
            )
            .into()
        })
        .collect()
});

/// Inserts the events of several calls, in their order, as of the time `at` (milliseconds).
pub(super) async fn append(
    connection: &mut SqliteConnection,
    types: &mut TypeIds,
    at: i64,
    calls: &[&Append],
) -> Result<Vec<Published>, sqlx::Error> {
    let mut rows = Vec::new();
    for entry in calls.iter().flat_map(|call| &call.entries) {
        rows.push((type_id(connection, types, &entry.routing_key).await?, entry));
    }
    // Where each new event is, by what tells it from others. Of two that are equal the first one is new.
    let mut places = HashMap::with_capacity(rows.len());
    let mut rest = rows.as_slice();
    while !rest.is_empty() {
        let power = (rest.len().min(MAX_ROWS)).ilog2() as usize;
        let (now, later) = rest.split_at(1 << power);
        rest = later;
        let sql = INSERTS.get(power).cloned().unwrap_or_default();
        let mut query = sqlx::query(AssertSqlSafe(sql));
        for (type_id, entry) in now {
            query = query.bind(type_id).bind(at).bind(&entry.id.as_bytes()[..]).bind(entry.body.as_slice());
        }
        for row in query.fetch_all(&mut *connection).await? {
            let (seq, type_id, id): (i64, i64, &[u8]) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            places.insert((type_id, Uuid::from_slice(id).unwrap_or_default()), seq);
        }
    }
    let mut rows = rows.iter();
    let mut published = Vec::with_capacity(calls.len());
    for call in calls {
        let mut told = Published::default();
        for (type_id, entry) in rows.by_ref().take(call.entries.len()) {
            match places.remove(&(*type_id, entry.id)) {
                Some(seq) => {
                    told.accepted += 1;
                    told.last = Some(Position(seq.unsigned_abs()));
                }
                None => told.duplicates += 1,
            }
        }
        if let Some((name, value)) = &call.cursor {
            sqlx::query(
                "INSERT INTO cursors(name, value) VALUES (?, ?) ON CONFLICT(name) DO UPDATE SET value = excluded.value",
            )
            .bind(name)
            .bind(value)
            .execute(&mut *connection)
            .await?;
        }
        published.push(told);
    }
    Ok(published)
}

/// The id of a type; a new type is routed to all queues with a matching binding.
async fn type_id(
    connection: &mut SqliteConnection,
    types: &mut TypeIds,
    name: &str,
) -> Result<i64, sqlx::Error> {
    if let Some(id) = types.get(name) {
        return Ok(*id);
    }
    let known = sqlx::query_scalar("SELECT id FROM types WHERE name = ?")
        .bind(name)
        .fetch_optional(&mut *connection)
        .await?;
    let id = match known {
        Some(id) => id,
        None => {
            let id = sqlx::query_scalar("INSERT INTO types(name) VALUES (?) RETURNING id")
                .bind(name)
                .fetch_one(&mut *connection)
                .await?;
            let bindings: Vec<(i64, String)> =
                sqlx::query_as("SELECT queue_id, pattern FROM bindings").fetch_all(&mut *connection).await?;
            for (queue, pattern) in bindings {
                if Pattern::try_from(pattern).is_ok_and(|pattern| pattern.matches(name)) {
                    add_route(connection, id, queue).await?;
                }
            }
            id
        }
    };
    types.insert(name.to_owned(), id);
    Ok(id)
}

/// Lets events of this type land in this queue from now on.
pub(super) async fn add_route(
    connection: &mut SqliteConnection,
    type_id: i64,
    queue: i64,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO routes(type_id, queue_id) VALUES (?, ?) ON CONFLICT DO NOTHING")
        .bind(type_id)
        .bind(queue)
        .execute(connection)
        .await
        .map(drop)
}
