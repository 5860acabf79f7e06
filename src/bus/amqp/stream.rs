//! History: what a RabbitMQ stream queue keeps, and then what is added to it.
//!
//! A stream queue is consumed over AMQP like any other, from an offset that we choose, and each delivery says its
//! offset; that is an event's [`Position`]. So a lost connection costs nothing: reading goes on behind the last offset.
//!
//! AMQP does not tell where a stream ends now. So who needs to know writes a small message of a type of its own into
//! the stream queue (past the exchange, so that nobody else gets it) and reads until it comes: what stands before it is
//! the past. Readers pass over such messages.
//!
//! No task: whoever reads the stream drives it. The broker sends at most `prefetch` events ahead.

use std::collections::VecDeque;

use async_trait::async_trait;
use jiff::Timestamp;
use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use uuid::Uuid;

use super::{
    super::{BusError, EventStream, Item, Pattern, Position, Query, Received, Start},
    link::{Link, Live},
    message::{self, Headers, Message, PROBE},
    publish::Publisher,
    subscribe::{PAUSE, Tap},
};

/// The clocks of publishers, which stamp the events, may differ from the broker's, which finds the place in the stream,
/// by this much.
const CLOCKS: i64 = 10;
/// A page looks at no more events than this: one that matches little would otherwise read the whole history.
const MAX_SCAN: u64 = 200_000;
/// How many it fetches ahead.
const SCAN_PREFETCH: u16 = 1000;

/// A bus with a history.
#[derive(Debug, Clone)]
pub(super) struct History {
    pub(super) link: Link,
    pub(super) publisher: Publisher,
    pub(super) queue: ShortString,
    pub(super) max_event_bytes: usize,
}

/// Where to read from.
#[derive(Debug, Clone, Copy)]
enum From {
    First,
    Last,
    Offset(u64),
    Time(Timestamp),
}

impl History {
    /// Marks the present end of the history; gives the mark's id.
    async fn mark(&self) -> Result<String, BusError> {
        let id = Uuid::new_v4().to_string();
        let properties = BasicProperties::default()
            .with_delivery_mode(message::PERSISTENT)
            .with_type(PROBE.into())
            .with_message_id(id.as_str().into());
        let mark =
            Message { exchange: "".into(), routing_key: self.queue.clone(), properties, body: Vec::new() };
        let confirmed = self.publisher.publish(vec![mark]).await?;
        if confirmed.unrouted.is_empty() {
            Ok(id)
        } else {
            Err(BusError::NoSuchQueue(self.queue.to_string()))
        }
    }

    async fn tap(&self, live: &Live, from: From, prefetch: u16) -> Result<Tap, BusError> {
        let offset = match from {
            From::First => AMQPValue::LongString("first".into()),
            From::Last => AMQPValue::LongString("last".into()),
            From::Offset(offset) => AMQPValue::LongLongInt(i64::try_from(offset).unwrap_or(i64::MAX)),
            From::Time(time) => AMQPValue::Timestamp(
                u64::try_from(time.as_second().saturating_sub(CLOCKS)).unwrap_or_default(),
            ),
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-stream-offset".into(), offset);
        let channel = live.channel().await?;
        Tap::open(live, channel, self.queue.clone(), prefetch, arguments).await
    }

    fn received(&self, delivery: Delivery) -> Received {
        let Delivery { routing_key, properties, data, .. } = delivery;
        message::received(routing_key.as_str(), &properties, &data, self.max_event_bytes)
    }

    /// Reads from a place until `visit` says that it has seen enough.
    async fn scan(
        &self,
        live: &Live,
        mut tap: Tap,
        mut visit: impl FnMut(u64, Delivery) -> bool + Send,
    ) -> Result<(), BusError> {
        loop {
            let delivery = tokio::time::timeout(live.patience(), tap.next())
                .await
                .map_err(|_| {
                    live.unreachable(format!("no more of the history within {:.0?}", live.patience()))
                })?
                .map_err(|reason| live.unreachable(reason))?;
            let offset = offset_of(&self.queue, &delivery)?;
            if visit(offset, delivery) {
                return Ok(());
            }
        }
    }

    /// The offset at which the next event would come.
    async fn end(&self, live: &Live) -> Result<u64, BusError> {
        let tap = self.tap(live, From::Last, SCAN_PREFETCH).await?;
        // Not before there is somebody to see it: the last chunk might be one behind it.
        let mark = self.mark().await?;
        let mut end = 0;
        self.scan(live, tap, |offset, delivery| {
            end = offset;
            is_mark(&delivery, &mark)
        })
        .await?;
        Ok(end)
    }

    /// The newest events that match, oldest first. Looks at no more than the newest [`MAX_SCAN`].
    ///
    /// # Errors
    /// [`BusError::Unreachable`], [`BusError::Access`].
    pub(super) async fn page(&self, query: &Query) -> Result<Vec<Received>, BusError> {
        let Some(limit) = std::num::NonZeroUsize::new(query.limit) else { return Ok(Vec::new()) };
        let live = self.link.live()?;
        let end = self.end(&live).await?;
        let mut high = query.before.map_or(end, |before| before.0.min(end));
        let mut found = VecDeque::new();
        let mut window = u64::try_from(limit.get()).unwrap_or(u64::MAX).clamp(100, 10_000);
        let mut scanned = 0;
        while high > 0 && found.len() < limit.get() && scanned < MAX_SCAN {
            let low = high.saturating_sub(window);
            let part = self.window(&live, query, low, high).await?;
            scanned += high - low;
            for received in part.matching.into_iter().rev() {
                found.push_front(received);
            }
            if part.is_oldest {
                break;
            }
            high = low;
            window = (window * 2).min(50_000);
        }
        let surplus = found.len().saturating_sub(limit.get());
        found.drain(..surplus);
        Ok(found.into())
    }

    /// Reads from `low` on to what stands at `high` or behind it.
    async fn window(&self, live: &Live, query: &Query, low: u64, high: u64) -> Result<Part, BusError> {
        let mut part = Part { matching: Vec::new(), is_oldest: low == 0 };
        let mut empty = true;
        let tap = self.tap(live, From::Offset(low), SCAN_PREFETCH).await?;
        self.scan(live, tap, |offset, delivery| {
            if offset >= high {
                // Retention has taken what was here, and what was older.
                part.is_oldest |= empty;
                return true;
            }
            empty = false;
            if !is_probe(&delivery) {
                let received = self.received(delivery);
                let late = query.since.is_none_or(|since| received.at.is_none_or(|at| at >= since));
                let clocks = jiff::SignedDuration::from_secs(CLOCKS);
                part.is_oldest |=
                    query.since.is_some_and(|since| received.at.is_some_and(|at| at + clocks < since));
                if late && matches(&query.patterns, &received) {
                    part.matching.push(received);
                }
            }
            false
        })
        .await?;
        Ok(part)
    }

    /// When the first and the last event came.
    ///
    /// # Errors
    /// [`BusError::Unreachable`], [`BusError::Access`].
    pub(super) async fn extent(&self) -> Result<Option<Extent>, BusError> {
        let live = self.link.live()?;
        let tap = self.tap(&live, From::First, SCAN_PREFETCH).await?;
        // Without one, nothing would come from an empty stream.
        let mark = self.mark().await?;
        let mut oldest = None;
        self.scan(&live, tap, |_, delivery| {
            if is_mark(&delivery, &mark) {
                return true;
            }
            if is_probe(&delivery) {
                return false;
            }
            oldest = self.received(delivery).at;
            true
        })
        .await?;
        if oldest.is_none() {
            return Ok(None);
        }
        let all = Query { patterns: vec![Pattern::all()], before: None, since: None, limit: 1 };
        let newest = self.page(&all).await?.pop().and_then(|received| received.at);
        Ok(Some(Extent { oldest, newest }))
    }
}

/// What [`History::window`] found.
struct Part {
    matching: Vec<Received>,
    /// There is nothing of interest before it.
    is_oldest: bool,
}

/// How far a history reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) oldest: Option<Timestamp>,
    pub(super) newest: Option<Timestamp>,
}

fn matches(patterns: &[Pattern], received: &Received) -> bool {
    patterns.iter().any(|pattern| pattern.matches(&received.routing_key))
}

fn is_probe(delivery: &Delivery) -> bool {
    delivery.properties.kind().as_ref().is_some_and(|kind| kind.as_str() == PROBE)
}

fn is_mark(delivery: &Delivery, mark: &str) -> bool {
    is_probe(delivery) && delivery.properties.message_id().as_ref().is_some_and(|id| id.as_str() == mark)
}

/// A queue of another kind has no offsets, and acknowledging would delete what is in it.
fn offset_of(queue: &ShortString, delivery: &Delivery) -> Result<u64, BusError> {
    Headers::of(&delivery.properties).offset().map(|Position(offset)| offset).ok_or_else(|| {
        BusError::Conflict {
            what: format!("queue '{queue}'"),
            reason: "it is no stream, so it keeps no history; delete it, or choose another bus.exchange"
                .to_owned(),
        }
    })
}

/// Events from some time on.
#[derive(Debug)]
pub(super) struct HistoryStream {
    history: History,
    patterns: Vec<Pattern>,
    prefetch: u16,
    follow: bool,
    tap: Option<Tap>,
    from: From,
    /// Nothing before this, until something of that time came.
    since: Option<Timestamp>,
    /// The mark that ends the past; `None` once it came.
    mark: Option<String>,
    ended: bool,
}

impl HistoryStream {
    /// Marks the end of the past, and begins to read.
    ///
    /// # Errors
    /// [`BusError::Unreachable`], [`BusError::Access`], [`BusError::Full`] while the broker takes no messages.
    pub(super) async fn open(
        history: History,
        patterns: Vec<Pattern>,
        start: Start,
        follow: bool,
        prefetch: u16,
    ) -> Result<Self, BusError> {
        let live = history.link.live()?;
        let (from, since) = match start {
            Start::Now | Start::Beginning => (From::First, None),
            Start::Time(time) => (From::Time(time), Some(time)),
            Start::After(Position(position)) => (From::Offset(position.saturating_add(1)), None),
        };
        let tap = Some(history.tap(&live, from, prefetch).await?);
        // Reading has begun before the mark, or it might begin behind it.
        let mark = Some(history.mark().await?);
        Ok(Self { history, patterns, prefetch, follow, tap, from, since, mark, ended: false })
    }

    /// Reads on after a lost connection.
    async fn reopen(&mut self, live: &Live) -> Result<(), BusError> {
        let tap = self.history.tap(live, self.from, self.prefetch).await?;
        // A place that is given by its time may lie behind the old mark by now.
        if self.mark.is_some() {
            self.mark = Some(self.history.mark().await?);
        }
        self.tap = Some(tap);
        Ok(())
    }

    /// What becomes of a delivery; `None` if it is passed over.
    fn take(&mut self, delivery: Delivery) -> Result<Option<Item>, BusError> {
        let offset = offset_of(&self.history.queue, &delivery)?;
        if let From::Offset(next) = self.from
            && offset < next
        {
            return Ok(None);
        }
        self.from = From::Offset(offset + 1);
        if is_probe(&delivery) {
            if self.mark.take_if(|mark| is_mark(&delivery, mark)).is_none() {
                return Ok(None);
            }
            self.ended = !self.follow;
            return Ok(self.follow.then_some(Item::CaughtUp));
        }
        let received = self.history.received(delivery);
        if let Some(since) = self.since {
            if received.at.is_some_and(|at| at < since) {
                return Ok(None);
            }
            self.since = None;
        }
        Ok(matches(&self.patterns, &received).then(|| Item::Event(Box::new(received))))
    }
}

#[async_trait]
impl EventStream for HistoryStream {
    async fn next(&mut self) -> Result<Option<Item>, BusError> {
        while !self.ended {
            if let Some(tap) = &mut self.tap {
                let next = tokio::select! {
                    () = self.history.link.closed() => return Ok(None),
                    next = tap.next() => next,
                };
                match next {
                    Ok(delivery) => match self.take(delivery) {
                        Ok(Some(item)) => return Ok(Some(item)),
                        Ok(None) => {}
                        Err(error) => {
                            self.ended = true;
                            self.tap = None;
                            return Err(error);
                        }
                    },
                    Err(_lost) => self.tap = None,
                }
                continue;
            }
            // Cancelled here, the next call begins again.
            let Ok(live) = self.history.link.up().await else { return Ok(None) };
            match self.reopen(&live).await {
                Ok(()) => {}
                Err(BusError::Closed) => return Ok(None),
                Err(BusError::Unreachable { .. } | BusError::Full { .. }) => tokio::time::sleep(PAUSE).await,
                Err(error) => {
                    self.ended = true;
                    return Err(error);
                }
            }
        }
        self.tap = None;
        Ok(None)
    }
}
