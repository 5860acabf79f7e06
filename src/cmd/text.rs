//! Text that came from outside, made fit for a terminal: nothing in it is obeyed, and it keeps to its columns. Pure.

use std::fmt::Write as _;

use serde_json::Value;
use unicode_segmentation::UnicodeSegmentation as _;
use unicode_width::UnicodeWidthStr as _;

/// Members of a payload that say what the event is about, the first one first.
const TELLING: [&str; 12] = [
    "text",
    "prompt",
    "message",
    "response",
    "error_message",
    "content",
    "transcript_text",
    "response_text",
    "title",
    "topic",
    "summary",
    "name",
];

/// The nearest colour of the 6 x 6 x 6 cube in the palette of 256, which more terminals know than all 16 million.
pub(in crate::cmd) fn nearest([red, green, blue]: [u8; 3]) -> u8 {
    const LEVELS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let level = |value: u8| {
        let levels = (0_u8..).zip(LEVELS);
        levels.min_by_key(|(_, level)| level.abs_diff(value)).map_or(0, |(index, _)| index)
    };
    16 + 36 * level(red) + 6 * level(green) + level(blue)
}

/// What an event is about: at most `limit` characters, on one line, nothing in it obeyed by a terminal.
pub(in crate::cmd) fn gist(payload: &Value, limit: usize) -> String {
    let telling = TELLING.iter().find_map(|name| payload.get(name)?.as_str());
    let text = match (telling, payload) {
        (Some(text), _) => text.to_owned(),
        (None, Value::String(text)) => text.clone(),
        (None, Value::Null) => String::new(),
        (None, payload) => payload.to_string(),
    };
    printable(&text, limit)
}

/// At most `limit` characters of a text, with those escaped that a terminal would obey or that would make the line
/// look like another one: controls, and marks that change the direction of writing.
pub(in crate::cmd) fn printable(text: &str, limit: usize) -> String {
    let mut shown = String::with_capacity(text.len().min(limit));
    for c in text.chars().take(limit) {
        match c {
            '\n' => shown.push_str("\\n"),
            '\t' => shown.push_str("\\t"),
            '\r' => shown.push_str("\\r"),
            c if is_obeyed(c) => write!(shown, "{}", c.escape_unicode()).unwrap_or_default(),
            c => shown.push(c),
        }
    }
    if text.chars().nth(limit).is_some() {
        shown.push('…');
    }
    shown
}

/// Whether a terminal does something else with it than show it.
pub(in crate::cmd) fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{2028}' | '\u{2029}')
}

/// As much of the beginning of a text as fits into so many columns, with `…` where something is missing. A letter and
/// its marks, or an emoji of several characters, stay together.
pub(in crate::cmd) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut used = 1;
    let fits = |piece: &&str| {
        used += piece.width();
        used <= columns
    };
    let mut kept: String = text.graphemes(true).take_while(fits).collect();
    if columns > 0 {
        kept.push('…');
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_keeps_to_its_columns_and_its_letters_whole() {
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello", 4), "hel…");
        assert_eq!(cut("日本語", 5), "日本…");
        assert_eq!(cut("日本語", 4), "日…");
        assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
        assert_eq!(cut("👩‍👩‍👧 x y", 3), "👩‍👩‍👧…");
        assert_eq!((cut("hello", 1), cut("hello", 0)), ("…".to_owned(), String::new()));
    }

    #[test]
    fn a_payload_says_what_it_is_about() {
        for (payload, expected) in [
            (serde_json::json!({ "n": 1, "text": "a\nb" }), "a\\nb"),
            (serde_json::json!({ "n": 1 }), r#"{"n":1}"#),
            (serde_json::json!("plain"), "plain"),
            (serde_json::json!(null), ""),
        ] {
            assert_eq!(gist(&payload, 100), expected);
        }
        assert_eq!(gist(&serde_json::json!({ "text": "abcdef" }), 3), "abc…");
    }
}
