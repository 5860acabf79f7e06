//! What keeps prompts waiting that agents themselves ask for.

use std::fs;

use serde_json::json;

use super::{Office, ends_in_order};
use crate::support::until;

#[test]
fn a_limit_that_an_agent_tells_of_is_waited_for_also_after_a_restart_while_others_go_on() {
    let office = Office::new(&[]);
    office.claude(
        r#"date +%s >> HOME/starts
        if [ $(wc -l < HOME/starts) = 1 ]; then
            echo $(( $(date +%s) + 6 )) > HOME/until
            echo '{"type":"rate_limit_event","rate_limit_info":{"status":"rejected","resetsAt":'$(cat HOME/until)',"rateLimitType":"five_hour"}}'
        fi"#,
    );
    office.open();
    let ask = |provider: &str, session: &str| {
        office
            .publish(&json!({"provider": provider, "prompt": "x", "session_id": session, "access": "plan"}));
    };
    let first = office.listen(&[]);
    ask("claude", "one");
    office.until_told("agent.response.completed", 1);
    let paused = office.until_told("agent.provider.paused", 1);
    assert_eq!(paused[0]["payload"]["reason"], "rate_limited");
    ends_in_order(first);
    assert!(!office.status()["journal"]["providers"]["claude"]["paused_until"].is_null());

    let second = office.listen(&[]);
    ask("claude", "two");
    ask("echo", "three");
    let answers = office.until_told("agent.response.completed", 2);
    assert_eq!(answers[1]["payload"]["provider"], "echo", "the others go on");
    office.until_told("agent.response.completed", 3);
    ends_in_order(second);
    let read = |name: &str| fs::read_to_string(office.path(name)).unwrap();
    let reset: u64 = read("until").trim().parse().unwrap();
    let started: u64 = read("starts").lines().nth(1).unwrap().parse().unwrap();
    assert!(started >= reset, "{started} {reset}");
    until("the pause is over", || {
        office.status()["journal"]["providers"]["claude"]["paused_until"].is_null().then_some(())
    });
}
