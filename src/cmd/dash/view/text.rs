//! Text in its columns. Pure.

use jiff::Timestamp;
use ratatui::{
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr as _;

use crate::cmd::text::cut;

/// A text that takes just so many columns.
pub(super) fn fixed(text: &str, columns: usize) -> String {
    let mut shown = cut(text, columns);
    let missing = columns.saturating_sub(shown.width());
    shown.extend(std::iter::repeat_n(' ', missing));
    shown
}

/// A number with commas between the thousands.
pub(super) fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

/// How long ago that was, in the largest unit that fits; four letters at most.
pub(super) fn age(at: Timestamp, now: Timestamp) -> String {
    match now.as_second().saturating_sub(at.as_second()).max(0) {
        seconds @ ..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds @ 3600..86_400 => format!("{}h", seconds / 3600),
        seconds => format!("{}d", (seconds / 86_400).min(999)),
    }
}

/// So many of something, whose plural ends in `s`.
pub(super) fn counted(n: u64, what: &str) -> String {
    format!("{} {what}{}", number(n), if n == 1 { "" } else { "s" })
}

/// Bytes, with one decimal, as the dashboard that this one replaces shows them.
#[allow(clippy::cast_precision_loss, reason = "shown with one decimal")]
pub(super) fn bytes(n: usize) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{:.1} KB", n as f64 / 1024.0),
        _ => format!("{:.1} MB", n as f64 / 1_048_576.0),
    }
}

/// The pieces of a line that fit into so many columns; the last one is cut.
pub(super) fn fit<'a>(pieces: impl IntoIterator<Item = (String, Style)>, columns: usize) -> Line<'a> {
    let mut room = columns;
    let mut spans = Vec::new();
    for (text, style) in pieces {
        if room == 0 {
            break;
        }
        let text = cut(&text, room);
        room = room.saturating_sub(text.width());
        spans.push(Span::styled(text, style));
    }
    Line::from(spans)
}

const SPARKS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];
const LETTERS: [&str; 9] = [" ", ".", ".", ":", ":", "-", "=", "#", "#"];

/// Numbers as a line of small bars, the highest as high as can be.
pub(super) fn spark(values: &[u64], ascii: bool) -> String {
    let most = values.iter().copied().max().unwrap_or(0).max(1);
    let signs = if ascii { LETTERS } else { SPARKS };
    let sign = |value: u64| {
        let eighths = usize::try_from(value.saturating_mul(8).div_ceil(most)).unwrap_or(8).min(8);
        signs.get(eighths).copied().unwrap_or(" ")
    };
    values.iter().map(|value| sign(*value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_bars() {
        assert_eq!(
            (number(7), number(1234), number(1_234_567)),
            ("7".into(), "1,234".into(), "1,234,567".into())
        );
        assert_eq!(
            (bytes(12), bytes(1536), bytes(2 << 20)),
            ("12 B".into(), "1.5 KB".into(), "2.0 MB".into())
        );
        assert_eq!(spark(&[0, 1, 4, 8], false), " ▁▄█");
        assert_eq!(spark(&[0, 0], false), "  ");
        assert_eq!((fixed("日本", 5), fixed("abc", 2)), ("日本 ".into(), "a…".into()));
    }
}
