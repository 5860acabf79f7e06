//! The chosen event, and its payload as a tree. Pure.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};
use uuid::Uuid;

use super::super::{
    app::{App, Focus, Target, tree},
    layout,
    state::row::{Kind, Row},
};
use super::{
    Hits,
    look::{Look, Tone},
    screen::panel,
    text::{bytes, fit},
};
use crate::cmd::text::printable;

/// Ids of what led to an event that are listed.
const CORRELATIONS: usize = 6;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let has_keys = app.focus == Focus::Details;
    panel(frame, area, "details", has_keys, look);
    hits.add(area, Target::Details);
    let inside = layout::inside(area);
    let Some(row) = app.chosen() else {
        frame.render_widget(Paragraph::new("no event is chosen").style(look.tone(Tone::Faint)), inside);
        return;
    };
    let width = usize::from(inside.width);
    let mut facts = facts(row, look);
    if let Some(note) = app.marks.note(&row.id) {
        facts.insert(0, ("note", printable(note, 500), look.tone(Tone::Warning)));
    }
    // Where there is little room the payload matters more.
    let room = usize::from(inside.height).saturating_sub(facts.len().min(5) + 1).max(3);
    let kept = usize::from(inside.height).saturating_sub(room.min(app.tree.lines.len() + 2)).min(facts.len());
    let mut y = inside.y;
    for (name, value, style) in facts.into_iter().take(kept) {
        let line = fit([(format!("{name:<9}"), look.tone(Tone::Faint)), (value, style)], width);
        frame.render_widget(line, Rect { y, height: 1, ..inside });
        y += 1;
    }
    let bottom = inside.bottom();
    if y + 1 >= bottom {
        return;
    }
    if row.kind == Kind::Gap {
        return;
    }
    let tree = Rect { y, height: bottom - y - 1, ..inside };
    payload(frame, tree, app, look, hits, has_keys);
    let figures = app.tree.figures;
    let footer = format!("{}  {} lines  depth {}", bytes(figures.bytes), figures.lines, figures.depth);
    frame.render_widget(
        Line::styled(footer, look.tone(Tone::Faint)),
        Rect { y: bottom - 1, height: 1, ..inside },
    );
}

/// Its first and last letters: the first ones of ids that are made in the same minute are the same.
fn short(id: &Uuid) -> String {
    let text = id.to_string();
    let (first, last) = (text.get(..8).unwrap_or_default(), text.get(32..).unwrap_or_default());
    format!("{first}…{last}")
}

fn facts(row: &Row, look: &Look) -> Vec<(&'static str, String, Style)> {
    let text = look.tone(Tone::Text);
    let clean = |name: &str| printable(name, 300);
    let mut facts = Vec::new();
    match row.kind {
        Kind::Gap => return vec![("gap", row.summary.to_string(), look.tone(Tone::Warning))],
        Kind::Unparsed => {
            facts.push(("unparsed", clean(&row.event_type), look.tone(Tone::Warning)));
            facts.push(("taken", look.moment(row.taken), text));
            return facts;
        }
        Kind::Event => {}
    }
    facts.push(("type", clean(&row.event_type), look.fg(row.colour())));
    facts.push(("time", look.moment(row.at), text));
    facts.push(("source", format!("{}@{}", clean(&row.app), clean(&row.host)), text));
    facts.push(("id", row.id.to_string(), text));
    if !row.correlations.is_empty() {
        let mut ids: Vec<String> =
            row.correlations.iter().take(CORRELATIONS).map(|id| format!("[{}]", short(id))).collect();
        if row.correlations.len() > CORRELATIONS {
            ids.push(format!("and {} more", row.correlations.len() - CORRELATIONS));
        }
        facts.push(("because", ids.join(" "), look.tone(Tone::Accent)));
    }
    if !row.session.is_empty() {
        facts.push(("session", clean(&row.session), text));
    }
    if !row.agent.is_empty() {
        facts.push(("agent", clean(&row.agent), text));
    }
    if let Some(position) = row.position {
        facts.push(("position", position.to_string(), look.tone(Tone::Faint)));
    }
    facts
}

fn payload(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits, has_keys: bool) {
    let (height, width) = (usize::from(area.height), usize::from(area.width));
    let lines = &app.tree.lines;
    // The cursor stays in the middle, where there is more above and below.
    let top = app.tree.cursor.saturating_sub(height / 2).min(lines.len().saturating_sub(height));
    for (y, (index, line)) in (area.y..).zip(lines.iter().enumerate().skip(top).take(height)) {
        let place = Rect { y, height: 1, ..area };
        let style = if has_keys && index == app.tree.cursor { look.chosen(true) } else { Style::new() };
        frame.buffer_mut().set_style(place, style);
        frame.render_widget(tree_line(line, width, look).patch_style(style), place);
        hits.add(place, Target::Tree(index));
    }
}

fn tree_line(line: &tree::Line, width: usize, look: &Look) -> Line<'static> {
    let mark = match line.is_open {
        Some(true) => look.sign("▾ ", "- "),
        Some(false) => look.sign("▸ ", "+ "),
        None => "  ",
    };
    let tone = match line.sort {
        tree::Sort::Text => Tone::Words,
        tree::Sort::Number => Tone::Number,
        tree::Sort::Bool => Tone::Bool,
        tree::Sort::Null => Tone::Null,
        tree::Sort::Part => Tone::Text,
        tree::Sort::More => Tone::Faint,
    };
    let value = printable(&line.value, width.max(1) * 4);
    let value = if line.sort == tree::Sort::Text { format!("\"{value}\"") } else { value };
    let indent = "  ".repeat(line.depth.min(20));
    let key = line.key.as_ref().map(|key| printable(key, 200));
    let colon = if key.is_some() { ": " } else { "" };
    let pieces = [
        (format!("{indent}{mark}"), look.tone(Tone::Faint)),
        (key.unwrap_or_default(), look.tone(Tone::Key)),
        (colon.to_owned(), look.tone(Tone::Faint)),
        (value, look.tone(tone)),
    ];
    let line = fit(pieces, width);
    Line::from(
        line.spans
            .into_iter()
            .map(|span| Span::styled(span.content.into_owned(), span.style))
            .collect::<Vec<_>>(),
    )
}
