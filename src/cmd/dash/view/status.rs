//! The last line: what is typed, a short message, the filters, or which keys there are. Pure.

use ratatui::{
    Frame,
    layout::{Position, Rect},
    text::Line,
};
use unicode_width::UnicodeWidthStr as _;

use super::super::app::{App, Overlay, Prompt, Purpose};
use super::{
    look::{Look, Tone},
    text::fit,
};
use crate::cmd::text::printable;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let width = usize::from(area.width);
    if let Some(Overlay::Prompt(prompt)) = &app.overlay {
        return prompt_line(frame, area, prompt, look);
    }
    if let Some(toast) = &app.toast {
        let text = printable(&toast.text, 1000);
        frame.render_widget(fit([(text, look.tone(Tone::Accent))], width), area);
        return;
    }
    let mut pieces = Vec::new();
    let count = app.filter.count();
    if count > 0 {
        let filters = printable(&app.filter.to_string(), 300);
        pieces.push((format!("[{count}] {filters}  "), look.tone(Tone::Warning)));
    }
    for (key, what) in [
        ("/", "search"),
        ("F", "filters"),
        ("x", "chain"),
        ("Space", "freeze"),
        ("e", "export"),
        ("y", "copy"),
        ("?", "help"),
        ("q", "quit"),
    ] {
        pieces.push((key.to_owned(), look.tone(Tone::Accent)));
        pieces.push((format!(" {what}  "), look.tone(Tone::Faint)));
    }
    frame.render_widget(fit(pieces, width), area);
}

fn prompt_line(frame: &mut Frame<'_>, area: Rect, prompt: &Prompt, look: &Look) {
    let name = match prompt.purpose {
        Purpose::Search => "search: ",
        Purpose::Bind => "types: ",
        Purpose::Note => "note: ",
        Purpose::Preset => "name of the filter: ",
    };
    let width = usize::from(area.width);
    let room = width.saturating_sub(name.len() + 1);
    let value = prompt.input.value();
    let scroll = prompt.input.visual_scroll(room);
    // Whole characters from the first one that is on the screen.
    let mut skipped = 0;
    let shown: String = value
        .chars()
        .skip_while(|c| {
            let is_before = skipped < scroll;
            skipped += unicode_width::UnicodeWidthChar::width(*c).unwrap_or(0);
            is_before
        })
        .collect();
    let mut pieces = vec![
        (name.to_owned(), look.tone(Tone::Accent)),
        (crate::cmd::text::cut(&shown, room), look.tone(Tone::Text)),
    ];
    if let Some(error) = &prompt.error {
        pieces.push((format!("  {}", printable(error, 300)), look.tone(Tone::Bad)));
    } else if value.is_empty() && prompt.purpose == Purpose::Search {
        pieces.push(("text, ~fuzzy or /pattern/".to_owned(), look.tone(Tone::Faint)));
    }
    let line: Line<'_> = fit(pieces, width);
    frame.render_widget(line, area);
    let column = name.width() + prompt.input.visual_cursor().saturating_sub(scroll);
    let x = area.x + u16::try_from(column).unwrap_or(u16::MAX).min(area.width.saturating_sub(1));
    frame.set_cursor_position(Position::new(x, area.y));
}
