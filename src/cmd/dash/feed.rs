//! Events from a bus to the dashboard: connects, subscribes, hands events over in batches, and connects again when the
//! connection is lost.
//!
//! One task; it ends when its orders end or the program stops. A dashboard that is busy stops it at its channel, and so,
//! through the subscription, the bus.

use std::{path::PathBuf, time::Duration};

use jiff::{SignedDuration, Timestamp};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    app::{Arrived, Link},
    state::past::{PAGE, Reading},
};
use crate::{
    bus::{
        BusError, EventStream, Item, Pattern, Position, Query, Received, SharedBus, Start, Subscription,
        connect::{self, Watched},
    },
    config,
    shutdown::Shutdown,
};

/// Pauses between attempts to connect: 1, 2, 4, … s, and no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A file that is not there yet is looked for so often: that costs nothing.
const LOOK: Duration = Duration::from_secs(1);

/// Closing a bus that nobody writes to takes no longer.
const CLOSE: Duration = Duration::from_secs(2);

/// Where events come from, and how they are handed over.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) config: config::Bus,
    pub(super) data_dir: PathBuf,
    /// Where to begin.
    pub(super) begin: Begin,
    pub(super) batching: Batching,
}

/// Where to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begin {
    /// With the newest so many that the bus still has.
    Newest(usize),
    /// With those of this time and later; `None` is the oldest there is.
    At(Option<Timestamp>),
}

/// Events are handed over when there are so many, or so long after the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batching {
    pub(super) most: usize,
    pub(super) longest: Duration,
}

impl Default for Batching {
    /// The figures of the dashboard that this one replaces.
    fn default() -> Self {
        Self { most: 50, longest: Duration::from_millis(100) }
    }
}

/// What the dashboard wants.
#[derive(Debug)]
pub(super) enum Order {
    Connect,
    Disconnect,
    RetryNow,
    /// Give a page of the history.
    Read(Reading),
    Rebind(Vec<Pattern>),
}

/// What the dashboard gets.
#[derive(Debug)]
pub(super) enum News {
    Link(Link),
    Batch(Vec<Arrived>),
    /// All that the history held is here.
    CaughtUp,
    /// Whether there is a history that can be read page by page.
    History(bool),
    /// A page of it, oldest first.
    Page(Reading, Vec<Received>),
}

/// Nobody wants more.
struct Over;

/// Why a subscription has ended.
enum Ended {
    /// The connection was lost, and why.
    Lost(String),
    /// It can't be had, however often it is tried.
    Broken(String),
    Order(Order),
    Over,
}

/// The task.
#[derive(Debug)]
pub(super) struct Feed {
    source: Source,
    patterns: Vec<Pattern>,
    orders: mpsc::Receiver<Order>,
    news: mpsc::Sender<News>,
    /// The newest event that was handed over, where the bus has positions.
    last: Option<Position>,
    /// Connections that were lost or could not be had, one after another.
    failures: u32,
    /// Events were handed over on an earlier connection.
    has_begun: bool,
}

impl Feed {
    pub(super) fn new(
        source: Source,
        patterns: Vec<Pattern>,
        orders: mpsc::Receiver<Order>,
        news: mpsc::Sender<News>,
    ) -> Self {
        Self { source, patterns, orders, news, last: None, failures: 0, has_begun: false }
    }

    /// Feeds until nobody wants more.
    pub(super) async fn run(mut self, starts_connected: bool) {
        let mut is_wanted = starts_connected;
        loop {
            let ended = if is_wanted {
                self.connection().await
            } else {
                match self.tell(Link::Disconnected).await {
                    Err(Over) => return,
                    Ok(()) => self.orders.recv().await.map_or(Ended::Over, Ended::Order),
                }
            };
            let ended = match ended {
                Ended::Lost(why) => self.pause(why).await,
                Ended::Broken(why) => match self.tell(Link::Failed(why)).await {
                    Err(Over) => return,
                    Ok(()) => self.orders.recv().await.map_or(Ended::Over, Ended::Order),
                },
                other => other,
            };
            match ended {
                Ended::Over => return,
                Ended::Order(Order::Disconnect) => is_wanted = false,
                Ended::Order(Order::Connect | Order::RetryNow) => {
                    is_wanted = true;
                    self.failures = 0;
                }
                Ended::Order(Order::Rebind(patterns)) => self.patterns = patterns,
                // There is nothing to read from.
                Ended::Order(Order::Read(_)) => {}
                Ended::Lost(_) | Ended::Broken(_) => {}
            }
        }
    }

    async fn tell(&self, link: Link) -> Result<(), Over> {
        self.news.send(News::Link(link)).await.map_err(|_| Over)
    }

    /// Waits before the next attempt, unless somebody wants it sooner.
    async fn pause(&mut self, why: String) -> Ended {
        let is_file = matches!(self.source.config.url.scheme(), "sqlite" | "file");
        let seconds = 1_u64 << self.failures.min(5);
        let pause = if is_file { LOOK } else { Duration::from_secs(seconds).min(LONGEST_PAUSE) };
        // Up to a tenth more, so that many dashboards don't come back in the same moment.
        let pause = pause.mul_f64(1.0 + fastrand::f64() / 10.0);
        self.failures = self.failures.saturating_add(1);
        let retry_at = Timestamp::now()
            .checked_add(SignedDuration::try_from(pause).unwrap_or_default())
            .unwrap_or(Timestamp::MAX);
        let link = Link::Reconnecting { attempt: self.failures, retry_at, why: why.clone() };
        if self.tell(link).await.is_err() {
            return Ended::Over;
        }
        tokio::select! {
            order = self.orders.recv() => order.map_or(Ended::Over, Ended::Order),
            () = sleep(pause) => Ended::Lost(why),
        }
    }

    /// One connection, from its beginning to its end.
    async fn connection(&mut self) -> Ended {
        if self.tell(Link::Connecting).await.is_err() {
            return Ended::Over;
        }
        // What the bus starts in the background ends with the connection.
        let life = Shutdown::new();
        let patience = self.source.config.connect_timeout();
        let watching = connect::watch(&self.source.config, &self.source.data_dir, &life);
        let opened = tokio::select! {
            order = self.orders.recv() => return order.map_or(Ended::Over, Ended::Order),
            opened = tokio::time::timeout(patience, watching) => opened,
        };
        let watched = match opened {
            Ok(Ok(watched)) => watched,
            Ok(Err(error)) => return ended(&error),
            Err(_) => {
                let seconds = patience.as_secs();
                return Ended::Lost(format!(
                    "no connection to {} within {seconds} s; is it running, and does a firewall let it through?",
                    self.source.config.url
                ));
            }
        };
        let Watched { bus, mut online } = watched;
        let subscribed = self.subscribe(&bus).await;
        let end = match subscribed {
            Ok(stream) => {
                let gone = async {
                    match &mut online {
                        Some(online) => drop(online.wait_for(|is_online| !is_online).await),
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    biased;
                    end = self.read(&bus, stream) => end,
                    () = gone => Ended::Lost("the connection was lost".to_owned()),
                }
            }
            Err(error) => ended(&error),
        };
        // A bus that does not answer any more has nothing of ours.
        drop(tokio::time::timeout(CLOSE, bus.close()).await);
        drop(bus);
        drop(life.finish(CLOSE).await);
        let has_left = matches!(end, Ended::Lost(_) | Ended::Order(Order::Disconnect));
        if has_left && self.last.is_none() && self.has_begun {
            let reason = "the connection was lost; what is published until it is back is not here".to_owned();
            let gap = Arrived { item: Item::Gap { missed: None, reason }, is_live: true };
            if self.news.send(News::Batch(vec![gap])).await.is_err() {
                return Ended::Over;
            }
        }
        end
    }

    async fn subscribe(&mut self, bus: &SharedBus) -> Result<Box<dyn EventStream>, BusError> {
        let has_history = bus.capabilities().history;
        let start = match (self.last, self.source.begin) {
            (Some(last), _) if has_history => Start::After(last),
            (_, Begin::At(at)) if has_history && !self.has_begun => at.map_or(Start::Beginning, Start::Time),
            (_, Begin::Newest(count)) if has_history && !self.has_begun && count > 0 => {
                return self.begin_with_newest(bus, count).await;
            }
            _ => Start::Now,
        };
        bus.subscribe(self.subscription(start)).await
    }

    fn subscription(&self, start: Start) -> Subscription {
        Subscription { patterns: self.patterns.clone(), start, follow: true, consumer: "dash" }
    }

    /// The newest events, then those that come.
    async fn begin_with_newest(
        &mut self,
        bus: &SharedBus,
        count: usize,
    ) -> Result<Box<dyn EventStream>, BusError> {
        let patterns = self.patterns.clone();
        let page = bus.page(Query { patterns, before: None, since: None, limit: count }).await?;
        let last = page.last().and_then(|received| received.position);
        // Where a bus has no positions, what comes twice is told by its id.
        let stream = bus.subscribe(self.subscription(last.map_or(Start::Now, Start::After))).await?;
        let mut batch = Vec::with_capacity(page.len());
        for received in page {
            batch.push(Arrived { item: Item::Event(Box::new(received)), is_live: false });
        }
        self.last = last;
        if !batch.is_empty() {
            // Nobody left to tell shows at the next attempt.
            drop(self.news.send(News::Batch(batch)).await);
        }
        Ok(stream)
    }

    /// Hands over what a subscription gives until it ends.
    async fn read(&mut self, bus: &SharedBus, mut stream: Box<dyn EventStream>) -> Ended {
        if self.tell(Link::Connected).await.is_err() {
            return Ended::Over;
        }
        let has_history = bus.capabilities().history;
        if self.news.send(News::History(has_history)).await.is_err() {
            return Ended::Over;
        }
        // Where nothing is kept, there is nothing to catch up with.
        if !has_history && !self.has_begun && self.news.send(News::CaughtUp).await.is_err() {
            return Ended::Over;
        }
        self.failures = 0;
        let mut is_live = self.has_begun || !matches!(self.source.begin, Begin::At(_));
        self.has_begun = true;
        let Batching { most, longest } = self.source.batching;
        loop {
            let first = tokio::select! {
                order = self.orders.recv() => match order {
                    Some(Order::Read(reading)) => match self.page(bus, reading).await {
                        Ok(page) => {
                            if self.news.send(News::Page(reading, page)).await.is_err() {
                                return Ended::Over;
                            }
                            continue;
                        }
                        Err(error) => return ended(&error),
                    },
                    order => return order.map_or(Ended::Over, Ended::Order),
                },
                item = stream.next() => item,
            };
            let due = Instant::now() + longest;
            let mut batch = Vec::new();
            let mut next = first;
            let end = loop {
                match next {
                    Ok(Some(Item::CaughtUp)) => {
                        is_live = true;
                        let before = std::mem::take(&mut batch);
                        if (!before.is_empty() && self.news.send(News::Batch(before)).await.is_err())
                            || self.news.send(News::CaughtUp).await.is_err()
                        {
                            return Ended::Over;
                        }
                    }
                    Ok(Some(item)) => {
                        if let Item::Event(received) = &item {
                            self.last = received.position.or(self.last);
                        }
                        batch.push(Arrived { item, is_live });
                    }
                    Ok(None) => break Some(Ended::Lost("the subscription has ended".to_owned())),
                    Err(error) => break Some(ended(&error)),
                }
                if batch.len() >= most {
                    break None;
                }
                next = match timeout_at(due, stream.next()).await {
                    Ok(next) => next,
                    Err(_) => break None,
                };
            };
            if !batch.is_empty() && self.news.send(News::Batch(batch)).await.is_err() {
                return Ended::Over;
            }
            if let Some(end) = end {
                return end;
            }
        }
    }
}

impl Feed {
    /// A page of the history.
    async fn page(&self, bus: &SharedBus, reading: Reading) -> Result<Vec<Received>, BusError> {
        let patterns = self.patterns.clone();
        match reading {
            Reading::Older(before) => {
                bus.page(Query { patterns, before: Some(before), since: None, limit: PAGE }).await
            }
            Reading::Newer(after) => {
                let start = Start::After(after);
                let subscription = Subscription { patterns, start, follow: false, consumer: "dash" };
                let mut stream = bus.subscribe(subscription).await?;
                let mut page = Vec::with_capacity(PAGE);
                while page.len() < PAGE
                    && let Some(item) = stream.next().await?
                {
                    if let Item::Event(received) = item {
                        page.push(*received);
                    }
                }
                Ok(page)
            }
        }
    }
}

/// Whether waiting helps against an error.
fn ended(error: &BusError) -> Ended {
    if error.is_retryable() || matches!(error, BusError::Closed) {
        Ended::Lost(error.to_string())
    } else {
        Ended::Broken(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::state::testing::event, *};
    use crate::bus::Publish;

    /// A bus in a file, and a feed of it.
    struct Bench {
        bus: SharedBus,
        news: mpsc::Receiver<News>,
        orders: mpsc::Sender<Order>,
        shutdown: Shutdown,
        _folder: tempfile::TempDir,
    }

    impl Bench {
        async fn new(begin: Begin, before: usize) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let shutdown = Shutdown::new();
            let url = format!("sqlite:{}", folder.path().join("bus.db").display());
            let config = config::Bus { url: url.parse().unwrap(), ..config::Bus::default() };
            let bus = connect::connect(&config, folder.path(), &shutdown).await.unwrap();
            publish(&bus, before).await;
            let (sender, news) = mpsc::channel(64);
            let (orders, receiver) = mpsc::channel(4);
            let source =
                Source { config, data_dir: folder.path().to_owned(), begin, batching: Batching::default() };
            let feed = Feed::new(source, vec![Pattern::all()], receiver, sender);
            shutdown.spawn("feed", feed.run(true));
            let mut bench = Self { bus, news, orders, shutdown, _folder: folder };
            bench.until(|news| matches!(news, News::CaughtUp)).await;
            bench
        }

        /// What comes until this does, in words.
        async fn until(&mut self, is_last: impl Fn(&News) -> bool) -> Vec<String> {
            let mut told = Vec::new();
            loop {
                let next = tokio::time::timeout(Duration::from_secs(60), self.news.recv());
                let news = next.await.expect("it comes in time").expect("the feed lives");
                let is_over = is_last(&news);
                told.push(match news {
                    News::Batch(batch) => format!("{} events", batch.len()),
                    News::Link(link) => format!("{link:?}"),
                    News::CaughtUp => "caught up".to_owned(),
                    News::History(has) => format!("history {has}"),
                    News::Page(_, page) => format!("a page of {}", page.len()),
                });
                if is_over {
                    return told;
                }
            }
        }

        async fn end(self) {
            drop((self.orders, self.news));
            self.bus.close().await;
            self.shutdown.finish(Duration::from_secs(10)).await.unwrap();
        }
    }

    async fn publish(bus: &SharedBus, count: usize) {
        let events: Vec<_> = (0..count).map(|n| event("a.b", json!({ "n": n }))).collect();
        if !events.is_empty() {
            bus.publish(&events, Publish::default()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn ten_at_once_are_one_batch_and_many_are_batches_of_fifty() {
        let mut bench = Bench::new(Begin::Newest(100), 0).await;
        publish(&bench.bus, 10).await;
        let told = bench.until(|news| matches!(news, News::Batch(_))).await;
        assert_eq!(told, ["10 events"]);
        publish(&bench.bus, 120).await;
        let mut told = Vec::new();
        for _ in 0..3 {
            told.extend(bench.until(|news| matches!(news, News::Batch(_))).await);
        }
        assert_eq!(told, ["50 events", "50 events", "20 events"]);
        bench.end().await;
    }

    #[tokio::test]
    async fn what_was_there_comes_first_and_what_is_older_on_request() {
        let mut bench = Bench::new(Begin::Newest(20), 700).await;
        // The newest were told before the connection was.
        bench.orders.send(Order::Read(Reading::Older(Position(681)))).await.unwrap();
        assert_eq!(bench.until(|news| matches!(news, News::Page(..))).await, ["a page of 500"]);
        bench.orders.send(Order::Read(Reading::Newer(Position(600)))).await.unwrap();
        assert_eq!(bench.until(|news| matches!(news, News::Page(..))).await, ["a page of 100"]);
        bench.end().await;
    }

    #[tokio::test]
    async fn who_disconnects_and_comes_back_misses_nothing_where_there_is_a_history() {
        let mut bench = Bench::new(Begin::Newest(20), 5).await;
        bench.orders.send(Order::Disconnect).await.unwrap();
        assert_eq!(bench.until(|news| matches!(news, News::Link(_))).await, ["Disconnected"]);
        publish(&bench.bus, 7).await;
        bench.orders.send(Order::Connect).await.unwrap();
        let told = bench.until(|news| matches!(news, News::Batch(_))).await;
        assert_eq!(told, ["Connecting", "Connected", "history true", "7 events"]);
        bench.end().await;
    }
}
