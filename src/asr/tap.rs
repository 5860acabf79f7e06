//! Where finished utterances go besides to who listens: bounded channels for all streams and recordings. Nothing runs
//! here, and neither a stream nor an upload is ever held up; what finds its channel full is counted.
//!
//! Utterances of streams come one by one, those of a recording together when all of it was heard. They have a channel
//! each, so that a long recording takes no room from who speaks at the moment.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use jiff::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tracing::warn;

use super::stream::Utterance;

/// Recordings that wait at most.
const RECORDINGS: usize = 64;
/// Utterances in all recordings that wait. 20 hours of talk, some ten megabytes.
const RECORDED: u32 = 16_384;

/// A finished utterance, and where it was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// The session's id, or the request's.
    pub session: String,
    /// The model's name.
    pub model: String,
    /// When its last word was final.
    pub at: Timestamp,
    /// Who spoke, where speakers were heard apart.
    pub speaker: Option<String>,
    /// What was said. Its index is that among all utterances of the session.
    pub utterance: Utterance,
}

impl Spoken {
    /// An utterance that is final now, of a session in which speakers are not heard apart.
    #[must_use]
    pub fn new(session: &str, model: &str, utterance: &Utterance) -> Self {
        let (session, model) = (session.to_owned(), model.to_owned());
        Self { session, model, at: Timestamp::now(), speaker: None, utterance: utterance.clone() }
    }
}

/// What a recording said, and the room that it takes.
#[derive(Debug)]
struct Recorded {
    spoken: Vec<Spoken>,
    room: OwnedSemaphorePermit,
}

/// The end that utterances are put into. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tap {
    live: mpsc::Sender<Spoken>,
    recordings: mpsc::Sender<Recorded>,
    room: Arc<Semaphore>,
    lost: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
}

/// The end that utterances come out of.
#[derive(Debug)]
pub struct Tapped {
    live: mpsc::Receiver<Spoken>,
    recordings: mpsc::Receiver<Recorded>,
    /// The recording that is being taken, and its room until all of it was.
    rest: VecDeque<Spoken>,
    room: Option<OwnedSemaphorePermit>,
}

impl Tap {
    /// A channel that holds so many utterances of streams, at least one, and besides some recordings.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, Tapped) {
        let (live, from_live) = mpsc::channel(capacity.max(1));
        let (recordings, from_recordings) = mpsc::channel(RECORDINGS);
        let room = Arc::new(Semaphore::new(RECORDED as usize));
        let tapped =
            Tapped { live: from_live, recordings: from_recordings, rest: VecDeque::new(), room: None };
        (Self { live, recordings, room, lost: Arc::default(), full: Arc::default() }, tapped)
    }

    /// Puts an utterance of a stream in if there is room; counts it otherwise. One without words is passed over.
    pub fn offer(&self, spoken: Spoken) {
        if spoken.utterance.text.is_empty() {
            return;
        }
        if self.live.try_send(spoken).is_ok() {
            self.full.store(false, Ordering::Relaxed);
            return;
        }
        self.lost.fetch_add(1, Ordering::Relaxed);
        // Once until there is room again; the count says the rest.
        if !self.full.swap(true, Ordering::Relaxed) {
            warn!("nobody takes the utterances, so they are dropped and counted");
        }
    }

    /// Puts all utterances of a recording in, in their order, if there is room for all; counts them otherwise.
    pub fn offer_recording(&self, spoken: Vec<Spoken>) {
        if spoken.is_empty() {
            return;
        }
        let utterances = spoken.len();
        // One that is longer than all the room there is has to have it to itself.
        let wanted = u32::try_from(utterances).unwrap_or(RECORDED).min(RECORDED);
        let room = Arc::clone(&self.room).try_acquire_many_owned(wanted);
        if !room.is_ok_and(|room| self.recordings.try_send(Recorded { spoken, room }).is_ok()) {
            self.lost.fetch_add(utterances as u64, Ordering::Relaxed);
            warn!(utterances, "nobody takes the utterances of recordings, so they are dropped and counted");
        }
    }

    /// Puts an utterance in, and waits while there is no room; for who is in no hurry. One without words is passed over.
    ///
    /// # Cancel safety
    /// A cancelled call has put nothing in.
    pub async fn put(&self, spoken: Spoken) {
        if !spoken.utterance.text.is_empty() && self.live.send(spoken).await.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Utterances that nobody will see.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Tapped {
    /// Adds the next utterances to a batch, up to so many of them (at least one); adds none when no more will come. Those
    /// of streams come first: recordings are in no hurry.
    ///
    /// # Cancel safety
    /// A cancelled call has taken nothing out.
    pub async fn recv_many(&mut self, batch: &mut Vec<Spoken>, most: usize) {
        let most = most.max(1);
        while self.rest.is_empty() {
            tokio::select! {
                biased;
                taken = self.live.recv_many(batch, most) => {
                    if taken > 0 {
                        return;
                    }
                    // No stream will say anything more.
                    match self.recordings.recv().await {
                        Some(recorded) => self.begin(recorded),
                        None => return,
                    }
                }
                Some(recorded) = self.recordings.recv() => self.begin(recorded),
            }
        }
        while batch.len() < most
            && let Some(spoken) = self.live.try_recv().ok().or_else(|| self.rest.pop_front())
        {
            batch.push(spoken);
        }
        self.settle();
    }

    /// The next utterance, if one is there.
    pub fn try_recv(&mut self) -> Option<Spoken> {
        if let Ok(spoken) = self.live.try_recv() {
            return Some(spoken);
        }
        while self.rest.is_empty() {
            let recorded = self.recordings.try_recv().ok()?;
            self.begin(recorded);
        }
        let spoken = self.rest.pop_front();
        self.settle();
        spoken
    }

    /// Takes nothing new in; what is there can still be taken out.
    pub fn close(&mut self) {
        self.live.close();
        self.recordings.close();
    }

    /// Whether nothing is there at the moment.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty() && self.live.is_empty() && self.recordings.is_empty()
    }

    fn begin(&mut self, Recorded { spoken, room }: Recorded) {
        self.rest.extend(spoken);
        self.room = Some(room);
    }

    fn settle(&mut self) {
        if self.rest.is_empty() {
            self.room = None;
            // An hour's recording leaves no hour's buffer behind.
            self.rest.shrink_to(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asr::stream::EndReason;

    fn utterance(index: u64, text: &str) -> Utterance {
        Utterance {
            index,
            start: 0.0,
            end: 1.0,
            text: text.to_owned(),
            words: Vec::new(),
            revised: false,
            language: None,
            language_probability: 1.0,
            avg_logprob: -0.1,
            no_speech_prob: 0.0,
            reason: EndReason::Endpoint,
        }
    }

    fn recording(indices: std::ops::Range<u64>) -> Vec<Spoken> {
        indices.map(|index| Spoken::new("r", "m", &utterance(index, "hello"))).collect()
    }

    async fn batch(tapped: &mut Tapped, most: usize) -> Vec<(String, u64)> {
        let mut batch = Vec::new();
        tapped.recv_many(&mut batch, most).await;
        batch.into_iter().map(|spoken| (spoken.session, spoken.utterance.index)).collect()
    }

    #[tokio::test]
    async fn a_full_tap_counts_and_never_waits() {
        let (tap, mut tapped) = Tap::new(2);
        for index in 0..5 {
            tap.offer(Spoken::new("s", "m", &utterance(index, "hello")));
        }
        tap.offer(Spoken::new("s", "m", &utterance(5, "")));
        assert_eq!(tap.lost(), 3);
        assert_eq!(batch(&mut tapped, 1).await, [("s".to_owned(), 0)]);
        tap.clone().put(Spoken::new("s", "m", &utterance(6, "again"))).await;
        assert_eq!(batch(&mut tapped, 9).await, [("s".to_owned(), 1), ("s".to_owned(), 6)]);
        drop(tapped);
        tap.put(Spoken::new("s", "m", &utterance(7, "nobody"))).await;
        tap.offer_recording(recording(0..2));
        assert_eq!(tap.lost(), 6);
    }

    #[tokio::test]
    async fn a_recording_comes_in_its_order_and_lets_who_speaks_go_first() {
        let (tap, mut tapped) = Tap::new(2);
        tap.offer_recording(recording(0..5));
        tap.offer_recording(Vec::new());
        let of = |session: &str, index| (session.to_owned(), index);
        assert_eq!(batch(&mut tapped, 2).await, [of("r", 0), of("r", 1)]);
        tap.offer(Spoken::new("s", "m", &utterance(7, "now")));
        assert_eq!(batch(&mut tapped, 2).await, [of("s", 7), of("r", 2)]);
        assert!(!tapped.is_empty());
        tapped.close();
        tap.offer_recording(recording(5..6));
        assert_eq!((batch(&mut tapped, 9).await, tap.lost()), (vec![of("r", 3), of("r", 4)], 1));
        assert!(tapped.is_empty() && batch(&mut tapped, 9).await.is_empty(), "closed and empty");
    }

    #[tokio::test]
    async fn recordings_that_wait_have_a_cap_and_give_their_room_back() {
        let (tap, mut tapped) = Tap::new(1);
        let all = u64::from(RECORDED);
        tap.offer_recording(recording(0..all + 10));
        tap.offer_recording(recording(0..3));
        assert_eq!(tap.lost(), 3, "there is no room left beside so long a recording");
        let mut taken = 0;
        while !tapped.is_empty() {
            taken += batch(&mut tapped, 1_000).await.len() as u64;
        }
        assert_eq!(taken, all + 10, "a recording is taken whole or not at all");
        for _ in 0..=RECORDINGS {
            tap.offer_recording(recording(0..1));
        }
        assert_eq!(tap.lost(), 4);
        assert_eq!(std::iter::from_fn(|| tapped.try_recv()).count(), RECORDINGS);
    }
}
