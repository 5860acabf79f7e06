//! The view `timeline`: events over time; what a person does in it. Pure.

use super::{
    super::{layout, state::row::Kind},
    App, Effect, Focus, View,
    keys::Action,
};

/// Seconds of a column, from near to far. Those above a minute take several buckets together.
const ZOOMS: [i64; 5] = [1, 10, 60, 300, 900];

/// Where the person is in it.
#[derive(Debug, Default)]
pub(in crate::cmd::dash) struct TimelineView {
    /// Which of [`ZOOMS`].
    zoom: usize,
    /// The second at which the chosen column begins; without, nobody has chosen, and the newest one is on the right.
    cursor: Option<i64>,
}

/// The columns that are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) struct Window {
    /// Seconds of a column.
    pub(in crate::cmd::dash) seconds: i64,
    /// The second at which the leftmost one begins.
    pub(in crate::cmd::dash) from: i64,
    /// How many.
    pub(in crate::cmd::dash) columns: usize,
    /// Which one is chosen.
    pub(in crate::cmd::dash) chosen: Option<usize>,
}

impl Window {
    /// The second at which a column begins.
    pub(in crate::cmd::dash) fn start(&self, column: usize) -> i64 {
        self.from + self.seconds * i64::try_from(column).unwrap_or(0)
    }
}

impl TimelineView {
    pub(in crate::cmd::dash) fn seconds(&self) -> i64 {
        ZOOMS.get(self.zoom).copied().unwrap_or(1)
    }

    /// The columns that are shown where so many fit: the newest ones, or those around the chosen one.
    pub(in crate::cmd::dash) fn window(&self, now: i64, columns: usize) -> Window {
        let seconds = self.seconds();
        let newest = now.div_euclid(seconds);
        let wide = i64::try_from(columns).unwrap_or(1).max(1);
        let chosen = self.cursor.map(|cursor| cursor.div_euclid(seconds).min(newest));
        // Who looks far back sees what came before and after.
        let far = chosen.filter(|chosen| newest - chosen >= wide);
        let last = far.map_or(newest, |chosen| newest.min(chosen + wide / 2));
        let first = last - wide + 1;
        let chosen = chosen.and_then(|chosen| usize::try_from(chosen - first).ok());
        Window { seconds, from: first * seconds, columns, chosen }
    }
}

impl App {
    /// Takes a key; `None` where it means nothing here.
    pub(super) fn act_on_timeline(&mut self, action: Action) -> Option<Vec<Effect>> {
        let page =
            layout::parts(self).main.map_or(1, |area| i64::from(layout::inside(area).width / 2).max(1));
        match action {
            Action::Left => self.move_in_time(-1),
            Action::Right => self.move_in_time(1),
            Action::PageUp => self.move_in_time(-page),
            Action::PageDown => self.move_in_time(page),
            Action::Newest => self.timeline.cursor = None,
            Action::Oldest => self.move_in_time(-1_000_000),
            Action::ZoomIn => self.timeline.zoom = self.timeline.zoom.saturating_sub(1),
            Action::ZoomOut => self.timeline.zoom = (self.timeline.zoom + 1).min(ZOOMS.len() - 1),
            Action::Back if self.timeline.cursor.is_some() => self.timeline.cursor = None,
            Action::Open => self.jump(),
            _ => return None,
        }
        Some(Vec::new())
    }

    /// Moves the cursor by so many columns, as far back as is counted and up to now.
    fn move_in_time(&mut self, columns: i64) {
        let (now, seconds) = (self.now.as_second(), self.timeline.seconds());
        let newest = now.div_euclid(seconds);
        let at = self.timeline.cursor.map_or(newest, |cursor| cursor.div_euclid(seconds));
        // There is nothing to be seen before the first event.
        let reach = (now - self.tallies.timeline.reach(seconds)).div_euclid(seconds) + 1;
        let oldest =
            self.tallies.timeline.span().map_or(newest, |(first, _)| first.div_euclid(seconds)).max(reach);
        let column = (at + columns).max(oldest.min(newest));
        self.timeline.cursor = (column < newest).then_some(column * seconds);
    }

    /// The first click on a column chooses its moment, the second one shows the list there.
    pub(super) fn click_moment(&mut self, column: usize) {
        let width = layout::parts(self).main.map_or(1, |area| usize::from(layout::inside(area).width));
        let window = self.timeline.window(self.now.as_second(), width);
        if window.chosen == Some(column) {
            self.jump();
        } else {
            self.timeline.cursor = Some(window.start(column));
        }
    }

    /// Shows the list at the chosen moment: the newest event of the chosen column, or the next older one.
    fn jump(&mut self) {
        let cursor = self.timeline.cursor;
        let end = cursor.map(|cursor| {
            let seconds = self.timeline.seconds();
            (cursor.div_euclid(seconds) + 1) * seconds
        });
        let Some(end) = end else {
            self.show_list();
            self.list.frozen = None;
            return self.follow();
        };
        let is_before = |seq: &u64| {
            self.buffer.row(*seq).is_some_and(|row| row.kind != Kind::Gap && row.taken.as_second() < end)
        };
        let Some(seq) = self.matches.iter().rev().find(is_before) else {
            let is_filtered =
                self.buffer.rows().any(|row| row.kind != Kind::Gap && row.taken.as_second() < end);
            let text = if is_filtered {
                "no event of that time or before it passes the filter; Backspace shows all"
            } else {
                "that moment lies before the oldest event that is kept"
            };
            return self.tell(text.to_owned());
        };
        self.show_list();
        // What is frozen away can't be chosen.
        if self.list.frozen.is_some_and(|frozen| seq >= frozen) {
            self.list.frozen = None;
        }
        self.choose(super::Anchor::Kept(seq));
    }

    /// The list, and the keys go to it.
    pub(super) fn show_list(&mut self) {
        self.view = View::List;
        self.focus = Focus::Main;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_chosen_column_is_on_the_screen_and_nothing_is_after_now(
            now in 0_i64..1_000_000, ago in 0_i64..200_000, zoom in 0..ZOOMS.len(), columns in 1_usize..300,
        ) {
            let cursor = now - ago;
            let window = TimelineView { zoom, cursor: Some(cursor) }.window(now, columns);
            let chosen = window.chosen.unwrap();
            prop_assert!(chosen < columns);
            prop_assert!((window.start(chosen)..window.start(chosen + 1)).contains(&cursor));
            prop_assert!(window.start(columns - 1) <= now);
        }
    }
}
