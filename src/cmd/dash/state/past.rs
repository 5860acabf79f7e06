//! Events from before the buffer, read from the bus's history a page at a time: a window that moves, so that a history
//! of any length can be walked through with little memory. Pure.

use std::collections::VecDeque;

use jiff::Timestamp;

use super::{
    buffer::{Buffer, Limits, Pushed},
    filter::Filter,
    row::{Draft, Row},
};
use crate::bus::{Position, Received};

/// Events of a page.
pub(in crate::cmd::dash) const PAGE: usize = 500;

/// Pages that are kept; those that are furthest from where the person is go for one more.
const PAGES: usize = 20;

/// Pages that are read in a row when none of their events is shown; then the person is asked to go on.
const PATIENCE: usize = 400;

/// Some events, oldest first, and which of them are shown.
#[derive(Debug)]
struct Page {
    buffer: Buffer,
    shown: Vec<u64>,
}

impl Page {
    fn new(events: &[Received], filter: &Filter, now: Timestamp) -> Self {
        let mut buffer = Buffer::new(Limits { rows: usize::MAX, bytes: usize::MAX });
        for received in events {
            match buffer.push(Draft::of_received(received, now)) {
                Pushed::Row(_) | Pushed::Duplicate => {}
            }
        }
        let mut page = Self { buffer, shown: Vec::new() };
        page.sift(filter, now);
        page
    }

    fn sift(&mut self, filter: &Filter, now: Timestamp) {
        let mut sieve = filter.sieve(now);
        let shown = self.buffer.rows().filter(|row| sieve.lets_through(row, &self.buffer));
        self.shown = shown.map(|row| row.seq).collect();
    }

    fn ends(&self) -> Option<(Position, Position)> {
        let mut positions = self.buffer.rows().filter_map(|row| row.position);
        let first = positions.next()?;
        Some((first, positions.next_back().unwrap_or(first)))
    }
}

/// What is being read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Reading {
    /// The page before this place.
    Older(Position),
    /// The page after it.
    Newer(Position),
}

/// The window. Index 0 is its newest event that is shown.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct Past {
    /// The newest page first.
    pages: VecDeque<Page>,
    pub(in crate::cmd::dash) reading: Option<Reading>,
    /// There is nothing older.
    pub(in crate::cmd::dash) is_at_beginning: bool,
    /// Events lie between it and the buffer.
    pub(in crate::cmd::dash) is_apart: bool,
    /// The first row of the buffer when somebody looked last.
    pub(in crate::cmd::dash) end: u64,
    /// Pages that were read in a row without anything to show.
    empty: usize,
}

impl Past {
    pub(in crate::cmd::dash) fn is_empty(&self) -> bool {
        self.pages.is_empty()
    }

    /// Events that are shown.
    pub(in crate::cmd::dash) fn len(&self) -> usize {
        self.pages.iter().map(|page| page.shown.len()).sum()
    }

    pub(in crate::cmd::dash) fn row(&self, index: usize) -> Option<(&Row, &Buffer)> {
        let mut left = index;
        for page in &self.pages {
            if let Some(from_end) = left.checked_sub(page.shown.len()) {
                left = from_end;
                continue;
            }
            let seq = page.shown.get(page.shown.len() - 1 - left)?;
            return Some((page.buffer.row(*seq)?, &page.buffer));
        }
        None
    }

    /// The index of the event at a position; where it is not shown, that of the next older one that is.
    pub(in crate::cmd::dash) fn index_of(&self, position: Position) -> Option<usize> {
        let mut before = 0;
        for page in &self.pages {
            let at = |seq: &u64| page.buffer.row(*seq).and_then(|row| row.position);
            let newer = page.shown.len() - page.shown.partition_point(|seq| at(seq) <= Some(position));
            if newer < page.shown.len() {
                return Some(before + newer);
            }
            before += newer;
        }
        None
    }

    /// The place before which the next older page ends.
    pub(in crate::cmd::dash) fn oldest(&self) -> Option<Position> {
        self.pages.back().and_then(Page::ends).map(|(first, _)| first)
    }

    /// The place after which the next newer page begins.
    pub(in crate::cmd::dash) fn newest(&self) -> Option<Position> {
        self.pages.front().and_then(Page::ends).map(|(_, last)| last)
    }

    /// Takes a page that was asked for; gives what to read next, where nothing of it is shown.
    pub(in crate::cmd::dash) fn take(
        &mut self,
        reading: Reading,
        events: &[Received],
        buffer: &Buffer,
        filter: &Filter,
        now: Timestamp,
    ) -> Option<Reading> {
        if self.reading != Some(reading) {
            // Somebody went elsewhere meanwhile.
            return None;
        }
        self.reading = None;
        let oldest_here = buffer.rows().find_map(|row| row.position);
        let page = Page::new(events, filter, now);
        let found = !page.shown.is_empty();
        match reading {
            Reading::Older(_) => {
                self.is_at_beginning = events.len() < PAGE;
                if !events.is_empty() {
                    self.pages.push_back(page);
                }
                if self.pages.len() > PAGES {
                    self.pages.pop_front();
                    self.is_apart = true;
                }
            }
            Reading::Newer(_) => {
                let reaches =
                    page.ends().is_some_and(|(_, last)| oldest_here.is_some_and(|oldest| last >= oldest));
                // What the buffer has is shown from there.
                let kept: Vec<Received> = events
                    .iter()
                    .filter(|received| received.position < oldest_here || oldest_here.is_none())
                    .cloned()
                    .collect();
                self.is_apart = !reaches && events.len() >= PAGE;
                let page = Page::new(&kept, filter, now);
                if !kept.is_empty() {
                    self.pages.push_front(page);
                }
                if self.pages.len() > PAGES {
                    self.pages.pop_back();
                    self.is_at_beginning = false;
                }
            }
        }
        self.empty = if found { 0 } else { self.empty + 1 };
        if found || self.empty.is_multiple_of(PATIENCE) {
            return None;
        }
        match reading {
            Reading::Older(_) if !self.is_at_beginning => self.oldest().map(Reading::Older),
            Reading::Newer(_) if self.is_apart => self.newest().map(Reading::Newer),
            Reading::Older(_) | Reading::Newer(_) => None,
        }
    }

    /// The filter has changed.
    pub(in crate::cmd::dash) fn sift(&mut self, filter: &Filter, now: Timestamp) {
        self.empty = 0;
        for page in &mut self.pages {
            page.sift(filter, now);
        }
    }

    pub(in crate::cmd::dash) fn clear(&mut self) {
        *self = Self { end: self.end, ..Self::default() };
    }
}
