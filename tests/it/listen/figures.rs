//! What can be seen of agents from outside: figures and logs.

use std::{collections::BTreeMap, fs};

use serde_json::{Value, json};

use super::{Office, ends_in_order};
use crate::support::until;

#[test]
fn figures_agree_with_the_turns_that_were_made() {
    let office = Office::new(&["listen.attempts=2", "agents.day_usd=5"]);
    office.claude(
        "case $(cat HOME/seen/input) in
            flaky) if [ ! -e HOME/tried ]; then touch HOME/tried; echo overloaded >&2; exit 1; fi;;
            locked) echo 'not logged in' >&2; exit 1;;
        esac",
    );
    office.open();
    let listener = office.listen(&["--workers", "1"]);
    // The last one shuts its agent's gate, so it comes last.
    for prompts in [&["count", "flaky"][..], &["locked"]] {
        for prompt in prompts {
            office.publish(&json!({"provider": "claude", "prompt": prompt, "session_id": prompt}));
        }
        until("all are over", || {
            let journal = office.status()["journal"].clone();
            let over = journal["done"].as_u64()? + journal["dead"].as_u64()?;
            let is_last = prompts.len() == 1;
            (over == if is_last { 3 } else { 2 } && journal["unsent"] == 0).then_some(())
        });
    }
    office.run(&["agent", "start", "echo", "-p", "x"]);
    let text = office.run(&["agent", "metrics"]).stdout;
    let figures: BTreeMap<&str, &str> =
        text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' ')).collect();
    for (name, value) in [
        ("godctl_agent_sessions{provider=\"claude\",state=\"idle\"}", "2"),
        ("godctl_agent_sessions{provider=\"claude\",state=\"failed\"}", "1"),
        ("godctl_agent_sessions{provider=\"echo\",state=\"idle\"}", "1"),
        ("godctl_agent_turns_total{provider=\"claude\",outcome=\"ok\"}", "2"),
        ("godctl_agent_turns_total{provider=\"claude\",outcome=\"overloaded\"}", "1"),
        ("godctl_agent_turns_total{provider=\"claude\",outcome=\"auth\"}", "1"),
        ("godctl_agent_turns_total{provider=\"echo\",outcome=\"ok\"}", "1"),
        ("godctl_agent_turn_seconds_count{provider=\"claude\"}", "4"),
        ("godctl_agent_cost_usd_total{provider=\"claude\"}", "1.000000"),
        ("godctl_agent_prompts_over{provider=\"claude\",outcome=\"answered\"}", "2"),
        ("godctl_agent_prompts_over{provider=\"claude\",outcome=\"given_up\"}", "1"),
        ("godctl_agent_prompt_retries{provider=\"claude\"}", "1"),
        ("godctl_agent_prompt_seconds_count{provider=\"claude\"}", "3"),
        // Who is not logged in gets no more prompts.
        ("godctl_agent_circuit_open{provider=\"claude\"}", "1"),
        ("godctl_agent_events_unsent", "0"),
        ("godctl_agent_listeners", "1"),
    ] {
        assert_eq!(figures.get(name), Some(&value), "{name}\n{text}");
    }
    office.publish(&json!({"provider": "claude", "prompt": "later", "session_id": "later"}));
    until("one waits", || {
        let text = office.run(&["agent", "metrics"]).stdout;
        text.contains("godctl_agent_prompts{provider=\"claude\",state=\"ready\"} 1\n").then_some(())
    });
    let budget = &office.status()["budgets"][0];
    assert_eq!(
        (&budget["spent_micro_usd"], &budget["limit_micro_usd"]),
        (&json!(1_000_000), &json!(5_000_000))
    );
    ends_in_order(listener);
}

#[test]
fn logs_are_lines_of_json_and_tell_what_caused_them() {
    let mut office = Office::new(&["log.format=json", "log.level=info"]);
    let file = office.path("log.jsonl");
    let setting = format!("log.file={}", file.display());
    office.at.extend(["-c".to_owned(), setting]);
    office.claude("echo overloaded >&2; exit 1");
    office.open();
    let listener = office.listen(&[]);
    let correlation = "0199f0a2-0000-7000-8000-00000000000c";
    office.publish(
        &json!({"provider": "claude", "prompt": "canary-of-a-prompt", "correlation_id": correlation}),
    );
    let lines = until("it was tried", || {
        let text = fs::read_to_string(&file).ok()?;
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
            .collect();
        lines.iter().any(|line| line["message"] == "a prompt is tried again").then_some(lines)
    });
    ends_in_order(listener);
    let of = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    assert_eq!(of("a prompt was accepted")["correlation_id"], correlation);
    assert_eq!(of("a prompt is tried again")["span"]["correlation_id"], correlation);
    assert!(!fs::read_to_string(&file).unwrap().contains("canary"));
}
