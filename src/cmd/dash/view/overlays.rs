//! What lies above the view: help, filters, figures about the program itself. Pure.

use ratatui::{
    Frame,
    layout::{Margin, Rect},
    style::Style,
    text::{Line, Span},
    widgets::{Borders, Clear, Paragraph},
};

use super::super::{
    app::{
        App, Overlay,
        filters::{Field, Panel},
        keys::{Group, TABLE},
        marks::PresetsPanel,
        types::TypesPanel,
    },
    state::types::Flag,
};
use super::{
    look::{Look, Tone},
    screen::framed,
    text::{fixed, number},
};
use crate::cmd::text::printable;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    match &app.overlay {
        Some(Overlay::Help { scroll }) => help(frame, area, *scroll, look),
        Some(Overlay::Filters(panel)) => filters(frame, area, app, panel, look),
        Some(Overlay::Performance) => performance(frame, area, app, look),
        Some(Overlay::Types(panel)) => types(frame, area, app, panel, look),
        Some(Overlay::Presets(panel)) => presets(frame, area, app, panel, look),
        Some(Overlay::Alerts) => super::alerts::draw(frame, area, app, look),
        Some(Overlay::Prompt(_)) | None => {}
    }
}

/// A frame in the middle of the screen with room for so much; gives what is inside.
pub(super) fn above(
    frame: &mut Frame<'_>,
    area: Rect,
    (width, height): (u16, u16),
    title: &str,
    look: &Look,
) -> Rect {
    let width = (width + 2).min(area.width);
    let height = (height + 2).min(area.height);
    let x = area.x + (area.width - width) / 2;
    let y = area.y + (area.height - height) / 2;
    let place = Rect { x, y, width, height };
    frame.render_widget(Clear, place);
    framed(frame, place, Borders::ALL, title, true, look);
    place.inner(Margin::new(1, 1))
}

/// The lines of the help, made from the table of keys.
fn help_lines(look: &Look) -> Vec<Line<'static>> {
    let mut lines = Vec::new();
    for group in Group::EACH {
        if !lines.is_empty() {
            lines.push(Line::default());
        }
        lines.push(Line::styled(group.title(), look.tone(Tone::Accent)));
        for binding in TABLE.iter().filter(|binding| binding.group == group) {
            let keys: Vec<String> = binding.presses.iter().map(ToString::to_string).collect();
            let keys = fixed(&keys.join(" "), 14);
            lines.push(Line::from(vec![
                Span::styled(format!("  {keys}"), look.tone(Tone::Key)),
                Span::raw(binding.help),
            ]));
        }
    }
    lines
}

fn help(frame: &mut Frame<'_>, area: Rect, scroll: usize, look: &Look) {
    let lines = help_lines(look);
    // Two columns where they fit.
    let is_wide = area.width >= 140;
    let half = lines.len().div_ceil(2);
    let height = if is_wide { half } else { lines.len() };
    let width = if is_wide { 136 } else { 66 };
    let wanted = (width, u16::try_from(height).unwrap_or(u16::MAX));
    let inside = above(frame, area, wanted, "keys", look);
    let columns = if is_wide {
        let (left, right) = lines.split_at(half);
        vec![left.to_vec(), right.to_vec()]
    } else {
        vec![lines]
    };
    let count = u16::try_from(columns.len()).unwrap_or(1).max(1);
    for (index, column) in (0_u16..).zip(columns) {
        let part = inside.width / count;
        let place = Rect { x: inside.x + index * part, width: part, ..inside };
        let most = column.len().saturating_sub(usize::from(place.height));
        let shown: Vec<Line<'_>> = column.into_iter().skip(scroll.min(most)).collect();
        frame.render_widget(Paragraph::new(shown), place);
    }
}

fn filters(frame: &mut Frame<'_>, area: Rect, app: &App, panel: &Panel, look: &Look) {
    let height = u16::try_from(Field::EACH.len() + 3).unwrap_or(10);
    let title = format!("filters ({} active)", app.filter.count());
    let inside = above(frame, area, (64, height), &title, look);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, field) in Field::EACH.into_iter().enumerate() {
        let is_chosen = index == panel.line;
        let choices = app.choices(field).len();
        let value = app.value(field).map(|value| printable(&value, 200));
        let style = match &value {
            Some(_) => look.tone(Tone::Warning),
            None => look.tone(Tone::Faint),
        };
        let value = value.unwrap_or_else(|| "any".to_owned());
        let count = if choices > 0 { format!(" of {choices}") } else { String::new() };
        let line = Line::from(vec![
            Span::raw(format!("{} {:<12}", if is_chosen { look.sign("▸", ">") } else { " " }, field.name())),
            Span::styled(fixed(&value, 38), style),
            Span::styled(count, look.tone(Tone::Faint)),
        ]);
        let style = if is_chosen { look.chosen(true) } else { Style::new() };
        lines.push(line.patch_style(style));
    }
    lines.push(Line::default());
    let shown =
        format!("Showing {} of {}", number(app.matches.events() as u64), number(app.buffer.events() as u64));
    lines.push(Line::styled(shown, look.tone(Tone::Accent)));
    let keys = look.sign(
        "↑↓ field  ←→ choose  Del any  Backspace clear all  Esc done",
        "up/down field, left/right choose, Del any, Esc done",
    );
    lines.push(Line::styled(keys, look.tone(Tone::Faint)));
    frame.render_widget(Paragraph::new(lines), inside);
}

#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn performance(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let lines = [
        ("draw p95", format!("{:.1} ms", app.draw_p95() as f64 / 1000.0)),
        (
            "frames",
            format!(
                "{} ({} left out, the terminal was busy)",
                number(app.speed.frames),
                number(app.speed.skipped)
            ),
        ),
        ("events", format!("{} in the last minute", number(app.metrics.per_minute(app.now)))),
        ("batches", number(app.speed.batches)),
        ("lag", format!("{} ms from the bus to here, p95 {} ms", app.speed.lag_ms, app.lag_p95())),
        ("memory", super::text::bytes(app.speed.resident)),
        ("filter", format!("{} passes", number(app.matches.passes()))),
    ];
    let inside = above(frame, area, (56, u16::try_from(lines.len()).unwrap_or(8)), "performance", look);
    let lines: Vec<Line<'_>> = lines
        .into_iter()
        .map(|(name, value)| {
            Line::from(vec![Span::styled(format!("{name:<10}"), look.tone(Tone::Faint)), Span::raw(value)])
        })
        .collect();
    frame.render_widget(Paragraph::new(lines), inside);
}

fn types(frame: &mut Frame<'_>, area: Rect, app: &App, panel: &TypesPanel, look: &Look) {
    let tree = app.types.tree();
    let height = u16::try_from(tree.len().max(1) + 2).unwrap_or(u16::MAX).min(area.height.saturating_sub(4));
    let inside = above(
        frame,
        area,
        (66, height),
        "types: l listed, b bell, m muted, A all, O none, Enter shows",
        look,
    );
    let room = usize::from(inside.height).saturating_sub(1);
    let line = panel.line.min(tree.len().saturating_sub(1));
    let top = line.saturating_sub(room / 2).min(tree.len().saturating_sub(room));
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, node) in tree.iter().enumerate().skip(top).take(room) {
        let flags: String = Flag::EACH
            .map(|flag| if app.flags.is(flag, &node.prefix) { flag.letter() } else { '-' })
            .iter()
            .collect();
        let word = node.prefix.rsplit('.').next().unwrap_or_default();
        let name = format!("{}{}", "  ".repeat(node.depth), printable(word, 100));
        let style = if index == line { look.chosen(true) } else { Style::new() };
        let is_listed = app.flags.is(Flag::Listed, &node.prefix);
        let row = Line::from(vec![
            Span::styled(format!("{flags}  "), look.tone(Tone::Accent)),
            Span::styled(fixed(&name, 46), look.tone(if is_listed { Tone::Text } else { Tone::Faint })),
            Span::styled(format!("{:>11}", number(node.count)), look.tone(Tone::Faint)),
        ]);
        lines.push(row.patch_style(style));
    }
    if tree.is_empty() {
        lines.push(Line::styled("no type was seen yet", look.tone(Tone::Faint)));
    }
    let mut summary =
        format!("{} not listed, {} silent", number(app.types.unlisted), number(app.types.silenced));
    if app.types.others() > 0 {
        summary.push_str(&format!(", {} of types beyond the first 5,000", number(app.types.others())));
    }
    lines.push(Line::styled(summary, look.tone(Tone::Faint)));
    frame.render_widget(Paragraph::new(lines), inside);
}

fn presets(frame: &mut Frame<'_>, area: Rect, app: &App, panel: &PresetsPanel, look: &Look) {
    let height = u16::try_from(app.presets.len().max(1) + 1).unwrap_or(10);
    let inside =
        above(frame, area, (66, height), "kept filters: 1-9 applies, s keeps this one, Del removes", look);
    let mut lines: Vec<Line<'_>> = Vec::new();
    for (index, preset) in app.presets.iter().enumerate() {
        let fields: Vec<String> =
            preset.fields.iter().map(|(name, value)| format!("{name}:{value}")).collect();
        let style = if index == panel.line { look.chosen(true) } else { Style::new() };
        let row = Line::from(vec![
            Span::styled(format!("{} ", index + 1), look.tone(Tone::Accent)),
            Span::raw(fixed(&printable(&preset.name, 100), 20)),
            Span::raw(" "),
            Span::styled(fixed(&printable(&fields.join(" "), 200), 42), look.tone(Tone::Faint)),
        ]);
        lines.push(row.patch_style(style));
    }
    if app.presets.is_empty() {
        lines.push(Line::styled("none yet: set filters with F or /, then P and s", look.tone(Tone::Faint)));
    }
    frame.render_widget(Paragraph::new(lines), inside);
}
