//! The events, the newest first. Pure.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::super::{
    app::{App, Focus, Link, Target},
    layout,
    state::row::{Kind, Row},
};
use super::{
    Hits,
    look::{Look, Tone},
    screen::panel,
    text::{fixed, number},
};

/// Letters of a session that are shown.
const SESSION: usize = 8;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let has_keys = app.focus == Focus::Main;
    panel(frame, area, &title(app, look), has_keys, look);
    hits.add(area, Target::List);
    let inside = layout::inside(area);
    if app.listed() == 0 {
        let lines: Vec<Line<'_>> = empty(app).into_iter().map(Line::from).collect();
        let top = inside.height.saturating_sub(lines.len() as u16) / 2;
        let place = Rect { y: inside.y + top, height: inside.height - top, ..inside };
        frame.render_widget(Paragraph::new(lines).style(look.tone(Tone::Faint)).centered(), place);
        return;
    }
    let chosen = app.cursor_index();
    for (line, (index, row)) in (0_u16..).zip(app.page(usize::from(inside.height))) {
        let place = Rect { y: inside.y + line, height: 1, ..inside };
        let is_marked = app.marks.has(&row.id);
        let shown = Line::from(columns(row, is_marked, usize::from(inside.width), look));
        let is_chosen = chosen == index && !app.is_following();
        let style = if is_chosen { look.chosen(has_keys) } else { Style::new() };
        frame.buffer_mut().set_style(place, style);
        frame.render_widget(shown.patch_style(style), place);
        if let Some(anchor) = app.anchor_at(index) {
            hits.add(place, Target::Row(anchor));
        }
    }
}

fn title(app: &App, look: &Look) -> String {
    let shown = app.matches.events() as u64;
    let all = app.buffer.events() as u64;
    let mut parts = vec!["events".to_owned()];
    if app.filter.count() > 0 {
        parts.push(format!("Showing {} of {}", number(shown), number(all)));
    } else {
        parts.push(number(shown));
    }
    if app.matches.is_searching() {
        parts.push("searching".to_owned());
    }
    match app.past.reading {
        Some(_) => parts.push("reading the history".to_owned()),
        None if app.past.is_apart => parts.push("in the history; g goes back".to_owned()),
        None if !app.past.is_empty() && app.past.is_at_beginning => {
            parts.push(format!("{} from the history, back to its beginning", number(app.past.len() as u64)));
        }
        None if !app.past.is_empty() => {
            parts.push(format!("{} from the history", number(app.past.len() as u64)))
        }
        None => {}
    }
    let unseen = app.unseen();
    match app.list.frozen {
        Some(_) => parts.push(format!("FROZEN, {} new", number(unseen as u64))),
        None if unseen > 0 => parts.push(format!("{} new above", number(unseen as u64))),
        None if app.is_following() => parts.push("following".to_owned()),
        None => {}
    }
    parts.join(look.sign(" · ", " | "))
}

/// What is said where there is nothing to show.
fn empty(app: &App) -> Vec<String> {
    let all = app.buffer.events();
    match (&app.link, all) {
        _ if app.matches.is_searching() => vec!["searching".to_owned()],
        (_, 1..) if app.filter.count() > 0 => {
            vec![
                format!("none of {} events matches", number(all as u64)),
                format!("{}", app.filter),
                "Backspace shows all".to_owned(),
            ]
        }
        (Link::Connected, _) => vec![
            "waiting for events".to_owned(),
            "try: godctl bus publish hello.world '{\"text\": \"hi\"}'".to_owned(),
        ],
        (Link::Connecting, _) => vec!["connecting".to_owned()],
        (Link::Ended, _) => vec!["the recording holds no event".to_owned()],
        (Link::Disconnected | Link::Reconnecting { .. } | Link::Failed(_), _) => {
            vec!["not connected".to_owned(), "c connects".to_owned()]
        }
    }
}

fn columns(row: &Row, is_marked: bool, width: usize, look: &Look) -> Vec<Span<'static>> {
    let (icon, style) = look.icon(row);
    let faint = look.tone(Tone::Faint);
    let mut spans = vec![
        Span::styled(look.time(row.at), faint),
        Span::styled(if is_marked { look.sign("★", "*") } else { " " }, look.tone(Tone::Warning)),
    ];
    // Signs are one or two columns wide, depending on the terminal; two hold both.
    spans.push(Span::styled(fixed(icon, 2), style));
    let used = 11;
    let rest = width.saturating_sub(used);
    if row.kind != Kind::Event {
        let text = match row.kind {
            Kind::Unparsed => format!("unparsed {} {}", row.event_type, row.summary),
            _ => row.summary.to_string(),
        };
        spans.push(Span::styled(fixed(&text, rest), look.tone(Tone::Warning)));
        return spans;
    }
    let widths = Widths::of(rest);
    let colour = look.fg(row.colour());
    let mut cell = |text: &str, columns: usize, style: Style| {
        if columns > 0 {
            let text = crate::cmd::text::printable(text, 300);
            spans.push(Span::styled(fixed(&text, columns - 1), style));
            spans.push(Span::raw(" "));
        }
    };
    let weight = if row.is_error { Modifier::BOLD } else { Modifier::empty() };
    let style = if row.is_error { look.tone(Tone::Bad) } else { colour };
    cell(&row.event_type, widths.event_type, style.add_modifier(weight));
    cell(&row.app, widths.app, colour);
    let session: String = row.session.chars().take(SESSION).collect();
    cell(&session, widths.session, faint);
    spans.push(Span::raw(fixed(&row.summary, widths.summary)));
    spans
}

/// Columns, each with the blank behind it.
#[derive(Debug, Clone, Copy)]
struct Widths {
    event_type: usize,
    app: usize,
    session: usize,
    summary: usize,
}

impl Widths {
    fn of(rest: usize) -> Self {
        let session = if rest >= 84 { SESSION + 1 } else { 0 };
        let app = match rest {
            0..40 => 0,
            40..70 => 12,
            _ => 16,
        };
        let left = rest.saturating_sub(session + app);
        let event_type = (left * 11 / 20).clamp(left.min(20), 34);
        Self { event_type, app, session, summary: left.saturating_sub(event_type) }
    }
}
