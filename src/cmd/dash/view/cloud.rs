//! Domains as circles that light up when something happens, and one of them with its types around it. Pure.
//!
//! A circle's size is the magnitude of its count, its light what happened within three seconds: the colour fades, and
//! the disc within the circle shrinks, which shows where there are no colours.
//!
//! The types of a domain stand on a ring that does not move. The dashboard that this one replaces lets forces push them
//! around (spring 0.02, damping 0.9, jitter 0.1); in a terminal words that wander by whole columns can't be read.

use jiff::Timestamp;
use ratatui::{
    Frame,
    layout::Rect,
    style::{Color, Style},
    symbols::Marker,
    text::Line,
    widgets::{
        Paragraph,
        canvas::{Canvas, Painter, Shape},
    },
};
use unicode_width::UnicodeWidthStr as _;

use super::{
    super::{
        app::{
            App, Target, Theme,
            cloud::{Grid, Ring},
        },
        layout,
        state::cloud::{BRIGHTEST, Bubble, Child, LARGEST, diameter},
    },
    Hits,
    look::{Look, Tone},
    screen::panel,
    text::{counted, fit, fixed, number},
};
use crate::{
    bus::event::domain,
    cmd::text::{cut, printable},
};

pub(super) fn draw(frame: &mut Frame<'_>, area: Rect, app: &App, look: &Look, hits: &mut Hits) {
    let inside = layout::inside(area);
    let top = app.cloud_area();
    let bottom = Rect { y: top.bottom(), height: inside.bottom().saturating_sub(top.bottom()), ..inside };
    let dot = look.sign(" · ", " | ");
    if let Some(bubble) = app.opened() {
        let types = counted(bubble.children.len() as u64, "sub-event");
        let title = format!("{}: {types}{dot}{}", clean(bubble.label()), counted(bubble.count, "event"));
        panel(frame, area, &title, true, look);
        opened(frame, top, app, bubble, look, hits);
        return whole_type(frame, bottom, app, bubble, look);
    }
    let cloud = &app.tallies.cloud;
    let domains = cloud.domains.len();
    let title =
        format!("cloud{dot}{}{dot}{}", counted(domains as u64, "domain"), counted(cloud.total, "event"));
    panel(frame, area, &title, true, look);
    let grid = Grid::of(domains, top);
    let chosen = app.bubble().map_or(0, |(index, _)| index);
    let scroll = grid.top(chosen, top);
    let placed = cloud.domains.iter().enumerate().filter_map(|(index, bubble)| {
        let place = grid.place(index, scroll, top)?;
        Some((index, place, bubble))
    });
    let placed: Vec<(usize, Rect, &Bubble)> = placed.collect();
    let mut discs = Vec::new();
    for (index, place, bubble) in &placed {
        hits.add(*place, Target::Entry(*index));
        match grid.circle {
            Some(circle) => discs.push(Disc::of(bubble, grid.used(*place), circle, app.now, look)),
            None => {
                let shade = bubble.shade(app.now);
                let entry =
                    Entry { label: bubble.label(), count: bubble.count, shade, colour: bubble.colour() };
                entry.draw(frame, *place, *index == chosen, look);
            }
        }
    }
    canvas(frame, top, &discs, &[], look);
    if grid.circle.is_some() {
        for (index, place, bubble) in &placed {
            words(frame, grid.used(*place), bubble, *index == chosen, app.now, look);
        }
    }
    if domains == 0 {
        let text = Paragraph::new("nothing has come yet").style(look.tone(Tone::Faint)).centered();
        let middle = Rect { y: top.y + top.height / 2, height: top.height.min(1), ..top };
        frame.render_widget(text, middle);
    }
    let hidden = domains - placed.len();
    quiet(frame, bottom, app, hidden, look);
}

fn clean(text: &str) -> String {
    printable(text, 100)
}

/// The colour of something that is so bright.
fn shaded(colour: [u8; 3], shade: u8, look: &Look) -> [u8; 3] {
    let ground: [u8; 3] = if look.theme == Theme::Light { [0xE5, 0xE7, 0xEB] } else { [0x11, 0x18, 0x27] };
    // What is dark can still be seen: it has not quite half of its colour.
    let part = 45 + 55 * u32::from(shade) / u32::from(BRIGHTEST);
    let mut mixed = colour;
    for (value, ground) in mixed.iter_mut().zip(ground) {
        let sum = u32::from(*value) * part + u32::from(ground) * (100 - part);
        *value = u8::try_from(sum / 100).unwrap_or(u8::MAX);
    }
    mixed
}

/// A circle, and the lit disc within it; in Braille dots from the left and from the top of the canvas.
#[derive(Debug)]
struct Disc {
    x: f64,
    y: f64,
    radius: f64,
    core: f64,
    colour: Color,
}

impl Disc {
    /// In the canvas of the whole screen.
    fn of(bubble: &Bubble, place: Rect, largest: u16, now: Timestamp, look: &Look) -> Self {
        let height = place.height.saturating_sub(Grid::words(place.width));
        let radius = f64::from(largest) / 2.0 * diameter(bubble.count) / LARGEST;
        let shade = bubble.shade(now);
        Self {
            x: f64::from(place.x * 2 + place.width),
            y: f64::from(place.y * 4 + height * 2),
            radius,
            core: core(radius, shade),
            colour: look.rgb(shaded(bubble.colour(), shade, look)),
        }
    }
}

/// The radius of the lit part.
fn core(radius: f64, shade: u8) -> f64 {
    (radius - 2.0) * f64::from(shade) / f64::from(BRIGHTEST)
}

/// Shapes in dots from the left and from the top of the screen.
#[derive(Debug)]
struct Shifted<'a, T> {
    shape: &'a T,
    area: Rect,
}

impl<T> Shifted<'_, T> {
    fn paint(&self, painter: &mut Painter<'_, '_>, x: f64, y: f64, colour: Color) {
        let x = x - f64::from(self.area.x * 2);
        // The canvas counts from below.
        let y = f64::from(self.area.bottom() * 4) - 1.0 - y;
        if let Some((x, y)) = painter.get_point(x.round(), y.round()) {
            painter.paint(x, y, colour);
        }
    }
}

impl Shape for Shifted<'_, Disc> {
    fn draw(&self, painter: &mut Painter<'_, '_>) {
        let Disc { x, y, radius, core, colour } = *self.shape;
        let mut dy = -radius.ceil();
        while dy <= radius {
            let mut dx = -radius.ceil();
            while dx <= radius {
                // The middle of a dot, so that the circle is as wide as it is high.
                let distance = (dx + 0.5).hypot(dy + 0.5);
                if distance <= core || (distance <= radius && distance > radius - 1.0) {
                    self.paint(painter, x + dx, y + dy, colour);
                }
                dx += 1.0;
            }
            dy += 1.0;
        }
    }
}

/// A straight line.
#[derive(Debug)]
struct Spoke {
    from: (f64, f64),
    /// So much of it, from its beginning, is not drawn.
    skip: f64,
    to: (f64, f64),
    colour: Color,
    /// In dots; the brighter, the wider.
    width: f64,
}

impl Shape for Shifted<'_, Spoke> {
    fn draw(&self, painter: &mut Painter<'_, '_>) {
        let Spoke { from, skip, to, colour, width } = *self.shape;
        let (dx, dy) = (to.0 - from.0, to.1 - from.1);
        let steps = dx.abs().max(dy.abs()).max(1.0);
        let mut step = (skip / dx.hypot(dy).max(1.0) * steps).ceil();
        while step <= steps {
            let mut wide = 0.0;
            while wide < width {
                self.paint(painter, from.0 + dx * step / steps, from.1 + dy * step / steps + wide, colour);
                wide += 1.0;
            }
            step += 1.0;
        }
    }
}

fn canvas(frame: &mut Frame<'_>, area: Rect, discs: &[Disc], spokes: &[Spoke], look: &Look) {
    if area.is_empty() || (discs.is_empty() && spokes.is_empty()) {
        return;
    }
    let (width, height) = (f64::from(area.width) * 2.0, f64::from(area.height) * 4.0);
    let canvas = Canvas::default()
        .marker(if look.ascii { Marker::Custom('*') } else { Marker::Braille })
        .x_bounds([0.0, width - 1.0])
        .y_bounds([0.0, height - 1.0])
        .paint(|context| {
            for shape in spokes {
                context.draw(&Shifted { shape, area });
            }
            for shape in discs {
                context.draw(&Shifted { shape, area });
            }
        });
    frame.render_widget(canvas, area);
}

/// The name and the number under a circle.
fn words(frame: &mut Frame<'_>, place: Rect, bubble: &Bubble, is_chosen: bool, now: Timestamp, look: &Look) {
    let width = usize::from(place.width.saturating_sub(1));
    let count = number(bubble.count);
    let mark = if is_chosen { look.sign("▸", ">") } else { " " };
    let label = clean(bubble.label());
    let lines = if Grid::words(place.width) == 1 {
        let label = cut(&label, width.saturating_sub(count.width() + 3));
        vec![format!("{mark}{label} {count} ")]
    } else {
        vec![format!("{mark}{} ", cut(&label, width.saturating_sub(2))), count]
    };
    let style = look.fg(shaded(bubble.colour(), bubble.shade(now).max(3), look));
    let style = if is_chosen { style.patch(look.chosen(true)) } else { style };
    let first = place.bottom().saturating_sub(u16::try_from(lines.len()).unwrap_or(1));
    for (y, text) in (first..).zip(lines) {
        let columns = u16::try_from(text.width()).unwrap_or(place.width).min(place.width);
        let x = place.x + (place.width - columns) / 2;
        frame.render_widget(Line::styled(text, style), Rect { x, y, width: columns, height: 1 });
    }
}

/// A domain or a type on a line of its own.
#[derive(Debug)]
struct Entry<'a> {
    label: &'a str,
    count: u64,
    shade: u8,
    colour: [u8; 3],
}

impl Entry<'_> {
    fn draw(&self, frame: &mut Frame<'_>, place: Rect, is_chosen: bool, look: &Look) {
        let style = look.fg(shaded(self.colour, self.shade, look));
        let mark = if is_chosen { look.sign("▸", ">") } else { " " };
        let light = if self.shade > 0 { look.sign("● ", "* ") } else { look.sign("○ ", "o ") };
        let count = number(self.count);
        let width = usize::from(place.width.saturating_sub(1));
        let bar = if width >= 24 { 4 } else { 0 };
        let label = width.saturating_sub(3 + bar + 1 + count.width());
        let pieces = [
            (mark.to_owned(), look.tone(Tone::Accent)),
            (light.to_owned(), style),
            (fixed(&clean(self.label), label), style),
            (self.bar(bar, look), style),
            (format!(" {count}"), look.tone(Tone::Text)),
        ];
        let line = fit(pieces, width);
        let line = if is_chosen { line.patch_style(look.chosen(true)) } else { line };
        frame.render_widget(line, place);
    }

    /// As much of the columns as a circle would have of the largest one.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "between nothing and eight columns"
    )]
    fn bar(&self, columns: usize, look: &Look) -> String {
        let part = (diameter(self.count) - 60.0) / (LARGEST - 60.0);
        let filled = ((part * columns as f64).ceil() as usize).min(columns);
        format!("{}{}", look.sign("▇", "#").repeat(filled), " ".repeat(columns - filled))
    }
}

/// The domains that are known and have sent nothing, and how many there was no room for.
fn quiet(frame: &mut Frame<'_>, area: Rect, app: &App, hidden: usize, look: &Look) {
    if area.is_empty() {
        return;
    }
    let cloud = &app.tallies.cloud;
    let mut pieces = Vec::new();
    if hidden > 0 {
        pieces.push((format!("and {hidden} more  "), look.tone(Tone::Warning)));
    }
    if cloud.rest > 0 {
        let text = format!("and {} of other domains  ", counted(cloud.rest, "event"));
        pieces.push((text, look.tone(Tone::Warning)));
    }
    let quiet = domain::ALL.iter().filter(|domain| cloud.find(domain.key).is_none());
    let quiet: Vec<&str> = quiet.map(|domain| domain.label).collect();
    if !quiet.is_empty() {
        pieces.push((format!("quiet: {}", quiet.join(", ")), look.tone(Tone::Faint)));
    }
    frame.render_widget(fit(pieces, usize::from(area.width)), area);
}

/// The type that is chosen, whole, and what Enter does with it.
fn whole_type(frame: &mut Frame<'_>, area: Rect, app: &App, bubble: &Bubble, look: &Look) {
    if area.is_empty() {
        return;
    }
    let mut pieces = Vec::new();
    if bubble.rest > 0 {
        let text = format!("and {} of other types  ", counted(bubble.rest, "event"));
        pieces.push((text, look.tone(Tone::Warning)));
    }
    if let Some((_, child)) = app.child() {
        let colour = look.fg(bubble.colour());
        pieces.push(("Enter lists ".to_owned(), look.tone(Tone::Faint)));
        pieces.push((printable(&child.event_type, 300), colour));
        pieces.push(("  Esc goes back".to_owned(), look.tone(Tone::Faint)));
    }
    frame.render_widget(fit(pieces, usize::from(area.width)), area);
}

/// A domain with its types around it; as lines, where they are too many.
fn opened(frame: &mut Frame<'_>, area: Rect, app: &App, bubble: &Bubble, look: &Look, hits: &mut Hits) {
    let chosen = app.child().map_or(0, |(index, _)| index);
    let Some(ring) = Ring::of(bubble.children.len(), area) else {
        let grid = Grid::lines(area);
        let scroll = grid.top(chosen, area);
        for (index, child) in bubble.children.iter().enumerate() {
            let Some(place) = grid.place(index, scroll, area) else { continue };
            hits.add(place, Target::Entry(index));
            let (label, shade) = (child.label(&bubble.key), child.shade(app.now));
            let entry = Entry { label, count: child.count, shade, colour: bubble.colour() };
            entry.draw(frame, place, index == chosen, look);
        }
        return;
    };
    let round = Round::of(ring, area);
    let nodes: Vec<(usize, &Child, (f64, f64))> =
        bubble.children.iter().enumerate().map(|(index, child)| (index, child, round.node(index))).collect();
    let mut discs = Vec::new();
    let mut spokes = Vec::new();
    let mut lay = |count: u64, shade: u8, (x, y): (f64, f64), largest: f64| {
        let radius = largest * diameter(count) / LARGEST;
        let colour = look.rgb(shaded(bubble.colour(), shade, look));
        discs.push(Disc { x, y, radius, core: core(radius, shade), colour });
        colour
    };
    for (_, child, at) in &nodes {
        let shade = child.shade(app.now);
        let colour = lay(child.count, shade, *at, 3.0);
        let width = 1.0 + 2.0 * f64::from(shade) / f64::from(BRIGHTEST);
        spokes.push(Spoke { from: round.centre, skip: round.hub(bubble), to: *at, colour, width });
    }
    lay(bubble.count, bubble.shade(app.now), round.centre, round.radius.1 * HUB);
    canvas(frame, area, &discs, &spokes, look);
    for (index, child, _) in nodes {
        let place = round.words(index);
        hits.add(place, Target::Entry(index));
        let style = look.fg(shaded(bubble.colour(), child.shade(app.now).max(3), look));
        let words = Words { label: child.label(&bubble.key), count: child.count, style };
        words.draw(frame, place, !index.is_multiple_of(2), index == chosen, look);
    }
    let name = cut(&clean(bubble.label()), 16);
    for (line, text) in (0..).zip([name, number(bubble.count)]) {
        let text = format!(" {text} ");
        let width = u16::try_from(text.width()).unwrap_or(area.width).min(area.width);
        let x = area.x + (area.width - width) / 2;
        let y = area.y + (area.height.saturating_sub(2)) / 2 + line;
        let place = Rect { x, y, width, height: 1 }.intersection(area);
        frame.render_widget(Line::styled(text, look.fg(bubble.colour())), place);
    }
}

/// What stands beside a type's circle.
#[derive(Debug)]
struct Words<'a> {
    label: &'a str,
    count: u64,
    style: Style,
}

impl Words<'_> {
    fn draw(&self, frame: &mut Frame<'_>, place: Rect, is_left: bool, is_chosen: bool, look: &Look) {
        let count = number(self.count);
        let mark = if is_chosen { look.sign("▸", ">") } else { " " };
        let width = usize::from(place.width);
        let label = cut(&clean(self.label), width.saturating_sub(count.width() + 2));
        let text = format!("{mark}{label} {count}");
        let missing = u16::try_from(width.saturating_sub(text.width())).unwrap_or(0);
        let x = if is_left { place.x + missing } else { place.x };
        let style = if is_chosen { self.style.patch(look.chosen(true)) } else { self.style };
        frame.render_widget(Line::styled(text, style), Rect { x, width: place.width - missing, ..place });
    }
}

/// Where things of a ring are on the screen, in Braille dots.
#[derive(Debug)]
struct Round {
    ring: Ring,
    area: Rect,
    centre: (f64, f64),
    /// Across and down.
    radius: (f64, f64),
}

/// The largest circle in the middle, as a part of the ring.
const HUB: f64 = 0.35;

/// Columns that words beside the ring should have.
const WORDS: f64 = 26.0;

impl Round {
    fn of(ring: Ring, area: Rect) -> Self {
        let (width, height) = (f64::from(area.width), f64::from(area.height));
        let centre = (f64::from(area.x) * 2.0 + width, f64::from(area.y) * 4.0 + height * 2.0);
        let down = height * 2.0;
        // A circle, where there is room beside it for words.
        let across = down.min((width / 2.0 - WORDS) * 2.0).max(20.0);
        Self { ring, area, centre, radius: (across, down) }
    }

    /// The radius of the circle in the middle.
    fn hub(&self, bubble: &Bubble) -> f64 {
        self.radius.1 * HUB * diameter(bubble.count) / LARGEST
    }

    /// The line of a type, from the top of the area; the first on the right, the second on the left of it, and so on.
    fn line(&self, index: usize) -> u16 {
        let height = usize::from(self.area.height);
        let line = (index / 2 * 2 + 1) * height / (self.ring.side * 2).max(1);
        u16::try_from(line.min(height.saturating_sub(1))).unwrap_or(0)
    }

    /// The middle of its circle.
    fn node(&self, index: usize) -> (f64, f64) {
        let y = f64::from(self.area.y + self.line(index)) * 4.0 + 2.0;
        let high = ((y - self.centre.1) / self.radius.1).clamp(-1.0, 1.0);
        let across = self.radius.0 * high.mul_add(-high, 1.0).max(0.1).sqrt();
        (if index.is_multiple_of(2) { self.centre.0 + across } else { self.centre.0 - across }, y)
    }

    /// The place for its words.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a column of the screen")]
    fn words(&self, index: usize) -> Rect {
        let column = (self.node(index).0 / 2.0).round() as u16;
        let y = self.area.y + self.line(index);
        let (from, to) = if index.is_multiple_of(2) {
            (column + 2, self.area.right())
        } else {
            (self.area.x, column.saturating_sub(3))
        };
        Rect { x: from.min(to), y, width: to.saturating_sub(from), height: 1 }
    }
}
