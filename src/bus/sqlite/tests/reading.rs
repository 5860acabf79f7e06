//! Reading by patterns gives what looking at each event would give, wherever the events lie.

use proptest::prelude::*;
use sqlx::Connection;

use super::Folder;
use crate::bus::{EventBus, Pattern, Position, Query, Received, Start, testkit::*};

const TYPES: [&str; 6] = ["a.x", "a.y", "b.x", "b.y", "c", "d.e.f"];
const PATTERNS: [&str; 8] = ["#", "a.*", "*.x", "c", "d.#", "nobody", "#.f", "*.*"];

/// A stretch of events: where it begins after the one before, how many there are, and which types take turns.
fn stretch() -> impl Strategy<Value = (i64, i64, Vec<usize>)> {
    (1_i64..300_000, 1_i64..1500, prop::collection::vec(0..TYPES.len(), 1..4))
}

fn matches(patterns: &[Pattern], received: &Received) -> bool {
    patterns.iter().any(|pattern| pattern.matches(&received.routing_key))
}

async fn fill(folder: &Folder, stretches: &[(i64, i64, Vec<usize>)]) {
    let mut connection = folder.raw().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut connection).await.unwrap();
    for (id, name) in TYPES.iter().enumerate() {
        sqlx::query("INSERT INTO types(id, name) VALUES (?, ?)")
            .bind(i64::try_from(id).unwrap() + 1)
            .bind(*name)
            .execute(&mut connection)
            .await
            .unwrap();
    }
    let mut seq = 0;
    for (skip, count, types) in stretches {
        let turns: Vec<usize> = types.iter().map(|index| index + 1).collect();
        sqlx::query(
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ?2 - 1)
             INSERT INTO events(seq, type_id, at, event_id, body)
                SELECT ?1 + i, ?3 ->> (i % json_array_length(?3)), ?1 + i, randomblob(16), cast('{}' AS BLOB) FROM n",
        )
        .bind(seq + skip)
        .bind(count)
        .bind(serde_json::to_string(&turns).unwrap())
        .execute(&mut connection)
        .await
        .unwrap();
        seq += skip + count - 1;
    }
    sqlx::query("COMMIT").execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn patterns_leave_out_what_does_not_match_and_nothing_else(
        stretches in prop::collection::vec(stretch(), 1..6),
        chosen in prop::collection::vec(prop::collection::vec(0..PATTERNS.len(), 1..3), 4),
        limit in 1_usize..3000,
        place in 0.0_f64..1.0,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let folder = Folder::new();
            fill(&folder, &stretches).await;
            let bus = folder.bus().await;
            let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await.unwrap();
            let all = rest(&mut *stream).await;
            let count: i64 = stretches.iter().map(|(_, count, _)| count).sum();
            assert_eq!(all.len(), usize::try_from(count).unwrap());
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss,
                reason = "a place somewhere in the list")]
            let middle = all[((all.len() - 1) as f64 * place) as usize].position.unwrap();
            for indices in chosen {
                let texts: Vec<&str> = indices.iter().map(|index| PATTERNS[*index]).collect();
                let patterns: Vec<Pattern> = texts.iter().copied().map(pattern).collect();
                let wanted: Vec<&Received> = all.iter().filter(|received| matches(&patterns, received)).collect();

                let mut stream = bus.subscribe(subscription(&texts, Start::Beginning, false)).await.unwrap();
                assert!(rest(&mut *stream).await.iter().eq(wanted.iter().copied()), "forward {texts:?}");
                let mut stream = bus.subscribe(subscription(&texts, Start::After(middle), false)).await.unwrap();
                let after = wanted.iter().copied().filter(|received| received.position > Some(middle));
                assert!(rest(&mut *stream).await.iter().eq(after), "after {middle} {texts:?}");

                for before in [None, Some(middle), Some(Position(u64::MAX))] {
                    let query = Query { patterns: patterns.clone(), before, since: None, limit };
                    let found = bus.page(query).await.unwrap();
                    let mut newest: Vec<&Received> = wanted.iter().copied().rev()
                        .filter(|received| before.is_none_or(|before| received.position < Some(before)))
                        .take(limit)
                        .collect();
                    newest.reverse();
                    assert!(found.iter().eq(newest), "before {before:?} {texts:?}");
                }
                let since = all.iter().find(|received| received.position == Some(middle)).unwrap().at;
                let query = Query { patterns: patterns.clone(), before: None, since, limit: usize::MAX };
                let found = bus.page(query).await.unwrap();
                let later = wanted.iter().copied().filter(|received| received.at >= since);
                assert!(found.iter().eq(later), "since {middle} {texts:?}");
            }
            bus.close().await;
        });
    }
}

#[tokio::test]
async fn large_events_come_in_small_pages() {
    let folder = Folder::new();
    let bus =
        folder.with(crate::bus::sqlite::SqliteOptions { max_event_bytes: 3 << 20, ..folder.options() }).await;
    let sent: Vec<_> = (0..8)
        .map(|n| {
            let mut event = event("a", n);
            event.payload["text"] = "x".repeat(2 << 20).into();
            event
        })
        .collect();
    publish(&bus, &sent).await;
    let mut stream = follow(&bus, &["a", "b"], Start::Beginning).await;
    assert_eq!(numbers(&events(&mut *stream, 8).await), [0, 1, 2, 3, 4, 5, 6, 7]);
    let query = Query { patterns: vec![pattern("a")], before: None, since: None, limit: 5 };
    let page = bus.page(query).await.unwrap();
    assert_eq!(numbers(page.iter().map(parsed)), [3, 4, 5, 6, 7]);
}

/// None of the statements may look at every event: the plans search by an index or by position.
#[tokio::test]
async fn no_read_looks_at_everything() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    publish(&bus, &numbered("a", 3)).await;
    let mut connection = folder.raw().await;
    for sql in crate::bus::sqlite::reader::STATEMENTS {
        let explained = sqlx::AssertSqlSafe(format!("EXPLAIN QUERY PLAN {sql}"));
        let plan: Vec<(i64, i64, i64, String)> =
            sqlx::query_as(explained).fetch_all(&mut connection).await.unwrap();
        for (.., step) in &plan {
            let small = ["json_each", "t", "first", "last", "CONSTANT ROW"];
            let scan = step.strip_prefix("SCAN ").and_then(|rest| rest.split(' ').next());
            assert!(scan.is_none_or(|table| small.contains(&table)), "{step} in {sql}");
        }
    }
    connection.close().await.unwrap();
}
