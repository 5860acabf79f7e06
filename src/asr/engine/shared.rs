//! What the engine's handles and its thread share.

use std::sync::Arc;

use parking_lot::{Condvar, Mutex};
use tokio::sync::watch;

use super::{EngineConfig, EngineState, EngineStats, slot::Slot};
use crate::asr::stream::VoiceGate;

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

/// What the handles and the thread share.
pub(super) struct Shared {
    pub(super) config: EngineConfig,
    pub(super) bell: Doorbell,
    pub(super) state: watch::Sender<EngineState>,
    /// Streams that the thread has not taken over yet.
    pub(super) arrivals: Mutex<Vec<Slot>>,
    pub(super) stats: Mutex<EngineStats>,
    /// The last handle is gone: end when the streams are done.
    pub(super) closing: Mutex<bool>,
    pub(super) gate: Box<dyn Fn() -> Box<dyn VoiceGate> + Send + Sync>,
}

/// Dropped with the last [`super::Engine`].
pub(super) struct LastHandle(pub(super) Arc<Shared>);

impl Drop for LastHandle {
    fn drop(&mut self) {
        *self.0.closing.lock() = true;
        self.0.bell.ring();
    }
}
