//! An event as a person reads it: one line, in which nothing that came from outside is obeyed by the terminal. Pure.

use std::fmt::Write as _;

use jiff::{Timestamp, tz::TimeZone};
use serde_json::{Value, json};
use unicode_width::UnicodeWidthStr as _;

use super::envelope::POSITION;
use crate::{
    bus::{Body, Event, Received},
    cmd::text::{cut, gist, nearest, printable},
};

/// How lines look.
#[derive(Debug, Clone)]
pub(super) struct Look {
    /// Colour codes are welcome.
    pub(super) color: bool,
    /// Cut lines to so many columns.
    pub(super) width: Option<usize>,
    /// Whose clock to show.
    pub(super) zone: TimeZone,
}

/// Columns for the type; a longer one moves what follows.
const TYPE_COLUMNS: usize = 32;

/// Columns for the program.
const APP_COLUMNS: usize = 14;

/// Letters of a session that are shown; enough to tell those of a day apart.
const SESSION_LETTERS: usize = 8;

/// Characters of a payload that are looked at where the line is not cut.
const LONGEST_GIST: usize = 500;

impl Look {
    /// Time, type, program, session, and what it is about. `now` decides whether the date is shown.
    pub(super) fn row(&self, received: &Received, now: Timestamp) -> String {
        match &received.body {
            Body::Event(event) => self.event(event, now),
            Body::Unparsed(unparsed) => {
                let time = self.time(received.at.unwrap_or(now), now);
                let raw = printable(&String::from_utf8_lossy(&unparsed.raw), LONGEST_GIST);
                let key = printable(&received.routing_key, LONGEST_GIST);
                let text = format!("unparsed  {key}  {}: {raw}", printable(&unparsed.reason, LONGEST_GIST));
                self.paint(&format!("{time}  "), &self.cut(&text, time.width() + 2), Some(YELLOW), "")
            }
        }
    }

    /// A line between the events, such as a gap.
    pub(super) fn note(&self, text: &str) -> String {
        self.paint("", &self.cut(&format!("-- {} --", printable(text, LONGEST_GIST)), 0), Some(YELLOW), "")
    }

    fn event(&self, event: &Event, now: Timestamp) -> String {
        let time = self.time(event.timestamp, now);
        let kind = printable(event.event_type.as_str(), LONGEST_GIST);
        let app = printable(&event.source.app, LONGEST_GIST);
        let session = event.session_id().map_or_else(String::new, |id| {
            format!("{}  ", printable(&id.chars().take(SESSION_LETTERS).collect::<String>(), LONGEST_GIST))
        });
        let before = format!("{time}  ");
        let after = format!("  {app:<APP_COLUMNS$}  {session}{}", gist(&event.payload, LONGEST_GIST));
        let kind_columns = kind.width().max(TYPE_COLUMNS);
        let after = self.cut(&after, before.width() + kind_columns);
        self.paint(
            &before,
            &format!("{kind:<TYPE_COLUMNS$}"),
            Some(nearest(event.domain().colour)),
            after.trim_end(),
        )
    }

    fn time(&self, at: Timestamp, now: Timestamp) -> String {
        let (at, today) = (at.to_zoned(self.zone.clone()), now.to_zoned(self.zone.clone()).date());
        let format = if at.date() == today { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" };
        at.strftime(format).to_string()
    }

    /// As much of a text as fits behind `used` columns.
    fn cut(&self, text: &str, used: usize) -> String {
        self.width.map_or_else(|| text.to_owned(), |width| cut(text, width.saturating_sub(used)))
    }

    fn paint(&self, before: &str, text: &str, color: Option<u8>, after: &str) -> String {
        match color.filter(|_| self.color) {
            Some(color) => format!("{before}\x1b[38;5;{color}m{text}\x1b[0m{after}"),
            None => format!("{before}{text}{after}"),
        }
    }
}

/// Of the palette of 256 colours.
const YELLOW: u8 = 3;

/// An event as one line of JSON, with its place in the history; or what could not be read as one.
pub(super) fn json_of(received: &Received) -> String {
    match &received.body {
        Body::Event(event) => {
            let line = event_line(event);
            match (received.position, line.strip_suffix('}')) {
                (Some(position), Some(open)) => format!("{open},\"{POSITION}\":{position}}}"),
                _ => line,
            }
        }
        Body::Unparsed(unparsed) => json_line(&json!({
            "unparsed": {
                "reason": unparsed.reason,
                "raw": String::from_utf8_lossy(&unparsed.raw),
                "routing_key": received.routing_key,
            },
            "position": received.position,
        })),
    }
}

/// An envelope as one line of JSON, its fields in the order of the contract.
pub(super) fn event_line(event: &Event) -> String {
    escaped(String::from_utf8_lossy(&event.to_json()).into_owned())
}

/// A value as one line of JSON.
pub(in crate::cmd) fn json_line(value: &Value) -> String {
    escaped(value.to_string())
}

/// JSON allows the control characters above ASCII as they are, and some terminals obey them.
fn escaped(json: String) -> String {
    let is_raw = |c: char| matches!(c, '\u{7f}'..='\u{9f}');
    if !json.contains(is_raw) {
        return json;
    }
    let mut shown = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            c if is_raw(c) => write!(shown, "\\u{:04x}", u32::from(c)).unwrap_or_default(),
            c => shown.push(c),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        bus::{Unparsed, event::Stamp},
        cmd::bus::envelope,
    };

    fn look(width: Option<usize>) -> Look {
        Look { color: false, width, zone: TimeZone::UTC }
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    fn received(event_type: &str, payload: Value) -> Received {
        let stamp = Stamp { id: uuid::Uuid::nil(), at: at("2026-11-21T12:00:00.25Z") };
        let source = envelope::source("godctl-asr", "service");
        let event = Event::new(stamp, event_type.parse().unwrap(), source, payload);
        Received { position: None, at: None, routing_key: event_type.to_owned(), body: Body::Event(event) }
    }

    #[test]
    fn a_row_tells_when_what_who_and_what_about() {
        let now = at("2026-11-21T13:00:00Z");
        let text = json!({ "text": "hello there", "session_id": "0197c2f0-1111", "is_final": true });
        let rows = [
            look(None).row(&received("voice.transcription.completed", text.clone()), now),
            look(Some(60)).row(&received("voice.transcription.completed", text.clone()), now),
            look(None).row(&received("x.y", json!({ "a": 1 })), now),
            look(None).row(&received("x.y", json!(null)), at("2026-11-22T13:00:00Z")),
            look(None).note("the connection was lost"),
        ];
        insta::assert_snapshot!(rows.join("\n"), @r#"
        12:00:00.250  voice.transcription.completed     godctl-asr      0197c2f0  hello there
        12:00:00.250  voice.transcription.completed     godctl-asr …
        12:00:00.250  x.y                               godctl-asr      {"a":1}
        2026-11-21 12:00:00.250  x.y                               godctl-asr
        -- the connection was lost --
        "#);
        let colored = Look { color: true, ..look(None) }.row(&received("voice.a.b", text), now);
        assert!(colored.contains("\x1b[38;5;") && colored.contains("\x1b[0m  godctl-asr"), "{colored:?}");
    }

    #[test]
    fn what_could_not_be_read_is_a_row_too() {
        let unparsed = Unparsed { raw: b"not json\x1b[2J".to_vec(), reason: "expected ident".to_owned() };
        let body = Body::Unparsed(unparsed);
        let received = Received { position: None, at: None, routing_key: "x.y".to_owned(), body };
        let row = look(None).row(&received, at("2026-11-21T12:00:00Z"));
        assert_eq!(row, "12:00:00.000  unparsed  x.y  expected ident: not json\\u{1b}[2J");
    }

    #[test]
    fn nothing_from_outside_is_obeyed() {
        let payload = json!({ "text": "a\x1b[31mb\nc\u{9b}d\u{202e}e" });
        let row = look(None).row(&received("x.y", payload.clone()), at("2026-11-21T12:00:00Z"));
        assert!(row.ends_with(r"a\u{1b}[31mb\nc\u{9b}d\u{202e}e"), "{row}");
        let line = json_line(&payload);
        assert!(!line.chars().any(char::is_control), "{line:?}");
        assert_eq!(serde_json::from_str::<Value>(&line).unwrap(), payload);
        assert_eq!(printable(&"x".repeat(9), 4), "xxxx…");
    }

    #[test]
    fn a_colour_of_the_palette_stands_for_one_of_all() {
        assert_eq!(
            [nearest([0, 0, 0]), nearest([255, 255, 255]), nearest([0x3B, 0x82, 0xF6])],
            [16, 231, 69]
        );
    }

    #[test]
    fn json_has_the_fields_in_order_and_the_place_at_the_end() {
        let mut received = received("x.y", json!({ "a": 1 }));
        assert!(!json_of(&received).contains(POSITION));
        received.position = Some(crate::bus::Position(7));
        let line = json_of(&received);
        assert!(
            line.starts_with("{\"event_id\":") && line.ends_with("\"payload\":{\"a\":1},\"position\":7}"),
            "{line}"
        );
        assert!(serde_json::from_str::<Value>(&line).is_ok());
    }

    #[test]
    fn wide_letters_count_twice() {
        let row = look(Some(70)).row(&received("x.y", json!({ "text": "漢字".repeat(50) })), Timestamp::MIN);
        assert!(row.width() <= 70 && row.ends_with('…'), "{row}");
    }
}
