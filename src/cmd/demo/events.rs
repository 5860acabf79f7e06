//! What the demo leaves on the bus: published as it is said, and read back from there at the end. Runs on the
//! command's async runtime. A bus that is broken is told of and fails nothing.

use std::{collections::BTreeSet, time::Duration};

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use tokio::time::timeout;
use uuid::Uuid;

use super::agent::{self, Answered, Leg};
use crate::{
    asr::tap::Tap,
    bus::{
        BusError, EventStream, Item, Pattern, SharedBus, Start, Subscription,
        event::{ids, registry},
    },
    cmd::{
        Context,
        publish::{Link, Outage, Publisher, Voice},
    },
};

/// For the bus to open, to take the last events, and to give each back.
const PATIENCE: Duration = Duration::from_secs(5);
/// The clock of the bus may be this far behind ours.
const SKEW: SignedDuration = SignedDuration::from_secs(60);

/// The bus while the demo runs.
pub(super) struct Stage {
    state: Result<Running, String>,
    name: String,
}

struct Running {
    publisher: Publisher,
    bus: SharedBus,
    patterns: Vec<Pattern>,
    started: Timestamp,
    /// What waits for a command; why there is none, on a bus without queues.
    leg: Result<Leg, String>,
    /// On a bus without history, the events are caught as they come.
    live: Option<Box<dyn EventStream>>,
}

/// What was left on the bus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Left {
    /// Its address, without a password.
    pub(super) bus: String,
    /// Utterances that the bus took.
    pub(super) published: u64,
    /// Events that were found there again.
    pub(super) read_back: usize,
    /// What went wrong.
    pub(super) error: Option<String>,
    /// The answer of an agent to a command among them.
    pub(super) answer: Option<Answered>,
    /// Why there is none.
    pub(super) no_answer: Option<String>,
    #[serde(skip)]
    pub(super) events: Vec<Seen>,
    /// Whether it keeps them.
    #[serde(skip)]
    pub(super) has_history: bool,
}

/// An event that was read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) id: Uuid,
    pub(super) at: Timestamp,
    pub(super) event_type: String,
    pub(super) text: String,
}

impl Stage {
    /// Opens the configured bus, unless nothing is to be published.
    pub(super) async fn open(context: &Context) -> Option<Self> {
        let config = &context.config;
        if !config.asr.publish {
            return None;
        }
        let state = match timeout(PATIENCE, Running::start(context)).await {
            Ok(started) => started.map_err(|error| error.to_string()),
            Err(_elapsed) => Err("it did not answer in time".to_owned()),
        };
        Some(Self { state, name: config.bus.url.to_string() })
    }

    /// Where utterances go in.
    pub(super) fn tap(&self) -> Option<Tap> {
        self.state.as_ref().ok().map(|running| running.publisher.tap().clone())
    }

    /// Publishes what is left, and reads this session's events back.
    pub(super) async fn finish(self, session: &str) -> Left {
        let mut left = Left {
            bus: self.name,
            published: 0,
            read_back: 0,
            error: None,
            answer: None,
            no_answer: None,
            events: Vec::new(),
            has_history: false,
        };
        let Running { publisher, bus, patterns, started, leg, live } = match self.state {
            Ok(running) => running,
            Err(error) => return Left { error: Some(error), ..left },
        };
        let outcome = publisher.finish(PATIENCE).await;
        left.published = outcome.published;
        left.has_history = bus.capabilities().history;
        left.error = match (outcome.lost, outcome.deferred, outcome.error) {
            (0, 0, _) => None,
            (0, waiting, _) => Some(format!("the broker is away; {waiting} events wait in the outbox")),
            (lost, _, None) => Some(format!("{lost} utterances were not published")),
            (lost, _, Some(error)) => Some(format!("{lost} utterances were not published: {error}")),
        };
        if outcome.published > 0 && outcome.deferred == 0 {
            let wanted = usize::try_from(outcome.published).unwrap_or(usize::MAX);
            let mut back = ReadBack { session: ids::normalise(session), wanted, ids: BTreeSet::new() };
            let read = match live {
                Some(stream) => back.read(stream, &mut left.events).await,
                None => match bus.subscribe(since(&patterns, started)).await {
                    Ok(stream) => back.read(stream, &mut left.events).await,
                    Err(error) => Err(error),
                },
            };
            left.read_back = left.events.len();
            if let Err(error) = read {
                left.error.get_or_insert(format!("cannot read them back: {error}"));
            } else if left.read_back < wanted {
                left.error.get_or_insert(format!("only {} of {wanted} were found there", left.read_back));
            }
        }
        let answer = match leg {
            Ok(leg) => leg.finish(&left.events.iter().map(|seen| (seen.id, seen.at)).collect()).await,
            Err(reason) => Err(reason),
        };
        match answer {
            Ok(answer) => left.answer = Some(answer),
            Err(reason) => left.no_answer = Some(reason),
        }
        drop(bus);
        if let Some(link) = outcome.link {
            link.close().await;
        }
        left
    }
}

impl Running {
    async fn start(context: &Context) -> Result<Self, BusError> {
        let config = &context.config.bus;
        let link = Link::open(context).await?;
        let bus = link.bus.clone();
        let names = [registry::VOICE, config.voice_alias.as_str()];
        let patterns: Vec<Pattern> = names.iter().filter_map(|name| name.parse().ok()).collect();
        let live = if bus.capabilities().history {
            None
        } else {
            let (start, follow) = (Start::Now, true);
            let patterns = patterns.clone();
            Some(bus.subscribe(Subscription { patterns, start, follow, consumer: "demo" }).await?)
        };
        let leg = match bus.capabilities().queues {
            true => Leg::start(context, &bus).await.map_err(|error| format!("{error:#}")),
            false => Err("this bus has no work queues".to_owned()),
        };
        let voice = Voice::new(config, "manual", &["demo"]).meant_for(agent::TARGET);
        let publisher = Publisher::over(link, context, voice, Outage::Retry);
        Ok(Self { publisher, bus, patterns, started: Timestamp::now(), leg, live })
    }
}

fn since(patterns: &[Pattern], started: Timestamp) -> Subscription {
    let start = Start::Time(started.checked_sub(SKEW).unwrap_or(Timestamp::MIN));
    Subscription { patterns: patterns.to_vec(), start, follow: false, consumer: "demo" }
}

/// Finds the events of one session, each once, under whichever name it comes first.
struct ReadBack {
    session: Uuid,
    wanted: usize,
    ids: BTreeSet<Uuid>,
}

impl ReadBack {
    async fn read(
        &mut self,
        mut stream: Box<dyn EventStream>,
        found: &mut Vec<Seen>,
    ) -> Result<(), BusError> {
        let session = self.session.to_string();
        while found.len() < self.wanted {
            let item = match timeout(PATIENCE, stream.next()).await {
                Ok(item) => item?,
                Err(_elapsed) => break,
            };
            let received = match item {
                Some(Item::Event(received)) => received,
                Some(Item::Gap { .. } | Item::CaughtUp) => continue,
                None => break,
            };
            let Some(event) = received.body.event() else { continue };
            if event.session_id() == Some(&session) && self.ids.insert(event.event_id) {
                found.push(Seen {
                    id: event.event_id,
                    at: event.timestamp,
                    event_type: event.event_type.to_string(),
                    text: event.text().unwrap_or_default().to_owned(),
                });
            }
        }
        Ok(())
    }
}
