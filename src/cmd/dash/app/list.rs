//! Moving in the list. Index 0 is the newest row that is shown; behind the oldest row of the buffer come those of the
//! past, as far as they were read. Pure.

use super::{
    super::{
        layout,
        state::{buffer::Buffer, past::Reading, row::Row},
    },
    Anchor, App, Effect,
};
use crate::bus::Received;

impl App {
    /// Rows that are hidden while the list is frozen.
    fn hidden(&self) -> usize {
        let newer = |frozen: u64| {
            frozen.checked_sub(1).map_or(self.matches.len(), |last| self.matches.newer_than(last))
        };
        self.list.frozen.map_or(0, newer)
    }

    /// Rows of the buffer that can be shown.
    fn kept(&self) -> usize {
        self.matches.len() - self.hidden()
    }

    /// Rows that can be shown.
    pub(in crate::cmd::dash) fn listed(&self) -> usize {
        self.kept() + self.past.len()
    }

    /// The row at an index, and what holds its bytes.
    fn at(&self, index: usize) -> Option<(&Row, &Buffer)> {
        match index.checked_sub(self.kept()) {
            Some(past) => self.past.row(past),
            None => {
                let seq = self.matches.nth_newest(self.hidden() + index)?;
                Some((self.buffer.row(seq)?, &self.buffer))
            }
        }
    }

    pub(super) fn row_at(&self, index: usize) -> Option<&Row> {
        self.at(index).map(|(row, _)| row)
    }

    /// What finds the row at an index again when others have come or gone.
    pub(in crate::cmd::dash) fn anchor_at(&self, index: usize) -> Option<Anchor> {
        let row = self.row_at(index)?;
        if index >= self.kept() { row.position.map(Anchor::Past) } else { Some(Anchor::Kept(row.seq)) }
    }

    fn index_at(&self, anchor: Anchor) -> Option<usize> {
        match anchor {
            Anchor::Kept(seq) => {
                self.matches.index_of(seq).and_then(|index| index.checked_sub(self.hidden()))
            }
            Anchor::Past(position) => self.past.index_of(position).map(|index| self.kept() + index),
        }
    }

    /// The index of the row that is chosen.
    pub(in crate::cmd::dash) fn cursor_index(&self) -> usize {
        let last = self.listed().saturating_sub(1);
        self.list.cursor.map_or(0, |anchor| self.index_at(anchor).unwrap_or(last)).min(last)
    }

    /// The index of the first row on the screen.
    pub(in crate::cmd::dash) fn top_index(&self) -> usize {
        let last = self.listed().saturating_sub(1);
        self.list.top.map_or(0, |anchor| self.index_at(anchor).unwrap_or(last)).min(last)
    }

    /// The row that is chosen; the newest one where nobody has chosen.
    pub(in crate::cmd::dash) fn chosen(&self) -> Option<&Row> {
        self.row_at(self.cursor_index())
    }

    /// The chosen row with its bytes: the whole envelope, and the payload within it.
    pub(in crate::cmd::dash) fn chosen_bytes(&self) -> Option<(&Row, &[u8], &[u8])> {
        let (row, buffer) = self.at(self.cursor_index())?;
        Some((row, buffer.body(row), buffer.payload(row)))
    }

    /// The rows on the screen, the newest first, each with its index.
    pub(in crate::cmd::dash) fn page(&self, height: usize) -> impl Iterator<Item = (usize, &Row)> {
        let top = self.top_index();
        (top..self.listed().min(top + height)).filter_map(|index| Some((index, self.row_at(index)?)))
    }

    /// Rows that have come and are not on the screen, because the list is frozen or because somebody reads further down.
    pub(in crate::cmd::dash) fn unseen(&self) -> usize {
        match (self.list.frozen, self.list.top) {
            (Some(_), _) => self.hidden(),
            (None, Some(_)) => self.top_index(),
            (None, None) => 0,
        }
    }

    pub(in crate::cmd::dash) const fn is_following(&self) -> bool {
        self.list.cursor.is_none() && self.list.frozen.is_none()
    }

    /// Moves the cursor to an index and the page with it.
    pub(super) fn go_to(&mut self, index: usize) {
        let height = layout::page(self);
        let index = index.min(self.listed().saturating_sub(1));
        let top = self.top_index();
        let top = if index < top { index } else { top.max((index + 1).saturating_sub(height)) };
        let (cursor, top_anchor) = (self.anchor_at(index), self.anchor_at(top));
        self.list.cursor = cursor;
        self.list.top = if top == 0 && index == 0 { None } else { top_anchor };
        self.look();
    }

    pub(super) fn move_up(&mut self, by: usize) -> Vec<Effect> {
        let at = self.cursor_index();
        let to = at.saturating_sub(by);
        // Between the past and the buffer lies what is in neither: it is read before anybody steps over it.
        if self.past.is_apart && at >= self.kept() && to < self.kept() {
            self.go_to(self.kept());
            return self.read(self.past.newest().map(Reading::Newer));
        }
        if to == 0 {
            self.follow();
        } else {
            self.go_to(to);
        }
        Vec::new()
    }

    pub(super) fn move_down(&mut self, by: usize) -> Vec<Effect> {
        let to = self.cursor_index().saturating_add(by);
        let is_beyond = to >= self.listed();
        self.go_to(to);
        if !is_beyond || !self.has_history || self.past.is_at_beginning || self.matches.is_searching() {
            return Vec::new();
        }
        let oldest = match self.past.is_empty() {
            false => self.past.oldest(),
            true => self.buffer.rows().find_map(|row| row.position),
        };
        self.read(oldest.map(Reading::Older))
    }

    /// Asks for a page of the past, unless one is on its way.
    fn read(&mut self, reading: Option<Reading>) -> Vec<Effect> {
        match reading {
            Some(reading) if self.past.reading.is_none() => {
                self.past.reading = Some(reading);
                vec![Effect::Read(reading)]
            }
            _ => Vec::new(),
        }
    }

    /// A page of the past is here.
    pub(super) fn take_page(&mut self, reading: Reading, events: &[Received]) -> Vec<Effect> {
        let cursor = self.list.cursor;
        let next = self.past.take(reading, events, &self.buffer, &self.filter, self.now);
        if cursor.is_some() {
            self.go_to(self.cursor_index());
        }
        self.read(next)
    }

    /// To the newest row, and on with those that come. The past is let go.
    pub(super) fn follow(&mut self) {
        self.past.clear();
        self.list.cursor = None;
        self.list.top = None;
        self.look();
    }

    /// What comes from now on is not shown; or it is again.
    pub(super) fn freeze(&mut self) {
        self.list.frozen = match self.list.frozen {
            Some(_) => None,
            None => Some(self.buffer.end()),
        };
        self.look();
    }

    pub(super) fn choose(&mut self, anchor: Anchor) {
        if let Some(index) = self.index_at(anchor) {
            self.go_to(index);
        }
    }

    /// Shows the payload of the row that is chosen.
    pub(super) fn look(&mut self) {
        let cursor = self.cursor_index();
        let anchor = self.anchor_at(cursor);
        let found = match cursor.checked_sub(self.kept()) {
            Some(past) => self.past.row(past),
            None => {
                let seq = self.matches.nth_newest(self.hidden() + cursor);
                seq.and_then(|seq| self.buffer.row(seq)).map(|row| (row, &self.buffer))
            }
        };
        match (found, anchor) {
            (Some((row, buffer)), Some(anchor)) => self.tree.show(anchor, buffer.payload(row)),
            _ => self.tree.clear(),
        }
    }
}
