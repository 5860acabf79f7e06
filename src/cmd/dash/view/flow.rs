//! Who sends what to whom. Pure.
//!
//! Three columns, and the paths that most events take. Lines lead from what is chosen to what it comes from and goes to.
//! Where the screen is low there are either the columns or the paths; Tab goes from one to the other.

use ratatui::{Frame, layout::Rect, style::Style, text::Line, widgets::Paragraph};
use unicode_width::UnicodeWidthStr as _;

use super::{
    super::{
        app::{
            App, Target,
            flow::{LIST, TOP},
        },
        layout,
        state::{
            Name,
            flow::{Path, SECONDS, Stage, Traffic},
        },
    },
    Hits,
    look::{Look, Tone},
    screen::panel,
    strokes::joint,
    text::{counted, fit, fixed, number, spark},
};
use crate::{bus::event::domain, cmd::text::printable};

/// From so many lines on there are columns and paths.
const BOTH: u16 = 20;

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let flow = &app.tallies.flow;
    let (flows, total) = (counted(flow.len() as u64, "flow"), counted(flow.total, "event"));
    let mut title = format!("flow{}{flows}, {total} in total", look.sign(" · ", " | "));
    if flow.rest > 0 {
        title.push_str(&format!(", {} in other flows", number(flow.rest)));
    }
    panel(frame, area, &title, true, look);
    let inside = layout::inside(area);
    if flow.total == 0 {
        let text = Paragraph::new("nothing has come yet").style(look.tone(Tone::Faint)).centered();
        let middle = Rect { y: inside.y + inside.height / 2, height: inside.height.min(1), ..inside };
        return frame.render_widget(text, middle);
    }
    let low = u16::try_from(flow.len().min(TOP)).unwrap_or(0) + 1;
    let (columns, paths) = match (inside.height >= BOTH, app.flow.in_paths) {
        (true, _) => {
            let high = inside.height.saturating_sub(low + 1);
            let below = Rect { y: inside.y + high + 1, height: low, ..inside };
            (Some(Rect { height: high, ..inside }), Some(below))
        }
        (false, true) => (None, Some(inside)),
        (false, false) => (Some(inside), None),
    };
    if let Some(area) = columns {
        draw_columns(frame, area, app, look, hits);
    }
    if let Some(area) = paths {
        draw_paths(frame, area, app, look, hits);
    }
}

/// A name from outside; a program may have none.
fn clean(name: &str) -> String {
    if name.is_empty() { "(no name)".to_owned() } else { printable(name, 300) }
}

fn heading(frame: &mut Frame<'_>, area: Rect, text: String, has_keys: bool, look: &Look) {
    let tone = if has_keys { Tone::Accent } else { Tone::Faint };
    frame.render_widget(fit([(text, look.tone(tone))], usize::from(area.width)), Rect { height: 1, ..area });
}

/// A column on the screen.
#[derive(Debug)]
struct Column<'a> {
    stage: Stage,
    area: Rect,
    rows: Vec<Row<'a>>,
    /// Names there was no room for.
    hidden: usize,
    all: usize,
    /// The highest count.
    most: u64,
}

#[derive(Debug)]
struct Row<'a> {
    rank: usize,
    name: &'a Name,
    count: u64,
    is_chosen: bool,
    is_linked: bool,
}

impl<'a> Column<'a> {
    fn of(app: &'a App, stage: Stage, area: Rect) -> Self {
        let flow = &app.tallies.flow;
        let ranked = flow.ranked(stage);
        let chosen = app.flow.chosen.as_ref();
        let linked = chosen.map(|(stage, name)| flow.linked(*stage, name));
        let linked = linked.as_ref().and_then(|linked| linked.get(stage.index()));
        let is_linked = |name: &Name| linked.is_some_and(|linked| linked.contains_key(name));
        // One line for the heading.
        let room = usize::from(area.height.saturating_sub(1));
        let room = if ranked.len() > room { room.saturating_sub(1) } else { room };
        // What is chosen, or the first of what it is linked to, is on the screen.
        let first = ranked.iter().position(|(name, _)| is_linked(name)).unwrap_or(0);
        let top = (first + 1).saturating_sub(room);
        let rows = ranked.iter().enumerate().skip(top).take(room).map(|(rank, (name, count))| Row {
            rank,
            name,
            count: *count,
            is_chosen: chosen.is_some_and(|(of, chosen)| *of == stage && *chosen == **name),
            is_linked: is_linked(name),
        });
        let (all, most) = (ranked.len(), ranked.first().map_or(0, |(_, count)| *count));
        Self { stage, area, rows: rows.collect(), hidden: all.saturating_sub(room), all, most }
    }

    fn draw(&self, frame: &mut Frame<'_>, app: &App, most: u64, look: &Look, hits: &mut Hits) {
        let has_keys = !app.flow.in_paths;
        heading(
            frame,
            self.area,
            format!(" {} {}", self.stage.title(), number(self.all as u64)),
            has_keys,
            look,
        );
        let width = usize::from(self.area.width);
        let digits = self.rows.iter().map(|row| number(row.count).width()).max().unwrap_or(1);
        // A bar that stands where there is no room for one that lies.
        let bar = if width >= 24 { width / 4 } else { 1 };
        let label = width.saturating_sub(bar + digits + 3);
        let mut y = self.area.y + 1;
        for row in &self.rows {
            let place = Rect { y, height: 1, ..self.area };
            let style = self.style(row, app, look);
            let mark = if row.is_chosen { look.sign("▸", ">") } else { " " };
            let pieces = [
                (mark.to_owned(), look.tone(Tone::Accent)),
                (fixed(&clean(row.name), label), style),
                (format!(" {} ", bar_of(row.count, most, bar, look)), style),
                (format!("{:>digits$}", number(row.count)), style),
            ];
            let line = fit(pieces, width);
            let line = if row.is_chosen { line.patch_style(look.chosen(has_keys)) } else { line };
            frame.render_widget(line, place);
            hits.add(place, Target::Entry(self.stage.index() * LIST + row.rank));
            y += 1;
        }
        if self.hidden > 0 && y < self.area.bottom() {
            let text = format!(" and {} more", number(self.hidden as u64));
            frame.render_widget(
                Line::styled(text, look.tone(Tone::Faint)),
                Rect { y, height: 1, ..self.area },
            );
        }
    }

    fn style(&self, row: &Row<'_>, app: &App, look: &Look) -> Style {
        match (self.stage, app.flow.chosen.is_some() && !row.is_linked) {
            (_, true) => look.tone(Tone::Faint),
            (Stage::Event, false) => look.fg(domain::of(row.name).colour),
            (Stage::Source | Stage::Target, false) => look.tone(Tone::Text),
        }
    }

    /// Lines of the screen with something linked.
    fn lines(&self) -> Vec<u16> {
        let rows = (self.area.y + 1..).zip(&self.rows);
        rows.filter(|(_, row)| row.is_linked).map(|(y, _)| y).collect()
    }
}

/// A bar of so many columns for the highest count of all.
fn bar_of(count: u64, most: u64, columns: usize, look: &Look) -> String {
    if columns <= 1 {
        // The last sign of a line of bars is as high as its number says.
        return spark(&[most, count], look.ascii).chars().skip(1).collect();
    }
    let part = u128::from(count) * columns as u128;
    let filled = usize::try_from(part.div_ceil(u128::from(most.max(1)))).unwrap_or(columns).min(columns);
    format!("{}{}", look.sign("▇", "#").repeat(filled), " ".repeat(columns - filled))
}

/// Columns of the screen from which on each column has more than it needs.
const ROOMY: u16 = 80;

/// How wide the columns are. Types are longer than names; where there is little room, names get what they need.
fn column_widths(app: &App, width: u16, room: u16) -> [u16; 3] {
    let third = room * 3 / 10;
    let side = |stage: Stage, most: u16| {
        if width >= ROOMY {
            return third;
        }
        let ranked = app.tallies.flow.ranked(stage);
        let digits = ranked.first().map_or(1, |(_, count)| number(*count).width());
        let longest = ranked.iter().map(|(name, _)| clean(name).width()).max().unwrap_or(0);
        let needed = u16::try_from(longest + digits + 4).unwrap_or(u16::MAX);
        needed.clamp(third.min(14), most.max(third.min(14)))
    };
    let (source, target) = (side(Stage::Source, room / 3), side(Stage::Target, third));
    [source, room.saturating_sub(source + target), target]
}

fn draw_columns(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let gap = if area.width >= ROOMY { 5 } else { 3 };
    let [source, event, target] = column_widths(app, area.width, area.width.saturating_sub(2 * gap));
    let at = |x: u16, width: u16| Rect { x: area.x + x, width, ..area }.intersection(area);
    let areas = [at(0, source), at(source + gap, event), at(source + event + 2 * gap, target)];
    let columns: Vec<Column<'_>> =
        Stage::EACH.into_iter().zip(areas).map(|(stage, area)| Column::of(app, stage, area)).collect();
    let most = columns.iter().map(|column| column.most).max().unwrap_or(1);
    for column in &columns {
        column.draw(frame, app, most, look, hits);
    }
    for pair in columns.windows(2) {
        if let [left, right] = pair {
            let area = Rect { x: left.area.right(), width: gap, ..area }.intersection(area);
            connect(frame, area, &left.lines(), &right.lines(), look);
        }
    }
}

/// Lines from rows on the left to rows on the right.
fn connect(frame: &mut Frame<'_>, area: Rect, left: &[u16], right: &[u16], look: &Look) {
    if left.is_empty() || right.is_empty() {
        return;
    }
    let all = || left.iter().chain(right);
    let (Some(first), Some(last)) = (all().min(), all().max()) else { return };
    let side = usize::from(area.width / 2);
    for y in *first..=*last {
        let (is_left, is_right) = (left.contains(&y), right.contains(&y));
        let joint = joint([y > *first, y < *last, is_left, is_right], look);
        let dash = |is_there: bool| if is_there { look.sign("─", "-") } else { " " }.repeat(side);
        let text = format!("{}{joint}{}", dash(is_left), dash(is_right));
        let place = Rect { y, height: 1, ..area };
        frame.render_widget(fit([(text, look.tone(Tone::Accent))], usize::from(area.width)), place);
    }
}

/// Seconds that one sign of a path's bars stands for.
const fn seconds(width: u16) -> usize {
    match width {
        0..80 => 5,
        80..140 => 2,
        _ => 1,
    }
}

fn draw_paths(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let top = app.tallies.flow.top(TOP);
    let width = usize::from(area.width);
    let has_keys = app.flow.in_paths;
    let digits = top.iter().map(|(_, traffic)| number(traffic.count).width()).max().unwrap_or(1);
    let each = seconds(area.width);
    let columns = Widths::of(&top, width.saturating_sub(digits + 3 + SECONDS / each));
    let of = match app.tallies.flow.len() {
        0..=TOP => String::new(),
        all => format!(" of {}", number(all as u64)),
    };
    // The words about the bars stand above them.
    let title =
        fixed(&format!(" Top Flow Paths {}{of}", top.len()), columns.0.iter().sum::<usize>() + digits + 9);
    heading(frame, area, format!("{title}last {SECONDS} s"), has_keys, look);
    let chosen = app.path();
    for ((y, rank), (path, traffic)) in (area.y + 1..area.bottom()).zip(0..).zip(top) {
        let place = Rect { y, height: 1, ..area };
        let is_chosen = has_keys && rank == chosen;
        let mark = if is_chosen { look.sign("▸", ">") } else { " " };
        let colour = look.fg(domain::of(path.at(Stage::Event)).colour);
        let arrow = (look.sign(" → ", " > ").to_owned(), look.tone(Tone::Faint));
        let cell = |stage: Stage| fixed(&clean(path.at(stage)), columns.at(stage));
        let seconds = traffic.spark(app.now.as_second());
        let seconds: Vec<u64> = seconds.chunks(each).map(|part| part.iter().sum()).collect();
        let pieces = [
            (mark.to_owned(), look.tone(Tone::Accent)),
            (cell(Stage::Source), look.tone(Tone::Text)),
            arrow.clone(),
            (cell(Stage::Event), colour),
            arrow,
            (cell(Stage::Target), look.tone(Tone::Text)),
            (format!(" {:>digits$} ", number(traffic.count)), look.tone(Tone::Text)),
            (spark(&seconds, look.ascii), colour),
        ];
        let line = fit(pieces, width);
        let line = if is_chosen { line.patch_style(look.chosen(true)) } else { line };
        frame.render_widget(line, place);
        hits.add(place, Target::Entry(3 * LIST + rank));
    }
}

/// Columns of a path's parts.
#[derive(Debug)]
struct Widths([usize; 3]);

impl Widths {
    /// As wide as they need to be, as far as there is room: the arrows between them take six columns.
    fn of(top: &[(&Path, &Traffic)], room: usize) -> Self {
        let room = room.saturating_sub(6);
        let wanted =
            |stage: Stage| top.iter().map(|(path, _)| clean(path.at(stage)).width()).max().unwrap_or(1);
        let [source, event, target] = Stage::EACH.map(wanted);
        if source + event + target <= room {
            return Self([source, event, target]);
        }
        let target = target.min(room / 4);
        let source = source.min(room * 3 / 10);
        Self([source, room.saturating_sub(source + target), target])
    }

    fn at(&self, stage: Stage) -> usize {
        self.0.get(stage.index()).copied().unwrap_or(1)
    }
}
