//! Agents, voices and rooms, as far as events tell. Pure.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    super::{
        app::{App, Target},
        layout,
        state::sessions::{Session, Sort, State},
    },
    Hits,
    look::{Look, Tone},
    screen::panel,
    text::{age, fixed, number},
};
use crate::cmd::text::printable;

/// Letters of an id that are shown.
const ID: usize = 8;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let sessions = app.tallies.sessions.newest();
    panel(frame, area, &title(app, sessions.len(), look), true, look);
    let inside = layout::inside(area);
    if sessions.is_empty() {
        let lines = ["no event has told of a session yet", "agents, utterances and rooms appear here"];
        let top = inside.height.saturating_sub(2) / 2;
        let place = Rect { y: inside.y + top, height: inside.height - top, ..inside };
        let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(text).style(look.tone(Tone::Faint)).centered(), place);
        return;
    }
    let widths = Widths::of(usize::from(inside.width));
    frame.render_widget(head(&widths, look), Rect { height: 1, ..inside });
    let body = Rect { y: inside.y + 1, height: inside.height.saturating_sub(1), ..inside };
    // The chosen one stays in the middle, where there is more above and below.
    let height = usize::from(body.height);
    let chosen = app.chosen_session();
    let top = chosen.saturating_sub(height / 2).min(sessions.len().saturating_sub(height));
    for (y, (place, session)) in (body.y..body.bottom()).zip(sessions.into_iter().enumerate().skip(top)) {
        let line = Rect { y, height: 1, ..body };
        let style = if place == chosen { look.chosen(true) } else { Style::new() };
        frame.buffer_mut().set_style(line, style);
        frame.render_widget(row(session, app, &widths, look).patch_style(style), line);
        hits.add(line, Target::Entry(place));
    }
}

fn title(app: &App, count: usize, look: &Look) -> String {
    let sessions = &app.tallies.sessions;
    let mut parts = vec!["sessions".to_owned(), number(count as u64)];
    if let Some(found) = sessions.latency().percentiles() {
        let (p50, p95) = (seconds(found.p50), seconds(found.p95));
        parts.push(format!("voice to answer p50 {p50} p95 {p95} of {}", number(found.count as u64)));
    }
    if sessions.evicted() > 0 {
        parts.push(format!("{} more forgotten", number(sessions.evicted())));
    }
    parts.join(look.sign(" · ", " | "))
}

/// Milliseconds, as seconds with one decimal.
fn seconds(millis: u64) -> String {
    format!("{}.{} s", millis / 1000, millis % 1000 / 100)
}

/// Columns, each with the blank behind it; the last words have the rest.
#[derive(Debug, Clone, Copy)]
struct Widths {
    id: usize,
    who: usize,
    cost: usize,
    words: usize,
}

impl Widths {
    /// Kind, state, turns and age.
    const FIXED: usize = 6 + 9 + 6 + 6;

    const fn of(width: usize) -> Self {
        let (who, cost) = match width {
            ..70 => (9, 0),
            70..110 => (13, 8),
            _ => (21, 8),
        };
        let id = ID + 1;
        Self { id, who, cost, words: width.saturating_sub(Self::FIXED + id + who + cost) }
    }
}

/// A cell with a blank behind it.
fn cell(text: &str, columns: usize) -> String {
    if columns == 0 { String::new() } else { format!("{} ", fixed(text, columns - 1)) }
}

fn head<'a>(widths: &Widths, look: &Look) -> Line<'a> {
    let cost = if widths.cost > 0 { format!("{:>7} ", "cost") } else { String::new() };
    let cells = [
        cell("kind", 6),
        cell("id", widths.id),
        cell("who", widths.who),
        cell("state", 9),
        format!("{:>5} ", "turns"),
        cost,
        format!("{:>5} ", "last"),
        fixed("words", widths.words),
    ];
    Line::styled(cells.concat(), look.tone(Tone::Faint))
}

fn row<'a>(session: &Session, app: &App, widths: &Widths, look: &Look) -> Line<'a> {
    let (faint, text) = (look.tone(Tone::Faint), look.tone(Tone::Text));
    let (kind, key) = match session.sort {
        Sort::Agent => ("agent", "agent"),
        Sort::Voice => ("voice", "voice"),
        Sort::Room => ("room", "audio"),
    };
    let state = session.state(app.now);
    let tone = match state {
        State::Running => Tone::Good,
        State::Waiting => Tone::Warning,
        State::Failed => Tone::Bad,
        State::Answered => Tone::Text,
        State::Ended => Tone::Faint,
    };
    let id: String = printable(&session.id, 200).chars().take(ID).collect();
    let mut spans = vec![
        Span::styled(cell(kind, 6), look.fg(crate::bus::event::domain::of(key).colour)),
        Span::styled(cell(&id, widths.id), faint),
        Span::styled(cell(&session.who, widths.who), text),
        Span::styled(cell(state.word(), 9), look.tone(tone)),
        Span::styled(format!("{:>5} ", number(session.turns)), text),
    ];
    if widths.cost > 0 {
        let cost = session.cost.map_or_else(String::new, |cost| format!("${cost:.2}"));
        spans.push(Span::styled(format!("{cost:>7} "), text));
    }
    spans.push(Span::styled(format!("{:>5} ", age(session.last, app.now)), faint));
    spans.push(Span::raw(fixed(&session.words, widths.words)));
    Line::from(spans)
}
