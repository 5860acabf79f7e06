//! Looking at queues from outside: which there are, what waits in them, moving and deleting it. Runs in the calling
//! task, on channels of its own.
//!
//! AMQP can look at a message only by taking it; what was only looked at is put back in its place. A consumer that asks
//! in that moment does not get it.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::join_all;
use lapin::{
    Channel,
    message::Delivery,
    options::{
        BasicAckOptions, BasicGetOptions, BasicNackOptions, QueueDeclareOptions, QueueDeleteOptions,
        QueuePurgeOptions,
    },
    types::{FieldTable, ShortString},
};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tracing::warn;

use super::{
    super::{BusError, Held, Lane, Pattern, QueueInfo, Selection},
    link::Live,
    message::{self, Headers, Past},
    past,
    publish::Publisher,
    records::Records,
    topology::{BUCKETS, Names, count},
};

/// Dead letters that are moved together.
const BATCH: usize = 256;

/// The work queues of this bus, which the broker keeps a list of in `<exchange>.queues`.
#[derive(Debug)]
pub(super) struct Registry {
    records: Records,
    /// Those that this process has entered, and the ones that it was told of.
    known: Mutex<BTreeMap<String, BTreeSet<String>>>,
    turn: tokio::sync::Mutex<()>,
}

/// An entry of the list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    queue: String,
    #[serde(default)]
    bindings: Vec<String>,
}

impl Registry {
    pub(super) fn new(exchange: &str, known: &[String]) -> Result<Self, BusError> {
        let known = known.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
        let records = Records::new(&format!("{exchange}.queues"), false)?;
        Ok(Self { records, known: Mutex::new(known), turn: tokio::sync::Mutex::default() })
    }

    /// Enters a queue and its bindings. A queue that can't be entered works all the same.
    pub(super) async fn enter(&self, live: &Live, queue: &str, bindings: &[Pattern]) {
        let bindings: BTreeSet<String> = bindings.iter().map(ToString::to_string).collect();
        if self.known.lock().get(queue).is_some_and(|known| !known.is_empty() && bindings.is_subset(known)) {
            return;
        }
        match self.change(live, queue, Some(&bindings)).await {
            Ok(()) => self.known.lock().entry(queue.to_owned()).or_default().extend(bindings),
            Err(error) => {
                warn!(queue, %error, "cannot enter the queue into the list of queues");
                self.known.lock().entry(queue.to_owned()).or_default();
            }
        }
    }

    async fn remove(&self, live: &Live, queue: &str) {
        self.known.lock().remove(queue);
        if let Err(error) = self.change(live, queue, None).await {
            warn!(queue, %error, "cannot take the queue off the list of queues");
        }
    }

    async fn change(
        &self,
        live: &Live,
        queue: &str,
        bindings: Option<&BTreeSet<String>>,
    ) -> Result<(), BusError> {
        let _turn = self.turn.lock().await;
        let open = self.records.open(live, bindings.is_some()).await?;
        let entries = entries(&open.texts());
        let old: Vec<usize> =
            entries.iter().filter(|(_, entry)| entry.queue == queue).map(|(index, _)| *index).collect();
        let before =
            entries.iter().rev().find(|(_, entry)| entry.queue == queue).map(|(_, entry)| entry.clone());
        let after = bindings.map(|bindings| {
            let mut entry = before.clone().unwrap_or(Entry { queue: queue.to_owned(), bindings: Vec::new() });
            let new: Vec<String> =
                bindings.iter().filter(|text| !entry.bindings.contains(text)).cloned().collect();
            entry.bindings.extend(new);
            entry
        });
        if before == after {
            open.close().await;
            return Ok(());
        }
        let text = after.map(|entry| serde_json::to_string(&entry).unwrap_or_default());
        open.commit(Vec::new(), &old, text.as_deref()).await.map(drop)
    }

    async fn list(&self, live: &Live) -> Result<BTreeMap<String, Option<Vec<String>>>, BusError> {
        let _turn = self.turn.lock().await;
        let open = self.records.open(live, false).await?;
        let texts = open.texts();
        open.close().await;
        let known = self.known.lock().keys().cloned().map(|name| (name, None)).collect::<BTreeMap<_, _>>();
        let listed = entries(&texts).into_iter().map(|(_, entry)| (entry.queue, Some(entry.bindings)));
        Ok(known.into_iter().chain(listed).collect())
    }

    /// Deletes the list.
    #[cfg(test)]
    pub(super) async fn delete(&self, live: &Live) {
        self.records.remove(live).await;
    }
}

/// The entries that can be read, with their indexes.
fn entries(texts: &[String]) -> Vec<(usize, Entry)> {
    texts
        .iter()
        .enumerate()
        .filter_map(|(index, text)| Some((index, serde_json::from_str(text).ok()?)))
        .collect()
}

/// One look at the queues.
#[derive(Debug)]
pub(super) struct Admin<'a> {
    pub(super) live: &'a Live,
    pub(super) registry: &'a Registry,
    pub(super) publisher: &'a Publisher,
    pub(super) max_event_bytes: usize,
}

impl Admin<'_> {
    /// The queues that this bus has made and that are still there.
    pub(super) async fn queues(&self) -> Result<Vec<QueueInfo>, BusError> {
        let mut found = Vec::new();
        for (name, bindings) in self.registry.list(self.live).await? {
            let names = Names::of(&name)?;
            let Some(ready) = count(self.live, &names.queue).await? else { continue };
            let dead = count(self.live, &names.dead).await?.map_or(0, |counts| counts.messages);
            let delayed = self.retries(&names).await?.iter().map(|(_, messages)| messages).sum();
            found.push(QueueInfo {
                name,
                bindings,
                ready: ready.messages,
                leased: None,
                delayed,
                dead,
                consumers: Some(ready.consumers),
            });
        }
        Ok(found)
    }

    /// The queues in which work of this one waits out a delay, and how much of it.
    async fn retries(&self, names: &Names) -> Result<Vec<(ShortString, u64)>, BusError> {
        let counted = join_all(BUCKETS.map(|bucket| async move {
            let name = names.retry(bucket);
            count(self.live, &name).await.map(|counts| counts.map(|counts| (name, counts.messages)))
        }));
        Ok(counted.await.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
    }

    /// # Errors
    /// [`BusError::NoSuchQueue`].
    async fn names(&self, queue: &str) -> Result<Names, BusError> {
        let missing = || BusError::NoSuchQueue(queue.to_owned());
        let names = Names::of(queue).map_err(|_| missing())?;
        count(self.live, &names.queue).await?.map(|_| names).ok_or_else(missing)
    }

    /// The queues of a lane that are there.
    async fn lane(&self, names: &Names, lane: Lane) -> Result<Vec<ShortString>, BusError> {
        match lane {
            Lane::Dead => {
                Ok(count(self.live, &names.dead).await?.map(|_| names.dead.clone()).into_iter().collect())
            }
            Lane::Ready => {
                let retries = self.retries(names).await?.into_iter().map(|(name, _)| name);
                Ok(std::iter::once(names.queue.clone()).chain(retries).collect())
            }
        }
    }

    pub(super) async fn peek(&self, queue: &str, lane: Lane, limit: usize) -> Result<Vec<Held>, BusError> {
        let names = self.names(queue).await?;
        let mut shown = Vec::new();
        for source in self.lane(&names, lane).await? {
            let mut taken = Taken::new(self.live, source).await?;
            while shown.len() < limit
                && let Some(delivery) = taken.next().await?
            {
                shown.push(self.held(queue, lane, &delivery));
                if lane == Lane::Ready {
                    past::uncounted(queue, &delivery);
                }
            }
            taken.put_back().await?;
        }
        Ok(shown)
    }

    fn held(&self, queue: &str, lane: Lane, delivery: &Delivery) -> Held {
        let Delivery { routing_key, properties, data, .. } = delivery;
        let received = message::received(routing_key.as_str(), properties, data, self.max_event_bytes);
        let headers = Headers::of(properties);
        let attempts = match lane {
            Lane::Ready => past::attempts(queue, delivery),
            Lane::Dead => headers.attempts(),
        };
        let reason = if lane == Lane::Dead { headers.reason() } else { None };
        Held { received, attempts, reason, since: headers.since(), history: headers.history() }
    }

    fn is_chosen(&self, which: &Selection, delivery: &Delivery) -> bool {
        let Selection::Events(events) = which else { return true };
        let Delivery { routing_key, properties, data, .. } = delivery;
        let received = message::received(routing_key.as_str(), properties, data, self.max_event_bytes);
        message::id_of(&received, properties).is_some_and(|id| events.contains(&id))
    }

    pub(super) async fn requeue(&self, queue: &str, which: &Selection) -> Result<u64, BusError> {
        let names = self.names(queue).await?;
        let Some(dead) = count(self.live, &names.dead).await? else { return Ok(0) };
        let mut taken = Taken::new(self.live, names.dead.clone()).await?;
        let mut moved = 0;
        let mut batch = Vec::new();
        // What dies again while this runs is not moved again.
        for left in (0..dead.messages).rev() {
            let next = taken.next().await?;
            let end = next.is_none() || left == 0;
            if let Some(delivery) = next
                && self.is_chosen(which, &delivery)
            {
                batch.push(delivery);
            }
            if batch.len() >= BATCH || end {
                moved += self.move_back(&names, &mut taken, std::mem::take(&mut batch)).await?;
            }
            if end {
                break;
            }
        }
        taken.put_back().await?;
        Ok(moved)
    }

    /// Publishes copies of dead letters into their queue, then deletes them.
    async fn move_back(
        &self,
        names: &Names,
        taken: &mut Taken<'_>,
        batch: Vec<Delivery>,
    ) -> Result<u64, BusError> {
        let copies = batch
            .iter()
            .map(|Delivery { routing_key, properties, data, .. }| {
                let received =
                    message::received(routing_key.as_str(), properties, data, self.max_event_bytes);
                let history = Headers::of(properties).history();
                let past = Past { attempts: 0, history, due: None, death: None };
                let (queue, origin) = (&names.queue, names.queue.as_str());
                message::copy(queue, origin, &received.routing_key, properties, data.clone(), &past)
            })
            .collect();
        let confirmed = self.publisher.publish(copies).await?;
        if !confirmed.unrouted.is_empty() {
            return Err(BusError::NoSuchQueue(names.queue.to_string()));
        }
        for delivery in &batch {
            taken.delete(delivery).await?;
        }
        Ok(u64::try_from(batch.len()).unwrap_or(u64::MAX))
    }

    pub(super) async fn purge(&self, queue: &str, lane: Lane, which: &Selection) -> Result<u64, BusError> {
        let names = self.names(queue).await?;
        let mut deleted = 0;
        for source in self.lane(&names, lane).await? {
            if *which == Selection::All {
                let channel = self.live.channel().await?;
                let purge = channel.queue_purge(source, QueuePurgeOptions::default());
                deleted += u64::from(self.live.answer(&names.what(), purge).await?);
                continue;
            }
            let waiting = count(self.live, &source).await?.map_or(0, |counts| counts.messages);
            let mut taken = Taken::new(self.live, source).await?;
            for _ in 0..waiting {
                let Some(delivery) = taken.next().await? else { break };
                if self.is_chosen(which, &delivery) {
                    taken.delete(&delivery).await?;
                    deleted += 1;
                } else if lane == Lane::Ready {
                    past::uncounted(queue, &delivery);
                }
            }
            taken.put_back().await?;
        }
        Ok(deleted)
    }

    pub(super) async fn delete(&self, queue: &str) -> Result<(), BusError> {
        let names = self.names(queue).await?;
        let channel = self.live.channel().await?;
        let beside = BUCKETS.iter().map(|bucket| names.retry(*bucket)).chain([names.dead.clone()]);
        // RabbitMQ takes it for a success if a queue that is to be deleted is not there.
        for name in std::iter::once(names.queue.clone()).chain(beside) {
            self.live
                .answer(&names.what(), channel.queue_delete(name, QueueDeleteOptions::default()))
                .await?;
        }
        self.registry.remove(self.live, queue).await;
        Ok(())
    }
}

/// Messages that were taken from a queue. What is not deleted goes back when this is dropped.
struct Taken<'a> {
    live: &'a Live,
    queue: ShortString,
    channel: Channel,
    /// Those that were not deleted.
    tags: BTreeSet<u64>,
}

impl<'a> Taken<'a> {
    async fn new(live: &'a Live, queue: ShortString) -> Result<Self, BusError> {
        Ok(Self { live, queue, channel: live.channel().await?, tags: BTreeSet::new() })
    }

    fn what(&self) -> String {
        format!("queue '{}'", self.queue)
    }

    async fn next(&mut self) -> Result<Option<Delivery>, BusError> {
        let get = self.channel.basic_get(self.queue.clone(), BasicGetOptions::default());
        let found = self.live.answer(&self.what(), get).await?.map(|found| found.delivery);
        self.tags.extend(found.as_ref().map(|delivery| delivery.delivery_tag));
        Ok(found)
    }

    async fn delete(&mut self, delivery: &Delivery) -> Result<(), BusError> {
        self.tags.remove(&delivery.delivery_tag);
        let ack = self.channel.basic_ack(delivery.delivery_tag, BasicAckOptions::default());
        self.live.answer(&self.what(), ack).await
    }

    /// Puts back, in their places, what was not deleted, and waits until the broker has done so.
    async fn put_back(self) -> Result<(), BusError> {
        let Some(last) = self.tags.last() else { return Ok(()) };
        let what = self.what();
        let all = BasicNackOptions { multiple: true, requeue: true };
        self.live.answer(&what, self.channel.basic_nack(*last, all)).await?;
        // The queue answers after it has taken them back.
        let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        self.live
            .answer(&what, self.channel.queue_declare(self.queue, passive, FieldTable::default()))
            .await?;
        Ok(())
    }
}
