//! Publishing: one task feeds one channel, pipelined, and gives each caller the broker's confirmations.
//!
//! The channel belongs to the task, so events stay in the order of the calls. At most [`WINDOW`] messages (and
//! [`WINDOW_BYTES`]) are unconfirmed; callers wait behind them. When the channel or the connection ends, everything
//! that is unconfirmed fails as retryable, and the next call gets a new channel. The task ends when nobody can publish
//! any more, or when the link is closed.

use std::{
    collections::{BTreeMap, HashMap, VecDeque, hash_map::Entry},
    sync::Arc,
};

use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use lapin::{
    Channel, Confirmation,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::ShortString,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use super::{
    super::BusError,
    errors,
    link::{Link, Live},
    message::Message,
};
use crate::shutdown::Shutdown;

/// Messages that may be unconfirmed; more would not be faster.
const WINDOW: usize = 1024;
/// What they may take of memory together.
const WINDOW_BYTES: usize = 16 << 20;
/// Calls that may wait in front of the window.
const CALLS: usize = 64;

/// A handle on the task.
#[derive(Debug, Clone)]
pub(super) struct Publisher {
    calls: mpsc::Sender<Call>,
    link: Link,
    closing: CancellationToken,
    ended: CancellationToken,
}

/// Messages that are published together.
#[derive(Debug)]
struct Call {
    messages: Vec<Message>,
    done: oneshot::Sender<Result<Confirmed, BusError>>,
}

/// What became of the messages of a call.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Confirmed {
    /// Indexes of those that no queue took.
    pub(super) unrouted: Vec<usize>,
}

/// Calls, until the publisher is closed.
struct Inbox {
    calls: mpsc::Receiver<Call>,
    closing: CancellationToken,
}

impl Inbox {
    /// The next call; `None` once all callers are gone, or the publisher is closed and those before that are served.
    /// Cancel safe.
    async fn next(&mut self) -> Option<Call> {
        tokio::select! {
            biased;
            call = self.calls.recv() => call,
            () = self.closing.cancelled() => {
                self.calls.close();
                self.calls.try_recv().ok()
            }
        }
    }
}

impl Publisher {
    pub(super) fn start(link: Link, shutdown: &Shutdown) -> Self {
        let (calls, inbox) = mpsc::channel(CALLS);
        let (closing, ended) = (CancellationToken::new(), CancellationToken::new());
        let task = run(link.clone(), Inbox { calls: inbox, closing: closing.clone() });
        let end = ended.clone().drop_guard();
        shutdown.spawn("amqp-publisher", async move {
            let _end = end;
            task.await;
        });
        Self { calls, link, closing, ended }
    }

    /// Publishes the messages in this order and waits for all confirmations.
    ///
    /// # Errors
    /// [`BusError::Unreachable`] at once while there is no connection, or when it is lost (some may be published);
    /// [`BusError::Full`] while the broker takes nothing; what the broker says.
    pub(super) async fn publish(&self, messages: Vec<Message>) -> Result<Confirmed, BusError> {
        if messages.is_empty() {
            return Ok(Confirmed::default());
        }
        let live = self.link.live()?;
        refuse_on_alarm(&live)?;
        let (done, answer) = oneshot::channel();
        self.calls.send(Call { messages, done }).await.map_err(|_| BusError::Closed)?;
        answer.await.unwrap_or(Err(BusError::Closed))
    }
}

impl Publisher {
    /// Takes no more calls, and waits until those that were accepted are answered: at most as long as the broker may
    /// take for a confirmation.
    pub(super) async fn close(&self) {
        self.closing.cancel();
        self.ended.cancelled().await;
    }
}

/// A broker that is short of something stops reading from us; what we sent would wait there for hours.
pub(super) fn refuse_on_alarm(live: &Live) -> Result<(), BusError> {
    match live.alarm() {
        Some(reason) => Err(BusError::Full {
            what: live.bus().to_owned(),
            reason: format!("it takes no publishes at the moment: {reason}; give the broker more room"),
        }),
        None => Ok(()),
    }
}

async fn run(link: Link, mut inbox: Inbox) {
    let mut waiting = None;
    let mut declare = false;
    loop {
        let call = match waiting.take() {
            Some(call) => call,
            None => match inbox.next().await {
                Some(call) => call,
                None => return,
            },
        };
        let opened = match link.live() {
            Ok(live) => open(&link, &live, declare).await.map(|channel| (live, channel)),
            Err(error) => Err(error),
        };
        match opened {
            Ok((live, channel)) => {
                let mut pipe = Pipe::new(Arc::clone(&live), channel);
                pipe.accept(call);
                waiting = pipe.run(&mut inbox).await;
                declare = pipe.exchange_is_gone;
            }
            Err(error) => call.fail(error),
        }
    }
}

/// A channel that confirms; `declare` if the last one ended because somebody had deleted the exchange.
async fn open(link: &Link, live: &Live, declare: bool) -> Result<Channel, BusError> {
    let opening = async {
        if declare {
            link.topology().declare(live).await?;
        }
        let channel = live.channel().await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        live.answer("a channel", select).await?;
        Ok(channel)
    };
    let opened = opening.await;
    if matches!(opened, Err(BusError::Unreachable { .. })) {
        // A connection that can't even open a channel is better made anew than waited for.
        live.give_up();
    }
    opened
}

impl Call {
    fn fail(self, error: BusError) {
        // A caller that has gone away does not need the answer.
        drop(self.done.send(Err(error)));
    }
}

/// A call whose messages are on their way.
#[derive(Debug)]
struct Open {
    /// Messages without a confirmation.
    missing: usize,
    /// What the others can be recognised by.
    tags: Vec<Tag>,
    outcome: Result<Confirmed, BusError>,
    done: oneshot::Sender<Result<Confirmed, BusError>>,
}

/// Which message of which call.
type Place = (u64, usize);

/// What a returned message can be recognised by: its id and its key. Two of the same fare the same.
type Tag = (Option<ShortString>, ShortString);

/// One channel and what is on its way through it.
struct Pipe {
    live: Arc<Live>,
    channel: Arc<Channel>,
    calls: u64,
    open: BTreeMap<u64, Open>,
    /// Accepted, but not sent yet.
    queue: VecDeque<(Place, Message)>,
    sent: FuturesUnordered<BoxFuture<'static, Sent>>,
    sent_bytes: usize,
    /// lapin hands a returned message over with the next confirmation, which need not be its own.
    tags: HashMap<Tag, VecDeque<Place>>,
    /// When the last confirmation came, or when the first one after a pause was sent.
    progress: Instant,
    exchange_is_gone: bool,
}

/// A message that was sent, and what the broker said.
struct Sent {
    place: Place,
    tag: Tag,
    size: usize,
    said: lapin::Result<Confirmation>,
}

impl Pipe {
    fn new(live: Arc<Live>, channel: Channel) -> Self {
        Self {
            live,
            channel: Arc::new(channel),
            calls: 0,
            open: BTreeMap::new(),
            queue: VecDeque::new(),
            sent: FuturesUnordered::new(),
            sent_bytes: 0,
            tags: HashMap::new(),
            progress: Instant::now(),
            exchange_is_gone: false,
        }
    }

    fn accept(&mut self, call: Call) {
        self.calls += 1;
        let number = self.calls;
        let open = Open {
            missing: call.messages.len(),
            tags: Vec::new(),
            outcome: Ok(Confirmed::default()),
            done: call.done,
        };
        self.open.insert(number, open);
        self.queue
            .extend(call.messages.into_iter().enumerate().map(|(index, message)| ((number, index), message)));
    }

    /// Serves calls until the channel can't be used any more; gives back a call that has not begun.
    async fn run(&mut self, inbox: &mut Inbox) -> Option<Call> {
        let mut alarms = self.live.alarms();
        let mut last = false;
        loop {
            self.feed();
            // All that is known must be taken in before a call is answered: a message's return may have come with the
            // confirmation of another one, which was then confirmed earlier.
            while let Some(Some(sent)) = self.sent.next().now_or_never() {
                if let Err(error) = self.take(sent) {
                    self.fail(&error);
                    return None;
                }
            }
            self.answer();
            if last && self.sent.is_empty() {
                return None;
            }
            let stalled = tokio::time::sleep_until(self.progress + self.live.patience());
            tokio::select! {
                call = inbox.next(), if self.queue.is_empty() && !last => match call {
                    // While nothing was on its way, nobody saw the channel end.
                    Some(call) if !self.channel.status().connected() && self.sent.is_empty() => return Some(call),
                    Some(call) => self.accept(call),
                    // Nobody is left to ask, but what was accepted is seen through.
                    None => last = true,
                },
                Some(sent) = self.sent.next(), if !self.sent.is_empty() => {
                    if let Err(error) = self.take(sent) {
                        self.fail(&error);
                        return None;
                    }
                }
                Ok(()) = alarms.changed() => {
                    if let Err(error) = refuse_on_alarm(&self.live) {
                        self.fail(&error);
                        return None;
                    }
                }
                () = stalled, if !self.sent.is_empty() => {
                    let patience = self.live.patience();
                    let error = self.live.unreachable(format!("no confirmation within {patience:.0?}"));
                    self.fail(&error);
                    return None;
                }
            }
        }
    }

    /// Sends as much as the window allows.
    fn feed(&mut self) {
        while self.sent.len() < WINDOW && (self.sent_bytes < WINDOW_BYTES || self.sent.is_empty()) {
            let Some((place, message)) = self.queue.pop_front() else { return };
            if self.sent.is_empty() {
                self.progress = Instant::now();
            }
            let size = message.size();
            let tag = (message.properties.message_id().clone(), message.routing_key.clone());
            self.sent_bytes += size;
            self.tags.entry(tag.clone()).or_default().push_back(place);
            let channel = Arc::clone(&self.channel);
            // Polled in the order of this queue, so that they go out in that order.
            self.sent.push(Box::pin(async move {
                let Message { exchange, routing_key, properties, body } = message;
                let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let said = async {
                    channel.basic_publish(exchange, routing_key, options, &body, properties).await?.await
                };
                Sent { place, tag, size, said: said.await }
            }));
        }
    }

    /// Takes in one confirmation.
    ///
    /// # Errors
    /// When the channel is of no use any more.
    fn take(&mut self, sent: Sent) -> Result<(), BusError> {
        self.progress = Instant::now();
        self.sent_bytes = self.sent_bytes.saturating_sub(sent.size);
        let confirmation = sent.said.map_err(|error| {
            self.exchange_is_gone = errors::code(&error) == Some(errors::NOT_FOUND);
            errors::of(self.live.bus(), "the message", &error)
        })?;
        let refused = confirmation.is_nack();
        if let Some(returned) = confirmation.take_message() {
            let tag = (returned.properties.message_id().clone(), returned.routing_key.clone());
            let place = self.tags.get_mut(&tag).and_then(VecDeque::pop_front);
            if let Some((call, index)) = place
                && let Some(Open { outcome: Ok(confirmed), .. }) = self.open.get_mut(&call)
            {
                confirmed.unrouted.push(index);
            }
        }
        if let Some(open) = self.open.get_mut(&sent.place.0) {
            open.missing -= 1;
            open.tags.push(sent.tag);
            if refused {
                open.outcome = Err(BusError::Full {
                    what: self.live.bus().to_owned(),
                    reason:
                        "it did not take the message: a queue is full or has failed; see the broker's log"
                            .to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Answers the calls that are complete.
    fn answer(&mut self) {
        let complete: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.missing == 0).map(|(number, _)| *number).collect();
        for number in complete {
            let Some(open) = self.open.remove(&number) else { continue };
            for tag in open.tags {
                if let Entry::Occupied(mut places) = self.tags.entry(tag) {
                    places.get_mut().retain(|place| place.0 != number);
                    if places.get().is_empty() {
                        places.remove();
                    }
                }
            }
            // A caller that has gone away does not need the answer.
            drop(open.done.send(open.outcome));
        }
    }

    /// Ends all calls that have begun. What was sent may arrive or not.
    fn fail(&mut self, error: &BusError) {
        debug!(bus = self.live.bus(), calls = self.open.len(), %error, "publishing broke off");
        for open in std::mem::take(&mut self.open).into_values() {
            drop(open.done.send(Err(error.clone())));
        }
        self.queue.clear();
    }
}
