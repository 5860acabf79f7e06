//! The whole screen. Pure.

use ratatui::{
    Frame,
    layout::Rect,
    symbols::border,
    widgets::{Block, Borders},
};

use super::super::{
    app::{App, View},
    layout,
};
use super::{
    Hits, cloud, details, flow, graph, header, list,
    look::{Look, Tone},
    overlays, services, sessions, status, timeline,
};

/// Draws everything, and tells what stands where.
pub(in crate::cmd::dash) fn draw(frame: &mut Frame<'_>, app: &App, look: &Look) -> Hits {
    let mut hits = Hits::default();
    let parts = layout::parts(app);
    header::header(frame, parts.header, app, look, &mut hits);
    header::metrics(frame, parts.metrics, app, look);
    if let Some(area) = parts.banner {
        header::banner(frame, area, app, look);
    }
    if let Some(area) = parts.main {
        match app.view {
            View::List => list::draw(frame, area, app, look, &mut hits),
            View::Cloud => cloud::draw(frame, area, app, look, &mut hits),
            View::Flow => flow::draw(frame, area, app, look, &mut hits),
            View::Graph => graph::draw(frame, area, app, look, &mut hits),
            View::Services => services::draw(frame, area, app, look, &mut hits),
            View::Timeline => timeline::draw(frame, area, app, look, &mut hits),
            View::Sessions => sessions::draw(frame, area, app, look, &mut hits),
        }
    }
    if let Some(area) = parts.details {
        details::draw(frame, area, app, look, &mut hits);
    }
    status::draw(frame, parts.status, app, look);
    overlays::draw(frame, frame.area(), app, look);
    hits
}

const LETTERS: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// A frame with a title; that of the part that takes the keys is brighter.
pub(super) fn panel(frame: &mut Frame<'_>, area: Rect, title: &str, has_keys: bool, look: &Look) {
    let is_low = layout::inside(area).bottom() == area.bottom();
    let borders = if is_low { Borders::TOP | Borders::LEFT | Borders::RIGHT } else { Borders::ALL };
    framed(frame, area, borders, title, has_keys, look);
}

/// The same with these borders, however low it is.
pub(super) fn framed(
    frame: &mut Frame<'_>,
    area: Rect,
    borders: Borders,
    title: &str,
    has_keys: bool,
    look: &Look,
) {
    let tone = if has_keys { Tone::Accent } else { Tone::Faint };
    let width = usize::from(area.width).saturating_sub(4);
    let block = Block::new()
        .borders(borders)
        .border_set(if look.ascii { LETTERS } else { border::ROUNDED })
        .border_style(look.tone(tone))
        .title(format!(" {} ", crate::cmd::text::cut(title, width)))
        .title_style(look.tone(tone));
    frame.render_widget(block, area);
}
