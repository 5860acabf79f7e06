//! The rows that the filter lets through, found step by step, so that new events and keys never wait for a large buffer.
//! Pure.

use std::collections::VecDeque;

use jiff::Timestamp;
use rayon::prelude::*;

use super::{
    buffer::Buffer,
    filter::Filter,
    row::{Kind, Row},
};

/// Rows looked at in one step; a few milliseconds of work.
const STEP: u64 = 16_384;

/// Rows that one thread looks at, at least.
const SHARE: usize = 1024;

/// The rows that are shown, oldest first.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Matches {
    seqs: VecDeque<u64>,
    /// Rows before this one are still to be looked at.
    todo: Option<u64>,
    /// Those of them that are gaps between events.
    gaps: VecDeque<u64>,
    /// Passes over the whole buffer that were begun.
    passes: u64,
}

impl Matches {
    /// Begins anew, from the newest row to the oldest.
    pub(in crate::cmd::dash) fn restart(&mut self, buffer: &Buffer) {
        self.seqs.clear();
        self.gaps.clear();
        self.todo = Some(buffer.end());
        self.passes += 1;
    }

    /// Looks at some more rows. False when all were looked at.
    pub(in crate::cmd::dash) fn step(&mut self, buffer: &Buffer, filter: &Filter, now: Timestamp) -> bool {
        let Some(to) = self.todo else { return false };
        let from = to.saturating_sub(STEP).max(buffer.first());
        // Each row, and whether it is a gap.
        let found: Vec<(u64, bool)> = (0..usize::try_from(to.saturating_sub(from)).unwrap_or(0))
            .into_par_iter()
            .with_min_len(SHARE)
            .map_init(
                || filter.sieve(now),
                |sieve, index| {
                    let row = buffer.row(from + index as u64)?;
                    sieve.lets_through(row, buffer).then_some((row.seq, row.kind == Kind::Gap))
                },
            )
            .flatten()
            .collect();
        for (seq, is_gap) in found.into_iter().rev() {
            self.seqs.push_front(seq);
            if is_gap {
                self.gaps.push_front(seq);
            }
        }
        self.todo = (from > buffer.first()).then_some(from);
        self.todo.is_some()
    }

    /// Whether the pass that has just begun comes by the newest rows as well.
    pub(in crate::cmd::dash) fn covers(&self, end: u64) -> bool {
        self.todo == Some(end)
    }

    /// Takes a row that has just come, if it is shown.
    pub(in crate::cmd::dash) fn offer(&mut self, row: &Row, is_shown: bool) {
        if is_shown {
            self.seqs.push_back(row.seq);
            if row.kind == Kind::Gap {
                self.gaps.push_back(row.seq);
            }
        }
    }

    /// Forgets the rows that the buffer has no more.
    pub(in crate::cmd::dash) fn forget(&mut self, before: u64) {
        for seqs in [&mut self.seqs, &mut self.gaps] {
            while seqs.front().is_some_and(|seq| *seq < before) {
                seqs.pop_front();
            }
        }
        self.todo = self.todo.filter(|todo| *todo > before);
    }

    /// Forgets the rows that have become too old for the filter.
    pub(in crate::cmd::dash) fn age(&mut self, buffer: &Buffer, filter: &Filter, now: Timestamp) {
        let sieve = filter.sieve(now);
        for seqs in [&mut self.seqs, &mut self.gaps] {
            seqs.retain(|seq| buffer.row(*seq).is_some_and(|row| sieve.is_young(row)));
        }
    }

    /// Rows that are shown, gaps included.
    pub(in crate::cmd::dash) fn len(&self) -> usize {
        self.seqs.len()
    }

    /// Events that are shown, those that could not be read among them.
    pub(in crate::cmd::dash) fn events(&self) -> usize {
        self.seqs.len() - self.gaps.len()
    }

    /// There are rows that were not looked at yet.
    pub(in crate::cmd::dash) const fn is_searching(&self) -> bool {
        self.todo.is_some()
    }

    pub(in crate::cmd::dash) const fn passes(&self) -> u64 {
        self.passes
    }

    /// The row so far from the newest (0) one.
    pub(in crate::cmd::dash) fn nth_newest(&self, index: usize) -> Option<u64> {
        self.seqs.get(self.seqs.len().checked_sub(index + 1)?).copied()
    }

    /// How far a row is from the newest one; where it is not shown, the next older one that is.
    pub(in crate::cmd::dash) fn index_of(&self, seq: u64) -> Option<usize> {
        let behind = self.seqs.partition_point(|shown| *shown <= seq);
        (behind > 0).then(|| self.seqs.len() - behind)
    }

    /// Rows that are shown and newer than this one.
    pub(in crate::cmd::dash) fn newer_than(&self, seq: u64) -> usize {
        self.seqs.len() - self.seqs.partition_point(|shown| *shown <= seq)
    }

    /// From oldest to newest.
    pub(in crate::cmd::dash) fn iter(&self) -> impl DoubleEndedIterator<Item = u64> + '_ {
        self.seqs.iter().copied()
    }
}
