//! The view `flow`.

use insta::assert_snapshot;
use serde_json::json;

use super::{
    super::{
        app::{Target, View, flow::LIST},
        state::testing::event,
    },
    *,
};
use crate::bus::event::{AgentContext, Source};

fn from(app: &str, event_type: &str, agent: Option<&str>) -> Event {
    let mut event = event(event_type, json!({}));
    event.source = Source::new("desk", app, "service");
    let context = |name: &str| AgentContext { agent_name: Some(name.to_owned()), ..AgentContext::default() };
    event.agent_context = agent.map(context);
    event
}

fn desk(width: u16, height: u16) -> Desk {
    let mut desk = Desk::new(width, height);
    for (count, app, event_type, agent) in [
        (7, "godctl-tray", "voice.transcription.completed", None),
        (120, "godctl-agent", "agent.tool.invoked", Some("claude")),
        (60, "godctl-agent", "agent.tool.completed", Some("claude")),
        (9, "godctl-agent", "agent.tool.invoked", Some("gemini")),
        (3, "godctl-agent", "agent.session.started", None),
        (1, "", "zebra.seen", None),
    ] {
        desk.live((0..count).map(|_| from(app, event_type, agent)));
    }
    desk.keys("3");
    desk
}

/// Lines of the frame that hold this text, and where in them.
fn places(frame: &str, text: &str) -> Vec<usize> {
    frame.lines().enumerate().filter(|(_, line)| line.contains(text)).map(|(index, _)| index).collect()
}

#[test]
fn columns_are_sorted_and_what_has_no_agent_goes_to_the_system() {
    // B33.
    let mut desk = desk(100, 30);
    desk.wait(5000);
    assert_snapshot!("columns", desk.frame());
    let frame = desk.frame();
    let order = ["claude ", "system ", "gemini "].map(|target| places(&frame, target)[0]);
    assert!(order.is_sorted(), "{frame}");
}

#[test]
fn of_many_paths_ten_are_shown_each_with_its_last_minute() {
    // B34 and B35.
    for (width, height, keys, step) in [(60, 16, "3<Tab>", 5), (100, 30, "3", 2), (200, 60, "3", 1)] {
        let mut desk = Desk::new(width, height);
        for path in 1..=12 {
            desk.live((0..path).map(|_| from(&format!("app{path:02}"), "a.b", None)));
        }
        desk.keys(keys);
        desk.wait(10_000);
        let frame = desk.frame();
        assert!(frame.contains("Top Flow Paths 10 of 12"), "{frame}");
        let paths: Vec<&str> = frame.lines().filter(|line| line.contains(" → ")).collect();
        assert_eq!(paths.len(), 10, "{frame}");
        for (path, count) in paths.iter().zip((3..=12).rev()) {
            let (_, spark) = path.split_once(&format!("app{count:02} → a.b → system {count:>2} ")).unwrap();
            // All came ten seconds ago.
            assert_eq!(spark.chars().position(|c| c == '█'), Some(49 / step), "{frame}");
        }
        assert!(frame.contains("12 flows, 78 events in total"), "{frame}");
    }
}

#[test]
fn the_total_counts_what_the_buffer_has_forgotten() {
    // B36.
    let mut options = options(100, 30);
    options.limits.rows = 10;
    let mut desk = Desk::with(options);
    desk.live((0..1234).map(|_| from("app", "a.b", None)));
    desk.keys("3");
    let frame = desk.frame();
    assert!(frame.contains("1 flow, 1,234 events in total") && frame.contains("total 1,234"), "{frame}");
    assert!(frame.contains("app → a.b → system 1,234"), "{frame}");
}

#[test]
fn what_is_chosen_shows_where_it_comes_from_and_goes_to() {
    let mut desk = desk(60, 16);
    desk.wait(5000);
    desk.keys("<Down>");
    assert_snapshot!("chosen_source", desk.frame());
    desk.keys("<Right><Right>");
    assert_snapshot!("chosen_target", desk.frame());
    desk.keys("<Esc>");
    assert!(!desk.frame().contains("▸"), "{}", desk.frame());
    desk.keys("<Tab>");
    assert_snapshot!("paths", desk.frame());
}

#[test]
fn what_is_chosen_is_listed() {
    let mut desk = desk(100, 30);
    for (keys, expected) in [
        ("<Enter>", None),
        ("<Down><Enter>", Some("source:godctl-agent")),
        ("3<Right><Enter>", Some("type:agent.tool.invoked")),
        ("3<Tab><Down><Enter>", Some("type:agent.tool.completed source:godctl-agent")),
    ] {
        desk.keys(keys);
        let is_listed = desk.app.view == View::List;
        assert_eq!(is_listed.then(|| desk.app.filter.to_string()).as_deref(), expected, "{keys}");
    }
    desk.keys("<Backspace>3<Tab><Right><Enter>");
    assert_eq!((desk.app.view, desk.app.filter.count()), (View::Flow, 0));
    assert!(desk.frame().contains("no filter knows targets"), "{}", desk.frame());
}

#[test]
fn what_is_chosen_stays_so_when_others_overtake_it() {
    let mut desk = desk(100, 30);
    desk.keys("<Down><Down>");
    assert!(desk.frame().contains("▸godctl-tray"), "{}", desk.frame());
    desk.live((0..500).map(|_| from("godctl-tray", "voice.x", None)));
    assert_eq!(places(&desk.frame(), "▸godctl-tray"), [4], "{}", desk.frame());
    desk.keys("<Down>");
    assert!(desk.frame().contains("▸godctl-agent"), "{}", desk.frame());
}

#[test]
fn what_is_too_much_is_counted_and_what_is_far_down_can_be_seen() {
    let mut desk = Desk::new(100, 30);
    desk.live((0..2003).map(|n| from(&format!("app{n:04}"), "a.b", None)));
    desk.keys("3");
    let frame = desk.frame();
    assert!(frame.contains("2,000 flows, 2,003 events in total, 3 in other flows"), "{frame}");
    assert!(frame.contains("and 1,989 more"), "{frame}");
    desk.keys("<Down>G");
    assert!(desk.frame().contains("▸app1999"), "{}", desk.frame());
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
        (desk.app.view, desk.app.filter.to_string())
    };
    assert_eq!(click(LIST + 1), (View::Flow, String::new()));
    assert_eq!(click(LIST + 1), (View::List, "type:agent.tool.completed".to_owned()));
}

#[test]
fn nothing_breaks_in_any_size() {
    let mut desk = desk(100, 30);
    let wide = "日本".repeat(30);
    desk.live([
        from(&wide, &format!("{wide}.x"), Some(&wide)),
        from("\u{1b}[2Jx\ny", "a.b", Some("\u{202e}")),
    ]);
    for keys in ["", "<Down>", "<Right>", "<Tab>"] {
        desk.keys(keys);
        for (width, height) in [(1, 1), (3, 2), (10, 5), (20, 8), (60, 16), (57, 40), (100, 30), (200, 60)] {
            desk.send(Msg::Resize(width, height));
            let frame = desk.frame();
            assert_eq!(frame.lines().count(), usize::from(height));
            assert!(!frame.contains(['\u{1b}', '\u{202e}']));
        }
    }
    let mut options = options(60, 16);
    options.ascii = true;
    let mut desk = Desk::with(options);
    desk.live([from("app", "a.b", Some("x")), from("app", "c.d", None)]);
    desk.keys("3<Down>");
    assert!(desk.frame().replace('…', "").is_ascii(), "{}", desk.frame());
    desk.keys("<Tab>");
    assert!(desk.frame().replace('…', "").is_ascii(), "{}", desk.frame());
}
