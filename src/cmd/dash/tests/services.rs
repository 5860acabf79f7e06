//! Services that light up, and programs where no registry says what there is.

use ratatui::style::Color;
use serde_json::json;

use super::{
    super::{
        app::View,
        state::{
            registry,
            testing::{at, event_at},
        },
        view::look::Depth,
    },
    timeline::click,
    *,
};

const REGISTRY: &str = r##"{ "services": [
    { "name": "candystore", "status": "active", "queue": "candystore", "routing_keys": ["#"] },
    { "name": "tonny", "status": "active", "queue": "tonny", "consumes": ["transcription.voice.completed", "thread.tonny.*"] },
    { "name": "old one", "status": "retired" }
] }"##;

fn with_registry(width: u16, height: u16) -> Desk {
    let mut options = options(width, height);
    options.services = registry::parse("registry.json", REGISTRY).unwrap();
    let mut desk = Desk::with(options);
    desk.keys("5");
    desk
}

fn view(desk: &Desk) -> String {
    let frame = desk.frame();
    let lines: Vec<&str> = frame.lines().skip(2).collect();
    lines[..lines.len() - 1].join("\n")
}

#[test]
fn a_service_is_lit_when_something_passes_that_it_listens_to() {
    let mut desk = with_registry(100, 10);
    // The same words under their first name: who listens to the second one gets them.
    desk.live([
        event_at(0, "voice.transcription.completed", json!({ "text": "hi" })),
        event_at(0, "agent.error", json!({})),
    ]);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ services · 3 ────────────────────────────────────────────────────────────────────────────────────╮
    │  service              status     queue             events  last listens to                       │
    │● candystore           active     candystore             2    0s #                                │
    │● tonny                active     tonny                  1    0s transcription.voice.completed th…│
    │○ old one              retired                           0     - nothing                          │
    │                                                                                                  │
    │                                                                                                  │
    ");
    desk.wait(3_000);
    desk.live([event_at(3, "thread.tonny.prompt", json!({}))]);
    desk.wait(3_000);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ services · 3 ────────────────────────────────────────────────────────────────────────────────────╮
    │  service              status     queue             events  last listens to                       │
    │○ candystore           active     candystore             3    3s #                                │
    │○ tonny                active     tonny                  2    3s transcription.voice.completed th…│
    │○ old one              retired                           0     - nothing                          │
    │                                                                                                  │
    │                                                                                                  │
    ");
    let mut desk = with_registry(60, 16);
    desk.live([event_at(0, "agent.error", json!({}))]);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ services · 3 ────────────────────────────────────────────╮
    │  service            status       events  last listens to │
    │● candystore         active            1    0s #          │
    │○ tonny              active            0     - transcript…│
    │○ old one            retired           0     - nothing    │
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    ");
}

#[test]
fn a_lamp_fades_within_three_seconds_and_frames_are_asked_for_until_then() {
    let mut desk = with_registry(100, 10);
    desk.live([event_at(0, "agent.error", json!({}))]);
    let colour = |desk: &Desk| frame::cells(&desk.app, Depth::True).cell((1, 4)).unwrap().fg;
    let mut colours = vec![colour(&desk)];
    for _ in 0..4 {
        desk.app.is_dirty = false;
        desk.wait(900);
        assert!(desk.app.is_dirty);
        colours.push(colour(&desk));
    }
    assert_eq!(colours[0], Color::Rgb(0x22, 0xC5, 0x5E));
    assert_eq!(colours[4], Color::Rgb(0x6B, 0x72, 0x80));
    colours.dedup();
    assert_eq!(colours.len(), 5, "{colours:?}");
    // Two ticks within a second, one of which is that of the metrics.
    desk.wait(5_000);
    desk.app.is_dirty = false;
    desk.wait(100);
    assert!(!desk.app.is_dirty, "nothing moves");
}

#[test]
fn enter_shows_what_a_service_gets() {
    let mut desk = with_registry(100, 12);
    desk.live([
        event_at(0, "voice.transcription.completed", json!({})),
        event_at(0, "agent.error", json!({})),
    ]);
    desk.keys("<Down><Enter>");
    assert_eq!(desk.app.view, View::List);
    assert_eq!(desk.app.filter.to_string(), "type:transcription.voice.completed");
    assert!(desk.frame().contains("the first of 2 patterns"), "{}", desk.frame());
    desk.keys("5<End><Enter>");
    assert_eq!(desk.app.view, View::Services);
    assert!(desk.frame().contains("this service listens to nothing"), "{}", desk.frame());
}

#[test]
fn a_click_chooses_a_service_and_another_one_shows_what_it_gets() {
    let mut desk = with_registry(100, 12);
    click(&mut desk, 20, 5);
    assert_eq!((desk.app.view, desk.app.chosen_service()), (View::Services, 1));
    click(&mut desk, 20, 5);
    assert_eq!(desk.app.filter.to_string(), "type:transcription.voice.completed");
}

#[test]
fn without_a_registry_the_programs_are_listed_that_were_seen() {
    let mut desk = Desk::new(100, 12);
    desk.keys("5");
    insta::assert_snapshot!(view(&desk), @r"
    ╭ services · no registry (--registry FILE), so these are the programs that were seen ──────────────╮
    │                                                                                                  │
    │                                                                                                  │
    │                                 no program has said anything yet                                 │
    │                        --registry FILE (TOML or JSON) shows services here                        │
    │                            lit when an event comes that they listen to                           │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    ");
    let from = |app: &str, host: &str, name: &str| {
        let mut event = event_at(0, name, json!({}));
        (event.source.app, event.source.host) = (app.to_owned(), host.to_owned());
        event
    };
    desk.live([
        from("godctl-asr", "desk", "voice.x"),
        from("godctl-asr", "attic", "voice.x"),
        from("candy\x1b[2J日本", "desk", "agent.error"),
    ]);
    desk.wait(65_000);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ services · no registry (--registry FILE), so these are the programs that were seen ──────────────╮
    │  program                           events  last  errors machines                                 │
    │○ candy\u{1b}[2J日本                     1    1m       1 desk                                     │
    │○ godctl-asr                             2    1m       0 desk attic                               │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    ");
    desk.keys("<Down><Enter>");
    assert_eq!(desk.app.filter.to_string(), "source:godctl-asr");
    assert_eq!(desk.app.listed(), 2);
}

#[test]
fn what_came_before_counts_but_lights_nothing() {
    let mut desk = with_registry(100, 10);
    let item = Item::Event(Box::new(received(event_at(-60, "a.b", json!({})))));
    desk.send(Msg::Batch(vec![Arrived { item, is_live: false }]));
    let (_, seen) = &desk.app.tallies.services.services()[0];
    assert_eq!((seen.events, seen.last, seen.light(at(0))), (1, Some(at(-60)), 0.0));
}

#[test]
fn who_makes_up_names_fills_no_memory() {
    let mut desk = Desk::new(100, 12);
    let events = (0..700).map(|n| {
        let mut event = event_at(0, &format!("t{n}.x"), json!({}));
        event.source.app = format!("app{n}");
        event
    });
    desk.live(events);
    desk.keys("5<End>");
    let services = &desk.app.tallies.services;
    assert_eq!((services.sources().len(), services.others()), (500, 200));
    assert!(desk.frame().contains("and 200 events of more programs"), "{}", desk.frame());
    let last = services.sources().keys().next_back().unwrap().to_string();
    assert!(desk.frame().contains(&last), "{}", desk.frame());
}
