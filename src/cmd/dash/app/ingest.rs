//! Events come in. Pure.

use super::{
    super::state::{
        buffer::Pushed,
        row::{Draft, Kind},
        tallies::Seen,
    },
    App, Arrived, Effect,
};
use crate::bus::Item;

impl App {
    pub(super) fn batch(&mut self, batch: Vec<Arrived>) -> Vec<Effect> {
        let mut effects = Vec::new();
        let mut oldest_lag = None;
        self.speed.batches += 1;
        let mut shown = Vec::with_capacity(batch.len());
        for Arrived { item, is_live } in batch {
            let Some(draft) = Draft::of(&item, self.now) else { continue };
            // The time of a recording is its own.
            if is_live && !self.options.is_recording {
                let lag = i64::try_from(self.now.duration_since(draft.taken).as_millis()).unwrap_or(i64::MAX);
                self.speed.lag_ms = lag;
                oldest_lag.get_or_insert(lag);
            }
            let came = if self.options.is_recording { draft.taken } else { self.now };
            let (kind, is_error) = (draft.kind, draft.is_error);
            match self.buffer.push(draft) {
                Pushed::Duplicate => self.metrics.duplicates += 1,
                Pushed::Row(seq) => {
                    match kind {
                        Kind::Event => self.metrics.event(is_error, is_live, came),
                        Kind::Unparsed => self.metrics.unparsed += 1,
                        Kind::Gap => self.metrics.gaps += 1,
                    }
                    if let (Item::Event(received), Some(row)) = (&item, self.buffer.row(seq))
                        && let Some(event) = received.body.event()
                    {
                        self.tallies.take(&Seen { row, event, is_live, now: came });
                        if self.types.take(&row.event_type, &self.flags) && is_live {
                            effects.push(Effect::Bell);
                        }
                    }
                    shown.push(seq);
                }
            }
        }
        self.speed.took(oldest_lag);
        self.extend_chain(&shown);
        if !self.matches.covers(self.buffer.end()) {
            let mut sieve = self.filter.sieve(self.now);
            for seq in &shown {
                if let Some(row) = self.buffer.row(*seq) {
                    self.matches.offer(row, sieve.lets_through(row, &self.buffer));
                }
            }
        }
        let first = self.buffer.first();
        self.matches.forget(first);
        self.grow_graph(&shown);
        // What had to go from the buffer is not in the window of the past either.
        self.past.is_apart |= !self.past.is_empty() && self.past.end != first;
        self.past.end = first;
        if self.is_following() {
            self.look();
        }
        self.is_dirty = true;
        effects
    }

    /// The chain that is shown grows with the events that belong to it.
    fn extend_chain(&mut self, seqs: &[u64]) {
        let Some(chain) = &mut self.filter.chain else { return };
        let rows = seqs.iter().filter_map(|seq| self.buffer.row(*seq));
        // Each of them is taken, so this looks at all.
        let joins = rows.filter(|row| chain.follow(row)).count() > 0;
        if joins {
            chain.complete(&self.buffer);
            self.matches.restart(&self.buffer);
        }
    }
}
