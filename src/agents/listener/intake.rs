//! Takes prompts from the queue: onto the disk, then acknowledged; or among the dead letters, with the reason.

use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    Listener, Request, Wanted,
    run::News,
    voice::{self, Heard},
    worker::stamp,
};
use crate::{
    agents::{
        Class, Failure,
        session::Session,
        store::{
            Filter, StoreError,
            journal::{Accepted, Message, NewJob},
        },
    },
    bus::{
        Body, BusError, Delivery, Event, WorkQueue,
        event::{
            self, ids,
            payload::{
                Payload as _,
                agent::{AgentPromptFailed, VoiceRefused},
            },
            registry,
        },
    },
};

/// How long to wait when a prompt could not be kept.
const PAUSE: Duration = Duration::from_secs(1);
/// How often it is looked whether there is room: other processes work on the same prompts.
const LOOK: Duration = Duration::from_millis(500);
/// Prompts that wait in the journal for something else than a worker.
const MAX_WAITING: usize = 10_000;

/// Takes prompts until `stop` is cancelled.
pub(super) async fn take_in(
    listener: &Listener,
    queue: &dyn WorkQueue,
    news: &News,
    stop: &CancellationToken,
) -> Result<(), BusError> {
    loop {
        make_room(listener, news, stop).await;
        // Cancel safe: work that was leased for a cancelled call goes to the next one, or back with the drain.
        let delivery = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            delivery = queue.next() => delivery?,
        };
        let Some(delivery) = delivery else {
            queue.drain().await;
            return Ok(());
        };
        if let Err(error) = settle(listener, &delivery, news).await {
            // Nothing was decided about it: somebody gets it again.
            warn!(%error, "a prompt could not be taken in yet");
            if let Err(error) = delivery.lease.release().await {
                warn!(%error, "it comes again when its lease ends");
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }
}

/// Waits until a worker has nothing to do: whoever takes more than it works on keeps it from others on the queue. Prompts
/// that cannot be begun with now, for they wait for their time, for an earlier one of their session or for their agent, do
/// not keep others waiting, up to [`MAX_WAITING`] of them.
async fn make_room(listener: &Listener, news: &News, stop: &CancellationToken) {
    while !stop.is_cancelled() {
        let has_room = match listener.journal.waiting(&news.shut()).await {
            Ok(waiting) => {
                waiting.claimable + news.busy() < listener.settings.workers && waiting.all < MAX_WAITING
            }
            Err(error) => {
                warn!(%error, "cannot see how many prompts wait");
                false
            }
        };
        if has_room {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = news.room.notified() => {}
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Trouble {
    #[error(transparent)]
    Bus(#[from] BusError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn settle(listener: &Listener, delivery: &Delivery, news: &News) -> Result<(), Trouble> {
    let event = match &delivery.received.body {
        Body::Event(event) => event,
        Body::Unparsed(unparsed) => {
            let failure = Failure::new(Class::BadRequest, unparsed.reason.clone());
            return refuse(delivery, &failure).await;
        }
    };
    let (replayed, spoken);
    let (event, replay) = if let Some(rules) = listener.settings.voice.as_ref()
        && voice::is_voice(event.event_type.as_str())
    {
        match rules.read(event, listener.orchestrator.clock.now()) {
            Heard::Prompt(prompt) => spoken = prompt,
            Heard::Nothing(why) => {
                debug!(event = %event.event_id, why, "an utterance is no prompt");
                return Ok(delivery.lease.ack().await?);
            }
            Heard::Refused(refused) => {
                info!(reason = refused.reason, "a spoken prompt was refused");
                let mut answer = registry::event(stamp(listener), listener.source.clone(), &refused);
                answer.event_id = ids::deterministic(VoiceRefused::TYPE, &event.event_id.to_string());
                answer.correlation_ids.clone_from(&event.correlation_ids);
                answer.correlation_ids.push(event.event_id);
                listener.journal.append(&event.event_id.to_string(), &[answer]).await?;
                news.events.notify_one();
                return Ok(delivery.lease.ack().await?);
            }
        }
        (&*spoken, None)
    } else if event.event_type.as_str() == AgentPromptFailed::TYPE {
        if event.payload.get("queue").and_then(serde_json::Value::as_str) != Some(&listener.settings.queue) {
            // It has died in another queue.
            return Ok(delivery.lease.ack().await?);
        }
        if !listener.journal.is_buried(event.event_id).await? {
            // It was given up here, or on another machine; this is its way to the dead letters.
            delivery.lease.dead(&epitaph(event)).await?;
            listener.journal.bury(event.event_id).await?;
            return Ok(());
        }
        match original(event) {
            Ok(original) => replayed = original,
            Err(failure) => return refuse(delivery, &failure).await,
        }
        (&replayed, Some(Uuid::now_v7()))
    } else {
        (event, None)
    };
    let asked = Request::read(event, &listener.settings.rules, |path| std::fs::canonicalize(path));
    let mut request = match asked {
        Ok(request) => request,
        Err(failure) => return refuse(delivery, &failure).await,
    };
    if let Err(failure) = listener.customs.hooks.check(&request.wishes) {
        return refuse(delivery, &failure).await;
    }
    if let Some(replay) = replay {
        request.key = format!("{}#{replay}", request.key);
    }
    let session = match session_of(listener, &request).await? {
        Ok(session) => session,
        Err(failure) => return refuse(delivery, &failure).await,
    };
    let message = Message {
        event: serde_json::from_slice(&event.to_json()).unwrap_or_default(),
        request,
        history: Vec::new(),
        was_broken_off: false,
    };
    let (key, hash) = (&message.request.key, &message.request.hash);
    let job = NewJob { key, hash, session: &session, message: &message };
    match listener.journal.accept(&job).await? {
        Accepted::New => {
            let correlation_id = message.request.correlation_ids.first().map(tracing::field::display);
            info!(key, session, provider = message.request.provider, correlation_id, "a prompt was accepted");
        }
        Accepted::Waiting => info!(key, "a prompt came again; it is being worked on"),
        Accepted::Over => {
            listener.journal.repeat(key).await?;
            info!(key, "a prompt came again; its result is published again");
        }
        Accepted::Mismatch => {
            let message = format!("another prompt has come under the key {key} before");
            return refuse(delivery, &Failure::new(Class::BadRequest, message)).await;
        }
    }
    // Whoever comes again after this line finds the key.
    delivery.lease.ack().await?;
    news.ring();
    Ok(())
}

async fn refuse(delivery: &Delivery, failure: &Failure) -> Result<(), Trouble> {
    warn!(class = %failure.class, reason = failure.message, "a message was refused");
    Ok(delivery.lease.dead(&format!("{}: {}", failure.class, failure.message)).await?)
}

/// Why a prompt that was given up is dead, in one line.
fn epitaph(event: &Event) -> String {
    let field = |name: &str| event.payload.get(name).and_then(serde_json::Value::as_str).unwrap_or_default();
    let attempts = event.payload.get("attempts").and_then(serde_json::Value::as_u64).unwrap_or(0);
    format!("{}: {} (after {attempts} attempts)", field("class"), field("error"))
}

/// The prompt that was given up.
fn original(event: &Event) -> Result<Event, Failure> {
    let bad = |reason: String| Failure::new(Class::BadRequest, reason);
    let bytes = event.payload.get("event").map(ToString::to_string).unwrap_or_default();
    event::read(bytes.as_bytes(), None, event.timestamp, usize::MAX).map_err(|unparsed| bad(unparsed.reason))
}

/// The session that a prompt belongs to.
async fn session_of(listener: &Listener, request: &Request) -> Result<Result<String, Failure>, StoreError> {
    let store = &listener.orchestrator.store;
    let id = match &request.wanted {
        // The same prompt has the same session, whichever machine takes it.
        Wanted::New => return Ok(Ok(ids::deterministic("session", &request.key).to_string())),
        Wanted::Continue => {
            let directory = request.directory.as_ref().or(listener.settings.rules.roots.first());
            let filter = Filter {
                provider: Some(request.provider.clone()),
                directory: directory.map(|directory| directory.display().to_string()),
                ..Filter::default()
            };
            let latest = store.list(&filter).await?.into_iter();
            let latest = latest.map(|stored| stored.session).find(Session::can_be_continued);
            return Ok(Ok(
                latest.map_or_else(|| Uuid::now_v7().to_string(), |session| session.id.to_string())
            ));
        }
        Wanted::Named(id) | Wanted::Existing(id) => id,
    };
    let found = store.get(id).await?.map(|stored| stored.session);
    Ok(match (&request.wanted, found) {
        (_, Some(session)) if session.provider != request.provider => {
            let message = format!("session {id} is one of {}, not of {}", session.provider, request.provider);
            Err(Failure::new(Class::BadRequest, message))
        }
        (Wanted::Existing(_), None) => {
            Err(Failure::new(Class::SessionNotFound, format!("there is no session {id}")))
        }
        _ => Ok(id.to_string()),
    })
}
