//! How the dashboard looks: the state in, cells out. Pure; nothing here remembers anything.
//!
//! `screen` puts the parts together; `look` knows colours and signs, `text` keeps text to its columns, `strokes` joins
//! lines; the other files draw a part each.

mod alerts;
mod cloud;
mod details;
mod flow;
mod graph;
mod header;
mod list;
pub(super) mod look;
mod overlays;
pub(super) mod screen;
mod services;
mod sessions;
mod stack;
mod status;
mod strokes;
mod text;
mod timeline;

use ratatui::layout::{Position, Rect};

use super::app::Target;

/// Where things were drawn, for the mouse.
#[derive(Debug, Default)]
pub(super) struct Hits(Vec<(Rect, Target)>);

impl Hits {
    /// Something stands here, above what was drawn before.
    pub(super) fn add(&mut self, area: Rect, target: Target) {
        self.0.push((area, target));
    }

    /// What stands at a place.
    pub(super) fn at(&self, column: u16, line: u16) -> Option<Target> {
        let place = Position::new(column, line);
        self.0.iter().rev().find(|(area, _)| area.contains(place)).map(|(_, target)| target.clone())
    }
}
