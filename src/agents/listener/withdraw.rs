//! Gives up a prompt that only waits in the journal, because somebody wants that. It is told like any other that is given
//! up, and becomes a dead letter of its queue, from where it can be put back.

use super::worker::last_words;
use crate::{
    agents::{
        Class, Failure,
        orchestrator::Holder,
        store::{
            StoreError,
            journal::{End, Job, Journal},
        },
    },
    bus::{
        Clock,
        event::{Source, Stamp},
    },
};

/// What is said of it.
pub(super) const CANCELLED: &str = "it was cancelled with `godctl agent cancel`";

/// Gives up the prompt of this key, if it waits. The events about it are in the journal then, for a listener to publish;
/// `queue` is where it came from. `None` if it does not wait: it is unknown, over, or being worked on.
///
/// # Errors
/// A broken file. A prompt that was taken and could not be given up waits again when this process has ended.
pub async fn withdraw(
    journal: &Journal,
    key: &str,
    (holder, clock): (&Holder, &dyn Clock),
    (source, queue): (&Source, &str),
) -> Result<Option<Job>, StoreError> {
    let Some(job) = journal.claim_waiting(key, &holder.to_text()).await? else { return Ok(None) };
    let failure = Failure::new(Class::Cancelled, CANCELLED);
    let stamp = || Stamp { at: clock.now(), ..Stamp::now() };
    let events = last_words(&job, &failure, (source, queue), stamp);
    journal.end(&job, None, (End::Dead, &events)).await?;
    Ok(Some(job))
}
