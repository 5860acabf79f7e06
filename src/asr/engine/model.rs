//! The model on the engine's thread: loading it, measuring it, decoding with it, and loading it again when it panics.

use std::{
    collections::VecDeque,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tracing::{debug, error, info, warn};

use super::{EngineState, shared::Shared};
use crate::asr::{
    Hypothesis, SttError, Transcriber, Window,
    stream::{StreamConfig, seconds},
};

/// More restarts than this within [`PERIOD_S`] are not worth another: somebody must look.
const MOST_RESTARTS: usize = 16;
/// Seconds over which restarts are counted.
const PERIOD_S: f64 = 60.0;
/// Windows of the batch that is measured.
const MEASURED: usize = 4;
/// A second of silence: what a model that works at all can be given.
const CONTROL_SAMPLES: usize = 16_000;
/// Share of the machine that is given away: the rest is for audio, sockets, last decodes, and bad luck.
const SHARE: f64 = 0.6;

/// What the engine decodes with.
pub(super) struct Model<'a, L> {
    shared: &'a Shared,
    load: L,
    /// `None` once it is given up.
    loaded: Option<Box<dyn Transcriber>>,
    restarts: VecDeque<f64>,
}

impl<'a, L> Model<'a, L>
where
    L: FnMut() -> Result<Box<dyn Transcriber>, SttError>,
{
    /// Loads it; `None` when that failed, which the engine's state then says.
    pub(super) fn start(shared: &'a Shared, load: L) -> Option<Self> {
        let mut model = Self { shared, load, loaded: None, restarts: VecDeque::new() };
        model.load_weights().then_some(model)
    }

    /// False once nothing can be decoded any more.
    pub(super) const fn is_usable(&self) -> bool {
        self.loaded.is_some()
    }

    /// Decodes a batch. A panic or a wrong number of answers is an error of the windows that caused it, not the end of
    /// the engine, and no other window suffers. When too many failed it finds out whether the model can do anything.
    pub(super) fn decode(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        let results = self.decode_each(windows);
        if self.shared.judge(&results) && self.is_usable() {
            let silence = Window { samples: vec![0.0; CONTROL_SAMPLES], options: Arc::default() };
            let answer = self.attempt(std::slice::from_ref(&silence));
            let answer = answer.and_then(|mut one| one.pop().unwrap_or_else(no_answer));
            self.shared.controlled(&answer);
        }
        results
    }

    fn decode_each(&mut self, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
        match self.attempt(windows) {
            Ok(results) => results,
            Err(reason) if windows.len() == 1 || !self.is_usable() => {
                windows.iter().map(|_| Err(reason.clone())).collect()
            }
            Err(_) => {
                warn!(windows = windows.len(), "decoding the windows of the batch one by one");
                let alone = |window| self.attempt(std::slice::from_ref(window));
                let results = windows.iter().map(alone);
                results.map(|result| result.and_then(|mut one| one.pop().unwrap_or_else(no_answer))).collect()
            }
        }
    }

    /// One call of the model; when it panics the weights are loaded again before this returns.
    fn attempt(&mut self, windows: &[Window]) -> Result<Vec<Result<Hypothesis, SttError>>, SttError> {
        let Some(model) = &mut self.loaded else {
            return Err(SttError::Unavailable("the model is gone".to_owned()));
        };
        let started = self.shared.now();
        *self.shared.decoding.lock() = Some(started);
        let answered = catch_unwind(AssertUnwindSafe(|| model.transcribe(windows)));
        *self.shared.decoding.lock() = None;
        let now = self.shared.now();
        self.shared.admission.lock().worked(now, now - started);
        if let Ok(mut results) = answered {
            results.resize_with(windows.len(), no_answer);
            // A watchdog may have called the model dead when it was only slow.
            if !matches!(&*self.shared.state.borrow(), EngineState::Ready(_)) {
                warn!("the model answers again");
                self.shared.state.send_replace(EngineState::Ready(Arc::new(model.info().clone())));
            }
            return Ok(results);
        }
        error!(windows = windows.len(), "the model panicked");
        self.restart();
        Err(SttError::Inference("the model panicked on this window".to_owned()))
    }

    fn restart(&mut self) {
        let now = self.shared.now();
        // Before the next is loaded: there may not be room for two.
        self.loaded = None;
        self.restarts.retain(|at| now - at < PERIOD_S);
        self.restarts.push_back(now);
        if self.restarts.len() > MOST_RESTARTS {
            let reason = format!("the model panicked {MOST_RESTARTS} times within {PERIOD_S} s");
            error!(reason, "the engine gives up");
            self.shared.state.send_replace(EngineState::Failed(reason));
            return;
        }
        self.shared.stats.lock().restarts += 1;
        self.shared.state.send_replace(EngineState::Restarting("the model panicked".to_owned()));
        self.load_weights();
    }

    fn load_weights(&mut self) -> bool {
        let started = self.shared.now();
        let reason = match catch_unwind(AssertUnwindSafe(&mut self.load)) {
            Ok(Ok(model)) => {
                let took_s = self.shared.now() - started;
                self.shared.stats.lock().load_time_s = took_s;
                info!(model = model.info().name, took_ms = (took_s * 1_000.0) as u64, "model loaded");
                return self.ready(model);
            }
            // `Engine::ready` says again that the engine is not available.
            Ok(Err(SttError::Unavailable(reason))) => reason,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "loading the model panicked".to_owned(),
        };
        // Whoever needs the engine says it; here it would only be said twice.
        debug!(reason, "the model could not be loaded");
        self.shared.state.send_replace(EngineState::Failed(reason));
        false
    }

    fn ready(&mut self, mut model: Box<dyn Transcriber>) -> bool {
        if self.shared.config.measure && self.restarts.is_empty() {
            let took = catch_unwind(AssertUnwindSafe(|| model.measure(MEASURED)));
            let Ok(Ok(took)) = took else {
                let reason = match took {
                    Ok(Err(error)) => format!("the self-test at start failed: {error}"),
                    _ => "the self-test at start panicked".to_owned(),
                };
                self.shared.state.send_replace(EngineState::Failed(reason));
                return false;
            };
            let hop_s = seconds(StreamConfig::for_window(model.info().window_s).hop);
            let window_s = took.as_secs_f64();
            let sessions = sessions_held(window_s, hop_s).min(self.shared.config.max_sessions);
            self.shared.admission.lock().set_limit(sessions);
            info!(
                sessions,
                window_ms = window_s * 1_000.0,
                hop_ms = hop_s * 1_000.0,
                "measured how many streams this machine holds in real time"
            );
        }
        let info = Arc::new(model.info().clone());
        self.loaded = Some(model);
        self.shared.state.send_replace(EngineState::Ready(info));
        true
    }
}

/// Streams that a machine holds in real time, when a window takes it `window_s` seconds and a stream needs one every
/// `hop_s` seconds while somebody speaks: as many as fill [`SHARE`] of its time, one at least.
pub(super) fn sessions_held(window_s: f64, hop_s: f64) -> usize {
    // A whole number must not be missed by a rounding error.
    let sessions = (SHARE * hop_s / window_s.max(1e-6) + 1e-6).floor();
    (sessions as usize).max(1)
}

fn no_answer() -> Result<Hypothesis, SttError> {
    Err(SttError::Inference("the model gave no answer".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_follow_from_what_a_window_takes() {
        assert_eq!(sessions_held(0.050, 0.5), 6);
        assert_eq!(sessions_held(0.320, 1.0), 1);
        assert_eq!(sessions_held(9.0, 1.0), 1, "one is always let in");
        assert_eq!(sessions_held(0.0, 0.5), 300_000);
    }
}
