//! Events over time: a bar for each second, ten seconds, minute or more, made of the domains. Pure.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::Paragraph,
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    super::{
        app::{App, Target, timeline::Window},
        layout,
        state::timeline::{Anomaly, SERIES, Sums},
    },
    Hits,
    look::{Depth, Look, Tone},
    screen::panel,
    stack,
    text::{fit, number, spark},
};
use crate::{bus::event::domain, cmd::text::printable};

/// Letters of a domain's name that are shown.
const NAME: usize = 16;

/// Lines of the legend, where there is room.
const LEGEND: usize = 4;

/// Seconds between the times on the axis: the first of them that leaves room for a time.
const STEPS: [i64; 13] = [15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200];

/// Columns that a time on the axis takes, with some space behind it.
const TIME: i64 = 12;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let inside = layout::inside(area);
    let window = app.timeline.window(app.now.as_second(), usize::from(inside.width));
    let timeline = &app.tallies.timeline;
    let columns: Vec<Sums> =
        (0..window.columns).map(|column| timeline.sums(window.start(column), window.seconds)).collect();
    let mut all = Sums::default();
    columns.iter().for_each(|sums| all.add(sums));
    let most = columns.iter().map(Sums::events).max().unwrap_or(0);
    panel(frame, area, &title(&window, most, look), true, look);
    let series = series(app, look);
    let room = usize::from(inside.height).saturating_sub(7).min(LEGEND);
    let legend = legend(app, &series, &all, usize::from(inside.width), room.max(1), look);
    // Below the bars: the axis, the errors, the chosen moment and the legend.
    let below = 3 + u16::try_from(legend.len()).unwrap_or(0);
    let height = inside.height.saturating_sub(below);
    let bars = Rect { height, ..inside };
    if timeline.span().is_none() {
        let place = Rect { y: bars.y + height / 2, height: height.min(1), ..bars };
        frame.render_widget(
            Paragraph::new("waiting for events").style(look.tone(Tone::Faint)).centered(),
            place,
        );
    }
    for ((x, sums), column) in (bars.x..bars.right()).zip(&columns).zip(0..) {
        if window.chosen == Some(column) {
            frame.buffer_mut().set_style(Rect { x, width: 1, ..bars }, look.chosen(true));
        }
        hits.add(Rect { x, width: 1, ..bars }, Target::Entry(column));
        paint(frame, Rect { x, width: 1, ..bars }, sums, most, &series, look);
    }
    let mut lines =
        vec![axis(&window, look), errors(&columns, &all, look), moment(app, &window, &columns, &all, look)];
    lines.extend(legend);
    for (y, line) in (bars.bottom()..inside.bottom()).zip(lines) {
        frame.render_widget(line, Rect { y, height: 1, ..inside });
    }
}

/// So many seconds, in the largest unit that they are a whole number of.
fn span(seconds: i64) -> String {
    match seconds {
        ..60 => format!("{seconds} s"),
        60..7200 if seconds % 60 == 0 => format!("{} min", seconds / 60),
        60..7200 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

fn title(window: &Window, most: u64, look: &Look) -> String {
    let all = window.seconds * i64::try_from(window.columns).unwrap_or(0);
    let each = span(window.seconds);
    let parts = [
        "timeline".to_owned(),
        format!("{} at {each} a column", span(all)),
        format!("highest {} in {each}", number(most)),
    ];
    parts.join(look.sign(" · ", " | "))
}

/// How a domain looks.
struct Series {
    name: String,
    style: Style,
    rgb: [u8; 3],
    /// For those who see no colours.
    letter: char,
}

fn series(app: &App, look: &Look) -> Vec<Series> {
    let domains = app.tallies.timeline.domains();
    let mut series: Vec<Series> = Vec::with_capacity(SERIES);
    for key in domains {
        let name = printable(key, NAME);
        let rgb = domain::of(key).colour;
        // A letter of the name that no other has; else any that is free.
        let free = |c: &char| c.is_ascii_alphanumeric() && series.iter().all(|other| other.letter != *c);
        let own = name.chars().map(|c| c.to_ascii_lowercase());
        let letter = own.chain('A'..='Z').find(free).unwrap_or('?');
        series.push(Series { name, style: look.fg(rgb), rgb, letter });
    }
    series
}

/// All domains that are not counted on their own.
fn others(look: &Look) -> Series {
    let rgb = domain::UNKNOWN.colour;
    Series { name: "other domains".to_owned(), style: look.fg(rgb), rgb, letter: '*' }
}

/// One bar.
fn paint(frame: &mut Frame<'_>, place: Rect, sums: &Sums, most: u64, series: &[Series], look: &Look) {
    const EIGHTHS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
    let other = others(look);
    let of = |part: usize| series.get(part).unwrap_or(&other);
    let cells = stack::bar(&sums.domains, most, usize::from(place.height));
    let last = cells.len().saturating_sub(1);
    for ((index, cell), y) in cells.iter().enumerate().zip((place.y..place.bottom()).rev()) {
        let Some(target) = frame.buffer_mut().cell_mut((place.x, y)) else { continue };
        if look.depth == Depth::None || look.ascii {
            // Less than half a line is nothing, but for the only one.
            if cell.filled >= 4 || last == 0 && index == 0 {
                target.set_char(of(cell.main).letter).set_style(of(cell.main).style);
            }
            continue;
        }
        target.set_symbol(EIGHTHS.get(cell.eighths).copied().unwrap_or("█"));
        // A full block that is reversed looks like nothing.
        target.modifier.remove(Modifier::REVERSED);
        target.set_fg(look.rgb(of(cell.part).rgb));
        if let Some(above) = cell.above {
            target.set_bg(look.rgb(of(above).rgb));
        }
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap_or_default()
}

/// A time of day, with the seconds where they matter.
fn time(second: i64, seconds: i64, look: &Look) -> String {
    let time = look.time(at(second));
    if seconds < 60 { time } else { time.chars().take(5).collect() }
}

/// A line with times, each at the left end of its column, and a mark below the chosen one.
fn axis<'a>(window: &Window, look: &Look) -> Line<'a> {
    let step = STEPS.into_iter().find(|step| step / window.seconds >= TIME).unwrap_or(86_400);
    let mut text = String::new();
    for column in 0..window.columns {
        let start = window.start(column);
        // A day may begin anywhere in UTC.
        if start.rem_euclid(step) == 0 && text.width() <= column {
            let label = format!("{}{}", look.sign("╵", "'"), time(start, window.seconds, look));
            if column + label.width() <= window.columns {
                text.push_str(&" ".repeat(column - text.width()));
                text.push_str(&label);
            }
        }
    }
    let text: Vec<char> = format!("{text:<width$}", width = window.columns).chars().collect();
    let Some(chosen) = window.chosen else {
        return Line::styled(text.into_iter().collect::<String>(), look.tone(Tone::Faint));
    };
    let part = |chars: Option<&[char]>| chars.unwrap_or_default().iter().collect::<String>();
    Line::from(vec![
        Span::styled(part(text.get(..chosen)), look.tone(Tone::Faint)),
        Span::styled(look.sign("▲", "^"), look.tone(Tone::Accent)),
        Span::styled(part(text.get(chosen + 1..)), look.tone(Tone::Faint)),
    ])
}

/// How many errors there were in each column.
fn errors<'a>(columns: &[Sums], all: &Sums, look: &Look) -> Line<'a> {
    if all.errors == 0 {
        return Line::styled("no errors", look.tone(Tone::Faint));
    }
    let counts: Vec<u64> = columns.iter().map(|sums| sums.errors).collect();
    Line::styled(spark(&counts, look.ascii), look.tone(Tone::Bad))
}

fn count(n: u64, what: &str) -> String {
    format!("{} {what}{}", number(n), if n == 1 { "" } else { "s" })
}

/// The numbers of the chosen column, or of all that are shown.
fn moment<'a>(app: &App, window: &Window, columns: &[Sums], all: &Sums, look: &Look) -> Line<'a> {
    let (faint, text) = (look.tone(Tone::Faint), look.tone(Tone::Text));
    let chosen = window.chosen.and_then(|chosen| Some((chosen, columns.get(chosen)?)));
    let (when, sums) = match chosen {
        Some((column, sums)) => {
            (format!("{} +{}", look.time(at(window.start(column))), span(window.seconds)), sums)
        }
        None => (format!("since {}", look.time(at(window.from))), all),
    };
    let width = window.columns;
    let mut pieces = vec![
        (format!("{when}: "), look.tone(Tone::Accent)),
        (count(sums.events(), "event"), text),
        (", ".to_owned(), faint),
        (count(sums.errors, "error"), if sums.errors > 0 { look.tone(Tone::Bad) } else { text }),
    ];
    match chosen {
        Some(_) => {
            let domains = app.tallies.timeline.domains();
            let name = |part: usize| {
                domains.get(part).map_or_else(|| "other".to_owned(), |key| printable(key, NAME))
            };
            let mut parts: Vec<(usize, u64)> =
                sums.domains.iter().copied().enumerate().filter(|(_, count)| *count > 0).collect();
            parts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            let parts: Vec<String> =
                parts.into_iter().map(|(part, count)| format!("{} {}", name(part), number(count))).collect();
            pieces.push((format!("  {}", parts.join(" ")), faint));
            pieces.push((look.sign("  ⏎ list", "  Enter: list").to_owned(), faint));
        }
        None => pieces.push((look.sign("  ← moment  +- zoom", "  left: moment, +-: zoom").to_owned(), faint)),
    }
    fit(pieces, width)
}

/// What is out of the ordinary, in numbers.
fn mark(anomaly: &Anomaly, look: &Look) -> String {
    let sign = if anomaly.is_high() { look.sign("▲", "^") } else { look.sign("▼", "v") };
    let or = look.sign("±", "+-");
    let Anomaly { count, mean, deviation, minutes } = anomaly;
    format!(" {sign} {}/min, was {mean:.0} {or}{deviation:.0} for {minutes} min", number(*count))
}

/// The domains with their colours and counts, those marked that are out of the ordinary.
fn legend<'a>(
    app: &App,
    series: &[Series],
    all: &Sums,
    width: usize,
    lines: usize,
    look: &Look,
) -> Vec<Line<'a>> {
    let other = others(look);
    let is_lettered = look.depth == Depth::None || look.ascii;
    let mut entries = Vec::new();
    for (part, count) in all.domains.iter().copied().enumerate() {
        let anomaly = app.tallies.timeline.anomaly(part, app.now);
        if count == 0 && anomaly.is_none() {
            continue;
        }
        let Series { name, style, letter, .. } = series.get(part).unwrap_or(&other);
        let sign = if is_lettered { letter.to_string() } else { "■".to_owned() };
        let mut pieces = vec![
            (format!("{sign} "), *style),
            (format!("{name} "), look.tone(Tone::Text)),
            (number(count), look.tone(Tone::Faint)),
        ];
        let is_marked = anomaly.is_some();
        pieces.extend(anomaly.map(|anomaly| (mark(&anomaly, look), look.tone(Tone::Warning))));
        entries.push((is_marked, count, pieces));
    }
    // What is marked must be seen, then what is most.
    entries.sort_by_key(|(is_marked, count, _)| std::cmp::Reverse((*is_marked, *count)));
    pack(entries.into_iter().map(|(.., pieces)| pieces).collect(), width, lines, look)
}

/// Puts entries into lines, and says how many there was no room for.
fn pack<'a>(entries: Vec<Vec<(String, Style)>>, width: usize, lines: usize, look: &Look) -> Vec<Line<'a>> {
    /// For "and 25 more".
    const MORE: usize = 13;
    let mut packed: Vec<Vec<(String, Style)>> = Vec::new();
    let mut used = width;
    let total = entries.len();
    for (index, entry) in entries.into_iter().enumerate() {
        let wide: usize = entry.iter().map(|(text, _)| text.width()).sum();
        let is_last = packed.len() == lines;
        let room = width.saturating_sub(if is_last && index + 1 < total { MORE } else { 0 });
        if used + 2 + wide <= room
            && let Some(line) = packed.last_mut()
        {
            line.push(("  ".to_owned(), Style::new()));
            line.extend(entry);
            used += 2 + wide;
        } else if packed.len() < lines {
            packed.push(entry);
            used = wide;
        } else {
            if let Some(line) = packed.last_mut() {
                line.push((format!("  and {} more", total - index), look.tone(Tone::Faint)));
            }
            break;
        }
    }
    packed.into_iter().map(|pieces| fit(pieces, width)).collect()
}
