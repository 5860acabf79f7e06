//! Agents that speak the Agent Client Protocol, in the shape of a shell script that does.

use std::{fs, os::unix::fs::PermissionsExt as _, time::Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Desk, PATIENCE};

/// Answers in the protocol, notes what it is told, and asks whether it may run a program. On a prompt with `wait` in it, it
/// says a word and waits to be cancelled.
const AGENT: &str = r#"#!/bin/sh
say() { printf '%s\n' "$1"; }
update() { say "{\"jsonrpc\":\"2.0\",\"method\":\"session/update\",\"params\":{\"sessionId\":\"s-1\",\"update\":$1}}"; }
text() { update "{\"sessionUpdate\":\"agent_message_chunk\",\"content\":{\"type\":\"text\",\"text\":\"$1\"}}"; }
echo 'a banner'
while read -r line; do
    printf '%s\n' "$line" >> SEEN
    case $line in
    *'"method":"initialize"'*)
        say '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1,"agentCapabilities":{"loadSession":true}}}';;
    *'"method":"session/new"'*)
        say '{"jsonrpc":"2.0","id":2,"result":{"sessionId":"s-1"}}';;
    *'"method":"session/prompt"'*wait*)
        text Waiting;;
    *'"method":"session/prompt"'*)
        text 'I will '; text 'look.'
        update '{"sessionUpdate":"tool_call","toolCallId":"t1","title":"ls","kind":"execute","status":"pending","rawInput":{"command":"ls"}}'
        say '{"jsonrpc":"2.0","id":"p1","method":"session/request_permission","params":{"sessionId":"s-1","toolCall":{"toolCallId":"t1","title":"ls","kind":"execute"},"options":[{"optionId":"yes","kind":"allow_once","name":"Yes"},{"optionId":"no","kind":"reject_once","name":"No"}]}}';;
    *'"optionId":"yes"'*)
        update '{"sessionUpdate":"tool_call_update","toolCallId":"t1","status":"completed"}'
        text 'There are '; text 'two.'
        say '{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}';;
    *'"optionId":"no"'*)
        update '{"sessionUpdate":"tool_call_update","toolCallId":"t1","status":"failed"}'
        text 'I may not look.'
        say '{"jsonrpc":"2.0","id":3,"result":{"stopReason":"end_turn"}}';;
    *'"method":"session/cancel"'*)
        say '{"jsonrpc":"2.0","id":3,"result":{"stopReason":"cancelled"}}';;
    esac
done
echo closed >> SEEN
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    let seen = desk.home.path().join("seen");
    fs::create_dir_all(&seen).unwrap();
    let script = AGENT.replace("SEEN", seen.join("said").to_str().unwrap());
    let path = desk.home.write("bin/mine", &script);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    desk.home
        .write(".config/godctl/config.toml", "[agents.providers.mine]\nkind = \"acp\"\nprogram = \"mine\"\n");
    desk
}

#[test]
fn an_agent_is_talked_with_and_its_questions_are_answered_by_the_access() {
    let full = desk();
    let ran = full.start(&["mine", "--access", "full", "-p", "count the files"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "There are two.\n"), "{}", ran.stderr);
    let said = full.seen("said");
    assert!(said.contains("count the files") && said.contains(r#""optionId":"yes""#), "{said}");
    assert!(said.ends_with("closed\n"), "its input is closed when it has answered: {said}");

    let careful = desk();
    let ran = careful.start(&["mine", "-p", "count the files"], b"");
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "I may not look.\n"), "{}", ran.stderr);
    assert!(ran.stderr.contains("denied: ls"), "{}", ran.stderr);
}

#[test]
fn an_interrupt_is_said_in_the_protocol() {
    let desk = desk();
    let child = desk.spawn(&["mine", "-p", "wait"]);
    let deadline = Instant::now() + PATIENCE;
    let said = desk.home.path().join("seen/said");
    while !fs::read_to_string(&said).unwrap_or_default().contains("session/prompt") {
        assert!(Instant::now() < deadline, "it was never prompted");
        std::thread::yield_now();
    }
    let godctl = Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    kill_process(godctl, Signal::INT).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", String::from_utf8_lossy(&output.stderr));
    let said = desk.seen("said");
    assert!(said.contains("session/cancel") && said.ends_with("closed\n"), "{said}");
}
