//! Where the parts of the screen are, for whoever draws them and whoever moves in them. Pure.

use ratatui::layout::{Constraint, Layout, Rect};

use super::app::{App, Link, View};

/// From so many columns on the details stand beside the list.
const BESIDE: u16 = 100;

/// The parts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) header: Rect,
    pub(super) metrics: Rect,
    /// What is wrong with the connection.
    pub(super) banner: Option<Rect>,
    /// The view, with its frame.
    pub(super) main: Option<Rect>,
    /// The details, with their frame.
    pub(super) details: Option<Rect>,
    pub(super) status: Rect,
}

/// The parts of this dashboard.
pub(super) fn parts(app: &App) -> Parts {
    let (width, height) = app.size;
    let area = Rect::new(0, 0, width, height);
    let needs_banner = match &app.link {
        Link::Reconnecting { .. } | Link::Failed(_) => true,
        Link::Connecting | Link::Connected | Link::Disconnected | Link::Ended => false,
    };
    let lines = [
        Constraint::Length(1),
        Constraint::Length(1),
        Constraint::Length(u16::from(needs_banner)),
        Constraint::Min(1),
        Constraint::Length(1),
    ];
    let [header, metrics, banner, middle, status] = Layout::vertical(lines).areas(area);
    let is_list = app.view == View::List;
    let (main, details) = if is_list && width >= BESIDE {
        let columns = [Constraint::Fill(3), Constraint::Fill(2)];
        let [main, details] = Layout::horizontal(columns).areas(middle);
        (Some(main), Some(details))
    } else if is_list && app.details {
        (None, Some(middle))
    } else {
        (Some(middle), None)
    };
    Parts { header, metrics, banner: needs_banner.then_some(banner), main, details, status }
}

/// What a frame leaves inside: one line above for the title, and one below where there is room for it.
pub(super) fn inside(area: Rect) -> Rect {
    let is_low = area.height < 14;
    Rect {
        x: area.x.saturating_add(1),
        y: area.y.saturating_add(1),
        width: area.width.saturating_sub(2),
        height: area.height.saturating_sub(if is_low { 1 } else { 2 }),
    }
}

/// Rows of the list that fit.
pub(super) fn page(app: &App) -> usize {
    parts(app).main.map_or(1, |area| usize::from(inside(area).height).max(1))
}
