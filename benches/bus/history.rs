//! A SQLite bus with ten million events: how long until a subscriber listens, and until the last thousand events of a
//! domain are there.
//!
//! The file is made by the backend and its first thousand events are published through it; the others are copies of
//! those, made in SQL with the indices and triggers taken away and put back, because publishing ten million takes an
//! hour. The file goes away with the directory.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use godctl::{
    bus::{Event, Publish, Query, SharedBus, Start, Subscription, connect, event::Source, event::Stamp},
    config,
    shutdown::Shutdown,
};
use serde_json::json;
use sqlx::{ConnectOptions as _, Connection as _, Row as _, SqliteConnection, sqlite::SqliteConnectOptions};

const EVENTS: u64 = 10_000_000;

/// Published through the bus; one of them is of the rare domain.
const TEMPLATES: u64 = 1_000;

pub(crate) fn measure(dir: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let file = dir.join("history.db");
        let started = Instant::now();
        publish_templates(&file).await;
        multiply(&file).await;
        let bytes = std::fs::metadata(&file).unwrap().len();
        println!(
            "\nsqlite with {EVENTS} events ({:.1} GB, made in {:.0} s)",
            bytes as f64 / 1e9,
            started.elapsed().as_secs_f64()
        );
        let mut times = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
        for _ in 0..5 {
            let life = Shutdown::new();
            let started = Instant::now();
            let bus = open(&file, &life).await;
            times[0].push(started.elapsed());
            let started = Instant::now();
            drop(bus.subscribe(subscription()).await.unwrap());
            times[1].push(started.elapsed());
            for (pattern, times) in ["voice.#", "rare.#"].iter().zip(&mut times[2..]) {
                let query = Query {
                    patterns: vec![pattern.parse().unwrap()],
                    before: None,
                    since: None,
                    limit: 1_000,
                };
                let started = Instant::now();
                let page = bus.page(query).await.unwrap();
                times.push(started.elapsed());
                assert_eq!(page.len(), 1_000);
                assert!(
                    page.iter().all(|event| event.routing_key.starts_with(pattern.trim_end_matches('#')))
                );
            }
            bus.close().await;
            life.finish(Duration::from_secs(5)).await.unwrap();
        }
        for (what, mut times, target) in [
            ("open the bus", times[0].clone(), ""),
            ("then subscribe from now on", times[1].clone(), "target below 50"),
            ("last 1000 of a domain, 1 in 5 events", times[2].clone(), "target below 100"),
            ("last 1000 of a domain, 1 in 1000", times[3].clone(), "target below 100"),
        ] {
            times.sort();
            println!("  {what:<38}{:>9.1} ms   {target}", times[times.len() / 2].as_secs_f64() * 1_000.0);
        }
    });
}

fn subscription() -> Subscription {
    Subscription { patterns: vec!["#".parse().unwrap()], start: Start::Now, follow: true, consumer: "bench" }
}

/// Nothing is too old or too much here.
async fn open(file: &Path, life: &Shutdown) -> SharedBus {
    let config = config::Bus {
        url: format!("sqlite:{}", file.display()).parse().unwrap(),
        retention_days: 0,
        retention_mb: 0,
        ..config::Bus::default()
    };
    connect::connect(&config, file.parent().unwrap(), life).await.unwrap()
}

async fn publish_templates(file: &Path) {
    let life = Shutdown::new();
    let bus = open(file, &life).await;
    let source = || Source {
        host: "bench".into(),
        app: "bench".into(),
        kind: "service".into(),
        extra: serde_json::Map::new(),
    };
    let events: Vec<_> = (0..TEMPLATES)
        .map(|n| {
            let kind = match n {
                500 => "rare.event.made".to_owned(),
                n => {
                    let domain = ["voice", "agent", "session", "tool", "system"][n as usize % 5];
                    format!("{domain}.entity{}.made", n % 7)
                }
            };
            Event::new(
                Stamp::now(),
                kind.parse().unwrap(),
                source(),
                json!({ "n": n, "text": "words".repeat(6) }),
            )
        })
        .collect();
    assert_eq!(bus.publish(&events, Publish::default()).await.unwrap().accepted, TEMPLATES);
    bus.close().await;
    life.finish(Duration::from_secs(5)).await.unwrap();
}

/// Copies the events in their order until there are enough.
async fn multiply(file: &Path) {
    let options = SqliteConnectOptions::new().filename(file);
    let mut connection = options.disable_statement_logging().connect().await.unwrap();
    let put_back = take_away_indices_and_triggers(&mut connection).await;
    run(&mut connection, "PRAGMA journal_mode = DELETE; PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF")
        .await;
    run(&mut connection, "PRAGMA cache_size = -200000; PRAGMA temp_store = MEMORY").await;
    run(
        &mut connection,
        &format!(
            "CREATE TEMP TABLE template AS SELECT * FROM events ORDER BY seq;
             INSERT INTO events(type_id, at, event_id, body)
             WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < {copies})
             SELECT type_id, at + n, CAST(printf('%08d%08d', n, seq) AS BLOB), body
             FROM copy CROSS JOIN template;
             UPDATE types SET events = events * {all}, bytes = bytes * {all}",
            copies = EVENTS / TEMPLATES - 1,
            all = EVENTS / TEMPLATES,
        ),
    )
    .await;
    for sql in put_back {
        run(&mut connection, &sql).await;
    }
    connection.close().await.unwrap();
}

async fn take_away_indices_and_triggers(connection: &mut SqliteConnection) -> Vec<String> {
    let rows = sqlx::query(
        "SELECT type, name, sql FROM sqlite_master
         WHERE type IN ('index', 'trigger') AND tbl_name = 'events' AND sql IS NOT NULL",
    )
    .fetch_all(&mut *connection)
    .await
    .unwrap();
    let mut sources = Vec::new();
    for row in rows {
        let (kind, name): (String, String) = (row.get(0), row.get(1));
        run(connection, &format!("DROP {kind} {name}")).await;
        sources.push(row.get(2));
    }
    assert!(!sources.is_empty(), "the schema has changed; look at this bench");
    sources
}

async fn run(connection: &mut SqliteConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(connection).await.unwrap();
}
