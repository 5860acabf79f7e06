//! A recording instead of a bus: JSON lines, an exported JSON array, or the file of a bus in SQLite. Runs in one task
//! that ends with the recording, or when nobody wants more.

use std::{
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;
use serde_json::Value;
use tokio::{sync::mpsc, time::sleep};

use super::{
    app::{Arrived, Link},
    feed::{Batching, News, Order},
};
use crate::{
    bus::{Body, Item, Pattern, Received, Start, Subscription, connect, event},
    config,
    shutdown::Shutdown,
};

/// The largest event that is read.
const MAX_EVENT: usize = 64 << 20;

/// The largest array that is read; lines and databases may be of any size.
const MAX_ARRAY: u64 = 1 << 30;

/// How every file of SQLite begins (its file format, section 1.3).
const SQLITE: &[u8] = b"SQLite format 3\0";

/// What is played.
#[derive(Debug)]
pub(super) struct Recording {
    path: PathBuf,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Array,
    Sqlite,
}

impl Recording {
    /// Looks what kind of file this is.
    ///
    /// # Errors
    /// A file that can't be read.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read the recording {}", path.display());
        let mut head = [0; 512];
        let mut file = File::open(path).with_context(cannot)?;
        let mut length = 0;
        loop {
            let part = head.get_mut(length..).unwrap_or_default();
            match file.read(part).with_context(cannot)? {
                0 => break,
                more => length += more,
            }
        }
        let head = head.get(..length).unwrap_or_default();
        let form = match head.iter().find(|byte| !byte.is_ascii_whitespace()) {
            _ if head.starts_with(SQLITE) => Form::Sqlite,
            Some(b'[') => Form::Array,
            _ => Form::Lines,
        };
        Ok(Self { path: path.to_owned(), form })
    }
}

/// How it is played.
#[derive(Debug)]
pub(super) struct Player {
    pub(super) recording: Recording,
    pub(super) patterns: Vec<Pattern>,
    /// How many times as fast as it happened; as fast as can be without.
    pub(super) speed: Option<f64>,
    pub(super) batching: Batching,
    pub(super) config: config::Bus,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) news: mpsc::Sender<News>,
    pub(super) shutdown: Shutdown,
}

impl Player {
    /// Plays it to its end, then waits until nobody wants more.
    ///
    /// # Errors
    /// What can't be read.
    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        drop(self.news.send(News::Link(Link::Connected)).await);
        let (sender, mut items) = mpsc::channel(256);
        let reading = read(self.recording, self.patterns.clone(), self.config, sender, self.shutdown.clone());
        let mut reading = std::pin::pin!(reading);
        let mut is_read = false;
        let mut batch = Vec::new();
        let mut before: Option<Timestamp> = None;
        loop {
            let received: Option<Received> = tokio::select! {
                result = &mut reading, if !is_read => {
                    result?;
                    is_read = true;
                    continue;
                }
                item = items.recv() => item,
            };
            let Some(received) = received else { break };
            let at = received.at;
            if let (Some(speed), Some(at)) = (self.speed, at) {
                let gap = before.map_or(0.0, |before| at.duration_since(before).as_secs_f64() / speed);
                before = Some(before.map_or(at, |before| before.max(at)));
                // A pause that a person would wait for no longer is a mistake in a clock.
                let pause = Duration::try_from_secs_f64(gap.clamp(0.0, 3600.0)).unwrap_or_default();
                if pause > Duration::from_millis(1) {
                    if !send(&self.news, &mut batch).await {
                        return Ok(());
                    }
                    sleep(pause).await;
                }
            }
            batch.push(Arrived { item: Item::Event(Box::new(received)), is_live: true });
            if batch.len() >= self.batching.most && !send(&self.news, &mut batch).await {
                return Ok(());
            }
        }
        if !send(&self.news, &mut batch).await {
            return Ok(());
        }
        drop(self.news.send(News::CaughtUp).await);
        drop(self.news.send(News::Link(Link::Ended)).await);
        // There is nothing to connect to; orders are heard until they end.
        while self.orders.recv().await.is_some() {}
        Ok(())
    }
}

async fn send(news: &mpsc::Sender<News>, batch: &mut Vec<Arrived>) -> bool {
    batch.is_empty() || news.send(News::Batch(std::mem::take(batch))).await.is_ok()
}

/// Reads the recording into a channel.
async fn read(
    recording: Recording,
    patterns: Vec<Pattern>,
    config: config::Bus,
    items: mpsc::Sender<Received>,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let Recording { path, form } = recording;
    if form == Form::Sqlite {
        return read_bus(&path, patterns, config, items).await;
    }
    let (done, ended) = tokio::sync::oneshot::channel();
    let reading = move || {
        let wanted =
            |received: &Received| patterns.iter().any(|pattern| pattern.matches(&received.routing_key));
        let give = |bytes: &[u8]| {
            let received = received(bytes);
            !wanted(&received) || items.blocking_send(received).is_ok()
        };
        let cannot = || format!("cannot read the recording {}", path.display());
        let file = File::open(&path).with_context(cannot)?;
        if form == Form::Array {
            if file.metadata().with_context(cannot)?.len() > MAX_ARRAY {
                bail!(
                    "{} is an array of more than 1 GB; turn it into lines first: jq -c '.[]'",
                    path.display()
                );
            }
            let events: Vec<Value> = serde_json::from_reader(BufReader::new(file)).with_context(cannot)?;
            events.iter().all(|event| give(event.to_string().as_bytes()));
            return Ok(());
        }
        let mut reader = BufReader::new(file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let limit = u64::try_from(MAX_EVENT).unwrap_or(u64::MAX);
            if reader.by_ref().take(limit).read_until(b'\n', &mut line).with_context(cannot)? == 0 {
                return Ok(());
            }
            let text = line.trim_ascii();
            if !text.is_empty() && !give(text) {
                return Ok(());
            }
        }
    };
    // Nobody left to tell is nobody who waits.
    shutdown.unjoined_thread("replay", move || drop(done.send(reading())))?;
    ended.await.context("the reader of the recording has ended early")?
}

/// One event of a recording. The time when it was recorded is not known; its own stands for it.
fn received(bytes: &[u8]) -> Received {
    let (routing_key, at, body) = match event::read(bytes, None, Timestamp::UNIX_EPOCH, MAX_EVENT) {
        Ok(event) => (event.event_type.to_string(), Some(event.timestamp), Body::Event(event)),
        Err(unparsed) => (String::new(), None, Body::Unparsed(unparsed)),
    };
    Received { position: None, at, routing_key, body }
}

async fn read_bus(
    path: &Path,
    patterns: Vec<Pattern>,
    config: config::Bus,
    items: mpsc::Sender<Received>,
) -> anyhow::Result<()> {
    let url = format!("sqlite:{}", path.display());
    let url = url.parse().map_err(|reason: &str| anyhow::anyhow!("{reason}"))?;
    let life = Shutdown::new();
    let watched = connect::watch(&config::Bus { url, ..config }, Path::new("."), &life).await?;
    let subscription = Subscription { patterns, start: Start::Beginning, follow: false, consumer: "dash" };
    let mut stream = watched.bus.subscribe(subscription).await?;
    while let Some(item) = stream.next().await? {
        if let Item::Event(received) = item
            && items.send(*received).await.is_err()
        {
            break;
        }
    }
    drop(stream);
    watched.bus.close().await;
    drop(watched);
    life.finish(Duration::from_secs(2)).await?;
    Ok(())
}
