//! What was heard, onto the bus: one `voice.transcription.completed` for each utterance.
//!
//! A [`Publisher`] is one task that takes utterances from a bounded channel ([`Tap`]) and publishes them in their
//! order, in batches. It outlives the first signal, because sessions still say their last words then, and ends with
//! [`Publisher::finish`], or two seconds after it is dropped.

use std::{path::PathBuf, time::Duration};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{info, warn};

use super::Context;
use crate::{
    asr::tap::{Spoken, Tap, Tapped},
    audio::SAMPLE_RATE_HZ,
    bus::{
        BusError, Event, EventType, Publish, SharedBus,
        backoff::Backoff,
        connect::connect,
        event::{
            Source, Stamp, ids,
            payload::{AudioMetadata, VoiceContext, VoiceTranscription},
            registry,
        },
    },
    config,
    shutdown::Shutdown,
};

/// Utterances of live sessions that wait for the bus; one more is dropped and counted. Half an hour of lively talk.
const WAITING: usize = 256;
/// Utterances published together.
const BATCH: usize = 64;
/// Between two attempts to reach a bus that is away.
const PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// For what is left when nobody asks how it went.
const LAST_MOMENTS: Duration = Duration::from_secs(2);
/// For a bus to close.
const CLOSING: Duration = Duration::from_secs(5);

/// What transcribed it, in events.
const APP: &str = "godctl-asr";

/// An open bus and what runs behind it. Both outlive the first signal.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) bus: SharedBus,
    life: Shutdown,
}

impl Link {
    /// Opens the configured bus.
    ///
    /// # Errors
    /// Those of [`connect()`].
    pub(super) async fn open(context: &Context) -> Result<Self, BusError> {
        Address::of(context).open().await
    }

    /// Closes the bus and ends what runs behind it.
    pub(super) async fn close(self) {
        if timeout(CLOSING, self.bus.close()).await.is_err() {
            warn!("the bus did not close in time");
        }
        drop(self.bus);
        if let Err(error) = self.life.finish(CLOSING).await {
            warn!(%error, "the bus did not end in order");
        }
    }
}

/// Where the bus is.
#[derive(Debug, Clone)]
struct Address {
    config: config::Bus,
    data_dir: PathBuf,
}

impl Address {
    fn of(context: &Context) -> Self {
        Self { config: context.config.bus.clone(), data_dir: context.paths.data_dir.clone() }
    }

    async fn open(&self) -> Result<Link, BusError> {
        let life = Shutdown::new();
        let bus = connect(&self.config, &self.data_dir, &life).await?;
        Ok(Link { bus, life })
    }
}

/// Makes events of utterances.
#[derive(Debug, Clone)]
pub(super) struct Voice {
    source: Source,
    alias: Option<EventType>,
    tags: Vec<String>,
    target: Option<String>,
}

impl Voice {
    /// `kind` says what set it off: `manual` where a person did, `service` where a server listens.
    pub(super) fn new(config: &config::Bus, kind: &str, tags: &[&str]) -> Self {
        // Validated with the configuration; empty means none.
        let alias = config.voice_alias.parse::<EventType>().ok();
        Self {
            source: Source::here(APP, kind),
            alias: alias.filter(|alias| alias.as_str() != registry::VOICE),
            tags: tags.iter().map(|&tag| tag.to_owned()).collect(),
            target: None,
        }
    }

    /// Meant for this one, and nobody else.
    pub(super) fn meant_for(self, target: &str) -> Self {
        Self { target: Some(target.to_owned()), ..self }
    }

    /// The event, and the same under its other name.
    fn events(&self, spoken: &Spoken) -> Vec<Event> {
        let Spoken { session, model, at, speaker, utterance } = spoken;
        let payload = VoiceTranscription {
            text: utterance.text.clone(),
            timestamp: *at,
            source: APP.to_owned(),
            session_id: ids::normalise(session),
            is_final: true,
            utterance_id: format!("{session}/{}", utterance.index + 1),
            target: self.target.clone(),
            audio_metadata: AudioMetadata {
                duration_seconds: thousandths((utterance.end - utterance.start).max(0.0)),
                sample_rate: SAMPLE_RATE_HZ,
                channels: 1,
                format: "pcm".to_owned(),
                language: utterance.language.clone(),
                model: model.clone(),
                confidence: confidence(spoken),
                speaker_id: speaker.clone(),
            },
            context: VoiceContext { tags: self.tags.clone(), ..VoiceContext::default() },
        };
        let stamp = Stamp { at: *at, ..Stamp::now() };
        let event = registry::event(stamp, self.source.clone(), &payload);
        let alias = self.alias.iter().map(|alias| Event { event_type: alias.clone(), ..event.clone() });
        std::iter::once(event.clone()).chain(alias).collect()
    }
}

/// The mean probability of the words.
#[allow(clippy::cast_precision_loss, reason = "an utterance has few words")]
fn confidence(spoken: &Spoken) -> Option<f64> {
    let words = &spoken.utterance.words;
    let sum: f64 = words.iter().map(|word| f64::from(word.probability)).sum();
    (!words.is_empty()).then(|| thousandths((sum / words.len() as f64).clamp(0.0, 1.0)))
}

fn thousandths(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

/// What to do when the bus fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outage {
    /// Say it once, go on, and try again.
    Retry,
    /// Say it, and publish nothing more.
    Stop,
}

/// A task that publishes utterances.
#[derive(Debug)]
pub(super) struct Publisher {
    tap: Tap,
    /// When it has to be done; `None` as long as it may run.
    closing: watch::Sender<Option<Instant>>,
    outcome: oneshot::Receiver<Outcome>,
}

/// How it went, in utterances.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The bus, if it could be opened; still open.
    pub(super) link: Option<Link>,
    /// On the bus, or waiting durably in front of it.
    pub(super) published: u64,
    /// Events of these that wait for the broker.
    pub(super) deferred: u64,
    /// Heard and not published.
    pub(super) lost: u64,
    /// Why the last ones were not.
    pub(super) error: Option<BusError>,
}

impl Publisher {
    /// Publishes on the configured bus, which is opened in the background.
    pub(super) fn start(context: &Context, voice: Voice) -> Self {
        Self::spawn(context, voice, None, Outage::Retry)
    }

    /// Publishes on a bus that is open.
    pub(super) fn over(link: Link, context: &Context, voice: Voice, outage: Outage) -> Self {
        Self::spawn(context, voice, Some(link), outage)
    }

    fn spawn(context: &Context, voice: Voice, link: Option<Link>, outage: Outage) -> Self {
        let (tap, spoken) = Tap::new(WAITING);
        let (closing, deadline) = watch::channel(None);
        let (done, outcome) = oneshot::channel();
        let task = Task {
            address: Address::of(context),
            link,
            outage,
            voice,
            spoken,
            deadline,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE),
            random: fastrand::Rng::new(),
            is_down: false,
            has_stopped: false,
            outcome: Outcome::default(),
        };
        context.shutdown.spawn("bus-publisher", async move {
            if let Err(Outcome { link: Some(link), .. }) = done.send(task.run().await) {
                link.close().await;
            }
        });
        Self { tap, closing, outcome }
    }

    /// Where utterances go in.
    pub(super) const fn tap(&self) -> &Tap {
        &self.tap
    }

    /// Publishes what is left, for as long as this; then tells how it went.
    pub(super) async fn finish(mut self, patience: Duration) -> Outcome {
        self.closing.send_replace(Some(Instant::now() + patience));
        // Only a panic in the task, which is logged, leaves nothing behind.
        let mut outcome = (&mut self.outcome).await.unwrap_or_default();
        outcome.lost += self.tap.lost();
        outcome
    }
}

impl Outcome {
    /// Writes into the log how it went, and closes the bus.
    pub(super) async fn tell(self) {
        let Self { link, published, deferred, lost, error } = self;
        match (lost, error) {
            (0, _) => info!(published, deferred, "everything that was heard is published"),
            (lost, Some(error)) => {
                warn!(published, deferred, lost, %error, "not everything that was heard is published")
            }
            (lost, None) => warn!(published, deferred, lost, "not everything that was heard is published"),
        }
        if let Some(link) = link {
            link.close().await;
        }
    }
}

/// A publisher for a command that fails if not everything is published.
///
/// # Errors
/// When the bus can't be opened, with the exit code.
pub(super) async fn strictly(context: &Context) -> anyhow::Result<Publisher> {
    let link = Link::open(context).await.map_err(|error| fails(error.into()))?;
    let voice = Voice::new(&context.config.bus, "manual", &[]);
    Ok(Publisher::over(link, context, voice, Outage::Stop))
}

/// Waits until everything is durable, and closes the bus.
///
/// # Errors
/// When something is not, with the exit code.
pub(super) async fn settle(publisher: Publisher, context: &Context) -> anyhow::Result<()> {
    let outcome = publisher.finish(context.config.shutdown.deadline().mul_f32(0.7)).await;
    let Outcome { link, published, deferred, lost, error } = outcome;
    if let Some(link) = link {
        link.close().await;
    }
    if deferred > 0 {
        warn!(
            events = deferred,
            "the broker is away; events wait in the outbox, and go out when godctl uses it again"
        );
    }
    if lost == 0 {
        return Ok(());
    }
    let total = published + lost;
    let error = error.map_or_else(|| anyhow::anyhow!("nobody took them"), anyhow::Error::new);
    Err(fails(error.context(format!("{lost} of {total} utterances were not published"))))
}

fn fails(error: anyhow::Error) -> anyhow::Error {
    super::bus::with_exit_code(error)
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.closing.send_modify(|deadline| {
            deadline.get_or_insert_with(|| Instant::now() + LAST_MOMENTS);
        });
    }
}

struct Task {
    address: Address,
    link: Option<Link>,
    outage: Outage,
    voice: Voice,
    spoken: Tapped,
    deadline: watch::Receiver<Option<Instant>>,
    backoff: Backoff,
    random: fastrand::Rng,
    /// The last attempt failed, and that was said.
    is_down: bool,
    /// Nothing more is to be published.
    has_stopped: bool,
    outcome: Outcome,
}

/// What became of events.
#[derive(Debug, PartialEq, Eq)]
enum Sent {
    Yes,
    /// The bus does not take one of them, however often it is asked.
    Refused,
    /// There is no time left, or no point.
    No,
}

impl Task {
    async fn run(mut self) -> Outcome {
        while self.open().await {
            let batch = self.take().await;
            if batch.is_empty() {
                break;
            }
            self.publish(batch).await;
        }
        self.spoken.close();
        while self.spoken.try_recv().is_some() {
            self.outcome.lost += 1;
        }
        self.outcome.link = self.link.take();
        self.outcome
    }

    /// Opens the bus if it is not open. False when nothing is left to do with it.
    async fn open(&mut self) -> bool {
        while self.link.is_none() && !self.has_stopped {
            let opened = tokio::select! {
                biased;
                () = nothing_left(&mut self.deadline, &self.spoken) => return false,
                opened = self.address.open() => opened,
            };
            match opened {
                Ok(link) => {
                    info!(bus = %self.address.config.url, "publishing what is heard");
                    self.link = Some(link);
                    self.is_up();
                }
                Err(error) => {
                    self.failed(error);
                    let pause = self.backoff.pause(&mut self.random);
                    tokio::select! {
                        biased;
                        () = nothing_left(&mut self.deadline, &self.spoken) => return false,
                        () = sleep(pause) => {}
                    }
                }
            }
        }
        !self.has_stopped
    }

    /// The next utterances; none when no more will come.
    async fn take(&mut self) -> Vec<Spoken> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            // Cancel safe: utterances are in the batch or in the channel.
            () = self.spoken.recv_many(&mut batch, BATCH) => return batch,
            () = asked_to_end(&mut self.deadline) => {}
        }
        // Sessions that were cut off may hold the other end for a while.
        self.spoken.close();
        self.spoken.recv_many(&mut batch, BATCH).await;
        batch
    }

    async fn publish(&mut self, batch: Vec<Spoken>) {
        let events: Vec<Vec<Event>> = batch.iter().map(|spoken| self.voice.events(spoken)).collect();
        match self.send(&events.concat()).await {
            Sent::Yes => self.outcome.published += batch.len() as u64,
            Sent::No => self.outcome.lost += batch.len() as u64,
            // One of them spoils it for the others.
            Sent::Refused => {
                for event in &events {
                    let sent = self.send(event).await;
                    self.has_stopped |= sent == Sent::Refused && self.outage == Outage::Stop;
                    *(if sent == Sent::Yes {
                        &mut self.outcome.published
                    } else {
                        &mut self.outcome.lost
                    }) += 1;
                }
            }
        }
    }

    /// Publishes, and tries again until it works or the time is over.
    async fn send(&mut self, events: &[Event]) -> Sent {
        while self.open().await {
            let Some(link) = &self.link else { break };
            let published = tokio::select! {
                biased;
                published = link.bus.publish(events, Publish::default()) => published,
                () = time_is_over(&mut self.deadline) => {
                    let (bus, reason) = (self.address.config.url.to_string(), "it did not answer in time".to_owned());
                    self.outcome.error = Some(BusError::Unreachable { bus, reason });
                    break;
                }
            };
            match published {
                Ok(published) => {
                    self.outcome.deferred += published.deferred;
                    self.is_up();
                    return Sent::Yes;
                }
                Err(error @ (BusError::TooLarge { .. } | BusError::Invalid(_))) => {
                    warn!(%error, "the bus does not take what was heard");
                    self.outcome.error = Some(error);
                    return Sent::Refused;
                }
                Err(error) => {
                    if matches!(error, BusError::Closed) {
                        self.link = None;
                    }
                    self.failed(error);
                }
            }
            if self.has_stopped {
                break;
            }
            let pause = self.backoff.pause(&mut self.random);
            tokio::select! {
                biased;
                () = time_is_over(&mut self.deadline) => break,
                () = sleep(pause) => {}
            }
        }
        Sent::No
    }

    fn is_up(&mut self) {
        if std::mem::take(&mut self.is_down) {
            info!("the bus takes what is heard again");
        }
        self.outcome.error = None;
        self.backoff.reset();
    }

    fn failed(&mut self, error: BusError) {
        if !std::mem::replace(&mut self.is_down, true) {
            let bus = &self.address.config.url;
            match self.outage {
                Outage::Retry => warn!(%bus, %error, "cannot publish what is heard; trying again"),
                Outage::Stop => warn!(%bus, %error, "cannot publish what is heard"),
            }
        }
        self.has_stopped |= self.outage == Outage::Stop;
        self.outcome.error = Some(error);
    }
}

async fn asked_to_end(deadline: &mut watch::Receiver<Option<Instant>>) {
    // The sender sets it before it goes.
    drop(deadline.wait_for(Option::is_some).await);
}

async fn time_is_over(deadline: &mut watch::Receiver<Option<Instant>>) {
    asked_to_end(deadline).await;
    let until = *deadline.borrow();
    sleep_until(until.unwrap_or_else(Instant::now)).await;
}

async fn nothing_left(deadline: &mut watch::Receiver<Option<Instant>>, spoken: &Tapped) {
    asked_to_end(deadline).await;
    if !spoken.is_empty() {
        time_is_over(deadline).await;
    }
}
