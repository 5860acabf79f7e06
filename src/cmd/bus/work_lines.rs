//! `godctl bus work --lines`: deliveries on standard output, settlements on standard input, for programs that do the
//! work themselves.
//!
//! A thread reads standard input; everything else runs on the command's task. The end of the input, SIGTERM or a
//! closed bus ends it; SIGTERM first waits for the settlement of what was handed out.

use std::{collections::HashMap, future::Future, io, io::Write as _, pin::Pin, time::Duration};

use anyhow::Context as _;
use futures_util::{StreamExt as _, future::OptionFuture, stream::FuturesUnordered};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::warn;
use uuid::Uuid;

use super::{
    connection::{drain_deadline, with_bus},
    line::json_line,
    lines::{Line, Lines},
    work::Args,
};
use crate::{
    bus::{Body, BusError, Delivery, Settled, WorkQueue},
    cmd::{Context, Stdout, Threads},
};

/// The longest settlement; a reason is a sentence or two.
const LONGEST_LINE: usize = 64 << 10;

/// What to do with a delivery.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", untagged, deny_unknown_fields)]
enum Settle {
    Ack {
        ack: Uuid,
    },
    Retry {
        retry: Uuid,
        #[serde(default)]
        delay_ms: u64,
        #[serde(default)]
        reason: String,
    },
    Dead {
        dead: Uuid,
        #[serde(default)]
        reason: String,
    },
    Release {
        release: Uuid,
    },
    Extend {
        extend: Uuid,
    },
}

impl Settle {
    fn read(line: &Line) -> Result<Self, String> {
        let help = "want {\"ack\": ID}, {\"retry\": ID, \"delay_ms\": N, \"reason\": TEXT}, {\"dead\": ID, \"reason\": TEXT}, {\"release\": ID} or {\"extend\": ID}";
        serde_json::from_slice(&line.text).map_err(|_| help.to_owned())
    }

    const fn event_id(&self) -> Uuid {
        match self {
            Self::Ack { ack: id }
            | Self::Retry { retry: id, .. }
            | Self::Dead { dead: id, .. }
            | Self::Release { release: id }
            | Self::Extend { extend: id } => *id,
        }
    }
}

/// A settlement on its way; gives the answer, and the delivery where it goes on.
type Settling = Pin<Box<dyn Future<Output = (Value, Option<Delivery>)>>>;

pub(super) fn run(args: &Args, context: &Context) -> anyhow::Result<()> {
    context.block_on(Threads::PerCore, async {
        with_bus(context, async |bus| {
            let queue = tokio::select! {
                biased;
                () = context.shutdown.cancelled() => return Ok(()),
                queue = bus.queue(args.spec()) => queue?,
            };
            let lines = Lines::read(&context.shutdown, io::stdin(), LONGEST_LINE)?;
            let mut consumer = Consumer {
                queue: &*queue,
                name: args.spec().name,
                visibility: args.spec().visibility,
                held: HashMap::new(),
                settling: FuturesUnordered::new(),
            };
            let result = consumer.work(args, context, lines).await;
            consumer.give_back().await;
            result
        })
        .await
    })
}

struct Consumer<'a> {
    queue: &'a dyn WorkQueue,
    name: String,
    visibility: Duration,
    /// Handed out and not settled, by event.
    held: HashMap<Uuid, Delivery>,
    settling: FuturesUnordered<Settling>,
}

impl Consumer<'_> {
    async fn work(&mut self, args: &Args, context: &Context, mut lines: Lines) -> anyhow::Result<()> {
        let queue = self.queue;
        let mut draining = false;
        let deadline = drain_deadline(context);
        let mut idle = args.idle.map(|idle| Box::pin(tokio::time::sleep(idle)));
        let mut overdue = None;
        loop {
            if draining && self.held.is_empty() && self.settling.is_empty() {
                return Ok(());
            }
            let has_room = self.held.len() + self.settling.len() < usize::from(args.prefetch);
            tokio::select! {
                () = context.shutdown.cancelled(), if !draining => {
                    draining = true;
                    queue.drain().await;
                    overdue = Some(Box::pin(tokio::time::sleep(deadline)));
                }
                Some(()) = OptionFuture::from(overdue.as_mut()) => return Ok(()),
                Some(()) = OptionFuture::from(idle.as_mut()), if !draining && self.held.is_empty() => {
                    draining = true;
                    queue.drain().await;
                }
                Some((answer, delivery)) = self.settling.next() => {
                    if let Some(delivery) = delivery && let Some(event) = delivery.received.body.event() {
                        self.held.insert(event.event_id, delivery);
                    }
                    say(&answer)?;
                }
                batch = lines.next() => {
                    let Some(batch) = batch.context("cannot read standard input")? else {
                        queue.drain().await;
                        return Ok(());
                    };
                    for line in batch {
                        self.settle(&line)?;
                    }
                }
                delivery = queue.next(), if !draining && has_room => {
                    let Some(delivery) = delivery? else { return Ok(()) };
                    self.hand_out(delivery)?;
                    if let (Some(idle), Some(limit)) = (&mut idle, args.idle) {
                        idle.as_mut().reset(tokio::time::Instant::now() + limit);
                    }
                }
            }
        }
    }

    fn hand_out(&mut self, delivery: Delivery) -> anyhow::Result<()> {
        let event = match &delivery.received.body {
            Body::Event(event) => event,
            Body::Unparsed(unparsed) => {
                warn!(reason = unparsed.reason, "a message that is no event goes to the dead letters");
                let reason = format!("not an event: {}", unparsed.reason);
                self.settling.push(Box::pin(async move {
                    let answer = match delivery.lease.dead(&reason).await {
                        Ok(()) => json!({ "dead": null, "reason": reason }),
                        Err(error) => json!({ "event_id": null, "error": error.to_string() }),
                    };
                    (answer, None)
                }));
                return Ok(());
            }
        };
        let id = event.event_id;
        let line = json!({
            "event_id": id,
            "event": event,
            "attempt": delivery.attempt,
            "queue": self.name,
            "at_ms": Timestamp::now().as_millisecond(),
        });
        // An earlier delivery of the same event has lost its lease, or this one would not be here.
        self.held.insert(id, delivery);
        say(&line)
    }

    fn settle(&mut self, line: &Line) -> anyhow::Result<()> {
        let settle = match Settle::read(line) {
            Ok(settle) => settle,
            Err(reason) => return say(&json!({ "line": line.number, "error": reason })),
        };
        let id = settle.event_id();
        let Some(delivery) = self.held.remove(&id) else {
            let error = "not held; it was settled before, or never handed out";
            return say(&json!({ "event_id": id, "error": error }));
        };
        let visibility = self.visibility;
        self.settling.push(Box::pin(async move {
            let answered = apply(&settle, &delivery, visibility).await;
            let goes_on = matches!(settle, Settle::Extend { .. }) && answered.is_ok();
            let answer = match answered {
                Ok(word) => json!({ word: id }),
                Err(error) => json!({ "event_id": id, "error": error.to_string() }),
            };
            (answer, goes_on.then_some(delivery))
        }));
        Ok(())
    }

    /// Lets settlements end, and gives back what was not settled.
    async fn give_back(mut self) {
        while let Some((answer, delivery)) = self.settling.next().await {
            if let Some(delivery) = delivery
                && let Some(event) = delivery.received.body.event()
            {
                self.held.insert(event.event_id, delivery);
            }
            // Whoever closed the input may have closed the output too.
            drop(say(&answer));
        }
        let releases: FuturesUnordered<_> =
            self.held.values().map(|delivery| delivery.lease.release()).collect();
        let failures = releases.filter_map(|result| async { result.err() }).collect::<Vec<_>>().await;
        if let Some(error) = failures.first() {
            warn!(%error, count = failures.len(), "work comes back only when its lease ends");
        }
    }
}

/// Does it, and tells what was done.
async fn apply(settle: &Settle, delivery: &Delivery, visibility: Duration) -> Result<&'static str, BusError> {
    let lease = &delivery.lease;
    match settle {
        Settle::Ack { .. } => lease.ack().await.map(|()| "acked"),
        Settle::Dead { reason, .. } => lease.dead(reason).await.map(|()| "dead"),
        Settle::Release { .. } => lease.release().await.map(|()| "released"),
        Settle::Extend { .. } => lease.extend(visibility).await.map(|()| "extended"),
        Settle::Retry { delay_ms, reason, .. } => {
            match lease.retry(Duration::from_millis(*delay_ms), reason).await? {
                Settled::Retrying => Ok("retrying"),
                Settled::Dead => Ok("dead"),
            }
        }
    }
}

fn say(line: &Value) -> anyhow::Result<()> {
    let mut out = Stdout::lock();
    writeln!(out, "{}", json_line(line))?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settlements_are_read() {
        let id = Uuid::from_u128(7);
        let read =
            |text: String| Settle::read(&Line { number: 1, text: text.into(), too_long: None, offset: 0 });
        assert_eq!(read(format!("{{\"ack\": \"{id}\"}}")), Ok(Settle::Ack { ack: id }));
        let retry = Settle::Retry { retry: id, delay_ms: 50, reason: "later".to_owned() };
        assert_eq!(read(format!("{{\"retry\":\"{id}\",\"delay_ms\":50,\"reason\":\"later\"}}")), Ok(retry));
        let dead = Settle::Dead { dead: id, reason: String::new() };
        assert_eq!(read(format!("{{\"dead\":\"{id}\"}}")), Ok(dead));
        assert_eq!(read(format!("{{\"release\":\"{id}\"}}")), Ok(Settle::Release { release: id }));
        assert_eq!(read(format!("{{\"extend\":\"{id}\"}}")), Ok(Settle::Extend { extend: id }));
        for wrong in ["", "{}", "{\"ack\": 5}", &format!("{{\"ack\":\"{id}\",\"dead\":\"{id}\"}}")] {
            assert!(read(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
