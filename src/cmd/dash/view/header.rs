//! The first lines: the connection, the views, the figures. Pure.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::Line,
};
use unicode_width::UnicodeWidthStr as _;

use super::super::app::{App, Link, Target, View};
use super::{
    Hits,
    look::{Look, Tone},
    text::{fit, number, spark},
};

/// Seconds until something happens, at least one.
fn seconds_until(at: Timestamp, now: Timestamp) -> i64 {
    at.duration_since(now).as_millis().div_euclid(1000).saturating_add(1).try_into().unwrap_or(1).max(1)
}

fn badge(app: &App, look: &Look) -> (String, Style) {
    match &app.link {
        Link::Connecting => (format!("{} connecting", look.sign("◌", "o")), look.tone(Tone::Warning)),
        Link::Connected => (format!("{} connected", look.sign("●", "*")), look.tone(Tone::Good)),
        Link::Disconnected => (format!("{} disconnected", look.sign("○", "o")), look.tone(Tone::Bad)),
        Link::Reconnecting { attempt, retry_at, .. } => {
            let seconds = seconds_until(*retry_at, app.now);
            let text = format!("{} reconnecting ({attempt}, in {seconds} s)", look.sign("◌", "o"));
            (text, look.tone(Tone::Warning))
        }
        Link::Failed(_) => ("! error".to_owned(), look.tone(Tone::Bad)),
        Link::Ended => (format!("{} end of the recording", look.sign("■", "#")), look.tone(Tone::Faint)),
    }
}

pub(super) fn header(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let (badge, style) = badge(app, look);
    let faint = look.tone(Tone::Faint);
    let width = usize::from(area.width);
    // The names of the views where there is room for them, else their numbers.
    let names: Vec<(View, String)> = View::EACH
        .into_iter()
        .zip(1..)
        .map(|(view, n)| {
            let is_shown = view == app.view;
            let name = if width >= 118 || is_shown { format!("{n} {}", view.name()) } else { n.to_string() };
            (view, if is_shown { format!("[{name}]") } else { format!(" {name} ") })
        })
        .collect();
    let tabs: usize = names.iter().map(|(_, name)| name.width()).sum();
    let left = [
        ("godctl dash ".to_owned(), look.tone(Tone::Accent)),
        (format!("{badge} "), style),
        (app.options.bus.clone(), faint),
    ];
    frame.render_widget(fit(left, width.saturating_sub(tabs + 1)), area);
    let mut x = area.right().saturating_sub(u16::try_from(tabs).unwrap_or(area.width));
    for (view, name) in names {
        let columns = u16::try_from(name.width()).unwrap_or(0);
        let place = Rect { x, width: columns, ..area }.intersection(area);
        let style = if view == app.view { look.tone(Tone::Accent) } else { faint };
        frame.render_widget(Line::styled(name, style), place);
        hits.add(place, Target::View(view));
        x = x.saturating_add(columns);
    }
}

/// Fewer seconds than this show no rhythm.
const SPARK: usize = 20;

pub(super) fn metrics(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let (text, faint) = (look.tone(Tone::Text), look.tone(Tone::Faint));
    let metrics = &app.metrics;
    let buffer = &app.buffer;
    let mut pieces = Vec::new();
    let mut say = |name: &str, value: String, style: Style| {
        if !pieces.is_empty() {
            pieces.push(("  ".to_owned(), faint));
        }
        if !name.is_empty() {
            pieces.push((format!("{name} "), faint));
        }
        pieces.push((value, style));
    };
    let alerts = app.tallies.alerts.firing();
    if alerts > 0 {
        let text = format!("! {alerts} alert{}", if alerts == 1 { "" } else { "s" });
        say("", text, look.tone(Tone::Bad).add_modifier(Modifier::REVERSED));
    }
    say("total", number(metrics.total), text);
    say(
        "buffered",
        format!("{}/{}", number(buffer.events() as u64), number(buffer.limits().rows as u64)),
        text,
    );
    say("", format!("{}/min", number(metrics.per_minute(app.now))), text);
    let errors = format!("{:.1} %", metrics.error_rate());
    let style = if metrics.errors > 0 { look.tone(Tone::Bad) } else { text };
    say("errors", errors, style);
    if metrics.recent_error_rate(app.now) > 0.0 {
        say("now", format!("{:.1} %", metrics.recent_error_rate(app.now)), look.tone(Tone::Bad));
    }
    say("domains", buffer.facets().domains.len().to_string(), text);
    for (name, count, tone) in [
        ("evicted", buffer.evicted(), Tone::Faint),
        ("duplicates", metrics.duplicates, Tone::Faint),
        ("unparsed", metrics.unparsed, Tone::Warning),
        ("gaps", metrics.gaps, Tone::Warning),
        ("unlisted", app.types.unlisted, Tone::Faint),
        ("silenced", app.types.silenced, Tone::Faint),
    ] {
        if count > 0 {
            say(name, number(count), look.tone(tone));
        }
    }
    // What is left of the line shows the last seconds.
    let width = usize::from(area.width);
    let used: usize = pieces.iter().map(|(text, _)| text.width()).sum();
    let seconds = metrics.spark(app.now);
    let room = width.saturating_sub(used + 2).min(seconds.len());
    if room >= SPARK {
        let last = seconds.get(seconds.len() - room..).unwrap_or_default();
        pieces.push((format!("  {}", spark(last, look.ascii)), look.tone(Tone::Accent)));
    }
    frame.render_widget(fit(pieces, width), area);
}

pub(super) fn banner(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let (why, then) = match &app.link {
        Link::Reconnecting { why, .. } => (why, "R tries now"),
        Link::Failed(why) => (why, "R tries again"),
        Link::Connecting | Link::Connected | Link::Disconnected | Link::Ended => return,
    };
    let why = crate::cmd::text::printable(why, 1000);
    let width = usize::from(area.width).saturating_sub(then.len() + 3);
    let pieces = [
        (crate::cmd::text::cut(&format!("! {why}"), width), look.tone(Tone::Bad)),
        (format!("  {then}"), look.tone(Tone::Accent)),
    ];
    frame.render_widget(fit(pieces, usize::from(area.width)), area);
}
