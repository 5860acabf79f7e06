//! The view `graph`.

use insta::assert_snapshot;
use jiff::ToSpan as _;
use serde_json::json;

use super::{
    super::{
        app::{Target, View},
        state::testing::{after, event_at},
    },
    *,
};

fn later(milliseconds: i64, mut event: Event) -> Event {
    event.timestamp += milliseconds.milliseconds();
    event
}

/// An utterance, the session that it started, what happened there, and something else.
fn story() -> Vec<Event> {
    let voice = event_at(0, "voice.transcription.completed", json!({ "text": "run the tests" }));
    let started =
        after(&voice, later(200, event_at(0, "agent.session.started", json!({ "provider": "claude" }))));
    let invoked = after(&started, event_at(1, "agent.tool.invoked", json!({ "name": "cargo test" })));
    let refused =
        after(&voice, later(40, event_at(1, "agent.voice.refused", json!({ "message": "not for me" }))));
    let completed =
        after(&invoked, later(234, event_at(4, "agent.tool.completed", json!({ "text": "2 failed" }))));
    let error = after(&started, event_at(65, "agent.error", json!({ "message": "no \u{1b}[2Jkey" })));
    let other = event_at(2, "zebra.seen", json!({ "n": 1 }));
    vec![voice, started, invoked, refused, other, completed, error]
}

fn desk(width: u16, height: u16) -> Desk {
    let mut desk = Desk::new(width, height);
    desk.live(story());
    desk.keys("4");
    desk
}

#[test]
fn a_chain_of_three_has_two_links() {
    // B32: the third one names both of those before it, and hangs on the nearer one.
    let a = event_at(0, "a.first", json!({}));
    let b = after(&a, later(500, event_at(0, "b.second", json!({}))));
    let c = after(&b, later(234, event_at(1, "c.third", json!({}))));
    assert_eq!(c.correlation_ids, [a.event_id, b.event_id]);
    let mut desk = Desk::new(60, 16);
    desk.live([a, b, event_at(1, "d.other", json!({})), c]);
    desk.keys("4");
    assert_snapshot!("three", desk.frame());
    let frame = desk.frame();
    assert!(frame.contains("3 events, 2 links, 1.234 s from first to last"), "{frame}");
    assert_eq!(frame.matches('●').count(), 3 + 1, "one is the sign of the connection\n{frame}");
}

#[test]
fn branches_stand_beside_each_other() {
    assert_snapshot!("story", desk(100, 30).frame());
    assert_snapshot!("small_story", desk(60, 16).frame());
}

#[test]
fn it_stands_still_while_other_events_come_and_grows_with_its_own() {
    let mut desk = desk(100, 30);
    let before = desk.frame();
    desk.live([event_at(66, "zebra.seen", json!({}))]);
    let lines = |frame: &str| frame.lines().skip(2).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(lines(&before), lines(&desk.frame()));
    let voice = desk.app.buffer.row(0).unwrap().id;
    let mut more = event_at(70, "agent.session.ended", json!({}));
    more.correlation_ids = vec![voice];
    desk.live([more]);
    let frame = desk.frame();
    assert!(
        frame.contains("7 events, 6 links, 1:10 min") && frame.contains("agent.session.ended"),
        "{frame}"
    );
}

#[test]
fn an_event_that_joins_two_chains_shows_both() {
    let (a, b) = (event_at(0, "a.x", json!({})), event_at(1, "b.x", json!({})));
    let mut both = event_at(2, "c.both", json!({}));
    both.correlation_ids = vec![a.event_id, b.event_id];
    let mut desk = Desk::new(100, 30);
    desk.live([a, b]);
    desk.keys("4");
    assert!(desk.frame().contains("1 event, 0 links, 0 ms"), "{}", desk.frame());
    desk.live([both]);
    assert!(desk.frame().contains("3 events, 1 link, 2.000 s"), "{}", desk.frame());
}

#[test]
fn enter_goes_to_the_event_in_the_list() {
    let mut desk = desk(100, 30);
    desk.keys("g<Down><Down><Down><Enter>");
    assert_eq!(desk.app.view, View::List);
    assert_eq!(&*desk.app.chosen().unwrap().event_type, "agent.voice.refused");
    assert!(desk.app.toast.is_none());
    // A filter that hides it goes.
    desk.keys("4g/zebra<Enter><Enter>");
    assert_eq!((desk.app.view, desk.app.filter.count()), (View::List, 0));
    assert_eq!(&*desk.app.chosen().unwrap().event_type, "voice.transcription.completed");
    assert!(desk.frame().contains("the filters were cleared"), "{}", desk.frame());
    // What came after the list was frozen is hidden too.
    desk.keys(" ");
    let first = desk.app.buffer.row(0).unwrap().id;
    let mut more = event_at(70, "agent.session.ended", json!({}));
    more.correlation_ids = vec![first];
    desk.live([more]);
    desk.keys("4G<Enter>");
    assert_eq!(&*desk.app.chosen().unwrap().event_type, "agent.session.ended");
}

#[test]
fn the_keys_for_an_event_mean_the_one_that_is_chosen_here() {
    let mut desk = desk(100, 30);
    desk.keys("gy");
    assert!(
        matches!(desk.effects.last(), Some(Effect::Copy(text)) if text.contains("run the tests")),
        "{:?}",
        desk.effects
    );
    desk.keys("x1");
    assert!(desk.frame().contains("Showing 6 of 7"), "{}", desk.frame());
    desk.keys("4");
    assert!(desk.frame().contains("6 events"), "{}", desk.frame());
}

#[test]
fn a_click_chooses_and_another_one_lists() {
    let mut desk = desk(100, 30);
    let mut click = |entry| {
        let mouse = crossterm::event::MouseEvent {
            kind: crossterm::event::MouseEventKind::Down(crossterm::event::MouseButton::Left),
            column: 0,
            row: 0,
            modifiers: crossterm::event::KeyModifiers::NONE,
        };
        desk.send(Msg::Mouse(mouse, Some(Target::Entry(entry))));
        desk.app.view
    };
    assert_eq!([click(1), click(1)], [View::Graph, View::List]);
    assert_eq!(&*desk.app.chosen().unwrap().event_type, "agent.session.started");
}

#[test]
fn without_an_event_it_says_how_to_come_by_one() {
    let mut desk = Desk::new(60, 16);
    desk.keys("4<Down><Enter>");
    assert!(desk.frame().contains("choose one in the list (1), then come back (4)"), "{}", desk.frame());
    desk.live(story().into_iter().take(1));
    assert!(desk.frame().contains("1 event, 0 links"), "{}", desk.frame());
    desk.keys("C");
    assert!(desk.frame().contains("no event is chosen"), "{}", desk.frame());
}

#[test]
fn what_the_buffer_forgets_is_gone() {
    let mut options = options(100, 30);
    options.limits.rows = 5;
    let mut desk = Desk::with(options);
    let first = event_at(0, "a.first", json!({}));
    let then = after(&first, event_at(1, "a.then", json!({})));
    desk.live([first, then]);
    desk.keys("4");
    assert!(desk.frame().contains("2 events, 1 link"), "{}", desk.frame());
    desk.live((0..4).map(|n| event_at(n, "z.z", json!({}))));
    let frame = desk.frame();
    assert!(
        frame.contains("1 event, 0 links") && frame.contains("○"),
        "its cause is not known any more\n{frame}"
    );
    desk.live((0..4).map(|n| event_at(n, "z.z", json!({}))));
    assert!(!desk.frame().contains("a.then"), "{}", desk.frame());
}

#[test]
fn of_a_long_chain_some_is_shown_and_the_rest_is_counted() {
    let mut desk = Desk::new(60, 16);
    let mut chain = vec![event_at(0, "a.n000", json!({}))];
    for n in 1..600 {
        let mut next = event_at(n, &format!("a.n{n:03}"), json!({}));
        next.correlation_ids = vec![chain.last().unwrap().event_id];
        chain.push(next);
    }
    desk.live(chain);
    desk.keys("4");
    let frame = desk.frame();
    assert!(frame.contains("500 events and 100 more, 499 links"), "{frame}");
    assert!(frame.contains("▸") && frame.contains("a.n599"), "the newest one is chosen\n{frame}");
    desk.keys("g");
    assert!(desk.frame().contains("a.n100"), "{}", desk.frame());
    desk.keys("<PgDn>");
    assert!(desk.frame().contains("a.n112"), "{}", desk.frame());
}

#[test]
fn nothing_breaks_in_any_size() {
    let mut desk = desk(100, 30);
    desk.live([event_at(1, &format!("{}.x", "日本".repeat(30)), json!({ "text": "日本".repeat(100) }))]);
    for (width, height) in [(1, 1), (3, 2), (10, 5), (20, 8), (60, 16), (57, 40), (100, 30), (200, 60)] {
        desk.send(Msg::Resize(width, height));
        let frame = desk.frame();
        assert_eq!(frame.lines().count(), usize::from(height));
        assert!(!frame.contains('\u{1b}'));
    }
    let mut options = options(60, 16);
    options.ascii = true;
    let mut desk = Desk::with(options);
    desk.live(story());
    desk.keys("4");
    assert_snapshot!("letters", desk.frame());
}
