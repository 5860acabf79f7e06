//! Files that are damaged, foreign, newer, full, locked or gone.

use std::{fs, time::Duration};

use sqlx::Connection;

use super::Folder;
use crate::bus::{
    BusError, EventBus, Publish, QueueSpec, Retention, Start,
    sqlite::{SqliteBus, SqliteOptions},
    testkit::*,
};

/// A closed bus with some events in it.
async fn filled(folder: &Folder) -> Vec<u8> {
    let bus = folder.bus().await;
    for _ in 0..20 {
        publish(&bus, &numbered("a.b", 50)).await;
    }
    bus.close().await;
    fs::read(folder.path()).unwrap()
}

/// Reads everything.
async fn read(bus: &SqliteBus) -> Result<usize, BusError> {
    let mut stream = bus.subscribe(subscription(&["#"], Start::Beginning, false)).await?;
    let mut count = 0;
    while stream.next().await?.is_some() {
        count += 1;
    }
    Ok(count)
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_left_as_it_is() {
    let folder = Folder::new();
    let whole = filled(&folder).await;
    assert!(whole.len() > 100_000, "{}", whole.len());
    let garbage = |from: usize, to: usize| {
        let mut bytes = whole.clone();
        bytes[from..to].fill(0xa5);
        bytes
    };
    let damaged = [
        garbage(100, 4096),
        garbage(4096, 8 * 4096),
        garbage(4096, whole.len()),
        whole[..whole.len() / 2].to_owned(),
        whole[..5000].to_owned(),
    ];
    for (case, bytes) in damaged.into_iter().enumerate() {
        // Under a new name, as a damaged file does not change under those who have it open.
        let path = folder.path().with_file_name(format!("damaged-{case}.db"));
        fs::write(&path, &bytes).unwrap();
        let options = SqliteOptions { path: path.clone(), ..folder.options() };
        let error = match SqliteBus::open(options, &folder.shutdown).await {
            Err(error) => error,
            Ok(bus) => {
                let error = read(&bus).await.unwrap_err();
                bus.close().await;
                error
            }
        };
        assert!(
            matches!(&error, BusError::Corrupt { path: told, .. } if *told == path.display().to_string()),
            "case {case}: {error:?}"
        );
        assert!(!error.is_retryable());
        assert_eq!(fs::read(&path).unwrap(), bytes, "case {case}: the file was changed");
        match SqliteBus::inspect(&path).await {
            Err(BusError::Corrupt { .. }) => {}
            Ok(inspection) => assert!(!inspection.problems.is_empty(), "case {case}"),
            Err(error) => panic!("case {case}: {error:?}"),
        }
    }
}

#[tokio::test]
async fn files_of_others_are_refused_and_left_as_they_are() {
    let folder = Folder::new();
    let text = folder.path().with_file_name("notes.db");
    fs::write(&text, "these are notes").unwrap();
    let options = SqliteOptions { path: text.clone(), ..folder.options() };
    let error = SqliteBus::open(options.clone(), &folder.shutdown).await.unwrap_err();
    assert!(matches!(error, BusError::Foreign { .. }), "{error:?}");
    assert!(matches!(SqliteBus::inspect(&text).await, Err(BusError::Foreign { .. })));
    assert_eq!(fs::read(&text).unwrap(), b"these are notes");
    assert_eq!(fs::read_dir(text.parent().unwrap()).unwrap().count(), 1, "nothing was made beside it");
    assert!(matches!(SqliteBus::inspect(&folder.path()).await, Err(BusError::Storage { .. })));
    assert!(!folder.path().exists(), "a look makes no file");
}

#[tokio::test]
async fn a_newer_file_is_refused_with_what_to_do() {
    let folder = Folder::new();
    filled(&folder).await;
    folder.alter("PRAGMA user_version = 99").await;
    let error = SqliteBus::open(folder.options(), &folder.shutdown).await.unwrap_err();
    assert!(matches!(error, BusError::Unsupported { .. }), "{error:?}");
    let told = error.to_string();
    assert!(told.contains("99") && told.contains("update godctl"), "{told}");
    let inspection = SqliteBus::inspect(&folder.path()).await.unwrap();
    assert!(inspection.problems[0].contains("update godctl"), "{inspection:?}");
}

#[tokio::test]
async fn a_healthy_file_has_no_problems() {
    let folder = Folder::new();
    let bytes = filled(&folder).await;
    let bus = folder.bus().await;
    bus.queue(QueueSpec::new("work", vec![])).await.unwrap();
    // While it is in use.
    let inspection = SqliteBus::inspect(&folder.path()).await.unwrap();
    assert_eq!(inspection.problems, Vec::<String>::new());
    assert_eq!((inspection.events, inspection.queues), (1000, 1));
    assert_eq!((inspection.schema_version, inspection.newest_schema_version), (1, 1));
    assert_eq!(inspection.journal_mode, "wal");
    assert!(inspection.sqlite_version.as_str() >= "3.51.3", "{}", inspection.sqlite_version);
    assert!(inspection.file_bytes >= bytes.len() as u64 && inspection.wal_bytes > 0);
    bus.close().await;
    let inspection = SqliteBus::inspect(&folder.path()).await.unwrap();
    assert_eq!((inspection.problems.len(), inspection.wal_bytes), (0, 0), "closing tidies up the log");
}

#[tokio::test]
async fn a_full_disk_refuses_cleanly_and_publishing_works_again_with_room() {
    let folder = Folder::new();
    let bus = folder.with(SqliteOptions { max_pages: Some(60), ..folder.options() }).await;
    let queue = bus.queue(QueueSpec::new("work", vec![pattern("job")])).await.unwrap();
    publish(&bus, &[event("job", 0)]).await;
    let mut stream = follow(&bus, &["#"], Start::Beginning).await;
    let mut accepted = 1;
    let mut batch = Vec::new();
    let error = loop {
        batch = numbered("a", 20)
            .into_iter()
            .map(|mut event| {
                event.payload["text"] = "x".repeat(500).into();
                event
            })
            .collect();
        match bus.publish(&batch, Publish::default()).await {
            Ok(published) => accepted += published.accepted,
            Err(error) => break error,
        }
        assert!(accepted < 1000, "the disk is never full");
    };
    drop(queue);
    assert!(matches!(error, BusError::Full { .. }) && error.is_retryable(), "{error:?}");
    assert!(error.to_string().contains("bus.db"), "{error}");
    // All of a batch or nothing of it, and who only reads notices nothing.
    assert_eq!(bus.stats().await.unwrap().events, Some(accepted));
    assert_eq!(received(&mut *stream, usize::try_from(accepted).unwrap()).await.len() as u64, accepted);
    for _ in 0..3 {
        let again = bus.publish(&batch, Publish::default()).await;
        assert!(matches!(again, Err(BusError::Full { .. })), "{again:?}");
    }
    let all = Retention { max_bytes: Some(0), ..Retention::default() };
    assert_eq!(bus.prune(all).await.unwrap().events, accepted);
    assert_eq!(bus.publish(&batch, Publish::default()).await.unwrap().accepted, 20);
    assert_eq!(received(&mut *stream, 20).await.len(), 20);
}

#[tokio::test]
async fn a_file_that_was_removed_or_replaced_takes_nothing() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    publish(&bus, &[event("a", 0)]).await;
    let elsewhere = folder.path().with_file_name("moved.db");
    fs::rename(folder.path(), &elsewhere).unwrap();
    for _ in 0..2 {
        let refused = bus.publish(&[event("a", 1)], Publish::default()).await;
        assert!(
            matches!(&refused, Err(BusError::Storage { reason, .. }) if reason.contains("replaced")),
            "{refused:?}"
        );
        assert!(!folder.path().exists(), "no new file takes its place");
        fs::write(folder.path(), "another one").unwrap();
        let refused = bus.publish(&[event("a", 1)], Publish::default()).await;
        assert!(matches!(refused, Err(BusError::Storage { .. })), "{refused:?}");
        fs::remove_file(folder.path()).unwrap();
    }
    fs::rename(elsewhere, folder.path()).unwrap();
    publish(&bus, &[event("a", 1)]).await;
}

#[tokio::test]
async fn a_writer_that_does_not_end_is_named_and_outlived() {
    let folder = Folder::new();
    let bus = folder.with(SqliteOptions { patience: Duration::from_millis(300), ..folder.options() }).await;
    let mut stream = follow(&bus, &["#"], Start::Now).await;
    let mut hog = folder.raw().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut hog).await.unwrap();
    let refused = bus.publish(&[event("a", 0)], Publish::default()).await.unwrap_err();
    assert!(matches!(refused, BusError::Unreachable { .. }) && refused.is_retryable(), "{refused:?}");
    if cfg!(target_os = "linux") {
        assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    }
    assert_eq!(bus.stats().await.unwrap().events, Some(0), "reading goes on");
    sqlx::query("ROLLBACK").execute(&mut hog).await.unwrap();
    hog.close().await.unwrap();
    publish(&bus, &[event("a", 1)]).await;
    assert_eq!(numbers(&events(&mut *stream, 1).await), [1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_request_fails_alone() {
    let folder = Folder::new();
    let bus = folder.bus().await;
    publish(&bus, &[event("bad", 0), event("good", 0)]).await;
    folder
        .alter(
            "CREATE TRIGGER refuse BEFORE INSERT ON events
             WHEN NEW.type_id = (SELECT id FROM types WHERE name = 'bad')
             BEGIN SELECT raise(ABORT, 'not this one'); END",
        )
        .await;
    // Locked while they are asked for, so that they end up in one group.
    let mut hog = folder.raw().await;
    sqlx::query("BEGIN IMMEDIATE").execute(&mut hog).await.unwrap();
    let asking = futures_util::future::join_all((0..10).map(|n| {
        let bus = bus.clone();
        async move {
            let kind = if n == 4 { "bad" } else { "good" };
            bus.publish(&[event(kind, n)], Publish::default()).await
        }
    }));
    let freeing = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        sqlx::query("ROLLBACK").execute(&mut hog).await.unwrap();
    };
    let (results, ()) = tokio::join!(asking, freeing);
    for (n, result) in results.iter().enumerate() {
        match result {
            Err(BusError::Storage { reason, .. }) => {
                assert!(n == 4 && reason == "not this one", "{n}: {reason}")
            }
            other => assert!(n != 4 && other.is_ok(), "{n}: {other:?}"),
        }
    }
    assert_eq!(bus.stats().await.unwrap().events, Some(11));
}
