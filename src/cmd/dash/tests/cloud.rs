//! The view `cloud`.

use insta::assert_snapshot;
use ratatui::style::Color;
use serde_json::json;

use super::{
    super::{
        app::{Target, View},
        frame::cells,
        state::testing::event,
        view::{
            look::{Depth, Look},
            screen,
        },
    },
    *,
};

fn many(counts: &[(&str, u64)]) -> Vec<Event> {
    let of_type = |(event_type, count): &(&str, u64)| {
        (0..*count).map(|n| event(event_type, json!({ "n": n }))).collect::<Vec<_>>()
    };
    counts.iter().flat_map(of_type).collect()
}

fn desk(width: u16, height: u16) -> Desk {
    let mut desk = Desk::new(width, height);
    desk.live(many(&[
        ("agent.tool.invoked", 120),
        ("agent.session.started", 3),
        ("agent.error", 1),
        ("voice.transcription.completed", 12),
        ("zebra.seen", 1),
    ]));
    desk.keys("2");
    desk
}

/// Domains that don't fit as circles into a small terminal.
fn crowd(desk: &mut Desk) {
    let keys: Vec<String> = (0..30).map(|n| format!("domain{n:02}.x")).collect();
    desk.live(keys.iter().map(|key| event(key, json!({}))));
}

/// The colour of the first cell that holds a part of a circle.
fn colour(desk: &Desk) -> Color {
    let cells = cells(&desk.app, Depth::True);
    let is_braille = |symbol: &str| symbol.chars().all(|c| ('\u{2801}'..='\u{28ff}').contains(&c));
    cells.content.iter().find(|cell| is_braille(cell.symbol())).unwrap().fg
}

#[test]
fn each_domain_has_its_exact_count() {
    // B28: all of a batch counts, and what the buffer has forgotten too.
    let mut options = options(100, 30);
    options.limits.rows = 20;
    let mut desk = Desk::with(options);
    for _ in 0..3 {
        desk.live(many(&[
            ("agent.tool.invoked", 50),
            ("voice.transcription.completed", 7),
            ("zebra.seen", 1),
        ]));
    }
    desk.keys("2");
    let frame = desk.frame();
    for text in
        ["Agent 150", "Voice 21", "zebra 3", "3 domains", "174 events", "buffered 20/20", "quiet: Artifact, "]
    {
        assert!(frame.contains(text), "{text}\n{frame}");
    }
}

#[test]
fn what_happens_shines_for_three_seconds() {
    // B29.
    let mut desk = desk(60, 16);
    assert_eq!(colour(&desk), Color::Rgb(0x3B, 0x82, 0xF6), "the domain's own colour");
    assert_snapshot!("bright", desk.frame());
    desk.wait(1500);
    let half = desk.frame();
    desk.wait(1600);
    assert_eq!(colour(&desk), Color::Rgb(35, 71, 132), "not half as bright, and still to be seen");
    assert_ne!(half, desk.frame());
    assert_snapshot!("dim", desk.frame());
}

#[test]
fn frames_are_asked_for_only_while_something_fades() {
    let mut desk = desk(100, 30);
    assert!(desk.app.is_animating());
    let mut frames = 0;
    for _ in 0..9 {
        desk.app.is_dirty = false;
        desk.wait(100);
        frames += u32::from(desk.app.is_dirty);
    }
    assert!((1..9).contains(&frames), "{frames}");
    desk.wait(2200);
    assert!(!desk.app.is_animating());
    desk.app.is_dirty = false;
    desk.wait(100);
    assert!(!desk.app.is_dirty, "nothing moves any more");
    desk.live(many(&[("agent.error", 1)]));
    assert!(desk.app.is_animating());
    desk.keys("1");
    assert!(!desk.app.is_animating(), "the list doesn't fade");
}

#[test]
fn history_does_not_shine() {
    let mut desk = Desk::new(100, 30);
    desk.keys("2<Down><Enter>");
    assert!(desk.frame().contains("nothing has come yet"), "{}", desk.frame());
    desk.wait(60_000);
    let old = event("agent.error", json!({}));
    let item = Item::Event(Box::new(received(old)));
    desk.send(Msg::Batch(vec![Arrived { item, is_live: false }]));
    assert!(!desk.app.is_animating());
    assert!(desk.frame().contains("Agent 1"));
}

#[test]
fn a_domain_opens_and_shows_its_types_as_they_come() {
    // B30 and B31.
    let mut desk = desk(100, 30);
    desk.keys("<Enter>");
    assert_snapshot!("ring", desk.frame());
    desk.live(many(&[("agent.error", 1), ("agent.thinking", 1)]));
    let frame = desk.frame();
    for text in
        ["Agent: 4 sub-events · 126 events", "tool.invoked 120", "error 2", "thinking 1", "session.started 3"]
    {
        assert!(frame.contains(text), "{text}\n{frame}");
    }
    desk.keys("<Esc>");
    assert!(desk.frame().contains("cloud · 3 domains"), "{}", desk.frame());
}

#[test]
fn enter_on_a_type_lists_it() {
    let mut desk = desk(60, 16);
    desk.keys("<Enter>");
    assert_snapshot!("small_ring", desk.frame());
    desk.app.filter.domain = Some("voice".to_owned());
    desk.keys("<Right><Enter>");
    assert_eq!(desk.app.view, View::List);
    assert_eq!(desk.app.filter.to_string(), "type:agent.session.started");
    assert!(desk.frame().contains("Showing 3 of 137"), "{}", desk.frame());
    desk.keys("2");
    assert!(desk.frame().contains("Agent: 3 sub-events"), "it is open when the person comes back");
}

#[test]
fn arrows_choose_a_domain_and_a_new_one_moves_none() {
    let mut desk = desk(100, 30);
    desk.keys("<Right><Right><Right><Left>");
    let place = |frame: &str| frame.lines().position(|line| line.contains("▸Voice 12"));
    let before = place(&desk.frame());
    assert!(before.is_some(), "{}", desk.frame());
    desk.live(many(&[("artifact.made", 1)]));
    assert_eq!(place(&desk.frame()), before);
}

#[test]
fn where_circles_do_not_fit_there_are_lines() {
    let mut desk = desk(60, 16);
    crowd(&mut desk);
    desk.keys("G");
    assert_snapshot!("lines", desk.frame());
    let mut options = options(60, 16);
    options.ascii = true;
    let mut desk = Desk::with(options);
    desk.live(many(&[("agent.tool.invoked", 120), ("zebra.seen", 1)]));
    desk.keys("2");
    assert_snapshot!("letters", desk.frame());
    crowd(&mut desk);
    // What is cut ends in an ellipsis everywhere.
    assert!(desk.frame().replace('…', "").is_ascii(), "{}", desk.frame());
}

#[test]
fn what_is_too_much_is_counted() {
    let mut desk = Desk::new(100, 30);
    let keys: Vec<String> = (0..70).map(|n| format!("d{n:02}.x")).collect();
    desk.live(keys.iter().map(|key| event(key, json!({}))));
    let types: Vec<String> = (0..203).map(|n| format!("d00.y{n:03}")).collect();
    desk.live(types.iter().map(|event_type| event(event_type, json!({}))));
    desk.keys("2");
    let frame = desk.frame();
    assert!(frame.contains("64 domains") && frame.contains("and 6 events of other domains"), "{frame}");
    desk.keys("g<Enter>");
    let frame = desk.frame();
    assert!(frame.contains("200 sub-events") && frame.contains("and 4 events of other types"), "{frame}");
}

#[test]
fn a_click_chooses_and_another_one_opens() {
    let mut desk = desk(100, 30);
    let look = Look::of(&desk.app, Depth::None);
    let click = |desk: &mut Desk, target: Target| {
        let mouse = crossterm::event::MouseEvent {
            kind: crossterm::event::MouseEventKind::Down(crossterm::event::MouseButton::Left),
            column: 0,
            row: 0,
            modifiers: crossterm::event::KeyModifiers::NONE,
        };
        desk.send(Msg::Mouse(mouse, Some(target)));
    };
    let mut terminal = ratatui::Terminal::new(ratatui::backend::TestBackend::new(100, 30)).unwrap();
    let mut target = None;
    terminal.draw(|frame| target = screen::draw(frame, &desk.app, &look).at(40, 15)).unwrap();
    assert_eq!(target, Some(Target::Entry(1)));
    click(&mut desk, Target::Entry(1));
    assert!(desk.frame().contains("▸Voice"), "{}", desk.frame());
    click(&mut desk, Target::Entry(1));
    assert!(desk.frame().contains("Voice: 1 sub-event ·"), "{}", desk.frame());
    click(&mut desk, Target::Entry(0));
    assert_eq!(desk.app.view, View::List);
}

#[test]
fn what_domains_are_called_obeys_nobody_and_nothing_breaks_in_any_size() {
    let mut desk = Desk::new(100, 30);
    let long = format!("{}.x", "日本".repeat(20));
    desk.live(many(&[(long.as_str(), 1), ("agent.x", 3)]));
    for view in ["2", "<Enter>", "<Esc>1"] {
        desk.keys(view);
        for (width, height) in
            [(1, 1), (3, 2), (10, 5), (20, 8), (60, 16), (57, 40), (100, 30), (200, 60), (300, 12)]
        {
            desk.send(Msg::Resize(width, height));
            assert_eq!(desk.frame().lines().count(), usize::from(height));
        }
    }
}
