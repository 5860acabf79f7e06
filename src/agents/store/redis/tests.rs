//! The conformance suite over a real Redis, and what goes wrong with one.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use uuid::Uuid;

use super::{RedisOptions, RedisStore, testing::Server};
use crate::agents::{
    session::SessionId,
    store::{
        Acquired, Request, SharedStore, StoreError,
        testkit::{self, Fixture, change, request, session},
        vault::Vault,
    },
};

struct Desk {
    server: Mutex<Server>,
    client: redis::Client,
}

impl Desk {
    fn some() -> Option<Self> {
        let server = Server::start()?;
        let client = redis::Client::open(server.url()).unwrap();
        Some(Self { server: Mutex::new(server), client })
    }

    fn options(&self, patience: Duration) -> RedisOptions {
        options(&self.server.lock().url(), patience)
    }

    async fn ask<T: redis::FromRedisValue>(&self, words: &[&[u8]]) -> T {
        let mut connection = self.client.get_multiplexed_async_connection().await.unwrap();
        let mut command = redis::Cmd::new();
        for word in words {
            command.arg(*word);
        }
        command.query_async(&mut connection).await.unwrap()
    }
}

fn options(url: &str, patience: Duration) -> RedisOptions {
    RedisOptions { url: url.parse().unwrap(), password: None, prefix: "test:".to_owned(), patience }
}

const PATIENT: Duration = Duration::from_secs(60);

#[async_trait]
impl Fixture for Desk {
    async fn open_with(&self, vault: Vault) -> Result<SharedStore, StoreError> {
        Ok(Arc::new(RedisStore::open(self.options(PATIENT), vault).await?))
    }

    async fn lapse(&self, name: &str) {
        let gone: u64 = self.ask(&[b"DEL", format!("test:lock:{name}").as_bytes()]).await;
        assert_eq!(gone, 1);
    }

    async fn everything(&self) -> Vec<u8> {
        let keys: Vec<String> = self.ask(&[b"KEYS", b"*"]).await;
        let mut bytes = Vec::new();
        for key in keys {
            bytes.extend(key.as_bytes());
            let kind: String = self.ask(&[b"TYPE", key.as_bytes()]).await;
            let words: Vec<&[u8]> = match kind.as_str() {
                "hash" => vec![b"HGETALL", key.as_bytes()],
                "zset" => vec![b"ZRANGE", key.as_bytes(), b"0", b"-1"],
                "set" => vec![b"SMEMBERS", key.as_bytes()],
                _ => vec![b"MGET", key.as_bytes()],
            };
            let values: Vec<Vec<u8>> = self.ask(&words).await;
            bytes.extend(values.concat());
        }
        bytes
    }

    async fn words(&self, id: &SessionId) -> Vec<u8> {
        self.ask(&[b"HGET", format!("test:session:{id}").as_bytes(), b"sealed"]).await
    }

    async fn set_words(&self, id: &SessionId, words: Vec<u8>) {
        let _: u64 = self.ask(&[b"HSET", format!("test:session:{id}").as_bytes(), b"sealed", &words]).await;
    }
}

testkit::conformance!(conformance, super::Desk::some());

/// Asks until the connection that broke is there again.
async fn again<T>(mut ask: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let deadline = std::time::Instant::now() + PATIENT;
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                assert!(std::time::Instant::now() < deadline, "{error}");
            }
        }
    }
}

#[tokio::test]
async fn a_redis_that_restarts_empty_fences_off_and_takes_everything_again() {
    let Some(desk) = Desk::some() else { return };
    let store = desk.open().await;
    let made = session("s-1");
    let version = store.create(&made).await.unwrap();
    let Acquired::Lease(lease) =
        store.acquire(&Request { floor: 40, ..request("session:s-1", Uuid::new_v4()) }).await.unwrap()
    else {
        panic!("nobody holds it")
    };
    desk.server.lock().restart_empty();
    let error = again(async || match store.update(&change(&made, version, Some(&lease))).await {
        Err(error) if !error.is_retryable() => Ok(error),
        other => other.map(|_| panic!("there is nothing to change")),
    })
    .await;
    assert!(matches!(error, StoreError::Gone(_)), "{error}");
    assert!(matches!(
        store.renew(&lease, PATIENT).await,
        Err(StoreError::Fenced { ours: 41, latest: 0, .. })
    ));
    // Whoever worked on it takes a new lease, whose number is larger than its old one, and creates the session again.
    let floor = Request { floor: lease.fence, ..request("session:s-1", Uuid::new_v4()) };
    let Acquired::Lease(new) = store.acquire(&floor).await.unwrap() else { panic!("nobody holds it") };
    assert_eq!(new.fence, 42);
    let version = store.create(&made).await.unwrap();
    store.update(&change(&made, version, Some(&new))).await.unwrap();
    assert!(matches!(
        store.update(&change(&made, version, Some(&lease))).await,
        Err(StoreError::Fenced { ours: 41, latest: 42, .. })
    ));
}

#[tokio::test]
async fn a_redis_that_is_away_or_says_nothing_is_unreachable_and_comes_back() {
    let Some(desk) = Desk::some() else { return };
    let store = desk.open().await;
    desk.server.lock().kill();
    let error = store.get(&testkit::id("s-1")).await.unwrap_err();
    assert!(
        matches!(&error, StoreError::Unreachable { store, .. } if store.starts_with("redis://")),
        "{error}"
    );
    desk.server.lock().restart_empty();
    assert!(again(async || store.get(&testkit::id("s-1")).await).await.is_none());

    // Somebody listens and never answers.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let holding = async {
        let mut held = Vec::new();
        loop {
            held.push(silent.accept().await.unwrap());
        }
    };
    let opening = RedisStore::open(options(&url, Duration::from_millis(50)), Vault::new(testkit::ring()));
    let error = tokio::select! {
        opened = opening => opened.err().unwrap(),
        never = holding => never,
    };
    assert!(matches!(error, StoreError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_redis_that_refuses_writes_says_why_and_keeps_what_it_has() {
    let Some(desk) = Desk::some() else { return };
    let store = desk.open().await;
    let made = session("s-1");
    let version = store.create(&made).await.unwrap();
    let _: String = desk.ask(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    let error = store.create(&session("s-2")).await.unwrap_err();
    assert!(matches!(&error, StoreError::Full { reason, .. } if reason.contains("prune")), "{error}");
    let _: String = desk.ask(&[b"CONFIG", b"SET", b"maxmemory", b"0"]).await;

    let nobody = desk.server.lock().port().to_string();
    let _: String = desk.ask(&[b"REPLICAOF", b"127.0.0.1", nobody.as_bytes()]).await;
    let error = store.update(&change(&made, version, None)).await.unwrap_err();
    assert!(matches!(&error, StoreError::Refused { reason, .. } if reason.contains("replica")), "{error}");
    let _: String = desk.ask(&[b"REPLICAOF", b"NO", b"ONE"]).await;
    assert_eq!(store.get(&made.id).await.unwrap().unwrap().version, version, "nothing has changed");

    let _: String = desk.ask(&[b"CONFIG", b"SET", b"requirepass", b"secret"]).await;
    let error = RedisStore::open(desk.options(PATIENT), Vault::new(testkit::ring())).await.err().unwrap();
    assert!(
        matches!(&error, StoreError::Refused { reason, .. } if reason.contains("store.password")),
        "{error}"
    );
    let with = RedisOptions {
        password: Some(crate::config::Secret::new("secret".to_owned())),
        ..desk.options(PATIENT)
    };
    RedisStore::open(with, Vault::new(testkit::ring())).await.unwrap();
}
