//! The dashboard on a RabbitMQ that comes, goes and comes back.

use std::net::TcpListener;

use super::terminal::Tmux;
use crate::{
    broker::Broker,
    support::{Home, until},
};

fn publish(home: &Home, url: &str, event_type: &str) {
    let url = format!("bus.url={url}");
    let ran = home.godctl(&["-c", &url, "bus", "publish", event_type, "{}"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

fn line(url: &str, more: &str) -> String {
    format!("'{}' dash --url {url} {more}", env!("CARGO_BIN_EXE_godctl"))
}

#[test]
fn a_broker_that_is_killed_and_comes_back_leaves_a_gap_and_nothing_else() {
    let Some(mut broker) = Broker::start() else { return };
    let (home, desk) = (Home::new(), Home::new());
    let url = broker.url();
    let Some(tmux) = Tmux::start(&desk, (120, 30), &line(&url, "--bind 'agent.#'")) else { return };
    // Nobody has published yet, and looking makes nothing.
    tmux.shows("there is no exchange");
    publish(&home, &url, "voice.first.made");
    tmux.keys(&["R"]);
    tmux.shows("● connected");
    publish(&home, &url, "agent.one.came");
    publish(&home, &url, "voice.never.shown");
    publish(&home, &url, "agent.two.came");
    let screen = tmux.shows("agent.two.came");
    assert!(screen.contains("agent.one.came") && !screen.contains("voice.never"), "{screen}");

    broker.kill();
    let screen = tmux.shows("reconnecting (");
    assert!(screen.contains(" s)") && screen.contains("R tries now"), "{screen}");
    assert!(!screen.contains("guest:"), "no password: {screen}");
    broker.restart();
    tmux.keys(&["R"]);
    tmux.shows("● connected");
    publish(&home, &url, "agent.three.came");
    let screen = tmux.shows("agent.three.came");
    assert!(screen.contains("the connection was lost") && screen.contains("gaps 1"), "{screen}");

    tmux.keys(&["c"]);
    tmux.shows("○ disconnected");
    tmux.keys(&["c"]);
    tmux.shows("● connected");
    // Another binding, at work.
    tmux.keys(&["b", "C-u", "voice.#", "Enter"]);
    // What is published before the new queue is bound goes to nobody.
    until("the other types never come", || {
        publish(&home, &url, "voice.at.last");
        tmux.screen().contains("voice.at.last").then_some(())
    });
    tmux.keys(&["q"]);
    tmux.shows("ended with 0");
}

#[test]
fn a_broker_that_says_nothing_is_given_up_after_a_while() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("amqp://127.0.0.1:{}", silent.local_addr().unwrap().port());
    let home = Home::new();
    let line = format!("'{}' -c bus.connect_timeout_s=1 dash --url {url}", env!("CARGO_BIN_EXE_godctl"));
    let Some(tmux) = Tmux::start(&home, (120, 20), &line) else { return };
    tmux.shows("◌ connecting");
    let screen = tmux.shows("reconnecting (1, in");
    assert!(
        screen.contains("within 1 s") || screen.contains("timed out") || screen.contains("no answer"),
        "{screen}"
    );
    tmux.keys(&["q"]);
    tmux.shows("ended with 0");
}
