//! Small records that the broker keeps for us, in a queue of their own: the cursors of bridges, and the names of the
//! work queues, which AMQP itself can't list.
//!
//! A record is one message. Whoever reads or changes records holds a lock meanwhile: an exclusive queue, which only one
//! connection can declare and which ends with that connection. Changes are one transaction (`tx`). RabbitMQ applies
//! such a transaction after its commit has arrived, so a client that dies leaves all of it or nothing; a broker that
//! dies in the middle of applying it may leave a part. Runs in the calling task.

use std::time::Duration;

use lapin::{
    BasicProperties, Channel,
    message::Delivery,
    options::{
        BasicAckOptions, BasicGetOptions, BasicNackOptions, BasicPublishOptions, QueueDeclareOptions,
        QueueDeleteOptions,
    },
    types::{AMQPValue, FieldTable, ShortString},
};
use tokio::time::Instant;

use super::{
    super::BusError,
    errors,
    link::Live,
    message::{Message, PERSISTENT},
    topology::short,
};

/// While somebody else holds the lock.
const AGAIN: Duration = Duration::from_millis(20);
/// Milliseconds after which a lock that nobody uses is gone; far more than any use of it takes.
const LOCK_EXPIRES: i64 = 60_000;

/// Records in one queue.
#[derive(Debug, Clone)]
pub(super) struct Records {
    queue: ShortString,
    lock: ShortString,
    /// The newest record replaces all others.
    one: bool,
}

impl Records {
    /// Records in this queue; with `one`, only the newest is kept.
    ///
    /// # Errors
    /// [`BusError::Invalid`] for a name that is too long.
    pub(super) fn new(queue: &str, one: bool) -> Result<Self, BusError> {
        let lock = short("the name of a lock", &format!("{queue}.lock"))?;
        Ok(Self { queue: short("the name of a record", queue)?, lock, one })
    }

    fn what(&self) -> String {
        format!("queue '{}'", self.queue)
    }

    fn declaration(&self) -> (QueueDeclareOptions, FieldTable) {
        let mut arguments = FieldTable::default();
        if self.one {
            // If a broker that died left the old one beside the new one, the old one goes.
            arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
            arguments.insert("x-overflow".into(), AMQPValue::LongString("drop-head".into()));
        }
        (QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() }, arguments)
    }

    /// Takes the lock and reads what is there. The queue is made if `make` is set.
    ///
    /// # Errors
    /// [`BusError::Conflict`] if somebody holds the lock for as long as the broker may take to answer.
    pub(super) async fn open<'a>(&'a self, live: &'a Live, make: bool) -> Result<Open<'a>, BusError> {
        let channel = self.lock(live).await?;
        let mut open = Open { records: self, live, channel, held: Vec::new() };
        match open.read(make).await {
            Ok(()) => Ok(open),
            Err(error) => {
                open.close().await;
                Err(error)
            }
        }
    }

    async fn lock(&self, live: &Live) -> Result<Channel, BusError> {
        let deadline = Instant::now() + live.patience();
        let options = QueueDeclareOptions { exclusive: true, ..QueueDeclareOptions::default() };
        let mut arguments = FieldTable::default();
        // For a holder that was cancelled in the middle and keeps its connection.
        arguments.insert("x-expires".into(), AMQPValue::LongLongInt(LOCK_EXPIRES));
        loop {
            // Each refusal closes the channel.
            let channel = live.channel().await?;
            let declared = channel.queue_declare(self.lock.clone(), options, arguments.clone());
            match live.raw_answer(declared).await? {
                Ok(_) => return Ok(channel),
                Err(error) if errors::code(&error) == Some(errors::RESOURCE_LOCKED) => {
                    if Instant::now() >= deadline {
                        return Err(BusError::Conflict {
                            what: self.what(),
                            reason: "another process holds its lock; end that one first".to_owned(),
                        });
                    }
                    tokio::time::sleep(AGAIN).await;
                }
                Err(error) => return Err(errors::of(live.bus(), &format!("queue '{}'", self.lock), &error)),
            }
        }
    }

    /// Deletes the records.
    #[cfg(test)]
    pub(super) async fn remove(&self, live: &Live) {
        let channel = live.channel().await.unwrap();
        channel.queue_delete(self.queue.clone(), QueueDeleteOptions::default()).await.unwrap();
    }
}

/// Records under lock. Nobody else sees them until [`Open::close`].
#[derive(Debug)]
pub(super) struct Open<'a> {
    records: &'a Records,
    live: &'a Live,
    channel: Channel,
    held: Vec<Delivery>,
}

impl Open<'_> {
    async fn read(&mut self, make: bool) -> Result<(), BusError> {
        let Records { queue, .. } = self.records;
        let what = self.records.what();
        if make {
            let (options, arguments) = self.records.declaration();
            self.live.answer(&what, self.channel.queue_declare(queue.clone(), options, arguments)).await?;
        }
        loop {
            let get = self.channel.basic_get(queue.clone(), BasicGetOptions::default());
            match self.live.raw_answer(get).await? {
                Ok(Some(found)) => self.held.push(found.delivery),
                Ok(None) => return Ok(()),
                Err(error) if errors::code(&error) == Some(errors::NOT_FOUND) => return Ok(()),
                Err(error) => return Err(errors::of(self.live.bus(), &what, &error)),
            }
        }
    }

    /// What is there, oldest first.
    pub(super) fn texts(&self) -> Vec<String> {
        self.held.iter().map(|record| String::from_utf8_lossy(&record.data).into_owned()).collect()
    }

    /// In one transaction: publishes the messages, deletes the records at these indexes, and adds one. Gives the number
    /// of messages that nobody took. Ends the hold on the records, whatever comes of it.
    ///
    /// # Errors
    /// [`BusError::Unreachable`]: it may have happened or not. What the broker says.
    pub(super) async fn commit(
        self,
        messages: Vec<Message>,
        delete: &[usize],
        add: Option<&str>,
    ) -> Result<u64, BusError> {
        let changed = self.change(messages, delete, add).await;
        if changed.is_err() {
            // Undoes what was not committed, and puts back the records.
            drop(self.live.raw_answer(self.channel.close(200, "OK".into())).await);
        }
        self.unlock().await;
        changed
    }

    async fn change(
        &self,
        messages: Vec<Message>,
        delete: &[usize],
        add: Option<&str>,
    ) -> Result<u64, BusError> {
        let what = self.records.what();
        self.live.answer(&what, self.channel.tx_select()).await?;
        let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        for Message { exchange, routing_key, properties, body } in messages {
            let publish = self.channel.basic_publish(exchange, routing_key, mandatory, &body, properties);
            drop(self.live.answer(&what, publish).await?);
        }
        for (index, record) in self.held.iter().enumerate() {
            if delete.contains(&index) {
                let ack = self.channel.basic_ack(record.delivery_tag, BasicAckOptions::default());
                self.live.answer(&what, ack).await?;
            } else {
                let requeue = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
                self.live.answer(&what, self.channel.basic_nack(record.delivery_tag, requeue)).await?;
            }
        }
        if let Some(text) = add {
            let properties = BasicProperties::default().with_delivery_mode(PERSISTENT);
            let (queue, options) = (self.records.queue.clone(), BasicPublishOptions::default());
            let publish = self.channel.basic_publish("".into(), queue, options, text.as_bytes(), properties);
            drop(self.live.answer(&what, publish).await?);
        }
        self.live.answer(&what, self.channel.tx_commit()).await?;
        // The broker returns what nobody took before it answers the commit.
        let returned = self.live.answer(&what, self.channel.wait_for_confirms()).await?;
        Ok(u64::try_from(returned.len()).unwrap_or(u64::MAX))
    }

    /// Puts the records back.
    pub(super) async fn close(self) {
        if let Some(last) = self.held.last() {
            let all = BasicNackOptions { requeue: true, multiple: true };
            drop(self.channel.basic_nack(last.delivery_tag, all).await);
        }
        self.unlock().await;
    }

    /// Gives up the lock. What fails here ends with the channel or the connection.
    async fn unlock(self) {
        let Records { queue, lock, .. } = self.records;
        let what = self.records.what();
        let mut channel = self.channel;
        if !self.held.is_empty() {
            // The queue answers after it has taken the records back.
            let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
            let sync = channel.queue_declare(queue.clone(), passive, FieldTable::default());
            drop(self.live.answer(&what, sync).await);
        }
        if !channel.status().connected() {
            let Ok(another) = self.live.channel().await else { return };
            channel = another;
        }
        drop(
            self.live.answer(&what, channel.queue_delete(lock.clone(), QueueDeleteOptions::default())).await,
        );
    }
}
