//! The demo's last leg: what was said to a computer reaches an agent over the bus, and its answer comes back. The same
//! listener as behind `agent listen --voice`, with `echo` in the place of an agent, which answers with its prompt; its
//! sessions are in a directory of the demo's and gone afterwards.

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;
use tokio::{sync::oneshot, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    agents::{
        Access, Groups, Limits,
        errand::Customs,
        listener::{Backoff, ListenError, Listener, OnOrphan, Queues, Rules, Settings, VoiceRules, listen},
        orchestrator::{Holder, Orchestrator},
        providers::Roster,
        store::open,
    },
    bus::{
        EventStream, Item, Pattern, QueueSpec, SharedBus, Start, Subscription, SystemClock,
        event::{
            Source,
            payload::{Payload as _, agent::AgentResponse},
            registry,
        },
    },
    cmd::Context,
    config::Store,
};

/// The queue; deleted at the end, and emptied at the start, for an earlier demo may have been killed.
const QUEUE: &str = "godctl.demo";
/// Who the demo's utterances are meant for, so that nobody's real agent works on them.
pub(super) const TARGET: &str = "demo";
const AGENT: &str = "echo";
/// For an answer to come back.
const PATIENCE: Duration = Duration::from_secs(10);

/// A listener that waits for a command.
pub(super) struct Leg {
    bus: SharedBus,
    settings: Settings,
    answers: Box<dyn EventStream>,
    stop: CancellationToken,
    listening: oneshot::Receiver<Result<(), ListenError>>,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Answered {
    /// Who answered.
    pub(super) provider: String,
    /// What was asked.
    pub(super) prompt: String,
    /// The answer.
    pub(super) response: String,
    /// What ties the answer to the utterance.
    pub(super) correlation_id: Uuid,
    /// From the event of the utterance to that of the answer.
    pub(super) took_ms: u64,
    /// When it came.
    #[serde(skip)]
    pub(super) at: Timestamp,
}

impl Leg {
    /// Waits for commands on this bus.
    pub(super) async fn start(context: &Context, bus: &SharedBus) -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("godctl-demo-").tempdir()?;
        // Nothing but the demo's own words, which are in the binary.
        let place = Store { encrypt: false, ..Store::default() };
        let (store, journal) = open::open_with_journal(&place, folder.path(), Arc::new(SystemClock)).await?;
        let settings = settings(folder.path().canonicalize()?);
        let spec = |name: &str, patterns: Vec<Pattern>| QueueSpec {
            prefetch: 1,
            consumer: format!("demo:{}", std::process::id()),
            ..QueueSpec::new(name, patterns)
        };
        // Left by a demo that was killed; mostly there is none.
        drop(delete(bus, &settings).await);
        let said = [registry::VOICE, registry::VOICE_ALIAS].iter().filter_map(|name| name.parse().ok());
        let ears = bus.queue(spec(&settings.voice_queue(), said.collect())).await?;
        let prompts = bus.queue(spec(QUEUE, vec![QUEUE.parse()?])).await?;
        let patterns = vec![AgentResponse::TYPE.parse()?];
        let answers = Subscription { patterns, start: Start::Now, follow: true, consumer: "demo-agent" };
        let answers = bus.subscribe(answers).await?;
        let config = &context.config.agents;
        let listener = Listener {
            bus: bus.clone(),
            journal: journal.clone(),
            orchestrator: Orchestrator {
                store: store.clone(),
                clock: Arc::new(SystemClock),
                lease: Duration::from_secs(place.lease_s),
                patience: PATIENCE,
                holder: Holder::here(),
            },
            agents: Roster::new(config),
            // The user's hooks and budgets are not for this.
            customs: Customs::default(),
            variables: context.environment.variables().clone(),
            groups: Groups::default(),
            limits: Limits::new(config),
            source: Source::here("godctl", "agent"),
            settings: settings.clone(),
        };
        let stop = context.shutdown.child_token();
        let ends = stop.clone();
        let (ended, listening) = oneshot::channel();
        context.shutdown.spawn("demo-agent", async move {
            let queues = Queues { prompts: &*prompts, voice: Some(&*ears) };
            let result = Box::pin(listen(&listener, queues, &ends)).await;
            journal.close().await;
            store.close().await;
            drop(folder);
            // Nobody waits for it if the demo was interrupted.
            drop(ended.send(result));
        });
        Ok(Self { bus: bus.clone(), settings, answers, stop, listening })
    }

    /// Waits for the answer to one of these utterances, and ends the listener.
    pub(super) async fn finish(mut self, utterances: &BTreeMap<Uuid, Timestamp>) -> Result<Answered, String> {
        let answer = match utterances.is_empty() {
            true => Err("there was nothing to ask".to_owned()),
            false => timeout(PATIENCE, answer(&mut *self.answers, utterances))
                .await
                .unwrap_or_else(|_elapsed| Err("no command was heard, or no answer came in time".to_owned())),
        };
        self.stop.cancel();
        let ended = match timeout(PATIENCE, self.listening).await {
            Ok(Ok(ended)) => ended.map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_elapsed) => Err("the listener did not end in time".to_owned()),
        };
        let deleted = delete(&self.bus, &self.settings).await.map_err(|error| error.to_string());
        let answer = answer?;
        ended.and(deleted)?;
        Ok(answer)
    }
}

async fn delete(bus: &SharedBus, settings: &Settings) -> Result<(), crate::bus::BusError> {
    let first = bus.delete_queue(&settings.queue).await;
    bus.delete_queue(&settings.voice_queue()).await.and(first)
}

async fn answer(
    answers: &mut dyn EventStream,
    utterances: &BTreeMap<Uuid, Timestamp>,
) -> Result<Answered, String> {
    loop {
        let received = match answers.next().await {
            Ok(Some(Item::Event(received))) => received,
            Ok(Some(Item::Gap { .. } | Item::CaughtUp)) => continue,
            Ok(None) => return Err("the bus was closed".to_owned()),
            Err(error) => return Err(error.to_string()),
        };
        let Some(event) = received.body.event() else { continue };
        let asked = event.correlation_ids.iter().find_map(|id| Some((*id, *utterances.get(id)?)));
        let Some((correlation_id, said_at)) = asked else { continue };
        let text = |name: &str| {
            event.payload.get(name).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
        };
        let took = Duration::try_from(event.timestamp.duration_since(said_at)).unwrap_or_default();
        return Ok(Answered {
            provider: text("provider"),
            prompt: text("prompt"),
            response: text("response"),
            correlation_id,
            took_ms: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
            at: event.timestamp,
        });
    }
}

fn settings(root: std::path::PathBuf) -> Settings {
    let agent = AGENT.to_owned();
    Settings {
        queue: QUEUE.to_owned(),
        rules: Rules { agents: vec![agent.clone()], roots: vec![root], access: Access::Plan, timeout_s: 60 },
        workers: 1,
        voice: Some(VoiceRules {
            prefix: "computer".to_owned(),
            needs_prefix: true,
            provider: agent.clone(),
            names: BTreeMap::from([(TARGET.to_owned(), agent)]),
            access: Access::Plan,
            confirmation: "confirm full access".to_owned(),
            max_age: Duration::from_secs(300),
        }),
        bounds: BTreeMap::new(),
        attempts: NonZeroU32::MIN,
        backoff: Backoff::default(),
        on_orphan: OnOrphan::Fail,
        drain: Duration::from_secs(1),
        shares_directory: true,
        idle: None,
    }
}
