//! The engine's thread: serves the slots until nobody needs it.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

use tracing::{debug, error};

use super::{EngineState, model::Model, offline::Turns, shared::Shared, slot::Slot};
use crate::asr::{SttError, Transcriber, stream::seconds};

/// Runs until the last handle is dropped and the last stream is done. False when the model had to be given up.
pub(super) fn run<L>(shared: &Shared, load: L) -> bool
where
    L: FnMut() -> Result<Box<dyn Transcriber>, SttError>,
{
    let usable = match Model::start(shared, load) {
        Some(model) => serve(shared, model),
        None => true,
    };
    shared.offline.close();
    usable
}

fn serve<L>(shared: &Shared, mut model: Model<'_, L>) -> bool
where
    L: FnMut() -> Result<Box<dyn Transcriber>, SttError>,
{
    let mut slots: Vec<Slot> = Vec::new();
    let mut turns = Turns::default();
    loop {
        slots.append(&mut shared.arrivals.lock());
        free(shared, &mut slots);
        if !model.is_usable() {
            slots.append(&mut shared.arrivals.lock());
            abandon(shared, &mut slots);
            return false;
        }
        if slots.is_empty() && *shared.closing.lock() && shared.arrivals.lock().is_empty() {
            shared.state.send_replace(EngineState::Failed("the engine has stopped".to_owned()));
            return true;
        }
        let live = tick(shared, &mut slots, &mut model);
        let decode = |windows: &[_]| model.decode(windows);
        let worked = turns.take(shared, decode, live, slots.len()) || live.is_some();
        if !worked && !slots.iter().any(Slot::has_work) {
            shared.bell.wait();
        }
    }
}

/// Drops the slots that are done.
fn free(shared: &Shared, slots: &mut Vec<Slot>) {
    let before = slots.len();
    slots.retain(|slot| !slot.is_done());
    let mut stats = shared.stats.lock();
    stats.active -= before - slots.len();
    (stats.lag_s, stats.hop_factor) = slots
        .iter()
        .map(Slot::lateness)
        .fold((0.0, 1), |worst, slot| (f64::max(worst.0, slot.0), u32::max(worst.1, slot.1)));
}

/// Ends every stream with an error, because the model is gone.
fn abandon(shared: &Shared, slots: &mut Vec<Slot>) {
    let reason = match &*shared.state.borrow() {
        EngineState::Failed(reason) => reason.clone(),
        _ => "the model is gone".to_owned(),
    };
    let message = SttError::Unavailable(reason).to_string();
    for slot in slots.iter_mut() {
        slot.fail(&message);
    }
    let mut stats = shared.stats.lock();
    stats.aborted += slots.len() as u64;
    stats.active -= slots.len();
    slots.clear();
}

/// Runs a step of one stream's own logic; a panic in it ends that stream alone.
fn guarded(shared: &Shared, slot: &mut Slot, step: impl FnOnce(&mut Slot)) {
    if catch_unwind(AssertUnwindSafe(|| step(slot))).is_err() {
        error!("the logic of a stream panicked; the stream ends");
        slot.fail("an internal fault has ended this stream; open another");
        shared.stats.lock().aborted += 1;
    }
}

/// One round over the slots and one batch; how long that took, when a window was decoded.
fn tick<L>(shared: &Shared, slots: &mut [Slot], model: &mut Model<'_, L>) -> Option<Duration>
where
    L: FnMut() -> Result<Box<dyn Transcriber>, SttError>,
{
    let mut taken = 0;
    for slot in slots.iter_mut() {
        guarded(shared, slot, Slot::advance);
        taken += slot.taken();
    }
    shared.stats.lock().audio_s += seconds(taken as u64);
    // The oldest deadline first: a window that is not in this batch is nearer to the head of the next.
    let mut waiting: Vec<(f64, usize)> =
        slots.iter().enumerate().filter_map(|(i, slot)| Some((slot.due()?, i))).collect();
    waiting.sort_by(|a, b| a.0.total_cmp(&b.0));
    waiting.truncate(shared.config.max_batch.max(1));
    let mut windows = Vec::new();
    let mut owners = Vec::new();
    let mut last = 0;
    for (_, i) in waiting {
        if let Some((window, is_last)) = slots.get_mut(i).and_then(Slot::window_due) {
            windows.push(window);
            owners.push(i);
            last += u64::from(is_last);
        }
    }
    if windows.is_empty() {
        return None;
    }
    let started = shared.now();
    let results = model.decode(&windows);
    let now = shared.now();
    let took_s = now - started;
    debug!(windows = windows.len(), took_ms = (took_s * 1_000.0) as u64, "batch decoded");
    shared.decoded(&results, took_s);
    shared.stats.lock().last_windows += last;
    for (owner, result) in owners.iter().zip(results) {
        let Some(slot) = slots.get_mut(*owner) else { continue };
        guarded(shared, slot, |slot| slot.absorb(result, now));
        let (lag_s, factor) = slot.lateness();
        if factor > 1 {
            shared.admission.lock().late(now, lag_s);
        }
    }
    Some(Duration::try_from_secs_f64(took_s).unwrap_or_default())
}
