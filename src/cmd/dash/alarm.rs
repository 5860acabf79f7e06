//! Tells a person who looks elsewhere: by the desktop, a webhook or a command of theirs (the bell is the screen's).
//!
//! One task works off a short queue, one message after another, so that no dashboard waits for a slow desktop; it ends
//! with the program. What finds the queue full is not told, and that is said.

use std::{process::Stdio, time::Duration};

use tokio::{process::Command, sync::mpsc, time::timeout};
use tracing::warn;

use crate::shutdown::Shutdown;

/// Messages that wait.
const WAITING: usize = 16;

/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A way to tell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Via {
    Bell,
    Desktop,
    /// A POST of `{"title", "text"}` to this address.
    Webhook(String),
    /// This program with these arguments; it finds both texts in its environment.
    Command(Vec<String>),
}

/// `bell`, `desktop`, `webhook=URL` or `command=LINE`.
///
/// # Errors
/// What is none of these.
pub(super) fn via(text: &str) -> Result<Via, String> {
    let wanted = "want bell, desktop, webhook=URL or command='program and arguments'";
    match (text, text.split_once('=')) {
        ("bell", _) => Ok(Via::Bell),
        ("desktop", _) => Ok(Via::Desktop),
        (_, Some(("webhook", url))) if url.starts_with("http://") || url.starts_with("https://") => {
            Ok(Via::Webhook(url.to_owned()))
        }
        (_, Some(("command", line))) => match shlex::split(line) {
            Some(words) if !words.is_empty() => Ok(Via::Command(words)),
            _ => Err(format!("'{line}' is no command line; are the quotes in pairs?")),
        },
        _ => Err(wanted.to_owned()),
    }
}

/// A message.
#[derive(Debug)]
struct Message {
    title: String,
    text: String,
}

/// The way to the task.
#[derive(Debug)]
pub(super) struct Alarm {
    pub(super) rings: bool,
    sender: Option<mpsc::Sender<Message>>,
}

impl Alarm {
    /// Starts the task, if there is something for it to do.
    pub(super) fn start(vias: Vec<Via>, shutdown: &Shutdown) -> Self {
        let rings = vias.contains(&Via::Bell);
        let others: Vec<Via> = vias.into_iter().filter(|via| *via != Via::Bell).collect();
        let sender = (!others.is_empty()).then(|| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let stop = shutdown.child_token();
            shutdown.spawn("dash-alarm", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = work(receiver, others) => {}
                }
            });
            sender
        });
        Self { rings, sender }
    }

    /// Tells it, sooner or later. What can't be told is told to the caller.
    pub(super) fn tell(&self, title: &str, text: &str) -> Option<String> {
        let message = Message { title: title.to_owned(), text: text.to_owned() };
        let sent = self.sender.as_ref().map(|sender| sender.try_send(message))?;
        sent.err().map(|_| format!("{title} (not told: earlier messages are still on their way)"))
    }
}

async fn work(mut messages: mpsc::Receiver<Message>, vias: Vec<Via>) {
    while let Some(message) = messages.recv().await {
        for via in &vias {
            let told = timeout(PATIENCE, tell(via, &message)).await;
            let error = match told {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => anyhow::anyhow!("no end within {} s", PATIENCE.as_secs()),
            };
            warn!(alert = message.title, via = ?kind(via), error = format!("{error:#}"), "not told");
        }
    }
}

/// Its name, without an address that may hold a password.
const fn kind(via: &Via) -> &'static str {
    match via {
        Via::Bell => "bell",
        Via::Desktop => "desktop",
        Via::Webhook(_) => "webhook",
        Via::Command(_) => "command",
    }
}

async fn tell(via: &Via, message: &Message) -> anyhow::Result<()> {
    match via {
        Via::Bell => Ok(()),
        Via::Desktop if cfg!(target_os = "macos") => {
            let script =
                "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run";
            run(Command::new("osascript").args(["-e", script, &message.title, &message.text])).await
        }
        Via::Desktop => {
            run(Command::new("notify-send").args(["--app-name=godctl", "--", &message.title, &message.text]))
                .await
        }
        Via::Webhook(url) => post(url, message).await,
        Via::Command(words) => {
            let Some((program, arguments)) = words.split_first() else { return Ok(()) };
            let mut command = Command::new(program);
            command.args(arguments);
            command.env("GODCTL_ALERT_TITLE", &message.title).env("GODCTL_ALERT_TEXT", &message.text);
            run(&mut command).await
        }
    }
}

async fn run(command: &mut Command) -> anyhow::Result<()> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    let status = child.status().await?;
    anyhow::ensure!(status.success(), "it ended with {status}");
    Ok(())
}

async fn post(url: &str, message: &Message) -> anyhow::Result<()> {
    // A second call finds the provider installed, which is what is wanted.
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let body = serde_json::json!({ "title": message.title, "text": message.text });
    // Without the address, which may hold a password.
    client
        .post(url)
        .json(&body)
        .send()
        .await
        .and_then(reqwest::Response::error_for_status)
        .map_err(reqwest::Error::without_url)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_tell_are_read() {
        assert_eq!(via("bell"), Ok(Via::Bell));
        assert_eq!(via("webhook=https://x/y"), Ok(Via::Webhook("https://x/y".to_owned())));
        assert_eq!(
            via("command=say 'all is well'"),
            Ok(Via::Command(vec!["say".to_owned(), "all is well".to_owned()]))
        );
        for wrong in ["", "mail", "webhook=ftp://x", "command=", "command='x"] {
            assert!(via(wrong).is_err(), "{wrong}");
        }
    }
}
