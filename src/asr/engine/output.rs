//! The receiving end of a stream, and its watchdog. Lives on the caller's task, so that it notices when the engine's
//! thread does not.

use std::{fmt, sync::Arc};

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::error;

use super::{EngineState, StreamGauge, shared::Shared, slot::Inbox};
use crate::asr::stream::StreamEvent;

/// The receiving end. Dropping it cancels the stream.
pub struct StreamOutput {
    receiver: mpsc::Receiver<StreamEvent>,
    inbox: Arc<Inbox>,
    shared: Arc<Shared>,
    /// Since when nothing has come, and how far the engine was then.
    quiet: Option<(Instant, u64)>,
}

impl fmt::Debug for StreamOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StreamOutput").field("waiting", &self.receiver.len()).finish_non_exhaustive()
    }
}

impl StreamOutput {
    pub(super) const fn new(
        receiver: mpsc::Receiver<StreamEvent>,
        inbox: Arc<Inbox>,
        shared: Arc<Shared>,
    ) -> Self {
        Self { receiver, inbox, shared, quiet: None }
    }

    /// The next event; `None` after [`StreamEvent::Ended`], or after [`StreamEvent::Failed`] when the stream itself
    /// failed or the engine stopped. Cancel safe.
    ///
    /// When audio waits and nothing happens for [`super::EngineConfig::stall`] the stream fails.
    pub async fn next(&mut self) -> Option<StreamEvent> {
        loop {
            let (since, progress) =
                *self.quiet.get_or_insert_with(|| (Instant::now(), self.inbox.progress()));
            match timeout_at(since + self.shared.config.stall, self.receiver.recv()).await {
                Ok(event) => {
                    self.quiet = None;
                    // There is room again: the engine may be waiting for it.
                    self.shared.bell.ring();
                    return event;
                }
                Err(_elapsed) => {
                    self.quiet = None;
                    // While the model is loaded again, audio waits with good reason.
                    let serving = matches!(&*self.shared.state.borrow(), EngineState::Ready(_));
                    if serving && self.inbox.waits() && self.inbox.progress() == progress {
                        return Some(self.give_up());
                    }
                }
            }
        }
    }

    fn give_up(&mut self) -> StreamEvent {
        self.receiver.close();
        self.shared.bell.ring();
        {
            let mut stats = self.shared.stats.lock();
            stats.stalled += 1;
            stats.aborted += 1;
        }
        let now = self.shared.now();
        let stall_s = self.shared.config.stall.as_secs_f64();
        if self.shared.decoding.lock().is_some_and(|since| now - since >= stall_s) {
            // Nobody else is served either, and probes should see it.
            let reason = "the model does not answer".to_owned();
            self.shared.state.send_replace(EngineState::Failed(reason));
        }
        let load = self.gauge().read();
        let waited_s = self.shared.config.stall.as_secs_f64();
        error!(queued_s = load.queued_s, waited_s, "nothing happened for a stream although audio waits");
        let message = format!(
            "the engine has not answered for {waited_s} s although audio waits; the stream is given up, try again"
        );
        StreamEvent::Failed { message, start: 0.0, end: 0.0 }
    }

    /// How the stream keeps up, for others to read.
    #[must_use]
    pub fn gauge(&self) -> StreamGauge {
        StreamGauge(Arc::clone(&self.inbox))
    }
}

impl Drop for StreamOutput {
    fn drop(&mut self) {
        self.receiver.close();
        self.shared.bell.ring();
    }
}
