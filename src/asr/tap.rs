//! Where finished utterances go besides to who listens: one bounded channel for all streams. Nothing runs here, and a
//! stream is never held up; what finds the channel full is counted.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use jiff::Timestamp;
use tokio::sync::mpsc;
use tracing::warn;

use super::stream::Utterance;

/// A finished utterance, and where it was heard.
#[derive(Debug, Clone, PartialEq)]
pub struct Spoken {
    /// The session's id.
    pub session: String,
    /// The model's name.
    pub model: String,
    /// When its last word was final.
    pub at: Timestamp,
    /// What was said; never without words.
    pub utterance: Utterance,
}

/// The end of the channel that streams put utterances into. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Tap {
    sender: mpsc::Sender<Spoken>,
    lost: Arc<AtomicU64>,
    full: Arc<AtomicBool>,
}

impl Tap {
    /// A channel that holds so many utterances, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> (Self, mpsc::Receiver<Spoken>) {
        let (sender, receiver) = mpsc::channel(capacity.max(1));
        (Self { sender, lost: Arc::default(), full: Arc::default() }, receiver)
    }

    /// Puts an utterance in if there is room; counts it otherwise. One without words is passed over.
    pub fn offer(&self, session: &str, model: &str, utterance: &Utterance) {
        if utterance.text.is_empty() {
            return;
        }
        match self.sender.try_send(spoken(session, model, utterance)) {
            Ok(()) => self.full.store(false, Ordering::Relaxed),
            Err(_) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                // Once until there is room again; the count says the rest.
                if !self.full.swap(true, Ordering::Relaxed) {
                    warn!("nobody takes the utterances, so they are dropped and counted");
                }
            }
        }
    }

    /// Puts an utterance in, and waits while there is no room; for who is in no hurry. One without words is passed over.
    ///
    /// # Cancel safety
    /// A cancelled call has put nothing in.
    pub async fn put(&self, session: &str, model: &str, utterance: &Utterance) {
        if !utterance.text.is_empty() && self.sender.send(spoken(session, model, utterance)).await.is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Utterances that nobody will see.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

fn spoken(session: &str, model: &str, utterance: &Utterance) -> Spoken {
    let (session, model) = (session.to_owned(), model.to_owned());
    Spoken { session, model, at: Timestamp::now(), utterance: utterance.clone() }
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
            language: None,
            language_probability: 1.0,
            avg_logprob: -0.1,
            no_speech_prob: 0.0,
            reason: EndReason::Endpoint,
        }
    }

    #[tokio::test]
    async fn a_full_tap_counts_and_never_waits() {
        let (tap, mut receiver) = Tap::new(2);
        for index in 0..5 {
            tap.offer("s", "m", &utterance(index, "hello"));
        }
        tap.offer("s", "m", &utterance(5, ""));
        assert_eq!(tap.lost(), 3);
        assert_eq!(receiver.recv().await.unwrap().utterance.index, 0);
        tap.clone().put("s", "m", &utterance(6, "again")).await;
        assert_eq!(receiver.recv().await.unwrap().utterance.index, 1);
        assert_eq!(receiver.recv().await.unwrap().utterance.index, 6);
        drop(receiver);
        tap.put("s", "m", &utterance(7, "nobody")).await;
        assert_eq!(tap.lost(), 4);
    }
}
