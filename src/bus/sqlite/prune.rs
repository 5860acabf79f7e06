//! Retention: deleting old events in small steps, giving their pages back to the disk, forgetting old ids.
//!
//! Each step is one short transaction of the writer, so others get their turn in between. About once an hour one of the
//! processes that have the file open does all of it by itself; the file says when that was. That task ends with the bus.

use std::{sync::Weak, time::Duration};

use sqlx::sqlite::SqliteConnection;
use tokio::time::sleep;
use tracing::{debug, info};

use super::{
    bus::Shared,
    work::{CLOCK_TOLERANCE_MS, STEP_ROWS},
    writer::{Op, Outcome},
};
use crate::bus::{BusError, Pruned, Retention};

/// Time between two automatic runs on one file.
const PERIOD_MS: i64 = 3_600_000;

/// A process that began a run and did not end it has this long before another one may.
const RUN_MS: i64 = 60_000;

/// How often a process looks whether it is time.
const LOOK: Duration = Duration::from_secs(300);

/// Short commands are gone before this; they leave the tidying to others.
const FIRST_LOOK: Duration = Duration::from_secs(2);

/// Pages that one step gives back.
const STEP_PAGES: i64 = 500;

/// One short transaction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Step {
    /// Deletes some of the oldest events before this position.
    Events { before: i64 },
    /// Gives some free pages back.
    Pages,
    /// Forgets some ids of work that was done before this time.
    Seen { before: i64 },
    /// Deletes some jobs of queues that are gone.
    Orphans,
    /// Asks for the right to tidy up; granted if it tells 1.
    Begin,
    /// Says that the tidying goes on.
    Go,
    /// Says that it was done.
    End,
    /// Nothing but the figures; the write-ahead log is moved into the file afterwards.
    Checkpoint,
}

/// What a step did, and how the file is after it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Progress {
    /// Rows or pages that it was about.
    pub(super) rows: u64,
    /// Bytes of pages that are in use.
    pub(super) used: u64,
    /// Bytes of all pages.
    pub(super) total: u64,
}

impl Progress {
    const fn full(&self) -> bool {
        self.rows >= STEP_ROWS.unsigned_abs()
    }
}

/// Carries out a step. Runs on the writer's task.
pub(super) async fn step(
    connection: &mut SqliteConnection,
    now: i64,
    step: &Step,
) -> Result<Progress, sqlx::Error> {
    let query = match *step {
        // Readers learn from the mark that something is missing before it.
        Step::Events { before } => sqlx::query(
            "INSERT INTO meta(key, value)
                SELECT 'pruned_to', max(seq) FROM (SELECT seq FROM events WHERE seq < ?1 ORDER BY seq LIMIT ?2)
                HAVING max(seq) IS NOT NULL
                ON CONFLICT(key) DO UPDATE SET value = max(value, excluded.value);
             DELETE FROM events WHERE seq < ?1 AND seq <= (SELECT value FROM meta WHERE key = 'pruned_to')",
        )
        .bind(before)
        .bind(STEP_ROWS),
        Step::Seen { before } => {
            sqlx::query("DELETE FROM seen WHERE at < ?1 AND id IN (SELECT id FROM seen ORDER BY id LIMIT ?2)")
                .bind(before)
                .bind(STEP_ROWS)
        }
        Step::Orphans => sqlx::query(
            "DELETE FROM jobs WHERE id IN
                (SELECT id FROM jobs WHERE queue_id NOT IN (SELECT id FROM queues) LIMIT ?1)",
        )
        .bind(STEP_ROWS),
        Step::Begin => sqlx::query(
            "INSERT INTO meta(key, value) VALUES ('tidy_after', ?1 + ?2) ON CONFLICT(key) DO UPDATE
                SET value = excluded.value WHERE value <= ?1 OR value > ?1 + ?3",
        )
        .bind(now)
        .bind(RUN_MS)
        .bind(PERIOD_MS + CLOCK_TOLERANCE_MS),
        Step::Go => sqlx::query("UPDATE meta SET value = ? WHERE key = 'tidy_after'").bind(now + RUN_MS),
        Step::End => sqlx::query(
            "INSERT INTO meta(key, value) VALUES ('tidy_after', ?1), ('tidied_at', ?2)
                ON CONFLICT(key) DO UPDATE SET value = excluded.value",
        )
        .bind(now + PERIOD_MS)
        .bind(now),
        Step::Pages => sqlx::query("PRAGMA incremental_vacuum(500)"),
        Step::Checkpoint => sqlx::query("SELECT 1"),
    };
    let (_, free_before, _) = pages(connection).await?;
    let mut rows = query.execute(&mut *connection).await?.rows_affected();
    let (all, free, size) = pages(connection).await?;
    match step {
        Step::Pages => rows = free_before.saturating_sub(free),
        // The mark is not counted.
        Step::Events { .. } => rows = rows.saturating_sub(1),
        _ => {}
    }
    Ok(Progress { rows, used: (all - free) * size, total: all * size })
}

/// Pages of the file, free ones among them, bytes of a page.
async fn pages(connection: &mut SqliteConnection) -> Result<(u64, u64, u64), sqlx::Error> {
    let (all, free, size): (i64, i64, i64) = sqlx::query_as(
        "SELECT page_count, freelist_count, page_size FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
    )
    .fetch_one(connection)
    .await?;
    Ok((all.unsigned_abs(), free.unsigned_abs(), size.unsigned_abs()))
}

async fn take(shared: &Shared, step: Step) -> Result<Progress, BusError> {
    match shared.ask(Op::Prune(step)).await? {
        Outcome::Pruned(progress) => Ok(progress),
        Outcome::Published(_) | Outcome::Settled(_) | Outcome::Number(_) => Ok(Progress::default()),
    }
}

/// Who tidies up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Run {
    /// Somebody who asked for it.
    Asked,
    /// One process for all, which has to say that it is still at it.
    Own,
}

impl Run {
    async fn goes_on(self, shared: &Shared) -> Result<(), BusError> {
        if self == Self::Own {
            take(shared, Step::Go).await?;
        }
        Ok(())
    }
}

/// Deletes by age, then by size, then gives the space back.
async fn carry_out(shared: &Shared, retention: Retention, run: Run) -> Result<Pruned, BusError> {
    let start = take(shared, Step::Checkpoint).await?;
    let mut pruned = Pruned::default();
    if let Some(before) = oldest_kept(shared, retention.max_age).await? {
        loop {
            let progress = take(shared, Step::Events { before }).await?;
            pruned.events += progress.rows;
            if !progress.full() {
                break;
            }
            run.goes_on(shared).await?;
        }
    }
    if let Some(max_bytes) = retention.max_bytes {
        let mut used = take(shared, Step::Checkpoint).await?.used;
        while used > max_bytes {
            let progress = take(shared, Step::Events { before: i64::MAX }).await?;
            if progress.rows == 0 {
                break;
            }
            pruned.events += progress.rows;
            used = progress.used;
            run.goes_on(shared).await?;
        }
    }
    while take(shared, Step::Pages).await?.rows >= STEP_PAGES.unsigned_abs() {
        run.goes_on(shared).await?;
    }
    let end = take(shared, Step::Checkpoint).await?;
    pruned.bytes = start.total.saturating_sub(end.total);
    Ok(pruned)
}

/// The position from which on events are young enough, if there is an age at all.
async fn oldest_kept(shared: &Shared, max_age: Option<Duration>) -> Result<Option<i64>, BusError> {
    let Some(age) = max_age.and_then(|age| jiff::SignedDuration::try_from(age).ok()) else { return Ok(None) };
    match shared.clock.now().checked_sub(age) {
        Ok(limit) => shared.readers.first_at(limit).await.map(Some),
        Err(_) => Ok(None),
    }
}

/// As [`EventBus::prune`](crate::bus::EventBus::prune).
pub(super) async fn prune(shared: &Shared, retention: Retention) -> Result<Pruned, BusError> {
    if retention.dry_run {
        estimate(shared, retention).await
    } else {
        carry_out(shared, retention, Run::Asked).await
    }
}

/// What [`carry_out`] would do; the bytes are reckoned from averages.
async fn estimate(shared: &Shared, retention: Retention) -> Result<Pruned, BusError> {
    let before = oldest_kept(shared, retention.max_age).await?.unwrap_or(0);
    let (events, old, (all, free, size)) = shared
        .readers
        .read(async |connection| {
            let (events, old): (i64, i64) = sqlx::query_as(
                "SELECT coalesce(sum(events), 0), coalesce(sum((
                    SELECT count(*) FROM events e INDEXED BY events_by_type WHERE e.type_id = t.id AND e.seq < ?
                )), 0) FROM types t",
            )
            .bind(before)
            .fetch_one(&mut *connection)
            .await?;
            Ok((events.unsigned_abs(), old.unsigned_abs(), pages(connection).await?))
        })
        .await?;
    let used = (all - free) * size;
    let each = used.checked_div(events).unwrap_or(0).max(1);
    let surplus = retention.max_bytes.map_or(0, |max| used.saturating_sub(old * each).saturating_sub(max));
    let pruned = (old + surplus.div_ceil(each)).min(events);
    Ok(Pruned { events: pruned, bytes: (pruned * each).min(used) + free * size })
}

/// Tidies up now and then until the bus ends.
pub(super) async fn keep_tidy(shared: Weak<Shared>, over: tokio_util::sync::CancellationToken) {
    let tidying = async {
        sleep(FIRST_LOOK).await;
        loop {
            let Some(shared) = shared.upgrade() else { return };
            match tidy(&shared).await {
                Ok(Some(pruned)) if pruned.events > 0 => {
                    info!(events = pruned.events, bytes = pruned.bytes, "deleted old events");
                }
                Ok(_) => {}
                Err(error) => debug!(%error, "cannot tidy up the bus now"),
            }
            drop(shared);
            sleep(LOOK).await;
        }
    };
    // Cancel safe: a step is done or not, and the next run goes on from there.
    over.run_until_cancelled(tidying).await;
}

/// Tidies up if it is time, and nobody else does.
pub(super) async fn tidy(shared: &Shared) -> Result<Option<Pruned>, BusError> {
    if take(shared, Step::Begin).await?.rows == 0 {
        return Ok(None);
    }
    let run = Run::Own;
    let pruned = carry_out(shared, Retention { dry_run: false, ..shared.retention }, run).await?;
    let window = i64::try_from(shared.seen_window.as_millis()).unwrap_or(i64::MAX);
    let before = shared.now_ms().saturating_sub(window);
    for step in [Step::Seen { before }, Step::Orphans] {
        while take(shared, step).await?.full() {
            run.goes_on(shared).await?;
        }
    }
    take(shared, Step::End).await?;
    Ok(Some(pruned))
}
