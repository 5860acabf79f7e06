//! Sessions of agents, voices and rooms, from events alone.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use super::{
    super::{
        app::View,
        state::testing::{after, event_at},
    },
    timeline::click,
    *,
};
use crate::bus::event::payload::{
    Payload, VoiceTranscription,
    agent::{AgentError, AgentResponse, AgentSessionEnded, AgentSessionStarted, AgentToolInvoked},
};

fn view(desk: &Desk) -> String {
    let frame = desk.frame();
    let lines: Vec<&str> = frame.lines().skip(2).collect();
    lines[..lines.len() - 1].join("\n")
}

/// An event as godctl's own parts send it, of a session.
fn own<P: Payload>(second: i64, session: &str) -> Event {
    let mut payload = serde_json::to_value(P::example()).unwrap();
    payload["session_id"] = json!(session);
    event_at(second, P::TYPE, payload)
}

/// An utterance that an agent worked on, and one that it did not; Claude Code on its own; a room.
fn some() -> Vec<Event> {
    let voice = own::<VoiceTranscription>(0, "0197c2f0-1111-7000-8000-000000000001");
    let agent = "5b0c2f6e-7d0a-5a51-9b2c-3d4e5f607184";
    let mut events = vec![
        voice.clone(),
        after(&voice, own::<AgentSessionStarted>(1, agent)),
        after(&voice, own::<AgentToolInvoked>(2, agent)),
        after(&voice, own::<AgentResponse>(3, agent)),
        after(&voice, own::<AgentSessionEnded>(4, agent)),
        own::<AgentSessionStarted>(4, "dddd-1"),
        own::<AgentToolInvoked>(5, "dddd-1"),
        own::<AgentError>(6, "eeee-1"),
        event_at(
            6,
            "agent.prompt",
            json!({ "provider": "codex", "prompt": "count the tests", "session_id": "ffff-1" }),
        ),
    ];
    for (second, name, payload) in [
        (
            7,
            "session.thread.start",
            json!({ "session_id": "cc-1", "model": "claude-opus", "user_prompt": "fix it" }),
        ),
        (
            8,
            "session.thread.message",
            json!({ "session_id": "cc-1", "role": "assistant", "content": "Done.", "turn_number": 3 }),
        ),
        (9, "space.started", json!({ "space_id": "1YqGo", "title": "Rust in the attic" })),
        (
            10,
            "space.transcription.said",
            json!({ "space_id": "1YqGo", "speaker": "ada", "text": "hello \x1b[2Jall" }),
        ),
    ] {
        events.push(event_at(second, name, payload));
    }
    events
}

#[test]
fn agents_voices_and_rooms_from_events_alone() {
    let mut desk = Desk::new(100, 16);
    desk.keys("7");
    insta::assert_snapshot!(view(&desk), @r"
    ╭ sessions · 0 ────────────────────────────────────────────────────────────────────────────────────╮
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                no event has told of a session yet                                │
    │                             agents, utterances and rooms appear here                             │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    ");
    desk.live(some());
    desk.wait(12_000);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ sessions · 7 · voice to answer p50 3.0 s p95 3.0 s of 1 ─────────────────────────────────────────╮
    │kind  id       who          state    turns    cost  last words                                    │
    │room  1YqGo    Rust in the… running      1            2s ada: hello \u{1b}[2Jall                  │
    │agent cc-1     claude-opus  waiting      3            4s Done.                                    │
    │agent eeee-1   claude       failed       1            6s too many requests                        │
    │agent ffff-1   codex        waiting      0            6s count the tests                          │
    │agent dddd-1   claude       running      0            7s uses Bash                                │
    │agent 5b0c2f6e claude       answered     1   $0.11    8s It reads the system's clock.             │
    │voice 0197c2f0 godctl-test  running      1           12s Turn on the lights in the kitchen.       │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    │                                                                                                  │
    ");
    let mut desk = Desk::new(60, 16);
    desk.keys("7");
    desk.live(some());
    desk.wait(90_000);
    insta::assert_snapshot!(view(&desk), @r"
    ╭ sessions · 7 · voice to answer p50 3.0 s p95 3.0 s of 1 ─╮
    │kind  id       who      state    turns  last words        │
    │room  1YqGo    Rust in… running      1    1m ada: hello \…│
    │agent cc-1     claude-… waiting      3    1m Done.        │
    │agent eeee-1   claude   failed       1    1m too many req…│
    │agent ffff-1   codex    waiting      0    1m count the te…│
    │agent dddd-1   claude   running      0    1m uses Bash    │
    │agent 5b0c2f6e claude   answered     1    1m It reads the…│
    │voice 0197c2f0 godctl-… waiting      1    1m Turn on the …│
    │                                                          │
    │                                                          │
    │                                                          │
    │                                                          │
    ");
}

#[test]
fn a_session_goes_through_its_states() {
    let mut desk = Desk::new(100, 12);
    desk.keys("7");
    let mut second = 0;
    let mut tell = |desk: &mut Desk, name: &str, payload: serde_json::Value| {
        second += 1;
        let mut payload = payload;
        payload["session_id"] = json!("cc-1");
        desk.live([event_at(second, name, payload)]);
        let sessions = desk.app.tallies.sessions.newest();
        let session = sessions[0];
        format!(
            "{} {} {:?} {}",
            session.state(desk.app.now).word(),
            session.turns,
            session.cost,
            session.words
        )
    };
    for (name, payload, expected) in [
        ("agent.prompt", json!({ "prompt": "go" }), "waiting 0 None go"),
        ("agent.session.started", json!({}), "running 0 None go"),
        ("agent.tool.invoked", json!({ "tool_name": "Bash" }), "running 0 None uses Bash"),
        ("agent.response.completed", json!({ "response": "1", "cost_usd": 0.25 }), "answered 1 Some(0.25) 1"),
        ("agent.session.ended", json!({ "success": true }), "answered 1 Some(0.25) 1"),
        ("agent.error", json!({ "error": "no key", "cost_usd": 9 }), "failed 2 Some(0.25) no key"),
        ("agent.session.ended", json!({ "success": false }), "failed 2 Some(0.25) no key"),
        ("agent.prompt.failed", json!({ "error": "given up" }), "failed 2 Some(0.25) given up"),
        ("agent.response.completed", json!({ "response": "2", "cost_usd": 0.5 }), "answered 3 Some(0.75) 2"),
        ("agent.session.ended", json!({ "reason": "closed" }), "ended 3 Some(0.75) 2"),
        ("session.thread.message", json!({ "role": "user", "content": "and?" }), "running 3 Some(0.75) and?"),
        ("session.thread.end", json!({ "total_turns": 7, "total_cost_usd": 2.0 }), "ended 7 Some(2.0) and?"),
        ("bloodbank.v1.agent.invocation.started", json!({}), "running 7 Some(2.0) and?"),
        ("agent.session.ended", json!({ "success": "yes", "total_cost_usd": -1 }), "ended 7 Some(2.0) and?"),
    ] {
        assert_eq!(tell(&mut desk, name, payload), expected, "{name}");
    }
    // What tells nothing of a session makes none.
    desk.live([
        event_at(100, "agent.heartbeat", json!({ "session_id": "other" })),
        event_at(100, "x.y", json!({ "session_id": "z" })),
    ]);
    assert_eq!(desk.app.tallies.sessions.newest().len(), 1);
}

#[test]
fn enter_follows_one_session() {
    let mut desk = Desk::new(100, 16);
    desk.live(some());
    desk.keys("7<Down><Down><Down>");
    // Others pass it; the choice stays.
    desk.live([own::<AgentSessionStarted>(20, "gggg-1")]);
    desk.keys("<Enter>");
    assert_eq!((desk.app.view, desk.app.filter.to_string()), (View::List, "session:ffff-1".to_owned()));
    // A room is no session in its events; its words are looked for.
    desk.keys("<Backspace>7<Home><Down><Enter>");
    assert_eq!(desk.app.filter.to_string(), "1YqGo");
    assert_eq!(desk.app.listed(), 2);
}

#[test]
fn a_click_chooses_a_session_and_another_one_follows_it() {
    let mut desk = Desk::new(100, 16);
    desk.live(some());
    desk.keys("7");
    click(&mut desk, 20, 6);
    assert_eq!((desk.app.view, desk.app.chosen_session()), (View::Sessions, 2));
    click(&mut desk, 20, 6);
    assert_eq!(desk.app.filter.to_string(), "session:eeee-1");
}

#[test]
fn the_time_from_voice_to_answer_is_in_the_title() {
    let mut desk = Desk::new(100, 12);
    desk.keys("7");
    assert!(!desk.frame().contains("p50"));
    let mut events = Vec::new();
    for n in 0..10 {
        let mut voice = own::<VoiceTranscription>(0, "v");
        if n % 2 == 0 {
            voice.event_type = "transcription.voice.completed".parse().unwrap();
        }
        events.extend([voice.clone(), after(&voice, own::<AgentResponse>(n + 1, "a"))]);
    }
    desk.live(events);
    assert!(desk.frame().contains("voice to answer p50 5.0 s p95 10.0 s of 10"), "{}", desk.frame());
}

#[test]
fn too_many_sessions_go_with_those_first_that_are_over() {
    let mut desk = Desk::new(100, 12);
    desk.keys("7");
    let running = own::<AgentSessionStarted>(0, "running");
    let over = (0..2_000).map(|n| own::<AgentResponse>(n / 10, &format!("over{n}")));
    desk.live(std::iter::once(running).chain(over));
    let sessions = desk.app.tallies.sessions.newest();
    assert_eq!((sessions.len(), desk.app.tallies.sessions.evicted()), (1_801, 200));
    assert!(sessions.iter().any(|session| &*session.id == "running"));
    assert!(!sessions.iter().any(|session| &*session.id == "over0"));
    assert!(desk.frame().contains("200 more forgotten"), "{}", desk.frame());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn turns_and_costs_equal_a_recount(
        what in proptest::collection::vec((0_usize..5, 0_usize..4, 0_u32..100), 0..200),
    ) {
        let mut desk = Desk::new(100, 12);
        let mut expected: BTreeMap<String, (u64, u32)> = BTreeMap::new();
        let events = what.iter().map(|(sort, session, cents)| {
            let id = format!("s{session}");
            let count = expected.entry(id.clone()).or_default();
            let payload = json!({ "session_id": id, "cost_usd": f64::from(*cents) / 100.0, "text": "hi" });
            let name = ["agent.session.started", "agent.response.completed", "agent.error", "agent.thinking", "agent.prompt"][*sort];
            if *sort == 1 || *sort == 2 {
                count.0 += 1;
            }
            if *sort == 1 {
                count.1 += cents;
            }
            event_at(0, name, payload)
        });
        let events: Vec<Event> = events.collect();
        desk.live(events);
        let found: BTreeMap<String, (u64, u32)> = desk.app.tallies.sessions.newest().into_iter().map(|session| {
            let cents = (session.cost.unwrap_or(0.0) * 100.0).round();
            (session.id.to_string(), (session.turns, cents as u32))
        }).collect();
        prop_assert_eq!(found, expected);
    }
}
