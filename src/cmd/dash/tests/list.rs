//! The list, the figures above it and the payload beside it.

use serde_json::json;

use super::{
    super::state::testing::{after, event, event_at},
    *,
};
use crate::bus::{Body, Received, Unparsed};

fn id(n: u128) -> uuid::Uuid {
    uuid::Uuid::from_u128(0x0199_f0a2_1111_7000_8000_0000_0000_0000 + n)
}

/// A spoken command, what it led to, and something else.
pub(super) fn some() -> Vec<Event> {
    let mut voice = event_at(
        0,
        "voice.transcription.completed",
        json!({ "text": "run the tests", "session_id": "0197c2f0-1111" }),
    );
    voice.event_id = id(1);
    let mut started = after(
        &voice,
        event_at(1, "agent.session.started", json!({ "session_id": "s-2", "provider": "claude" })),
    );
    started.event_id = id(2);
    let payload =
        json!({ "error_message": "no \x1b[2Jkey", "session_id": "s-2", "deep": { "a": { "b": [1, 2] } } });
    let mut error = after(&started, event_at(2, "agent.error", payload));
    error.event_id = id(3);
    let mut other = event_at(3, "zzz.a", json!({ "n": 1 }));
    other.event_id = id(4);
    vec![voice, started, error, other]
}

fn numbered(count: usize) -> impl Iterator<Item = Event> {
    (0..count).map(|n| event_at(i64::try_from(n).unwrap() / 100, "load.test.sent", json!({ "n": n })))
}

#[test]
fn the_newest_is_on_top_and_the_chosen_one_stands_beside() {
    let mut desk = Desk::new(110, 20);
    desk.live(some());
    desk.keys("<Down>");
    insta::assert_snapshot!(desk.frame());
}

#[test]
fn a_small_terminal_has_a_list_and_shows_the_details_instead() {
    let mut desk = Desk::new(60, 16);
    desk.live(some());
    insta::assert_snapshot!("list_at_60_x_16", desk.frame());
    desk.keys("<Down><Enter>");
    insta::assert_snapshot!("details_at_60_x_16", desk.frame());
    desk.keys("<Esc>");
    assert!(desk.frame().contains("events · 4"), "{}", desk.frame());
}

#[test]
fn no_size_and_no_key_makes_it_panic() {
    for (width, height) in [(1, 1), (20, 6), (60, 16), (100, 30), (200, 60), (300, 4)] {
        let mut desk = Desk::new(width, height);
        desk.live(some());
        for key in "1234567?<Esc>F<Right><Esc>/x<Esc>Tj<Esc>Pj<Esc>p<Esc>bx<Esc>d<Tab>jjEhl<Esc>nx<Enter>"
            .split_inclusive('>')
        {
            desk.keys(key);
            let frame = desk.frame();
            assert_eq!(frame.lines().count(), usize::from(height), "{width}x{height} {key}");
        }
    }
}

#[test]
fn the_oldest_of_ten_thousand_is_one_key_away() {
    let mut desk = Desk::new(80, 24);
    desk.live(numbered(10_000));
    desk.keys("G");
    let frame = desk.frame();
    assert!(frame.contains("{\"n\":0}") && !frame.contains("{\"n\":9999}"), "{frame}");
    desk.keys("g");
    assert!(desk.frame().contains("{\"n\":9999}"));
}

#[test]
fn a_ring_keeps_ten_thousand_and_counts_what_had_to_go() {
    let mut desk = Desk::new(110, 24);
    desk.live(numbered(12_000));
    let frame = desk.frame();
    let figures = frame.lines().nth(1).unwrap();
    assert!(figures.starts_with("total 12,000  buffered 10,000/10,000"), "{figures}");
    assert!(figures.contains("evicted 2,000"), "{figures}");
}

#[test]
fn a_frozen_list_stands_still_and_counts_what_comes() {
    let mut desk = Desk::new(80, 20);
    desk.live(some());
    desk.keys("<Space>");
    let before = desk.frame();
    desk.live(numbered(5));
    let frame = desk.frame();
    assert!(frame.contains("FROZEN, 5 new"), "{frame}");
    let rows = |frame: &str| {
        frame.lines().filter(|line| line.starts_with("│12")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rows(&before), rows(&frame));
    desk.keys("<Space>");
    assert!(desk.frame().contains("events · 9 · following"), "{}", desk.frame());
}

#[test]
fn who_reads_further_down_stays_there_and_is_told_what_is_new() {
    let mut desk = Desk::new(80, 10);
    desk.live(numbered(50));
    desk.keys("<PgDn><PgDn>");
    let before = desk.frame();
    let chosen = desk.app.chosen().unwrap().id;
    desk.live(numbered(3));
    let frame = desk.frame();
    assert_eq!(desk.app.chosen().unwrap().id, chosen);
    assert!(frame.contains("new above"), "{frame}");
    assert_eq!(before.lines().nth(4), frame.lines().nth(4));
    desk.keys("f");
    assert!(desk.app.is_following());
}

#[test]
fn each_kind_of_event_has_its_sign_with_letters_where_signs_are_unknown() {
    let events =
        || ["a.failed", "a.completed", "a.requested", "a.changed"].map(|name| event(name, json!({})));
    let signs = |frame: &str| {
        let rows: Vec<char> = frame.lines().skip(3).take(4).map(|row| row.chars().nth(10).unwrap()).collect();
        rows.into_iter().rev().collect::<String>()
    };
    let mut desk = Desk::new(80, 12);
    desk.live(events());
    assert_eq!(signs(&desk.frame()), "✖✔⚡•");
    let mut desk = Desk::with(Options { ascii: true, ..options(80, 12) });
    desk.live(events());
    let frame = desk.frame();
    assert_eq!(signs(&frame), "x+>.");
    assert!(frame.is_ascii(), "{frame}");
}

#[test]
fn colours_are_those_of_the_domains_and_none_where_none_are_wanted() {
    let mut desk = Desk::new(80, 12);
    desk.live(["agent.x", "zzz.a", "voice.x", "session.x"].map(|name| event(name, json!({}))));
    let ansi = frame::text(&desk.app, Some(Depth::True));
    for (row, rgb) in
        [("agent.x", "38;2;59;130;246"), ("zzz.a", "38;2;107;114;128"), ("voice.x", "38;2;34;197;94")]
    {
        let line = ansi.lines().find(|line| line.contains(row)).unwrap();
        assert!(line.contains(&format!("{rgb}m{row}")), "{line:?}");
    }
    assert!(
        !ansi.lines().any(|line| line.contains("session.x") && line.contains("38;2;107;114;128msession.x"))
    );
    for (depth, has) in [(Depth::Palette, "38;5;"), (Depth::Sixteen, ";34m")] {
        let ansi = frame::text(&desk.app, Some(depth));
        assert!(ansi.contains(has) && !ansi.contains("38;2;"), "{depth:?}");
    }
    let plain = frame::text(&desk.app, Some(Depth::None));
    assert!(!plain.contains("38;") && !plain.contains(";3"), "{plain:?}");
    desk.keys("tt");
    assert_eq!(
        (desk.app.theme, frame::text(&desk.app, Some(Depth::True)).contains("38;")),
        (Theme::Mono, false)
    );
    assert_eq!(desk.effects, [Effect::Keep, Effect::Keep]);
}

#[test]
fn what_cannot_be_read_is_a_row_and_counted() {
    let mut desk = Desk::new(110, 12);
    let body =
        Body::Unparsed(Unparsed { raw: b"not json\x1b[2J".to_vec(), reason: "expected ident".to_owned() });
    let unread = Received { position: None, at: Some(at(1)), routing_key: "x.y".to_owned(), body };
    desk.items([
        Item::Event(Box::new(unread)),
        Item::Gap { missed: Some(3), reason: "the connection was lost".to_owned() },
    ]);
    let frame = desk.frame();
    assert!(frame.contains(r"⚠ unparsed x.y expected ident: not json\u{1b}[2J"), "{frame}");
    assert!(frame.contains("3 events are missing: the connection was lost"), "{frame}");
    assert!(frame.contains("unparsed 1  gaps 1"), "{frame}");
}

#[test]
fn the_same_event_twice_is_one_row() {
    let mut desk = Desk::new(110, 12);
    let event = event("a.b", json!({}));
    desk.live([event.clone(), event]);
    let frame = desk.frame();
    assert!(frame.contains("total 1 ") && frame.contains("duplicates 1"), "{frame}");
}

#[test]
fn forgetting_the_events_keeps_the_counts() {
    let mut desk = Desk::new(100, 12);
    desk.live(some());
    desk.keys("C");
    let frame = desk.frame();
    assert!(frame.contains("total 4  buffered 0/10,000"), "{frame}");
    assert!(frame.contains("waiting for events"), "{frame}");
}

#[test]
fn what_is_empty_says_why() {
    let mut desk = Desk::new(80, 12);
    assert!(desk.frame().contains("waiting for events"));
    desk.send(Msg::Link(Link::Disconnected));
    assert!(desk.frame().contains("not connected"));
    desk.live(some());
    desk.keys("/nothing like it<Enter>");
    assert!(desk.frame().contains("none of 4 events matches"), "{}", desk.frame());
}

#[test]
fn rates_fall_back_to_nothing_and_errors_are_told_in_percent() {
    let mut desk = Desk::new(110, 12);
    let events = (0..60).map(|n| event(if n % 3 == 0 { "a.error" } else { "b.ok" }, json!({})));
    desk.live(events);
    let frame = desk.frame();
    assert!(frame.contains("60/min  errors 33.3 %") && frame.contains("domains 2"), "{frame}");
    desk.wait(61_000);
    assert!(desk.frame().contains("0/min  errors 33.3 %"), "{}", desk.frame());
}

#[test]
fn the_help_lists_every_key() {
    let mut desk = Desk::new(140, 60);
    desk.keys("?");
    let frame = desk.frame();
    for binding in keys::TABLE {
        assert!(frame.contains(binding.help), "{}\n{frame}", binding.help);
        for press in binding.presses {
            assert!(frame.contains(&press.to_string()), "{press}");
        }
    }
    desk.keys("<Esc>");
    assert!(!desk.frame().contains("to the newest"));
}

#[test]
fn the_payload_is_a_tree_that_opens_and_says_how_large_it_is() {
    let mut desk = Desk::new(120, 24);
    desk.live(some());
    desk.keys("<Down>");
    let frame = desk.frame();
    assert!(frame.contains("▸ a: { 1 keys }"), "{frame}");
    let payload =
        json!({ "error_message": "no \x1b[2Jkey", "session_id": "s-2", "deep": { "a": { "b": [1, 2] } } });
    let lines = serde_json::to_string_pretty(&payload).unwrap().lines().count();
    let footer = format!("{} B  {lines} lines  depth 4", payload.to_string().len());
    assert!(frame.contains(&footer), "{footer}\n{frame}");
    desk.keys("<Tab>E");
    assert!(desk.frame().contains("1: 2"), "{}", desk.frame());
    desk.keys("E<Down><Down><Right>");
    assert!(desk.frame().contains("▾ a: {"), "{}", desk.frame());
    desk.keys("<Left>");
    assert!(desk.frame().contains("▸ a: { 1 keys }"), "{}", desk.frame());
}

#[test]
fn wide_letters_and_hostile_ones_keep_the_columns() {
    let mut desk = Desk::new(80, 12);
    desk.live([
        event("a.日本語", json!({ "text": "日本語のテストを全部直してください" })),
        event("a.rtl", json!({ "text": "שלום\u{202e} evil \u{200f}עולם" })),
        event("a.esc", json!({ "text": "\x1b]0;owned\x07\x1b[31m\u{9b}2J" })),
        event("a.family", json!({ "text": "👩‍👩‍👧 and e\u{301}" })),
    ]);
    let frame = desk.frame();
    assert!(!frame.contains('\x1b') && !frame.contains('\u{9b}') && !frame.contains('\u{202e}'));
    for line in frame.lines().filter(|line| line.starts_with("│12")) {
        assert_eq!(unicode_width::UnicodeWidthStr::width(line), 80, "{line}");
        assert!(line.ends_with('│'), "{line}");
    }
}
