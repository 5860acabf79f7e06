//! The services of a registry, lit when they get something; without a registry, the programs that say something. Pure.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};

use super::{
    super::{
        app::{App, Target},
        layout,
        state::{
            registry::Service,
            services::{Seenness, Source},
        },
    },
    Hits,
    look::{Depth, Look, Tone},
    screen::panel,
    text::{age, fixed, number},
};
use crate::{bus::Pattern, cmd::text::printable};

/// Letters of a name that are looked at.
const NAME: usize = 200;

/// The colour of what has just got something, and that of what has got nothing for a while.
const LIT: [u8; 3] = [0x22, 0xC5, 0x5E];
const DARK: [u8; 3] = [0x6B, 0x72, 0x80];

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let services = &app.tallies.services;
    let dot = look.sign(" · ", " | ");
    let has_registry = !services.services().is_empty();
    let title = if has_registry {
        format!("services{dot}{}", services.services().len())
    } else {
        format!("services{dot}no registry (--registry FILE), so these are the programs that were seen")
    };
    panel(frame, area, &title, true, look);
    let inside = layout::inside(area);
    let width = usize::from(inside.width);
    let rows: Vec<Line<'_>> = if has_registry {
        let row = |(service, seen): &(Service, Seenness)| service_row(service, seen, app.now, width, look);
        services.services().iter().map(row).collect()
    } else {
        services
            .sources()
            .iter()
            .map(|(name, source)| source_row(name, source, app.now, width, look))
            .collect()
    };
    if rows.is_empty() {
        let lines = [
            "no program has said anything yet",
            "--registry FILE (TOML or JSON) shows services here",
            "lit when an event comes that they listen to",
        ];
        let top = inside.height.saturating_sub(3) / 2;
        let place = Rect { y: inside.y + top, height: inside.height - top, ..inside };
        let text: Vec<Line<'_>> = lines.into_iter().map(Line::from).collect();
        frame.render_widget(Paragraph::new(text).style(look.tone(Tone::Faint)).centered(), place);
        return;
    }
    let head = if has_registry { service_head(width) } else { source_head(width) };
    frame.render_widget(Line::styled(head, look.tone(Tone::Faint)), Rect { height: 1, ..inside });
    let others = services.others();
    let footer = u16::from(others > 0 && !has_registry);
    let body = Rect { y: inside.y + 1, height: inside.height.saturating_sub(1 + footer), ..inside };
    // The chosen one stays in the middle, where there is more above and below.
    let height = usize::from(body.height);
    let chosen = app.chosen_service();
    let top = chosen.saturating_sub(height / 2).min(rows.len().saturating_sub(height));
    for (y, (place, row)) in (body.y..body.bottom()).zip(rows.into_iter().enumerate().skip(top)) {
        let line = Rect { y, height: 1, ..body };
        let style = if place == chosen { look.chosen(true) } else { Style::new() };
        frame.buffer_mut().set_style(line, style);
        frame.render_widget(row.patch_style(style), line);
        hits.add(line, Target::Entry(place));
    }
    if footer > 0 {
        let text = format!("and {} events of more programs", number(others));
        let place = Rect { y: body.bottom(), height: 1, ..inside };
        frame.render_widget(Line::styled(text, look.tone(Tone::Faint)), place);
    }
}

/// The sign of what is lit or not.
fn lamp(seen: &Seenness, now: Timestamp, look: &Look) -> Span<'static> {
    let light = seen.light(now);
    let sign = if light > 0.0 { look.sign("●", "*") } else { look.sign("○", "o") };
    let style = match look.depth {
        Depth::None | Depth::Sixteen if light > 0.0 => look.tone(Tone::Good).add_modifier(Modifier::BOLD),
        Depth::None | Depth::Sixteen => look.tone(Tone::Faint),
        Depth::Palette | Depth::True => look.fg(mix(light)),
    };
    Span::styled(format!("{sign} "), style)
}

/// Between the two colours.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between two numbers from 0 to 255"
)]
fn mix(light: f32) -> [u8; 3] {
    let [lit, dark] = [LIT, DARK].map(|rgb| rgb.map(f32::from));
    let mut mixed = [0; 3];
    for (place, (lit, dark)) in mixed.iter_mut().zip(lit.into_iter().zip(dark)) {
        *place = (dark + (lit - dark) * light).round() as u8;
    }
    mixed
}

/// When the newest event came, and how many did.
fn figures(seen: &Seenness, now: Timestamp) -> String {
    let ago = seen.last.map_or_else(|| "-".to_owned(), |last| age(last, now));
    format!("{:>9} {ago:>5} ", number(seen.events))
}

/// Columns of name, status and queue.
fn service_widths(width: usize) -> [usize; 3] {
    match width {
        ..70 => [18, 9, 0],
        70..110 => [20, 10, 14],
        _ => [26, 12, 22],
    }
}

fn service_head(width: usize) -> String {
    let [name, status, queue] = service_widths(width);
    let cell = |text: &str, columns: usize| {
        if columns > 0 { format!("{} ", fixed(text, columns)) } else { String::new() }
    };
    let cells = [cell("service", name), cell("status", status), cell("queue", queue)];
    fixed(&format!("  {}{:>9} {:>5} listens to", cells.concat(), "events", "last"), width)
}

fn service_row<'a>(
    service: &Service,
    seen: &Seenness,
    now: Timestamp,
    width: usize,
    look: &Look,
) -> Line<'a> {
    let faint = look.tone(Tone::Faint);
    let [name, status, queue] = service_widths(width);
    let mut spans = vec![lamp(seen, now, look)];
    for (text, columns, style) in [
        (&service.name, name, look.tone(Tone::Text)),
        (&service.status, status, faint),
        (&service.queue, queue, faint),
    ] {
        if columns > 0 {
            spans.push(Span::styled(format!("{} ", fixed(&printable(text, NAME), columns)), style));
        }
    }
    spans.push(Span::raw(figures(seen, now)));
    let keys: Vec<&str> = service.keys.iter().map(Pattern::as_str).collect();
    let keys = if keys.is_empty() { "nothing".to_owned() } else { keys.join(" ") };
    let used: usize = spans.iter().map(Span::width).sum();
    spans
        .push(Span::styled(fixed(&printable(&keys, 1000), width.saturating_sub(used)), look.tone(Tone::Key)));
    Line::from(spans)
}

fn source_name(width: usize) -> usize {
    if width < 70 { 20 } else { 30 }
}

fn source_head(width: usize) -> String {
    let name = fixed("program", source_name(width));
    fixed(&format!("  {name} {:>9} {:>5} {:>7} machines", "events", "last", "errors"), width)
}

fn source_row<'a>(name: &str, source: &Source, now: Timestamp, width: usize, look: &Look) -> Line<'a> {
    let seen = &source.seen;
    let errors = if seen.errors > 0 { look.tone(Tone::Bad) } else { look.tone(Tone::Faint) };
    let mut spans = vec![
        lamp(seen, now, look),
        Span::raw(format!("{} ", fixed(&printable(name, NAME), source_name(width)))),
        Span::raw(figures(seen, now)),
        Span::styled(format!("{:>7} ", number(seen.errors)), errors),
    ];
    let mut hosts: Vec<&str> = source.hosts.iter().map(AsRef::as_ref).collect();
    hosts.extend(source.has_more_hosts.then_some("and more"));
    let used: usize = spans.iter().map(Span::width).sum();
    let hosts = printable(&hosts.join(" "), 1000);
    spans.push(Span::styled(fixed(&hosts, width.saturating_sub(used)), look.tone(Tone::Faint)));
    Line::from(spans)
}
