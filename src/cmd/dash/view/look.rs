//! Colours and signs, for terminals that have all, some or none of them. Pure.

use jiff::{Timestamp, tz::TimeZone};
use ratatui::style::{Color, Modifier, Style};

use super::super::{
    app::{App, Theme},
    state::row::{Kind, Row, Status},
};
use crate::cmd::text::nearest;

/// The colours that a terminal has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Depth {
    None,
    Sixteen,
    Palette,
    True,
}

impl Depth {
    /// What a terminal says about itself in the environment.
    pub(in crate::cmd::dash) fn of(term: &str, colorterm: &str) -> Self {
        match (term, colorterm) {
            ("dumb", _) => Self::None,
            (_, "truecolor" | "24bit") => Self::True,
            (term, _) if term.ends_with("-direct") => Self::True,
            (term, _) if term.contains("256color") => Self::Palette,
            _ => Self::Sixteen,
        }
    }
}

/// How things look.
#[derive(Debug, Clone)]
pub(in crate::cmd::dash) struct Look {
    pub(in crate::cmd::dash) depth: Depth,
    pub(in crate::cmd::dash) theme: Theme,
    /// Only letters that every terminal has.
    pub(in crate::cmd::dash) ascii: bool,
    pub(in crate::cmd::dash) zone: TimeZone,
}

/// What a text means, which says its colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cmd::dash) enum Tone {
    Text,
    /// Less important.
    Faint,
    Good,
    Warning,
    Bad,
    /// A title, or the part that takes the keys.
    Accent,
    /// Keys, texts, numbers, booleans and nulls of JSON.
    Key,
    Words,
    Number,
    Bool,
    Null,
}

impl Look {
    pub(in crate::cmd::dash) fn of(app: &App, depth: Depth) -> Self {
        let depth = if app.theme == Theme::Mono { Depth::None } else { depth };
        Self { depth, theme: app.theme, ascii: app.options.ascii, zone: app.options.zone.clone() }
    }

    /// A colour, as near as the terminal comes to it.
    pub(in crate::cmd::dash) fn rgb(&self, rgb: [u8; 3]) -> Color {
        let [red, green, blue] = rgb;
        match self.depth {
            Depth::None => Color::Reset,
            Depth::True => Color::Rgb(red, green, blue),
            Depth::Palette => Color::Indexed(nearest(rgb)),
            Depth::Sixteen => sixteen(rgb),
        }
    }

    pub(in crate::cmd::dash) fn fg(&self, rgb: [u8; 3]) -> Style {
        match self.depth {
            Depth::None => Style::new(),
            _ => Style::new().fg(self.rgb(rgb)),
        }
    }

    pub(in crate::cmd::dash) fn tone(&self, tone: Tone) -> Style {
        let style = Style::new();
        if self.depth == Depth::None {
            return match tone {
                Tone::Faint => style.add_modifier(Modifier::DIM),
                Tone::Bad | Tone::Accent | Tone::Warning => style.add_modifier(Modifier::BOLD),
                _ => style,
            };
        }
        let is_dark = self.theme != Theme::Light;
        let pick = |dark: u32, light: u32| {
            let [_, red, green, blue] = (if is_dark { dark } else { light }).to_be_bytes();
            self.fg([red, green, blue])
        };
        match tone {
            Tone::Text => style,
            // In sixteen colours a grey may be the background's; fainter text is safe everywhere.
            Tone::Faint if self.depth == Depth::Sixteen => style.add_modifier(Modifier::DIM),
            Tone::Faint => pick(0x009C_A3AF, 0x006B_7280),
            Tone::Good => pick(0x0022_C55E, 0x0015_803D),
            Tone::Warning => pick(0x00F5_9E0B, 0x00A1_6207),
            Tone::Bad => pick(0x00F8_7171, 0x00B9_1C1C),
            Tone::Accent => pick(0x0038_BDF8, 0x0003_69A1).add_modifier(Modifier::BOLD),
            Tone::Key => pick(0x0060_A5FA, 0x001D_4ED8),
            Tone::Words => pick(0x00FD_E047, 0x0085_4D0E),
            Tone::Number => pick(0x004A_DE80, 0x0016_6534),
            Tone::Bool => pick(0x00FB_923C, 0x00C2_410C),
            Tone::Null => pick(0x00C0_84FC, 0x007E_22CE),
        }
    }

    /// The row that is chosen.
    pub(in crate::cmd::dash) fn chosen(&self, has_keys: bool) -> Style {
        match (self.depth, self.theme) {
            (Depth::None | Depth::Sixteen, _) if has_keys => Style::new().add_modifier(Modifier::REVERSED),
            (Depth::None | Depth::Sixteen, _) => Style::new().add_modifier(Modifier::UNDERLINED),
            (_, Theme::Light) if has_keys => Style::new().bg(self.rgb([0xCB, 0xD5, 0xE1])),
            (_, Theme::Light) => Style::new().bg(self.rgb([0xE5, 0xE7, 0xEB])),
            (_, _) if has_keys => Style::new().bg(self.rgb([0x33, 0x41, 0x55])),
            (_, _) => Style::new().bg(self.rgb([0x1F, 0x29, 0x37])),
        }
    }

    /// A sign, or what stands for it where there are only letters.
    pub(in crate::cmd::dash) const fn sign(&self, sign: &'static str, letters: &'static str) -> &'static str {
        if self.ascii { letters } else { sign }
    }

    /// The sign of a row, and its colour.
    pub(in crate::cmd::dash) fn icon(&self, row: &Row) -> (&'static str, Style) {
        match (row.kind, row.status()) {
            (Kind::Unparsed, _) => (self.sign("⚠", "?"), self.tone(Tone::Warning)),
            (Kind::Gap, _) => (self.sign("┄", "-"), self.tone(Tone::Warning)),
            (Kind::Event, Status::Error) => (self.sign("✖", "x"), self.tone(Tone::Bad)),
            (Kind::Event, Status::Done) => (self.sign("✔", "+"), self.tone(Tone::Good)),
            (Kind::Event, Status::Started) => (self.sign("⚡", ">"), self.tone(Tone::Warning)),
            (Kind::Event, Status::Other) => (self.sign("•", "."), self.tone(Tone::Faint)),
        }
    }

    /// The time of day.
    pub(in crate::cmd::dash) fn time(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%H:%M:%S").to_string()
    }

    /// Date, time of day with milliseconds, and where that is.
    pub(in crate::cmd::dash) fn moment(&self, at: Timestamp) -> String {
        at.to_zoned(self.zone.clone()).strftime("%Y-%m-%d %H:%M:%S%.3f %Z").to_string()
    }
}

/// The nearest of the sixteen colours that every terminal has, by hue: what they look like is the terminal's matter.
fn sixteen([red, green, blue]: [u8; 3]) -> Color {
    let most = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    if most - least < 48 {
        return if most > 200 { Color::White } else { Color::DarkGray };
    }
    // What is more than half as strong as the strongest counts.
    let half = least + (most - least) / 2;
    match (red > half, green > half, blue > half) {
        (true, true, _) => Color::Yellow,
        (true, false, true) => Color::Magenta,
        (true, false, false) => Color::Red,
        (false, true, true) => Color::Cyan,
        (false, true, false) => Color::Green,
        (false, false, _) => Color::Blue,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_says_which_colours_it_has() {
        for (term, colorterm, depth) in [
            ("xterm-256color", "truecolor", Depth::True),
            ("xterm-256color", "", Depth::Palette),
            ("xterm", "", Depth::Sixteen),
            ("linux", "", Depth::Sixteen),
            ("xterm-direct", "", Depth::True),
            ("dumb", "truecolor", Depth::None),
        ] {
            assert_eq!(Depth::of(term, colorterm), depth, "{term} {colorterm}");
        }
    }

    #[test]
    fn hues_stay_in_sixteen_colours() {
        assert_eq!(sixteen([0x3B, 0x82, 0xF6]), Color::Blue);
        assert_eq!(sixteen([0x10, 0xB9, 0x81]), Color::Cyan);
        assert_eq!(sixteen([0xEF, 0x44, 0x44]), Color::Red);
        assert_eq!(sixteen([0xF5, 0x9E, 0x0B]), Color::Yellow);
        assert_eq!(sixteen([0x6B, 0x72, 0x80]), Color::DarkGray);
    }
}
