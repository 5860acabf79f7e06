//! What leaves the dashboard and what it asks for: exports, copies, the connection, the history.

use serde_json::{Value, json};

use super::{
    super::{
        app::Target,
        state::past::{PAGE, Reading},
        view::screen,
    },
    list::some,
    *,
};
use crate::{
    bus::{Position, Received},
    cmd::dash::state::testing::{event, event_at},
};

fn saved(desk: &Desk) -> (&str, &[u8]) {
    match desk.effects.last() {
        Some(Effect::Save { name, bytes }) => (name, bytes),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_shown_is_exported_and_nothing_else() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.keys("!e");
    let (name, bytes) = saved(&desk);
    let events: Vec<Value> = serde_json::from_slice(bytes).unwrap();
    assert_eq!(name, "godctl-events-2026-11-21T12-00-00Z.json");
    assert_eq!(events.len(), 1);
    assert_eq!(events[0], serde_json::to_value(&some()[2]).unwrap());
    desk.keys("<Backspace>E");
    let (name, bytes) = saved(&desk);
    assert!(name.ends_with(".csv") && bytes.iter().filter(|byte| **byte == b'\n').count() == 5);
    desk.effects.clear();
    desk.keys("/nothing at all<Enter>e");
    assert!(desk.effects.is_empty() && desk.frame().contains("nothing to export"), "{}", desk.frame());
}

#[test]
fn one_event_is_saved_or_copied() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.keys("<Down>s");
    let (name, bytes) = saved(&desk);
    assert_eq!(name, format!("event-{}.json", some()[2].event_id));
    assert_eq!(serde_json::from_slice::<Value>(bytes).unwrap(), serde_json::to_value(&some()[2]).unwrap());
    desk.keys("yY");
    let copied: Vec<Value> = desk
        .effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Copy(text) => Some(serde_json::from_str(text).unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(copied, [some()[2].payload.clone(), serde_json::to_value(&some()[2]).unwrap()]);
}

#[test]
fn the_connection_is_shown_and_switched() {
    let mut desk = Desk::new(100, 12);
    let head = |desk: &Desk| desk.frame().lines().take(3).collect::<Vec<_>>().join("\n");
    assert!(head(&desk).contains("● connected"));
    desk.keys("c");
    assert_eq!(desk.effects.pop(), Some(Effect::Disconnect));
    desk.send(Msg::Link(Link::Disconnected));
    assert!(head(&desk).contains("○ disconnected"));
    desk.keys("c");
    assert_eq!(desk.effects.pop(), Some(Effect::Connect));
    desk.send(Msg::Link(Link::Connecting));
    desk.keys("c");
    assert!(head(&desk).contains("◌ connecting") && desk.effects.is_empty(), "nothing to switch");
    let why = "cannot reach amqp://***@broker: refused\x1b[2J".to_owned();
    desk.send(Msg::Link(Link::Reconnecting { attempt: 2, retry_at: at(4), why: why.clone() }));
    let shown = head(&desk);
    assert!(
        shown.contains("reconnecting (2, in 5 s)") && shown.contains("refused\\u{1b}[2J  R tries now"),
        "{shown}"
    );
    desk.wait(2_000);
    assert!(head(&desk).contains("in 3 s"), "{}", head(&desk));
    desk.keys("R");
    assert_eq!(desk.effects.pop(), Some(Effect::RetryNow));
    desk.send(Msg::Link(Link::Failed(why)));
    assert!(head(&desk).contains("! error") && head(&desk).contains("R tries again"));
    desk.keys("bagent.# voice.#<Enter>");
    let Some(Effect::Rebind(patterns)) = desk.effects.pop() else { panic!() };
    assert!(patterns.len() == 3 || patterns.len() == 2, "{patterns:?}");
}

#[test]
fn a_click_chooses_and_the_wheel_moves() {
    use crossterm::event::{KeyModifiers, MouseButton, MouseEvent, MouseEventKind};
    let mut desk = Desk::new(110, 24);
    desk.live(some());
    let click = |desk: &mut Desk, column: u16, row: u16, kind: MouseEventKind| {
        let look = Look::of(&desk.app, Depth::None);
        let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(110, 24)).unwrap();
        let mut hits = None;
        terminal.draw(|frame| hits = Some(screen::draw(frame, &desk.app, &look))).unwrap();
        let target: Option<Target> = hits.unwrap().at(column, row);
        desk.send(Msg::Mouse(MouseEvent { kind, column, row, modifiers: KeyModifiers::NONE }, target));
    };
    let left = MouseEventKind::Down(MouseButton::Left);
    click(&mut desk, 20, 5, left);
    assert_eq!(desk.app.chosen().unwrap().event_type.as_ref(), "agent.session.started");
    click(&mut desk, 20, 5, MouseEventKind::ScrollUp);
    assert!(desk.app.is_following());
    click(&mut desk, 20, 5, MouseEventKind::ScrollDown);
    assert_eq!(desk.app.chosen().unwrap().event_type.as_ref(), "voice.transcription.completed");
    let tabs = desk.frame().lines().next().unwrap().to_owned();
    let column = tabs.chars().position(|c| c == '3').unwrap();
    click(&mut desk, u16::try_from(column).unwrap(), 0, left);
    assert_eq!(desk.app.view, super::super::app::View::Flow);
}

/// A history of so many events at positions from 1 on, the last of them in the buffer.
fn with_history(total: u64, kept: u64) -> (Desk, Vec<Received>) {
    let all: Vec<Received> = (1..=total)
        .map(|n| {
            let event = event_at(i64::try_from(n).unwrap(), "load.test.sent", json!({ "n": n }));
            Received { position: Some(Position(n)), ..received(event) }
        })
        .collect();
    let mut desk = Desk::new(80, 24);
    let newest = &all[usize::try_from(total - kept).unwrap()..];
    desk.items(newest.iter().map(|received| Item::Event(Box::new(received.clone()))));
    desk.send(Msg::History(true));
    (desk, all)
}

/// Answers what the dashboard asks the history for.
fn answer(desk: &mut Desk, all: &[Received]) -> usize {
    let mut pages = 0;
    while let Some(index) = desk.effects.iter().position(|effect| matches!(effect, Effect::Read(_))) {
        let Effect::Read(reading) = desk.effects.remove(index) else { unreachable!() };
        let page: Vec<Received> = match reading {
            Reading::Older(before) => {
                let older: Vec<&Received> = all.iter().filter(|one| one.position < Some(before)).collect();
                older[older.len().saturating_sub(PAGE)..].iter().copied().cloned().collect()
            }
            Reading::Newer(after) => {
                all.iter().filter(|one| one.position > Some(after)).take(PAGE).cloned().collect()
            }
        };
        desk.send(Msg::Page(reading, page));
        pages += 1;
    }
    pages
}

fn chosen_n(desk: &Desk) -> u64 {
    desk.app.chosen().unwrap().position.unwrap().0
}

#[test]
fn behind_the_oldest_event_comes_the_history_as_far_as_somebody_goes() {
    let (mut desk, all) = with_history(3_000, 100);
    desk.keys("GG");
    assert_eq!(answer(&mut desk, &all), 1);
    assert_eq!(chosen_n(&desk), 2_901);
    desk.keys("<Down>");
    assert_eq!(chosen_n(&desk), 2_900);
    assert!(desk.frame().contains("500 from the history"), "{}", desk.frame());
    for _ in 0..10 {
        desk.keys("GG");
        answer(&mut desk, &all);
    }
    desk.keys("G");
    assert_eq!(chosen_n(&desk), 1);
    assert!(desk.frame().contains("back to its beginning"), "{}", desk.frame());
    // And up again, one after another.
    for expected in 2..=40 {
        desk.keys("<Up>");
        assert_eq!(chosen_n(&desk), expected);
    }
    desk.keys("f");
    assert_eq!(chosen_n(&desk), 3_000);
}

#[test]
fn a_walk_through_a_long_history_keeps_a_window_and_misses_nothing() {
    // Somewhat more than the window holds.
    let total = 11_500;
    let (mut desk, all) = with_history(total, 50);
    desk.keys("GG");
    answer(&mut desk, &all);
    let mut expected = total - 49;
    while expected > 1 {
        desk.keys("<Down>");
        answer(&mut desk, &all);
        if chosen_n(&desk) == expected {
            // It stood at the end while the page was read.
            desk.keys("<Down>");
            answer(&mut desk, &all);
        }
        expected -= 1;
        assert_eq!(chosen_n(&desk), expected);
        assert!(desk.app.past.len() <= 20 * PAGE, "a window");
    }
    // Events that come push others out of the buffer; the way back passes them all.
    while chosen_n(&desk) < total - 50 {
        let at = chosen_n(&desk);
        desk.keys("<Up>");
        answer(&mut desk, &all);
        if chosen_n(&desk) == at {
            desk.keys("<Up>");
        }
        assert_eq!(chosen_n(&desk), at + 1);
    }
}

#[test]
fn a_search_goes_on_through_the_history_until_something_is_found() {
    let (mut desk, mut all) = with_history(20_000, 50);
    let rare = event("rare.thing.happened", json!({ "text": "needle" }));
    all[100] = Received { position: Some(Position(101)), ..received(rare) };
    desk.keys("/needle<Enter>");
    assert_eq!(desk.app.listed(), 0);
    desk.keys("<Down>");
    let pages = answer(&mut desk, &all);
    assert!(pages > 30, "{pages}");
    assert_eq!(chosen_n(&desk), 101);
    let (_, _, payload) = desk.app.chosen_bytes().unwrap();
    assert_eq!(payload, br#"{"text":"needle"}"#);
    desk.keys("s");
    assert!(matches!(desk.effects.last(), Some(Effect::Save { .. })));
}
