//! Rules that tell somebody who looks elsewhere.

use serde_json::json;

use super::{super::state::testing::event_at, *};

fn with_rules(width: u16, height: u16, rules: &[&str]) -> Desk {
    let mut options = options(width, height);
    options.alerts = rules.iter().map(|rule| rule.parse().unwrap()).collect();
    Desk::with(options)
}

fn errors(desk: &mut Desk, count: usize) {
    desk.live((0..count).map(|_| event_at(0, "agent.error", json!({}))));
    desk.wait(100);
}

fn notices(desk: &mut Desk) -> Vec<String> {
    let effects = std::mem::take(&mut desk.effects);
    let text = |effect| match effect {
        Effect::Notify { title, text } => Some(format!("{title} | {text}")),
        _ => None,
    };
    effects.into_iter().filter_map(text).collect()
}

#[test]
fn a_rule_fires_once_and_is_over_when_the_value_is_well_below() {
    let mut desk = with_rules(100, 20, &["errors > 5/min"]);
    errors(&mut desk, 5);
    assert!(notices(&mut desk).is_empty());
    desk.wait(30_000);
    desk.app.is_dirty = false;
    errors(&mut desk, 1);
    assert_eq!(notices(&mut desk), ["godctl: errors > 5/min | 6/min now; over at 4/min or less"]);
    assert!(desk.app.is_dirty);
    assert!(desk.frame().lines().nth(1).unwrap().starts_with("! 1 alert"), "{}", desk.frame());
    assert!(desk.frame().contains("godctl: errors > 5/min: 6/min now"), "{}", desk.frame());
    errors(&mut desk, 20);
    assert!(notices(&mut desk).is_empty(), "it goes on");
    // The first five are too old now, then the others too.
    desk.wait(70_000);
    assert!(notices(&mut desk).is_empty());
    assert!(desk.frame().contains("over: errors > 5/min"), "{}", desk.frame());
    assert!(!desk.frame().contains("! 1 alert"), "{}", desk.frame());
}

#[test]
fn a_rule_notifies_once_a_minute_at_most_and_of_what_is_still_so() {
    let mut desk = with_rules(100, 20, &["silence > 5s"]);
    desk.wait(6_000);
    assert_eq!(notices(&mut desk).len(), 1);
    errors(&mut desk, 1);
    desk.wait(10_000);
    assert!(desk.frame().contains("! 1 alert"), "{}", desk.frame());
    assert!(notices(&mut desk).is_empty(), "only ten seconds later");
    desk.wait(44_000);
    assert!(notices(&mut desk).is_empty());
    desk.wait(6_000);
    assert_eq!(notices(&mut desk).len(), 1, "still so, and a minute has gone by");
    desk.wait(120_000);
    assert!(notices(&mut desk).is_empty(), "told already");
}

#[test]
fn what_came_before_raises_no_alert() {
    let mut desk = with_rules(100, 20, &["errors > 0"]);
    let item = Item::Event(Box::new(received(event_at(0, "agent.error", json!({})))));
    desk.send(Msg::Batch(vec![Arrived { item, is_live: false }]));
    desk.wait(1_000);
    assert!(notices(&mut desk).is_empty());
}

#[test]
fn the_rules_are_listed_with_how_they_stand() {
    let rules = ["errors > 5/min", "agent.# >= 1/s", "error-rate > 10%", "silence > 5min", "events < 1/min"];
    let mut desk = with_rules(100, 20, &rules);
    errors(&mut desk, 7);
    desk.wait(3_000);
    desk.keys("7A");
    insta::assert_snapshot!("alerts_at_100_x_20", desk.frame());
    let mut desk = with_rules(60, 16, &rules);
    errors(&mut desk, 7);
    desk.keys("7A");
    insta::assert_snapshot!("alerts_at_60_x_16", desk.frame());
    desk.keys("<Esc>");
    assert!(!desk.frame().contains("agent.# >= 1/s"), "{}", desk.frame());
    let mut desk = Desk::new(100, 20);
    desk.keys("7A");
    insta::assert_snapshot!("no_alerts", desk.frame());
    desk.keys("A");
    assert!(desk.app.overlay.is_none());
}

#[test]
fn more_rules_than_lines_are_counted() {
    let rules: Vec<String> = (0..30).map(|n| format!("a.b{n} > {n}")).collect();
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    let mut desk = with_rules(100, 20, &rules);
    desk.keys("A");
    assert!(desk.frame().contains("and 17 more"), "{}", desk.frame());
    assert!(desk.frame().contains("notifies once a minute"), "{}", desk.frame());
}
