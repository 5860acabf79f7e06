//! The engine's thread: loads the weights, then serves the slots until nobody needs it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use tracing::{debug, error, info};

use super::{EngineState, shared::Shared, slot::Slot};
use crate::asr::{Hypothesis, SttError, Transcriber, Window, stream::seconds};

/// Runs until the last handle is dropped and the last stream is done.
pub(super) fn run<L>(shared: &Shared, load: L)
where
    L: FnOnce() -> Result<Box<dyn Transcriber>, SttError>,
{
    let started = Instant::now();
    let mut model = match catch_unwind(AssertUnwindSafe(load)) {
        Ok(Ok(model)) => model,
        // `Engine::ready` says again that the engine is not available.
        Ok(Err(SttError::Unavailable(reason))) => return fail(shared, reason),
        Ok(Err(error)) => return fail(shared, error.to_string()),
        Err(_) => return fail(shared, "loading the model panicked".to_owned()),
    };
    info!(model = model.info().name, took_ms = started.elapsed().as_millis(), "model loaded");
    shared.state.send_replace(EngineState::Ready(Arc::new(model.info().clone())));
    serve(shared, model.as_mut());
    shared.state.send_replace(EngineState::Failed("the engine has stopped".to_owned()));
}

fn fail(shared: &Shared, reason: String) {
    // Whoever needs the engine says it; here it would only be said twice.
    debug!(reason, "the model could not be loaded");
    shared.state.send_replace(EngineState::Failed(reason));
}

fn serve(shared: &Shared, model: &mut dyn Transcriber) {
    let mut slots: Vec<Slot> = Vec::new();
    loop {
        slots.append(&mut shared.arrivals.lock());
        let before = slots.len();
        slots.retain(|slot| !slot.is_done());
        shared.stats.lock().active -= before - slots.len();
        if slots.is_empty() && *shared.closing.lock() && shared.arrivals.lock().is_empty() {
            return;
        }
        let worked = tick(shared, &mut slots, model);
        if !worked && !slots.iter().any(Slot::has_work) {
            shared.bell.wait();
        }
    }
}

/// One round over the slots and one batch; true when a window was decoded.
fn tick(shared: &Shared, slots: &mut [Slot], model: &mut dyn Transcriber) -> bool {
    let mut windows = Vec::new();
    let mut owners = Vec::new();
    let mut taken = 0;
    for (i, slot) in slots.iter_mut().enumerate() {
        if windows.len() == shared.config.max_batch.max(1) {
            break;
        }
        if let Some(window) = slot.advance() {
            windows.push(window);
            owners.push(i);
        }
        taken += slot.taken();
    }
    shared.stats.lock().audio_s += seconds(taken as u64);
    if windows.is_empty() {
        return false;
    }
    let started = Instant::now();
    let results = decode(model, &windows);
    let took = started.elapsed();
    debug!(windows = windows.len(), took_ms = took.as_millis(), "batch decoded");
    {
        let mut stats = shared.stats.lock();
        stats.batches += 1;
        stats.windows += windows.len() as u64;
        stats.failed += results.iter().filter(|result| result.is_err()).count() as u64;
        stats.inference_s += took.as_secs_f64();
    }
    for (owner, result) in owners.iter().zip(results) {
        slots[*owner].absorb(result);
    }
    // Whoever came first in this round comes last in the next.
    slots.rotate_left(1);
    true
}

/// Decodes a batch; a panic or a wrong number of answers is an error of these windows, not the end of the engine.
fn decode(model: &mut dyn Transcriber, windows: &[Window]) -> Vec<Result<Hypothesis, SttError>> {
    let mut results = catch_unwind(AssertUnwindSafe(|| model.transcribe(windows))).unwrap_or_else(|_| {
        error!("the model panicked on a batch");
        windows
            .iter()
            .map(|_| Err(SttError::Inference("the model panicked on this window".to_owned())))
            .collect()
    });
    results.resize_with(windows.len(), || Err(SttError::Inference("the model gave no answer".to_owned())));
    results
}
