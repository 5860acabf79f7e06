//! `godctl dash` from outside: one frame, lines and files without a terminal; a real terminal (tmux); a RabbitMQ that is
//! stopped and started.

#[cfg(unix)]
mod broker;
mod headless;
#[cfg(unix)]
mod terminal;

use std::fmt::Write as _;

use serde_json::{Value, json};

/// Events with ids, times and chains that are the same in each run.
fn recording(count: u32) -> String {
    let mut lines = String::new();
    for n in 0..count {
        writeln!(lines, "{}", event(n)).unwrap();
    }
    lines
}

fn id(n: u32) -> String {
    format!("0199f0a2-1111-7000-8000-{n:012x}")
}

/// Every fourth one is a spoken command; the next three are what an agent made of it.
fn event(n: u32) -> Value {
    let command = n - n % 4;
    let session = format!("session-{}", command / 4 % 5);
    let (event_type, app, payload) = match n % 4 {
        0 => (
            "voice.transcription.completed",
            "godctl-asr",
            json!({ "text": format!("computer, run test number {n}"), "session_id": "desk", "is_final": true }),
        ),
        1 => {
            ("agent.session.started", "godctl-agent", json!({ "session_id": session, "provider": "claude" }))
        }
        2 => ("agent.tool.invoked", "godctl-agent", json!({ "session_id": session, "tool_name": "Bash" })),
        _ if n % 12 == 11 => (
            "agent.error",
            "godctl-agent",
            json!({ "session_id": session, "error_message": "it did not build" }),
        ),
        _ => (
            "agent.response.completed",
            "godctl-agent",
            json!({ "session_id": session, "response": "all tests pass", "success": true, "cost_usd": 0.0125 }),
        ),
    };
    let (minute, second) = (n / 60 % 60, n % 60);
    json!({
        "event_id": id(n),
        "event_type": event_type,
        "timestamp": format!("2026-11-21T12:{minute:02}:{second:02}Z"),
        "version": "1.0.0",
        "source": { "host": "desk", "app": app, "type": "service" },
        "correlation_ids": (command..n).map(id).collect::<Vec<_>>(),
        "payload": payload,
    })
}
