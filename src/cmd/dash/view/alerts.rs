//! The alert rules and how they stand. Pure.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
    widgets::{Paragraph, Wrap},
};

use super::{
    super::{
        app::App,
        state::{alerts::Alert, rule},
    },
    look::{Look, Tone},
    overlays::above,
    text::{fixed, number},
};

/// Columns of a rule.
const RULE: usize = 28;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look) {
    let faint = look.tone(Tone::Faint);
    let alerts = app.tallies.alerts.all();
    if alerts.is_empty() {
        // Words are not broken, which takes a few columns of each line.
        let height = rule::HELP.len().div_ceil(usize::from(area.width.clamp(20, 78)) - 8);
        let lines = vec![
            Line::from("no rules; give some with --alert and --notify"),
            Line::default(),
            Line::styled(rule::HELP, faint),
        ];
        let inside = above(frame, area, (76, 2 + u16::try_from(height).unwrap_or(8)), "alerts", look);
        return frame.render_widget(Paragraph::new(lines).wrap(Wrap { trim: true }), inside);
    }
    // Room for a line above that names the columns, and three below.
    let room = usize::from(area.height).saturating_sub(7);
    let shown = alerts.len().min(room.max(1));
    let height = u16::try_from(shown + 4).unwrap_or(u16::MAX);
    let inside = above(frame, area, (92, height), "alerts", look);
    let head = format!("  {} {:>9}  {:<17} {:<16} fired", fixed("rule", RULE), "now", "state", "over at");
    let mut lines = vec![Line::styled(head, faint)];
    lines.extend(alerts.iter().take(shown).map(|alert| row(alert, look)));
    if alerts.len() > shown {
        lines.push(Line::styled(format!("and {} more", alerts.len() - shown), faint));
    } else {
        lines.push(Line::default());
    }
    lines.push(Line::styled("An alert ends when it is 20 % away from its limit, and", faint));
    lines.push(Line::styled("notifies once a minute at most.", faint));
    frame.render_widget(Paragraph::new(lines), inside);
}

fn row<'a>(alert: &Alert, look: &Look) -> Line<'a> {
    let faint = look.tone(Tone::Faint);
    let (sign, state, style) = match alert.firing {
        Some(since) => ("!", format!("since {}", look.time(since)), look.tone(Tone::Bad)),
        None => (look.sign("✓", "-"), "quiet".to_owned(), look.tone(Tone::Good)),
    };
    Line::from(vec![
        Span::styled(format!("{sign} "), style),
        Span::styled(fixed(&alert.rule.to_string(), RULE), look.tone(Tone::Text)),
        Span::raw(format!(" {:>9}  ", alert.value())),
        Span::styled(format!("{state:<17} "), style),
        Span::styled(format!("{:<16} {}", alert.rule.ends(), number(alert.fired)), faint),
    ])
}
