//! A frame without a terminal: as text for scripts and tests, with or without colours. Pure.

use ratatui::{
    Terminal,
    backend::TestBackend,
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};

use super::{
    app::App,
    view::{
        look::{Depth, Look},
        screen,
    },
};

/// Draws one frame.
pub(super) fn cells(app: &App, depth: Depth) -> Buffer {
    let look = Look::of(app, depth);
    let (width, height) = app.size;
    let Ok(mut terminal) = Terminal::new(TestBackend::new(width, height));
    let Ok(_) = terminal.draw(|frame| drop(screen::draw(frame, app, &look)));
    terminal.backend().buffer().clone()
}

/// The frame as lines of text; with escape sequences where colours are wanted.
pub(super) fn text(app: &App, depth: Option<Depth>) -> String {
    let cells = cells(app, depth.unwrap_or(Depth::None));
    let mut out = String::new();
    for y in cells.area.y..cells.area.bottom() {
        let mut line = String::new();
        let mut style = None;
        let mut skip = 0;
        for x in cells.area.x..cells.area.right() {
            let Some(cell) = cells.cell((x, y)) else { continue };
            if skip > 0 {
                skip -= 1;
                continue;
            }
            skip = unicode_width::UnicodeWidthStr::width(cell.symbol()).saturating_sub(1);
            if depth.is_some() {
                let wanted = sgr(cell);
                if style.as_ref() != Some(&wanted) {
                    line.push_str(&format!("\x1b[0{wanted}m"));
                    style = Some(wanted);
                }
            }
            line.push_str(cell.symbol());
        }
        if depth.is_some() {
            line.push_str("\x1b[0m");
            out.push_str(&line);
        } else {
            out.push_str(line.trim_end());
        }
        out.push('\n');
    }
    out
}

/// The parameters of SGR (ECMA-48) for a cell, each with a `;` before it.
fn sgr(cell: &Cell) -> String {
    let mut out = String::new();
    for (modifier, code) in
        [(Modifier::BOLD, 1), (Modifier::DIM, 2), (Modifier::UNDERLINED, 4), (Modifier::REVERSED, 7)]
    {
        if cell.modifier.contains(modifier) {
            out.push_str(&format!(";{code}"));
        }
    }
    out.push_str(&colour(cell.fg, 30));
    out.push_str(&colour(cell.bg, 40));
    out
}

fn colour(colour: Color, base: u8) -> String {
    let bright = |n: u8| format!(";{}", base + 60 + n);
    let plain = |n: u8| format!(";{}", base + n);
    match colour {
        Color::Reset => String::new(),
        Color::Rgb(red, green, blue) => format!(";{};2;{red};{green};{blue}", base + 8),
        Color::Indexed(index) => format!(";{};5;{index}", base + 8),
        Color::Black => plain(0),
        Color::Red => plain(1),
        Color::Green => plain(2),
        Color::Yellow => plain(3),
        Color::Blue => plain(4),
        Color::Magenta => plain(5),
        Color::Cyan => plain(6),
        Color::Gray => plain(7),
        Color::DarkGray => bright(0),
        Color::LightRed => bright(1),
        Color::LightGreen => bright(2),
        Color::LightYellow => bright(3),
        Color::LightBlue => bright(4),
        Color::LightMagenta => bright(5),
        Color::LightCyan => bright(6),
        Color::White => bright(7),
    }
}
