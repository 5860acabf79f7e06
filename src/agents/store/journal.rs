//! What `agent listen` keeps on the disk of its machine: prompts that were accepted and are not done, and events that
//! must still be published. Always SQLite, in the file of the sessions where those are there too, so that the end of a
//! turn, the end of its job and the events about both are one transaction.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    super::{
        limits::{Gate, Shut},
        listener::Request,
    },
    Change, StoreError, Version,
    sqlite::SqliteStore,
};
use crate::bus::Event;

/// A prompt as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// The event that brought it, as JSON.
    pub event: serde_json::Value,
    /// What it asks for.
    pub request: Request,
    /// What came of earlier attempts, oldest first.
    pub history: Vec<Try>,
    /// An earlier attempt was broken off; the next one goes on where it was, if it can.
    pub was_broken_off: bool,
}

/// An attempt that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Try {
    /// When.
    pub at: Timestamp,
    /// Of which class.
    pub class: String,
    /// What was said.
    pub error: String,
}

/// A prompt to be accepted.
#[derive(Debug, Clone)]
pub struct NewJob<'a> {
    /// The same prompt has the same one.
    pub key: &'a str,
    /// Of what was asked for: the same key with another one is a mistake.
    pub hash: &'a str,
    /// The session that it belongs to.
    pub session: &'a str,
    /// The prompt.
    pub message: &'a Message,
}

/// What became of a prompt that was to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepted {
    /// It is kept.
    New,
    /// It was kept before, and will be worked on.
    Waiting,
    /// It was worked on before.
    Over,
    /// Another prompt has this key.
    Mismatch,
}

/// A prompt that is being worked on.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// See [`NewJob::key`].
    pub key: String,
    /// See [`NewJob::session`].
    pub session: String,
    /// The run that works on it.
    pub run: Uuid,
    /// The number of this attempt.
    pub attempt: u32,
    /// Who works on it, as [`Holder::to_text`](super::super::orchestrator::Holder::to_text) says.
    pub holder: String,
    /// The prompt.
    pub message: Message,
}

/// Decides whether a turn of an agent may begin.
pub trait Doorkeeper: Sync {
    /// Asks the gate of an agent that works on so many turns of this machine already; with what is to be published
    /// about it.
    fn ask(&self, provider: &str, gate: &mut Gate, running: usize) -> (Result<(), Shut>, Option<Event>);
}

/// What came of looking for work.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Claim {
    /// What is to be worked on.
    pub job: Option<Job>,
    /// Agents that work waits for, and why.
    pub shut: BTreeMap<String, Shut>,
}

/// Events that are not published.
#[derive(Debug, Clone, PartialEq)]
pub enum Unsent {
    /// These are ours to publish, by their numbers, oldest first.
    Ours(Vec<(i64, Event)>),
    /// Another process is about to; as [`Holder::to_text`](super::super::orchestrator::Holder::to_text) says.
    TakenBy(String),
}

/// How many prompts wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Waiting {
    /// Those that a worker could begin with now.
    pub claimable: usize,
    /// All of them.
    pub all: usize,
}

/// A prompt that waits, as people are told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queued {
    /// See [`NewJob::key`].
    pub key: String,
    /// See [`NewJob::session`].
    pub session: String,
    /// Who is to work on it.
    pub provider: String,
    /// The beginning of what is asked, [`MAX_PREVIEW`](crate::agents::session::MAX_PREVIEW) characters at most.
    pub prompt: String,
    /// Attempts that were begun.
    pub attempts: u32,
    /// The class of the failure of the last one.
    pub last_class: Option<String>,
    /// It waits until then; long ago if its time has come.
    pub not_before: Timestamp,
}

/// How many prompts are not over.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Census {
    /// By agent.
    pub providers: BTreeMap<String, OpenCounts>,
    /// Those that are being worked on, by whoever does, as [`Job::holder`] says.
    pub holders: BTreeMap<String, u64>,
    /// When the first of those is due that wait for their time.
    pub next_at: Option<Timestamp>,
}

/// How many prompts of an agent are not over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct OpenCounts {
    /// Their time has come.
    pub ready: u64,
    /// They are being worked on.
    pub running: u64,
    /// They wait for their time.
    pub waiting: u64,
}

/// How far a prompt has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Who is to work on it.
    pub provider: String,
    /// Whether it was answered or given up; `None` until then.
    pub is_answered: Option<bool>,
    /// Attempts that were begun.
    pub attempts: u32,
    /// From when it was accepted until it was over, if it is and if that is known.
    pub took: Option<Duration>,
}

/// Where a prompt stands that is not over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ticket {
    /// See [`NewJob::key`].
    pub key: String,
    /// See [`NewJob::session`].
    pub session: String,
    /// The run that works on it; `None` if it waits.
    pub run: Option<Uuid>,
}

/// A process that takes prompts into this journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// Who it is, as [`Holder::to_text`](super::super::orchestrator::Holder::to_text) says.
    pub holder: String,
    /// The queue that it takes prompts from.
    pub queue: String,
    /// Turns that it works on at once.
    pub workers: u64,
    /// When it said so first, and last.
    pub began: Timestamp,
    /// See above.
    pub seen: Timestamp,
}

/// How work on a job ends, or goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Answered.
    Done,
    /// Given up.
    Dead,
    /// To be tried again at this time.
    Again {
        /// When.
        not_before: Timestamp,
        /// The attempt that ends here counts.
        counts: bool,
    },
}

/// How many jobs there are of each kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Waiting for a worker, or for their time.
    pub ready: u64,
    /// Being worked on.
    pub running: u64,
    /// Answered.
    pub done: u64,
    /// Given up.
    pub dead: u64,
    /// Events that are not published yet.
    pub unsent: u64,
}

/// The journal. Cheap to share.
#[derive(Debug, Clone)]
pub struct Journal {
    file: std::sync::Arc<SqliteStore>,
    /// The sessions are in the same file.
    holds_sessions: bool,
}

impl Journal {
    /// A journal in the file of the sessions.
    #[must_use]
    pub const fn beside_sessions(file: std::sync::Arc<SqliteStore>) -> Self {
        Self { file, holds_sessions: true }
    }

    /// A journal in a file of its own.
    #[must_use]
    pub const fn alone(file: std::sync::Arc<SqliteStore>) -> Self {
        Self { file, holds_sessions: false }
    }

    /// Keeps a prompt. On the disk when it returns.
    ///
    /// # Errors
    /// A broken file.
    pub async fn accept(&self, job: &NewJob<'_>) -> Result<Accepted, StoreError> {
        self.file.accept_job(job).await
    }

    /// Takes the oldest prompt whose time has come, whose session nobody works for, and whose agent's gate is open; one
    /// at a time and in order for each session.
    ///
    /// # Errors
    /// A broken file.
    pub async fn claim(&self, holder: &str, doorkeeper: &dyn Doorkeeper) -> Result<Claim, StoreError> {
        self.file.claim_job(holder, doorkeeper).await
    }

    /// How many prompts wait. Those of agents whose gates are shut cannot be claimed.
    ///
    /// # Errors
    /// A broken file.
    pub async fn waiting(&self, shut: &BTreeSet<String>) -> Result<Waiting, StoreError> {
        self.file.waiting_jobs(shut).await
    }

    /// Changes an agent's gate, and keeps the events about that.
    ///
    /// # Errors
    /// A broken file.
    pub async fn change_gate(
        &self,
        provider: &str,
        change: &(dyn Fn(&mut Gate) -> Vec<Event> + Sync),
    ) -> Result<(), StoreError> {
        self.file.change_gate(provider, change).await
    }

    /// All gates, by agent.
    ///
    /// # Errors
    /// A broken file.
    pub async fn gates(&self) -> Result<BTreeMap<String, Gate>, StoreError> {
        self.file.all_gates().await
    }

    /// Takes the prompt of this key if it only waits, whatever else does, without that being an attempt at it.
    ///
    /// # Errors
    /// A broken file.
    pub async fn claim_waiting(&self, key: &str, holder: &str) -> Result<Option<Job>, StoreError> {
        self.file.claim_waiting_job(key, holder).await
    }

    /// Prompts that wait, oldest first, at most so many.
    ///
    /// # Errors
    /// A broken file.
    pub async fn queued(&self, limit: usize) -> Result<Vec<Queued>, StoreError> {
        self.file.queued_jobs(limit).await
    }

    /// How many are not over.
    ///
    /// # Errors
    /// A broken file.
    pub async fn census(&self) -> Result<Census, StoreError> {
        self.file.count_open_jobs().await
    }

    /// All prompts, those that were over in the last days included.
    ///
    /// # Errors
    /// A broken file.
    pub async fn passages(&self) -> Result<Vec<Passage>, StoreError> {
        self.file.read_passages().await
    }

    /// Prompts that wait or are being worked on and have this key, with or without what stands before its colon, or
    /// belong to this session; oldest first.
    ///
    /// # Errors
    /// A broken file.
    pub async fn find_open(&self, text: &str) -> Result<Vec<Ticket>, StoreError> {
        self.file.find_open_jobs(text).await
    }

    /// Says that a process takes prompts. It says so again all the time, so that others know when it is gone; who has not
    /// for a day is forgotten.
    ///
    /// # Errors
    /// A broken file.
    pub async fn sign_in(&self, holder: &str, queue: &str, workers: usize) -> Result<(), StoreError> {
        self.file.put_listener(holder, queue, workers).await
    }

    /// It takes no more.
    ///
    /// # Errors
    /// A broken file.
    pub async fn sign_out(&self, holder: &str) -> Result<(), StoreError> {
        self.file.drop_listener(holder).await
    }

    /// Who takes prompts, as far as they have said, the oldest first.
    ///
    /// # Errors
    /// A broken file.
    pub async fn listeners(&self) -> Result<Vec<Presence>, StoreError> {
        self.file.read_listeners().await
    }

    /// When the next prompt's time comes, of those that wait for it.
    ///
    /// # Errors
    /// A broken file.
    pub async fn next_due(&self) -> Result<Option<Timestamp>, StoreError> {
        self.file.next_job_due().await
    }

    /// Jobs that are being worked on, by whomever.
    ///
    /// # Errors
    /// A broken file.
    pub async fn running(&self) -> Result<Vec<Job>, StoreError> {
        self.file.running_jobs().await
    }

    /// Ends an attempt: changes the session, keeps the events, and the job's new state, all or nothing. Where the
    /// sessions are elsewhere, `sessions` makes the change first; it is one that can be made twice.
    ///
    /// # Errors
    /// As [`SessionStore::update`](super::SessionStore::update); [`StoreError::Fenced`] if the job is not ours any more.
    pub async fn end(
        &self,
        job: &Job,
        change: Option<(&dyn super::SessionStore, &Change<'_>)>,
        (end, events): (End, &[Event]),
    ) -> Result<Option<Version>, StoreError> {
        match change {
            Some((sessions, change)) if !self.holds_sessions => {
                let version = sessions.update(change).await?;
                self.file.end_job(job, None, (end, events)).await?;
                Ok(Some(version))
            }
            change => self.file.end_job(job, change.map(|(_, change)| change), (end, events)).await,
        }
    }

    /// Keeps events about a job that goes on.
    ///
    /// # Errors
    /// A broken file.
    pub async fn append(&self, key: &str, events: &[Event]) -> Result<(), StoreError> {
        self.file.append_events(key, events).await
    }

    /// Takes the oldest events that are not published, to publish them; one process at a time does, so that they keep
    /// their order and come once. `dead` is a taker that is known to be gone.
    ///
    /// # Errors
    /// A broken file.
    pub async fn take_unsent(
        &self,
        limit: usize,
        taker: &str,
        dead: Option<&str>,
    ) -> Result<Unsent, StoreError> {
        self.file.take_unsent_events(limit, taker, dead).await
    }

    /// These are.
    ///
    /// # Errors
    /// A broken file.
    pub async fn sent(&self, numbers: &[i64]) -> Result<(), StoreError> {
        self.file.mark_sent(numbers).await
    }

    /// Publishes the result of a job again, under its old id.
    ///
    /// # Errors
    /// A broken file.
    pub async fn repeat(&self, key: &str) -> Result<u64, StoreError> {
        self.file.repeat_result(key).await
    }

    /// Whether [`Journal::bury`] has noted this event.
    ///
    /// # Errors
    /// A broken file.
    pub async fn is_buried(&self, event: Uuid) -> Result<bool, StoreError> {
        self.file.is_event_buried(event).await
    }

    /// Notes that this event is among the dead letters; when it comes back it is to be worked on.
    ///
    /// # Errors
    /// A broken file.
    pub async fn bury(&self, event: Uuid) -> Result<(), StoreError> {
        self.file.bury_event(event).await
    }

    /// How many there are.
    ///
    /// # Errors
    /// A broken file.
    pub async fn counts(&self) -> Result<Counts, StoreError> {
        self.file.count_jobs().await
    }

    /// Forgets jobs that ended, and events that were published, before a time.
    ///
    /// # Errors
    /// A broken file.
    pub async fn tidy(&self, before: Timestamp) -> Result<(), StoreError> {
        self.file.tidy_journal(before).await
    }

    /// Lets go of the file.
    pub async fn close(&self) {
        super::SessionStore::close(&*self.file).await;
    }
}
