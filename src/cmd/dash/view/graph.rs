//! The events of one chain, and what led to what: time goes down, and lines run from cause to effect. Pure.

use jiff::{SignedDuration, Timestamp};
use ratatui::{Frame, layout::Rect, style::Modifier, text::Line, widgets::Paragraph};

use super::{
    super::{
        app::{App, Target},
        layout,
        state::{
            graph::{Graph, Node},
            row::Row,
        },
    },
    Hits,
    look::{Look, Tone},
    screen::panel,
    strokes::joint,
    text::{counted, fit, fixed, number},
};
use crate::cmd::text::printable;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let graph = &app.graph.graph;
    panel(frame, area, &title(graph, look), true, look);
    let inside = layout::inside(area);
    if graph.nodes.is_empty() {
        let lines = vec![
            Line::from("no event is chosen"),
            Line::from("choose one in the list (1), then come back (4)"),
        ];
        let top = inside.height.saturating_sub(2) / 2;
        let place = Rect { y: inside.y + top, height: inside.height - top, ..inside };
        frame.render_widget(Paragraph::new(lines).style(look.tone(Tone::Faint)).centered(), place);
        return;
    }
    let height = usize::from(inside.height);
    let chosen = app.node_index();
    // The chosen one stays in the middle, where there is more above and below.
    let top = chosen.saturating_sub(height / 2).min(graph.nodes.len().saturating_sub(height));
    let widths = Widths::of(graph, usize::from(inside.width));
    for ((y, index), node) in (inside.y..inside.bottom()).zip(top..).zip(graph.nodes.iter().skip(top)) {
        let Some(row) = app.buffer.row(node.seq) else { continue };
        let place = Rect { y, height: 1, ..inside };
        let line = line(node, row, graph.first, &widths, (index == chosen, look));
        frame.render_widget(line, place);
        hits.add(place, Target::Entry(index));
    }
}

fn title(graph: &Graph, look: &Look) -> String {
    if graph.nodes.is_empty() {
        return "graph".to_owned();
    }
    let (events, links) = (counted(graph.nodes.len() as u64, "event"), counted(graph.links as u64, "link"));
    let more = match graph.hidden {
        0 => String::new(),
        hidden => format!(" and {} more", number(hidden as u64)),
    };
    let dot = look.sign(" · ", " | ");
    format!("graph{dot}{events}{more}, {links}, {} from first to last", took(graph.span))
}

/// A time between two events, as short as can be and still in milliseconds where it matters.
fn took(span: SignedDuration) -> String {
    let milliseconds = span.as_millis().max(0);
    let seconds = milliseconds / 1000;
    let (hours, minutes) = (seconds / 3600, seconds / 60 % 60);
    match seconds {
        0 => format!("{milliseconds} ms"),
        1..60 => format!("{seconds}.{:03} s", milliseconds % 1000),
        60..3600 => format!("{minutes}:{:02} min", seconds % 60),
        3600..86_400 => format!("{hours}:{minutes:02} h"),
        _ => format!("{} d {} h", hours / 24, hours % 24),
    }
}

/// The lines beside an event, and its own sign.
fn strokes(node: &Node, columns: usize, look: &Look) -> String {
    let mut text = String::new();
    for (lane, strokes) in node.lanes.iter().enumerate() {
        let sign = match (lane == node.lane, node.is_orphan) {
            (true, true) => look.sign("○", "o"),
            (true, false) => look.sign("●", "*"),
            (false, _) => joint(*strokes, look),
        };
        let [_, _, _, right] = *strokes;
        text.push_str(sign);
        text.push_str(if right { look.sign("─", "-") } else { " " });
    }
    fixed(&text, columns)
}

fn line(
    node: &Node,
    row: &Row,
    first: Timestamp,
    widths: &Widths,
    (is_chosen, look): (bool, &Look),
) -> Line<'static> {
    let faint = look.tone(Tone::Faint);
    let (icon, style) = look.icon(row);
    let colour = look.fg(row.colour());
    let named = if row.is_error { look.tone(Tone::Bad).add_modifier(Modifier::BOLD) } else { colour };
    let offset = format!("+{}", took(row.at.duration_since(first)));
    let time = if widths.time > 0 { fixed(&look.time(row.at), widths.time) } else { String::new() };
    let cell = |text: &str, columns: usize| match columns {
        0 => String::new(),
        columns => format!("{} ", fixed(&printable(text, 300), columns - 1)),
    };
    let mark = if is_chosen { look.sign("▸", ">") } else { " " };
    let pieces = [
        (mark.to_owned(), look.tone(Tone::Accent)),
        (time, faint),
        (format!("{offset:>OFFSET$} "), faint),
        (strokes(node, widths.lanes, look), colour),
        // Signs are one or two columns wide, depending on the terminal; two hold both.
        (fixed(icon, 2), style),
        (cell(&row.event_type, widths.event_type), named),
        (cell(&row.app, widths.app), colour),
        (fixed(&row.summary, widths.summary), look.tone(Tone::Text)),
    ];
    let line = fit(pieces, widths.all);
    if is_chosen { line.patch_style(look.chosen(true)) } else { line }
}

/// Columns of `+59:59 min`.
const OFFSET: usize = 10;

/// Columns, each with the blank behind it.
#[derive(Debug, Clone, Copy)]
struct Widths {
    all: usize,
    time: usize,
    lanes: usize,
    event_type: usize,
    app: usize,
    summary: usize,
}

impl Widths {
    fn of(graph: &Graph, all: usize) -> Self {
        let time = if all >= 90 { 9 } else { 0 };
        let lanes = (graph.lanes() * 2).min(all / 4);
        let rest = all.saturating_sub(1 + time + OFFSET + 1 + lanes + 2);
        let app = match rest {
            0..60 => 0,
            60..90 => 14,
            _ => 18,
        };
        let left = rest - app;
        let event_type = (left * 11 / 20).clamp(left.min(20), 34);
        Self { all, time, lanes, event_type, app, summary: left - event_type }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_as_short_as_can_be() {
        for (milliseconds, text) in [
            (-5, "0 ms"),
            (0, "0 ms"),
            (999, "999 ms"),
            (1234, "1.234 s"),
            (59_999, "59.999 s"),
            (60_000, "1:00 min"),
            (3_599_999, "59:59 min"),
            (3_600_000, "1:00 h"),
            (86_399_999, "23:59 h"),
            (90_000_000, "1 d 1 h"),
        ] {
            assert_eq!(took(SignedDuration::from_millis(milliseconds)), text);
            assert!(text.len() < OFFSET, "{text}");
        }
    }
}
