//! What the engine's handles and its thread share.

use std::sync::{Arc, Weak};

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;
use tracing::{error, info};

use super::{
    EngineConfig, EngineState, EngineStats,
    admission::Admission,
    health::Health,
    offline::Queue,
    slot::{Inbox, Slot},
};
use crate::asr::{
    Hypothesis, SttError,
    stream::{Tuning, VoiceGate, seconds},
};

/// Wakes the engine's thread.
#[derive(Debug, Default)]
pub(super) struct Doorbell {
    rung: Mutex<bool>,
    pub(super) bell: Condvar,
}

impl Doorbell {
    pub(super) fn ring(&self) {
        *self.rung.lock() = true;
        self.bell.notify_one();
    }

    pub(super) fn wait(&self) {
        let mut rung = self.rung.lock();
        while !*rung {
            self.bell.wait(&mut rung);
        }
        *rung = false;
    }
}

/// Seconds since any fixed moment.
pub(super) type Clock = Box<dyn Fn() -> f64 + Send + Sync>;

/// What the handles and the thread share.
pub(super) struct Shared {
    pub(super) config: EngineConfig,
    pub(super) clock: Clock,
    pub(super) bell: Doorbell,
    pub(super) state: watch::Sender<EngineState>,
    /// Streams that the thread has not taken over yet.
    pub(super) arrivals: Mutex<Vec<Slot>>,
    /// The inboxes of all streams, to tell how much audio waits.
    pub(super) inboxes: Mutex<Vec<Weak<Inbox>>>,
    pub(super) stats: Mutex<EngineStats>,
    pub(super) admission: Mutex<Admission>,
    /// Windows of recordings.
    pub(super) offline: Queue,
    /// When the model was given the windows that it is decoding.
    pub(super) decoding: Mutex<Option<f64>>,
    pub(super) health: Mutex<Health>,
    /// The last handle is gone: end when the streams are done.
    pub(super) closing: Mutex<bool>,
    pub(super) gate: Box<dyn Fn(Tuning) -> Box<dyn VoiceGate> + Send + Sync>,
}

impl Shared {
    pub(super) fn now(&self) -> f64 {
        (self.clock)()
    }

    pub(super) fn stats(&self) -> EngineStats {
        let mut stats = *self.stats.lock();
        stats.failed_in_a_row = self.health.lock().in_a_row();
        let inboxes = self.inboxes.lock();
        stats.queued_s = inboxes.iter().filter_map(Weak::upgrade).map(|inbox| seconds(inbox.queued())).sum();
        drop(inboxes);
        let admission = self.admission.lock();
        stats.load = admission.load(self.now());
        stats.limit = admission.limit();
        stats
    }

    /// Counts a batch that took so many seconds.
    pub(super) fn decoded(&self, results: &[Result<Hypothesis, SttError>], took_s: f64) {
        let mut stats = self.stats.lock();
        stats.batches += 1;
        stats.batch = results.len();
        stats.batch_sizes.add(results.len());
        stats.windows += results.len() as u64;
        stats.failed += results.iter().filter(|result| result.is_err()).count() as u64;
        stats.inference_s += took_s;
    }

    /// Notes how windows came out. True if the model should be given a control window.
    pub(super) fn judge(&self, results: &[Result<Hypothesis, SttError>]) -> bool {
        self.watch(|health, now| health.decoded(results, now))
    }

    /// Notes how the control window came out.
    pub(super) fn controlled(&self, result: &Result<Hypothesis, SttError>) {
        self.watch(|health, now| health.controlled(result, now));
    }

    /// Changes what is known of the model's health, and logs it when the model breaks or is well again.
    fn watch<T>(&self, change: impl FnOnce(&mut Health, f64) -> T) -> T {
        let (mut health, now) = (self.health.lock(), self.now());
        let was_failing = health.failing(now).is_some();
        let changed = change(&mut health, now);
        match health.failing(now) {
            Some(failing) if !was_failing => error!("{failing}"),
            None if was_failing => info!("the model works again"),
            _ => {}
        }
        changed
    }

    pub(super) fn enlist(&self, inbox: &Arc<Inbox>) {
        let mut inboxes = self.inboxes.lock();
        inboxes.retain(|known| known.strong_count() > 0);
        inboxes.push(Arc::downgrade(inbox));
    }
}

/// Dropped with the last [`super::Engine`].
pub(super) struct LastHandle(pub(super) Arc<Shared>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        *self.0.closing.lock() = true;
        self.0.bell.ring();
    }
}
