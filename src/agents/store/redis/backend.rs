//! The door, by way of scripts and plain commands.

use std::time::Duration;

use async_trait::async_trait;
use jiff::Timestamp;
use redis::{FromRedisValue, RedisError, ScriptInvocation, cmd, pipe};
use uuid::Uuid;

use super::{
    super::{
        Acquired, Change, Filter, Lease, Remove, Request, Resealed, SessionStore, StoreError, Stored,
        Version,
        codec::{self, CANARY, CANARY_TEXT, session_place, turn_place},
        vault::Place,
    },
    RedisStore,
};
use crate::agents::session::{Session, SessionId, TurnRecord, UsageRow};

/// Sessions that are looked at in one go.
const PAGE: usize = 200;

/// The fields of a session's hash that are read.
const FIELDS: [&str; 4] = ["version", "fence", "plain", "sealed"];
/// Their values.
type Row = (Option<u64>, Option<u64>, Option<String>, Option<Vec<u8>>);

impl RedisStore {
    async fn ask<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        command.query_async(&mut connection).await.map_err(|error| self.failed(&error))
    }

    async fn run<T: FromRedisValue>(&self, script: &ScriptInvocation<'_>) -> Result<T, StoreError> {
        let mut connection = self.connection.clone();
        script.invoke_async(&mut connection).await.map_err(|error: RedisError| self.failed(&error))
    }

    fn session_key(&self, id: &SessionId) -> String {
        self.key(&format!("session:{id}"))
    }

    fn stops_key(&self, id: &SessionId) -> String {
        self.key(&format!("stops:{id}"))
    }

    /// The indexes that a session stands in.
    fn indexes(&self, session: &Session) -> Vec<String> {
        let own = [
            "index:all".to_owned(),
            format!("index:provider:{}", session.provider),
            format!("index:state:{}", session.state.name()),
            format!("index:directory:{}", session.directory),
        ];
        let tags = session.tags.iter().map(|tag| format!("index:tag:{tag}"));
        own.into_iter().chain(tags).map(|name| self.key(&name)).collect()
    }

    /// The index that narrows most.
    fn index_for(&self, filter: &Filter) -> String {
        let name = match (&filter.directory, filter.tags.first(), &filter.provider, filter.state) {
            (Some(directory), ..) => format!("index:directory:{directory}"),
            (None, Some(tag), ..) => format!("index:tag:{tag}"),
            (None, None, Some(provider), _) => format!("index:provider:{provider}"),
            (None, None, None, Some(state)) => format!("index:state:{}", state.name()),
            (None, None, None, None) => "index:all".to_owned(),
        };
        self.key(&name)
    }

    fn decode(&self, id: &str, row: Row) -> Result<Option<Stored>, StoreError> {
        let (Some(version), fence, Some(plain), Some(sealed)) = row else { return Ok(None) };
        let session = codec::decode_session(&self.vault, id, &plain, &sealed)?;
        Ok(Some(Stored { session, version: Version(version), fence: fence.unwrap_or(0) }))
    }

    async fn write(&self, change: &Change<'_>) -> Result<Version, StoreError> {
        let Change { session, expected, lease, .. } = *change;
        let id = &session.id;
        let encoded = codec::encode_session(&self.vault, session)?;
        let indexes = serde_json::Value::from(self.indexes(session)).to_string();
        let lease_name = lease.map(|lease| lease.name.as_str()).unwrap_or_default();
        let token = lease.map(|lease| lease.token.to_string()).unwrap_or_default();
        let mut script = self.scripts.write.prepare_invoke();
        script
            .key(self.session_key(id))
            .key(self.key(&format!("lease:{lease_name}")))
            .key(self.key(&format!("turns:{id}")))
            .key(self.key(&format!("words:{id}")))
            .key(self.key("usage"))
            .key(self.key("usage:at"))
            .key(self.key(&format!("usage:of:{id}")))
            .key(self.stops_key(id))
            .arg(id.as_str())
            .arg(change.id.to_string())
            .arg(expected.0)
            .arg(token)
            .arg(lease.map_or(0, |lease| lease.fence))
            .arg(encoded.plain)
            .arg(encoded.sealed)
            .arg(session.updated_at.as_millisecond())
            .arg(indexes);
        match change.turn {
            Some((turn, usage)) => {
                let words = codec::encode_turn(&self.vault, id, turn)?;
                script
                    .arg(turn.number)
                    .arg(words.plain)
                    .arg(words.sealed)
                    .arg(usage.run.to_string())
                    .arg(codec::encode_usage(usage)?)
                    .arg(usage.at.as_millisecond());
            }
            None => {
                for _ in 0..6 {
                    script.arg("");
                }
            }
        }
        let (word, number): (String, u64) = self.run(&script).await?;
        match (word.as_str(), lease) {
            ("done", _) => Ok(Version(number)),
            ("exists", _) => Err(StoreError::Exists(id.clone())),
            ("gone", _) => Err(StoreError::Gone(id.clone())),
            ("fenced", Some(lease)) => {
                Err(StoreError::Fenced { name: lease.name.clone(), ours: lease.fence, latest: number })
            }
            _ => Err(StoreError::Conflict { id: id.clone(), expected, found: Version(number) }),
        }
    }

    /// Encrypts a field of a hash anew if need be.
    async fn reseal_field(
        &self,
        (key, field): (&str, &str),
        place: Place<'_>,
        done: &mut Resealed,
    ) -> Result<(), StoreError> {
        let blob: Option<Vec<u8>> = self.ask(cmd("HGET").arg(key).arg(field)).await?;
        let Some(blob) = blob.filter(|blob| !self.vault.is_current(blob)) else { return Ok(()) };
        let anew = self.vault.reseal(place, &blob)?;
        let mut script = self.scripts.swap.prepare_invoke();
        let is_changed: bool = self.run(script.key(key).arg(field).arg(blob).arg(anew)).await?;
        if is_changed {
            done.changed += 1;
        } else {
            done.left += 1;
        }
        Ok(())
    }

    /// Numbers of the turns of a session, in order.
    async fn turn_numbers(&self, id: &SessionId) -> Result<Vec<u64>, StoreError> {
        let mut numbers: Vec<u64> = self.ask(cmd("HKEYS").arg(self.key(&format!("turns:{id}")))).await?;
        numbers.sort_unstable();
        Ok(numbers)
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    fn address(&self) -> String {
        self.address.clone()
    }

    async fn create(&self, session: &Session) -> Result<Version, StoreError> {
        let change = Change { id: Uuid::nil(), session, expected: Version(0), lease: None, turn: None };
        self.write(&change).await
    }

    async fn get(&self, id: &SessionId) -> Result<Option<Stored>, StoreError> {
        let key = self.session_key(id);
        let row: Row = self.ask(cmd("HMGET").arg(key).arg(&FIELDS)).await?;
        self.decode(id.as_str(), row)
    }

    async fn update(&self, change: &Change<'_>) -> Result<Version, StoreError> {
        self.write(change).await
    }

    async fn list(&self, filter: &Filter) -> Result<Vec<Stored>, StoreError> {
        let index = self.index_for(filter);
        let limit = filter.limit.unwrap_or(usize::MAX);
        let newest = filter.before.map_or("+inf".to_owned(), |at| format!("({}", at.as_millisecond()));
        let oldest = filter.since.map_or("-inf".to_owned(), |at| at.as_millisecond().to_string());
        let mut found = Vec::new();
        let mut offset = 0;
        loop {
            let mut page = cmd("ZREVRANGEBYSCORE");
            page.arg(&index).arg(&newest).arg(&oldest).arg("LIMIT").arg(offset).arg(PAGE);
            let ids: Vec<String> = self.ask(&page).await?;
            let mut look = pipe();
            for id in &ids {
                look.cmd("HMGET").arg(self.key(&format!("session:{id}"))).arg(&FIELDS);
            }
            let mut connection = self.connection.clone();
            let rows: Vec<Row> = match ids.is_empty() {
                true => Vec::new(),
                false => look.query_async(&mut connection).await.map_err(|error| self.failed(&error))?,
            };
            for (id, row) in ids.iter().zip(rows) {
                let stored = self.decode(id, row)?;
                found.extend(stored.filter(|stored| filter.fits(&stored.session)));
                if found.len() == limit {
                    return Ok(found);
                }
            }
            if ids.len() < PAGE {
                return Ok(found);
            }
            offset += PAGE;
        }
    }

    async fn turns(&self, id: &SessionId, from: u64, limit: usize) -> Result<Vec<TurnRecord>, StoreError> {
        let numbers: Vec<u64> =
            self.turn_numbers(id).await?.into_iter().filter(|number| *number >= from).take(limit).collect();
        if numbers.is_empty() {
            return Ok(Vec::new());
        }
        let (turns, words) = (self.key(&format!("turns:{id}")), self.key(&format!("words:{id}")));
        let plain: Vec<Option<String>> = self.ask(cmd("HMGET").arg(turns).arg(&numbers)).await?;
        let sealed: Vec<Option<Vec<u8>>> = self.ask(cmd("HMGET").arg(words).arg(&numbers)).await?;
        let rows = numbers.into_iter().zip(plain.into_iter().zip(sealed));
        rows.filter_map(|(number, row)| match row {
            (Some(plain), Some(sealed)) => {
                Some(codec::decode_turn(&self.vault, id, number, (&plain, &sealed)))
            }
            _ => None,
        })
        .collect()
    }

    async fn usage(&self, since: Option<Timestamp>) -> Result<Vec<UsageRow>, StoreError> {
        let since = since.map_or("-inf".to_owned(), |since| since.as_millisecond().to_string());
        let mut range = cmd("ZRANGEBYSCORE");
        let runs: Vec<String> = self.ask(range.arg(self.key("usage:at")).arg(since).arg("+inf")).await?;
        let mut rows = Vec::with_capacity(runs.len());
        for page in runs.chunks(PAGE) {
            let texts: Vec<Option<String>> = self.ask(cmd("HMGET").arg(self.key("usage")).arg(page)).await?;
            for text in texts.into_iter().flatten() {
                rows.push(codec::decode_usage(&text)?);
            }
        }
        Ok(rows)
    }

    async fn remove(&self, id: &SessionId, what: Remove) -> Result<bool, StoreError> {
        let mut script = self.scripts.remove.prepare_invoke();
        script
            .key(self.session_key(id))
            .key(self.key(&format!("turns:{id}")))
            .key(self.key(&format!("words:{id}")))
            .key(self.key("usage"))
            .key(self.key("usage:at"))
            .key(self.key(&format!("usage:of:{id}")))
            .key(self.stops_key(id))
            .arg(id.as_str())
            .arg(if what == Remove::Everything { "1" } else { "0" });
        self.run(&script).await
    }

    async fn acquire(&self, request: &Request<'_>) -> Result<Acquired, StoreError> {
        let instead = request.instead_of.map(|token| token.to_string()).unwrap_or_default();
        let mut script = self.scripts.acquire.prepare_invoke();
        script
            .key(self.key(&format!("lease:{}", request.name)))
            .key(self.key(&format!("lock:{}", request.name)))
            .arg(request.token.to_string())
            .arg(millis(request.ttl))
            .arg(request.floor)
            .arg(request.holder)
            .arg(instead);
        let (word, fence, held): (String, u64, String) = self.run(&script).await?;
        if word == "lease" {
            return Ok(Acquired::Lease(Lease { name: request.name.to_owned(), token: request.token, fence }));
        }
        // The token has 36 characters; the holder follows.
        let (token, holder) = held.split_at_checked(36).unwrap_or_default();
        Ok(Acquired::Held { holder: holder.to_owned(), token: Uuid::try_parse(token).unwrap_or_default() })
    }

    async fn renew(&self, lease: &Lease, ttl: Duration) -> Result<(), StoreError> {
        let mut script = self.scripts.renew.prepare_invoke();
        script
            .key(self.key(&format!("lease:{}", lease.name)))
            .key(self.key(&format!("lock:{}", lease.name)))
            .arg(lease.token.to_string())
            .arg(millis(ttl));
        let latest: i64 = self.run(&script).await?;
        match u64::try_from(latest) {
            Err(_) => Ok(()),
            Ok(latest) => Err(StoreError::Fenced { name: lease.name.clone(), ours: lease.fence, latest }),
        }
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut script = self.scripts.release.prepare_invoke();
        script
            .key(self.key(&format!("lease:{}", lease.name)))
            .key(self.key(&format!("lock:{}", lease.name)))
            .arg(lease.token.to_string());
        self.run(&script).await
    }

    async fn holder_of(&self, name: &str) -> Result<Option<String>, StoreError> {
        let mut script = self.scripts.holder.prepare_invoke();
        script.key(self.key(&format!("lease:{name}"))).key(self.key(&format!("lock:{name}")));
        self.run(&script).await
    }

    async fn ask_to_stop(&self, id: &SessionId, run: Uuid) -> Result<(), StoreError> {
        let mut script = self.scripts.stop.prepare_invoke();
        script.key(self.session_key(id)).key(self.stops_key(id)).arg(run.to_string());
        let is_there: bool = self.run(&script).await?;
        if is_there { Ok(()) } else { Err(StoreError::Gone(id.clone())) }
    }

    async fn is_asked_to_stop(&self, id: &SessionId, run: Uuid) -> Result<bool, StoreError> {
        self.ask(cmd("SISMEMBER").arg(self.stops_key(id)).arg(run.to_string())).await
    }

    async fn reseal(&self, batch: usize) -> Result<Resealed, StoreError> {
        let mut done = Resealed::default();
        let batch = batch.max(1);
        let mut offset = 0;
        loop {
            let mut page = cmd("ZRANGE");
            page.arg(self.key("index:all")).arg(offset).arg(offset + batch - 1);
            let ids: Vec<String> = self.ask(&page).await?;
            for id in &ids {
                let key = self.key(&format!("session:{id}"));
                self.reseal_field((&key, "sealed"), session_place(id), &mut done).await?;
                let Ok(session) = SessionId::parse(id) else { continue };
                let words = self.key(&format!("words:{id}"));
                for number in self.turn_numbers(&session).await? {
                    let row = codec::turn_row(&session, number);
                    let field = number.to_string();
                    self.reseal_field((&words, &field), turn_place(&row), &mut done).await?;
                }
            }
            if ids.len() < batch {
                break;
            }
            offset += batch;
        }
        if done.left == 0 {
            // Last, so that an interrupted rotation still needs the old key.
            let sealed = self.vault.seal(CANARY, CANARY_TEXT)?;
            self.ask::<()>(cmd("SET").arg(self.key("canary")).arg(sealed)).await?;
        }
        Ok(done)
    }

    async fn close(&self) {
        // Calls that are under way end by themselves, and the connection with its last owner.
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
