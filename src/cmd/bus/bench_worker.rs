//! One process of `godctl bus bench`: reads its job from standard input, says `ready`, and when told to publishes as
//! fast as it can, publishes at a steady pace, or listens and tells how long events were on their way.

use std::{
    io::{self, BufRead as _, Write as _},
    path::PathBuf,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    connection::{Place, with_bus_at},
    envelope,
};
use crate::{
    bus::{Event, EventBus, EventType, Item, Publish, Start, Subscription, event::Stamp},
    cmd::{Context, Stdout, Threads},
    config::{self, BusUrl},
};

/// What one process does.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Job {
    /// With user and password.
    pub(super) url: String,
    pub(super) exchange: String,
    pub(super) data_dir: PathBuf,
    pub(super) role: Role,
    /// What the types of its events begin with.
    pub(super) types: String,
    pub(super) count: u32,
    pub(super) batch: u16,
    /// Bytes of text in each event.
    pub(super) payload: u32,
}

/// Its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Role {
    Publish,
    Pace,
    Listen,
}

/// How long events were on their way, in milliseconds.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Latency {
    pub(super) events: u64,
    pub(super) p50_ms: f64,
    pub(super) p95_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

/// Between two events whose way is timed, so that each finds an idle listener.
const PACE: Duration = Duration::from_millis(5);

/// The longest that an event may be on its way.
const LOST: Duration = Duration::from_secs(10);

pub(super) fn run(context: &Context) -> anyhow::Result<()> {
    let mut stdin = io::stdin().lock();
    let mut line = String::new();
    stdin.read_line(&mut line)?;
    let job: Job = serde_json::from_str(&line).context("--worker is for godctl bus bench itself")?;
    let url: BusUrl = job.url.parse().map_err(|reason: &str| anyhow::anyhow!("{reason}"))?;
    let config = config::Bus { url, exchange: job.exchange.clone(), ..context.config.bus.clone() };
    context.block_on(Threads::PerCore, async {
        let place = Place { config: &config, data_dir: &job.data_dir };
        with_bus_at(context, place, async |bus| match job.role {
            Role::Listen => listen(&job, &*bus, context).await,
            Role::Publish | Role::Pace => {
                say("ready")?;
                let mut go = String::new();
                stdin.read_line(&mut go)?;
                if go.trim() != "go" {
                    bail!("the bench ended");
                }
                match job.role {
                    Role::Publish => publish(&job, &*bus).await?,
                    Role::Pace | Role::Listen => pace(&job, &*bus).await?,
                }
                say("done")
            }
        })
        .await
    })
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = Stdout::lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// Nanoseconds on the clock that all processes of a machine share.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn event(job: &Job, event_type: &EventType) -> Event {
    let text = "x".repeat(usize::try_from(job.payload).unwrap_or_default());
    let payload = json!({ "sent_ns": now(), "text": text });
    Event::new(Stamp::now(), event_type.clone(), envelope::source("godctl-bench", "service"), payload)
}

async fn publish(job: &Job, bus: &dyn EventBus) -> anyhow::Result<()> {
    let event_type: EventType = format!("{}.published", job.types).parse()?;
    let mut left = usize::try_from(job.count)?;
    while left > 0 {
        let batch = left.min(usize::from(job.batch));
        let events: Vec<Event> = (0..batch).map(|_| event(job, &event_type)).collect();
        send(bus, &events).await?;
        left -= batch;
    }
    Ok(())
}

async fn send(bus: &dyn EventBus, events: &[Event]) -> anyhow::Result<()> {
    let published = bus.publish(events, Publish::default()).await?;
    if published.deferred > 0 {
        bail!("the broker is away; what waits in the outbox now is of no use to anybody");
    }
    Ok(())
}

async fn pace(job: &Job, bus: &dyn EventBus) -> anyhow::Result<()> {
    let event_type: EventType = format!("{}.timed", job.types).parse()?;
    let mut ticks = tokio::time::interval(PACE);
    for _ in 0..job.count {
        ticks.tick().await;
        send(bus, &[event(job, &event_type)]).await?;
    }
    Ok(())
}

async fn listen(job: &Job, bus: &dyn EventBus, context: &Context) -> anyhow::Result<()> {
    let pattern = format!("{}.timed", job.types).parse()?;
    let subscription =
        Subscription { patterns: vec![pattern], start: Start::Now, follow: true, consumer: "bench" };
    let mut stream = bus.subscribe(subscription).await?;
    say("ready")?;
    let mut on_their_way = Vec::with_capacity(usize::try_from(job.count)?);
    while on_their_way.len() < usize::try_from(job.count)? {
        let item = tokio::select! {
            biased;
            () = context.shutdown.cancelled() => bail!("interrupted"),
            item = tokio::time::timeout(PATIENCE, stream.next()) => item,
        };
        match item {
            Err(_) => bail!(
                "{} of {} events did not come",
                usize::try_from(job.count)? - on_their_way.len(),
                job.count
            ),
            Ok(item) => match item? {
                None => bail!("the subscription ended"),
                Some(Item::Event(received)) => {
                    let at = now();
                    let sent = received.body.event().and_then(|event| event.payload.get("sent_ns")?.as_u64());
                    on_their_way.push(at.saturating_sub(sent.context("an event that is not the bench's")?));
                }
                Some(Item::Gap { reason, .. }) => bail!("{reason}"),
                Some(Item::CaughtUp) => {}
            },
        }
    }
    on_their_way.sort_unstable();
    let latency = Latency {
        events: on_their_way.len() as u64,
        p50_ms: percentile(&on_their_way, 50),
        p95_ms: percentile(&on_their_way, 95),
        p99_ms: percentile(&on_their_way, 99),
        max_ms: percentile(&on_their_way, 100),
    };
    say(&serde_json::to_string(&latency)?)
}

/// The listener is started before the publisher, which then has to open its bus.
const PATIENCE: Duration = Duration::from_secs(30).saturating_add(LOST);

/// By nearest rank, in milliseconds, of sorted nanoseconds.
fn percentile(sorted: &[u64], percent: usize) -> f64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    #[allow(clippy::cast_precision_loss, reason = "a latency has three digits that matter")]
    let nanos = sorted.get(rank - 1).copied().unwrap_or_default() as f64;
    nanos / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let sorted: Vec<u64> = (1..=200).map(|ms| ms * 1_000_000).collect();
        let of = |percent| percentile(&sorted, percent);
        assert!([of(50), of(95), of(99), of(100)] == [100.0, 190.0, 198.0, 200.0]);
        assert!(percentile(&[], 50) == 0.0);
    }
}
