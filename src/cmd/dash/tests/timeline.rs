//! Events over time.

use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
use ratatui::{
    Terminal,
    backend::TestBackend,
    style::{Color, Modifier},
};
use serde_json::json;

use super::{
    super::{
        app::View,
        state::testing::{at, event_at},
        view::{
            look::{Depth, Look},
            screen,
        },
    },
    *,
};

/// So many seconds of events: each second some of `voice`, each other second one of `agent`, errors now and then.
fn busy(desk: &mut Desk, from: i64, seconds: i64) {
    for second in from..from + seconds {
        let mut events = Vec::new();
        for _ in 0..=(second % 7) {
            events.push(event_at(second, "voice.transcription.completed", json!({ "text": "hi" })));
        }
        if second % 2 == 0 {
            let name = if second % 20 == 0 { "agent.error" } else { "agent.thinking" };
            events.push(event_at(second, name, json!({})));
        }
        desk.wait(1000);
        desk.live(events);
    }
}

/// A click at a place of the screen.
pub(super) fn click(desk: &mut Desk, column: u16, row: u16) {
    let look = Look::of(&desk.app, Depth::None);
    let mut terminal = Terminal::new(TestBackend::new(desk.app.size.0, desk.app.size.1)).unwrap();
    let mut target = None;
    terminal.draw(|frame| target = screen::draw(frame, &desk.app, &look).at(column, row)).unwrap();
    let kind = MouseEventKind::Down(MouseButton::Left);
    desk.send(Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }, target));
}

/// The lines of the view alone.
fn view(desk: &Desk) -> String {
    let frame = desk.frame();
    let lines: Vec<&str> = frame.lines().skip(2).collect();
    lines[..lines.len() - 1].join("\n")
}

#[test]
fn bars_of_domains_with_a_legend_an_axis_and_errors() {
    let mut desk = Desk::new(60, 16);
    desk.keys("6");
    insta::assert_snapshot!(view(&desk), @r"
    ╭ timeline · 58 s at 1 s a column · highest 0 in 1 s ──────╮
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    │                    waiting for events                    │
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    │            ╵11:59:15      ╵11:59:30      ╵11:59:45       │
    │no errors                                                 │
    │since 11:59:03: 0 events, 0 errors  ← moment  +- zoom     │
    ");
    busy(&mut desk, 1, 60);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ timeline · 58 s at 1 s a column · highest 8 in 1 s ──────╮
    │   a             a             a             a            │
    │   v     av      v     av      v     av      v     av     │
    │ avv     vv    avv     vv    avv     vv    avv     vv    a│
    │ vvv   avvv    vvv   avvv    vvv   avvv    vvv   avvv    v│
    │vvvv   vvvv  avvvv   vvvv  avvvv   vvvv  avvvv   vvvv  avv│
    │vvvv avvvvv  vvvvv avvvvv  vvvvv avvvvv  vvvvv avvvvv  vvv│
    │vvvv vvvvvvavvvvvv vvvvvvavvvvvv vvvvvvavvvvvv vvvvvvavvvv│
    │vvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvvv│
    │            ╵12:00:15      ╵12:00:30      ╵12:00:45       │
    │                 █                   █                   █│
    │since 12:00:03: 262 events, 3 errors  ← moment  +- zoom   │
    │v voice 233  a agent 29                                   │
    ");
}

#[test]
fn a_moment_has_its_numbers_and_columns_hold_more_or_less_time() {
    let mut desk = Desk::new(80, 14);
    desk.keys("6");
    busy(&mut desk, 1, 120);
    desk.keys("<Left><Left>");
    assert!(desk.frame().contains("12:01:58 +1 s: 8 events, 0 errors  voice 7 agent 1"), "{}", desk.frame());
    desk.keys("-");
    insta::assert_snapshot!(view(&desk), @r"
    ╭ timeline · 13 min at 10 s a column · highest 51 in 10 s ─────────────────────╮
    │                                                                  a  a a a  a │
    │                                                                  vvvvavavvvv │
    │                                                                 vvvvvvvvvvvv │
    │                                                                 vvvvvvvvvvvv │
    │                                                                 vvvvvvvvvvvv │
    │                                                                 vvvvvvvvvvvvv│
    │     ╵11:50:00   ╵11:52:00   ╵11:54:00   ╵11:56:00   ╵11:58:00   ╵12:00:00  ▲ │
    │                                                                   █ █ █ █ █ █│
    │12:01:50 +10 s: 47 events, 0 errors  voice 42 agent 5  ⏎ list                 │
    │v voice 478  a agent 60                                                       │
    ");
    desk.keys("--");
    assert!(desk.frame().contains("6 h 30 min at 5 min a column"), "{}", desk.frame());
    assert!(
        desk.frame().contains("12:00:00 +5 min: 538 events, 6 errors  voice 478 agent 60"),
        "{}",
        desk.frame()
    );
    desk.keys("-----");
    assert!(desk.frame().contains("at 15 min a column"), "{}", desk.frame());
    desk.keys("++++++=");
    assert!(desk.frame().contains("at 1 s a column"), "{}", desk.frame());
}

#[test]
fn the_cursor_stays_at_its_moment_and_goes_no_further_than_the_first_event() {
    let mut desk = Desk::new(80, 14);
    desk.keys("6");
    busy(&mut desk, 1, 20);
    desk.keys("<Left>");
    assert!(desk.frame().contains("12:00:19 +1 s"), "{}", desk.frame());
    desk.wait(300_000);
    assert!(desk.frame().contains("12:00:19 +1 s"), "{}", desk.frame());
    desk.keys("<End>");
    assert!(desk.frame().contains("12:00:01 +1 s: 2 events"), "{}", desk.frame());
    desk.keys("<Left>");
    assert!(desk.frame().contains("12:00:01 +1 s"), "{}", desk.frame());
    desk.keys("<Esc>");
    assert!(desk.frame().contains("since 12:04:03: 0 events"), "{}", desk.frame());
    assert_eq!(desk.app.view, View::Timeline);
}

#[test]
fn enter_shows_the_list_at_the_chosen_moment() {
    let mut desk = Desk::new(80, 14);
    busy(&mut desk, 1, 20);
    desk.keys("6<Left><Left><Left><Enter>");
    assert_eq!(desk.app.view, View::List);
    assert_eq!(desk.app.chosen().unwrap().taken, at(17));
    // Of a second in which nothing came, what was last before it.
    desk.wait(10_000);
    desk.keys("6<Home><Left><Left><Enter>");
    assert_eq!(desk.app.chosen().unwrap().taken, at(20));
    assert!(desk.app.list.cursor.is_some());
    // What came after the list was frozen can be reached too.
    desk.keys("<Space>");
    desk.live([event_at(30, "voice.x", json!({}))]);
    desk.wait(5_000);
    desk.keys("6<Home><Left><Left><Enter>");
    assert_eq!(desk.app.chosen().unwrap().taken, at(30));
    // Nobody has chosen: the newest.
    desk.keys("6<Home><Enter>");
    assert_eq!((desk.app.view, desk.app.is_following()), (View::List, true));
}

#[test]
fn a_click_chooses_a_moment_and_another_one_shows_the_list() {
    let mut desk = Desk::new(80, 14);
    busy(&mut desk, 1, 20);
    desk.keys("6");
    click(&mut desk, 75, 5);
    assert!(desk.frame().contains("12:00:17 +1 s"), "{}", desk.frame());
    click(&mut desk, 75, 5);
    assert_eq!(desk.app.view, View::List);
    assert_eq!(desk.app.chosen().unwrap().taken, at(17));
}

#[test]
fn a_moment_that_is_not_kept_any_more_is_said_to_be_so() {
    let mut options = options(80, 14);
    options.limits.rows = 12;
    let mut desk = Desk::with(options);
    busy(&mut desk, 1, 20);
    desk.keys("6<End><Enter>");
    assert_eq!(desk.app.view, View::Timeline);
    assert!(desk.frame().contains("that moment lies before the oldest event"), "{}", desk.frame());
    desk.keys("/nothing like it<Enter><Home><Left><Enter>");
    desk.wait(1);
    assert!(desk.frame().contains("passes the filter"), "{}", desk.frame());
}

#[test]
fn the_history_fills_the_past() {
    let mut desk = Desk::new(80, 14);
    let past = (1..=3).map(|minute| Arrived {
        item: Item::Event(Box::new(received(event_at(-60 * minute, "voice.x", json!({}))))),
        is_live: false,
    });
    desk.send(Msg::Batch(past.collect()));
    desk.keys("6--<Left>");
    assert!(desk.frame().contains("11:59:00 +1 min: 1 event, 0 errors  voice 1"), "{}", desk.frame());
}

#[test]
fn what_is_out_of_the_ordinary_is_marked_and_says_how() {
    let mut desk = Desk::new(80, 14);
    busy(&mut desk, 1, 11 * 60);
    let storm = (0..50).map(|_| event_at(665, "tts.spoken", json!({})));
    desk.wait(5000);
    desk.live(storm);
    desk.wait(15_000);
    desk.keys("6");
    let frame = desk.frame();
    assert!(frame.contains("t tts 50 ▲ 50/min, was 0 ±0 for 10 min"), "{frame}");
    assert!(!frame.contains("v voice 200 ▲"), "{frame}");
}

#[test]
fn domains_have_their_colours_and_where_there_are_only_letters_their_letters() {
    let mut desk = Desk::new(60, 16);
    busy(&mut desk, 1, 6);
    desk.keys("6");
    let cells = frame::cells(&desk.app, Depth::True);
    let (voice, agent) = (Color::Rgb(0x22, 0xC5, 0x5E), Color::Rgb(0x3B, 0x82, 0xF6));
    // The newest column: seven of voice, one of agent.
    let colours: Vec<(Color, Color)> =
        (3..11).rev().filter_map(|y| cells.cell((58, y))).map(|cell| (cell.fg, cell.bg)).collect();
    assert_eq!(colours[0].0, voice);
    assert!(colours.iter().any(|(fg, bg)| *fg == agent || *bg == agent), "{colours:?}");
    // Where the chosen column is shown by swapped colours, its bar keeps its own.
    desk.keys("<Left>");
    let cells = frame::cells(&desk.app, Depth::Sixteen);
    let bottom = cells.cell((57, 10)).unwrap();
    assert_eq!((bottom.symbol(), bottom.fg, bottom.modifier), ("█", Color::Green, Modifier::empty()));
    assert_eq!(cells.cell((57, 3)).unwrap().modifier, Modifier::REVERSED);
    let mut options = options(60, 16);
    options.ascii = true;
    let mut desk = Desk::with(options);
    busy(&mut desk, 1, 6);
    desk.keys("6<Left>");
    assert!(view(&desk).is_ascii(), "{}", desk.frame());
}

#[test]
fn many_domains_and_strange_names_keep_to_their_lines() {
    for (width, height) in [(60, 16), (100, 30), (200, 60), (20, 5)] {
        let mut desk = Desk::new(width, height);
        let names = (0..40).map(|n| event_at(0, &format!("日本{n}\u{202e}.x"), json!({})));
        desk.live(names);
        desk.keys("6");
        let frame = desk.frame();
        let columns = frame.lines().map(unicode_width::UnicodeWidthStr::width).max();
        assert!(columns <= Some(usize::from(width)) && !frame.contains('\u{202e}'), "{frame}");
        if height == 16 {
            assert!(frame.contains("other domains 16") && frame.contains(" more"), "{frame}");
        }
    }
}
