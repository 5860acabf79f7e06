//! Filters, searches, chains, marks: which events are shown.

use serde_json::json;

use super::{
    super::state::testing::{after, event, event_at},
    list::some,
    *,
};

/// The types in the list, the oldest first.
fn shown(desk: &Desk) -> Vec<String> {
    let rows = desk.app.matches.iter().filter_map(|seq| desk.app.buffer.row(seq));
    rows.map(|row| row.event_type.to_string()).collect()
}

#[test]
fn a_domain_leaves_its_types_to_choose_from_and_another_one_resets_the_type() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.app.set(Field::Domain, Some("agent".to_owned())).unwrap();
    assert_eq!(shown(&desk), ["agent.session.started", "agent.error"]);
    assert_eq!(desk.app.choices(Field::Type), ["agent.error", "agent.session.started"]);
    desk.app.set(Field::Type, Some("agent.error".to_owned())).unwrap();
    assert_eq!(shown(&desk), ["agent.error"]);
    desk.app.set(Field::Domain, Some("voice".to_owned())).unwrap();
    assert_eq!(
        (desk.app.value(Field::Type), shown(&desk)),
        (None, vec!["voice.transcription.completed".to_owned()])
    );
    desk.app.set(Field::Domain, None).unwrap();
    desk.app.set(Field::Type, Some("*.session.#".to_owned())).unwrap();
    assert_eq!(shown(&desk), ["agent.session.started"]);
}

#[test]
fn the_panel_turns_through_what_there_is() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.keys("F<Right>");
    insta::assert_snapshot!(desk.frame());
    let first = desk.app.value(Field::Domain);
    desk.keys("<Left>");
    assert_eq!((desk.app.value(Field::Domain), first.as_deref()), (None, Some("agent")));
    desk.keys("<Down><Down><Right><Esc>");
    assert_eq!(desk.app.value(Field::Source).as_deref(), Some("godctl-test"));
    desk.keys("<Backspace>");
    assert_eq!(desk.app.filter.count(), 0);
}

#[test]
fn a_source_a_session_and_errors() {
    let mut desk = Desk::new(100, 24);
    let mut other = event("x.y", json!({ "success": false }));
    other.source.app = "elsewhere".to_owned();
    desk.live(some().into_iter().chain([other]));
    desk.app.set(Field::Source, Some("elsewhere".to_owned())).unwrap();
    assert_eq!(shown(&desk), ["x.y"]);
    desk.keys("<Backspace>");
    desk.app.set(Field::Session, Some("s-2".to_owned())).unwrap();
    assert_eq!(shown(&desk), ["agent.session.started", "agent.error"]);
    desk.keys("<Backspace>!");
    assert_eq!(shown(&desk), ["agent.error"]);
    desk.keys("!");
    assert_eq!(shown(&desk), ["agent.error", "x.y"], "the payload says so");
    desk.keys("!");
    assert_eq!(shown(&desk).len(), 5);
}

#[test]
fn a_session_is_found_in_the_agents_context_and_in_the_payload() {
    let mut by_agent = event("a.a", json!({}));
    by_agent.agent_context =
        Some(crate::bus::event::AgentContext::new("claude-code", "claude", "s-9", "here"));
    let mut desk = Desk::new(100, 24);
    desk.live([
        by_agent,
        event("b.b", json!({ "session_key": "s-9" })),
        event("c.c", json!({ "instance_id": "s-9" })),
    ]);
    desk.app.set(Field::Session, Some("s-9".to_owned())).unwrap();
    assert_eq!(shown(&desk), ["a.a", "b.b", "c.c"]);
    desk.keys("<Backspace><Down>S");
    assert_eq!(desk.app.value(Field::Session).as_deref(), Some("s-9"), "that of the chosen event");
}

#[test]
fn events_become_too_old_although_none_comes() {
    for (range, seconds) in [("5min", 300), ("15min", 900), ("1hr", 3_600), ("6hr", 21_600), ("24hr", 86_400)]
    {
        let mut desk = Desk::new(100, 24);
        desk.live([event_at(0, "a.old", json!({})), event_at(10, "a.young", json!({}))]);
        desk.app.set(Field::Time, Some(range.to_owned())).unwrap();
        assert_eq!(shown(&desk), ["a.old", "a.young"], "{range}");
        desk.wait(seconds * 1000 + 5_000);
        assert_eq!(shown(&desk), ["a.young"], "{range}");
        desk.wait(10_000);
        assert_eq!(shown(&desk), [] as [&str; 0], "{range}");
        desk.app.set(Field::Time, None).unwrap();
        assert_eq!(shown(&desk).len(), 2);
    }
    assert!(Desk::new(80, 24).app.set(Field::Time, Some("1week".to_owned())).is_err());
}

#[test]
fn words_roughly_and_by_pattern() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    for (query, expected) in [
        ("TESTS", &["voice.transcription.completed"][..]),
        ("~agent.ses", &["agent.session.started"]),
        ("/^agent\\.(error|x)$/", &["agent.error"]),
    ] {
        desk.keys(&format!("<Backspace>/{query}<Enter>"));
        assert_eq!(shown(&desk), expected, "{query}");
    }
    desk.keys("<Backspace>//(/<Enter>");
    assert!(desk.frame().contains("no such pattern"), "{}", desk.frame());
    assert_eq!(shown(&desk).len(), 4, "and the list is as it was");
    desk.keys("<Esc>");
}

#[test]
fn ten_letters_in_a_row_are_one_search() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    let before = desk.app.matches.passes();
    desk.keys("/");
    for letter in "run the te".chars() {
        desk.keys(&letter.to_string().replace(' ', "<Space>"));
        desk.wait(10);
    }
    assert_eq!(desk.app.matches.passes(), before, "not while it is typed");
    desk.wait(150);
    assert_eq!((desk.app.matches.passes(), shown(&desk).len()), (before + 1, 1));
}

#[test]
fn the_filters_are_counted_and_cleared_with_one_key() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.keys("!/key<Enter>");
    let frame = desk.frame();
    assert!(frame.contains("Showing 1 of 4") && frame.contains("[2] errors:by type key"), "{frame}");
    desk.keys("<Backspace>");
    let frame = desk.frame();
    assert!(frame.contains("events · 4 ") && !frame.contains("[2]"), "{frame}");
}

#[test]
fn a_chain_is_all_that_led_to_an_event_and_all_that_it_led_to() {
    let mut desk = Desk::new(100, 24);
    let events = some();
    let error = events[2].clone();
    desk.live(events);
    desk.keys("<Down><Down>x");
    assert_eq!(shown(&desk), ["voice.transcription.completed", "agent.session.started", "agent.error"]);
    desk.live([after(&error, event("agent.session.ended", json!({}))), event("zzz.b", json!({}))]);
    assert_eq!(shown(&desk).len(), 4, "and it grows: {:?}", shown(&desk));
    assert!(desk.frame().contains("chain:0199f0a2"), "{}", desk.frame());
    desk.keys("X");
    assert_eq!(shown(&desk).len(), 6);
}

#[test]
fn a_late_link_brings_the_earlier_part_of_a_chain_with_it() {
    let (first, second) = (event("a.first", json!({})), event("b.second", json!({})));
    let mut link = event("c.link", json!({}));
    link.correlation_ids = vec![first.event_id, second.event_id];
    let mut desk = Desk::new(100, 24);
    desk.live([first, second]);
    desk.keys("x");
    assert_eq!(shown(&desk), ["b.second"]);
    desk.live([link]);
    assert_eq!(shown(&desk), ["a.first", "b.second", "c.link"]);
}

#[test]
fn filters_are_kept_under_a_name_and_brought_back() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.keys("!/key<Enter>Psmine<Enter>");
    assert!(desk.effects.contains(&Effect::Keep));
    desk.keys("<Backspace>P");
    insta::assert_snapshot!(desk.frame());
    desk.keys("1");
    assert_eq!((desk.app.filter.count(), shown(&desk)), (2, vec!["agent.error".to_owned()]));
    desk.keys("P<Del><Esc>");
    assert!(desk.app.presets.is_empty());
}

#[test]
fn types_are_listed_or_not_ring_or_are_silent() {
    let flags = {
        let mut flags = Flags::default();
        flags.set(Flag::Bell, "agent", true);
        flags.set(Flag::Muted, "agent.heartbeat", true);
        flags
    };
    let expected = vec!["tts.response.completed".to_owned()];
    let mut desk = Desk::with(Options { flags, expected, ..options(100, 24) });
    let mut beat = event("agent.heartbeat", json!({}));
    beat.event_id = uuid::Uuid::nil();
    desk.live(some().into_iter().chain([beat]));
    let bells = desk.effects.iter().filter(|effect| **effect == Effect::Bell).count();
    assert_eq!((bells, desk.app.types.silenced), (2, 1));
    desk.keys("T");
    insta::assert_snapshot!(desk.frame());
    desk.keys("l<Esc>");
    assert_eq!(shown(&desk), ["voice.transcription.completed", "zzz.a"], "agent and what is below");
    desk.live([event("agent.more", json!({}))]);
    assert_eq!(shown(&desk).len(), 2);
    let frame = desk.frame();
    assert!(frame.contains("unlisted 1  silenced 1"), "{frame}");
    desk.keys("TA<Esc>");
    assert_eq!(shown(&desk).len(), 6);
    // To a type, from the tree.
    desk.keys("T<Down><Enter>");
    assert_eq!(shown(&desk), ["agent.error"]);
}

#[test]
fn an_event_is_marked_noted_and_found_again() {
    let mut desk = Desk::new(100, 24);
    desk.live(some());
    desk.keys("<Down><Down>m");
    assert!(desk.frame().contains("★"), "{}", desk.frame());
    desk.keys("nlook here<Enter>g'");
    let frame = desk.frame();
    assert_eq!(desk.app.chosen().unwrap().event_type.as_ref(), "agent.session.started");
    assert!(frame.contains("note     look here"), "{frame}");
    desk.keys("m");
    desk.keys("g'");
    assert!(desk.frame().contains("no event that is shown is marked"), "{}", desk.frame());
}

const TYPES: [&str; 6] =
    ["agent.error", "agent.tool.invoked", "voice.x.completed", "zzz.a", "agent.session.failed", "voice.y"];
const WORDS: [&str; 5] = ["open the DOOR", "größe", "a \"quote\"", "error 429", ""];

/// Type, program, session and word of an event, by number.
type Made = (usize, usize, usize, usize);

fn made((event_type, app, session, word): Made) -> Event {
    let payload = json!({ "text": WORDS[word], "session_id": format!("s-{session}") });
    let mut event = event(TYPES[event_type], payload);
    event.source.app = format!("app-{app}");
    event
}

/// What a filter says, without any of what makes it quick.
fn matches(event: &Event, desk: &Desk) -> bool {
    let value = |field| desk.app.value(field);
    let event_type = event.event_type.as_str();
    let text = serde_json::to_string(&event.payload).unwrap().to_lowercase();
    let query = value(Field::Search).map(|query| {
        let quoted = serde_json::to_string(&query.to_lowercase()).unwrap();
        quoted.trim_matches('"').to_owned()
    });
    value(Field::Domain).is_none_or(|domain| event_type.split('.').next() == Some(&domain))
        && value(Field::Source).is_none_or(|app| event.source.app == app)
        && value(Field::Session).is_none_or(|session| event.payload["session_id"] == session)
        && value(Field::Errors).is_none_or(|_| event_type.contains("error") || event_type.contains("failed"))
        && query.is_none_or(|query| text.contains(&query) || event_type.contains(&query))
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    #[test]
    fn what_matches_is_shown_and_nothing_else(
        events in proptest::collection::vec((0..6_usize, 0..3_usize, 0..3_usize, 0..5_usize), 1..120),
        before in 0..120_usize,
        domain in proptest::option::of(0..2_usize),
        app in proptest::option::of(0..3_usize),
        session in proptest::option::of(0..3_usize),
        query in proptest::option::of(0..5_usize),
        errors: bool,
        kept in 1..200_usize,
    ) {
        let limits = super::super::state::buffer::Limits { rows: kept, ..ROOMY };
        let mut desk = Desk::with(Options { limits, ..options(100, 24) });
        let events: Vec<Event> = events.into_iter().map(made).collect();
        let (first, then) = events.split_at(before.min(events.len()));
        desk.live(first.iter().cloned());
        desk.app.set(Field::Domain, domain.map(|n| ["agent", "voice"][n].to_owned())).unwrap();
        desk.app.set(Field::Source, app.map(|n| format!("app-{n}"))).unwrap();
        desk.app.set(Field::Session, session.map(|n| format!("s-{n}"))).unwrap();
        desk.app.set(Field::Errors, errors.then(|| "by type".to_owned())).unwrap();
        let words = query.map(|n| WORDS[n].to_owned()).filter(|words| !words.is_empty());
        desk.app.set(Field::Search, words).unwrap();
        for part in then.chunks(7) {
            desk.live(part.iter().cloned());
        }
        // Those that the buffer still has.
        let newest = &events[events.len().saturating_sub(kept)..];
        let expected: Vec<uuid::Uuid> =
            newest.iter().filter(|event| matches(event, &desk)).map(|event| event.event_id).collect();
        let rows = desk.app.matches.iter().filter_map(|seq| desk.app.buffer.row(seq));
        let shown: Vec<uuid::Uuid> = rows.map(|row| row.id).collect();
        proptest::prop_assert_eq!(shown, expected);
        // And the figures are those of a recount.
        let failed = events.iter().filter(|event| event.is_error()).count() as u64;
        let metrics = &desk.app.metrics;
        proptest::prop_assert_eq!((metrics.total, metrics.errors), (events.len() as u64, failed));
        proptest::prop_assert_eq!(desk.app.buffer.events(), newest.len());
        proptest::prop_assert_eq!(desk.app.buffer.evicted(), (events.len() - newest.len()) as u64);
        let apps: std::collections::BTreeSet<&str> = newest.iter().map(|event| event.source.app.as_str()).collect();
        proptest::prop_assert_eq!(desk.app.buffer.facets().apps.len(), apps.len());
    }
}
